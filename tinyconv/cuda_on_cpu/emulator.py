"""`RawKernel`: a CUDA kernel that takes NumPy arrays."""

from __future__ import annotations

import ctypes
import re
import threading
from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyconv.cuda_on_cpu import compiler
from tinyconv.cuda_on_cpu.signature import Parameter, kernels_of

MAX_THREADS = 1024  # of a block
MAX_SHARED = 227 << 10  # bytes of a block, of the largest GPUs
#: Bytes without an array around each one, so that an access beside it hits no other.
REDZONE = 1 << 20
_DYNAMIC = re.compile(r"extern\s+__shared__\s+(?:__align__\s*\(\s*\d+\s*\)\s+)?([\w ]+?)\s+(\w+)\s*\[\s*\]\s*;")
_turn = threading.Lock()  # the runtime keeps one launch


class KernelError(RuntimeError):
    """A kernel did what would be undefined on a GPU. ``kernel``, ``block``, ``thread``, ``line`` say where."""

    def __init__(
        self, what: str, kernel: str, block: tuple[int, ...], thread: tuple[int, ...], line: int | None, code: str
    ) -> None:
        self.kernel, self.block, self.thread, self.line = kernel, block, thread, line
        place = "" if line is None else f", line {line}"
        text = "" if line is None else f"\n    {code.splitlines()[line - 1].strip()}"
        super().__init__(f"kernel {kernel}, block {block}, thread {thread}{place}: {what}{text}")


class _Argument(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("start", ctypes.c_void_p),
        ("bytes", ctypes.c_size_t),
        ("item", ctypes.c_size_t),
        ("constant", ctypes.c_int),
        ("written", ctypes.c_void_p),
    )


class _Report(ctypes.Structure):
    _fields_ = (
        ("message", ctypes.c_char_p),
        ("printed", ctypes.c_char_p),
        ("block", ctypes.c_uint * 3),
        ("thread", ctypes.c_uint * 3),
        ("address", ctypes.c_size_t),
        ("line", ctypes.c_int),
    )


