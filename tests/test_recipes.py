"""What `tinyconv train` makes of a network and a data set, for all that fit."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tinyconv as tc
from tinyconv import cli, models, recipes
from tinyconv.data import TensorDataset, nuclei
from tinyconv.models.registry import NETWORKS
from tinyconv.recipes import jobs, tasks

PAIRS = [(model, data) for data, task in recipes.TASKS.items() for model in recipes.networks_for(task)]
#: Of sisters with the same code and more layers, the smallest.
STEPPED = sorted(
    set(NETWORKS) - {"vgg13", "vgg16", "vgg19", "vgg13_bn", "vgg16_bn", "vgg19_bn", "resnet101", "resnet152"}
)


def few(task: recipes.Task, count: int = 2) -> recipes.Task:
    """The task with noise for data: ``count`` images to train, and as many to test."""
    generator = np.random.default_rng(0)
    images = generator.standard_normal((count, 1, *task.size), np.float32)
    labels = generator.integers(0, len(task.classes), (count, *task.size) if task.dense else count)
    part = TensorDataset(images, labels)
    return dataclasses.replace(task, datasets=lambda: (part, None, part), batch_size=count, epochs=1)


def test_every_network_has_a_data_set_and_every_data_set_networks() -> None:
    assert {model for model, _ in PAIRS} == set(NETWORKS)
    assert {data for _, data in PAIRS} == set(recipes.TASKS)


@pytest.mark.parametrize("model", STEPPED)
def test_one_step_of_every_network(model: str, tmp_path: Path) -> None:
    data = next(data for name, data in PAIRS if name == model)
    plan = recipes.recipe(model, data)
    fewer = {"hidden": 32} if model.startswith(("vgg", "alexnet")) else {}  # 100 million parameters take a minute
    plan = dataclasses.replace(plan, task=few(plan.task), options={**plan.options, **fewer})
    trainer, test = recipes.make_trainer(plan, tmp_path)
    before = trainer.model.state_dict()
    before = {name: value.data.copy() for name, value in before.items()}
    (row,) = trainer.fit(1)
    assert np.isfinite(row["loss"])
    after = trainer.model.state_dict()
    assert any(not np.array_equal(before[name], after[name].data) for name in before)
    image, label = test[0]
    scores = recipes.predict(plan, trainer.model, image)
    assert scores.shape == (len(plan.task.classes), *np.shape(label)) and np.isfinite(scores).all()


@pytest.mark.parametrize(("model", "data"), PAIRS)
def test_images_get_sizes_that_the_network_takes(model: str, data: str) -> None:
    plan = recipes.recipe(model, data)
    inputs, outputs = plan.sizes(plan.task.size)
    if plan.task.dense:
        assert all(i >= o >= n for i, o, n in zip(inputs, outputs, plan.task.size))
        odd = tuple(n - 3 for n in plan.task.size)  # an image of one's own
        assert all(i >= o >= n for i, o, n in zip(*plan.sizes(odd), odd))
    else:
        assert outputs == () and len(inputs) == 2


def test_the_1998_network_is_the_closest_code() -> None:
    network = recipes.recipe("lenet1998", "digits").build().eval()
    x = tc.tensor(np.random.default_rng(0).standard_normal((3, 1, 32, 32), np.float32))
    distances = models.lenet1998()
    distances.load_state_dict({k.removeprefix("network."): v for k, v in network.state_dict().items()})
    assert np.array_equal(network(x).data.argmax(1), distances(x).data.argmin(1))


def test_mirrored_images_come_back_cropped() -> None:
    image = np.random.default_rng(0).standard_normal((1, 37, 50), np.float32)
    plan = recipes.recipe("unet", "brain")
    assert plan.sizes((37, 50)) == ((40, 56), (40, 56))
    seen = jobs.fit_image(plan, image)
    assert np.array_equal(seen[:, 1:38, 3:53], image)
    assert np.array_equal(seen[:, 0], seen[:, 1]) and np.array_equal(seen[:, :, 2], seen[:, :, 3])

    class Same(tc.nn.Module):
        def forward(self, x: tc.Tensor) -> tc.Tensor:
            return x

    assert np.array_equal(recipes.predict(plan, Same(), image), image)
    plan = recipes.recipe("unet2015", "nuclei")
    (wide, _), (given, _) = plan.sizes((256, 256))
    assert (wide, given) == (444, 260)  # 444 is 12 modulo 16 and 184 more than 260


def test_enlarged_images_are_torchs() -> None:
    image = np.random.default_rng(0).standard_normal((1, 28, 28), np.float32)
    plan = recipes.recipe("resnet18", "pneumoniamnist")
    expected = torch.nn.functional.interpolate(torch.tensor(image)[None], (64, 64), mode="bilinear")[0]
    np.testing.assert_allclose(jobs.fit_image(plan, image), expected.numpy(), atol=1e-6)


def test_losses_against_torch() -> None:
    generator = np.random.default_rng(0)
    scores, aux = generator.standard_normal((2, 4, 3), np.float32)
    labels = np.array([0, 2, 1, 1])
    entropy = torch.nn.functional.cross_entropy
    main, extra = (entropy(torch.tensor(s), torch.tensor(labels)).item() for s in (scores, aux))
    outputs: Any = (tc.tensor(scores), tc.tensor(aux), tc.tensor(aux))
    assert recipes.classification_loss(outputs, tc.tensor(labels)).item() == pytest.approx(main + 0.6 * extra, 1e-5)
    assert recipes.classification_loss(outputs[0], tc.tensor(labels)).item() == pytest.approx(main, 1e-5)

    scores = generator.standard_normal((2, 3, 5, 6), np.float32)
    labels = generator.integers(0, 3, (2, 5, 6))
    p = torch.tensor(scores).softmax(1)
    one_hot = torch.nn.functional.one_hot(torch.tensor(labels), 3).movedim(-1, 1)
    dice = (2 * (p * one_hot).sum((0, 2, 3)) + 1e-5) / (p.sum((0, 2, 3)) + one_hot.sum((0, 2, 3)) + 1e-5)
    expected = (entropy(torch.tensor(scores), torch.tensor(labels)) + 1 - dice.mean()).item()
    assert recipes.segmentation_loss(tc.tensor(scores), tc.tensor(labels)).item() == pytest.approx(expected, 1e-5)


def test_scores_of_a_perfect_segmentation_and_of_none() -> None:
    instances = np.zeros((2, 40, 40), np.uint8)
    instances[:, 3:12, 3:15] = 1
    instances[:, 20:30, 3:15] = 2
    test = nuclei.Nuclei(instances, instances, augment=False)
    truth = np.stack([test[i][1] for i in range(2)])
    perfect = np.moveaxis(np.eye(3)[truth], -1, 1)
    row = tasks.score_nuclei(perfect, truth, test)
    assert row["nuclei"] == {"iou": 1, "case_dice": 1, "ap": dict.fromkeys(("0.5", "0.6", "0.7", "0.8", "0.9"), 1.0)}
    assert row["mean_dice"] == row["case_dice"]["border"] == 1 and row["case_dice_deviation"]["border"] == 0
    nothing = np.moveaxis(np.eye(3)[np.zeros_like(truth)], -1, 1)
    row = tasks.score_nuclei(nothing, truth, test)
    assert row["nuclei"]["iou"] == row["nuclei"]["case_dice"] == row["nuclei"]["ap"]["0.5"] == row["mean_dice"] == 0


def test_classification_scores() -> None:
    scores = np.array([[2.0, 1.0], [0.0, 3.0], [1.0, 1.5], [4.0, 0.0]])
    row = tasks.score_classes(scores, np.array([0, 1, 0, 1]), None)
    assert row == {"accuracy": 0.5, "confusion": [[1, 1], [1, 1]], "auc": 0.5}


# --------------------------------------------------------------------------------------------------
# The whole way, as a user types it


def test_a_classifier_learns_digits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sklearn")
    from PIL import Image

    out = tmp_path / "lenet"
    assert cli.main(["train", "--model", "lenet5", "--data", "digits", "--epochs", "3", "--out", str(out)]) == 0
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["network"]["accuracy"] > 0.9 and np.sum(metrics["network"]["confusion"]) == metrics["images"] == 359
    assert {p.name for p in out.iterdir()} == {"metrics.json", "curves.png", "examples.png", "checkpoint.safetensors"}
    from sklearn.datasets import load_digits

    zero = load_digits().images[0].astype(np.uint8)
    Image.fromarray(zero).save(tmp_path / "zero.png")
    capsys.readouterr()
    assert cli.main(["predict", str(out / "checkpoint.safetensors"), str(tmp_path / "zero.png")]) == 0
    said = capsys.readouterr().out
    assert float(said.split(" 0 ")[1].split("%")[0]) > 90


def test_a_volume_is_segmented_into_a_volume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nibabel = pytest.importorskip("nibabel")
    task = few(dataclasses.replace(recipes.TASKS["hippocampus"], size=(16, 16, 16), width=4))
    monkeypatch.setitem(recipes.TASKS, "hippocampus", task)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "--model", "unet3d", "--data", "hippocampus"]) == 0
    affine = np.diag([1, 2, 3, 1]).astype(float)
    volume = np.random.default_rng(0).integers(0, 99, (17, 20, 9)).astype(np.int16)
    nibabel.Nifti1Image(volume, affine).to_filename("head.nii.gz")
    capsys.readouterr()
    checkpoint = "runs/unet3d-hippocampus/checkpoint.safetensors"
    assert cli.main(["predict", checkpoint, "head.nii.gz", "--out", "maps"]) == 0
    written = nibabel.load("maps/head_classes.nii.gz")
    classes = np.asarray(written.dataobj)
    assert classes.shape == volume.shape and np.array_equal(written.affine, affine)
    assert f"background {np.mean(classes == 0):.1%}" in capsys.readouterr().out
    Path("text.nii.gz").write_bytes(b"no volume")
    assert cli.main(["predict", checkpoint, "text.nii.gz"]) == 1
    assert "must be a NIfTI volume" in capsys.readouterr().err
