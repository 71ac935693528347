"""Host code of tiled.cu and tiled_weight.cu: convolutions by tiles in shared memory, and which tile is taken."""

from __future__ import annotations

from functools import lru_cache
from math import inf, prod
from typing import Any, NamedTuple

import numpy as np

from tinyconv.geometry import Geometry
from tinyconv.kernels.arrays import Array, array_module
from tinyconv.kernels.cuda.launcher import Constants, blocks_for, contiguous, launch, window

DEPTH = 8  # of a slice


class Tile(NamedTuple):
    """The results of one block; each thread makes 8 rows and 4 * across columns of them, in registers."""

    rows: int
    columns: int
    across: int

    @property
    def threads(self) -> int:
        return self.rows * self.columns // (32 * self.across)

    @property
    def constants(self) -> Constants:
        """What tile.h leaves open."""
        return ("ROWS", self.rows), ("COLUMNS", self.columns), ("ACROSS", self.across)


#: From the largest, which reads least, to those that keep more multiprocessors busy where there are few rows or
#: columns. For each product that a tile is made for: how many instructions the machine code of its main loop has for
#: each multiplication. "gather" is outputs and the gradient of the input; "few" outputs of few channels, where a slice
#: goes over all taps of all channels; "weight" the gradient of the weights. No thread has registers for 8 x 8 doubles.
TILES: dict[np.dtype[Any], dict[Tile, dict[str, float]]] = {
    np.dtype(np.float32): {
        Tile(128, 128, 2): {"gather": 1.16, "weight": 1.24},
        Tile(64, 128, 2): {"gather": 1.20, "few": 1.42, "weight": 1.31},
        Tile(64, 64, 1): {"gather": 1.24, "weight": 1.45},
        Tile(32, 128, 1): {"gather": 1.31, "weight": 1.59},
    },
    np.dtype(np.float64): {Tile(64, 64, 1): {"gather": 1.36, "few": 1.64, "weight": 1.56}},
}

# Channels that are few, and how many depths all their taps may have: see MOST_FEW in tiled.cu.
_FEW, _MOST_DEPTHS = 4, 512

# What a plan is weighed by: by the data sheet of an H200, not by a measurement. The unit is the time that a
# multiprocessor takes for a slice of 128 x 128 results.
_MULTIPROCESSORS = 132  # the same number everywhere, so that sums have the same bits on every GPU
_START = 6.0  # slices: reading the first, writing the result
_PART = 3.6e-6  # writing and reading one result of a part: 8 bytes at 4 TB/s, against 0.55 us a slice
_LEAST_SLICES = 8  # of a part
_PARTS_BYTES = 64 << 20


class Plan(NamedTuple):
    """The tile, and how many blocks share the sum of each."""

    tile: Tile
    splits: int


