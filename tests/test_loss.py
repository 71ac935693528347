"""Losses against torch, and published numbers."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as TF

from against_torch import agree
from tinyconv import Tensor, grad
from tinyconv.ops import activation as A
from tinyconv.ops import loss as L

DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])
REDUCTIONS = pytest.mark.parametrize("reduction", ["none", "mean", "sum"])


@DTYPES
@REDUCTIONS
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mse_loss", {}),
        ("l1_loss", {}),
        ("smooth_l1_loss", {}),
        ("smooth_l1_loss", {"beta": 0.4}),
        ("smooth_l1_loss", {"beta": 0.0}),
        ("huber_loss", {}),
        ("huber_loss", {"delta": 0.4}),
    ],
)
def test_distances(name: str, options: dict[str, float], reduction: str, dtype: str) -> None:
    rng = np.random.default_rng(0)
    x, t = rng.standard_normal((2, 5, 3)).astype(dtype), rng.standard_normal((2, 5, 3)).astype(dtype)
    t[0, 0] = x[0, 0]  # d = 0, where |d| has no derivative
    agree(
        lambda x, t: getattr(L, name)(x, t, reduction=reduction, **options),
        lambda x, t: getattr(TF, name)(x, t, reduction=reduction, **options),
        [x, t],
    )


@DTYPES
@REDUCTIONS
def test_binary_cross_entropy(reduction: str, dtype: str) -> None:
    rng = np.random.default_rng(1)
    x, t, w = (rng.uniform(0.02, 0.98, (4, 3)).astype(dtype) for _ in range(3))
    t[0] = [0, 1, 0.5]
    agree(
        lambda x, t: L.binary_cross_entropy(x, t, Tensor(w), reduction=reduction),
        lambda x, t: TF.binary_cross_entropy(x, t, torch.tensor(w), reduction=reduction),
        [x, t],
        second=False,  # torch's second derivative has a rounding constant of its own; see the differences below
    )
    logits = rng.standard_normal((4, 3)).astype(dtype) * 5
    agree(
        lambda x, t: L.binary_cross_entropy_with_logits(
            x, t, Tensor(w), reduction=reduction, pos_weight=Tensor(w[0] * 3)
        ),
        lambda x, t: TF.binary_cross_entropy_with_logits(
            x, t, torch.tensor(w), reduction=reduction, pos_weight=torch.tensor(w[0] * 3)
        ),
        [logits, t],
    )


def test_binary_cross_entropy_second_derivative_in_closed_form() -> None:
    x = Tensor(np.array([0.2, 0.7]), requires_grad=True)
    t = np.array([0.3, 1.0])
    (g,) = grad(L.binary_cross_entropy(x, Tensor(t), reduction="sum"), x, create_graph=True)
    (h,) = grad(g.sum(), x)
    np.testing.assert_allclose(h.data, t / x.data**2 + (1 - t) / (1 - x.data) ** 2, rtol=1e-12)


def test_binary_cross_entropy_at_certainty() -> None:
    x = np.array([0.0, 1.0, 0.0, 1.0, 1e-45, 0.5], np.float32)
    t = np.array([0.0, 1.0, 1.0, 0.0, 1.0, 1.0], np.float32)
    agree(L.binary_cross_entropy, TF.binary_cross_entropy, [x, t], wanted=[0], second=False)
    far = np.array([800.0, -800.0, 800.0, -800.0, 0.0])
    agree(
        L.binary_cross_entropy_with_logits,
        TF.binary_cross_entropy_with_logits,
        [far, np.array([1.0, 0.0, 0.0, 1.0, 1.0])],
        wanted=[0],
    )


SHAPES = [(5,), (4, 5), (2, 5, 3), (2, 5, 3, 4), (2, 5, 2, 3, 2), (0, 5, 3)]


def classes(shape: tuple[int, ...], ignored: bool) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(2)
    target = np.asarray(rng.integers(0, 5, (*shape[:1], *shape[2:]) if len(shape) > 1 else ()))
    if ignored and target.size > 2:
        target[rng.random(target.shape) < 0.4] = -100
    return target


@DTYPES
@REDUCTIONS
@pytest.mark.parametrize("shape", SHAPES)
def test_nll_and_cross_entropy(shape: tuple[int, ...], reduction: str, dtype: str) -> None:
    rng = np.random.default_rng(3)
    x, w = rng.standard_normal(shape).astype(dtype) * 3, rng.uniform(0.1, 2, 5).astype(dtype)
    for weighted, ignored, smoothing in itertools.product((False, True), (False, True), (None, 0.0, 0.1)):
        t = classes(shape, ignored)
        ours: dict[str, Any] = {"weight": Tensor(w) if weighted else None, "reduction": reduction}
        theirs: dict[str, Any] = {"weight": torch.tensor(w) if weighted else None, "reduction": reduction}
        name = "nll_loss"
        if smoothing is not None:
            name = "cross_entropy"
            ours["label_smoothing"] = theirs["label_smoothing"] = smoothing
        agree(
            lambda x: getattr(L, name)(x, Tensor(t), **ours),  # noqa: B023
            lambda x: getattr(TF, name)(x, torch.tensor(t), **theirs),  # noqa: B023
            [x],
        )


@DTYPES
@REDUCTIONS
@pytest.mark.parametrize("shape", SHAPES)
def test_soft_targets(shape: tuple[int, ...], reduction: str, dtype: str) -> None:
    rng = np.random.default_rng(4)
    x, w = rng.standard_normal(shape).astype(dtype), rng.uniform(0.1, 2, 5).astype(dtype)
    q = rng.uniform(0, 1, shape).astype(dtype)
    for smoothing in (0.0, 0.2):
        agree(
            lambda x, q: L.cross_entropy(x, q, Tensor(w), reduction=reduction, label_smoothing=smoothing),  # noqa: B023
            lambda x, q: TF.cross_entropy(x, q, torch.tensor(w), reduction=reduction, label_smoothing=smoothing),  # noqa: B023
            [x, q],
            second=bool(
                shape[0]
            ),  # the mean of no images is NaN, and so is every derivative, or none: a matter of taste
        )


def test_cross_entropy_edges() -> None:
    x = np.array([[1e4, 0.0, -1e4], [-np.inf, 0.0, 1.0], [0.0, -np.inf, 0.0], [-np.inf] * 3])
    for t in ([0, 1, 1, 0], [2, 0, 0, 2], [-100] * 4, [1, 1, -100, -100]):
        target = np.array(t)
        for reduction in ("none", "mean"):
            found = L.cross_entropy(Tensor(x), Tensor(target), reduction=reduction).data
            expected = TF.cross_entropy(torch.tensor(x), torch.tensor(target), reduction=reduction).numpy()
            np.testing.assert_allclose(found, expected, rtol=1e-12)
    x = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    for kind in (np.uint8, np.int32):
        small = L.cross_entropy(Tensor(x), Tensor(np.array([0, 3, 1], kind)))
        np.testing.assert_allclose(
            small.data, TF.cross_entropy(torch.tensor(x), torch.tensor([0, 3, 1])).numpy(), rtol=1e-6
        )
    agree(
        lambda x: L.cross_entropy(x, Tensor(np.array([0, 3, 1])), ignore_index=3),
        lambda x: TF.cross_entropy(x, torch.tensor([0, 3, 1]), ignore_index=3),
        [x],
    )


@DTYPES
@pytest.mark.filterwarnings("ignore:reduction")  # torch's 'mean' will become what 'batchmean' is
@pytest.mark.parametrize("reduction", ["none", "mean", "sum", "batchmean"])
def test_kl_div(reduction: str, dtype: str) -> None:
    rng = np.random.default_rng(5)
    p, q = (torch.softmax(torch.tensor(rng.standard_normal((4, 3))), 1).numpy() for _ in range(2))
    agree(
        lambda x, t: L.kl_div(x, t, reduction=reduction),
        lambda x, t: TF.kl_div(x, t, reduction=reduction),
        [np.log(p).astype(dtype), q.astype(dtype)],
    )
    agree(
        lambda x, t: L.kl_div(x, t, reduction=reduction, log_target=True),
        lambda x, t: TF.kl_div(x, t, reduction=reduction, log_target=True),
        [np.log(p).astype(dtype), np.log(q).astype(dtype)],
    )
    q[0] = [0, 1, 0]
    agree(
        lambda x, t: L.kl_div(x, t, reduction=reduction),
        lambda x, t: TF.kl_div(x, t, reduction=reduction),
        [np.log(p).astype(dtype), q.astype(dtype)],
        wanted=[0],
    )


@DTYPES
def test_cosine(dtype: str) -> None:
    rng = np.random.default_rng(6)
    a, b = rng.standard_normal((4, 5, 3)).astype(dtype), rng.standard_normal((4, 5, 3)).astype(dtype)
    for dim in (0, 1, -1):
        agree(lambda a, b: L.cosine_similarity(a, b, dim), lambda a, b: TF.cosine_similarity(a, b, dim), [a, b])  # noqa: B023
    agree(L.cosine_similarity, TF.cosine_similarity, [a, b[:1]])
    t = np.array([1, -1, -1, 1])
    for reduction in ("none", "mean", "sum"):
        agree(
            lambda a, b: L.cosine_embedding_loss(a, b, Tensor(t), 0.1, reduction=reduction),  # noqa: B023
            lambda a, b: TF.cosine_embedding_loss(a, b, torch.tensor(t), 0.1, reduction=reduction),  # noqa: B023
            [a[:, 0], b[:, 0]],
        )
    agree(
        lambda a, b: L.cosine_embedding_loss(a, b, Tensor(np.array(-1))),
        lambda a, b: TF.cosine_embedding_loss(a, b, torch.tensor(-1)),
        [a[0, 0], b[0, 0]],
    )


# --------------------------------------------------------------------------------------------------
# Dice


def golden() -> tuple[Tensor, Tensor]:
    """z[0, c, i, j] = sin(0.7 k), k = 16c + 4i + j, and classes (2i + j) mod 3 on 4 x 4 pixels."""
    i, j = np.meshgrid(np.arange(4), np.arange(4), indexing="ij")
    z = np.sin(0.7 * np.arange(48)).astype(np.float32).reshape(1, 3, 4, 4)
    return Tensor(z), Tensor(((2 * i + j) % 3)[None])


def test_golden_numbers() -> None:
    z, y = golden()
    weight = Tensor(np.array([1, 2, 4], np.float32))
    assert float(L.cross_entropy(z, y).data) == pytest.approx(1.241593, abs=1e-6)
    assert float(L.cross_entropy(z, y, weight).data) == pytest.approx(1.265879, abs=1e-6)
    assert float(L.dice_loss(A.softmax(z, 1), y).data) == pytest.approx(0.658292, abs=1e-6)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize("batch", [True, False])
def test_dice_by_its_formula(batch: bool, background: bool, reduction: str) -> None:
    rng = np.random.default_rng(7)
    x, t = rng.standard_normal((3, 4, 5, 2)), rng.integers(0, 4, (3, 5, 2))

    def formula(x: torch.Tensor) -> torch.Tensor:
        p, y = torch.softmax(x, 1), TF.one_hot(torch.tensor(t), 4).permute(0, 3, 1, 2)
        over = (0, 2, 3) if batch else (2, 3)
        loss = 1 - (2 * (p * y).sum(over) + 0.1) / (p.sum(over) + y.sum(over) + 0.1)
        loss = loss if background else loss[..., 1:]
        return {"none": loss, "mean": loss.mean(), "sum": loss.sum()}[reduction]

    options: dict[str, Any] = dict(smooth=0.1, batch=batch, background=background, reduction=reduction)
    agree(lambda x: L.dice_loss(A.softmax(x, 1), Tensor(t), **options), formula, [x])
    hot = TF.one_hot(torch.tensor(t), 4).permute(0, 3, 1, 2).double().numpy()
    agree(lambda x: L.dice_loss(A.softmax(x, 1), Tensor(hot), **options), formula, [x])


def test_dice_of_a_perfect_and_of_an_empty_prediction() -> None:
    hot = Tensor(np.eye(3)[:, :, None])  # (N, C, L): image n is all class n
    assert float(L.dice_loss(hot, Tensor(np.arange(3)[:, None])).data) == pytest.approx(0, abs=1e-12)
    wrong = L.dice_loss(hot, Tensor(np.array([[1], [2], [0]])), batch=True)
    assert float(wrong.data) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: L.cross_entropy(np.zeros((2, 3)), np.array([0, 7])), IndexError, "class 7.*3 classes"),
        (lambda: L.cross_entropy(np.zeros((2, 3)), np.array([0, -1])), IndexError, "class -1.*ignore_index=-1"),
        (lambda: L.nll_loss(np.zeros((2, 3)), np.array([0, 3])), IndexError, "class 3.*3 classes"),
        (lambda: L.dice_loss(np.zeros((1, 3, 2)), np.array([[0, -100]])), IndexError, "class -100"),
        (lambda: L.cross_entropy(np.zeros((2, 3)), np.zeros(2)), TypeError, "integers"),
        (lambda: L.cross_entropy(np.zeros((2, 3)), np.zeros((2, 3), int)), TypeError, "float"),
        (lambda: L.cross_entropy(np.zeros((2, 3, 4)), np.zeros((2, 3), int)), ValueError, r"shape \(2, 4\)"),
        (lambda: L.cross_entropy(np.zeros((2, 3)), np.zeros(2, int), np.ones(4)), ValueError, "weight"),
        (lambda: L.cross_entropy(np.zeros((2, 3)), np.zeros(2, int), np.ones(3, "f4")), TypeError, "weight"),
        (lambda: L.cross_entropy(np.zeros((2, 3)), np.zeros(2, int), reduction="avg"), ValueError, "reduction"),
        (lambda: L.cross_entropy(np.zeros((2, 3)), np.zeros(2, int), label_smoothing=2), ValueError, "smoothing"),
        (lambda: L.cross_entropy(np.zeros((2, 3)), np.zeros((2, 3)), ignore_index=1), ValueError, "ignore_index"),
        (lambda: L.cross_entropy(np.zeros((2, 3), int), np.zeros(2, int)), TypeError, "float"),
        (lambda: L.cross_entropy(np.zeros((2, 0)), np.zeros(2, int)), ValueError, "no classes"),
        (lambda: L.mse_loss(np.zeros((2, 1)), np.zeros(2)), ValueError, "shape"),
        (lambda: L.mse_loss(np.zeros(2), np.zeros(2), reduction="max"), ValueError, "reduction"),
        (lambda: L.huber_loss(np.zeros(2), np.zeros(2), delta=0), ValueError, "delta"),
        (lambda: L.smooth_l1_loss(np.zeros(2), np.zeros(2), beta=-1), ValueError, "beta"),
        (lambda: L.binary_cross_entropy(np.array([1.5]), np.zeros(1)), ValueError, r"\[0, 1\]"),
        (lambda: L.binary_cross_entropy(np.array([math.nan]), np.zeros(1)), ValueError, r"\[0, 1\]"),
        (lambda: L.binary_cross_entropy_with_logits(np.zeros(2), np.zeros((2, 1))), ValueError, "shape"),
        (lambda: L.kl_div(np.zeros(2), np.zeros(2), reduction="batch"), ValueError, "batchmean"),
        (lambda: L.cosine_embedding_loss(np.zeros((2, 3)), np.zeros((2, 3)), np.zeros(3)), ValueError, "target"),
        (lambda: L.dice_loss(np.zeros(3), np.zeros(3)), ValueError, "N, C"),
    ],
)
def test_refusals(call: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        call()
