"""Operators that combine the elements along axes into one."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from tinyconv.autograd import Function, Tensor
from tinyconv.autograd.dtypes import is_float
from tinyconv.autograd.function import as_array
from tinyconv.autograd.tensor import Array
from tinyconv.kernels.arrays import array_module
from tinyconv.ops.broadcast import expand, numel, sum_axes
from tinyconv.ops.compare import (
    eq,
    isinf,
    isnan,
    logical_and,
    logical_or,
    ne,
)
from tinyconv.ops.convert import as_float, as_tensor, cast, clone
from tinyconv.ops.elementwise import (
    abs,
    div,
    exp,
    log,
    maximum,
    minimum,
    mul,
    sqrt,
    where,
)
from tinyconv.ops.elementwise import pow as power
from tinyconv.ops.mixed import in_float32
from tinyconv.ops.shape import axes_of, axis_of, cat, flip, narrow, reshape, squeeze, take_along, unsqueeze

Dims: TypeAlias = "int | Sequence[int] | None"


def _needs_float(op: str, x: Tensor) -> None:
    if not is_float(x.data.dtype):
        raise TypeError(f"{op}: needs a float tensor, but got {x.dtype}. Use x.to(tinyconv.float32).")


@in_float32
def sum(input: Tensor, dim: Dims = None, keepdim: bool = False, dtype: Any = None) -> Tensor:
    """Sum over ``dim`` (all axes by default). Integers and bools are added in int64."""
    x = as_tensor(input, "sum")
    if dtype is not None or not is_float(x.data.dtype):
        x = cast(x, dtype or np.int64)
    return sum_axes(x, axes_of("sum", dim, x.ndim), keepdim)


def mean(input: Tensor, dim: Dims = None, keepdim: bool = False, dtype: Any = None) -> Tensor:
    """Sum over ``dim`` divided by the number of elements; NaN of nothing. Floats only."""
    x = as_tensor(input, "mean") if dtype is None else cast(as_tensor(input, "mean"), dtype)
    _needs_float("mean", x)
    axes = axes_of("mean", dim, x.ndim)
    return div(sum_axes(x, axes, keepdim), numel(x.shape, axes))


def var(
    input: Tensor, dim: Dims = None, correction: int = 1, keepdim: bool = False, unbiased: bool | None = None
) -> Tensor:
    """sum (x - mean)^2 / (n - correction) over ``dim``: unbiased by default; ``unbiased=False`` means correction 0."""
    x = as_tensor(input, "var")
    _needs_float("var", x)
    axes = axes_of("var", dim, x.ndim)
    centred = x - mean(x, axes, keepdim=True) if axes else x - x
    degrees = numel(x.shape, axes) - (correction if unbiased is None else int(unbiased))
    return div(sum_axes(mul(centred, centred), axes, keepdim), builtins.max(degrees, 0))


def std(
    input: Tensor, dim: Dims = None, correction: int = 1, keepdim: bool = False, unbiased: bool | None = None
) -> Tensor:
    """Square root of :func:`var`; its gradient is 0 where the variance is 0."""
    return _sqrt_flat_at_zero(var(input, dim, correction, keepdim, unbiased))


def _sqrt_flat_at_zero(x: Tensor) -> Tensor:
    """sqrt x with the gradient 0 at 0, where that of the plain square root is infinite."""
    zero = eq(x, 0)
    return where(zero, 0.0, sqrt(where(zero, 1.0, x)))


class _Extreme(Function):
    """The largest or smallest element over axes; ties share the gradient equally; NaN wins."""

    saves = (0,)
    saves_output = True
    pick = "max"

    def __init__(self, axes: tuple[int, ...]) -> None:
        self.axes = axes

    def forward(self, x: Array) -> Array:
        return getattr(array_module(x), self.pick)(x, axis=self.axes, keepdims=True)

    def backward(self, g: Tensor) -> Tensor:
        (x,), y = self.saved_inputs, self.saved_output
        tie = logical_or(eq(x, y), logical_and(isnan(x), isnan(y)))
        count = Tensor.wrap(tie.data.sum(axis=self.axes, keepdims=True).astype(x.data.dtype))
        return where(tie, expand(div(g, count), x.shape), 0.0)


class Amax(_Extreme):
    """y = max x"""


class Amin(_Extreme):
    """y = min x"""

    pick = "min"


def _extreme(op: str, function: type[_Extreme], input: Tensor, dim: Dims, keepdim: bool) -> Tensor:
    x = as_tensor(input, op)
    axes = axes_of(op, dim, x.ndim)
    if numel(x.shape, axes) == 0:
        raise ValueError(f"{op}: nothing has no largest or smallest element: shape {x.shape}, dim={dim}.")
    if not axes:
        return x + 0 if x.data.dtype.kind != "b" else x.detach()
    y = function(axes)(x)
    return y if keepdim else reshape(y, tuple(n for axis, n in enumerate(x.shape) if axis not in axes))


def amax(input: Tensor, dim: Dims = None, keepdim: bool = False) -> Tensor:
    """Largest element over ``dim``. Ties share the gradient equally; NaN wins."""
    return _extreme("amax", Amax, input, dim, keepdim)


def amin(input: Tensor, dim: Dims = None, keepdim: bool = False) -> Tensor:
    """Smallest element over ``dim``. Ties share the gradient equally; NaN wins."""
    return _extreme("amin", Amin, input, dim, keepdim)


def max(input: Tensor, dim: int | Tensor | None = None, keepdim: bool = False) -> Any:
    """Three operators under one name, as in torch.

    max(x): the largest element, ties sharing the gradient. max(x, dim): (values, indices) along an axis, the first of
    a tie taking the whole gradient. max(x, other): the larger of two tensors.
    """
    if isinstance(dim, Tensor):
        return maximum(input, dim)
    return amax(input) if dim is None else _with_index("max", argmax, input, dim, keepdim)


def min(input: Tensor, dim: int | Tensor | None = None, keepdim: bool = False) -> Any:
    """The smallest element; (values, indices) along ``dim``; or the smaller of two tensors. See :func:`max`."""
    if isinstance(dim, Tensor):
        return minimum(input, dim)
    return amin(input) if dim is None else _with_index("min", argmin, input, dim, keepdim)


def _with_index(op: str, arg: Any, input: Tensor, dim: int, keepdim: bool) -> tuple[Tensor, Tensor]:
    axis = axis_of(op, dim, input.ndim)
    indices = arg(cast(input, np.uint8) if input.data.dtype.kind == "b" else input, axis, keepdim=True)
    values = take_along(input, axis, indices)
    if keepdim or input.ndim == 0:
        return values, indices
    return squeeze(values, axis), squeeze(indices, axis)


class Arg(Function):
    """y = the array function argmax or argmin of x along an axis, or of all"""

    def __init__(self, kind: str, axis: int | None, keepdim: bool) -> None:
        self.kind, self.axis, self.keepdim = kind, axis, keepdim

    def forward(self, x: Array) -> Array:
        return getattr(array_module(x), self.kind)(x, axis=self.axis, keepdims=self.keepdim)


def _arg(op: str, name: str, input: Tensor, dim: int | None, keepdim: bool) -> Tensor:
    x = as_tensor(input, op).detach()
    axis = None if dim is None else axis_of(op, dim, x.ndim)
    if x.data.size == 0 and (axis is None or x.shape[axis] == 0):
        raise ValueError(f"{op}: nothing has no largest or smallest element: shape {x.shape}, dim={dim}.")
    if x.data.dtype.kind == "b":
        raise TypeError(f"{op}: needs numbers, but got bools. Use x.to(tinyconv.int64).")
    y: Tensor = Arg(name, axis if x.ndim else None, keepdim)(x)
    return y


def argmax(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """Index (int64) of the largest element, the first of a tie; into the flattened tensor without ``dim``.

    NaN is largest.
    """
    return _arg("argmax", "argmax", input, dim, keepdim)


def argmin(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """Index (int64) of the smallest element, the first of a tie; into the flattened tensor without ``dim``.

    NaN is smallest.
    """
    return _arg("argmin", "argmin", input, dim, keepdim)


@in_float32
def prod(input: Tensor, dim: int | None = None, keepdim: bool = False, dtype: Any = None) -> Tensor:
    """Product of all elements or along ``dim``; exact gradients at zeros. Integers multiply in int64.

    Multiplied as a tree: halves of the axis times each other until one element is left.
    """
    x = as_tensor(input, "prod")
    if dtype is not None or not is_float(x.data.dtype):
        x = cast(x, dtype or np.int64)
    axis = 0 if dim is None else axis_of("prod", dim, x.ndim)
    if dim is None or x.ndim == 0:
        return prod(reshape(x, -1) if x.data.size else reshape(x, 0), 0)
    n = x.shape[axis]
    if n == 0:
        x, n = sum_axes(x, (axis,), True) + 1, 1  # the product of nothing
    elif n == 1:
        x = clone(x)
    while n > 1:
        half = n // 2
        paired = mul(narrow(x, axis, 0, half), narrow(x, axis, half, half))
        x = cat([paired, narrow(x, axis, n - 1, 1)], axis) if n % 2 else paired
        n = half + n % 2
    return x if keepdim else squeeze(x, axis)


@in_float32
def logsumexp(input: Tensor, dim: Dims, keepdim: bool = False) -> Tensor:
    """log sum exp x over ``dim``, computed as m + log sum exp(x - m) with m = max x, so that nothing overflows."""
    x = as_float(as_tensor(input, "logsumexp"))
    axes = axes_of("logsumexp", dim, x.ndim)
    top = amax(x.detach(), axes, keepdim=True)
    top = where(isinf(top), 0.0, top)  # inf - inf would be NaN
    y = log(sum_axes(exp(x - top), axes, True)) + top
    return y if keepdim else reshape(y, tuple(n for axis, n in enumerate(x.shape) if axis not in axes))


class Cumsum(Function):
    """y_i = x_0 + ... + x_i; the gradient is the same sum from the other end."""

    def __init__(self, axis: int) -> None:
        self.axis = axis

    def forward(self, x: Array) -> Array:
        return array_module(x).cumsum(x, axis=self.axis, dtype=x.dtype)

    def backward(self, g: Tensor) -> Tensor:
        return flip(Cumsum(self.axis)(flip(g, self.axis)), self.axis)


@in_float32
def cumsum(input: Tensor, dim: int, dtype: Any = None) -> Tensor:
    """y_i = x_0 + ... + x_i along ``dim``. Integers add in int64."""
    x = as_tensor(input, "cumsum")
    if dtype is not None or not is_float(x.data.dtype):
        x = cast(x, dtype or np.int64)
    axis = axis_of("cumsum", dim, x.ndim)
    return reshape(cumsum(unsqueeze(x, 0), 0), ()) if x.ndim == 0 else Cumsum(axis)(x)


@in_float32
def norm(input: Tensor, p: int | float | str = "fro", dim: Dims = None, keepdim: bool = False) -> Tensor:
    """(sum |x|^p)^(1/p) over ``dim``; 'fro' is p = 2; p = inf the largest |x|, p = 0 the number of non-zeros.

    The gradient at 0 is 0.
    """
    x = as_tensor(input, "norm")
    _needs_float("norm", x)
    if isinstance(p, str) and p != "fro":
        raise ValueError(f"norm: p must be a number or 'fro', but is {p!r}.")
    order = 2.0 if p == "fro" else float(p)
    if order == 2:
        return _sqrt_flat_at_zero(sum(mul(x, x), dim, keepdim))
    size = abs(x)
    if order in (float("inf"), float("-inf")):
        return (amax if order > 0 else amin)(size, dim, keepdim)
    if order == 0:
        return cast(sum(ne(x, 0), dim, keepdim), x.dtype)
    if order == 1:
        return sum(size, dim, keepdim)
    total = sum(power(size, order), dim, keepdim)
    zero = eq(total, 0)
    return where(zero, 0.0, power(where(zero, 1.0, total), 1 / order))


def any(input: Tensor, dim: Dims = None, keepdim: bool = False) -> Tensor:
    """True where an element over ``dim`` is not zero."""
    axes = axes_of("any", dim, input.ndim)
    return Tensor.wrap(as_array(input.data.any(axis=axes, keepdims=keepdim)))


def all(input: Tensor, dim: Dims = None, keepdim: bool = False) -> Tensor:
    """True where no element over ``dim`` is zero."""
    axes = axes_of("all", dim, input.ndim)
    return Tensor.wrap(as_array(input.data.all(axis=axes, keepdims=keepdim)))
