"""One step of an optimiser on the CPU: every array is read and written once, which is all that it costs.

The operations are those of the array code, rounded in the same places: the bits are the same.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from tinyconv.kernels import update
from tinyconv.kernels.arrays import Array
from tinyconv.kernels.cpu.memory import plain
from tinyconv.kernels.threads import parallel

_step = njit(nogil=True, cache=True, error_model="numpy")  # a division that may raise is no vector


def _flat(g: Array, *own: Array | None) -> list[Any] | None:
    """g and the arrays that a step changes, flat, an empty one for None; None where one cannot be changed in place."""
    given = [a for a in own if a is not None]
    if not all(a.flags.carray and a.dtype == g.dtype and a.shape == g.shape for a in given):
        return None
    return [plain(g).reshape(-1)] + [np.empty(0, g.dtype) if a is None else a.reshape(-1) for a in own]


@_step
def sgd_part(first, last, g, x, v, lr, momentum, rest, decay, sign, nesterov):  # type: ignore[no-untyped-def]
    """Elements [first, last) of flat arrays; rest = 1 - dampening, and v is empty without a momentum."""
    start, count = np.uintp(first), np.uintp(last - first)
    if v.size == 0:
        for j in range(count):
            value, slope = x[start + j], g[start + j] * sign
            x[start + j] = value - (slope + value * decay if decay != 0 else slope) * lr
        return
    for j in range(count):
        value, slope = x[start + j], g[start + j] * sign
        slope = slope + value * decay if decay != 0 else slope
        velocity = v[start + j] * momentum + slope * rest
        v[start + j] = velocity
        x[start + j] = value - (slope + velocity * momentum if nesterov else velocity) * lr


def sgd_step(
    x: Array, g: Array, v: Array | None, lr: float, momentum: float, dampening: float, weight_decay: float,
    nesterov: bool, maximize: bool,
) -> None:  # fmt: skip
    """Changes x and v."""
    flat = _flat(g, x, v)
    if flat is None:
        update.sgd_step(x, g, v, lr, momentum, dampening, weight_decay, nesterov, maximize)
        return
    scalars = lr, momentum, 1 - dampening, weight_decay, -1 if maximize else 1
    given = (*flat, *(x.dtype.type(n) for n in scalars), nesterov)
    parallel(lambda first, last: sgd_part(first, last, *given), x.size, 0.5 * x.size)


@_step
def adam_part(  # type: ignore[no-untyped-def]
    first, last, g, x, m, v, largest, rate, rest1, beta2, rest2, root, eps, shrink, decay, sign
):  # fmt: skip
    """Elements [first, last) of flat arrays; rest = 1 - beta, and largest is empty without amsgrad."""
    start, count = np.uintp(first), np.uintp(last - first)
    for j in range(count):
        value, slope = x[start + j] * shrink, g[start + j] * sign
        slope = slope + value * decay if decay != 0 else slope
        mean = m[start + j] + (slope - m[start + j]) * rest1
        square = v[start + j] * beta2 + slope * slope * rest2
        m[start + j], v[start + j] = mean, square
        if largest.size:
            top = largest[start + j]
            square = square if (square > top) | (square != square) else top
            largest[start + j] = square
        x[start + j] = value - mean / (np.sqrt(square) / root + eps) * rate


def adam_step(
    x: Array, g: Array, m: Array, v: Array, largest: Array | None, count: int, lr: float, beta1: float, beta2: float,
    eps: float, weight_decay: float, decoupled: bool, maximize: bool,
) -> None:  # fmt: skip
    """Changes x, m, v and largest."""
    flat = _flat(g, x, m, v, largest)
    if flat is None:
        update.adam_step(x, g, m, v, largest, count, lr, beta1, beta2, eps, weight_decay, decoupled, maximize)
        return
    shrink, decay = (1 - lr * weight_decay, 0) if decoupled else (1, weight_decay)
    scalars = (lr / (1 - beta1**count), 1 - beta1, beta2, 1 - beta2, math.sqrt(1 - beta2**count), eps, shrink, decay)
    given = (*flat, *(x.dtype.type(n) for n in (*scalars, -1 if maximize else 1)))
    parallel(lambda first, last: adam_part(first, last, *given), x.size, 1.0 * x.size)


@_step
def rmsprop_part(  # type: ignore[no-untyped-def]
    first, last, g, x, v, mean, b, lr, alpha, rest, eps, decay, momentum, sign
):  # fmt: skip
    """Elements [first, last) of flat arrays; rest = 1 - alpha, mean is empty unless centered, b without a momentum."""
    start, count = np.uintp(first), np.uintp(last - first)
    if mean.size == 0 and b.size == 0:  # of three arrays only does the compiler find out that none overlaps another
        for j in range(count):
            value, slope = x[start + j], g[start + j] * sign
            slope = slope + value * decay if decay != 0 else slope
            square = v[start + j] * alpha + slope * slope * rest
            v[start + j] = square
            x[start + j] = value - slope / (np.sqrt(square) + eps) * lr
        return
    for j in range(count):
        value, slope = x[start + j], g[start + j] * sign
        slope = slope + value * decay if decay != 0 else slope
        square = v[start + j] * alpha + slope * slope * rest
        v[start + j] = square
        if mean.size:
            average = mean[start + j] + (slope - mean[start + j]) * rest
            mean[start + j] = average
            square = square - average * average
        change = slope / (np.sqrt(square) + eps)
        if b.size:
            change = b[start + j] * momentum + change
            b[start + j] = change
        x[start + j] = value - change * lr


def rmsprop_step(
    x: Array, g: Array, v: Array, mean: Array | None, b: Array | None, lr: float, alpha: float, eps: float,
    weight_decay: float, momentum: float, maximize: bool,
) -> None:  # fmt: skip
    """Changes x, v, mean and b."""
    flat = _flat(g, x, v, mean, b)
    if flat is None:
        update.rmsprop_step(x, g, v, mean, b, lr, alpha, eps, weight_decay, momentum, maximize)
        return
    scalars = lr, alpha, 1 - alpha, eps, weight_decay, momentum, -1 if maximize else 1
    given = (*flat, *(x.dtype.type(n) for n in scalars))
    parallel(lambda first, last: rmsprop_part(first, last, *given), x.size, 1.0 * x.size)
