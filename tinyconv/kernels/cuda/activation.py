"""Host code of the activations."""

from __future__ import annotations

from typing import Any

from tinyconv.kernels.arrays import Array, array_module
from tinyconv.kernels.cuda.launcher import blocks_for, contiguous, launch

#: In the order of elementwise.cu.
_NAMES = ("elu", "hardsigmoid", "hardswish", "hardtanh", "logsigmoid", "silu", "softplus", "gelu", "gelu-tanh")


def _each(kernel: str, *arrays: Array, more: tuple[Any, ...] = ()) -> Array:
    """Launch a kernel of C-contiguous arrays, four elements a thread."""
    first = arrays[0]
    y = array_module(first).empty(first.shape, first.dtype)
    launch("elementwise.cu", kernel, blocks_for(-(-y.size // 4)), (*arrays, y, y.size, *more))
    return y


def relu(x: Array) -> Array:
    """y = max(x, 0), NaN for NaN."""
    return _each("relu", contiguous(x))


def relu_grad(g: Array, y: Array) -> Array:
    """gx = g where not y <= 0, else 0."""
    return _each("relu_grad", contiguous(g), contiguous(y, g.dtype))


def slopes(x: Array, positive: Array, slope: float) -> Array:
    """y = x where positive, else slope x."""
    return _each("slopes", contiguous(x), contiguous(positive), more=(slope,))


def sigmoid(x: Array) -> Array:
    """y = 1 / (1 + e^-x)"""
    return _each("sigmoid", contiguous(x))


def erf(x: Array) -> Array:
    """y = 2/sqrt(pi) * integral of e^(-t^2) from 0 to x"""
    return _each("error_function", contiguous(x))


def activation(x: Array, name: str, parameters: tuple[float, ...]) -> Array:
    """y = f(x)"""
    return _each("activation", contiguous(x), more=_given(name, parameters))


def activation_grad(g: Array, x: Array, name: str, parameters: tuple[float, ...]) -> Array:
    """gx = g f'(x)"""
    return _each("activation_grad", contiguous(g), contiguous(x, g.dtype), more=_given(name, parameters))


def _given(name: str, parameters: tuple[float, ...]) -> tuple[float, ...]:
    """The place of a formula, and as many parameters as every one takes."""
    return (_NAMES.index(name), *(*parameters, 0, 0, 0)[:3])
