"""Normalisation on the CPU: the statistics in one pass over the image, its use in another.

Idea. Batch, instance, group and layer norm differ in which numbers share a mean. Here x is always (outer, groups, run):
a group is ``outer`` runs of neighbours, and a weight stands for ``inner`` neighbours of a run.

    norm        outer  groups  run            inner          weight of group c at place e of a run
    batch       N      C       pixels         pixels         w[c]
    instance    1      N C     pixels         pixels         w[c mod C]
    group       1      N G     C/G * pixels   pixels         w[c mod G, e // pixels]
    layer       1      N       D              1              w[e]

Sums run in float64 around the first number of the group, d = x - x[0]: then mean = x[0] + sum d / n and
var = sum d^2 / n - (sum d / n)^2 lose no digit that float32 has, however large the mean is. (float64 data go round once
more, around the mean.) Whole groups are shared out among the threads, and each is summed in the same order by whoever
has it; only the sums over all rows that layer norm's weights need are cut, at fixed places.

Cost. Forward two reads and a write of x, backward two reads of x and g and a write; a group that fits the cache is read
from memory once. Bound by memory.
"""

from __future__ import annotations

from math import prod
from typing import NamedTuple

import numpy as np
from numba import njit

from tinyconv.kernels import im2col
from tinyconv.kernels.arrays import Array
from tinyconv.kernels.cpu.memory import plain
from tinyconv.kernels.threads import parallel

_PARTS = 64  # of the rows of a layer norm, for the sums over them
_SUMS = {"reassoc", "contract"}  # a sum may be cut into vectors; NaN and infinity stay what they are


class Layout(NamedTuple):
    """x as (outer, groups, run), and its weights as (period, run / inner)."""

    outer: int
    groups: int
    run: int
    period: int
    inner: int


def _layout(shape: tuple[int, ...], axes: tuple[int, ...], weight: tuple[int, ...]) -> Layout | None:
    """The layout of a norm over ``axes``; None where it has none, or runs too short to be worth it."""
    ndim = len(shape)
    own = [a for a in range(ndim) if weight[a] != 1]  # the weight's axes: they must be neighbours
    low, high = (own[0], own[-1] + 1) if own else (ndim, ndim)
    if weight[low:high] != shape[low:high]:
        return None
    inner = prod(shape[high:]) if own else 0
    if axes == (0, *range(2, ndim)) and weight[0] == 1 and high <= 2:
        run = prod(shape[2:])
        return Layout(shape[0], shape[1], run, shape[1] if own else 1, run) if run > 1 else None
    first = axes[0]
    if axes != tuple(range(first, ndim)):
        return None
    run = prod(shape[first:])
    period = prod(shape[low:first])
    return Layout(1, prod(shape[:first]), run, period, inner if low < first or inner else run)


@njit(nogil=True, cache=True, fastmath=_SUMS)
def _moments(x, start, count, shift):  # type: ignore[no-untyped-def]
    """The sums of d and d^2, d = x - shift, over a run."""
    total = square = 0.0
    for j in range(count):
        d = np.float64(x[start + j]) - shift
        total += d
        square += d * d
    return total, square


@njit(nogil=True, cache=True)
def _statistics(x, c, outer, groups, run):  # type: ignore[no-untyped-def]
    """Mean and variance of a group."""
    count = outer * run
    shift, var = np.float64(x[c * run]), 0.0
    for _ in range(2 if x.itemsize == 8 else 1):
        total = square = 0.0
        for n in range(outer):
            t, s = _moments(x, np.uintp((n * groups + c) * run), np.uintp(run), shift)
            total += t
            square += s
        total /= count
        var = square / count - total * total
        shift += total
    return shift, 0.0 if var < 0 else var


@njit(nogil=True, cache=True)
def normalise_groups(  # type: ignore[no-untyped-def]
    first, last, x, weight, bias, y, mean, var, eps, outer, groups, run, period, inner
):  # fmt: skip
    """Groups [first, last): all arrays flat, weight and bias (period, run / inner)."""
    number = x.dtype.type
    parts = run // inner
    for c in range(first, last):
        mean[c], var[c] = _statistics(x, c, outer, groups, run)
        rstd = 1 / np.sqrt(var[c] + eps)
        # A mean of 1e4 is rounded by more than its float32 data, minus it, are: what is left over goes into the shift.
        centre = number(mean[c])
        rest = mean[c] - centre
        own = c % period * parts
        for n in range(outer):
            start = (n * groups + c) * run
            if inner == 1:
                begin, at, narrow, left = np.uintp(start), np.uintp(own), number(rstd), number(rest)
                for j in range(np.uintp(run)):
                    y[begin + j] = (x[begin + j] - centre - left) * narrow * weight[at + j] + bias[at + j]
            else:
                for q in range(parts):
                    begin = np.uintp(start + q * inner)
                    scale = rstd * weight[own + q]
                    factor, shift = number(scale), number(bias[own + q] - rest * scale)
                    for j in range(np.uintp(inner)):
                        y[begin + j] = (x[begin + j] - centre) * factor + shift


def normalise(
    x: Array, weight: Array, bias: Array, axes: tuple[int, ...], eps: float
) -> tuple[Array, Array, Array]:  # fmt: skip
    """y of the shape of x, and mean and var in float64 with axes of size 1."""
    layout = _layout(x.shape, axes, weight.shape)
    if layout is None or x.size == 0:
        return im2col.normalise(x, weight, bias, axes, eps)
    x = plain(x)
    w, b = (np.ascontiguousarray(a, x.dtype).reshape(-1) for a in (weight, bias))
    y = np.empty(x.shape, x.dtype)
    mean, var = (np.empty([1 if a in axes else n for a, n in enumerate(x.shape)]) for _ in range(2))
    flat = x.reshape(-1), w, b, y.reshape(-1), mean.reshape(-1), var.reshape(-1)
    parallel(lambda first, last: normalise_groups(first, last, *flat, eps, *layout), layout.groups, 0.7 * x.size)
    return y, mean, var


