"""What the array kernels share: the array module, dtypes, and the limit on scratch memory."""

from __future__ import annotations

import sys
import weakref
from typing import Any

import numpy as np

Array = Any  # numpy.ndarray or cupy.ndarray

_CPU_LIMIT, _GPU_LIMIT = 4 << 20, 256 << 20  # bytes
_scratch_limit: int | None = None  # what was asked for


def array_module(*arrays: object) -> Any:
    """``cupy`` if one of the arrays is a CuPy array, else ``numpy``. Never imports CuPy."""
    cupy = sys.modules.get("cupy")
    if cupy is not None and any(isinstance(a, cupy.ndarray) for a in arrays):
        return cupy
    return np


def moved(array: Array, like: Array) -> Array:
    """``array`` on the device of ``like``: itself, or a copy there."""
    if isinstance(array, np.ndarray):
        return array if isinstance(like, np.ndarray) else array_module(like).asarray(array)
    return array.get() if isinstance(like, np.ndarray) else array


def number(value: bool | int | float, dtype: np.dtype[Any], like: Array) -> Array:
    """A 0-d array of one number on the device of ``like``; nothing is copied to a GPU, its kernel takes the number."""
    try:
        host = np.asarray(value, dtype=dtype)
    except OverflowError:  # -1 as a uint8 is 255, as in C
        host = np.asarray(value).astype(dtype)
    return host if isinstance(like, np.ndarray) else array_module(like).full((), host[()], dtype)


_tables: dict[int, Array] = {}


def table(host: np.ndarray[Any, Any], like: Array) -> Array:
    """A NumPy array that nobody changes, on the device of ``like``; copied there once, as long as it lives."""
    if isinstance(like, np.ndarray):
        return host
    if id(host) not in _tables:
        weakref.finalize(host, _tables.pop, id(host), None)
        _tables[id(host)] = array_module(like).asarray(host)
    return _tables[id(host)]


def native(a: Array) -> Array:
    """The same values in the machine's byte order; a copy only where the order differs."""
    return a if a.dtype.isnative else a.astype(a.dtype.newbyteorder("="))


def sum_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype that sums of ``dtype`` run in: its own, but float32 for float16."""
    return np.dtype(np.float32) if dtype == np.float16 else np.dtype(dtype)


def scratch_limit(xp: Any = np) -> int:
    """The bytes that one kernel may use for its columns, in arrays of the module ``xp``: ``numpy`` or ``cupy``."""
    return _scratch_limit or (_CPU_LIMIT if xp is np else _GPU_LIMIT)


def set_scratch_limit(limit: int | None) -> None:
    """Let each kernel use at most ``limit`` bytes for its columns, for the whole process; None is the default again.

    One output row of one image is the least a kernel works on, so a smaller limit means that row; of Winograd's
    algorithms on a GPU, where the limit is one of transformed pixels and outputs, it means eight tiles. The default
    is 4 MiB for NumPy's arrays, which keeps a tile of columns in a CPU's last cache, and 256 MiB for CuPy's: a matrix
    product needs thousands of columns to occupy a whole GPU.
    """
    global _scratch_limit
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int)):
        raise TypeError(f"set_scratch_limit: limit must be an int, a number of bytes, or None, but is {limit!r}.")
    if limit is not None and limit < 1:
        raise ValueError(f"set_scratch_limit: limit must be at least 1 byte, but is {limit}.")
    _scratch_limit = limit
