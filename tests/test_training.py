"""The training loop: the same bits after a break, whole checkpoints after a crash, and what callbacks see."""

from __future__ import annotations

import csv
import os
import signal
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import IPython
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tinyconv
from tinyconv import functional as F
from tinyconv import io, nn
from tinyconv.amp import GradScaler
from tinyconv.data import DataLoader, TensorDataset
from tinyconv.optim import SGD, Adam
from tinyconv.optim.schedule import CosineAnnealingLR, LinearLR, OneCycleLR, ReduceLROnPlateau, SequentialLR, StepLR
from tinyconv.optim.swa_utils import AveragedModel, get_ema_avg_fn
from tinyconv.training import (
    Callback,
    CSVLog,
    EarlyStopping,
    GradientMonitor,
    LivePlot,
    ProgressBar,
    RateTest,
    TensorBoardLog,
    Trainer,
    find_learning_rate,
)


def make_trainer(checkpoint: Path | None = None, callbacks: tuple[Callback, ...] = (), **options: Any) -> Trainer:
    """A small network with all that has state: batch norm, dropout, Adam, a schedule, a shuffled loader."""
    rng = np.random.default_rng(7)
    images = rng.standard_normal((22, 1, 8, 8), np.float32)
    labels = (images.mean((1, 2, 3)) > 0).astype(np.int64)
    tinyconv.manual_seed(3)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3), nn.Flatten(), nn.Linear(256, 2)
    )
    optimizer = Adam(model.parameters(), lr=1e-2)
    return Trainer(
        model,
        optimizer,
        F.cross_entropy,
        DataLoader(TensorDataset(images, labels), 4, shuffle=True, seed=5),
        validation=DataLoader(TensorDataset(images[:6], labels[:6]), 3),
        scheduler=OneCycleLR(optimizer, 1e-2, total_steps=4 * 6),
        schedule_batches=True,
        callbacks=callbacks,
        checkpoint=checkpoint,
        **options,
    )


def without_time(history: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in history]


class PressCtrlC(Callback):
    """Sends SIGINT to this process after the given number of batches."""

    def __init__(self, after: int) -> None:
        self.left = after

    def on_batch_end(self, trainer: Trainer) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGINT)


def test_mixed_precision_learns_as_float32_does() -> None:
    losses = []
    for scaler in (None, GradScaler("cpu", init_scale=2.0**10)):
        history = make_trainer(scaler=scaler).fit(4)
        losses.append([row["loss"] for row in history])
    assert losses[0][-1] < 0.4 * losses[0][0]
    np.testing.assert_allclose(losses[1], losses[0], atol=0.01)
    assert losses[0] != losses[1]


def test_a_break_in_mixed_precision_changes_no_bit(tmp_path: Path) -> None:
    def scaler() -> GradScaler:
        return GradScaler("cpu", init_scale=2.0**24, growth_interval=3)  # overflows at first

    scales: list[float] = []
    whole = make_trainer(callbacks=(Recorder(scales),), scaler=scaler())
    whole.fit(4)
    assert scales[0] == 2.0**23 and min(scales) < 2.0**20  # down from overflow to overflow
    assert any(after > before for before, after in zip(scales, scales[1:]))

    path = tmp_path / "checkpoint.safetensors"
    with pytest.raises(KeyboardInterrupt):
        make_trainer(path, (PressCtrlC(8),), scaler=scaler()).fit(4)
    resumed = make_trainer(path, scaler=scaler())
    resumed.load_state_dict(io.load(path))
    resumed.fit(4)
    assert without_time(whole.history) == without_time(resumed.history)
    assert whole.scaler.state_dict() == resumed.scaler.state_dict()
    before = resumed.scaler.state_dict()
    find_learning_rate(resumed, steps=5)
    assert resumed.scaler.state_dict() == before


class Recorder(Callback):
    """The scale after each step; in between, the gradients must be those of the loss, not the scaled ones."""

    def __init__(self, scales: list[float]) -> None:
        self.scales = scales

    def on_gradients(self, trainer: Trainer) -> None:
        norms = [float(np.abs(p.grad.data).max()) for p in trainer.model.parameters() if p.grad is not None]
        assert max(norms) < 100 or not np.isfinite(max(norms))

    def on_batch_end(self, trainer: Trainer) -> None:
        self.scales.append(trainer.scaler.get_scale())


