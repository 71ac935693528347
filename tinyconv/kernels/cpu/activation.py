"""Activations on the CPU: one pass over memory, which is all that the simple ones cost.

NumPy's maximum propagates NaN with a branch of its own, and a gate of its parts takes five passes; as one loop with a
select, the compiler makes either of it a few vector instructions for 16 numbers.
The curved ones need e^x, written so that it fits into such a loop: some 30 operations a number, in float32 only.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from tinyconv.kernels import pointwise
from tinyconv.kernels.arrays import Array
from tinyconv.kernels.cpu.exponential import exp, expm1
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
        return pointwise.relu(x)
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
        return pointwise.relu_grad(g, y)
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
        return pointwise.slopes(x, positive, slope)
    x, positive = plain(x), plain(positive)
    y = np.empty(x.shape, x.dtype)
    flat = x.reshape(-1), positive.reshape(-1), x.dtype.type(slope), y.reshape(-1)
    parallel(lambda first, last: slopes_part(first, last, *flat), x.size, 0.3 * x.size)
    return y


# --------------------------------------------------------------------------------------------------
# Curved

_ZERO, _ONE = np.float32(0), np.float32(1)


@njit(nogil=True, cache=True, error_model="numpy")  # a division that may raise is no vector
def sigmoid_part(first, last, x, y):  # type: ignore[no-untyped-def]
    """Elements [first, last) of flat arrays of float32."""
    start = np.uintp(first)
    for j in range(np.uintp(last - first)):
        y[start + j] = _ONE / (_ONE + exp(-x[start + j]))


def sigmoid(x: Array) -> Array:
    """y = 1 / (1 + e^-x)"""
    if x.size < _SMALL or x.dtype != np.float32:
        return pointwise.sigmoid(x)
    x = plain(x)
    y = np.empty(x.shape, x.dtype)
    flat = x.reshape(-1), y.reshape(-1)
    parallel(lambda first, last: sigmoid_part(first, last, *flat), x.size, 1.0 * x.size)
    return y


_A, _B, _C, _D = (
    tuple(map(np.float32, row)) for row in (pointwise.ERF_A, pointwise.ERF_B, pointwise.ERF_C, pointwise.ERF_D)
)
_FAR, _NEAR = np.float32(6), np.float32(0.46875)


@njit(nogil=True, cache=True)
def _polynomial(coefficients, x):  # type: ignore[no-untyped-def]
    """Horner's scheme, highest power first."""
    y = coefficients[0]
    for c in coefficients[1:]:
        y = y * x + c
    return y


@njit(nogil=True, error_model="numpy", inline="always")  # a call is no vector
def _erf(value):  # type: ignore[no-untyped-def]
    """erf of a float32 by both of Cody's formulas: no branch."""
    size = abs(value)
    far = _FAR if size > _FAR else size  # beyond 6 it is 1 to the last bit; NaN stays
    large = _ONE - exp(-far * far) * _polynomial(_C, far) / _polynomial(_D, far)
    near = _NEAR if size > _NEAR else size
    small = near * _polynomial(_A, near * near) / _polynomial(_B, near * near)
    result = small if size <= _NEAR else large
    return -result if value < 0 else result


@njit(nogil=True, cache=True, error_model="numpy")  # nor is a division that may raise
def erf_part(first, last, x, y):  # type: ignore[no-untyped-def]
    """Elements [first, last) of flat arrays of float32."""
    start = np.uintp(first)
    for j in range(np.uintp(last - first)):
        y[start + j] = _erf(x[start + j])


def erf(x: Array) -> Array:
    """y = 2/sqrt(pi) * integral of e^(-t^2) from 0 to x"""
    if x.size < _SMALL or x.dtype != np.float32:
        return pointwise.erf(x)
    x = plain(x)
    y = np.empty(x.shape, x.dtype)
    flat = x.reshape(-1), y.reshape(-1)
    parallel(lambda first, last: erf_part(first, last, *flat), x.size, 4.0 * x.size)
    return y


# --------------------------------------------------------------------------------------------------
# Activations of one formula: f(x) and g f'(x) of float32, with three parameters, and a loop for each

_HALF, _THREE, _SIX, _SIXTH, _THIRD = map(np.float32, (0.5, 3, 6, 1 / 6, 1 / 3))
_ROOT_HALF, _DENSITY = np.float32(0.5**0.5), np.float32((2 * np.pi) ** -0.5)
_STEEP, _BEND = np.float32((8 / np.pi) ** 0.5), np.float32((8 / np.pi) ** 0.5 * 0.044715)
_TWO, _5, _7, _9, _11, _13, _15 = map(np.float32, (2, 1 / 5, 1 / 7, 1 / 9, 1 / 11, 1 / 13, 1 / 15))
_formula = njit(nogil=True, error_model="numpy", inline="always")  # a call is no vector


