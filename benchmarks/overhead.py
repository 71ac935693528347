"""What one operator costs when there is nothing to compute: (a*b + c).sum().backward() on one-element tensors."""

from __future__ import annotations

from typing import Any

import torch

import tinyconv
from benchmarks.timing import interleaved


def run(rounds: int = 50, calls: int = 200) -> dict[str, Any]:
    """Microseconds a call, tinyconv and torch in turn, and the ratio of the medians."""
    sides = {}
    for name, library in (("tinyconv", tinyconv), ("torch", torch)):
        a, b, c = (library.tensor([value], requires_grad=True) for value in (1.5, 2.5, 3.5))

        def repeat(a: Any = a, b: Any = b, c: Any = c) -> None:
            for _ in range(calls):
                (a * b + c).sum().backward()

        sides[name] = repeat
    timed = interleaved(sides, rounds)
    micro = {name: {key: value / calls * 1e6 for key, value in row.items()} for name, row in timed.items()}
    return {"microseconds": micro, "ratio": micro["tinyconv"]["median"] / micro["torch"]["median"]}
