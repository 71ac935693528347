"""The U-Net of volumes.

| stage  | what                                                         | channels       | size, from 132x132x116 |
|--------|--------------------------------------------------------------|----------------|------------------------|
| down 0 | 2 x (3x3x3 conv, norm, ReLU)                                 | 3 to 32 to 64  | 128 x 128 x 112        |
| down 1 | 2x2x2 max pool, 2 x (conv, norm, ReLU)                       | to 64 to 128   | 60 x 60 x 52           |
| down 2 | the same                                                     | to 128 to 256  | 26 x 26 x 22           |
| down 3 | the same                                                     | to 256 to 512  | 9 x 9 x 7              |
| up 2   | 2x2x2 transposed conv, join down 2 cropped, 2 x (conv, norm, ReLU) | 512 + 256 to 256 | 14 x 14 x 10   |
| up 1   | the same with down 1                                         | 256 + 128 to 128 | 24 x 24 x 16         |
| up 0   | the same with down 0                                         | 128 + 64 to 64 | 44 x 44 x 28           |
| head   | 1x1x1 conv                                                   | to 3           | 44 x 44 x 28           |
| sum    | 19,069,955 parameters as the paper counts; with those of the batch norms 19,074,627 |  |           |

Channels double before each pooling, not behind it, so that no layer is a bottleneck. Without padding as published;
padded, the output has the size of the input.
Source: Cicek, Abdulkadir, Lienkamp, Brox and Ronneberger, "3D U-Net: learning dense volumetric segmentation from sparse
annotation", 2016, figure 2.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from tinyconv import nn
from tinyconv.autograd import Tensor
from tinyconv.models.sizes import check_images, valid_unet_output, valid_unet_sizes
from tinyconv.ops.shape import cat

NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm3d,
    "instance": partial(nn.InstanceNorm3d, affine=True),
}


def double_conv(in_channels: int, middle: int, out_channels: int, padding: int, norm: str) -> nn.Sequential:
    """Twice: 3x3x3 convolution, norm, ReLU."""
    return nn.Sequential(
        nn.Conv3d(in_channels, middle, 3, padding=padding),
        NORMS[norm](middle),
        nn.ReLU(),
        nn.Conv3d(middle, out_channels, 3, padding=padding),
        NORMS[norm](out_channels),
        nn.ReLU(),
    )


class UNet3d(nn.Module):
    """Volumes (N, in_channels, D, H, W) to class scores (N, num_classes, D', H', W').

    ``base``: channels of the first convolution; ``levels``: number of scales. D' = D where ``padded``, and D, H, W must
    then be divisible by 2^(levels-1); else D' = D - 88 for 4 levels. ``norm``: "batch" as published, or "instance" for
    batches of one or two volumes. ValueError: other sizes, another norm.
    """

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 3,
        base: int = 32,
        levels: int = 4,
        padded: bool = False,
        norm: str = "batch",
    ) -> None:
        super().__init__()
        if norm not in NORMS:
            raise ValueError(f"UNet3d: norm must be one of {', '.join(NORMS)}, but is {norm!r}.")
        outs = [2 * base << level for level in range(levels)]  # of each stage
        padding = 1 if padded else 0
        self.in_channels, self.levels, self.padded = in_channels, levels, padded
        self.down = nn.ModuleList(
            [double_conv(a, b // 2, b, padding, norm) for a, b in zip([in_channels, *outs], outs)]
        )
        self.pool = nn.MaxPool3d(2)
        self.up = nn.ModuleList([nn.ConvTranspose3d(2 * c, 2 * c, 2, stride=2, bias=False) for c in outs[:-1]])
        self.merge = nn.ModuleList([double_conv(3 * c, c, c, padding, norm) for c in outs[:-1]])
        self.head = nn.Conv3d(outs[0], num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Scores before the softmax."""
        step = 1 << (self.levels - 1)
        if self.padded:
            check_images("UNet3d", x, self.in_channels, lambda n: n % step == 0, f"divisible by {step}", "D, H, W")
        else:
            sizes = f"{valid_unet_sizes(self.levels)} (padded=True takes multiples of {step})"
            check_images(
                "UNet3d", x, self.in_channels, lambda n: valid_unet_output(n, self.levels) > 0, sizes, "D, H, W"
            )
        stages = []
        for level, stage in enumerate(self.down):
            x = stage(x if level == 0 else self.pool(x))
            stages.append(x)
        for level in reversed(range(len(self.up))):
            x = self.up[level](x)
            x = self.merge[level](cat([middle(stages[level], x.shape[2:]), x], 1))
        return self.head(x)


def middle(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """The ``size`` voxels in the middle of (N, C, D, H, W)."""
    first = [(have - want) // 2 for have, want in zip(x.shape[2:], size)]
    return x[(slice(None), slice(None), *(slice(a, a + want) for a, want in zip(first, size)))]


def unet3d(**options: Any) -> UNet3d:
    """The 3D U-Net as published; 19,074,627 parameters."""
    return UNet3d(**options)
