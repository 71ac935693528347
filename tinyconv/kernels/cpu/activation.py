"""Activations on the CPU: one pass over memory, which is all that they cost.

NumPy's maximum propagates NaN with a branch of its own, and a gate of its parts takes five passes; as one loop with a
select, the compiler makes either of it a few vector instructions for 16 numbers.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from tinyconv.kernels import im2col
from tinyconv.kernels.arrays import Array
from tinyconv.kernels.cpu.memory import plain
from tinyconv.kernels.threads import parallel

_SMALL = 1 << 13  # elements below which NumPy's calls cost less


@njit(nogil=True, cache=True)
def relu_part(first, last, x, y):  # type: ignore[no-untyped-def]
    """Elements [first, last) of flat arrays: what is not <= 0 stays, NaN too."""
    start = np.uintp(first)
    for j in range(np.uintp(last - first)):
        value = x[start + j]
        y[start + j] = 0 if value <= 0 else value


def relu(x: Array) -> Array:
    """y = max(x, 0), NaN for NaN."""
    if x.size < _SMALL:
        return im2col.relu(x)
    x = plain(x)
    y = np.empty(x.shape, x.dtype)
    flat = x.reshape(-1), y.reshape(-1)
    parallel(lambda first, last: relu_part(first, last, *flat), x.size, 0.2 * x.size)
    return y


@njit(nogil=True, cache=True)
def relu_grad_part(first, last, g, y, gx):  # type: ignore[no-untyped-def]
    """Elements [first, last) of flat arrays: g passes where y is not <= 0."""
    start = np.uintp(first)
    for j in range(np.uintp(last - first)):
        passing = g[start + j]
        gx[start + j] = 0 if y[start + j] <= 0 else passing


def relu_grad(g: Array, y: Array) -> Array:
    """gx = g where not y <= 0, else 0."""
    if g.size < _SMALL:
        return im2col.relu_grad(g, y)
    g, y = plain(g), np.require(y, g.dtype, ("C", "A", "W"))
    gx = np.empty(g.shape, g.dtype)
    flat = g.reshape(-1), y.reshape(-1), gx.reshape(-1)
    parallel(lambda first, last: relu_grad_part(first, last, *flat), g.size, 0.3 * g.size)
    return gx
