"""Host code of the poolings."""

from __future__ import annotations

import numpy as np

from tinyconv.geometry import Geometry
from tinyconv.kernels.arrays import Array, array_module
from tinyconv.kernels.cuda.launcher import blocks_for, contiguous, launch, window


def max_pool(x: Array, g: Geometry) -> tuple[Array, Array]:
    """x (N, C, *I) to the largest pixels and their flat indices, (N, C, *O) both."""
    x = contiguous(x)
    xp = array_module(x)
    y = xp.empty((*x.shape[:2], *g.output), x.dtype)
    indices = xp.empty(y.shape, np.int64)
    launch("pool.cu", "max_pool", blocks_for(y.size), (x, y, indices, y.size, window(g)))
    return y, indices


def avg_pool(x: Array, g: Geometry, divisor: Array) -> Array:
    """x (N, C, *I), divisor (*O) to y (N, C, *O)."""
    x = contiguous(x)
    y = array_module(x).empty((*x.shape[:2], *g.output), x.dtype)
    divisor = contiguous(divisor.astype(x.dtype))
    launch("pool.cu", "avg_pool", blocks_for(y.size), (x, divisor, y, y.size, window(g)))
    return y


def avg_pool_input(gy: Array, g: Geometry, divisor: Array) -> Array:
    """gy (N, C, *O), divisor (*O) to gx (N, C, *I)."""
    gy = contiguous(gy)
    gx = array_module(gy).empty((*gy.shape[:2], *g.size), gy.dtype)
    divisor = contiguous(divisor.astype(gy.dtype))
    launch("pool.cu", "avg_pool_input", blocks_for(gx.size), (gy, divisor, gx, gx.size, window(g)))
    return gx