class RawKernel:
    """The ``__global__`` function ``name`` of ``code``, called as cupy's: kernel(grid, block, args, shared_mem=0).

    ``options``: of the compiler, e.g. ("-DTILE=16",). ``checked``: watch every access to memory, which takes longer.
    args: C-contiguous arrays of the pointer's type; numbers of exactly the parameter's type, np.int32(n) for an int; a
    struct as a NumPy array of one element, with the struct's members as fields.
    TypeError, ValueError: arguments that a GPU would misread; sizes of a launch that it would refuse. KernelError: what
    the kernel did wrong; the arrays then have what was written before. CompileError, NoCompiler.

    ``unwritten``: after a checked launch, of each array that is not const the flat indices that no thread wrote; arrays
    that were written everywhere are not named.
    """

    def __init__(self, code: str, name: str, options: Sequence[str] = (), checked: bool = True) -> None:
        known = kernels_of(code)
        if name not in known:
            raise ValueError(f"RawKernel: the source has no __global__ function {name}; it has {', '.join(known)}.")
        self.name, self.parameters, self.checked = name, known[name], checked
        self._known = known
        self.unwritten: dict[str, NDArray[np.int64]] = {}
        self.code, self.options = code, tuple(options)
        self._library: Any = None

    def compile(self) -> None:
        """Now, and not at the first call."""
        if self._library is None:
            self._path = compiler.kernels(_for_cpu(self.code, self._known), self.options, self.checked)
            self._library = ctypes.CDLL(str(self._path))
            self._runtime = ctypes.CDLL(str(compiler.runtime()))

    def __call__(self, grid: Sequence[int], block: Sequence[int], args: Sequence[Any], *, shared_mem: int = 0) -> None:
        blocks, threads = _sizes(self.name, "grid", grid), _sizes(self.name, "block", block)
        if prod(threads) > MAX_THREADS:
            raise ValueError(f"{self.name}: a block has at most {MAX_THREADS} threads, but {threads} are asked for.")
        if not 0 <= shared_mem <= MAX_SHARED:
            raise ValueError(f"{self.name}: shared_mem must lie in [0, {MAX_SHARED}] bytes, but is {shared_mem}.")
        _check_arguments(self.name, self.parameters, args)
        self.compile()
        with _turn:
            self._launch(blocks, threads, args, shared_mem)

    def _launch(self, grid: tuple[int, ...], block: tuple[int, ...], args: Sequence[Any], shared_mem: int) -> None:
        arrays = [(p, arg) for p, arg in zip(self.parameters, args) if p.pointer]
        arena, places = _arena([array for _, array in arrays])
        written = {places[id(array)] for p, array in arrays if not p.constant}  # maybe also through a const pointer
        reached = {p.name: np.zeros(a.size, bool) for p, a in arrays if self.checked and not p.constant}
        described = (_Argument * len(arrays))(
            *(
                _Argument(
                    p.name.encode(),
                    arena.ctypes.data + places[id(a)],
                    a.nbytes,
                    a.itemsize,
                    places[id(a)] not in written,
                    reached[p.name].ctypes.data if p.name in reached else None,
                )
                for p, a in arrays
            )
        )
        values = [  # what each argument's pointer or number is, in memory of its own
            np.array(arena.ctypes.data + places[id(arg)], np.uintp) if p.pointer else np.array(arg)
            for p, arg in zip(self.parameters, args)
        ]
        pointers = (ctypes.c_void_p * max(len(values), 1))(*(value.ctypes.data for value in values))
        shared, size = ctypes.c_void_p(), ctypes.c_size_t()
        self._library.cuda_on_cpu_shared(ctypes.byref(shared), ctypes.byref(size))
        dynamic = np.empty(shared_mem + 32, np.uint8)
        aligned = -dynamic.ctypes.data % 16
        report = _Report()
        self._runtime.cuda_on_cpu_launch(
            ctypes.cast(self._library[f"cuda_on_cpu_call_{self.name}"], ctypes.c_void_p), pointers,
            (ctypes.c_uint * 3)(*grid), (ctypes.c_uint * 3)(*block), described, len(arrays),
            shared, size, ctypes.c_void_p(dynamic.ctypes.data + aligned), ctypes.c_size_t(shared_mem),
            int(self.checked), str(self._path).encode(), ctypes.byref(report),
        )  # fmt: skip
        self.unwritten = {name: np.flatnonzero(~seen) for name, seen in reached.items() if not seen.all()}
        for parameter, array in arrays:
            if not parameter.constant:
                begin = places[id(array)]
                array.reshape(-1).view(np.uint8)[:] = arena[begin : begin + array.nbytes] if array.nbytes else []
        if report.printed:
            print(report.printed.decode(errors="replace"), end="")
        if report.message:
            line = abs(report.line) or compiler.line_of(self._path, report.address, _FILE)
            raise KernelError(
                report.message.decode(), self.name, tuple(report.block), tuple(report.thread), line, self.code
            )


_FILE = "kernel.cu"


def _for_cpu(code: str, kernels: dict[str, tuple[Parameter, ...]]) -> str:
    """The source as C++, and functions by which Python reaches it: one library for all kernels of a source."""
    code = _DYNAMIC.sub(r"\1* const \2 = (\1*)cuda_on_cpu_dynamic_shared;", code)
    calls = []
    for name, parameters in kernels.items():
        values = (
            f"*({'const ' if p.constant else ''}{p.type}{'*' if p.pointer else ''}*)a[{i}]"
            for i, p in enumerate(parameters)
        )
        unwatched = '__attribute__((no_sanitize("thread")))'
        calls.append(f"{unwatched} void cuda_on_cpu_call_{name}(void** a) {{ {name}({', '.join(values)}); }}")
    lines = "\n".join(calls)
    return f"""#line 1 "{_FILE}"
{code}
#line 1 "calls"
extern "C" {{
extern char __start_cuda_shared[] __attribute__((weak, visibility("hidden")));
extern char __stop_cuda_shared[] __attribute__((weak, visibility("hidden")));
void cuda_on_cpu_shared(char** start, size_t* size) {{
    *start = __start_cuda_shared;
    *size = __stop_cuda_shared - __start_cuda_shared;
}}
{lines}
}}
"""


