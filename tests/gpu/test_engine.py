"""Modules, optimisers, the training loop and files on the device: as on the CPU, and nothing read on the way."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinyconv
from gpu.place import XP, Gpu
from tinyconv import Tensor, amp, io, models, nn
from tinyconv import functional as F
from tinyconv.autograd.gpu import settle
from tinyconv.data import DataLoader, TensorDataset
from tinyconv.kernels.scatter import lasts_at, sums_at
from tinyconv.nn import init
from tinyconv.nn.checkpoint import checkpoint
from tinyconv.nn.utils import clip_grad_norm_, clip_grad_value_
from tinyconv.optim import SGD, Adam, AdamW, RMSprop
from tinyconv.optim.swa_utils import AveragedModel, get_ema_avg_fn
from tinyconv.training import Trainer

watched = Gpu().watched


def host(t: Any) -> np.ndarray:
    return t.detach().cpu().data


def close(found: Any, wanted: Any, what: str = "", rtol: float = 1e-4) -> None:
    """Within ``rtol`` of the largest element: the order of the sums is another one."""
    assert found.device == "cuda" and wanted.device == "cpu", what
    a, b = host(found), host(wanted)
    np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * max(float(np.abs(b).max(initial=0)), 1e-3), err_msg=what)


def images(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


MODULES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "Conv1d": (lambda: nn.Conv1d(3, 4, 3, padding="same", padding_mode="reflect"), (2, 3, 9)),
    "Conv2d": (lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), (2, 4, 9, 7)),
    "Conv2d, depthwise": (lambda: nn.Conv2d(4, 4, 3, padding=1, groups=4), (2, 4, 6, 7)),
    "Conv3d": (lambda: nn.Conv3d(2, 3, 2), (1, 2, 4, 5, 4)),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(3, 2, 3, stride=2, output_padding=1), (2, 3, 4, 5)),
    "Linear": (lambda: nn.Linear(6, 5), (3, 6)),
    "BatchNorm2d": (lambda: nn.BatchNorm2d(3), (4, 3, 5, 5)),
    "BatchNorm1d": (lambda: nn.BatchNorm1d(3), (8, 3)),
    "GroupNorm": (lambda: nn.GroupNorm(2, 4), (2, 4, 5, 5)),
    "LayerNorm": (lambda: nn.LayerNorm((4, 5)), (2, 3, 4, 5)),
    "InstanceNorm2d": (lambda: nn.InstanceNorm2d(3, affine=True, track_running_stats=True), (2, 3, 5, 5)),
    "MaxPool2d": (lambda: nn.MaxPool2d(3, 2, 1), (2, 3, 9, 9)),
    "AvgPool2d": (lambda: nn.AvgPool2d(3, 2, 1), (2, 3, 9, 9)),
    "AdaptiveAvgPool2d": (lambda: nn.AdaptiveAvgPool2d((2, 3)), (2, 3, 7, 7)),
    "AdaptiveMaxPool2d": (lambda: nn.AdaptiveMaxPool2d(3), (2, 3, 7, 7)),
    "Upsample": (lambda: nn.Upsample(scale_factor=2, mode="bilinear"), (1, 2, 4, 5)),
    "PReLU": (lambda: nn.PReLU(3), (2, 3, 4)),
    "Dropout": (lambda: nn.Dropout(0.4), (6, 7)),
    "Dropout2d": (lambda: nn.Dropout2d(0.4), (3, 4, 5, 5)),
    "AlphaDropout": (lambda: nn.AlphaDropout(0.4), (6, 7)),
    "GELU, SiLU, ELU": (lambda: nn.Sequential(nn.GELU(), nn.SiLU(), nn.ELU()), (3, 4)),
    "ReflectionPad2d": (lambda: nn.ReflectionPad2d(2), (1, 2, 5, 5)),
    "Flatten": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), (2, 3, 4)),
}


def both(make: Callable[[], nn.Module]) -> tuple[nn.Module, nn.Module]:
    """The same module twice: on the CPU and on the device."""
    tinyconv.manual_seed(1)
    module = make()
    return module, copy.deepcopy(module).to("cuda")


def differentiated(module: nn.Module, x: Tensor, cotangent: Tensor | None = None) -> tuple[Tensor, Tensor]:
    tinyconv.manual_seed(2)  # dropout's
    y = module(x)
    y.backward(cotangent)
    return y, x.grad


@pytest.mark.parametrize("name", MODULES)
def test_modules(name: str) -> None:
    make, shape = MODULES[name]
    mine, theirs = both(make)
    values = images(*shape)
    x, z = Tensor(values, requires_grad=True), Tensor(XP.asarray(values), requires_grad=True)
    tinyconv.manual_seed(2)
    v = images(*mine(x.detach()).shape, seed=3)
    mine, theirs = both(make)  # their running statistics have counted one batch
    y, gx = differentiated(mine, x, Tensor(v))
    v_there = Tensor(XP.asarray(v))
    with watched():
        w, gz = differentiated(theirs, z, v_there)
    close(w, y, name)
    close(gz, gx, name)
    for (key, a), b in zip(mine.named_parameters(), theirs.parameters()):
        close(b.grad, a.grad, f"gradient of {key}")
    for (key, a), b in zip(mine.state_dict().items(), theirs.state_dict().values()):
        close(b, a, key)


OPTIMISERS: list[tuple[type, dict[str, Any]]] = [
    (SGD, dict(lr=0.1)),
    (SGD, dict(lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1)),
    (Adam, dict(lr=0.01, amsgrad=True)),
    (AdamW, dict(lr=0.01)),
    (RMSprop, dict(lr=0.01, centered=True, momentum=0.5)),
]


@pytest.mark.parametrize(("kind", "options"), OPTIMISERS)
def test_optimisers(kind: Any, options: dict[str, Any]) -> None:
    """Made before the move; the state lies where the parameters are, and crosses with its state dict."""
    (mine, theirs), gradients = both(lambda: nn.Linear(4, 3)), images(4, 3, 4, seed=5)
    a = kind(mine.parameters(), **options)
    tinyconv.manual_seed(1)
    theirs = nn.Linear(4, 3)
    b = kind(theirs.parameters(), **options)
    kept = list(theirs.parameters())
    theirs.cuda()
    assert all(p is q for p, q in zip(theirs.parameters(), kept)), "the parameters are the same objects"
    for g in gradients:
        for module in (mine, theirs):
            for p in module.parameters():
                p.grad = Tensor(g.mean(1) if p.ndim == 1 else g).to(p.device)
        clip_grad_norm_(mine.parameters(), 1.0)
        with watched():
            norm = clip_grad_norm_(theirs.parameters(), 1.0)
            b.step()
        assert norm.device == "cuda"
        a.step()
    for p, q in zip(mine.parameters(), theirs.parameters()):
        close(q, p)
    for p in theirs.parameters():
        assert all(isinstance(v, XP.ndarray | int) for v in b.state[p].values())
    a.load_state_dict(b.state_dict())
    b.load_state_dict(a.state_dict())
    assert all(isinstance(v, XP.ndarray | int) for p in theirs.parameters() for v in b.state[p].values())
    assert all(isinstance(v, np.ndarray | int) for p in mine.parameters() for v in a.state[p].values())


def test_clipping_by_value_and_averages() -> None:
    mine, theirs = both(lambda: nn.Linear(4, 3))
    averages = [AveragedModel(m, avg_fn=get_ema_avg_fn(0.9)) for m in (mine, theirs)]
    for _ in range(3):
        for module, average in zip((mine, theirs), averages):
            for p in module.parameters():
                p.grad = (p * 3).detach()
            clip_grad_value_(module.parameters(), 0.1)
            SGD(module.parameters(), lr=1.0).step()
            average.update_parameters(module)
    for p, q in zip(averages[0].parameters(), averages[1].parameters()):
        close(q, p)


@pytest.mark.parametrize(
    "name",
    "uniform_ normal_ trunc_normal_ zeros_ ones_ xavier_uniform_ xavier_normal_ kaiming_uniform_ kaiming_normal_ "
    "orthogonal_".split(),
)
def test_initial_values_have_the_same_bits(name: str) -> None:
    found = []
    for device in ("cpu", "cuda"):
        t = tinyconv.full((4, 3, 2), 7.0, device=device)
        getattr(init, name)(t, **({} if name in ("zeros_", "ones_") else {"generator": np.random.default_rng(4)}))
        assert t.device == device
        found.append(host(t))
    np.testing.assert_array_equal(*found)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], Any]] = {
    "lenet5": (lambda: models.lenet5(), (2, 1, 28, 28), SGD),
    "unet": (lambda: models.unet(in_channels=1, num_classes=3, base=2), (1, 1, 16, 16), Adam),
    "mobilenet_v1": (  # the emulator is slow: its first blocks
        lambda: models.mobilenet_v1(num_classes=4, width=0.1, pairs=((64, 1), (128, 2))), (2, 3, 16, 16), Adam
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_a_step_of_training(name: str, tmp_path: Path) -> None:
    """The loss, the gradients and the weights after a step; and the weights through a file to the other device."""
    make, shape, optimiser = NETWORKS[name]
    mine, theirs = both(make)
    x = images(*shape)
    dense = len(mine(Tensor(x)).shape) == 4
    labels = np.random.default_rng(1).integers(0, 3, (shape[0], *(shape[2:] if dense else ())))
    losses = []
    mine, theirs = both(make)
    for module, device in ((mine, "cpu"), (theirs, "cuda")):
        a, t = Tensor(x).to(device), Tensor(labels).to(device)
        optimizer = optimiser(module.parameters(), lr=1e-3)
        tinyconv.manual_seed(9)
        with watched():
            loss = F.cross_entropy(module(a), t)
            loss.backward()
            optimizer.step()
        losses.append(loss)
    close(losses[1], losses[0], rtol=1e-5)
    for (key, p), q in zip(mine.named_parameters(), theirs.parameters()):
        close(q.grad, p.grad, key, rtol=5e-3)
    io.save(theirs.state_dict(), tmp_path / "there.safetensors")
    mine.load_state_dict(io.load(tmp_path / "there.safetensors"))
    for key, a in theirs.state_dict().items():
        np.testing.assert_array_equal(host(a), mine.state_dict()[key].data, err_msg=key)
    theirs.load_state_dict(mine.state_dict())
    assert {t.device for t in theirs.state_dict().values()} == {"cuda"}


@pytest.mark.parametrize("ending", ["npz", "pt", "safetensors"])
def test_files_of_arrays_on_the_device(ending: str, tmp_path: Path) -> None:
    values = {"a": tinyconv.arange(5, device="cuda"), "b": XP.asarray(images(2, 3))}
    io.save(values, tmp_path / f"a.{ending}")
    found = io.load(tmp_path / f"a.{ending}")
    np.testing.assert_array_equal(found["a"], np.arange(5))
    np.testing.assert_array_equal(found["b"], images(2, 3))


def make_trainer(device: str, checkpoint: Path | None = None) -> Trainer:
    x = images(20, 1, 8, 8, seed=7)
    labels = (x.mean((1, 2, 3)) > 0).astype(np.int64)
    tinyconv.manual_seed(3)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(0.3), nn.Flatten(), nn.Linear(192, 2)
    )
    return Trainer(
        model, SGD(model.parameters(), lr=0.05, momentum=0.9), F.cross_entropy,
        DataLoader(TensorDataset(x, labels), 5, shuffle=True, seed=5),
        validation=DataLoader(TensorDataset(x[:6], labels[:6]), 3),
        clip_norm=1.0, average=AveragedModel(model), accumulate=2, checkpoint=checkpoint, device=device,
    )  # fmt: skip


def test_the_training_loop(tmp_path: Path) -> None:
    """The same course on both devices; a checkpoint of one is resumed on the other."""
    wanted = make_trainer("cpu").fit(2)  # the dropped elements follow from the seed that it sets
    theirs = make_trainer("cuda", tmp_path / "checkpoint.safetensors")
    found = theirs.fit(2)
    for a, b in zip(wanted, found):
        for key in ("loss", "accuracy", "val_loss", "val_accuracy"):
            assert b[key] == pytest.approx(a[key], rel=1e-3), key
    resumed = make_trainer("cpu")
    resumed.load_state_dict(io.load(tmp_path / "checkpoint.safetensors"))
    last = resumed.fit(3)[-1]["loss"]
    theirs.load_state_dict(io.load(tmp_path / "checkpoint.safetensors"))
    assert theirs.fit(3)[-1]["loss"] == pytest.approx(last, rel=1e-3)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64", "float32", "float64"])
@pytest.mark.parametrize("n", [0, 1, 2, 37, 200])
def test_values_brought_to_places(dtype: str, n: int) -> None:
    """Sums and last values by index, as NumPy's one after the other; a NaN stays in its place."""
    rng = np.random.default_rng(n)
    at, values = rng.integers(0, 9, n), rng.integers(0, 3, n).astype(dtype)
    if dtype == "float64" and n:
        values[0] = np.nan
    sums, lasts = np.zeros(9, dtype), np.zeros(9, dtype)
    np.add.at(sums, at, values)
    lasts[at] = values
    there = XP.asarray(at), XP.asarray(values)
    with watched():
        found = sums_at(*there, 9), lasts_at(*there, 9)
    np.testing.assert_array_equal(found[0].get(), sums, strict=True)
    np.testing.assert_array_equal(found[1].get(), lasts, strict=True)


