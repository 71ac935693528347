"""Networks that either library builds: the same lines are called with tinyconv and with torch.

``lib`` is the module tinyconv or torch; neither is imported here, so that the memory of one can be measured without
the other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.shapes import MOBILENET_V1


def lenet(lib: Any) -> Any:
    """LeNet-5 with ReLU and max pooling, as tinyconv.models.LeNet5."""
    nn = lib.nn
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(400, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, 10),
    )


def _conv_norm(nn: Any, c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1) -> list[Any]:
    conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(c_out)]


def _residual(lib: Any, c_in: int, c_out: int, stride: int) -> Any:
    """A basic block: two 3x3 convolutions and the way past them."""
    nn = lib.nn

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            first, second = _conv_norm(nn, c_in, c_out, 3, stride), _conv_norm(nn, c_out, c_out, 3)
            self.body = nn.Sequential(*first, nn.ReLU(), *second)
            projected = stride > 1 or c_in != c_out
            self.past = nn.Sequential(*_conv_norm(nn, c_in, c_out, 1, stride)) if projected else nn.Identity()
            self.relu = nn.ReLU()

        def forward(self, x: Any) -> Any:
            return self.relu(self.body(x) + self.past(x))

    return Residual()


def resnet18(lib: Any) -> Any:
    """He et al., 2015, table 1; ten classes."""
    nn = lib.nn
    layers, channels = [*_conv_norm(nn, 3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)], 64
    for width, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        layers += [_residual(lib, channels, width, stride), _residual(lib, width, width, 1)]
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))


def mobilenet(lib: Any) -> Any:
    """Howard et al., 2017, table 1; ten classes."""
    nn = lib.nn
    layers, channels = [*_conv_norm(nn, 3, 32, 3, 2), nn.ReLU()], 32
    for width, stride in MOBILENET_V1:
        layers += [*_conv_norm(nn, channels, channels, 3, stride, groups=channels), nn.ReLU()]
        layers += [*_conv_norm(nn, channels, width, 1), nn.ReLU()]
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1024, 10))


def unet(lib: Any, rank: int = 2, classes: int = 2, base: int = 16, levels: int = 4) -> Any:
    """The layers of tinyconv.models.UNet under the same names, so that state dicts fit; in 2 or 3 dimensions."""
    nn = lib.nn
    conv, norm, up, pool = (
        getattr(nn, f"{name}{rank}d") for name in ("Conv", "InstanceNorm", "ConvTranspose", "MaxPool")
    )

    def double_conv(a: int, b: int) -> Any:
        first = [conv(a, b, 3, padding=1, bias=False), norm(b, affine=True), nn.ReLU()]
        return nn.Sequential(*first, conv(b, b, 3, padding=1, bias=False), norm(b, affine=True), nn.ReLU())

    class UNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            channels = [base << level for level in range(levels)]
            self.down = nn.ModuleList([double_conv(a, b) for a, b in zip([1, *channels], channels)])
            self.pool = pool(2)
            self.up = nn.ModuleList([up(2 * c, c, 2, stride=2) for c in channels[:-1]])
            self.merge = nn.ModuleList([double_conv(2 * c, c) for c in channels[:-1]])
            self.head = conv(base, classes, 1)

        def forward(self, x: Any) -> Any:
            skips: list[Any] = []
            for level, stage in enumerate(self.down):
                x = stage(x if level == 0 else self.pool(x))
                skips.append(x)
            for level in reversed(range(levels - 1)):
                x = self.merge[level](lib.cat([skips[level], self.up[level](x)], 1))
            return self.head(x)

    return UNet()


def cifar_resnet20(lib: Any, in_channels: int, classes: int) -> Any:
    """The layers of tinyconv.models.cifar_resnet20 under the same names, with shortcut A."""
    nn = lib.nn

    class Block(nn.Module):
        def __init__(self, c_in: int, c_out: int, stride: int) -> None:
            super().__init__()
            self.conv1, self.bn1 = _conv_norm(nn, c_in, c_out, 3, stride)
            self.conv2, self.bn2 = _conv_norm(nn, c_out, c_out, 3)
            self.relu = nn.ReLU()

        def forward(self, x: Any) -> Any:
            y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
            if y.shape != x.shape:
                x = x[:, :, ::2, ::2]
                x = lib.cat([x, lib.zeros(x.shape[0], y.shape[1] - x.shape[1], *x.shape[2:])], 1)
            return self.relu(y + x)

    class ResNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.bn1 = _conv_norm(nn, in_channels, 16, 3)
            stages, before = [], 16
            for width, stride in ((16, 1), (32, 2), (64, 2)):
                stages.append(nn.Sequential(Block(before, width, stride), *(Block(width, width, 1) for _ in range(2))))
                before = width
            self.stages = nn.ModuleList(stages)
            self.fc = nn.Linear(64, classes)
            self.relu = nn.ReLU()

        def forward(self, x: Any) -> Any:
            x = self.relu(self.bn1(self.conv1(x)))
            for stage in self.stages:
                x = stage(x)
            return self.fc(x.mean((2, 3)))

    return ResNet()


def unet3d(lib: Any, in_channels: int, classes: int, base: int) -> Any:
    """The layers of tinyconv.models.UNet3d, padded and with instance norm, under the same names; four levels."""
    nn = lib.nn

    def double_conv(a: int, middle: int, b: int) -> Any:
        first = [nn.Conv3d(a, middle, 3, padding=1), nn.InstanceNorm3d(middle, affine=True), nn.ReLU()]
        return nn.Sequential(*first, nn.Conv3d(middle, b, 3, padding=1), nn.InstanceNorm3d(b, affine=True), nn.ReLU())

    class UNet3d(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            outs = [2 * base << level for level in range(4)]
            self.down = nn.ModuleList([double_conv(a, b // 2, b) for a, b in zip([in_channels, *outs], outs)])
            self.pool = nn.MaxPool3d(2)
            self.up = nn.ModuleList([nn.ConvTranspose3d(2 * c, 2 * c, 2, stride=2, bias=False) for c in outs[:-1]])
            self.merge = nn.ModuleList([double_conv(3 * c, c, c) for c in outs[:-1]])
            self.head = nn.Conv3d(outs[0], classes, 1)

        def forward(self, x: Any) -> Any:
            skips: list[Any] = []
            for level, stage in enumerate(self.down):
                x = stage(x if level == 0 else self.pool(x))
                skips.append(x)
            for level in reversed(range(3)):
                x = self.merge[level](lib.cat([skips[level], self.up[level](x)], 1))
            return self.head(x)

    return UNet3d()


@dataclass(frozen=True)
class Job:
    """A network to train, and the shape of a batch; a class for each image, or for each pixel of it."""

    build: Callable[[Any], Any]
    shape: tuple[int, ...]
    classes: int
    per_pixel: bool = False

    def batch(self) -> tuple[Any, Any]:
        """Random images, and labels for them, as arrays."""
        rng = np.random.default_rng(0)
        axes = (self.shape[0], *self.shape[2:]) if self.per_pixel else self.shape[:1]
        return rng.standard_normal(self.shape, np.float32), rng.integers(0, self.classes, axes)

    def training(self, lib: Any, network: Any, dtype: str = "float32") -> Callable[[], float]:
        """A function that makes one step of SGD on the batch and returns the loss before it."""
        images, labels = map(lib.from_numpy, self.batch())
        images, network = images.to(getattr(lib, dtype)), network.to(getattr(lib, dtype))
        loss_of = lib.nn.CrossEntropyLoss()
        optimiser = lib.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)

        def step() -> float:
            loss = loss_of(network(images), labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            return loss.item()

        return step


JOBS = {
    "LeNet": Job(lenet, (64, 1, 28, 28), 10),
    "ResNet-18": Job(resnet18, (16, 3, 64, 64), 10),
    "MobileNet V1": Job(mobilenet, (16, 3, 96, 96), 10),
    "U-Net": Job(unet, (4, 1, 128, 128), 2, per_pixel=True),
    "3D U-Net": Job(lambda lib: unet(lib, rank=3, levels=3), (2, 1, 32, 32, 32), 2, per_pixel=True),
}
