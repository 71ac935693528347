"""Pooling, unpooling, unfolding and folding against torch, the rules for ties and NaN, and the wrong calls."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch.nn.functional as TF
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import tinyconv
from compare import FINITE, RUNGS, A, Call, as_torch
from tinyconv import Tensor, gradcheck, gradgradcheck, kernels
from tinyconv import functional as F
from windowed import on_every_rung, refused, some, spelled, turns

WITH_NAN = (*FINITE, "nan")


@st.composite
def windows(draw: st.DrawFn, dilated: bool) -> tuple[int, tuple[int, ...], dict[str, Any], bool]:
    """(rank, input size, arguments, ceil_mode) of a legal pooling, made from its output size and a rest."""
    rank = draw(st.sampled_from([1, 2, 2, 3]))
    kernel = some(draw, rank, st.integers(1, 3))
    stride = some(draw, rank, st.integers(1, 3)) if draw(st.booleans()) else None
    dilation = some(draw, rank, st.integers(1, 2)) if dilated and draw(st.booleans()) else (1,) * rank
    # torch wants at most half the kernel, dilated or not
    padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
    ceil_mode = draw(st.booleans())
    steps = kernel if stride is None else stride
    output = some(draw, rank, st.integers(1, 3))
    rest = tuple(draw(st.integers(0, s - 1)) for s in steps)
    size = tuple(
        max(1, (o - 1) * s + d * (k - 1) + 1 + r - 2 * p)
        for o, s, d, k, r, p in zip(output, steps, dilation, kernel, rest, padding)
    )
    for n, k, s, p, d in zip(size, kernel, steps, padding, dilation):
        # torch gives a window that reads no pixel an index outside the image, and then fails in backward.
        assume(all(any(0 <= start + tap * d < n for tap in range(k)) for start in range(-p, 0, s)))
    arguments: dict[str, Any] = {"kernel_size": spelled(draw, kernel), "padding": spelled(draw, padding)}
    if stride is not None:
        arguments["stride"] = spelled(draw, stride)
    if dilated:
        arguments["dilation"] = spelled(draw, dilation)
    return rank, size, arguments, ceil_mode


def batches(draw: st.DrawFn) -> tuple[int, ...]:
    return draw(st.sampled_from([(2,), (1, 2), (2, 1), (0, 2)]))


@st.composite
def max_pools(draw: st.DrawFn) -> tuple[str, Call]:
    rank, size, arguments, ceil_mode = draw(windows(True))
    arguments |= {"ceil_mode": ceil_mode, "return_indices": draw(st.booleans())}
    return f"max_pool{rank}d", Call((A((*batches(draw), *size)),), arguments)


@st.composite
def average_pools(draw: st.DrawFn) -> tuple[str, Call]:
    rank, size, arguments, ceil_mode = draw(windows(False))
    if rank == 3:  # torch wants the kernel inside the bare image there
        size = tuple(max(n, 3) for n in size)
    arguments |= {"ceil_mode": ceil_mode, "count_include_pad": draw(st.booleans())}
    if rank > 1 and draw(st.booleans()):
        arguments["divisor_override"] = draw(st.sampled_from([1, 3, -2]))
    return f"avg_pool{rank}d", Call((A((*batches(draw), *size)),), arguments)


@st.composite
def lp_pools(draw: st.DrawFn) -> tuple[str, Call]:
    rank, size, arguments, ceil_mode = draw(windows(False))
    size = tuple(max(n, 3) for n in size)
    del arguments["padding"]
    if rank == 1 and isinstance(arguments["kernel_size"], tuple):  # torch takes an int only
        arguments["kernel_size"] = arguments["kernel_size"][0]
    arguments |= {"ceil_mode": ceil_mode, "norm_type": draw(st.sampled_from([1, 2, 3, 2.5]))}
    return f"lp_pool{rank}d", Call((A((*batches(draw), *size), "positive"),), arguments)


@st.composite
def adaptive_pools(draw: st.DrawFn) -> tuple[str, Call]:
    rank = draw(st.sampled_from([1, 2, 2, 3]))
    size, output = some(draw, rank, st.integers(1, 6)), some(draw, rank, st.integers(1, 7))
    wanted: Any = spelled(draw, output)
    if rank > 1 and draw(st.booleans()):
        wanted = (None, *output[1:])
    kind = draw(st.sampled_from(["avg", "max"]))
    arguments = {"output_size": wanted} | ({"return_indices": draw(st.booleans())} if kind == "max" else {})
    return f"adaptive_{kind}_pool{rank}d", Call((A((*batches(draw), *size)),), arguments)


@settings(max_examples=120)
@given(st.one_of(max_pools(), average_pools(), adaptive_pools()), turns(WITH_NAN))
def test_values_and_derivatives_are_those_of_torch(case: tuple[str, Call], turn: Any) -> None:
    name, call = case
    on_every_rung(getattr(F, name), getattr(TF, name), call, turn)


@settings(max_examples=40)
@given(lp_pools(), turns(("normal", "ties")))
def test_power_average_pooling_is_that_of_torch(case: tuple[str, Call], turn: Any) -> None:
    name, call = case
    on_every_rung(getattr(F, name), getattr(TF, name), call, turn, factor=4.0)


@settings(max_examples=30)
@given(st.one_of(max_pools(), average_pools(), adaptive_pools()), turns(("infinite",), ("float64",)))
def test_infinities_spread_as_in_torch(case: tuple[str, Call], turn: Any) -> None:
    name, call = case
    on_every_rung(getattr(F, name), getattr(TF, name), call, turn, order=0)


@st.composite
def foldings(draw: st.DrawFn) -> tuple[str, Call]:
    kernel, stride, dilation, output = (some(draw, 2, st.integers(1, 3)) for _ in range(4))
    padding = some(draw, 2, st.integers(0, 2))
    size = tuple(
        max(1, (o - 1) * s + d * (k - 1) + 1 + draw(st.integers(0, s - 1)) - 2 * p)
        for o, s, d, k, p in zip(output, stride, dilation, kernel, padding)
    )
    blocks = 1
    for n, k, s, d, p in zip(size, kernel, stride, dilation, padding):
        blocks *= (n + 2 * p - d * (k - 1) - 1) // s + 1
    batch = draw(st.sampled_from([(), (0,), (2,)]))
    arguments = {"kernel_size": kernel, "stride": stride, "dilation": dilation, "padding": padding}
    if draw(st.booleans()):
        return "unfold", Call((A((*batch, 2, *size)),), arguments)
    return "fold", Call((A((*batch, 2 * kernel[0] * kernel[1], blocks)),), {"output_size": size, **arguments})


@settings(max_examples=50)
@given(foldings(), turns(WITH_NAN))
def test_unfolding_and_folding_are_those_of_torch(case: tuple[str, Call], turn: Any) -> None:
    name, call = case
    on_every_rung(getattr(F, name), getattr(TF, name), call, turn)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding"), [(6, 2, 2, 0), (7, 2, 2, 0), (8, 3, 2, 1), (5, 3, 1, 1)]
)
def test_unpooling_is_that_of_torch(rank: int, size: int, kernel: int, stride: int, padding: int) -> None:
    """With overlapping windows as well: the same maximum is then written twice."""
    x = np.random.default_rng(rank).standard_normal((2, 2, *(size,) * rank))
    pool, unpool = f"max_pool{rank}d", f"max_unpool{rank}d"
    y, i = getattr(F, pool)(Tensor(x), kernel, stride, padding, return_indices=True)
    _, ti = getattr(TF, pool)(as_torch(x), kernel, stride, padding, return_indices=True)
    np.testing.assert_array_equal(i.data, ti.numpy())
    for output_size in (x.shape, x.shape[2:]):
        t = as_torch(y.data, True)
        z = getattr(TF, unpool)(t, ti, kernel, stride, padding, output_size)
        ours = Tensor(y.data.copy(), requires_grad=True)
        found = getattr(F, unpool)(ours, i, kernel, stride, padding, output_size)
        np.testing.assert_array_equal(found.data, z.detach().numpy())
        v = np.random.default_rng(9).standard_normal(z.shape)
        z.backward(as_torch(v))
        found.backward(Tensor(v))
        np.testing.assert_array_equal(ours.grad.data, t.grad.numpy())
    single = getattr(F, unpool)(Tensor(y.data[0]), Tensor(i.data[0]), kernel, stride, padding, x.shape[2:])
    np.testing.assert_array_equal(single.data, found.data[0])


def test_derivatives_against_finite_differences() -> None:
    x = Tensor(np.random.default_rng(3).permutation(50).reshape(1, 2, 5, 5) * 0.1, requires_grad=True)
    for function in (
        lambda x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True),
        lambda x: F.avg_pool2d(x, (3, 2), 2, 1, ceil_mode=True, count_include_pad=False),
        lambda x: F.lp_pool2d(x + 1, 3, 2),
        lambda x: F.adaptive_max_pool2d(x, (3, 4)),
        lambda x: F.adaptive_avg_pool2d(x, (3, 7)),
        lambda x: F.unfold(x, 2, stride=2),
    ):
        assert gradcheck(function, x)
        assert gradgradcheck(lambda x, function=function: function(x * x), x, fast=True)


@pytest.mark.parametrize("rung", RUNGS)
def test_the_first_of_equal_maxima_takes_the_whole_gradient(rung: str) -> None:
    x = Tensor(np.zeros((1, 1, 4)), requires_grad=True)
    with kernels.use_kernels(rung):
        F.max_pool1d(x, 2).backward(Tensor(np.array([[[3.0, 5.0]]])))
    assert x.grad.data.tolist() == [[[3, 0, 5, 0]]]


@pytest.mark.parametrize("rung", RUNGS)
def test_windows_of_minus_infinity_have_an_index_of_their_own_pixels(rung: str) -> None:
    x = Tensor(np.full((1, 1, 6), -np.inf))
    with kernels.use_kernels(rung):
        for pooled in (F.max_pool1d(x, 2, return_indices=True), F.adaptive_max_pool1d(x, 3, return_indices=True)):
            assert np.isneginf(pooled[0].data).all()
            assert pooled[1].data.tolist() == [[[0, 2, 4]]]


@pytest.mark.parametrize("rung", RUNGS)
def test_padding_of_a_maximum_is_no_zero(rung: str) -> None:
    with kernels.use_kernels(rung):
        y = F.max_pool2d(Tensor(np.full((1, 1, 3, 3), -7.0)), 3, 1, 1)
    assert (y.data == -7).all()


def test_a_window_without_power_has_the_gradient_zero() -> None:
    x = Tensor(np.array([[[0.0, 0.0, 3.0, 4.0]]]), requires_grad=True)
    y = F.lp_pool1d(x, 2, 2)
    assert y.data.tolist() == [[[0, 5]]]
    y.sum().backward()
    np.testing.assert_allclose(x.grad.data, [[[0, 0, 0.6, 0.8]]])


def test_integers() -> None:
    x = np.arange(16).reshape(1, 1, 4, 4)
    assert F.max_pool2d(x, 2).data.tolist() == [[[[5, 7], [13, 15]]]]
    assert F.max_pool2d(x, 2).dtype == np.int64


def test_an_adaptive_output_of_size_zero() -> None:
    x = Tensor(np.ones((2, 3, 4)), requires_grad=True)
    y = F.adaptive_avg_pool1d(x, 0)
    assert y.shape == (2, 3, 0)
    (g,) = tinyconv.grad(y, x, Tensor(np.ones((2, 3, 0))))
    assert not g.data.any()


def ones(*shape: int, dtype: str = "float32") -> np.ndarray:
    return np.ones(shape, dtype)


X = ones(2, 3, 4, 4)
I = np.zeros((2, 3, 2, 2), np.int64)  # noqa: E741
WRONG = [
    ("rank", "max_pool2d", (ones(4, 4), 2), {}, "max_pool2d | (N, C, H, W)"),
    ("rank 5", "avg_pool2d", (ones(1, 1, 1, 4, 4), 2), {}, "5"),
    ("no channels", "max_pool2d", (ones(1, 0, 4, 4), 2), {}, "channels"),
    ("no channels, mean", "avg_pool2d", (ones(1, 0, 4, 4), 2), {}, "channels"),
    ("no pixels", "max_pool2d", (ones(1, 1, 0, 4), 1), {}, "(0, 4)"),
    ("kernel too large", "max_pool2d", (X, 5), {}, "5 | (4, 4)"),
    ("kernel zero", "max_pool2d", (X, 0), {}, "kernel"),
    ("kernel count", "max_pool2d", (X, (2, 2, 2)), {}, "kernel_size | 2 ints"),
    ("stride zero", "max_pool2d", (X, 2), {"stride": 0}, "stride"),
    ("stride negative", "avg_pool2d", (X, 2), {"stride": -1}, "stride"),
    ("dilation zero", "max_pool2d", (X, 2), {"dilation": 0}, "dilation"),
    ("dilated too far", "max_pool2d", (X, 3), {"dilation": 2}, "5"),
    ("padding negative", "max_pool2d", (X, 2), {"padding": -1}, "padding"),
    ("padding above half", "max_pool2d", (X, 2), {"padding": 2}, "padding | half"),
    ("padding above half, mean", "avg_pool2d", (X, (2, 3)), {"padding": (1, 2)}, "padding | half"),
    ("padding a string", "max_pool2d", (X, 2), {"padding": "same"}, "padding"),
    ("divisor zero", "avg_pool2d", (X, 2), {"divisor_override": 0}, "divisor_override"),
    ("divisor fractional", "avg_pool2d", (X, 2), {"divisor_override": 1.5}, "divisor_override"),
    ("bool", "max_pool2d", (ones(1, 1, 4, 4, dtype="bool"), 2), {}, "bool"),
    ("1d rank", "max_pool1d", (ones(4), 2), {}, "(N, C, L)"),
    ("3d rank", "avg_pool3d", (ones(4, 4, 4), 2), {}, "(N, C, D, H, W)"),
    ("lp too large", "lp_pool2d", (X, 2, 5), {}, "lp_pool2d"),
    ("adaptive negative", "adaptive_avg_pool2d", (X, (2, -1)), {}, "output_size"),
    ("adaptive count", "adaptive_avg_pool2d", (X, (2, 2, 2)), {}, "output_size"),
    ("adaptive None for one axis", "adaptive_avg_pool1d", (ones(2, 3, 4), None), {}, "output_size"),
    ("adaptive integers", "adaptive_avg_pool2d", (ones(1, 1, 4, 4, dtype="int64"), 2), {}, "int64"),
    ("adaptive maximum of integers", "adaptive_max_pool2d", (ones(1, 1, 4, 4, dtype="int64"), 2), {}, "int64"),
    ("adaptive no pixels", "adaptive_avg_pool2d", (ones(1, 1, 0, 4), 2), {}, "(0, 4)"),
    ("adaptive no channels", "adaptive_max_pool2d", (ones(1, 0, 4, 4), 2), {}, "channels"),
    ("unpool index beyond", "max_unpool2d", (ones(2, 3, 2, 2), I + 16, 2), {}, "indices | 15"),
    ("unpool index negative", "max_unpool2d", (ones(2, 3, 2, 2), I - 1, 2), {}, "indices | -1"),
    ("unpool index dtype", "max_unpool2d", (ones(2, 3, 2, 2), I.astype("int32"), 2), {}, "int64 | int32"),
    ("unpool shapes", "max_unpool2d", (ones(2, 3, 2, 2), I[:, :, :1], 2), {}, "indices | (2, 3, 2, 2)"),
    ("unpool size", "max_unpool2d", (ones(2, 3, 2, 2), I, 2), {"output_size": (6, 6)}, "output_size"),
    ("unpool integers", "max_unpool2d", (ones(2, 3, 2, 2, dtype="int64"), I, 2), {}, "int64"),
    ("unfold rank", "unfold", (ones(3, 3), 2), {}, "unfold"),
    ("unfold channels", "unfold", (ones(1, 0, 3, 3), 2), {}, "channels"),
    ("unfold too large", "unfold", (ones(1, 1, 3, 3), 4), {}, "(3, 3)"),
    ("unfold stride", "unfold", (ones(1, 1, 3, 3), 2), {"stride": 0}, "stride"),
    ("unfold padding", "unfold", (ones(1, 1, 3, 3), 2), {"padding": -1}, "padding"),
    ("unfold integers", "unfold", (ones(1, 1, 3, 3, dtype="int64"), 2), {}, "int64"),
    ("fold rank", "fold", (ones(4), (3, 3), 2), {}, "fold"),
    ("fold rows", "fold", (ones(1, 5, 4), (3, 3), 2), {}, "4 taps | 5"),
    ("fold columns", "fold", (ones(1, 4, 5), (3, 3), 2), {}, "2 x 2 | 5"),
    ("fold size", "fold", (ones(1, 4, 4), (3, 3, 3), 2), {}, "output_size"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "args", "options", "named"), [pytest.param(*w[1:], id=w[0]) for w in WRONG])
def test_wrong_calls_are_refused_in_words(
    name: str, args: tuple[Any, ...], options: dict[str, Any], named: str
) -> None:
    refused(getattr(F, name), getattr(TF, name), args, named, **options)
