"""The kernels in array language; a convolution is one matrix product over columns of pixels.

A window map reads, for each output position, one pixel a tap. Written out as a matrix of one column a
position ("im2col"), a convolution is the weight matrix times that matrix; its input gradient is the
transposed weight matrix times the output gradient, with the columns added back to their pixels
("col2im"); its weight gradient is the output gradient times the transposed columns.

The columns are k times the image, so they are made in tiles of a few images or a few output rows, at most
``scratch_limit()`` bytes at a time. A tap's pixels for all outputs of a tile are one strided slice of the image
(``Geometry.slices``), so each tile costs one copy a tap and one product.

Runs on NumPy and on CuPy. The order of every sum is fixed, so the same call gives the same bits.
Shapes: G groups, K taps of a window, T images in a tile, P output positions in a tile.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import product
from math import prod
from typing import Any

import numpy as np

from tinyconv.geometry import Geometry, Sizes
from tinyconv.kernels.arrays import Array, array_module, native, scratch_limit, sum_dtype, table
from tinyconv.kernels.axismap import AxisMap
from tinyconv.kernels.corners import corners as corners
from tinyconv.kernels.pointwise import activation as activation
from tinyconv.kernels.pointwise import activation_grad as activation_grad
from tinyconv.kernels.pointwise import erf as erf
from tinyconv.kernels.pointwise import relu as relu
from tinyconv.kernels.pointwise import relu_grad as relu_grad
from tinyconv.kernels.pointwise import sigmoid as sigmoid
from tinyconv.kernels.pointwise import slopes as slopes
from tinyconv.kernels.scatter import sums_at
from tinyconv.kernels.update import adam_step as adam_step
from tinyconv.kernels.update import rmsprop_step as rmsprop_step
from tinyconv.kernels.update import sgd_step as sgd_step

# --------------------------------------------------------------------------------------------------
# Columns


@lru_cache(maxsize=1024)
def _tap_slices(g: Geometry) -> tuple[tuple[tuple[Any, ...], tuple[Any, ...], tuple[Any, ...]], ...]:
    """For each tap: the outputs that read a pixel, those pixels, and the regions of outputs that read padding."""
    listed = []
    for taps in g.taps():
        out, inp = g.slices(taps)
        padding = []
        for axis, inside in enumerate(out):
            before = (...,) + (slice(None),) * axis
            after = (slice(None),) * (g.rank - axis - 1)
            edges = (slice(0, inside.start), slice(inside.stop, g.output[axis]))
            padding += [(*before, edge, *after) for edge in edges if edge.start < edge.stop]
        listed.append(((..., *out), (..., *inp), tuple(padding)))
    return tuple(listed)


def _gather(x: Array, g: Geometry, columns: Array) -> None:
    """im2col: columns[:, :, tap, o] = x[:, :, pixel that tap reads for o], 0 for padding. Columns are (A, B, K, *O)."""
    for tap, (out, inp, padding) in enumerate(_tap_slices(g)):
        plane = columns[:, :, tap]  # (A, B, *O)
        plane[out] = x[inp]
        for region in padding:
            plane[region] = 0


def _scatter(columns: Array, g: Geometry, x: Array) -> None:
    """col2im: x[:, :, pixel] += columns[:, :, tap, o] for each tap and output that read the pixel."""
    for tap, (out, inp, _) in enumerate(_tap_slices(g)):
        x[inp] += columns[:, :, tap][out]


def tiles(g: Geometry, images: int, row_bytes: int, limit: int) -> list[tuple[slice, slice, Geometry]]:
    """Tiles (images, output rows, their geometry) whose columns take at most ``limit`` bytes, the largest first.

    ``row_bytes`` is what the columns of one output row of one image take. Whole images where at least one fits.
    """
    height = g.output[0]
    rows = max(1, min(height, limit // row_bytes))
    together = max(1, limit // (row_bytes * height))
    parts = [(slice(r, min(r + rows, height)), g.rows(r, min(r + rows, height))) for r in range(0, height, rows)]
    return [(slice(n, min(n + together, images)), *part) for n in range(0, images, together) for part in parts]


class _Columns:
    """One buffer for the columns of all tiles, as the two views that a kernel needs."""

    def __init__(self, g: Geometry, images: int, channels: int, groups: int, dtype: np.dtype[Any], xp: Any) -> None:
        self.shape = (groups, channels // groups, prod(g.kernel))
        row_bytes = channels * prod(g.kernel) * prod(g.output[1:]) * dtype.itemsize
        self.tiles = tiles(g, images, row_bytes, scratch_limit(xp))
        largest = next((prod(self._sizes(batch, tile)) for batch, _, tile in self.tiles), 0)
        self.buffer = xp.empty(prod(self.shape) * largest, dtype)

    @staticmethod
    def _sizes(batch: slice, tile: Geometry) -> Sizes:
        return (batch.stop - batch.start, *tile.output)

    def matrix(self, batch: slice, tile: Geometry) -> Array:
        """(G, C/G * K, T*P), the operand of the matrix product."""
        groups, channels, taps = self.shape
        positions = prod(self._sizes(batch, tile))
        return self.buffer[: groups * channels * taps * positions].reshape(groups, channels * taps, positions)

    def windows(self, batch: slice, tile: Geometry) -> Array:
        """(T, C, K, *P), the same memory seen as windows on the images."""
        groups, channels, taps = self.shape
        seen = self.matrix(batch, tile).reshape(groups * channels, taps, *self._sizes(batch, tile))
        return seen.transpose(2, 0, 1, *range(3, seen.ndim))


def _by_group(a: Array, groups: int, dtype: np.dtype[Any]) -> Array:
    """(T, C, *P) as matrices (G, C/G, T*P)."""
    return a.swapaxes(0, 1).astype(dtype, copy=False).reshape(groups, a.shape[1] // groups, -1)


def _by_image(product: Array, images: int, sizes: Sizes) -> Array:
    """Matrices (G, C/G, T*P) as (T, C, *P)."""
    channels = product.shape[0] * product.shape[1]
    return product.reshape(channels, images, *sizes).swapaxes(0, 1)


def is_pointwise(g: Geometry) -> bool:
    """A 1x1 window on every pixel: the image is its own columns."""
    return prod(g.kernel) == 1 and max(g.stride) == 1 and g.output == g.size and g.padding == ((0, 0),) * g.rank


# --------------------------------------------------------------------------------------------------
# The matrix product


def matmul(a: Array, b: Array) -> Array:
    """The array module's; float16 is summed in float32."""
    dtype = sum_dtype(native(a).dtype)
    y = array_module(a, b).matmul(a.astype(dtype, copy=False), b.astype(dtype, copy=False))
    return y.astype(native(a).dtype, copy=False)


