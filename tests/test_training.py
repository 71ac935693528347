"""The training loop: the same bits after a break, whole checkpoints after a crash, and what callbacks see."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tinyconv
from tinyconv import functional as F
from tinyconv import io, nn
from tinyconv.data import DataLoader, TensorDataset
from tinyconv.optim import SGD, Adam
from tinyconv.optim.schedule import OneCycleLR, ReduceLROnPlateau, StepLR
from tinyconv.training import Callback, EarlyStopping, ProgressBar, Trainer


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
