"""Sampling an image at points on the CPU: blocks of points first find their corners, then go through the channels.

Idea. Where a point lies between its pixels does not depend on the channel: index and weight of each corner are computed
once, as vectors along a block of points, and stay in the first cache while every channel is read through them. The
gradient by the image is scattered into one plane by one thread, always in the same order; that by the weights is
gathered like the result.

Cost. For each point some 10 operations an axis and 3 a corner, then for each corner and channel one load from anywhere
in the plane and one product. Bound by those loads; by the corners where there are few channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from tinyconv.geometry import Sizes
from tinyconv.kernels.arrays import Array
from tinyconv.kernels.corners import first_neighbour, weights
from tinyconv.kernels.cpu.memory import plain
from tinyconv.kernels.cpu.product import leaf
from tinyconv.kernels.threads import parallel

_BLOCK = 256  # points
_PADDING = {"zeros": 0, "border": 1, "reflection": 2}

# --------------------------------------------------------------------------------------------------
# Corners


@leaf
def _positions(grid, n, low, count, coordinate, size, align_corners, position, slope):  # type: ignore[no-untyped-def]
    """Coordinates from -1 to 1 as positions on an axis of the image, the first pixel at 0, and their derivatives."""
    number = position.dtype.type
    one, half = number(1), number(0.5)
    scale, shift = (number(size - 1), number(0)) if align_corners else (number(size), one)
    for i in range(np.uintp(count)):
        position[i] = ((grid[n, low + i, coordinate] + one) * scale - shift) * half
    for i in range(np.uintp(count)):
        slope[i] = scale * half


@leaf
def _fold(position, slope, count, size, padding, align_corners):  # type: ignore[no-untyped-def]
    """Positions on an axis brought back into [0, size - 1] by clamping or reflection, and their derivatives."""
    number = position.dtype.type
    zero, last = number(0), number(size - 1)
    low, span = (zero, last) if align_corners else (number(-0.5), number(size))
    if padding == 2:
        share = number(1 / span) if span > 0 else zero
        for j in range(count):
            distance = abs(position[j] - low)
            turns = np.floor(distance * share)
            rest = distance - turns * span
            odd = turns * number(0.5) != np.floor(turns * number(0.5))
            slope[j] = -slope[j] if odd != (position[j] < low) else slope[j]
            position[j] = (span - rest if odd else rest) + low
    for j in range(count):
        p = position[j]
        slope[j] = slope[j] if (p > zero) & (p < last) else zero
        p = p if p > zero else zero  # NaN too
        position[j] = p if p < last else last


@leaf
def _neighbours(  # type: ignore[no-untyped-def]
    position, slope, t, at, spare, count, size, polynomials, order, first, padding, align_corners, w, index
):  # fmt: skip
    """Weights and pixels, w and index (neighbours, points), of positions on one axis; index is -1 outside the image."""
    number = position.dtype.type
    zero, one, last = number(0), number(1), number(size - 1)
    neighbours = polynomials.shape[0]
    if padding > 0 and neighbours < 4:
        _fold(position, slope, count, size, padding, align_corners)
    if neighbours == 1:
        for i in range(np.uintp(count)):
            position[i], t[i] = np.rint(position[i]), zero
    else:
        for i in range(np.uintp(count)):
            t[i] = position[i] - np.floor(position[i])
        for i in range(np.uintp(count)):
            position[i] = np.floor(position[i])
    for j in range(neighbours):
        shift = number(first + j)
        for i in range(np.uintp(count)):
            at[i] = position[i] + shift
        if padding > 0 and neighbours == 4:  # not the point is folded, but each of its pixels
            _fold(at, spare, count, size, padding, align_corners)
        for i in range(np.uintp(count)):
            index[j, i] = np.int32(at[i] if (at[i] >= zero) & (at[i] <= last) else -one)
        c0, c1, c2, c3 = polynomials[j, 0], polynomials[j, 1], polynomials[j, 2], polynomials[j, 3]
        for i in range(np.uintp(count)):
            w[j, i] = ((c3 * t[i] + c2) * t[i] + c1) * t[i] + c0
        for _ in range(order):
            for i in range(np.uintp(count)):
                w[j, i] *= slope[i]


@leaf
def _products(a, a_index, b, b_index, size, count, w, at, low):  # type: ignore[no-untyped-def]
    """All products of two lists of neighbours: w[j k, low + i] = a[j, i] b[k, i], and the flat index, -1 outside."""
    start = np.uintp(low)
    for j in range(a.shape[0]):
        for k in range(b.shape[0]):
            to = j * b.shape[0] + k
            for i in range(np.uintp(count)):
                w[to, start + i] = a[j, i] * b[k, i]
            for i in range(np.uintp(count)):
                inside = (a_index[j, i] | b_index[k, i]) >= 0  # neither is negative
                at[to, start + i] = a_index[j, i] * size + b_index[k, i] if inside else -1


@leaf
def corner_blocks(  # type: ignore[no-untyped-def]
    first, last, row, factor, index, both, both_index, blocks, grid, sizes, polynomials, orders, first_neighbour,
    padding, align_corners, w, at,
):  # fmt: skip
    """Blocks [first, last) of all images: grid (N, L, rank) to w and at (N, K, L).

    polynomials (rank, neighbours, 4): the weights' coefficients on each axis. The five before ``blocks``: scratch.
    """
    rank = polynomials.shape[0]
    for item in range(first, last):
        n, block = divmod(item, blocks)
        low = np.uintp(block * _BLOCK)
        count = min(_BLOCK, grid.shape[1] - block * _BLOCK)
        for axis in range(rank):
            size = sizes[axis]
            _positions(grid, n, low, count, np.uintp(rank - 1 - axis), size, align_corners, row[0], row[1])
            _neighbours(
                row[0], row[1], row[2], row[3], row[4], count, size, polynomials[axis], orders[axis], first_neighbour,
                padding, align_corners, factor[axis], index[axis],
            )  # fmt: skip
        if rank == 2:
            _products(factor[0], index[0], factor[1], index[1], sizes[1], count, w[n], at[n], low)
        else:
            _products(factor[0], index[0], factor[1], index[1], sizes[1], count, both, both_index, 0)
            _products(both, both_index, factor[2], index[2], sizes[2], count, w[n], at[n], low)


def corners(
    grid: Array, size: Sizes, mode: str, padding_mode: str, align_corners: bool, order: Sequence[int]
) -> tuple[Array, Array]:
    """grid (N, L, rank) to weights and flat indices (N, K, L)."""
    grid = plain(grid)
    polynomials = np.zeros((len(size), len(weights(mode, 0)), 4), grid.dtype)
    for axis, d in enumerate(order):
        rows = weights(mode, d)
        polynomials[axis, :, : rows.shape[1]] = rows
    shape = (grid.shape[0], polynomials.shape[1] ** len(size), grid.shape[1])
    integer = np.int32 if prod(size) < 1 << 31 else np.int64
    w, at = np.empty(shape, grid.dtype), np.empty(shape, integer)
    given = grid, np.array(size, integer), polynomials, np.array(order), first_neighbour(mode), _PADDING[padding_mode]
    blocks = -(-shape[2] // _BLOCK)

    def work(first: int, last: int) -> None:
        rank, neighbours = polynomials.shape[:2]
        # Five rows in one array, to be indexed: taken apart, Numba would forget that each is one run of memory.
        shapes = (5, _BLOCK), (rank, neighbours, _BLOCK), (neighbours**2, _BLOCK)
        row, factor, both = (np.empty(shape, grid.dtype) for shape in shapes)
        scratch = row, factor, np.empty(shapes[1], integer), both, np.empty(shapes[2], integer)
        corner_blocks(first, last, *scratch, blocks, *given, align_corners, w, at)

    parallel(work, blocks * shape[0], 1.0 * w.size + 2.0 * grid.size)
    return w, at


# --------------------------------------------------------------------------------------------------
# Sampling


@leaf
def _read(x, w, at, y, n, c, low, high):  # type: ignore[no-untyped-def]
    """Points [low, high) of one plane."""
    zero = x.dtype.type(0)
    for i in range(low, high):
        y[n, c, i] = zero
    for k in range(w.shape[1]):
        for i in range(low, high):
            place = at[n, k, i]
            pixel = x[n, c, np.uintp(place)] if place >= 0 else zero
            y[n, c, i] += w[n, k, i] * pixel


@leaf
def sample_blocks(first, last, blocks, x, w, at, y):  # type: ignore[no-untyped-def]
    """Blocks [first, last) of all images: x (N, C, P), w and at (N, K, L) to y (N, C, L)."""
    for item in range(first, last):
        n, block = divmod(item, blocks)
        low, high = np.uintp(block * _BLOCK), np.uintp(min((block + 1) * _BLOCK, y.shape[2]))
        for c in range(x.shape[1]):
            _read(x, w, at, y, n, c, low, high)


def sample(x: Array, w: Array, at: Array) -> Array:
    """x (N, C, P), w and at (N, K, L) to y (N, C, L)."""
    x, w, at = plain(x), np.require(w, x.dtype, ("C", "A", "W")), plain(at)
    y = np.empty((*x.shape[:2], at.shape[2]), x.dtype)
    blocks = -(-at.shape[2] // _BLOCK)

    def work(first: int, last: int) -> None:
        sample_blocks(first, last, blocks, x, w, at, y)

    parallel(work, blocks * len(x), 0.8 * y.size * at.shape[1])
    return y


@leaf
def _add(gy, w, at, gx, n, c):  # type: ignore[no-untyped-def]
    """One plane: every point added to its corners, point by point."""
    for i in range(gx.shape[2]):
        gx[n, c, i] = 0
    for o in range(gy.shape[2]):
        for k in range(at.shape[1]):
            place = at[n, k, o]
            if place >= 0:
                gx[n, c, np.uintp(place)] += w[n, k, o] * gy[n, c, o]


@leaf
def sample_input_planes(first, last, gy, w, at, gx):  # type: ignore[no-untyped-def]
    """Planes [first, last) of gx (N, C, P)."""
    for item in range(first, last):
        n, c = divmod(item, gx.shape[1])
        _add(gy, w, at, gx, n, c)


def sample_input(gy: Array, w: Array, at: Array, pixels: int) -> Array:
    """gy (N, C, L), w and at (N, K, L) to gx (N, C, pixels)."""
    gy, w, at = plain(gy), np.require(w, gy.dtype, ("C", "A", "W")), plain(at)
    gx = np.empty((*gy.shape[:2], pixels), gy.dtype)

    def work(first: int, last: int) -> None:
        sample_input_planes(first, last, gy, w, at, gx)

    parallel(work, prod(gx.shape[:2]), 0.2 * gx.size + 1.5 * gy.size * at.shape[1])
    return gx


@leaf
def _gather(x, gy, at, gw, n, k, low, high):  # type: ignore[no-untyped-def]
    """Points [low, high) of one corner, summed over the channels."""
    zero = x.dtype.type(0)
    for i in range(low, high):
        gw[n, k, i] = zero
    for c in range(x.shape[1]):
        for i in range(low, high):
            place = at[n, k, i]
            pixel = x[n, c, np.uintp(place)] if place >= 0 else zero
            gw[n, k, i] += pixel * gy[n, c, i]


@leaf
def sample_weight_blocks(first, last, blocks, x, gy, at, gw):  # type: ignore[no-untyped-def]
    """Blocks [first, last) of all images: x (N, C, P), gy (N, C, L), at (N, K, L) to gw (N, K, L)."""
    for item in range(first, last):
        n, block = divmod(item, blocks)
        low, high = np.uintp(block * _BLOCK), np.uintp(min((block + 1) * _BLOCK, gw.shape[2]))
        for k in range(gw.shape[1]):
            _gather(x, gy, at, gw, n, k, low, high)


def sample_weight(x: Array, gy: Array, at: Array) -> Array:
    """x (N, C, P), gy (N, C, L), at (N, K, L) to gw (N, K, L)."""
    x, gy, at = plain(x), np.require(gy, x.dtype, ("C", "A", "W")), plain(at)
    gw = np.empty(at.shape, x.dtype)
    blocks = -(-at.shape[2] // _BLOCK)

    def work(first: int, last: int) -> None:
        sample_weight_blocks(first, last, blocks, x, gy, at, gw)

    parallel(work, blocks * len(x), 0.8 * x.shape[1] * gw.size)
    return gw
