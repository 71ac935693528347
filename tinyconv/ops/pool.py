"""Pooling, one number for each window, and max unpooling, which puts numbers back where the maxima were."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np

from tinyconv import kernels
from tinyconv.autograd import Function, Tensor
from tinyconv.autograd.gpu import one_device, require
from tinyconv.geometry import Geometry, Size, Sizes, as_axes, transposed_geometry, window_geometry
from tinyconv.kernels.arrays import Array, array_module, table
from tinyconv.kernels.axismap import AxisMap, window_maps
from tinyconv.kernels.scatter import lasts_at
from tinyconv.ops.convert import as_tensor
from tinyconv.ops.elementwise import where
from tinyconv.ops.resample import Resample, adaptive_map
from tinyconv.ops.windows import AddToPixels, TakePixels, as_batch, check_channels, outer_product, require_float

#: One size an axis; None keeps the input's.
OutputSize: TypeAlias = "int | Sequence[int | None]"


def _geometry(
    op: str, size: Sizes, kernel: Size, stride: Size | None, padding: Size, dilation: Size, ceil_mode: bool
) -> Geometry:
    """Window geometry of a pooling, with padding at most half a window: every window then has a pixel."""
    pads = as_axes(op, "padding", padding, len(size), least=0)
    g = window_geometry(op, size, kernel, kernel if stride is None else stride, pads, dilation, ceil_mode)
    if any(p > extent // 2 for p, extent in zip(pads, g.extent)):
        raise ValueError(
            f"{op}: padding may be at most half the window, but padding={pads} and the window spans {g.extent} "
            "pixels. "
            f"Pad the input itself with pad(...) if more is meant."
        )
    return g


# --------------------------------------------------------------------------------------------------
# Max pooling


class MaxPool(Function):
    """(y, indices): the largest pixel of each window and its flat index; the gradient goes to that pixel."""

    def __init__(self, g: Geometry) -> None:
        self.g = g

    def forward(self, x: Array) -> tuple[Array, Array]:
        y, indices = kernels.max_pool(x, self.g)
        self.kept = (indices,)
        return y, indices

    def backward(self, gy: Tensor, _: Tensor) -> Tensor:
        return AddToPixels(self.kept[0], self.g.size, window_maps(self.g))(gy)


class AdaptiveMaxPool(Function):
    """:class:`MaxPool` over the pixels that each output of ``maps`` reads."""

    def __init__(self, maps: tuple[AxisMap, ...]) -> None:
        self.maps = maps

    def forward(self, x: Array) -> tuple[Array, Array]:
        y, indices = kernels.adaptive_max_pool(x, self.maps)
        self.kept = (indices,)
        return y, indices

    def backward(self, gy: Tensor, _: Tensor) -> Tensor:
        return AddToPixels(self.kept[0], tuple(m.size for m in self.maps), self.maps)(gy)


def _max_result(pooled: tuple[Tensor, Tensor], unbatched: bool, return_indices: bool) -> Any:
    y, indices = (t.squeeze(0) if unbatched else t for t in pooled)
    return (y, indices) if return_indices else y


def _max_pool(
    rank: int,
    input: Tensor,
    kernel_size: Size,
    stride: Size | None,
    padding: Size,
    dilation: Size,
    ceil_mode: bool,
    return_indices: bool,
) -> Any:
    op = f"max_pool{rank}d"
    images, unbatched = as_batch(op, as_tensor(input, op), rank)
    check_channels(op, images)
    if images.dtype.kind == "b":
        raise TypeError(f"{op}: input must be numbers, but is bool. Convert it with input.float().")
    g = _geometry(op, images.shape[2:], kernel_size, stride, padding, dilation, ceil_mode)
    return _max_result(MaxPool(g)(images), unbatched, return_indices)


def max_pool1d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """:func:`max_pool2d` with one spatial axis: input (N, C, L) or (C, L)."""
    return _max_pool(1, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def max_pool2d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """y[n, c, oh, ow] = max over kh, kw of input[n, c, oh*s + kh*d - p, ow*s + kw*d - p].

    input (N, C, H, W) or (C, H, W). The padding, at most half a window, is minus infinity; ``stride`` is the kernel
    size unless given; ``ceil_mode`` keeps a last window that sticks out, if it starts inside. A NaN wins; of equal
    maxima the first wins and takes the gradient. ``return_indices`` also gives the position ih*W + iw of each maximum
    (int64), for :func:`max_unpool2d`.
    """
    return _max_pool(2, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def max_pool3d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """:func:`max_pool2d` with three spatial axes: input (N, C, D, H, W) or (C, D, H, W)."""
    return _max_pool(3, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


# --------------------------------------------------------------------------------------------------
# Max unpooling


class Unpool(Function):
    """x = zeros, x[n, c, indices[n, c, o]] = y[n, c, o]: the last of several values for one pixel stays."""

    def __init__(self, indices: Array, size: Sizes) -> None:
        self.indices, self.size = indices, size

    def forward(self, y: Array) -> Array:
        planes, plane = math.prod(y.shape[:2]), math.prod(self.size)
        starts = array_module(y).arange(planes)[:, None] * plane
        at = self.indices.reshape(planes, math.prod(y.shape[2:])) + starts
        return lasts_at(at.reshape(-1), y.reshape(-1), planes * plane).reshape(*y.shape[:2], *self.size)

    def backward(self, g: Tensor) -> Tensor:
        return TakePixels(self.indices, self.size, None)(g)


def _max_unpool(
    rank: int,
    input: Tensor,
    indices: Tensor,
    kernel_size: Size,
    stride: Size | None,
    padding: Size,
    output_size: Sequence[int] | None,
) -> Tensor:
    op = f"max_unpool{rank}d"
    images, unbatched = as_batch(op, require_float(op, "input", input), rank)
    indices = as_tensor(indices, op, "indices")
    if indices.dtype != np.int64:
        raise TypeError(f"{op}: indices must be int64, as max_pool returns them, but are {indices.dtype}.")
    if indices.shape != input.shape:
        raise ValueError(f"{op}: indices must have the input's shape {input.shape}, but have {indices.shape}.")
    positions, _ = as_batch(op, indices, rank)
    g = transposed_geometry(op, images.shape[2:], kernel_size, kernel_size if stride is None else stride, padding)
    size = g.size if output_size is None else _unpooled_size(op, output_size, g)
    at = positions.data
    one_device(op, images, indices)
    if at.size:
        low, high = at.min(), at.max()
        require(
            (low >= 0) & (high < math.prod(size)),
            lambda: ValueError(
                f"{op}: indices must lie in an image of {size}, from 0 to {math.prod(size) - 1}, but run from "
                f"{low} to {high}. Pass output_size, the size that was pooled."
            ),
        )
        if not isinstance(at, np.ndarray):  # the answer comes late, and no kernel may write elsewhere
            at = at.clip(0, math.prod(size) - 1)
    y = Unpool(at, size)(images)
    return y.squeeze(0) if unbatched else y


def _unpooled_size(op: str, output_size: Sequence[int], g: Geometry) -> Sizes:
    """``output_size``, with or without batch and channels, within one stride of the size that the geometry makes."""
    size = as_axes(op, "output_size", tuple(output_size)[-g.rank :], g.rank)
    if len(output_size) not in (g.rank, g.rank + 2) or any(abs(n - m) >= s for n, m, s in zip(size, g.size, g.stride)):
        raise ValueError(
            f"{op}: output_size must be {g.rank} sizes (or the whole shape), each less than one stride {g.stride} "
            f"from {g.size}, but "
            f"is {tuple(output_size)}."
        )
    return size


def max_unpool1d(
    input: Tensor,
    indices: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    output_size: Sequence[int] | None = None,
) -> Tensor:
    """:func:`max_unpool2d` with one spatial axis."""
    return _max_unpool(1, input, indices, kernel_size, stride, padding, output_size)


def max_unpool2d(
    input: Tensor,
    indices: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    output_size: Sequence[int] | None = None,
) -> Tensor:
    """y = 0, then y[n, c, indices[n, c, o]] = input[n, c, o]: a partial inverse of :func:`max_pool2d`.

    input and indices (N, C, H, W) or (C, H, W), as ``max_pool2d(..., return_indices=True)`` gives them, with the same
    kernel, stride and padding. The size is (H-1)s - 2p + k unless ``output_size`` chooses another that pools to H.
    """
    return _max_unpool(2, input, indices, kernel_size, stride, padding, output_size)


def max_unpool3d(
    input: Tensor,
    indices: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    output_size: Sequence[int] | None = None,
) -> Tensor:
    """:func:`max_unpool2d` with three spatial axes."""
    return _max_unpool(3, input, indices, kernel_size, stride, padding, output_size)


# --------------------------------------------------------------------------------------------------
# Average and power-average pooling


class AvgPool(Function):
    """y[n, c, o] = sum over k of x[n, c, i] / divisor[o]"""

    def __init__(self, g: Geometry, divisor: Array) -> None:
        self.g, self.divisor = g, divisor

    def forward(self, x: Array) -> Array:
        return kernels.avg_pool(x, self.g, self.divisor)

    def backward(self, gy: Tensor) -> Tensor:
        return AvgPoolInput(self.g, self.divisor)(gy)


class AvgPoolInput(Function):
    """x'[n, c, i] = sum over the windows o that read i of y'[n, c, o] / divisor[o]: the transpose."""

    def __init__(self, g: Geometry, divisor: Array) -> None:
        self.g, self.divisor = g, divisor

    def forward(self, gy: Array) -> Array:
        return kernels.avg_pool_input(gy, self.g, self.divisor)

    def backward(self, ggx: Tensor) -> Tensor:
        return AvgPool(self.g, self.divisor)(ggx)


@lru_cache(maxsize=256)
def _divisor(counts: tuple[tuple[int, ...], ...], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """The product of one count an axis."""
    return outer_product(counts, dtype)


def _avg_pool(
    op: str,
    rank: int,
    input: Tensor,
    kernel_size: Size,
    stride: Size | None,
    padding: Size,
    ceil_mode: bool,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    images, unbatched = as_batch(op, as_tensor(input, op), rank)
    check_channels(op, images)
    if images.dtype.kind == "b":
        raise TypeError(f"{op}: input must be numbers, but is bool. Convert it with input.float().")
    g = _geometry(op, images.shape[2:], kernel_size, stride, padding, 1, ceil_mode)
    if divisor_override is None:
        counts = [g.counts(axis, count_include_pad) for axis in range(rank)]
    elif isinstance(divisor_override, bool) or not isinstance(divisor_override, int):
        raise TypeError(f"{op}: divisor_override must be an int or None, but is {divisor_override!r}.")
    elif divisor_override == 0:
        raise ValueError(f"{op}: divisor_override must not be 0. Use None for the number of elements in the window.")
    else:
        counts = [[divisor_override] * g.output[0], *([1] * n for n in g.output[1:])]
    divisor = table(_divisor(tuple(map(tuple, counts)), images.dtype), images.data)  # (*O)
    y = AvgPool(g, divisor)(images)
    return y.squeeze(0) if unbatched else y


def avg_pool1d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    """:func:`avg_pool2d` with one spatial axis: input (N, C, L) or (C, L)."""
    return _avg_pool("avg_pool1d", 1, input, kernel_size, stride, padding, ceil_mode, count_include_pad)


def avg_pool2d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """y[n, c, oh, ow] = sum over kh, kw of input[n, c, oh*s + kh - p, ow*s + kw - p] / divisor.

    input (N, C, H, W) or (C, H, W), zero-padded by at most half a window. The divisor is the number of elements in
    the window, with the padding or, if not ``count_include_pad``, without; never what ``ceil_mode`` reaches beyond
    it; or ``divisor_override``.
    """
    return _avg_pool(
        "avg_pool2d", 2, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
    )


def avg_pool3d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """:func:`avg_pool2d` with three spatial axes: input (N, C, D, H, W) or (C, D, H, W)."""
    return _avg_pool(
        "avg_pool3d", 3, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
    )


def _lp_pool(
    rank: int, input: Tensor, norm_type: int | float, kernel_size: Size, stride: Size | None, ceil_mode: bool
) -> Tensor:
    op = f"lp_pool{rank}d"
    if norm_type == 0:
        raise ValueError(f"{op}: norm_type must not be 0, since the result is a root of that order.")
    input = as_tensor(input, op)
    total = _avg_pool(op, rank, input**norm_type, kernel_size, stride, 0, ceil_mode)
    total = total * math.prod(as_axes(op, "kernel_size", kernel_size, rank))
    # The root is steep at 0: where() gives an all-zero window the gradient 0, not infinity.
    return where(total != 0, total, 0.0) ** (1.0 / norm_type)


def lp_pool1d(
    input: Tensor, norm_type: int | float, kernel_size: Size, stride: Size | None = None, ceil_mode: bool = False
) -> Tensor:
    """:func:`lp_pool2d` with one spatial axis."""
    return _lp_pool(1, input, norm_type, kernel_size, stride, ceil_mode)


def lp_pool2d(
    input: Tensor, norm_type: int | float, kernel_size: Size, stride: Size | None = None, ceil_mode: bool = False
) -> Tensor:
    """y = (sum over the window of x^p)^(1/p) with p = ``norm_type``; no absolute value is taken, as in torch.

    With ``ceil_mode`` a window that is cut off counts as if the missing elements were its mean.
    """
    return _lp_pool(2, input, norm_type, kernel_size, stride, ceil_mode)


def lp_pool3d(
    input: Tensor, norm_type: int | float, kernel_size: Size, stride: Size | None = None, ceil_mode: bool = False
) -> Tensor:
    """:func:`lp_pool2d` with three spatial axes."""
    return _lp_pool(3, input, norm_type, kernel_size, stride, ceil_mode)


# --------------------------------------------------------------------------------------------------
# Adaptive pooling


def _adaptive(op: str, rank: int, input: Tensor, output_size: OutputSize) -> tuple[Tensor, bool, tuple[AxisMap, ...]]:
    """Input with a batch axis, whether it had none, and the windows of each axis."""
    images, unbatched = as_batch(op, require_float(op, "input", input), rank)
    check_channels(op, images)
    size = images.shape[2:]
    if min(size) < 1:
        raise ValueError(f"{op}: the input's spatial size is {size}; every axis needs at least one pixel.")
    if isinstance(output_size, Sequence) and len(output_size) == rank > 1:
        output_size = tuple(n if m is None else m for n, m in zip(size, output_size))
    output = as_axes(op, "output_size", output_size, rank, least=0)  # type: ignore[arg-type]
    dtype: Any = images.dtype.type
    return images, unbatched, tuple(adaptive_map(n, m, dtype) for n, m in zip(size, output))


def _adaptive_avg(rank: int, input: Tensor, output_size: OutputSize) -> Tensor:
    images, unbatched, maps = _adaptive(f"adaptive_avg_pool{rank}d", rank, input, output_size)
    y = Resample(maps)(images)
    return y.squeeze(0) if unbatched else y


def _adaptive_max(rank: int, input: Tensor, output_size: OutputSize, return_indices: bool) -> Any:
    op = f"adaptive_max_pool{rank}d"
    images, unbatched, maps = _adaptive(op, rank, input, output_size)
    return _max_result(AdaptiveMaxPool(maps)(images), unbatched, return_indices)


def adaptive_avg_pool1d(input: Tensor, output_size: OutputSize) -> Tensor:
    """:func:`adaptive_avg_pool2d` with one spatial axis."""
    return _adaptive_avg(1, input, output_size)


def adaptive_avg_pool2d(input: Tensor, output_size: OutputSize) -> Tensor:
    """y[n, c, o] = mean of input[n, c, floor(o I/O) .. ceil((o+1) I/O)) on each axis: as many windows as wanted.

    input (N, C, H, W) or (C, H, W). ``output_size`` is one int or one an axis, None for the input's own; it may
    exceed the input.
    """
    return _adaptive_avg(2, input, output_size)


def adaptive_avg_pool3d(input: Tensor, output_size: OutputSize) -> Tensor:
    """:func:`adaptive_avg_pool2d` with three spatial axes."""
    return _adaptive_avg(3, input, output_size)


def adaptive_max_pool1d(input: Tensor, output_size: OutputSize, return_indices: bool = False) -> Any:
    """:func:`adaptive_max_pool2d` with one spatial axis."""
    return _adaptive_max(1, input, output_size, return_indices)


def adaptive_max_pool2d(input: Tensor, output_size: OutputSize, return_indices: bool = False) -> Any:
    """The maximum over the windows of :func:`adaptive_avg_pool2d`, NaN and ties as in :func:`max_pool2d`."""
    return _adaptive_max(2, input, output_size, return_indices)


def adaptive_max_pool3d(input: Tensor, output_size: OutputSize, return_indices: bool = False) -> Any:
    """:func:`adaptive_max_pool2d` with three spatial axes."""
    return _adaptive_max(3, input, output_size, return_indices)
