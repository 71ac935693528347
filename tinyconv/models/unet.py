"""U-Net with padded convolutions: a class for every pixel, from all scales of the image.

| stage        | what                                  | channels     | size |
|--------------|---------------------------------------|--------------|------|
| down 0       | 2 x (3x3 conv, norm, ReLU)            | in to b      | 1    |
| down 1       | 2x2 max pool, 2 x (conv, norm, ReLU)  | b to 2b      | 1/2  |
| ...          |                                       |              |      |
| down L-1     | 2x2 max pool, 2 x (conv, norm, ReLU)  | to 2^(L-1) b | 1/2^(L-1) |
| up L-2       | 2x2/2 transposed conv, concatenate with down L-2, 2 x (conv, norm, ReLU) | to 2^(L-2) b | 1/2^(L-2) |
| ...          |                                       |              |      |
| up 0         | the same with down 0                  | to b         | 1    |
| head         | 1x1 conv                              | b to classes | 1    |

The paper's form has b = 64, L = 5, no padding and no norm: tinyconv/models/unet2015.py. Padding keeps the size of the
image. The norm lets the network train from scratch in minutes; instance norm takes out the brightness of each image by
itself, in training as in use.

| upsampling   | from 2c maps at half the size to c maps                            | weights |
|--------------|--------------------------------------------------------------------|---------|
| transposed   | transposed conv, stride 2, kernel 2 (or 3, which makes a checkerboard, or 4) | 8 c^2 |
| interpolated | bilinear to twice the size, 3x3 conv                               | 18 c^2  |
| unpooled     | 3x3 conv, each value to where the pooling's maximum was, as SegNet | 18 c^2  |

Source: Ronneberger, Fischer and Brox, "U-Net: convolutional networks for biomedical image segmentation", 2015,
figure 1; instance norm as in Isensee et al., "nnU-Net", 2021; unpooling: Badrinarayanan, Kendall and Cipolla, "SegNet",
2015; interpolation: Odena, Dumoulin and Olah, "Deconvolution and checkerboard artifacts", 2016.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from tinyconv import functional as F
from tinyconv import nn
from tinyconv.autograd import Tensor
from tinyconv.ops.shape import cat

NORMS: dict[str, Callable[[int], nn.Module]] = {
    "instance": partial(nn.InstanceNorm2d, affine=True),
    "batch": nn.BatchNorm2d,
}
UPSAMPLINGS = ("transposed", "interpolated", "unpooled")


def double_conv(in_channels: int, out_channels: int, norm: str = "instance") -> nn.Sequential:
    """Twice: 3x3 convolution, norm, ReLU. The norm has a shift of its own: the convolution needs no bias."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
        NORMS[norm](out_channels),
        nn.ReLU(),
        nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
        NORMS[norm](out_channels),
        nn.ReLU(),
    )


def enlarge(channels: int, upsampling: str, kernel: int) -> nn.Module:
    """2 ``channels`` maps to ``channels``, twice as high and wide; for unpooling, which needs the places, not yet."""
    if upsampling == "transposed":
        return nn.ConvTranspose2d(2 * channels, channels, kernel, 2, (kernel - 1) // 2, output_padding=kernel % 2)
    conv = nn.Conv2d(2 * channels, channels, 3, padding=1)
    if upsampling == "unpooled":
        return conv
    return nn.Sequential(nn.Upsample(scale_factor=2.0, mode="bilinear", align_corners=False), conv)


class UNet(nn.Module):
    """Images (N, in_channels, H, W) to class scores (N, num_classes, H, W); H and W divisible by 2^(levels-1).

    ``base``: channels of the first stage, doubled at each stage below; ``levels``: number of scales. ``norm``:
    "instance" or "batch". ``upsampling``: see the table; ``up_kernel`` of the transposed one, 2, 3 or 4. Without
    ``skips`` nothing is concatenated: the way up has only what passed the bottom (with "unpooled" it is SegNet's form).
    ValueError: a size that does not divide, an unknown name.
    """

    def __init__(
        self,
        in_channels: int = 1,
        num_classes: int = 2,
        base: int = 16,
        levels: int = 4,
        norm: str = "instance",
        upsampling: str = "transposed",
        up_kernel: int = 2,
        skips: bool = True,
    ) -> None:
        super().__init__()
        if norm not in NORMS:
            raise ValueError(f"UNet: norm must be one of {', '.join(NORMS)}, but is {norm!r}.")
        if upsampling not in UPSAMPLINGS:
            raise ValueError(f"UNet: upsampling must be one of {', '.join(UPSAMPLINGS)}, but is {upsampling!r}.")
        if up_kernel not in (2, 3, 4):
            raise ValueError(f"UNet: up_kernel must be 2, 3 or 4, but is {up_kernel}.")
        channels = [base << level for level in range(levels)]
        self.skips, self.unpooled = skips, upsampling == "unpooled"
        self.down = nn.ModuleList([double_conv(a, b, norm) for a, b in zip([in_channels, *channels], channels)])
        self.pool = nn.MaxPool2d(2, return_indices=self.unpooled)
        self.up = nn.ModuleList([enlarge(c, upsampling, up_kernel) for c in channels[:-1]])
        self.merge = nn.ModuleList([double_conv(2 * c if skips else c, c, norm) for c in channels[:-1]])
        self.head = nn.Conv2d(base, num_classes, 1)

    @property
    def step(self) -> int:
        """H and W must be multiples of this: 2 for each pooling."""
        return 1 << len(self.up)

    def forward(self, x: Tensor) -> Tensor:
        """Scores before the softmax."""
        step = self.step
        if x.ndim != 4 or x.shape[2] % step or x.shape[3] % step:
            raise ValueError(
                f"UNet: {len(self.up)} poolings need images (N, C, H, W), H and W divisible by {step}, but the input "
                f"has shape {x.shape}. Pad it (F.pad) and crop the result."
            )
        stages, places = [], []  # places: of the maxima that each pooling found
        for level, stage in enumerate(self.down):
            if level > 0 and self.unpooled:
                x, place = self.pool(x)
                places.append(place)
            elif level > 0:
                x = self.pool(x)
            x = stage(x)  # (N, base * 2^level, H / 2^level, W / 2^level)
            stages.append(x)
        for level in reversed(range(len(self.up))):
            x = self.up[level](x)
            if self.unpooled:
                x = F.max_unpool2d(x, places[level], 2)
            x = self.merge[level](cat([stages[level], x], 1) if self.skips else x)  # (N, base * 2^level, ...)
        return self.head(x)


def unet(**options: Any) -> UNet:
    """U-Net with padded convolutions; 482,466 parameters at base 16 with 4 levels."""
    return UNet(**options)