def test_mixed_precision() -> None:
    """A scaled step in float16, its overflow asked for by one read after the gradients."""
    found = []
    for device in ("cpu", "cuda"):
        tinyconv.manual_seed(6)
        net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3)).to(device)
        x, t = Tensor(images(2, 1, 6, 6)).to(device), tinyconv.tensor([0, 2], device=device)
        scaler, optimizer = amp.GradScaler(device), SGD(net.parameters(), lr=0.1)
        with watched(), amp.autocast(device):
            loss = F.cross_entropy(net(x), t)
        with watched():
            scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        found.append([loss, *net.parameters()])
    for a, b in zip(*found):
        close(b, a, rtol=2e-3)  # of float16


def test_changes_in_place() -> None:
    for device in ("cpu", "cuda"):
        x = tinyconv.zeros(2, 3, device=device)
        x += 1
        x *= tinyconv.full((3,), 2.0, device=device)
        x -= Tensor(0.5)  # a number, wherever it is
        x[0, 1] = 9
        x[:, [2]] = tinyconv.tensor([[4.0], [5.0]], device=device)
        x[tinyconv.tensor([1], device=device)] = 3.0
        x.copy_(x.cpu() if device == "cuda" else x)
        assert x.device == device and host(x).tolist() == [[1.5, 9, 4], [3, 3, 3]]
        assert host(x.zero_()).any() == 0


