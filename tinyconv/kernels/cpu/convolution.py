"""The convolution triangle on the CPU: volumes for every rank, and the algorithm that ``choice`` says."""

from __future__ import annotations

from functools import partial
from math import prod

import numpy as np

from tinyconv.geometry import Geometry
from tinyconv.kernels import im2col
from tinyconv.kernels.arrays import Array
from tinyconv.kernels.choice import choose, volumes
from tinyconv.kernels.cpu import columns, depthwise, direct, tiled, winograd
from tinyconv.kernels.cpu.memory import all_finite, element_strides, plain
from tinyconv.kernels.cpu.product import leaf
from tinyconv.kernels.threads import parallel


def conv(x: Array, w: Array, g: Geometry, groups: int) -> Array:
    """x (N, C_in, *I), w (C_out, C_in/groups, *K) to y (N, C_out, *O)."""
    v = volumes(g)
    x, w = plain(x).reshape(*x.shape[:2], *v.size), plain(w).reshape(*w.shape[:2], *v.kernel)
    algorithm = choose("conv", v, len(x), x.shape[1], len(w), groups, x.dtype).algorithm
    y = winograd.conv(x, w, v, int(algorithm[-1])) if algorithm.startswith("winograd") else None
    if algorithm == "depthwise":
        y = depthwise.conv(x, w, v)
    elif algorithm == "tiled":
        y = tiled.conv(x, w, v, groups)
    if y is None:
        y = np.empty((len(x), len(w), *v.output), x.dtype)
        direct.run(x, w.reshape(len(w), -1), y.reshape(-1), 0, element_strides(y), v, groups)
    return y.reshape(*y.shape[:2], *g.output)


def conv_input(gy: Array, w: Array, g: Geometry, groups: int) -> Array:
    """gy (N, C_out, *O), w (C_out, C_in/groups, *K) to gx (N, C_in, *I)."""
    v = volumes(g)
    gy, w = plain(gy).reshape(*gy.shape[:2], *v.output), plain(w).reshape(*w.shape[:2], *v.kernel)
    if w.size > gy.size:  # both are read here, so look through the smaller one
        gx = _conv_input(gy, w, v, groups)
        sound = all_finite(gx.reshape(-1)) or all_finite(w.reshape(-1))
    elif sound := all_finite(w.reshape(-1)):
        gx = _conv_input(gy, w, v, groups)
    if not sound:  # beyond the border, zeros met an infinite weight where the definition has no product
        gx = im2col.conv_input(gy, w, v, groups)
    return gx.reshape(*gx.shape[:2], *g.size)


def _conv_input(gy: Array, w: Array, g: Geometry, groups: int) -> Array:
    """With three axes; what is not finite in w may spread."""
    algorithm = choose("conv_input", g, len(gy), w.shape[1] * groups, len(w), groups, gy.dtype).algorithm
    gx = winograd.conv_input(gy, w, g, int(algorithm[-1])) if algorithm.startswith("winograd") else None
    if algorithm == "depthwise":
        gx = depthwise.conv_input(gy, w, g)
    elif algorithm == "tiled":
        gx = tiled.conv_input(gy, w, g, groups)
    return _gather_input(gy, w, g, groups) if gx is None else gx


def _gather_input(gy: Array, w: Array, g: Geometry, groups: int) -> Array:
    """The input gradient as a convolution of gy for each phase of the pixels, with some of the taps, rotated."""
    c_out, c_in = len(w) // groups, w.shape[1]
    phases = g.transposed_phases()
    read = all(min(phase.kernel) for phase in phases)
    gx = (np.empty if read else np.zeros)((len(gy), groups * c_in, *g.size), gy.dtype)
    strides = element_strides(gx)
    shape = (groups, c_out, c_in, prod(g.kernel))
    tap_numbers = np.arange(prod(g.kernel)).reshape(g.kernel)
    for phase in phases:
        if min(phase.kernel):
            taps = tap_numbers[phase.taps].reshape(-1)
            rotated = np.empty((groups * c_in, c_out * len(taps)), w.dtype)
            exchange = partial(exchange_channels, w.reshape(-1), shape, taps, rotated.reshape(-1))
            parallel(exchange, c_in, 2 * rotated.size)
            base = sum(pixels.start * stride for pixels, stride in zip(phase.pixels, strides[2:]))
            steps = (*strides[:2], *(stride * s for stride, s in zip(strides[2:], g.stride)))
            direct.run(gy, rotated, gx.reshape(-1), base, steps, phase.geometry(g.output), groups)
    return gx


@leaf
def exchange_channels(w, shape, taps, out, first, last):  # type: ignore[no-untyped-def]
    """out[g, ci, co, t] = w[g, co, ci, taps[t]] for ci in [first, last), flat; ``shape`` (G, C_out, C_in, K) of w."""
    groups, c_out, c_in, kernel = shape
    for g in range(groups):
        for block in range(first, last, 16):  # a few lines of w are read and of out written at a time
            for co in range(c_out):
                for ci in range(block, min(block + 16, last)):
                    to = ((g * c_in + ci) * c_out + co) * taps.size
                    source = ((g * c_out + co) * c_in + ci) * kernel
                    for t in range(taps.size):
                        out[to + t] = w[source + taps[t]]


def conv_weight(x: Array, gy: Array, g: Geometry, groups: int) -> Array:
    """x (N, C_in, *I), gy (N, C_out, *O) to gw (C_out, C_in/groups, *K)."""
    v = volumes(g)
    x, gy = plain(x).reshape(*x.shape[:2], *v.size), plain(gy).reshape(*gy.shape[:2], *v.output)
    algorithm = choose("conv_weight", v, len(x), x.shape[1], gy.shape[1], groups, x.dtype).algorithm
    gw = winograd.conv_weight(x, gy, v, int(algorithm[-1])) if algorithm.startswith("winograd") else None
    if algorithm == "depthwise":
        gw = depthwise.conv_weight(x, gy, v)
    elif algorithm == "columns":
        gw = columns.conv_weight(x, gy, v, groups)
    if gw is None:
        gw = tiled.conv_weight(x, gy, v, groups)
    return gw.reshape(*gw.shape[:2], *g.kernel)
