"""Operators that work element by element, the derivative beside the value.

Broadcasting stands in one place: operands that need a gradient are expanded to the common shape first, and the
gradient of ``expand`` is a sum. The rest of the file therefore sees equal shapes, or constants.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from tinyconv.autograd import Function, Tensor
from tinyconv.autograd.dtypes import default_float, is_float, result_dtype, scalar_dtype
from tinyconv.autograd.tensor import Array
from tinyconv.kernels.arrays import array_module
from tinyconv.ops.broadcast import expand
from tinyconv.ops.convert import as_float, as_tensor, cast

#: What an operator takes beside a tensor: another tensor, an array, or a number.
Operand: TypeAlias = "Tensor | np.ndarray[Any, Any] | bool | int | float"


# --------------------------------------------------------------------------------------------------
# Bringing two operands together


def common_shape(op: str, *shapes: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that all broadcast to, or a ValueError that names them."""
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        listed = " and ".join(map(str, shapes))
        raise ValueError(
            f"{op}: shapes {listed} do not broadcast: counted from the last axis, sizes must be equal or 1. "
            f"Use reshape or unsqueeze to line the axes up."
        ) from None


def operands(op: str, a: Operand, b: Operand, floating: bool = False) -> tuple[Tensor, Tensor]:
    """Two tensors of one dtype (torch's promotion); those that need a gradient also have the common shape."""
    if not isinstance(a, Tensor):
        a, b = _beside(op, a, b), as_tensor(b, op)
    elif not isinstance(b, Tensor):
        b = _beside(op, b, a)
    if a.data.dtype != b.data.dtype:
        dtype = result_dtype(a.data.dtype, a.data.ndim == 0, b.data.dtype, b.data.ndim == 0)
        a, b = cast(a, dtype), cast(b, dtype)
    if floating and not is_float(a.data.dtype):
        a, b = cast(a, default_float), cast(b, default_float)
    if a.data.shape != b.data.shape:
        shape = common_shape(op, a.data.shape, b.data.shape)
        a = expand(a, shape) if a.requires_grad and a.data.shape != shape else a
        b = expand(b, shape) if b.requires_grad and b.data.shape != shape else b
    return a, b


def _beside(op: str, value: Any, tensor: Any) -> Tensor:
    """A number or an array as a tensor that goes together with ``tensor``."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool | int | float):
        data = tensor.data
        return Tensor.wrap(array_module(data).asarray(value, dtype=scalar_dtype(value, data.dtype)))
    return as_tensor(value, op, "other")


# --------------------------------------------------------------------------------------------------
# Arithmetic


class Add(Function):
    """y = a + b"""

    def forward(self, a: Array, b: Array) -> Array:
        return a + b

    def backward(self, g: Tensor) -> tuple[Tensor, Tensor]:
        return g, g


class Sub(Function):
    """y = a - b"""

    def forward(self, a: Array, b: Array) -> Array:
        return a - b

    def backward(self, g: Tensor) -> tuple[Tensor, Tensor | None]:
        return g, neg(g) if self.needs_grad(1) else None


class Mul(Function):
    """y = a b;  dy/da = b, dy/db = a"""

    saves = (0, 1)

    def forward(self, a: Array, b: Array) -> Array:
        return a * b

    def backward(self, g: Tensor) -> tuple[Tensor | None, Tensor | None]:
        a, b = self.saved_inputs
        return mul(g, b) if self.needs_grad(0) else None, mul(g, a) if self.needs_grad(1) else None


class Div(Function):
    """y = a / b;  dy/da = 1/b, dy/db = -a/b^2"""

    saves = (0, 1)

    def forward(self, a: Array, b: Array) -> Array:
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            return a / b

    def backward(self, g: Tensor) -> tuple[Tensor | None, Tensor | None]:
        a, b = self.saved_inputs
        over_b = div(g, b)
        return over_b if self.needs_grad(0) else None, neg(mul(over_b, div(a, b))) if self.needs_grad(1) else None


class Pow(Function):
    """y = a^b;  dy/da = b a^(b-1) (0 where b = 0), dy/db = a^b log a (0 where a = 0 and b >= 0)"""

    saves = (0, 1)

    def forward(self, a: Array, b: Array) -> Array:
        with np.errstate(all="ignore"):
            return a**b

    def backward(self, g: Tensor) -> tuple[Tensor | None, Tensor | None]:
        a, b = self.saved_inputs
        by_a = by_b = None
        if self.needs_grad(0):
            by_a = where(b == 0, 0.0, g * b * pow(a, b - 1))
        if self.needs_grad(1):
            by_b = g * where((a == 0) & (b >= 0), 0.0, pow(a, b) * log(a))
        return by_a, by_b


class Neg(Function):
    """y = -x"""

    def forward(self, x: Array) -> Array:
        return -x

    def backward(self, g: Tensor) -> Tensor:
        return neg(g)


def add(input: Operand, other: Operand, alpha: int | float = 1) -> Tensor:
    """y = input + alpha * other, with broadcasting."""
    a, b = operands("add", input, other if alpha == 1 else mul(other, alpha))
    return Add()(a, b)


def sub(input: Operand, other: Operand, alpha: int | float = 1) -> Tensor:
    """y = input - alpha * other, with broadcasting. Bools raise: use logical_xor."""
    a, b = operands("sub", input, other if alpha == 1 else mul(other, alpha))
    if a.data.dtype.kind == "b":
        raise TypeError("sub: bools cannot be subtracted. Use logical_xor, or cast to an integer.")
    return Sub()(a, b)


def mul(input: Operand, other: Operand) -> Tensor:
    """y = input * other, with broadcasting."""
    return Mul()(*operands("mul", input, other))


def div(input: Operand, other: Operand, rounding_mode: str | None = None) -> Tensor:
    """y = input / other, floating also for integers; ``rounding_mode`` 'floor' or 'trunc' rounds, and has
    gradient zero.
    """
    if rounding_mode is None:
        return Div()(*operands("div", input, other, floating=True))
    if rounding_mode not in ("floor", "trunc"):
        raise ValueError(f"div: rounding_mode must be None, 'floor' or 'trunc', but is {rounding_mode!r}.")
    a, b = operands("div", input, other)
    if is_float(a.data.dtype):
        return (floor if rounding_mode == "floor" else trunc)(div(a, b))
    if not array_module(b.data).all(b.data):
        raise ValueError(f"div: an integer is divided by zero with rounding_mode={rounding_mode!r}.")
    quotient = a.data // b.data
    if rounding_mode == "trunc":
        quotient = quotient + ((quotient < 0) & (quotient * b.data != a.data))
    return Tensor.wrap(np.asarray(quotient, a.data.dtype))


def floor_divide(input: Operand, other: Operand) -> Tensor:
    """y = floor(input / other); gradient zero."""
    return div(input, other, rounding_mode="floor")


def remainder(input: Operand, other: Operand) -> Tensor:
    """y = input - other * floor(input / other), with the sign of ``other`` as Python's %."""
    a, b = operands("remainder", input, other)
    return sub(a, mul(b, floor_divide(a, b)))


