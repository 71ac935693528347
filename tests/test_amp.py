"""Mixed precision: which dtype each operator takes, values and gradients beside torch's, and the scale of the loss."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import tinyconv
from tinyconv import Tensor, amp, nn, optim
from tinyconv import functional as F
from tinyconv.kernels import use_kernels

HALF, SINGLE = np.dtype(np.float16), np.dtype(np.float32)
LABELS = Tensor(np.array([0, 2]))


def tensor(*shape: int, dtype: Any = np.float32, seed: int = 0) -> Tensor:
    return Tensor(np.random.default_rng(seed).uniform(0.1, 0.9, shape).astype(dtype))


#: torch's lists for CUDA ("Autocast Op Reference" of its documentation): what becomes float16, what becomes float32.
TO_HALF: dict[str, Callable[[Tensor], Tensor]] = {
    "conv1d": lambda x: F.conv1d(x, tensor(2, 3, 2)),
    "conv2d": lambda x: F.conv2d(x[..., None], tensor(2, 3, 2, 1), tensor(2)),
    "conv3d": lambda x: F.conv3d(x[..., None, None], tensor(2, 3, 2, 1, 1)),
    "conv_transpose1d": lambda x: F.conv_transpose1d(x, tensor(3, 2, 2)),
    "conv_transpose2d": lambda x: F.conv_transpose2d(x[..., None], tensor(3, 2, 2, 1)),
    "conv_transpose3d": lambda x: F.conv_transpose3d(x[..., None, None], tensor(3, 2, 2, 1, 1)),
    "linear": lambda x: F.linear(x, tensor(6, 5), tensor(6)),
    "matmul": lambda x: x @ tensor(5, 2),
    "einsum": lambda x: tinyconv.einsum("ncl,cl->n", x, tensor(3, 5)),
    "prelu": lambda x: F.prelu(x, tensor(3)),
}
TO_SINGLE: dict[str, Callable[[Tensor], Tensor]] = {
    "exp": lambda x: x.exp(),
    "expm1": lambda x: x.expm1(),
    "log": lambda x: x.log(),
    "log1p": lambda x: x.log1p(),
    "pow": lambda x: x**3,
    "reciprocal": lambda x: x.reciprocal(),
    "rsqrt": lambda x: x.rsqrt(),
    "sum": lambda x: x.sum(1),
    "prod": lambda x: x.prod(1),
    "cumsum": lambda x: x.cumsum(1),
    "norm": lambda x: x.norm(),
    "softmax": lambda x: F.softmax(x, 1),
    "log_softmax": lambda x: F.log_softmax(x, 1),
    "softmin": lambda x: F.softmin(x, 1),
    "softplus": F.softplus,
    "group_norm": lambda x: F.group_norm(x, 3, tensor(3), tensor(3)),
    "layer_norm": lambda x: F.layer_norm(x, (5,), tensor(5), tensor(5)),
    "cross_entropy": lambda x: F.cross_entropy(x[..., 0], LABELS, tensor(3)),
    "nll_loss": lambda x: F.nll_loss(x[..., 0], LABELS),
    "mse_loss": lambda x: F.mse_loss(x, tensor(2, 3, 5)),
    "l1_loss": lambda x: F.l1_loss(x, x),
    "smooth_l1_loss": lambda x: F.smooth_l1_loss(x, x),
    "huber_loss": lambda x: F.huber_loss(x, x),
    "kl_div": lambda x: F.kl_div(x, x),
    "cosine_similarity": lambda x: F.cosine_similarity(x, x),
    "cosine_embedding_loss": lambda x: F.cosine_embedding_loss(x[..., 0], x[..., 1], Tensor(np.array([1, -1]))),
    "binary_cross_entropy_with_logits": lambda x: F.binary_cross_entropy_with_logits(x, x),
}
#: These compute in what they are given.
AS_GIVEN: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "sigmoid": F.sigmoid,
    "max_pool1d": lambda x: F.max_pool1d(x, 2),
    "avg_pool1d": lambda x: F.avg_pool1d(x, 2),
    "mean": lambda x: x.mean(1),
    "mul": lambda x: x * 2.5,
    "interpolate": lambda x: F.interpolate(x, scale_factor=2, mode="linear"),
    "batch_norm": lambda x: F.batch_norm(x, tensor(3), tensor(3), tensor(3), tensor(3), True),
    "batch_norm in evaluation": lambda x: F.batch_norm(x, tensor(3), tensor(3), tensor(3), tensor(3)),
    "instance_norm": lambda x: F.instance_norm(x, None, None, tensor(3), tensor(3)),
}


@pytest.mark.parametrize("name", [*TO_HALF, *TO_SINGLE, *AS_GIVEN])
def test_each_operator_computes_in_the_dtype_of_torchs_lists(name: str) -> None:
    operator = {**TO_HALF, **TO_SINGLE, **AS_GIVEN}[name]
    for dtype in (HALF, SINGLE):
        x = tensor(2, 3, 5, dtype=dtype)
        x.requires_grad = True
        with amp.autocast("cpu"):
            y = operator(x)
        assert y.dtype == (HALF if name in TO_HALF else SINGLE if name in TO_SINGLE else dtype)
        y.backward(Tensor(np.ones(y.shape, y.dtype)))
        assert x.grad is not None and x.grad.dtype == dtype
    with amp.autocast("cpu"), amp.autocast("cpu", enabled=False), amp.autocast("cuda"):
        assert operator(tensor(2, 3, 5)).dtype == SINGLE
    wide = tensor(2, 3, 5, dtype=np.float64)
    with amp.autocast("cpu"):
        assert wide.exp().dtype == np.float64 and (wide @ tensor(5, 2, dtype=np.float64)).dtype == np.float64


@pytest.mark.parametrize("rung", ["loops", "im2col", "numba"])
def test_a_network_under_autocast_is_torchs(rung: str) -> None:
    torch.manual_seed(0)
    theirs = torch.nn.Sequential(
        torch.nn.Conv2d(2, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.MaxPool2d(2), torch.nn.Flatten(),
        torch.nn.Linear(36, 5),
    )  # fmt: skip
    ours = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 5))
    ours.load_state_dict({key: value.numpy() for key, value in theirs.state_dict().items()})
    x = np.random.default_rng(0).standard_normal((3, 2, 6, 6), np.float32)
    labels = np.array([1, 4, 0])
    with torch.autocast("cpu", dtype=torch.float16):
        expected = theirs(torch.tensor(x))
        theirs_loss = torch.nn.functional.cross_entropy(expected.float(), torch.tensor(labels))
    theirs_loss.backward()
    with use_kernels(rung), amp.autocast("cpu"):
        scores = ours(Tensor(x))
        loss = F.cross_entropy(scores, Tensor(labels))
        loss.backward()  # also inside the block
    assert scores.dtype == HALF and loss.dtype == SINGLE
    unit = 2.0**-11  # half a step of float16 at 1; a dozen roundings follow each other
    np.testing.assert_allclose(scores.data, expected.detach().float().numpy(), atol=8 * unit)
    for p, q in zip(ours.parameters(), theirs.parameters()):
        assert p.grad is not None and q.grad is not None and p.grad.dtype == SINGLE
        np.testing.assert_allclose(p.grad.data, q.grad.numpy(), atol=12 * unit * float(q.grad.abs().max()))


def trained(grads: list[list[float]], **options: Any) -> tuple[list[Any], list[Any]]:
    """(scale, skipped or not, weight) after each step, ours and torch's, with the gradients given times the scale."""
    ours, theirs = Tensor(np.ones(2, np.float32), requires_grad=True), torch.ones(2, requires_grad=True)
    our_steps, their_steps = optim.SGD([ours], 0.1, momentum=0.9), torch.optim.SGD([theirs], 0.1, momentum=0.9)
    scaler, reference = amp.GradScaler("cpu", **options), torch.amp.GradScaler("cpu", **options)
    mine, torchs = [], []
    for g in grads:
        factor = np.array(g, np.float32)
        our_steps.zero_grad()
        their_steps.zero_grad()
        scaler.scale((ours * Tensor(factor)).sum()).backward()
        reference.scale((theirs * torch.tensor(factor)).sum()).backward()
        for s, o in ((scaler, our_steps), (reference, their_steps)):
            s.unscale_(o)
            s.step(o)
            s.update()
        mine.append([scaler.get_scale(), *ours.data.tolist(), *ours.grad.data.tolist()])
        torchs.append([reference.get_scale(), *theirs.tolist(), *theirs.grad.tolist()])
    assert scaler.state_dict() == reference.state_dict()
    return mine, torchs


