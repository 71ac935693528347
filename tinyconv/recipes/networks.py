"""How each network is fitted to a data set: its options, the size of its images, its learning rate.

A classifier gets the images of the data set enlarged to the size that it was made for, or to 64 pixels where that is
hours of work for a laptop. A segmentation network gets them mirrored up to a size that its poolings divide. The
networks for segmentation are small: their width is that of the data set.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from tinyconv import models, nn
from tinyconv.autograd import Tensor
from tinyconv.models.registry import NETWORKS
from tinyconv.models.sizes import valid_unet_output
from tinyconv.models.unet import double_conv
from tinyconv.optim import SGD, Adam, Optimizer, decay_groups
from tinyconv.recipes.tasks import TASKS, Task


@dataclass(frozen=True)
class Recipe:
    """A network for a data set, with the options that the network is made with."""

    model: str
    data: str
    task: Task
    options: dict[str, Any]

    def build(self) -> nn.Module:
        """The network, newly initialised."""
        return _BUILDERS.get(self.model, NETWORKS[self.model])(**self.options)

    def optimizer(self, network: nn.Module) -> Optimizer:
        """The optimiser, at the highest rate of its schedule."""
        row = _SEGMENTERS[self.model] if self.task.dense else _CLASSIFIERS[self.model]
        if row.sgd:
            return SGD(decay_groups(network, 5e-4), lr=row.learning_rate, momentum=0.9, nesterov=True)
        return Adam(network.parameters(), lr=row.learning_rate)

    def sizes(self, size: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """(input, output) of the network for an image of that size: its spatial axes, and those of the class map that
        it then gives, at least as large as the image; () for a classifier.
        """
        if not self.task.dense:
            side = _CLASSIFIERS[self.model].side
            return (size if side is None else (side, side)), ()
        pairs = [_segmented(self.model, n) for n in size]
        return tuple(i for i, _ in pairs), tuple(o for _, o in pairs)


@dataclass(frozen=True)
class _Fit:
    """``learning_rate``: the highest, of Adam or of ``sgd``. ``side`` of a classifier's images, None as they are;
    ``axes`` of the images that a network segments.
    """

    learning_rate: float
    side: int | None = None
    axes: int = 2
    sgd: bool = False


_CLASSIFIERS: dict[str, _Fit] = {
    "lenet5": _Fit(3e-3, 28),
    "lenet1998": _Fit(3e-3, 32),
    "alexnet": _Fit(3e-4, 64),
    "alexnet2012": _Fit(3e-4, 227),
    **{f"vgg{depth}": _Fit(1e-4, 64) for depth in (11, 13, 16, 19)},
    **{f"vgg{depth}_bn": _Fit(3e-4, 64) for depth in (11, 13, 16, 19)},
    "googlenet": _Fit(1e-3, 64),
    "googlenet2014": _Fit(3e-4, 224),
    **{f"resnet{depth}": _Fit(1e-3, 64) for depth in (18, 34, 50, 101, 152)},
    **{f"cifar_resnet{depth}": _Fit(0.1, sgd=True) for depth in (20, 32, 44, 56, 110)},
    "mobilenet_v1": _Fit(1e-3, 64),
    "mobilenet_v2": _Fit(1e-3, 64),
}


_SEGMENTERS: dict[str, _Fit] = {
    "unet": _Fit(1e-2),
    "unet2015": _Fit(1e-3),
    "attention_unet": _Fit(1e-2),
    "context_module": _Fit(1e-3),
    "aspp": _Fit(3e-3),
    "unet3d": _Fit(1e-2, axes=3),
}


def recipe(model: str, data: str) -> Recipe:
    """The recipe of a network and a data set. ValueError: an unknown name, or two that do not fit; says what does."""
    if data not in TASKS:
        near = get_close_matches(data.lower(), TASKS, n=3, cutoff=0.5) or list(TASKS)
        raise ValueError(f"train: there is no data set {data!r}. Did you mean one of: {', '.join(near)}?")
    if model not in NETWORKS:
        near = get_close_matches(model.lower(), NETWORKS, n=4, cutoff=0.5) or list(NETWORKS)
        raise ValueError(f"train: there is no network {model!r}. Did you mean one of: {', '.join(near)}?")
    task = TASKS[data]
    fitting = networks_for(task)
    if model not in fitting:
        wants = (
            f"a class for each of {' x '.join(map(str, task.size))} elements" if task.dense else "one class an image"
        )
        ten = " (lenet1998 knows ten classes, no fewer)" if model == "lenet1998" else ""
        raise ValueError(
            f"train: {data} wants {wants}, which {model} does not give{ten}. Networks for it: {', '.join(fitting)}."
        )
    options: dict[str, Any] = {"num_classes": len(task.classes), "in_channels": 1}
    if model == "lenet1998":
        options = {}
    elif model == "unet3d":  # the first stage has twice the channels of its first convolution
        options.update(base=task.width // 2, padded=True, norm="instance")
    elif task.dense:
        options.update(base=task.width)
    return Recipe(model, data, task, options)


def networks_for(task: Task) -> list[str]:
    """The names of the networks that fit."""
    if task.dense:
        return [name for name, row in _SEGMENTERS.items() if row.axes == len(task.size)]
    return [name for name in _CLASSIFIERS if name != "lenet1998" or len(task.classes) == 10]


def _segmented(model: str, size: int) -> tuple[int, int]:
    """(input, output): the smallest of the network whose output has at least ``size`` elements."""
    if model == "unet2015":
        inputs = next(n for n in itertools.count(size) if valid_unet_output(n, 5) >= size)
        return inputs, valid_unet_output(inputs, 5)
    step = 1 if model in ("context_module", "aspp") else 8  # of the poolings of four levels
    return -(-size // step) * step, -(-size // step) * step


# --------------------------------------------------------------------------------------------------
# Those that are a part of a network, or do not give scores


class Closest(nn.Module):
    """Scores of LeNet-5 of 1998: the smallest of its distances is the largest score."""

    def __init__(self) -> None:
        super().__init__()
        self.network = models.lenet1998()

    def forward(self, x: Tensor) -> Tensor:
        """-distance"""
        return -self.network(x)


def _context_module(in_channels: int, num_classes: int, base: int) -> nn.Module:
    """The module between two convolutions that make its maps and one that reads them."""
    return nn.Sequential(double_conv(in_channels, base), models.context_module(base), nn.Conv2d(base, num_classes, 1))


def _aspp(in_channels: int, num_classes: int, base: int) -> nn.Module:
    """The same around the pyramid, with rates for maps as large as the image."""
    pyramid = models.aspp(base, atrous_rates=(2, 6, 12), out_channels=2 * base)
    return nn.Sequential(double_conv(in_channels, base), pyramid, nn.Conv2d(2 * base, num_classes, 1))


_BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "lenet1998": Closest,
    "context_module": _context_module,
    "aspp": _aspp,
}
