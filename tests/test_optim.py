"""Optimisers and schedules, step for step against torch."""

from __future__ import annotations

import copy
import json
import math
from typing import Any

import numpy as np
import pytest
import torch

from tinyconv import Tensor, nn, optim, use_kernels
from tinyconv.nn.utils import clip_grad_norm_, clip_grad_value_
from tinyconv.optim import schedule as S

CASES: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.05}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.05}),
    ("SGD", {"lr": 0.01, "maximize": True, "weight_decay": 0.1}),
    ("Adam", {}),
    ("Adam", {"lr": 0.1, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1}),
    ("Adam", {"lr": 0.1, "amsgrad": True}),
    ("Adam", {"lr": 0.1, "maximize": True, "weight_decay": 0.1}),
    ("AdamW", {"lr": 0.1}),
    ("AdamW", {"lr": 0.1, "weight_decay": 0.3, "amsgrad": True, "maximize": True}),
    ("RMSprop", {}),
    ("RMSprop", {"lr": 0.05, "alpha": 0.9, "weight_decay": 0.1, "momentum": 0.8}),
    ("RMSprop", {"lr": 0.05, "alpha": 0.9, "centered": True, "eps": 1e-3}),
    ("RMSprop", {"lr": 0.05, "centered": True, "momentum": 0.5, "maximize": True, "eps": 1e-3}),
]
NAMES = [f"{name}-{'-'.join(f'{k}={v}' for k, v in options.items())}" for name, options in CASES]


def start(dtype: str) -> list[np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape).astype(dtype) for shape in ((4, 3), (5,), ())]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("name", "options"), CASES, ids=NAMES)
def test_twenty_steps_as_torch(name: str, options: dict[str, Any], dtype: str) -> None:
    ours = [Tensor(a.copy(), requires_grad=True) for a in start(dtype)]
    theirs = [torch.tensor(a, requires_grad=True) for a in start(dtype)]
    a, b = getattr(optim, name)(ours, **options), getattr(torch.optim, name)(theirs, **options)
    rng = np.random.default_rng(1)
    for step in range(20):
        for i, (p, q) in enumerate(zip(ours, theirs)):
            if i == 1 and step % 3 == 0:  # no gradient: no step, and no state
                p.grad, q.grad = None, None
                continue
            g = np.asarray(rng.standard_normal(p.shape) * 10.0 ** (step % 4 - 2), dtype)
            p.grad, q.grad = Tensor(g.copy()), torch.tensor(g)
        a.step()
        b.step()
        for p, q in zip(ours, theirs):
            rtol = 1e-12 if dtype == "float64" else 5e-6
            np.testing.assert_allclose(p.data, q.detach().numpy(), rtol=rtol, atol=rtol)
            assert p.dtype == dtype


def test_groups_have_options_of_their_own() -> None:
    ours = [Tensor(a.copy(), requires_grad=True) for a in start("float64")]
    theirs = [torch.tensor(a, requires_grad=True) for a in start("float64")]
    a = optim.SGD([{"params": ours[:1], "lr": 0.5}, {"params": ours[1:], "momentum": 0.9}], lr=0.1)
    b = torch.optim.SGD([{"params": theirs[:1], "lr": 0.5}, {"params": theirs[1:], "momentum": 0.9}], lr=0.1)
    for _ in range(3):
        for p, q in zip(ours, theirs):
            p.grad, q.grad = Tensor(p.data * 2), q.detach() * 2
        a.step()
        b.step()
    for p, q in zip(ours, theirs):
        np.testing.assert_allclose(p.data, q.detach().numpy(), rtol=1e-12)


