"""Host code of pooling; that of its gradients is in resampling.py."""

from __future__ import annotations

from math import prod

import numpy as np

from tinyconv.geometry import Geometry
from tinyconv.kernels.arrays import Array, array_module
from tinyconv.kernels.cuda.launcher import contiguous, over_planes, window


def max_pool(x: Array, g: Geometry) -> tuple[Array, Array]:
    """x (N, C, *I) to the largest pixels and their flat indices, (N, C, *O) both."""
    x = contiguous(x)
    xp = array_module(x)
    y = xp.empty((*x.shape[:2], *g.output), x.dtype)
    indices = xp.empty(y.shape, np.int64)
    over_planes("pool.cu", "max_pool", (x, y, indices), prod(x.shape[:2]), window(g))
    return y, indices


def avg_pool(x: Array, g: Geometry, divisor: Array) -> Array:
    """x (N, C, *I), divisor (*O) to y (N, C, *O)."""
    x = contiguous(x)
    y = array_module(x).empty((*x.shape[:2], *g.output), x.dtype)
    divisor = contiguous(divisor, x.dtype)
    over_planes("pool.cu", "avg_pool", (x, divisor, y), prod(x.shape[:2]), window(g))
    return y
