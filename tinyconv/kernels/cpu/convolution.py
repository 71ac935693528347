"""The convolution triangle on the CPU: volumes for every rank, and the algorithm that ``choice`` says."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from tinyconv.geometry import Geometry
from tinyconv.kernels import im2col
from tinyconv.kernels.arrays import Array
from tinyconv.kernels.choice import choose, volumes
from tinyconv.kernels.cpu import depthwise, direct, tiled, winograd
from tinyconv.kernels.cpu.memory import all_finite, element_strides, plain

_RUN = {"direct": direct.run, "depthwise": depthwise.run, "tiled": tiled.run}


def conv(x: Array, w: Array, g: Geometry, groups: int) -> Array:
    """x (N, C_in, *I), w (C_out, C_in/groups, *K) to y (N, C_out, *O)."""
    v = volumes(g)
    x, w = plain(x).reshape(*x.shape[:2], *v.size), plain(w).reshape(*w.shape[:2], *v.kernel)
    algorithm = choose("conv", v, len(x), x.shape[1], len(w), groups, x.dtype).algorithm
    y = winograd.conv(x, w, v, int(algorithm[-1])) if algorithm.startswith("winograd") else None
    if y is None:
        y = np.empty((len(x), len(w), *v.output), x.dtype)
        taps, c_out = prod(v.kernel), len(w) // groups
        row = w.shape[1] * taps
        weights = direct.Weights(w.reshape(-1), c_out, c_out * row, row, taps, np.arange(taps))
        _RUN.get(algorithm, direct.run)(x, weights, y.reshape(-1), 0, element_strides(y), v, groups)
    return y.reshape(*y.shape[:2], *g.output)


def conv_input(gy: Array, w: Array, g: Geometry, groups: int) -> Array:
    """gy (N, C_out, *O), w (C_out, C_in/groups, *K) to gx (N, C_in, *I)."""
    v = volumes(g)
    flat = plain(w).reshape(-1)
    if not all_finite(flat):
        # Beyond the border, zeros would meet an infinite weight where the definition has no product.
        return im2col.conv_input(gy, w, g, groups)
    gy, w = plain(gy).reshape(*gy.shape[:2], *v.output), flat.reshape(*w.shape[:2], *v.kernel)
    algorithm = choose("conv_input", v, len(gy), w.shape[1] * groups, len(w), groups, gy.dtype).algorithm
    gx = winograd.conv_input(gy, w, v, int(algorithm[-1])) if algorithm.startswith("winograd") else None
    if gx is None:
        gx = _gather_input(gy, w, v, groups, _RUN.get(algorithm, direct.run))
    return gx.reshape(*gx.shape[:2], *g.size)


def _gather_input(gy: Array, w: Array, g: Geometry, groups: int, run: Any) -> Array:
    """The input gradient as a convolution of gy for each phase of the pixels, with some of the taps, rotated."""
    c_out, c_in = len(w) // groups, w.shape[1]
    phases = g.transposed_phases()
    read = all(min(phase.kernel) for phase in phases)
    gx = (np.empty if read else np.zeros)((len(gy), groups * c_in, *g.size), gy.dtype)
    strides = element_strides(gx)
    row = c_in * prod(g.kernel)
    tap_numbers = np.arange(prod(g.kernel)).reshape(g.kernel)
    for phase in phases:
        if min(phase.kernel):
            taps = np.ascontiguousarray(tap_numbers[phase.taps]).reshape(-1)
            weights = direct.Weights(w.reshape(-1), c_in, c_out * row, prod(g.kernel), row, taps)
            base = sum(pixels.start * stride for pixels, stride in zip(phase.pixels, strides[2:]))
            steps = (*strides[:2], *(stride * s for stride, s in zip(strides[2:], g.stride)))
            run(gy, weights, gx.reshape(-1), base, steps, phase.geometry(g.output), groups)
    return gx


def conv_weight(x: Array, gy: Array, g: Geometry, groups: int) -> Array:
    """x (N, C_in, *I), gy (N, C_out, *O) to gw (C_out, C_in/groups, *K)."""
    v = volumes(g)
    x, gy = plain(x).reshape(*x.shape[:2], *v.size), plain(gy).reshape(*gy.shape[:2], *v.output)
    algorithm = choose("conv_weight", v, len(x), x.shape[1], gy.shape[1], groups, x.dtype).algorithm
    gw = winograd.conv_weight(x, gy, v, int(algorithm[-1])) if algorithm.startswith("winograd") else None
    if gw is None and algorithm == "depthwise":
        gw = depthwise.conv_weight(x, gy, v)
    if gw is None:
        gw = (tiled if algorithm == "tiled" else direct).conv_weight(x, gy, v, groups)
    return gw.reshape(*gw.shape[:2], *g.kernel)
