"""What a row of the table is, and the strategies that its rows are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from compare import CONTENTS, A, Call

FLOATS = ("float64", "float32")


@dataclass(frozen=True)
class Row:
    """One operator: ours, torch's, and a strategy for legal calls of it.

    ``windowed``: has a rung of its own in ``loops`` and in ``im2col``. ``products``: a sum of products of its
    arguments.
    ``steps``: rounds somewhere inside, so that float32 is compared with torch's float32. ``views``: the result may
    share memory.
    ``order``: 0 no gradients, 1 torch has no second derivative, 2 both. ``contents``: what may fill its arrays;
    ``wild``: gradients are compared for NaN and infinite contents as well. ``factor`` widens the bounds; say why
    beside it.
    """

    name: str
    ours: Callable[..., Any]
    theirs: Callable[..., Any]
    calls: st.SearchStrategy[Call]
    windowed: bool = False
    products: bool = False
    steps: bool = False
    views: bool = False
    order: int = 2
    contents: tuple[str, ...] = CONTENTS
    wild: bool = False
    dtypes: tuple[str, ...] = FLOATS
    factor: float = 1.0


#: Contents for operators that torch refuses to run on, or that have poles where NaN and infinities differ by taste.
TAME = ("normal", "ties", "distinct", "negative", "large")

batches = st.sampled_from([0, 1, 2, 3])
sizes = st.integers(1, 4)
booleans = st.booleans()


@st.composite
def shapes(draw: st.DrawFn, least: int = 0, most: int = 4, empty: bool = True) -> tuple[int, ...]:
    """Any shape with ``least`` to ``most`` axes, seldom without elements."""
    shape = draw(st.lists(sizes, min_size=least, max_size=most))
    if empty and shape and draw(st.integers(0, 9)) == 9:
        shape[draw(st.integers(0, len(shape) - 1))] = 0
    return tuple(shape)


@st.composite
def broadcastable(draw: st.DrawFn, count: int = 2, most: int = 3) -> list[tuple[int, ...]]:
    """Shapes that broadcast together."""
    whole = draw(shapes(0, most))
    found = []
    for _ in range(count):
        kept = whole[draw(st.sampled_from([0, 0, len(whole) // 2, len(whole)])) :]
        found.append(tuple(1 if draw(st.integers(0, 3)) == 0 else n for n in kept))
    return found


def spell(draw: st.DrawFn, required: Sequence[Any], options: dict[str, Any], order: Sequence[str] = ()) -> Call:
    """A call with some of the ``options`` passed by position, in torch's ``order``, and the rest by name."""
    leading = 0
    while leading < len(order) and order[leading] in options:
        leading += 1
    placed = draw(st.integers(0, leading))
    args = (*required, *(options[name] for name in order[:placed]))
    return Call(args, {k: v for k, v in options.items() if k not in order[:placed]})


def options(draw: st.DrawFn, **strategies: st.SearchStrategy[Any]) -> dict[str, Any]:
    """Some of the options, drawn; the others are left out and take their defaults."""
    return {name: draw(s) for name, s in strategies.items() if draw(booleans)}


def calls(required: Callable[[st.DrawFn], Sequence[Any]], order: str = "", **extra: Any) -> st.SearchStrategy[Call]:
    """Calls from a function that draws the required arguments and independent strategies for the options."""
    names = order.split()

    @st.composite
    def drawn(draw: st.DrawFn) -> Call:
        return spell(draw, required(draw), options(draw, **extra), names)

    return drawn()


def axes(ndim: int) -> st.SearchStrategy[int]:
    """A legal axis, counted from either end (0 and -1 for a 0-d tensor)."""
    span = max(ndim, 1)
    return st.integers(-span, span - 1)


@st.composite
def some_axes(draw: st.DrawFn, ndim: int) -> Any:
    """None, an axis, or a tuple of distinct axes."""
    kind = draw(st.integers(0, 2))
    if kind == 0 or (kind == 2 and ndim == 0):
        return None
    if kind == 1:
        return draw(axes(ndim))
    chosen = draw(st.lists(st.integers(0, ndim - 1), min_size=1, max_size=ndim, unique=True))
    return tuple(axis - ndim if draw(booleans) else axis for axis in chosen)


def per_axis(draw: st.DrawFn, rank: int, each: st.SearchStrategy[int]) -> int | tuple[int, ...]:
    """One int for all axes, or one an axis."""
    return draw(each) if draw(booleans) else tuple(draw(each) for _ in range(rank))


def spread(value: int | tuple[int, ...], rank: int) -> tuple[int, ...]:
    """One int an axis."""
    return (value,) * rank if isinstance(value, int) else tuple(value)


def tensor(shape: Sequence[int], **options: Any) -> A:
    """An array argument of this shape."""
    return A(tuple(shape), **options)


def integers(shape: Sequence[int], low: int, high: int) -> A:
    """An int64 argument with elements from ``low`` to ``high`` - 1."""
    return A(tuple(shape), "int", low, max(high, low + 1))
