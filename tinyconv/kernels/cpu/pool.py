"""Pooling on the CPU, row by row: the window slides over whole rows of outputs at once.

Idea. For one row of outputs and one tap (kd, kh, kw), the pixels that are read are one row of the image, every
stride-th of it. So the inner loop runs along the row of outputs, which stays in the first cache, and the compiler turns
it into vectors: "is this pixel larger than the largest so far" for 16 outputs at a time. A gradient that is gathered
goes the same way with the two rows exchanged.

Cost. One comparison or addition a tap and output; the image is read once from memory, and as often as windows overlap
from the cache; 4 bytes an output are written, and 8 more for the index of a maximum. Bound by memory for small windows.

Tables come from the :class:`Geometry`: for the two outer axes the pixel that each tap reads for each output, -1 for
padding; for the inner one, the run of outputs of each tap and where its pixels begin.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import prod
from typing import NamedTuple

import numpy as np
from numba import njit

from tinyconv.geometry import Geometry, Sizes
from tinyconv.kernels.arrays import Array
from tinyconv.kernels.axismap import AxisMap, axis_map
from tinyconv.kernels.cpu.memory import plain
from tinyconv.kernels.cpu.product import leaf
from tinyconv.kernels.threads import parallel

_ONE = axis_map(1, [[0]], [[1]], np.float32)  # of an axis of size 1


class Tables(NamedTuple):
    """A geometry of three axes as arrays; rank 1 and 2 have axes of size 1 in front."""

    depth: Array  # (K_d, O_d) the input index that each tap reads, -1 for padding
    rows: Array  # (K_h, O_h) the same for rows
    # (K_w, 3) of each tap: the first output that reads a pixel, one past the last, the first's pixel. Indices without a
    # sign spare the compiler the question whether they count from the end, which keeps it from using vectors.
    spans: Array
    first: tuple[Array, Array, Array]  # (O,) of each axis, the first pixel of each window, -1 where it has none
    depth_readers: Array  # (K_d, I_d) the output for which each tap reads a pixel, -1 for none
    row_readers: Array  # (K_h, I_h) the same for rows
    step: np.unsignedinteger  # from one output's pixel to the next one's, along a row


def _lifted(g: Geometry) -> Geometry:
    while g.rank < 3:
        g = g.lifted()
    return g


def _read(g: Geometry, axis: int) -> Array:
    """(K, O) the pixel that each tap reads for each output, -1 for padding."""
    table = np.full((g.kernel[axis], g.output[axis]), -1)
    for k in range(g.kernel[axis]):
        first, last = g.span(axis, k)
        table[k, first:last] = g.input_index(axis, np.arange(first, last), k)  # type: ignore[arg-type]
    return table


def _readers(g: Geometry, axis: int) -> Array:
    """(K, I) the output for which each tap reads each pixel, -1 for none."""
    table = np.full((g.kernel[axis], g.size[axis]), -1)
    for i in range(g.size[axis]):
        for o, k in g.readers(axis, i):
            table[k, i] = o
    return table


@lru_cache(maxsize=256)
def tables(g: Geometry) -> Tables:
    """The tables of a geometry with three axes."""
    read = [_read(g, axis) for axis in range(3)]
    first = [np.where(r >= 0, r, g.size[axis]).min(0) for axis, r in enumerate(read)]  # a later tap reads further on
    runs = [g.span(2, k) for k in range(g.kernel[2])]
    spans = [(low, high, g.input_index(2, low, k)) if low < high else (0, 0, 0) for k, (low, high) in enumerate(runs)]
    return Tables(
        read[0],
        read[1],
        np.array(spans, np.uintp),
        tuple(np.where(f < n, f, -1) for f, n in zip(first, g.size)),  # type: ignore[arg-type]
        _readers(g, 0),
        _readers(g, 1),
        np.uintp(g.stride[2]),
    )


def _planes(a: Array, size: Sizes) -> Array:
    """(N, C, *size) as (N C, D, H, W): of a result that a kernel fills, a view."""
    return plain(a).reshape(prod(a.shape[:2]), *(1,) * (3 - len(size)), *size)


# --------------------------------------------------------------------------------------------------
# Maxima


@njit(nogil=True, cache=True)
def _raise_row(y, p, od, oh, at, x, id_, ih, low, high, source, step, flat):  # type: ignore[no-untyped-def]
    """Raise outputs [low, high) of a row to the pixels from ``source`` on, every step-th, where those win."""
    # The two usual steps as constants: only then does the compiler load vectors.
    if step == 1:
        for j in range(high - low):
            old, value = y[p, od, oh, low + j], x[p, id_, ih, source + j]
            wins = (value > old) | (value != value)
            y[p, od, oh, low + j] = value if wins else old
            at[low + j] = flat + j if wins else at[low + j]
    elif step == 2:
        for j in range(high - low):
            old, value = y[p, od, oh, low + j], x[p, id_, ih, source + j + j]
            wins = (value > old) | (value != value)
            y[p, od, oh, low + j] = value if wins else old
            at[low + j] = flat + j + j if wins else at[low + j]
    else:
        for j in range(high - low):
            old, value = y[p, od, oh, low + j], x[p, id_, ih, source + j * step]
            wins = (value > old) | (value != value)
            y[p, od, oh, low + j] = value if wins else old
            at[low + j] = flat + j * step if wins else at[low + j]


@njit(nogil=True, cache=True)
def max_rows(  # type: ignore[no-untyped-def]
    first, last, x, y, indices, depth, rows, spans, first_d, first_h, first_w, step
):  # fmt: skip
    """Rows [first, last) of all planes: x (P, D, H, W) to y and indices (P, OD, OH, OW)."""
    at = np.empty(y.shape[3], np.int32)  # half as wide as the indices: twice as many in a vector
    for item in range(first, last):
        rest, oh = divmod(item, y.shape[2])
        p, od = divmod(rest, y.shape[1])
        begin = (first_d[od] * x.shape[2] + first_h[oh]) * x.shape[3]
        some = first_d[od] >= 0 and first_h[oh] >= 0
        for ow in range(at.size):
            y[p, od, oh, ow] = -np.inf
            at[ow] = begin + first_w[ow] if some and first_w[ow] >= 0 else 0  # wins where no pixel is larger
        for kd in range(depth.shape[0]):
            id_ = depth[kd, od]
            if id_ < 0:
                continue
            for kh in range(rows.shape[0]):
                ih = rows[kh, oh]
                if ih < 0:
                    continue
                begin = (id_ * x.shape[2] + ih) * x.shape[3]
                for kw in range(spans.shape[0]):
                    low, high, source = spans[kw, 0], spans[kw, 1], spans[kw, 2]
                    _raise_row(y, p, od, oh, at, x, id_, ih, low, high, source, step, np.uintp(begin) + source)
        for ow in range(at.size):
            indices[p, od, oh, ow] = at[ow]


def max_pool(x: Array, g: Geometry) -> tuple[Array, Array]:
    """x (N, C, *I) to the largest pixel of each window and its flat index, both (N, C, *O)."""
    t = tables(_lifted(g))
    pixels = _planes(x, g.size)
    y = np.empty((*x.shape[:2], *g.output), pixels.dtype)
    indices = np.empty(y.shape, np.int64)
    best, at = _planes(y, g.output), _planes(indices, g.output)

    def work(first: int, last: int) -> None:
        max_rows(first, last, pixels, best, at, t.depth, t.rows, t.spans, *t.first, t.step)

    parallel(work, prod(best.shape[:3]), 0.5 * y.size * (2 + prod(g.kernel)))
    return y, indices


@leaf
def _raise_columns(best, at, x, p, d, h, begin):  # type: ignore[no-untyped-def]
    """Raise the largest pixel of each column, and its flat index, to those of a row where these win."""
    for w in range(best.size):
        old, value = best[w], x[p, d, h, w]
        wins = (value > old) | (value != value)
        best[w] = value if wins else old
        at[w] = np.int32(begin + w) if wins else at[w]


@leaf
def adaptive_rows(first, last, best, at, x, y, indices, ends_d, in_d, ends_h, in_h, ends_w, in_w):  # type: ignore[no-untyped-def]
    """Rows [first, last) of all planes; output o of an axis reads the pixels in[ends[o]] to in[ends[o + 1]].

    The largest of each column first, row by row; then of the columns. There the first of equals is that with the lower
    index, and the last NaN that with the higher. best and at: scratch of a row of x.
    """
    for item in range(first, last):
        rest, oh = divmod(item, y.shape[2])
        p, od = divmod(rest, y.shape[1])
        begin = (in_d[ends_d[od]] * np.uintp(x.shape[2]) + in_h[ends_h[oh]]) * np.uintp(x.shape[3])
        for w in range(best.size):  # the first pixel, where no other is larger
            best[w], at[w] = x[p, in_d[ends_d[od]], in_h[ends_h[oh]], w], begin + np.uintp(w)
        for nd in range(ends_d[od], ends_d[od + 1]):
            for nh in range(ends_h[oh], ends_h[oh + 1]):
                d, h = in_d[nd], in_h[nh]
                _raise_columns(best, at, x, p, d, h, (d * np.uintp(x.shape[2]) + h) * np.uintp(x.shape[3]))
        for ow in range(y.shape[3]):
            top, place = best[in_w[ends_w[ow]]], at[in_w[ends_w[ow]]]
            for nw in range(ends_w[ow] + np.uintp(1), ends_w[ow + 1]):
                value, index = best[in_w[nw]], at[in_w[nw]]
                if value != value:
                    wins = top == top or index > place
                else:
                    wins = value > top or (value == top and index < place)
                if wins:
                    top, place = value, index
            y[p, od, oh, ow], indices[p, od, oh, ow] = top, place


def adaptive_max_pool(x: Array, maps: Sequence[AxisMap]) -> tuple[Array, Array]:
    """x (N, C, *I) to the largest pixel that each output reads and its flat index, both (N, C, *O)."""
    pixels = _planes(x, tuple(m.size for m in maps))
    output = tuple(m.output for m in maps)
    y = np.empty((*x.shape[:2], *output), pixels.dtype)
    indices = np.empty(y.shape, np.int64)
    best, at = _planes(y, output), _planes(indices, output)
    lists = [a.astype(np.uintp) for m in [_ONE] * (3 - len(maps)) + list(maps) for a in (m.ends, m.inputs)]

    def work(first: int, last: int) -> None:
        top, place = np.empty(pixels.shape[3], pixels.dtype), np.empty(pixels.shape[3], np.int32)
        adaptive_rows(first, last, top, place, pixels, best, at, *lists)

    rows = prod(len(m.inputs) for m in maps[:-1])
    parallel(work, prod(best.shape[:3]), len(pixels) * (0.5 * rows * pixels.shape[3] + 2.0 * prod(output)))
    return y, indices


@njit(nogil=True, cache=True)
def add_at_indices(first, last, gy, indices, gx):  # type: ignore[no-untyped-def]
    """Planes [first, last): gx[p, indices[p, o]] += gy[p, o] from zero, in the order of o."""
    for p in range(first, last):
        for i in range(gx.shape[1]):
            gx[p, i] = 0
        for o in range(gy.shape[1]):
            gx[p, indices[p, o]] += gy[p, o]


def scatter_windows(gy: Array, indices: Array, size: Sizes, windows: Sequence[AxisMap] | None) -> Array:
    """gy and indices (N, C, *O) to gx (N, C, *size): within a plane one after the other, the planes in parallel."""
    count = prod(gy.shape[:2])
    values = plain(gy).reshape(count, prod(gy.shape[2:]))
    places = np.ascontiguousarray(indices, np.int64).reshape(values.shape)
    gx = np.empty((*gy.shape[:2], *size), values.dtype)
    pixels = gx.reshape(count, prod(size))

    def work(first: int, last: int) -> None:
        add_at_indices(first, last, values, places, pixels)

    parallel(work, count, 0.2 * gx.size + 1.0 * values.size)
    return gx


# --------------------------------------------------------------------------------------------------
# Averages


@njit(nogil=True, cache=True, error_model="numpy")  # x / 0 is infinite, no error
def average_rows(first, last, x, divisor, y, depth, rows, spans, step):  # type: ignore[no-untyped-def]
    """Rows [first, last) of all planes: x (P, D, H, W), divisor (OD, OH, OW) to y (P, OD, OH, OW).

    The pixels of a window are added column by column first: whole rows, and half of the work where windows overlap.
    """
    column = np.empty(x.shape[3], x.dtype)
    for item in range(first, last):
        rest, oh = divmod(item, y.shape[2])
        p, od = divmod(rest, y.shape[1])
        for iw in range(column.size):
            column[iw] = 0
        for kd in range(depth.shape[0]):
            id_ = depth[kd, od]
            if id_ < 0:
                continue
            for kh in range(rows.shape[0]):
                ih = rows[kh, oh]
                if ih < 0:
                    continue
                for iw in range(column.size):
                    column[iw] += x[p, id_, ih, iw]
        for ow in range(y.shape[3]):
            y[p, od, oh, ow] = 0
        for kw in range(spans.shape[0]):
            low, high, source = spans[kw, 0], spans[kw, 1], spans[kw, 2]
            if step == 1:
                for j in range(high - low):
                    y[p, od, oh, low + j] += column[source + j]
            else:
                for j in range(high - low):
                    y[p, od, oh, low + j] += column[source + j * step]
        for ow in range(y.shape[3]):
            y[p, od, oh, ow] /= divisor[od, oh, ow]


def avg_pool(x: Array, g: Geometry, divisor: Array) -> Array:
    """x (N, C, *I), divisor (*O) to y (N, C, *O): the sum of each window divided by its divisor."""
    t = tables(_lifted(g))
    pixels = _planes(x, g.size)
    y = np.empty((*x.shape[:2], *g.output), pixels.dtype)
    means = _planes(y, g.output)
    by = np.ascontiguousarray(divisor, pixels.dtype).reshape(means.shape[1:])

    def work(first: int, last: int) -> None:
        average_rows(first, last, pixels, by, means, t.depth, t.rows, t.spans, t.step)

    rows = prod(means.shape[:3])
    parallel(work, rows, 0.2 * rows * (prod(g.kernel[:-1]) * g.size[-1] + g.kernel[-1] * g.output[-1]))
    return y


@njit(nogil=True, cache=True, error_model="numpy")  # x / 0 is infinite, no error
def average_input_rows(first, last, gy, divisor, gx, depth, rows, spans, step):  # type: ignore[no-untyped-def]
    """Rows [first, last) of all planes of gx (P, D, H, W), gathered from the rows of gy (P, OD, OH, OW) that read them.

    depth (K_d, I_d) and rows (K_h, I_h): the output for which each tap reads a pixel.
    """
    share = np.empty(gy.shape[3], gy.dtype)
    for item in range(first, last):
        rest, ih = divmod(item, gx.shape[2])
        p, id_ = divmod(rest, gx.shape[1])
        for ow in range(share.size):
            share[ow] = 0
        for kd in range(depth.shape[0]):
            od = depth[kd, id_]
            if od < 0:
                continue
            for kh in range(rows.shape[0]):
                oh = rows[kh, ih]
                if oh < 0:
                    continue
                for ow in range(share.size):
                    share[ow] += gy[p, od, oh, ow] / divisor[od, oh, ow]
        for iw in range(gx.shape[3]):
            gx[p, id_, ih, iw] = 0
        for kw in range(spans.shape[0]):
            low, high, source = spans[kw, 0], spans[kw, 1], spans[kw, 2]
            if step == 1:
                for j in range(high - low):
                    gx[p, id_, ih, source + j] += share[low + j]
            else:
                for j in range(high - low):
                    gx[p, id_, ih, source + j * step] += share[low + j]


def avg_pool_input(gy: Array, g: Geometry, divisor: Array) -> Array:
    """gy (N, C, *O), divisor (*O) to gx (N, C, *I): each pixel gets its share from every window that reads it."""
    t = tables(_lifted(g))
    values = _planes(gy, g.output)
    by = np.ascontiguousarray(divisor, values.dtype).reshape(values.shape[1:])
    gx = np.empty((*gy.shape[:2], *g.size), values.dtype)
    pixels = _planes(gx, g.size)

    def work(first: int, last: int) -> None:
        average_input_rows(first, last, values, by, pixels, t.depth_readers, t.row_readers, t.spans, t.step)

    rows = prod(pixels.shape[:3])
    parallel(work, rows, 0.2 * rows * (g.size[-1] + (prod(g.kernel[:-1]) + g.kernel[-1]) * g.output[-1]))
    return gx
