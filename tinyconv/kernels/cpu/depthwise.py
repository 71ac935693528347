"""Convolution with one input channel a group, and its gradients: a vector of channels at a time.

Idea. Channels do not meet, so each lane of a vector can have a channel of its own: a vector of channels is turned
around, padded, and then all its taps are products lane by lane:

    y[p, c]  = sum over k   pixels[at(p) + shift(k), c] w[c, k]
    gw[c, k] = sum over p   gy[p, c] pixels[at(p) + shift(k), c]

Stride, dilation and the phases of the input gradient are in the lists ``at`` and ``shift``, as in ``tiled``. Large
images are cut into bands of rows that stay in the cache.

Cost. 2 K operations for each number read or written, as many as are copied: bound by memory.
"""

from __future__ import annotations

from math import prod
from typing import NamedTuple

import numpy as np
from numba import njit

from tinyconv.geometry import Geometry
from tinyconv.kernels.arrays import Array
from tinyconv.kernels.cpu.direct import Tables, tables
from tinyconv.kernels.cpu.memory import scratch
from tinyconv.kernels.cpu.product import leaf
from tinyconv.kernels.cpu.simd import ROWS, VECTOR_BYTES, copy_vector, multiply_lanes, prefetch
from tinyconv.kernels.cpu.tiled import (
    Lists,
    Reading,
    lay_plane,
    lists,
    reading,
    store_channels,
    transposed_reading,
    turn,
)
from tinyconv.kernels.threads import parallel

_rows, _row, _vector = multiply_lanes[ROWS], multiply_lanes[1], copy_vector[1]

_BAND = 128 << 10  # bytes of the pixels that are turned around at a time
_SHARES = 4  # that the images are divided into, for threads to sum side by side


class Bands(NamedTuple):
    """Rows of outputs that are computed together, with the rows of pixels that they read."""

    rows: int  # outputs, of each phase
    number: int
    length: int  # pixels from a plane of depth to the next
    spans: Array  # (phases, 3) output row r reads the rows from first + r * step on, ``reach`` further rows at most


