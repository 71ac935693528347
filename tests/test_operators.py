"""Every operator of the table against torch: values, gradients, second derivatives, layouts, dtypes."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st

import tinyconv
import tinyconv.functional as F
from compare import CONTENTS, FINITE, LAYOUTS, OUR_ERRORS, TORCH_ERRORS, A, Call, Turn, check, fill, numpy, tensors
from table import ROWS
from table.spec import FLOATS, Row
from tinyconv import Tensor

RUNGS = ("loops", "im2col")
CASES = [(row, rung) for row in ROWS for rung in (RUNGS if row.windowed else ("im2col",))]
#: A share of the profile's examples for each row and rung.
EXAMPLES = max(settings().max_examples // 4, 1)


@st.composite
def turns(draw: st.DrawFn, contents: tuple[str, ...] = CONTENTS, dtypes: tuple[str, ...] = FLOATS) -> Turn:
    """What fills a call."""
    return Turn(
        seed=draw(st.integers(0, 10_000)),
        content=draw(st.sampled_from(contents)),
        layouts=tuple(draw(st.lists(st.sampled_from(LAYOUTS), min_size=1, max_size=4))),
        dtype=draw(st.sampled_from(dtypes)),
    )


def check_row(row: Row, rung: str, call: Call, turn: Turn) -> None:
    """One call of one row on one rung; ``order`` as far as its content allows."""
    order = row.order
    if turn.content not in FINITE:
        order = 1 if row.wild and order else 0
    elif turn.content in ("large", "ties"):
        order = min(order, 1)
    with tinyconv.use_kernels(rung), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check(
            row.ours,
            row.theirs,
            call,
            turn,
            order=order,
            products=row.products and turn.content in FINITE,
            same_precision=row.steps,
            views=row.views,
            factor=row.factor,
        )


def property_of(row: Row, rung: str, examples: int, seen: set[str] | None = None, **more: Any) -> Callable[[], None]:
    """The property as a function without arguments: all that is drawn agrees with torch."""

    @settings(max_examples=examples, suppress_health_check=list(HealthCheck), **more)
    @given(row.calls, turns(row.contents, row.dtypes))
    def agrees(call: Call, turn: Turn) -> None:
        if seen is not None:
            seen.add(repr(call))
        event(turn.content)
        check_row(row, rung, call, turn)

    return agrees


@pytest.mark.parametrize(("row", "rung"), CASES, ids=[f"{row.name}-{rung}" for row, rung in CASES])
def test_against_torch(row: Row, rung: str, record_property: Callable[[str, object], None]) -> None:
    seen: set[str] = set()
    property_of(row, rung, EXAMPLES, seen)()
    record_property("combinations", len(seen))


__all__ = ["Phase", "A", "F", "OUR_ERRORS", "TORCH_ERRORS", "Tensor", "fill", "np", "numpy", "tensors", "torch"]
