"""Convolution with 3x3 windows of stride 1 by Winograd's minimal filtering: fewer multiplications, some accuracy.

Idea. m x m outputs need a square of (m+2) x (m+2) pixels. Interpolation of polynomials turns their convolution with a
3x3 window into products element by element, which is (m+2)^2 multiplications where the definition has 9 m^2:

    Y = A^t [ (G g G^t) * (B^t d B) ] A          d pixels, g weights, * element by element

Summed over the input channels, each of the (m+2)^2 elements is a matrix product of its own. The gradients are the
adjoint maps: by the input, a convolution with rotated weights; by the weights, g' = G^t [ sum of (B^t d B) * (A y'
A^t) ] G.

Cost, for m = 4: 36/16 = 2.25 multiplications an output, input channel and output channel in place of 9, and two
transforms of some 150 operations a tile, which is 16 outputs, in each channel; for m = 2, 4 and 32. The transforms work
on vectors of channels, so pieces of the image are turned to have their channels last, and the results back.
Every tile is worked on while it stays in the cache.

Accuracy, in float32, of the largest output: about 1e-6 for m = 2, 1e-5 for m = 4; the definition's sums: 3e-7. An
infinity or NaN would spread over its whole tile: where a result is not finite, the caller takes another algorithm.
Source: Lavin and Gray, "Fast algorithms for convolutional neural networks", CVPR 2016, equations 5 to 14.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numba import njit

from tinyconv.geometry import Geometry
from tinyconv.kernels.arrays import Array
from tinyconv.kernels.cpu.direct import lay_piece, tables
from tinyconv.kernels.cpu.memory import all_finite, element_strides, scratch
from tinyconv.kernels.cpu.product import copy_run, leaf, multiply_block, transpose
from tinyconv.kernels.cpu.simd import ROWS, VECTOR_BYTES, sandwich
from tinyconv.kernels.threads import get_num_threads, parallel


def _transposed(matrix: Any) -> list[tuple[float, ...]]:
    return list(zip(*matrix))


# F(2x2, 3x3): the polynomials are interpolated at 0, 1, -1 and infinity.
_B2 = [(1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1)]
_G2 = [(1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1)]
_A2 = [(1, 1, 1, 0), (0, 1, -1, -1)]
# F(4x4, 3x3): at 0, 1, -1, 2, -2 and infinity. B^t is the even and odd parts of its rows, then their sums and
# differences.
_PARTS4 = [
    (4, 0, -5, 0, 1, 0),
    (0, 0, -4, 0, 1, 0),
    (0, -4, 0, 1, 0, 0),
    (0, 0, -1, 0, 1, 0),
    (0, -2, 0, 2, 0, 0),
    (0, 4, 0, -5, 0, 1),
]
_PAIRS4 = [
    (1, 0, 0, 0, 0, 0),
    (0, 1, 1, 0, 0, 0),
    (0, 1, -1, 0, 0, 0),
    (0, 0, 0, 1, 1, 0),
    (0, 0, 0, 1, -1, 0),
    (0, 0, 0, 0, 0, 1),
]
_G4 = [
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
]
# A^t of the sums and differences of the pairs.
_A4 = [(1, 1, 0, 1, 0, 0), (0, 0, 1, 0, 2, 0), (0, 1, 0, 4, 0, 0), (0, 0, 1, 0, 8, 1)]

_pixels2, _pixels4 = sandwich(_B2), sandwich(_PAIRS4, _PARTS4)
_weights2, _weights4 = sandwich(_G2), sandwich(_G4)
_outputs2, _outputs4 = sandwich(_A2), sandwich(_A4, _PAIRS4)
_cotangents2, _cotangents4 = sandwich(_transposed(_A2)), sandwich(_PAIRS4, _transposed(_A4))
_gradients2, _gradients4 = sandwich(_transposed(_G2)), sandwich(_transposed(_G4))

_TILES = 48  # of a block in the forward pass: few enough to stay in the cache, enough to use each weight often
_PARTS = 2  # that the terms of an element's sum are divided into, for threads to share
_GRADIENT_BYTES = 8 << 20  # of the transformed pixels and cotangents that are summed at a time

# --------------------------------------------------------------------------------------------------
# Kernels. E: the (m+2)^2 elements of a tile; T: tiles of a block, whole rows of them; the vectors run over channels


@leaf
def transform_images(  # type: ignore[no-untyped-def]
    m, halo, flat, shape, first, last, tiles, c, depth, rows, runs, pitch, piece, turned, out, at, along, apart
):
    """Tile rows [first, last) of a vector of channels from c on, to out[element * apart + at + tile * along].

    flat of ``shape`` (N, C, D, H, W); tiles (depths, rows, columns) of the tiles of an image. With a ``halo`` the
    tiles are pixels and overlap, B^t d B; without, they are cotangents, A y' A^t.
    """
    width = VECTOR_BYTES // flat.itemsize
    count = min(width, shape[1] - c)
    row = first
    while row < last:
        plane, low = divmod(row, tiles[1])
        high = min(tiles[1], low + last - row)
        n, od = divmod(plane, tiles[0])
        length = ((high - low) * m + halo) * pitch
        lay_piece(flat, shape, n, (c, c + count), od, low * m * pitch, length, depth, rows, runs, pitch, 1, piece)
        piece[count * length : width * length] = 0
        transpose(piece, length, width, turned, width)
        for tile in range((high - low) * tiles[2]):
            corner = (tile // tiles[2] * pitch + tile % tiles[2]) * m * width
            to = at + ((row - first) * tiles[2] + tile) * along
            if halo and m == 4:
                _pixels4(out, to, 6 * apart, apart, turned, corner, pitch * width, width)
            elif halo:
                _pixels2(out, to, 4 * apart, apart, turned, corner, pitch * width, width)
            elif m == 4:
                _cotangents4(out, to, 6 * apart, apart, turned, corner, pitch * width, width)
            else:
                _cotangents2(out, to, 4 * apart, apart, turned, corner, pitch * width, width)
        row += high - low


@njit(nogil=True, cache=True)
def transform_weights(first, last, m, w, base, strides, channels, depths, padded, wide, out):  # type: ignore[no-untyped-def]
    """G g G^t for the terms [first, last) of a sum: out[E, term, channel], ``padded`` terms of ``wide`` channels.

    A term is (kd, input channel); w is flat, its element (channel, input channel, kd, kh * 3 + kw) at ``base`` + the
    sum of index times stride; channels (output, input).
    """
    width, n = VECTOR_BYTES // w.itemsize, m + 2
    nine = np.empty(9 * width, w.dtype)
    per_depth = padded // depths
    for term in range(first, last):
        kd, ci = divmod(term, per_depth)
        for co in range(0, wide, width):
            nine[:] = 0
            if ci < channels[1]:
                for lane in range(min(width, channels[0] - co)):
                    at = base + (co + lane) * strides[0] + ci * strides[1] + kd * strides[2]
                    for tap in range(9):
                        nine[tap * width + lane] = w[at + tap * strides[3]]
            to, apart = term * wide + co, padded * wide
            if m == 4:
                _weights4(out, to, n * apart, apart, nine, 0, 3 * width, width)
            else:
                _weights2(out, to, n * apart, apart, nine, 0, 3 * width, width)


@njit(nogil=True, cache=True)
def convolve_tiles(  # type: ignore[no-untyped-def]
    first, last, m, x, u, y, block, tiles, padded, wide,
    depth, rows, runs, pitch, piece, turned, pixels, products, strip,
):  # fmt: skip
    """Blocks [first, last) of ``block`` tile rows: y (N, C_out, OD, OH, OW). False where a result is not finite."""
    width, elements = VECTOR_BYTES // x.itemsize, (m + 2) * (m + 2)
    per_depth = padded // depth.shape[0]
    total = x.shape[0] * tiles[0] * tiles[1]
    steps, pixels_in, flat = np.arange(padded), x.reshape(-1), y.reshape(-1)
    columns = steps * wide
    finite = True
    for item in range(first, last):
        top, bottom = item * block, min((item + 1) * block, total)
        count = (bottom - top) * tiles[2]
        high = -(-count // ROWS) * ROWS
        for term in range(0, padded, width):
            kd, c = divmod(term, per_depth)
            transform_images(
                m, 2, pixels_in, x.shape, top, bottom, tiles, c, depth[kd : kd + 1], rows, runs, pitch,
                piece, turned, pixels, term, padded, count * padded,
            )  # fmt: skip
        products[: elements * high * wide] = 0
        for e in range(elements):
            acc = products[e * high * wide : (e + 1) * high * wide]
            start, shift = e * count * padded, e * padded * wide
            multiply_block(acc, wide, pixels, 0, count, padded, start, steps, u, shift, columns, padded, wide)
        for co in range(0, y.shape[1], width):
            row = top
            while row < bottom:
                plane, low = divmod(row, tiles[1])
                up = min(tiles[1], low + bottom - row)
                n, od = divmod(plane, tiles[0])
                length, across = (up - low) * m * tiles[2] * m, tiles[2] * m
                for tile in range((up - low) * tiles[2]):
                    corner = (tile // tiles[2] * across + tile % tiles[2]) * m * width
                    at, apart = ((row - top) * tiles[2] + tile) * wide + co, high * wide
                    if m == 4:
                        _outputs4(strip, corner, across * width, width, products, at, 6 * apart, apart)
                    else:
                        _outputs2(strip, corner, across * width, width, products, at, 4 * apart, apart)
                whole = -(-length // width) * width
                strip[length * width : whole * width] = 0
                transpose(strip, width, whole, turned, whole)
                lanes = min(width, y.shape[1] - co)
                finite &= all_finite(turned[: lanes * whole])
                for lane in range(lanes):
                    to = ((n * y.shape[1] + co + lane) * y.shape[2] + od) * y.shape[3] * y.shape[4]
                    rows_out = (low * m, min(up * m, y.shape[3]))
                    store_tile_rows(turned, lane * whole, across, rows_out, flat, to, y.shape[4])
                row += up - low
    return finite


@leaf
def store_tile_rows(strip, at, across, rows, y, to, columns):  # type: ignore[no-untyped-def]
    """Output rows (first, last) of a strip whose rows are ``across`` long, to one channel's plane of y."""
    for oh in range(rows[0], rows[1]):
        copy_run(y, to + oh * columns, strip, at + (oh - rows[0]) * across, columns)


