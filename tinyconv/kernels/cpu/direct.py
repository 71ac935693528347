"""Convolution, tap by tap on shifted planes: the definition's sums, in the definition's order.

Idea. Cut a piece out of the padded image and let it lie flat, row after row. A tap then reads, for all outputs of the
piece, one run of neighbours: the same flat piece, begun a few numbers later. With a stride, the pixels are first sorted
by their remainder modulo the stride (``Geometry.planes``), and it is a run again. So

    y[co, q] = sum over ci, k   w[co, ci, k] piece[ci, q + shift(k)]

is a matrix product whose second factor nobody has to build. The rows of the padded image are longer than those of the
output; what is computed between them is thrown away.

Cost. 2 C_out C_in K operations a position, of which O_w / (O_w + k_w - 1) are of use; the piece is copied once, and
read K times out of the cache. Best for large images and few channels, where columns would cost more than their product.
"""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import NamedTuple

import numpy as np
from numba import njit

from tinyconv.geometry import Geometry
from tinyconv.kernels.arrays import Array
from tinyconv.kernels.cpu.memory import scratch
from tinyconv.kernels.cpu.product import copy_strided_run, copy_to_strided_run, leaf, multiply_block
from tinyconv.kernels.cpu.simd import ROWS, VECTOR_BYTES, clear_vector, prefetch
from tinyconv.kernels.threads import get_num_threads, parallel

_SUMS, _PIECE = (
    256 << 10,
    320 << 10,
)  # bytes of a block's sums and of its piece of the image: both stay in the second cache


class Tables(NamedTuple):
    """A geometry of three axes as arrays. L: positions of a plane on an axis; P: its planes; K: its taps."""

    depth: Array  # (K_d, O_d) the input index that each tap reads, -1 for padding
    rows: Array  # (P_h, L_h) the input row at each position of each plane, -1 for padding
    runs: Array  # (P_w, 3) of each plane's columns: the first on the image, how many, and the input column of the first
    tap_plane: Array  # (K,) of each tap (kd, kh, kw), the plane (kd, ph, pw) that it reads
    tap_row: Array  # (K,) and how many rows
    tap_column: Array  # (K,) and columns further on
    pitch: int  # L_w
    reach: int  # how far beyond the last output position the taps read, in flat positions
    planes: int  # K_d P_h P_w


@lru_cache(maxsize=256)
def tables(g: Geometry) -> Tables:
    """The tables of a geometry with three axes."""
    d, h, w = (g.planes(axis) for axis in range(3))
    depth = [[d.pixels[d.plane[k]][o + d.shift[k]] for o in range(g.output[0])] for k in range(g.kernel[0])]
    runs = []
    for columns in w.pixels:
        inside = [u for u, i in enumerate(columns) if i >= 0]
        runs.append((inside[0], len(inside), columns[inside[0]]) if inside else (0, 0, 0))
    taps = list(g.taps())
    pitch = len(w.pixels[0])
    tap_row, tap_column = [h.shift[kh] for _, kh, _ in taps], [w.shift[kw] for _, _, kw in taps]
    per_depth = len(h.pixels) * len(w.pixels)
    return Tables(
        np.array(depth),
        np.array(h.pixels),
        np.array(runs),
        np.array([kd * per_depth + h.plane[kh] * len(w.pixels) + w.plane[kw] for kd, kh, kw in taps]),
        np.array(tap_row),
        np.array(tap_column),
        pitch,
        max(row * pitch + column for row, column in zip(tap_row, tap_column)),
        g.kernel[0] * per_depth,
    )


@leaf
def lay_piece(flat, shape, n, channels, od, start, length, depth, rows, runs, pitch, step, piece):  # type: ignore[no-untyped-def]
    """Flat positions [start, start + length) of the planes of some channels, for the outputs of depth od.

    flat of ``shape`` (N, C, D, H, W); channels (first, last); piece [c, plane, position] on a flat array.
    """
    planes_h, planes_w, height = rows.shape[0], runs.shape[0], rows.shape[1]
    plane_in, line = shape[2] * shape[3] * shape[4], VECTOR_BYTES // flat.itemsize
    top = start // pitch
    bottom = (start + length - 1) // pitch + 1
    at = 0
    for c in range(channels[0], channels[1]):
        for kd in range(depth.shape[0]):
            id_ = depth[kd, od]
            image = ((n * shape[1] + c) * shape[2] + id_) * shape[3] * shape[4]
            for ph in range(planes_h):
                for pw in range(planes_w):
                    inside, count, first = runs[pw, 0], runs[pw, 1], runs[pw, 2]
                    for u in range(top, bottom):
                        low, high = max(start - u * pitch, 0), min(start + length - u * pitch, pitch)  # columns wanted
                        left, right = min(max(inside, low), high), min(max(inside + count, low), high)  # on the image
                        ih = rows[ph, u] if u < height else -1
                        if id_ < 0 or ih < 0:
                            left = right = high
                        to = at + u * pitch - start
                        for j in range(to + low, to + left, line):  # beyond: written over by what comes next
                            clear_vector(piece, j)
                        source = image + ih * shape[4] + first - inside * step
                        for column in range(left * step, right * step, line):  # the next channel's row
                            prefetch(flat, source + plane_in + column)
                        copy_strided_run(piece, to + left, flat, source + left * step, step, right - left)
                        for j in range(to + right, to + high, line):
                            clear_vector(piece, j)
                    at += length


