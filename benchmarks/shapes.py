"""The convolutions of well-known networks, as tables in the order of the papers, each layer as often as it occurs.

The multiply-adds of each table are a test: they add up to the published totals (tests/test_benchmarks.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import NamedTuple

from tinyconv.geometry import Geometry, transposed_geometry, window_geometry


class Layer(NamedTuple):
    """One convolution: square (or cubic) image and kernel, the same stride and padding on each axis, no bias.

    ``padding`` None is the one that keeps the size at stride 1 for an odd kernel. ``transposed``: a transposed
    convolution; ``size`` is then still the size of its input.
    """

    channels_in: int
    channels_out: int
    size: int
    kernel: int
    stride: int = 1
    padding: int | None = None
    groups: int = 1
    rank: int = 2
    transposed: bool = False

    @property
    def pad(self) -> int:
        """The padding in pixels."""
        return self.kernel // 2 if self.padding is None else self.padding

    @property
    def geometry(self) -> Geometry:
        """The windows of the layer; those of a transposed one slide over its output."""
        make = transposed_geometry if self.transposed else window_geometry
        axes = (self.size,) * self.rank
        return make("benchmarks", axes, (self.kernel,) * self.rank, self.stride, self.pad)

    @property
    def output(self) -> tuple[int, ...]:
        """Sizes of the output's spatial axes."""
        return self.geometry.size if self.transposed else self.geometry.output

    def shapes(self, batch: int) -> dict[str, tuple[int, ...]]:
        """The shapes of the input x, the weight w and the gradient gy of the output."""
        to, of = (self.channels_in, self.channels_out) if self.transposed else (self.channels_out, self.channels_in)
        return {
            "x": (batch, self.channels_in, *(self.size,) * self.rank),
            "w": (to, of // self.groups, *(self.kernel,) * self.rank),
            "gy": (batch, self.channels_out, *self.output),
        }

    def multiply_adds(self, batch: int = 1) -> int:
        """Products of the forward pass, those with padding included, as the published counts have it."""
        return batch * prod(self.geometry.output) * prod(self.shapes(1)["w"])

    def __str__(self) -> str:
        axes = "x".join([str(self.size)] * self.rank)
        kernel = "x".join([str(self.kernel)] * self.rank)
        stride = f"/{self.stride}" if self.stride > 1 else ""
        groups = f" groups {self.groups}" if self.groups > 1 else ""
        kind = " transposed" if self.transposed else ""
        return f"{self.channels_in}x{axes} -> {self.channels_out}, {kernel}{stride}{groups}{kind}"


def _alexnet() -> list[Layer]:
    """Krizhevsky, "One weird trick", 2014, as torchvision has it: one tower."""
    return [
        Layer(3, 64, 224, 11, 4, 2),
        Layer(64, 192, 27, 5),
        Layer(192, 384, 13, 3),
        Layer(384, 256, 13, 3),
        Layer(256, 256, 13, 3),
    ]


def _vgg16() -> list[Layer]:
    """Simonyan and Zisserman, 2014, configuration D."""
    stages = [(224, 64, 2), (112, 128, 2), (56, 256, 3), (28, 512, 3), (14, 512, 3)]  # size, channels, convolutions
    layers, channels = [], 3
    for size, width, depth in stages:
        for _ in range(depth):
            layers.append(Layer(channels, width, size, 3))
            channels = width
    return layers


#: Szegedy et al., "Going deeper with convolutions", 2014, table 1: size, input channels, #1x1, #3x3 reduce, #3x3,
#: #5x5 reduce, #5x5, pool proj.
INCEPTION = {
    "3a": (28, 192, 64, 96, 128, 16, 32, 32),
    "3b": (28, 256, 128, 128, 192, 32, 96, 64),
    "4a": (14, 480, 192, 96, 208, 16, 48, 64),
    "4b": (14, 512, 160, 112, 224, 24, 64, 64),
    "4c": (14, 512, 128, 128, 256, 24, 64, 64),
    "4d": (14, 512, 112, 144, 288, 32, 64, 64),
    "4e": (14, 528, 256, 160, 320, 32, 128, 128),
    "5a": (7, 832, 256, 160, 320, 32, 128, 128),
    "5b": (7, 832, 384, 192, 384, 48, 128, 128),
}


def inception(size: int, c: int, one: int, r3: int, three: int, r5: int, five: int, proj: int) -> list[Layer]:
    """The six convolutions of one inception module."""
    return [
        Layer(c, one, size, 1),
        Layer(c, r3, size, 1),
        Layer(r3, three, size, 3),
        Layer(c, r5, size, 1),
        Layer(r5, five, size, 5),
        Layer(c, proj, size, 1),
    ]


def _googlenet() -> list[Layer]:
    """Without the auxiliary classifiers."""
    stem = [Layer(3, 64, 224, 7, 2), Layer(64, 64, 56, 1), Layer(64, 192, 56, 3)]
    return stem + [layer for row in INCEPTION.values() for layer in inception(*row)]


def _resnet18() -> list[Layer]:
    """He et al., 2015, table 1, with projections (option B)."""
    layers, channels = [Layer(3, 64, 224, 7, 2)], 64
    for width, size in ((64, 56), (128, 28), (256, 14), (512, 7)):
        if width == channels:
            layers += [Layer(width, width, size, 3)]
        else:
            layers += [Layer(channels, width, 2 * size, 3, 2), Layer(channels, width, 2 * size, 1, 2)]
        layers += [Layer(width, width, size, 3)] * 3
        channels = width
    return layers


def _resnet50() -> list[Layer]:
    """He et al., 2015, table 1, with the stride in the 3x3 convolution, as torchvision has it."""
    layers, channels, size = [Layer(3, 64, 224, 7, 2)], 64, 56
    for width, depth, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        layers += [Layer(channels, width, size, 1), Layer(width, width, size, 3, stride)]
        layers += [Layer(channels, 4 * width, size, 1, stride)]
        channels, size = 4 * width, size // stride
        layers += [Layer(width, channels, size, 1)]
        layers += (depth - 1) * [Layer(channels, width, size, 1), Layer(width, width, size, 3), layers[-1]]
    return layers


#: Output channels and stride of the depthwise separable blocks of MobileNet V1: Howard et al., 2017, table 1.
MOBILENET_V1 = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))


