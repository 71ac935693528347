"""Every bug of the zoo is noticed by the check that stands guard over it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import Phase
from hypothesis.errors import HypothesisException

from table import BY_NAME
from test_operators import property_of
from test_wrong_calls import refusal_of
from zoo import ZOO, Mutant

EXAMPLES = 250  # a mutant is found at the first that shows it


def the_check(mutant: Mutant) -> Callable[[], None]:
    """The check as a function without arguments, with the same examples every time."""
    if callable(mutant.check):
        return mutant.check
    name, kind = mutant.check
    same = dict(derandomize=True, database=None, phases=[Phase.generate])
    if kind == "wrong":
        return refusal_of(BY_NAME[name], 4 * EXAMPLES, set(), **same)
    return property_of(BY_NAME[name], kind, EXAMPLES, **same)


@pytest.mark.parametrize("mutant", ZOO, ids=[m.bug for m in ZOO])
def test_the_mutant_is_killed(mutant: Mutant) -> None:
    check = the_check(mutant)
    # Whatever the bug leads to; what pytest.raises itself raises is no Exception.
    with mutant.alive(), pytest.raises((Exception, pytest.fail.Exception)) as error:
        check()
    assert not isinstance(error.value, HypothesisException)


@pytest.mark.parametrize("mutant", {m.check: m for m in ZOO}.values(), ids=lambda m: m.bug)
def test_the_true_code_passes(mutant: Mutant) -> None:
    the_check(mutant)()


def test_all_nineteen_are_there() -> None:
    assert {int(m.bug.split(".")[0]) for m in ZOO if m.bug[0].isdigit()} == set(range(1, 20))
