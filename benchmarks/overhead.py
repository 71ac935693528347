"""What one operator costs when there is nothing to compute: (a*b + c).sum().backward() on one-element tensors."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from benchmarks.layers import LIBRARIES
from benchmarks.timing import Side, interleaved

CALLS = 100  # in a row, since one is too short to be timed


def side(library: Any) -> Side:
    """CALLS calls as interleaved() times them."""
    a, b, c = (library.tensor([value], requires_grad=True) for value in (1.5, 2.5, 3.5))

    def run() -> Generator[str, None, None]:
        yield "start"
        for _ in range(CALLS):
            (a * b + c).sum().backward()
        yield "calls"

    return run


def run(quick: bool) -> dict[str, dict[str, float]]:
    """Seconds a call of both libraries."""
    timed = interleaved({name: side(library) for name, library in LIBRARIES.items()}, 0.5 if quick else 2.0)
    return {
        name: {key: value if key == "calls" else value / CALLS for key, value in stages["calls"].items()}
        for name, stages in timed.items()
    }
