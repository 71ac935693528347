"""Host code of direct.cu: a thread an output or pixel, a block a weight. The bottom of the ladder on a GPU."""

from __future__ import annotations

from tinyconv.geometry import Geometry
from tinyconv.kernels.arrays import Array, array_module
from tinyconv.kernels.cuda.launcher import blocks_for, contiguous, launch, window


def conv(x: Array, w: Array, g: Geometry, groups: int) -> Array:
    """x (N, C_in, *I), w (C_out, C_in/groups, *K) to y (N, C_out, *O)."""
    x, w = contiguous(x), contiguous(w)
    y = array_module(x).empty((x.shape[0], w.shape[0], *g.output), x.dtype)
    args = (x, w, y, y.size, x.shape[1], w.shape[0], groups, window(g))
    launch("direct.cu", "conv", blocks_for(y.size), args)
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
    x, gy = contiguous(x), contiguous(gy)
    gw = array_module(x).empty((gy.shape[1], x.shape[1] // groups, *g.kernel), x.dtype)
    args = (x, gy, gw, x.shape[0], x.shape[1], gy.shape[1], groups, window(g))
    launch("direct.cu", "conv_weight", gw.size, args)
    return gw
