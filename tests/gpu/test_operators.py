"""Every operator of the table on the device against torch: values, gradients, second derivatives.

Everything is computed and left on the device, and nothing is read from it on the way.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings

from compare import FINITE, Call, Turn, check
from gpu.place import HAS_GPU, Gpu
from table import ROWS
from table.spec import Row
from test_operators import turns

#: For each row: the emulator is slow.
EXAMPLES = settings().max_examples if HAS_GPU or "HYPOTHESIS_PROFILE" in os.environ else 4
#: Operators whose result has a size that the values decide.
READS = {"one_hot", "getitem"}


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_on_the_device(row: Row, record_property: Callable[[str, object], None]) -> None:
    seen: set[str] = set()

    @settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
    @given(row.calls, turns(row.contents, row.dtypes))
    def agrees(call: Call, turn: Turn) -> None:
        seen.add(repr(call))
        order = row.order
        if turn.content not in FINITE:
            order = 1 if row.wild and order else 0
        elif turn.content in ("large", "ties"):
            order = min(order, 1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            check(
                row.ours, row.theirs, call, turn, order=order, products=row.products and turn.content in FINITE,
                same_precision=row.steps, views=row.views, factor=row.factor, place=Gpu(reads=row.name in READS),
            )  # fmt: skip

    agrees()
    record_property("combinations", len(seen))
