"""Where a point lies between pixels: which pixels it is made of, and their weights, as array code.

On one axis a point at position p has the pixels floor(p) + first, floor(p) + first + 1, ... as neighbours, and the
weight of each is a polynomial of t = p - floor(p). A corner is one neighbour of each axis; its weight is the product of
theirs. The derivative of a weight by a coordinate is of the same kind, with the derivative of one axis's polynomial.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
from numpy.polynomial import polynomial

from tinyconv.geometry import Sizes
from tinyconv.kernels.arrays import Array, array_module, native, sum_dtype

#: Of each mode the coefficients of 1, t, t^2, ..., one row a neighbour. Nearest has one neighbour, the pixel nearest to
#: the point. Source of bicubic: Keys, "Cubic convolution interpolation for digital image processing", 1981, equation 4,
#: with a = -3/4.
NEIGHBOURS = {
    "nearest": [[1.0]],
    "bilinear": [[1.0, -1.0], [0.0, 1.0]],
    "bicubic": [[0, -0.75, 1.5, -0.75], [1, 0, -2.25, 1.25], [0, 0.75, 1.5, -1.25], [0, 0, -0.75, 0.75]],
}


def weights(mode: str, order: int) -> np.ndarray[Any, Any]:
    """The coefficients of the ``order``-th derivatives, one row a neighbour."""
    return polynomial.polyder(np.array(NEIGHBOURS[mode]), order, axis=1)


def first_neighbour(mode: str) -> int:
    """The first neighbour's pixel, counted from floor(p)."""
    return -1 if mode == "bicubic" else 0


def corners(
    grid: Array, size: Sizes, mode: str, padding_mode: str, align_corners: bool, order: Sequence[int]
) -> tuple[Array, Array]:
    """grid (N, L, rank) to weights and flat indices (N, K, L)."""
    xp = array_module(grid)
    points = grid.astype(sum_dtype(native(grid).dtype), copy=False)
    axes = []
    for axis, n in enumerate(size):
        x = points[..., len(size) - 1 - axis]  # the last axis of the image is the first coordinate of a point
        slope = (n - 1) / 2 if align_corners else n / 2
        position = (x + 1) * slope if align_corners else ((x + 1) * n - 1) / 2
        if mode != "bicubic":
            position, slope = _folded(position, slope, n, padding_mode, align_corners)
        start = xp.rint(position) if mode == "nearest" else xp.floor(position)
        t, steep = position - start, slope ** order[axis]
        neighbours = []
        for j, coefficients in enumerate(weights(mode, order[axis])):
            at = start + (first_neighbour(mode) + j)
            if mode == "bicubic":  # not the point is folded, but each of its pixels
                at, _ = _folded(at, slope, n, padding_mode, align_corners)
            within = (at >= 0) & (at <= n - 1)
            weight = t * 0 + coefficients[-1] if len(coefficients) > 1 else xp.full_like(t, coefficients[0])
            for c in coefficients[-2::-1]:
                weight = weight * t + c
            neighbours.append((weight * steep, xp.where(within, at, 0).astype(xp.int64), within))
        axes.append(neighbours)
    weight, index = [], []
    for corner in product(*axes):
        w, flat, inside = 1, 0, True
        for n, (factor, at, within) in zip(size, corner):
            w, flat, inside = w * factor, flat * n + at, inside & within
        weight.append(w)
        index.append(xp.where(inside, flat, -1))
    return xp.stack(weight, 1).astype(native(grid).dtype, copy=False), xp.stack(index, 1)


def _folded(position: Array, slope: float, n: int, padding_mode: str, align_corners: bool) -> tuple[Array, Array]:
    """Positions brought back into [0, n-1] by clamping or reflection, and their derivatives by the coordinate.

    NaN becomes the first pixel. What is clamped has the derivative 0, on the bounds as well.
    """
    xp = array_module(position)
    slopes = xp.full_like(position, slope)
    if padding_mode == "zeros":
        return position, slopes
    at = xp.nan_to_num(position, nan=0.0)
    if padding_mode == "reflection":
        low, span = (0.0, n - 1.0) if align_corners else (-0.5, float(n))
        distance = xp.abs(at - low)
        turns = xp.floor(distance / max(span, 1.0))
        rest = distance % span if span else distance * 0
        slopes = xp.where((turns % 2 == 1) != (at < low), -slopes, slopes)
        at = xp.where(turns % 2 == 1, span - rest, rest) + low
    fixed = (at <= 0) | (at >= n - 1) | xp.isnan(position)
    return xp.clip(at, 0, n - 1), xp.where(fixed, 0, slopes)