@_formula
def _sigmoid(x):  # type: ignore[no-untyped-def]
    return _ONE / (_ONE + exp(-x))


@_formula
def _elu(x, a, b, c):  # type: ignore[no-untyped-def]
    return a * x if x > 0 else b * expm1(c * x)


@_formula
def _elu_grad(g, x, a, b, c):  # type: ignore[no-untyped-def]
    return g * (a if x > 0 else b * c * exp(c * x))


@_formula
def _hardsigmoid(x, a, b, c):  # type: ignore[no-untyped-def]
    y = x + _THREE
    y = _ZERO if y < _ZERO else y
    y = _SIX if y > _SIX else y
    return y * _SIXTH


@_formula
def _hardsigmoid_grad(g, x, a, b, c):  # type: ignore[no-untyped-def]
    return g * _SIXTH if (x > -_THREE) & (x < _THREE) else _ZERO


@_formula
def _hardswish(x, a, b, c):  # type: ignore[no-untyped-def]
    return x * _hardsigmoid(x, a, b, c)


@_formula
def _hardswish_grad(g, x, a, b, c):  # type: ignore[no-untyped-def]
    passing = g if x >= _THREE else g * (x * _THIRD + _HALF)
    return _ZERO if x <= -_THREE else passing


@_formula
def _hardtanh(x, a, b, c):  # type: ignore[no-untyped-def]
    y = a if x < a else x
    return b if y > b else y


@_formula
def _hardtanh_grad(g, x, a, b, c):  # type: ignore[no-untyped-def]
    return _ZERO if (x <= a) | (x >= b) else g


@_formula
def _log1p(x):  # type: ignore[no-untyped-def]
    """log(1 + x), 0 <= x <= 1: 2 artanh(s) of s = x / (2 + x) <= 1/3, by its series."""
    s = x / (_TWO + x)
    q = s * s
    series = ((((((_15 * q + _13) * q + _11) * q + _9) * q + _7) * q + _5) * q + _THIRD) * q
    return (s + s) + (s + s) * series


@_formula
def _softplus(x, a, b, c):  # type: ignore[no-untyped-def]
    z = a * x
    positive = z if z > _ZERO else _ZERO
    y = (positive + _log1p(exp(-abs(z)))) / a  # log(1 + e^z) = max(z, 0) + log(1 + e^-|z|)
    return x if z > b else y


@_formula
def _softplus_grad(g, x, a, b, c):  # type: ignore[no-untyped-def]
    z = a * x
    return g if z > b else g * _sigmoid(z)


@_formula
def _logsigmoid(x, a, b, c):  # type: ignore[no-untyped-def]
    negative = _ZERO if x > _ZERO else x
    return negative - _log1p(exp(-abs(x)))


@_formula
def _logsigmoid_grad(g, x, a, b, c):  # type: ignore[no-untyped-def]
    return g * _sigmoid(-x)


@_formula
def _silu(x, a, b, c):  # type: ignore[no-untyped-def]
    return x * _sigmoid(x)


@_formula
def _silu_grad(g, x, a, b, c):  # type: ignore[no-untyped-def]
    s = _sigmoid(x)
    return g * s * (_ONE + x * (_ONE - s))


@_formula
def _gelu(x, a, b, c):  # type: ignore[no-untyped-def]
    return x * (_HALF + _HALF * _erf(x * _ROOT_HALF))


@_formula
def _gelu_grad(g, x, a, b, c):  # type: ignore[no-untyped-def]
    return g * (_HALF + _HALF * _erf(x * _ROOT_HALF) + x * _DENSITY * exp(-_HALF * x * x))


@_formula
def _gelu_tanh(x, a, b, c):  # type: ignore[no-untyped-def]
    return x * _sigmoid(x * (_STEEP + _BEND * x * x))  # (1 + tanh(u)) / 2 is the sigmoid of 2u


@_formula
def _gelu_tanh_grad(g, x, a, b, c):  # type: ignore[no-untyped-def]
    s = _sigmoid(x * (_STEEP + _BEND * x * x))
    return g * s * (_ONE + x * (_ONE - s) * (_STEEP + _THREE * _BEND * x * x))