def test_gradients_of_second_order_and_hooks() -> None:
    """A gradient penalty, a hook that changes a gradient, a checkpointed part."""
    found = []
    for device in ("cpu", "cuda"):
        tinyconv.manual_seed(4)
        net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), nn.MaxPool2d(2)).to(device)
        x = Tensor(images(1, 1, 6, 6)).to(device).requires_grad_()
        with watched():
            y = checkpoint(net, x)
            y.register_hook(lambda g: g * 2)
            (g,) = tinyconv.grad(net(x).sum(), x, create_graph=True)
            ((g * g).sum() + y.sum()).backward()
        found.append([x.grad, *(p.grad for p in net.parameters())])
    for a, b in zip(*found):
        close(b, a)


def test_one_bad_class_is_told_when_a_value_is_read() -> None:
    x = tinyconv.zeros(2, 3, device="cuda")
    with watched():
        loss = F.cross_entropy(x, tinyconv.tensor([0, 7], device="cuda"))
    with pytest.raises(IndexError, match=r"cross_entropy: target holds class 7.*The call was at .*test_engine.py"):
        loss.item()
    loss.item()  # once is enough
    with tinyconv.detect_anomaly(), pytest.raises(IndexError, match="index runs from 0 to 5"):
        tinyconv.gather(x, 1, tinyconv.tensor([[0], [5]], device="cuda"))
    with pytest.raises(IndexError, match="getitem: index runs from 9 to 9"):
        print(x[tinyconv.tensor([9], device="cuda")])
        settle()
