"""Convolution as a matrix product whose columns are never built: a tile reads its pixels wherever they lie.

Idea. "im2col" makes one matrix product of a convolution, with a column of pixels for each output: K times the images
in memory. But a tile of a product needs no more of a column than the address where each of its numbers is. So turn the
padded images around, until the channels of a pixel are neighbours; then let a tile take eight outputs, wherever they
are, and run over taps and channels:

    y[p, co]      = sum over ci, k   pixels[at(p) + shift(k), ci] w[co, ci, k]
    gw[co, k, ci] = sum over p       gy[p, co] pixels[at(p) + shift(k), ci]

The list ``at`` runs over all images, so small images cost no more than large ones; a stride only spaces it out, and
nothing is computed that is not wanted. The vectors run over channels: the weights are turned around as well, so that
those of neighbouring output channels are neighbours, a panel at a time that stays in the cache.

Cost. 2 C_out C_in K operations an output; each pixel and each output is turned around once, each weight once for a
block of outputs. Best for small images, strides and many channels; for few channels the vectors are half empty.
Source of the columns: Chellapilla, Puri and Simard, "High performance convolutional neural networks for document
processing", 2006; of leaving them out: Chetlur et al., "cuDNN: efficient primitives for deep learning", 2014.
"""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from tinyconv.geometry import Geometry, Sizes
from tinyconv.kernels.arrays import Array, scratch_limit
from tinyconv.kernels.cpu.direct import Tables, tables
from tinyconv.kernels.cpu.memory import scratch
from tinyconv.kernels.cpu.product import copy_run, copy_to_strided_run, leaf
from tinyconv.kernels.cpu.simd import ROWS, VECTOR_BYTES, clear_vector, deal_tile, multiply_tile, transpose_tile
from tinyconv.kernels.threads import get_num_threads, parallel

_three, _two, _one = multiply_tile[ROWS, 3], multiply_tile[ROWS, 2], multiply_tile[ROWS, 1]
_deal_four, _deal_eight = deal_tile[4], deal_tile[8]

_VECTORS = 3  # of channels, that a tile spans at most
_POSITIONS = 1024  # outputs of a block, of all phases together
_PANEL = 256 << 10  # bytes of the weights that are turned around at a time
_SUMS = 256 << 10  # bytes of the weight gradients that are summed at a time
_STEPS = 128  # outputs that a tile of the weight gradient sums at a time

# --------------------------------------------------------------------------------------------------
# Which pixels are read


class Phase(NamedTuple):
    """Outputs whose tap k reads, for output o, the pixel o * step + k * dilation + start of the hull on each axis."""

    made: Sizes
    start: Sizes
    step: Sizes
    dilation: Sizes
    kernel: Sizes


class Reading(NamedTuple):
    """A direct map has one phase; a transposed one has one for each remainder of its outputs modulo the stride."""

    hull: Geometry  # of the padded images, as windows of one pixel
    phases: tuple[Phase, ...]


class Lists(NamedTuple):
    """A reading in numbers of pixels, the phases one after the other."""

    at: Array  # (outputs,) of each output: the pixel that its tap (0, 0, 0) reads
    shift: Array  # (taps,) of each tap: how much further on it reads
    outputs: Array  # (phases + 1,) where the outputs of each phase begin
    taps: Array  # (phases + 1,) and its taps
    made: Array  # (phases, 3) outputs on each axis


@lru_cache(maxsize=256)
def reading(g: Geometry) -> Reading:
    """The reading of a direct map. Where the window is one row high, its hull keeps only the rows that are read."""
    single = (g.kernel[0] == 1, g.kernel[1] == 1, False)
    steps = tuple(s if one else 1 for s, one in zip(g.stride, single))
    padded = (size + sum(padding) for size, padding in zip(g.size, g.padding))
    pixels = tuple(o if one else p for o, p, one in zip(g.output, padded, single))
    hull = Geometry(g.size, (1, 1, 1), steps, g.padding, (1, 1, 1), pixels)
    strides = tuple(1 if one else s for s, one in zip(g.stride, single))
    return Reading(hull, (Phase(g.output, (0, 0, 0), strides, g.dilation, g.kernel),))


