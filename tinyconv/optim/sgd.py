"""Stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tinyconv import kernels
from tinyconv.autograd.tensor import Array
from tinyconv.kernels.arrays import array_module
from tinyconv.optim.optimizer import Optimizer


class SGD(Optimizer):
    """g <- g + weight_decay p;  v <- momentum v + (1 - dampening) g;  p <- p - lr v

    The first v is g itself. ``nesterov`` steps by g + momentum v in place of v; ``maximize`` climbs: -g for g.
    Source: Sutskever, Martens, Dahl and Hinton, ICML 2013, with the learning rate outside v.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        options = dict(lr=lr, momentum=momentum, dampening=dampening, weight_decay=weight_decay)
        super().__init__(params, {**options, "nesterov": nesterov, "maximize": maximize})

    def check(self, group: Mapping[str, Any]) -> None:
        """Nesterov's step needs a momentum, and no dampening."""
        super().check(group)
        if group["nesterov"] and (group["momentum"] <= 0 or group["dampening"] != 0):
            raise ValueError(
                f"SGD: nesterov needs momentum above 0 and dampening 0, but momentum={group['momentum']} and "
                f"dampening={group['dampening']}."
            )

    def update(self, x: Array, g: Array, state: dict[str, Any], group: Mapping[str, Any]) -> None:
        """The formula; the first v, momentum 0 + g, is not dampened."""
        v, dampening = state.get("momentum_buffer"), group["dampening"]
        if group["momentum"] and v is None:
            v, dampening = state.setdefault("momentum_buffer", array_module(x).zeros_like(x)), 0.0
        decay, how = group["weight_decay"], (group["nesterov"], group["maximize"])
        kernels.sgd_step(x, g, v if group["momentum"] else None, group["lr"], group["momentum"], dampening, decay, *how)
