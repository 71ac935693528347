"""Activations in array language, for NumPy and CuPy: element by element, in blocks that stay in the cache."""

from __future__ import annotations

import math
from collections.abc import Callable

from tinyconv.kernels.arrays import Array, array_module, native, sum_dtype
from tinyconv.kernels.elementwise import blockwise


def gated(x: Array, keep: Array) -> Array:
    """x where ``keep``, else 0: a bitwise and with all ones or all zeros. where() branches, and is several times
    slower.
    """
    integer = f"i{x.dtype.itemsize}"
    bits = keep.astype(integer)
    bits *= -1
    bits &= x.view(integer)
    return bits.view(x.dtype)


def relu(x: Array) -> Array:
    """max(x, 0)"""
    return array_module(x).maximum(x, x.dtype.type(0))


def relu_grad(g: Array, y: Array) -> Array:
    """g where not y <= 0"""
    return gated(native(g), ~(y <= 0))


def slopes(x: Array, positive: Array, slope: float) -> Array:
    """x where positive, else slope x"""
    x = native(x)
    y = gated(x * x.dtype.type(slope), ~positive)
    y += gated(x, positive)
    return y


def sigmoid(x: Array) -> Array:
    """1 / (1 + e^-x)"""
    xp = array_module(x)
    return blockwise(lambda x: 1 / (1 + xp.exp(-x)), x, cost=2)


# erf(x) = x A(x^2)/B(x^2) below 15/32, and 1 - exp(-x^2) C(x)/D(x) above, highest power first. Source: Cody, "Rational
# Chebyshev approximations for the error function", Mathematics of Computation 23, 1969, with the constants of his
# CALERF.
ERF_A = (
    1.85777706184603153e-1, 3.16112374387056560, 1.13864154151050156e2, 3.77485237685302021e2, 3.20937758913846947e3,
)  # fmt: skip
ERF_B = (1.0, 2.36012909523441209e1, 2.44024637934444173e2, 1.28261652607737228e3, 2.84423683343917062e3)
ERF_C = (
    2.15311535474403846e-8, 5.64188496988670089e-1, 8.88314979438837594, 6.61191906371416295e1, 2.98635138197400131e2,
    8.81952221241769090e2, 1.71204761263407058e3, 2.05107837782607147e3, 1.23033935479799725e3,
)  # fmt: skip
ERF_D = (
    1.0, 1.57449261107098347e1, 1.17693950891312499e2, 5.37181101862009858e2, 1.62138957456669019e3,
    3.29079923573345963e3, 4.36261909014324716e3, 3.43936767414372164e3, 1.23033935480374942e3,
)  # fmt: skip


def _polynomial(coefficients: tuple[float, ...], x: Array) -> Array:
    """Horner's scheme, highest power first, in one array."""
    y = x * coefficients[0]
    y += coefficients[1]
    for c in coefficients[2:]:
        y *= x
        y += c
    return y


def erf(x: Array) -> Array:
    """Both formulas for every element."""
    wide = native(x).astype(sum_dtype(native(x).dtype), copy=False)  # the coefficients exceed float16
    return blockwise(_erf, wide, cost=10).astype(native(x).dtype, copy=False)


def _erf(x: Array) -> Array:
    xp = array_module(x)
    size = xp.minimum(xp.abs(x), x.dtype.type(6))  # beyond 6 it is 1 to the last bit; NaN stays
    large = xp.exp(-size * size) * _polynomial(ERF_C, size) / _polynomial(ERF_D, size)
    small = xp.minimum(size, x.dtype.type(0.46875))
    square = small * small
    near_zero = small * _polynomial(ERF_A, square) / _polynomial(ERF_B, square)
    return xp.copysign(xp.where(size <= 0.46875, near_zero, 1 - large), x)


# --------------------------------------------------------------------------------------------------
# Activations of one formula


