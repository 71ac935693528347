"""The weight gradient for few input channels, with columns of pixels: a block of outputs at a time.

Idea. Written as a column for each output, with a row for each tap of each channel, the pixels turn a convolution into
one matrix product ("im2col"). Where a pixel has one channel or three, only its taps together fill a vector; so here the
columns are built, for some outputs at a time, and turned around to let the vectors run over all taps of all channels.

Cost. 2 C_out C_in K operations an output, and C_in K numbers copied and turned: little beside 64 output channels.
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
from tinyconv.kernels.cpu.product import leaf, multiply_block, transpose
from tinyconv.kernels.cpu.simd import ROWS, VECTOR_BYTES, copy_vector
from tinyconv.kernels.threads import parallel

_vector = copy_vector[1]

_BLOCK = 256  # outputs whose columns are built at a time
_SHARES = 4  # that the outputs are divided into, for threads to sum side by side


@leaf
def lay_columns(flat, shape, n, channels, od, start, stop, across, t, step, piece, columns, row_length):  # type: ignore[no-untyped-def]
    """columns[(c, tap), position - start], positions [start, stop) of the output plane od, rows of ``across``.

    Whole vectors are written, so up to a vector beyond the last position.
    """
    width, pitch = VECTOR_BYTES // flat.itemsize, t.pitch
    begin = start // across * pitch + start % across
    length = (stop - 1) // across * pitch + (stop - 1) % across + 1 - begin + t.reach
    lay_piece(flat, shape, n, channels, od, begin, length, t.depth, t.rows, t.runs, pitch, step, piece)
    row = 0
    for c in range(channels[1] - channels[0]):
        for k in range(t.tap_plane.size):
            source = (c * t.planes + t.tap_plane[k]) * length + t.tap_row[k] * pitch + t.tap_column[k]
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
def correlate(  # type: ignore[no-untyped-def]
    first, last, x, gy, gw, out, groups, block, row_length, chunk, t, step, piece, columns, turned, acc, total
):
    """Items [first, last) of (share of the outputs, group, chunk of its channels): gw (shares, C_out, C_in/G, K).

    x (N, C_in, D, H, W); gy flat, (N, C_out, OD * OH * OW).
    """
    taps, width, plane = t.tap_plane.size, VECTOR_BYTES // x.itemsize, out[1] * out[2]
    c_in, c_out = x.shape[1] // groups, gw.shape[1] // groups
    chunks, blocks = -(-c_in // chunk), -(-plane // block)
    high, all_blocks = -(-c_out // ROWS) * ROWS, x.shape[0] * out[0] * blocks
    flat, steps = x.reshape(-1), np.arange(block)
    for item in range(first, last):
        rest, part = divmod(item, chunks)
        share, group = divmod(rest, groups)
        c = part * chunk
        terms = min(chunk, c_in - c) * taps
        wide = -(-terms // width) * width
        at_row = steps * wide
        acc[: high * wide] = 0
        total[: high * wide] = 0
        summed = 0
        channels = (group * c_in + c, group * c_in + min(c + chunk, c_in))
        for b in range(share * all_blocks // gw.shape[0], (share + 1) * all_blocks // gw.shape[0]):
            slab, start = b // blocks, b % blocks * block
            n, od = divmod(slab, out[0])
            stop = min(start + block, plane)
            lay_columns(flat, x.shape, n, channels, od, start, stop, out[2], t, step, piece, columns, row_length)
            transpose(columns, row_length, terms, turned, wide)
            at = ((n * groups + group) * c_out * out[0] + od) * plane + start
            multiply_block(acc, wide, gy, 0, c_out, out[0] * plane, at, steps, turned, 0, at_row, stop - start, wide)
            summed += stop - start
            if summed >= 1024:  # long sums are made of shorter ones, which keeps their rounding small
                for j in range(high * wide):
                    total[j] += acc[j]
                acc[: high * wide] = 0
                summed = 0
        for co in range(c_out):
            for k in range(terms):
                at = co * wide + k
                gw[share, group * c_out + co, c + k // taps, k % taps] = total[at] + acc[at]


def conv_weight(x: Array, gy: Array, gw: Array, g: Geometry, groups: int) -> None:
    """x (N, C_in, D, H, W), gy (N, C_out, *O) to gw (C_out, C_in/groups, *K)."""
    t = tables(g)
    c_in, c_out, width = x.shape[1] // groups, gy.shape[1] // groups, VECTOR_BYTES // x.itemsize
    taps, plane = prod(g.kernel), g.output[1] * g.output[2]
    # Both depend on the shapes alone, for they decide the order of the sums.
    block = min(_BLOCK, plane)
    shares = max(1, min(_SHARES, len(x) * g.output[0] * -(-plane // block)))
    sums = np.empty((shares, groups * c_out, c_in, taps), x.dtype)
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
            first, last, x, gy.reshape(-1), sums, g.output, groups, block, row_length, chunk, t, g.stride[2],
            piece, columns, turned, acc, total,
        )  # fmt: skip

    parallel(work, shares * groups * -(-c_in // chunk), 2 * gy.size * c_in * taps / 100)
    np.sum(sums, 0, out=gw.reshape(sums.shape[1:]))
