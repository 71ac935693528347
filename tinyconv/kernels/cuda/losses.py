"""Host code of softmax and cross-entropy."""

from __future__ import annotations

from math import prod

from tinyconv.kernels.arrays import Array, array_module
from tinyconv.kernels.cuda.launcher import blocks_for, contiguous, launch


def _launch(kernel: str, arrays: tuple[Array, ...], columns: int, classes: int, inner: int, *more: int) -> None:
    """Launch a kernel of columns of numbers `inner` apart: a warp each where neighbouring columns are too few."""
    lanes = 32 if inner < 8 and classes >= 16 else 1
    launch("softmax.cu", kernel, blocks_for(columns * lanes), (*arrays, columns, classes, inner, lanes, *more))


def softmax(x: Array, axis: int, log: bool) -> Array:
    """e^x / sum e^x along an axis, or its logarithm; any shape."""
    x = contiguous(x)
    y = array_module(x).empty(x.shape, x.dtype)
    _launch("softmax", (x, y), *_columns(x, axis), log)
    return y


def softmax_grad(g: Array, y: Array, axis: int, log: bool) -> Array:
    """The gradient of softmax at its output y, for a cotangent g of the same shape."""
    g, y = contiguous(g), contiguous(y, g.dtype)
    dx = array_module(g).empty(g.shape, g.dtype)
    _launch("softmax_grad", (g, y, dx), *_columns(g, axis), log)
    return dx


def _columns(x: Array, axis: int) -> tuple[int, int, int]:
    """(number of sums, numbers in each, their distance); no sums where x has no element."""
    inner = prod(x.shape[axis + 1 :])
    return (x.size // x.shape[axis] if x.size else 0), x.shape[axis], inner


def cross_entropy(x: Array, target: Array, factor: Array, valid: Array) -> tuple[Array, Array, Array]:
    """(loss (N, L), top and log_sum (N, 1, L)) of x (N, C, L)."""
    xp, x = array_module(x), contiguous(x)
    n, classes, length = x.shape
    loss = xp.empty((n, length), x.dtype)
    top, log_sum = xp.empty((n, 1, length), x.dtype), xp.empty((n, 1, length), x.dtype)
    args = (x, contiguous(target), contiguous(factor, x.dtype), contiguous(valid))
    _launch("cross_entropy", (*args, loss, top, log_sum), loss.size, classes, length)
    return loss, top, log_sum


def cross_entropy_grad(
    g: Array, x: Array, target: Array, factor: Array, valid: Array, top: Array, log_sum: Array
) -> Array:
    """dx (N, C, L) for the cotangent g (N, L)."""
    x = contiguous(x)
    dx = array_module(x).empty(x.shape, x.dtype)
    g, factor, top, log_sum = (contiguous(a, x.dtype) for a in (g, factor, top, log_sum))
    args = (g, x, contiguous(target), factor, contiguous(valid), top, log_sum, dx)
    _launch("cross_entropy_grad", args, g.size, x.shape[1], x.shape[2])
    return dx
