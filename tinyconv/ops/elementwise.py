"""Operators that work element by element, the derivative beside the value.

Broadcasting stands in one place: operands that need a gradient are expanded to the common shape first, and the
gradient of ``expand`` is a sum. The rest of the file therefore sees equal shapes, or constants.
"""

from __future__ import annotations

import numpy as np

from tinyconv import kernels
from tinyconv.autograd import Function, Tensor
from tinyconv.autograd.dtypes import is_float
from tinyconv.autograd.gpu import one_device, require
from tinyconv.autograd.tensor import Array
from tinyconv.kernels.arrays import array_module
from tinyconv.kernels.elementwise import blockwise
from tinyconv.ops.broadcast import expand
from tinyconv.ops.convert import as_float, as_number, as_tensor, beside, cast
from tinyconv.ops.mixed import in_float32
from tinyconv.ops.operands import Operand, common_shape, operands

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
        return a / b

    def backward(self, g: Tensor) -> tuple[Tensor | None, Tensor | None]:
        a, b = self.saved_inputs
        over_b = div(g, b)
        return over_b if self.needs_grad(0) else None, neg(mul(over_b, div(a, b))) if self.needs_grad(1) else None


class Pow(Function):
    """y = a^b;  dy/da = b a^(b-1) (0 where b = 0), dy/db = a^b log a (0 where a = 0 and b >= 0)"""

    saves = (0, 1)

    def forward(self, a: Array, b: Array) -> Array:
        return a**b

    def backward(self, g: Tensor) -> tuple[Tensor | None, Tensor | None]:
        a, b = self.saved_inputs
        by_a = by_b = None
        if self.needs_grad(0):
            by_a = where(b == 0, 0.0, g * b * pow(a, b - 1))
        if self.needs_grad(1):
            by_b = g * where((a == 0) & (b >= 0), 0.0, pow(a, b) * log(a))
        return by_a, by_b


class _RoundedDiv(Function):
    """y = a / b rounded: piecewise constant, the gradient is zero"""

    def backward(self, g: Tensor) -> tuple[Tensor, Tensor]:
        return zeros_like(g), zeros_like(g)


class FloorDiv(_RoundedDiv):
    """y = floor(a / b), with the quotient's rounding taken out: 1 // 0.1 = 9, since 0.1 is stored a little large"""

    def forward(self, a: Array, b: Array) -> Array:
        return array_module(a, b).floor_divide(a, b)


class TruncDiv(_RoundedDiv):
    """y = trunc(a / b)"""

    def forward(self, a: Array, b: Array) -> Array:
        if a.dtype.kind == "f":
            return array_module(a, b).trunc(a / b)
        return a // b + ((a % b != 0) & ((a < 0) != (b < 0)))  # // rounds down


class Remainder(Function):
    """y = a - b floor(a / b);  dy/da = 1, dy/db = -floor(a / b)"""

    saves = (0, 1)

    def forward(self, a: Array, b: Array) -> Array:
        return array_module(a, b).remainder(a, b)

    def backward(self, g: Tensor) -> tuple[Tensor, Tensor | None]:
        a, b = self.saved_inputs
        return g, neg(mul(g, floor_divide(a, b))) if self.needs_grad(1) else None


class Neg(Function):
    """y = -x"""

    def forward(self, x: Array) -> Array:
        return -x

    def backward(self, g: Tensor) -> Tensor:
        return neg(g)


def _scaled(op: str, b: Tensor, alpha: int | float) -> Tensor:
    """alpha * b in the dtype of b."""
    if alpha == 1:
        return b
    if isinstance(alpha, float) and not is_float(b.data.dtype):
        raise TypeError(f"{op}: alpha must be an int where the result is {b.dtype}, but is {alpha}.")
    return cast(mul(b, alpha), b.data.dtype)


def add(input: Operand, other: Operand, alpha: int | float = 1) -> Tensor:
    """y = input + alpha * other, with broadcasting."""
    a, b = operands("add", input, other)
    return Add()(a, _scaled("add", b, alpha))