# --------------------------------------------------------------------------------------------------
# The convolution triangle


def conv(x: Array, w: Array, g: Geometry, groups: int) -> Array:
    """y = W X for the columns X of x."""
    xp = array_module(x, w)
    x, w = native(x), native(w)
    images, channels = x.shape[:2]
    dtype = sum_dtype(x.dtype)
    weight = w.astype(dtype, copy=False).reshape(groups, w.shape[0] // groups, -1)  # (G, C_out/G, C_in/G * K)
    if is_pointwise(g):
        pixels = x.astype(dtype, copy=False).reshape(images, groups, channels // groups, prod(g.size))
        return xp.matmul(weight, pixels).astype(x.dtype, copy=False).reshape(images, w.shape[0], *g.output)
    y = xp.empty((images, w.shape[0], *g.output), x.dtype)
    columns = _Columns(g, images, channels, groups, dtype, xp)
    for batch, rows, tile in columns.tiles:
        _gather(x[batch], tile, columns.windows(batch, tile))
        product = xp.matmul(weight, columns.matrix(batch, tile))  # (G, C_out/G, T*P)
        y[batch, :, rows] = _by_image(product, batch.stop - batch.start, tile.output)
    return y


def conv_input(gy: Array, w: Array, g: Geometry, groups: int) -> Array:
    """X' = W^T Y', each column added to the pixels that it was made of: the transposed convolution."""
    xp = array_module(gy, w)
    gy, w = native(gy), native(w)
    images, channels = len(gy), w.shape[1] * groups
    dtype = sum_dtype(gy.dtype)
    weight = w.astype(dtype, copy=False).reshape(groups, w.shape[0] // groups, -1)  # (G, C_out/G, C_in/G * K)
    weight = weight.swapaxes(1, 2)
    if is_pointwise(g):
        pixels = gy.astype(dtype, copy=False).reshape(images, groups, gy.shape[1] // groups, prod(g.output))
        return xp.matmul(weight, pixels).astype(gy.dtype, copy=False).reshape(images, channels, *g.size)
    gx = xp.zeros((images, channels, *g.size), dtype)
    columns = _Columns(g, images, channels, groups, dtype, xp)
    for batch, rows, tile in columns.tiles:
        matrix = columns.matrix(batch, tile)
        product = xp.multiply if w.shape[0] == groups else xp.matmul  # depthwise: a column times a row
        product(weight, _by_group(gy[batch, :, rows], groups, dtype), out=matrix)
        _scatter(columns.windows(batch, tile), tile, gx[batch])
    return gx.astype(gy.dtype, copy=False)


def conv_weight(x: Array, gy: Array, g: Geometry, groups: int) -> Array:
    """W'^T = X Y'^T, summed over the tiles from the first to the last."""
    xp = array_module(x, gy)
    x, gy = native(x), native(gy)
    images, channels = x.shape[:2]
    dtype = sum_dtype(x.dtype)
    columns = _Columns(g, images, channels, groups, dtype, xp)
    gw = xp.zeros((groups, channels // groups * prod(g.kernel), gy.shape[1] // groups), dtype)
    for batch, rows, tile in columns.tiles:
        _gather(x[batch], tile, columns.windows(batch, tile))
        # X Y'^T, not Y' X^T: BLAS then packs the small matrix, which is twice as fast for few channels.
        gw += xp.matmul(columns.matrix(batch, tile), _by_group(gy[batch, :, rows], groups, dtype).swapaxes(1, 2))
    gw = gw.swapaxes(1, 2).reshape(gy.shape[1], channels // groups, *g.kernel)
    return gw.astype(x.dtype, order="C", copy=False)


# --------------------------------------------------------------------------------------------------
# Pooling


def _flat_index(g: Geometry, positions: Sizes, taps: Sizes, xp: Any) -> Array:
    """The flat index of the pixel that (position, tap) reads, one axis a range and the other 0: linear in both."""
    flat = 0
    for axis in range(g.rank):
        o, k = (xp.arange(n).reshape(-1, *(1,) * (g.rank - axis - 1)) for n in (positions[axis], taps[axis]))
        flat = flat * g.size[axis] + g.input_index(axis, o, k)
    return flat


def max_pool(x: Array, g: Geometry) -> tuple[Array, Array]:
    """The largest pixel of each window and its flat index: tap after tap, a later one wins only if larger or NaN."""
    xp = array_module(x)
    x = native(x)
    lowest = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
    y = xp.full((*x.shape[:2], *g.output), lowest, x.dtype)
    slices = _tap_slices(g)
    first = xp.full(g.output, -1, np.min_scalar_type(-len(slices)))  # wins where no pixel is larger
    for tap, (out, _, _) in reversed(list(enumerate(slices))):
        first[out] = tap
    winner = xp.empty(y.shape, first.dtype)
    winner[...] = first
    for tap, (out, inp, _) in enumerate(slices):
        value = x[inp]
        wins = (value > y[out]) | (value != value)
        xp.maximum(winner[out], wins * first.dtype.type(tap), out=winner[out])  # taps rise, so the latest win stays
        xp.maximum(y[out], value, out=y[out])
    ones = (1,) * g.rank
    start = _flat_index(g, g.output, ones, xp)  # of tap 0, perhaps outside the image
    offsets = _flat_index(g, ones, g.kernel, xp).reshape(-1)
    indices = (offsets - offsets[0])[winner]
    indices += start
    indices *= first >= 0
    return y, indices


def scatter_windows(gy: Array, indices: Array, size: Sizes, windows: Sequence[AxisMap] | None) -> Array:
    """Each element of gy (N, C, *O) added to the pixel at its flat index, always in the same order."""
    xp = array_module(gy, indices)
    images, channels = gy.shape[:2]
    plane = prod(size)
    gx = xp.empty((images, channels * plane), native(gy).dtype)
    starts = xp.arange(channels)[:, None] * plane
    for n in range(images):
        at = (indices[n].reshape(channels, prod(indices.shape[2:])) + starts).reshape(-1)
        gx[n] = sums_at(at, gy[n].reshape(-1).astype(sum_dtype(gx.dtype), copy=False), channels * plane)
    return gx.reshape(images, channels, *size)


def avg_pool(x: Array, g: Geometry, divisor: Array) -> Array:
    """The sum of each window divided by its divisor."""
    xp = array_module(x)
    y = xp.zeros((*x.shape[:2], *g.output), sum_dtype(native(x).dtype))
    for out, inp, _ in _tap_slices(g):
        y[out] += x[inp]
    return (y / divisor).astype(native(x).dtype, copy=False)


def avg_pool_input(gy: Array, g: Geometry, divisor: Array) -> Array:
    """Each pixel gets gy / divisor of every window that reads it."""
    xp = array_module(gy)
    dtype = native(gy).dtype
    share = gy.astype(sum_dtype(dtype), copy=False) / divisor
    gx = xp.zeros((*gy.shape[:2], *g.size), sum_dtype(dtype))
    for out, inp, _ in _tap_slices(g):
        gx[inp] += share[out]
    return gx.astype(dtype, copy=False)


# --------------------------------------------------------------------------------------------------
# Unfolding


def unfold(x: Array, g: Geometry) -> Array:
    """The columns themselves: (N, C, *I) to (N, C*K, P)."""
    xp = array_module(x)
    images, channels = x.shape[:2]
    columns = xp.empty((images, channels, prod(g.kernel), *g.output), native(x).dtype)
    _gather(x, g, columns)
    return columns.reshape(images, channels * prod(g.kernel), prod(g.output))


def fold(cols: Array, g: Geometry) -> Array:
    """Columns added back to their pixels: (N, C*K, P) to (N, C, *I)."""
    xp = array_module(cols)
    dtype = native(cols).dtype
    columns = cols.reshape(len(cols), cols.shape[1] // prod(g.kernel), prod(g.kernel), *g.output)
    x = xp.zeros((*columns.shape[:2], *g.size), sum_dtype(dtype))
    _scatter(columns, g, x)
    return x.astype(dtype, copy=False)


# --------------------------------------------------------------------------------------------------
# Resampling: each axis has its own list of triples


def resample(x: Array, maps: Sequence[AxisMap]) -> Array:
    """y[..., o1, o2] = sum of w1 w2 x[..., i1, i2], one axis after the other, one layer of triples at a time."""
    dtype = native(x).dtype
    y = x.astype(sum_dtype(dtype), copy=False)
    for axis, axis_map in enumerate(maps, x.ndim - len(maps)):
        y = _resample_axis(y, axis_map, axis)
    return y.astype(dtype, copy=False)


def _resample_axis(x: Array, axis_map: AxisMap, axis: int) -> Array:
    xp = array_module(x)
    y = xp.zeros((*x.shape[:axis], axis_map.output, *x.shape[axis + 1 :]), x.dtype)
    for outputs, inputs, weights in axis_map.layers:
        part = xp.take(x, table(inputs, x), axis=axis)
        if (weights != 1).any():
            part *= table(weights, x).astype(x.dtype, copy=False).reshape(-1, *(1,) * (x.ndim - axis - 1))
        if len(outputs) == axis_map.output:
            y += part
        else:
            y[(slice(None),) * axis + (table(outputs, x),)] += part
    return y


def adaptive_max_pool(x: Array, maps: Sequence[AxisMap]) -> tuple[Array, Array]:
    """The largest pixel that each output reads and its flat index; the first of equals, and a NaN before all."""
    xp = array_module(x)
    size = tuple(m.size for m in maps)
    pixels = xp.arange(prod(size)).reshape(size)
    shape = (*x.shape[:2], *(m.output for m in maps))
    y, indices = xp.empty(shape, native(x).dtype), xp.empty(shape, pixels.dtype)
    for position, layers in enumerate(product(*(m.layers for m in maps))):
        out = (..., *xp.ix_(*(table(outputs, x) for outputs, _, _ in layers)))
        inp = xp.ix_(*(table(inputs, x) for _, inputs, _ in layers))
        value = x[(..., *inp)]
        # Every output reads at least one pixel, so the first layer fills y.
        wins = (value > y[out]) | (value != value) if position else xp.ones(value.shape, bool)
        y[out] = xp.where(wins, value, y[out])
        indices[out] = xp.where(wins, pixels[inp], indices[out])
    return y, indices


# --------------------------------------------------------------------------------------------------
# Sampling at points


def _corner(x: Array, at: Array) -> Array:
    """The pixel of one corner of each point: x (N, C, P), at (N, L) to (N, C, L), 0 where ``at`` is -1."""
    xp = array_module(x)
    index = xp.broadcast_to(xp.maximum(at, 0)[:, None], (*x.shape[:2], at.shape[1]))
    return xp.where(at[:, None] < 0, 0, xp.take_along_axis(x, index, 2))


def sample(x: Array, w: Array, at: Array) -> Array:
    """The corners one after the other, times their weights."""
    y = array_module(x).zeros((*x.shape[:2], at.shape[2]), sum_dtype(native(x).dtype))
    for k in range(at.shape[1]):
        y += _corner(x, at[:, k]) * w[:, k, None]
    return y.astype(native(x).dtype, copy=False)


def sample_input(gy: Array, w: Array, at: Array, pixels: int) -> Array:
    """Each gradient added to its corners, in the order of the corners; those outside have a pixel of their own."""
    xp = array_module(gy)
    images, channels = gy.shape[:2]
    gx = xp.empty((images, channels, pixels), native(gy).dtype)
    starts = xp.arange(channels)[:, None, None] * (pixels + 1)
    for n in range(images):
        places = (xp.where(at[n] < 0, pixels, at[n]) + starts).reshape(-1)  # (C K L,)
        parts = (gy[n][:, None].astype(xp.float64) * w[n]).reshape(-1)
        gx[n] = sums_at(places, parts, channels * (pixels + 1)).reshape(channels, pixels + 1)[:, :pixels]
    return gx


def sample_weight(x: Array, gy: Array, at: Array) -> Array:
    """One corner after the other: the products summed over the channels."""
    xp = array_module(x)
    gw = xp.empty(at.shape, native(x).dtype)
    for k in range(at.shape[1]):
        gw[:, k] = (_corner(x, at[:, k]).astype(sum_dtype(native(x).dtype), copy=False) * gy).sum(1)
    return gw


# --------------------------------------------------------------------------------------------------
# Normalisation


def normalise(x: Array, weight: Array, bias: Array, axes: tuple[int, ...], eps: float) -> tuple[Array, Array, Array]:
    """One pass for the mean, and a second, over x - mean, for the variance and what the mean lost by rounding."""
    xp = array_module(x)
    wide = x.astype(sum_dtype(native(x).dtype), copy=False)
    mean = wide.mean(axes, keepdims=True)
    y = wide - mean
    # A mean of 1e4 is rounded by more than its float32 data, minus it, are: what is left over is taken off again.
    rest = y.mean(axes, keepdims=True)
    var = xp.square(y).mean(axes, keepdims=True) - rest * rest
    var = xp.maximum(var, 0).astype(xp.float64)
    scale = _rstd(var, eps, wide.dtype) * weight
    y *= scale
    y += bias - rest * scale
    return y.astype(native(x).dtype, copy=False), mean.astype(xp.float64) + rest, var


def _rstd(var: Array, eps: float, dtype: np.dtype[Any]) -> Array:
    return (1 / array_module(var).sqrt(var + eps)).astype(dtype, copy=False)


def normalise_grad(
    g: Array, x: Array, weight: Array, mean: Array, var: Array, axes: tuple[int, ...], eps: float
) -> tuple[Array, Array, Array]:
    """dx = (g w - mean(g w) - n mean(g w n)) / sqrt(var + eps), dw = sum g n, db = sum g, n = (x - mean) / sqrt(..)."""
    xp = array_module(x)
    dtype = sum_dtype(native(x).dtype)
    count = prod(x.shape[a] for a in axes)
    over_weight = tuple(a for a in range(x.ndim) if weight.shape[a] == 1)
    rstd, centre = _rstd(var, eps, dtype), mean.astype(dtype)
    g = g.astype(dtype, copy=False)
    n = x.astype(dtype, copy=False) - centre
    n -= (mean - centre).astype(dtype)
    n *= rstd
    gn = g * n
    if all(a in over_weight for a in axes):
        # w is one number wherever the mean is one, and moves out of the sums.
        sum_g, sum_gn = g.sum(axes, keepdims=True), gn.sum(axes, keepdims=True)
        dw, db = sum_gn.sum(over_weight, keepdims=True), sum_g.sum(over_weight, keepdims=True)
        outer = rstd * weight
        n *= sum_gn / -count
        n += g
        n -= sum_g / count
    else:
        dw, db = gn.sum(over_weight, keepdims=True), g.sum(over_weight, keepdims=True)
        outer = rstd
        gn *= weight
        n *= gn.mean(axes, keepdims=True)
        gw = g * weight
        xp.subtract(gw, n, out=n)
        n -= gw.mean(axes, keepdims=True)
    n *= outer
    dx, dw, db = (a.astype(native(b).dtype, copy=False) for a, b in ((n, x), (dw, weight), (db, weight)))
    return dx, dw, db


# --------------------------------------------------------------------------------------------------
# Softmax and cross-entropy


def softmax(x: Array, axis: int, log: bool) -> Array:
    """Shifted by the maximum, so that exp cannot overflow; in one array of the size of x."""
    xp = array_module(x)
    y = x.astype(sum_dtype(native(x).dtype))
    if y.size:
        y -= y.max(axis=axis, keepdims=True)
        if log:
            y -= xp.log(xp.exp(y).sum(axis=axis, keepdims=True))
        else:
            xp.exp(y, out=y)
            y /= y.sum(axis=axis, keepdims=True)
    return y.astype(native(x).dtype, copy=False)


def softmax_grad(g: Array, y: Array, axis: int, log: bool) -> Array:
    """y (g - sum g y), or g - e^y sum g"""
    dtype = native(g).dtype
    g, y = (a.astype(sum_dtype(dtype), copy=False) for a in (g, y))
    if log:
        dx = g - array_module(y).exp(y) * g.sum(axis=axis, keepdims=True)
    else:
        dx = y * (g - (g * y).sum(axis=axis, keepdims=True))
    return dx.astype(dtype, copy=False)


def cross_entropy(x: Array, target: Array, factor: Array, valid: Array) -> tuple[Array, Array, Array]:
    """loss = f (log sum e^(x - top) - (x[t] - top)), in one array of the size of x."""
    xp = array_module(x)
    top = x.max(1, keepdims=True)
    z = x.astype(sum_dtype(native(x).dtype), copy=False) - top  # (N, C, L)
    chosen = xp.take_along_axis(z, target[:, None], 1)
    log_sum = xp.log(xp.exp(z, out=z).sum(1, keepdims=True))
    loss = (log_sum - chosen)[:, 0] * factor  # (N, L)
    return xp.where(valid, loss, 0).astype(native(x).dtype, copy=False), top, log_sum


def cross_entropy_grad(
    g: Array, x: Array, target: Array, factor: Array, valid: Array, top: Array, log_sum: Array
) -> Array:
    """f g (e^(x - top - log_sum) - onehot(t)), in one array."""
    xp = array_module(x)
    scale = xp.where(valid, g * factor, 0)  # (N, L)
    p = x.astype(log_sum.dtype, copy=False) - top
    p -= log_sum
    xp.exp(p, out=p)
    p *= scale[:, None]
    image, pixel = xp.arange(x.shape[0])[:, None], xp.arange(x.shape[2])
    p[image, target, pixel] -= scale
    return p.astype(native(x).dtype, copy=False)