def train(model: nn.Module, optimizer: optim.Optimizer, scheduler: Any, steps: range) -> None:
    for step in steps:
        rng = np.random.default_rng(step)
        x = Tensor(rng.standard_normal((8, 5)).astype(np.float32))
        loss = (model(x) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize(("name", "options"), CASES, ids=NAMES)
def test_resumes_to_the_same_bits(name: str, options: dict[str, Any]) -> None:
    def made() -> tuple[nn.Module, optim.Optimizer, Any]:
        model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 2))
        optimizer = getattr(optim, name)(model.parameters(), **options)
        return (
            model,
            optimizer,
            S.OneCycleLR(optimizer, 0.01, total_steps=10, cycle_momentum=not options.get("nesterov")),
        )

    whole, first, second = made(), made(), made()
    for other in (first, second):
        other[0].load_state_dict(copy.deepcopy(whole[0].state_dict()))
    train(*whole, range(10))
    train(*first, range(4))
    saved = [part.state_dict() for part in first]
    json.dumps(saved[2])  # a schedule is saved as JSON
    options_saved = json.loads(json.dumps(saved[1]["param_groups"]))
    arrays = {
        n: {k: np.array(v) if hasattr(v, "shape") else v for k, v in s.items()} for n, s in saved[1]["state"].items()
    }
    weights = {k: v.data.copy() for k, v in saved[0].items()}
    second[0].load_state_dict(weights)
    second[1].load_state_dict({"state": arrays, "param_groups": options_saved})
    second[2].load_state_dict(json.loads(json.dumps(saved[2])))
    train(*second, range(4, 10))
    for p, q in zip(whole[0].parameters(), second[0].parameters()):
        np.testing.assert_array_equal(p.data, q.data)


def test_closure_and_zero_grad() -> None:
    w = Tensor(np.array([1.0]), requires_grad=True)
    optimizer = optim.SGD([w], lr=0.1)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (w * w).sum()
        loss.backward()
        return loss

    loss = optimizer.step(closure)
    assert loss is not None and float(loss.data) == 1.0 and float(w.data[0]) == pytest.approx(0.8)
    optimizer.zero_grad(set_to_none=False)
    assert w.grad is not None and float(w.grad.data[0]) == 0
    optimizer.zero_grad()
    assert w.grad is None
    y = (w * w).sum()
    w.grad = Tensor(np.ones(1))
    optimizer.step()
    with pytest.raises(RuntimeError, match="changed in place"):
        y.backward()