def test_the_scale_goes_up_and_down_as_torchs() -> None:
    big = 3e38  # times the scale: infinite
    grads = [[1, 2], [0.5, -1], [big, 1], [1, 1], [float("nan"), 0], [1, 0], [2, 2], [3, 1], [1, 1]]
    mine, torchs = trained(grads, init_scale=64.0, growth_interval=2, growth_factor=4.0, backoff_factor=0.25)
    assert [row[0] for row in mine] == [row[0] for row in torchs] and {row[0] for row in mine} == {16, 64, 256}
    np.testing.assert_allclose(mine, torchs, rtol=1e-6)
    mine, torchs = trained(grads[:2], enabled=False)
    np.testing.assert_allclose(mine, torchs, rtol=1e-6)


def test_scaling_keeps_gradients_that_float16_would_lose() -> None:
    x, w = Tensor(np.full((1, 4), 1e-3, np.float32)), Tensor(np.ones((1, 4), np.float32), requires_grad=True)
    found = []
    for scale in (1.0, 2.0**16):
        w.grad = None
        scaler = amp.GradScaler("cpu", init_scale=scale)
        optimizer = optim.SGD([w], 0.0)
        with amp.autocast("cpu"):
            loss = F.linear(x, w).sum() * 1e-6
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        assert w.grad is not None
        found.append(w.grad.data.copy())
    exact = 1e-9
    assert not found[0].any()  # 1e-9 is below the smallest number of float16, 6e-8
    np.testing.assert_allclose(found[1], exact, rtol=2e-3)


