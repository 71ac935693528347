"""What the tests of the windowed operators share: contents and layouts to draw, every rung, and wrong calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import strategies as st

from compare import FINITE, LAYOUTS, OUR_ERRORS, RUNGS, TORCH_ERRORS, Call, Turn, as_torch, check
from tinyconv import Tensor, kernels


@st.composite
def turns(draw: st.DrawFn, contents: Sequence[str] = FINITE, dtypes: Sequence[str] = ("float64", "float32")) -> Turn:
    """What fills the arrays of a call."""
    arrays = draw(st.lists(st.sampled_from(LAYOUTS), min_size=3, max_size=3))
    cotangent = draw(st.sampled_from([layout for layout in LAYOUTS if layout != "broadcast"]))
    content, dtype = draw(st.sampled_from(contents)), draw(st.sampled_from(dtypes))
    return Turn(draw(st.integers(0, 2**31)), content, (*arrays, cotangent), dtype)


def some(draw: st.DrawFn, rank: int, each: st.SearchStrategy[int]) -> tuple[int, ...]:
    """One int an axis."""
    return tuple(draw(each) for _ in range(rank))


def spelled(draw: st.DrawFn, axes: tuple[int, ...]) -> Any:
    """One int where all axes agree (sometimes), else the tuple."""
    return axes[0] if len(set(axes)) == 1 and draw(st.booleans()) else axes


def on_every_rung(ours: Callable[..., Any], theirs: Callable[..., Any], call: Call, turn: Turn, **options: Any) -> None:
    """Values, gradients and second derivatives agree with torch's on every rung."""
    for rung in RUNGS:
        with kernels.use_kernels(rung):
            check(ours, theirs, call, turn, **{"order": 2, **options})


def refused(
    ours: Callable[..., Any], theirs: Callable[..., Any] | None, args: Sequence[Any], named: str, **options: Any
) -> None:
    """Both refuse the call; our sentence has all words of ``named``. Arrays among the arguments become tensors."""
    if theirs is not None:
        with pytest.raises(TORCH_ERRORS):
            theirs(*(as_torch(a) if hasattr(a, "dtype") else a for a in args), **options)
    with pytest.raises(OUR_ERRORS) as caught:
        ours(*(Tensor(a) if hasattr(a, "dtype") else a for a in args), **options)
    for word in named.split(" | "):
        assert word in str(caught.value), f"{word!r} is not in: {caught.value}"
