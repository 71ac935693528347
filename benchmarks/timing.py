"""Interleaved timing: both sides in turn, in one process, so that a busy machine disturbs them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any


def interleaved(sides: dict[str, Callable[[], Any]], rounds: int) -> dict[str, dict[str, float]]:
    """Seconds of each side over ``rounds`` rounds, each side once a round in turn, after one round to warm up.

    Returns {side: {"median", "min", "spread"}}, the spread from the first to the third quartile.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for round_number in range(rounds + 1):
        for name, run in sides.items():
            started = time.perf_counter()
            run()
            if round_number:
                seconds[name].append(time.perf_counter() - started)
    result = {}
    for name, values in seconds.items():
        low, middle, high = statistics.quantiles(values, n=4)
        result[name] = {"median": middle, "min": min(values), "spread": high - low}
    return result
