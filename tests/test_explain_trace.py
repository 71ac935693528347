"""Traces against torch, against the loops to the last bit, and the wrong calls."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as TF
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyconv import Tensor, explain, nn
from tinyconv import functional as F
from tinyconv.kernels import loops
from tinyconv.models.lenet import LeNet5

Array = np.ndarray[Any, Any]
INTEGERS = st.integers


def filled(draw: st.DrawFn, shape: Sequence[int], dtype: str) -> Array:
    return np.random.default_rng(draw(INTEGERS(0, 2**31))).standard_normal(shape).astype(dtype)


def each(draw: st.DrawFn, rank: int, low: int, high: int) -> tuple[int, ...]:
    return tuple(draw(INTEGERS(low, high)) for _ in range(rank))


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[str, Array, Array, Array | None, dict[str, Any]]:
    """The output size and the rest of the division are drawn; padding is drawn before and after on its own."""
    rank = draw(st.sampled_from([1, 2, 2, 3]))
    kernel, stride, dilation, output = (each(draw, rank, 1, 3) for _ in range(4))
    pads = [(draw(INTEGERS(0, 2)), draw(INTEGERS(0, 2))) for _ in range(rank)]
    size = [
        max(1, (o - 1) * s + d * (k - 1) + 1 + draw(INTEGERS(0, s - 1)) - before - after)
        for o, s, d, k, (before, after) in zip(output, stride, dilation, kernel, pads)
    ]
    groups, per_group, out_per_group = (draw(INTEGERS(1, 2)) for _ in range(3))
    dtype = draw(st.sampled_from(["float64", "float32"]))
    batch = draw(st.sampled_from([(), (1,), (2,)]))
    x = filled(draw, (*batch, groups * per_group, *size), dtype)
    w = filled(draw, (groups * out_per_group, per_group, *kernel), dtype)
    b = filled(draw, (len(w),), dtype) if draw(st.booleans()) else None
    return f"conv{rank}d", x, w, b, {"stride": stride, "padding": pads, "dilation": dilation, "groups": groups}


@st.composite
def transposed(draw: st.DrawFn) -> tuple[str, Array, Array, Array | None, dict[str, Any]]:
    """Padding is drawn below what would leave nothing."""
    rank = draw(st.sampled_from([1, 2, 2, 3]))
    kernel, stride, dilation, size = (each(draw, rank, 1, 3) for _ in range(4))
    extra = tuple(draw(INTEGERS(0, max(s, d) - 1)) for s, d in zip(stride, dilation))
    full = [(i - 1) * s + d * (k - 1) + a + 1 for i, s, d, k, a in zip(size, stride, dilation, kernel, extra)]
    padding = tuple(draw(INTEGERS(0, min(3, (n - 1) // 2))) for n in full)
    groups, per_group, out_per_group = (draw(INTEGERS(1, 2)) for _ in range(3))
    dtype = draw(st.sampled_from(["float64", "float32"]))
    batch = draw(st.sampled_from([(), (1,), (2,)]))
    x = filled(draw, (*batch, groups * per_group, *size), dtype)
    w = filled(draw, (groups * per_group, out_per_group, *kernel), dtype)
    b = filled(draw, (groups * out_per_group,), dtype) if draw(st.booleans()) else None
    options = {"stride": stride, "padding": padding, "output_padding": extra, "groups": groups, "dilation": dilation}
    return f"conv_transpose{rank}d", x, w, b, options


@st.composite
def pools(draw: st.DrawFn) -> tuple[str, Array, dict[str, Any]]:
    """Max and average pooling; the drawn kernel spans at most the padded input; a few values are equal or NaN."""
    rank = draw(st.sampled_from([1, 2, 2, 3]))
    average = draw(st.booleans())
    kernel, stride = each(draw, rank, 1, 3), each(draw, rank, 1, 4)
    dilation = (1,) * rank if average else each(draw, rank, 1, 2)
    extent = [d * (k - 1) + 1 for k, d in zip(kernel, dilation)]
    padding = tuple(draw(INTEGERS(0, min(k, e) // 2)) for k, e in zip(kernel, extent))
    # Every window has a pixel; torch's avg_pool3d also refuses images that are smaller than the window.
    size = [draw(INTEGERS(e if rank == 3 else max(1, e - p), e + 4)) for e, p in zip(extent, padding)]
    batch = draw(st.sampled_from([(), (1,), (2,)]))
    x = filled(draw, (*batch, 2, *size), draw(st.sampled_from(["float64", "float32"])))
    if draw(st.booleans()):
        x = np.round(x)  # ties
    if not average and draw(st.integers(0, 4)) == 0:
        x.flat[draw(INTEGERS(0, x.size - 1))] = np.nan
    options = {"kernel_size": kernel, "stride": stride, "padding": padding, "ceil_mode": draw(st.booleans())}
    if not average:
        return f"max_pool{rank}d", x, options | {"dilation": dilation}
    options["count_include_pad"] = draw(st.booleans())
    if rank > 1 and draw(st.booleans()):
        options["divisor_override"] = draw(st.sampled_from([1, 3, -2]))
    return f"avg_pool{rank}d", x, options


def in_torch(name: str, x: Array, w: Array, b: Array | None, options: dict[str, Any], g: Array) -> list[Array]:
    """Value and gradients of input and weight, in float64."""
    tx, tw = (torch.tensor(a.astype("float64"), requires_grad=True) for a in (x, w))
    tb = None if b is None else torch.tensor(b.astype("float64"))
    if isinstance(options["padding"], list):
        widths = [width for pair in reversed(options["padding"]) for width in pair]
        y = getattr(TF, name)(TF.pad(tx, widths), tw, tb, **{**options, "padding": 0})
    else:
        y = getattr(TF, name)(tx, tw, tb, **options)
    gx, gw = torch.autograd.grad(y, [tx, tw], torch.tensor(g.astype("float64")).reshape(y.shape))
    return [t.detach().numpy() for t in (y, gx, gw)]


def close(found: Array, expected: Array, scale: float) -> None:
    """Within the rounding of the sums, which run in float64 and are rounded once to the dtype of the arguments."""
    expected = expected.reshape(found.shape)
    tolerance = 1e-11 if found.dtype == np.float64 else 2e-7
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * scale)


@settings(max_examples=150)
@given(st.one_of(convolutions(), transposed()), INTEGERS(0, 2**31))
def test_the_list_summed_three_ways_is_the_operator_and_its_gradients(case: Any, seed: int) -> None:
    name, x, w, b, options = case
    t = explain.trace(getattr(F, name), x, Tensor(w), None if b is None else Tensor(b), **options)
    g = np.random.default_rng(seed).standard_normal(t.output).astype(x.dtype)
    y, gx, gw = t.forward(), t.grad_input(g), t.grad_weight(g)
    for found, expected in zip((y, gx, gw), in_torch(name, x, w, b, options, g)):
        close(found, expected, 10.0)

    batched = x.reshape(t.input)
    if "transpose" in name:
        corners = (loops.conv_input, batched, w), (loops.conv, g, w), (loops.conv_weight, g, batched)
    else:
        corners = (loops.conv, batched, w), (loops.conv_input, g, w), (loops.conv_weight, batched, g)
    exact = [kernel(left, right, t.g, t.groups) for kernel, left, right in corners]
    value = exact[0] if b is None else exact[0] + b.reshape(-1, *(1,) * t.g.rank)
    for found, bits in zip((y, gx, gw), (value, *exact[1:])):
        assert found.dtype == bits.dtype
        np.testing.assert_array_equal(found, bits)

    bias = 0 if b is None else b.astype(float).reshape(-1, *(1,) * t.g.rank)
    product = t.matrix() @ batched[0].astype(float).reshape(-1)
    np.testing.assert_allclose(product.reshape(t.output[1:]) + bias, y[0], rtol=2e-6, atol=2e-6)
    columns = t.im2col()
    if "transpose" not in name:
        assert columns.shape == (t.input[0], t.input[1] * w[0, 0].size, int(np.prod(t.g.output)))
        np.testing.assert_array_equal(columns, loops.unfold(batched, t.g))
    else:
        np.testing.assert_allclose(loops.fold(columns, t.g) + bias, y, rtol=2e-5, atol=2e-5)


@settings(max_examples=120)
@given(pools(), INTEGERS(0, 2**31))
def test_pooling_by_output_and_by_input_is_torch_and_the_loops(case: Any, seed: int) -> None:
    name, x, options = case
    t = explain.trace(getattr(F, name), x, **options)
    g = np.random.default_rng(seed).standard_normal(t.output).astype(x.dtype)
    y, gx = t.forward(), t.grad_input(g)
    tx = torch.tensor(x.astype("float64"), requires_grad=True)
    ty = getattr(TF, name)(tx, **options)
    (tgx,) = torch.autograd.grad(ty, tx, torch.tensor(g.astype("float64")).reshape(ty.shape))
    close(y, ty.detach().numpy(), 1.0)
    close(gx, tgx.numpy(), 10.0)
    batched = x.reshape(t.input)
    if isinstance(t, explain.AvgPoolTrace):
        exact = loops.avg_pool(batched, t.g, t.divisor), loops.avg_pool_input(g, t.g, t.divisor)
    else:
        value, indices = loops.max_pool(batched, t.g)
        exact = value, loops.scatter_windows(g, indices, t.g.size, None)
        for step in t.steps():
            (winner,) = (term for term in step.terms if term.winner)
            assert np.ravel_multi_index(winner.input[2:], t.g.size) == indices[step.index]
    for found, bits in zip((y, gx), exact):
        np.testing.assert_array_equal(found, bits)
    if np.isfinite(x).all():
        product = t.matrix() @ batched[0].astype(float).reshape(-1)
        np.testing.assert_allclose(product, y[0].reshape(-1), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 2},
        {"kernel_size": (3, 2), "dilation": (2, 1), "padding": (2, 0), "stride": (1, 3)},
        {"kernel_size": 3, "padding": 1, "stride": 2},
    ],
)
def test_unfold_is_torch_and_the_loops(options: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 3, 6, 7))
    t = explain.trace(F.unfold, x, **options)
    g = rng.standard_normal(t.output)
    tx = torch.tensor(x, requires_grad=True)
    ty = TF.unfold(tx, **options)
    np.testing.assert_array_equal(t.forward(), ty.detach().numpy())
    np.testing.assert_array_equal(t.forward(), t.im2col())
    np.testing.assert_array_equal(t.grad_input(g), loops.fold(g, t.g))
    np.testing.assert_allclose(t.grad_input(g), torch.autograd.grad(ty, tx, torch.tensor(g))[0].numpy(), rtol=1e-12)
    np.testing.assert_array_equal(t.matrix() @ x[0].reshape(-1), t.forward()[0].reshape(-1))


@pytest.mark.parametrize(
    "options",
    [
        {"output_size": (4, 5), "kernel_size": 2},
        {"output_size": (6, 7), "kernel_size": (3, 2), "dilation": (2, 1), "padding": (2, 0), "stride": (1, 3)},
        {"output_size": 6, "kernel_size": 3, "padding": 1, "stride": 2},
        {"output_size": (5, 6), "kernel_size": 1, "stride": 2},
    ],
)
@pytest.mark.parametrize("batch", [(), (2,)])
def test_fold_is_torch_and_the_loops(options: dict[str, Any], batch: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    of_windows = {name: value for name, value in options.items() if name != "output_size"}
    size = np.broadcast_to(options["output_size"], 2)
    cols = rng.standard_normal((*batch, *TF.unfold(torch.zeros(1, 3, *size), **of_windows).shape[1:]))
    for operator in (F.fold, nn.Fold(**options)):
        arguments = options if operator is F.fold else {}
        t = explain.trace(operator, cols, **arguments)
        assert isinstance(t, explain.FoldTrace) and t.weight is None
        g = rng.standard_normal(t.output)
        x = torch.tensor(cols, requires_grad=True)
        y = TF.fold(x, **options)
        (gx,) = torch.autograd.grad(y, x, torch.tensor(g).reshape(y.shape))
        np.testing.assert_allclose(t.forward(), y.detach().numpy().reshape(t.output), rtol=1e-12, atol=1e-12)
        np.testing.assert_array_equal(t.grad_input(g), gx.numpy().reshape(t.input))
        batched = cols.reshape(t.input)
        np.testing.assert_array_equal(t.forward(), loops.fold(batched, t.g))
        np.testing.assert_array_equal(t.im2col(), batched)
        unfolding = explain.trace(F.unfold, t.forward(), **of_windows)
        np.testing.assert_array_equal(t.matrix(), unfolding.matrix().T)  # the transposed map
        np.testing.assert_array_equal(t.coverage(), unfolding.coverage())
    assert {(o, i) for o, i, _ in t.products()} == {(i, o) for o, i, _ in unfolding.products()}


def test_a_folding_is_told_and_cropped() -> None:
    cols = np.arange(36.0).reshape(1, 4, 9)
    t = explain.trace(F.fold, cols, 4, 2)
    step = t.at(output=(0, 0, 1, 1))
    assert step.value == cols[0, 3, 0] + cols[0, 2, 1] + cols[0, 1, 3] + cols[0, 0, 4]
    assert "is the sum of 4 elements of the input" in t.describe(step) and t.describe(step) in " ".join(
        t.text(step).split()
    )
    assert "output rows: (3 - 1)*1 - 0 - 0 + 1*(2 - 1) + 0 + 1 = 4" in explain.format_sizes(t)
    apart = explain.trace(F.fold, np.ones((1, 1, 4)), 3, 1, stride=2)
    assert "is reached by no window" in apart.describe(apart.at(output=(0, 0, 1, 0)))
    padded = explain.trace(F.fold, np.ones((1, 4, 9)), 2, 2, padding=1)
    corner = padded.at(input=(0, 0, 0))
    assert corner.value == 0 and "is cropped with the padding" in padded.describe(corner)

    large = explain.trace(
        F.fold, np.random.default_rng(0).standard_normal((2, 4 * 3, 29 * 39)), (30, 40), 2, max_terms=999
    )
    with pytest.raises(ValueError, match=r"max_terms=999.*crop\(\)"):
        large.forward()
    cut = large.crop()
    assert cut.output == (1, 3, 8, 10) and len(cut.triples) <= 999
    expected = TF.fold(torch.tensor(large.x[:1]), (30, 40), 2)[:, :, :7, :9]  # its last row and column lack windows
    np.testing.assert_allclose(cut.forward()[:, :, :7, :9], expected.numpy(), rtol=1e-12)


# --------------------------------------------------------------------------------------------------
# The guide's examples

X = np.array([[3, 3, 2, 1, 0], [0, 0, 1, 3, 1], [3, 1, 2, 2, 3], [2, 0, 0, 2, 2], [2, 0, 0, 0, 1]])[None, None]
W = np.array([[0, 1, 2], [2, 2, 0], [0, 1, 2]])[None, None]


def test_the_guides_numbers() -> None:
    assert explain.trace(F.conv2d, X, W).forward()[0, 0].tolist() == [[12, 12, 17], [10, 17, 19], [9, 6, 14]]
    t = explain.trace(F.conv2d, X, W, stride=2, padding=1)
    assert t.forward()[0, 0].tolist() == [[6, 17, 3], [8, 17, 13], [6, 4, 4]]


def test_a_step_has_its_terms_partial_sums_and_padding() -> None:
    step = explain.trace(F.conv2d, X, W, stride=2, padding=1).at(output=(0, 0, 1, 2))
    assert [(t.input[2:], t.weight[2:], t.padding) for t in step.terms[:3]] == [
        ((1, 3), (0, 0), False),
        ((1, 4), (0, 1), False),
        ((1, 5), (0, 2), True),
    ]
    assert [t.left for t in step.terms] == [3, 1, 0, 2, 3, 0, 2, 2, 0]
    assert [t.partial for t in step.terms] == [0, 1, 1, 5, 11, 11, 11, 13, 13]
    assert step.value == 13 and step.bias is None


def test_one_pixel_and_one_weight_are_answered_without_listing() -> None:
    """The first three layers of a network for large images: the answers come at once, whatever the size."""
    x = np.broadcast_to(np.float32(1), (1, 3, 1200, 1600))
    t = explain.trace(F.conv2d, x, np.ones((4, 3, 3, 3), np.float32), stride=2, padding=1)
    users = t.at(input=(0, 1, 601, 801))
    assert {term.output[2:] for term in users.terms} == {(oh, ow) for oh in (300, 301) for ow in (400, 401)}
    assert {term.weight[2:] for term in users.terms} == {(kh, kw) for kh in (0, 2) for kw in (0, 2)}
    assert len(users.terms) == 4 * 4 and users.value == 16
    with pytest.raises(ValueError, match=r"at\(weight=.*480,000 products.*max_terms=100,000"):
        t.max_terms = 100_000
        t.at(weight=(0, 0, 0, 0))


def test_coverage_shows_the_checkerboard_and_what_is_unused() -> None:
    ones = np.ones((1, 1, 3, 3)), np.ones((1, 1, 3, 3))
    t = explain.trace(F.conv_transpose2d, *ones, stride=2)
    np.testing.assert_array_equal(t.coverage(), t.forward()[0, 0])
    assert {int(c) for c in t.coverage()[2:-2, 2:-2].flat} == {1, 2, 4}
    x = np.ones((1, 1, 6, 6))
    t = explain.trace(F.conv2d, x, np.ones((1, 1, 3, 3)), stride=3, dilation=1)
    assert t.unused() == []
    t = explain.trace(F.max_pool2d, np.ones((1, 1, 3, 5)), 2)
    assert t.unused() == [(r, c) for r in range(3) for c in range(5) if r == 2 or c == 4]
    t = explain.trace(F.conv_transpose1d, np.ones((1, 1, 2)), np.ones((1, 1, 1)), stride=2, output_padding=1)
    assert t.unused() == [(1,), (3,)]


def test_products_are_the_triples_of_a_matrix_that_counts() -> None:
    rng = np.random.default_rng(1)
    x, w = rng.standard_normal((2, 4, 5)), rng.standard_normal((2, 2, 3))
    t = explain.trace(F.conv1d, x, w, padding=1, stride=2, groups=2)
    expected = {
        ((n, co, o), (n, co // 1 * 2 + ci, 2 * o + k - 1), (co, ci, k))
        for n in range(2) for co in range(2) for o in range(3) for ci in range(2) for k in range(3)
        if 0 <= 2 * o + k - 1 < 5
    }  # fmt: skip
    listed = list(t.products())
    assert set(listed) == expected and len(listed) == len(expected)


# --------------------------------------------------------------------------------------------------
# Layers, limits, snapshots, JSON


def test_layers_are_traced_with_their_own_weights() -> None:
    rng = np.random.default_rng(2)
    x = rng.standard_normal((1, 2, 6, 6)).astype("float32")
    layers = [
        nn.Conv2d(2, 3, 3, padding=1),
        nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(2, 2, 3, bias=False, groups=2),
        nn.ConvTranspose2d(2, 3, 2, stride=2),
        nn.MaxPool2d(2),
        nn.AvgPool2d(3, padding=1),
        nn.Unfold(2, padding=1),
    ]
    for layer in layers:
        for trained in (True, False):
            for parameter in layer.parameters():
                parameter.requires_grad = trained
            t = explain.trace(layer, x)
            np.testing.assert_allclose(t.forward(), layer(Tensor(x)).data, rtol=1e-5, atol=1e-6)
            assert t.name == type(layer).__name__


def test_a_trace_is_a_snapshot_and_changes_nothing() -> None:
    x, w = Tensor(X.astype(float)), Tensor(W.astype(float), requires_grad=True)
    t = explain.trace(F.conv2d, x, w)
    before = t.forward()
    x.data[:] = 0
    w.data[:] = 0
    np.testing.assert_array_equal(t.forward(), before)
    assert w.grad is None and not x.requires_grad


def test_what_is_too_long_is_refused_and_a_crop_is_offered() -> None:
    x, w = np.ones((2, 3, 40, 40)), np.ones((4, 3, 3, 3))
    t = explain.trace(F.conv2d, x, w, padding=1, max_terms=20_000)
    for listing in (t.steps, t.forward, lambda: t.grad_input(np.ones(t.output)), t.matrix, t.im2col, t.to_json):
        with pytest.raises(ValueError, match=r"max_terms=20,000.*crop\(\)"):
            listing()
    assert t.at(output=(1, 3, 39, 39)).value == 12
    cropped = t.crop()
    assert cropped.input == (1, 3, 10, 10) and len(list(cropped.steps())) == 4 * 10 * 10
    with pytest.raises(ValueError, match="Trace fewer channels"):
        explain.trace(F.conv2d, np.ones((1, 50, 1, 1)), np.ones((50, 50, 1, 1)), max_terms=1000).crop()
    named = explain.trace(F.conv2d, input=x, weight=w, max_terms=20_000)
    assert named.crop().input == (1, 3, 10, 10)


def test_json_holds_everything_and_is_strict() -> None:
    x = X.astype(float)
    x[0, 0, 0, 0] = np.nan
    t = explain.trace(F.conv2d, x, W.astype(float), np.array([0.5]), padding=1)
    told = json.loads(t.to_json(), parse_constant=pytest.fail)
    assert told["operator"] == "conv2d" and told["geometry"]["padding"] == [[1, 1], [1, 1]]
    assert told["input"][0][0][0][0] == "NaN"
    assert len(told["steps"]) == 25 and told["steps"][0]["terms"][4]["left"] == "NaN" and told["bias"] == [0.5]
    assert told["steps"][24]["value"] == 0.5 + sum(t["product"] for t in told["steps"][24]["terms"])


# --------------------------------------------------------------------------------------------------
# Wrong calls


def direct(*arguments: Any, **options: Any) -> explain.Trace:
    return explain.trace(F.conv2d, *arguments, **options)


@pytest.mark.parametrize(
    "call, error, named",
    [
        (lambda: direct(X, W, stride=0), ValueError, ["conv2d: stride must be at least 1"]),
        (lambda: direct(X, W[:, :, :, :0]), ValueError, ["conv2d: the kernel must be at least 1"]),
        (lambda: direct(X, np.ones((1, 2, 3, 3))), ValueError, ["conv2d: weight expects 2 input"]),
        (lambda: explain.trace(F.max_pool2d, X, 2, padding=2), ValueError, ["max_pool2d: padding may be at most half"]),
        (lambda: direct(X, W.astype("float32")), TypeError, ["input and weight must have one dtype"]),
        (lambda: direct(X > 0, W), TypeError, ["conv2d: input must be numbers, but is bool"]),
        (lambda: explain.trace(F.relu, X), ValueError, ["trace: relu is not a single convolution"]),
        (lambda: explain.trace(F.lp_pool2d, 1.0 * X, 2, 2), ValueError, ["trace: lp_pool2d is not a single", "root"]),
        (lambda: explain.trace(F.adaptive_max_pool2d, X, 2), ValueError, ["adaptive_max_pool2d", "may differ in size"]),
        (lambda: explain.trace(F.max_unpool2d, X, X, 2), ValueError, ["max_unpool2d", "Trace that pooling"]),
        (lambda: explain.trace(F.interpolate, X, scale_factor=2), ValueError, ["interpolate", "weighs the neighbours"]),
        (lambda: explain.trace(lambda x, w: F.conv2d(x, w, padding=1) + x, X, W), ValueError, ["is not a single"]),
        (lambda: direct(X, W).at(output=(0, 0, 3, 0)), IndexError, ["output=(0, 0, 3, 0)", "(1, 1, 3, 3)"]),
        (lambda: direct(X, W).at(input=(0, 0, -1, 0)), IndexError, ["input=(0, 0, -1, 0)"]),
        (lambda: direct(X, W).at(output=(0, 0)), IndexError, ["output=(0, 0)"]),
        (lambda: direct(X, W).at(), ValueError, ["give one of output, input and weight"]),
        (lambda: direct(X, W).steps("pixel"), ValueError, ["must be 'output', 'input' or 'weight'", "'pixel'"]),
        (lambda: explain.trace(F.max_pool2d, X, 2).at(weight=(0, 0, 0, 0)), ValueError, ["max_pool2d has no weight"]),
        (lambda: direct(X, W).grad_input(np.ones((1, 1, 5, 5))), ValueError, ["(1, 1, 3, 3)", "(1, 1, 5, 5)"]),
    ],
)  # fmt: skip
def test_wrong_calls_are_refused_with_a_sentence(call: Any, error: type[Exception], named: list[str]) -> None:
    with pytest.raises(error) as caught:
        call()
    for part in named:
        assert part in str(caught.value)


def test_layers_inside_a_network_are_traced_during_a_forward_pass() -> None:
    model = LeNet5()
    seen: list[Array] = []
    hook = model.conv2.register_forward_hook(lambda module, args, y: seen.append(y.data))
    x = np.random.default_rng(3).standard_normal((2, 1, 28, 28)).astype("float32")
    with explain.record(model) as rec:
        model(Tensor(x))
    hook.remove()
    model(Tensor(0 * x))  # after the block nothing is kept
    assert list(rec) == ["conv1", "conv2", "fc1", "fc2", "fc3"] and len(rec) == 5
    np.testing.assert_array_equal(rec["conv1"].x, x)
    t, index = rec["conv2"], (1, 15, 9, 0)
    assert t.name == "conv2" and t.input == (2, 6, 14, 14) and len(t.at(output=index).terms) == 150
    assert t.at(output=index).value == pytest.approx(seen[0][index], rel=1e-5)
    with pytest.raises(ValueError, match="Linear is not a single convolution.*a weight for each pair"):
        rec["fc1"]
    with pytest.raises(KeyError, match="no layer 'conv9' ran; those that did are conv1, conv2"):
        rec["conv9"]


class Windows(nn.Module):
    """All layers that slide windows, and those that seem to."""

    def __init__(self) -> None:
        super().__init__()
        self.pool, self.unpool = nn.MaxPool2d(2, return_indices=True), nn.MaxUnpool2d(2)
        self.unfold, self.fold = nn.Unfold(3, padding=1), nn.Fold(8, 3, padding=1)
        self.conv, self.up = nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular"), nn.ConvTranspose2d(2, 1, 2, 2)
        self.average, self.power = nn.AvgPool2d(2), nn.LPPool2d(2, 2)
        self.adaptive, self.largest = nn.AdaptiveAvgPool2d(3), nn.AdaptiveMaxPool2d(1)
        self.resize = nn.Upsample(scale_factor=2)

    def forward(self, x: Tensor) -> Any:
        x = self.fold(self.unfold(self.unpool(*self.pool(x))))  # (N, 1, 8, 8)
        x = self.up(self.average(self.conv(x)))
        return self.largest(self.adaptive(self.power(self.resize(x))))


def test_every_layer_with_windows_is_recorded_and_the_others_say_what_to_trace() -> None:
    model = Windows()
    made: dict[str, Array] = {}
    for name, module in model.named_children():
        module.register_forward_hook(
            lambda _, args, y, name=name: made.update({name: (y[0] if isinstance(y, tuple) else y).data})
        )
    with explain.record(model) as rec:
        model(Tensor(np.random.default_rng(4).standard_normal((1, 1, 8, 8))).float())
    assert list(rec) == list(made) and len(made) == 11
    for name in ("pool", "unfold", "fold", "conv", "average", "up"):
        np.testing.assert_allclose(rec[name].forward(), made[name], rtol=1e-5, atol=1e-6)
    for name, said in {
        "unpool": "Trace that pooling", "power": "root of a sum of powers", "adaptive": "may differ in size",
        "largest": "may differ in size", "resize": "weighs the neighbours",
    }.items():  # fmt: skip
        with pytest.raises(ValueError, match=said):
            rec[name]


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_an_adaptive_pooling_that_divides_is_the_pooling_that_the_sentence_names(rank: int) -> None:
    x = np.random.default_rng(5).standard_normal((1, 2, *(4, 6, 8)[:rank]))
    sizes = tuple(n // 2 for n in x.shape[2:])
    for kind in ("avg", "max"):
        adaptive = getattr(TF, f"adaptive_{kind}_pool{rank}d")(torch.tensor(x), sizes)
        t = explain.trace(getattr(F, f"{kind}_pool{rank}d"), x, 2)
        np.testing.assert_allclose(t.forward(), adaptive.numpy(), rtol=1e-12)