@pytest.mark.parametrize("batches", [1, 5, 6, 8, 13])  # six batches are an epoch
def test_a_break_changes_no_bit(tmp_path: Path, batches: int) -> None:
    whole = make_trainer()
    whole.fit(4)

    path = tmp_path / "checkpoint.safetensors"
    with pytest.raises(KeyboardInterrupt):
        make_trainer(path, (PressCtrlC(batches),)).fit(4)
    resumed = make_trainer(path)
    tinyconv.manual_seed(99)  # the resumed process starts with other random numbers
    resumed.load_state_dict(io.load(path))
    resumed.fit(4)

    expected, found = whole.model.state_dict(), resumed.model.state_dict()
    assert expected.keys() == found.keys()
    for name in expected:
        assert np.array_equal(expected[name].numpy(), found[name].numpy()), name
    assert without_time(whole.history) == without_time(resumed.history)


def test_ctrl_c_works_again_after_training() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        make_trainer(None, (PressCtrlC(2),)).fit(1)
    assert signal.getsignal(signal.SIGINT) is before


def test_training_lowers_the_loss_and_keeps_a_row_an_epoch() -> None:
    trainer = make_trainer()
    history = trainer.fit(4)
    assert [row["epoch"] for row in history] == [1, 2, 3, 4]
    assert history[-1]["loss"] < history[0]["loss"]
    assert set(history[0]) == {"epoch", "loss", "accuracy", "val_loss", "val_accuracy", "lr", "seconds"}
    assert trainer.fit(4) is history and len(history) == 4  # nothing is left to do


def test_metrics_are_those_of_the_whole_set() -> None:
    """Batches of unequal size must not be averaged as if they were equal."""
    trainer = make_trainer()
    trainer.validation = DataLoader(TensorDataset(*trainer.loader.dataset.tensors), 5)  # 22 = 4 * 5 + 2
    images, labels = trainer.loader.dataset.tensors
    row = trainer.evaluate()
    trainer.model.eval()
    scores = trainer.model(tinyconv.tensor(images)).detach().numpy().astype(np.float64)
    p = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    assert row["loss"] == pytest.approx(-np.log(p[np.arange(22), labels]).mean(), rel=1e-5)
    assert row["accuracy"] == np.mean(scores.argmax(1) == labels)


def test_early_stopping_counts_from_the_best_epoch() -> None:
    trainer = make_trainer()
    stop = EarlyStopping("val_loss", patience=2)
    stopped = []
    for loss in (1.0, 0.8, 0.9, 0.7, 0.75, 0.71):
        trainer.history.append({"val_loss": loss})
        stop.on_epoch_end(trainer)
        stopped.append(trainer.stop)
    assert stopped == [False, False, False, False, False, True]
    with pytest.raises(ValueError, match="val_dice"):
        EarlyStopping("val_dice").on_epoch_end(trainer)
    with pytest.raises(ValueError, match="mode"):
        EarlyStopping(mode="up")


@pytest.mark.parametrize("kind", ["step", "plateau"])
def test_schedules_once_an_epoch(kind: str) -> None:
    trainer = make_trainer()
    trainer.optimizer = optimizer = SGD(trainer.model.parameters(), lr=0.1)
    trainer.schedule_batches = False
    # A threshold that no loss can beat: the plateau schedule halves after every epoch but the first.
    plateau = ReduceLROnPlateau(optimizer, factor=0.5, patience=0, threshold=0.999)
    trainer.scheduler = plateau if kind == "plateau" else StepLR(optimizer, 1, gamma=0.5)
    rates = [row["lr"] for row in trainer.fit(3)]
    assert rates == pytest.approx([0.1, 0.1, 0.05] if kind == "plateau" else [0.1, 0.05, 0.025])


def test_progress_bar_shows_loss_and_rate(capsys: pytest.CaptureFixture[str]) -> None:
    make_trainer(None, (ProgressBar(1),)).fit(1)
    shown = capsys.readouterr().err
    for word in ("epoch", "1/1", "22/22", "img/s", "loss=", "val_accuracy="):
        assert word in shown


# --------------------------------------------------------------------------------------------------
# Steps of several batches, averaged weights


