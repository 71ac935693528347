"""Convolution as a matrix product with columns of pixels, a tile of them at a time.

Idea. Written as a column for each output position, with a row for each tap of each channel, the pixels turn a
convolution into one matrix product ("im2col"). All columns together are K times the image, so they are made for a block
of positions at a time, which stays in the cache until every output channel has used it. A block holds neighbours in the
order of the output, images after each other: nothing is computed that is not wanted, however small the images are.

Cost. 2 C_out C_in K operations a position, and C_in K numbers copied: best for small images with many output channels,
where the copies are used often; for few input channels in the weight gradient, whose vectors run over all taps of them.
Source: Chellapilla, Puri and Simard, "High performance convolutional neural networks for document processing", 2006.
"""

from __future__ import annotations

from math import prod

import numpy as np
from numba import njit

from tinyconv.geometry import Geometry
from tinyconv.kernels.arrays import Array
from tinyconv.kernels.cpu.direct import lay_piece, tables
from tinyconv.kernels.cpu.memory import scratch
from tinyconv.kernels.cpu.product import copy_to_strided_run, leaf, multiply_block, transpose
from tinyconv.kernels.cpu.simd import ROWS, VECTOR_BYTES, copy_vector, prefetch
from tinyconv.kernels.threads import get_num_threads, parallel

_vector = copy_vector[1]


@leaf
def lay_columns(  # type: ignore[no-untyped-def]
    flat, shape, n, channels, od, start, stop, across, depth, rows, runs, tap_plane, tap_row, tap_column, step,
    pitch, reach, planes, piece, columns, row_length, at,
):  # fmt: skip
    """columns[(c, tap), at + position - start], positions [start, stop) of the output plane od, rows of ``across``.

    Whole vectors are written, so up to a vector beyond the last position.
    """
    width = VECTOR_BYTES // flat.itemsize
    begin = start // across * pitch + start % across
    length = (stop - 1) // across * pitch + (stop - 1) % across + 1 - begin + reach
    lay_piece(flat, shape, n, channels, od, begin, length, depth, rows, runs, pitch, step, piece)
    row = at
    for c in range(channels[1] - channels[0]):
        for t in range(tap_plane.size):
            source = (c * planes + tap_plane[t]) * length + tap_row[t] * pitch + tap_column[t]
            position = start
            while position < stop:
                oh = position // across
                ow = position - oh * across
                wide = min(across - ow, stop - position)
                for j in range(0, wide, width):
                    _vector(columns, row + position - start + j, piece, source + oh * pitch + ow - begin + j)
                position += wide
            row += row_length


