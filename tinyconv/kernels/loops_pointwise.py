"""The operators without a window as plain Python loops: a part of the definition, :mod:`tinyconv.kernels.loops`."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from tinyconv.geometry import Sizes
from tinyconv.kernels.arrays import Array, native

# --------------------------------------------------------------------------------------------------
# Activation


def relu(x: Array) -> Array:
    """y = max(x, 0), NaN for NaN."""
    x = native(x)
    y = np.empty(x.shape, x.dtype)
    for i in np.ndindex(x.shape):
        y[i] = 0 if x[i] <= 0 else x[i]
    return y


def relu_grad(g: Array, y: Array) -> Array:
    """gx = g where not y <= 0, else 0."""
    gx = np.empty(g.shape, native(g).dtype)
    for i in np.ndindex(g.shape):
        gx[i] = 0 if y[i] <= 0 else g[i]
    return gx


def slopes(x: Array, positive: Array, slope: float) -> Array:
    """y = x where positive, else slope x."""
    y = np.empty(x.shape, native(x).dtype)
    for i in np.ndindex(x.shape):
        y[i] = x.item(i) * (1 if positive[i] else slope)
    return y


def sigmoid(x: Array) -> Array:
    """y = 1 / (1 + e^-x), in the form whose exponential cannot overflow."""
    y = np.empty(x.shape, native(x).dtype)
    for i in np.ndindex(x.shape):
        shrinking = math.exp(-abs(x.item(i)))
        y[i] = shrinking / (1 + shrinking) if x.item(i) < 0 else 1 / (1 + shrinking)
    return y


def erf(x: Array) -> Array:
    """y = 2/sqrt(pi) * integral of e^(-t^2) from 0 to x."""
    y = np.empty(x.shape, native(x).dtype)
    for i in np.ndindex(x.shape):
        y[i] = math.erf(x.item(i))
    return y


def _hard(x: float) -> float:
    return min(max(x + 3, 0), 6) / 6 if x == x else x


def _logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > -700 else math.exp(x)


def _phi(x: float) -> float:
    """The distribution function of a standard normal variable."""
    return 0.5 * math.erfc(-x / math.sqrt(2))


def _bent(x: float) -> float:
    """2u of gelu-tanh: (1 + tanh(u)) / 2 is the logistic function of 2u."""
    return math.sqrt(8 / math.pi) * (x + 0.044715 * x**3)


def _bent_slope(x: float) -> float:
    return math.sqrt(8 / math.pi) * (1 + 3 * 0.044715 * x * x)


#: Name: f(x) and g f'(x), with the parameters.
_ACTIVATIONS: dict[str, tuple[Callable[..., float], Callable[..., float]]] = {
    "elu": (
        lambda x, a, b, c: a * x if x > 0 else b * math.expm1(c * x),
        lambda g, x, a, b, c: g * a if x > 0 else g * b * c * math.exp(c * x),
    ),
    "hardsigmoid": (_hard, lambda g, x: g / 6 if -3 < x < 3 else 0),
    "hardswish": (
        lambda x: x * _hard(x),
        lambda g, x: 0 if x <= -3 else g if x >= 3 else g * (x / 3 + 0.5),
    ),
    "hardtanh": (
        lambda x, a, b: a if x < a else b if x > b else x,
        lambda g, x, a, b: 0 if x <= a or x >= b else g,
    ),
    "softplus": (
        lambda x, a, b: x if a * x > b else math.log1p(math.exp(a * x)) / a,
        lambda g, x, a, b: g if a * x > b else g * _logistic(a * x),
    ),
    "logsigmoid": (
        lambda x: min(x, 0) - math.log1p(math.exp(-abs(x))),
        lambda g, x: g * _logistic(-x),
    ),
    "silu": (
        lambda x: x * _logistic(x),
        lambda g, x: g * _logistic(x) * (1 + x * _logistic(-x)),
    ),
    "gelu": (
        lambda x: x * _phi(x),
        lambda g, x: g * (_phi(x) + x * math.exp(-x * x / 2) / math.sqrt(2 * math.pi)),
    ),
    "gelu-tanh": (
        lambda x: x * _logistic(_bent(x)),
        lambda g, x: g * _logistic(_bent(x)) * (1 + x * _logistic(-_bent(x)) * _bent_slope(x)),
    ),
}


def activation(x: Array, name: str, parameters: tuple[float, ...]) -> Array:
    """y = f(x)"""
    y = np.empty(x.shape, native(x).dtype)
    for i in np.ndindex(x.shape):
        y[i] = _ACTIVATIONS[name][0](x.item(i), *parameters)
    return y


def activation_grad(g: Array, x: Array, name: str, parameters: tuple[float, ...]) -> Array:
    """gx = g f'(x)"""
    gx = np.empty(g.shape, native(g).dtype)
    for i in np.ndindex(g.shape):
        gx[i] = _ACTIVATIONS[name][1](g.item(i), x.item(i), *parameters)
    return gx


# --------------------------------------------------------------------------------------------------
# Softmax and cross-entropy


def softmax(x: Array, axis: int, log: bool) -> Array:
    """y = e^(x - top) / sum e^(x - top) for each row along the axis, or the logarithm of that."""
    y = np.empty(x.shape, native(x).dtype)
    for row in _rows(x.shape, axis):
        numbers = [x.item(i) for i in row]
        top = math.nan if any(v != v for v in numbers) else max(numbers)
        total = sum(math.exp(v - top) for v in numbers)
        for i, v in zip(row, numbers):
            y[i] = (v - top) - math.log(total) if log else math.exp(v - top) / total
    return y


