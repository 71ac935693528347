"""Whole training steps beside torch: forward, loss, backward, step of the optimiser."""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import partial
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

import tinyconv
from benchmarks import networks
from benchmarks.timing import Side, interleaved
from tinyconv.models import UNet
from tinyconv.recipes import segmentation_loss

#: Batches of the two main jobs of `tinyconv train unet`, and their number of classes.
DEMOS = {"demo, brain": ((4, 1, 192, 160), 3), "demo, nuclei": ((4, 1, 256, 256), 2)}

#: How far the first and the second loss may be apart, relative to torch's. The step between them amplifies rounding:
#: torch's own second loss of MobileNet is 1e-3 off in float32. In float64 the tests ask for 1e-9.
APART = (1e-4, 1e-2)

Step = Callable[[], float]


def copy_weights(ours: Any, theirs: Any) -> None:
    """Give torch's network the weights of ours."""
    theirs.load_state_dict({name: torch.tensor(value.numpy()) for name, value in ours.state_dict().items()})


def job_steps(job: networks.Job, dtype: str = "float32") -> dict[str, Step]:
    """A training step of each library, from the same weights on the same batch."""
    tinyconv.manual_seed(0)
    ours, theirs = job.build(tinyconv), job.build(torch)
    copy_weights(ours, theirs)
    return {"tinyconv": job.training(tinyconv, ours, dtype), "torch": job.training(torch, theirs, dtype)}


def torch_segmentation_loss(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """As tinyconv.recipes.segmentation_loss."""
    one_hot = torch.nn.functional.one_hot(labels, scores.shape[1]).movedim(-1, 1).to(scores.dtype)
    p = scores.softmax(1)
    axes = (0, 2, 3)
    dice = (2 * (p * one_hot).sum(axes) + 1e-5) / (p.sum(axes) + one_hot.sum(axes) + 1e-5)
    return torch.nn.functional.cross_entropy(scores, labels) + 1 - dice.mean()


def demo_steps(shape: tuple[int, ...], classes: int) -> dict[str, Step]:
    """The same for the network, loss and optimiser of `tinyconv train unet`."""
    rng = np.random.default_rng(0)
    images, labels = rng.standard_normal(shape, np.float32), rng.integers(0, classes, (shape[0], *shape[2:]))
    tinyconv.manual_seed(0)
    ours, theirs = UNet(1, classes, base=8, levels=4), networks.unet(torch, 2, classes, base=8, levels=4)
    copy_weights(ours, theirs)

    def step_of(lib: Any, network: Any, loss_of: Any) -> Step:
        adam = lib.optim.Adam(network.parameters(), lr=1e-3)

        def step() -> float:
            loss = loss_of(network(lib.from_numpy(images)), lib.from_numpy(labels))
            adam.zero_grad()
            loss.backward()
            adam.step()
            return loss.item()

        return step

    return {
        "tinyconv": step_of(tinyconv, ours, segmentation_loss),
        "torch": step_of(torch, theirs, torch_segmentation_loss),
    }


def compare_losses(steps: dict[str, Step]) -> dict[str, list[float]]:
    """The losses of two steps of each; AssertionError where they are apart: the two sides do not do the same."""
    losses = {name: [step(), step()] for name, step in steps.items()}
    for ours, theirs, apart in zip(losses["tinyconv"], losses["torch"], APART):
        if not abs(ours - theirs) <= apart * abs(theirs):
            raise AssertionError(f"the losses of the two sides differ: {losses}.")
    return losses


def as_side(step: Step) -> Side:
    """A step as interleaved() times it."""

    def run() -> Generator[str, None, None]:
        yield "start"
        step()
        yield "step"

    return run


def run(quick: bool) -> list[dict[str, Any]]:
    """Every network and both demos, with seconds a step."""
    todo: dict[str, Callable[[], dict[str, Step]]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for name, job in networks.JOBS.items():
        todo[name], shapes[name] = partial(job_steps, job), job.shape
    for name, (shape, classes) in DEMOS.items():
        todo[name], shapes[name] = partial(demo_steps, shape, classes), shape
    rows = []
    for name, make in tqdm(todo.items(), desc="steps", unit="network"):
        steps = make()
        losses = compare_losses(steps)
        sides = {library: as_side(step) for library, step in steps.items()}
        timed = interleaved(sides, 1.0 if quick else 8.0, least=3 if quick else 5)
        seconds = {library: stages["step"] for library, stages in timed.items()}
        rows.append({"network": name, "shape": shapes[name], "losses": losses, "seconds": seconds})
    return rows
