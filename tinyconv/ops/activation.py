"""Activations: element by element, and the softmax family along one axis.

At a kink the derivative is torch's: 0 for relu, relu6 and hardtanh, the left one for leaky_relu and elu.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from numpy.typing import DTypeLike

from tinyconv import kernels
from tinyconv.autograd import Function, Tensor
from tinyconv.autograd.mode import switches
from tinyconv.autograd.tensor import Array
from tinyconv.ops.clamp import clamp
from tinyconv.ops.convert import as_number, as_tensor, cast
from tinyconv.ops.elementwise import abs as absolute
from tinyconv.ops.elementwise import exp, sigmoid, tanh, where
from tinyconv.ops.mixed import in_float16, in_float32
from tinyconv.ops.shape import axis_of
from tinyconv.ops.windows import require_float

_SELU_ALPHA = 1.6732632423543772848170429916717
_SELU_SCALE = 1.0507009873554804934193349852946


# --------------------------------------------------------------------------------------------------
# Relu


class Relu(Function):
    """y = max(x, 0);  y' = 1 where y > 0, else 0; NaN stays and lets the gradient pass"""

    saves_output = True

    def forward(self, x: Array) -> Array:
        return kernels.relu(x)

    def backward(self, g: Tensor) -> Tensor:
        return ReluGrad(self.saved_output.data)(g)


class ReluGrad(Function):
    """x' = g where not y <= 0, else 0: linear in g, and its own transpose."""

    def __init__(self, y: Array) -> None:
        self.y = y

    def forward(self, g: Array) -> Array:
        return kernels.relu_grad(g, self.y)

    def backward(self, v: Tensor) -> Tensor:
        return ReluGrad(self.y)(v)


def relu(input: Tensor) -> Tensor:
    """y = max(input, 0). Any shape. The derivative at 0 is 0. Source: Nair and Hinton, ICML 2010."""
    return Relu()(as_number(input, "relu"))


def hardtanh(input: Tensor, min_val: float = -1.0, max_val: float = 1.0) -> Tensor:
    """y = input moved into [min_val, max_val]. The derivative on the bounds is 0 (clamp's is 1)."""
    if min_val > max_val:
        raise ValueError(f"hardtanh: min_val must not exceed max_val, but min_val={min_val} and max_val={max_val}.")
    x = as_number(input, "hardtanh")
    if min_val < 0 and x.dtype.kind == "u":
        raise ValueError(f"hardtanh: min_val={min_val} is below what {x.dtype} can hold. Use a signed input.")
    return Activation("hardtanh", (min_val, max_val))(x)


def relu6(input: Tensor) -> Tensor:
    """y = min(max(input, 0), 6)"""
    return Activation("hardtanh", (0.0, 6.0))(as_number(input, "relu6"))


def threshold(input: Tensor, threshold: float, value: float) -> Tensor:
    """y = input where input > threshold, else value, in the dtype of input; NaN stays"""
    x = as_number(input, "threshold")
    if x.dtype.kind in "iu":  # both become whole numbers first, as in torch: 0 is not above -0.5
        threshold, value = int(threshold), int(value)
    return cast(where(x <= threshold, value, x), x.dtype)


# --------------------------------------------------------------------------------------------------
# Activations of one formula


class Activation(Function):
    """y = f(x), element by element, f by its name in :func:`tinyconv.kernels.activation`;  x' = g f'(x)"""

    saves = (0,)

    def __init__(self, kind: str, parameters: tuple[float, ...] = ()) -> None:
        self.kind, self.parameters = kind, parameters

    def forward(self, x: Array) -> Array:
        return kernels.activation(x, self.kind, self.parameters)

    def backward(self, g: Tensor) -> Tensor:
        (x,) = self.saved_inputs
        if switches.recording:  # the gradient is to be differentiated: written with operators, it can be
            return _GRADS[self.kind](g, x, *self.parameters)
        gx: Tensor = ActivationGrad(self.kind, self.parameters)(g, x)
        return gx


class ActivationGrad(Function):
    """x' = g f'(x) in one pass, where nobody asks for its gradient."""

    def __init__(self, kind: str, parameters: tuple[float, ...]) -> None:
        self.kind, self.parameters = kind, parameters

    def forward(self, g: Array, x: Array) -> Array:
        return kernels.activation_grad(g, x, self.kind, self.parameters)


