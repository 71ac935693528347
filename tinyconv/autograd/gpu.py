"""CuPy and what can be wrong with it, tensors on two devices, and errors that a GPU reports late.

A GPU computes behind the program's back: a call returns before its kernel has run. So a question about values ("is
this class number legal?") would make the program wait. ``require`` therefore asks at once on the CPU, and on a GPU
when values are next read anyway: by item(), a print, a move to the CPU. Inside ``detect_anomaly()`` every operator
waits for the GPU, and answers for itself.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import numpy as np

from tinyconv.autograd.device import CPU, CUDA, device
from tinyconv.autograd.mode import switches
from tinyconv.autograd.tensor import Array, Tensor, callers_place
from tinyconv.kernels.arrays import array_module


def load_cupy(op: str) -> Any:
    """CuPy, imported at the first use of a GPU; RuntimeError says what is missing where there is none to be used."""
    try:
        import cupy
    except ModuleNotFoundError:
        raise RuntimeError(f"{op}: a GPU needs CuPy. Install it with: pip install 'tinyconv[gpu]'.") from None
    except ImportError as error:
        raise RuntimeError(f"{op}: CuPy is installed, but cannot be imported: {error}") from None
    runtime = cupy.cuda.runtime
    try:
        if runtime.getDeviceCount() > 0:
            return cupy
        reason = "it finds no GPU"
    except runtime.CUDARuntimeError as error:
        reason = _no_gpu(runtime, error)
    raise RuntimeError(f"{op}: CuPy is installed, but {reason}, or stay on the CPU.")


def _no_gpu(runtime: Any, error: Any) -> str:
    """What is wrong, and the mend; CUDA itself calls a missing driver one that is too old."""
    status = str(error).partition(":")[0]
    if status == "cudaErrorInsufficientDriver":
        driver, needed = runtime.driverGetVersion(), runtime.runtimeGetVersion()
        if driver == 0:
            return "there is no NVIDIA driver. Install one, so that nvidia-smi lists the GPU"
        versions = [f"{v // 1000}.{v % 1000 // 10}" for v in (driver, needed)]
        return (
            f"the NVIDIA driver knows CUDA up to {versions[0]} and CuPy was built for {versions[1]}. Update the driver"
        )
    if status == "cudaErrorNoDevice":
        return "there is no GPU. Check nvidia-smi and CUDA_VISIBLE_DEVICES"
    return f"its GPU cannot be used ({error}). Check nvidia-smi"


# --------------------------------------------------------------------------------------------------
# Which operator: looked for only where a sentence needs it


def _called(inside: str) -> tuple[str, FrameType | None]:
    """The operator that was called, by its public name, and its frame; ``inside`` is the Function that was reached."""
    frame: FrameType | None = sys._getframe(1)
    found = None
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.startswith("tinyconv.ops"):
            found = found if module == "tinyconv.ops.mixed" else frame  # that room only wraps operators
        elif found is not None:  # the first that is no operator's called it
            break
        frame = frame.f_back
    if found is None:
        return inside, None
    name = found.f_code.co_name
    return (f"gradient of {type(found.f_locals['self']).__name__}" if name == "backward" else name), found


def where_is(value: Any) -> device | None:
    """The device of a tensor or an array, None for anything else."""
    array = value.data if isinstance(value, Tensor) else value
    if isinstance(array, np.ndarray):
        return CPU
    return CUDA if hasattr(array, "__cuda_array_interface__") else None


def one_device(inside: str, *values: Any) -> None:
    """RuntimeError, with the names of the arguments, unless all tensors and arrays among ``values`` are together."""
    for v in values:
        if not isinstance(v.data if isinstance(v, Tensor) else v, np.ndarray):
            break
    else:
        return  # all on the CPU: the quick way out
    if len({where_is(v) for v in values} - {None}) < 2:
        return
    op, frame = _called(inside)
    named = {}
    if frame is not None:
        names = frame.f_code.co_varnames[: frame.f_code.co_argcount]
        named = {name: where_is(frame.f_locals.get(name)) for name in names}
        named = {name: place for name, place in named.items() if place is not None}
    if len(set(named.values())) < 2:
        named = {f"tensor {i}": place for i, place in enumerate(map(where_is, values)) if place is not None}
    told = " and ".join(f"{name} is on {str(place)!r}" for name, place in named.items())
    away = next(name for name, place in named.items() if place == "cpu")
    mend = f"{away}.to('cuda')" if away.isidentifier() else "x.to('cuda')"
    raise RuntimeError(f"{op}: all tensors must be on one device, but {told}. Move them, e.g. {mend}.")


# --------------------------------------------------------------------------------------------------
# Errors of a GPU


def explained(inside: str, error: Exception) -> Exception | None:
    """An error of CuPy as a sentence that names the operator; None for any other error."""
    cupy = sys.modules.get("cupy")
    if cupy is None:
        return None
    if isinstance(error, cupy.cuda.memory.OutOfMemoryError) or "cudaErrorMemoryAllocation" in str(error):
        wanted = re.search(r"allocating ([\d,]+) bytes", str(error))
        pool = cupy.get_default_memory_pool()
        pool.free_all_blocks()
        free, total = cupy.cuda.Device().mem_info
        return MemoryError(
            f"{_called(inside)[0]}: the GPU has no room for {_bytes(wanted[1]) if wanted else 'an array'}: "
            f"{_bytes(free)} of {_bytes(total)} are free, and tensors hold {_bytes(pool.used_bytes())}. Use a smaller "
            f"batch, nn.checkpoint.checkpoint, or del what is not needed."
        )
    if isinstance(error, _cuda_errors(cupy)):
        return RuntimeError(
            f"{_called(inside)[0]}: the GPU reports {error}. The cause may be an earlier operator: run it again in a "
            f"new process inside tinyconv.detect_anomaly(), which names it."
        )
    return None


def _cuda_errors(cupy: Any) -> tuple[type[Exception], ...]:
    """What CuPy raises for an error of CUDA: waiting, and launching the next kernel."""
    return cupy.cuda.runtime.CUDARuntimeError, cupy.cuda.driver.CUDADriverError


def guarded(op: str, function: Callable[..., Any], *args: Any) -> Any:
    """function(*args), with the errors of a GPU explained."""
    try:
        return function(*args)
    except Exception as error:
        failure = explained(op, error)
        if failure is None:
            raise
    raise failure  # outside of except: the first error would keep the arrays of its frames


def _bytes(count: str | int) -> str:
    number = float(str(count).replace(",", ""))
    for unit in ("bytes", "KiB", "MiB"):
        if number < 1024:
            return f"{number:.4g} {unit}"
        number /= 1024
    return f"{number:.4g} GiB"


def wait(inside: str, arrays: tuple[Array, ...]) -> None:
    """Wait for the GPU, so that an error of this operator's kernels is raised here, with its name."""
    cupy = sys.modules.get("cupy")
    if cupy is None or all(isinstance(a, np.ndarray) for a in arrays):
        return
    try:
        cupy.cuda.Device().synchronize()
    except _cuda_errors(cupy) as error:
        raise RuntimeError(f"{_called(inside)[0]}: its kernel failed on the GPU: {error}.") from None


# --------------------------------------------------------------------------------------------------
# Questions about values

_MOST = 64  # questions that may be open
_open: list[tuple[Array, Callable[[], Exception], Any]] = []


def require(holds: Any, error: Callable[[], Exception]) -> None:
    """Raise ``error()`` unless ``holds``, a bool or an array of one; of an array on a GPU when it is next read."""
    if isinstance(holds, bool | np.bool_ | np.ndarray):
        if not holds:
            raise error()
        return
    _open.append((holds, error, callers_place()))
    if switches.anomaly or len(_open) >= _MOST:
        settle()


def settle() -> None:
    """Ask all open questions, by one read; raise the error of the first one whose answer is no."""
    if not _open:
        return
    asked, _open[:] = list(_open), []
    answers = array_module(asked[0][0]).stack([holds for holds, _, _ in asked]).get()
    for answer, (_, error, place) in zip(answers, asked):
        if not answer:
            raised = error()
            raise type(raised)(f"{raised} The call was at {place}.")
