"""Host code of the convolutions on tensor cores: tf32.cu, bf16.cu and wgmma.cu."""

from __future__ import annotations

from math import prod

import numpy as np

from tinyconv.geometry import Geometry
from tinyconv.kernels.arrays import Array, array_module
from tinyconv.kernels.cuda.launcher import blocks_for, contiguous, launch, window

_LEAST_CHANNELS = 16  # a group, on either side: a slice of the sum; fewer rows would leave tensor cores idle
_MOST_PHASES = 8  # of an input gradient, three launches each
_COLUMNS = 128  # of a tile
_WIDE_SLICE, _WIDE_TILE = 64, 128 * 128  # of wgmma.cu: channels or outputs; rows times columns
_RUN = 32  # input channels at one tap, of the weight gradient's columns
_SLICE = 16  # channels, or outputs in the weight gradient, that are multiplied at a time
_STEPS = {"tf32": 2, "bf16": 1}  # products that a slice takes
_BLOCKS = 396  # that fill a large GPU: three on each of 132 multiprocessors
_LEAST_SHARE = 256  # outputs of a part


def fits(face: str, g: Geometry, c_in: int, c_out: int, groups: int) -> bool:
    """Whether 'conv', 'conv_input' or 'conv_weight' keeps tensor cores busy. All need arrays of float32."""
    if face == "conv_input" and prod(g.stride) > _MOST_PHASES:
        return False
    return min(c_in, c_out) // groups >= _LEAST_CHANNELS


def available(x: Array) -> bool:
    """Whether the device of ``x`` has tensor cores for TF32 and bf16: from compute capability 8.0 on, and emulated."""
    return array_module(x) is np or int(x.device.compute_capability) >= 80


def conv(x: Array, w: Array, g: Geometry, groups: int, precision: str) -> Array:
    """x (N, C_in, *I), w (C_out, C_in/groups, *K) to y (N, C_out, *O), operands rounded to ``precision``."""
    return _product(contiguous(x), contiguous(w), g, groups, precision, gradient=False)


def conv_input(gy: Array, w: Array, g: Geometry, groups: int, precision: str) -> Array:
    """gy (N, C_out, *O), w (C_out, C_in/groups, *K) to gx (N, C_in, *I), operands rounded to ``precision``.

    With a stride the pixels fall into phases, each of them a convolution with some of the taps.
    """
    gy, w = contiguous(gy), contiguous(w)
    phases = g.transposed_phases()
    gx = None
    for phase in phases:
        taps = w[(..., *phase.taps)][(..., *[slice(None, None, -1)] * g.rank)]  # from the first to the last
        part = _product(gy, contiguous(taps), phase.geometry(g.output), groups, precision, gradient=True)
        if len(phases) == 1:
            return part
        if gx is None:
            gx = array_module(gy).empty((gy.shape[0], part.shape[1], *g.size), gy.dtype)
        gx[(..., *phase.pixels)] = part
    return gx


def conv_weight(x: Array, gy: Array, g: Geometry, groups: int, precision: str) -> Array:
    """x (N, C_in, *I), gy (N, C_out, *O) to gw (C_out, C_in/groups, *K), operands rounded to ``precision``.

    Blocks share the sum over the outputs; their parts are added in a fixed order, which depends on the shapes alone.
    """
    x, gy = contiguous(x), contiguous(gy)
    sums = (sums_by_warpgroups if _by_warpgroups(x, groups, precision) else sums_by_warps)(x, gy, g, groups, precision)
    if len(sums) == 1:
        return sums[0]
    gw = array_module(x).empty(sums.shape[1:], x.dtype)
    launch("pack.cu", "add_parts", blocks_for(gw.size), (sums, gw, gw.size, len(sums)))
    return gw


def _by_warpgroups(x: Array, groups: int, precision: str) -> bool:
    """On Hopper's GPUs by wgmma.cu, if the operands are bf16 and fill its slices."""
    hopper = precision == "bf16" and array_module(x) is not np and x.device.compute_capability == "90"
    return hopper and x.shape[1] // groups >= _WIDE_SLICE


def _product(x: Array, w: Array, g: Geometry, groups: int, precision: str, gradient: bool) -> Array:
    product = product_by_warpgroups if _by_warpgroups(x, groups, precision) else product_by_warps
    return product(x, w, g, groups, precision, gradient)