class TransposedReading(NamedTuple):
    """The reading of a transposed map."""

    reading: Reading
    taps: Array  # (taps,) the number that each has in the weights
    first: Array  # (phases, 3) the first output of each phase
    gaps: bool  # whether there are outputs that no tap reads for


@lru_cache(maxsize=256)
def transposed_reading(g: Geometry) -> TransposedReading | None:
    """Of the map that ``g`` is the transpose of; None where all windows lie beside the image."""
    all_phases = g.transposed_phases()
    phases = [phase for phase in all_phases if min(phase.kernel)]
    if not phases:
        return None
    low = np.max([phase.before for phase in phases], 0)
    last = [
        np.subtract(p.made, 1) + np.subtract(p.kernel, 1) * np.array(p.dilation) - np.array(p.before) for p in phases
    ]
    high = np.max(last, 0) - g.output + 1
    padding = tuple((int(before), int(after)) for before, after in zip(low, high))
    pixels = tuple(int(n) for n in low + g.output + high)
    hull = Geometry(g.output, (1, 1, 1), (1, 1, 1), padding, (1, 1, 1), pixels)
    readers = (Phase(p.made, tuple(low - p.before), (1, 1, 1), p.dilation, p.kernel) for p in phases)
    numbers = np.arange(prod(g.kernel)).reshape(g.kernel)
    taps = np.concatenate([numbers[phase.taps].reshape(-1) for phase in phases])
    first = np.array([[pixels.start for pixels in phase.pixels] for phase in phases])
    return TransposedReading(Reading(hull, tuple(readers)), taps, first, len(phases) < len(all_phases))


@lru_cache(maxsize=256)
def lists(r: Reading, length: int) -> Lists:
    """The lists of a reading, with ``length`` pixels from a plane of depth to the next."""
    pitches = np.array([length, r.hull.output[2], 1])

    def places(counts: Sizes, steps: Sizes, start: Sizes) -> Array:
        axes = [(first + step * np.arange(n)) * p for first, n, step, p in zip(start, counts, steps, pitches)]
        return (axes[0][:, None, None] + axes[1][:, None] + axes[2]).reshape(-1)

    at = [places(p.made, p.step, p.start) for p in r.phases]
    shift = [places(p.kernel, p.dilation, (0, 0, 0)) for p in r.phases]
    outputs, taps = (np.cumsum([0, *map(len, parts)]) for parts in (at, shift))
    return Lists(np.concatenate(at), np.concatenate(shift), outputs, taps, np.array([p.made for p in r.phases]))


# --------------------------------------------------------------------------------------------------
# Turning around


@leaf
def turn_edge(a, at, apart, lanes, count, out, to, wide, spare):  # type: ignore[no-untyped-def]
    """A square of fewer numbers than a vector, or of fewer lanes: the others become what they were, and zero."""
    width = VECTOR_BYTES // a.itemsize
    for lane in range(lanes):
        copy_run(spare, lane * width, a, at + lane * apart, count)
    for lane in range(lanes, width):
        clear_vector(spare, lane * width)
    transpose_tile(out, to, wide, spare, 0, width)


@njit(nogil=True, inline="always")
def turn_row(a, at, apart, lanes, count, out, to, wide, spare):  # type: ignore[no-untyped-def]
    """out[to + j * wide + lane] = a[at + lane * apart + j] for j < count and up to a vector of lanes.

    Whole squares of vectors are written: what stands beyond the last j is lost.
    """
    width = VECTOR_BYTES // a.itemsize
    for j in range(0, count, width):
        if lanes == width and at + (width - 1) * apart + j + width <= a.size:
            transpose_tile(out, to + j * wide, wide, a, at + j, apart)
        else:
            turn_edge(a, at + j, apart, lanes, min(width, count - j), out, to + j * wide, wide, spare)


turn = leaf(turn_row.py_func)