def _sizes(kernel: str, what: str, given: Sequence[int]) -> tuple[int, ...]:
    sizes = tuple(int(n) for n in given)
    if not 1 <= len(sizes) <= 3 or min(sizes) < 1:
        raise ValueError(f"{kernel}: {what} must be one to three positive numbers, but is {tuple(given)}.")
    return (*sizes, 1, 1)[:3]


def _check_arguments(kernel: str, parameters: tuple[Parameter, ...], args: Sequence[Any]) -> None:
    if len(args) != len(parameters):
        names = ", ".join(p.name for p in parameters)
        raise TypeError(f"{kernel}: takes {len(parameters)} arguments ({names}), but {len(args)} were given.")
    for p, arg in zip(parameters, args):
        if p.pointer:
            if not isinstance(arg, np.ndarray) or arg.dtype != p.dtype:
                found = f"{arg.dtype} array" if isinstance(arg, np.ndarray) else type(arg).__name__
                raise TypeError(f"{kernel}: {p.name} must be an array of {p.dtype} for {p.type}*, but is a {found}.")
            if not arg.flags.c_contiguous:
                raise ValueError(
                    f"{kernel}: {p.name} must be C-contiguous, but has the strides {arg.strides} for its shape "
                    f"{arg.shape}: a kernel sees memory, not strides. Call numpy.ascontiguousarray."
                )
            if not p.constant and not arg.flags.writeable:
                raise ValueError(f"{kernel}: {p.name} is written to, but the array is read-only.")
        elif p.dtype.names is not None:
            if not isinstance(arg, np.ndarray) or arg.dtype != p.dtype or arg.size != 1:
                raise TypeError(
                    f"{kernel}: {p.name} must be a numpy.ndarray of one element for the struct {p.type}, of the "
                    f"dtype {p.dtype}, but is {arg!r}."
                )
        elif not isinstance(arg, np.generic) or arg.dtype != p.dtype:
            raise TypeError(
                f"{kernel}: {p.name} must be a {p.dtype.type.__name__} for {p.type}, but is {arg!r} of type "
                f"{type(arg).__name__}, which a GPU would read as other bits. Write numpy.{p.dtype.type.__name__}(...)."
            )


def _arena(arrays: list[NDArray[Any]]) -> tuple[NDArray[np.uint8], dict[int, int]]:
    """(memory, id of an array -> its place): copies of the arrays far from each other, with NaN or -1 between them.

    An array begins as many bytes beyond a multiple of 16 as it does in its own memory: a view may be misaligned for
    vectors. Two arguments that are the same memory have the same place. ValueError: two that overlap otherwise.
    """
    spans: dict[tuple[int, int], int] = {}
    places, size = {}, REDZONE
    for array in arrays:
        span = (array.ctypes.data, array.nbytes)
        for other, length in spans:
            if array.nbytes and other < span[0] + span[1] and span[0] < other + length and (other, length) != span:
                raise ValueError("cuda_on_cpu: two arguments overlap without being the same array.")
        if span not in spans:
            spans[span] = size + span[0] % 16
            size += -(-array.nbytes // 256) * 256 + REDZONE
        places[id(array)] = spans[span]
    raw = np.empty(size + 256, np.uint8)  # pages that nobody touches cost nothing
    arena = raw[-raw.ctypes.data % 256 :]
    for array in arrays:
        start = places[id(array)]
        arena[start : start + array.nbytes] = array.reshape(-1).view(np.uint8) if array.nbytes else []
    return arena, places
