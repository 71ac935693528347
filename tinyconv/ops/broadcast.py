"""Broadcasting and its adjoint, the sum: each is the other's gradient."""

from __future__ import annotations

from math import prod
from typing import Any

from tinyconv.autograd import Function, Tensor
from tinyconv.autograd.tensor import Array
from tinyconv.kernels.arrays import array_module


class Expand(Function):
    """y[..., i, ...] = x[..., 0, ...] along axes of size 1; ``via`` is the shape of x with the missing axes put in."""

    view = True

    def __init__(self, shape: tuple[int, ...], via: tuple[int, ...]) -> None:
        self.shape, self.via = shape, via

    def forward(self, x: Array) -> Array:
        self.source = x.shape
        return array_module(x).broadcast_to(x.reshape(self.via), self.shape)

    def backward(self, g: Tensor) -> Tensor:
        axes = tuple(axis for axis, (a, b) in enumerate(zip(self.via, self.shape)) if a != b)
        return SumAxes(axes, self.source)(g)


class SumAxes(Function):
    """y = sum of x over ``axes``, given the shape ``result``."""

    def __init__(self, axes: tuple[int, ...], result: tuple[int, ...]) -> None:
        self.axes, self.result = axes, result

    def forward(self, x: Array) -> Array:
        self.source = x.shape
        return x.sum(axis=self.axes, dtype=x.dtype).reshape(self.result)

    def backward(self, g: Tensor) -> Tensor:
        via = tuple(1 if axis in self.axes else n for axis, n in enumerate(self.source))
        return Expand(self.source, via)(g)


def expand(input: Tensor, *shape: Any) -> Tensor:
    """A view in which axes of size 1 are repeated to ``shape``; -1 keeps a size. New axes may stand in front.

    Raises ValueError where an axis is neither 1 nor the size wanted.
    """
    sizes = shape[0] if len(shape) == 1 and isinstance(shape[0], tuple | list) else shape
    new = len(sizes) - input.data.ndim
    via = (1,) * new + input.data.shape
    wanted = tuple(n if s == -1 and axis >= new else s for axis, (s, n) in enumerate(zip(sizes, via)))
    if new < 0 or any(n != w and n != 1 or w < 0 for n, w in zip(via, wanted)):
        raise ValueError(
            f"expand: shape {input.shape} cannot be expanded to {tuple(sizes)}: counted from the last axis, each size "
            f"must be 1 or the one wanted."
        )
    return Expand(wanted, via)(input)


def sum_axes(input: Tensor, axes: tuple[int, ...], keepdim: bool) -> Tensor:
    """Sum over ``axes`` (not negative, each once), kept with size 1 or dropped."""
    shape = input.data.shape
    result = tuple(1 if axis in axes else n for axis, n in enumerate(shape) if keepdim or axis not in axes)
    return SumAxes(axes, result)(input)


def numel(shape: tuple[int, ...], axes: tuple[int, ...]) -> int:
    """Number of elements that a reduction over ``axes`` combines."""
    return prod(shape[axis] for axis in axes)
