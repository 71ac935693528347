"""One launcher for all CUDA kernels: CuPy's arrays go to the GPU, NumPy's to the emulator, by the same host code."""

from __future__ import annotations

import hashlib
import os
import re
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from tinyconv.cuda_on_cpu import Parameter, RawKernel, compiler, kernels_of
from tinyconv.geometry import Geometry
from tinyconv.kernels.arrays import Array, array_module

HERE = Path(__file__).parent
THREADS = 128  # of a block
MOST_BLOCKS = 65535  # on the axes y and z of a grid
PLANES = 8  # of threads.h

OPTIONS = ("--std=c++17",)  # of the compiler on a GPU
HOPPER = ("wgmma.cu",)  # what is compiled for sm_90a, and no other

#: What a kernel's source calls REAL, by the dtype of the first array; float where that has no numbers to compute with.
REALS = {np.dtype(np.float32): "float", np.dtype(np.float64): "double"}

#: What it calls INDEX, a number of elements: a GPU divides 32 bits several times faster, and few arrays need more.
INDEX, WIDE_INDEX = "unsigned", "unsigned long long"
_NARROW = 1 << 31  # elements of an array, below which INDEX does

Constants = tuple[tuple[str, int], ...]

_INCLUDE = re.compile(r'^#include "(\w+\.h)"$', re.MULTILINE)


def source(file: str, dtype: np.dtype[Any], constants: Constants = (), index: str = INDEX) -> str:
    """The source of kernels for arrays of ``dtype``: ``const int NAME = value;`` of the constants, window.h, and the
    file with the headers that it includes in place.
    """
    named = "".join(f"const int {name} = {value};\n" for name, value in constants)
    text = f"{_text('window.h')}\n{_text(file)}"
    return named + text.replace("REAL", REALS.get(dtype, "float")).replace("INDEX", index)


def _text(file: str) -> str:
    return _INCLUDE.sub(lambda found: _text(found[1]), (HERE / file).read_text(encoding="utf-8"))


@cache
def _kernel(
    file: str, name: str, dtype: np.dtype[Any], constants: Constants, index: str, on_gpu: bool
) -> tuple[Any, tuple[Parameter, ...]]:
    """The kernel and its parameters; compiled at its first launch, and kept on disk by either compiler."""
    code = source(file, dtype, constants, index)
    parameters = kernels_of(code)[name]
    if not on_gpu:
        return RawKernel(code, name), parameters
    return _module(code, file in HOPPER).get_function(name), parameters


@cache
def _module(code: str, hopper: bool) -> Any:
    """The machine code of all kernels of a source, ready for this GPU."""
    import cupy

    capability = cupy.cuda.Device().compute_capability  # "80", "90", ...
    return cupy.RawModule(path=str(machine_code(cupy.cuda.nvrtc, code, f"{capability}a" if hopper else capability)))


def machine_code(nvrtc: Any, code: str, architecture: str) -> Path:
    """What NVIDIA's compiler makes of a source for an architecture such as '90', in the user's cache.

    CuPy's RawKernel would compile a source once for each of its kernels, flush the smallest numbers to zero, which
    PyTorch does not, and knows no '90a'. For a GPU that is newer than the compiler: PTX, which the driver translates.
    """
    known = [n for n in nvrtc.getSupportedArchs() if n <= int(architecture.rstrip("a"))]
    exact = int(architecture.rstrip("a")) in known
    options = (*OPTIONS, f"-arch=sm_{architecture}" if exact else f"-arch=compute_{max(known)}")
    key = hashlib.sha256(f"{nvrtc.getVersion()} {options} {code}".encode()).hexdigest()[:20]
    target = compiler.folder() / f"cuda_{key}.{'cubin' if exact else 'ptx'}"
    if not target.exists():
        program = nvrtc.createProgram(code, "kernels.cu", (), ())
        try:
            nvrtc.compileProgram(program, options)
        except nvrtc.NVRTCError as error:
            raise RuntimeError(f"kernels: NVRTC refuses a source: {error}\n{nvrtc.getProgramLog(program)}") from None
        made = nvrtc.getCUBIN(program) if exact else nvrtc.getPTX(program)
        fresh = target.with_suffix(f".{os.getpid()}")
        fresh.write_bytes(made if isinstance(made, bytes) else made.encode())
        fresh.replace(target)  # at once, so that another process never sees half of it
    return target