def _elu_grad(g: Tensor, x: Tensor, a: float, b: float, c: float) -> Tensor:
    return g * where(x > 0, a, exp(clamp(x, max=0) * c) * (b * c))


def _hardswish_grad(g: Tensor, x: Tensor) -> Tensor:
    return where(x <= -3, 0.0, where(x >= 3, g, g * (x / 3 + 0.5)))


def _silu_grad(g: Tensor, x: Tensor) -> Tensor:
    s = sigmoid(x)
    return g * s * (x * (1 - s) + 1)


def _gelu_grad(g: Tensor, x: Tensor) -> Tensor:
    return g * ((erf(x * math.sqrt(0.5)) + 1) * 0.5 + x * exp(x * x * -0.5) * (1 / math.sqrt(2 * math.pi)))


def _gelu_tanh_grad(g: Tensor, x: Tensor) -> Tensor:
    steep = math.sqrt(8 / math.pi)
    s = sigmoid((x * x * x * 0.044715 + x) * steep)  # (1 + tanh(u)) / 2 is the sigmoid of 2u
    return g * s * (x * (1 - s) * (x * x * (3 * 0.044715) + 1) * steep + 1)


#: g f'(x), with the parameters.
_GRADS: dict[str, Callable[..., Tensor]] = {
    "elu": _elu_grad,
    "hardsigmoid": lambda g, x: where((x > -3) & (x < 3), g / 6, 0.0),
    "hardswish": _hardswish_grad,
    "hardtanh": lambda g, x, a, b: where((x <= a) | (x >= b), 0.0, g),
    "softplus": lambda g, x, a, b: where(x * a > b, g, g * sigmoid(x * a)),
    "logsigmoid": lambda g, x: g * sigmoid(-x),
    "silu": _silu_grad,
    "gelu": _gelu_grad,
    "gelu-tanh": _gelu_tanh_grad,
}


def hardsigmoid(input: Tensor) -> Tensor:
    """y = min(max(input + 3, 0), 6) / 6"""
    return Activation("hardsigmoid")(require_float("hardsigmoid", "input", input))


def hardswish(input: Tensor) -> Tensor:
    """y = input * min(max(input + 3, 0), 6) / 6. Source: Howard et al., ICCV 2019, section 5.2."""
    return Activation("hardswish")(require_float("hardswish", "input", input))


# --------------------------------------------------------------------------------------------------
# Two slopes


class Slopes(Function):
    """y = x where ``positive``, else slope * x. Linear, and its own transpose."""

    def __init__(self, positive: Array, slope: float) -> None:
        self.positive, self.slope = positive, slope

    def forward(self, x: Array) -> Array:
        return kernels.slopes(x, self.positive, self.slope)

    def backward(self, g: Tensor) -> Tensor:
        return Slopes(self.positive, self.slope)(g)


def leaky_relu(input: Tensor, negative_slope: float = 0.01) -> Tensor:
    """y = input where input > 0, else negative_slope * input. Source: Maas et al., ICML 2013."""
    x = require_float("leaky_relu", "input", input)
    return Slopes(x.data > 0, negative_slope)(x)


@in_float16
def prelu(input: Tensor, weight: Tensor) -> Tensor:
    """y = input where input > 0, else weight * input, with one weight, or one for each channel (axis 1).

    input (N, C, ...) or any shape with a single weight; weight (1,) or (C,). Source: He et al., ICCV 2015, equation 1.
    """
    x, a = require_float("prelu", "input", input), as_tensor(weight, "prelu", "weight")
    if x.dtype != a.dtype:
        raise TypeError(f"prelu: weight must have the input's dtype {x.dtype}, but is {a.dtype}. Cast one of them.")
    if a.ndim > 1:
        raise ValueError(f"prelu: weight must have shape (1,) or (channels,), but has {a.shape}.")
    if a.data.size != 1:
        channels = x.shape[1] if x.ndim > 1 else 1
        if a.data.size != channels:
            raise ValueError(
                f"prelu: weight must hold 1 value or one for each of the {channels} channels (input.shape[1]), "
                f"but has shape {a.shape}."
            )
        a = a.reshape(channels, *[1] * (x.ndim - 2))
    elif x.ndim == 0:
        a = a.reshape(())
    return where(x > 0, x, a * x)


