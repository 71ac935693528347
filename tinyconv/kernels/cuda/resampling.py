"""Host code of everything with windows given as lists: resampling, adaptive max pooling, the gradients of pooling."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from tinyconv.geometry import Geometry, Sizes
from tinyconv.kernels import im2col
from tinyconv.kernels.arrays import Array, array_module
from tinyconv.kernels.axismap import AxisMap, axis_map, window_maps
from tinyconv.kernels.cuda.launcher import blocks_for, contiguous, device_of, launch, over_planes
from tinyconv.kernels.cuda.sampling import sample_input

_ONE = axis_map(1, [[0]], [[1]], np.float64)  # of an axis of size 1
_WIDE = 16  # pixels of a row that an output reads, from which on several threads share them

_MAP = np.dtype([(name, np.int32) for name in ("size", "output", "ends", "inputs")])
_MAPS = np.dtype([(axis, _MAP) for axis in "dhw"])


@lru_cache(maxsize=256)
def _lists(
    maps: tuple[AxisMap, ...], dtype: np.dtype[Any], xp: Any, device: int | None
) -> tuple[Array, Array, np.ndarray[Any, Any]]:
    """(table, weights, struct) of up to three maps, see maps.cu; copied to the device once."""
    axes = (_ONE,) * (3 - len(maps)) + maps
    inputs = [m.inputs for m in axes]
    table = np.concatenate([*inputs, *(m.ends for m in axes)]).astype(np.int32)
    weights = np.concatenate([m.weights for m in axes]).astype(dtype)
    begins = np.cumsum([0, *map(len, inputs), *(len(m.ends) for m in axes)])
    struct = np.array(tuple((m.size, m.output, begins[3 + a], begins[a]) for a, m in enumerate(axes)), _MAPS)
    return xp.asarray(table), xp.asarray(weights), struct


def _on_device(maps: Sequence[AxisMap], x: Array) -> tuple[Array, Array, np.ndarray[Any, Any]]:
    """:func:`_lists` where x is."""
    return _lists(tuple(maps), x.dtype, *device_of(x))


def resample(x: Array, maps: Sequence[AxisMap]) -> Array:
    """y[..., o] = sum of weight * x[..., i] over the triples (o, i, weight) of one of the last axes after the other."""
    if len(maps) > 3:
        return im2col.resample(x, maps)
    x, before = contiguous(x), x.shape[: x.ndim - len(maps)]
    y = array_module(x).empty((*before, *(m.output for m in maps)), x.dtype)
    flat = _flat(tuple(maps))
    table, weights, struct = _on_device(flat, x)
    width = len(flat[-1].inputs) / max(1, flat[-1].output)
    if width >= _WIDE:
        lanes = 8 if width < 128 else 32
        launch("maps.cu", "resample_wide", blocks_for(y.size * lanes), (x, table, weights, y, y.size, lanes, struct))
    else:
        taps = _taps(flat[-2:])
        name = f"resample_{taps}" if taps in (1, 2, 4) else "resample"
        over_planes("maps.cu", name, (x, table, weights, y), prod(before), struct)
    return y


@lru_cache(maxsize=256)
def _taps(maps: tuple[AxisMap, ...]) -> int | None:
    """As many pixels as every output of each map reads; None where these are not the same."""
    rows, columns = (_ONE, *maps)[-2:]
    taps = len(columns.inputs) // max(1, columns.output)
    same = all(np.array_equal(m.ends, taps * np.arange(m.output + 1)) for m in (rows, columns))
    return taps if same else None


@lru_cache(maxsize=256)
def _flat(maps: tuple[AxisMap, ...]) -> tuple[AxisMap, ...]:
    """Maps that add up whole planes with one weight, as one map of one long axis: the pixels lie without gaps."""
    whole = all(m.output == 1 and np.array_equal(m.inputs, np.arange(m.size)) for m in maps)
    if not whole or any((m.weights != m.weights[:1]).any() for m in maps):
        return maps
    size, weight = prod(m.size for m in maps), prod(float(w) for m in maps for w in m.weights[:1])
    return (axis_map(size, [range(size)], [[weight] * size], np.float64),)


def adaptive_max_pool(x: Array, maps: Sequence[AxisMap]) -> tuple[Array, Array]:
    """x (N, C, *I) to the largest pixel that each output reads and its flat index, both (N, C, *O)."""
    x, xp = contiguous(x), array_module(x)
    y = xp.empty((*x.shape[:2], *(m.output for m in maps)), x.dtype)
    indices = xp.empty(y.shape, np.int64)
    table, _, struct = _on_device(maps, x)
    over_planes("maps.cu", "adaptive_max_pool", (x, table, y, indices), prod(x.shape[:2]), struct)
    return y, indices


def scatter_windows(gy: Array, indices: Array, size: Sizes, windows: Sequence[AxisMap] | None) -> Array:
    """gy and indices (N, C, *O) to gx (N, C, *size): each pixel asks the outputs that may have chosen it."""
    gy, planes, xp = contiguous(gy), prod(gy.shape[:2]), array_module(gy)
    if windows is None:  # each plane a set of points, each of one corner with the weight 1
        at = indices.reshape(planes, 1, prod(gy.shape[2:]))
        gx = sample_input(gy.reshape(at.shape), xp.ones(at.shape, gy.dtype), at, prod(size))
        return gx.reshape(*gy.shape[:2], *size)
    gx = xp.empty((*gy.shape[:2], *size), gy.dtype)
    table, _, struct = _on_device([m.transposed for m in windows], gy)
    over_planes("maps.cu", "scatter_windows", (gy, contiguous(indices), table, gx), planes, struct)
    return gx


def avg_pool_input(gy: Array, g: Geometry, divisor: Array) -> Array:
    """gy (N, C, *O), divisor (*O) to gx (N, C, *I): each pixel asks the windows that read it."""
    gy = contiguous(gy)
    gx = array_module(gy).empty((*gy.shape[:2], *g.size), gy.dtype)
    table, _, struct = _on_device([m.transposed for m in window_maps(g)], gy)
    share = contiguous(1 / divisor, gy.dtype)  # a division an output, not one a pixel
    over_planes("maps.cu", "avg_pool_input", (gy, table, share, gx), prod(gy.shape[:2]), struct)
    return gx
