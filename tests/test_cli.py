"""The command line as a user types it."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from tinyconv import cli, io, recipes
from tinyconv.data import Subset, brain
from tinyconv.training import Callback, Trainer


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The brain recipe cut down to seconds, in an empty folder."""
    training, validation, test = brain.brain_datasets()
    cut = dataclasses.replace(
        recipes.TASKS["brain"],
        datasets=lambda: (Subset(training, range(30, 38)), Subset(validation, [0]), Subset(test, [0, 10])),
        width=2,
        epochs=2,
    )
    monkeypatch.setitem(recipes.TASKS, "brain", cut)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_train_writes_a_report(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "--model", "unet", "--data", "brain"]) == 0
    folder = small / "runs" / "unet-brain"
    assert {p.name for p in folder.iterdir()} == {
        "metrics.json",
        "curves.png",
        "examples.png",
        "checkpoint.safetensors",
    }
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["images"] == 2 and len(metrics["history"]) == 2
    for scores in (metrics["network"], metrics["network"]["thresholds"]):
        dice = scores["dice"]
        assert list(dice) == list(brain.CLASSES) and all(0 <= value <= 1 for value in dice.values())
        assert scores["mean_dice"] == pytest.approx((dice["grey matter"] + dice["white matter"]) / 2)
        # Dice = 2 IoU / (1 + IoU), class by class
        for name, value in dice.items():
            iou = scores["iou"][name]
            assert value == pytest.approx(2 * iou / (1 + iou))
    # Two thresholds fitted to two noisy slices: between what is known of the noisy and of the clean template.
    assert 0.6 < metrics["network"]["thresholds"]["mean_dice"] < 0.9
    shown = capsys.readouterr()
    assert "held-out: 2 images" in shown.out and "epoch   2/2" in shown.err


def test_mixed_precision_is_kept_in_the_checkpoint(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["train", "--model", "unet", "--data", "brain"]
    assert cli.main([*command, "--mixed-precision"]) == 0
    state = io.load(small / "runs" / "unet-brain" / "checkpoint.safetensors")
    assert 1 <= state["scaler"]["scale"] <= 2**16
    assert cli.main([*command, "--out", "plain"]) == 0
    assert cli.main([*command, "--out", "plain", "--mixed-precision", "--resume"]) == 1
    assert "GradScaler.load_state_dict: the state is empty" in capsys.readouterr().err


def test_a_resumed_training_ends_with_the_same_bits(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli.main(["train", "--model", "unet", "--data", "brain", "--out", "whole"]) == 0

    class Interrupt(Callback):
        def on_batch_end(self, trainer: Trainer) -> None:
            if trainer.epoch == 1:
                os.kill(os.getpid(), signal.SIGINT)

    make = recipes.make_trainer
    with monkeypatch.context() as patched:
        patched.setattr(recipes, "make_trainer", lambda *a, **k: make(*a[:-1], (*a[-1], Interrupt()), **k))
        assert cli.main(["train", "--model", "unet", "--data", "brain", "--out", "broken"]) == 130
    assert (
        cli.main(["train", "--model", "unet", "--data", "brain", "--out", "broken", "--workers", "2", "--resume"]) == 0
    )
    whole, broken = (io.load(small / name / "checkpoint.safetensors")["model"] for name in ("whole", "broken"))
    assert whole.keys() == broken.keys()
    assert all(np.array_equal(whole[name], broken[name]) for name in whole)


def test_predict_writes_class_maps_of_any_size(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    assert cli.main(["train", "--model", "unet", "--data", "brain", "--epochs", "1"]) == 0
    image = brain.load_mni152().t1[80][3:, 5:]  # no size that two poolings divide
    Image.fromarray(image).save(small / "slice.png")
    checkpoint = "runs/unet-brain/checkpoint.safetensors"
    capsys.readouterr()
    assert cli.main(["predict", checkpoint, "slice.png"]) == 0
    with Image.open(small / "slice_classes.png") as written:
        classes = np.asarray(written)
    assert classes.shape == image.shape and set(np.unique(classes)) <= {0, 1, 2}
    said = capsys.readouterr().out
    assert f"background {np.mean(classes == 0):.1%}" in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "--model", "unet", "--data", "moon"], ["no data set 'moon'", "brain", "nuclei"]),
        (["train", "--model", "resnet19", "--data", "digits"], ["no network 'resnet19'", "resnet18"]),
        (["train", "--model", "vgg16", "--data", "nuclei"], ["each of 256 x 256", "vgg16", "unet, unet2015"]),
        (["train", "--model", "unet", "--data", "hippocampus"], ["48 x 64 x 48", "unet3d"]),
        (["train", "--model", "unet", "--data", "digits"], ["one class an image", "lenet5", "resnet18"]),
        (["train", "--model", "lenet1998", "--data", "pneumoniamnist"], ["ten classes"]),
        (["train", "--model", "unet", "--data", "brain", "--epochs", "0"], ["--epochs", "0"]),
        (["train", "--model", "unet", "--data", "brain", "--resume"], ["--resume", "checkpoint.safetensors"]),
        (["train", "--model", "unet", "--data", "nuclei"], ["TINYCONV_DATA", "dsb2018_nuclei"]),
        (["predict", "nothing.safetensors", "image.png"], ["nothing.safetensors"]),
    ],
)
def test_wrong_calls_end_with_one_sentence(
    small: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    words: list[str],
) -> None:
    monkeypatch.delenv("TINYCONV_DATA", raising=False)
    assert cli.main(arguments) == 1
    said = capsys.readouterr().err
    assert "Traceback" not in said and all(word in said for word in words)


def test_resume_refuses_another_training(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "--model", "unet", "--data", "brain", "--epochs", "1"]) == 0
    assert cli.main(["train", "--model", "unet", "--data", "brain", "--epochs", "1", "--seed", "4", "--resume"]) == 1
    assert "'seed': 0" in capsys.readouterr().err


def test_a_file_that_is_no_checkpoint(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    io.save({"some": "thing"}, small / "other.safetensors")
    (small / "broken.safetensors").write_bytes(b"\x00" * 100)
    for name in ("other", "broken"):
        assert cli.main(["predict", f"{name}.safetensors", "image.png"]) == 1
        assert name in capsys.readouterr().err


def test_info_names_versions_blas_and_kernels(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info"]) == 0
    said = capsys.readouterr().out
    for word in ("tinyconv", f"numpy       {np.__version__}", "BLAS", "GPU", "threads", "im2col", "conv_weight"):
        assert word in said
