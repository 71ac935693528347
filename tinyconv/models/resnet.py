"""ResNet: y = x + f(x), so that a layer only learns what to change, and a hundred of them can be trained.

| stage  | what                             | ResNet-18 | 34 | 50 | 101 | 152 | channels           | size (224) |
|--------|----------------------------------|-----------|----|----|-----|-----|--------------------|------------|
| conv1  | 7x7, stride 2, norm, ReLU        | 1         | 1  | 1  | 1   | 1   | 64                 | 112        |
| pool   | 3x3 max, stride 2                |           |    |    |     |     | 64                 | 56         |
| layer1 | blocks                           | 2         | 3  | 3  | 3   | 3   | 64, bottleneck 256 | 56         |
| layer2 | blocks, the first with stride 2  | 2         | 4  | 4  | 4   | 8   | 128 or 512         | 28         |
| layer3 | blocks, the first with stride 2  | 2         | 6  | 6  | 23  | 36  | 256 or 1024        | 14         |
| layer4 | blocks, the first with stride 2  | 2         | 3  | 3  | 3   | 3   | 512 or 2048        | 7          |
| fc     | mean of each map, linear         | 1         | 1  | 1  | 1   | 1   | 1000               |            |

| network    | block      | parameters |
|------------|------------|------------|
| ResNet-18  | basic      | 11,689,512 |
| ResNet-34  | basic      | 21,797,672 |
| ResNet-50  | bottleneck | 25,557,032 |
| ResNet-101 | bottleneck | 44,549,160 |
| ResNet-152 | bottleneck | 60,192,808 |

A basic block is 3x3, 3x3; a bottleneck 1x1, 3x3, 1x1 with four times as many channels at its end. Where the shape
changes, x goes through a 1x1 convolution with stride (the paper's option B).
Source: He, Zhang, Ren and Sun, "Deep residual learning for image recognition", 2015, table 1. As in torchvision the
stride of a bottleneck is in its 3x3, where the paper has it in the first 1x1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from tinyconv import nn
from tinyconv.autograd import Tensor
from tinyconv.models.sizes import check_images
from tinyconv.nn import init


class BasicBlock(nn.Module):
    """y = relu(shortcut(x) + f(x)), f: 3x3 with the stride, norm, ReLU, 3x3, norm. (N, C, H, W) to (N, C', H', W')."""

    expansion: ClassVar[int] = 1  # channels of the output over ``channels``

    def __init__(self, in_channels: int, channels: int, stride: int = 1, downsample: nn.Module | None = None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = downsample

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """With weight 0 here f(x) = 0, and the block is the identity of what is not negative."""
        return self.bn2

    def forward(self, x: Tensor) -> Tensor:
        """relu(shortcut(x) + f(x))"""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """y = relu(shortcut(x) + f(x)), f: 1x1 down to ``channels``, 3x3 with the stride, 1x1 up to 4 ``channels``."""

    expansion: ClassVar[int] = 4

    def __init__(self, in_channels: int, channels: int, stride: int = 1, downsample: nn.Module | None = None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, 4 * channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * channels)
        self.relu = nn.ReLU()
        self.downsample = downsample

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """As in :class:`BasicBlock`."""
        return self.bn3

    def forward(self, x: Tensor) -> Tensor:
        """relu(shortcut(x) + f(x))"""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """Images (N, in_channels, H, W) to class scores (N, num_classes).

    ``layers``: blocks of each stage, four in torchvision's; ``width``: channels of the first, doubled at each next.
    ``zero_init_residual``: every block starts as the identity (Goyal et al., 2017, section 5.1).
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        layers: Sequence[int],
        num_classes: int = 1000,
        zero_init_residual: bool = False,
        *,
        in_channels: int = 3,
        width: int = 64,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.conv1 = nn.Conv2d(in_channels, width, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        self.stages: list[str] = []
        channels = width
        for number, blocks in enumerate(layers):
            self.stages.append(f"layer{number + 1}")
            stage = _stage(block, channels, width << number, blocks, stride=1 if number == 0 else 2)
            self.add_module(self.stages[-1], stage)
            channels = (width << number) * block.expansion
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif zero_init_residual and isinstance(module, BasicBlock | Bottleneck):
                gain = module.last_norm.weight
                assert gain is not None
                init.zeros_(gain)

    def forward(self, x: Tensor) -> Tensor:
        """Scores before the softmax."""
        check_images("ResNet", x, self.in_channels, lambda n: n >= 1, "at least 1")
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))  # (N, 64, 56, 56)
        for stage in self.stages:
            x = self.get_submodule(stage)(x)
        return self.fc(self.avgpool(x).flatten(1))


def _stage(
    block: type[BasicBlock] | type[Bottleneck], in_channels: int, channels: int, blocks: int, stride: int
) -> nn.Sequential:
    """``blocks`` blocks, the first with the stride and, where the shape changes, a 1x1 convolution as its shortcut."""
    out = channels * block.expansion
    downsample = None
    if stride != 1 or in_channels != out:
        downsample = nn.Sequential(nn.Conv2d(in_channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))
    first = block(in_channels, channels, stride, downsample)
    return nn.Sequential(first, *(block(out, channels) for _ in range(blocks - 1)))


def resnet18(**options: Any) -> ResNet:
    """torchvision's ResNet-18; 11,689,512 parameters."""
    return ResNet(BasicBlock, (2, 2, 2, 2), **options)


def resnet34(**options: Any) -> ResNet:
    """torchvision's ResNet-34; 21,797,672 parameters."""
    return ResNet(BasicBlock, (3, 4, 6, 3), **options)


def resnet50(**options: Any) -> ResNet:
    """torchvision's ResNet-50; 25,557,032 parameters."""
    return ResNet(Bottleneck, (3, 4, 6, 3), **options)


def resnet101(**options: Any) -> ResNet:
    """torchvision's ResNet-101; 44,549,160 parameters."""
    return ResNet(Bottleneck, (3, 4, 23, 3), **options)


def resnet152(**options: Any) -> ResNet:
    """torchvision's ResNet-152; 60,192,808 parameters."""
    return ResNet(Bottleneck, (3, 8, 36, 3), **options)
