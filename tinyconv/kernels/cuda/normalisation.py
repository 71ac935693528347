"""Host code of the norms: which axes of an array are A, C and L of norm.cu."""

from __future__ import annotations

from itertools import groupby
from math import prod

import numpy as np

from tinyconv.kernels import im2col
from tinyconv.kernels.arrays import Array, array_module
from tinyconv.kernels.cuda.launcher import blocks_for, contiguous, launch

_THREADS = 256  # of norm.cu


def normalise(x: Array, weight: Array, bias: Array, axes: tuple[int, ...], eps: float) -> tuple[Array, Array, Array]:
    """(y, mean, var) of x over ``axes``; weight and bias broadcast to x, mean and var float64 with axes of size 1."""
    layout, scaled = _layout(x.shape, axes), _block(weight.shape, x.shape)
    if not x.size or layout is None or scaled is None or bias.shape != weight.shape:
        return im2col.normalise(x, weight, bias, axes, eps)
    xp, x = array_module(x), contiguous(x)
    A, C, L = layout
    kept = tuple(1 if a in axes else n for a, n in enumerate(x.shape))
    mean, var, y = xp.empty(kept, np.float64), xp.empty(kept, np.float64), xp.empty(x.shape, x.dtype)
    launch("norm.cu", "statistics", C, (x, mean, var, A, C, L), _THREADS)
    weight, bias = (contiguous(a.astype(x.dtype, copy=False)) for a in (weight, bias))
    args = (x, mean, var, weight, bias, y, x.size, C, L, *scaled, eps)
    launch("norm.cu", "scale_shift", blocks_for(x.size), args)
    return y, mean, var


def normalise_grad(
    g: Array, x: Array, weight: Array, mean: Array, var: Array, axes: tuple[int, ...], eps: float
) -> tuple[Array, Array, Array]:
    """(dx, dweight, dbias) for the cotangent g of y."""
    layout, scaled = _layout(x.shape, axes), _block(weight.shape, x.shape)
    if not x.size or layout is None or scaled is None:
        return im2col.normalise_grad(g, x, weight, mean, var, axes, eps)
    xp, dtype = array_module(x), weight.dtype
    x, weight = contiguous(x), contiguous(weight.astype(x.dtype, copy=False))
    g, mean, var = contiguous(g.astype(x.dtype, copy=False)), contiguous(mean), contiguous(var)
    A, C, L = layout
    sums, dx = xp.empty((C, 2), np.float64), xp.empty(x.shape, x.dtype)
    dw, db = xp.empty(weight.shape, x.dtype), xp.empty(weight.shape, x.dtype)
    launch("norm.cu", "gradient_sums", C, (g, x, mean, var, weight, sums, A, C, L, *scaled, eps), _THREADS)
    each = (g, x, mean, var, weight, sums, dx, x.size, C, L, *scaled, A * L, eps)
    launch("norm.cu", "gradient_input", blocks_for(x.size), each)
    launch("norm.cu", "gradient_weight", scaled[1], (g, x, mean, var, dw, db, x.size, C, L, *scaled, eps), _THREADS)
    return dx, dw.astype(dtype, copy=False), db.astype(dtype, copy=False)


def _layout(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, int, int] | None:
    """(A, C, L) with the statistics over A and L; None where the axes lie otherwise."""
    parts = [(reduced, prod(n for _, n in run)) for reduced, run in groupby(_marked(shape, axes), lambda pair: pair[0])]
    if parts and not parts[0][0]:
        parts.insert(0, (True, 1))
    sizes = [n for _, n in parts]
    return (*sizes, 1, 1, 1)[:3] if len(parts) <= 3 else None  # type: ignore[return-value]


def _marked(shape: tuple[int, ...], axes: tuple[int, ...]) -> list[tuple[bool, int]]:
    """(is it reduced, its size) of every axis that has more than one element."""
    return [(a in axes, n) for a, n in enumerate(shape) if n != 1]


def _block(weight: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, int] | None:
    """(inner, count): element i of x is scaled by weight i // inner % count. None where the weight's axes are apart."""
    wide = [a for a, n in enumerate(weight) if n != 1]
    if not wide:
        return 1, 1
    between = range(wide[0], wide[-1])
    if any(weight[a] == 1 and shape[a] != 1 for a in between):
        return None
    return prod(shape[wide[-1] + 1 :]), prod(weight)
