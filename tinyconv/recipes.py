"""What `tinyconv train MODEL --data NAME` does: data, network, loss, schedule and report of each main job."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyconv import functional as F
from tinyconv.autograd import Tensor, no_grad
from tinyconv.data import DataLoader, brain, nuclei
from tinyconv.metrics import confusion_matrix, dice_from_confusion, iou_from_confusion
from tinyconv.models import UNet
from tinyconv.ops.random import manual_seed
from tinyconv.optim import Adam
from tinyconv.optim.schedule import OneCycleLR
from tinyconv.training import Callback, Trainer


@dataclass(frozen=True)
class Recipe:
    """One main job. ``datasets`` gives (training, validation or None, test); ``thresholds`` adds the intensity
    baseline.
    """

    classes: tuple[str, ...]
    datasets: Callable[[], tuple[Any, Any, Any]]
    normalise: Callable[[NDArray[Any]], NDArray[np.float32]]
    network: dict[str, Any]
    epochs: int
    batch_size: int
    learning_rate: float
    thresholds: bool = False


def _nuclei_datasets() -> tuple[Any, Any, Any]:
    training, test = nuclei.nuclei_datasets()
    return training, None, test


RECIPES: dict[tuple[str, str], Recipe] = {
    ("unet", "brain"): Recipe(
        classes=brain.CLASSES,
        datasets=brain.brain_datasets,
        normalise=brain.normalise,
        network={"num_classes": 3, "base": 8, "levels": 4},
        epochs=20,
        batch_size=4,
        learning_rate=1e-2,
        thresholds=True,
    ),
    ("unet", "nuclei"): Recipe(
        classes=nuclei.CLASSES,
        datasets=_nuclei_datasets,
        normalise=nuclei.normalise,
        network={"num_classes": 2, "base": 8, "levels": 4},
        epochs=6,
        batch_size=4,
        learning_rate=1e-2,
    ),
}


def recipe(model: str, data: str) -> Recipe:
    """The recipe of a model and a data set. ValueError: there is none; it lists those that there are."""
    if (model, data) not in RECIPES:
        known = ", ".join(f"{m} --data {d}" for m, d in RECIPES)
        raise ValueError(f"train: no recipe for {model} --data {data}. There are: {known}.")
    return RECIPES[model, data]


def segmentation_loss(scores: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy plus soft Dice: the first gives early gradients everywhere, the second weighs small classes as
    large ones.

    Source: Isensee et al., "nnU-Net", Nature Methods 18 (2021) 203, methods.
    """
    return F.cross_entropy(scores, labels) + F.dice_loss(F.softmax(scores, 1), labels, batch=True)


def segmentation_summary(matrix: NDArray[Any]) -> dict[str, float]:
    """{"dice": mean Dice of all classes but the background}."""
    return {"dice": float(np.nanmean(dice_from_confusion(matrix)[1:]))}


def make_trainer(
    model: str,
    data: str,
    folder: Path,
    epochs: int | None = None,
    seed: int = 0,
    workers: int = 1,
    callbacks: tuple[Callback, ...] = (),
) -> tuple[Trainer, UNet, Any]:
    """(trainer, its network, test set) of a recipe, with its checkpoint in ``folder``.

    The same seed gives the same bits.
    """
    plan = recipe(model, data)
    training, validation, test = plan.datasets()
    manual_seed(seed)
    network = UNet(**plan.network)
    loader = DataLoader(training, plan.batch_size, shuffle=True, num_workers=workers, drop_last=True, seed=seed)
    optimizer = Adam(network.parameters(), lr=plan.learning_rate)
    epochs = plan.epochs if epochs is None else epochs
    trainer = Trainer(
        network,
        optimizer,
        segmentation_loss,
        loader,
        validation=None if validation is None else DataLoader(validation, plan.batch_size),
        scheduler=OneCycleLR(optimizer, plan.learning_rate, total_steps=epochs * len(loader)),
        schedule_batches=True,
        summary=segmentation_summary,
        callbacks=callbacks,
        checkpoint=folder / "checkpoint.safetensors",
        config={"model": model, "data": data, "network": plan.network, "epochs": epochs, "seed": seed},
    )
    return trainer, network, test


def predict(network: UNet, images: NDArray[np.float32]) -> NDArray[np.int64]:
    """Class maps (N, H, W) of images (N, C, H, W) of any size: mirrored up to what the U-Net takes, and cropped
    back.
    """
    height, width = images.shape[2:]
    pad = ((0, 0), (0, 0), (0, -height % network.step), (0, -width % network.step))
    padded = np.pad(images, pad, mode="symmetric")
    network.eval()
    with no_grad():
        maps = [network(Tensor(image[None])).data.argmax(1)[0] for image in padded]
    return np.stack(maps)[:, :height, :width]


def evaluate(plan: Recipe, network: UNet, test: Any) -> tuple[dict[str, Any], list[tuple[Any, Any, Any]]]:
    """(metrics, [(image, truth, prediction), ...]) on the test set; Dice and IoU pool all pixels of the set."""
    items = [test[i] for i in range(len(test))]
    images, truth = np.stack([image for image, _ in items]), np.stack([label for _, label in items])
    predicted = predict(network, images)
    metrics = {"images": len(items), "network": _scores(plan, predicted, truth)}
    if plan.thresholds:
        low, high = brain.best_thresholds(images[:, 0], truth)
        metrics["thresholds"] = {
            "low": low,
            "high": high,
            **_scores(plan, np.digitize(images[:, 0], (low, high)), truth),
        }
    return metrics, list(zip(images[:, 0], truth, predicted))


def _scores(plan: Recipe, predicted: NDArray[Any], truth: NDArray[Any]) -> dict[str, Any]:
    matrix = confusion_matrix(predicted, truth, len(plan.classes))
    dice, iou = dice_from_confusion(matrix), iou_from_confusion(matrix)
    return {
        "mean_dice": float(np.nanmean(dice[1:])),
        "mean_iou": float(np.nanmean(iou[1:])),
        "dice": dict(zip(plan.classes, dice.tolist())),
        "iou": dict(zip(plan.classes, iou.tolist())),
    }
