"""One step of an optimiser in array language, for NumPy and CuPy: with one array of scratch, in blocks that stay in the
cache.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from tinyconv.kernels.arrays import Array, array_module
from tinyconv.kernels.threads import parallel

_BLOCK = 1 << 16  # elements; with fewer, threads mostly wait for the interpreter's lock


def sgd_step(
    x: Array, g: Array, v: Array | None, lr: float, momentum: float, dampening: float, weight_decay: float,
    nesterov: bool, maximize: bool,
) -> None:  # fmt: skip
    """The formula, block by block."""
    number = x.dtype.type

    def step(x: Array, g: Array, *state: Array) -> None:
        scratch = -g if maximize else g.copy()
        if weight_decay:
            scratch += x * number(weight_decay)
        for v in state:
            v *= number(momentum)
            v += scratch * number(1 - dampening)
            if nesterov:
                scratch += v * number(momentum)
            else:
                scratch[...] = v
        scratch *= number(lr)
        x -= scratch

    _in_blocks(step, [x, g] + ([] if v is None else [v]))


def adam_step(
    x: Array, g: Array, m: Array, v: Array, largest: Array | None, count: int, lr: float, beta1: float, beta2: float,
    eps: float, weight_decay: float, decoupled: bool, maximize: bool,
) -> None:  # fmt: skip
    """The formula, block by block."""
    xp, number = array_module(x), x.dtype.type

    def step(x: Array, g: Array, m: Array, v: Array, *largest: Array) -> None:
        if maximize:
            g = -g
        if weight_decay and decoupled:
            x *= number(1 - lr * weight_decay)
        elif weight_decay:
            g = g + x * number(weight_decay)
        scratch = g - m
        scratch *= number(1 - beta1)
        m += scratch
        v *= number(beta2)
        xp.multiply(g, g, out=scratch)
        scratch *= number(1 - beta2)
        v += scratch
        for top in largest:
            v = xp.maximum(top, v, out=top)
        xp.sqrt(v, out=scratch)
        scratch /= number(math.sqrt(1 - beta2**count))
        scratch += number(eps)
        xp.divide(m, scratch, out=scratch)
        scratch *= number(lr / (1 - beta1**count))
        x -= scratch

    _in_blocks(step, [x, g, m, v] + ([] if largest is None else [largest]))


def rmsprop_step(
    x: Array, g: Array, v: Array, mean: Array | None, b: Array | None, lr: float, alpha: float, eps: float,
    weight_decay: float, momentum: float, maximize: bool,
) -> None:  # fmt: skip
    """The formula, block by block."""
    xp, number = array_module(x), x.dtype.type
    rest = number(1 - alpha)

    def step(x: Array, g: Array, v: Array, *state: Array) -> None:
        if maximize:
            g = -g
        if weight_decay:
            g = g + x * number(weight_decay)
        v *= number(alpha)
        scratch = g * g
        scratch *= rest
        v += scratch
        if mean is None:
            xp.sqrt(v, out=scratch)
        else:
            average = state[0]
            xp.subtract(g, average, out=scratch)
            scratch *= rest
            average += scratch
            xp.multiply(average, average, out=scratch)
            xp.subtract(v, scratch, out=scratch)
            xp.sqrt(scratch, out=scratch)
        scratch += number(eps)
        xp.divide(g, scratch, out=scratch)
        if b is not None:
            buffer = state[-1]
            buffer *= number(momentum)
            buffer += scratch
            scratch[...] = buffer
        scratch *= number(lr)
        x -= scratch

    _in_blocks(step, [x, g, v, *(a for a in (mean, b) if a is not None)])


def _in_blocks(step: Callable[..., None], arrays: Sequence[Array]) -> None:
    """step(*arrays), of large arrays without gaps in blocks that threads share out."""
    x = arrays[0]
    if x.size <= 2 * _BLOCK or not all(isinstance(a, np.ndarray) and a.flags.c_contiguous for a in arrays):
        step(*arrays)
        return
    flat = [a.reshape(-1) for a in arrays]

    def work(first: int, last: int) -> None:
        for start in range(first * _BLOCK, last * _BLOCK, _BLOCK):
            step(*(a[start : start + _BLOCK] for a in flat))

    parallel(work, -(-x.size // _BLOCK), 2.0 * x.size)
