"""Host code of softmax and cross-entropy."""

from __future__ import annotations

from math import prod

from tinyconv.kernels.arrays import Array, array_module
from tinyconv.kernels.cuda.launcher import blocks_for, contiguous, launch


def softmax(x: Array, axis: int, log: bool) -> Array:
    """e^x / sum e^x along an axis, or its logarithm; any shape."""
    x = contiguous(x)
    y = array_module(x).empty(x.shape, x.dtype)
    columns, classes, inner = _columns(x, axis)
    launch("softmax.cu", "softmax", blocks_for(columns), (x, y, columns, classes, inner, int(log)))
    return y


def softmax_grad(g: Array, y: Array, axis: int, log: bool) -> Array:
    """The gradient of softmax at its output y, for a cotangent g of the same shape."""
    g, y = contiguous(g), contiguous(y.astype(g.dtype, copy=False))
    dx = array_module(g).empty(g.shape, g.dtype)
    columns, classes, inner = _columns(g, axis)
    launch("softmax.cu", "softmax_grad", blocks_for(columns), (g, y, dx, columns, classes, inner, int(log)))
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
    args = (x, contiguous(target), contiguous(factor.astype(x.dtype, copy=False)), contiguous(valid))
    launch(
        "softmax.cu", "cross_entropy", blocks_for(loss.size), (*args, loss, top, log_sum, loss.size, classes, length)
    )
    return loss, top, log_sum


def cross_entropy_grad(
    g: Array, x: Array, target: Array, factor: Array, valid: Array, top: Array, log_sum: Array
) -> Array:
    """dx (N, C, L) for the cotangent g (N, L)."""
    x = contiguous(x)
    dx = array_module(x).empty(x.shape, x.dtype)
    g, factor, top, log_sum = (contiguous(a.astype(x.dtype, copy=False)) for a in (g, factor, top, log_sum))
    args = (g, x, contiguous(target), factor, contiguous(valid), top, log_sum, dx, x.size, x.shape[1], x.shape[2])
    launch("softmax.cu", "cross_entropy_grad", blocks_for(x.size), args)
    return dx
