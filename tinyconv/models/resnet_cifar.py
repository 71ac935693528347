"""The residual networks for small images: 6n + 2 layers, with shortcuts of two kinds or none.

| stage | what                                      | channels | size (32) |
|-------|-------------------------------------------|----------|-----------|
| conv1 | 3x3, norm, ReLU                           | 16       | 32        |
| stage | n blocks of two 3x3                       | 16       | 32        |
| stage | n blocks, the first with stride 2         | 32       | 16        |
| stage | n blocks, the first with stride 2         | 64       | 8         |
| fc    | mean of each map, linear                  | 10       |           |

| depth            | 20      | 32      | 44      | 56      | 110       |
|------------------|---------|---------|---------|---------|-----------|
| n                | 3       | 5       | 7       | 9       | 18        |
| A, or none       | 269,722 | 464,154 | 658,586 | 853,018 | 1,727,962 |

Where a stage halves the image, option A takes every second pixel of x and adds maps of zeros, which costs no
parameters; option B is a 1x1 convolution with stride and norm. Without shortcuts it is the plain network, whose
training error grows with the depth: the observation that residual learning answers.
Source: He, Zhang, Ren and Sun, "Deep residual learning for image recognition", 2015, section 4.2.
"""

from __future__ import annotations

from typing import Any

from tinyconv import functional as F
from tinyconv import nn
from tinyconv.autograd import Tensor
from tinyconv.models.sizes import check_images
from tinyconv.nn import init


class Subsample(nn.Module):
    """Option A: every ``stride``-th pixel, then ``extra`` maps of zeros: (N, C, H, W) to (N, C + extra, H', W')."""

    shown = ("stride", "extra")

    def __init__(self, stride: int, extra: int) -> None:
        super().__init__()
        self.stride, self.extra = stride, extra

    def forward(self, x: Tensor) -> Tensor:
        """x[:, :, ::stride, ::stride] and zeros"""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.extra))


class CifarBlock(nn.Module):
    """y = relu(shortcut(x) + f(x)), f: 3x3 with the stride, norm, ReLU, 3x3, norm; ``shortcut`` "A", "B" or None."""

    def __init__(self, in_channels: int, channels: int, stride: int, shortcut: str | None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut: nn.Module | None = None
        if shortcut is None:
            return
        if stride == 1 and in_channels == channels:
            self.shortcut = nn.Identity()
        elif shortcut == "A":
            self.shortcut = Subsample(stride, channels - in_channels)
        else:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """relu(shortcut(x) + f(x)), without shortcut relu(f(x))"""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y if self.shortcut is None else self.shortcut(x) + y)


class CifarResNet(nn.Module):
    """Images (N, in_channels, H, W) to class scores (N, num_classes).

    ``depth``: 6n + 2 layers; ``shortcut``: "A", "B", or None for the plain network; ``width``: channels of the first
    stage, doubled at each of the two others. ValueError: another depth or shortcut.
    """

    def __init__(
        self,
        depth: int = 20,
        shortcut: str | None = "A",
        num_classes: int = 10,
        *,
        in_channels: int = 3,
        width: int = 16,
    ) -> None:
        super().__init__()
        if depth < 8 or depth % 6 != 2:
            near = max(8, depth - (depth - 2) % 6)
            raise ValueError(f"CifarResNet: depth must be 6n + 2, e.g. {near} or {near + 6}, but is {depth}.")
        if shortcut not in ("A", "B", None):
            raise ValueError(f"CifarResNet: shortcut must be 'A', 'B' or None, but is {shortcut!r}.")
        self.in_channels = in_channels
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        stages, channels = [], width
        for number in range(3):
            blocks = []
            for position in range((depth - 2) // 6):
                stride = 2 if number > 0 and position == 0 else 1
                blocks.append(CifarBlock(channels, width << number, stride, shortcut))
                channels = width << number
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)
        self.fc = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Scores before the softmax."""
        check_images("CifarResNet", x, self.in_channels, lambda n: n >= 1, "at least 1")
        x = F.relu(self.bn1(self.conv1(x)))
        for stage in self.stages:
            x = stage(x)
        return self.fc(x.mean((2, 3)))


def cifar_resnet20(**options: Any) -> CifarResNet:
    """20 layers; 269,722 parameters with option A."""
    return CifarResNet(20, **options)


def cifar_resnet32(**options: Any) -> CifarResNet:
    """32 layers; 464,154 parameters with option A."""
    return CifarResNet(32, **options)


def cifar_resnet44(**options: Any) -> CifarResNet:
    """44 layers; 658,586 parameters with option A."""
    return CifarResNet(44, **options)


def cifar_resnet56(**options: Any) -> CifarResNet:
    """56 layers; 853,018 parameters with option A."""
    return CifarResNet(56, **options)


def cifar_resnet110(**options: Any) -> CifarResNet:
    """110 layers; 1,727,962 parameters with option A."""
    return CifarResNet(110, **options)