def launch(
    file: str,
    name: str,
    blocks: int | tuple[int, int, int],
    args: tuple[Any, ...],
    threads: int = THREADS,
    constants: Constants = (),
    shared: int = 0,
) -> None:
    """Run kernel ``name`` of ``file`` on ``blocks`` blocks, on up to three axes, of ``threads`` threads.

    constants: (name, value) of the numbers that the file leaves open; each combination is a kernel of its own.
    shared: bytes of dynamic shared memory a block.

    args: arrays, C-contiguous and of the parameters' types; numbers, which become the type that the kernel declares; a
    struct as its array, or as a tuple of its members. The first array says where it runs. Nothing is launched for no
    blocks: a result without elements.
    """
    grid = blocks if isinstance(blocks, tuple) else (blocks,)
    if not all(grid):
        return
    array = args[0]
    on_gpu = array_module(array) is not np
    index = INDEX if all(getattr(a, "size", 0) < _NARROW for a in args) else WIDE_INDEX
    kernel, parameters = _kernel(file, name, array.dtype, constants, index, on_gpu)
    if len(args) != len(parameters):
        raise TypeError(f"{name}: takes {len(parameters)} arguments, but {len(args)} were given.")
    checked: list[Any] = [_checked(name, p, arg, type(array)) for p, arg in zip(parameters, args)]
    if on_gpu and shared > 48 << 10:
        kernel.max_dynamic_shared_size_bytes = shared  # more than that has to be asked for
    kernel(grid, (threads,), tuple(checked), shared_mem=shared)


def _checked(kernel: str, p: Parameter, arg: Any, kind: type[Any]) -> Any:
    if not p.pointer and p.dtype.names is None:
        return p.dtype.type(arg)  # OverflowError for a size that does not fit
    if isinstance(arg, tuple):
        return np.array(tuple(arg), p.dtype)
    kind = kind if p.pointer else np.ndarray  # a struct is a NumPy array of one element on a GPU as well
    if not isinstance(arg, kind) or arg.dtype != p.dtype or not arg.flags.c_contiguous:
        raise TypeError(
            f"{kernel}: {p.name} must be a C-contiguous {kind.__module__}.{kind.__name__} of {p.dtype}, but is a "
            f"{type(arg).__module__}.{type(arg).__name__} of {getattr(arg, 'dtype', '?')} with the strides "
            f"{getattr(arg, 'strides', '?')}."
        )
    return arg


AXIS = np.dtype([(name, np.int32) for name in ("size", "kernel", "output", "stride", "dilation", "padding")])
WINDOW = np.dtype([(axis, AXIS) for axis in "dhw"])


@lru_cache(maxsize=1024)
def window(g: Geometry) -> np.ndarray[Any, Any]:
    """The geometry as kernels take it, see window.h. OverflowError for a size of 2^31 or more."""
    while g.rank < 3:
        g = g.lifted()
    before = [pair[0] for pair in g.padding]
    axes = zip(g.size, g.kernel, g.output, g.stride, g.dilation, before)
    return np.array(tuple(axes), WINDOW)


def contiguous(array: Array, dtype: DTypeLike | None = None) -> Array:
    """The same values as a kernel sees them: in C order, aligned, without a subclass, in the machine's byte order; in
    ``dtype``, if one is given. A copy only where it takes one.
    """
    xp = array_module(array)
    if dtype is not None:
        array = array.astype(dtype, copy=False)
    if xp is np:
        return np.require(array, array.dtype.newbyteorder("="), ["C", "ALIGNED", "ENSUREARRAY"])
    return array if array.flags.c_contiguous else xp.ascontiguousarray(array)  # that has no arrays without axes


def device_of(array: Array) -> tuple[Any, int | None]:
    """The array module and the number of the GPU: where a table must lie that a kernel reads beside ``array``."""
    xp = array_module(array)
    return xp, None if xp is np else array.device.id


def blocks_for(elements: int) -> int:
    """So many that each element has a thread."""
    return -(-elements // THREADS)


def side_by_side(lanes: int, rows: int) -> tuple[tuple[int, int, int], int]:
    """Grid and threads of a block for so many ``rows`` of lanes: lanes on x; rows on y and z together, since neither
    may have more than 65,535 blocks. A kernel finds its row as blockIdx.z * gridDim.y + blockIdx.y; some blocks may
    have none.
    """
    threads = min(THREADS, -(-lanes // 32) * 32)
    deep = -(-rows // MOST_BLOCKS)
    return (-(-lanes // threads), -(-rows // max(1, deep)), deep), threads


def over_planes(file: str, name: str, arrays: tuple[Array, ...], planes: int, window: np.ndarray[Any, Any]) -> None:
    """Launch a kernel of which a thread makes one element of the last array in each of a few planes, see threads.h."""
    tasks = -(-planes // PLANES) * (arrays[-1].size // max(1, planes))
    launch(file, name, blocks_for(tasks), (*arrays, planes, tasks, window))
