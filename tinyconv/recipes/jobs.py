"""A training from its recipe, and the use of the network that it leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyconv import functional as F
from tinyconv import nn
from tinyconv.amp import GradScaler
from tinyconv.autograd import Tensor, no_grad
from tinyconv.data import DataLoader, Dataset
from tinyconv.data.dataset import sample
from tinyconv.metrics import dice_from_confusion
from tinyconv.ops.random import manual_seed
from tinyconv.optim.schedule import OneCycleLR
from tinyconv.recipes.networks import Recipe
from tinyconv.training import Callback, Trainer, accuracy_summary


def segmentation_summary(matrix: NDArray[Any]) -> dict[str, float]:
    """{"dice": mean Dice of all classes but the background}."""
    return {"dice": float(np.nanmean(dice_from_confusion(matrix)[1:]))}


def fit_image(plan: Recipe, image: NDArray[np.float32]) -> NDArray[np.float32]:
    """(1, *S) as the network takes it: enlarged by linear interpolation for a class, mirrored for a segmentation."""
    size, _ = plan.sizes(image.shape[1:])
    if plan.task.dense or image.shape[1:] == size:
        return mirror(image, size)
    enlarged: NDArray[np.float32] = F.interpolate(Tensor(image[None]), size, mode="bilinear").data[0]
    return enlarged


def mirror(array: NDArray[Any], size: tuple[int, ...]) -> NDArray[Any]:
    """The last axes grown to ``size``, the array in the middle and its mirror image around it."""
    if array.shape[array.ndim - len(size) :] == size:
        return array
    missing = [want - have for want, have in zip(size, array.shape[-len(size) :])]
    pad = [(0, 0)] * (array.ndim - len(size)) + [(m // 2, m - m // 2) for m in missing]
    return np.pad(array, pad, mode="symmetric")


class Fitted(Dataset):
    """The items of a data set as the network of a recipe takes them."""

    def __init__(self, plan: Recipe, dataset: Any) -> None:
        self.plan = plan
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        return self._fit(*self.dataset[index])

    def sample(self, index: int, generator: np.random.Generator) -> Any:
        return self._fit(*sample(self.dataset, index, generator))

    def _fit(self, image: NDArray[np.float32], label: Any) -> Any:
        _, output = self.plan.sizes(image.shape[1:])
        return fit_image(self.plan, image), mirror(label, output)


def make_trainer(
    plan: Recipe,
    folder: Path,
    epochs: int | None = None,
    seed: int = 0,
    workers: int = 1,
    callbacks: tuple[Callback, ...] = (),
    device: str = "cpu",
    scaler: GradScaler | None = None,
) -> tuple[Trainer, Any]:
    """(trainer, test set) of a recipe, with its checkpoint in ``folder``. The same seed gives the same bits.

    With a ``scaler`` the precision is mixed.
    """
    task = plan.task
    training, validation, test = task.datasets()
    manual_seed(seed)
    network = plan.build()
    loader = DataLoader(
        Fitted(plan, training), task.batch_size, shuffle=True, num_workers=workers, drop_last=True, seed=seed
    )
    optimizer = plan.optimizer(network)
    epochs = task.epochs if epochs is None else epochs
    trainer = Trainer(
        network,
        optimizer,
        task.loss,
        loader,
        validation=None if validation is None else DataLoader(Fitted(plan, validation), task.batch_size),
        scheduler=OneCycleLR(optimizer, optimizer.param_groups[0]["lr"], total_steps=epochs * len(loader)),
        schedule_batches=True,
        summary=segmentation_summary if task.dense else accuracy_summary,
        callbacks=callbacks,
        device=device,
        scaler=scaler,
        checkpoint=folder / "checkpoint.safetensors",
        config={"model": plan.model, "data": plan.data, "network": plan.options, "epochs": epochs, "seed": seed},
    )
    return trainer, test


def predict(plan: Recipe, network: nn.Module, image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scores of the classes for one image (1, *S) of any size: (C,), or for a segmentation (C, *S); on the CPU."""
    network.eval()
    device = next((p.device for p in network.parameters()), "cpu")
    with no_grad():
        scores: NDArray[np.float32] = network(Tensor(fit_image(plan, image)[None]).to(device)).cpu().data[0]
    if not plan.task.dense:
        return scores
    size = image.shape[1:]
    start = [(have - want) // 2 for have, want in zip(scores.shape[1:], size)]  # as mirror() put it
    return scores[(slice(None), *(slice(a, a + want) for a, want in zip(start, size)))]


def evaluate(plan: Recipe, network: nn.Module, test: Any) -> tuple[dict[str, Any], list[tuple[Any, Any, Any]]]:
    """(metrics, [(image, truth, prediction), ...]) on the test set."""
    items = [test[i] for i in range(len(test))]
    scores = np.stack([predict(plan, network, image) for image, _ in items])
    truth = np.stack([label for _, label in items])
    metrics = {"images": len(items), "network": plan.task.score(scores, truth, test)}
    images = [image[0] for image, _ in items]
    return metrics, list(zip(images, truth, scores.argmax(1)))
