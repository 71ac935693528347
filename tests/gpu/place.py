"""Arrays on the device, for :mod:`compare`: real CuPy on a GPU, or the stand-in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import cupy as real
import numpy as np

import cupy_on_cpu
import gpu_on_cpu
from compare import Host
from tinyconv.autograd.gpu import settle

try:
    HAS_GPU = real.cuda.runtime.getDeviceCount() > 0
except real.cuda.runtime.CUDARuntimeError:
    HAS_GPU = False
XP: Any = real if HAS_GPU else cupy_on_cpu.module
NAME = real.cuda.runtime.getDeviceProperties(0)["name"].decode() if HAS_GPU else "no GPU: the stand-in of cupy_on_cpu"


class Gpu(Host):
    """The device; ``reads``: a call may look at values. ``sends``: it may send some, such as the indices in a list."""

    kind = XP.ndarray

    def __init__(self, reads: bool = False, sends: bool = True) -> None:
        self.reads, self.sends = reads, sends

    def put(self, array: np.ndarray, layout: str) -> Any:
        there = XP.asarray(array.astype(array.dtype.newbyteorder("="), order="C"))
        if layout == "Fortran order":
            return XP.array(there, order="F")
        if layout == "every second element" and there.ndim:
            wide = XP.zeros((*there.shape[:-1], 2 * there.shape[-1]), there.dtype)
            wide[..., ::2] = there
            return wide[..., ::2]
        if layout == "negative strides":
            return XP.flip(XP.flip(there).copy())
        if layout == "broadcast" and there.ndim and there.shape[0] > 1:
            return XP.broadcast_to(there[:1], there.shape)
        return there

    def get(self, array: Any) -> np.ndarray:
        settle()  # what the engine asked of the values of a legal call must have the answer yes
        return array.get()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Inside, reading is refused: by the stand-in always, by CuPy where it is its own get()."""
        if HAS_GPU:
            from cupy._core.syncdetect import _thread_local  # cupyx.allow_synchronize warns at every use

            _thread_local.allowed = self.reads
            try:
                yield
            finally:
                _thread_local.allowed = True
        else:
            with gpu_on_cpu.watching(*([] if self.reads else ["read"]), *([] if self.sends else ["sent"])):
                yield

    def share(self, a: Any, b: Any) -> bool:
        return bool(XP.shares_memory(a, b))
