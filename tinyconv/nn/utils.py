"""Gradient clipping."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from tinyconv.autograd import Tensor
from tinyconv.autograd.gpu import one_device
from tinyconv.kernels.arrays import array_module


def _gradients(parameters: Tensor | Iterable[Tensor]) -> list[Tensor]:
    listed = [parameters] if isinstance(parameters, Tensor) else parameters
    return [p.grad for p in listed if p.grad is not None]


def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
) -> Tensor:
    """Scale all gradients by min(1, max_norm / (norm + 1e-6)), norm that of all of them as one vector; returns the
    norm.

    In place. ``error_if_nonfinite``: RuntimeError for a norm that is NaN or infinite. Source: Pascanu et al., ICML
    2013.
    """
    gradients = _gradients(parameters)
    if not gradients:
        return Tensor(0.0)
    one_device("clip_grad_norm_", *gradients)
    xp = array_module(gradients[0].data)
    sizes = xp.stack([xp.asarray(xp.linalg.norm(g.data.ravel(), norm_type)) for g in gradients])
    total = xp.linalg.norm(sizes.astype(xp.float64), norm_type)
    if error_if_nonfinite and not math.isfinite(float(total)):
        raise RuntimeError(
            f"clip_grad_norm_: the norm of the gradients is {float(total)}. Look for the cause with detect_anomaly()."
        )
    factor = max_norm / (total + 1e-6)
    if xp is not np or not factor >= 1:  # NaN too; on a GPU the question is not asked, the answer is multiplied
        factor = xp.where(factor >= 1, 1, factor)
        for g in gradients:
            g.data *= factor.astype(g.dtype)
            g.changed()
    return Tensor(total.astype(gradients[0].dtype))


def clip_grad_value_(parameters: Tensor | Iterable[Tensor], clip_value: float) -> None:
    """Move every element of the gradients into [-clip_value, clip_value], in place."""
    for g in _gradients(parameters):
        array_module(g.data).clip(g.data, -clip_value, clip_value, out=g.data)
        g.changed()
