"""What a kernel's source says about its arguments."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

#: C's types as NumPy's. A Python number has none of them: it would reach a GPU as 64 bits.
TYPES: dict[str, type[np.generic]] = {
    "float": np.float32,
    "double": np.float64,
    "int": np.int32,
    "unsigned": np.uint32,
    "unsigned int": np.uint32,
    "long long": np.int64,
    "unsigned long long": np.uint64,
    "short": np.int16,
    "unsigned short": np.uint16,
    "char": np.int8,
    "signed char": np.int8,
    "unsigned char": np.uint8,
    "bool": np.bool_,
}
_KERNEL = re.compile(r"__global__\s+(?:void\s+)?(?:__launch_bounds__\s*\([^)]*\)\s*)?(?:void\s+)?(\w+)\s*\(([^)]*)\)")
_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)


@dataclass(frozen=True)
class Parameter:
    """One argument of a kernel: a number of that type, or with ``pointer`` an array of it, ``constant`` or written."""

    name: str
    type: str
    pointer: bool
    constant: bool

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """NumPy's."""
        return np.dtype(TYPES[self.type])


def kernels_of(source: str) -> dict[str, tuple[Parameter, ...]]:
    """Name -> parameters of every ``__global__`` function. ValueError: a type that cannot be checked."""
    found = {}
    for name, arguments in _KERNEL.findall(_COMMENT.sub(" ", source)):
        parts = [part for part in (p.strip() for p in arguments.split(",")) if part and part != "void"]
        found[name] = tuple(_parameter(name, part) for part in parts)
    return found


def _parameter(kernel: str, text: str) -> Parameter:
    pointer = "*" in text
    words = re.findall(r"\w+", text.replace("*", " "))
    constant = pointer and "const" in text.split("*")[0].split()
    kind = " ".join(w for w in words[:-1] if w not in ("const", "__restrict__", "restrict", "volatile"))
    if kind not in TYPES or text.count("*") > 1:
        raise ValueError(
            f"cuda_on_cpu: kernel {kernel} has a parameter `{text}`; numbers and pointers to them are known, of the "
            f"types {', '.join(TYPES)}."
        )
    return Parameter(words[-1], kind, pointer, constant)
