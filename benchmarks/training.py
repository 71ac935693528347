"""Whole trainings beside torch: three recipes of `tinyconv train`, from the same weights on the same batches.

Epochs of the two sides take turns, so that a busy minute falls on both. What is timed is an epoch of training: loading,
forward, loss, backward, step; tinyconv's also keeps the scores of its progress bar. Both networks are then tried on the
held-out images by the same code.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benchmarks import networks
from tinyconv import Tensor, recipes
from tinyconv.data import DataLoader
from tinyconv.optim import SGD
from tinyconv.recipes.jobs import Fitted
from tinyconv.training import Trainer

#: torch's twins of the networks of some recipes.
TWINS: dict[tuple[str, str], Callable[[], torch.nn.Module]] = {
    ("unet", "brain"): lambda: networks.unet(torch, 2, 3, base=8),
    ("cifar_resnet20", "pneumoniamnist"): lambda: networks.cifar_resnet20(torch, 1, 2),
    ("unet", "nuclei"): lambda: networks.unet(torch, 2, 3, base=16),
    ("unet3d", "hippocampus"): lambda: networks.unet3d(torch, 1, 3, base=4),
}
#: Those that are trained whole: the figures that a course asks for.
TRAINED = [("cifar_resnet20", "pneumoniamnist"), ("unet", "nuclei"), ("unet3d", "hippocampus")]
SEED = 0


def copy_weights(ours: Any, theirs: Any) -> None:
    """Give torch's network the weights of ours."""
    theirs.load_state_dict({name: torch.tensor(value.numpy()) for name, value in ours.state_dict().items()})


def torch_segmentation_loss(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """As tinyconv.recipes.segmentation_loss."""
    one_hot = torch.nn.functional.one_hot(labels, scores.shape[1]).movedim(-1, 1).to(scores.dtype)
    p = scores.softmax(1)
    axes = (0, *range(2, scores.ndim))
    dice = (2 * (p * one_hot).sum(axes) + 1e-5) / (p.sum(axes) + one_hot.sum(axes) + 1e-5)
    return torch.nn.functional.cross_entropy(scores, labels) + 1 - dice.mean()


def torch_loss(plan: recipes.Recipe) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """torch's twin of the recipe's loss."""
    return torch_segmentation_loss if plan.task.dense else torch.nn.functional.cross_entropy


def torch_optimiser(ours: Any, network: Any, theirs: torch.nn.Module) -> torch.optim.Optimizer:
    """torch's of the same kind with the same groups: the order of a group's parameters is found by their names."""
    names = {id(p): name for name, p in network.named_parameters()}
    parameters = dict(theirs.named_parameters())
    groups = [
        {"params": [parameters[names[id(p)]] for p in group["params"]], "weight_decay": group["weight_decay"]}
        for group in ours.param_groups
    ]
    rate = ours.param_groups[0]["lr"]
    if isinstance(ours, SGD):
        return torch.optim.SGD(groups, lr=rate, momentum=0.9, nesterov=True)
    return torch.optim.Adam(groups, lr=rate)


class TorchTraining:
    """The recipe in torch, an epoch at a time."""

    def __init__(self, plan: recipes.Recipe, trainer: Trainer, twin: torch.nn.Module, epochs: int) -> None:
        task = plan.task
        self.network, self.loss = twin, torch_loss(plan)
        copy_weights(trainer.model, twin)
        self.optimiser = torch_optimiser(plan.optimizer(trainer.model), trainer.model, twin)
        training = Fitted(plan, task.datasets()[0])
        self.loader = DataLoader(training, task.batch_size, shuffle=True, num_workers=1, drop_last=True, seed=SEED)
        rate = self.optimiser.param_groups[0]["lr"]
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(self.optimiser, rate, total_steps=epochs * len(self.loader))

    def epoch(self) -> None:
        """Every batch once."""
        self.network.train()
        for inputs, targets in self.loader:
            loss = self.loss(self.network(torch.from_numpy(inputs)), torch.from_numpy(targets))
            self.optimiser.zero_grad()
            loss.backward()
            self.optimiser.step()
            self.schedule.step()


def as_network(theirs: torch.nn.Module) -> Any:
    """torch's network as recipes.predict() calls ours."""

    class Wrapped:
        def eval(self) -> None:
            theirs.eval()

        def parameters(self) -> tuple[()]:
            return ()  # none of ours

        def __call__(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                return Tensor(theirs(torch.from_numpy(x.data)).numpy())

    return Wrapped()


def train(model: str, data: str, epochs: int | None = None) -> dict[str, Any]:
    """Both sides of one recipe: seconds of every epoch and the figures on the held-out images."""
    plan = recipes.recipe(model, data)
    epochs = plan.task.epochs if epochs is None else epochs
    with tempfile.TemporaryDirectory() as folder:
        trainer, test = recipes.make_trainer(plan, Path(folder), epochs, SEED)
        trainer.checkpoint = trainer.validation = None
        theirs = TorchTraining(plan, trainer, TWINS[model, data](), epochs)
        _warm_up(plan, trainer)
        seconds: dict[str, list[float]] = {"tinyconv": [], "torch": []}
        for number in tqdm(range(epochs), desc=f"{model}, {data}", unit="epoch"):
            sides = {"tinyconv": partial(trainer.fit, number + 1), "torch": theirs.epoch}
            for name in sorted(sides, reverse=number % 2 == 1):
                started = time.perf_counter()
                sides[name]()
                seconds[name].append(time.perf_counter() - started)
    found = {
        name: recipes.evaluate(plan, network, test)[0]["network"]
        for name, network in (("tinyconv", trainer.model), ("torch", as_network(theirs.network)))
    }
    return {"model": model, "data": data, "seed": SEED, "epochs": epochs, "seconds": seconds, "held_out": found}


def _warm_up(plan: recipes.Recipe, trainer: Trainer) -> None:
    """Compile what an epoch needs: one step of a network that is thrown away."""
    spare = plan.build()
    loader = DataLoader(trainer.loader.dataset, plan.task.batch_size)
    inputs, targets = next(iter(loader))
    plan.task.loss(spare(Tensor(inputs)), Tensor(targets)).backward()
    plan.optimizer(spare).step()


def run(quick: bool) -> list[dict[str, Any]]:
    """All three; quick: two epochs of each."""
    return [train(*job, epochs=2 if quick else None) for job in TRAINED]