def make_practice_trainer(checkpoint: Path | None = None, callbacks: tuple[Callback, ...] = ()) -> Trainer:
    """Steps of four batches, the last one of an epoch of two; a moving average; a warm-up an epoch."""
    trainer = make_trainer(checkpoint, callbacks, accumulate=4)
    trainer.average = AveragedModel(trainer.model, avg_fn=get_ema_avg_fn(0.8))
    trainer.optimizer = optimizer = Adam(trainer.model.parameters(), lr=1e-2)
    parts = [LinearLR(optimizer, 0.2, total_iters=2), CosineAnnealingLR(optimizer, T_max=4)]
    trainer.scheduler, trainer.schedule_batches = SequentialLR(optimizer, parts, milestones=[2]), False
    return trainer


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5])  # two steps are an epoch
def test_a_break_changes_no_bit_of_average_and_schedule(tmp_path: Path, steps: int) -> None:
    whole = make_practice_trainer()
    whole.fit(4)
    path = tmp_path / "checkpoint.safetensors"
    with pytest.raises(KeyboardInterrupt):
        make_practice_trainer(path, (PressCtrlC(steps),)).fit(4)
    resumed = make_practice_trainer(path)
    tinyconv.manual_seed(99)
    resumed.load_state_dict(io.load(path))
    resumed.fit(4)
    assert whole.average is not None and resumed.average is not None
    assert int(whole.average.n_averaged.numpy()) == 8
    for a, b in ((whole.model, resumed.model), (whole.average, resumed.average)):
        for (name, expected), found in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
            assert np.array_equal(expected.numpy(), found.numpy()), name
    assert without_time(whole.history) == without_time(resumed.history)


def test_the_validation_is_that_of_the_average() -> None:
    trainer = make_practice_trainer()
    history = trainer.fit(2)
    assert trainer.average is not None
    images, labels = trainer.loader.dataset.tensors
    scores = trainer.average.eval()(tinyconv.tensor(images[:6])).detach().numpy().astype(np.float64)
    p = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    assert history[-1]["val_loss"] == pytest.approx(-np.log(p[np.arange(6), labels[:6]]).mean(), rel=1e-5)


def test_a_stop_is_kept_in_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    stopped = make_trainer(path, (EarlyStopping("epoch", patience=1),))  # the epoch's number only rises
    assert len(stopped.fit(4)) == 2
    resumed = make_trainer(path)
    resumed.load_state_dict(io.load(path))
    assert len(resumed.fit(4)) == 2


def plain_trainer(batch_size: int, accumulate: int, **options: Any) -> Trainer:
    """In float64 and without batch norm, whose statistics are those of a single batch."""
    rng = np.random.default_rng(1)
    images, labels = rng.standard_normal((22, 6)), rng.integers(0, 3, 22)
    tinyconv.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).to(np.float64)
    optimizer = SGD(model.parameters(), lr=0.3, momentum=0.9)
    loader = DataLoader(TensorDataset(images, labels), batch_size, shuffle=True, seed=2)
    return Trainer(model, optimizer, F.cross_entropy, loader, accumulate=accumulate, **options)


@pytest.mark.parametrize(("batch_size", "accumulate"), [(3, 4), (4, 3), (1, 12), (5, 1)])
def test_accumulated_batches_are_one_large_batch(batch_size: int, accumulate: int) -> None:
    """22 samples: steps of 12 and 10, whatever the batches; torch takes the same steps."""
    trainer = plain_trainer(batch_size, accumulate, clip_norm=0.5)
    large = batch_size * accumulate
    theirs = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3)).double()
    theirs.load_state_dict({name: torch.tensor(t.numpy().copy()) for name, t in trainer.model.state_dict().items()})
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.3, momentum=0.9)
    order = DataLoader(trainer.loader.dataset, large, shuffle=True, seed=2)
    losses = []
    for _ in range(3):
        total = 0.0
        for inputs, targets in order:
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(theirs(torch.tensor(inputs)), torch.tensor(targets))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
            optimizer.step()
            total += loss.item() * len(targets)
        losses.append(total / 22)
    assert [row["loss"] for row in trainer.fit(3)] == pytest.approx(losses, rel=1e-10)
    for p, q in zip(trainer.model.parameters(), theirs.parameters()):
        np.testing.assert_allclose(p.detach().numpy(), q.detach().numpy(), rtol=1e-9, atol=1e-12)


def test_a_seed_gives_the_same_bits_and_another_one_others() -> None:
    first = without_time(make_trainer().fit(1))
    assert without_time(make_trainer().fit(1)) == first  # make_trainer begins with manual_seed
    other = make_trainer()
    other.loader.load_state_dict({"seed": 6, "epoch": 0, "batch": 0})
    assert without_time(other.fit(1)) != first


def test_errors_of_the_options() -> None:
    with pytest.raises(ValueError, match="accumulate"):
        make_trainer(accumulate=0)
    with pytest.raises(ValueError, match="every"):
        GradientMonitor(0)
    with pytest.raises(ValueError, match="lowest"):
        find_learning_rate(make_trainer(), 1.0, 0.1)


# --------------------------------------------------------------------------------------------------
# The learning rate


