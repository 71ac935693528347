"""Stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tinyconv.autograd.tensor import Array
from tinyconv.optim.optimizer import Optimizer, elementwise


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

    @elementwise
    def update(self, x: Array, g: Array, state: dict[str, Any], group: Mapping[str, Any]) -> None:
        """The formula, with one array of scratch."""
        number = x.dtype.type
        scratch = -g if group["maximize"] else g.copy()
        if group["weight_decay"]:
            scratch += x * number(group["weight_decay"])
        if group["momentum"]:
            v = state.get("momentum_buffer")
            if v is None:
                v = state["momentum_buffer"] = scratch.copy()
            else:
                v *= number(group["momentum"])
                v += scratch * number(1 - group["dampening"])
            if group["nesterov"]:
                scratch += v * number(group["momentum"])
            else:
                scratch[...] = v
        scratch *= number(group["lr"])
        x -= scratch