def bands(r: Reading, highest: int, width: int, itemsize: int) -> Bands:
    """As many rows as fit, of the ``highest`` phase's."""
    spans = np.array([(p.start[1], p.step[1], p.dilation[1] * (p.kernel[1] - 1)) for p in r.phases])
    most = _BAND // (r.hull.output[0] * r.hull.output[2] * width * itemsize)  # rows of pixels
    spread = int((spans[:, 0] + spans[:, 2]).max() - spans[:, 0].min()) + 1
    step = int(spans[0, 1])
    rows = min(highest, max(1, (most - spread) // step + 1))
    return Bands(rows, -(-highest // rows), ((rows - 1) * step + spread) * r.hull.output[2] + width, spans)


@leaf
def read_rows(b, band, made):  # type: ignore[no-untyped-def]
    """The rows of pixels (first, last) that the outputs of a band read."""
    low, high = np.iinfo(np.int64).max, 0
    for f in range(made.shape[0]):
        first, last = band * b.rows, min((band + 1) * b.rows, made[f, 1])
        if first < last:
            low = min(low, b.spans[f, 0] + first * b.spans[f, 1])
            high = max(high, b.spans[f, 0] + (last - 1) * b.spans[f, 1] + b.spans[f, 2] + 1)
    return low, high


@leaf
def spread_outputs(acc, count, across, out, columns, first, steps):  # type: ignore[no-untyped-def]
    """out[first + (row, column) * steps] = acc[row, column], ``count`` vectors in rows of ``across``."""
    width = VECTOR_BYTES // acc.itemsize
    for q in range(count):
        row, column = divmod(q, across)
        place = (row * steps[1] + first[1]) * columns + column * steps[2] + first[2]
        _vector(out, place * width, acc, q * width)


@njit(nogil=True, cache=True)
def convolve(first, last, x, t, b, reads, w, numbers, y, begin, steps, pixels, acc, made):  # type: ignore[no-untyped-def]
    """Items [first, last) of (image, vector of input channels, band).

    w (C_out, K), y (N, C_out, D, H, W); output o of phase f is element begin[f] + o * steps, the ``numbers`` of its
    taps as in tiled.convolve.
    """
    width, shape, flat, out, pitch = VECTOR_BYTES // x.itemsize, x.shape, x.reshape(-1), y.reshape(-1), t.pitch
    vectors, kernel, each, phases = -(-shape[1] // width), w.shape[1], w.shape[0] // shape[1], begin.shape[0]
    spare, rows = np.zeros(width * width, x.dtype), np.empty(ROWS, np.int64)
    weights, flat_w = np.empty((kernel + width) * width, x.dtype), w.reshape(-1)
    columns, moves = numbers * width, reads.shift * width
    channel, plane = shape[2] * shape[3] * shape[4], y.shape[2] * y.shape[3] * y.shape[4]
    plain = phases == 1 and steps[0] == steps[1] == steps[2] == 1
    for item in range(first, last):
        rest, band = divmod(item, b.number)
        n, v = divmod(rest, vectors)
        lanes = min(width, shape[1] - v * width)
        if channel <= 1024:  # small images follow each other too quickly for the processor to foresee them
            for ahead in range(0, width * channel, width):
                prefetch(flat, (n * shape[1] + (v + 1) * width) * channel + ahead)
            for ahead in range(0, width * each * plane, width):
                prefetch(out, (n * y.shape[1] + v * width * each) * plane + ahead)
        low, high = read_rows(b, band, reads.made)
        for d in range(t.depth.shape[1] if low < high else 0):
            lay_plane(flat, shape, n, d, v * width, lanes, t, (low, high), pixels, d * b.length * width, width, spare)
        top = band * b.rows * steps[1]
        count = (min(top + b.rows * steps[1], y.shape[3]) - top) * y.shape[4]
        for e in range(each):
            co = v * width * each + e
            turn(flat_w, co * kernel, each * kernel, lanes, kernel, weights, 0, width, spare)
            for d in range(y.shape[2]):
                if not plain:
                    made[: count * width] = 0
                for f in range(phases):
                    od, rest = divmod(d - begin[f, 0], steps[0])
                    if rest or od < 0:
                        continue
                    taps, across = reads.taps[f + 1] - reads.taps[f], reads.made[f, 2]
                    moves_f, columns_f = moves[reads.taps[f] :], columns[reads.taps[f] :]
                    outputs = (min((band + 1) * b.rows, reads.made[f, 1]) - band * b.rows) * across
                    start = reads.outputs[f] + (od * reads.made[f, 1] + band * b.rows) * across
                    acc[: (outputs + ROWS) * width] = 0
                    for q in range(0, outputs, ROWS):
                        for m in range(ROWS):
                            rows[m] = (reads.at[start + min(q + m, outputs - 1)] - low * pitch) * width
                        _rows(acc, q * width, width, pixels, rows, moves_f, weights, 0, columns_f, taps)
                    if not plain:
                        spread_outputs(acc, outputs, across, made, y.shape[4], begin[f], steps)
                store_channels(
                    acc if plain else made, 0, width, count, lanes, (d * y.shape[3] + top) * y.shape[4], (1, 1, plane),
                    out, (n * y.shape[1] + co) * plane, (0, each * plane, 0, 0, 1), spare,
                )  # fmt: skip


@njit(nogil=True, cache=True)
def correlate(first, last, x, t, b, reads, gy, gw, pixels, cotangents, acc):  # type: ignore[no-untyped-def]
    """Items [first, last) of (share of the images, vector of input channels): gw (shares, C_out, K).

    x (N, C_in, D, H, W), gy (N, C_out, OD * OH * OW).
    """
    width, shape, flat, flat_gy = VECTOR_BYTES // x.itemsize, x.shape, x.reshape(-1), gy.reshape(-1)
    kernel, plane, each, vectors = gw.shape[2], gy.shape[2], gy.shape[1] // shape[1], -(-shape[1] // width)
    made, pitch = reads.made[0], t.pitch
    spare, rows = np.zeros(width * width, x.dtype), np.empty(ROWS, np.int64)
    steps, columns = np.empty(b.rows * made[2], np.int64), np.arange(b.rows * made[2]) * width
    total = np.empty(each * kernel * width)  # float64: bands and images are added one after the other
    for item in range(first, last):
        share, v = divmod(item, vectors)
        lanes = min(width, shape[1] - v * width)
        total[:] = 0
        for n in range(share * shape[0] // gw.shape[0], (share + 1) * shape[0] // gw.shape[0]):
            for band in range(b.number):
                low, high = read_rows(b, band, reads.made)
                for d in range(t.depth.shape[1]):
                    to = d * b.length * width
                    lay_plane(flat, shape, n, d, v * width, lanes, t, (low, high), pixels, to, width, spare)
                outputs = (min((band + 1) * b.rows, made[1]) - band * b.rows) * made[2]
                for od in range(made[0]):
                    start = (od * made[1] + band * b.rows) * made[2]
                    for q in range(outputs):
                        steps[q] = (reads.at[start + q] - low * pitch) * width
                    for e in range(each):
                        at = (n * gy.shape[1] + v * width * each + e) * plane + start
                        turn(flat_gy, at, each * plane, lanes, outputs, cotangents, 0, width, spare)
                        acc[:] = 0
                        for k in range(0, kernel, ROWS):
                            for m in range(ROWS):
                                rows[m] = reads.shift[min(k + m, kernel - 1)] * width
                            if kernel - k == 1:
                                _row(acc, k * width, width, pixels, rows, steps, cotangents, 0, columns, outputs)
                            else:
                                _rows(acc, k * width, width, pixels, rows, steps, cotangents, 0, columns, outputs)
                        for j in range(kernel * width):
                            total[e * kernel * width + j] += acc[j]
        for e in range(each):
            for lane in range(lanes):
                for k in range(kernel):
                    gw[share, (v * width + lane) * each + e, k] = total[(e * kernel + k) * width + lane]


# --------------------------------------------------------------------------------------------------
# Calls


def conv(x: Array, w: Array, y: Array, g: Geometry) -> None:
    """x (N, C_in, D, H, W), w (C_out, 1, *K) to y (N, C_out, *O)."""
    _run(x, w, y, reading(g), np.arange(prod(g.kernel)), np.zeros((1, 3), np.int64), (1, 1, 1))


def conv_input(gy: Array, w: Array, gx: Array, g: Geometry) -> None:
    """gy (N, C, *O), w (C, 1, *K) to gx (N, C, *I)."""
    found = transposed_reading(g)
    if found is None:
        gx[...] = 0
    else:
        _run(gy, w, gx, found.reading, found.taps, found.first, g.stride)


def _run(x: Array, w: Array, y: Array, r: Reading, numbers: Array, begin: Array, steps: tuple[int, ...]) -> None:
    """The arguments as in ``convolve``."""
    t, b, reads = _prepare(x, r, -(-y.shape[3] // steps[1]))
    width, w = VECTOR_BYTES // x.itemsize, w.reshape(len(w), -1)
    longest = b.rows * max(phase.made[2] for phase in r.phases)

    def work(first: int, last: int) -> None:
        pixels = scratch("pixels", (r.hull.output[0] * b.length + width) * width, x.dtype)
        acc = scratch("sums", (longest + 2 * width) * width, x.dtype)
        made = scratch("made", (b.rows * steps[1] * y.shape[4] + width) * width, x.dtype)
        convolve(first, last, x, t, b, reads, w, numbers, y, begin, steps, pixels, acc, made)

    images = len(x) * -(-x.shape[1] // width)
    parallel(work, images * b.number, images * width * (prod(r.hull.output) + reads.outputs[-1]) / 4)


def _prepare(x: Array, r: Reading, highest: int) -> tuple[Tables, Bands, Lists]:
    b = bands(r, highest, VECTOR_BYTES // x.itemsize, x.itemsize)
    return tables(r.hull), b, lists(r, b.length)


def conv_weight(x: Array, gy: Array, gw: Array, g: Geometry) -> None:
    """x (N, C_in, D, H, W), gy (N, C_out, *O) to gw (C_out, 1, *K)."""
    r = reading(g)
    t, b, reads = _prepare(x, r, g.output[1])
    width, kernel, plane = VECTOR_BYTES // x.itemsize, prod(g.kernel), prod(g.output)
    shares = max(1, min(_SHARES, len(x)))
    sums = np.empty((shares, gy.shape[1], kernel))

    def work(begin: int, end: int) -> None:
        pixels = scratch("pixels", (r.hull.output[0] * b.length + width) * width, x.dtype)
        cotangents = scratch("cotangents", (b.rows * g.output[2] + width) * width, x.dtype)
        acc = scratch("sums", (kernel + ROWS) * width, x.dtype)
        correlate(
            begin, end, x, t, b, reads, gy.reshape(*gy.shape[:2], plane), sums, pixels, cotangents, acc
        )  # fmt: skip

    items = shares * -(-x.shape[1] // width)
    parallel(work, items, x.shape[1] * len(x) * (prod(r.hull.output) + plane) / 4)
    gw.reshape(len(gw), kernel)[...] = sums.sum(0)
