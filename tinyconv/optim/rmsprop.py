"""RMSprop."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tinyconv import kernels
from tinyconv.autograd.tensor import Array
from tinyconv.kernels.arrays import array_module
from tinyconv.optim.optimizer import Optimizer


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

    def update(self, x: Array, g: Array, state: dict[str, Any], group: Mapping[str, Any]) -> None:
        """The formula."""
        if not state:
            names = ["square_avg"] + ["momentum_buffer"] * bool(group["momentum"]) + ["grad_avg"] * group["centered"]
            state.update(step=0, **{name: array_module(x).zeros_like(x) for name in names})
        state["step"] += 1
        v, mean, b = state["square_avg"], state.get("grad_avg"), state.get("momentum_buffer")
        options = (group[name] for name in ("lr", "alpha", "eps", "weight_decay", "momentum", "maximize"))
        kernels.rmsprop_step(x, g, v, mean, b, *options)
