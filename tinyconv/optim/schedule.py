"""Learning rate schedules. Each gives the rate as a formula of t, the number of calls of ``step()`` so far.

    scheduler = CosineAnnealingLR(optimizer, T_max=epochs)
    for epoch in range(epochs):
        ...                      # batches, optimizer.step()
        scheduler.step()

lr_0 is the rate of a group when its first schedule was made (kept as its ``initial_lr``).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, SupportsFloat

from tinyconv.optim.optimizer import Optimizer


class _State:
    """Saving and loading: all attributes but the optimiser."""

    optimizer: Optimizer
    _last_lr: list[float]

    def state_dict(self) -> dict[str, Any]:
        """What the schedule remembers: numbers, strings and lists of them."""
        return {key: value for key, value in self.__dict__.items() if key != "optimizer" and not callable(value)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken. The rate itself is in the optimiser's state."""
        self.__dict__.update(state_dict)

    def get_last_lr(self) -> list[float]:
        """The rate of each group, as last set."""
        return list(self._last_lr)


class LRScheduler(_State):
    """A subclass defines ``lr_at(t, lr_0)``. ``last_epoch`` is t, or -1 to start."""

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(
                f"{type(self).__name__}: optimizer must be an Optimizer, but is a {type(optimizer).__name__}."
            )
        self.optimizer = optimizer
        for group in optimizer.param_groups:
            if last_epoch == -1:
                group.setdefault("initial_lr", group["lr"])
            elif "initial_lr" not in group:
                raise ValueError(
                    f"{type(self).__name__}: last_epoch={last_epoch} goes on with a schedule, but the optimiser's "
                    "groups have "
                    f"no initial_lr. Load the optimiser's state first."
                )
        self.base_lrs: list[float] = [group["initial_lr"] for group in optimizer.param_groups]
        self.last_epoch = last_epoch
        self.step()

    def lr_at(self, t: int, lr_0: float) -> float:
        """The rate after t steps of a group that started with ``lr_0``."""
        raise NotImplementedError(f"{type(self).__name__}: lr_at(t, lr_0) is not defined.")

    def step(self) -> None:
        """t <- t + 1, and the rates that belong to it."""
        self.last_epoch += 1
        self._last_lr = [self.lr_at(self.last_epoch, lr_0) for lr_0 in self.base_lrs]
        for group, lr in zip(self.optimizer.param_groups, self._last_lr):
            group["lr"] = lr


class LambdaLR(LRScheduler):
    """lr = lr_0 lr_lambda(t)"""

    def __init__(self, optimizer: Optimizer, lr_lambda: Callable[[int], float], last_epoch: int = -1) -> None:
        self.lr_lambda = lr_lambda
        super().__init__(optimizer, last_epoch)

    def lr_at(self, t: int, lr_0: float) -> float:
        """The formula."""
        return lr_0 * self.lr_lambda(t)


