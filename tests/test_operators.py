"""Every operator of the table against torch: values, gradients, second derivatives, layouts, dtypes."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as torch_F
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

import tinyconv
import tinyconv.functional as F
from compare import FINITE, LAYOUTS, RUNGS, A, Call, Turn, check, check_both_or_neither, fill
from table import BY_NAME, ROWS, pointwise, shape
from table.spec import Row
from tinyconv import Tensor

#: Rows of operators that are not windowed and have kernels in CUDA.
IN_CUDA = {
    "relu", "leaky_relu", "prelu", "sigmoid", "erf", "elu", "celu", "selu", "gelu", "silu", "hardtanh", "hardswish",
    "hardsigmoid", "softplus", "logsigmoid", "softmax", "log_softmax", "cross_entropy", "pad", "interpolate",
    "grid_sample", "batch_norm", "instance_norm", "layer_norm", "group_norm",
}  # fmt: skip
CASES = [(row, rung) for row in ROWS for rung in (RUNGS if row.windowed else ("numba",))]
CASES += [(row, "cuda") for row in ROWS if row.name.split()[0] in IN_CUDA and "cuda" in RUNGS]
#: For each row and rung.
EXAMPLES = max(settings().max_examples // 2, 1)


@st.composite
def turns(draw: st.DrawFn, contents: tuple[str, ...], dtypes: tuple[str, ...]) -> Turn:
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
    # Emulated, and compared on the rung numba as well: half as often.
    property_of(row, rung, EXAMPLES if row.windowed or rung != "cuda" else EXAMPLES // 2, seen)()
    record_property("combinations", len(seen))


# --------------------------------------------------------------------------------------------------
# Dtypes


DTYPES = ("bool", "uint8", "int32", "int64", "float16", "float32", "float64")
#: Operators whose integer or bool arguments torch takes only sometimes (without elements, or by composition).
REFUSES = {
    "div",
    "floor_divide",
    "remainder",
    "pow of any sign",
    "softmax",
    "log_softmax",
    "softmin",
    "softsign",
    "tanhshrink",
    "erf",
    "clamp",
    "clamp between tensors",
}
REFUSES |= {"matmul", "einsum", "linear", "bilinear"}
#: torch's any and all of uint8 are uint8; masked_fill and threshold refuse a value that uint8 cannot hold.
DIFFERENT = ("any", "all", "masked_fill", "threshold")
PROMOTING = [r for r in (*pointwise.ROWS, *shape.ROWS) if r not in pointwise.making and r.name not in DIFFERENT]


@st.composite
def recast(draw: st.DrawFn, row: Row) -> Call:
    """A legal call with another dtype for every floating array."""
    call = draw(row.calls)

    def other(a: A) -> A:
        return replace(a, dtype=draw(st.sampled_from(DTYPES))) if a.domain in ("real", "positive") else a

    args, kwargs = call.map(other)
    return Call(tuple(args), kwargs)


@pytest.mark.parametrize("row", PROMOTING, ids=[row.name for row in PROMOTING])
def test_dtypes(row: Row, record_property: Callable[[str, object], None]) -> None:
    """Integers, bools, float16 and mixtures: the dtype and values of torch, or an error on both sides."""
    seen: set[str] = set()

    @settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
    @given(recast(row), st.integers(0, 1000))
    def agrees(call: Call, seed: int) -> None:
        seen.add(repr(call))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            check_both_or_neither(row.ours, row.theirs, call, Turn(seed, "ties"), stricter=row.name in REFUSES)

    agrees()
    record_property("combinations", len(seen))


# --------------------------------------------------------------------------------------------------
# Derivatives that torch does not have


@pytest.mark.parametrize("name", ["hardsigmoid", "grid_sample bilinear", "grid_sample bicubic"])
def test_second_derivatives_without_torch(name: str) -> None:
    """Against finite differences of our gradient, which is compared with torch's above."""
    row = BY_NAME[name]

    @settings(max_examples=max(EXAMPLES // 3, 1), suppress_health_check=list(HealthCheck))
    @given(row.calls, st.integers(0, 1000))
    def agrees(call: Call, seed: int) -> None:
        rng = np.random.default_rng(seed)
        leaves = [Tensor(fill(a, "normal", "float64", rng), requires_grad=True) for a in call.arrays()]
        if not all(t.data.size for t in leaves):
            return

        def function(*xs: Tensor) -> Any:
            members = iter(xs)
            args, kwargs = call.map(lambda _: next(members))
            return row.ours(*args, **kwargs)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tinyconv.gradgradcheck(function, leaves, fast=True, atol=1e-4)

    agrees()


# --------------------------------------------------------------------------------------------------
# Nothing is missing

#: Public names that no row compares with torch, and where they are tested.
ELSEWHERE = {
    "as_tensor": "test_tensor",
    "from_dlpack": "test_tensor",
    "from_numpy": "test_tensor",
    "rand": "test_devices",
    "randn": "test_devices",
    "manual_seed": "random: the seed of dropout below",
    "get_rng_state": "random: the seed of dropout below",
    "set_rng_state": "random: the seed of dropout below",
    "dropout": "random: its statistics below",
    "dropout1d": "random: its statistics below",
    "dropout2d": "random: its statistics below",
    "dropout3d": "random: its statistics below",
    "alpha_dropout": "random: its statistics below",
    "feature_alpha_dropout": "random: its statistics below",
}


def test_every_operator_has_a_row() -> None:
    public = {name for name in F.__all__} | {
        name
        for name, value in vars(tinyconv).items()
        if callable(value) and not name.startswith("_") and getattr(value, "__module__", "").startswith("tinyconv.ops.")
    }
    rows = {row.name.split()[0] for row in ROWS}
    assert public - rows - set(ELSEWHERE) == set()
    assert set(ELSEWHERE) - public == set(), "a reason without an operator"


def test_every_operator_is_a_method_where_torch_has_one() -> None:
    """x.name(...) and tinyconv.name(x, ...) are the same function."""
    missing = [
        name
        for name, value in vars(tinyconv).items()
        if getattr(value, "__module__", "").startswith("tinyconv.ops.")
        and hasattr(torch.Tensor, name)
        and name != "where"  # x.where(condition, other) has the arguments in another order
        and not hasattr(Tensor, name)
    ]
    assert missing == []


# --------------------------------------------------------------------------------------------------
# Dropout: random, so by what it promises

DROPOUTS = {
    "dropout": (F.dropout, (64, 50)),
    "dropout1d": (F.dropout1d, (40, 50, 3)),
    "dropout2d": (F.dropout2d, (40, 50, 2, 3)),
    "dropout3d": (F.dropout3d, (40, 50, 2, 1, 2)),
    "alpha_dropout": (F.alpha_dropout, (64, 50)),
    "feature_alpha_dropout": (F.feature_alpha_dropout, (40, 50, 2, 3)),
}


@pytest.mark.parametrize("name", DROPOUTS)
@pytest.mark.parametrize("p", [0.0, 0.2, 0.5, 1.0])
def test_dropout(name: str, p: float) -> None:
    function, shape_ = DROPOUTS[name]
    x = Tensor(np.random.default_rng(0).standard_normal(shape_), requires_grad=True)
    y = function(x, p, True, generator=np.random.default_rng(1))
    again = function(x, p, True, generator=np.random.default_rng(1))
    np.testing.assert_array_equal(y.data, again.data, err_msg="the same seed gives the same bits")
    theirs = getattr(torch_F, name)
    if p in (0.0, 1.0):
        expected = theirs(torch.from_numpy(x.data.copy()), p, True).numpy()
        np.testing.assert_allclose(y.data, expected, rtol=1e-12, atol=0)
    else:
        # y = a x + b where kept, one constant where dropped; torch's own a and b are read off its result.
        torch_x = torch.from_numpy(x.data.copy())
        expected = theirs(torch_x, p, True).numpy()
        slope, offset, dropped = _affine(x.data, expected)
        np.testing.assert_allclose(_affine(x.data, y.data), (slope, offset, dropped), rtol=1e-9, atol=1e-12)
        whole = y.data if name in ("dropout", "alpha_dropout") else y.data.reshape(*shape_[:2], -1)[..., 0]
        lost = np.isclose(whole, dropped, atol=1e-12)
        # Four standard deviations of a binomial.
        assert abs(lost.mean() - p) < 4 * np.sqrt(p * (1 - p) / lost.size)
        if whole is not y.data:
            planes = np.isclose(y.data, dropped, atol=1e-12).reshape(*shape_[:2], -1)
            assert (planes == planes[..., :1]).all(), "a channel is dropped whole or not at all"
    v = np.random.default_rng(2).standard_normal(shape_)
    (g,) = tinyconv.grad(y, x, Tensor(v), allow_unused=True)
    ones = function(Tensor(x.data + 1), p, True, generator=np.random.default_rng(1)).data - y.data
    np.testing.assert_allclose(0 if g is None else g.data, v * ones, atol=1e-9)


def _affine(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """(a, b, c) of y = a x + b where kept and c where dropped; c is the most frequent value."""
    values, counts = np.unique(y, return_counts=True)
    c = values[counts.argmax()]
    kept = y != c
    a, b = np.polyfit(x[kept], y[kept], 1)
    return round(float(a), 9), round(float(b), 9), float(c)


@pytest.mark.parametrize("name", DROPOUTS)
def test_dropout_outside_training_changes_nothing(name: str) -> None:
    function, shape_ = DROPOUTS[name]
    x = Tensor(np.ones(shape_))
    np.testing.assert_array_equal(function(x, 0.5, False).data, x.data)
    for p in (-0.1, 1.1):
        with pytest.raises(ValueError, match=name):
            function(x, p)


def test_the_seed_of_dropout() -> None:
    x = Tensor(np.ones((20, 20)))
    tinyconv.manual_seed(3)
    state = tinyconv.get_rng_state()
    first, second = F.dropout(x).data, F.dropout(x).data
    tinyconv.manual_seed(3)
    np.testing.assert_array_equal(F.dropout(x).data, first)
    assert (first != second).any()
    tinyconv.set_rng_state(state)
    np.testing.assert_array_equal(F.dropout(x).data, first)


@pytest.mark.parametrize("other", [-1, np.int8(-1), np.array(-1), np.array([-1], np.int8), 2.5, True])
def test_whole_numbers_are_divided_as_floats(other: Any) -> None:
    """-1 beside a uint8 stays -1: it is not 255 first."""
    ours = tinyconv.div(Tensor(np.array([1, 2], np.uint8)), Tensor(other) if isinstance(other, np.ndarray) else other)
    number = torch.from_numpy(other) if isinstance(other, np.ndarray) else getattr(other, "item", lambda: other)()
    theirs = torch.div(torch.tensor([1, 2], dtype=torch.uint8), number)
    np.testing.assert_array_equal(ours.numpy(), theirs.numpy(), strict=True)


@pytest.mark.parametrize("value", [0, 1, -1])
def test_the_threshold_of_whole_numbers_is_one(value: int) -> None:
    theirs = torch_F.threshold(torch.tensor([value]), -0.5, -3.7)
    np.testing.assert_array_equal(
        F.threshold(Tensor(np.array([value])), -0.5, -3.7).numpy(), theirs.numpy(), strict=True
    )
