"""Host code of the steps of optimisers. They change arrays in place: what lies otherwise than a kernel wants is left to
the array code.
"""

from __future__ import annotations

import math

from tinyconv.kernels import update
from tinyconv.kernels.arrays import Array
from tinyconv.kernels.cuda.launcher import blocks_for, contiguous, launch


def _changed(kernel: str, x: Array, g: Array, states: tuple[Array | None, ...], scalars: tuple[float, ...]) -> bool:
    """Launch a step, four elements a thread. False, and nothing done, where an array cannot be changed in place."""
    own = [x, *(x if a is None else a for a in states)]  # a kernel wants an array also where it uses none
    if not all(_plain(a) and a.dtype == x.dtype and a.shape == x.shape for a in own):
        return False
    given = contiguous(g, x.dtype)
    launch("update.cu", kernel, blocks_for(-(-x.size // 4)), (x, given, *own[1:], x.size, *scalars))
    return True


def _plain(a: Array) -> bool:
    return a.flags.c_contiguous and getattr(a.flags, "aligned", True)  # CuPy's arrays always are aligned


def sgd_step(
    x: Array, g: Array, v: Array | None, lr: float, momentum: float, dampening: float, weight_decay: float,
    nesterov: bool, maximize: bool,
) -> None:  # fmt: skip
    """Changes x and v."""
    scalars = lr, momentum, 1 - dampening, weight_decay, -1 if maximize else 1, v is not None, nesterov
    if not _changed("sgd_step", x, g, (v,), scalars):
        update.sgd_step(x, g, v, lr, momentum, dampening, weight_decay, nesterov, maximize)


def adam_step(
    x: Array, g: Array, m: Array, v: Array, largest: Array | None, count: int, lr: float, beta1: float, beta2: float,
    eps: float, weight_decay: float, decoupled: bool, maximize: bool,
) -> None:  # fmt: skip
    """Changes x, m, v and largest."""
    shrink, decay = (1 - lr * weight_decay, 0) if decoupled else (1, weight_decay)
    scalars = (lr / (1 - beta1**count), 1 - beta1, beta2, 1 - beta2, math.sqrt(1 - beta2**count), eps, shrink, decay)
    flags = -1 if maximize else 1, largest is not None
    if not _changed("adam_step", x, g, (m, v, largest), (*scalars, *flags)):
        update.adam_step(x, g, m, v, largest, count, lr, beta1, beta2, eps, weight_decay, decoupled, maximize)


def rmsprop_step(
    x: Array, g: Array, v: Array, mean: Array | None, b: Array | None, lr: float, alpha: float, eps: float,
    weight_decay: float, momentum: float, maximize: bool,
) -> None:  # fmt: skip
    """Changes x, v, mean and b."""
    scalars = lr, alpha, 1 - alpha, eps, weight_decay, momentum, -1 if maximize else 1
    if not _changed("rmsprop_step", x, g, (v, mean, b), (*scalars, mean is not None, b is not None)):
        update.rmsprop_step(x, g, v, mean, b, lr, alpha, eps, weight_decay, momentum, maximize)
