"""Convolution with one input channel a group, and its weight gradient: an image at a time.

Idea. Nothing is shared among channels, so the shifted planes of ``direct`` are laid out for one image of one channel,
and all its taps read them while they are in the first cache. The next image lies in the same places, so the padding is
written once. The cotangent lies in the same flat order, with zeros between its rows:

    y[n, co, o] = sum over k      w[co, k] x[n, c, o + shift(k)]
    gw[co, k]   = sum over n, o   gy[n, co, o] x[n, c, o + shift(k)]

Cost. 2 K operations for each number read or written: bound by memory.
"""

from __future__ import annotations

from math import prod

import numpy as np
from numba import njit

from tinyconv.geometry import Geometry
from tinyconv.kernels.arrays import Array
from tinyconv.kernels.cpu.direct import store_rows, tables
from tinyconv.kernels.cpu.memory import scratch
from tinyconv.kernels.cpu.product import LEAF, copy_run, copy_strided_run, leaf, multiply_row
from tinyconv.kernels.threads import parallel


@leaf
def lay_image(flat, shape, n, c, od, depth, rows, runs, pitch, step, length, piece):  # type: ignore[no-untyped-def]
    """The pixels of one channel into their places on the planes of ``length``, whose padding is zero already."""
    at = 0
    for kd in range(depth.shape[0]):
        id_ = depth[kd, od]
        image = ((n * shape[1] + c) * shape[2] + id_) * shape[3] * shape[4]
        for ph in range(rows.shape[0]):
            for pw in range(runs.shape[0]):
                inside, count, first = runs[pw, 0], runs[pw, 1], runs[pw, 2]
                for u in range(rows.shape[1]):
                    ih, to = rows[ph, u], at + u * pitch + inside
                    if id_ >= 0 and ih >= 0:
                        copy_strided_run(piece, to, flat, image + ih * shape[4] + first, step, count)
                    elif ih >= 0:
                        for j in range(to, to + count):
                            piece[j] = 0
                at += length


@njit(nogil=True, cache=True)
def convolve(  # type: ignore[no-untyped-def]
    first, last, x, w, y, base, strides, out, each,
    depth, rows, runs, step, tap_plane, tap_row, tap_column, pitch, reach, planes, piece, acc,
):  # fmt: skip
    """Images [first, last) of (n, co), ``each`` output channels to a group; arguments as in direct.convolve."""
    taps, positions = tap_plane.size, (out[1] - 1) * pitch + out[2]
    length = positions + reach
    columns = tap_plane * length + tap_row * pitch + tap_column
    c_out, row, flat = x.shape[1] * each, np.empty(1, np.int64), x.reshape(-1)
    piece[: planes * length] = 0
    for item in range(first, last):
        n, co = divmod(item, c_out)
        c = co // each
        for od in range(out[0]):
            lay_image(flat, x.shape, n, c, od, depth, rows, runs, pitch, step, length, piece)
            for q in range(positions):
                acc[q] = 0
            row[0] = co * taps
            multiply_row(acc, w, row, piece, columns, taps, positions)
            to = base + n * strides[0] + co * strides[1] + od * strides[2]
            store_rows(acc, 0, 0, positions, pitch, y, to, strides, out[2])


def run(x: Array, w: Array, y: Array, base: int, strides: tuple[int, ...], g: Geometry, groups: int) -> None:
    """The convolution of x (N, C, D, H, W) with w (C_out, K) into the flat array y, as in direct.run."""
    t = tables(g)
    positions = (g.output[1] - 1) * t.pitch + g.output[2]

    def work(first: int, last: int) -> None:
        piece = scratch("piece", t.planes * (positions + t.reach), x.dtype)
        convolve(
            first, last, x, w.reshape(-1), y, base, strides, g.output, len(w) // groups,
            t.depth, t.rows, t.runs, g.stride[2], t.tap_plane, t.tap_row, t.tap_column, t.pitch, t.reach, t.planes,
            piece, scratch("sums", positions, x.dtype),
        )  # fmt: skip

    images = len(x) * len(w)
    parallel(work, images, images * prod(g.output) * (1 + prod(g.kernel) / 10))


@njit(**LEAF, fastmath={"reassoc", "contract"})  # the compiler orders the sum, once for all
def inner_product(a, b):  # type: ignore[no-untyped-def]
    """The sum of a[i] b[i]."""
    total = a.dtype.type(0)
    for i in range(a.size):
        total += a[i] * b[i]
    return total


@leaf
def add_products(gw, co, a, b, columns, count):  # type: ignore[no-untyped-def]
    """gw[co, t] += the inner product of a and the part of b that tap t reads."""
    for t in range(columns.size):
        gw[co, t] += inner_product(a[:count], b[columns[t] : columns[t] + count])


@leaf
def spread_rows(out, pitch, a, at, size):  # type: ignore[no-untyped-def]
    """The rows of a plane of ``size`` (D, H, W) from a[at] on, ``pitch`` apart."""
    for row in range(size[1]):
        copy_run(out, row * pitch, a, at + row * size[2], size[2])


@njit(nogil=True, cache=True)
def correlate(  # type: ignore[no-untyped-def]
    first, last, x, gy, gw, out,
    depth, rows, runs, step, tap_plane, tap_row, tap_column, pitch, reach, planes, piece, cotangent,
):  # fmt: skip
    """Output channels [first, last): gw (C_out, K) from x (N, C_in, D, H, W) and gy (N, C_out, OD, OH, OW)."""
    positions = (out[1] - 1) * pitch + out[2]
    length = positions + reach
    columns = tap_plane * length + tap_row * pitch + tap_column
    pixels, flat = x.reshape(-1), gy.reshape(-1)
    piece[: planes * length] = 0
    cotangent[:positions] = 0
    for co in range(first, last):
        c = co // (gy.shape[1] // x.shape[1])
        for n in range(x.shape[0]):
            for od in range(out[0]):
                lay_image(pixels, x.shape, n, c, od, depth, rows, runs, pitch, step, length, piece)
                image = ((n * gy.shape[1] + co) * out[0] + od) * out[1] * out[2]
                spread_rows(cotangent, pitch, flat, image, out)
                add_products(gw, co, cotangent, piece, columns, positions)


def conv_weight(x: Array, gy: Array, g: Geometry) -> Array | None:
    """x (N, C_in, D, H, W), gy (N, C_out, *O) to gw (C_out, 1, *K); None where a result is not finite.

    A zero between the rows of the cotangent may have met an infinity that no window reads.
    """
    t = tables(g)
    gw = np.zeros((gy.shape[1], prod(g.kernel)))  # float64: images are added one after the other
    positions = (g.output[1] - 1) * t.pitch + g.output[2]

    def work(first: int, last: int) -> None:
        piece = scratch("piece", t.planes * (positions + t.reach), x.dtype)
        correlate(
            first, last, x, gy, gw, g.output,
            t.depth, t.rows, t.runs, g.stride[2], t.tap_plane, t.tap_row, t.tap_column, t.pitch, t.reach, t.planes,
            piece, scratch("sums", positions, x.dtype),
        )  # fmt: skip

    parallel(work, len(gw), gy.size * (1 + prod(g.kernel) / 4))
    return gw.astype(x.dtype).reshape(len(gw), 1, *g.kernel) if np.isfinite(gw).all() else None
