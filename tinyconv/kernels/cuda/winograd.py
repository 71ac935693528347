"""Convolution with 3x3 windows of stride 1 by Winograd's minimal filtering, not fused: transforms, and cuBLAS between.

Idea. A tile of m x m outputs is made of (m+2)^2 products element by element, where the definition has 9 m^2 (the
formulas are in winograd.cu). Summed over the input channels, each of the (m+2)^2 elements is a matrix product of its
own: they are done as one batch. The input gradient is the same with rotated weights; the weight gradient sums products
over the tiles. Taps on an axis of depth are more terms of the sums.

Cost, for m = 4: 2.25 multiplications an output, input channel and output channel in place of 9; but the transformed
pixels and outputs are 36/16 of the images, written once and read once each, and a depth of K_d taps writes the pixels
K_d times. For m = 2: 4 multiplications, and 16/4 of the images.

Accuracy, in float32: see tinyconv/kernels/cpu/winograd.py, whose matrices these are. What is not finite is summed up
again by the definition, in the kernels: so a NaN or an infinity stays in its windows.
Source: Lavin and Gray, "Fast algorithms for convolutional neural networks", CVPR 2016, equations 5 to 14.

Shapes: E = (m+2)^2 elements, terms = K_d * C_in of a sum, tiles numbered over images, depths, rows and columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from tinyconv.geometry import Geometry
from tinyconv.kernels.arrays import Array, array_module, scratch_limit
from tinyconv.kernels.choice import volumes, winograd_fits
from tinyconv.kernels.cuda.launcher import blocks_for, contiguous, launch, side_by_side, window

_FILTERS = np.dtype([("along_rows", "i8"), ("along_channels", "i8"), ("channels", "i4"), ("rotated", "i4")])
_STEP = 8  # tiles: their number is rounded up to whole steps, which keeps the rows of matrices aligned
_SUM = 256  # tiles that one product of the weight gradient sums over, at least
_BLOCKS = 512  # of 64 x 64 results, which occupy a large GPU; with fewer, the sums over the tiles are divided


def fits(g: Geometry, groups: int) -> bool:
    """Whether the windows are 3x3 on the last two axes, of stride 1, without dilation there, and in one group."""
    return winograd_fits(volumes(g), groups)


def _whole(count: int, step: int) -> int:
    return -(-count // step) * step


@dataclass(frozen=True)
class Winograd:
    """The convolution and its gradients by tiles of ``m`` x ``m`` outputs, 2 or 4, where ``fits`` is true."""

    m: int

    def conv(self, x: Array, w: Array, g: Geometry, groups: int) -> Array:
        """x (N, C_in, *I), w (C_out, C_in, *K) to y (N, C_out, *O)."""
        y = array_module(x).empty((len(x), len(w), *g.output), x.dtype)
        per_channel = prod(g.kernel)
        self._filter(x, w, y, (w.shape[1] * per_channel, per_channel, w.shape[1], False), volumes(g))
        return y

    def conv_input(self, gy: Array, w: Array, g: Geometry, groups: int) -> Array:
        """gy (N, C_out, *O), w (C_out, C_in, *K) to gx (N, C_in, *I): rotated weights, exchanged channels."""
        gx = array_module(gy).empty((len(gy), w.shape[1], *g.size), gy.dtype)
        per_channel = prod(g.kernel)
        (phase,) = volumes(g).transposed_phases()
        filters = (per_channel, w.shape[1] * per_channel, len(w), True)
        self._filter(gy, w, gx, filters, phase.geometry(volumes(g).output))
        return gx

    def _filter(self, x: Array, w: Array, y: Array, filters: tuple[int, int, int, bool], g: Geometry) -> None:
        """x (N, C, *I) to y (N, rows, *O) with the weights that lie as ``filters`` says: see winograd.cu."""
        x, w = contiguous(x), contiguous(w)
        xp, elements, rows = array_module(x), (self.m + 2) ** 2, y.shape[1]
        channels, depths = x.shape[1], g.kernel[0]
        terms, f, v = depths * channels, np.array(filters, _FILTERS), window(g)
        u = xp.empty((elements, rows, terms), x.dtype)
        grid, threads = side_by_side(channels, rows * depths)
        launch("winograd.cu", "transform_weights", grid, (w, u, rows * depths, self.m, f, v), threads)
        tiles = self._tiles(x, g)
        most = self._at_once(x, terms + rows)
        for first in range(0, tiles, most):
            lanes = min(most, tiles - first)
            per = _whole(lanes, _STEP)
            pixels = self._pixels(x, g, (1, per), first, tiles)  # (1, E, terms, tiles)
            products = xp.matmul(u, pixels[0])  # (E, rows, tiles)
            grid, threads = side_by_side(lanes, rows)
            args = (products, y, x, w, lanes, rows, first, per, self.m, f, v)
            launch("winograd.cu", "make_outputs", grid, args, threads)
            del args, pixels, products  # before the next are made

    def conv_weight(self, x: Array, gy: Array, g: Geometry, groups: int) -> Array:
        """x (N, C_in, *I), gy (N, C_out, *O) to gw (C_out, C_in, *K).

        The sum over the tiles is made in parts, side by side, which are added in their order.
        """
        x, gy, v = contiguous(x), contiguous(gy), volumes(g)
        xp, elements, c_in, c_out = array_module(x), (self.m + 2) ** 2, x.shape[1], gy.shape[1]
        gw = xp.zeros((c_out, c_in, *g.kernel), x.dtype)
        terms, tiles = v.kernel[0] * c_in, self._tiles(x, v)
        most = self._at_once(x, terms + c_out)
        wanted = max(1, _BLOCKS // (elements * _whole(terms, 64) // 64 * _whole(c_out, 64) // 64))
        per = min(most, _whole(max(_SUM, -(-tiles // wanted)), _STEP))
        together = max(1, min(most, tiles) // per)
        for first in range(0, tiles, together * per):
            parts = min(together, -(-(tiles - first) // per))
            pixels = self._pixels(x, v, (parts, per), first, tiles)  # (parts, E, terms, per)
            cotangents = xp.empty((parts, elements, per, c_out), x.dtype)
            lanes = parts * per * c_out
            args: tuple[object, ...] = (gy, cotangents, lanes, c_out, first, tiles, per, self.m, window(v))
            launch("winograd.cu", "transform_cotangents", blocks_for(lanes), args)
            sums = xp.matmul(pixels, cotangents)  # (parts, E, terms, C_out)
            grid, threads = side_by_side(c_out, terms)
            last = first + parts * per >= tiles
            args = (sums, gw, x, gy, c_out, terms, parts, len(x), c_in, self.m, last, window(v))
            launch("winograd.cu", "make_gradient", grid, args, threads)
            del args, pixels, cotangents, sums  # before the next are made
        return gw

    def _tiles(self, x: Array, g: Geometry) -> int:
        return len(x) * g.output[0] * -(-g.output[1] // self.m) * -(-g.output[2] // self.m)

    def _at_once(self, x: Array, channels: int) -> int:
        """Tiles whose transformed numbers stay under the scratch limit, in whole steps."""
        limit = scratch_limit(array_module(x)) // (x.itemsize * (self.m + 2) ** 2 * channels)
        return max(1, limit // _STEP) * _STEP

    def _pixels(self, x: Array, g: Geometry, parts: tuple[int, int], first: int, tiles: int) -> Array:
        """The transformed pixels of ``parts`` (how many, tiles in each) from the tile ``first`` on."""
        terms, lanes = g.kernel[0] * x.shape[1], prod(parts)
        out = array_module(x).empty((parts[0], (self.m + 2) ** 2, terms, parts[1]), x.dtype)
        grid, threads = side_by_side(lanes, terms)
        args = (x, out, lanes, terms, x.shape[1], first, tiles, parts[1], self.m, window(g))
        launch("winograd.cu", "transform_pixels", grid, args, threads)
        return out


winograd2, winograd4 = Winograd(2), Winograd(4)