@leaf
def turn_taps(w, at, apart, lanes, taps, count, out, to, wide, spare):  # type: ignore[no-untyped-def]
    """out[to + (j * taps + t) * wide + lane] = w[at + j * apart + lane * taps + t] for j < count; as in ``turn``."""
    width = VECTOR_BYTES // w.itemsize
    for j in range(count):
        source, target = at + j * apart, to + j * taps * wide
        whole = lanes == width
        if whole and taps == 1:
            copy_run(out, target, w, source, width)
        elif whole and taps == 4:
            _deal_four(out, target, wide, w, source)
        elif whole and taps == 8:
            _deal_eight(out, target, wide, w, source)
        elif whole and source + (width - 1) * taps + -(-taps // width) * width <= w.size:
            for t in range(0, taps, width):
                transpose_tile(out, target + t * wide, wide, w, source + t, taps)
        else:
            for t in range(0, taps, width):
                turn_edge(w, source + t, taps, lanes, min(width, taps - t), out, target + t * wide, wide, spare)


@njit(nogil=True, inline="always")
def clear(out, at, wide, count):  # type: ignore[no-untyped-def]
    """Zero in a vector of channels of ``count`` pixels."""
    for j in range(count):
        clear_vector(out, at + j * wide)


@leaf
def lay_plane(flat, shape, n, d, c, lanes, t, band, out, to, wide, spare):  # type: ignore[no-untyped-def]
    """Channels [c, c + lanes) of a band of rows of an image, padded. Row by row: what is lost, the next row writes."""
    pitch, inside, count, id_ = t.pitch, t.runs[0, 0], t.runs[0, 1], t.depth[0, d]
    channel = shape[2] * shape[3] * shape[4]
    image = (n * shape[1] + c) * channel + id_ * shape[3] * shape[4] + t.runs[0, 2]
    for u in range(band[0], band[1]):
        row, ih = to + (u - band[0]) * pitch * wide, t.rows[0, u]
        if id_ < 0 or ih < 0:
            clear(out, row, wide, pitch)
        else:
            clear(out, row, wide, inside)
            turn_row(flat, image + ih * shape[4], channel, lanes, count, out, row + inside * wide, wide, spare)
            clear(out, row + (inside + count) * wide, wide, pitch - inside - count)


@leaf
def lay_pixels(flat, shape, images, channels, t, wide, length, out, spare):  # type: ignore[no-untyped-def]
    """Images (first, last), channels (first, last): out[plane, position, channel].

    ``length`` positions from a plane of depth to the next; ``wide`` numbers from position to position.
    """
    width, planes = VECTOR_BYTES // flat.itemsize, t.depth.shape[1]
    band = (0, t.rows.shape[1])
    for n in range(images[0], images[1]):
        for d in range(planes):
            for c in range(channels[0], channels[1], width):
                to = ((n - images[0]) * planes + d) * length * wide + c - channels[0]
                lane_count = min(width, channels[1] - c)
                lay_plane(flat, shape, n, d, c, lane_count, t, band, out, to, wide, spare)


@leaf
def merge_images(flat, shape, images, channels, out):  # type: ignore[no-untyped-def]
    """Of ``shape`` (N, C, plane), images (first, last) and channels (first, last): out[channel, image, position]."""
    plane, row = shape[2], 0
    for c in range(channels[0], channels[1]):
        for n in range(images[0], images[1]):
            copy_run(out, row, flat, (n * shape[1] + c) * plane, plane)
            row += plane


@leaf
def store_edge(acc, at, across, lanes, count, y, to, strides, spare):  # type: ignore[no-untyped-def]
    """A square of fewer outputs than a vector, or of fewer channels, or with gaps between the outputs."""
    width = VECTOR_BYTES // acc.itemsize
    transpose_tile(spare, 0, width, acc, at, across)
    for lane in range(lanes):
        copy_to_strided_run(y, to + lane * strides[1], strides[4], spare, lane * width, count)


@leaf
def store_channels(acc, at, across, count, lanes, start, made, y, base, strides, spare):  # type: ignore[no-untyped-def]
    """A vector of channels of outputs [start, start + count), ``made`` (OD, OH, OW) of an image, row by row."""
    width = VECTOR_BYTES // acc.itemsize
    position = 0
    while position < count:
        row = (start + position) // made[2]
        ow = start + position - row * made[2]
        plane = row // made[1]
        n = plane // made[0]
        long = min(made[2] - ow, count - position)
        to = base + n * strides[0] + (plane - n * made[0]) * strides[2] + (row - plane * made[1]) * strides[3]
        to += ow * strides[4]
        for j in range(0, long, width):
            source = at + (position + j) * across
            if strides[4] == 1 and lanes == width and j + width <= long:
                transpose_tile(y, to + j, strides[1], acc, source, across)
            else:
                rest = min(width, long - j)
                store_edge(acc, source, across, lanes, rest, y, to + j * strides[4], strides, spare)
        position += long


# --------------------------------------------------------------------------------------------------
# Products


@leaf
def multiply(acc, to, pitch, a, rows, steps, b, shift, columns, terms, vectors):  # type: ignore[no-untyped-def]
    """A tile of one to three vectors."""
    if vectors == 3:
        _three(acc, to, pitch, a, rows, steps, b, shift, columns, terms)
    elif vectors == 2:
        _two(acc, to, pitch, a, rows, steps, b, shift, columns, terms)
    else:
        _one(acc, to, pitch, a, rows, steps, b, shift, columns, terms)


@njit(nogil=True, cache=True)
def convolve(  # type: ignore[no-untyped-def]
    first, last, x, t, wide, length, reads, stored, w, kernel, numbers, transposed, channels, groups, shares,
    parts, block, chunk, y, bases, strides, pixels, panel, acc,
):  # fmt: skip
    """Items [first, last) of (share of the images, group, part of the output channels).

    channels (C_in, C_out) of a group; w flat, of (C_out, C_in, K) or, where ``transposed``, (C_in, C_out, K), with the
    ``numbers`` of the taps in it; y flat, output o of phase f at bases[f] + the sum of index times strides[f]. So many
    outputs of each phase are a ``block``, so many channels a ``chunk``.
    """
    width, flat, shape = VECTOR_BYTES // w.itemsize, x.reshape(-1), x.shape
    c_in, c_out = channels
    vectors, phases, planes = -(-c_out // width), reads.made.shape[0], t.depth.shape[1]
    plane = reads.outputs[1:] - reads.outputs[:-1]
    places, rows = np.empty(phases * block, np.int64), np.empty(ROWS, np.int64)
    steps, columns = np.empty(chunk * kernel, np.int64), np.empty(chunk * kernel, np.int64)
    spare = np.zeros(width * width, w.dtype)
    laid = -1  # the share of the images that lies in pixels
    for item in range(first, last):
        rest, part = divmod(item, parts)
        share, group = divmod(rest, groups)
        low, high = part * vectors // parts, (part + 1) * vectors // parts
        across, n_first = (high - low) * width, share * shape[0] // shares
        images = (share + 1) * shape[0] // shares - n_first
        if laid != share:
            some = (n_first, n_first + images)
            lay_pixels(flat, shape, some, (0, shape[1]), t, wide, length, pixels, spare)
            laid = share
        for start in range(0, plane.max() * images, block):
            for f in range(phases):
                for q in range(start, min(start + block, plane[f] * images)):
                    n, output = divmod(q, plane[f])
                    place = reads.at[reads.outputs[f] + output] + n * planes * length
                    places[f * block + q - start] = place * wide
            acc[: phases * block * across] = 0
            for c in range(0, c_in, chunk):
                count = min(chunk, c_in - c)
                for v in range(low, high):
                    lanes, to = min(width, c_out - v * width), (v - low) * width
                    if transposed:
                        at = ((group * c_in + c) * c_out + v * width) * kernel
                        turn_taps(w, at, c_out * kernel, lanes, kernel, count, panel, to, across, spare)
                    else:
                        at = ((group * c_out + v * width) * c_in + c) * kernel
                        turn(w, at, c_in * kernel, lanes, count * kernel, panel, to, across, spare)
                for f in range(phases):
                    terms = 0
                    for j in range(count):
                        for k in range(reads.taps[f], reads.taps[f + 1]):
                            steps[terms] = reads.shift[k] * wide + group * c_in + c + j
                            columns[terms] = (j * kernel + numbers[k]) * across
                            terms += 1
                    outputs = min(block, plane[f] * images - start)
                    for q in range(0, outputs, ROWS):
                        for m in range(ROWS):  # beyond the last output: computed and never looked at
                            rows[m] = places[f * block + min(q + m, outputs - 1)]
                        to = (f * block + q) * across
                        multiply(acc, to, across, pixels, rows, steps, panel, 0, columns, terms, high - low)
            for f in range(phases):
                outputs = min(block, plane[f] * images - start)
                for v in range(low, high):
                    at, co = f * block * across + (v - low) * width, group * c_out + v * width
                    lanes, to = min(width, c_out - v * width), bases[f] + co * strides[f, 1]
                    to += n_first * strides[f, 0]
                    store_channels(acc, at, across, outputs, lanes, start, stored[f], y, to, strides[f], spare)


@njit(nogil=True, cache=True)
def correlate(  # type: ignore[no-untyped-def]
    first, last, x, t, length, reads, gy, merged, channels, groups, parts, tiles, together, gw, pixels,
    cotangents, acc, total, turned,
):  # fmt: skip
    """Items [first, last) of (group, part of the input channels, of the output channels): gw (C_out, C_in/G, K).

    gy (N, C_out, outputs); ``merged``: its images are laid one behind the other, for they are small.
    """
    width, taps, flat, shape = VECTOR_BYTES // x.itemsize, reads.shift.size, x.reshape(-1), x.shape
    c_in, c_out = channels
    vectors, plane, planes = -(-c_in // width), reads.at.size, t.depth.shape[1]
    places, steps, rows = np.empty(_STEPS, np.int64), np.arange(_STEPS), np.empty(ROWS, np.int64)
    spare, flat_gy, flat_gw = np.zeros(width * width, x.dtype), gy.reshape(-1), gw.reshape(-1)
    laid, merged_now = (-1, -1), (-1, -1, -1)  # the channels and the first of the images that lie in the buffers
    for item in range(first, last):
        rest, tile = divmod(item, tiles)
        group, part = divmod(rest, parts)
        low, high = part * vectors // parts, (part + 1) * vectors // parts
        across, all_tiles = (high - low) * width, -(-c_out // ROWS)
        wide = across | width  # an odd number of vectors, as in the other direction
        channels_read = (group * c_in + low * width, group * c_in + min(high * width, c_in))
        co_first, co_last = tile * all_tiles // tiles * ROWS, min((tile + 1) * all_tiles // tiles * ROWS, c_out)
        co, size = group * c_out + co_first, (co_last - co_first + ROWS) * taps * across
        acc[:size] = 0
        total[:size] = 0
        summed = 0
        for n_first in range(0, shape[0], together):
            images = min(together, shape[0] - n_first)
            some = (n_first, n_first + images)
            if laid != (rest, n_first):
                lay_pixels(flat, shape, some, channels_read, t, wide, length, pixels, spare)
                laid = (rest, n_first)
            source, pitch, row = flat_gy, plane, (n_first * gy.shape[1] + co) * plane
            if merged and merged_now != (group, tile, n_first):
                merge_images(flat_gy, gy.shape, some, (co, co + co_last - co_first), cotangents)
                merged_now = (group, tile, n_first)
            if merged:
                source, pitch, row = cotangents, images * plane, 0
            for long in range(images * plane // pitch):
                for start in range(0, pitch, _STEPS):
                    count = min(_STEPS, pitch - start)
                    for q in range(count):
                        n, output = divmod(long * pitch + start + q, plane)
                        places[q] = (reads.at[output] + n * planes * length) * wide
                    for k in range(taps):
                        for r in range(0, co_last - co_first, ROWS):
                            for m in range(ROWS):
                                channel = min(r + m, co_last - co_first - 1)
                                rows[m] = row + channel * pitch + long * gy.shape[1] * plane + start
                            to, shift = (r * taps + k) * across, reads.shift[k] * wide
                            multiply(
                                acc, to, taps * across, source, rows, steps, pixels, shift, places, count, high - low
                            )
                    summed += count
                    if summed >= 1024:  # long sums are made of shorter ones, which keeps their rounding small
                        add(total, acc, size)
                        summed = 0
        add(total, acc, size)
        numbers = (channels_read[1] - channels_read[0]) * taps
        for r in range(co_last - co_first):
            to = ((co + r) * c_in + low * width) * taps
            store_taps(total, r * taps * across, across, taps, turned, flat_gw, to, numbers)


@leaf
def add(total, acc, size):  # type: ignore[no-untyped-def]
    """Move the sums in ``acc`` to the total."""
    for j in range(size):
        total[j] += acc[j]
        acc[j] = 0


@leaf
def store_taps(sums, at, across, taps, turned, out, to, count):  # type: ignore[no-untyped-def]
    """out[to + ci * taps + t] = sums[at + t * across + ci], ``count`` numbers in all."""
    width = VECTOR_BYTES // sums.itemsize
    if taps == 1:
        copy_run(out, to, sums, at, count)
    else:
        for v in range(0, across, width):
            for t in range((taps - 1) // width * width, -1, -width):  # what stands beyond the last tap is lost
                transpose_tile(turned, v * taps + t, taps, sums, at + t * across + v, across)
        copy_run(out, to, turned, 0, count)


# --------------------------------------------------------------------------------------------------
# Calls


def conv(x: Array, w: Array, y: Array, g: Geometry, groups: int) -> None:
    """x (N, C_in, D, H, W), w (C_out, C_in/G, *K) to y (N, C_out, *O)."""
    shape = (*x.shape[:2], len(w), groups)
    _run(x, w, y, _plan(g, False, shape, x.dtype, get_num_threads(), scratch_limit()))


def conv_input(gy: Array, w: Array, gx: Array, g: Geometry, groups: int) -> None:
    """gy (N, C_out, *O), w (C_out, C_in/G, *K) to gx (N, C_in, *I)."""
    found = transposed_reading(g)
    if found is None or found.gaps:
        gx[...] = 0
    if found is not None:
        shape = (*gy.shape[:2], gx.shape[1], groups)
        _run(gy, w, gx, _plan(g, True, shape, gy.dtype, get_num_threads(), scratch_limit()))


class Plan(NamedTuple):
    """What the arguments of ``convolve`` are but for the arrays of numbers, and the room that it needs."""

    tables: Tables
    wide: int
    length: int
    reads: Lists
    stored: Array
    kernel: int
    numbers: Array
    transposed: bool
    channels: tuple[int, int]
    groups: int
    shares: int
    parts: int
    block: int
    chunk: int
    bases: Array
    strides: Array
    room: tuple[int, int, int]  # numbers of the pixels, of the panel of weights and of the sums
    operations: int
    once: bool  # whether a thread should take all its items at once


@lru_cache(maxsize=256)
def _plan(
    g: Geometry, transposed: bool, shape: tuple[int, int, int, int], dtype: np.dtype[Any], threads: int, limit: int
) -> Plan:
    """``shape``: images, channels that are summed and channels that are made, of all groups; groups."""
    images, c_in, c_out, groups = shape
    channels, made = (c_in // groups, c_out // groups), g.size if transposed else g.output
    strides = np.array([c_out * prod(made), prod(made), made[1] * made[2], made[2], 1])
    if transposed:
        r, numbers, first, _ = transposed_reading(g)  # type: ignore[misc]
        bases, steps = first @ strides[2:], np.tile(strides * (1, 1, *g.stride), (len(first), 1))
    else:
        r, numbers, bases, steps = reading(g), np.arange(prod(g.kernel)), np.zeros(1, np.int64), strides[None]
    width, phases, kernel = VECTOR_BYTES // dtype.itemsize, len(r.phases), prod(g.kernel)
    length = r.hull.output[1] * r.hull.output[2] + width  # room for what is lost beyond a plane
    pixels, reads = r.hull.output[0] * length, lists(r, length)
    stored, longest = reads.made, max(prod(phase.made) for phase in r.phases)
    if longest == prod(made):  # the outputs of an image follow each other without gaps: one row
        stored, steps = np.array([[1, 1, longest]]), np.array([[*steps[0, :2], 0, 0, 1]])
    wide = (-(-c_in // width) | 1) * width  # lines of memory an even number apart find few places in the cache
    # Each thread turns around either its share of the images or of the weights, and all of the other.
    weights, numbers_read = prod(channels) * groups * kernel, images * pixels * wide
    many = numbers_read > 8 * weights
    shares = min(images, 4 * threads if many else threads) if 2 * numbers_read > weights else 1
    shares = max(1, min(images, max(shares, -(-numbers_read * dtype.itemsize // limit))))
    each = -(-images // shares)
    vectors = -(-channels[1] // width)
    parts = -(-vectors // _VECTORS)
    if shares * groups < threads:
        parts = min(vectors, -(-parts // threads) * threads)
    across = -(-vectors // parts) * width
    chunk = min(channels[0], max(width, _PANEL // (dtype.itemsize * kernel * across)))
    block = max(1, min(-(-longest * each // ROWS), max(2, _POSITIONS // phases // ROWS))) * ROWS
    room = (each * pixels * wide, (chunk * kernel + width) * across, (phases * block + width) * across)
    products = sum(prod(phase.made) * prod(phase.kernel) for phase in r.phases) * prod(channels) * groups
    return Plan(
        tables(r.hull), wide, length, reads, stored, kernel, numbers, transposed, channels, groups, shares, parts,
        block, chunk, bases, steps, room, 2 * images * products, not many,
    )  # fmt: skip


def _run(x: Array, w: Array, y: Array, p: Plan) -> None:
    flat, out = w.reshape(-1), y.reshape(-1)

    def work(begin: int, end: int) -> None:
        pixels, panel, acc = (scratch(name, room, x.dtype) for name, room in zip(("pixels", "panel", "sums"), p.room))
        convolve(
            begin, end, x, p.tables, p.wide, p.length, p.reads, p.stored, flat, p.kernel, p.numbers, p.transposed,
            p.channels, p.groups, p.shares, p.parts, p.block, p.chunk, out, p.bases, p.strides, pixels, panel, acc,
        )  # fmt: skip

    parallel(work, p.shares * p.groups * p.parts, p.operations / 250, p.once)


class WeightPlan(NamedTuple):
    """The same for ``correlate``."""

    tables: Tables
    length: int
    reads: Lists
    merged: bool
    channels: tuple[int, int]
    groups: int
    parts: int
    tiles: int
    together: int
    room: tuple[int, ...]  # numbers of the pixels, cotangents, sums, totals and turned sums


@lru_cache(maxsize=256)
def _weight_plan(
    g: Geometry, shape: tuple[int, int, int, int], dtype: np.dtype[Any], threads: int, limit: int
) -> WeightPlan:
    """``shape``: images, input channels, output channels, groups."""
    images, c_in, c_out, groups = shape
    channels, r = (c_in // groups, c_out // groups), reading(g)
    width, plane, taps = VECTOR_BYTES // dtype.itemsize, prod(g.output), prod(g.kernel)
    length = r.hull.output[1] * r.hull.output[2] + width
    pixels, vectors, all_tiles = r.hull.output[0] * length, -(-channels[0] // width), -(-channels[1] // ROWS)
    parts = -(-vectors // _VECTORS)
    across = -(-vectors // parts) * width
    most = max(1, _SUMS // (dtype.itemsize * taps * across * ROWS))
    tiles = min(all_tiles, max(-(-all_tiles // most), -(-2 * threads // (groups * parts))))
    size = (-(-all_tiles // tiles) + 1) * ROWS * taps * across + width * across
    merged, wide = plane < 1024, across | width
    together = max(1, min(images, limit // (dtype.itemsize * pixels * wide)))
    cotangents = together * plane * -(-all_tiles // tiles) * ROWS if merged else 0
    room = (together * pixels * wide, cotangents, size, size, (across + width) * taps + width)
    return WeightPlan(
        tables(r.hull), length, lists(r, length), merged, channels, groups, parts, tiles, together, room
    )  # fmt: skip


def conv_weight(x: Array, gy: Array, gw: Array, g: Geometry, groups: int) -> None:
    """x (N, C_in, D, H, W), gy (N, C_out, *O) to gw (C_out, C_in/groups, *K)."""
    p = _weight_plan(g, (*x.shape[:2], gy.shape[1], groups), x.dtype, get_num_threads(), scratch_limit())
    outputs = gy.reshape(*gy.shape[:2], prod(g.output))
    names = ("pixels", "cotangents", "sums", "total", "turned")

    def work(begin: int, end: int) -> None:
        pixels, cotangents, acc, total, turned = (scratch(name, room, x.dtype) for name, room in zip(names, p.room))
        correlate(
            begin, end, x, p.tables, p.length, p.reads, outputs, p.merged, p.channels, p.groups, p.parts, p.tiles,
            p.together, gw, pixels, cotangents, acc, total, turned,
        )  # fmt: skip

    parallel(work, groups * p.parts * p.tiles, 2 * gy.size * p.channels[0] * prod(g.kernel) / 250, once=True)