# --------------------------------------------------------------------------------------------------
# Gradients


@njit(nogil=True, cache=True, fastmath=_SUMS)
def _products(g, x, start, count, mean):  # type: ignore[no-untyped-def]
    """The sums of g and g (x - mean) over a run."""
    total = product = 0.0
    for j in range(count):
        value = np.float64(g[start + j])
        total += value
        product += value * (np.float64(x[start + j]) - mean)
    return total, product


@njit(nogil=True, cache=True)
def normalise_grad_groups(  # type: ignore[no-untyped-def]
    first, last, g, x, weight, mean, var, dx, dw, db, eps, outer, groups, run, period, inner
):  # fmt: skip
    """Groups [first, last): dx = (g w - mean(g w) - n mean(g w n)) rstd; dw and db (groups, run / inner) of each."""
    number = x.dtype.type
    parts, count = run // inner, outer * run
    for c in range(first, last):
        rstd = 1 / np.sqrt(var[c] + eps)
        own = c % period * parts
        sum_g = sum_gd = 0.0  # of g w and of g w (x - mean)
        for q in range(parts):
            total = product = 0.0
            for n in range(outer):
                begin = np.uintp((n * groups + c) * run + q * inner)
                t, p = _products(g, x, begin, np.uintp(inner), mean[c])
                total += t
                product += p
            db[c, q], dw[c, q] = total, product * rstd
            sum_g += total * weight[own + q]
            sum_gd += product * weight[own + q]
        centre = number(mean[c])
        slope = -rstd * rstd * rstd * sum_gd / count
        by_x, shift = number(slope), number(-rstd * sum_g / count - slope * (mean[c] - centre))
        for n in range(outer):
            for q in range(parts):
                begin = np.uintp((n * groups + c) * run + q * inner)
                by_g = number(rstd * weight[own + q])
                for j in range(np.uintp(inner)):
                    dx[begin + j] = g[begin + j] * by_g + ((x[begin + j] - centre) * by_x + shift)


@njit(nogil=True, cache=True, fastmath=_SUMS)
def _weighted_products(g, x, weight, start, count, mean):  # type: ignore[no-untyped-def]
    """The sums of g w and g w (x - mean) over a row."""
    total = product = 0.0
    for j in range(count):
        value = np.float64(g[start + j]) * np.float64(weight[j])
        total += value
        product += value * (np.float64(x[start + j]) - mean)
    return total, product


@njit(nogil=True, cache=True)
def normalise_grad_rows(first, last, bounds, g, x, weight, mean, var, dx, dw, db, eps, run):  # type: ignore[no-untyped-def]
    """Parts [first, last) of the rows, from bounds[part] to bounds[part + 1], of a weight for each place of a row.

    dw and db (parts, run): the sums over the rows of each part.
    """
    number = x.dtype.type
    length = np.uintp(run)
    for part in range(first, last):
        for j in range(length):
            dw[part, j] = db[part, j] = 0
        for c in range(bounds[part], bounds[part + 1]):
            begin = np.uintp(c * run)
            rstd = 1 / np.sqrt(var[c] + eps)
            sum_g, sum_gd = _weighted_products(g, x, weight, begin, length, mean[c])
            centre = number(mean[c])
            rest, narrow = number(mean[c] - centre), number(rstd)
            slope, shift = number(rstd * sum_gd / run), number(sum_g / run)
            for j in range(length):
                n = (x[begin + j] - centre - rest) * narrow
                dx[begin + j] = (g[begin + j] * weight[j] - shift - n * slope) * narrow
                dw[part, j] += g[begin + j] * n
                db[part, j] += g[begin + j]


def normalise_grad(
    g: Array, x: Array, weight: Array, mean: Array, var: Array, axes: tuple[int, ...], eps: float
) -> tuple[Array, Array, Array]:
    """The gradients by x, weight and bias."""
    layout = _layout(x.shape, axes, weight.shape)
    if layout is None or x.size == 0:
        return im2col.normalise_grad(g, x, weight, mean, var, axes, eps)
    g, x = np.require(g, x.dtype, ("C", "A", "W")), plain(x)
    w = np.ascontiguousarray(weight, x.dtype).reshape(-1)
    dx = np.empty(x.shape, x.dtype)
    flat = g.reshape(-1), x.reshape(-1), w, plain(mean).reshape(-1), plain(var).reshape(-1), dx.reshape(-1)
    _, groups, run, period, inner = layout
    if inner == 1 and period == 1:
        parts = min(groups, _PARTS)
        bounds = np.array([groups * part // parts for part in range(parts + 1)])
        dw, db = np.empty((parts, run)), np.empty((parts, run))

        def rows(first: int, last: int) -> None:
            normalise_grad_rows(first, last, bounds, *flat, dw, db, eps, run)

        parallel(rows, parts, 1.2 * x.size)
    else:
        dw, db = np.empty((groups, run // inner)), np.empty((groups, run // inner))

        def work(first: int, last: int) -> None:
            normalise_grad_groups(first, last, *flat, dw, db, eps, *layout)

        parallel(work, groups, 1.2 * x.size)
        dw, db = (a.reshape(groups // period, period * (run // inner)) for a in (dw, db))
    dw, db = (a.sum(0).astype(weight.dtype).reshape(weight.shape) for a in (dw, db))
    return dx, dw, db
