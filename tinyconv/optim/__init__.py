"""Optimisers with torch's names, arguments and arithmetic, and learning rate schedules."""

from tinyconv.optim import schedule, swa_utils
from tinyconv.optim.adam import Adam, AdamW
from tinyconv.optim.groups import decay_groups
from tinyconv.optim.optimizer import Optimizer
from tinyconv.optim.rmsprop import RMSprop
from tinyconv.optim.sgd import SGD

#: torch's name of the module of schedules.
lr_scheduler = schedule

__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "RMSprop", "decay_groups", "lr_scheduler", "schedule", "swa_utils"]
