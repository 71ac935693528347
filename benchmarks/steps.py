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
from benchmarks.training import TWINS, copy_weights, torch_loss, torch_optimiser
from tinyconv import recipes

#: How far the first and the second loss may be apart, relative to torch's. The step between them amplifies rounding:
#: torch's own second loss of MobileNet is 1e-3 off in float32. In float64 the tests ask for 1e-9.
APART = (1e-4, 1e-2)

Step = Callable[[], float]


def job_steps(job: networks.Job, dtype: str = "float32") -> dict[str, Step]:
    """A training step of each library, from the same weights on the same batch."""
    tinyconv.manual_seed(0)
    ours, theirs = job.build(tinyconv), job.build(torch)
    copy_weights(ours, theirs)
    return {"tinyconv": job.training(tinyconv, ours, dtype), "torch": job.training(torch, theirs, dtype)}


def recipe_steps(model: str, data: str, shape: tuple[int, ...] | None = None) -> dict[str, Step]:
    """The same for a recipe of `tinyconv train`, on a batch of noise; ``shape`` of its images, as in the data set."""
    plan = recipes.recipe(model, data)
    shape = shape or (plan.task.batch_size, 1, *plan.task.size)
    rng = np.random.default_rng(0)
    images = rng.standard_normal(shape, np.float32)
    labels = rng.integers(0, len(plan.task.classes), (shape[0], *shape[2:]) if plan.task.dense else shape[0])
    tinyconv.manual_seed(0)
    ours, theirs = plan.build(), TWINS[model, data]()
    copy_weights(ours, theirs)
    optimiser = plan.optimizer(ours)
    optimisers = {tinyconv: optimiser, torch: torch_optimiser(optimiser, ours, theirs)}

    def step_of(lib: Any, network: Any, loss_of: Any) -> Step:
        def step() -> float:
            loss = loss_of(network(lib.from_numpy(images)), lib.from_numpy(labels))
            optimisers[lib].zero_grad()
            loss.backward()
            optimisers[lib].step()
            return loss.item()

        return step

    return {"tinyconv": step_of(tinyconv, ours, plan.task.loss), "torch": step_of(torch, theirs, torch_loss(plan))}


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
    """Every network and every recipe that has a twin, with seconds a step."""
    todo: dict[str, Callable[[], dict[str, Step]]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for name, job in networks.JOBS.items():
        todo[name], shapes[name] = partial(job_steps, job), job.shape
    for model, data in TWINS:
        task = recipes.TASKS[data]
        name = f"{model}, {data}"
        todo[name], shapes[name] = partial(recipe_steps, model, data), (task.batch_size, 1, *task.size)
    rows = []
    for name, make in tqdm(todo.items(), desc="steps", unit="network"):
        steps = make()
        losses = compare_losses(steps)
        sides = {library: as_side(step) for library, step in steps.items()}
        timed = interleaved(sides, 1.0 if quick else 8.0, least=3 if quick else 5)
        seconds = {library: stages["step"] for library, stages in timed.items()}
        rows.append({"network": name, "shape": shapes[name], "losses": losses, "seconds": seconds})
    return rows
