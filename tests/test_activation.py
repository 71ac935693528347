"""Activations against torch: values, gradients, second derivatives, kinks, infinities."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as TF

from against_torch import agree
from tinyconv import Tensor, grad, gradcheck
from tinyconv.ops import activation as A

CASES: list[tuple[str, dict[str, Any]]] = [
    ("relu", {}),
    ("relu6", {}),
    ("leaky_relu", {}),
    ("leaky_relu", {"negative_slope": 0.3}),
    ("leaky_relu", {"negative_slope": -2.0}),
    ("elu", {}),
    ("elu", {"alpha": 0.7}),
    ("selu", {}),
    ("celu", {"alpha": 2.0}),  # torch rounds 1/alpha to float32 in its gradient: one whose inverse is exact
    ("celu", {"alpha": -0.5}),
    ("gelu", {}),
    ("gelu", {"approximate": "tanh"}),
    ("silu", {}),
    ("mish", {}),
    ("hardtanh", {}),
    ("hardtanh", {"min_val": -0.3, "max_val": 2.0}),
    ("hardswish", {}),
    ("softplus", {}),
    ("softplus", {"beta": 3.0, "threshold": 2.0}),
    ("softsign", {}),
    ("tanhshrink", {}),
    ("logsigmoid", {}),
    ("threshold", {"threshold": 0.5, "value": -3.0}),
    ("softmax", {"dim": 1}),
    ("softmax", {"dim": -1}),
    ("log_softmax", {"dim": 0}),
    ("log_softmax", {"dim": -2}),
    ("softmin", {"dim": 1}),
    ("glu", {}),
    ("glu", {"dim": 0}),
]
NAMES = [f"{name}-{'-'.join(map(str, options.values()))}" for name, options in CASES]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("name", "options"), CASES, ids=NAMES)
def test_agrees_with_torch(name: str, options: dict[str, Any], dtype: str) -> None:
    x = (np.random.default_rng(1).standard_normal((4, 3, 6)) * 3).astype(dtype)
    agree(lambda t: getattr(A, name)(t, **options), lambda t: getattr(TF, name)(t, **options), [x])


@pytest.mark.parametrize(("name", "options"), CASES, ids=NAMES)
def test_layouts_and_empty(name: str, options: dict[str, Any]) -> None:
    x = np.random.default_rng(2).standard_normal((6, 8, 4))
    for view in (
        x.transpose(2, 0, 1)[:, ::-1],
        np.asfortranarray(x),
        x[::3, 1:7:2],
        np.broadcast_to(x[:, :1], x.shape),
    ):
        found = getattr(A, name)(Tensor(view), **options)
        expected = getattr(TF, name)(torch.tensor(view.copy()), **options)
        np.testing.assert_allclose(found.data, expected.numpy(), rtol=1e-12, atol=1e-14)
    assert getattr(A, name)(Tensor(np.zeros((0, 2, 4))), **options).shape == (
        0,
        *((2, 2) if name == "glu" and not options else (2, 4)),
    )


KINKS = {
    "relu": [-1.0, 0.0, 1.0, math.nan, math.inf, -math.inf],
    "relu6": [0.0, 6.0, 3.0, 7.0, math.inf, -math.inf],
    "hardtanh": [-1.0, 1.0, 0.0, math.inf, -math.inf, math.nan],
    "hardswish": [-3.0, 3.0, 0.0, 4.0, -4.0, math.inf],
    "leaky_relu": [0.0, math.inf, -math.inf, math.nan],
    "elu": [0.0, 800.0, math.inf, -math.inf],
    "selu": [0.0, 800.0, math.inf, -math.inf],
    "celu": [0.0, 800.0, math.inf, -math.inf],
    "softplus": [0.0, 20.0, 21.0, 800.0, -800.0, math.inf, -math.inf, math.nan],
    "logsigmoid": [0.0, 800.0, -800.0, math.inf, -math.inf, math.nan],
    "mish": [0.0, 800.0, -800.0],
    "silu": [0.0, 500.0, -500.0],
    "gelu": [0.0, 50.0, -50.0],
}


@pytest.mark.parametrize("name", KINKS)
def test_kinks_and_infinities(name: str) -> None:
    x = np.array(KINKS[name])
    g = np.array([math.inf if v < -1e3 else 2.0 for v in x])  # an infinite gradient where relu and its kin are shut
    g = g if name in ("relu", "relu6", "hardtanh") else np.full(x.shape, 2.0)
    ours, theirs = Tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    y, z = getattr(A, name)(ours), getattr(TF, name)(theirs)
    np.testing.assert_allclose(y.data, z.detach().numpy(), rtol=1e-12, atol=1e-300)
    (found,) = grad(y, [ours], Tensor(g))
    (expected,) = torch.autograd.grad(z, [theirs], torch.tensor(g))
    np.testing.assert_allclose(found.data, expected.numpy(), rtol=1e-12, atol=1e-300)


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@pytest.mark.parametrize(
    "row",
    [
        [1e4, 1e4 - 1, 0.0],
        [-math.inf, 0.0, 1.0],
        [-math.inf] * 3,
        [math.inf, 0.0, 1.0],
        [math.nan, 0.0, 1.0],
        [1e38, -1e38, 0],
    ],
)
def test_softmax_of_extremes(name: str, row: list[float]) -> None:
    x = np.array([row], np.float32)
    found, expected = getattr(A, name)(Tensor(x), 1), getattr(TF, name)(torch.tensor(x), 1)
    np.testing.assert_allclose(found.data, expected.numpy(), rtol=1e-6)


def test_softmax_shapes_and_dtype() -> None:
    agree(lambda t: A.softmax(t, 0), lambda t: TF.softmax(t, 0), [np.array(3.0)], second=False)
    agree(lambda t: A.log_softmax(t, -1), lambda t: TF.log_softmax(t, -1), [np.array(3.0)], second=False)
    agree(
        lambda t: A.softmax(t, 1, dtype=np.float64),
        lambda t: TF.softmax(t, 1, dtype=torch.float64),
        [np.ones((2, 3), np.float32)],
    )
    assert A.softmax(Tensor(np.zeros((0, 3))), 0).shape == (0, 3)
    assert A.softmax(Tensor(np.zeros((3, 0))), 1).shape == (3, 0)
    half = A.softmax(Tensor(np.zeros((1, 4096), np.float16)), 1)
    assert half.dtype == np.float16 and np.all(half.data == np.float16(1 / 4096))


def test_erf_to_the_last_digits() -> None:
    x = np.concatenate([np.linspace(-7, 7, 30001), [1e-300, 0.46875, 4.0, math.inf, -math.inf]])
    expected = np.array([math.erf(v) for v in x])
    np.testing.assert_allclose(A.erf(Tensor(x)).data, expected, rtol=1e-15)
    single = x.astype(np.float32)
    expected = np.array([math.erf(v) for v in single])
    np.testing.assert_allclose(A.erf(Tensor(single)).data, expected, rtol=4e-7)
    assert math.isnan(float(A.erf(Tensor(np.array(math.nan))).data))
    agree(A.erf, torch.erf, [np.random.default_rng(0).standard_normal(50)])


def test_hardsigmoid() -> None:
    # torch's gradient is 1/6 rounded to float32 in float64 too, so its value is compared and ours is known.
    x = np.array([-4.0, -3.0, -2.9, 0.0, 1.0, 3.0, 5.0, math.inf, -math.inf])
    t = Tensor(x, requires_grad=True)
    y = A.hardsigmoid(t)
    np.testing.assert_allclose(y.data, TF.hardsigmoid(torch.tensor(x)).numpy(), rtol=1e-14)
    (g,) = grad(y, t, Tensor(x))
    np.testing.assert_allclose(g.data, [0, 0, -2.9 / 6, 0, 1 / 6, 0, 0, 0, 0], rtol=1e-14)


def test_celu_by_differences() -> None:
    x = np.random.default_rng(4).standard_normal(20)
    assert gradcheck(lambda t: A.celu(t, 1.7), Tensor(x, requires_grad=True), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(
    "shapes", [((2, 3, 4), (3,)), ((2, 3, 4), (1,)), ((5,), (1,)), ((2, 3), (3,)), ((), (1,)), ((2, 3), ())]
)
def test_prelu(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    rng = np.random.default_rng(3)
    agree(A.prelu, TF.prelu, [rng.standard_normal(shapes[0]), rng.standard_normal(shapes[1])])


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: A.softmax(Tensor(np.zeros((2, 3))), 2), IndexError, "dim"),
        (lambda: A.softmax(Tensor(np.zeros((2, 3), np.int64)), 1), TypeError, "float"),
        (lambda: A.gelu(Tensor(np.zeros(3)), "quick"), ValueError, "approximate"),
        (lambda: A.hardtanh(Tensor(np.zeros(3)), 1, -1), ValueError, "min_val"),
        (lambda: A.glu(Tensor(np.zeros((2, 3)))), ValueError, "even"),
        (lambda: A.glu(Tensor(np.zeros(()))), ValueError, "0-d"),
        (lambda: A.celu(Tensor(np.zeros(3)), 0), ValueError, "alpha"),
        (lambda: A.prelu(Tensor(np.zeros((2, 3))), Tensor(np.zeros(2))), ValueError, "weight"),
        (lambda: A.prelu(Tensor(np.zeros((2, 3))), Tensor(np.zeros((3, 1)))), ValueError, "weight"),
        (lambda: A.prelu(Tensor(np.zeros((2, 3))), Tensor(np.zeros(3, np.float32))), TypeError, "dtype"),
        (lambda: A.relu("x"), TypeError, "relu"),
        (lambda: A.leaky_relu(Tensor(np.arange(3))), TypeError, "float"),
    ],
)
def test_refusals(call: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        call()
