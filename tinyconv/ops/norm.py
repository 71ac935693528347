"""Normalisation: batch, layer, instance and group norm are one map over different axes; and two older ones.

y = w (x - mean) / sqrt(var + eps) + b        mean and (biased) variance over a set of axes

batch norm       over batch and space, one mean a channel
instance norm    over space, one mean a channel of each image
group norm       over space and a group of channels of each image
layer norm       over the last axes
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from tinyconv import kernels
from tinyconv.autograd import Function, Tensor, enable_grad, grad, is_grad_enabled
from tinyconv.autograd.mode import switches
from tinyconv.autograd.tensor import Array
from tinyconv.kernels.arrays import array_module
from tinyconv.ops.clamp import clamp
from tinyconv.ops.convert import as_tensor, cast
from tinyconv.ops.elementwise import rsqrt
from tinyconv.ops.mixed import in_float32
from tinyconv.ops.pad import pad
from tinyconv.ops.reduce import norm
from tinyconv.ops.shape import axis_of
from tinyconv.ops.windows import require_float

Axes = tuple[int, ...]


class Normalise(Function):
    """y = w (x - mean) / sqrt(var + eps) + b, mean and variance of x over ``axes``; w and b broadcast to x.

    ``mean`` and ``var`` stay readable after the call, in float64, with axes of size 1 where x was reduced.
    """

    saves = (0, 1)

    def __init__(self, axes: Axes, eps: float) -> None:
        self.axes, self.eps = axes, eps

    def forward(self, x: Array, weight: Array, bias: Array) -> Array:
        y, self.mean, self.var = kernels.normalise(x, weight, bias, self.axes, self.eps)
        self.kept = (self.mean, self.var)
        return y

    def backward(self, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight = self.saved_inputs
        result: tuple[Tensor, Tensor, Tensor] = NormaliseGrad(self.axes, self.eps, self.kept)(g, x, weight)
        return result


class NormaliseGrad(Function):
    """The gradients of :class:`Normalise` by x, w and b, for a cotangent g. With n = (x - mean) / sqrt(var + eps):

    dx = (g w - mean(g w) - n mean(g w n)) / sqrt(var + eps),   dw = sum g n,   db = sum g

    Source: Ioffe and Szegedy, "Batch normalization", ICML 2015, section 3.
    """

    saves = (0, 1, 2)

    def __init__(self, axes: Axes, eps: float, statistics: tuple[Array, ...]) -> None:
        self.axes, self.eps, self.statistics = axes, eps, statistics

    def forward(self, g: Array, x: Array, weight: Array) -> tuple[Array, Array, Array]:
        mean, var = self.statistics
        return kernels.normalise_grad(g, x, weight, mean, var, self.axes, self.eps)

    def backward(self, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        """The formula above once more, with operators, so that the tape differentiates it."""
        inputs = self.saved_inputs
        g, x, weight = inputs
        over_weight = tuple(a for a in range(x.ndim) if weight.shape[a] == 1)
        with enable_grad():
            centred = x - x.mean(self.axes, keepdim=True)
            rstd = rsqrt((centred * centred).mean(self.axes, keepdim=True) + self.eps)
            n = centred * rstd
            gw = g * weight
            dx = rstd * (gw - gw.mean(self.axes, keepdim=True) - n * (gw * n).mean(self.axes, keepdim=True))
            outputs = dx, (g * n).sum(over_weight, keepdim=True), g.sum(over_weight, keepdim=True)
        pairs = [(y, v) for y, v in zip(outputs, cotangents) if y.requires_grad]
        wanted = [i for i in range(3) if self.needs_grad(i)]
        found = grad(
            [y for y, _ in pairs],
            [inputs[i] for i in wanted],
            [v for _, v in pairs],
            create_graph=is_grad_enabled(),
            allow_unused=True,
        )
        by_position = dict(zip(wanted, found))
        return tuple(by_position.get(i) for i in range(3))


# --------------------------------------------------------------------------------------------------
# Reading arguments


def _vector(op: str, name: str, value: Any, shape: tuple[int, ...], x: Tensor, of: str) -> Tensor | None:
    """A parameter or statistic checked against the input, or None."""
    if value is None:
        return None
    t = as_tensor(value, op, name)
    if t.shape != shape:
        raise ValueError(f"{op}: {name} must have shape {shape}, {of}, but has {t.shape} (input.shape={x.shape}).")
    if t.dtype != x.dtype and (x.dtype, t.dtype) != (np.float16, np.float32):  # torch's one mixture
        raise TypeError(f"{op}: {name} must have the input's dtype {x.dtype}, but is {t.dtype}. Cast one of them.")
    return t


def _constant(x: Tensor, shape: tuple[int, ...], value: float) -> Tensor:
    return Tensor.wrap(array_module(x.data).full(shape, value, x.dtype))


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """weight and bias in a shape that broadcasts, 1 and 0 where they are None."""
    return (
        _constant(x, shape, 1) if weight is None else weight.reshape(shape),
        _constant(x, shape, 0) if bias is None else bias.reshape(shape),
    )


def _image(op: str, input: Tensor, least: int) -> Tensor:
    x = require_float(op, "input", input)
    if x.ndim < least:
        axes = ", ".join(["N, C", "L"][: least - 1])
        raise ValueError(f"{op}: input must have at least {least} axes ({axes}, ...), but has shape {x.shape}.")
    return x


def _positive_eps(op: str, eps: float) -> None:
    if not eps > 0:
        raise ValueError(f"{op}: eps must be positive, but is {eps}.")


def _update(running: Tensor | None, new: Array, momentum: float) -> Array | None:
    """(1 - momentum) running + momentum new."""
    return None if running is None else running.data * (1 - momentum) + new.reshape(running.shape) * momentum


def _store(running: Tensor | None, value: Array | None) -> None:
    if running is not None and not switches.repeating:  # each batch counts once
        running.data[...] = value
        running.changed()


# --------------------------------------------------------------------------------------------------
# Public operators


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """y = weight (input - mean) / sqrt(var + eps) + bias, one of each for a channel.

    input (N, C, ...); the others (C,). In training mean and biased variance are those of the batch over all axes but
    C, and

        running_mean <- (1 - momentum) running_mean + momentum mean,   running_var likewise with the unbiased variance,

    in place; else they are the running ones. Raises ValueError in training for one value a channel, which has no
    variance.
    Source: Ioffe and Szegedy, ICML 2015, algorithms 1 and 2.
    """
    x = _image("batch_norm", input, 2)
    channels = (x.shape[1],)
    of = "one value for each channel (input.shape[1])"
    named = dict(running_mean=running_mean, running_var=running_var, weight=weight, bias=bias)
    mean, var, w, b = (_vector("batch_norm", name, value, channels, x, of) for name, value in named.items())
    _positive_eps("batch_norm", eps)
    per_channel: tuple[int, ...] = (1, *channels, 1)
    if not training:
        if mean is None or var is None:
            raise ValueError("batch_norm: running_mean and running_var must be given unless training=True.")
        per_channel = (1, *channels, *[1] * (x.ndim - 2))
        w, b = _affine(x, w, b, per_channel)
        scale = w * rsqrt(var.reshape(per_channel) + eps)
        return cast(x * scale + (b - mean.reshape(per_channel) * scale), x.dtype)
    count = prod(x.shape) // max(1, channels[0])
    if count == 1:
        raise ValueError(
            f"batch_norm: training needs more than 1 value for each channel, but input.shape={x.shape} has 1. "
            f"Use a larger batch or image, or eval()."
        )
    if count == 0 or channels[0] == 0:
        return x * 1  # nothing to learn from an empty batch: the statistics stay
    w, b = _affine(x, w, b, per_channel)
    core = Normalise((0, 2), eps)
    y: Tensor = core(x.reshape(x.shape[0], *channels, -1), w, b)
    # Both new values stand before the first is stored, so that an error cannot leave one of them changed.
    new_mean = _update(mean, core.mean, momentum)
    new_var = _update(var, core.var * (count / (count - 1)), momentum)
    _store(mean, new_mean)
    _store(var, new_var)
    return y.reshape(x.shape)


def instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """y = weight (input - mean) / sqrt(var + eps) + bias, mean and variance over space, for each image and channel.

    input (N, C, ...), the others (C,). Running statistics, where given, take the average over the batch, the variance
    unbiased; they normalise if ``use_input_stats`` is False. Source: Ulyanov et al., arXiv 1607.08022.
    """
    x = _image("instance_norm", input, 3)
    channels = (x.shape[1],)
    of = "one value for each channel (input.shape[1])"
    named = dict(running_mean=running_mean, running_var=running_var, weight=weight, bias=bias)
    mean, var, w, b = (_vector("instance_norm", name, value, channels, x, of) for name, value in named.items())
    if not use_input_stats:
        return batch_norm(x, mean, var, w, b, False, momentum, eps)
    _positive_eps("instance_norm", eps)
    count = prod(x.shape[2:])
    if count == 1:
        raise ValueError(
            f"instance_norm: needs more than 1 value for each image and channel, but input.shape={x.shape} has 1. "
            f"Use a larger image, or group_norm."
        )
    if x.data.size == 0:
        return x * 1
    w, b = _affine(x, w, b, (1, *channels, *[1] * (x.ndim - 2)))
    core = Normalise(tuple(range(2, x.ndim)), eps)
    y: Tensor = core(x, w, b)
    new_mean = _update(mean, core.mean.mean(0), momentum)
    new_var = _update(var, core.var.mean(0) * (count / (count - 1)), momentum)
    _store(mean, new_mean)
    _store(var, new_var)
    return y


@in_float32
def group_norm(
    input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """y = weight (input - mean) / sqrt(var + eps) + bias, mean and variance of a group of channels in each image.

    input (N, C, ...), C divisible by ``num_groups``; weight, bias (C,). Source: Wu and He, ECCV 2018, equation 7.
    """
    x = _image("group_norm", input, 2)
    channels = x.shape[1]
    if num_groups < 1 or channels % num_groups:
        raise ValueError(
            f"group_norm: num_groups must divide the channels, but num_groups={num_groups} and input has {channels} "
            f"(input.shape={x.shape})."
        )
    of = "one value for each channel (input.shape[1])"
    named = dict(weight=weight, bias=bias)
    w, b = (_vector("group_norm", name, value, (channels,), x, of) for name, value in named.items())
    _positive_eps("group_norm", eps)
    if prod(x.shape) == num_groups:
        raise ValueError(
            f"group_norm: needs more than 1 value for each group, but input.shape={x.shape} with "
            f"num_groups={num_groups} "
            f"has 1. Use fewer groups."
        )
    if x.data.size == 0:
        return x * 1
    w, b = _affine(x, w, b, (1, num_groups, channels // num_groups, 1))
    grouped = x.reshape(x.shape[0], num_groups, channels // num_groups, -1)
    y: Tensor = Normalise((2, 3), eps)(grouped, w, b)
    return y.reshape(x.shape)


@in_float32
def layer_norm(
    input: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """y = weight (input - mean) / sqrt(var + eps) + bias, mean and variance over the last axes.

    input (..., *normalized_shape), weight and bias of shape ``normalized_shape``. Source: Ba et al., arXiv 1607.06450.
    """
    x = require_float("layer_norm", "input", input)
    shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    if not shape or x.shape[max(0, x.ndim - len(shape)) :] != shape:
        raise ValueError(
            f"layer_norm: the input's last axes must be normalized_shape={shape} (at least one axis), "
            f"but input.shape={x.shape}."
        )
    named = dict(weight=weight, bias=bias)
    w, b = (_vector("layer_norm", name, value, shape, x, "normalized_shape") for name, value in named.items())
    _positive_eps("layer_norm", eps)
    if x.data.size == 0:
        return x * 1
    w, b = _affine(x, w, b, (1, prod(shape)))
    y: Tensor = Normalise((1,), eps)(x.reshape(-1, prod(shape)), w, b)
    return y.reshape(x.shape)


def local_response_norm(input: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Tensor:
    """y = input / (k + alpha / size * sum of input^2 over ``size`` neighbouring channels)^beta.

    input (N, C, ...); the channels from c - size//2 to c + (size - 1)//2 that exist. alpha is divided by size, which
    the paper does not do. Source: Krizhevsky et al., NIPS 2012, section 3.3.
    """
    x = _image("local_response_norm", input, 3)
    if size < 1:
        raise ValueError(f"local_response_norm: size must be at least 1, but is {size}.")
    channels = x.shape[1]
    padded = pad(x * x, (*[0] * (2 * x.ndim - 4), size // 2, (size - 1) // 2))
    total = padded[:, :channels]
    for shift in range(1, size):
        total = total + padded[:, shift : shift + channels]
    return x / (total * (alpha / size) + k) ** beta


def normalize(input: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12) -> Tensor:
    """y = input / max(||input||_p, eps), the norm taken along ``dim``."""
    x = require_float("normalize", "input", input)
    axis_of("normalize", dim, x.ndim)
    return x / clamp(norm(x, p, dim, keepdim=True), min=eps)
