"""Cross-entropy over images on the CPU: the loss of every pixel, and its gradient, with the classes in the cache.

Idea. The classes of a pixel lie one plane apart. A block of neighbouring pixels is taken through all classes before the
next one: once for the largest score, once for the sum of e^(score - largest), both as vectors along the pixels.

Cost. One e^x a score, forward and backward; each score is read once from memory, its gradient written once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from tinyconv.kernels import im2col
from tinyconv.kernels.arrays import Array
from tinyconv.kernels.cpu.exponential import exp
from tinyconv.kernels.cpu.memory import plain
from tinyconv.kernels.threads import parallel

_BLOCK = 256  # pixels


def _taken(x: Array) -> bool:
    """True for float32 images, classes by pixels; without pixels there are no neighbours."""
    return x.dtype == np.float32 and x.shape[2] >= 16


@njit(nogil=True, cache=True)
def loss_blocks(first, last, x, target, factor, valid, loss, top, log_sum, blocks):  # type: ignore[no-untyped-def]
    """Blocks [first, last) of all images: x (N, C, L), target, factor, valid, loss (N, L), top, log_sum (N, 1, L)."""
    for item in range(first, last):
        n, block = divmod(item, blocks)
        low, high = np.uintp(block * _BLOCK), np.uintp(min((block + 1) * _BLOCK, x.shape[2]))
        for j in range(low, high):
            top[n, 0, j] = x[n, 0, j]
            log_sum[n, 0, j] = 0
        for c in range(1, x.shape[1]):
            for j in range(low, high):
                value, best = x[n, c, j], top[n, 0, j]
                top[n, 0, j] = value if (value > best) | (value != value) else best
        for c in range(x.shape[1]):
            for j in range(low, high):
                log_sum[n, 0, j] += exp(x[n, c, j] - top[n, 0, j])
        for j in range(low, high):
            log_sum[n, 0, j] = np.log(log_sum[n, 0, j])
            chosen = x[n, target[n, j], j] - top[n, 0, j]
            loss[n, j] = (log_sum[n, 0, j] - chosen) * factor[n, j] if valid[n, j] else 0


def cross_entropy(x: Array, target: Array, factor: Array, valid: Array) -> tuple[Array, Array, Array]:
    """(loss (N, L), top (N, 1, L), log_sum (N, 1, L))"""
    if not _taken(x):
        return im2col.cross_entropy(x, target, factor, valid)
    x = plain(x)
    loss = np.empty((x.shape[0], x.shape[2]), x.dtype)
    top, log_sum = np.empty((2, x.shape[0], 1, x.shape[2]), x.dtype)
    given = (*_beside(x, target, factor, valid), loss, top, log_sum)
    blocks = -(-x.shape[2] // _BLOCK)
    parallel(lambda first, last: loss_blocks(first, last, x, *given, blocks), len(x) * blocks, 1.0 * x.size)
    return loss, top, log_sum


def _beside(x: Array, target: Array, factor: Array, valid: Array) -> tuple[Any, Any, Any]:
    """Target, factor and where they are valid, as a kernel takes them."""
    wanted = ((target, np.int64), (factor, x.dtype), (valid, np.bool_))
    a, b, c = (np.require(array, dtype, ("C", "A", "W")) for array, dtype in wanted)
    return a, b, c


@njit(nogil=True, cache=True)
def grad_blocks(first, last, g, x, target, factor, valid, top, log_sum, dx, blocks):  # type: ignore[no-untyped-def]
    """Blocks [first, last) of all images: dx = f g (softmax(x) - onehot(target))."""
    scale = np.empty(_BLOCK, x.dtype)
    for item in range(first, last):
        n, block = divmod(item, blocks)
        low, high = np.uintp(block * _BLOCK), np.uintp(min((block + 1) * _BLOCK, x.shape[2]))
        for j in range(high - low):
            scale[j] = g[n, low + j] * factor[n, low + j] if valid[n, low + j] else 0
        for c in range(x.shape[1]):
            for j in range(high - low):
                at = low + j
                dx[n, c, at] = exp(x[n, c, at] - top[n, 0, at] - log_sum[n, 0, at]) * scale[j]
        for j in range(high - low):
            dx[n, target[n, low + j], low + j] -= scale[j]


def cross_entropy_grad(
    g: Array, x: Array, target: Array, factor: Array, valid: Array, top: Array, log_sum: Array
) -> Array:
    """dx (N, C, L)"""
    if not _taken(x):
        return im2col.cross_entropy_grad(g, x, target, factor, valid, top, log_sum)
    x, g = plain(x), np.require(g, x.dtype, ("C", "A", "W"))
    dx = np.empty(x.shape, x.dtype)
    given = (*_beside(x, target, factor, valid), plain(top), plain(log_sum), dx)
    blocks = -(-x.shape[2] // _BLOCK)
    parallel(lambda first, last: grad_blocks(first, last, g, x, *given, blocks), len(x) * blocks, 1.0 * x.size)
    return dx