def test_a_scaler_of_several_optimisers_and_its_state() -> None:
    a, b = (Tensor(np.ones(1, np.float32), requires_grad=True) for _ in range(2))
    first, second = optim.SGD([a], 1.0), optim.SGD([b], 1.0)
    scaler = amp.GradScaler(init_scale=8.0)
    losses = scaler.scale([a.sum(), (b * np.inf).sum()])
    for loss in losses:
        loss.backward()
    scaler.step(first)
    scaler.step(second)
    assert a.item() == 0 and b.item() == 1  # only the second is left out
    scaler.update()
    assert scaler.get_scale() == 4
    other = amp.GradScaler()
    other.load_state_dict(copy.deepcopy(scaler.state_dict()))
    assert other.get_scale() == 4 and other.state_dict() == scaler.state_dict()
    other.update(32.0)
    assert other.get_scale() == 32
    assert amp.GradScaler(enabled=False).state_dict() == {} and not amp.GradScaler(enabled=False).is_enabled()


def test_wrong_calls() -> None:
    w = Tensor(np.ones(1, np.float32), requires_grad=True)
    optimizer = optim.SGD([w], 1.0)
    scaler = amp.GradScaler()
    with pytest.raises(RuntimeError, match="no step has been made"):
        scaler.update()
    scaler.scale(w.sum()).backward()
    scaler.unscale_(optimizer)
    with pytest.raises(RuntimeError, match="divided already"):
        scaler.unscale_(optimizer)
    scaler.step(optimizer)
    with pytest.raises(RuntimeError, match="made its step already"):
        scaler.step(optimizer)
    half = Tensor(np.ones(1, np.float16), requires_grad=True)
    half.grad = Tensor(np.ones(1, np.float16))
    with pytest.raises(ValueError, match="a gradient is float16. Keep the parameters in float32"):
        scaler.unscale_(optim.SGD([half], 1.0))
    with pytest.raises(RuntimeError, match="the state is empty"):
        scaler.load_state_dict({})
    with pytest.raises(ValueError, match="growth_factor must be above 1, but is 1"):
        amp.GradScaler(growth_factor=1.0)
    with pytest.raises(ValueError, match="backoff_factor must lie between 0 and 1, but is 2"):
        amp.GradScaler(backoff_factor=2.0)
    with pytest.raises(ValueError, match="device_type must be 'cpu' or 'cuda', but is 'gpu'"):
        amp.autocast("gpu")
    with pytest.raises(ValueError, match="dtype must be float16, but is bfloat16. For bfloat16 operands"):
        amp.autocast("cpu", dtype="bfloat16")
