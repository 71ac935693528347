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
from tinyconv.autograd import Tensor, no_grad
from tinyconv.metrics import confusion_matrix
from tinyconv.nn import Module
from tinyconv.nn.utils import clip_grad_norm_
from tinyconv.ops.random import get_rng_state, set_rng_state
from tinyconv.optim import Optimizer
from tinyconv.optim.schedule import ReduceLROnPlateau


class Callback:
    """What is told of a training's course. Override what you need; each method is given the Trainer."""

    def on_epoch_start(self, trainer: Trainer) -> None:
        """Before the first batch of an epoch, also of one that is resumed in its middle."""

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
        predicted = scores.detach().to("cpu").data.argmax(1)
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

    loader, validation: yield (inputs, targets) as NumPy arrays, targets class numbers; ``loader`` has ``state_dict``
    as :class:`tinyconv.data.DataLoader`. scheduler: a learning-rate schedule, stepped once an epoch, or after every
    batch with ``schedule_batches``. summary: confusion matrix -> {name: number}, for the progress and the history.
    clip_norm: largest norm of the whole gradient. checkpoint: a file written after every epoch and on Ctrl-C;
    ``config`` is kept in it.
    """

    def __init__(
        self,
        model: Module,
        optimizer: Optimizer,
        loss: Callable[[Tensor, Tensor], Tensor],
        loader: Any,
        *,
        validation: Any = None,
        scheduler: Any = None,
        schedule_batches: bool = False,
        summary: Callable[[np.ndarray[Any, Any]], dict[str, float]] = accuracy_summary,
        clip_norm: float | None = None,
        callbacks: Sequence[Callback] = (),
        checkpoint: str | os.PathLike[str] | None = None,
        config: dict[str, Any] | None = None,
        device: str = "cpu",
    ) -> None:
        self.model, self.optimizer, self.loss, self.loader = model.to(device), optimizer, loss, loader
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
        On Ctrl-C the running batch is finished, the checkpoint written, and KeyboardInterrupt raised.
        """
        with self._finishing_batches():
            while self.epoch < epochs and not self.stop:
                started = time.perf_counter()
                for callback in self.callbacks:
                    callback.on_epoch_start(self)
                self.model.train()
                for inputs, targets in self.loader:
                    self._step(inputs, targets)
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

    def _step(self, inputs: np.ndarray[Any, Any], targets: np.ndarray[Any, Any]) -> None:
        """One gradient step on one batch."""
        scores = self.model(Tensor(inputs).to(self.device))
        loss = self.loss(scores, Tensor(targets).to(self.device))
        self.optimizer.zero_grad()
        loss.backward()
        if self.clip_norm is not None:
            clip_grad_norm_(self.model.parameters(), self.clip_norm)
        self.optimizer.step()
        if self.scheduler is not None and self.schedule_batches:
            self.scheduler.step()
        self.totals.add(loss.item(), scores, targets)
        for callback in self.callbacks:
            callback.on_batch_end(self)

    def evaluate(self, prefix: str = "") -> dict[str, float]:
        """Loss and metrics on the validation set, in evaluation mode and without gradients; {} without one."""
        totals = Totals(self.summary)
        self.model.eval()
        with no_grad():
            for inputs, targets in self.validation or ():
                scores = self.model(Tensor(inputs).to(self.device))
                totals.add(self.loss(scores, Tensor(targets).to(self.device)).item(), scores, targets)
        return totals.averages(prefix)

    # ----------------------------------------------------------------------------------------------
    # Checkpoints

    def state_dict(self) -> dict[str, Any]:
        """All that the rest of the training depends on, as a tree that :func:`tinyconv.io.save` takes."""
        return {
            "config": self.config,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
            "loader": self.loader.state_dict(),
            "random": get_rng_state(),
            "history": self.history,
            "totals": self.totals.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken: the same bits as without the break."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        self.loader.load_state_dict(state["loader"])
        set_rng_state(state["random"])
        self.history = state["history"]
        self.totals.load_state_dict(state["totals"])

    def save(self) -> None:
        """Write the checkpoint, if the trainer has a file for it."""
        if self.checkpoint is not None:
            io.save(self.state_dict(), self.checkpoint)

    @contextmanager
    def _finishing_batches(self) -> Iterator[None]:
        """Ctrl-C inside lets the running batch finish; the second one interrupts at once."""
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


class EarlyStopping(Callback):
    """Stops when ``monitor`` has not improved for ``patience`` epochs; ``mode`` 'min' or 'max'."""

    def __init__(self, monitor: str = "val_loss", patience: int = 5, mode: str = "min") -> None:
        if mode not in ("min", "max"):
            raise ValueError(f"EarlyStopping: mode must be 'min' or 'max', but is {mode!r}.")
        self.monitor, self.patience, self.mode = monitor, patience, mode

    def on_epoch_end(self, trainer: Trainer) -> None:
        """Compare with the best epoch so far; the history is all the memory that it needs."""
        if self.monitor not in trainer.history[-1]:
            raise ValueError(
                f"EarlyStopping: no {self.monitor!r} in the history; it has {sorted(trainer.history[-1])}."
            )
        values = np.array([row[self.monitor] for row in trainer.history])
        best = int(np.argmin(values) if self.mode == "min" else np.argmax(values))
        trainer.stop = len(values) - 1 - best >= self.patience


class ProgressBar(Callback):
    """A line an epoch: loss and metrics so far, images per second, time left."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs
        self.bar: Any = None

    def on_epoch_start(self, trainer: Trainer) -> None:
        """Open the epoch's line."""
        try:
            from tqdm import tqdm
        except ImportError:
            raise ImportError(
                "ProgressBar: the progress is shown by tqdm, which is missing: pip install tqdm"
            ) from None
        self.done = trainer.totals.samples
        self.bar = tqdm(
            total=len(trainer.loader.dataset),
            initial=self.done,
            desc=f"epoch {trainer.epoch + 1:3d}/{self.epochs}",
            unit="img",
            dynamic_ncols=True,
        )

    def on_batch_end(self, trainer: Trainer) -> None:
        """Move on by one batch."""
        self.bar.set_postfix({key: f"{value:.3f}" for key, value in trainer.running().items()}, refresh=False)
        self.bar.update(trainer.totals.samples - self.done)
        self.done = trainer.totals.samples

    def on_epoch_end(self, trainer: Trainer) -> None:
        """Put the validation's figures at the end of the line, and close it."""
        row = trainer.history[-1]
        shown = {key: f"{value:.3f}" for key, value in row.items() if key not in ("epoch", "lr", "seconds")}
        self.bar.set_postfix(shown)
        self.bar.close()
