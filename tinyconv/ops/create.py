"""Making tensors from values, ranges and constants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tinyconv.autograd import Function, Tensor
from tinyconv.autograd.dtypes import default_float, supported
from tinyconv.autograd.tensor import Array
from tinyconv.ops.convert import cast


def tensor(data: Any, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """A new tensor with a copy of ``data``: numbers, nested lists, arrays, tensors. Python floats become float32."""
    made = Tensor(data, dtype=dtype)
    return Tensor(made.data.copy(), requires_grad=requires_grad)


def from_numpy(array: np.ndarray[Any, Any]) -> Tensor:
    """A tensor that shares the memory of a NumPy array."""
    if not isinstance(array, np.ndarray):
        raise TypeError(f"from_numpy: needs a numpy.ndarray, but got {type(array).__name__}. Use tinyconv.tensor(...).")
    return Tensor(array)


def from_dlpack(source: Any) -> Tensor:
    """A tensor that shares memory with any object that speaks DLPack, such as a torch or a cupy array."""
    kind, _ = source.__dlpack_device__()
    if int(kind) == 1:  # kDLCPU
        return Tensor(np.from_dlpack(source))
    return Tensor(_cupy("from_dlpack").from_dlpack(source))


def _sizes(size: tuple[Any, ...]) -> tuple[int, ...]:
    shape = tuple(size[0]) if len(size) == 1 and isinstance(size[0], Sequence) else size
    if any(isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 0 for n in shape):
        raise ValueError(f"a shape needs ints of at least 0, but is {shape!r}.")
    return shape


def _dtype(dtype: Any) -> np.dtype[Any]:
    return default_float if dtype is None else supported(np.dtype(dtype))


def zeros(*size: int | Sequence[int], dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """Zeros of shape ``size``, float32 by default."""
    return Tensor(np.zeros(_sizes(size), _dtype(dtype)), requires_grad=requires_grad)


def ones(*size: int | Sequence[int], dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """Ones of shape ``size``, float32 by default."""
    return Tensor(np.ones(_sizes(size), _dtype(dtype)), requires_grad=requires_grad)


def full(size: Sequence[int], fill_value: bool | int | float, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """``fill_value`` everywhere; its kind decides the dtype where none is given."""
    kind = Tensor(fill_value).dtype if dtype is None else _dtype(dtype)
    return Tensor(np.full(_sizes((size,)), fill_value, kind), requires_grad=requires_grad)


def arange(start: int | float, end: int | float | None = None, step: int | float = 1, dtype: Any = None) -> Tensor:
    """start, start + step, ... below ``end``; arange(n) counts from 0. int64 for ints, float32 for floats."""
    start, end = (0, start) if end is None else (start, end)
    if step == 0 or (end - start) * step < 0:
        raise ValueError(f"arange: no steps of {step} lead from {start} to {end}.")
    values = np.arange(start, end, step)
    return Tensor(values.astype(default_float if dtype is None and values.dtype.kind == "f" else dtype or values.dtype))


def linspace(start: float, end: float, steps: int, dtype: Any = None) -> Tensor:
    """``steps`` values at equal distances from ``start`` to ``end``, both included."""
    return Tensor(np.linspace(start, end, steps).astype(_dtype(dtype)))


def eye(n: int, m: int | None = None, dtype: Any = None) -> Tensor:
    """The identity matrix of n rows and m (or n) columns."""
    return Tensor(np.eye(n, m, dtype=_dtype(dtype)))


# --------------------------------------------------------------------------------------------------
# Devices


def _cupy(op: str) -> Any:
    """CuPy, imported at the first use of a GPU; a sentence that says what is missing where it cannot be had."""
    try:
        import cupy
    except ImportError:
        raise RuntimeError(f"{op}: a GPU needs CuPy. Install it with: pip install 'tinyconv[gpu]'.") from None
    try:
        cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise RuntimeError(f"{op}: CuPy finds no usable GPU ({error}). Stay on the CPU, or check the driver.") from None
    return cupy


class ToDevice(Function):
    """The same values in the memory of another device."""

    def __init__(self, device: str) -> None:
        self.device = device

    def forward(self, x: Array) -> Array:
        self.source = "cpu" if isinstance(x, np.ndarray) else "cuda"
        return x.get() if self.device == "cpu" else _cupy("to").asarray(x)

    def backward(self, g: Tensor) -> Tensor:
        return ToDevice(self.source)(g)


def to(input: Tensor, target: Any) -> Tensor:
    """x on the device 'cpu' or 'cuda', or in another dtype; x itself where nothing changes."""
    if target in ("cpu", "cuda"):
        return input if input.device == target else ToDevice(target)(input)
    if isinstance(target, Tensor):
        return to(cast(input, target.dtype), target.device)
    try:
        dtype = np.dtype(target)
    except TypeError:
        raise ValueError(f"to: the target must be 'cpu', 'cuda' or a dtype, but is {target!r}.") from None
    return cast(input, supported(dtype))
