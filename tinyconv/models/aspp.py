"""Atrous spatial pyramid pooling: the same maps seen by windows of several widths side by side, and as a whole.

| branch   | what                                             | channels      | parameters (2048 maps)   |
|----------|--------------------------------------------------|---------------|--------------------------|
| convs.0  | 1x1                                              | C to 256      | 524,800                  |
| convs.1  | 3x3, dilation 12 (25x25 pixels)                  | C to 256      | 4,719,104                |
| convs.2  | 3x3, dilation 24 (49x49)                         | C to 256      | 4,719,104                |
| convs.3  | 3x3, dilation 36 (73x73)                         | C to 256      | 4,719,104                |
| convs.4  | mean of the whole map, 1x1, spread out again     | C to 256      | 524,800                  |
| project  | 1x1 on all five, dropout                         | 1280 to 256   | 328,192                  |
| sum      |                                                  |               | 15,535,104               |

Batch norm and ReLU behind each convolution. The rates 12, 24, 36 are for maps at 1/8 of the image, as in torchvision;
6, 12, 18 for 1/16.
Source: Chen et al., "Rethinking atrous convolution for semantic image segmentation" (DeepLabV3), 2017, figure 5; keys
are torchvision's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tinyconv import functional as F
from tinyconv import nn
from tinyconv.autograd import Tensor
from tinyconv.models.sizes import check_images
from tinyconv.ops.shape import cat


def conv_norm_relu(in_channels: int, out_channels: int, dilation: int | None = None) -> list[nn.Module]:
    """3x3 convolution with a dilation, or 1x1 without; batch norm; ReLU."""
    if dilation is None:
        conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
    else:
        conv = nn.Conv2d(in_channels, out_channels, 3, padding=dilation, dilation=dilation, bias=False)
    return [conv, nn.BatchNorm2d(out_channels), nn.ReLU()]


class WholeImage(nn.Sequential):
    """The mean of each map through a 1x1 convolution, the same at every pixel: (N, C, H, W) to (N, C', H, W)."""

    def forward(self, input: Tensor) -> Tensor:
        """The layers, then back to H x W."""
        return F.interpolate(super().forward(input), input.shape[2:], mode="bilinear", align_corners=False)


class ASPP(nn.Module):
    """Maps (N, in_channels, H, W) to (N, out_channels, H, W).

    ``atrous_rates``: the dilations. In training the batch needs two images: the norm behind the mean of the whole map
    has one value an image.
    """

    def __init__(self, in_channels: int, atrous_rates: Sequence[int] = (12, 24, 36), out_channels: int = 256) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.convs = nn.ModuleList(
            [
                nn.Sequential(*conv_norm_relu(in_channels, out_channels)),
                *(nn.Sequential(*conv_norm_relu(in_channels, out_channels, rate)) for rate in atrous_rates),
                WholeImage(nn.AdaptiveAvgPool2d(1), *conv_norm_relu(in_channels, out_channels)),
            ]
        )
        joined = len(self.convs) * out_channels
        self.project = nn.Sequential(*conv_norm_relu(joined, out_channels), nn.Dropout(0.5))

    def forward(self, x: Tensor) -> Tensor:
        """All branches, joined and mixed."""
        check_images("ASPP", x, self.in_channels, lambda n: n >= 1, "at least 1")
        return self.project(cat([branch(x) for branch in self.convs], 1))


def aspp(in_channels: int, **options: Any) -> ASPP:
    """The pyramid of DeepLabV3; 15,535,104 parameters behind 2048 maps."""
    return ASPP(in_channels, **options)
