"""The training loop: batches in, gradient steps, metrics, checkpoints that resume to the same bits.

    trainer = Trainer(model, optimizer, loss, loader, validation=held_out, checkpoint="runs/checkpoint.safetensors")
    trainer.fit(epochs=20)

One epoch is: for each batch, forward, loss, backward, step; then the validation. Everything that the next batch
depends on is in ``state_dict()``, so a training that was stopped anywhere goes on as if it had not been.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tinyconv import io
from tinyconv.amp import GradScaler, autocast
from tinyconv.autograd import Tensor, no_grad
from tinyconv.metrics import confusion_matrix
from tinyconv.nn import Module
from tinyconv.nn.utils import clip_grad_norm_
from tinyconv.ops.random import get_rng_state, set_rng_state
from tinyconv.ops.reduce import argmax
from tinyconv.optim import Optimizer
from tinyconv.optim.schedule import ReduceLROnPlateau
from tinyconv.optim.swa_utils import AveragedModel

#: Inputs and class numbers, as a loader yields them.
Batch = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]


class Callback:
    """What is told of a training's course. Override what you need; each method is given the Trainer."""

    def on_epoch_start(self, trainer: Trainer) -> None:
        """Before the first batch of an epoch, also of one that is resumed in its middle."""

    def on_gradients(self, trainer: Trainer) -> None:
        """Before each step, and before clipping: ``p.grad`` of the parameters is that of the batch."""

    def on_batch_end(self, trainer: Trainer) -> None:
        """After each step; ``trainer.running()`` has the epoch's averages so far."""

    def on_epoch_end(self, trainer: Trainer) -> None:
        """After the validation; ``trainer.history[-1]`` is the epoch's row.

        ``trainer.stop = True`` ends the training.
        """


