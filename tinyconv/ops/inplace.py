"""Changing a tensor's memory, outside the tape: the version count goes up, so that a gradient that needed the
old values says so.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyconv.autograd import Tensor
from tinyconv.autograd.gpu import one_device
from tinyconv.autograd.mode import switches
from tinyconv.autograd.tensor import Array
from tinyconv.kernels.arrays import array_module
from tinyconv.ops.convert import as_tensor, beside, to
from tinyconv.ops.operands import Operand
from tinyconv.ops.shape import index_keys


def _writable(op: str, input: Tensor) -> Array:
    if switches.recording and input.requires_grad:
        raise RuntimeError(
            f"{op}: this tensor requires a gradient, and the tape does not follow in-place changes. "
            f"Make a new tensor (x = x + 1), or change it inside no_grad()."
        )
    return input.data


def _value(op: str, input: Tensor, other: Any) -> Any:
    """What is put in, as an array on the device of the input or a number."""
    if isinstance(other, Tensor):
        if switches.recording and other.requires_grad:
            raise RuntimeError(
                f"{op}: the value requires a gradient, which an in-place change would lose. Use where or cat."
            )
        other = beside(other, input.data).data
    one_device(op, input, other)
    return other


def _arithmetic(op: str, name: str, input: Tensor, other: Operand) -> Tensor:
    array = _writable(op, input)
    value = _value(op, input, other)
    try:
        getattr(array_module(array), name)(array, value, out=array, casting="same_kind")
    except (TypeError, ValueError) as error:
        kind = value if hasattr(value, "dtype") else np.asarray(value)
        raise (TypeError if isinstance(error, TypeError) else ValueError)(
            f"{op}: the result of {kind.shape} {kind.dtype} with the tensor's {array.shape} "
            f"{array.dtype} cannot be put back into it. Make a new tensor instead."
        ) from None
    input.changed()
    return input


def add_(input: Tensor, other: Operand) -> Tensor:
    """input += other, in place."""
    return _arithmetic("add_", "add", input, other)


def sub_(input: Tensor, other: Operand) -> Tensor:
    """input -= other, in place."""
    return _arithmetic("sub_", "subtract", input, other)


def mul_(input: Tensor, other: Operand) -> Tensor:
    """input *= other, in place."""
    return _arithmetic("mul_", "multiply", input, other)


def div_(input: Tensor, other: Operand) -> Tensor:
    """input /= other, in place."""
    return _arithmetic("div_", "divide", input, other)


def copy_(input: Tensor, src: Operand) -> Tensor:
    """input = src element by element, in place; src broadcasts, is cast, and may be on another device."""
    array = _writable("copy_", input)
    if isinstance(src, Tensor | np.ndarray):
        src = to(as_tensor(src), input.device)
    array[...] = _value("copy_", input, src)
    input.changed()
    return input


def fill_(input: Tensor, value: bool | int | float) -> Tensor:
    """Every element = value, in place."""
    return copy_(input, value)


def zero_(input: Tensor) -> Tensor:
    """Every element = 0, in place."""
    return copy_(input, 0)


def setitem(input: Tensor, key: Any, value: Operand) -> None:
    """input[key] = value, in place."""
    array = _writable("setitem", input)
    try:
        *views, last = index_keys(key, array)
        for each in views:
            array = array[each]
        array[last] = _value("setitem", input, value)
    except IndexError as error:
        raise IndexError(f"setitem: {error} (the tensor has shape {input.shape}).") from None
    input.changed()
