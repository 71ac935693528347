"""NumPy's own functions on large arrays, in blocks that stay in the cache and by several threads.

NumPy computes 1 / (1 + exp(-x)) in four passes over memory; block by block, the three in between never leave the cache.
And its functions release the interpreter's lock, so that threads can share out the blocks.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tinyconv.kernels.arrays import Array
from tinyconv.kernels.threads import parallel

#: Elements from which on threads can pay.
LARGE = 1 << 16
_BLOCK = 1 << 14  # elements


def blockwise(function: Callable[..., Array], *arrays: Array, cost: float = 0.4) -> Array:
    """function(*arrays) for a function that works element by element, ``cost`` nanoseconds each, and keeps the dtype.

    In blocks, where the first array is a large NumPy array, and the others have its dtype and its shape or none.
    """
    a = arrays[0]
    alike = all(b.dtype == a.dtype and b.shape in (a.shape, ()) for b in arrays)
    if not isinstance(a, np.ndarray) or a.size < LARGE or not alike or not a.dtype.isnative:
        return function(*arrays)
    y = np.empty(a.shape, a.dtype)
    axis = next((axis for axis, n in enumerate(a.shape) if n >= 8), int(np.argmax(a.shape)))
    step = max(1, _BLOCK * a.shape[axis] // a.size)
    direct = isinstance(function, np.ufunc)

    def work(first: int, last: int) -> None:
        with np.errstate(all="ignore"):  # a thread has its own
            for start in range(first, last, step):
                part = (slice(None),) * axis + (slice(start, min(start + step, last)),)
                block = [b[part] if b.shape else b for b in arrays]
                if direct:
                    function(*block, out=y[part])
                else:
                    y[part] = function(*block)

    parallel(work, a.shape[axis], cost * a.size)
    return y
