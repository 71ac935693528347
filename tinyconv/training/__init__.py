"""Training: the loop and its checkpoints, what watches it, and the search for a learning rate."""

from tinyconv.training.callbacks import CSVLog, EarlyStopping, LivePlot, ProgressBar, TensorBoardLog
from tinyconv.training.finder import RateTest, find_learning_rate
from tinyconv.training.monitor import GradientMonitor
from tinyconv.training.trainer import Callback, Totals, Trainer, accuracy_summary, one_blas_thread

__all__ = [
    "CSVLog",
    "Callback",
    "EarlyStopping",
    "GradientMonitor",
    "LivePlot",
    "ProgressBar",
    "RateTest",
    "TensorBoardLog",
    "Totals",
    "Trainer",
    "accuracy_summary",
    "find_learning_rate",
    "one_blas_thread",
]
