"""What `tinyconv train --model NAME --data NAME` does: the data sets, how a network is fitted to each, the training."""

from tinyconv.recipes.jobs import evaluate, make_trainer, predict
from tinyconv.recipes.networks import Recipe, networks_for, recipe
from tinyconv.recipes.tasks import TASKS, Task, classification_loss, segmentation_loss

__all__ = [
    "TASKS",
    "Recipe",
    "Task",
    "classification_loss",
    "evaluate",
    "make_trainer",
    "networks_for",
    "predict",
    "recipe",
    "segmentation_loss",
]
