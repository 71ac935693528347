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
_STRUCT = re.compile(r"\bstruct\s+(\w+)\s*\{([^{}]*)\}\s*;")
_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)


@dataclass(frozen=True)
class Parameter:
    """One argument of a kernel: a number or struct of that type; with ``pointer`` an array, ``constant`` or written."""

    name: str
    type: str
    pointer: bool
    constant: bool
    dtype: np.dtype[np.generic]  # NumPy's; of a struct with its fields, aligned as in C


def kernels_of(source: str) -> dict[str, tuple[Parameter, ...]]:
    """Name -> parameters of every ``__global__`` function. ValueError: a type that cannot be checked."""
    source = _COMMENT.sub(" ", source)
    types = {name: np.dtype(kind) for name, kind in TYPES.items()}
    for name, body in _STRUCT.findall(source):
        fields = _fields(body, types)
        if fields is not None:
            types[name] = np.dtype(fields, align=True)
    found = {}
    for name, arguments in _KERNEL.findall(source):
        parts = [part for part in (p.strip() for p in arguments.split(",")) if part and part != "void"]
        found[name] = tuple(_parameter(name, part, types) for part in parts)
    return found


def _fields(body: str, types: dict[str, np.dtype[np.generic]]) -> list[tuple[str, np.dtype[np.generic]]] | None:
    """(name, dtype) of each member of a struct; None where it has others than numbers and such structs."""
    found = []
    for line in filter(None, map(str.strip, body.split(";"))):
        first, *others = (part.strip() for part in line.split(","))
        kind, _, name = first.rpartition(" ")
        names = [name, *others]
        if kind not in types or not all(n.isidentifier() for n in names):
            return None
        found += [(n, types[kind]) for n in names]
    return found


def _parameter(kernel: str, text: str, types: dict[str, np.dtype[np.generic]]) -> Parameter:
    pointer = "*" in text
    words = re.findall(r"\w+", text.replace("*", " "))
    constant = pointer and "const" in text.split("*")[0].split()
    kind = " ".join(w for w in words[:-1] if w not in ("const", "__restrict__", "restrict", "volatile", "struct"))
    if kind not in types or text.count("*") > 1:
        raise ValueError(
            f"cuda_on_cpu: kernel {kernel} has a parameter `{text}`; numbers, structs of numbers and pointers to them "
            f"are known, of the types {', '.join(types)}."
        )
    return Parameter(words[-1], kind, pointer, constant, types[kind])
