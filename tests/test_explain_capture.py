"""Somebody's own convolution under the lens: captured, diagnosed in words, or probed from outside."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import given, settings

from test_explain_trace import convolutions, transposed
from tinyconv import Tensor, explain, kernels
from tinyconv import functional as F
from tinyconv.kernels import im2col, loops

Array = np.ndarray[Any, Any]
RUNGS = (loops, im2col)


def normal(*shape: int) -> Array:
    return np.random.default_rng(0).standard_normal(shape)


def student(
    fault: str = "", s: int = 1, p: int = 1, d: int = 1, groups: int = 1, dtype: Any = None
) -> Any:  # fmt: skip
    """A convolution of nested loops on the x and w of two dimensions, with one fault or none."""

    def conv(x: Array, w: Array) -> Array:
        N, _, H, W = x.shape
        C_out, C_group, KH, KW = w.shape
        OH, OW = (H + 2 * p - d * (KH - 1) - 1) // s + 1, (W + 2 * p - d * (KW - 1) - 1) // s + 1
        y = np.zeros((N, C_out, OH, OW), dtype or x.dtype)
        for n, co, oh, ow in np.ndindex(y.shape):
            first = co // (C_out // groups) * C_group
            for ci, kh, kw in np.ndindex(C_group, KH, KW):
                ih, iw = oh * s + kh * d - p, ow * s + kw * d - p
                tap = (kh, kw)
                if fault == "padding":
                    iw += 1
                elif fault == "paddings":
                    ih, iw = ih - 1, iw - 1
                elif fault == "stride":
                    ih = oh + kh * d - p
                elif fault == "dilation":
                    ih, iw = oh * s + kh - p, ow * s + kw - p
                elif fault == "rotated":
                    tap = (KH - 1 - kh, KW - 1 - kw)
                elif fault == "swapped":
                    tap = (kw, kh)
                elif fault == "short" and kh == KH - 1:
                    continue
                if fault == "flat":
                    inside = 0 <= ih * W + iw < H * W
                    ih, iw = divmod(ih * W + iw, W)
                elif fault == "wrap":
                    inside = ih < H and iw < W
                else:
                    inside = 0 <= ih < H and 0 <= iw < W
                if inside:
                    for _ in range(2 if fault == "twice" and oh == 1 else 1):
                        y[n, co, oh, ow] += x[n, first + ci, ih, iw] * w[(co, ci, *tap)]
        return y

    return conv


@pytest.mark.parametrize("options", [{}, {"s": 2}, {"p": 0}, {"d": 2, "p": 2}, {"groups": 2}, {"s": 2, "groups": 2}])
def test_a_right_convolution_has_no_mismatch(options: dict[str, int]) -> None:
    x, w = normal(2, 2, 5, 6), normal(2, 2 // options.get("groups", 1), 3, 3)
    names = {"s": "stride", "p": "padding", "d": "dilation", "groups": "groups"}
    t = explain.trace(F.conv2d, x, w, **{"padding": 1, **{names[key]: value for key, value in options.items()}})
    assert explain.mismatch(student(**options), t) is None
    captured = explain.capture(student(**options), x, w)
    np.testing.assert_allclose(captured.value, t.forward(), rtol=1e-12)
    assert Counter(captured.products) == Counter(t.products())


@pytest.mark.parametrize(
    "fault, options, said",
    [
        ("padding", {}, "output[0,0,0,0] used input[0,0,0,0] x weight[0,0,1,0], which belongs to its window, but not "
         "with that weight: the padding is off by one column."),
        ("paddings", {}, "output[0,0,0,0] used input[0,0,0,0] x weight[0,0,2,2], which belongs to its window, but not "
         "with that weight: the padding is off by one row and one column."),
        ("stride", {"s": 2}, "output[0,0,1,0] used input[0,0,0,0] x weight[0,0,0,1], which lies outside its window: "
         "the stride over the rows is 1, not 2."),
        ("dilation", {"d": 2, "p": 2}, "output[0,0,0,0] used input[0,0,0,0] x weight[0,0,2,2], which belongs to its "
         "window, but not with that weight: the dilation is 1, not 2 x 2."),
        ("rotated", {}, "output[0,0,0,0] used input[0,0,0,0] x weight[0,0,1,1]"),
        ("swapped", {}, "the axes of the kernel are swapped."),
        ("wrap", {}, "output[0,0,0,0] used input[0,0,4,4] x weight[0,0,0,0], which lies outside its window: a negative "
         "index counts from the far end, so the padding before must be left out by hand."),
        ("flat", {}, "output[0,0,0,0] used input[0,0,0,4] x weight[0,0,2,0], which lies outside its window: the flat "
         "index runs over the edge into the next row, so the padding must be left out by hand."),
        ("short", {}, "output[0,0,0,0] left out input[0,0,1,0] x weight[0,0,2,1]."),
        ("twice", {}, "output[0,0,1,0] used input[0,0,0,0] x weight[0,0,0,1] 2 times, not once."),
    ],
)  # fmt: skip
def test_the_first_wrong_product_and_its_cause_are_said(fault: str, options: dict[str, int], said: str) -> None:
    names = {"s": "stride", "p": "padding", "d": "dilation"}
    t = explain.trace(
        F.conv2d, normal(1, 1, 5, 5), normal(1, 1, 3, 3), **{"padding": 1, **{names[k]: v for k, v in options.items()}}
    )
    found = explain.mismatch(student(fault, **options), t)
    if fault == "rotated":
        assert found is not None and found.endswith("the kernel is rotated by 180 degrees.")
    else:
        assert found is not None and found.endswith(said)


def test_the_issues_example_the_last_column_reads_the_next_row() -> None:
    """A flat index without a check for the right edge, seen at the last column."""

    def conv(x: Array, w: Array) -> Array:
        y = np.zeros((1, 1, 5, 5), x.dtype)
        for oh, ow, kh, kw in np.ndindex(5, 5, 3, 3):
            flat = (oh + kh - 1) * 5 + ow + kw - 1
            if 0 <= oh + kh - 1 < 5 and ow + kw >= 1 and flat < 25:
                y[0, 0, oh, ow] += x.reshape(-1)[flat] * w[0, 0, kh, kw]
        return y

    t = explain.trace(F.conv2d, normal(1, 1, 5, 5), normal(1, 1, 3, 3), padding=1)
    said = explain.mismatch(conv, t)
    assert said == "output[0,0,0,4] used input[0,0,1,0] x weight[0,0,1,2], which lies outside its window."


def test_the_wrong_channel_and_the_wrong_shape_are_said() -> None:
    x, w = normal(1, 2, 4, 4), normal(2, 2, 3, 3)
    t = explain.trace(F.conv2d, x, w, padding=1)
    said = explain.mismatch(lambda x, w: student()(x, w.swapaxes(0, 1)), t)
    assert said == (
        "output[0,0,0,0] used input[0,1,0,0] x weight[1,0,1,1], which belongs to its window, but not with that weight: "
        "the channels of the weight are swapped, which is (C_out, C_in/groups, ...)."
    )
    assert explain.mismatch(student(p=0), t) == (
        "The result has the shape (1, 2, 2, 2), but conv2d makes (1, 2, 4, 4)."
    )


def test_slices_padded_arrays_matrix_products_and_numba_are_captured() -> None:
    x, w = normal(2, 2, 5, 5), normal(3, 2, 3, 3)
    t = explain.trace(F.conv2d, x, w, padding=1)

    def slices(x: Array, w: Array) -> Array:
        padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
        y = np.zeros((2, 3, 5, 5), x.dtype)
        for co, ci, kh, kw in np.ndindex(w.shape):
            y[:, co] += padded[:, ci, kh : kh + 5, kw : kw + 5] * w[co, ci, kh, kw]
        return y

    def sums(x: Array, w: Array) -> Array:
        padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
        y = np.empty((2, 3, 5, 5), x.dtype)
        for n, co, oh, ow in np.ndindex(y.shape):
            y[n, co, oh, ow] = (padded[n, :, oh : oh + 3, ow : ow + 3] * w[co]).sum()
        return y

    def product(x: Array, w: Array) -> Array:
        padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))  # (N, C, OH, OW, KH, KW)
        columns = windows.transpose(0, 2, 3, 1, 4, 5).reshape(2, 25, -1)
        return (columns @ w.reshape(3, -1).T).swapaxes(1, 2).reshape(2, 3, 5, 5)

    for convolution in (slices, sums, product):
        assert explain.mismatch(convolution, t) is None
    t = explain.trace(F.conv1d, x[0, 0][None], w[:1, 0, :1].repeat(5, 1))
    assert explain.mismatch(numba.njit(_conv1d), t) is None


def _conv1d(x: Array, w: Array) -> Array:
    y = np.zeros((1, 1, 3), x.dtype)
    for o in range(3):
        for ci in range(5):
            for k in range(3):
                y[0, 0, o] += x[0, ci, o + k] * w[0, ci, k]
    return y


@settings(max_examples=30)
@given(transposed())
def test_transposed_convolutions_are_captured_and_diagnosed(case: Any) -> None:
    """A scatter over the triples is right; with the kernel rotated it is caught."""
    name, x, w, _, options = case
    t = explain.trace(getattr(F, name), x, w, **options)
    products = list(t.products())

    def scatter(x: Array, w: Array, rotate: bool = False) -> Array:
        y = np.zeros(t.output, x.dtype)
        for output, i, k in products:
            taps = tuple(n - 1 - at for at, n in zip(k[2:], w.shape[2:])) if rotate else k[2:]
            y[output] += x[i] * w[(*k[:2], *taps)]
        return y

    assert explain.mismatch(scatter, t) is None
    said = explain.mismatch(lambda x, w: scatter(x, w, rotate=True), t)
    assert (said is None) == (
        set(products) == {(o, i, (*k[:2], *(n - 1 - at for at, n in zip(k[2:], w.shape[2:])))) for o, i, k in products}
    )


# --------------------------------------------------------------------------------------------------
# What cannot be captured


@pytest.mark.parametrize("dtype", ["float64", "float32", "int64"])
def test_an_array_that_loses_provenance_is_refused_with_the_mend(dtype: str) -> None:
    with pytest.raises(TypeError, match=r"plain numbers cannot keep where .* np.zeros\(shape, dtype=x.dtype\)"):
        explain.capture(student(dtype=dtype), normal(1, 1, 4, 4), normal(1, 1, 3, 3))


def test_what_is_no_convolution_is_refused() -> None:
    x, w = normal(1, 1, 3), normal(1, 1, 3)
    with pytest.raises(TypeError, match="result is an array of float64, which does not know its products"):
        explain.capture(lambda x, w: np.zeros((1, 1, 1)), x, w)
    with pytest.raises(ValueError, match="two pixels, or two weights, were multiplied"):
        explain.capture(lambda x, w: x * x, x, w)
    with pytest.raises(ValueError, match=r"output\[0,0,0\] adds weight\[0,0,0\] alone"):
        explain.capture(lambda x, w: x * w + w, x, w)
    with pytest.raises(TypeError, match="only convolutions"):
        explain.mismatch(lambda x, w: x, explain.trace(F.max_pool1d, x, 2))
    with pytest.raises(TypeError, match="capture: x must be a Tensor or an array"):
        explain.capture(lambda x, w: x, [1.0], w)


# --------------------------------------------------------------------------------------------------
# Probing


@pytest.mark.parametrize("rung", RUNGS, ids=["loops", "im2col"])
@settings(max_examples=25)
@given(convolutions())
def test_the_products_of_all_three_corners_are_exactly_the_traces(rung: Any, case: Any) -> None:
    """No tolerance: every product that a kernel makes is recovered from outside."""
    name, x, w, _, options = case
    x = x.reshape(-1, *x.shape[1 - w.ndim :])[:1, ...]
    t = explain.trace(getattr(F, name), x, w, **options)
    g, groups, expected = t.g, t.groups, list(t.products())
    y = explain.probe(lambda x, w: rung.conv(x, w, g, groups), t.input, w.shape)
    gx = explain.probe(lambda gy, w: rung.conv_input(gy, w, g, groups), t.output, w.shape)
    gw = explain.probe(lambda x, gy: rung.conv_weight(x, gy, g, groups), t.input, t.output)
    assert y == Counter(expected)
    assert gx == Counter((i, o, k) for o, i, k in expected)
    assert gw == Counter((k, i, o) for o, i, k in expected)


@pytest.mark.parametrize("rung", ["loops", "im2col", "numba"])
def test_probing_an_operator_in_both_precisions_with_more_weights_than_digits(rung: str) -> None:
    x, w = normal(1, 2, 4, 4), normal(2, 2, 3, 3)  # 36 weights: two blocks in float64, three in float32
    expected = Counter(explain.trace(F.conv2d, x, w, padding=1).products())
    with kernels.use_kernels(rung):
        for dtype in (np.float64, np.float32):
            probed = explain.probe(lambda x, w: F.conv2d(Tensor(x), Tensor(w), padding=1), x.shape, w.shape, dtype)
            assert probed == expected


def test_a_probe_sees_a_wrong_a_doubled_and_a_foreign_product() -> None:
    shapes = (1, 1, 4, 4), (1, 1, 3, 3)
    right = explain.probe(student(), *shapes)
    for fault in ("padding", "rotated", "wrap", "flat", "short"):
        assert explain.probe(student(fault), *shapes) != right
    doubled = explain.probe(student("twice"), *shapes)
    assert doubled.keys() == right.keys() and {doubled[key] for key in right if key[0][2] == 1} == {2}
    for wrong in (lambda x, w: -(x * w), lambda x, w: x * w * 0.5, lambda x, w: x * w * np.nan):
        with pytest.raises(ValueError, match="probe: the kernel gave .* only sums of the weights 1, 4, 16"):
            explain.probe(wrong, (1, 1, 2), (1, 1, 2))
