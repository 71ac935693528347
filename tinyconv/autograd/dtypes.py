"""Which dtype a result has: torch's promotion rules, which differ from NumPy's.

Tensors with axes decide first, then 0-d tensors, then Python numbers; a lower group changes the result only
by its category (bool < integer < float): float32 + int64 is float32, float32 + 0-d float64 is float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np

#: dtype of results that become floating without saying which: Python floats, int / int.
default_float = np.dtype(np.float32)

FLOATS = frozenset(np.dtype(t) for t in (np.float16, np.float32, np.float64))
_CATEGORY = {"b": 0, "i": 1, "u": 1, "f": 2}


def is_float(dtype: np.dtype[Any]) -> bool:
    """True for the dtypes that can carry a gradient."""
    return dtype in FLOATS


def supported(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """``dtype`` in native byte order, or a TypeError that says what a tensor can hold."""
    native = dtype.newbyteorder("=")
    if native.kind not in _CATEGORY or native.itemsize > 8:
        raise TypeError(
            f"tensor: dtype {dtype} is not supported. Use a bool, an integer, or float16, float32 or float64."
        )
    return native


def promote(a: np.dtype[Any], b: np.dtype[Any]) -> np.dtype[Any]:
    """Common dtype of two tensors of equal standing: the higher category, within one category the wider."""
    category_a, category_b = _CATEGORY[a.kind], _CATEGORY[b.kind]
    if category_a != category_b:
        return a if category_a > category_b else b
    return np.promote_types(a, b)


def result_dtype(a: np.dtype[Any], a_is_0d: bool, b: np.dtype[Any], b_is_0d: bool) -> np.dtype[Any]:
    """Dtype of a binary operator on two tensors: a 0-d one has a say only by its category."""
    if a == b:
        return a
    if a_is_0d == b_is_0d:
        return promote(a, b)
    strong, weak = (b, a) if a_is_0d else (a, b)
    return weak if _CATEGORY[weak.kind] > _CATEGORY[strong.kind] else strong


def scalar_dtype(number: bool | int | float, beside: np.dtype[Any]) -> np.dtype[Any]:
    """Dtype that a Python number takes beside a tensor of dtype ``beside``."""
    if isinstance(number, bool):
        return beside
    if isinstance(number, int):
        return np.dtype(np.int64) if beside.kind == "b" else beside
    return beside if beside.kind == "f" else default_float
