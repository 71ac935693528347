"""What can be told of a training: a progress bar, early stopping, logs, a figure that grows."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path
from typing import Any

import numpy as np

from tinyconv.training.trainer import Callback, Trainer


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


class CSVLog(Callback):
    """The history as a table: a row an epoch, a column a number. The whole file is written after each epoch, so that a
    training that is resumed, or started again, leaves no row twice.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def on_epoch_end(self, trainer: Trainer) -> None:
        """Write the file."""
        columns = list(dict.fromkeys(key for row in trainer.history for key in row))
        with open(self.path, "w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, columns)
            table.writeheader()
            table.writerows(trainer.history)


class TensorBoardLog(Callback):
    """The history as scalars, for ``tensorboard --logdir folder``: an event file an epoch; needs tensorboardX."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            raise ImportError(
                "TensorBoardLog: event files need tensorboardX, which is missing: pip install tensorboardX"
            ) from None
        self.folder, self.writer = Path(folder), SummaryWriter

    def on_epoch_end(self, trainer: Trainer) -> None:
        """A scalar a column of the epoch's row, at step ``epoch``; an earlier run's from there on are forgotten.

        A file of its own, since closing is what surely writes: the library's flush() does not wait for its thread.
        """
        epoch = trainer.epoch
        with self.writer(str(self.folder), purge_step=epoch, filename_suffix=f".{epoch:05d}") as writer:
            for name, value in trainer.history[-1].items():
                if name != "epoch":
                    writer.add_scalar(name, value, epoch)


class LivePlot(Callback):
    """In a notebook, the curves of the loss and of each metric below the cell, drawn anew after each epoch.

    Anywhere else, and where IPython or matplotlib is missing, nothing.
    """

    def __init__(self) -> None:
        self.shown: Any = None

    def on_epoch_end(self, trainer: Trainer) -> None:
        """Draw, the first time in a place of its own, then there again."""
        try:
            import IPython
            from IPython.display import Image, display
        except ImportError:
            return
        if type(IPython.get_ipython()).__name__ in ("NoneType", "TerminalInteractiveShell"):  # no place for a picture
            return
        png = _curves(trainer.history)
        if png is None:
            return
        row = trainer.history[-1]
        said = ", ".join(f"{key} {value:.4g}" for key, value in row.items() if key not in ("epoch", "seconds"))
        image = Image(png, format="png", alt=f"Curves of {trainer.epoch} epochs; now {said}.")
        if self.shown is None:
            self.shown = display(image, display_id=True)
        else:
            self.shown.update(image)


def _curves(history: list[dict[str, float]]) -> bytes | None:
    """A PNG with an axis for the loss and for each metric, training and validation; None without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    last = history[-1]
    names = [key for key in last if not key.startswith("val_") and key not in ("epoch", "lr", "seconds")]
    figure = Figure(figsize=(7, 2.6), layout="constrained")
    epochs = [row["epoch"] for row in history]
    for axis, name in zip(np.atleast_1d(figure.subplots(1, len(names))), names):
        for key, style, colour, label in (
            (name, "o-", "#3070c0", "training"),
            (f"val_{name}", "s--", "#c06010", "validation"),
        ):
            if key in last:
                axis.plot(epochs, [row[key] for row in history], style, markersize=3, color=colour, label=label)
        axis.set(title=name, xlabel="epoch")
        axis.legend(frameon=False)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100)
    return file.getvalue()