@lru_cache(maxsize=1024)
def plan(kind: str, rows: int, columns: int, slices: int, times: int, results: int, dtype: np.dtype[Any]) -> Plan:
    """The tile and the number of parts for which the busiest multiprocessor has least to do, by counting.

    kind: of the product, see ``TILES``. There are ``times`` matrices of rows x columns results (groups, phases), sums
    of ``slices`` slices, and together ``results`` numbers, of which each part writes all.
    """
    best, least = Plan(next(iter(TILES[dtype])), 1), inf
    for tile, instructions in TILES[dtype].items():
        if kind not in instructions:
            continue
        blocks = times * -(-rows // tile.rows) * -(-columns // tile.columns)
        each = tile.rows * tile.columns * instructions[kind] / 128**2
        most = min(slices // _LEAST_SLICES, _PARTS_BYTES // max(1, results * dtype.itemsize))
        for splits in range(1, max(1, min(most, -(-8 * _MULTIPROCESSORS // max(1, blocks)))) + 1):
            busiest = -(-blocks * splits // _MULTIPROCESSORS) * (-(-slices // splits) + _START) * each
            cost = busiest + (splits * results * _PART if splits > 1 else 0)
            if cost < least:
                best, least = Plan(tile, splits), cost
    return best


def conv(x: Array, w: Array, g: Geometry, groups: int) -> Array:
    """x (N, C_in, *I), w (C_out, C_in/groups, *K) to y (N, C_out, *O)."""
    return _gather(x, w, g, groups, back=False)


def conv_input(gy: Array, w: Array, g: Geometry, groups: int) -> Array:
    """gy (N, C_out, *O), w (C_out, C_in/groups, *K) to gx (N, C_in, *I).

    Pixels with the same remainder modulo the stride are read by the same taps: each such phase is a convolution of
    stride 1, and one launch makes them all.
    """
    return _gather(gy, w, g, groups, back=True)


def _gather(x: Array, w: Array, g: Geometry, groups: int, back: bool) -> Array:
    x, w = contiguous(x), contiguous(w)
    xp, batch = array_module(x), x.shape[0]
    channels, rows = w.shape[0] // groups, w.shape[1]  # summed, and made, by a group
    if not back:
        channels, rows = rows, channels
    y = xp.empty((batch, groups * rows, *(g.size if back else g.output)), x.dtype)
    phases = prod(min(s, n) for s, n in zip(g.stride, g.size)) if back else 1
    made = prod(-(-n // s) for s, n in zip(g.stride, g.size)) if back else prod(g.output)  # places of the first phase
    taps, depths = prod(g.kernel), channels
    few = not back and channels <= _FEW and 1 < taps <= _MOST_DEPTHS // channels
    if few:
        w, taps, depths = w.reshape(w.shape[0], channels * taps, 1), 1, channels * taps
    slices = -(-depths // DEPTH)
    kind = "few" if few else "gather"
    tile, splits = plan(kind, rows, batch * made, -(-taps // phases) * slices, groups * phases, y.size, x.dtype)
    row_tiles, column_tiles = -(-rows // tile.rows), -(-batch * made // tile.columns)
    packed = pack(w, groups, back, slices * DEPTH, row_tiles * tile.rows)
    parts = y if splits == 1 else xp.empty((splits, *y.shape), y.dtype)
    args = (x, packed, parts, batch, channels, rows, groups, column_tiles, splits, back, window(g))
    blocks = row_tiles * column_tiles * splits * phases * groups
    launch("tiled.cu", "gather", blocks, args, tile.threads, (*tile.constants, ("FEW", int(few))))
    if splits > 1:
        launch("pack.cu", "add_parts", blocks_for(y.size), (parts, y, y.size, splits))
    return y


def pack(w: Array, groups: int, back: bool, channels: int, rows: int) -> Array:
    """w (C_out, C_in/groups, *K) as (groups, K, channels, rows), with zeros up to ``channels`` and ``rows``.

    Rows are the output channels of a group, and with ``back`` its input channels; ``channels`` are the others.
    """
    taps, made, summed = prod(w.shape[2:]), w.shape[0] // groups, w.shape[1]
    if back:
        made, summed = summed, made
    packed = array_module(w).empty((groups, taps, channels, rows), w.dtype)
    threads = groups * channels * rows
    args = (w, packed, threads, taps, summed, channels, made, rows, back)
    launch("pack.cu", "pack_weights", blocks_for(threads), args)
    return packed


def conv_weight(x: Array, gy: Array, g: Geometry, groups: int) -> Array:
    """x (N, C_in, *I), gy (N, C_out, *O) to gw (C_out, C_in/groups, *K).

    Blocks share the sum over the outputs; the parts are added in a fixed order.
    """
    x, gy = contiguous(x), contiguous(gy)
    xp, batch, channels, rows = array_module(x), x.shape[0], x.shape[1] // groups, gy.shape[1] // groups
    gw = xp.empty((groups * rows, channels, *g.kernel), x.dtype)
    taps, padded = prod(g.kernel), -(-channels // 4) * 4  # four neighbours have one tap
    columns = taps * padded
    results = groups * rows * columns
    tile, splits = plan("weight", rows, columns, -(-batch * prod(g.output) // DEPTH), groups, results, x.dtype)
    row_tiles, column_tiles = -(-rows // tile.rows), -(-columns // tile.columns)
    parts = xp.empty((splits, groups * rows, taps, padded), x.dtype)
    args = (x, gy, parts, batch, channels, rows, groups, column_tiles, splits, window(g))
    blocks = row_tiles * column_tiles * splits * groups
    launch("tiled_weight.cu", "weight_parts", blocks, args, tile.threads, tile.constants)
    summed = (parts, gw, results, splits, channels, padded, taps)
    launch("pack.cu", "add_weight_parts", blocks_for(results), summed)
    return gw
