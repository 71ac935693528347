"""NVIDIA's run-time compiler, from its wheel: CUDA C to machine code without a GPU; and what loops that code has."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import tempfile
from collections import Counter
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


def _wheels() -> list[Path]:
    """Where NVIDIA's wheels are."""
    spec = find_spec("nvidia")
    return [Path(path) for path in spec.submodule_search_locations or ()] if spec else []


@cache
def library() -> Any:
    """libnvrtc, or None where the wheel is not installed."""
    found = [path for root in _wheels() for path in sorted(root.glob("cuda_nvrtc/lib/libnvrtc.so*"))]
    return ctypes.CDLL(str(found[0])) if found else None


@cache
def disassembler() -> str | None:
    """nvdisasm, or None where neither its wheel nor the CUDA toolkit is installed."""
    found = [str(path) for root in _wheels() for path in sorted(root.glob("*/bin/nvdisasm"))]
    return found[0] if found else shutil.which("nvdisasm")


@cache
def _compiled(source: str, architecture: str) -> tuple[str, bytes]:
    """(what the compiler says, machine code). AssertionError with the compiler's words if it refuses."""
    lib, program = library(), ctypes.c_void_p()
    assert lib.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernels.cu", 0, None, None) == 0
    options = [f"--gpu-architecture={architecture}", "--std=c++17", "--ptxas-options=-v"]
    status = lib.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*map(str.encode, options)))
    size = ctypes.c_size_t()
    lib.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    lib.nvrtcGetProgramLog(program, log)
    assert status == 0, log.value.decode()
    lib.nvrtcGetCUBINSize(program, ctypes.byref(size))
    assert size.value > 0, "machine code was made"
    code = ctypes.create_string_buffer(size.value)
    lib.nvrtcGetCUBIN(program, code)
    lib.nvrtcDestroyProgram(ctypes.byref(program))
    return log.value.decode(), code.raw


def compile_for(source: str, architecture: str) -> dict[str, Used]:
    """Kernel -> what it needs, of every kernel of a source. AssertionError with the compiler's words if it refuses."""
    said, _ = _compiled(source, architecture)
    found = {}
    for name, text in re.findall(r"Function properties for (\w+)\n(.*?Used .*?)\n", said, re.DOTALL):
        numbers = [
            int(match.group(1)) if (match := re.search(pattern, text)) else 0
            for pattern in (r"Used (\d+) registers", r"(\d+) bytes spill stores", r"(\d+) bytes smem")
        ]
        found[name] = Used(*numbers)
    return found


class Loop(NamedTuple):
    """The instructions from the target of a backward branch to the branch: how many of each kind, without modifiers."""

    count: Counter[str]
    innermost: bool
    divides: bool  # whole numbers: by way of the reciprocal of a float, rounded up, or in a function of the compiler's

    @property
    def share(self) -> float:
        """Of multiplications with addition among all instructions."""
        return (self.count["FFMA"] + self.count["DFMA"]) / self.count.total()


def loops(source: str, architecture: str) -> dict[str, list[Loop]]:
    """Kernel -> its loops in machine code, of every kernel of a source."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(_compiled(source, architecture)[1])
        file.flush()
        done = subprocess.run([str(disassembler()), "-c", file.name], capture_output=True, text=True, check=True)
    functions = re.split(r"\.section\s+\.text\.(\w+)", done.stdout)[1:]
    return {name: _loops(text) for name, text in zip(functions[::2], functions[1::2])}


_LABEL = re.compile(r"(\.L\w+):")
_INSTRUCTION = re.compile(r"/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)(.*);")


def _loops(text: str) -> list[Loop]:
    instructions: list[tuple[str, str]] = []
    labels: dict[str, int] = {}
    spans = []
    for line in map(str.strip, text.splitlines()):
        if label := _LABEL.match(line):
            labels[label.group(1)] = len(instructions)
        elif found := _INSTRUCTION.search(line):
            instructions.append((found.group(1), found.group(2)))
            target = re.search(r"\.L\w+", found.group(2)) if found.group(1).startswith("BRA") else None
            if target and labels.get(target.group(), len(instructions) - 1) < len(instructions) - 1:
                spans.append((labels[target.group()], len(instructions)))
    result = []
    for start, end in spans:
        body = instructions[start:end]
        inside = any((a, b) != (start, end) and start <= a and b <= end for a, b in spans)
        divides = any(re.search(r"^I2F.*\.RP |^CALL.*_(div|rem)_[su]64", f"{name} {rest}") for name, rest in body)
        result.append(Loop(Counter(name.partition(".")[0] for name, _ in body), not inside, divides))
    return result