_NAMES = ("elu", "hardsigmoid", "hardswish", "hardtanh", "silu", "softplus", "gelu", "gelu-tanh", "logsigmoid")


@njit(nogil=True, cache=True, error_model="numpy")
def activation_part(first, last, kind, x, y, a, b, c):  # type: ignore[no-untyped-def]
    """Elements [first, last) of flat arrays of float32: y = f(x), f the formula at place ``kind`` of the names."""
    start, count = np.uintp(first), np.uintp(last - first)
    if kind == 0:
        for j in range(count):
            y[start + j] = _elu(x[start + j], a, b, c)
    elif kind == 1:
        for j in range(count):
            y[start + j] = _hardsigmoid(x[start + j], a, b, c)
    elif kind == 2:
        for j in range(count):
            y[start + j] = _hardswish(x[start + j], a, b, c)
    elif kind == 3:
        for j in range(count):
            y[start + j] = _hardtanh(x[start + j], a, b, c)
    elif kind == 4:
        for j in range(count):
            y[start + j] = _silu(x[start + j], a, b, c)
    elif kind == 5:
        for j in range(count):
            y[start + j] = _softplus(x[start + j], a, b, c)
    elif kind == 6:
        for j in range(count):
            y[start + j] = _gelu(x[start + j], a, b, c)
    elif kind == 7:
        for j in range(count):
            y[start + j] = _gelu_tanh(x[start + j], a, b, c)
    elif kind == 8:
        for j in range(count):
            y[start + j] = _logsigmoid(x[start + j], a, b, c)


@njit(nogil=True, cache=True, error_model="numpy")
def activation_grad_part(first, last, kind, g, x, gx, a, b, c):  # type: ignore[no-untyped-def]
    """Elements [first, last) of flat arrays of float32: gx = g f'(x)."""
    start, count = np.uintp(first), np.uintp(last - first)
    if kind == 0:
        for j in range(count):
            gx[start + j] = _elu_grad(g[start + j], x[start + j], a, b, c)
    elif kind == 1:
        for j in range(count):
            gx[start + j] = _hardsigmoid_grad(g[start + j], x[start + j], a, b, c)
    elif kind == 2:
        for j in range(count):
            gx[start + j] = _hardswish_grad(g[start + j], x[start + j], a, b, c)
    elif kind == 3:
        for j in range(count):
            gx[start + j] = _hardtanh_grad(g[start + j], x[start + j], a, b, c)
    elif kind == 4:
        for j in range(count):
            gx[start + j] = _silu_grad(g[start + j], x[start + j], a, b, c)
    elif kind == 5:
        for j in range(count):
            gx[start + j] = _softplus_grad(g[start + j], x[start + j], a, b, c)
    elif kind == 6:
        for j in range(count):
            gx[start + j] = _gelu_grad(g[start + j], x[start + j], a, b, c)
    elif kind == 7:
        for j in range(count):
            gx[start + j] = _gelu_tanh_grad(g[start + j], x[start + j], a, b, c)
    elif kind == 8:
        for j in range(count):
            gx[start + j] = _logsigmoid_grad(g[start + j], x[start + j], a, b, c)


def activation(x: Array, name: str, parameters: tuple[float, ...]) -> Array:
    """y = f(x)"""
    if x.size < _SMALL or x.dtype != np.float32:
        return pointwise.activation(x, name, parameters)
    x = plain(x)
    y = np.empty(x.shape, x.dtype)
    given = _NAMES.index(name), x.reshape(-1), y.reshape(-1), *_three(parameters)
    parallel(lambda first, last: activation_part(first, last, *given), x.size, 1.0 * x.size)
    return y


def activation_grad(g: Array, x: Array, name: str, parameters: tuple[float, ...]) -> Array:
    """gx = g f'(x)"""
    if g.size < _SMALL or g.dtype != np.float32:
        return pointwise.activation_grad(g, x, name, parameters)
    g, x = plain(g), np.require(x, g.dtype, ("C", "A", "W"))
    gx = np.empty(g.shape, g.dtype)
    given = _NAMES.index(name), g.reshape(-1), x.reshape(-1), gx.reshape(-1), *_three(parameters)
    parallel(lambda first, last: activation_grad_part(first, last, *given), g.size, 1.0 * g.size)
    return gx


def _three(parameters: tuple[float, ...]) -> list[np.float32]:
    """As many parameters as every formula takes."""
    return [np.float32(p) for p in (*parameters, 0, 0, 0)[:3]]