def _normal(x: Array) -> Array:
    """The distribution function of a standard normal variable."""
    return _erf(x * math.sqrt(0.5)) * 0.5 + 0.5


def _silu_grad(g: Array, x: Array) -> Array:
    s = sigmoid(x)
    return g * s * (x * (1 - s) + 1)


_STEEP, _BEND = math.sqrt(8 / math.pi), math.sqrt(8 / math.pi) * 0.044715


def _gelu_tanh(x: Array) -> Array:
    return x * sigmoid(x * (x * x * _BEND + _STEEP))  # (1 + tanh(u)) / 2 is the sigmoid of 2u


def _gelu_tanh_grad(g: Array, x: Array) -> Array:
    s = sigmoid(x * (x * x * _BEND + _STEEP))
    return g * s * (x * (1 - s) * (x * x * (3 * _BEND) + _STEEP) + 1)


#: Name: f(x) and g f'(x), given the array module and the parameters.
_ACTIVATIONS: dict[str, tuple[Callable[..., Array], Callable[..., Array]]] = {
    "elu": (
        lambda xp, x, a, b, c: xp.where(x > 0, x * a, xp.expm1(xp.minimum(x, 0) * c) * b),
        lambda xp, g, x, a, b, c: g * xp.where(x > 0, a, xp.exp(xp.minimum(x, 0) * c) * (b * c)),
    ),
    "hardsigmoid": (
        lambda xp, x: xp.clip(x + 3, 0, 6) / 6,
        lambda xp, g, x: xp.where((x > -3) & (x < 3), g / 6, 0),
    ),
    "hardswish": (
        lambda xp, x: x * xp.clip(x + 3, 0, 6) / 6,
        lambda xp, g, x: xp.where(x <= -3, 0, xp.where(x >= 3, g, g * (x / 3 + 0.5))),
    ),
    "hardtanh": (
        lambda xp, x, a, b: xp.clip(x, x.dtype.type(a), x.dtype.type(b)),
        lambda xp, g, x, a, b: gated(native(g), ~((x <= a) | (x >= b))),
    ),
    "softplus": (
        lambda xp, x, a, b: xp.where(x * a > b, x, xp.log1p(xp.exp(xp.minimum(x * a, b))) / a),
        lambda xp, g, x, a, b: xp.where(x * a > b, g, g * sigmoid(x * a)),
    ),
    "logsigmoid": (
        lambda xp, x: xp.minimum(x, 0) - xp.log1p(xp.exp(-xp.abs(x))),
        lambda xp, g, x: g * sigmoid(-x),
    ),
    "silu": (lambda xp, x: x * sigmoid(x), lambda xp, g, x: _silu_grad(g, x)),
    "gelu": (
        lambda xp, x: x * _normal(x),
        lambda xp, g, x: g * (_normal(x) + x * xp.exp(x * x * -0.5) / math.sqrt(2 * math.pi)),
    ),
    "gelu-tanh": (lambda xp, x: _gelu_tanh(x), lambda xp, g, x: _gelu_tanh_grad(g, x)),
}


def activation(x: Array, name: str, parameters: tuple[float, ...]) -> Array:
    """f(x), in blocks that stay in the cache"""
    xp, f = array_module(x), _ACTIVATIONS[name][0]
    wide = x.astype(sum_dtype(native(x).dtype), copy=False)
    return blockwise(lambda x: f(xp, x, *parameters), wide, cost=4).astype(native(x).dtype, copy=False)


def activation_grad(g: Array, x: Array, name: str, parameters: tuple[float, ...]) -> Array:
    """g f'(x), in blocks that stay in the cache"""
    xp, grad = array_module(x), _ACTIVATIONS[name][1]
    wide = [a.astype(sum_dtype(native(a).dtype), copy=False) for a in (g, x)]
    return blockwise(lambda g, x: grad(xp, g, x, *parameters), *wide, cost=6).astype(native(g).dtype, copy=False)