def sub(input: Operand, other: Operand, alpha: int | float = 1) -> Tensor:
    """y = input - alpha * other, with broadcasting. Bools raise: use logical_xor."""
    if any(isinstance(t, bool) or isinstance(t, Tensor) and t.data.dtype.kind == "b" for t in (input, other)):
        raise TypeError("sub: bools cannot be subtracted. Use logical_xor, or cast to an integer.")
    a, b = operands("sub", input, other)
    return Sub()(a, _scaled("sub", b, alpha))


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
    a, b = _divisible("div", input, other)
    return FloorDiv()(a, b) if rounding_mode == "floor" else TruncDiv()(a, b)


def _divisible(op: str, input: Operand, other: Operand) -> tuple[Tensor, Tensor]:
    """Two operands, of which the second is not an integer zero."""
    a, b = operands(op, input, other)
    if b.data.dtype.kind == "b":
        raise TypeError(f"{op}: bools cannot be divided with rounding. Cast to an integer.")
    if b.data.dtype.kind in "iu":
        holds = b.data.all() if isinstance(other, Tensor) else bool(np.all(other))
        require(holds, lambda: ValueError(f"{op}: an integer is divided by zero. Use a float tensor to get infinity."))
    return a, b


def floor_divide(input: Operand, other: Operand) -> Tensor:
    """y = floor(input / other); gradient zero."""
    return div(input, other, rounding_mode="floor")


def remainder(input: Operand, other: Operand) -> Tensor:
    """y = input - other * floor(input / other), with the sign of ``other`` as Python's %."""
    return Remainder()(*_divisible("remainder", input, other))


@in_float32
def pow(input: Operand, exponent: Operand) -> Tensor:
    """y = input ^ exponent. An integer to a negative power raises."""
    a, b = operands("pow", input, exponent)
    if a.data.dtype.kind == "b":
        raise TypeError("pow: bools have no powers. Cast one of them to an integer.")
    if a.data.dtype.kind in "iu":
        fault = ValueError("pow: an integer cannot be raised to a negative power. Use a float tensor.")
        require((b.data >= 0).all() if isinstance(exponent, Tensor) else bool(np.all(exponent >= 0)), lambda: fault)
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
        return blockwise(array_module(x).exp, x, cost=1)

    def backward(self, g: Tensor) -> Tensor:
        return g * self.saved_output


class Expm1(Function):
    """y = e^x - 1, exact near 0;  y' = y + 1"""

    saves_output = True

    def forward(self, x: Array) -> Array:
        return blockwise(array_module(x).expm1, x, cost=1)

    def backward(self, g: Tensor) -> Tensor:
        return g * (self.saved_output + 1)


class Log(Function):
    """y = log x;  y' = 1/x"""

    saves = (0,)

    def forward(self, x: Array) -> Array:
        return array_module(x).log(x)

    def backward(self, g: Tensor) -> Tensor:
        (x,) = self.saved_inputs
        return g / x


class Log1p(Function):
    """y = log(1 + x), exact near 0;  y' = 1/(1 + x)"""

    saves = (0,)

    def forward(self, x: Array) -> Array:
        return blockwise(array_module(x).log1p, x, cost=1)

    def backward(self, g: Tensor) -> Tensor:
        (x,) = self.saved_inputs
        return g / (x + 1)


class Sqrt(Function):
    """y = sqrt x;  y' = 1/(2y), infinite at 0"""

    saves_output = True

    def forward(self, x: Array) -> Array:
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
        return array_module(x).sin(x)

    def backward(self, g: Tensor) -> Tensor:
        (x,) = self.saved_inputs
        return g * cos(x)


class Cos(Function):
    """y = cos x;  y' = -sin x"""

    saves = (0,)

    def forward(self, x: Array) -> Array:
        return array_module(x).cos(x)

    def backward(self, g: Tensor) -> Tensor:
        (x,) = self.saved_inputs
        return neg(g * sin(x))


