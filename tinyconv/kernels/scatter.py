"""Values brought to places by an index: added up, or the last of each place.

NumPy does either one value after the other. On a GPU the values are sorted by their places first, so that those of one
place lie side by side: sums then have a fixed order, where atomic additions would have that of the threads' arrival,
and no value has to be read to know a size.
"""

from __future__ import annotations

import numpy as np

from tinyconv.kernels.arrays import Array, array_module


def sums_at(at: Array, values: Array, size: int) -> Array:
    """y[i] = sum of values[j] over the j with at[j] = i; at and values (n,) to y (size,), in float64 on NumPy.

    On a GPU pass k adds to each element the sum of the 2^k before it that have the same place, so that after log n
    passes the last one of a place has the sum of all. A NaN stays in its place.
    """
    if array_module(values) is np:
        return np.bincount(at, weights=values, minlength=size)
    xp = array_module(values)
    order = xp.argsort(at)  # stable
    at, y = at[order], values[order]
    step = 1
    while step < len(y):
        y[step:] += xp.where(at[step:] == at[:-step], y[:-step], y.dtype.type(0))  # the right side is a new array
        step *= 2
    return _lasts(at, y, size)


def lasts_at(at: Array, values: Array, size: int) -> Array:
    """y[i] = values[j] for the last j with at[j] = i, 0 where there is none; at and values (n,) to y (size,)."""
    xp = array_module(values)
    if xp is np:
        y = np.zeros(size, values.dtype)
        y[at] = values
        return y
    order = xp.argsort(at)
    return _lasts(at[order], values[order], size)


def _lasts(at: Array, values: Array, size: int) -> Array:
    """:func:`lasts_at` of places in ascending order: each but the last of a place goes to one more element."""
    xp = array_module(values)
    y = xp.zeros(size + 1, values.dtype)
    if len(at):
        last = xp.ones(len(at), bool)
        xp.not_equal(at[1:], at[:-1], out=last[:-1])
        y[xp.where(last, at, size)] = values
    return y[:size]