def softmax_grad(g: Array, y: Array, axis: int, log: bool) -> Array:
    """dx = y (g - sum g y), or g - e^y sum g, for each row along the axis."""
    dx = np.empty(g.shape, native(g).dtype)
    for row in _rows(g.shape, axis):
        total = sum(g.item(i) if log else g.item(i) * y.item(i) for i in row)
        for i in row:
            dx[i] = g.item(i) - math.exp(y.item(i)) * total if log else y.item(i) * (g.item(i) - total)
    return dx


def _rows(shape: Sizes, axis: int) -> list[list[Sizes]]:
    """The indices of all elements in rows along an axis."""
    others = np.ndindex(*shape[:axis], *shape[axis + 1 :])
    return [[(*o[:axis], i, *o[axis:]) for i in range(shape[axis])] for o in others] if shape[axis] else []


def cross_entropy(x: Array, target: Array, factor: Array, valid: Array) -> tuple[Array, Array, Array]:
    """x (N, C, L), the others (N, L) to loss (N, L), and the largest score and the log of the sum, both (N, 1, L)."""
    N, C, L = x.shape
    loss = np.zeros((N, L), native(x).dtype)
    top, log_sum = np.empty((2, N, 1, L))
    for n, j in np.ndindex(N, L):
        scores = [x.item(n, c, j) for c in range(C)]
        top[n, 0, j] = math.nan if any(s != s for s in scores) else max(scores)
        z = [s - top.item(n, 0, j) for s in scores]
        log_sum[n, 0, j] = math.log(sum(math.exp(v) for v in z))
        if valid[n, j]:
            loss[n, j] = factor.item(n, j) * (log_sum.item(n, 0, j) - z[target[n, j]])
    return loss, top, log_sum


def cross_entropy_grad(
    g: Array, x: Array, target: Array, factor: Array, valid: Array, top: Array, log_sum: Array
) -> Array:
    """dx[n, c, j] = f g (softmax(x)[c] - 1 where c is the target), 0 where not valid."""
    dx = np.zeros(x.shape, native(x).dtype)
    for n, c, j in np.ndindex(x.shape):
        if valid[n, j]:
            p = math.exp(x.item(n, c, j) - top.item(n, 0, j) - log_sum.item(n, 0, j))
            dx[n, c, j] = factor.item(n, j) * g.item(n, j) * (p - (c == target[n, j]))
    return dx


# --------------------------------------------------------------------------------------------------
# Steps of optimisers


def sgd_step(
    x: Array, g: Array, v: Array | None, lr: float, momentum: float, dampening: float, weight_decay: float,
    nesterov: bool, maximize: bool,
) -> None:  # fmt: skip
    """g <- g + weight_decay x;  v <- momentum v + (1 - dampening) g;  x <- x - lr v"""
    for i in np.ndindex(x.shape):
        slope = (-g.item(i) if maximize else g.item(i)) + (weight_decay * x.item(i) if weight_decay else 0)
        if v is not None:
            v[i] = momentum * v.item(i) + (1 - dampening) * slope
            slope = slope + momentum * v.item(i) if nesterov else v.item(i)
        x[i] = x.item(i) - lr * slope


def adam_step(
    x: Array, g: Array, m: Array, v: Array, largest: Array | None, count: int, lr: float, beta1: float, beta2: float,
    eps: float, weight_decay: float, decoupled: bool, maximize: bool,
) -> None:  # fmt: skip
    """m <- beta1 m + (1 - beta1) g;  v <- beta2 v + (1 - beta2) g^2;  x <- x - lr M / (sqrt(V) + eps)"""
    for i in np.ndindex(x.shape):
        slope = -g.item(i) if maximize else g.item(i)
        if weight_decay and decoupled:
            x[i] = x.item(i) * (1 - lr * weight_decay)
        elif weight_decay:
            slope += weight_decay * x.item(i)
        m[i] = beta1 * m.item(i) + (1 - beta1) * slope
        v[i] = beta2 * v.item(i) + (1 - beta2) * slope * slope
        top = v.item(i)
        if largest is not None:
            largest[i] = top = max(largest.item(i), top)
        x[i] = x.item(i) - lr * (m.item(i) / (1 - beta1**count)) / (math.sqrt(top / (1 - beta2**count)) + eps)


def rmsprop_step(
    x: Array, g: Array, v: Array, mean: Array | None, b: Array | None, lr: float, alpha: float, eps: float,
    weight_decay: float, momentum: float, maximize: bool,
) -> None:  # fmt: skip
    """v <- alpha v + (1 - alpha) g^2;  b <- momentum b + g / (sqrt(v) + eps);  x <- x - lr b"""
    for i in np.ndindex(x.shape):
        slope = (-g.item(i) if maximize else g.item(i)) + (weight_decay * x.item(i) if weight_decay else 0)
        v[i] = alpha * v.item(i) + (1 - alpha) * slope * slope
        square = v.item(i)
        if mean is not None:
            mean[i] = alpha * mean.item(i) + (1 - alpha) * slope
            square -= mean.item(i) ** 2
        change = slope / (math.sqrt(square) + eps)
        if b is not None:
            b[i] = change = momentum * b.item(i) + change
        x[i] = x.item(i) - lr * change