@njit(nogil=True, cache=True)
def convolve(  # type: ignore[no-untyped-def]
    first, last, x, w, y, base, strides, out, groups, block, chunk, parts, t, step, piece, acc, columns
):
    """Items [first, last) of (image, group, depth, block of positions, part of the channels).

    x (N, C_in, D, H, W); w (C_out, C_in/G * K) flat; y flat, its element (n, co, od, oh, ow) at base + the sum of index
    times stride; out (OD, OH, OW).
    """
    taps, pitch = t.tap_plane.size, t.pitch
    c_in, c_out = x.shape[1] // groups, w.size // (x.shape[1] // groups * taps) // groups
    positions = (out[1] - 1) * pitch + out[2]
    blocks = -(-positions // block)
    flat, steps = x.reshape(-1), np.arange(chunk * taps)
    for item in range(first, last):
        rest, part = divmod(item, parts)
        rest, b = divmod(rest, blocks)
        rest, od = divmod(rest, out[0])
        n, group = divmod(rest, groups)
        start = b * block
        count = min(block, positions - start)
        length = count + t.reach
        tiles = -(-c_out // ROWS)
        co_first, co_last = part * tiles // parts * ROWS, min((part + 1) * tiles // parts * ROWS, c_out)
        acc[: (co_last - co_first + ROWS - 1) // ROWS * ROWS * block] = 0
        for c in range(0, c_in, chunk):
            c_last = min(c + chunk, c_in)
            channels = (group * c_in + c, group * c_in + c_last)
            lay_piece(flat, x.shape, n, channels, od, start, length, t.depth, t.rows, t.runs, pitch, step, piece)
            k = 0
            for channel in range(c_last - c):
                for tap in range(taps):
                    plane = channel * t.planes + t.tap_plane[tap]
                    columns[k] = plane * length + t.tap_row[tap] * pitch + t.tap_column[tap]
                    k += 1
            at = group * c_out + co_first
            multiply_block(
                acc, block, w, at, group * c_out + co_last, c_in * taps, c * taps, steps, piece, 0, columns, k, count
            )
        for co in range(co_first, co_last):
            to = base + n * strides[0] + (group * c_out + co) * strides[1] + od * strides[2]
            store_rows(acc, (co - co_first) * block, start, count, pitch, y, to, strides, out[2])


@leaf
def store_rows(acc, at, start, count, pitch, y, to, strides, across):  # type: ignore[no-untyped-def]
    """The rows of one channel, without what lies between them, from its sums at flat positions from ``start`` on."""
    line = VECTOR_BYTES // acc.itemsize
    for oh in range(start // pitch, (start + count - 1) // pitch + 1):
        low, high = max(start - oh * pitch, 0), min(start + count - oh * pitch, across)
        row = to + oh * strides[3] + low * strides[4]
        if strides[4] == 1:
            for column in range(0, high - low, line):  # the next channel's row
                prefetch(y, row + strides[1] + column)
        copy_to_strided_run(y, row, strides[4], acc, at + oh * pitch - start + low, high - low)


def conv(x: Array, w: Array, y: Array, base: int, strides: tuple[int, ...], g: Geometry, groups: int) -> None:
    """The convolution of x (N, C_in, D, H, W) with w (C_out, C_in/G * K) into the flat array y.

    Element (n, co, od, oh, ow) goes to ``base`` + the sum of index times stride.
    """
    t = tables(g)
    c_in, c_out = x.shape[1] // groups, len(w) // groups
    whole = 3 * VECTOR_BYTES // x.itemsize  # positions of a tile
    positions = (g.output[1] - 1) * t.pitch + g.output[2]
    block = min(-(-positions // whole), max(2, _SUMS // x.itemsize // min(c_out, 512) // whole)) * whole
    length = block + t.reach
    chunk = max(1, min(c_in, _PIECE // x.itemsize // (length * t.planes)))
    items = len(x) * groups * g.output[0] * -(-positions // block)
    operations = 2 * len(x) * len(w) * c_in * prod(g.kernel) * prod(g.output)
    # The channels are divided where they are many, or items fewer than threads.
    parts = min(-(-c_out // ROWS), max(-(-c_out // 512), -(-2 * get_num_threads() // max(1, items))))

    def work(first: int, last: int) -> None:
        piece = scratch("piece", chunk * t.planes * length, x.dtype)
        acc = scratch("sums", (-(-c_out // ROWS // parts) + 1) * ROWS * block, x.dtype)
        columns = np.empty(chunk * prod(g.kernel), np.int64)
        convolve(
            first, last, x, w.reshape(-1), y, base, strides, g.output, groups, block, chunk, parts, t, g.stride[2],
            piece, acc, columns,
        )  # fmt: skip

    parallel(work, items * parts, operations / 100)
