"""The device behind cupy_on_cpu: what it has done and may do, its memory, and what CuPy calls ``cupy.cuda``."""

from __future__ import annotations

import gc
import types
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

real: Any = pytest.importorskip("cupy")  # needs no GPU
OutOfMemoryError = real.cuda.memory.OutOfMemoryError
CUDARuntimeError = real.cuda.runtime.CUDARuntimeError


class Refused(AssertionError):
    """The device was read, or was sent values, where a test forbids it."""


class State:
    """What this device has done and may do."""

    def __init__(self) -> None:
        self.forbidden: set[str] = set()
        self.counts = {"read": 0, "sent": 0}
        self.used = self.kept = 0  # bytes of arrays that live, and of those that the pool keeps
        self.limit: int | None = None
        self.later: Exception | None = None
        self.checked = True
        self.devices: int | Exception = 1

    def leave(self, size: int) -> None:
        """Room for so many bytes more, and nothing in the pool."""
        gc.collect()
        self.kept, self.limit = 0, self.used + size


state = State()


def note(what: str) -> None:
    """The device is being read, or is being sent values."""
    state.counts[what] += 1
    if what in state.forbidden:
        raise Refused(f"the device is {what} here")
    if what == "read":
        synchronize()


def synchronize() -> None:
    """Wait for the device: an error of an earlier kernel comes out now, and again at every later wait."""
    if state.later is not None:
        raise state.later


@contextmanager
def watching(*what: str) -> Iterator[None]:
    """Inside, the device must not be 'read', or 'sent' values."""
    before, state.forbidden = state.forbidden, state.forbidden | set(what)
    try:
        yield
    finally:
        state.forbidden = before


# --------------------------------------------------------------------------------------------------
# Memory


class _Block:
    """The memory of one array and its views."""

    def __init__(self, size: int) -> None:
        self.size = 0
        if state.limit is not None and size > state.kept and state.used + size > state.limit:
            raise OutOfMemoryError(size, state.used, state.limit)
        if state.limit is not None and state.used + state.kept + size > state.limit:
            state.kept = 0  # as CuPy's pool, which gives back what it keeps and tries again
        self.size = size
        state.used += size
        state.kept = max(0, state.kept - size)

    def __del__(self) -> None:
        if state is None:  # the interpreter is ending
            return
        state.used -= self.size
        state.kept += self.size


_blocks: weakref.WeakValueDictionary[int, _Block] = weakref.WeakValueDictionary()


def block_of(array: np.ndarray) -> _Block:
    root = array
    while isinstance(root.base, np.ndarray):
        root = root.base
    block = _blocks.get(id(root))
    if block is None:
        block = _blocks[id(root)] = _Block(root.nbytes)
    return block


class MemoryPool:
    """The parts of cupy.cuda.MemoryPool that tell sizes."""

    def used_bytes(self) -> int:
        return state.used

    def free_bytes(self) -> int:
        return state.kept

    def total_bytes(self) -> int:
        return state.used + state.kept

    def get_limit(self) -> int:
        return state.limit or 0

    def free_all_blocks(self) -> None:
        state.kept = 0


# --------------------------------------------------------------------------------------------------
# cupy.cuda


class Device:
    """The only one."""

    def __init__(self, device: int | None = None) -> None:
        self.id = device or 0
        self.compute_capability = "80"  # no 90: the machine code of wgmma.cu cannot be emulated

    def synchronize(self) -> None:
        synchronize()

    @property
    def mem_info(self) -> tuple[int, int]:
        total = state.limit or 1 << 40
        return total - state.used - state.kept, total

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *error: Any) -> None:
        return None


class Stream:
    """Everything has happened already."""

    null: Stream
    ptr = 0

    def synchronize(self) -> None:
        synchronize()


Stream.null = Stream()


def get_device_count() -> int:
    """The devices, or the error of a machine without."""
    if isinstance(state.devices, Exception):
        raise state.devices
    return state.devices


_runtime = dict(
    CUDARuntimeError=CUDARuntimeError,
    getDeviceCount=get_device_count,
    deviceSynchronize=synchronize,
    driverGetVersion=lambda: 12090,
    runtimeGetVersion=lambda: 12090,
    getDeviceProperties=lambda device: {"name": b"cupy_on_cpu", "multiProcessorCount": 132},
    memGetInfo=lambda: Device().mem_info,
)
CUDA = dict(
    Device=Device,
    Stream=Stream,
    MemoryPool=MemoryPool,
    get_current_stream=lambda: Stream.null,
    is_available=lambda: not isinstance(state.devices, Exception) and state.devices > 0,
    memory=types.SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
    driver=types.SimpleNamespace(CUDADriverError=real.cuda.driver.CUDADriverError),
    runtime=types.SimpleNamespace(**_runtime),
    # Its machine code is the source.
    nvrtc=types.SimpleNamespace(
        NVRTCError=real.cuda.nvrtc.NVRTCError,
        createProgram=lambda code, name, headers, names: code,
        compileProgram=lambda program, options: None,
        getCUBIN=str.encode,
        getVersion=lambda: "the source itself",
        getSupportedArchs=lambda: (75, 80),
    ),
)
