"""Nested dicts of arrays and plain values in one safetensors file.

A state dict, or the whole state of a training, is a tree: dicts and lists whose leaves are arrays or JSON values. The
arrays become the file's tensors, named by their path; the rest is JSON in its header. Nothing in such a file is
ever executed. Written aside and renamed, so that a process that dies while writing leaves the old file whole.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from tinyconv.autograd import Tensor

_TREE = "tinyconv.tree"
_ARRAY = "$array"


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ImportError:
        raise ImportError("io: weights are stored by safetensors, which is missing: pip install safetensors") from None
    return safetensors.numpy


def save(tree: Any, path: str | os.PathLike[str]) -> None:
    """Write a tree of dicts, lists, arrays, Tensors and JSON values to ``path``, all or nothing.

    TypeError: a leaf of another kind, or a dict key that is not a string. ImportError: no safetensors.
    """
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    skeleton = _detach_arrays(tree, "", arrays)
    data = _safetensors().save(arrays, metadata={_TREE: json.dumps(skeleton)})
    path = Path(path)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(aside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # on the disk before the rename makes it the file
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def load(path: str | os.PathLike[str]) -> Any:
    """Read what :func:`save` wrote; arrays come back as NumPy arrays.

    FileNotFoundError: no such file. ValueError: it is broken, or not such a file. ImportError: no safetensors.
    """
    safetensors = _safetensors()
    path = Path(path)
    data = path.read_bytes()
    try:
        arrays = safetensors.load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        skeleton = json.loads(header["__metadata__"][_TREE])
        return _attach_arrays(skeleton, arrays)
    except Exception as error:  # whatever a damaged file makes the readers raise
        raise ValueError(f"load: {path} is not a whole tinyconv file ({type(error).__name__}: {error}).") from None


def _detach_arrays(node: Any, path: str, arrays: dict[str, np.ndarray[Any, Any]]) -> Any:
    """The tree with each array replaced by its name in ``arrays``."""
    if isinstance(node, Tensor):
        node = node.detach().to("cpu").data
    if isinstance(node, np.ndarray):
        arrays[path] = np.ascontiguousarray(node).reshape(node.shape)
        return {_ARRAY: path}
    if isinstance(node, dict):
        if not all(isinstance(key, str) for key in node):
            raise TypeError(f"save: the keys of a dict must be strings, but at '{path}' they are {list(node)[:5]}.")
        return {key: _detach_arrays(value, f"{path}/{key}" if path else key, arrays) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [_detach_arrays(value, f"{path}/{i}" if path else str(i), arrays) for i, value in enumerate(node)]
    if isinstance(node, np.generic):
        node = node.item()
    if node is None or isinstance(node, bool | int | float | str):
        return node
    raise TypeError(
        f"save: '{path}' holds a {type(node).__name__}; only arrays, numbers, strings, lists and dicts can be kept."
    )


def _attach_arrays(node: Any, arrays: dict[str, np.ndarray[Any, Any]]) -> Any:
    if isinstance(node, dict):
        if set(node) == {_ARRAY}:
            return arrays[node[_ARRAY]]
        return {key: _attach_arrays(value, arrays) for key, value in node.items()}
    return [_attach_arrays(value, arrays) for value in node] if isinstance(node, list) else node