def test_range_test_of_a_parabola() -> None:
    """loss = w^2: w <- w (1 - 2 lr), which shrinks below lr = 1 and grows above."""
    data = TensorDataset(np.ones((4, 1)), np.zeros(4, np.int64))
    model = nn.Linear(1, 1, bias=False).to(np.float64)
    model.load_state_dict({"weight": np.ones((1, 1))})
    optimizer = SGD(model.parameters(), lr=0.1)
    trainer = Trainer(model, optimizer, lambda scores, _: (scores * scores).mean(), DataLoader(data, 2))
    found = find_learning_rate(trainer, 1e-3, 10.0, steps=41, smoothing=0.0)
    w = np.cumprod([1.0, *(1 - 2 * np.array(found.rates[:-1]))])
    np.testing.assert_allclose(found.losses, w**2, rtol=1e-9)
    np.testing.assert_allclose(np.diff(np.log10(found.rates)), 0.1, rtol=1e-9)
    lowest = int(np.argmin(found.losses))
    assert found.rates[lowest - 1] < 1 <= found.rates[lowest]
    assert len(found.rates) < 41  # it ended when the loss had grown
    assert float(model.weight.detach().numpy()[0, 0]) == 1.0 and optimizer.param_groups[0]["lr"] == 0.1


def test_range_test_leaves_no_trace() -> None:
    expected = make_trainer().fit(2)
    trainer = make_trainer()
    trainer.fit(1)
    find_learning_rate(trainer, steps=8)
    assert without_time(trainer.fit(2)) == without_time(expected)


def test_suggested_is_the_rate_where_the_loss_falls_fastest() -> None:
    found = RateTest([0.01, 0.1, 1.0, 10.0], [1.0, 0.9, 0.2, 0.5])  # slopes a decade: -0.1, -0.4, -0.2, 0.3
    assert found.suggestion == 0.1
    blown_up = RateTest([0.01, 0.1, 1.0, 10.0, 100.0, 1000.0], [1.0, 0.9, 0.2, 9.0, 8.0, 2.0])
    assert blown_up.suggestion == 0.1
    (line,) = [line for line in found.plot().axes[0].lines if line.get_linestyle() == "--"]
    assert line.get_xdata()[0] == 0.1


# --------------------------------------------------------------------------------------------------
# What watches


def test_monitor_sees_torch_s_gradients_vanish() -> None:
    """Ten layers of sigmoids: each has a slope of at most 1/4."""
    tinyconv.manual_seed(0)
    layers: list[nn.Module] = []
    for _ in range(10):
        layers += [nn.Linear(4, 4), nn.Sigmoid()]
    model = nn.Sequential(*layers).to(np.float64)
    theirs = torch.nn.Sequential(
        *[layer for _ in range(10) for layer in (torch.nn.Linear(4, 4), torch.nn.Sigmoid())]
    ).double()
    theirs.load_state_dict({name: torch.tensor(t.numpy().copy()) for name, t in model.state_dict().items()})
    inputs, labels = np.random.default_rng(0).standard_normal((8, 4)), np.arange(8) % 4
    monitor = GradientMonitor()
    loader = DataLoader(TensorDataset(inputs, labels), 8)
    optimizer = SGD(model.parameters(), lr=0.5)
    Trainer(model, optimizer, F.cross_entropy, loader, callbacks=(monitor,), clip_norm=1e9).fit(1)
    torch.nn.functional.cross_entropy(theirs(torch.tensor(inputs)), torch.tensor(labels)).backward()
    assert list(monitor.gradient) == [str(i) for i in range(0, 20, 2)] and monitor.steps == [1]
    for name in monitor.gradient:
        parameters = list(theirs[int(name)].parameters())
        gradient = torch.cat([p.grad.ravel() for p in parameters]).norm().item()
        weights = torch.cat([p.detach().ravel() for p in parameters]).norm().item()
        assert monitor.gradient[name] == [pytest.approx(gradient, rel=1e-9)]
        assert monitor.update[name] == [pytest.approx(0.5 * gradient / weights, rel=1e-6)]
    assert monitor.gradient["0"][0] < 1e-4 * monitor.gradient["18"][0]
    figure = monitor.plot()
    assert [len(axis.lines) for axis in figure.axes] == [10, 10]


def test_monitor_of_every_third_step() -> None:
    monitor = GradientMonitor(every=3)
    make_trainer(None, (monitor,)).fit(2)
    assert monitor.steps == [3, 6, 9, 12]
    assert all(len(v) == 4 for rows in (monitor.gradient, monitor.update) for v in rows.values())


def test_csv_has_the_history_once(tmp_path: Path) -> None:
    path, checkpoint = tmp_path / "log.csv", tmp_path / "checkpoint.safetensors"
    make_trainer(checkpoint, (CSVLog(path),)).fit(2)
    resumed = make_trainer(checkpoint, (CSVLog(path),))
    resumed.load_state_dict(io.load(checkpoint))
    history = resumed.fit(3)
    with open(path, newline="") as file:
        rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    assert rows == history


