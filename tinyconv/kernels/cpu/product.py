"""The matrix product that all fast convolutions come down to, on operands that lie in the cache."""

from __future__ import annotations

import numpy as np
from numba import njit

from tinyconv.kernels.cpu.simd import ROWS, VECTOR_BYTES, multiply_tile, transpose_tile

_three, _two, _one = multiply_tile[3], multiply_tile[2], multiply_tile[1]


@njit(nogil=True, cache=True)
def multiply_block(acc, pitch, w, first, last, length, start, b, shift, columns, terms, count):  # type: ignore[no-untyped-def]
    """acc[r, q] += sum over k < terms of w[first + r, start + k] b[shift + columns[k] + q], for q < count, in the order of k.

    On flat arrays: w has rows of ``length``, acc of ``pitch``, at least ROWS * ceil((last - first) / ROWS) of them;
    columns of acc and b beyond ``count`` are touched up to a whole vector.
    """
    width = VECTOR_BYTES // acc.itemsize
    rows = np.empty(ROWS, np.int64)
    for r in range(first, last, ROWS):
        for m in range(ROWS):
            rows[m] = min(r + m, last - 1) * length + start  # rows beyond the last are computed and never looked at
        at = (r - first) * pitch
        q = 0
        while q < count:
            left = count - q
            if left > 2 * width:
                _three(acc, at + q, pitch, w, rows, 0, b, shift + q, columns, terms)
                q += 3 * width
            elif left > width:
                _two(acc, at + q, pitch, w, rows, 0, b, shift + q, columns, terms)
                q += 2 * width
            else:
                _one(acc, at + q, pitch, w, rows, 0, b, shift + q, columns, terms)
                q += width


@njit(nogil=True, cache=True)
def transpose(a, length, count, out, wide):  # type: ignore[no-untyped-def]
    """out[j, i] = a[i, j] for i < count rows of ``length``, on flat arrays; out has rows of ``wide`` >= count.

    Works on whole vectors: both arrays are touched up to a vector's square beyond.
    """
    width = VECTOR_BYTES // a.itemsize
    for i in range(0, count, width):
        for j in range(0, length, width):
            transpose_tile(out, j * wide + i, wide, a, i * length + j, length)