class StepLR(LRScheduler):
    """lr = lr_0 gamma^floor(t / step_size)"""

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1, last_epoch: int = -1) -> None:
        self.step_size, self.gamma = step_size, gamma
        super().__init__(optimizer, last_epoch)

    def lr_at(self, t: int, lr_0: float) -> float:
        """The formula."""
        return lr_0 * self.gamma ** (t // self.step_size)


class MultiStepLR(LRScheduler):
    """lr = lr_0 gamma^(number of milestones <= t)"""

    def __init__(
        self, optimizer: Optimizer, milestones: Iterable[int], gamma: float = 0.1, last_epoch: int = -1
    ) -> None:
        self.milestones, self.gamma = sorted(milestones), gamma
        super().__init__(optimizer, last_epoch)

    def lr_at(self, t: int, lr_0: float) -> float:
        """The formula."""
        return lr_0 * self.gamma ** bisect_right(self.milestones, t)


class ExponentialLR(LRScheduler):
    """lr = lr_0 gamma^t"""

    def __init__(self, optimizer: Optimizer, gamma: float, last_epoch: int = -1) -> None:
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def lr_at(self, t: int, lr_0: float) -> float:
        """The formula."""
        return lr_0 * self.gamma**t


class ConstantLR(LRScheduler):
    """lr = lr_0 factor while t < total_iters, then lr_0"""

    def __init__(self, optimizer: Optimizer, factor: float = 1 / 3, total_iters: int = 5, last_epoch: int = -1) -> None:
        self.factor, self.total_iters = factor, total_iters
        super().__init__(optimizer, last_epoch)

    def lr_at(self, t: int, lr_0: float) -> float:
        """The formula."""
        return lr_0 * (self.factor if t < self.total_iters else 1)


class LinearLR(LRScheduler):
    """lr = lr_0 (start_factor + (end_factor - start_factor) min(1, t / total_iters)): a warm-up."""

    def __init__(
        self,
        optimizer: Optimizer,
        start_factor: float = 1 / 3,
        end_factor: float = 1.0,
        total_iters: int = 5,
        last_epoch: int = -1,
    ) -> None:
        if not 0 < start_factor <= 1 or not 0 <= end_factor <= 1:
            raise ValueError(
                f"LinearLR: start_factor must lie in (0, 1] and end_factor in [0, 1], but "
                f"start_factor={start_factor} and "
                f"end_factor={end_factor}."
            )
        self.start_factor, self.end_factor, self.total_iters = start_factor, end_factor, total_iters
        super().__init__(optimizer, last_epoch)

    def lr_at(self, t: int, lr_0: float) -> float:
        """The formula."""
        share = min(t, self.total_iters) / self.total_iters
        return lr_0 * (self.start_factor + (self.end_factor - self.start_factor) * share)


class PolynomialLR(LRScheduler):
    """lr = lr_0 (1 - t / total_iters)^power, 0 from total_iters on"""

    def __init__(self, optimizer: Optimizer, total_iters: int = 5, power: float = 1.0, last_epoch: int = -1) -> None:
        self.total_iters, self.power = total_iters, power
        super().__init__(optimizer, last_epoch)

    def lr_at(self, t: int, lr_0: float) -> float:
        """The formula."""
        return lr_0 * (1 - min(t, self.total_iters) / self.total_iters) ** self.power


class CosineAnnealingLR(LRScheduler):
    """lr = eta_min + (lr_0 - eta_min) (1 + cos(pi t / T_max)) / 2. Source: Loshchilov and Hutter, ICLR 2017, equation
    5.
    """

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0, last_epoch: int = -1) -> None:
        self.T_max, self.eta_min = T_max, eta_min
        super().__init__(optimizer, last_epoch)

    def lr_at(self, t: int, lr_0: float) -> float:
        """The formula."""
        return self.eta_min + (lr_0 - self.eta_min) * (1 + math.cos(math.pi * t / self.T_max)) / 2


