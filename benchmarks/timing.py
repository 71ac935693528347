"""Timing of several sides in turn, in one process, so that a busy machine disturbs them alike.

Libraries leave their threads spinning for some milliseconds after a call, in wait of the next. Where sides take turns
call by call, each is timed against the idle threads of the other: a convolution of 0.6 ms then took torch 4 ms. So a
turn begins with calls that are not timed, and short calls are timed several in a row.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Generator, Iterable

#: A side that is timed: what it does up to the first yield is preparation, each further yield names what is done by
#: then ("forward", then "both").
Side = Callable[[], Generator[str, None, None]]

SETTLE = 0.03  # seconds of calls that are not timed, at the start of a turn: OpenBLAS idles for some 20 ms
LONG = 0.2  # seconds; a call this long settles within itself
TURN = 0.02  # seconds of timed calls in a turn, one call at least


def interleaved(sides: dict[str, Side], seconds: float, least: int = 3) -> dict[str, dict[str, dict[str, float]]]:
    """Time the sides in turns for about ``seconds``, ``least`` turns of each at least, after one turn to warm up.

    Returns {side: {stage: {"median", "min", "spread", "processor", "calls"}}} in seconds a call: wall time, its spread
    from the first to the third quartile, and the median time of all processors, counted from the first yield.
    """
    samples: dict[str, list[dict[str, tuple[float, float]]]] = {name: [] for name in sides}
    for side in sides.values():
        _turn(side)
    end, turns = time.perf_counter() + seconds, 0
    while turns < least or time.perf_counter() < end:
        for name, side in sides.items():
            samples[name] += _turn(side)
        turns += 1
    return {
        name: {stage: _summary([call[stage] for call in calls]) for stage in calls[0]}
        for name, calls in samples.items()
    }


def _turn(side: Side) -> list[dict[str, tuple[float, float]]]:
    """One turn of a side: calls until it has settled, then the timed ones."""
    began = time.perf_counter()
    call = _call(side)
    if _length(call) > LONG:
        return [call]
    while time.perf_counter() - began < SETTLE:
        _call(side)
    calls: list[dict[str, tuple[float, float]]] = []
    began = time.perf_counter()
    while not calls or time.perf_counter() - began < TURN:
        calls.append(_call(side))
    return calls


def _call(side: Side) -> dict[str, tuple[float, float]]:
    """Wall and processor seconds from the start to the end of each stage."""
    stages = side()
    next(stages)
    processor, wall = time.process_time(), time.perf_counter()
    return {stage: (time.perf_counter() - wall, time.process_time() - processor) for stage in stages}


def _length(call: dict[str, tuple[float, float]]) -> float:
    return max(wall for wall, _ in call.values())


def _summary(samples: list[tuple[float, float]]) -> dict[str, float]:
    walls = [wall for wall, _ in samples]
    low, middle, high = statistics.quantiles(walls, n=4, method="inclusive") if len(walls) > 1 else walls * 3
    processor = statistics.median(processor for _, processor in samples)
    return {"median": middle, "min": min(walls), "spread": high - low, "processor": processor, "calls": len(walls)}


def geometric_mean(ratios: Iterable[float]) -> float:
    """exp(mean(log r)): twice as fast here and half as fast there is 1."""
    return math.exp(statistics.fmean(math.log(ratio) for ratio in ratios))