class Tanh(Function):
    """y = tanh x;  y' = 1 - y^2"""

    saves_output = True

    def forward(self, x: Array) -> Array:
        return blockwise(array_module(x).tanh, x, cost=1)

    def backward(self, g: Tensor) -> Tensor:
        y = self.saved_output
        return g * (1 - y * y)


class Sigmoid(Function):
    """y = 1 / (1 + e^-x);  y' = y (1 - y)"""

    saves_output = True

    def forward(self, x: Array) -> Array:
        return kernels.sigmoid(x)

    def backward(self, g: Tensor) -> Tensor:
        y = self.saved_output
        return g * (y * (1 - y))


class _Step(Function):
    """Piecewise constant functions: the gradient is zero."""

    def backward(self, g: Tensor) -> Tensor:
        return zeros_like(g)


class Sign(_Step):
    """y = -1, 0 or 1; 0 for NaN"""

    def forward(self, x: Array) -> Array:
        xp = array_module(x)
        return x.copy() if x.dtype.kind == "b" else xp.where(x == x, xp.sign(x), 0).astype(x.dtype, copy=False)


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


@in_float32
def exp(input: Tensor) -> Tensor:
    """y = e^input"""
    return Exp()(as_float(as_tensor(input, "exp")))


@in_float32
def expm1(input: Tensor) -> Tensor:
    """y = e^input - 1, exact near 0"""
    return Expm1()(as_float(as_tensor(input, "expm1")))


@in_float32
def log(input: Tensor) -> Tensor:
    """y = natural logarithm; -inf at 0, NaN below"""
    return Log()(as_float(as_tensor(input, "log")))


@in_float32
def log1p(input: Tensor) -> Tensor:
    """y = log(1 + input), exact near 0"""
    return Log1p()(as_float(as_tensor(input, "log1p")))


def sqrt(input: Tensor) -> Tensor:
    """y = square root; the gradient at 0 is infinite, as torch's"""
    return Sqrt()(as_float(as_tensor(input, "sqrt")))


@in_float32
def rsqrt(input: Tensor) -> Tensor:
    """y = 1 / sqrt(input)"""
    return reciprocal(sqrt(input))


@in_float32
def reciprocal(input: Tensor) -> Tensor:
    """y = 1 / input"""
    return div(1, as_tensor(input, "reciprocal"))


def square(input: Tensor) -> Tensor:
    """y = input^2; int64 for bools"""
    return cast(input, np.int64) if input.data.dtype.kind == "b" else mul(input, input)


def abs(input: Tensor) -> Tensor:
    """y = |input|; the gradient at 0 is 0"""
    return Abs()(as_number(input, "abs"))


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
    """y = -1, 0 or 1, and 0 for NaN; gradient zero"""
    return Sign()(as_tensor(input, "sign"))


def floor(input: Tensor) -> Tensor:
    """y = the largest integer not above input; gradient zero"""
    return Floor()(as_number(input, "floor"))


def ceil(input: Tensor) -> Tensor:
    """y = the smallest integer not below input; gradient zero"""
    return Ceil()(as_number(input, "ceil"))


def trunc(input: Tensor) -> Tensor:
    """y = input without its fraction; gradient zero"""
    return Trunc()(as_number(input, "trunc"))


def round(input: Tensor) -> Tensor:
    """y = the nearest integer, halves to the even one; gradient zero"""
    return Round()(as_number(input, "round"))


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
    a, b = (beside(t, condition.data) for t in operands("where", input, other))
    one_device("where", condition, a, b)
    shape = common_shape("where", condition.data.shape, a.data.shape, b.data.shape)
    a = expand(a, shape) if a.requires_grad and a.data.shape != shape else a
    b = expand(b, shape) if b.requires_grad and b.data.shape != shape else b
    return Where(condition.data)(a, b)
