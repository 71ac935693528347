"""Which learning rate? Raise it step by step from far too small to far too large, and look at the loss."""

from __future__ import annotations

import copy
import math
from collections.abc import Generator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyconv.autograd import Tensor
from tinyconv.training.trainer import Batch, Trainer

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class RateTest:
    """``rates`` that were tried and the smoothed training ``losses`` before the step at each, of equal length."""

    rates: list[float]
    losses: list[float]

    @property
    def suggestion(self) -> float:
        """The rate where the loss falls fastest against log(rate): a first value, to be tried and not believed.

        Only up to the smallest loss: one that has blown up behind it may fall fast again. The first losses are averages
        of few batches and may mislead as well, so look at the curve.
        """
        slopes = np.gradient(np.array(self.losses), np.log(self.rates))
        return self.rates[int(np.argmin(slopes[: int(np.argmin(self.losses)) + 1]))]

    def plot(self) -> Figure:
        """Loss against the rate, with the suggestion."""
        try:
            from matplotlib.figure import Figure
        except ImportError:
            raise ImportError("RateTest: figures need matplotlib, which is missing: pip install matplotlib") from None
        figure = Figure(figsize=(5, 3), layout="constrained")
        axis = figure.subplots()
        axis.plot(self.rates, self.losses, color="#3070c0")
        axis.axvline(self.suggestion, color="#c06010", linestyle="--", label=f"falls fastest at {self.suggestion:.2g}")
        axis.set(xscale="log", xlabel="learning rate", ylabel="smoothed loss")
        axis.legend(frameon=False)
        return figure


def find_learning_rate(
    trainer: Trainer, lowest: float = 1e-6, highest: float = 1.0, steps: int = 100, smoothing: float = 0.9
) -> RateTest:
    """The range test: step i of ``steps`` has the rate lowest (highest / lowest)^(i / (steps - 1)), in all groups.

    Loss after i steps, smoothed: s <- smoothing s + (1 - smoothing) loss, divided by 1 - smoothing^i. It ends early
    where the loss is not finite or four times the smallest so far. No callback is told and no schedule stepped;
    afterwards the trainer is to the bit as it was. Source: Smith, "Cyclical learning rates", WACV 2017, section 3.3.
    """
    if not 0 < lowest < highest or steps < 3 or not 0 <= smoothing < 1:
        raise ValueError(
            f"find_learning_rate: 0 < lowest < highest, steps of at least 3 and smoothing in [0, 1) are needed, but "
            f"lowest={lowest}, highest={highest}, steps={steps}, smoothing={smoothing}."
        )
    before = _copied(trainer.state_dict())
    rates: list[float] = []
    losses: list[float] = []
    batches = _endless(trainer.loader)
    average = 0.0
    trainer.model.train()
    try:
        while len(rates) < steps:
            rate = lowest * (highest / lowest) ** (len(rates) / (steps - 1))
            for group in trainer.optimizer.param_groups:
                group["lr"] = rate
            results = trainer.gradient(list(islice(batches, trainer.accumulate)))
            trainer.scaler.step(trainer.optimizer)
            trainer.scaler.update()
            loss = sum(value * len(t) for value, _, t in results) / sum(len(t) for _, _, t in results)
            average = smoothing * average + (1 - smoothing) * loss
            smoothed = average / (1 - smoothing ** (len(rates) + 1))
            if not math.isfinite(loss) or (losses and smoothed > 4 * min(losses)):
                break
            rates.append(rate)
            losses.append(smoothed)
    finally:
        batches.close()
        trainer.load_state_dict(before)
        trainer.optimizer.zero_grad()
    if len(rates) < 2:
        raise ValueError(f"find_learning_rate: the loss is not finite from the start, at {lowest}. Lower lowest.")
    return RateTest(rates, losses)


def _endless(loader: Any) -> Generator[Batch, None, None]:
    """Epoch after epoch."""
    while True:
        yield from loader


def _copied(tree: Any) -> Any:
    """A state dict with memory of its own; its tensors are the network's."""
    if isinstance(tree, dict):
        return {key: _copied(value) for key, value in tree.items()}
    return Tensor(tree.data.copy()) if isinstance(tree, Tensor) else copy.deepcopy(tree)