def _mobilenet_v1() -> list[Layer]:
    layers, channels, size = [Layer(3, 32, 224, 3, 2)], 32, 112
    for width, stride in MOBILENET_V1:
        layers += [Layer(channels, channels, size, 3, stride, groups=channels)]
        size //= stride
        layers += [Layer(channels, width, size, 1)]
        channels = width
    return layers


def _mobilenet_v2() -> list[Layer]:
    """Sandler et al., 2018, table 2."""
    rows = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    layers, channels, size = [Layer(3, 32, 224, 3, 2)], 32, 112
    for expansion, width, depth, first_stride in rows:
        for stride in [first_stride] + [1] * (depth - 1):
            hidden = expansion * channels
            if expansion > 1:
                layers += [Layer(channels, hidden, size, 1)]
            layers += [Layer(hidden, hidden, size, 3, stride, groups=hidden)]
            size //= stride
            layers += [Layer(hidden, width, size, 1)]
            channels = width
    return [*layers, Layer(channels, 1280, size, 1)]


def _unet(size: int, base: int, levels: int, classes: int, rank: int) -> list[Layer]:
    """One input channel; padded 3x3(x3) convolutions, 2x2(x2) transposed ones with stride 2, a 1x1(x1) head."""
    layers, channels = [], 1
    for level in range(levels):
        width = base << level
        layers += [Layer(c, width, size >> level, 3, rank=rank) for c in (channels, width)]
        channels = width
    for level in reversed(range(levels - 1)):
        width = base << level
        layers += [Layer(channels, width, size >> (level + 1), 2, 2, 0, rank=rank, transposed=True)]
        layers += [Layer(c, width, size >> level, 3, rank=rank) for c in (2 * width, width)]
        channels = width
    return [*layers, Layer(base, classes, size, 1, rank=rank)]


NETWORKS: dict[str, list[Layer]] = {
    "AlexNet": _alexnet(),
    "VGG-16": _vgg16(),
    "GoogLeNet": _googlenet(),
    "ResNet-18": _resnet18(),
    "ResNet-50": _resnet50(),
    "MobileNet V1": _mobilenet_v1(),
    "MobileNet V2": _mobilenet_v2(),
    # Channels of Ronneberger, Fischer and Brox, 2015, figure 1; the image is padded, and smaller.
    "U-Net": _unet(size=128, base=64, levels=5, classes=2, rank=2),
    # Channels as nnU-Net starts with (Isensee et al., 2021), on a patch of 32 voxels an edge.
    "3D U-Net": _unet(size=32, base=32, levels=4, classes=2, rank=3),
}

#: A dozen layers of all kinds, for a run of minutes.
QUICK = {
    "AlexNet": [1],
    "VGG-16": [3],
    "GoogLeNet": [2, 7],
    "ResNet-18": [0, 1, 5, 6],
    "ResNet-50": [1, 3],
    "MobileNet V1": [1, 2],
    "U-Net": [10],
    "3D U-Net": [3, 8],
}


def distinct(networks: Iterable[str] = NETWORKS, quick: bool = False) -> dict[Layer, dict[str, int]]:
    """Each layer that occurs, with how often in which network; with ``quick`` those of ``QUICK`` alone."""
    chosen = {NETWORKS[name][i] for name, indices in QUICK.items() for i in indices}
    found: dict[Layer, dict[str, int]] = {}
    for name in networks:
        for layer in NETWORKS[name]:
            if not quick or layer in chosen:
                found.setdefault(layer, {}).setdefault(name, 0)
                found[layer][name] += 1
    return found
