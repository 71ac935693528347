"""Comparison and logic, element by element: bools, outside the tape, since they have no gradient."""

from __future__ import annotations

from tinyconv.autograd import Function, Tensor
from tinyconv.autograd.dtypes import is_float
from tinyconv.kernels.arrays import Array, array_module
from tinyconv.ops.operands import Operand, operands


class Compare(Function):
    """y = the array function ``kind`` of a and b, such as less(a, b)"""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def forward(self, a: Array, b: Array) -> Array:
        return getattr(array_module(a, b), self.kind)(a, b)


def _compare(op: str, kind: str, a: Operand, b: Operand) -> Tensor:
    """The operands compared by value, outside the tape."""
    left, right = operands(op, a.detach() if isinstance(a, Tensor) else a, b.detach() if isinstance(b, Tensor) else b)
    y: Tensor = Compare(kind)(left, right)
    return y


def eq(input: Operand, other: Operand) -> Tensor:
    """input == other, element by element"""
    return _compare("eq", "equal", input, other)


def ne(input: Operand, other: Operand) -> Tensor:
    """input != other, element by element"""
    return _compare("ne", "not_equal", input, other)


def lt(input: Operand, other: Operand) -> Tensor:
    """input < other, element by element"""
    return _compare("lt", "less", input, other)


def le(input: Operand, other: Operand) -> Tensor:
    """input <= other, element by element"""
    return _compare("le", "less_equal", input, other)


def gt(input: Operand, other: Operand) -> Tensor:
    """input > other, element by element"""
    return _compare("gt", "greater", input, other)


def ge(input: Operand, other: Operand) -> Tensor:
    """input >= other, element by element"""
    return _compare("ge", "greater_equal", input, other)


def logical_and(input: Operand, other: Operand) -> Tensor:
    """True where both are not zero"""
    return _compare("logical_and", "logical_and", input, other)


def logical_or(input: Operand, other: Operand) -> Tensor:
    """True where one is not zero"""
    return _compare("logical_or", "logical_or", input, other)


def logical_xor(input: Operand, other: Operand) -> Tensor:
    """True where exactly one is not zero"""
    return _compare("logical_xor", "logical_xor", input, other)


def logical_not(input: Tensor) -> Tensor:
    """True where input is zero"""
    return eq(input, False) if input.data.dtype.kind == "b" else eq(input, 0)


def isnan(input: Tensor) -> Tensor:
    """True where input is NaN"""
    return ne(input, input)


def isinf(input: Tensor) -> Tensor:
    """True where input is plus or minus infinity"""
    return logical_or(eq(input, float("inf")), eq(input, float("-inf"))) if is_float(input.dtype) else ne(input, input)


def isfinite(input: Tensor) -> Tensor:
    """True where input is neither NaN nor infinite"""
    return logical_not(logical_or(isnan(input), isinf(input)))