@njit(nogil=True, cache=True)
def sum_tiles(first, last, parts, pixels, cotangents, count, padded, wide, out):  # type: ignore[no-untyped-def]
    """out[E, term, channel] += sum over the tiles of pixels[E, tile, term] cotangents[E, tile, channel].

    Items [first, last) of (element, part of the terms).
    """
    columns, steps = np.arange(count) * wide, np.arange(count) * padded
    for item in range(first, last):
        e, part = divmod(item, parts)
        groups = padded // ROWS
        low, high = part * groups // parts * ROWS, (part + 1) * groups // parts * ROWS
        acc = out[(e * padded + low) * wide : (e * padded + high) * wide]
        start, shift = e * count * padded, e * count * wide
        multiply_block(acc, wide, pixels, low, high, 1, start, steps, cotangents, shift, columns, count, wide)


@njit(nogil=True, cache=True)
def transform_gradient(first, last, m, summed, depths, padded, wide, gw):  # type: ignore[no-untyped-def]
    """G^t U G of the terms [first, last), to gw (C_out, C_in, K_d, 9). False where a result is not finite."""
    width, n = VECTOR_BYTES // summed.itemsize, m + 2
    nine = np.empty(9 * width, summed.dtype)
    per_depth, apart = padded // depths, padded * wide
    finite = True
    for term in range(first, last):
        kd, ci = divmod(term, per_depth)
        if ci >= gw.shape[1]:
            continue
        for co in range(0, gw.shape[0], width):
            if m == 4:
                _gradients4(nine, 0, 3 * width, width, summed, term * wide + co, n * apart, apart)
            else:
                _gradients2(nine, 0, 3 * width, width, summed, term * wide + co, n * apart, apart)
            for lane in range(min(width, gw.shape[0] - co)):
                for tap in range(9):
                    gw[co + lane, ci, kd, tap] = nine[tap * width + lane]
            finite &= all_finite(nine)  # the lanes beyond the last channel are zero
    return finite


