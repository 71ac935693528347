"""Dropout: zeros at random in training, the identity otherwise. Source: Srivastava et al., JMLR 15, 2014."""

from __future__ import annotations

import math

import numpy as np

from tinyconv.autograd import Tensor
from tinyconv.autograd.dtypes import is_float
from tinyconv.kernels.arrays import array_module
from tinyconv.ops.convert import as_tensor
from tinyconv.ops.random import generator_for

#: What alpha dropout puts in place of an element: the value of selu at minus infinity.
_SELU_FLOOR = -1.7580993408473766


def _checked(op: str, input: Tensor, p: float) -> Tensor:
    x = as_tensor(input, op)
    if not 0 <= p <= 1:
        raise ValueError(f"{op}: p is the probability of a zero and must lie in [0, 1], but is {p}.")
    if not is_float(x.dtype):
        raise TypeError(f"{op}: input must be a float tensor, but is {x.dtype}. Use input.to(float32).")
    return x


def _kept(x: Tensor, shape: tuple[int, ...], p: float, generator: np.random.Generator) -> Tensor:
    """1 with probability 1 - p, else 0, in the dtype and on the device of x."""
    mask = generator.random(shape, dtype=np.float32) >= p
    return Tensor.wrap(array_module(x.data).asarray(mask.astype(x.dtype)))


def _dropped(op: str, x: Tensor, shape: tuple[int, ...], p: float, generator: np.random.Generator | None) -> Tensor:
    draw = generator_for(op, generator)
    if p == 0:
        return x
    if p == 1:
        return x * 0.0
    return x * (_kept(x, shape, p, draw) / (1 - p))


def _alpha_dropped(
    op: str, x: Tensor, shape: tuple[int, ...], p: float, generator: np.random.Generator | None
) -> Tensor:
    """a (x m + floor (1 - m) - floor p), a such that variance 1 stays."""
    draw = generator_for(op, generator)
    if p == 0:
        return x
    if p == 1:
        return x * 0.0
    scale = 1 / math.sqrt((_SELU_FLOOR**2 * p + 1) * (1 - p))
    mask = _kept(x, shape, p, draw)
    return x * (mask * scale) + (mask - 1 + p) * (-_SELU_FLOOR * scale)


def _channels(op: str, x: Tensor, spatial: int) -> tuple[int, ...]:
    """The shape of a mask with one value an image and channel."""
    if x.ndim == spatial + 1 and spatial != 2:  # one image without the batch axis
        return (x.shape[0], *[1] * spatial)
    if x.ndim != spatial + 2:
        # torch reads three axes in dropout2d as (N, C, L) and warns that it will not always: better refused.
        raise ValueError(
            f"{op}: input must have {spatial + 2} axes (batch, channel and {spatial} spatial), but has shape "
            f"{x.shape}. "
            f"Use x.unsqueeze(0) for an image without a batch, or dropout1d for (N, C, L)."
        )
    return (*x.shape[:2], *[1] * spatial)


def dropout(
    input: Tensor, p: float = 0.5, training: bool = True, *, generator: np.random.Generator | None = None
) -> Tensor:
    """y = input * m / (1 - p), m = 0 with probability p, else 1, drawn for each element; y = input if not training."""
    x = _checked("dropout", input, p)
    return _dropped("dropout", x, x.shape, p, generator) if training else x


def dropout1d(
    input: Tensor, p: float = 0.5, training: bool = True, *, generator: np.random.Generator | None = None
) -> Tensor:
    """Like dropout, but zeros whole channels of an input (N, C, L) or (C, L)."""
    x = _checked("dropout1d", input, p)
    return _dropped("dropout1d", x, _channels("dropout1d", x, 1), p, generator) if training else x


def dropout2d(
    input: Tensor, p: float = 0.5, training: bool = True, *, generator: np.random.Generator | None = None
) -> Tensor:
    """Like dropout, but zeros whole channels of an input (N, C, H, W). Source: Tompson et al., CVPR 2015."""
    x = _checked("dropout2d", input, p)
    return _dropped("dropout2d", x, _channels("dropout2d", x, 2), p, generator) if training else x


def dropout3d(
    input: Tensor, p: float = 0.5, training: bool = True, *, generator: np.random.Generator | None = None
) -> Tensor:
    """Like dropout, but zeros whole channels of an input (N, C, D, H, W) or (C, D, H, W)."""
    x = _checked("dropout3d", input, p)
    return _dropped("dropout3d", x, _channels("dropout3d", x, 3), p, generator) if training else x


def alpha_dropout(
    input: Tensor, p: float = 0.5, training: bool = False, *, generator: np.random.Generator | None = None
) -> Tensor:
    """y = a (input m - 1.7581 (1 - m)) + b, which keeps mean 0 and variance 1: dropout for selu networks.

    m = 0 with probability p, a = ((1 - p)(1 + 1.7581^2 p))^(-1/2), b = 1.7581 a p. Source: Klambauer et al., NIPS 2017.
    """
    x = _checked("alpha_dropout", input, p)
    return _alpha_dropped("alpha_dropout", x, x.shape, p, generator) if training else x


def feature_alpha_dropout(
    input: Tensor, p: float = 0.5, training: bool = False, *, generator: np.random.Generator | None = None
) -> Tensor:
    """Like alpha_dropout, with one m for each channel (axis 1) of an input (N, C, ...)."""
    x = _checked("feature_alpha_dropout", input, p)
    if not training:
        return x
    if x.ndim < 2:
        raise ValueError(f"feature_alpha_dropout: input must be (N, C, ...), but has shape {x.shape}.")
    shape = (*x.shape[:2], *[1] * (x.ndim - 2))
    return _alpha_dropped("feature_alpha_dropout", x, shape, p, generator)
