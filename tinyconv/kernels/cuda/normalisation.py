"""Host code of the norms: which axes of an array are A, C and L of norm.cu, and who adds up what."""

from __future__ import annotations

from itertools import groupby
from math import prod
from typing import NamedTuple

import numpy as np

from tinyconv.kernels import im2col
from tinyconv.kernels.arrays import Array, array_module
from tinyconv.kernels.cuda.launcher import blocks_for, contiguous, launch

_SHORT, _DEEP = 128, 32  # numbers of a row, below which a thread goes down a column, if that has so many
#: Warps and threads that keep a large GPU busy: so many teams share the sums, as long as each has enough to do.
_WARPS, _COLUMNS = 4096, 65536


class Teams(NamedTuple):
    """How a sum over (A, C, L) is shared out: see norm.cu."""

    A: int
    C: int
    L: int
    segments: int
    length: int
    parts: int
    lanes: int

    @property
    def blocks(self) -> int:
        """Of the launch."""
        lines = self.C * self.L if self.lanes == 1 else self.A * self.C
        return blocks_for(lines * self.segments * self.lanes)


def _teams(A: int, C: int, L: int) -> Teams:
    columns = L < _SHORT and (A >= _DEEP or L < 8 and A > 1)
    line, most = (A, min(_COLUMNS // (C * L), A // 16)) if columns else (L, min(_WARPS // (A * C), L // 512))
    length = -(-line // max(1, most))
    segments, lanes = -(-line // length), 1 if columns else 8 if length < _SHORT else 32
    return Teams(A, C, L, segments, length, segments * (L if columns else A), lanes)


def normalise(x: Array, weight: Array, bias: Array, axes: tuple[int, ...], eps: float) -> tuple[Array, Array, Array]:
    """(y, mean, var) of x over ``axes``; weight and bias broadcast to x, mean and var float64 with axes of size 1."""
    layout, scaled = _layout(x.shape, axes), _block(weight.shape, x.shape)
    if not x.size or layout is None or scaled is None or bias.shape != weight.shape:
        return im2col.normalise(x, weight, bias, axes, eps)
    xp, x = array_module(x), contiguous(x)
    (_, C, L), teams = layout, _teams(*layout)
    kept = tuple(1 if a in axes else n for a, n in enumerate(x.shape))
    mean, var, y = xp.empty(kept, np.float64), xp.empty(kept, np.float64), xp.empty(x.shape, x.dtype)
    weight, bias = (contiguous(a, x.dtype) for a in (weight, bias))
    how = (C, L, *scaled)
    if teams.parts == 1:
        launch("norm.cu", "normalise_rows", teams.blocks, (x, mean, var, weight, bias, y, teams, how, eps))
        return y, mean, var
    parts = xp.empty((C, teams.parts, 3), np.float64)
    launch("norm.cu", "statistics", teams.blocks, (x, parts, teams))
    launch("norm.cu", "join_statistics", blocks_for(32 * C), (parts, mean, var, C, teams.parts))
    launch("norm.cu", "scale_shift", blocks_for(-(-x.size // 4)), (x, mean, var, weight, bias, y, x.size, how, eps))
    return y, mean, var


def normalise_grad(
    g: Array, x: Array, weight: Array, mean: Array, var: Array, axes: tuple[int, ...], eps: float
) -> tuple[Array, Array, Array]:
    """(dx, dweight, dbias) for the cotangent g of y."""
    layout, scaled = _layout(x.shape, axes), _block(weight.shape, x.shape)
    if not x.size or layout is None or scaled is None:
        return im2col.normalise_grad(g, x, weight, mean, var, axes, eps)
    xp, dtype = array_module(x), weight.dtype
    x, weight = contiguous(x), contiguous(weight, x.dtype)
    g, mean, var = contiguous(g, x.dtype), contiguous(mean), contiguous(var)
    (A, C, L), (inner, count) = layout, scaled
    given, how = (g, x, mean, var, weight), (C, L, inner, count)

    def add_up(teams: Teams, kind: str) -> Array:
        parts = xp.empty((teams.C, teams.parts, 2), np.float64)
        args = (*given, parts, teams, how, eps)
        launch("norm.cu", "gradient_parts" + kind, teams.blocks, args)
        return parts

    def join(parts: Array, outputs: int, A: int, runs: int, segments: int, of: int, weighted: bool) -> list[Array]:
        """sums (outputs, 2), dw and db (outputs,)"""
        found = [xp.empty((outputs, 2), np.float64), *(xp.empty(outputs, x.dtype) for _ in range(2))]
        args = (weight, parts, *found, outputs, A, runs, segments, parts.shape[1], of, weighted)
        launch("norm.cu", "join_gradients", blocks_for(32 * outputs), args)
        return found

    teams = _teams(x.size // (count * inner), count, inner)
    same = (C, L) == (count, inner)  # a weight for each mean, which moves out of the sums
    rows = teams.lanes > 1 and L % teams.L == 0  # each of one weight and of one mean
    parts = add_up(teams, "" if same or rows else "_moving")
    sums, dw, db = join(parts, count, 1, 1, teams.parts, count, same)
    if rows and not same:
        sums = join(parts, C, A, L // teams.L, teams.segments, count, True)[0]
    elif not same:
        teams = _teams(A, C, L)
        parts = add_up(teams, "_weighted")
        sums = parts if teams.parts == 1 else join(parts, C, 1, 1, teams.parts, C, False)[0]
    dx = xp.empty(x.shape, x.dtype)
    args = (*given, sums, dx, x.size, how, C / x.size, eps)
    launch("norm.cu", "gradient_input", blocks_for(-(-x.size // 4)), args)
    return dx, *(a.reshape(weight.shape).astype(dtype, copy=False) for a in (dw, db))


def _layout(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, int, int] | None:
    """(A, C, L) with the statistics over A and L; None where the axes lie otherwise."""
    parts = [(reduced, prod(n for _, n in run)) for reduced, run in groupby(_marked(shape, axes), lambda pair: pair[0])]
    if parts and not parts[0][0]:
        parts.insert(0, (True, 1))
    if len(parts) > 3:
        return None
    A, C, L = (*(n for _, n in parts), 1, 1, 1)[:3]
    return (A, C, L) if C > 1 else (1, 1, A * L)


def _marked(shape: tuple[int, ...], axes: tuple[int, ...]) -> list[tuple[bool, int]]:
    """(is it reduced, its size) of every axis that has more than one element."""
    return [(a in axes, n) for a, n in enumerate(shape) if n != 1]


def _block(weight: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, int] | None:
    """(inner, count): element i of x is scaled by weight i // inner % count. None where the weight's axes are apart."""
    wide = [a for a, n in enumerate(weight) if n != 1]
    if not wide:
        return prod(shape), 1
    between = range(wide[0], wide[-1])
    if any(weight[a] == 1 and shape[a] != 1 for a in between):
        return None
    return prod(shape[wide[-1] + 1 :]), prod(weight)