def test_event_file_has_the_history(tmp_path: Path) -> None:
    """Read as records of length, checksum, event, checksum."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2", reason="tensorboardX is not installed")
    history = make_trainer(None, (TensorBoardLog(tmp_path),)).fit(2)
    found = []
    for file in sorted(tmp_path.iterdir()):
        content, place = file.read_bytes(), 0
        while place < len(content):
            (size,) = struct.unpack_from("<Q", content, place)
            event = event_pb2.Event.FromString(content[place + 12 : place + 12 + size])
            found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
            place += size + 16
    expected = [(row["epoch"], key, np.float32(value)) for row in history for key, value in row.items()]
    assert found == [entry for entry in expected if entry[1] != "epoch"]


def test_tensorboard_reads_a_training_that_was_resumed(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX", reason="tensorboardX is not installed")
    name = "tensorboard.backend.event_processing.event_accumulator"
    reader = pytest.importorskip(name, reason="tensorboard is not installed")
    checkpoint = tmp_path / "checkpoint.safetensors"
    make_trainer(checkpoint, (TensorBoardLog(tmp_path / "log"),)).fit(2)
    resumed = make_trainer(checkpoint, (TensorBoardLog(tmp_path / "log"),))
    resumed.load_state_dict(io.load(checkpoint))
    history = resumed.fit(3)
    log = reader.EventAccumulator(str(tmp_path / "log")).Reload()
    assert [(e.step, e.value) for e in log.Scalars("val_loss")] == [
        (row["epoch"], np.float32(row["val_loss"])) for row in history
    ]


def test_live_plot_draws_in_a_notebook_and_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []

    class Handle:
        def update(self, image: Any) -> None:
            shown.append(image)

    def display(image: Any, display_id: bool) -> Handle:
        shown.append(image)
        return Handle()

    monkeypatch.setattr("IPython.display.display", display)
    make_trainer(None, (LivePlot(),)).fit(1)
    assert not shown
    monkeypatch.setattr(IPython, "get_ipython", lambda: object())
    trainer = make_trainer(None, (LivePlot(),))
    trainer.fit(3)
    assert len(shown) == 3 and all(image.data.startswith(b"\x89PNG") for image in shown)
    assert "3 epochs" in shown[2].alt and f"val_loss {trainer.history[-1]['val_loss']:.4g}" in shown[2].alt
    monkeypatch.setitem(sys.modules, "IPython", None)
    make_trainer(None, (LivePlot(),)).fit(1)
    assert len(shown) == 3


# --------------------------------------------------------------------------------------------------
# Files

TREE = {
    "model": {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.array(3, np.int64)},
    "list": [1, 2.5, None, "text", True, {"deep": np.zeros((0, 4))}],
    "big": 2**100,
}


def test_a_tree_comes_back_as_it_went(tmp_path: Path) -> None:
    path = tmp_path / "tree.safetensors"
    io.save(TREE, path)
    back = io.load(path)
    assert back["list"][:5] == TREE["list"][:5] and back["big"] == TREE["big"]
    for a, b in ((TREE["model"]["w"], back["model"]["w"]), (TREE["model"]["n"], back["model"]["n"])):
        assert a.dtype == b.dtype and a.shape == b.shape and np.array_equal(a, b)
    assert back["list"][5]["deep"].shape == (0, 4)
    for bad in ({1: 2}, {"f": print}):
        with pytest.raises(TypeError, match="save"):
            io.save(bad, path)
    assert [p.name for p in tmp_path.iterdir()] == ["tree.safetensors"]


def test_a_process_killed_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    """kill -9 after the bytes are written, before the rename: the worst moment."""
    path = tmp_path / "tree.safetensors"
    io.save({"value": 1}, path)
    program = (
        "import os, signal, sys\n"
        "from tinyconv import io\n"
        "os.fsync = lambda file: os.kill(os.getpid(), signal.SIGKILL)\n"
        "io.save({'value': 2}, sys.argv[1])\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert io.load(path) == {"value": 1}


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tree.safetensors"
    io.save({"value": 1}, path)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            io.save({"value": 2}, path)
    assert io.load(path) == {"value": 1}
    assert len(list(tmp_path.iterdir())) == 1


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_is_refused_with_a_sentence(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "tree.safetensors"
    io.save(TREE, path)
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans(), "truncate"):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        for _ in range(data.draw(st.integers(1, 4))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        io.load(path)
    except ValueError as error:
        assert "tree.safetensors" in str(error)