def pow(input: Operand, exponent: Operand) -> Tensor:
    """y = input ^ exponent. An integer to a negative power raises."""
    a, b = operands("pow", input, exponent)
    if a.data.dtype.kind in "iu" and bool((b.data < 0).any()):
        raise ValueError("pow: an integer cannot be raised to a negative power. Use a float tensor.")
    return Pow()(a, b)


def neg(input: Tensor) -> Tensor:
    """y = -input"""
    if input.data.dtype.kind == "b":
        raise TypeError("neg: a bool has no negative. Use logical_not, or cast to an integer.")
    return Neg()(input)


# --------------------------------------------------------------------------------------------------
# Functions of one element


class Exp(Function):
    """y = e^x;  y' = y"""

    saves_output = True

    def forward(self, x: Array) -> Array:
        with np.errstate(over="ignore"):
            return array_module(x).exp(x)

    def backward(self, g: Tensor) -> Tensor:
        return g * self.saved_output


class Expm1(Function):
    """y = e^x - 1, exact near 0;  y' = y + 1"""

    saves_output = True

    def forward(self, x: Array) -> Array:
        with np.errstate(over="ignore"):
            return array_module(x).expm1(x)

    def backward(self, g: Tensor) -> Tensor:
        return g * (self.saved_output + 1)


class Log(Function):
    """y = log x;  y' = 1/x"""

    saves = (0,)

    def forward(self, x: Array) -> Array:
        with np.errstate(divide="ignore", invalid="ignore"):
            return array_module(x).log(x)

    def backward(self, g: Tensor) -> Tensor:
        (x,) = self.saved_inputs
        return g / x


class Log1p(Function):
    """y = log(1 + x), exact near 0;  y' = 1/(1 + x)"""

    saves = (0,)

    def forward(self, x: Array) -> Array:
        with np.errstate(divide="ignore", invalid="ignore"):
            return array_module(x).log1p(x)

    def backward(self, g: Tensor) -> Tensor:
        (x,) = self.saved_inputs
        return g / (x + 1)


class Sqrt(Function):
    """y = sqrt x;  y' = 1/(2y), infinite at 0"""

    saves_output = True

    def forward(self, x: Array) -> Array:
        with np.errstate(invalid="ignore"):
            return array_module(x).sqrt(x)

    def backward(self, g: Tensor) -> Tensor:
        return g / (self.saved_output * 2)


