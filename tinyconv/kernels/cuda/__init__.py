"""The rung ``cuda``: kernels in CUDA C, one idea a file, and the host code that launches them.

CuPy's arrays are computed on the GPU. NumPy's arrays are, where ``use_kernels("cuda")`` asks for it, by the same source
on the CPU, in the emulator of `tinyconv.cuda_on_cpu`: far slower than the compiled kernels, and watched.

    direct.cu   convolution and its gradients by their definition
    pool.cu     max and average pooling
"""

from __future__ import annotations

import numpy as np

from tinyconv.geometry import Geometry
from tinyconv.kernels.arrays import Array, array_module
from tinyconv.kernels.cuda.launcher import blocks_for, contiguous, launch

#: dtypes that the kernels take.
DTYPES = (np.dtype(np.float32), np.dtype(np.float64))


def _windows(g: Geometry) -> tuple[int, ...]:
    """The geometry as kernels take it: size, kernel, output, stride, dilation, padding before, three axes each."""
    while g.rank < 3:
        g = g.lifted()
    before = [pair[0] for pair in g.padding]
    return (*g.size, *g.kernel, *g.output, *g.stride, *g.dilation, *before)


def conv(x: Array, w: Array, g: Geometry, groups: int) -> Array:
    """x (N, C_in, *I), w (C_out, C_in/groups, *K) to y (N, C_out, *O)."""
    x, w = contiguous(x), contiguous(w)
    y = array_module(x).empty((x.shape[0], w.shape[0], *g.output), x.dtype)
    args = (x, w, y, y.size, x.shape[1], w.shape[0], groups, *_windows(g))
    launch("direct.cu", "conv", blocks_for(y.size), args)
    return y


def conv_input(gy: Array, w: Array, g: Geometry, groups: int) -> Array:
    """gy (N, C_out, *O), w (C_out, C_in/groups, *K) to gx (N, C_in, *I)."""
    gy, w = contiguous(gy), contiguous(w)
    c_in = w.shape[1] * groups
    gx = array_module(gy).empty((gy.shape[0], c_in, *g.size), gy.dtype)
    args = (gy, w, gx, gx.size, c_in, w.shape[0], groups, *_windows(g))
    launch("direct.cu", "conv_input", blocks_for(gx.size), args)
    return gx


def conv_weight(x: Array, gy: Array, g: Geometry, groups: int) -> Array:
    """x (N, C_in, *I), gy (N, C_out, *O) to gw (C_out, C_in/groups, *K)."""
    x, gy = contiguous(x), contiguous(gy)
    gw = array_module(x).empty((gy.shape[1], x.shape[1] // groups, *g.kernel), x.dtype)
    args = (x, gy, gw, x.shape[0], x.shape[1], gy.shape[1], groups, *_windows(g))
    launch("direct.cu", "conv_weight", gw.size, args)
    return gw


def max_pool(x: Array, g: Geometry) -> tuple[Array, Array]:
    """x (N, C, *I) to the largest pixels and their flat indices, (N, C, *O) both."""
    x = contiguous(x)
    xp = array_module(x)
    y = xp.empty((*x.shape[:2], *g.output), x.dtype)
    indices = xp.empty(y.shape, np.int64)
    launch("pool.cu", "max_pool", blocks_for(y.size), (x, y, indices, y.size, *_windows(g)))
    return y, indices


def avg_pool(x: Array, g: Geometry, divisor: Array) -> Array:
    """x (N, C, *I), divisor (*O) to y (N, C, *O)."""
    x = contiguous(x)
    y = array_module(x).empty((*x.shape[:2], *g.output), x.dtype)
    divisor = contiguous(divisor.astype(x.dtype))
    launch("pool.cu", "avg_pool", blocks_for(y.size), (x, divisor, y, y.size, *_windows(g)))
    return y


def avg_pool_input(gy: Array, g: Geometry, divisor: Array) -> Array:
    """gy (N, C, *O), divisor (*O) to gx (N, C, *I)."""
    gy = contiguous(gy)
    gx = array_module(gy).empty((*gy.shape[:2], *g.size), gy.dtype)
    divisor = contiguous(divisor.astype(gy.dtype))
    launch("pool.cu", "avg_pool_input", blocks_for(gx.size), (gy, divisor, gx, gx.size, *_windows(g)))
    return gx
