"""MobileNetV1: every 3x3 convolution as two, one that looks around in each map, one that mixes the maps.

| layer  | what                                            | channels | size (224) |
|--------|-------------------------------------------------|----------|------------|
| conv   | 3x3, stride 2                                   | 32       | 112        |
| 1      | depthwise 3x3, pointwise 1x1                    | 64       | 112        |
| 2      | depthwise, stride 2, pointwise                  | 128      | 56         |
| 3      | depthwise, pointwise                            | 128      | 56         |
| 4      | depthwise, stride 2, pointwise                  | 256      | 28         |
| 5      | depthwise, pointwise                            | 256      | 28         |
| 6      | depthwise, stride 2, pointwise                  | 512      | 14         |
| 7 - 11 | depthwise, pointwise                            | 512      | 14         |
| 12     | depthwise, stride 2, pointwise                  | 1024     | 7          |
| 13     | depthwise, pointwise                            | 1024     | 7          |
| fc     | mean of each map, linear                        | 1000     |            |

| width | parameters | multiply-adds (224) |
|-------|------------|---------------------|
| 1     | 4,231,976  | 568,740,352         |
| 0.75  | 2,585,560  | 325 million         |
| 0.5   | 1,331,592  | 149 million         |
| 0.25  | 470,072    | 41 million          |

Batch norm and ReLU behind each of the two. They cost 1/C' + 1/9 of the full 3x3 with C' output maps, which
``separable=False`` puts in their place.
Source: Howard et al., "MobileNets: efficient convolutional neural networks for mobile vision applications", 2017,
tables 1 and 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tinyconv import nn
from tinyconv.autograd import Tensor
from tinyconv.models.sizes import check_images

#: (channels, stride) of each pair.
PAIRS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))


def conv_norm_relu(in_channels: int, out_channels: int, kernel: int, stride: int, groups: int) -> list[nn.Module]:
    """Convolution that keeps the size, or halves it with stride 2; batch norm; ReLU."""
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(out_channels), nn.ReLU()]


class MobileNetV1(nn.Module):
    """Images (N, in_channels, H, W) to class scores (N, num_classes).

    ``width`` multiplies all channels; ``pairs``: (channels, stride) of each depthwise and pointwise convolution.
    Without ``separable`` each pair is one full 3x3 convolution, with the same channels and stride.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        width: float = 1.0,
        dropout: float = 0.0,
        *,
        in_channels: int = 3,
        pairs: Sequence[tuple[int, int]] = PAIRS,
        separable: bool = True,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        channels = round(32 * width)
        layers = [nn.Sequential(*conv_norm_relu(in_channels, channels, 3, 2, 1))]
        for out, stride in pairs:
            out = round(out * width)
            if separable:
                depthwise = conv_norm_relu(channels, channels, 3, stride, groups=channels)
                layers.append(nn.Sequential(*depthwise, *conv_norm_relu(channels, out, 1, 1, 1)))
            else:
                layers.append(nn.Sequential(*conv_norm_relu(channels, out, 3, stride, 1)))
            channels = out
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Scores before the softmax."""
        check_images("MobileNetV1", x, self.in_channels, lambda n: n >= 1, "at least 1")
        return self.classifier(self.dropout(self.avgpool(self.features(x)).flatten(1)))


def mobilenet_v1(**options: Any) -> MobileNetV1:
    """MobileNet; 4,231,976 parameters at width 1."""
    return MobileNetV1(**options)
