"""Convolution and transposed convolution against torch, the adjoint identity, and the wrong calls."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch.nn.functional as TF
from hypothesis import given, settings
from hypothesis import strategies as st

import tinyconv
from compare import RUNGS, A, Call
from tinyconv import Tensor, gradcheck, gradgradcheck, kernels
from tinyconv import functional as F
from windowed import on_every_rung, refused, some, spelled, turns


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[str, Call]:
    """A legal convolution: the output size and the rest of the division are drawn, and the input's size follows."""
    rank = draw(st.sampled_from([1, 2, 2, 3]))
    kernel, stride, dilation, pads = (
        some(draw, rank, s) for s in (st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(0, 2))
    )
    padding: Any = spelled(draw, pads)
    if draw(st.integers(0, 5)) == 0:
        padding = draw(st.sampled_from(["same", "valid"]))
        stride = (1,) * rank if padding == "same" else stride
        pads = (0,) * rank
    output = some(draw, rank, st.integers(1, 3))
    rest = tuple(draw(st.integers(0, s - 1)) for s in stride)
    size = tuple(
        max(1, (o - 1) * s + d * (k - 1) + 1 + r - 2 * p)
        for o, s, d, k, r, p in zip(output, stride, dilation, kernel, rest, pads)
    )
    groups = draw(st.integers(1, 3))
    per_group, out_per_group = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    batch = draw(st.sampled_from([(), (0,), (1,), (2,)]))
    arrays: list[Any] = [A((*batch, groups * per_group, *size)), A((groups * out_per_group, per_group, *kernel))]
    arrays.append(draw(st.sampled_from([None, A((groups * out_per_group,))])))
    options = {
        "stride": spelled(draw, stride),
        "dilation": spelled(draw, dilation),
        "padding": padding,
        "groups": groups,
    }
    return f"conv{rank}d", Call(tuple(arrays), options)


