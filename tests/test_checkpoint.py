"""Gradient checkpointing: torch's gradients, the same bits as without it, and fewer bytes held."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.checkpoint import checkpoint as torch_checkpoint

import tinyconv
from tinyconv import Tensor, nn
from tinyconv import functional as F
from tinyconv.nn.checkpoint import checkpoint


def make_block(seed: int) -> nn.Module:
    tinyconv.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2), nn.Tanh(), nn.Dropout(0.4))


def run(saving: bool) -> list[np.ndarray[Any, Any]]:
    """Output, gradients, statistics and the next random number of two blocks with dropout and batch norm."""
    blocks = [make_block(0), make_block(1)]
    tinyconv.manual_seed(2)
    x = tinyconv.tensor(np.random.default_rng(0).standard_normal((3, 2, 5, 5), np.float32), requires_grad=True)
    y = x
    for block in blocks:
        y = checkpoint(block, y) if saving else block(y)
    (y * y).sum().backward()
    tensors = [y, x.grad, *(p.grad for b in blocks for p in b.parameters()), *(v for b in blocks for v in b.buffers())]
    return [*(t.detach().numpy() for t in tensors), F.dropout(Tensor(np.ones(50))).numpy()]


def test_dropout_and_batch_norm_as_without_it_to_the_bit() -> None:
    for plain, saved in zip(run(False), run(True), strict=True):
        np.testing.assert_array_equal(plain, saved)


def test_gradients_as_torch() -> None:
    rng = np.random.default_rng(3)
    a, b, w = (rng.standard_normal(shape) for shape in ((4, 3), (4, 3), (3, 3)))

    def gradients(lib: Any, checkpointed: Any) -> list[np.ndarray[Any, Any]]:
        x, y, weight = (lib.tensor(v, requires_grad=True) for v in (a, b, w))

        def part(first: Any, factor: float, second: Any) -> Any:
            return lib.tanh(first @ weight) * factor + second, first * second

        p, q = checkpointed(part, x * 2, 3.0, y)  # a result, a number and a leaf as arguments
        r, _ = checkpointed(part, p, 0.5, q)  # the same parameter again, and an output that nobody uses
        (r * r).sum().backward()
        return [t.grad.numpy() for t in (x, y, weight)]

    theirs = gradients(torch, lambda f, *args: torch_checkpoint(f, *args, use_reentrant=False))
    for ours, expected in zip(gradients(tinyconv, checkpoint), theirs):
        np.testing.assert_allclose(ours, expected, rtol=1e-12)


def test_grad_of_parameters_where_no_argument_requires_one() -> None:
    """The first part of a network: its argument is the image."""
    layer = nn.Linear(3, 2)
    x = tinyconv.tensor(np.ones((4, 3), np.float32))
    (found,) = tinyconv.grad(checkpoint(layer, x).sum(), layer.weight)
    assert found is not None and layer.weight.grad is None
    np.testing.assert_array_equal(found.numpy(), np.full((2, 3), 4.0))


def test_a_result_that_is_used_again_must_be_an_argument() -> None:
    x = tinyconv.tensor([1.0, 2.0], requires_grad=True)
    hidden = x * x
    (checkpoint(lambda t, h: t * h, x * 3, hidden) + hidden).sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), [9 + 2, 36 + 4])  # d(3 x^3 + x^2) = 9 x^2 + 2 x
    hidden = x * x
    with pytest.raises(RuntimeError, match="the tape was freed"):
        (checkpoint(lambda t: t * hidden, x * 3) + hidden).sum().backward()


def test_without_a_tape_it_is_the_call_itself() -> None:
    x = tinyconv.tensor([1.0], requires_grad=True)
    with tinyconv.no_grad():
        assert not checkpoint(tinyconv.tanh, x).requires_grad


def test_errors() -> None:
    x = tinyconv.tensor([1.0], requires_grad=True)
    with pytest.raises(TypeError, match="must return a Tensor"):
        checkpoint(lambda t: [t], x)
    with pytest.raises(RuntimeError, match="second derivatives"):
        tinyconv.grad(checkpoint(tinyconv.tanh, x).sum(), x, create_graph=True)
    weight = nn.Parameter(np.ones(1))
    y = checkpoint(lambda t: t * weight, x.to(tinyconv.float64))
    with tinyconv.no_grad():
        weight.mul_(2.0)
    with pytest.raises(RuntimeError, match="changed in place"):
        y.sum().backward()


def peak(saving: bool, layers: int) -> float:
    """Largest number of bytes at once, in arrays of the activations' size, in forward and backward."""
    x = Tensor(np.ones((1, 1, 256, 256)), requires_grad=True)

    def part(t: Tensor) -> Tensor:
        for _ in range(4):
            t = tinyconv.tanh(t)  # keeps its output
        return t

    tracemalloc.start()
    y = x
    for _ in range(layers // 4):
        y = checkpoint(part, y) if saving else part(y)
    y.sum().backward()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most / x.data.nbytes


def test_the_peak_grows_with_the_parts_and_not_with_the_layers() -> None:
    """48 outputs of tanh are held without it; with it the inputs of 12 parts, and the 4 outputs of one."""
    plain, saved = peak(False, 48), peak(True, 48)
    assert plain >= 48
    assert saved <= 12 + 4 + 6  # and what backward itself works with
