"""Wrong calls: where torch raises we raise, with a sentence that names operator, argument, found and expected."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tinyconv
import tinyconv.functional as F
from compare import OUR_ERRORS, A, Call, Turn, check_both_or_neither
from table import ROWS, pointwise
from table.spec import Row
from tinyconv import Tensor

EXAMPLES = max(settings().max_examples // 2, 1)

# --------------------------------------------------------------------------------------------------
# A legal call, spoiled


@st.composite
def spoiled(draw: st.DrawFn, row: Row) -> Call:
    """A legal call of the row with one argument made wrong, or at least different."""
    call = draw(row.calls)
    places = [*range(len(call.args)), *call.kwargs]
    if not places:
        return call
    place = draw(st.sampled_from(places))
    args, kwargs = list(call.args), dict(call.kwargs)
    where: Any = args if isinstance(place, int) else kwargs
    where[place] = _other(draw, where[place])
    return Call(tuple(args), kwargs)


def _other(draw: st.DrawFn, value: Any) -> Any:
    if isinstance(value, A):
        return _other_array(draw, value)
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return draw(st.sampled_from([0, -1, 0, -1, value + 1, 1, 2, 3, 6, -3]))
    if isinstance(value, float):
        return draw(st.sampled_from([-2.0, 0.0, 0.5, 3.0]))
    if isinstance(value, str):
        return draw(st.sampled_from(["wrong", "mean", "constant", "same", "nearest", "ij,jk->ik"]))
    if isinstance(value, list | tuple) and value:
        kind = draw(st.integers(0, 2))
        at = draw(st.integers(0, len(value) - 1))
        if kind == 0 and len(value) > 1:
            return value[:-1]
        if kind == 1:
            return type(value)([*value, value[-1]])
        return type(value)([*value[:at], _other(draw, value[at]), *value[at + 1 :]])
    return value


def _other_array(draw: st.DrawFn, a: A) -> A:
    kind = draw(st.sampled_from(["longer", "shorter", "larger", "empty", "dtype", "range"]))
    shape = a.shape
    at = draw(st.integers(0, max(len(shape) - 1, 0)))
    if kind == "longer":
        shape = (*shape[:at], 1, *shape[at:])
    elif kind == "shorter":
        shape = shape[:at] + shape[at + 1 :]
    elif kind in ("larger", "empty") and shape:
        shape = (*shape[:at], shape[at] + 1 if kind == "larger" else 0, *shape[at + 1 :])
    elif kind == "dtype":
        return replace(a, dtype=draw(st.sampled_from(["float32", "float64", "int64", "bool"])))
    elif a.domain == "int":
        return replace(a, low=a.low - 2, high=a.high + 2)
    return a if a.domain == "values" else replace(a, shape=shape)


def _factor(row: Row, call: Call) -> float:
    """How far the bounds are widened: two float dtypes in one call are added up in either of them."""
    return row.factor if len({a.dtype for a in call.arrays()} - {"int64", "bool"}) < 2 else 2.0**29


def _differs(row: Row, call: Call) -> bool:
    """Calls where torch is strict, or wrong, by accident."""
    name = row.name
    values = (*call.args, *call.kwargs.values())
    dtypes = {a.dtype for a in call.arrays()}
    if name in ("avg_pool3d", "lp_pool3d") and any(n < 3 for n in call.args[0].shape[-3:]):
        return True  # here alone torch wants an image of a whole kernel, also with padding or in ceil mode
    if name.startswith("lp_pool") and "int64" in dtypes:  # torch averages integers, and rounds down
        return True
    if name.startswith(("lp_pool", "adaptive", "unfold", "fold", "interpolate", "max_unpool")):
        return any(isinstance(v, list | tuple) and len(v) == 1 for v in values)  # for us, one stands for all axes
    if name.startswith(("pixel", "instance_norm")):  # torch fails on an empty batch, or returns the wrong shape
        return any(0 in a.shape for a in call.arrays())
    if name == "getitem":  # NumPy takes a mask without elements for an axis of any size
        return any(a.domain == "bool" and 0 in a.shape for a in call.arrays())
    if name in ("huber_loss", "binary_cross_entropy_with_logits"):  # float32 with float64 is float32 in torch
        return len(dtypes) > 1
    if name == "max_pool1d":  # two implementations in torch, one with dilation and integers, one without
        return "int64" in dtypes or len(call.args) > 4 or "dilation" in call.kwargs
    return name == "pad" and "bool" in dtypes


SPOILED = [row for row in ROWS if row not in pointwise.making]


@pytest.mark.parametrize("row", SPOILED, ids=[row.name for row in SPOILED])
def test_where_torch_raises_we_raise(row: Row, record_property: Callable[[str, object], None]) -> None:
    """And where it does not, we agree: no other exception, no crash, nothing half done."""
    seen: set[str] = set()
    refusal_of(row, EXAMPLES, seen)()
    record_property("combinations", len(seen))


def refusal_of(row: Row, examples: int, seen: set[str], **more: Any) -> Callable[[], None]:
    """The property as a function without arguments."""

    @settings(max_examples=examples, suppress_health_check=list(HealthCheck), **more)
    @given(spoiled(row), st.integers(0, 1000))
    def agrees(call: Call, seed: int) -> None:
        seen.add(repr(call))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if not _differs(row, call):
                turn = Turn(seed, row.contents[0])
                check_both_or_neither(row.ours, row.theirs, call, turn, stricter=True, factor=_factor(row, call))

    return agrees


# --------------------------------------------------------------------------------------------------
# What the messages say


def t(*shape: int, dtype: Any = np.float64) -> Tensor:
    return Tensor(np.ones(shape, dtype))


def i(*values: int) -> Tensor:
    return Tensor(np.array(values))


x1, x2, x3 = t(2, 4, 8), t(2, 4, 8, 8), t(2, 4, 6, 6, 6)

#: function, arguments, options, words that the message must contain beside the name of the operator
WRONG: list[tuple[Any, tuple[Any, ...], dict[str, Any], tuple[str, ...]]] = [
    # Convolution: rank, channels, groups, dtype, stride, dilation, padding, window
    (F.conv2d, (x2, t(8, 3, 3, 3)), {}, ("weight", "3", "4", "(2, 4, 8, 8)")),
    (F.conv2d, (t(2, 8, 8, 3), t(8, 3, 3, 3)), {}, ("permute(0, 3, 1, 2)",)),
    (F.conv2d, (t(8, 8), t(8, 4, 3, 3)), {}, ("input", "(8, 8)", "unsqueeze")),
    (F.conv2d, (x2, t(8, 4, 3)), {}, ("weight", "(8, 4, 3)")),
    (F.conv2d, (x2, t(8, 4, 3, 3, dtype=np.float32)), {}, ("float64", "float32")),
    (F.conv2d, (t(2, 4, 8, 8, dtype=np.int64), t(8, 4, 3, 3)), {}, ("int64",)),
    (F.conv2d, (x2, t(8, 4, 3, 3), t(7)), {}, ("bias", "8", "7")),
    (F.conv2d, (x2, t(8, 4, 3, 3)), {"groups": 3}, ("groups", "3")),
    (F.conv2d, (x2, t(8, 4, 3, 3)), {"groups": 0}, ("groups", "0")),
    (F.conv2d, (x2, t(8, 4, 3, 3)), {"stride": 0}, ("stride", "0")),
    (F.conv2d, (x2, t(8, 4, 3, 3)), {"stride": -1}, ("stride", "-1")),
    (F.conv2d, (x2, t(8, 4, 3, 3)), {"stride": (1, 2, 3)}, ("stride", "(1, 2, 3)", "2")),
    (F.conv2d, (x2, t(8, 4, 3, 3)), {"stride": 1.5}, ("stride", "1.5")),
    (F.conv2d, (x2, t(8, 4, 3, 3)), {"dilation": 0}, ("dilation", "0")),
    (F.conv2d, (x2, t(8, 4, 3, 3)), {"padding": -1}, ("padding", "-1")),
    (F.conv2d, (x2, t(8, 4, 3, 3)), {"padding": "full"}, ("padding", "full", "same")),
    (F.conv2d, (x2, t(8, 4, 3, 3)), {"padding": "same", "stride": 2}, ("same", "stride")),
    (F.conv2d, (x2, t(8, 4, 9, 3)), {}, ("9", "8", "padding")),
    (F.conv2d, (x2, t(8, 4, 3, 3)), {"dilation": 4}, ("9", "8", "dilation")),
    (F.conv2d, (t(2, 4, 0, 8), t(8, 4, 1, 1)), {}, ("(0, 8)",)),
    (F.conv1d, (x1, t(8, 4, 9)), {}, ("9", "8")),
    (F.conv3d, (x3, t(8, 5, 1, 1, 1)), {}, ("5", "4")),
    (F.conv_transpose2d, (x2, t(3, 8, 3, 3)), {}, ("weight", "3", "4")),
    (F.conv_transpose2d, (x2, t(4, 8, 3, 3)), {"output_padding": 1}, ("output_padding", "1", "stride")),
    (F.conv_transpose2d, (x2, t(4, 8, 3, 3)), {"padding": 9}, ("padding", "9")),
    (F.conv_transpose2d, (x2, t(4, 8, 3, 3)), {"padding": "same"}, ("padding", "same")),
    # Pooling
    (F.max_pool2d, (x2, 0), {}, ("kernel", "0")),
    (F.max_pool2d, (x2, 3), {"stride": 0}, ("stride", "0")),
    (F.max_pool2d, (x2, 3), {"padding": 2}, ("padding", "2", "half")),
    (F.max_pool2d, (x2, 3), {"dilation": 0}, ("dilation", "0")),
    (F.max_pool2d, (x2, 9), {}, ("9", "8")),
    (F.max_pool2d, (t(8, 8), 2), {}, ("(8, 8)",)),
    (F.max_pool1d, (x2, 2), {}, ("(2, 4, 8, 8)",)),
    (F.max_pool2d, (t(2, 0, 8, 8), 2), {}, ("channels",)),
    (F.avg_pool2d, (x2, 3), {"divisor_override": 0}, ("divisor_override", "0")),
    (F.avg_pool2d, (x2, (3, 3, 3)), {}, ("kernel_size", "(3, 3, 3)")),
    (F.adaptive_avg_pool2d, (x2, (2, 2, 2)), {}, ("output_size", "(2, 2, 2)")),
    (F.adaptive_max_pool2d, (x2, -1), {}, ("output_size", "-1")),
    (F.max_unpool2d, (x2, t(2, 4, 8, 8), 2), {}, ("indices", "int64", "float64")),
    (F.max_unpool2d, (x2, Tensor(np.full((2, 4, 8, 8), 999)), 2), {}, ("indices", "999")),
    (F.lp_pool2d, (x2, 0, 2), {}, ("norm_type", "0")),
    # Folding, padding, resampling, sampling
    (F.unfold, (x2, 9), {}, ("9", "8")),
    (F.fold, (t(2, 5, 4), 3, 2), {}, ("5",)),
    (F.fold, (t(2, 4, 5), 3, 2), {}, ("5", "4")),
    (F.pad, (x2, (1,)), {}, ("pad", "(1,)")),
    (F.pad, (x2, (1,) * 10), {}, ("pad", "4")),
    (F.pad, (x2, (-5, -5)), {}, ("pad", "8")),
    (F.pad, (x2, (8, 0, 0, 0)), {"mode": "reflect"}, ("reflect", "8")),
    (F.pad, (x2, (1, 0)), {"mode": "reflect"}, ("(0, 0)", "(2, 4, 8, 8)")),
    (F.pad, (x2, (9, 0, 0, 0)), {"mode": "circular"}, ("circular", "9", "8")),
    (F.pad, (t(8), (1, 1)), {"mode": "replicate"}, ("replicate", "(8,)")),
    (F.pad, (x2, (1, 1)), {"mode": "mirror"}, ("mode", "mirror", "reflect")),
    (F.interpolate, (x2,), {}, ("size", "scale_factor")),
    (F.interpolate, (x2,), {"size": 4, "scale_factor": 2}, ("size", "scale_factor")),
    (F.interpolate, (x2,), {"size": 0}, ("size", "0")),
    (F.interpolate, (x2,), {"size": 4, "mode": "linear"}, ("linear", "(2, 4, 8, 8)")),
    (F.interpolate, (x2,), {"size": 4, "mode": "cubic"}, ("mode", "cubic")),
    (F.interpolate, (x2,), {"size": 4, "align_corners": True}, ("align_corners", "nearest")),
    (F.grid_sample, (x2, t(2, 3, 3, 3)), {}, ("grid", "(2, 3, 3, 3)")),
    (F.grid_sample, (x2, t(3, 3, 3, 2)), {}, ("grid", "(2, OH, OW, 2)", "(3, 3, 3, 2)")),
    (F.grid_sample, (x2, t(2, 3, 3, 2)), {"mode": "best"}, ("mode", "best")),
    (F.affine_grid, (t(2, 3, 3), (2, 1, 4, 4)), {}, ("theta", "(2, 3, 3)")),
    (F.pixel_shuffle, (x2, 3), {}, ("4", "9")),
    (F.pixel_shuffle, (x2, 0), {}, ("upscale_factor", "0")),
    # Normalisation and dropout
    (F.batch_norm, (t(1, 4), None, None), {"training": True}, ("more than 1 value", "(1, 4)")),
    (F.batch_norm, (x2, None, None), {}, ("running_mean",)),
    (F.batch_norm, (x2, t(3), t(3)), {}, ("running_mean", "3", "4")),
    (F.layer_norm, (x2, (7,)), {}, ("normalized_shape", "(7,)")),
    (F.group_norm, (x2, 3), {}, ("num_groups", "3", "4")),
    (F.instance_norm, (t(2, 4, 1),), {}, ("(2, 4, 1)",)),
    (F.dropout, (x2, 1.5), {}, ("p", "1.5")),
    # Losses
    (F.mse_loss, (t(3, 1), t(3)), {}, ("(3, 1)", "(3,)")),
    (F.mse_loss, (t(3), t(3)), {"reduction": "avg"}, ("reduction", "avg", "mean")),
    (F.cross_entropy, (t(2, 3), i(0, 3)), {}, ("target", "3", "0 to 2")),
    (F.cross_entropy, (t(2, 3), i(0, -1)), {}, ("-1", "ignore_index")),
    (F.cross_entropy, (t(2, 3), i(0, 1, 2)), {}, ("target", "(3,)", "(2,)")),
    (F.cross_entropy, (t(2, 3), t(2)), {}, ("target", "float64")),
    (F.cross_entropy, (t(2, 3), i(0, 1), t(4)), {}, ("weight", "4", "3")),
    (F.cross_entropy, (t(2, 3), i(0, 1)), {"label_smoothing": 2}, ("label_smoothing", "2")),
    (F.nll_loss, (t(2, 3, 4, 4), i(0, 1)), {}, ("target", "(2, 4, 4)")),
    (F.binary_cross_entropy, (t(3) * 2, t(3)), {}, ("[0, 1]", "with_logits")),
    # Products
    (tinyconv.matmul, (t(2, 3), t(2, 3)), {}, ("3", "2", "(2, 3)")),
    (tinyconv.matmul, (t(2, 3), t(3, 2, dtype=np.float32)), {}, ("float64", "float32")),
    (F.linear, (t(2, 3), t(5, 4)), {}, ("weight", "3", "4")),
    (F.bilinear, (t(2, 3), t(2, 4), t(5, 4, 4)), {}, ("weight", "(5, 4, 4)")),
    (tinyconv.einsum, ("ij,jk->ik", t(2, 3)), {}, ("2", "1")),
    (tinyconv.einsum, ("ij,jk->ik", t(2, 3), t(2, 3)), {}, ("j", "3", "2")),
    # Elements, reductions, shape
    (tinyconv.add, (t(2, 3), t(4)), {}, ("(2, 3)", "(4,)", "broadcast")),
    (tinyconv.sub, (i(1) == 1, i(1) == 1), {}, ("bool", "logical_xor")),
    (tinyconv.pow, (i(2), -1), {}, ("negative",)),
    (tinyconv.div, (i(2), i(0)), {"rounding_mode": "floor"}, ("zero",)),
    (tinyconv.div, (i(2), i(1)), {"rounding_mode": "up"}, ("rounding_mode", "up")),
    (tinyconv.clamp, (t(2),), {}, ("min", "max")),
    (tinyconv.exp, ("a",), {}, ("Tensor", "str")),
    (tinyconv.where, (t(2), 1.0, 2.0), {}, ("bool",)),
    (tinyconv.sum, (x2, 4), {}, ("dim=4", "4 axes")),
    (tinyconv.sum, (x2, (1, 1)), {}, ("twice",)),
    (tinyconv.mean, (i(1, 2),), {}, ("float", "int64")),
    (tinyconv.amax, (t(0),), {}, ("(0,)",)),
    (tinyconv.argmax, (t(0, 3), 0), {}, ("(0, 3)",)),
    (tinyconv.norm, (t(3), "nuc"), {}, ("nuc",)),
    (tinyconv.reshape, (x2, (3, -1)), {}, ("512", "(3, -1)")),
    (tinyconv.permute, (x2, (0, 1, 2)), {}, ("(0, 1, 2)", "4")),
    (tinyconv.expand, (t(3), (4,)), {}, ("(3,)", "(4,)")),
    (tinyconv.cat, ([t(2, 3), t(3, 4)],), {}, ("(2, 3)", "(3, 4)")),
    (tinyconv.cat, ([],), {}, ("at least one",)),
    (tinyconv.stack, ([t(2), t(3)],), {}, ("(2,)", "(3,)")),
    (tinyconv.split, (t(5), [2, 2]), {}, ("[2, 2]", "5")),
    (tinyconv.chunk, (t(5), 0), {}, ("chunks", "0")),
    (tinyconv.narrow, (t(5), 0, 3, 4), {}, ("start=3", "length=4", "5")),
    (tinyconv.flip, (t(5), (0, 0)), {}, ("twice",)),
    (tinyconv.roll, (t(5), (1, 2), (0,)), {}, ("shifts", "dims")),
    (tinyconv.gather, (t(3), 0, i(3)), {}, ("index", "3")),
    (tinyconv.gather, (t(3), 0, t(1)), {}, ("index", "integer", "float64")),
    (tinyconv.scatter_add, (t(3), 0, i(0, 1), t(1)), {}, ("src", "(2,)", "(1,)")),
    (tinyconv.index_select, (t(3), 0, i(5)), {}, ("5", "3")),
    (F.one_hot, (i(0, 5), 3), {}, ("5", "[0, 3)")),
    (F.one_hot, (t(2),), {}, ("integers", "float64")),
    (F.glu, (t(3),), {}, ("3", "even")),
    (F.softmax, (i(1, 2), 0), {}, ("float", "int64")),
    (F.prelu, (t(2, 3), t(2)), {}, ("weight", "2", "3")),
    (F.hardtanh, (t(2), 1.0, -1.0), {}, ("min_val", "max_val")),
]


@pytest.mark.parametrize(
    ("function", "args", "options", "words"), WRONG, ids=[f"{n}-{row[0].__name__}" for n, row in enumerate(WRONG)]
)
def test_the_message_names_operator_argument_found_and_expected(
    function: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any], words: tuple[str, ...]
) -> None:
    given_ = [a for a in args if isinstance(a, Tensor)]
    before = [a.data.copy() for a in given_]
    with pytest.raises(OUR_ERRORS) as error:
        function(*args, **options)
    message = str(error.value)
    missing = [word for word in words if word not in message]
    assert not missing, f"{missing} not in: {message}"
    if function not in (tinyconv.index_select,):
        assert function.__name__ in message, message
    np.testing.assert_equal([a.data for a in given_], before)


def test_running_statistics_are_not_half_changed() -> None:
    mean, var = t(4), t(4)
    for args, options in (
        ((t(1, 4), mean, var), {"training": True}),
        ((t(2, 4, 3), mean, t(3)), {"training": True}),
        ((t(2, 4, 3), mean, var, t(5)), {"training": True}),
        ((t(2, 4, 3), mean, var, None, None, True, 0.1, -1.0), {}),
    ):
        with pytest.raises(OUR_ERRORS):
            F.batch_norm(*args, **options)
        np.testing.assert_array_equal(mean.data, np.ones(4))
        np.testing.assert_array_equal(var.data, np.ones(4))
