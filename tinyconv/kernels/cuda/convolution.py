"""Host code of the convolutions: what each kernel is given, and which one is taken."""

from __future__ import annotations

from math import prod

from tinyconv.geometry import Geometry
from tinyconv.kernels.arrays import Array, array_module
from tinyconv.kernels.cuda.launcher import blocks_for, contiguous, launch, window

_TILE = 64  # of tiled.cu
_LEAST_CHANNELS = 16  # on either side, for a tile that is not mostly empty
_SHARE = 1024  # outputs that one block of the weight gradient sums over, at least


def _fills_tiles(c_in: int, c_out: int, groups: int) -> bool:
    return min(c_in, c_out) // groups >= _LEAST_CHANNELS


def conv(x: Array, w: Array, g: Geometry, groups: int) -> Array:
    """x (N, C_in, *I), w (C_out, C_in/groups, *K) to y (N, C_out, *O)."""
    return (conv_tiled if _fills_tiles(x.shape[1], w.shape[0], groups) else conv_direct)(x, w, g, groups)


def conv_direct(x: Array, w: Array, g: Geometry, groups: int) -> Array:
    """A thread an output."""
    x, w = contiguous(x), contiguous(w)
    y = array_module(x).empty((x.shape[0], w.shape[0], *g.output), x.dtype)
    args = (x, w, y, y.size, x.shape[1], w.shape[0], groups, window(g))
    launch("direct.cu", "conv", blocks_for(y.size), args)
    return y


def conv_tiled(x: Array, w: Array, g: Geometry, groups: int) -> Array:
    """A block a tile of 64 channels and 64 outputs."""
    x, w = contiguous(x), contiguous(w)
    y = array_module(x).empty((x.shape[0], w.shape[0], *g.output), x.dtype)
    blocks = (_tiles(x.shape[0] * prod(g.output)), _tiles(w.shape[0] // groups), groups)
    args = (x, w, y, x.shape[0], x.shape[1], w.shape[0], groups, window(g))
    launch("tiled.cu", "conv_tiled", blocks, args, threads=256)
    return y


def conv_input(gy: Array, w: Array, g: Geometry, groups: int) -> Array:
    """gy (N, C_out, *O), w (C_out, C_in/groups, *K) to gx (N, C_in, *I)."""
    gy, w = contiguous(gy), contiguous(w)
    c_in = w.shape[1] * groups
    gx = array_module(gy).empty((gy.shape[0], c_in, *g.size), gy.dtype)
    args = (gy, w, gx, gx.size, c_in, w.shape[0], groups, window(g))
    launch("direct.cu", "conv_input", blocks_for(gx.size), args)
    return gx


def conv_weight(x: Array, gy: Array, g: Geometry, groups: int) -> Array:
    """x (N, C_in, *I), gy (N, C_out, *O) to gw (C_out, C_in/groups, *K)."""
    tiled = _fills_tiles(x.shape[1], gy.shape[1], groups)
    return (conv_weight_tiled if tiled else conv_weight_direct)(x, gy, g, groups)


def conv_weight_direct(x: Array, gy: Array, g: Geometry, groups: int) -> Array:
    """A block a weight."""
    x, gy = contiguous(x), contiguous(gy)
    gw = array_module(x).empty((gy.shape[1], x.shape[1] // groups, *g.kernel), x.dtype)
    args = (x, gy, gw, x.shape[0], x.shape[1], gy.shape[1], groups, window(g))
    launch("direct.cu", "conv_weight", gw.size, args)
    return gw


def conv_weight_tiled(x: Array, gy: Array, g: Geometry, groups: int) -> Array:
    """Blocks that share the sum over the outputs; the parts are added in a fixed order."""
    x, gy = contiguous(x), contiguous(gy)
    xp, c_in, c_out = array_module(x), x.shape[1], gy.shape[1]
    gw = xp.empty((c_out, c_in // groups, *g.kernel), x.dtype)
    splits = max(1, x.shape[0] * prod(g.output) // _SHARE)
    parts = xp.empty((splits, *gw.shape), x.dtype)
    blocks = (_tiles(c_in // groups * prod(g.kernel)), _tiles(c_out // groups), groups * splits)
    args = (x, gy, parts, x.shape[0], c_in, c_out, groups, splits, window(g))
    launch("tiled.cu", "conv_weight_parts", blocks, args, threads=256)
    launch("tiled.cu", "add_parts", blocks_for(gw.size), (parts, gw, gw.size, splits))
    return gw


def _tiles(elements: int) -> int:
    return -(-elements // _TILE)
