"""Arrays as the compiled kernels take them, and memory for their intermediate results."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numba import njit

from tinyconv.kernels.arrays import Array, scratch_limit

_LINE = 64  # bytes of a cache line
_SLACK = 1024  # bytes beyond the end that a kernel may touch: it works on whole vectors, eight at most


def plain(a: Array) -> Array:
    """The array where it is C-contiguous, aligned and writeable, else a copy: a kernel is compiled for one kind."""
    return a if a.flags.carray else np.require(a, requirements=("C", "A", "W"))


def element_strides(a: Array) -> tuple[int, ...]:
    """The strides of an array in elements."""
    return tuple(stride // a.itemsize for stride in a.strides)


class _Kept(threading.local):
    """Buffers that a thread keeps: fresh memory costs a page fault every 4 KiB."""

    def __init__(self) -> None:
        self.buffers: dict[tuple[str, np.dtype[Any]], Array] = {}


_kept = _Kept()


def scratch(name: str, size: int, dtype: np.dtype[Any]) -> Array:
    """A flat array of this thread with whatever is in it, at the beginning of a cache line.

    Some numbers beyond its end may be touched by whole vectors. The same memory comes again under the same ``name``,
    so a name has one user at a time. A thread keeps at most ``scratch_limit()`` bytes a name and dtype.
    """
    wanted = size + _SLACK // dtype.itemsize
    buffer = _kept.buffers.get((name, dtype))
    if buffer is None or buffer.size < wanted:
        raw = np.empty(wanted * dtype.itemsize + _LINE, np.uint8)
        start = -raw.ctypes.data % _LINE
        buffer = raw[start : start + wanted * dtype.itemsize].view(dtype)
        if raw.nbytes <= scratch_limit():
            _kept.buffers[name, dtype] = buffer
    return buffer[:size]


@njit(nogil=True, cache=True, fastmath={"reassoc"})  # the sum is 0 or NaN in any order
def all_finite(a):  # type: ignore[no-untyped-def]
    """Whether a flat array holds no infinity and no NaN."""
    total = a.dtype.type(0)
    for i in range(a.size):
        total += a[i] * 0
    return total == 0
