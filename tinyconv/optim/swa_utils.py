"""Averages of a network's weights over its training, under the names of torch.optim.swa_utils."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np

from tinyconv.autograd import Tensor
from tinyconv.autograd.tensor import Array
from tinyconv.nn import Module

#: (average so far, new value, how many were averaged) -> new average
Average = Callable[[Array, Array, int], Array]


def get_ema_avg_fn(decay: float = 0.999) -> Average:
    """a <- decay a + (1 - decay) w, which forgets: the last 1 / (1 - decay) steps count most.

    Source: Polyak and Juditsky, 1992, for averages; Tarvainen and Valpola, NIPS 2017, for this one.
    """
    if not 0 <= decay <= 1:
        raise ValueError(f"get_ema_avg_fn: decay must lie in [0, 1], but is {decay}.")

    def average(a: Array, w: Array, n: int) -> Array:
        return a * a.dtype.type(decay) + w * w.dtype.type(1 - decay)

    return average


def get_swa_avg_fn() -> Average:
    """a <- a + (w - a) / (n + 1), the mean of all. Source: Izmailov et al., UAI 2018."""

    def average(a: Array, w: Array, n: int) -> Array:
        return a + (w - a) / w.dtype.type(n + 1)

    return average


class AveragedModel(Module):
    """A copy of ``model``, whose parameters are the average of the model's at each ``update_parameters(model)``.

        average = AveragedModel(model, avg_fn=get_ema_avg_fn(0.99))
        ...                                   # optimizer.step()
        average.update_parameters(model)

    The first update copies. ``avg_fn``: the mean where it is None. Buffers are those of the model, or averaged as well
    with ``use_buffers`` (whole numbers among them are copied).
    """

    n_averaged: Tensor

    def __init__(self, model: Module, *, avg_fn: Average | None = None, use_buffers: bool = False) -> None:
        super().__init__()
        self.module = copy.deepcopy(model)
        self.register_buffer("n_averaged", Tensor(np.zeros((), np.int64)))
        self.avg_fn = get_swa_avg_fn() if avg_fn is None else avg_fn
        self.use_buffers = use_buffers

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The copy's."""
        return self.module(*args, **kwargs)

    def update_parameters(self, model: Module) -> None:
        """Take the present weights of ``model`` into the average."""
        n = int(self.n_averaged.data)
        pairs: list[tuple[Tensor, Tensor, bool]] = [
            (a, w, True) for a, w in zip(self.module.parameters(), model.parameters())
        ]
        pairs += [(a, w, self.use_buffers) for a, w in zip(self.module.buffers(), model.buffers())]
        for a, w, averaged in pairs:
            averaged = averaged and n > 0 and a.dtype.kind == "f"
            a.data[...] = self.avg_fn(a.data, w.data, n) if averaged else w.data
            a.changed()
        self.n_averaged.data[...] = n + 1
        self.n_averaged.changed()
