"""Adam and AdamW."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tinyconv import kernels
from tinyconv.autograd.tensor import Array
from tinyconv.kernels.arrays import array_module
from tinyconv.optim.optimizer import Optimizer


class Adam(Optimizer):
    """m <- beta1 m + (1 - beta1) g;  v <- beta2 v + (1 - beta2) g^2; p <- p - lr (m / (1 - beta1^t)) / (sqrt(v / (1 -
    beta2^t)) + eps)

    with g <- g + weight_decay p before. ``amsgrad`` takes the largest v so far; ``maximize`` climbs: -g for g.
    Source: Kingma and Ba, ICLR 2015, algorithm 1; Reddi, Kale and Kumar, ICLR 2018, for amsgrad.
    """

    decoupled = False  # AdamW: the decay is not part of the gradient

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        options = dict(lr=lr, betas=tuple(betas), eps=eps, weight_decay=weight_decay)
        super().__init__(params, {**options, "amsgrad": amsgrad, "maximize": maximize})

    def update(self, x: Array, g: Array, state: dict[str, Any], group: Mapping[str, Any]) -> None:
        """The formula."""
        if not state:
            names = ["exp_avg", "exp_avg_sq"] + ["max_exp_avg_sq"] * group["amsgrad"]
            state.update(step=0, **{name: array_module(x).zeros_like(x) for name in names})
        state["step"] += 1
        m, v = state["exp_avg"], state["exp_avg_sq"]
        largest = state["max_exp_avg_sq"] if group["amsgrad"] else None
        options = group["lr"], *group["betas"], group["eps"], group["weight_decay"], self.decoupled, group["maximize"]
        kernels.adam_step(x, g, m, v, largest, state["step"], *options)


class AdamW(Adam):
    """Adam with p <- (1 - lr weight_decay) p before each step in place of a decay in the gradient.

    Source: Loshchilov and Hutter, ICLR 2019, algorithm 2.
    """

    decoupled = True

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize)
