"""Nested dicts of arrays and plain values in one safetensors file.

A state dict, or the whole state of a training, is a tree: dicts and lists whose leaves are arrays or JSON values. The
arrays become the file's tensors, named by their path; the rest is JSON in its header. Nothing in such a file is
ever executed.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from tinyconv.autograd import Tensor

_TREE = "tinyconv.tree"
_ARRAY = "$array"
_RESERVED = (_ARRAY, "__metadata__")  # the latter is safetensors' own


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ImportError:
        raise ImportError("io: weights are stored by safetensors, which is missing: pip install safetensors") from None
    return safetensors.numpy


def encode(tree: Any) -> bytes:
    """The bytes of a safetensors file that holds ``tree``."""
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    skeleton = _detach_arrays(tree, "", arrays)
    return _safetensors().save(arrays, metadata={_TREE: json.dumps(skeleton)})


def decode(data: bytes) -> Any:
    """The tree in those bytes; of a safetensors file that others wrote, name -> array."""
    try:
        arrays = _safetensors().load(data)  # refuses a header that claims more than there is, before it allocates
    except KeyError as error:
        raise ValueError(f"it holds {error.args[0]}, a type of number that NumPy lacks: convert it first") from None
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    if _TREE not in header.get("__metadata__", {}):
        return arrays
    return _attach_arrays(json.loads(header["__metadata__"][_TREE]), arrays)


def _detach_arrays(node: Any, path: str, arrays: dict[str, np.ndarray[Any, Any]]) -> Any:
    """The tree with each array replaced by its name in ``arrays``."""
    if isinstance(node, Tensor):
        node = node.detach().to("cpu").data
    if hasattr(node, "__cuda_array_interface__"):
        node = node.get()
    if isinstance(node, np.ndarray):
        if node.dtype.kind not in "biuf" or node.dtype.itemsize > 8:
            raise TypeError(
                f"save: '{path}' is of {node.dtype}; only arrays of bools, integers and floats can be kept."
            )
        while path in arrays:  # "a/b" beside a dict "a" with "b"
            path += "+"
        arrays[path] = np.ascontiguousarray(node).reshape(node.shape)
        return {_ARRAY: path}
    if isinstance(node, dict):
        if not all(isinstance(key, str) for key in node):
            raise TypeError(f"save: the keys of a dict must be strings, but at '{path}' they are {list(node)[:5]}.")
        if any(key in node for key in _RESERVED):
            raise TypeError(f"save: no key of a dict may be {' or '.join(_RESERVED)}, but one at '{path}' is.")
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
