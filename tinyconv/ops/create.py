"""Making tensors from values, ranges and constants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tinyconv.autograd import Tensor
from tinyconv.autograd.device import device as named
from tinyconv.autograd.dtypes import default_float, is_float, supported
from tinyconv.autograd.gpu import load_cupy
from tinyconv.ops.convert import to
from tinyconv.ops.random import generator_for


def _where(op: str, device: str) -> Any:
    """The array module that makes arrays on a device."""
    return np if named(device) == "cpu" else load_cupy(op)


def tensor(data: Any, dtype: Any = None, requires_grad: bool = False, *, device: str | None = None) -> Tensor:
    """A new tensor with a copy of ``data``: numbers, nested lists, arrays, tensors. Python floats become float32.

    On ``device``, or where the data is.
    """
    made = Tensor(data, dtype=dtype)
    there = made.device if device is None else named(device)
    array = made.data.copy() if made.device == there else to(made, there).data
    return Tensor(array, requires_grad=requires_grad)


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
    return Tensor(load_cupy("from_dlpack").from_dlpack(source))


def _sizes(size: tuple[Any, ...]) -> tuple[int, ...]:
    shape = tuple(size[0]) if len(size) == 1 and isinstance(size[0], Sequence) else size
    if any(isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 0 for n in shape):
        raise ValueError(f"a shape needs ints of at least 0, but is {shape!r}.")
    return shape


def _dtype(dtype: Any) -> np.dtype[Any]:
    return default_float if dtype is None else supported(np.dtype(dtype))


def zeros(*size: int | Sequence[int], dtype: Any = None, requires_grad: bool = False, device: str = "cpu") -> Tensor:
    """Zeros of shape ``size``, float32 by default."""
    return Tensor(_where("zeros", device).zeros(_sizes(size), _dtype(dtype)), requires_grad=requires_grad)


def ones(*size: int | Sequence[int], dtype: Any = None, requires_grad: bool = False, device: str = "cpu") -> Tensor:
    """Ones of shape ``size``, float32 by default."""
    return Tensor(_where("ones", device).ones(_sizes(size), _dtype(dtype)), requires_grad=requires_grad)


def full(
    size: Sequence[int],
    fill_value: bool | int | float,
    dtype: Any = None,
    requires_grad: bool = False,
    *,
    device: str = "cpu",
) -> Tensor:
    """``fill_value`` everywhere; its kind decides the dtype where none is given."""
    kind = Tensor(fill_value).dtype if dtype is None else _dtype(dtype)
    return Tensor(_where("full", device).full(_sizes((size,)), fill_value, kind), requires_grad=requires_grad)


def arange(
    start: int | float, end: int | float | None = None, step: int | float = 1, dtype: Any = None, *, device: str = "cpu"
) -> Tensor:
    """start, start + step, ... below ``end``; arange(n) counts from 0. int64 for ints, float32 for floats."""
    start, end = (0, start) if end is None else (start, end)
    if step == 0 or (end - start) * step < 0:
        raise ValueError(f"arange: no steps of {step} lead from {start} to {end}.")
    values = _where("arange", device).arange(start, end, step)
    return Tensor(values.astype(default_float if dtype is None and values.dtype.kind == "f" else dtype or values.dtype))


def linspace(start: float, end: float, steps: int, dtype: Any = None, *, device: str = "cpu") -> Tensor:
    """``steps`` values at equal distances from ``start`` to ``end``, both included."""
    return Tensor(_where("linspace", device).linspace(start, end, steps).astype(_dtype(dtype)))


def eye(n: int, m: int | None = None, dtype: Any = None, *, device: str = "cpu") -> Tensor:
    """The identity matrix of n rows and m (or n) columns."""
    return Tensor(_where("eye", device).eye(n, m, dtype=_dtype(dtype)))


def rand(
    *size: int | Sequence[int],
    generator: np.random.Generator | None = None,
    dtype: Any = None,
    requires_grad: bool = False,
    device: str = "cpu",
) -> Tensor:
    """Values of shape ``size`` from U(0, 1), 1 excluded; a seed gives the same ones on every device.

    TypeError for a dtype that is no float.
    """
    values = generator_for("rand", generator).random(_sizes(size))
    return _drawn("rand", values, dtype, requires_grad, device)


def randn(
    *size: int | Sequence[int],
    generator: np.random.Generator | None = None,
    dtype: Any = None,
    requires_grad: bool = False,
    device: str = "cpu",
) -> Tensor:
    """Values of shape ``size`` from N(0, 1); a seed gives the same ones on every device.

    TypeError for a dtype that is no float.
    """
    values = generator_for("randn", generator).standard_normal(_sizes(size))
    return _drawn("randn", values, dtype, requires_grad, device)


def _drawn(op: str, values: Any, dtype: Any, requires_grad: bool, device: str) -> Tensor:
    """What was drawn in float64 on the CPU, in ``dtype`` on ``device``."""
    kind = _dtype(dtype)
    if not is_float(kind):
        raise TypeError(f"{op}: dtype must be a float, but is {kind}.")
    made = np.asarray(values).astype(kind)
    if op == "rand":  # 1 - 2^-53 must not be rounded up to 1
        made = np.minimum(made, np.nextafter(kind.type(1), kind.type(0)))
    return Tensor(to(Tensor(made), device).data, requires_grad=requires_grad)