def elu(input: Tensor, alpha: float = 1.0) -> Tensor:
    """y = input where input > 0, else alpha (e^input - 1). Source: Clevert et al., ICLR 2016, equation 15."""
    return Activation("elu", (1.0, alpha, 1.0))(require_float("elu", "input", input))


def celu(input: Tensor, alpha: float = 1.0) -> Tensor:
    """y = input where input > 0, else alpha (e^(input / alpha) - 1). Source: Barron, arXiv 1704.07483."""
    x = require_float("celu", "input", input)
    if alpha == 0:
        raise ValueError("celu: alpha must not be 0.")
    return Activation("elu", (1.0, alpha, 1 / alpha))(x)


def selu(input: Tensor) -> Tensor:
    """y = 1.0507 elu(input, alpha=1.6733): keeps mean 0 and variance 1. Source: Klambauer et al., NIPS 2017."""
    return Activation("elu", (_SELU_SCALE, _SELU_SCALE * _SELU_ALPHA, 1.0))(require_float("selu", "input", input))


# --------------------------------------------------------------------------------------------------
# Smooth


def logsigmoid(input: Tensor) -> Tensor:
    """y = log(1 / (1 + e^-input)), exact for any magnitude"""
    return Activation("logsigmoid")(require_float("logsigmoid", "input", input))


@in_float32
def softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """y = log(1 + e^(beta input)) / beta, and input itself where beta * input > threshold"""
    return Activation("softplus", (beta, threshold))(require_float("softplus", "input", input))


def softsign(input: Tensor) -> Tensor:
    """y = input / (1 + |input|)"""
    x = require_float("softsign", "input", input)
    return x / (absolute(x) + 1)


def tanhshrink(input: Tensor) -> Tensor:
    """y = input - tanh(input)"""
    x = require_float("tanhshrink", "input", input)
    return x - tanh(x)


def silu(input: Tensor) -> Tensor:
    """y = input * sigmoid(input), also called swish. Source: Elfwing et al., Neural Networks 107, 2018."""
    return Activation("silu")(require_float("silu", "input", input))


def mish(input: Tensor) -> Tensor:
    """y = input * tanh(softplus(input)). Source: Misra, BMVC 2020."""
    x = require_float("mish", "input", input)
    return x * tanh(softplus(x))


