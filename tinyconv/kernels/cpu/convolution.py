"""The convolution triangle on the CPU: which algorithm, and on what."""

from __future__ import annotations

import os
from math import prod

import numpy as np

from tinyconv.geometry import Geometry
from tinyconv.kernels import im2col
from tinyconv.kernels.arrays import Array
from tinyconv.kernels.cpu import direct, tiled, winograd
from tinyconv.kernels.cpu.memory import element_strides, plain

ALGO = os.environ.get("ALGO")


def _volumes(a: Array, g: Geometry) -> Array:
    """(N, C, *I) as (N, C, D, H, W), axes of size 1 in front."""
    return plain(a).reshape(*a.shape[:2], *(1,) * (3 - g.rank), *a.shape[2:])


def _lifted(g: Geometry) -> Geometry:
    """The same windows with three axes."""
    while g.rank < 3:
        g = g.lifted()
    return g


def choose(face, x, c_out, g, groups):
    if ALGO: return ALGO
    return "direct"


def conv(x: Array, w: Array, g: Geometry, groups: int) -> Array:
    """x (N, C_in, *I), w (C_out, C_in/groups, *K) to y (N, C_out, *O)."""
    output, (x, w, g) = g.output, (_volumes(x, g), _volumes(w, g), _lifted(g))
    name = choose("f", x, len(w), g, groups)
    if name.startswith("wino"):
        y = winograd.conv(x, w, g, int(name[4:]))
        if y is not None:
            return y.reshape(*y.shape[:2], *output)
        name = "direct"
    y = np.empty((len(x), len(w), *g.output), x.dtype)
    (tiled if name == "tiled" else direct).run(x, w.reshape(len(w), -1), y.reshape(-1), 0, element_strides(y), g, groups)
    return y.reshape(*y.shape[:2], *output)


def conv_input(gy: Array, w: Array, g: Geometry, groups: int) -> Array:
    """gy (N, C_out, *O), w (C_out, C_in/groups, *K) to gx (N, C_in, *I): a convolution for each phase of the pixels."""
    if not np.isfinite(w).all():  # beyond the border zeros would meet an infinite weight, where the definition has no product
        return im2col.conv_input(gy, w, g, groups)
    size, (gy, w, g) = g.size, (_volumes(gy, g), _volumes(w, g), _lifted(g))
    name = choose("x", gy, len(w), g, groups)
    if name.startswith("wino"):
        gx = winograd.conv_input(gy, w, g, int(name[4:]))
        if gx is not None:
            return gx.reshape(*gx.shape[:2], *size)
        name = "direct"
    c_out, c_in = len(w) // groups, w.shape[1]
    w = w.reshape(groups, c_out, c_in, *g.kernel).swapaxes(1, 2)  # (G, C_in/G, C_out/G, *K)
    phases = g.transposed_phases()
    read = all(min(phase.kernel) for phase in phases)
    gx = (np.empty if read else np.zeros)((len(gy), groups * c_in, *g.size), gy.dtype)
    strides = element_strides(gx)
    for phase in phases:
        if min(phase.kernel):
            rotated = np.ascontiguousarray(w[(..., *phase.taps)]).reshape(groups * c_in, -1)
            base = sum(pixels.start * stride for pixels, stride in zip(phase.pixels, strides[2:]))
            steps = (*strides[:2], *(stride * s for stride, s in zip(strides[2:], g.stride)))
            (tiled if name == "tiled" else direct).run(gy, rotated, gx.reshape(-1), base, steps, phase.geometry(g.output), groups)
    return gx.reshape(*gx.shape[:2], *size)


def conv_weight(x: Array, gy: Array, g: Geometry, groups: int) -> Array:
    """x (N, C_in, *I), gy (N, C_out, *O) to gw (C_out, C_in/groups, *K)."""
    kernel, (x, gy, g) = g.kernel, (_volumes(x, g), _volumes(gy, g), _lifted(g))
    name = choose("w", x, gy.shape[1], g, groups)
    if name.startswith("wino"):
        gw = winograd.conv_weight(x, gy, g, int(name[4:]))
        if gw is not None:
            return gw.reshape(*gw.shape[:2], *kernel)
        name = "direct"
    gw = (tiled if name == "tiled" else direct).conv_weight(x, gy, g, groups)
    return gw.reshape(*gw.shape[:2], *kernel)