W = Tensor(np.ones(2), requires_grad=True)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: optim.SGD([], 0.1), ValueError, "empty"),
        (lambda: optim.SGD(W, 0.1), TypeError, "list"),
        (lambda: optim.SGD([np.ones(2)], 0.1), TypeError, "ndarray"),
        (lambda: optim.SGD([W * 2], 0.1), ValueError, "leaves"),
        (lambda: optim.SGD([W, W], 0.1), ValueError, "twice"),
        (lambda: optim.SGD([W], -1), ValueError, "lr"),
        (lambda: optim.SGD([{"params": [W], "speed": 1}], 0.1), ValueError, "speed"),
        (lambda: optim.SGD([W], 0.1, nesterov=True), ValueError, "nesterov"),
        (lambda: optim.Adam([W], betas=(1.0, 0.9)), ValueError, "betas"),
        (lambda: optim.Adam([W], eps=-1), ValueError, "eps"),
        (lambda: optim.RMSprop([W], alpha=-1), ValueError, "alpha"),
        (lambda: optim.Adam([W]).load_state_dict({"state": {}, "param_groups": []}), ValueError, "groups"),
        (
            lambda: optim.Adam([W]).load_state_dict(
                {"state": {"0": {"exp_avg": np.ones(3)}}, "param_groups": [{"params": ["0"]}]}
            ),
            ValueError,
            "shape",
        ),
        (lambda: S.StepLR(W, 3), TypeError, "Optimizer"),
        (lambda: S.StepLR(optim.SGD([W]), 3, last_epoch=4), ValueError, "initial_lr"),
        (lambda: S.OneCycleLR(optim.SGD([W]), 0.1), ValueError, "total_steps"),
        (lambda: S.OneCycleLR(optim.SGD([W]), [0.1, 0.2], 10), ValueError, "max_lr"),
        (lambda: S.OneCycleLR(optim.SGD([W]), 0.1, 10, pct_start=2), ValueError, "pct_start"),
        (lambda: S.OneCycleLR(optim.SGD([W]), 0.1, 10, anneal_strategy="x"), ValueError, "anneal"),
        (lambda: S.ReduceLROnPlateau(optim.SGD([W]), "avg"), ValueError, "mode"),
        (lambda: S.ReduceLROnPlateau(optim.SGD([W]), factor=2), ValueError, "factor"),
        (lambda: S.LinearLR(optim.SGD([W]), 2.0), ValueError, "start_factor"),
    ],
)
def test_refusals(call: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        call()


# --------------------------------------------------------------------------------------------------
# Schedules

SCHEDULES: list[tuple[str, dict[str, Any]]] = [
    ("StepLR", {"step_size": 3, "gamma": 0.5}),
    ("MultiStepLR", {"milestones": [2, 7, 7], "gamma": 0.3}),
    ("ExponentialLR", {"gamma": 0.9}),
    ("ConstantLR", {"factor": 0.5, "total_iters": 4}),
    ("LinearLR", {}),
    ("LinearLR", {"start_factor": 0.1, "end_factor": 0.7, "total_iters": 8}),
    ("PolynomialLR", {"total_iters": 9, "power": 0.9}),
    ("CosineAnnealingLR", {"T_max": 15}),
    ("CosineAnnealingLR", {"T_max": 4, "eta_min": 0.01}),
    ("LambdaLR", {"lr_lambda": lambda t: 1 / (1 + t)}),
    ("OneCycleLR", {"max_lr": 0.5, "total_steps": 18}),
    (
        "OneCycleLR",
        {"max_lr": [0.5, 0.2], "epochs": 3, "steps_per_epoch": 7, "pct_start": 0.4, "anneal_strategy": "linear"},
    ),
    (
        "OneCycleLR",
        {"max_lr": 0.5, "total_steps": 20, "three_phase": True, "div_factor": 5.0, "final_div_factor": 10.0},
    ),
    ("OneCycleLR", {"max_lr": 0.5, "total_steps": 18, "cycle_momentum": False}),
    ("OneCycleLR", {"max_lr": 0.5, "total_steps": 18, "base_momentum": 0.6, "max_momentum": 0.7, "pct_start": 0.0}),
]


def both(kind: str) -> tuple[Any, Any]:
    """The same optimiser of two groups on either side."""
    a, b = ([make(np.ones(2)) for _ in range(2)] for make in (Tensor, torch.tensor))
    made = []
    for module, params in ((optim, a), (torch.optim, b)):
        groups = [{"params": [params[0]], "lr": 0.3}, {"params": [params[1]]}]
        more = {"momentum": 0.9} if kind == "SGD" else {}
        made.append(getattr(module, kind)(groups, lr=0.1, **more))
    return made[0], made[1]


@pytest.mark.parametrize("kind", ["SGD", "Adam"])
@pytest.mark.parametrize(("name", "options"), SCHEDULES, ids=[n + str(i) for i, (n, _) in enumerate(SCHEDULES)])
def test_schedules_as_torch(name: str, options: dict[str, Any], kind: str) -> None:
    a, b = both(kind)
    ours, theirs = getattr(S, name)(a, **options), getattr(torch.optim.lr_scheduler, name)(b, **options)
    for step in range(19):
        for g, h in zip(a.param_groups, b.param_groups):
            assert g["lr"] == pytest.approx(h["lr"], rel=1e-9, abs=1e-15), f"step {step}"
            if kind == "SGD":
                assert g["momentum"] == pytest.approx(h["momentum"], rel=1e-12)
            else:
                assert g["betas"] == pytest.approx(h["betas"], rel=1e-12)
        assert ours.get_last_lr() == [g["lr"] for g in a.param_groups]
        if step < 18:
            ours.step()
            b.step()
            theirs.step()


def test_one_cycle_ends() -> None:
    scheduler = S.OneCycleLR(optim.SGD([W]), 0.1, total_steps=3)
    for _ in range(3):
        scheduler.step()
    with pytest.raises(ValueError, match="beyond the 3"):
        scheduler.step()


@pytest.mark.parametrize(
    "options",
    [
        {"patience": 1},
        {"mode": "max", "patience": 0, "factor": 0.5},
        {"patience": 1, "threshold": 0.3, "threshold_mode": "abs", "cooldown": 2, "min_lr": [0.02, 0.004]},
        {"mode": "max", "patience": 1, "threshold": 0.2, "threshold_mode": "rel", "cooldown": 1, "eps": 0.05},
        {"mode": "max", "patience": 1, "threshold": 0.2, "threshold_mode": "abs"},
    ],
)
def test_plateau_as_torch(options: dict[str, Any]) -> None:
    a, b = both("SGD")
    ours, theirs = S.ReduceLROnPlateau(a, **options), torch.optim.lr_scheduler.ReduceLROnPlateau(b, **options)
    metrics = np.random.default_rng(0).standard_normal(40).cumsum() * 0.3 + 1
    metrics[5] = math.nan
    for metric in metrics:
        ours.step(metric)
        theirs.step(metric)
        assert [g["lr"] for g in a.param_groups] == pytest.approx([g["lr"] for g in b.param_groups])
        assert ours.best == theirs.best and ours.num_bad_epochs == theirs.num_bad_epochs


# --------------------------------------------------------------------------------------------------
# Clipping


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("norm_type", [1.0, 2.0, 3.0, math.inf])
@pytest.mark.parametrize("max_norm", [0.5, 100.0])
def test_clipping_as_torch(norm_type: float, max_norm: float, dtype: str) -> None:
    ours, theirs = [Tensor(a) for a in start(dtype)], [torch.tensor(a) for a in start(dtype)]
    for p, q in zip(ours, theirs):
        p.grad, q.grad = Tensor(p.data * 3), q.detach() * 3
    ours.append(Tensor(np.ones(2)))  # without a gradient
    found = clip_grad_norm_(iter(ours), max_norm, norm_type)
    expected = torch.nn.utils.clip_grad_norm_(theirs, max_norm, norm_type)
    np.testing.assert_allclose(found.data, expected.numpy(), rtol=1e-6)
    for p, q in zip(ours, theirs):
        np.testing.assert_allclose(p.grad.data, q.grad.numpy(), rtol=1e-6)  # type: ignore[union-attr]
    clip_grad_value_(iter(ours), 0.25)
    torch.nn.utils.clip_grad_value_(theirs, 0.25)
    for p, q in zip(ours, theirs):
        np.testing.assert_allclose(p.grad.data, q.grad.numpy(), rtol=1e-6)  # type: ignore[union-attr]


def test_clipping_of_what_is_not_finite() -> None:
    w = Tensor(np.ones(2))
    assert float(clip_grad_norm_([w], 1.0).data) == 0
    w.grad = Tensor(np.array([1.0, math.nan]))
    with pytest.raises(RuntimeError, match="nan"):
        clip_grad_norm_(w, 1.0, error_if_nonfinite=True)


def test_a_small_network_trains_as_in_torch() -> None:
    """Convolution, batch norm, pooling, a dense layer, cross entropy, AdamW, clipping and a schedule, all at once.

    No bias before batch norm: its gradient is rounding alone, which Adam would blow up to whole steps.
    """

    def made(lib: Any) -> Any:
        return lib.Sequential(
            lib.Conv2d(2, 4, 3, padding=1, bias=False), lib.BatchNorm2d(4), lib.ReLU(), lib.MaxPool2d(2), lib.Flatten(),
            lib.Linear(4 * 3 * 3, 3),
        )  # fmt: skip

    ours, theirs = made(nn), made(torch.nn)
    ours.load_state_dict({n: t.numpy() for n, t in theirs.state_dict().items()})
    ours.to("float64"), theirs.double()
    a, b = optim.AdamW(ours.parameters(), lr=0.01), torch.optim.AdamW(theirs.parameters(), lr=0.01)
    s, t = S.CosineAnnealingLR(a, 10), torch.optim.lr_scheduler.CosineAnnealingLR(b, 10)
    rng = np.random.default_rng(0)
    for _ in range(10):
        x, y = rng.standard_normal((5, 2, 6, 6)), rng.integers(0, 3, 5)
        a.zero_grad(), b.zero_grad()
        found = nn.CrossEntropyLoss()(ours(Tensor(x)), Tensor(y))
        expected = torch.nn.CrossEntropyLoss()(theirs(torch.tensor(x)), torch.tensor(y))
        found.backward(), expected.backward()
        clip_grad_norm_(ours.parameters(), 0.5), torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
        a.step(), b.step()
        s.step(), t.step()
        assert float(found.data) == pytest.approx(expected.item(), rel=1e-8)
    for (name, p), q in zip(ours.state_dict().items(), theirs.state_dict().values()):
        np.testing.assert_allclose(p.data, q.numpy(), rtol=1e-8, atol=1e-10, err_msg=name)


@pytest.mark.parametrize(
    "make",
    [
        lambda p: optim.SGD(p, 0.1, 0.9, weight_decay=0.01, nesterov=True),
        lambda p: optim.Adam(p, 0.1, weight_decay=0.01, amsgrad=True),
        lambda p: optim.AdamW(p, 0.1, maximize=True),
        lambda p: optim.RMSprop(p, 0.1, momentum=0.5, centered=True),
    ],
)
@pytest.mark.parametrize("rung", ["im2col", "numba"])
def test_a_large_parameter_is_updated_in_blocks_to_the_same_bits(make: Any, rung: str) -> None:
    """The same numbers as many small parameters, which are updated whole."""
    rng = np.random.default_rng(0)
    values, grads = rng.standard_normal((5, 40_000)), rng.standard_normal((4, 5, 40_000))
    large, small = Tensor(values.copy(), requires_grad=True), [Tensor(v.copy(), requires_grad=True) for v in values]
    one, many = make([large]), make(small)
    for g in grads:
        large.grad = Tensor(g)
        for p, row in zip(small, g):
            p.grad = Tensor(row)
        with use_kernels(rung):
            one.step()
            many.step()
    np.testing.assert_array_equal(large.data, np.stack([p.data for p in small]))
    states = one.state[large], many.state[small[0]]
    assert states[0].keys() == states[1].keys() and states[0].get("step") == states[1].get("step")


# --------------------------------------------------------------------------------------------------
# Warm-up, decay groups, averages


def chains(lib: Any, optimizer: Any, kind: str) -> Any:
    if kind == "warm-up":
        parts = [lib.LinearLR(optimizer, 0.1, total_iters=4), lib.CosineAnnealingLR(optimizer, T_max=8)]
        return lib.SequentialLR(optimizer, parts, milestones=[4])
    parts = [
        lib.ConstantLR(optimizer, 0.5, total_iters=2),
        lib.ExponentialLR(optimizer, 0.9),
        lib.StepLR(optimizer, 2, gamma=0.5),
    ]
    return lib.SequentialLR(optimizer, parts, milestones=[3, 7])


@pytest.mark.parametrize("kind", ["warm-up", "three"])
def test_sequential_as_torch_and_after_a_break(kind: str) -> None:
    ours = optim.SGD([{"params": [Tensor([1.0], True)], "lr": 0.4}, {"params": [Tensor([1.0], True)]}], lr=0.1)
    theirs = torch.optim.SGD([{"params": [torch.ones(1)], "lr": 0.4}, {"params": [torch.ones(1)]}], lr=0.1)
    a, b = chains(S, ours, kind), chains(torch.optim.lr_scheduler, theirs, kind)
    for step in range(12):
        assert [g["lr"] for g in ours.param_groups] == pytest.approx([g["lr"] for g in theirs.param_groups], rel=1e-12)
        assert a.get_last_lr() == [g["lr"] for g in ours.param_groups]
        if step == 5:
            state = json.loads(json.dumps(a.state_dict()))
            a = chains(S, ours, kind)
            a.load_state_dict(state)
        theirs.step()
        a.step()
        b.step()


def test_sequential_refuses_what_does_not_fit() -> None:
    first, second = (optim.SGD([Tensor([1.0], True)], lr=0.1) for _ in range(2))
    with pytest.raises(ValueError, match="1 milestones"):
        S.SequentialLR(first, [S.ExponentialLR(first, 0.9), S.ExponentialLR(first, 0.9)], [])
    for wrong in (S.ExponentialLR(second, 0.9), S.ReduceLROnPlateau(first)):
        with pytest.raises(ValueError, match=r"schedulers\[0\]"):
            S.SequentialLR(first, [wrong], [])


def block(lib: Any) -> Any:
    return lib.Sequential(
        lib.Conv2d(1, 2, 3), lib.BatchNorm2d(2), lib.PReLU(), lib.LayerNorm((2, 4, 4)), lib.Flatten(), lib.Linear(32, 3)
    )


def test_decay_spares_norms_and_biases() -> None:
    """Without gradients, AdamW's step is the decay alone: p (1 - lr weight_decay) where there is one."""
    model = block(nn)
    before = {name: p.detach().numpy().copy() for name, p in model.named_parameters()}
    model[5].bias.requires_grad = False
    optimizer = optim.AdamW(optim.decay_groups(model, 0.5), lr=0.1)
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(before) - 1  # the frozen one is left out
    for p in model.parameters():
        p.grad = Tensor(np.zeros(p.shape, np.float32))
    optimizer.step()
    for name, p in model.named_parameters():
        factor = 0.95 if name in ("0.weight", "5.weight") else 1.0
        np.testing.assert_allclose(p.detach().numpy(), before[name] * factor, rtol=1e-6, err_msg=name)
    assert [g["weight_decay"] for g in optim.decay_groups(nn.BatchNorm2d(3), 0.5)] == [0.0]


@pytest.mark.parametrize("use_buffers", [False, True])
@pytest.mark.parametrize("kind", ["ema", "swa"])
def test_averages_as_torch(kind: str, use_buffers: bool) -> None:
    from torch.optim import swa_utils as theirs_utils

    ours, theirs = block(nn), block(torch.nn)
    averages = []
    for model, lib in ((ours, optim.swa_utils), (theirs, theirs_utils)):
        function = lib.get_ema_avg_fn(0.7) if kind == "ema" else lib.get_swa_avg_fn()
        averages.append(lib.AveragedModel(model, avg_fn=function, use_buffers=use_buffers))
    rng = np.random.default_rng(0)
    for step in range(5):
        state = {
            name: rng.standard_normal(t.shape).astype(np.float32) if t.ndim else np.array(7 + step)
            for name, t in ours.state_dict().items()
        }
        ours.load_state_dict(state)
        theirs.load_state_dict({name: torch.tensor(value) for name, value in state.items()})
        averages[0].update_parameters(ours)
        averages[1].update_parameters(theirs)
    expected = averages[1].state_dict()
    assert averages[0].state_dict().keys() == expected.keys()
    for name, value in averages[0].state_dict().items():
        if "num_batches" not in name or not use_buffers:
            np.testing.assert_allclose(value.numpy(), expected[name].numpy(), rtol=1e-5, atol=1e-6, err_msg=name)


def test_the_decay_of_an_average_is_a_share() -> None:
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        optim.swa_utils.get_ema_avg_fn(1.5)
