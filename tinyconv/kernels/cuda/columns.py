"""Convolution as one matrix product over columns of pixels that are written down: im2col, and cuBLAS.

Idea. Written as a column for each output, with a row for each tap of each channel, the pixels turn a convolution into
the product of the weight matrix and that matrix: y = W X, its gradients W^t Y' with the columns added back to their
pixels, and Y' X^t.

Cost. The columns are K times the image, written once and read once. They are made for as many images at a time as the
scratch limit allows, in the order in which the product needs them: no factor and no result is turned around, but for
the cotangents of the weight gradient, which are K times smaller.
Source: Chellapilla, Puri and Simard, "High performance convolutional neural networks for document processing", 2006.

Shapes: G groups, K taps of a window, T images in a tile, P output positions in a tile.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from tinyconv.geometry import Geometry
from tinyconv.kernels.arrays import Array, array_module, scratch_limit
from tinyconv.kernels.cuda.launcher import contiguous, launch, side_by_side, window
from tinyconv.kernels.im2col import is_pointwise, tiles


def unfold(x: Array, g: Geometry) -> Array:
    """x (N, C, *I) to its columns (N, C * prod K, prod O)."""
    x = contiguous(x)
    cols = array_module(x).empty((len(x), x.shape[1] * prod(g.kernel), prod(g.output)), x.dtype)
    _write(x, cols, cols[:1].size, g)
    return cols


def fold(cols: Array, g: Geometry) -> Array:
    """cols (N, C * prod K, prod O), added up where they come from, to (N, C, *I)."""
    cols = contiguous(cols)
    x = array_module(cols).empty((len(cols), cols.shape[1] // prod(g.kernel), *g.size), cols.dtype)
    _add(cols, x, g, False)
    return x


def conv(x: Array, w: Array, g: Geometry, groups: int) -> Array:
    """x (N, C_in, *I), w (C_out, C_in/groups, *K) to y (N, C_out, *O)."""
    x, w = contiguous(x), contiguous(w)
    xp, c_out = array_module(x), len(w)
    y = xp.empty((len(x), c_out, *g.output), x.dtype)
    weight = w.reshape(*_grouped(groups, c_out), -1)  # (G, C_out/G, C_in/G * K)
    if is_pointwise(g):  # the image is its own columns
        xp.matmul(weight, _matrices(x, groups), out=_matrices(y, groups))
        return y
    for batch, rows, tile, buffer in _tiles(x, x.shape[1], g):
        cols = buffer.reshape(batch.stop - batch.start, x.shape[1] * prod(g.kernel), -1)  # (T, C_in * K, P)
        _write(x[batch], cols, cols[0].size, tile)
        if tile.output == g.output:
            xp.matmul(weight, _matrices(cols, groups), out=_matrices(y[batch], groups))
        else:
            y[batch, :, rows] = xp.matmul(weight, _matrices(cols, groups)).reshape(-1, c_out, *tile.output)
    return y


def conv_input(gy: Array, w: Array, g: Geometry, groups: int) -> Array:
    """gy (N, C_out, *O), w (C_out, C_in/groups, *K) to gx (N, C_in, *I)."""
    gy, w = contiguous(gy), contiguous(w)
    xp, c_in = array_module(gy), w.shape[1] * groups
    gx = xp.empty((len(gy), c_in, *g.size), gy.dtype)
    weight = contiguous(w.reshape(*_grouped(groups, len(w)), -1).swapaxes(-1, -2))  # (G, C_in/G * K, C_out/G)
    if is_pointwise(g):
        xp.matmul(weight, _matrices(gy, groups), out=_matrices(gx, groups))
        return gx
    for batch, rows, tile, buffer in _tiles(gy, c_in, g):
        cols = buffer.reshape(batch.stop - batch.start, c_in * prod(g.kernel), -1)  # (T, C_in * K, P)
        given = contiguous(gy[batch, :, rows])
        xp.matmul(weight, _matrices(given, groups), out=_matrices(cols, groups))
        _add(cols, gx[batch], tile, rows.start > 0)
    return gx


def conv_weight(x: Array, gy: Array, g: Geometry, groups: int) -> Array:
    """x (N, C_in, *I), gy (N, C_out, *O) to gw (C_out, C_in/groups, *K): a sum over the tiles in their order.

    The columns of all images of a tile stand side by side: one long sum for each weight.
    """
    x, gy = contiguous(x), contiguous(gy)
    xp, c_in, c_out = array_module(x), x.shape[1], gy.shape[1]
    gw = xp.zeros((*_grouped(groups, c_in * prod(g.kernel)), c_out // groups), x.dtype)  # (G, C_in/G * K, C_out/G)
    for batch, rows, tile, buffer in _tiles(x, c_in, g):
        cols = buffer.reshape(*_grouped(groups, c_in * prod(g.kernel)), -1)  # (G, C_in/G * K, T*P)
        _write(x[batch], cols, prod(tile.output), tile)
        given = contiguous(gy[batch, :, rows].swapaxes(0, 1)).reshape(*_grouped(groups, c_out), -1)  # (G, C_out/G, T*P)
        gw += xp.matmul(cols, given.swapaxes(-1, -2))
    return contiguous(gw.swapaxes(-1, -2)).reshape(c_out, c_in // groups, *g.kernel)


def _grouped(groups: int, channels: int) -> tuple[int, ...]:
    """The axes of groups and channels. Of one group there is none: two matrices are multiplied where one is transposed
    as it lies, but CuPy copies a transposed factor of several.
    """
    return (channels,) if groups == 1 else (groups, channels // groups)


def _matrices(a: Array, groups: int) -> Array:
    """(T, C, ...) seen as (T, G, C/G, P)."""
    return a.reshape(len(a), *_grouped(groups, a.shape[1]), prod(a.shape[2:]))


def _tiles(like: Array, channels: int, g: Geometry) -> Iterator[tuple[slice, slice, Geometry, Array]]:
    """Tiles (images, output rows, their geometry) and a flat array for the columns of each, always the same memory."""
    xp, rows = array_module(like), channels * prod(g.kernel)
    row_bytes = rows * prod(g.output[1:]) * like.dtype.itemsize
    buffer = xp.empty(0, like.dtype)
    for batch, outputs, tile in tiles(g, len(like), row_bytes, scratch_limit(xp)):
        size = (batch.stop - batch.start) * rows * prod(tile.output)
        if size > buffer.size:  # the first tile is the largest
            buffer = xp.empty(size, like.dtype)
        yield batch, outputs, tile, buffer[:size]


def _write(x: Array, cols: Array, per_image: int, g: Geometry) -> None:
    """The columns of x (T, C, *I); those of the next image begin ``per_image`` elements further on."""
    lanes, rows = prod(g.output[-2:]), x.shape[0] * x.shape[1] * prod(g.output[:-2])
    grid, threads = side_by_side(lanes, rows)
    args = (x, cols, lanes, rows, x.shape[1], per_image, cols.shape[-1], window(g))
    launch("columns.cu", "unfold", grid, args, threads)


def _add(cols: Array, x: Array, g: Geometry, more: bool) -> None:
    """cols (T, C * K, P) added up where they come from: x (T, C, *I), or added to it where ``more``."""
    lanes, rows = prod(g.size[-2:]), x.shape[0] * x.shape[1] * prod(g.size[:-2])
    grid, threads = side_by_side(lanes, rows)
    launch("columns.cu", "fold", grid, (cols, x, lanes, rows, more, window(g)), threads)
