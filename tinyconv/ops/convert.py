"""Turning values into tensors, and tensors into tensors of another dtype or place."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyconv.autograd import Function, Tensor
from tinyconv.autograd.dtypes import default_float, is_float, promote
from tinyconv.autograd.tensor import Array


def as_tensor(value: Any, op: str = "as_tensor", name: str = "input") -> Tensor:
    """``value`` if it is a Tensor, a Tensor that shares the memory of an array, else a TypeError that names the
    argument.
    """
    if isinstance(value, Tensor):
        return value
    if isinstance(value, np.ndarray | np.generic) or hasattr(value, "__cuda_array_interface__"):
        return Tensor(value)
    raise TypeError(
        f"{op}: {name} must be a Tensor or an array, but is {type(value).__name__}. Use tinyconv.tensor(...)."
    )


def as_number(value: Any, op: str) -> Tensor:
    """:func:`as_tensor`, or a TypeError for bools."""
    x = as_tensor(value, op)
    if x.data.dtype.kind == "b":
        raise TypeError(f"{op}: input must be numbers, but is bool. Cast it with x.to(tinyconv.int64).")
    return x


def as_float(x: Tensor) -> Tensor:
    """``x``, or its values in the default float where it holds integers or bools, as torch's exp, sqrt, ...

    take them.
    """
    return x if is_float(x.data.dtype) else cast(x, default_float)


class Cast(Function):
    """y = x in another dtype; the gradient returns in the dtype of x."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self.dtype = dtype

    def forward(self, x: Array) -> Array:
        self.source = x.dtype
        return x.astype(self.dtype)

    def backward(self, g: Tensor) -> Tensor:
        return cast(g, self.source)


def cast(x: Tensor, dtype: Any) -> Tensor:
    """x in another dtype; x itself where it has it already."""
    dtype = np.dtype(dtype)
    return x if x.data.dtype == dtype else Cast(dtype)(x)


class Clone(Function):
    """y = a copy of x."""

    def forward(self, x: Array) -> Array:
        return x.copy()

    def backward(self, g: Tensor) -> Tensor:
        return g


def clone(x: Tensor) -> Tensor:
    """A copy of x with memory of its own, still in the graph."""
    return Clone()(x)


def common_dtype(tensors: list[Tensor]) -> np.dtype[Any]:
    """Dtype of a result that holds elements of all ``tensors``, as ``cat`` and ``stack`` make."""
    dtype = tensors[0].data.dtype
    for t in tensors[1:]:
        dtype = promote(dtype, t.data.dtype)
    return dtype
