"""Every operator of the table on the device against torch: values, gradients, second derivatives.

Everything is computed and left on the device, and nothing is read from it on the way.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import HealthCheck, given, settings

from compare import FINITE, Call, Turn, check
from gpu.place import HAS_GPU, Gpu
from table import ROWS, pointwise
from table.spec import Row
from test_operators import turns

#: For each row: the emulator is slow.
EXAMPLES = settings().max_examples if HAS_GPU or "HYPOTHESIS_PROFILE" in os.environ else 6
#: Operators whose result has a size that the values decide.
READS = {"one_hot", "getitem"}
#: Operators that are given values of the host: lists as indices, and what a tensor is made of.
SENDS = {"getitem", "tensor"}


@pytest.mark.filterwarnings("ignore")  # torch's
@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_on_the_device(row: Row, record_property: Callable[[str, object], None]) -> None:
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
            check(
                ours, row.theirs, call, turn, order=order, products=row.products and turn.content in FINITE,
                same_precision=row.steps, views=row.views, factor=row.factor, place=place,
            )  # fmt: skip

    agrees()
    record_property("combinations", len(seen))
