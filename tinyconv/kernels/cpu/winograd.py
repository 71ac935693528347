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

Accuracy, in float32, of the largest of the outputs of 64 channels: 4e-7 for m = 2, 7e-6 for m = 4; the definition's
sums: 1e-6. An infinity or NaN would spread over its whole tile: where a result is not finite, the caller takes another
algorithm.
Source: Lavin and Gray, "Fast algorithms for convolutional neural networks", CVPR 2016, equations 5 to 14.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from tinyconv.geometry import Geometry
from tinyconv.kernels.arrays import Array
from tinyconv.kernels.cpu.direct import tables
from tinyconv.kernels.cpu.memory import all_finite, element_strides, scratch
from tinyconv.kernels.cpu.product import copy_run, leaf, multiply_block
from tinyconv.kernels.cpu.simd import ROWS, VECTOR_BYTES, sandwich, transpose_tile
from tinyconv.kernels.cpu.tiled import lay_plane, store_channels, turn
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
_GRADIENT_BYTES = 8 << 20  # of the transformed pixels and cotangents that are summed at a time

# --------------------------------------------------------------------------------------------------
# Kernels. E: the (m+2)^2 elements of a tile; T: tiles of a block, whole rows of them; the vectors run over channels


@leaf
def transform_images(  # type: ignore[no-untyped-def]
    m, halo, flat, shape, first, last, tiles, c, kd, t, turned, spare, out, at, along, apart
):
    """Tile rows [first, last) of a vector of channels from c on, to out[element * apart + at + tile * along].

    flat of ``shape`` (N, C, D, H, W); tiles (depths, rows, columns) of the tiles of an image, read ``kd`` planes
    further on. With a ``halo`` the tiles are pixels and overlap, B^t d B; without, they are cotangents, A y' A^t.
    """
    width = VECTOR_BYTES // flat.itemsize
    lanes, pitch = max(0, min(width, shape[1] - c)), t.pitch
    row = first
    while row < last:
        plane, low = divmod(row, tiles[1])
        high = min(tiles[1], low + last - row)
        n, od = divmod(plane, tiles[0])
        lay_plane(flat, shape, n, od + kd, c, lanes, t, (low * m, high * m + halo), turned, 0, width, spare)
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
def transform_weights(first, last, m, w, base, strides, rotated, channels, depths, padded, wide, out):  # type: ignore[no-untyped-def]
    """G g G^t for the terms [first, last) of a sum: out[E, term, channel], ``padded`` terms of ``wide`` channels.

    A term is (kd, input channel); w is flat, its element (channel, input channel, kd, kh * 3 + kw) at ``base`` + the
    sum of index times stride, the taps neighbours and, where ``rotated``, in reverse.
    """
    width, n = VECTOR_BYTES // w.itemsize, m + 2
    nine, spare = np.zeros(width * max(width, 16), w.dtype), np.zeros(width * width, w.dtype)
    corner, row, column = (8 * width, -3 * width, -width) if rotated else (0, 3 * width, width)
    per_depth, apart = padded // depths, padded * wide
    for term in range(first, last):
        kd, ci = divmod(term, per_depth)
        for co in range(0, wide, width):
            if ci < channels[1]:
                at = base + co * strides[0] + ci * strides[1] + kd * strides[2]
                turn(w, at, strides[0], min(width, channels[0] - co), 9, nine, 0, width, spare)
            else:
                nine[:] = 0
            to = term * wide + co
            if m == 4:
                _weights4(out, to, n * apart, apart, nine, corner, row, column)
            else:
                _weights2(out, to, n * apart, apart, nine, corner, row, column)


