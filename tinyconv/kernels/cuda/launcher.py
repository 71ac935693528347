"""One launcher for all CUDA kernels: CuPy's arrays go to the GPU, NumPy's to the emulator, by the same host code."""

from __future__ import annotations

import re
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from tinyconv.cuda_on_cpu import Parameter, RawKernel, kernels_of
from tinyconv.geometry import Geometry
from tinyconv.kernels.arrays import Array, array_module

HERE = Path(__file__).parent
THREADS = 128  # of a block

#: What a kernel's source calls REAL.
REALS = {np.dtype(np.float32): "float", np.dtype(np.float64): "double"}


Constants = tuple[tuple[str, int], ...]
_INCLUDE = re.compile(r'^#include "(\w+\.h)"$', re.MULTILINE)


def source(file: str, dtype: np.dtype[Any], constants: Constants = ()) -> str:
    """The source of kernels for arrays of ``dtype``, in front of it ``const int NAME = value;`` and window.h.

    ``#include "name.h"`` stands for a file beside it: the compilers get one text.
    """
    named = "".join(f"const int {name} = {value};\n" for name, value in constants)
    text = "\n".join((HERE / name).read_text(encoding="utf-8") for name in ("window.h", file))
    text = _INCLUDE.sub(lambda found: (HERE / found.group(1)).read_text(encoding="utf-8"), text)
    return named + text.replace("REAL", REALS[dtype])


@cache
def _kernel(
    file: str, name: str, dtype: np.dtype[Any], constants: Constants, on_gpu: bool
) -> tuple[Any, tuple[Parameter, ...]]:
    """The kernel and its parameters; compiled at its first launch, and kept on disk by either compiler."""
    code = source(file, dtype, constants)
    if on_gpu:
        import cupy

        return cupy.RawKernel(code, name, options=("--std=c++17",)), kernels_of(code)[name]
    return RawKernel(code, name), kernels_of(code)[name]


def launch(
    file: str,
    name: str,
    blocks: int | tuple[int, int, int],
    args: tuple[Any, ...],
    threads: int = THREADS,
    constants: Constants = (),
) -> None:
    """Run kernel ``name`` of ``file`` on ``blocks`` blocks, on up to three axes, of ``threads`` threads.

    constants: (name, value) of the numbers that the file leaves open; each combination is a kernel of its own.

    args: arrays, C-contiguous and of the parameters' types; numbers, which become the type that the kernel declares; a
    window. The first array says where it runs. Nothing is launched for no blocks: a result without elements.
    """
    grid = blocks if isinstance(blocks, tuple) else (blocks,)
    if not all(grid):
        return
    array = args[0]
    on_gpu = array_module(array) is not np
    kernel, parameters = _kernel(file, name, array.dtype, constants, on_gpu)
    if len(args) != len(parameters):
        raise TypeError(f"{name}: takes {len(parameters)} arguments, but {len(args)} were given.")
    checked: list[Any] = [_checked(name, p, arg, type(array)) for p, arg in zip(parameters, args)]
    kernel(grid, (threads,), tuple(checked))


def _checked(kernel: str, p: Parameter, arg: Any, kind: type[Any]) -> Any:
    if not p.pointer and p.dtype.names is None:
        return p.dtype.type(arg)  # OverflowError for a size that does not fit
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


def contiguous(array: Array) -> Array:
    """The same values as a kernel sees them: in C order, aligned, without a subclass, in the machine's byte order."""
    xp = array_module(array)
    if xp is np:
        return np.require(array, array.dtype.newbyteorder("="), ["C", "ALIGNED", "ENSUREARRAY"])
    return xp.ascontiguousarray(array)


def blocks_for(elements: int) -> int:
    """So many that each element has a thread."""
    return -(-elements // THREADS)
