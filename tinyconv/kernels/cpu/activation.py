"""Activations on the CPU: one pass over memory, which is all that the simple ones cost.

NumPy's maximum propagates NaN with a branch of its own, and a gate of its parts takes five passes; as one loop with a
select, the compiler makes either of it a few vector instructions for 16 numbers.
The curved ones need e^x, written so that it fits into such a loop: some 30 operations a number, in float32 only.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from tinyconv.kernels import im2col
from tinyconv.kernels.arrays import Array
from tinyconv.kernels.cpu.exponential import exp
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


@njit(nogil=True, cache=True)
def slopes_part(first, last, x, positive, slope, y):  # type: ignore[no-untyped-def]
    """Elements [first, last) of flat arrays: x where positive, else slope x."""
    start = np.uintp(first)
    for j in range(np.uintp(last - first)):
        value = x[start + j]
        y[start + j] = value if positive[start + j] else value * slope


def slopes(x: Array, positive: Array, slope: float) -> Array:
    """y = x where positive, else slope x."""
    if x.size < _SMALL:
        return im2col.slopes(x, positive, slope)
    x, positive = plain(x), plain(positive)
    y = np.empty(x.shape, x.dtype)
    flat = x.reshape(-1), positive.reshape(-1), x.dtype.type(slope), y.reshape(-1)
    parallel(lambda first, last: slopes_part(first, last, *flat), x.size, 0.3 * x.size)
    return y


# --------------------------------------------------------------------------------------------------
# Curved

_ONE = np.float32(1)


@njit(nogil=True, cache=True, error_model="numpy")  # a division that may raise is no vector
def sigmoid_part(first, last, x, y):  # type: ignore[no-untyped-def]
    """Elements [first, last) of flat arrays of float32."""
    start = np.uintp(first)
    for j in range(np.uintp(last - first)):
        y[start + j] = _ONE / (_ONE + exp(-x[start + j]))


def sigmoid(x: Array) -> Array:
    """y = 1 / (1 + e^-x)"""
    if x.size < _SMALL or x.dtype != np.float32:
        return im2col.sigmoid(x)
    x = plain(x)
    y = np.empty(x.shape, x.dtype)
    flat = x.reshape(-1), y.reshape(-1)
    parallel(lambda first, last: sigmoid_part(first, last, *flat), x.size, 1.0 * x.size)
    return y


_A, _B, _C, _D = (tuple(map(np.float32, row)) for row in (im2col.ERF_A, im2col.ERF_B, im2col.ERF_C, im2col.ERF_D))
_FAR, _NEAR = np.float32(6), np.float32(0.46875)


@njit(nogil=True, cache=True)
def _polynomial(coefficients, x):  # type: ignore[no-untyped-def]
    """Horner's scheme, highest power first."""
    y = coefficients[0]
    for c in coefficients[1:]:
        y = y * x + c
    return y


@njit(nogil=True, cache=True, error_model="numpy")  # a division that may raise is no vector
def erf_part(first, last, x, y):  # type: ignore[no-untyped-def]
    """Elements [first, last) of flat arrays of float32, both of Cody's formulas for every one: no branch."""
    start = np.uintp(first)
    for j in range(np.uintp(last - first)):
        value = x[start + j]
        size = abs(value)
        far = _FAR if size > _FAR else size  # beyond 6 it is 1 to the last bit; NaN stays
        large = _ONE - exp(-far * far) * _polynomial(_C, far) / _polynomial(_D, far)
        near = _NEAR if size > _NEAR else size
        small = near * _polynomial(_A, near * near) / _polynomial(_B, near * near)
        result = small if size <= _NEAR else large
        y[start + j] = -result if value < 0 else result


def erf(x: Array) -> Array:
    """y = 2/sqrt(pi) * integral of e^(-t^2) from 0 to x"""
    if x.size < _SMALL or x.dtype != np.float32:
        return im2col.erf(x)
    x = plain(x)
    y = np.empty(x.shape, x.dtype)
    flat = x.reshape(-1), y.reshape(-1)
    parallel(lambda first, last: erf_part(first, last, *flat), x.size, 4.0 * x.size)
    return y