@njit(nogil=True, cache=True)
def convolve_tiles(  # type: ignore[no-untyped-def]
    first, last, m, x, u, y, block, tiles, depths, dilation, padded, wide, t, turned, pixels, products, strip
):
    """Blocks [first, last) of ``block`` tile rows: y (N, C_out, OD, OH, OW). False where a result is not finite."""
    width, elements = VECTOR_BYTES // x.itemsize, (m + 2) * (m + 2)
    per_depth = padded // depths
    total = x.shape[0] * tiles[0] * tiles[1]
    steps, pixels_in, flat = np.arange(padded), x.reshape(-1), y.reshape(-1)
    columns, spare = steps * wide, np.zeros(width * width, x.dtype)
    finite = True
    for item in range(first, last):
        top, bottom = item * block, min((item + 1) * block, total)
        count = (bottom - top) * tiles[2]
        high = -(-count // ROWS) * ROWS
        for term in range(0, padded, width):
            kd, c = divmod(term, per_depth)
            transform_images(
                m, 2, pixels_in, x.shape, top, bottom, tiles, c, kd * dilation, t, turned, spare, pixels, term,
                padded, count * padded,
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
                across = tiles[2] * m
                for tile in range((up - low) * tiles[2]):
                    corner = (tile // tiles[2] * across + tile % tiles[2]) * m * width
                    at, apart = ((row - top) * tiles[2] + tile) * wide + co, high * wide
                    if m == 4:
                        _outputs4(strip, corner, across * width, width, products, at, 6 * apart, apart)
                    else:
                        _outputs2(strip, corner, across * width, width, products, at, 4 * apart, apart)
                finite &= all_finite(strip[: (up - low) * m * across * width])
                lanes, rows = min(width, y.shape[1] - co), (low * m, min(up * m, y.shape[3]))
                to = ((n * y.shape[1] + co) * y.shape[2] + od) * y.shape[3] * y.shape[4]
                store_strip(strip, across, rows, lanes, flat, to, y.shape, spare)
                row += up - low
    return finite


@leaf
def store_strip(strip, across, rows, lanes, y, base, shape, spare):  # type: ignore[no-untyped-def]
    """Output rows (first, last) of a vector of channels, from a strip [row, column, lane] of rows ``across`` long."""
    width, columns = VECTOR_BYTES // strip.itemsize, shape[4]
    made, strides = (1, 1, shape[3] * columns), (0, shape[2] * shape[3] * columns, 0, 0, 1)
    if across == columns:
        count = (rows[1] - rows[0]) * columns
        store_channels(strip, 0, width, count, lanes, rows[0] * columns, made, y, base, strides, spare)
    else:
        for oh in range(rows[0], rows[1]):
            at = (oh - rows[0]) * across * width
            store_channels(strip, at, width, columns, lanes, oh * columns, made, y, base, strides, spare)


@njit(nogil=True, cache=True)
def transform_both(  # type: ignore[no-untyped-def]
    first, last, m, x, gy, top, bottom, tiles, depths, dilation, padded, wide, t, ty, turned, pixels, cotangents
):
    """Vectors [first, last) of the terms, then of the channels of gy: pixels and cotangents [E, tile, lane] of tile
    rows [top, bottom).
    """
    width, count = VECTOR_BYTES // x.itemsize, (bottom - top) * tiles[2]
    flat, flat_gy, spare = x.reshape(-1), gy.reshape(-1), np.zeros(width * width, x.dtype)
    for at in range(first * width, last * width, width):
        if at < padded:
            kd, c = divmod(at, padded // depths)
            transform_images(
                m, 2, flat, x.shape, top, bottom, tiles, c, kd * dilation, t, turned, spare, pixels, at, padded,
                count * padded,
            )  # fmt: skip
        else:
            c = at - padded
            transform_images(
                m, 0, flat_gy, gy.shape, top, bottom, tiles, c, 0, ty, turned, spare, cotangents, c, wide, count * wide
            )


@njit(nogil=True, cache=True)
def sum_tiles(first, last, m, pixels, cotangents, count, depths, padded, wide, out, end, gw):  # type: ignore[no-untyped-def]
    """Rows of terms [first, last): out[E, term, channel] += sum over tiles of pixels[E, tile, term] cotangents[E, tile,
    channel]; at the ``end`` G^t U G of them, to gw (C_out, C_in, K_d, 9). False where a result is not finite.
    """
    columns, steps = np.arange(count) * wide, np.arange(count) * padded
    low, high = first * ROWS, last * ROWS
    for e in range((m + 2) * (m + 2)):
        acc = out[(e * padded + low) * wide : (e * padded + high) * wide]
        start, shift = e * count * padded, e * count * wide
        multiply_block(acc, wide, pixels, low, high, 1, start, steps, cotangents, shift, columns, count, wide)
    finite = True
    if end:
        spare = np.zeros(max(16, VECTOR_BYTES // out.itemsize) * VECTOR_BYTES // out.itemsize * 2, out.dtype)
        for term in range(low, high):
            finite &= transform_gradient(term, m, out, depths, padded, wide, gw.reshape(-1), gw.shape, spare)
    return finite


@leaf
def transform_gradient(term, m, summed, depths, padded, wide, gw, shape, spare):  # type: ignore[no-untyped-def]
    """G^t U G of a term, to gw of ``shape`` (C_out, C_in, K_d, 9). False where a result is not finite."""
    width, n = VECTOR_BYTES // summed.itemsize, m + 2
    kd, ci = divmod(term, padded // depths)
    apart, finite = padded * wide, True
    if ci >= shape[1]:
        return finite
    nine, turned = spare[: 16 * width], spare[16 * width :]
    for co in range(0, shape[0], width):
        if m == 4:
            _gradients4(nine, 0, 3 * width, width, summed, term * wide + co, n * apart, apart)
        else:
            _gradients2(nine, 0, 3 * width, width, summed, term * wide + co, n * apart, apart)
        finite &= all_finite(nine)  # the lanes beyond the last channel, and the rows beyond the ninth, are zero
        for j in range(0, 9, width):
            transpose_tile(turned, j, 16, nine, j * width, width)
        for lane in range(min(width, shape[0] - co)):
            copy_run(gw, (((co + lane) * shape[1] + ci) * depths + kd) * 9, turned, lane * 16, 9)
    return finite


# --------------------------------------------------------------------------------------------------
# Calls


def _tiles(g: Geometry, m: int) -> tuple[int, int, int]:
    return g.output[0], -(-g.output[1] // m), -(-g.output[2] // m)


def _whole(count: int, step: int) -> int:
    return -(-count // step) * step


def _hull(g: Geometry, tiles: tuple[int, int, int], m: int) -> Geometry:
    """The pixels that the tiles read, as windows of one pixel."""
    planes = g.output[0] + g.dilation[0] * (g.kernel[0] - 1)
    return Geometry(g.size, (1, 1, 1), (1, 1, 1), g.padding, (1, 1, 1), (planes, tiles[1] * m + 2, tiles[2] * m + 2))


def _strip(tiles: tuple[int, int, int], block: int, m: int, width: int) -> int:
    """Numbers of a vector of channels over the tile rows of a block, with room for what is lost beyond them."""
    return width * ((min(block, tiles[1]) * m + 2) * (tiles[2] * m + 2) + 2 * width)


def conv(x: Array, w: Array, y: Array, g: Geometry, m: int) -> bool:
    """x (N, C_in, D, H, W), w (C_out, C_in, K_d, 3, 3) to y (N, C_out, *O); False where a result is not finite."""
    return _filter(x, w.reshape(-1), y, 0, element_strides(w)[:3], False, g, m)


def conv_input(gy: Array, w: Array, gx: Array, g: Geometry, m: int) -> bool:
    """gy (N, C_out, D, H, W), w (C_out, C_in, K_d, 3, 3) to gx (N, C_in, *I): rotated weights, exchanged channels."""
    c_out, c_in, depth = element_strides(w)[:3]
    (phase,) = g.transposed_phases()
    return _filter(gy, w.reshape(-1), gx, c_in - depth, (c_in, c_out, -depth), True, phase.geometry(g.output), m)


def _filter(
    x: Array, w: Array, y: Array, base: int, strides: tuple[int, ...], rotated: bool, g: Geometry, m: int
) -> bool:
    """The convolution with a flat w, its element (output, input channel, kd, tap) at ``base`` + index times stride."""
    tiles = _tiles(g, m)
    t = tables(_hull(g, tiles, m))
    width, elements, depths = VECTOR_BYTES // x.itemsize, (m + 2) ** 2, g.kernel[0]
    channels = c_out, c_in = y.shape[1], x.shape[1]
    padded, wide = depths * _whole(c_in, width), _whole(c_out, width)
    u = scratch("weights", elements * padded * wide, x.dtype)

    def prepare(first: int, last: int) -> None:
        transform_weights(first, last, m, w, base, strides, rotated, channels, depths, padded, wide, u)

    parallel(prepare, padded, padded * wide * 6)
    rows = len(x) * tiles[0] * tiles[1]
    block = max(1, min(_TILES // tiles[2], -(-rows // (2 * get_num_threads()))))
    high = _whole(block * tiles[2], ROWS)
    finite = []

    def work(first: int, last: int) -> None:
        turned, strip = (scratch(name, _strip(tiles, block, m, width), x.dtype) for name in ("turned", "strip"))
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
                depths,
                g.dilation[0],
                padded,
                wide,
                t,
                turned,
                pixels,
                products,
                strip,
            )  # fmt: skip
        )

    parallel(work, -(-rows // block), rows * tiles[2] * elements * padded * wide / 60)
    return all(finite)


def conv_weight(x: Array, gy: Array, gw: Array, g: Geometry, m: int) -> bool:
    """x (N, C_in, D, H, W), gy (N, C_out, *O) to gw (C_out, C_in, *K); False where a result is not finite."""
    tiles = _tiles(g, m)
    t = tables(_hull(g, tiles, m))
    output = (g.output[0], tiles[1] * m, tiles[2] * m)
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
    out = gw.reshape(c_out, c_in, depths, 9)
    finite = []

    def some_tiles(top: int, bottom: int) -> None:
        count = (bottom - top) * tiles[2]

        def transform(first: int, last: int) -> None:
            turned = scratch("turned", _strip(tiles, block, m, width), x.dtype)
            transform_both(
                first, last, m, x, gy, top, bottom, tiles, depths, g.dilation[0], padded, wide, t, ty, turned, pixels,
                cotangents,
            )  # fmt: skip

        def add(first: int, last: int) -> None:
            end = bottom == rows
            finite.append(sum_tiles(first, last, m, pixels, cotangents, count, depths, padded, wide, summed, end, out))

        parallel(transform, (padded + wide) // width, count * (padded + wide) * 12)
        parallel(add, padded // ROWS, count * elements * padded * wide / 60)

    for top in range(0, rows, block):
        some_tiles(top, min(top + block, rows))
    return all(finite) and rows > 0