class Abs(Function):
    """y = |x|;  y' = sign x, 0 at 0"""

    saves = (0,)

    def forward(self, x: Array) -> Array:
        return array_module(x).abs(x)

    def backward(self, g: Tensor) -> Tensor:
        (x,) = self.saved_inputs
        return g * sign(x)


class Sin(Function):
    """y = sin x;  y' = cos x"""

    saves = (0,)

    def forward(self, x: Array) -> Array:
        with np.errstate(invalid="ignore"):
            return array_module(x).sin(x)

    def backward(self, g: Tensor) -> Tensor:
        (x,) = self.saved_inputs
        return g * cos(x)


class Cos(Function):
    """y = cos x;  y' = -sin x"""

    saves = (0,)

    def forward(self, x: Array) -> Array:
        with np.errstate(invalid="ignore"):
            return array_module(x).cos(x)

    def backward(self, g: Tensor) -> Tensor:
        (x,) = self.saved_inputs
        return neg(g * sin(x))


class Tanh(Function):
    """y = tanh x;  y' = 1 - y^2"""

    saves_output = True

    def forward(self, x: Array) -> Array:
        return array_module(x).tanh(x)

    def backward(self, g: Tensor) -> Tensor:
        y = self.saved_output
        return g * (1 - y * y)


class Sigmoid(Function):
    """y = 1 / (1 + e^-x);  y' = y (1 - y)"""

    saves_output = True

    def forward(self, x: Array) -> Array:
        with np.errstate(over="ignore"):  # e^-x = inf gives the right 0
            return 1 / (1 + array_module(x).exp(-x))

    def backward(self, g: Tensor) -> Tensor:
        y = self.saved_output
        return g * (y * (1 - y))


class _Step(Function):
    """Piecewise constant functions: the gradient is zero."""

    def backward(self, g: Tensor) -> Tensor:
        return zeros_like(g)


class Sign(_Step):
    """y = -1, 0 or 1; NaN stays"""

    def forward(self, x: Array) -> Array:
        return array_module(x).sign(x)


class Floor(_Step):
    """y = the largest integer not above x"""

    def forward(self, x: Array) -> Array:
        return array_module(x).floor(x)


class Ceil(_Step):
    """y = the smallest integer not below x"""

    def forward(self, x: Array) -> Array:
        return array_module(x).ceil(x)


class Trunc(_Step):
    """y = x without its fraction"""

    def forward(self, x: Array) -> Array:
        return array_module(x).trunc(x)


class Round(_Step):
    """y = the nearest integer, halves to the even one"""

    def forward(self, x: Array) -> Array:
        return array_module(x).round(x)


def exp(input: Tensor) -> Tensor:
    """y = e^input"""
    return Exp()(as_float(as_tensor(input, "exp")))


def expm1(input: Tensor) -> Tensor:
    """y = e^input - 1, exact near 0"""
    return Expm1()(as_float(as_tensor(input, "expm1")))


def log(input: Tensor) -> Tensor:
    """y = natural logarithm; -inf at 0, NaN below"""
    return Log()(as_float(as_tensor(input, "log")))


def log1p(input: Tensor) -> Tensor:
    """y = log(1 + input), exact near 0"""
    return Log1p()(as_float(as_tensor(input, "log1p")))


def sqrt(input: Tensor) -> Tensor:
    """y = square root; the gradient at 0 is infinite, as torch's"""
    return Sqrt()(as_float(as_tensor(input, "sqrt")))


def rsqrt(input: Tensor) -> Tensor:
    """y = 1 / sqrt(input)"""
    return reciprocal(sqrt(input))


def reciprocal(input: Tensor) -> Tensor:
    """y = 1 / input"""
    return div(1, as_tensor(input, "reciprocal"))


def square(input: Tensor) -> Tensor:
    """y = input^2"""
    return mul(input, input)


def abs(input: Tensor) -> Tensor:
    """y = |input|; the gradient at 0 is 0"""
    return Abs()(as_tensor(input, "abs"))


def sin(input: Tensor) -> Tensor:
    """y = sin(input), in radians"""
    return Sin()(as_float(as_tensor(input, "sin")))


def cos(input: Tensor) -> Tensor:
    """y = cos(input), in radians"""
    return Cos()(as_float(as_tensor(input, "cos")))


def tan(input: Tensor) -> Tensor:
    """y = tan(input), in radians"""
    return div(sin(input), cos(input))


def tanh(input: Tensor) -> Tensor:
    """y = tanh(input)"""
    return Tanh()(as_float(as_tensor(input, "tanh")))


def sigmoid(input: Tensor) -> Tensor:
    """y = 1 / (1 + e^-input)"""
    return Sigmoid()(as_float(as_tensor(input, "sigmoid")))


def sign(input: Tensor) -> Tensor:
    """y = -1, 0 or 1; gradient zero"""
    return Sign()(as_tensor(input, "sign"))