def product_by_warps(x: Array, w: Array, g: Geometry, groups: int, precision: str, gradient: bool) -> Array:
    """Weights are packed into the order in which a block copies them, then multiplied."""
    xp, file, taps = array_module(x), f"{precision}.cu", prod(g.kernel)
    channels, rows = x.shape[1] // groups, w.shape[1] if gradient else w.shape[0] // groups
    height = _height(rows)
    tiles, steps = -(-rows // height), -(-channels // _SLICE) * _STEPS[precision]
    packed = xp.empty((groups, steps, taps, tiles * height // 16, 32, 4), np.uint32)  # see pack
    launch(file, "pack", (tiles * height // 64, steps, groups), (w, packed, rows, channels, taps, gradient))
    y = xp.empty((x.shape[0], groups * rows, *g.output), x.dtype)
    columns = -(-x.shape[0] * prod(g.output) // _COLUMNS)
    args = (x, packed, y, x.shape[0], channels, rows, groups, gradient, window(g))
    launch(file, f"conv_{height}", (columns, tiles, groups), args)
    return y


def sums_by_warps(x: Array, gy: Array, g: Geometry, groups: int, precision: str) -> Array:
    """Parts of the weight gradient (parts, C_out, C_in/groups, *K)."""
    channels, rows = x.shape[1] // groups, gy.shape[1] // groups
    height = _height(rows)
    tiles = (-(-prod(g.kernel) * -(-channels // _RUN) * _RUN // _COLUMNS), -(-rows // height))
    parts, share = _parts(x.shape[0] * prod(g.output), _SLICE, prod(tiles) * groups)
    sums = array_module(x).empty((parts, gy.shape[1], channels, *g.kernel), x.dtype)
    args = (x, gy, sums, x.shape[0], channels, rows, groups, share, window(g))
    launch(f"{precision}.cu", f"conv_weight_{height}", (*tiles, groups * parts), args)
    return sums


def product_by_warpgroups(x: Array, w: Array, g: Geometry, groups: int, precision: str, gradient: bool) -> Array:
    """Images and weights are copied as bf16 into the order in which a block copies them, then multiplied."""
    xp, file, taps = array_module(x), "wgmma.cu", prod(g.kernel)
    channels, rows = x.shape[1] // groups, w.shape[1] if gradient else w.shape[0] // groups
    height = _height(rows)
    tiles, slices = -(-rows // height), -(-channels // _WIDE_SLICE)
    packed = xp.empty((groups, slices, taps, tiles * height, 32), np.uint32)  # see pack
    blocks = (tiles * height // 8, slices, groups)
    launch(file, "pack", blocks, (w, packed, rows, channels, taps, gradient), threads=256)
    y = xp.empty((x.shape[0], groups * rows, *g.output), x.dtype)
    columns = _WIDE_TILE // height
    blocks = (-(-x.shape[0] * prod(g.output) // columns), tiles, groups)
    args = (_channels_last(x, groups), packed, y, x.shape[0], channels, rows, groups, gradient, window(g))
    launch(file, f"conv_{height}", blocks, args, threads=256, shared=256 * (height + columns))
    return y


def sums_by_warpgroups(x: Array, gy: Array, g: Geometry, groups: int, precision: str) -> Array:
    """Parts of the weight gradient (parts, C_out, C_in/groups, *K)."""
    channels, rows = x.shape[1] // groups, gy.shape[1] // groups
    height = _height(rows)
    columns = _WIDE_TILE // height
    runs = prod(g.kernel) * -(-channels // _WIDE_SLICE)
    tiles = (-(-runs * _WIDE_SLICE // columns), -(-rows // height))
    parts, share = _parts(x.shape[0] * prod(g.output), _WIDE_SLICE, prod(tiles) * groups)
    sums = array_module(x).empty((parts, gy.shape[1], channels, *g.kernel), x.dtype)
    last = _channels_last(x, groups), _channels_last(gy, groups)
    args = (*last, sums, x.shape[0], channels, rows, groups, share, window(g))
    blocks = (*tiles, groups * parts)
    launch("wgmma.cu", f"conv_weight_{height}", blocks, args, threads=256, shared=256 * (height + columns))
    return sums


def _channels_last(x: Array, groups: int) -> Array:
    """x (N, C, *I) as bf16 (N groups, pixels, chunks of 8 channels): 4 words of two numbers a chunk."""
    images, channels, size = x.shape[0] * groups, x.shape[1] // groups, prod(x.shape[2:])
    copy = array_module(x).empty((images, size, -(-channels // 8), 4), np.uint32)
    blocks = (images * -(-size // 32), -(-channels // _WIDE_SLICE), 1)
    launch("wgmma.cu", "channels_last", blocks, (x, copy, channels, copy.shape[2], size), threads=256)
    return copy


def _height(rows: int) -> int:
    """Of a tile: 128 rows share a slice of pixels where there are as many."""
    return 128 if rows > 64 else 64


def _parts(outputs: int, depth: int, blocks: int) -> tuple[int, int]:
    """Into how many parts a sum over ``outputs`` falls, so that all blocks fill a GPU; slices of ``depth`` a part."""
    slices = -(-outputs // depth)
    parts = min(-(-_BLOCKS // blocks), max(1, slices * depth // _LEAST_SHARE))
    return parts, -(-slices // parts)