def glu(input: Tensor, dim: int = -1) -> Tensor:
    """y = a * sigmoid(b), a and b the halves of input along ``dim``. Source: Dauphin et al., ICML 2017, equation 1."""
    x = require_float("glu", "input", input)
    if x.ndim == 0:
        raise ValueError("glu: input must have an axis to halve, but is 0-d.")
    axis = axis_of("glu", dim, x.ndim)
    size = x.shape[axis]
    if size % 2:
        raise ValueError(f"glu: input must have an even size along dim={dim}, but has {size} (input.shape={x.shape}).")
    before = (slice(None),) * axis
    return x[(*before, slice(None, size // 2))] * sigmoid(x[(*before, slice(size // 2, None))])


class Erf(Function):
    """y = 2/sqrt(pi) * integral of e^(-t^2) from 0 to x;  y' = 2/sqrt(pi) e^(-x^2)"""

    saves = (0,)

    def forward(self, x: Array) -> Array:
        return kernels.erf(x)

    def backward(self, g: Tensor) -> Tensor:
        (x,) = self.saved_inputs
        return g * exp(-x * x) * (2 / math.sqrt(math.pi))


def erf(input: Tensor) -> Tensor:
    """y = 2/sqrt(pi) * integral of e^(-t^2) from 0 to input, to 1e-15 in float64"""
    return Erf()(require_float("erf", "input", input))


def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """y = input * Phi(input), Phi the distribution function of a standard normal variable.

    ``approximate='none'``: Phi(x) = (1 + erf(x / sqrt 2)) / 2;
    ``approximate='tanh'``: Phi(x) = (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) / 2.
    Source: Hendrycks and Gimpel, arXiv 1606.08415.
    """
    x = require_float("gelu", "input", input)
    if approximate not in ("none", "tanh"):
        raise ValueError(f"gelu: approximate must be 'none' or 'tanh', but is {approximate!r}.")
    return Activation("gelu" if approximate == "none" else "gelu-tanh")(x)


# --------------------------------------------------------------------------------------------------
# Along an axis


class Softmax(Function):
    """y = e^x / sum e^x along an axis;  dx = y (g - sum g y)"""

    saves_output = True

    def __init__(self, axis: int) -> None:
        self.axis = axis

    def forward(self, x: Array) -> Array:
        return kernels.softmax(x, self.axis, False)

    def backward(self, g: Tensor) -> Tensor:
        result: Tensor = SoftmaxGrad(self.axis)(g, self.saved_output)
        return result


class SoftmaxGrad(Function):
    """dx = y (g - sum g y): linear in g, and its own transpose."""

    saves = (0, 1)

    def __init__(self, axis: int) -> None:
        self.axis = axis

    def forward(self, g: Array, y: Array) -> Array:
        return kernels.softmax_grad(g, y, self.axis, False)

    def backward(self, v: Tensor) -> tuple[Tensor | None, Tensor | None]:
        g, y = self.saved_inputs
        by_g = SoftmaxGrad(self.axis)(v, y) if self.needs_grad(0) else None
        if not self.needs_grad(1):
            return by_g, None
        return by_g, v * (g - (g * y).sum(self.axis, keepdim=True)) - g * (v * y).sum(self.axis, keepdim=True)


class LogSoftmax(Function):
    """y = x - log sum e^x along an axis;  dx = g - e^y sum g"""

    saves_output = True

    def __init__(self, axis: int) -> None:
        self.axis = axis

    def forward(self, x: Array) -> Array:
        return kernels.softmax(x, self.axis, True)

    def backward(self, g: Tensor) -> Tensor:
        result: Tensor = LogSoftmaxGrad(self.axis)(g, self.saved_output)
        return result


class LogSoftmaxGrad(Function):
    """dx = g - e^y sum g"""

    saves = (0, 1)

    def __init__(self, axis: int) -> None:
        self.axis = axis

    def forward(self, g: Array, y: Array) -> Array:
        return kernels.softmax_grad(g, y, self.axis, True)

    def backward(self, v: Tensor) -> tuple[Tensor | None, Tensor | None]:
        g, y = self.saved_inputs
        vp = v * exp(y)
        by_g = v - vp.sum(self.axis, keepdim=True) if self.needs_grad(0) else None
        return by_g, -vp * g.sum(self.axis, keepdim=True) if self.needs_grad(1) else None


def _along(op: str, function: type[Softmax] | type[LogSoftmax], x: Tensor, dim: int) -> Tensor:
    axis = axis_of(op, dim, x.ndim)
    # A 0-d tensor counts as one axis of size 1.
    y: Tensor = function(axis)(x if x.ndim else x.reshape(1))
    return y if x.ndim else y.reshape(())


def _softmax_input(op: str, input: Tensor, dtype: DTypeLike | None) -> Tensor:
    x = as_tensor(input, op)
    return require_float(op, "input", x if dtype is None else cast(x, dtype))


@in_float32
def softmax(input: Tensor, dim: int, *, dtype: DTypeLike | None = None) -> Tensor:
    """y = e^input / sum of e^input along ``dim``: positive, and 1 in sum. Any shape.

    ``dtype`` casts the input first. Shifting by the maximum keeps it exact for any magnitude; all minus infinity gives
    NaN.
    """
    return _along("softmax", Softmax, _softmax_input("softmax", input, dtype), dim)


@in_float32
def log_softmax(input: Tensor, dim: int, *, dtype: DTypeLike | None = None) -> Tensor:
    """y = log softmax(input, dim), without the loss of digits and the -inf that log of softmax would have."""
    return _along("log_softmax", LogSoftmax, _softmax_input("log_softmax", input, dtype), dim)


@in_float32
def softmin(input: Tensor, dim: int, *, dtype: DTypeLike | None = None) -> Tensor:
    """y = softmax(-input, dim)"""
    return _along("softmin", Softmax, -_softmax_input("softmin", input, dtype), dim)
