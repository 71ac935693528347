"""RMSprop."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tinyconv.autograd.tensor import Array
from tinyconv.kernels.arrays import array_module
from tinyconv.optim.optimizer import Optimizer, elementwise


class RMSprop(Optimizer):
    """v <- alpha v + (1 - alpha) g^2;  b <- momentum b + g / (sqrt(v) + eps);  p <- p - lr b

    with g <- g + weight_decay p before. ``centered`` takes v minus the square of a running mean of g, the variance;
    ``maximize`` climbs: -g for g. Source: Hinton, lecture 6e of "Neural networks for machine learning", 2012.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        options = dict(lr=lr, alpha=alpha, eps=eps, weight_decay=weight_decay, momentum=momentum)
        super().__init__(params, {**options, "centered": centered, "maximize": maximize})

    def check(self, group: Mapping[str, Any]) -> None:
        """alpha is the weight of the past."""
        super().check(group)
        if not group["alpha"] >= 0:
            raise ValueError(f"RMSprop: alpha must not be negative, but is {group['alpha']}.")

    @elementwise
    def update(self, x: Array, g: Array, state: dict[str, Any], group: Mapping[str, Any]) -> None:
        """The formula, with one array of scratch."""
        xp, number = array_module(x), x.dtype.type
        if not state:
            state.update(step=0, square_avg=xp.zeros_like(x))
            if group["momentum"]:
                state["momentum_buffer"] = xp.zeros_like(x)
            if group["centered"]:
                state["grad_avg"] = xp.zeros_like(x)
        state["step"] += 1
        if group["maximize"]:
            g = -g
        if group["weight_decay"]:
            g = g + x * number(group["weight_decay"])
        v, past = state["square_avg"], number(1 - group["alpha"])
        v *= number(group["alpha"])
        scratch = g * g
        scratch *= past
        v += scratch
        if group["centered"]:
            mean = state["grad_avg"]
            xp.subtract(g, mean, out=scratch)
            scratch *= past
            mean += scratch
            xp.multiply(mean, mean, out=scratch)
            xp.subtract(v, scratch, out=scratch)
            xp.sqrt(scratch, out=scratch)
        else:
            xp.sqrt(v, out=scratch)
        scratch += number(group["eps"])
        xp.divide(g, scratch, out=scratch)
        if group["momentum"]:
            buffer = state["momentum_buffer"]
            buffer *= number(group["momentum"])
            buffer += scratch
            scratch[...] = buffer
        scratch *= number(group["lr"])
        x -= scratch
