"""Compiles CUDA C for the CPU, once: libraries are kept in the user's cache under the hash of their source."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent
HEADERS = ("cuda.h", "tensor_core.h", "shared_with_kernels.h")

COMPILERS = ("g++", "clang++")

#: Calls before every access to memory that other threads could see, and at every index that is outside of its array;
#: nothing of the sanitizers' libraries.
CHECKS = ["-fsanitize=thread", "-fsanitize=bounds"]


class NoCompiler(RuntimeError):
    """There is no C++ compiler on this machine."""


class CompileError(ValueError):
    """The source is not CUDA C, or has something in it that the emulator does not know."""


@cache
def compiler() -> str:
    """g++ or clang++, whichever is there. NoCompiler: neither, or not on Linux."""
    if not sys.platform.startswith("linux"):
        raise NoCompiler("cuda_on_cpu: the emulator runs on Linux only; on Windows, in WSL.")
    for name in COMPILERS:
        if shutil.which(name):
            return name
    raise NoCompiler("cuda_on_cpu: kernels are compiled by g++ or clang++, and neither is here: apt install g++.")


def folder() -> Path:
    """Where libraries are kept: tinyconv/ in the user's cache, a temporary folder where that cannot be written."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tinyconv"
    try:
        root.mkdir(parents=True, exist_ok=True)
        if os.access(root, os.W_OK):
            return root
    except OSError:
        pass
    return Path(tempfile.gettempdir())


@cache
def runtime() -> Path:
    """The library that runs threads and watches them."""
    text = "".join((HERE / name).read_text() for name in ("runtime.cpp", *HEADERS))
    return _build("runtime", text, [str(HERE / "runtime.cpp")], ["-O2", "-ldl"])


def kernels(source: str, options: tuple[str, ...], checked: bool) -> Path:
    """The library of a source, with the runtime. CompileError: says what the compiler said."""
    library = runtime()
    text = (HERE / "cuda.h").read_text() + "\n" + source
    with tempfile.TemporaryDirectory() as made:
        path = Path(made) / "kernels.cpp"
        path.write_text(text)
        flags = ["-O1", *CHECKS] if checked else ["-O3"]
        return _build("kernels", text, [str(path)], [*flags, *options], str(library))


def _build(name: str, text: str, inputs: list[str], flags: list[str], library: str = "") -> Path:
    """Compile, then link: at the second step no flag of a sanitizer would ask for its library."""
    common = [
        compiler(),
        "-std=c++17",
        "-gdwarf-4",
        "-fPIC",
        "-w",
        "-fno-strict-aliasing",
        "-fno-delete-null-pointer-checks",
        "-ffp-contract=off",
        f"-I{HERE}",
    ]
    key = hashlib.sha256("\0".join([*common, *flags, library, text]).encode()).hexdigest()[:20]
    target = folder() / f"cuda_on_cpu_{name}_{key}.so"
    if target.exists():
        return target
    with tempfile.TemporaryDirectory() as made:
        built = Path(made) / "built.o"
        done = subprocess.run([*common, "-c", *inputs, "-o", str(built), *flags], capture_output=True, text=True)
        if done.returncode:
            raise CompileError(f"cuda_on_cpu: {compiler()} refuses the source:\n{_shortened(done.stderr)}")
        linked = Path(made) / "linked.so"
        end = [library, f"-Wl,-rpath,{Path(library).parent}", "-Wl,--wrap=memcpy"] if library else ["-ldl"]
        subprocess.run([compiler(), "-shared", str(built), "-o", str(linked), *end], check=True, capture_output=True)
        fresh = target.with_suffix(f".{os.getpid()}")
        shutil.copy(linked, fresh)
        fresh.replace(target)  # at once, so that another process never sees half of it
    return target


def _shortened(said: str) -> str:
    """The errors and the lines that they point at."""
    lines = said.splitlines()
    starts = [i for i, line in enumerate(lines) if " error: " in line or "fatal error" in line]
    return "\n".join("\n".join(lines[i : i + 3]) for i in starts[:5]) or said


def line_of(library: Path, address: int, file: str) -> int | None:
    """The line of ``file`` that an address of a library comes from; None where no tool says it.

    A call that was inlined has several places; the innermost in that file counts.
    """
    tool = shutil.which("addr2line") or shutil.which("llvm-addr2line")
    if tool is None:
        return None
    done = subprocess.run([tool, "-i", "-e", str(library), hex(address)], capture_output=True, text=True)
    for place in done.stdout.splitlines():
        name, _, line = place.partition(" ")[0].rpartition(":")
        if name.endswith(file) and line.isdigit():
            return int(line)
    return None
