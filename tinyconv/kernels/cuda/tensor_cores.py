"""Host code of the convolutions on tensor cores: tf32.cu and bf16.cu, of one argument list and one way of working."""

from __future__ import annotations

from math import prod

import numpy as np

from tinyconv.geometry import Geometry
from tinyconv.kernels.arrays import Array, array_module
from tinyconv.kernels.cuda.launcher import blocks_for, contiguous, launch, window

_LEAST_CHANNELS = 16  # a group, on either side: a slice of the sum; fewer rows would leave tensor cores idle
_COLUMNS = 128  # of a tile
_RUN = 32  # input channels at one tap, of the weight gradient's columns
_SLICE = 16  # channels, or outputs in the weight gradient, that are multiplied at a time
_WORDS = {"tf32": 16, "bf16": 8}  # of 32 bits, of a slice
_BLOCKS = 396  # that fill a large GPU: three on each of 132 multiprocessors
_LEAST_SHARE = 16  # slices of a part


def fits(face: str, g: Geometry, c_in: int, c_out: int, groups: int) -> bool:
    """Whether 'conv', 'conv_input' or 'conv_weight' keeps tensor cores busy. All need arrays of float32."""
    if face == "conv_input" and prod(g.stride) > 1:
        return False  # a pixel would multiply by all taps, though only every stride-th output reads it
    return min(c_in, c_out) // groups >= _LEAST_CHANNELS


def conv(x: Array, w: Array, g: Geometry, groups: int, precision: str) -> Array:
    """x (N, C_in, *I), w (C_out, C_in/groups, *K) to y (N, C_out, *O), operands rounded to ``precision``."""
    x, w = contiguous(x), contiguous(w)
    y = array_module(x).empty((x.shape[0], w.shape[0], *g.output), x.dtype)
    _product("conv", x, w, y, g, groups, precision)
    return y


def conv_input(gy: Array, w: Array, g: Geometry, groups: int, precision: str) -> Array:
    """gy (N, C_out, *O), w (C_out, C_in/groups, *K) to gx (N, C_in, *I), operands rounded to ``precision``."""
    gy, w = contiguous(gy), contiguous(w)
    gx = array_module(gy).empty((gy.shape[0], w.shape[1] * groups, *g.size), gy.dtype)
    _product("conv_input", gy, w, gx, g, groups, precision)
    return gx


def _product(face: str, given: Array, w: Array, made: Array, g: Geometry, groups: int, precision: str) -> None:
    """Weights are packed into the rows that a block copies, then multiplied."""
    channels, rows, taps = given.shape[1] // groups, made.shape[1] // groups, prod(g.kernel)
    height = _height(rows)
    tiles, words = -(-rows // height), -(-channels // _SLICE) * _WORDS[precision]
    packed = array_module(w).empty((groups, taps, words, tiles * height), np.uint32)
    file = f"{precision}.cu"
    blocks = (tiles * height // 64, words, groups)
    launch(file, "pack", blocks, (w, packed, rows, channels, taps, face == "conv_input"), threads=64)
    columns = -(-made.shape[0] * prod(made.shape[2:]) // _COLUMNS)
    args = (given, packed, made, given.shape[0], channels, rows, groups, window(g))
    launch(file, f"{face}_{height}", (columns, tiles, groups), args)


def conv_weight(x: Array, gy: Array, g: Geometry, groups: int, precision: str) -> Array:
    """x (N, C_in, *I), gy (N, C_out, *O) to gw (C_out, C_in/groups, *K), operands rounded to ``precision``.

    Blocks share the sum over the outputs; their parts are added in a fixed order, which depends on the shapes alone.
    """
    x, gy = contiguous(x), contiguous(gy)
    channels, rows, taps = x.shape[1] // groups, gy.shape[1] // groups, prod(g.kernel)
    height = _height(rows)
    tiles = (-(-taps * -(-channels // _RUN) * _RUN // _COLUMNS), -(-rows // height))
    slices = -(-x.shape[0] * prod(g.output) // _SLICE)
    parts = min(-(-_BLOCKS // (prod(tiles) * groups)), max(1, slices // _LEAST_SHARE))
    share = -(-slices // parts)
    sums = array_module(x).empty((parts, gy.shape[1], channels, *g.kernel), x.dtype)
    args = (x, gy, sums, x.shape[0], channels, rows, groups, share, window(g))
    launch(f"{precision}.cu", f"conv_weight_{height}", (*tiles, groups * parts), args)
    if parts == 1:
        return sums[0]
    gw = array_module(x).empty(sums.shape[1:], x.dtype)
    launch("pack.cu", "add_parts", blocks_for(gw.size), (sums, gw, gw.size, parts))
    return gw


def _height(rows: int) -> int:
    """Of a tile: 128 rows share a slice of pixels where there are as many."""
    return 128 if rows > 64 else 64
