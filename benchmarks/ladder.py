"""The same small convolution on every rung of the kernels, from plain loops up; small, so that the loops get there."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import torch

import tinyconv
from benchmarks.layers import Pool, check, results, side
from benchmarks.shapes import Layer
from benchmarks.timing import Side, interleaved
from tinyconv import kernels

LAYER = Layer(8, 8, 16, 3)
RUNGS = ("loops", "im2col", "numba")  # those that compute on a CPU


def on_rung(rung: str, timed: Side) -> Side:
    """The side computed with ``rung``; the switch itself is not timed."""

    def run() -> Generator[str, None, None]:
        with kernels.use_kernels(rung):
            yield from timed()

    return run


def run(quick: bool) -> dict[str, Any]:
    """Seconds of LAYER at batch 1 on each rung and in torch; the names of the rungs that are not there."""
    pool = Pool()
    sides, skipped = {}, []
    for rung in RUNGS:
        with kernels.use_kernels(rung):
            if kernels.table()["conv"] != rung:
                skipped.append(rung)
                continue
            operands = pool.take(*LAYER.shapes(1).values())
            check(LAYER, results(tinyconv, LAYER, *operands), operands, rung)
        sides[rung] = on_rung(rung, side(tinyconv, LAYER, 1, pool))
    sides["torch"] = side(torch, LAYER, 1, pool)
    return {
        "layer": str(LAYER),
        "flop": 2 * LAYER.multiply_adds(),
        "skipped": skipped,
        "seconds": interleaved(sides, 1.0 if quick else 4.0),
    }
