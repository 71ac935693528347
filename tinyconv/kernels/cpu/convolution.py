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
    y = np.empty((len(x), len(w), *g.output), x.dtype)
    x, w, out = (plain(a).reshape(*a.shape[:2], *axes) for a, axes in ((x, v.size), (w, v.kernel), (y, v.output)))
    algorithm = choose("conv", v, len(x), x.shape[1], len(w), groups, x.dtype).algorithm
    if algorithm == "depthwise":
        depthwise.conv(x, w, out, v)
    elif algorithm == "tiled":
        tiled.conv(x, w, out, v, groups)
    elif not (algorithm.startswith("winograd") and winograd.conv(x, w, out, v, int(algorithm[-1]))):
        direct.conv(x, w.reshape(len(w), -1), y.reshape(-1), 0, element_strides(out), v, groups)
    return y


def conv_input(gy: Array, w: Array, g: Geometry, groups: int) -> Array:
    """gy (N, C_out, *O), w (C_out, C_in/groups, *K) to gx (N, C_in, *I)."""
    v = volumes(g)
    gx = np.empty((len(gy), groups * w.shape[1], *g.size), gy.dtype)
    gy, w, out = (plain(a).reshape(*a.shape[:2], *axes) for a, axes in ((gy, v.output), (w, v.kernel), (gx, v.size)))
    if w.size > gy.size:  # both are read here, so look through the smaller one
        _conv_input(gy, w, out, v, groups)
        sound = all_finite(gx.reshape(-1)) or all_finite(w.reshape(-1))
    elif sound := all_finite(w.reshape(-1)):
        _conv_input(gy, w, out, v, groups)
    if not sound:  # beyond the border, zeros met an infinite weight where the definition has no product
        out[...] = im2col.conv_input(gy, w, v, groups)
    return gx


def _conv_input(gy: Array, w: Array, gx: Array, g: Geometry, groups: int) -> None:
    """With three axes, into gx; what is not finite in w may spread."""
    algorithm = choose("conv_input", g, len(gy), gx.shape[1], len(w), groups, gy.dtype).algorithm
    if algorithm == "depthwise":
        depthwise.conv_input(gy, w, gx, g)
    elif algorithm == "tiled":
        tiled.conv_input(gy, w, gx, g, groups)
    elif not (algorithm.startswith("winograd") and winograd.conv_input(gy, w, gx, g, int(algorithm[-1]))):
        _gather_input(gy, w, gx, g, groups)


def _gather_input(gy: Array, w: Array, gx: Array, g: Geometry, groups: int) -> None:
    """The input gradient as a convolution of gy for each phase of the pixels, with some of the taps, rotated."""
    c_out, c_in = len(w) // groups, w.shape[1]
    phases = g.transposed_phases()
    if not all(min(phase.kernel) for phase in phases):  # some pixels are read by no window
        gx[...] = 0
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
            direct.conv(gy, rotated, gx.reshape(-1), base, steps, phase.geometry(g.output), groups)


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
    gw = np.empty((gy.shape[1], x.shape[1] // groups, *g.kernel), x.dtype)
    x, gy, out = (plain(a).reshape(*a.shape[:2], *axes) for a, axes in ((x, v.size), (gy, v.output), (gw, v.kernel)))
    algorithm = choose("conv_weight", v, len(x), x.shape[1], gy.shape[1], groups, x.dtype).algorithm
    if algorithm == "depthwise":
        depthwise.conv_weight(x, gy, out, v)
    elif algorithm == "columns":
        columns.conv_weight(x, gy, out, v, groups)
    elif not (algorithm.startswith("winograd") and winograd.conv_weight(x, gy, out, v, int(algorithm[-1]))):
        tiled.conv_weight(x, gy, out, v, groups)
    return gw
