"""Host code of depthwise.cu: convolutions whose groups have one input channel."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from tinyconv.geometry import Geometry
from tinyconv.kernels.arrays import Array, array_module
from tinyconv.kernels.cuda.launcher import THREADS, Constants, blocks_for, contiguous, launch, window

_BLOCKS = 8192  # enough for some rounds of all multiprocessors, each of which holds 16 or fewer
_LEAST = 4 * THREADS  # places of a share: a thread's first costs divisions, so let it do some more


def constants(g: Geometry) -> Constants:
    """What depthwise.cu leaves open: SIZE and STRIDE."""
    usual = g.kernel == (3, 3) and g.stride in ((1, 1), (2, 2)) and g.dilation == (1, 1)
    return ("SIZE", 3 if usual else 0), ("STRIDE", g.stride[0] if usual else 0)


def _shares(channels: int, places: int) -> tuple[int, int]:
    """(blocks of a channel, places of a block)."""
    shares = max(1, min(-(-_BLOCKS // channels), places // _LEAST))
    return shares, -(-places // shares)


def _strips(g: Geometry, dtype: np.dtype[Any]) -> int:
    """Strips of the outputs of an image, see depthwise.cu."""
    high = 16 // dtype.itemsize if dict(constants(g))["SIZE"] else 1
    return prod(g.output) if high == 1 else -(-g.output[0] // high) * g.output[1]


def conv(x: Array, w: Array, g: Geometry, groups: int) -> Array:
    """x (N, C_in, *I), w (C_out, 1, *K) to y (N, C_out, *O)."""
    return _conv(x, w, g, groups, back=False)


def _conv(x: Array, w: Array, g: Geometry, groups: int, back: bool) -> Array:
    x, w = contiguous(x), contiguous(w)
    y = array_module(x).empty((x.shape[0], w.shape[0], *g.output), x.dtype)
    shares, share = _shares(w.shape[0], x.shape[0] * _strips(g, x.dtype))
    args = (x, w, y, x.shape[0], groups, w.shape[0] // groups, shares, share, back, window(g))
    launch("depthwise.cu", "conv", w.shape[0] * shares, args, constants=constants(g))
    return y


def conv_input(gy: Array, w: Array, g: Geometry, groups: int) -> Array:
    """gy (N, C_out, *O), w (C_out, 1, *K) to gx (N, C_in, *I)."""
    if w.shape[0] == groups and max(g.stride) == 1:  # a convolution of the gradient with the windows turned around
        (phase,) = g.transposed_phases()
        return _conv(gy, w, phase.geometry(g.output), groups, back=True)
    gy, w = contiguous(gy), contiguous(w)
    gx = array_module(gy).empty((gy.shape[0], groups, *g.size), gy.dtype)
    made = prod(g.size)
    if dict(constants(g))["STRIDE"] == 2:  # a thread makes two by two
        made = prod((n - 1 + before) // 2 + 1 for n, (before, _) in zip(g.size, g.padding))
    shares, share = _shares(groups, gy.shape[0] * made)
    args = (gy, w, gx, gy.shape[0], groups, w.shape[0] // groups, shares, share, window(g))
    launch("depthwise.cu", "conv_input", groups * shares, args, constants=constants(g))
    return gx


def conv_weight(x: Array, gy: Array, g: Geometry, groups: int) -> Array:
    """x (N, C_in, *I), gy (N, C_out, *O) to gw (C_out, 1, *K). The shares' sums are added in a fixed order."""
    x, gy = contiguous(x), contiguous(gy)
    gw = array_module(x).empty((gy.shape[1], 1, *g.kernel), x.dtype)
    shares, share = _shares(gy.shape[1], x.shape[0] * _strips(g, x.dtype))
    parts = array_module(x).empty((shares, *gw.shape), x.dtype)
    taps = 1 if dict(constants(g))["SIZE"] else prod(g.kernel)  # that blocks of their own take
    args = (x, gy, parts, x.shape[0], groups, gy.shape[1] // groups, shares, share, window(g))
    launch("depthwise.cu", "weight_parts", gy.shape[1] * taps * shares, args, constants=constants(g))
    launch("pack.cu", "add_parts", blocks_for(gw.size), (parts, gw, gw.size, shares))
    return gw
