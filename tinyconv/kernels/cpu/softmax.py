"""Softmax on the CPU, and its logarithm: each row is read from memory once, forward and backward.

Idea. Numbers to be summed lie side by side (axis last) or a plane apart (classes of an image). In the first case a row
stays in the first cache while its largest number is found, its exponentials are summed and it is divided by the sum. In
the second, a block of neighbouring pixels does, and every step is a loop along the pixels.

Cost. One e^x a number; one read and one write of memory, backward two reads. For float32: NumPy has the faster e^x of
float64.
"""

from __future__ import annotations

from math import prod

import numpy as np
from numba import njit

from tinyconv.kernels import im2col
from tinyconv.kernels.arrays import Array
from tinyconv.kernels.cpu.exponential import exp
from tinyconv.kernels.cpu.memory import plain
from tinyconv.kernels.cpu.product import LEAF, leaf
from tinyconv.kernels.threads import parallel

_BLOCK = 256  # pixels
_summing = njit(**LEAF, fastmath={"reassoc"})  # a sum may be cut into vectors; NaN and infinity stay what they are
_ZERO, _ONE = np.float32(0), np.float32(1)
_ALL = np.int32(0x7FFFFFFF)


@leaf
def _largest(bits, r):  # type: ignore[no-untyped-def]
    """The largest float of a row of their bits: these order as integers do once those of negative floats are turned
    over, and a loop over integers becomes vectors. NaN with a plus is the largest of all; one with a minus is passed
    over, and makes a NaN of the sum."""
    top = np.int32(-_ALL - 1)
    for j in range(bits.shape[1]):
        b = bits[r, j]
        top = max(top, b ^ ((b >> 31) & _ALL))
    return np.int32(top ^ ((top >> 31) & _ALL)).view(np.float32)


@_summing
def _exponentials(x, y, r, top):  # type: ignore[no-untyped-def]
    """A row of y = e^(x - top), and its sum."""
    total = _ZERO
    for j in range(x.shape[1]):
        e = exp(x[r, j] - top)
        y[r, j] = e
        total += e
    return total


@leaf
def softmax_rows(first, last, x, bits, y, log):  # type: ignore[no-untyped-def]
    """Rows [first, last) of x and y (rows, C)."""
    for r in range(first, last):
        top = _largest(bits, r)
        total = _exponentials(x, y, r, top)
        if log:
            shift = np.log(total)
            for j in range(x.shape[1]):
                y[r, j] = x[r, j] - top - shift
        else:
            share = _ONE / total
            for j in range(x.shape[1]):
                y[r, j] *= share


@leaf
def _block(x, y, n, low, high, top, total, log):  # type: ignore[no-untyped-def]
    """Pixels [low, high) of an image of x and y (N, C, L), class after class."""
    for j in range(low, high):
        top[j - low], total[j - low] = x[n, 0, j], _ZERO
    for c in range(1, x.shape[1]):
        for j in range(low, high):
            value, best = x[n, c, j], top[j - low]
            top[j - low] = value if (value > best) | (value != value) else best
    for c in range(x.shape[1]):
        for j in range(low, high):
            y[n, c, j] = exp(x[n, c, j] - top[j - low])
        for j in range(low, high):
            total[j - low] += y[n, c, j]
    for j in range(high - low):
        total[j] = np.log(total[j]) if log else _ONE / total[j]
    for c in range(x.shape[1]):
        if log:
            for j in range(low, high):
                y[n, c, j] = x[n, c, j] - top[j - low] - total[j - low]
        else:
            for j in range(low, high):
                y[n, c, j] *= total[j - low]


@leaf
def softmax_blocks(first, last, scratch, blocks, x, y, log):  # type: ignore[no-untyped-def]
    """Blocks [first, last) of the pixels of all images: x and y (N, C, L); scratch of two blocks."""
    top, total = scratch[0], scratch[1]
    for item in range(first, last):
        n, block = divmod(item, blocks)
        _block(x, y, n, np.uintp(block * _BLOCK), np.uintp(min((block + 1) * _BLOCK, x.shape[2])), top, total, log)


def _taken(x: Array, axis: int) -> bool:
    """True for float32 in rows, or with enough of them side by side."""
    between = prod(x.shape[axis + 1 :])
    return x.dtype == np.float32 and x.size > 0 and (between == 1 or between >= 16)


