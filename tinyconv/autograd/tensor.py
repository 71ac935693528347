"""The bare tensor: an array, its gradient, and the node of the tape that made it.

The operators (``+``, ``.sum()``, ``[...]``, ...) are given to this class by :mod:`tinyconv.methods`, one floor
above the operators; ``tensor.pyi`` beside this file lists them all with their types.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import CodeType
from typing import Any

import numpy as np

from tinyconv.autograd.device import CPU, CUDA, device
from tinyconv.autograd.dtypes import default_float, is_float, supported

Array = Any  # a numpy.ndarray or a cupy.ndarray: the two have no common type


class Place:
    """A line of the caller's code, kept cheaply: the code object and the instruction, looked up only when asked."""

    __slots__ = ("code", "instruction")

    def __init__(self, code: CodeType, instruction: int) -> None:
        self.code, self.instruction = code, instruction

    def __str__(self) -> str:
        line = next(
            (n for start, end, n in self.code.co_lines() if start <= self.instruction < end), self.code.co_firstlineno
        )
        return f"{self.code.co_filename}:{line} in {self.code.co_name}"


_INSIDE = tuple(f"tinyconv.{room}" for room in ("autograd", "ops", "functional", "methods", "nn"))


def callers_place() -> Place:
    """Where the innermost code outside the engine's own rooms is at this moment."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(_INSIDE):
        frame = frame.f_back
    return Place(frame.f_code, frame.f_lasti)


class Version:
    """Counts in-place changes of one piece of memory; shared by a tensor and its views."""

    __slots__ = ("count", "place")

    def __init__(self) -> None:
        self.count = 0
        self.place: Place | None = None

    def __reduce__(self) -> tuple[type[Version], tuple[()]]:
        return Version, ()  # copied or pickled memory starts its own count


class Tensor:
    """An array that can require a gradient. Shares memory with the array that it is given.

    Attributes: ``data`` the array; ``grad`` the accumulated gradient, a Tensor or None; ``grad_fn`` the
    Function that made it, None for a leaf; ``requires_grad``.
    """

    __slots__ = ("data", "requires_grad", "grad", "grad_fn", "output_index", "version", "hooks", "__weakref__")
    __array_priority__ = 1000  # numpy scalars leave an operator to the tensor

    def __init__(self, data: Array, requires_grad: bool = False, dtype: Any = None) -> None:
        if isinstance(data, Tensor):
            data = data.data
        if not hasattr(data, "__cuda_array_interface__"):
            data = _as_numpy(data, dtype)
        elif dtype is not None:
            data = data.astype(supported(np.dtype(dtype)), copy=False)
        if requires_grad and not is_float(data.dtype):
            raise TypeError(f"tensor: only float tensors can require gradients, but this one is {data.dtype}.")
        self.data = data
        self.requires_grad = requires_grad
        self.grad: Tensor | None = None
        self.grad_fn: Any = None
        self.output_index = 0
        self.version = Version()
        self.hooks: list[Callable[[Tensor], Tensor | None]] | None = None

    @staticmethod
    def wrap(data: Array, version: Version | None = None) -> Tensor:
        """A tensor around an array that an operator made: no checks, no conversion."""
        made = Tensor.__new__(Tensor)
        made.data = data
        made.requires_grad = False
        made.grad = None
        made.grad_fn = None
        made.output_index = 0
        made.version = Version() if version is None else version
        made.hooks = None
        return made

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the axes."""
        return self.data.shape

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self.data.ndim

    @property
    def dtype(self) -> np.dtype[Any]:
        """NumPy dtype of the elements."""
        return self.data.dtype

    @property
    def device(self) -> device:
        """'cpu' for a NumPy array, 'cuda' for a CuPy array."""
        return CPU if isinstance(self.data, np.ndarray) else CUDA

    @property
    def is_leaf(self) -> bool:
        """True if no recorded operator made it."""
        return self.grad_fn is None

    def detach(self) -> Tensor:
        """The same memory without the history: a tensor that requires no gradient."""
        return Tensor.wrap(self.data, self.version)

    def changed(self) -> None:
        """Say that ``data`` has been written to. Every in-place method calls it; call it after writing to ``data``
        yourself.
        """
        self.version.count += 1
        self.version.place = callers_place()

    def __len__(self) -> int:
        if self.data.ndim == 0:
            raise TypeError("len: a 0-d tensor has no length.")
        return self.data.shape[0]

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        array = self.detach().cpu().data
        body = np.array2string(array, precision=4, separator=", ", prefix="tensor(", threshold=200, edgeitems=3)
        notes = []
        if array.ndim > 1 and array.size > 16:
            notes.append(f"shape={array.shape}")
        if array.dtype not in (default_float, np.int64, np.bool_):
            notes.append(f"dtype={array.dtype}")
        if self.device != "cpu":
            notes.append(f"device={self.device}")
        if self.grad_fn is not None:
            notes.append(f"grad_fn={self.grad_fn.name}")
        elif self.requires_grad:
            notes.append("requires_grad=True")
        return f"tensor({', '.join([body, *notes])})"


def _as_numpy(data: Array, dtype: Any) -> np.ndarray[Any, Any]:
    """A NumPy array of a supported dtype in native byte order; Python floats become the default float."""
    array = np.asarray(data) if isinstance(data, np.ndarray | np.generic) else np.asarray(_unwrapped(data))
    if dtype is None:
        # Only NumPy's own arrays and scalars say how wide their floats are; Python numbers do not.
        said = hasattr(data, "dtype")
        dtype = supported(array.dtype) if said or array.dtype.kind != "f" else default_float
    return array.astype(supported(np.dtype(dtype)), copy=False)


def _unwrapped(data: Any) -> Any:
    """Lists of tensors as lists of arrays."""
    if isinstance(data, list | tuple):
        return [_unwrapped(item) for item in data]
    array = data.data if isinstance(data, Tensor) else data
    if hasattr(array, "__cuda_array_interface__"):
        raise RuntimeError("tensor: a list holds a tensor on the GPU. Use tinyconv.stack([...]), or item() of each.")
    return array
