"""Turning values into tensors, and tensors into tensors of another dtype or place."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyconv.autograd import Function, Tensor
from tinyconv.autograd.device import device as named
from tinyconv.autograd.dtypes import default_float, is_float, promote, supported
from tinyconv.autograd.gpu import load_cupy, settle
from tinyconv.autograd.tensor import Array
from tinyconv.kernels.arrays import native


def as_tensor(value: Any, op: str = "as_tensor", name: str = "input") -> Tensor:
    """``value`` if it is a Tensor, a Tensor that shares the memory of an array, else a TypeError that names the
    argument.
    """
    if isinstance(value, Tensor):
        return value
    if isinstance(value, np.ndarray | np.generic) or hasattr(value, "__cuda_array_interface__"):
        return Tensor(value)
    raise TypeError(
        f"{op}: {name} must be a Tensor or an array, but is {type(value).__name__}. Use tinyconv.tensor(...)."
    )


def as_number(value: Any, op: str) -> Tensor:
    """:func:`as_tensor`, or a TypeError for bools."""
    x = as_tensor(value, op)
    if x.data.dtype.kind == "b":
        raise TypeError(f"{op}: input must be numbers, but is bool. Cast it with x.to(tinyconv.int64).")
    return x


def as_float(x: Tensor) -> Tensor:
    """``x``, or its values in the default float where it holds integers or bools, as torch's exp, sqrt, ...

    take them.
    """
    return x if is_float(x.data.dtype) else cast(x, default_float)


class Cast(Function):
    """y = x in another dtype; the gradient returns in the dtype of x."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self.dtype = dtype

    def forward(self, x: Array) -> Array:
        self.source = x.dtype
        return x.astype(self.dtype)

    def backward(self, g: Tensor) -> Tensor:
        return cast(g, self.source)


def cast(x: Tensor, dtype: Any) -> Tensor:
    """x in another dtype; x itself where it has it already."""
    dtype = np.dtype(dtype)
    return x if x.data.dtype == dtype else Cast(dtype)(x)


class ToDevice(Function):
    """The same values in the memory of another device."""

    def __init__(self, device: str) -> None:
        self.device = device

    def forward(self, x: Array) -> Array:
        self.source = "cpu" if isinstance(x, np.ndarray) else "cuda"
        if self.device == "cpu":
            settle()
            return x.get()
        return load_cupy("to").asarray(native(x))

    def backward(self, g: Tensor) -> Tensor:
        return ToDevice(self.source)(g)


def to(input: Tensor, *targets: Any, device: str | None = None, dtype: Any = None) -> Tensor:
    """x on the device 'cpu' or 'cuda', in another dtype, or both; x itself where nothing changes.

    A target is a device, a dtype, or a tensor that has the device and the dtype wanted.
    """
    place, kind = read_targets("to", targets, device, dtype)
    y = input if kind is None else cast(input, kind)
    if place is None or y.device == place:
        return y
    moved: Tensor = ToDevice(place)(y)
    return moved


def read_targets(
    op: str, targets: tuple[Any, ...], device: str | None, dtype: Any
) -> tuple[named | None, np.dtype[Any] | None]:
    """The device and the dtype that the arguments of ``to`` name, or None."""
    for target in targets:
        if isinstance(target, Tensor):
            device, dtype = target.device, target.dtype
        elif isinstance(target, str) and target.partition(":")[0] in ("cpu", "cuda"):
            device = target
        else:
            dtype = target
    try:
        kind = None if dtype is None else np.dtype(dtype)
    except TypeError:
        raise ValueError(f"{op}: the target must be 'cpu', 'cuda' or a dtype, but is {dtype!r}.") from None
    return None if device is None else named(device), None if kind is None else supported(kind)


def cpu(input: Tensor) -> Tensor:
    """x.to('cpu')"""
    return to(input, "cpu")


def cuda(input: Tensor) -> Tensor:
    """x.to('cuda'). RuntimeError where CuPy, a driver or a GPU is missing."""
    return to(input, "cuda")


def beside(t: Tensor, like: Array) -> Tensor:
    """A 0-d tensor on the CPU counts as a number, and goes where ``like`` is; others stay."""
    on_cpu = isinstance(t.data, np.ndarray) and hasattr(like, "__cuda_array_interface__")
    return ToDevice("cuda")(t) if on_cpu and t.ndim == 0 else t


class Clone(Function):
    """y = a copy of x."""

    def forward(self, x: Array) -> Array:
        return x.copy()

    def backward(self, g: Tensor) -> Tensor:
        return g


def clone(x: Tensor) -> Tensor:
    """A copy of x with memory of its own, still in the graph."""
    return Clone()(x)


def common_dtype(tensors: list[Tensor]) -> np.dtype[Any]:
    """Dtype of a result that holds elements of all ``tensors``, as ``cat`` and ``stack`` make."""
    dtype = tensors[0].data.dtype
    for t in tensors[1:]:
        dtype = promote(dtype, t.data.dtype)
    return dtype