@njit(nogil=True, cache=True)
def convolve(  # type: ignore[no-untyped-def]
    first, last, x, w, y, base, strides, out, groups, block, row_length, chunk, parts,
    depth, rows, runs, step, tap_plane, tap_row, tap_column, pitch, reach, planes, piece, columns, acc,
):  # fmt: skip
    """Items [first, last) of (group, block of positions, part of the channels); arguments as in direct.convolve."""
    taps, plane = tap_plane.size, out[1] * out[2]
    c_in, c_out = x.shape[1] // groups, w.size // (x.shape[1] // groups * taps) // groups
    positions = x.shape[0] * out[0] * plane
    blocks = -(-positions // block)
    at_row, flat = np.arange(chunk * taps) * row_length, x.reshape(-1)
    for item in range(first, last):
        rest, part = divmod(item, parts)
        group, b = divmod(rest, blocks)
        start, stop = b * block, min((b + 1) * block, positions)
        tiles = -(-c_out // ROWS)
        co_first, co_last = part * tiles // parts * ROWS, min((part + 1) * tiles // parts * ROWS, c_out)
        acc[: (co_last - co_first + ROWS - 1) // ROWS * ROWS * block] = 0
        for c in range(0, c_in, chunk):
            c_last = min(c + chunk, c_in)
            channels = (group * c_in + c, group * c_in + c_last)
            position = start
            while position < stop:
                slab, low = divmod(position, plane)
                n, od = divmod(slab, out[0])
                high = min(plane, low + stop - position)
                lay_columns(
                    flat, x.shape, n, channels, od, low, high, out[2], depth, rows, runs, tap_plane, tap_row,
                    tap_column, step, pitch, reach, planes, piece, columns, row_length, position - start,
                )  # fmt: skip
                position += high - low
            at, terms = group * c_out + co_first, (c_last - c) * taps
            multiply_block(
                acc, block, w, at, group * c_out + co_last, c_in * taps, c * taps, 1,
                columns, 0, at_row, terms, stop - start,
            )  # fmt: skip
        for co in range(co_first, co_last):
            to = base + (group * c_out + co) * strides[1]
            store_positions(acc, (co - co_first) * block, start, stop, out, y, to, strides)


@leaf
def store_positions(acc, at, start, stop, out, y, to, strides):  # type: ignore[no-untyped-def]
    """Output positions [start, stop) of one channel, in the order n, od, oh, ow."""
    width = VECTOR_BYTES // acc.itemsize
    position = start
    while position < stop:
        row, ow = position // out[2], position % out[2]
        plane, oh = row // out[1], row % out[1]
        wide = min(out[2] - ow, stop - position)
        first = to + plane // out[0] * strides[0] + plane % out[0] * strides[2] + oh * strides[3] + ow * strides[4]
        if strides[4] == 1:
            for j in range(0, wide, width):  # the next channel's row
                prefetch(y, first + strides[1] + j)
        copy_to_strided_run(y, first, strides[4], acc, at + position - start, wide)
        position += wide


@njit(nogil=True, cache=True)
def correlate(  # type: ignore[no-untyped-def]
    first, last, x, gy, gw, out, groups, block, row_length, chunk,
    depth, rows, runs, step, tap_plane, tap_row, tap_column, pitch, reach, planes, piece, columns, turned, acc, total,
):  # fmt: skip
    """Items [first, last) of (group, chunk of its channels): gw (C_out, C_in/G, K), as in direct.correlate."""
    taps, width, plane = tap_plane.size, VECTOR_BYTES // x.itemsize, out[1] * out[2]
    c_in, c_out = x.shape[1] // groups, gw.shape[0] // groups
    chunks = -(-c_in // chunk)
    high = -(-c_out // ROWS) * ROWS
    flat = x.reshape(-1)
    for item in range(first, last):
        group, c = item // chunks, item % chunks * chunk
        terms = min(chunk, c_in - c) * taps
        wide = -(-terms // width) * width
        at_row = np.arange(block) * wide
        acc[: high * wide] = 0
        total[: high * wide] = 0
        summed = 0
        channels = (group * c_in + c, group * c_in + min(c + chunk, c_in))
        for slab in range(x.shape[0] * out[0]):
            n, od = divmod(slab, out[0])
            for start in range(0, plane, block):
                stop = min(start + block, plane)
                lay_columns(
                    flat, x.shape, n, channels, od, start, stop, out[2], depth, rows, runs, tap_plane, tap_row,
                    tap_column, step, pitch, reach, planes, piece, columns, row_length, 0,
                )  # fmt: skip
                transpose(columns, row_length, terms, turned, wide)
                at = ((n * groups + group) * c_out * out[0] + od) * plane + start
                multiply_block(
                    acc, wide, gy, 0, c_out, out[0] * plane, at, 1, turned, 0, at_row, stop - start, wide
                )  # fmt: skip
                summed += stop - start
                if summed >= 1024:
                    for j in range(high * wide):
                        total[j] += acc[j]
                    acc[: high * wide] = 0
                    summed = 0
        for co in range(c_out):
            for k in range(terms):
                gw[group * c_out + co, c + k // taps, k % taps] = total[co * wide + k] + acc[co * wide + k]


_SUMS, _COLUMNS = 192 << 10, 384 << 10  # bytes of a block's sums and of its columns: both stay in the second cache


def run(x: Array, w: Array, y: Array, base: int, strides: tuple[int, ...], g: Geometry, groups: int) -> None:
    """The convolution of x (N, C_in, D, H, W) with w (C_out, C_in/G * K) into the flat array y.

    Element (n, co, od, oh, ow) goes to ``base`` + the sum of index times stride.
    """
    t = tables(g)
    c_in, c_out, taps = x.shape[1] // groups, len(w) // groups, prod(g.kernel)
    width = VECTOR_BYTES // x.itemsize
    whole = 3 * width  # positions of a tile
    positions = len(x) * prod(g.output)
    block = (
        min(max(1, -(-positions // whole)), 384 // whole, max(2, _SUMS // x.itemsize // min(c_out, 512) // whole))
        * whole
    )
    row_length = block + width
    chunk = max(1, min(c_in, _COLUMNS // x.itemsize // (row_length * taps)))
    items = groups * -(-positions // block)
    # The channels are divided where they are many, or items fewer than threads.
    parts = min(-(-c_out // ROWS), max(-(-c_out // 512), -(-2 * get_num_threads() // max(1, items))))
    length = min(block // g.output[2] + 2, g.output[1]) * t.pitch + min(block, g.output[2]) + t.reach

    def work(first: int, last: int) -> None:
        piece = scratch("piece", chunk * t.planes * length, x.dtype)
        columns = scratch("columns", chunk * taps * row_length, x.dtype)
        acc = scratch("sums", (-(-c_out // ROWS // parts) + 1) * ROWS * block, x.dtype)
        convolve(
            first, last, x, w.reshape(-1), y, base, strides, g.output, groups, block, row_length, chunk, parts,
            t.depth, t.rows, t.runs, g.stride[2], t.tap_plane, t.tap_row, t.tap_column, t.pitch, t.reach, t.planes,
            piece, columns, acc,
        )  # fmt: skip

    parallel(work, items * parts, 2 * positions * len(w) * c_in * taps / 100)


def conv_weight(x: Array, gy: Array, g: Geometry, groups: int) -> Array:
    """x (N, C_in, D, H, W), gy (N, C_out, *O) to gw (C_out, C_in/groups, *K)."""
    t = tables(g)
    c_in, c_out, width = x.shape[1] // groups, gy.shape[1] // groups, VECTOR_BYTES // x.itemsize
    taps = prod(g.kernel)
    gw = np.empty((groups * c_out, c_in, taps), x.dtype)
    block = min(256, g.output[1] * g.output[2])  # depends on the shapes alone, for it decides the order of the sums
    row_length = -(-block // width) * width + width
    chunk = min(c_in, max(1, 256 // taps))
    wide, high = -(-chunk * taps // width) * width, -(-c_out // ROWS) * ROWS
    length = min(block // g.output[2] + 2, g.output[1]) * t.pitch + min(block, g.output[2]) + t.reach

    def work(first: int, last: int) -> None:
        piece = scratch("piece", chunk * t.planes * length, x.dtype)
        columns = scratch("columns", wide * row_length, x.dtype)
        turned = scratch("turned", row_length * wide, x.dtype)
        acc, total = scratch("sums", high * wide, x.dtype), scratch("total", high * wide, x.dtype)
        correlate(
            first, last, x, gy.reshape(-1), gw, g.output, groups, block, row_length, chunk,
            t.depth, t.rows, t.runs, g.stride[2], t.tap_plane, t.tap_row, t.tap_column, t.pitch, t.reach, t.planes,
            piece, columns, turned, acc, total,
        )  # fmt: skip

    parallel(work, groups * -(-c_in // chunk), 2 * gy.size * c_in * taps / 100)
    return gw.reshape(groups * c_out, c_in, *g.kernel)
