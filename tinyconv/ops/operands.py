"""Bringing two operands together: torch's dtype promotion, then one shape."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from tinyconv.autograd import Tensor
from tinyconv.autograd.dtypes import default_float, is_float, result_dtype, scalar_dtype
from tinyconv.autograd.gpu import one_device
from tinyconv.kernels.arrays import number
from tinyconv.ops.broadcast import expand
from tinyconv.ops.convert import as_tensor, beside, cast

#: What an operator takes beside a tensor: another tensor, an array, or a number.
Operand: TypeAlias = "Tensor | np.ndarray[Any, Any] | bool | int | float"


def common_shape(op: str, *shapes: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that all broadcast to, or a ValueError that names them."""
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        listed = " and ".join(map(str, shapes))
        raise ValueError(
            f"{op}: shapes {listed} do not broadcast: counted from the last axis, sizes must be equal or 1. "
            f"Use reshape or unsqueeze to line the axes up."
        ) from None


def operands(op: str, a: Operand, b: Operand, floating: bool = False) -> tuple[Tensor, Tensor]:
    """Two tensors of one dtype (torch's promotion); those that need a gradient also have the common shape.

    ``floating``: whole numbers become floats at once, so that -1 beside a uint8 stays -1.
    """
    if not isinstance(a, Tensor):
        a, b = _beside(op, a, b, floating), as_tensor(b, op)
    elif not isinstance(b, Tensor):
        b = _beside(op, b, a, floating)
    if type(a.data) is not type(b.data):
        a, b = beside(a, b.data), beside(b, a.data)
        one_device(op, a, b)
    if floating and not is_float(a.data.dtype) and not is_float(b.data.dtype):
        a, b = cast(a, default_float), cast(b, default_float)
    elif a.data.dtype != b.data.dtype:
        dtype = result_dtype(a.data.dtype, a.data.ndim == 0, b.data.dtype, b.data.ndim == 0)
        a, b = cast(a, dtype), cast(b, dtype)
    if a.data.shape != b.data.shape:
        shape = common_shape(op, a.data.shape, b.data.shape)
        a = expand(a, shape) if a.requires_grad and a.data.shape != shape else a
        b = expand(b, shape) if b.requires_grad and b.data.shape != shape else b
    return a, b


def _beside(op: str, value: Any, tensor: Any, floating: bool) -> Tensor:
    """A number or an array as a tensor that goes together with ``tensor``."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool | int | float):
        dtype = scalar_dtype(value, tensor.data.dtype)
        if floating and not is_float(dtype):
            dtype = default_float
        return Tensor.wrap(number(value, dtype, tensor.data))
    return as_tensor(value, op, "other")
