"""MobileNetV2: shortcuts between thin layers, with the depthwise convolution in a wide layer between them.

| layers  | what                                  | factor | channels | blocks | first stride | size (224) |
|---------|---------------------------------------|--------|----------|--------|--------------|------------|
| 0       | 3x3, stride 2                         |        | 32       | 1      | 2            | 112        |
| 1       | 1x1 wider, depthwise 3x3, 1x1 thinner | 1      | 16       | 1      | 1            | 112        |
| 2 - 3   | the same                              | 6      | 24       | 2      | 2            | 56         |
| 4 - 6   |                                       | 6      | 32       | 3      | 2            | 28         |
| 7 - 10  |                                       | 6      | 64       | 4      | 2            | 14         |
| 11 - 13 |                                       | 6      | 96       | 3      | 1            | 14         |
| 14 - 16 |                                       | 6      | 160      | 3      | 2            | 7          |
| 17      |                                       | 6      | 320      | 1      | 1            | 7          |
| 18      | 1x1                                   |        | 1280     | 1      | 1            | 7          |
| fc      | mean of each map, dropout, linear     |        | 1000     |        |              |            |
| sum     | 3,504,872 parameters                  |        |          |        |              |            |

Batch norm behind every convolution, ReLU6 behind all but the last of a block: a nonlinearity there would lose what the
thin layer has no room for.
Source: Sandler et al., "MobileNetV2: inverted residuals and linear bottlenecks", 2018, table 2; keys and initial values
are torchvision's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tinyconv import nn
from tinyconv.autograd import Tensor
from tinyconv.models.sizes import check_images
from tinyconv.nn import init

#: (factor, channels, blocks, stride of the first) of each row of the table.
ROWS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def multiple_of(channels: float, step: int) -> int:
    """The multiple of ``step`` next to ``channels``, at least ``step``, and not below 0.9 ``channels``."""
    near = max(step, int(channels + step / 2) // step * step)
    return near if near >= 0.9 * channels else near + step


def conv_norm(in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, batch norm, ReLU6."""
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU6())


class InvertedResidual(nn.Module):
    """y = f(x), or x + f(x) where the shape stays, f: 1x1 to ``factor`` C maps, depthwise 3x3, 1x1, no ReLU behind."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, factor: int) -> None:
        super().__init__()
        wide = in_channels * factor
        self.adds = stride == 1 and in_channels == out_channels
        self.conv = nn.Sequential(
            *([conv_norm(in_channels, wide, 1)] if factor != 1 else []),
            conv_norm(wide, wide, 3, stride, groups=wide),
            nn.Conv2d(wide, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """f(x) or x + f(x)"""
        return x + self.conv(x) if self.adds else self.conv(x)


class MobileNetV2(nn.Module):
    """Images (N, in_channels, H, W) to class scores (N, num_classes).

    ``width_mult`` multiplies the channels, rounded to multiples of ``round_nearest``; ``rows``: see ROWS.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        width_mult: float = 1.0,
        rows: Sequence[tuple[int, int, int, int]] = ROWS,
        round_nearest: int = 8,
        dropout: float = 0.2,
        *,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        channels = multiple_of(32 * width_mult, round_nearest)
        last = multiple_of(1280 * max(1.0, width_mult), round_nearest)
        layers: list[nn.Module] = [conv_norm(in_channels, channels, 3, 2)]
        for factor, out, blocks, stride in rows:
            out = multiple_of(out * width_mult, round_nearest)
            for position in range(blocks):
                layers.append(InvertedResidual(channels, out, stride if position == 0 else 1, factor))
                channels = out
        layers.append(conv_norm(channels, last, 1))
        self.features = nn.Sequential(*layers)
        linear = nn.Linear(last, num_classes)
        self.classifier = nn.Sequential(nn.Dropout(dropout), linear)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                init.kaiming_normal_(module.weight, mode="fan_out")
        init.normal_(linear.weight, 0.0, 0.01)
        assert linear.bias is not None
        init.zeros_(linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Scores before the softmax."""
        check_images("MobileNetV2", x, self.in_channels, lambda n: n >= 1, "at least 1")
        return self.classifier(self.features(x).mean((2, 3)))


def mobilenet_v2(**options: Any) -> MobileNetV2:
    """torchvision's MobileNetV2; 3,504,872 parameters."""
    return MobileNetV2(**options)