class Totals:
    """Sums over the batches of an epoch: loss, samples, and the confusion matrix of the predicted classes."""

    def __init__(self, summary: Callable[[np.ndarray[Any, Any]], dict[str, float]]) -> None:
        self.summary = summary
        self.loss, self.samples = 0.0, 0
        self.matrix: np.ndarray[Any, Any] | None = None

    def add(self, loss: float, scores: Tensor, targets: np.ndarray[Any, Any]) -> None:
        """Add one batch: its mean loss, class scores (N, C, ...) and class numbers (N, ...)."""
        predicted = argmax(scores.detach(), 1).to("cpu").data
        matrix = confusion_matrix(predicted, targets, scores.shape[1])
        self.matrix = matrix if self.matrix is None else self.matrix + matrix
        self.loss += loss * len(targets)
        self.samples += len(targets)

    def averages(self, prefix: str = "") -> dict[str, float]:
        """{"loss": mean, ...} and what the summary makes of the confusion matrix."""
        if self.matrix is None:
            return {}
        row = {"loss": self.loss / self.samples, **self.summary(self.matrix)}
        return {prefix + key: float(value) for key, value in row.items()}

    def state_dict(self) -> dict[str, Any]:
        """The sums, for a checkpoint in the middle of an epoch."""
        return {"loss": self.loss, "samples": self.samples, "matrix": self.matrix}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put the sums back."""
        self.loss, self.samples, self.matrix = state["loss"], state["samples"], state["matrix"]


def accuracy_summary(matrix: np.ndarray[Any, Any]) -> dict[str, float]:
    """{"accuracy": the share of elements on the diagonal of the confusion matrix}."""
    return {"accuracy": np.trace(matrix) / matrix.sum()}


class Trainer:
    """Trains ``model`` to a small ``loss(scores, targets)``.

    A model with auxiliary heads gives a tuple in training: the loss gets all of it, the metrics its first member.

    loader, validation: yield (inputs, targets) as NumPy arrays, targets class numbers; ``loader`` has ``state_dict``
    and a length as :class:`tinyconv.data.DataLoader`. scheduler: a learning-rate schedule, stepped once an epoch, or
    after every step with ``schedule_batches``. summary: confusion matrix -> {name: number}, for the progress and the
    history. clip_norm: largest norm of the whole gradient. accumulate: batches of the loader in one step, whose
    gradient is that of their union if the loss is a mean over the samples (batch norm still sees each batch by
    itself). scaler: with one, precision is mixed: forward and loss run under :class:`~tinyconv.amp.autocast`, and the
    gradients that a callback sees are unscaled. average: of the weights, brought up to date after each step; the
    validation is then the average's. checkpoint: a file written after every epoch and on Ctrl-C; ``config`` is kept in
    it.
    """

    def __init__(
        self,
        model: Module,
        optimizer: Optimizer,
        loss: Callable[[Any, Tensor], Tensor],
        loader: Any,
        *,
        validation: Any = None,
        scheduler: Any = None,
        schedule_batches: bool = False,
        summary: Callable[[np.ndarray[Any, Any]], dict[str, float]] = accuracy_summary,
        clip_norm: float | None = None,
        accumulate: int = 1,
        scaler: GradScaler | None = None,
        average: AveragedModel | None = None,
        callbacks: Sequence[Callback] = (),
        checkpoint: str | os.PathLike[str] | None = None,
        config: dict[str, Any] | None = None,
        device: str = "cpu",
    ) -> None:
        if accumulate < 1:
            raise ValueError(f"Trainer: accumulate must be at least 1, but is {accumulate}.")
        self.model, self.optimizer, self.loss, self.loader = model.to(device), optimizer, loss, loader
        self.scaler = scaler or GradScaler(enabled=False)
        self.accumulate, self.average = accumulate, None if average is None else average.to(device)
        self.validation, self.scheduler, self.schedule_batches = validation, scheduler, schedule_batches
        self.summary, self.clip_norm, self.callbacks = summary, clip_norm, tuple(callbacks)
        self.checkpoint = None if checkpoint is None else Path(checkpoint)
        self.config, self.device = config or {}, device
        self.history: list[dict[str, float]] = []
        self.totals = Totals(summary)
        self.stop = False
        self._interrupted = False

    @property
    def epoch(self) -> int:
        """Number of epochs that are complete."""
        return len(self.history)

    def running(self) -> dict[str, float]:
        """Averages over the batches of this epoch so far."""
        return self.totals.averages()

    def fit(self, epochs: int) -> list[dict[str, float]]:
        """Train until ``epochs`` epochs are complete, counted from the very beginning, or a callback stops it.

        Returns the history: a row an epoch with loss, metrics, the same of the validation as val_..., lr and seconds.
        On Ctrl-C the running step is finished, the checkpoint written, and KeyboardInterrupt raised.
        """
        with self._finishing_batches():
            while self.epoch < epochs and not self.stop:
                started = time.perf_counter()
                for callback in self.callbacks:
                    callback.on_epoch_start(self)
                self.model.train()
                for batches in self._groups():
                    self._step(batches)
                    if self._interrupted:
                        self.save()
                        raise KeyboardInterrupt
                row = {"epoch": self.epoch + 1, **self.running(), **self.evaluate("val_")}
                row["lr"] = self.optimizer.param_groups[0]["lr"]  # as it is at the end of the epoch
                self.totals = Totals(self.summary)
                if self.scheduler is not None and not self.schedule_batches:
                    plateau = isinstance(self.scheduler, ReduceLROnPlateau)
                    self.scheduler.step(row["val_loss"]) if plateau else self.scheduler.step()
                self.history.append({**row, "seconds": time.perf_counter() - started})
                for callback in self.callbacks:
                    callback.on_epoch_end(self)
                self.save()
        return self.history

    def _groups(self) -> Iterator[list[Batch]]:
        """The batches of each step: ``accumulate``, or those that are left in the epoch.

        After the last batch the loader is not asked again before the step: its position would be the next epoch's.
        """
        group: list[Batch] = []
        for batch in self.loader:
            group.append(batch)
            if len(group) == self.accumulate or self.loader.state_dict()["batch"] == len(self.loader):
                yield group
                group = []

    def gradient(self, batches: Sequence[Batch]) -> list[tuple[float, Tensor, np.ndarray[Any, Any]]]:
        """Put the gradient of the mean loss over all samples of ``batches`` into the parameters.

        Returns (loss, scores, targets) of each batch. A batch weighs as many samples as it has.
        """
        samples = sum(len(targets) for _, targets in batches)
        results = []
        self.optimizer.zero_grad()
        for inputs, targets in batches:
            with self._precision():
                outputs = self.model(Tensor(inputs).to(self.device))
                loss = self.loss(outputs, Tensor(targets).to(self.device))
            self.scaler.scale(loss * (len(targets) / samples)).backward()
            scores = outputs[0] if isinstance(outputs, tuple) else outputs
            results.append((loss.item(), scores.detach(), targets))
        self.scaler.unscale_(self.optimizer)
        return results

    def _precision(self) -> autocast:
        return autocast(self.device, enabled=self.scaler.is_enabled())

    def _step(self, batches: Sequence[Batch]) -> None:
        """One gradient step on ``accumulate`` batches, or on those that are left in the epoch."""
        results = self.gradient(batches)
        for callback in self.callbacks:
            callback.on_gradients(self)
        if self.clip_norm is not None:
            clip_grad_norm_(self.model.parameters(), self.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            self.average.update_parameters(self.model)
        if self.scheduler is not None and self.schedule_batches:
            self.scheduler.step()
        for result in results:
            self.totals.add(*result)
        for callback in self.callbacks:
            callback.on_batch_end(self)

    def evaluate(self, prefix: str = "") -> dict[str, float]:
        """Loss and metrics on the validation set, in evaluation mode and without gradients; {} without one."""
        totals = Totals(self.summary)
        model = (self.model if self.average is None else self.average).eval()
        with no_grad(), self._precision():
            for inputs, targets in self.validation or ():
                scores = model(Tensor(inputs).to(self.device))
                totals.add(self.loss(scores, Tensor(targets).to(self.device)).item(), scores, targets)
        return totals.averages(prefix)

    # ----------------------------------------------------------------------------------------------
    # Checkpoints

    def state_dict(self) -> dict[str, Any]:
        """All that the rest of the training depends on, as a tree that :func:`tinyconv.io.save` takes."""
        return {
            "config": self.config,
            "model": self.model.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
            "loader": self.loader.state_dict(),
            "random": get_rng_state(),
            "history": self.history,
            "totals": self.totals.state_dict(),
            "stop": self.stop,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken: the same bits as without the break."""
        self.model.load_state_dict(state["model"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state.get("scaler", {}))
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        self.loader.load_state_dict(state["loader"])
        set_rng_state(state["random"])
        self.history = state["history"]
        self.totals.load_state_dict(state["totals"])
        self.stop = state["stop"]

    def save(self) -> None:
        """Write the checkpoint, if the trainer has a file for it."""
        if self.checkpoint is not None:
            io.save(self.state_dict(), self.checkpoint)

    @contextmanager
    def _finishing_batches(self) -> Iterator[None]:
        """Ctrl-C inside lets the running step finish; the second one interrupts at once."""
        if threading.current_thread() is not threading.main_thread():  # only the main thread hears signals
            yield
            return

        def interrupt(number: int, frame: Any) -> None:
            if self._interrupted:
                raise KeyboardInterrupt
            self._interrupted = True

        before = signal.signal(signal.SIGINT, interrupt)
        self._interrupted = False
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


def one_blas_thread() -> AbstractContextManager[Any]:
    """Inside, NumPy's matrix products run in one thread.

    Those of the im2col kernels are small: a second thread gains little on an idle machine, and where another program
    holds a core the two wait for each other at every product. One thread also makes the bits independent of the
    machine's cores.
    """
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        raise ImportError(
            "training: BLAS is set up by threadpoolctl, which is missing: pip install threadpoolctl"
        ) from None
    limits: AbstractContextManager[Any] = threadpool_limits(1, user_api="blas")
    return limits