def softmax(x: Array, axis: int, log: bool) -> Array:
    """y of the shape of x."""
    if not _taken(x, axis):
        return im2col.softmax(x, axis, log)
    x = plain(x)
    y = np.empty(x.shape, x.dtype)
    shape = prod(x.shape[:axis]), x.shape[axis], prod(x.shape[axis + 1 :])
    if shape[2] == 1:
        rows, out = (a.reshape(shape[:2]) for a in (x, y))
        bits = rows.view(np.int32)
        parallel(lambda first, last: softmax_rows(first, last, rows, bits, out, log), shape[0], 1.0 * x.size)
    else:
        images, out = (a.reshape(shape) for a in (x, y))
        blocks = -(-shape[2] // _BLOCK)
        given = blocks, images, out, log

        def work(first: int, last: int) -> None:
            softmax_blocks(first, last, np.empty((2, _BLOCK), x.dtype), *given)

        parallel(work, shape[0] * blocks, 1.0 * x.size)
    return y


# --------------------------------------------------------------------------------------------------
# Gradients


@_summing
def _sum(g, y, r, log):  # type: ignore[no-untyped-def]
    """The sum over a row of g, or of g y."""
    total = _ZERO
    if log:
        for j in range(g.shape[1]):
            total += g[r, j]
    else:
        for j in range(g.shape[1]):
            total += g[r, j] * y[r, j]
    return total


@leaf
def softmax_grad_rows(first, last, g, y, dx, log):  # type: ignore[no-untyped-def]
    """Rows [first, last) of g, y and dx (rows, C)."""
    for r in range(first, last):
        total = _sum(g, y, r, log)
        if log:
            for j in range(g.shape[1]):
                dx[r, j] = g[r, j] - exp(y[r, j]) * total
        else:
            for j in range(g.shape[1]):
                dx[r, j] = y[r, j] * (g[r, j] - total)


@leaf
def _grad_block(g, y, dx, n, low, high, total, log):  # type: ignore[no-untyped-def]
    """Pixels [low, high) of an image of g, y and dx (N, C, L), class after class."""
    for j in range(high - low):
        total[j] = _ZERO
    for c in range(g.shape[1]):
        if log:
            for j in range(low, high):
                total[j - low] += g[n, c, j]
        else:
            for j in range(low, high):
                total[j - low] += g[n, c, j] * y[n, c, j]
    for c in range(g.shape[1]):
        if log:
            for j in range(low, high):
                dx[n, c, j] = g[n, c, j] - exp(y[n, c, j]) * total[j - low]
        else:
            for j in range(low, high):
                dx[n, c, j] = y[n, c, j] * (g[n, c, j] - total[j - low])


@leaf
def softmax_grad_blocks(first, last, total, blocks, g, y, dx, log):  # type: ignore[no-untyped-def]
    """Blocks [first, last) of the pixels of all images: g, y and dx (N, C, L); total is scratch of a block."""
    for item in range(first, last):
        n, block = divmod(item, blocks)
        _grad_block(g, y, dx, n, np.uintp(block * _BLOCK), np.uintp(min((block + 1) * _BLOCK, g.shape[2])), total, log)


def softmax_grad(g: Array, y: Array, axis: int, log: bool) -> Array:
    """dx of the shape of g."""
    if not _taken(g, axis):
        return im2col.softmax_grad(g, y, axis, log)
    g, y = plain(g), np.require(y, g.dtype, ("C", "A", "W"))
    dx = np.empty(g.shape, g.dtype)
    shape = prod(g.shape[:axis]), g.shape[axis], prod(g.shape[axis + 1 :])
    if shape[2] == 1:
        rows = [a.reshape(shape[:2]) for a in (g, y, dx)]
        parallel(lambda first, last: softmax_grad_rows(first, last, *rows, log), shape[0], 0.7 * g.size)
    else:
        blocks = -(-shape[2] // _BLOCK)
        given = (blocks, *(a.reshape(shape) for a in (g, y, dx)), log)

        def work(first: int, last: int) -> None:
            softmax_grad_blocks(first, last, np.empty(_BLOCK, g.dtype), *given)

        parallel(work, shape[0] * blocks, 0.7 * g.size)
    return dx
