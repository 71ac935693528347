"""Matrix products: cuBLAS on a GPU, through CuPy."""

from __future__ import annotations

import numpy as np

from tinyconv.kernels import im2col
from tinyconv.kernels.arrays import Array, array_module
from tinyconv.kernels.precision import precision, rounded


def matmul(a: Array, b: Array) -> Array:
    """a (*B, M, K), b (*B, K, N) to (*B, M, N), float32 multiplied with the precision that is asked for."""
    asked = precision()
    if asked == "ieee" or a.dtype != np.float32:
        return im2col.matmul(a, b)
    xp = array_module(a, b)
    if xp is np:
        return np.matmul(rounded(a, asked), rounded(b, asked))
    core = xp._core._routines_linalg  # CuPy has no public name for it but the environment variable CUPY_TF32
    before = core.get_compute_type(a.dtype)
    core.set_compute_type(a.dtype, core.COMPUTE_TYPE_TF32 if asked == "tf32" else core.COMPUTE_TYPE_BF16)
    try:
        return xp.matmul(a, b)
    finally:
        core.set_compute_type(a.dtype, before)