# --------------------------------------------------------------------------------------------------
# Calls


def _tiles(g: Geometry, m: int) -> tuple[int, int, int]:
    return g.output[0], -(-g.output[1] // m), -(-g.output[2] // m)


def _whole(count: int, step: int) -> int:
    return -(-count // step) * step


def _strip(g: Geometry, tiles: tuple[int, int, int], block: int, m: int, width: int) -> int:
    """Numbers of a vector of channels over the tile rows of a block, with room for a transposition's last vectors."""
    return (width + 1) * ((min(block, tiles[1]) * m + 2) * (tiles[2] * m + 2) + 2 * width)


def conv(x: Array, w: Array, g: Geometry, m: int) -> Array | None:
    """x (N, C_in, D, H, W), w (C_out, C_in, K_d, 3, 3) to y (N, C_out, *O); None where a result is not finite."""
    strides = (*element_strides(w)[:3], 1)
    return _filter(x, w.reshape(-1), w.shape[:2], 0, strides, g, m)


def conv_input(gy: Array, w: Array, g: Geometry, m: int) -> Array | None:
    """gy (N, C_out, D, H, W), w (C_out, C_in, K_d, 3, 3) to gx (N, C_in, *I): rotated weights, exchanged channels."""
    c_out, c_in, depth, _ = element_strides(w)[:4]
    (phase,) = g.transposed_phases()
    channels, strides = (w.shape[1], w.shape[0]), (c_in, c_out, -depth, -1)
    return _filter(gy, w.reshape(-1), channels, c_in - 1, strides, phase.geometry(g.output), m)


def _filter(
    x: Array, w: Array, channels: tuple[int, int], base: int, strides: tuple[int, ...], g: Geometry, m: int
) -> Array | None:
    """The convolution with a flat w, its element (output, input channel, kd, tap) at ``base`` + index times stride."""
    tiles = _tiles(g, m)
    t = tables(replace(g, output=(g.output[0], tiles[1] * m, tiles[2] * m)))
    width, elements, depths = VECTOR_BYTES // x.itemsize, (m + 2) ** 2, g.kernel[0]
    c_out, c_in = channels
    padded, wide = depths * _whole(c_in, width), _whole(c_out, width)
    u = scratch("weights", elements * padded * wide, x.dtype)

    def prepare(first: int, last: int) -> None:
        transform_weights(first, last, m, w, base, strides, channels, depths, padded, wide, u)

    parallel(prepare, padded, padded * wide * 12)
    y = np.empty((len(x), c_out, *g.output), x.dtype)
    rows = len(x) * tiles[0] * tiles[1]
    block = max(1, min(_TILES // tiles[2], -(-rows // (2 * get_num_threads()))))
    high = _whole(block * tiles[2], ROWS)
    finite = []

    def work(first: int, last: int) -> None:
        room = _strip(g, tiles, block, m, width)
        piece, turned, strip = (scratch(name, room, x.dtype) for name in ("piece", "turned", "strip"))
        pixels = scratch("pixels", elements * high * padded, x.dtype)
        products = scratch("products", elements * high * wide, x.dtype)
        finite.append(
            convolve_tiles(
                first,
                last,
                m,
                x,
                u,
                y,
                block,
                tiles,
                padded,
                wide,
                t.depth,
                t.rows,
                t.runs,
                t.pitch,
                piece,
                turned,
                pixels,
                products,
                strip,
            )  # fmt: skip
        )

    parallel(work, -(-rows // block), rows * tiles[2] * elements * padded * wide / 60)
    return y if all(finite) else None


def conv_weight(x: Array, gy: Array, g: Geometry, m: int) -> Array | None:
    """x (N, C_in, D, H, W), gy (N, C_out, *O) to gw (C_out, C_in, *K); None where a result is not finite."""
    tiles = _tiles(g, m)
    output = (g.output[0], tiles[1] * m, tiles[2] * m)
    t = tables(replace(g, output=output))
    ty = tables(Geometry(g.output, (1, 1, 1), (1, 1, 1), ((0, 0),) * 3, (1, 1, 1), output))
    width, elements, depths = VECTOR_BYTES // x.itemsize, (m + 2) ** 2, g.kernel[0]
    c_in, c_out = x.shape[1], gy.shape[1]
    padded, wide = depths * _whole(c_in, width), _whole(c_out, width)
    rows = len(x) * tiles[0] * tiles[1]
    block = max(1, min(rows, _GRADIENT_BYTES // (x.itemsize * elements * (padded + wide) * tiles[2])))
    pixels = scratch("pixels", elements * block * tiles[2] * padded, x.dtype)
    cotangents = scratch("products", elements * block * tiles[2] * wide, x.dtype)
    summed = scratch("weights", elements * padded * wide, x.dtype)
    summed[:] = 0
    room = _strip(g, tiles, block, m, width)
    for top in range(0, rows, block):
        bottom = min(top + block, rows)
        count = (bottom - top) * tiles[2]

        def transform(first: int, last: int, top: int = top, bottom: int = bottom, count: int = count) -> None:
            piece, turned = scratch("piece", room, x.dtype), scratch("turned", room, x.dtype)
            for vector in range(first, last):
                at = vector * width
                if at < padded:
                    kd, c = divmod(at, padded // depths)
                    transform_images(
                        m, 2, x.reshape(-1), x.shape, top, bottom, tiles, c, t.depth[kd : kd + 1], t.rows, t.runs,
                        t.pitch, piece, turned, pixels, at, padded, count * padded,
                    )  # fmt: skip
                else:
                    c = at - padded
                    transform_images(
                        m, 0, gy.reshape(-1), gy.shape, top, bottom, tiles, c, ty.depth, ty.rows, ty.runs, ty.pitch,
                        piece, turned, cotangents, c, wide, count * wide,
                    )  # fmt: skip

        def add(first: int, last: int, count: int = count) -> None:
            sum_tiles(first, last, _PARTS, pixels, cotangents, count, padded, wide, summed)

        parallel(transform, (padded + wide) // width, count * (padded + wide) * 25)
        parallel(add, elements * _PARTS, count * elements * padded * wide / 60)
    gw = np.empty((c_out, c_in, depths, 9), x.dtype)
    finite = []

    def finish(first: int, last: int) -> None:
        finite.append(transform_gradient(first, last, m, summed, depths, padded, wide, gw))

    parallel(finish, padded, padded * wide * 12)
    return gw.reshape(c_out, c_in, *g.kernel) if all(finite) else None
