"""U-Net with padded convolutions: a class for every pixel, from all scales of the image.

| stage        | what                                  | channels     | size |
|--------------|---------------------------------------|--------------|------|
| down 0       | 2 x (3x3 conv, instance norm, ReLU)   | in to b      | 1    |
| down 1       | 2x2 max pool, 2 x (conv, norm, ReLU)  | b to 2b      | 1/2  |
| ...          |                                       |              |      |
| down L-1     | 2x2 max pool, 2 x (conv, norm, ReLU)  | to 2^(L-1) b | 1/2^(L-1) |
| up L-2       | 2x2/2 transposed conv, concatenate with down L-2, 2 x (conv, norm, ReLU) | to 2^(L-2) b | 1/2^(L-2) |
| ...          |                                       |              |      |
| up 0         | the same with down 0                  | to b         | 1    |
| head         | 1x1 conv                              | b to classes | 1    |

The paper's form has b = 64, L = 5, no padding and no norm. Padding keeps the size of the image. The norm lets the
network train from scratch in minutes; instance norm takes out the brightness of each image by itself, in training as
in use.
Source: Ronneberger, Fischer and Brox, "U-Net: convolutional networks for biomedical image segmentation", 2015,
figure 1; instance norm as in Isensee et al., "nnU-Net", 2021.
"""

from __future__ import annotations

from typing import Any

from tinyconv import nn
from tinyconv.autograd import Tensor
from tinyconv.ops.shape import cat


def double_conv(in_channels: int, out_channels: int) -> nn.Sequential:
    """Twice: 3x3 convolution, instance norm, ReLU. The norm has a shift of its own: the convolution needs no bias."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
        nn.InstanceNorm2d(out_channels, affine=True),
        nn.ReLU(),
        nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
        nn.InstanceNorm2d(out_channels, affine=True),
        nn.ReLU(),
    )


class UNet(nn.Module):
    """Images (N, in_channels, H, W) to class scores (N, num_classes, H, W); H and W divisible by 2^(levels-1).

    ``base``: channels of the first stage, doubled at each stage below; ``levels``: number of scales.
    ValueError: a size that does not divide.
    """

    def __init__(self, in_channels: int = 1, num_classes: int = 2, base: int = 16, levels: int = 4) -> None:
        super().__init__()
        channels = [base << level for level in range(levels)]
        self.down = nn.ModuleList([double_conv(a, b) for a, b in zip([in_channels, *channels], channels)])
        self.pool = nn.MaxPool2d(2)
        self.up = nn.ModuleList([nn.ConvTranspose2d(2 * c, c, 2, stride=2) for c in channels[:-1]])
        self.merge = nn.ModuleList([double_conv(2 * c, c) for c in channels[:-1]])
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
        skips = []
        for level, stage in enumerate(self.down):
            x = stage(x if level == 0 else self.pool(x))  # (N, base * 2^level, H / 2^level, W / 2^level)
            skips.append(x)
        for level in reversed(range(len(self.up))):
            x = cat([skips[level], self.up[level](x)], 1)
            x = self.merge[level](x)  # (N, base * 2^level, H / 2^level, W / 2^level)
        return self.head(x)


def unet(**options: Any) -> UNet:
    """U-Net with padded convolutions; 483,138 parameters at base 16 with 4 levels."""
    return UNet(**options)
