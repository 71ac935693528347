"""How many bits of a float32 number the rung ``cuda`` multiplies by.

    ieee   all 24 bits of the mantissa
    tf32   11 bits, the exponent of float32: what a tensor core takes of a float32 number since Ampere
    bf16   8 bits, the exponent of float32

Sums are kept in float32 whatever the operands. float64 and float16 arrays are not affected.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

PRECISIONS = {"ieee": 24, "tf32": 11, "bf16": 8}

_asked = "ieee"


def precision() -> str:
    """What ``use_kernels(precision=...)`` asks for now."""
    return _asked


def set_precision(name: str) -> None:
    """One of ``PRECISIONS``, for the whole process."""
    global _asked
    _asked = name


def rounded(x: NDArray[np.float32], name: str) -> NDArray[np.float32]:
    """x with the bits of one of ``PRECISIONS``, as the GPU rounds: to nearest, of two as near for tf32 away from zero
    (PTX's cvt.rna), for bf16 to the even one. NaN stays NaN, and what is too large becomes infinite.
    """
    if name == "ieee":
        return x
    bits, dropped = np.ascontiguousarray(x).view(np.uint32), 24 - PRECISIONS[name]
    half = np.uint32(1 << (dropped - 1))
    even = (bits >> np.uint32(dropped)) & np.uint32(1)  # 1 where the last bit kept is set
    up = half if name == "tf32" else half - np.uint32(1) + even
    kept = (bits + up) & ~np.uint32((1 << dropped) - 1)
    return np.where(np.isfinite(x), kept, bits).view(np.float32)
