"""Every operator of the table on the device against torch: values, gradients, second derivatives.

Everything is computed and left on the device, and nothing is read from it on the way.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compare import FINITE, Call, Turn, check, check_both_or_neither
from gpu.place import HAS_GPU, Gpu
from table import ROWS, pointwise
from table.spec import Row
from test_operators import PROMOTING, REFUSES, recast, turns
from tinyconv import use_kernels

#: For each row: the emulator is slow.
EXAMPLES = settings().max_examples if HAS_GPU or "HYPOTHESIS_PROFILE" in os.environ else 6
#: Operators whose result has a size that the values decide.
READS = {"one_hot", "getitem"}
#: Operators that are given values of the host: lists as indices, and what a tensor is made of.
SENDS = {"getitem", "tensor"}


CASES = [(row, rung) for row in ROWS for rung in (("cuda", "im2col") if row.windowed else ("cuda",))]


@pytest.mark.filterwarnings("ignore")  # torch's
@pytest.mark.parametrize(("row", "rung"), CASES, ids=[f"{row.name}-{rung}" for row, rung in CASES])
def test_on_the_device(row: Row, rung: str, record_property: Callable[[str, object], None]) -> None:
    seen: set[str] = set()
    ours = partial(row.ours, device="cuda") if row in pointwise.making else row.ours

    @settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
    @given(row.calls, turns(row.contents, row.dtypes))
    def agrees(call: Call, turn: Turn) -> None:
        seen.add(repr(call))
        order = row.order
        if turn.content not in FINITE:
            order = 1 if row.wild and order else 0
        elif turn.content in ("large", "ties"):
            order = min(order, 1)
        for again in (False, True):  # the second time nothing may be sent to the device: tables are there
            place = Gpu(reads=row.name in READS, sends=row.name in SENDS or not again)
            with use_kernels(rung):
                check(
                    ours, row.theirs, call, turn, order=order, products=row.products and turn.content in FINITE,
                    same_precision=row.steps, views=row.views, factor=row.factor, place=place,
                )  # fmt: skip

    agrees()
    record_property("combinations", len(seen))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("row", PROMOTING, ids=[row.name for row in PROMOTING])
def test_dtypes_on_the_device(row: Row) -> None:
    """Integers, bools, float16 and mixtures: the dtype and values of torch, or an error on both sides."""

    @settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
    @given(recast(row), st.integers(0, 1000))
    def agrees(call: Call, seed: int) -> None:
        place = Gpu(reads=row.name in READS)
        check_both_or_neither(row.ours, row.theirs, call, Turn(seed, "ties"), stricter=row.name in REFUSES, place=place)

    agrees()