class OneCycleLR(LRScheduler):
    """Up from max_lr / div_factor to max_lr in ``pct_start`` of all steps, then down to 1 / final_div_factor of the
    start.

    Step it after every batch. ``three_phase``: down to the start in another ``pct_start``, and to the end in the
    rest. ``cycle_momentum``: momentum (Adam's beta1) goes the other way, from max_momentum to base_momentum and back.
    ``anneal_strategy``: 'cos' or 'linear'. ValueError beyond ``total_steps`` (or epochs times steps_per_epoch).
    Source: Smith and Topin, "Super-convergence", 2018.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float | Sequence[float],
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        cycle_momentum: bool = True,
        base_momentum: float = 0.85,
        max_momentum: float = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        last_epoch: int = -1,
    ) -> None:
        if total_steps is None and epochs is not None and steps_per_epoch is not None:
            total_steps = epochs * steps_per_epoch
        if total_steps is None or total_steps < 1:
            raise ValueError(
                f"OneCycleLR: give total_steps, or epochs and steps_per_epoch, at least 1; total_steps is "
                f"{total_steps}."
            )
        if not 0 <= pct_start <= 1:
            raise ValueError(f"OneCycleLR: pct_start must lie in [0, 1], but is {pct_start}.")
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(f"OneCycleLR: anneal_strategy must be 'cos' or 'linear', but is {anneal_strategy!r}.")
        groups = optimizer.param_groups
        if cycle_momentum and not all("betas" in g or "momentum" in g for g in groups):
            raise ValueError("OneCycleLR: the optimiser has no momentum to cycle. Pass cycle_momentum=False.")
        peaks = list(max_lr) if isinstance(max_lr, Sequence) else [max_lr] * len(groups)
        if len(peaks) != len(groups):
            raise ValueError(f"OneCycleLR: max_lr has {len(peaks)} values for {len(groups)} groups of parameters.")
        self.total_steps, self.anneal_strategy, self.cycle_momentum = total_steps, anneal_strategy, cycle_momentum
        self.div_factor, self.final_div_factor = div_factor, final_div_factor
        low, high, end = base_momentum, max_momentum, total_steps - 1
        # Each phase: its last step, the rate there as a share of max_lr, the momentum there.
        start_share = 1 / div_factor
        up = (pct_start * total_steps - 1, 1.0, low)
        down = (end, start_share / final_div_factor, high)
        middle = [(2 * pct_start * total_steps - 2, start_share, high)] if three_phase else []
        self.phases: list[Sequence[float]] = [(0, start_share, high), up, *middle, down]
        if last_epoch == -1:
            for group, peak in zip(groups, peaks):
                group["initial_lr"] = peak / div_factor
        super().__init__(optimizer, last_epoch)

    def _between(self, t: int, column: int) -> float:
        """The value of a column of ``phases`` at step t."""
        phases = self.phases
        place = next((i for i in range(1, len(phases)) if t <= phases[i][0]), len(phases) - 1)
        (start, *_), (end, *_) = phases[place - 1], phases[place]
        a, b = phases[place - 1][column], phases[place][column]
        share = (t - start) / (end - start) if end != start else 1.0
        if self.anneal_strategy == "linear":
            return a + (b - a) * share
        return b + (a - b) / 2 * (1 + math.cos(math.pi * share))

    def lr_at(self, t: int, lr_0: float) -> float:
        """lr_0 is the rate of the start, max_lr / div_factor."""
        if t > self.total_steps:
            raise ValueError(f"OneCycleLR: step {t} lies beyond the {self.total_steps} total_steps it was made for.")
        return lr_0 * self.div_factor * self._between(t, 1)

    def step(self) -> None:
        """t <- t + 1, and the rates and momenta that belong to it."""
        super().step()
        if self.cycle_momentum:
            momentum = self._between(self.last_epoch, 2)
            for group in self.optimizer.param_groups:
                if "betas" in group:
                    group["betas"] = (momentum, *group["betas"][1:])
                else:
                    group["momentum"] = momentum


class SequentialLR(LRScheduler):
    """One schedule after the other: ``schedulers[i]`` from step milestones[i - 1] on, its t counted from there.

        warm_up = LinearLR(optimizer, start_factor=0.1, total_iters=5)
        rest = CosineAnnealingLR(optimizer, T_max=45)
        scheduler = SequentialLR(optimizer, [warm_up, rest], milestones=[5])

    All schedules are of the same optimiser. ValueError for others, for a ReduceLROnPlateau, and unless there is one
    milestone less than schedules. A warm-up against large first steps: Goyal et al., 2017, section 2.2.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        schedulers: Sequence[LRScheduler],
        milestones: Sequence[int],
        last_epoch: int = -1,
    ) -> None:
        self.schedulers, self.milestones = list(schedulers), list(milestones)
        if not self.schedulers or len(self.milestones) != len(self.schedulers) - 1:
            raise ValueError(
                f"SequentialLR: {len(self.schedulers)} schedulers need {max(len(self.schedulers) - 1, 0)} milestones, "
                f"but there are {len(self.milestones)}. Give at least one scheduler."
            )
        for position, scheduler in enumerate(self.schedulers):
            if not isinstance(scheduler, LRScheduler) or scheduler.optimizer is not optimizer:
                raise ValueError(
                    f"SequentialLR: schedulers[{position}], a {type(scheduler).__name__}, must be a schedule of t of "
                    f"the same optimizer."
                )
        super().__init__(optimizer, last_epoch)

    def step(self) -> None:
        """t <- t + 1, and a step of the schedule whose turn it is."""
        self.last_epoch += 1
        turn = bisect_right(self.milestones, self.last_epoch)
        scheduler = self.schedulers[turn]
        scheduler.last_epoch = self.last_epoch - (self.milestones[turn - 1] if turn else 0) - 1
        scheduler.step()
        self._last_lr = scheduler.get_last_lr()

    def state_dict(self) -> dict[str, Any]:
        """What this schedule remembers, and each of ``schedulers``."""
        return {**super().state_dict(), "schedulers": [scheduler.state_dict() for scheduler in self.schedulers]}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken."""
        super().load_state_dict({key: value for key, value in state_dict.items() if key != "schedulers"})
        for scheduler, state in zip(self.schedulers, state_dict["schedulers"]):
            scheduler.load_state_dict(state)


class ReduceLROnPlateau(_State):
    """lr <- max(factor lr, min_lr) when the metric has not improved for more than ``patience`` calls of
    ``step(metric)``.

    ``mode`` 'min' or 'max'. Better means by more than ``threshold``, of the best value ('rel') or as it is ('abs').
    After a reduction ``cooldown`` calls are not counted. A change of the rate below ``eps`` is left out.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        mode: str = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        min_lr: float | Sequence[float] = 0.0,
        eps: float = 1e-8,
    ) -> None:
        if mode not in ("min", "max") or threshold_mode not in ("rel", "abs"):
            raise ValueError(
                f"ReduceLROnPlateau: mode must be 'min' or 'max' and threshold_mode 'rel' or 'abs', but are "
                f"{mode!r} and "
                f"{threshold_mode!r}."
            )
        if factor >= 1:
            raise ValueError(f"ReduceLROnPlateau: factor must be below 1, but is {factor}.")
        self.optimizer = optimizer
        self.mode, self.factor, self.patience, self.cooldown, self.eps = mode, factor, patience, cooldown, eps
        self.threshold, self.threshold_mode = threshold, threshold_mode
        groups = optimizer.param_groups
        self.min_lrs = list(min_lr) if isinstance(min_lr, Sequence) else [min_lr] * len(groups)
        if len(self.min_lrs) != len(groups):
            raise ValueError(f"ReduceLROnPlateau: min_lr has {len(self.min_lrs)} values for {len(groups)} groups.")
        self.best = math.inf if mode == "min" else -math.inf
        self.num_bad_epochs = self.cooldown_counter = self.last_epoch = 0
        self._last_lr = [group["lr"] for group in groups]

    def _better(self, metric: float) -> bool:
        sign = 1 if self.mode == "max" else -1
        if self.threshold_mode == "abs":
            return sign * metric > sign * (self.best + sign * self.threshold)
        return sign * metric > sign * (self.best * (1 + sign * self.threshold))

    def step(self, metrics: SupportsFloat) -> None:
        """Tell the metric of the epoch."""
        self.last_epoch += 1
        metric = float(metrics)
        if self._better(metric):
            self.best, self.num_bad_epochs = metric, 0
        else:
            self.num_bad_epochs += 1
        if self.cooldown_counter > 0:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0
        if self.num_bad_epochs > self.patience:
            for group, least in zip(self.optimizer.param_groups, self.min_lrs):
                reduced = max(group["lr"] * self.factor, least)
                if group["lr"] - reduced > self.eps:
                    group["lr"] = reduced
            self.cooldown_counter, self.num_bad_epochs = self.cooldown, 0
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]