def floor(input: Tensor) -> Tensor:
    """y = the largest integer not above input; gradient zero"""
    return Floor()(as_tensor(input, "floor"))


def ceil(input: Tensor) -> Tensor:
    """y = the smallest integer not below input; gradient zero"""
    return Ceil()(as_tensor(input, "ceil"))


def trunc(input: Tensor) -> Tensor:
    """y = input without its fraction; gradient zero"""
    return Trunc()(as_tensor(input, "trunc"))


def round(input: Tensor) -> Tensor:
    """y = the nearest integer, halves to the even one; gradient zero"""
    return Round()(as_tensor(input, "round"))


def zeros_like(input: Tensor) -> Tensor:
    """Zeros of the shape and dtype of ``input``."""
    return Tensor.wrap(array_module(input.data).zeros_like(input.data))


def ones_like(input: Tensor) -> Tensor:
    """Ones of the shape and dtype of ``input``."""
    return Tensor.wrap(array_module(input.data).ones_like(input.data))


# --------------------------------------------------------------------------------------------------
# Choosing


class Maximum(Function):
    """y = max(a, b); NaN wins; a tie gives half the gradient to each"""

    saves = (0, 1)

    def forward(self, a: Array, b: Array) -> Array:
        return array_module(a, b).maximum(a, b)

    def backward(self, g: Tensor) -> tuple[Tensor, Tensor]:
        a, b = self.saved_inputs
        return _share(g, a == b, a < b), _share(g, a == b, b < a)


class Minimum(Function):
    """y = min(a, b); NaN wins; a tie gives half the gradient to each"""

    saves = (0, 1)

    def forward(self, a: Array, b: Array) -> Array:
        return array_module(a, b).minimum(a, b)

    def backward(self, g: Tensor) -> tuple[Tensor, Tensor]:
        a, b = self.saved_inputs
        return _share(g, a == b, a > b), _share(g, a == b, b > a)


def _share(g: Tensor, tie: Tensor, lost: Tensor) -> Tensor:
    return where(lost, 0.0, where(tie, g * 0.5, g))


class Where(Function):
    """y = a where the condition holds, else b"""

    def __init__(self, condition: Array) -> None:
        self.condition = condition

    def forward(self, a: Array, b: Array) -> Array:
        return array_module(a, b).where(self.condition, a, b)

    def backward(self, g: Tensor) -> tuple[Tensor | None, Tensor | None]:
        condition, zero = Tensor.wrap(self.condition), 0.0
        return (
            where(condition, g, zero) if self.needs_grad(0) else None,
            where(condition, zero, g) if self.needs_grad(1) else None,
        )


def maximum(input: Operand, other: Operand) -> Tensor:
    """y = the larger of the two; NaN wins; a tie halves the gradient"""
    return Maximum()(*operands("maximum", input, other))


def minimum(input: Operand, other: Operand) -> Tensor:
    """y = the smaller of the two; NaN wins; a tie halves the gradient"""
    return Minimum()(*operands("minimum", input, other))


def where(condition: Operand, input: Operand, other: Operand) -> Tensor:
    """y = input where ``condition`` (bool) holds, else other; all three broadcast."""
    condition = condition if isinstance(condition, Tensor) else Tensor(condition)
    if condition.data.dtype.kind != "b":
        raise TypeError(f"where: condition must be bool, but is {condition.dtype}. Use condition != 0.")
    if not isinstance(input, Tensor) and not isinstance(other, Tensor):
        input = Tensor(input)
    a, b = operands("where", input, other)
    shape = common_shape("where", condition.data.shape, a.data.shape, b.data.shape)
    a = expand(a, shape) if a.requires_grad and a.data.shape != shape else a
    b = expand(b, shape) if b.requires_grad and b.data.shape != shape else b
    return Where(condition.data)(a, b)


def masked_fill(input: Tensor, mask: Operand, value: Operand) -> Tensor:
    """y = value where ``mask`` (bool) holds, else input. The mask broadcasts to the input, not the reverse."""
    mask = mask if isinstance(mask, Tensor) else Tensor(mask)
    filled = where(mask, cast(value, input.dtype) if isinstance(value, Tensor) else value, input)
    if filled.data.shape != input.data.shape:
        raise ValueError(
            f"masked_fill: mask of shape {mask.shape} does not broadcast to the input's shape {input.shape}."
        )
    return cast(filled, input.dtype)


def clamp(input: Tensor, min: Operand | None = None, max: Operand | None = None) -> Tensor:
    """y = input moved into [min, max]; NaN stays. The gradient is 1 inside and on the bounds, else 0."""
    if min is None and max is None:
        raise ValueError("clamp: give min, max, or both.")
    y = as_tensor(input, "clamp")
    if min is not None:
        y = where(y < min, min, y)
    if max is not None:
        y = where(y > max, max, y)
    return y
