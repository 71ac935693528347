"""What all fast convolutions come down to: a matrix product of operands in the cache, and bringing those there."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from tinyconv.kernels.cpu.simd import (
    ROWS,
    VECTOR_BYTES,
    copy_every_second,
    copy_to_every_second,
    copy_vector,
    multiply_tile,
    transpose_tile,
)

_three, _two, _one = multiply_tile[ROWS, 3], multiply_tile[ROWS, 2], multiply_tile[ROWS, 1]
_vector, _half, _quarter = copy_vector[1], copy_vector[2], copy_vector[4]

#: For functions that allocate nothing: without it Numba counts references to their arrays, one atomic operation for
#: each row of an image, which takes longer than copying the row.
LEAF: Any = dict(nogil=True, cache=True, _nrt=False)
leaf = njit(**LEAF)


@njit(nogil=True, cache=True)
def multiply_block(acc, pitch, w, first, last, length, start, steps, b, shift, columns, terms, count):  # type: ignore[no-untyped-def]
    """acc[r, q] += sum over k of w[(first + r) * length + start + steps[k]] b[shift + columns[k] + q], q < count.

    For k < terms, in this order, on flat arrays. acc has rows of ``pitch``, and of them a multiple of
    ROWS; its columns and those of b beyond ``count`` are touched up to a whole vector.
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
                _three(acc, at + q, pitch, w, rows, steps, b, shift + q, columns, terms)
                q += 3 * width
            elif left > width:
                _two(acc, at + q, pitch, w, rows, steps, b, shift + q, columns, terms)
                q += 2 * width
            else:
                _one(acc, at + q, pitch, w, rows, steps, b, shift + q, columns, terms)
                q += width


@leaf
def transpose(a, length, count, out, wide):  # type: ignore[no-untyped-def]
    """out[j, i] = a[i, j] for i < count rows of ``length``, on flat arrays; out has rows of ``wide`` >= count.

    Works on whole vectors: both arrays are touched up to a vector's square beyond.
    """
    width = VECTOR_BYTES // a.itemsize
    for i in range(0, count, width):
        for j in range(0, length, width):
            transpose_tile(out, j * wide + i, wide, a, i * length + j, length)


@njit(nogil=True, inline="always")
def copy_run(out, to, a, at, count):  # type: ignore[no-untyped-def]
    """out[to + j] = a[at + j] for j < count, on flat arrays: whole vectors, the last overlapping the one before."""
    width = VECTOR_BYTES // a.itemsize
    half, quarter = width // 2, max(1, width // 4)
    if count >= width:
        for j in range(0, count - width, width):
            _vector(out, to + j, a, at + j)
        _vector(out, to + count - width, a, at + count - width)
    elif count >= half:
        _half(out, to, a, at)
        _half(out, to + count - half, a, at + count - half)
    elif count >= quarter:
        _quarter(out, to, a, at)
        _quarter(out, to + count - quarter, a, at + count - quarter)
    else:
        for j in range(count):
            out[to + j] = a[at + j]


@njit(nogil=True, inline="always")
def copy_strided_run(out, to, a, at, step, count):  # type: ignore[no-untyped-def]
    """out[to + j] = a[at + j * step] for j < count, on flat arrays."""
    width = VECTOR_BYTES // a.itemsize
    if step == 1:
        copy_run(out, to, a, at, count)
    elif step == 2 and count >= width:
        for j in range(0, count - width, width):
            copy_every_second(out, to + j, a, at + 2 * j)
        copy_every_second(out, to + count - width, a, at + 2 * (count - width))
    else:
        for j in range(count):
            out[to + j] = a[at + j * step]


@njit(nogil=True, inline="always")
def copy_to_strided_run(out, to, step, a, at, count):  # type: ignore[no-untyped-def]
    """out[to + j * step] = a[at + j] for j < count, on flat arrays; a may be read up to a vector beyond."""
    width = VECTOR_BYTES // a.itemsize
    if step == 1:
        copy_run(out, to, a, at, count)
    elif step == 2:
        for j in range(0, count, width):
            copy_to_every_second(out, to + 2 * j, a, at + j, min(width, count - j))
    else:
        for j in range(count):
            out[to + j * step] = a[at + j]
