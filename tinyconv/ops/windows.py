"""What the windowed operators share: reading (N, C, *I) inputs, and moving values between pixels by flat index."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tinyconv import kernels
from tinyconv.autograd import Function, Tensor
from tinyconv.autograd.dtypes import is_float
from tinyconv.geometry import Sizes
from tinyconv.kernels.arrays import Array, array_module
from tinyconv.kernels.axismap import AxisMap
from tinyconv.ops.convert import as_tensor

#: Names of the spatial axes, for messages.
SPATIAL = {1: "L", 2: "H, W", 3: "D, H, W"}


def require_float(op: str, name: str, value: Any) -> Tensor:
    """``value`` as a Tensor, or a TypeError if it is not floating."""
    tensor = as_tensor(value, op, name)
    if not is_float(tensor.dtype):
        raise TypeError(f"{op}: {name} must be a float tensor, but is {tensor.dtype}. Convert it with {name}.float().")
    return tensor


def as_batch(op: str, input: Tensor, rank: int) -> tuple[Tensor, bool]:
    """``input`` as (N, C, *I), and whether it came without the batch axis."""
    axes = SPATIAL[rank]
    if input.ndim not in (rank + 1, rank + 2):
        raise ValueError(
            f"{op}: input must be (N, C, {axes}) or (C, {axes}), {rank + 2} or {rank + 1} axes, but has {input.ndim} "
            f"(input.shape={input.shape}). Add missing axes of size 1 with x.unsqueeze(0)."
        )
    unbatched = input.ndim == rank + 1
    return (input.unsqueeze(0) if unbatched else input), unbatched


def check_channels(op: str, input: Tensor) -> None:
    """Refuse an input without channels, as torch's pooling does; an empty batch is fine."""
    if input.shape[1] == 0:
        raise ValueError(f"{op}: input has no channels (input.shape={input.shape}). Only the batch may be empty.")


# --------------------------------------------------------------------------------------------------
# Pixels by flat index: the two halves of max pooling and unpooling


class TakePixels(Function):
    """y[n, c, o] = x[n, c, indices[n, c, o]], the index counting the pixels of one plane in row-major order.

    ``windows``: see ``kernels.scatter_windows``.
    """

    def __init__(self, indices: Array, size: Sizes, windows: Sequence[AxisMap] | None) -> None:
        self.indices, self.size, self.windows = indices, size, windows

    def forward(self, x: Array) -> Array:
        xp = array_module(x)
        images, channels = x.shape[:2]
        flat = self.indices.reshape(images, channels, math.prod(self.indices.shape[2:]))
        planes = x.reshape(images, channels, math.prod(self.size))
        return xp.take_along_axis(planes, flat, axis=2).reshape(self.indices.shape)

    def backward(self, g: Tensor) -> Tensor:
        return AddToPixels(self.indices, self.size, self.windows)(g)


class AddToPixels(Function):
    """x[n, c, indices[n, c, o]] += y[n, c, o], from zero: the transpose of :class:`TakePixels`."""

    def __init__(self, indices: Array, size: Sizes, windows: Sequence[AxisMap] | None) -> None:
        self.indices, self.size, self.windows = indices, size, windows

    def forward(self, y: Array) -> Array:
        return kernels.scatter_windows(y, self.indices, self.size, self.windows)

    def backward(self, g: Tensor) -> Tensor:
        return TakePixels(self.indices, self.size, self.windows)(g)


def outer_product(lists: Sequence[Sequence[int]], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """a[i, j, ...] = lists[0][i] * lists[1][j] * ..."""
    result = np.ones((), dtype)
    for values in lists:
        result = np.multiply.outer(result, np.asarray(values, dtype))
    return result
