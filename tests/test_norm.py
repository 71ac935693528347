"""Normalisation and dropout against torch and closed forms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as TF

from against_torch import agree
from tinyconv import Tensor
from tinyconv.ops import dropout as D
from tinyconv.ops import norm as N
from tinyconv.ops.random import get_rng_state, manual_seed, set_rng_state


def data(dtype: str, *shapes: tuple[int, ...]) -> list[np.ndarray[Any, Any]]:
    rng = np.random.default_rng(5)
    return [(rng.standard_normal(s) * 2 + 0.5).astype(dtype) for s in shapes]


DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])
BATCHES = [(4, 3), (4, 3, 5), (2, 3, 4, 5), (2, 3, 2, 3, 4), (1, 3, 7)]


@DTYPES
@pytest.mark.parametrize("shape", BATCHES)
@pytest.mark.parametrize("training", [True, False])
def test_batch_norm(shape: tuple[int, ...], training: bool, dtype: str) -> None:
    x, w, b, mean, var = data(dtype, shape, (3,), (3,), (3,), (3,))
    var = abs(var) + np.asarray(0.5, dtype)
    ours, theirs = [Tensor(mean.copy()), Tensor(var.copy())], [torch.tensor(mean), torch.tensor(var)]
    agree(
        lambda x, w, b: N.batch_norm(x, *ours, w, b, training=training, momentum=0.3, eps=1e-3),
        lambda x, w, b: TF.batch_norm(x, *theirs, w, b, training=training, momentum=0.3, eps=1e-3),
        [x, w, b],
    )
    for a, t in zip(ours, theirs):
        np.testing.assert_allclose(a.data, t.numpy(), rtol=1e-6 if dtype == "float32" else 1e-12)
        assert a.dtype == dtype and a.version.count == int(training)


def test_batch_norm_without_parameters() -> None:
    (x,) = data("float64", (4, 3, 5))
    agree(
        lambda x: N.batch_norm(x, None, None, training=True), lambda x: TF.batch_norm(x, None, None, training=True), [x]
    )
    agree(
        lambda x: N.instance_norm(x, eps=0.1),
        lambda x: TF.instance_norm(x, eps=0.1),
        [x],
    )
    (w,) = data("float64", (3,))
    agree(
        lambda x, w: N.batch_norm(x, None, None, w, training=True),
        lambda x, w: TF.batch_norm(x, None, None, w, training=True),
        [x, w],
    )


@DTYPES
@pytest.mark.parametrize("shape", [(4, 6, 5), (2, 6, 4, 5), (1, 6, 2, 3, 4)])
def test_instance_norm(shape: tuple[int, ...], dtype: str) -> None:
    x, w, b, mean, var = data(dtype, shape, (6,), (6,), (6,), (6,))
    ours, theirs = [Tensor(mean.copy()), Tensor(abs(var))], [torch.tensor(mean), torch.tensor(abs(var))]
    for use_input_stats in (True, False):
        agree(
            lambda x, w, b: N.instance_norm(x, *ours, w, b, use_input_stats, 0.2, 1e-4),  # noqa: B023
            lambda x, w, b: TF.instance_norm(x, *theirs, w, b, use_input_stats, 0.2, 1e-4),  # noqa: B023
            [x, w, b],
        )
    for a, t in zip(ours, theirs):
        np.testing.assert_allclose(a.data, t.numpy(), rtol=1e-6)


@DTYPES
@pytest.mark.parametrize(("shape", "groups"), [((4, 6, 5), 3), ((2, 6, 4, 5), 1), ((2, 6, 3), 6), ((3, 6), 2)])
def test_group_norm(shape: tuple[int, ...], groups: int, dtype: str) -> None:
    x, w, b = data(dtype, shape, (6,), (6,))
    agree(lambda x, w, b: N.group_norm(x, groups, w, b), lambda x, w, b: TF.group_norm(x, groups, w, b), [x, w, b])
    agree(lambda x: N.group_norm(x, groups), lambda x: TF.group_norm(x, groups), [x])


@DTYPES
@pytest.mark.parametrize(
    ("shape", "last"), [((4, 6, 5), (5,)), ((4, 6, 5), (6, 5)), ((5,), (5,)), ((2, 3, 4), (2, 3, 4))]
)
def test_layer_norm(shape: tuple[int, ...], last: tuple[int, ...], dtype: str) -> None:
    x, w, b = data(dtype, shape, last, last)
    agree(lambda x, w, b: N.layer_norm(x, last, w, b), lambda x, w, b: TF.layer_norm(x, last, w, b), [x, w, b])
    agree(lambda x: N.layer_norm(x, last), lambda x: TF.layer_norm(x, last), [x])


@DTYPES
@pytest.mark.parametrize("size", [1, 2, 3, 5, 9])
def test_local_response_norm(size: int, dtype: str) -> None:
    (x,) = data(dtype, (2, 6, 3, 4))
    options = dict(alpha=0.7, beta=0.6, k=1.5)
    agree(
        lambda x: N.local_response_norm(x, size, **options), lambda x: TF.local_response_norm(x, size, **options), [x]
    )


@DTYPES
@pytest.mark.parametrize("options", [{}, {"p": 1.0}, {"p": 3.0, "dim": 0}, {"dim": -1, "eps": 3.0}])
def test_normalize(options: dict[str, Any], dtype: str) -> None:
    (x,) = data(dtype, (4, 3, 5))
    agree(lambda x: N.normalize(x, **options), lambda x: TF.normalize(x, **options), [x])
    zero = np.zeros((2, 3), dtype)
    agree(lambda x: N.normalize(x), lambda x: TF.normalize(x), [zero], second=False)


def test_large_mean_in_float32() -> None:
    """Mean 1e4 and deviation 1: the statistics must be those of the float32 data, taken in float64."""
    x = (np.random.default_rng(0).standard_normal((2, 3, 64, 64)) + 1e4).astype(np.float32)
    exact = x.astype(np.float64)
    mean, var = exact.mean((0, 2, 3)), exact.var((0, 2, 3), ddof=1)
    running = Tensor(np.zeros(3, np.float32)), Tensor(np.zeros(3, np.float32))
    y = N.batch_norm(Tensor(x), *running, training=True, momentum=1.0)
    np.testing.assert_allclose(running[0].data, mean, rtol=2**-23)
    np.testing.assert_allclose(running[1].data, var, rtol=1e-5)
    expected = (exact - mean[:, None, None]) / np.sqrt(exact.var((0, 2, 3)) + 1e-5)[:, None, None]
    np.testing.assert_allclose(y.data, expected, atol=1e-5)


def test_running_statistics_stay_when_the_call_raises() -> None:
    mean, var = Tensor(np.zeros(3)), Tensor(np.ones(3))
    x = Tensor(np.ones((2, 3, 4)))
    calls = [
        lambda: N.batch_norm(x, mean, Tensor(np.ones(4)), training=True),
        lambda: N.batch_norm(x, mean, var, weight=Tensor(np.ones(2)), training=True),
        lambda: N.batch_norm(Tensor(np.ones((1, 3, 1))), mean, var, training=True),
        lambda: N.instance_norm(x, mean, Tensor(np.ones(4))),
    ]
    for call in calls:
        with pytest.raises(ValueError):
            call()
    assert np.all(mean.data == 0) and np.all(var.data == 1)
    y = N.batch_norm(Tensor(np.ones((0, 3, 4))), mean, var, training=True)
    assert y.shape == (0, 3, 4) and np.all(mean.data == 0) and np.all(var.data == 1)


def test_gradient_arrives_in_empty_batches() -> None:
    x = Tensor(np.ones((0, 4, 3)), requires_grad=True)
    for y in (
        N.batch_norm(x, None, None, training=True), N.instance_norm(x), N.group_norm(x, 2), N.layer_norm(x, 3)
    ):  # fmt: skip
        y.sum().backward()
        assert x.grad is not None and x.grad.shape == x.shape


def test_float16_sums_in_float32() -> None:
    x = np.full((2, 1, 64, 64), 100, np.float16)
    x[0] = 98
    y = N.batch_norm(Tensor(x), None, None, training=True)
    assert y.dtype == np.float16
    np.testing.assert_allclose(y.data[:, 0, 0, 0], [-1, 1], rtol=1e-3)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: N.batch_norm(np.ones((2, 3)), None, None), ValueError, "running_mean"),
        (lambda: N.batch_norm(np.ones(3), None, None, training=True), ValueError, "axes"),
        (lambda: N.batch_norm(np.ones((2, 3)), None, None, np.ones(2), training=True), ValueError, r"weight.*\(3,\)"),
        (lambda: N.batch_norm(np.ones((2, 3)), None, None, np.ones(3, "f4"), training=True), TypeError, "float32"),
        (lambda: N.batch_norm(np.ones((2, 3)), None, None, training=True, eps=0), ValueError, "eps"),
        (lambda: N.batch_norm(np.ones((1, 3)), None, None, training=True), ValueError, "more than 1"),
        (lambda: N.instance_norm(np.ones((2, 3, 1))), ValueError, "more than 1"),
        (lambda: N.instance_norm(np.ones((2, 3))), ValueError, "axes"),
        (lambda: N.group_norm(np.ones((2, 6, 2)), 4), ValueError, "divide"),
        (lambda: N.group_norm(np.ones((2, 6, 2)), 0), ValueError, "divide"),
        (lambda: N.group_norm(np.ones((1, 6)), 6), ValueError, "more than 1"),
        (lambda: N.layer_norm(np.ones((2, 6)), (5,)), ValueError, "normalized_shape"),
        (lambda: N.layer_norm(np.ones((2, 6)), ()), ValueError, "normalized_shape"),
        (lambda: N.layer_norm(np.ones(6), (1, 6)), ValueError, "normalized_shape"),
        (lambda: N.local_response_norm(np.ones((2, 3, 4)), 0), ValueError, "size"),
        (lambda: N.normalize(np.ones((2, 3)), dim=2), IndexError, "dim"),
        (lambda: D.dropout(np.ones(3), 1.5), ValueError, "p is"),
        (lambda: D.dropout(np.ones(3), -0.1, False), ValueError, "p is"),
        (lambda: D.dropout(np.arange(3)), TypeError, "float"),
        (lambda: D.dropout(np.ones(3), generator=3), TypeError, "generator"),  # type: ignore[arg-type]
        (lambda: D.dropout2d(np.ones((3, 4, 5))), ValueError, "dropout1d"),
        (lambda: D.feature_alpha_dropout(np.ones(3), training=True), ValueError, "N, C"),
        (lambda: manual_seed(-1), ValueError, "seed"),
        (lambda: manual_seed("1"), TypeError, "seed"),  # type: ignore[arg-type]
    ],
)
def test_refusals(call: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        call()


# --------------------------------------------------------------------------------------------------
# Dropout


def test_dropout_zeros_a_share_and_scales_the_rest() -> None:
    x = Tensor(np.full((200, 500), 2.0, np.float32), requires_grad=True)
    y = D.dropout(x, 0.3, generator=np.random.default_rng(0))
    assert y.dtype == np.float32
    kept = y.data != 0
    np.testing.assert_allclose(y.data[kept], 2 / 0.7, rtol=1e-6)
    assert abs(kept.mean() - 0.7) < 5 * np.sqrt(0.21 / kept.size)
    y.sum().backward()
    np.testing.assert_allclose(x.grad.data, kept / 0.7, rtol=1e-6)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("drop", "shape"),
    [
        (D.dropout1d, (3, 40, 5)),
        (D.dropout1d, (40, 5)),
        (D.dropout2d, (3, 40, 5, 2)),
        (D.dropout3d, (3, 40, 5, 2, 2)),
        (D.dropout3d, (40, 5, 2, 2)),
        (D.feature_alpha_dropout, (3, 40, 5)),
    ],
)
def test_whole_channels(drop: Any, shape: tuple[int, ...]) -> None:
    y = drop(Tensor(np.ones(shape)), 0.5, True, generator=np.random.default_rng(1)).data
    channels = y.reshape(-1, int(np.prod(shape[shape.index(40) + 1 :])))
    assert np.all(channels == channels[:, :1])
    assert 0 < (channels[:, 0] == channels.min()).mean() < 1


def test_alpha_dropout_keeps_mean_and_variance() -> None:
    x = np.random.default_rng(2).standard_normal(200_000)
    y = D.alpha_dropout(Tensor(x), 0.4, True, generator=np.random.default_rng(3)).data
    assert abs(y.mean()) < 0.02 and abs(y.var() - 1) < 0.02
    torch.manual_seed(0)
    expected = np.unique(TF.alpha_dropout(torch.zeros(100, dtype=torch.float64), 0.3, True).numpy().round(12))
    found = np.unique(D.alpha_dropout(Tensor(np.zeros(100)), 0.3, True).data.round(12))
    np.testing.assert_allclose(found, expected, rtol=1e-7)


def test_dropout_edges() -> None:
    x = Tensor(np.array([1.0, np.nan, np.inf]))
    for drop in (D.dropout, D.alpha_dropout):
        assert drop(x, 0.0, True) is x
        assert drop(x, 0.9, False) is x
        np.testing.assert_array_equal(drop(x, 1.0, True).data, TF.dropout(torch.tensor(x.data), 1.0).numpy())


def test_seeded() -> None:
    x = Tensor(np.ones(1000))
    manual_seed(7)
    state = get_rng_state()
    first = D.dropout(x).data
    second = D.dropout(x).data
    assert np.any(first != second)
    manual_seed(7)
    np.testing.assert_array_equal(D.dropout(x).data, first)
    set_rng_state(state)
    np.testing.assert_array_equal(D.dropout(x).data, first)
    np.testing.assert_array_equal(D.dropout(x, generator=np.random.default_rng(7)).data, first)
