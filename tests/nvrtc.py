"""NVIDIA's run-time compiler, from its wheel: CUDA C to machine code on a machine without a GPU."""

from __future__ import annotations

import ctypes
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

ARCHITECTURES = ("sm_75", "sm_80", "sm_90")


class Used(NamedTuple):
    """What ptxas says that one thread, or for ``shared`` one block, needs."""

    registers: int
    spills: int  # bytes that are written to memory for want of registers
    shared: int  # bytes


@cache
def library() -> Any:
    """libnvrtc, or None where the wheel is not installed."""
    spec = find_spec("nvidia.cuda_nvrtc") if find_spec("nvidia") else None
    if spec is None or not spec.submodule_search_locations:
        return None
    found = sorted(Path(spec.submodule_search_locations[0]).glob("lib/libnvrtc.so*"))
    return ctypes.CDLL(str(found[0])) if found else None


def compile_for(source: str, architecture: str) -> dict[str, Used]:
    """Kernel -> what it needs, of every kernel of a source. AssertionError with the compiler's words if it refuses."""
    lib, program = library(), ctypes.c_void_p()
    assert lib.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernels.cu", 0, None, None) == 0
    options = [f"--gpu-architecture={architecture}", "--std=c++17", "--ptxas-options=-v"]
    status = lib.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*map(str.encode, options)))
    size = ctypes.c_size_t()
    lib.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    lib.nvrtcGetProgramLog(program, log)
    said = log.value.decode()
    assert status == 0, said
    assert "warpgroup" not in said, said  # products of wgmma that the compiler makes wait for each other
    lib.nvrtcGetCUBINSize(program, ctypes.byref(size))
    assert size.value > 0, "machine code was made"
    lib.nvrtcDestroyProgram(ctypes.byref(program))
    found = {}
    for name, text in re.findall(r"Function properties for (\w+)\n(.*?Used .*?)\n", said, re.DOTALL):
        numbers = [
            int(match.group(1)) if (match := re.search(pattern, text)) else 0
            for pattern in (r"Used (\d+) registers", r"(\d+) bytes spill stores", r"(\d+) bytes smem")
        ]
        found[name] = Used(*numbers)
    return found
