"""Host code of sampling at points."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from tinyconv.geometry import Sizes
from tinyconv.kernels.arrays import Array, array_module
from tinyconv.kernels.corners import NEIGHBOURS, first_neighbour, weights
from tinyconv.kernels.cuda.launcher import PLANES, blocks_for, contiguous, device_of, launch

_PADDING = {"zeros": 0, "border": 1, "reflection": 2}
_GRID = np.dtype(
    [(n, np.int32) for n in ("rank", "padding", "align", "first", "d", "h", "w", "order_d", "order_h", "order_w")]
)


@lru_cache(maxsize=64)
def _coefficients(mode: str, order: tuple[int, ...], dtype: np.dtype[Any], xp: Any, device: int | None) -> Array:
    """(rank, neighbours, 4) of the polynomials of the weights, copied to the device once."""
    found = np.zeros((len(order), len(weights(mode, 0)), 4), dtype)
    for axis, d in enumerate(order):
        rows = weights(mode, d)
        found[axis, :, : rows.shape[1]] = rows
    return xp.asarray(found)


def corners(
    grid: Array, size: Sizes, mode: str, padding_mode: str, align_corners: bool, order: Sequence[int]
) -> tuple[Array, Array]:
    """grid (N, L, rank) to weights and flat indices (N, K, L)."""
    xp, grid, (N, L, rank) = array_module(grid), contiguous(grid), grid.shape
    coefficients = _coefficients(mode, tuple(order), grid.dtype, *device_of(grid))
    K = len(NEIGHBOURS[mode]) ** rank
    w, at = xp.empty((N, K, L), grid.dtype), xp.empty((N, K, L), np.int64)
    ones = (1,) * (3 - rank)
    first = first_neighbour(mode)
    how = (rank, _PADDING[padding_mode], align_corners, first, *ones, *size, *(0 for _ in ones), *order)
    args = (grid, coefficients, w, at, N * L, L, np.array(how, _GRID))
    launch("corners.cu", f"corners_{mode}", blocks_for(N * L), args)
    return w, at


def sample(x: Array, w: Array, at: Array) -> Array:
    """x (N, C, P), w and at (N, K, L) to y (N, C, L)."""
    (N, C, P), (_, K, L) = x.shape, at.shape
    x, w, at = contiguous(x), contiguous(w, x.dtype), contiguous(at, np.int64)
    y = array_module(x).empty((N, C, L), x.dtype)
    tasks = N * -(-C // PLANES) * L
    launch("points.cu", "sample", blocks_for(tasks), (x, w, at, y, tasks, C, K, P, L))
    return y


def sample_input(gy: Array, w: Array, at: Array, pixels: int) -> Array:
    """gy (N, C, L), w and at (N, K, L) to gx (N, C, pixels): the corners sorted by pixel, then a gather."""
    (N, C, L), K, xp = gy.shape, at.shape[1], array_module(gy)
    gy, w = contiguous(gy), contiguous(w, gy.dtype)
    keys = xp.where(at < 0, N * pixels, at + xp.arange(N)[:, None, None] * pixels).reshape(-1)  # those outside are last
    order = xp.argsort(keys, kind="stable")
    ends = xp.searchsorted(keys[order], xp.arange(N * pixels + 1))
    gx = xp.empty((N, C, pixels), gy.dtype)
    tasks = N * -(-C // PLANES) * pixels
    launch("points.cu", "sample_input", blocks_for(tasks), (gy, w, order, ends, gx, tasks, C, K, pixels, L))
    return gx


def sample_weight(x: Array, gy: Array, at: Array) -> Array:
    """x (N, C, P), gy (N, C, L), at (N, K, L) to gw (N, K, L)."""
    (_, C, P), (_, K, L) = x.shape, at.shape
    x, gy, at = contiguous(x), contiguous(gy, x.dtype), contiguous(at, np.int64)
    gw = array_module(x).empty(at.shape, x.dtype)
    launch("points.cu", "sample_weight", blocks_for(gw.size), (x, gy, at, gw, gw.size, C, K, P, L))
    return gw