@st.composite
def transposed(draw: st.DrawFn) -> tuple[str, Call]:
    """A legal transposed convolution: padding is drawn below what would leave nothing."""
    rank = draw(st.sampled_from([1, 2, 2, 3]))
    kernel, stride, dilation, size = (some(draw, rank, st.integers(1, 3)) for _ in range(4))
    extra = tuple(draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation))
    full = tuple((i - 1) * s + d * (k - 1) + a + 1 for i, s, d, k, a in zip(size, stride, dilation, kernel, extra))
    padding = tuple(draw(st.integers(0, min(2, (n - 1) // 2))) for n in full)
    groups = draw(st.integers(1, 3))
    per_group, out_per_group = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    batch = draw(st.sampled_from([(), (0,), (1,), (2,)]))
    arrays: list[Any] = [A((*batch, groups * per_group, *size)), A((groups * per_group, out_per_group, *kernel))]
    arrays.append(draw(st.sampled_from([None, A((groups * out_per_group,))])))
    options = {"stride": spelled(draw, stride), "dilation": spelled(draw, dilation), "padding": spelled(draw, padding)}
    options |= {"output_padding": spelled(draw, extra), "groups": groups}
    return f"conv_transpose{rank}d", Call(tuple(arrays), options)


@settings(max_examples=120)
@given(st.one_of(convolutions(), transposed()), turns())
def test_values_and_derivatives_are_those_of_torch(case: tuple[str, Call], turn: Any) -> None:
    name, call = case
    on_every_rung(getattr(F, name), getattr(TF, name), call, turn, products=True)


@settings(max_examples=30)
@given(st.one_of(convolutions(), transposed()), turns(("nan", "infinite"), ("float64",)))
def test_what_is_not_finite_spreads_as_in_torch(case: tuple[str, Call], turn: Any) -> None:
    name, call = case
    on_every_rung(getattr(F, name), getattr(TF, name), call, turn, order=0)


@pytest.mark.parametrize("rung", RUNGS)
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_the_three_corners_are_adjoint_exactly_on_integers(rung: str, rank: int) -> None:
    """<conv(x, w), g> = <x, conv_input(g, w)> = <w, conv_weight(x, g)>, without any rounding."""
    rng = np.random.default_rng(rank)
    size, kernel = (6, 5, 4)[:rank], (3, 2, 2)[:rank]
    x = Tensor(rng.integers(-4, 5, (2, 4, *size)).astype(float), requires_grad=True)
    w = Tensor(rng.integers(-4, 5, (6, 2, *kernel)).astype(float), requires_grad=True)
    with kernels.use_kernels(rung):
        y = getattr(F, f"conv{rank}d")(x, w, stride=2, padding=1, groups=2)
        g = rng.integers(-4, 5, y.shape).astype(float)
        gx, gw = tinyconv.grad(y, [x, w], Tensor(g))
    value = (y.data * g).sum()
    assert (x.data * gx.data).sum() == value
    assert (w.data * gw.data).sum() == value


def test_derivatives_against_finite_differences() -> None:
    rng = np.random.default_rng(5)
    x, w, b = (Tensor(rng.standard_normal(s), requires_grad=True) for s in ((1, 2, 4, 4), (2, 1, 2, 3), (2,)))

    def direct(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return F.conv2d(x, w, b, stride=(2, 1), padding=1, groups=2)

    def back(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return F.conv_transpose2d(x, w, b, stride=2, padding=1, output_padding=1, groups=2)

    for function in (direct, back):
        assert gradcheck(function, (x, w, b))
        assert gradgradcheck(function, (x, w, b), fast=True)


def test_third_derivative_of_a_convolution_is_that_of_torch() -> None:
    rng = np.random.default_rng(0)
    arrays = rng.standard_normal((1, 2, 5, 5)), rng.standard_normal((2, 2, 3, 3))

    def penalty(grad: Any, conv: Any, x: Any, w: Any) -> Any:
        for _ in range(2):
            (g,) = grad(((conv(x, w, padding=1)) ** 3).sum(), [x], create_graph=True)
            x = g * 0.1
        return (x * x).sum()

    import torch

    x, w = (Tensor(a, requires_grad=True) for a in arrays)
    tx, tw = (torch.tensor(a, requires_grad=True) for a in arrays)
    ours = tinyconv.grad(penalty(tinyconv.grad, F.conv2d, x, w), [x, w])
    theirs = torch.autograd.grad(penalty(torch.autograd.grad, TF.conv2d, tx, tw), [tx, tw])
    for a, b in zip(ours, theirs):
        np.testing.assert_allclose(a.data, b.numpy(), rtol=1e-9, atol=1e-9 * float(b.abs().max()))


def test_asymmetric_padding_is_padding_the_input_first() -> None:
    rng = np.random.default_rng(1)
    x, w = Tensor(rng.standard_normal((1, 2, 5, 6))), Tensor(rng.standard_normal((3, 2, 3, 2)))
    y = F.conv2d(x, w, stride=2, padding=((1, 2), (0, 3)))
    padded = np.pad(x.data, ((0, 0), (0, 0), (1, 2), (0, 3)))
    np.testing.assert_allclose(y.data, F.conv2d(Tensor(padded), w, stride=2).data, rtol=1e-12, atol=1e-12)


def test_the_guides_numeric_example() -> None:
    """Figure 1.1 of Dumoulin and Visin."""
    image = np.array([[3, 3, 2, 1, 0], [0, 0, 1, 3, 1], [3, 1, 2, 2, 3], [2, 0, 0, 2, 2], [2, 0, 0, 0, 1]])
    kernel = np.array([[0, 1, 2], [2, 2, 0], [0, 1, 2]])
    x, w = Tensor(image[None, None].astype(float)), Tensor(kernel[None, None].astype(float))
    assert F.conv2d(x, w).data.astype(int).tolist() == [[[[12, 12, 17], [10, 17, 19], [9, 6, 14]]]]
    assert F.conv2d(x, w, stride=2, padding=1).data.astype(int).tolist() == [[[[6, 17, 3], [8, 17, 13], [6, 4, 4]]]]


def test_integers_stay_integers() -> None:
    x, w = np.arange(9).reshape(1, 1, 3, 3), np.ones((1, 1, 2, 2), np.int64)
    y = F.conv2d(x, w)
    assert y.dtype == np.int64 and y.data.tolist() == [[[[8, 12], [20, 24]]]]


def test_float16_is_summed_in_float32() -> None:
    x, w = np.full((1, 1, 70), 60.0, np.float16), np.full((1, 1, 70), 10.0, np.float16)
    y = F.conv1d(x, w)
    assert y.dtype == np.float16 and float(y.data.item()) == pytest.approx(42000, rel=1e-3)
    assert math.isfinite(float(y.data.item()))


def ones(*shape: int, dtype: str = "float32") -> np.ndarray:
    return np.ones(shape, dtype)


X, W = ones(2, 3, 8, 8), ones(5, 3, 3, 3)
WRONG = [
    ("channels, NHWC", "conv2d", (ones(2, 8, 8, 3), W), {}, "3 input channels | NHWC image use x.permute(0, 3, 1, 2)"),
    ("channels, HWC", "conv2d", (ones(8, 8, 3), W), {}, "For an HWC image use x.permute(2, 0, 1)"),
    ("channels, no hint", "conv2d", (ones(2, 4, 8, 8), W), {}, "3 input channels | input has 4"),
    ("channels in groups", "conv2d", (X, ones(4, 3, 3, 3)), {"groups": 2}, "6 input channels | groups=2"),
    ("groups do not divide", "conv2d", (X, W), {"groups": 3}, "groups | 5"),
    ("groups zero", "conv2d", (X, W), {"groups": 0}, "groups"),
    ("groups fractional", "conv2d", (X, W), {"groups": 1.5}, "groups"),
    ("input rank", "conv2d", (ones(8, 8), W), {}, "conv2d | (N, C, H, W)"),
    ("input rank 5", "conv2d", (ones(1, 1, 3, 8, 8), W), {}, "5"),
    ("weight rank", "conv2d", (X, ones(5, 3, 3)), {}, "weight | (5, 3, 3)"),
    ("no output channels", "conv2d", (X, ones(0, 3, 3, 3)), {}, "weight.shape=(0, 3, 3, 3)"),
    ("empty kernel", "conv2d", (X, ones(5, 3, 0, 3)), {}, "kernel"),
    ("bias shape", "conv2d", (X, W, ones(4)), {}, "bias | (5,) | (4,)"),
    ("bias rank", "conv2d", (X, W, ones(5, 1)), {}, "bias"),
    ("weight dtype", "conv2d", (X, ones(5, 3, 3, 3, dtype="float64")), {}, "float32 | float64 | weight"),
    ("bias dtype", "conv2d", (X, W, ones(5, dtype="float64")), {}, "bias | float64"),
    ("integer input", "conv2d", (ones(2, 3, 8, 8, dtype="int64"), W), {}, "int64 | float32"),
    ("bool", "conv2d", (ones(2, 3, 8, 8, dtype="bool"), ones(5, 3, 3, 3, dtype="bool")), {}, "bool"),
    ("stride zero", "conv2d", (X, W), {"stride": 0}, "stride | 0"),
    ("stride negative", "conv2d", (X, W), {"stride": (1, -2)}, "stride | -2"),
    ("stride count", "conv2d", (X, W), {"stride": (1, 1, 1)}, "stride | 2 ints"),
    ("stride fractional", "conv2d", (X, W), {"stride": 1.5}, "stride | 1.5"),
    ("dilation zero", "conv2d", (X, W), {"dilation": 0}, "dilation"),
    ("dilation negative", "conv2d", (X, W), {"dilation": -1}, "dilation"),
    ("padding negative", "conv2d", (X, W), {"padding": -1}, "padding"),
    ("padding name", "conv2d", (X, W), {"padding": "full"}, "'same' | 'full'"),
    ("same with stride", "conv2d", (X, W), {"padding": "same", "stride": 2}, "'same' | stride"),
    ("window larger", "conv2d", (ones(2, 3, 2, 8), W), {}, "conv2d | (2, 8)"),
    ("dilated window larger", "conv2d", (X, W), {"dilation": 4}, "9"),
    ("no pixels", "conv2d", (ones(2, 3, 0, 8), W), {"padding": 2}, "(0, 8)"),
    ("1d", "conv1d", (ones(2, 4, 8), ones(5, 3, 3)), {}, "conv1d | 3 input channels"),
    ("1d NLC", "conv1d", (ones(2, 8, 3), ones(5, 3, 3)), {}, "x.permute(0, 2, 1)"),
    ("3d NDHWC", "conv3d", (ones(1, 4, 4, 4, 3), ones(5, 3, 3, 3, 3)), {}, "x.permute(0, 4, 1, 2, 3)"),
    ("transposed channels", "conv_transpose2d", (ones(2, 4, 8, 8), W), {}, "5 input channels | (C_in, C_out/groups"),
    ("transposed groups", "conv_transpose2d", (ones(2, 5, 8, 8), W), {"groups": 2}, "groups"),
    ("transposed bias", "conv_transpose2d", (ones(2, 5, 8, 8), W, ones(5)), {}, "bias | (3,)"),
    ("output padding", "conv_transpose2d", (ones(2, 5, 8, 8), W), {"output_padding": 1}, "output_padding"),
    ("transposed same", "conv_transpose2d", (ones(2, 5, 8, 8), W), {"padding": "same"}, "padding"),
    ("transposed to nothing", "conv_transpose2d", (ones(2, 5, 1, 1), W), {"padding": 2}, "padding"),
    ("transposed stride", "conv_transpose2d", (ones(2, 5, 8, 8), W), {"stride": 0}, "stride"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "args", "options", "named"), [pytest.param(*w[1:], id=w[0]) for w in WRONG])
def test_wrong_calls_are_refused_in_words(
    name: str, args: tuple[Any, ...], options: dict[str, Any], named: str
) -> None:
    refused(getattr(F, name), getattr(TF, name), args, named, **options)


def test_an_argument_that_is_no_tensor_is_named() -> None:
    with pytest.raises(TypeError, match="conv2d: weight must be a Tensor"):
        F.conv2d(X, [[1.0]])
