"""Elements that are replaced by a value: where a mask says so, or where they lie beyond a bound."""

from __future__ import annotations

import numpy as np

from tinyconv.autograd import Tensor
from tinyconv.autograd.dtypes import is_float
from tinyconv.ops.convert import as_number, cast
from tinyconv.ops.elementwise import where
from tinyconv.ops.operands import Operand


def masked_fill(input: Tensor, mask: Operand, value: Operand) -> Tensor:
    """y = value where ``mask`` (bool) holds, else input. The mask broadcasts to the input, not the reverse."""
    mask = mask if isinstance(mask, Tensor) else Tensor(mask)
    if not is_float(input.dtype) and isinstance(value, float) and not np.isfinite(value):
        raise ValueError(f"masked_fill: value={value} does not fit into {input.dtype}. Use a float tensor.")
    filled = where(mask, cast(value, input.dtype) if isinstance(value, Tensor) else value, input)
    if filled.data.shape != input.data.shape:
        raise ValueError(
            f"masked_fill: mask of shape {mask.shape} does not broadcast to the input's shape {input.shape}."
        )
    return cast(filled, input.dtype)


def clamp(input: Tensor, min: Operand | None = None, max: Operand | None = None) -> Tensor:
    """y = input moved into [min, max]; NaN wins, also as bound. The gradient: 1 inside and on the bounds, else 0."""
    if min is None and max is None:
        raise ValueError("clamp: give min, max, or both.")
    y = as_number(input, "clamp")
    if min is not None:
        y = where(_or_nan(y < min, min), min, y)
    if max is not None:
        y = where(_or_nan(y > max, max), max, y)
    return y


def _or_nan(beyond: Tensor, bound: Operand) -> Tensor:
    """Where an element is beyond the bound, or the bound is NaN."""
    array = isinstance(bound, Tensor | np.ndarray)
    return beyond | (bound != bound) if array or bound != bound else beyond
