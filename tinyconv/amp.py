"""Mixed precision: products in float16, which tensor cores compute many times as fast, weights and sums in float32.

    scaler = amp.GradScaler("cuda")
    for images, targets in loader:
        optimizer.zero_grad()
        with amp.autocast("cuda"):
            loss = criterion(model(images), targets)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

The smallest number of float16, 6e-8, is larger than many gradients. So the loss is multiplied by a large scale, and
with it, by the chain rule, every gradient; before the step the gradients of the parameters, which are float32, are
divided by it. The scale grows until a gradient overflows; then that step is left out and the scale is halved.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tinyconv.autograd.mode import autocast as autocast
from tinyconv.kernels.arrays import array_module

__all__ = ["GradScaler", "autocast"]


class GradScaler:
    """Keeps the scale of a loss: times ``growth_factor`` after ``growth_interval`` steps, ``backoff_factor`` after an
    overflow.

    ``device``: where the parameters are; named as in torch, nothing depends on it. With ``enabled`` False nothing is
    scaled and every step is made, so that one training loop serves both. Source: Micikevicius et al., ICLR 2018,
    section 3.2.
    """

    def __init__(
        self,
        device: str = "cuda",
        init_scale: float = 2.0**16,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        enabled: bool = True,
    ) -> None:
        if enabled and not growth_factor > 1:
            raise ValueError(f"GradScaler: growth_factor must be above 1, but is {growth_factor}.")
        if enabled and not 0 < backoff_factor < 1:
            raise ValueError(f"GradScaler: backoff_factor must lie between 0 and 1, but is {backoff_factor}.")
        self._scale, self._enabled = float(init_scale), enabled
        self.growth_factor, self.backoff_factor, self.growth_interval = growth_factor, backoff_factor, growth_interval
        self._good_steps = 0
        self._unscaled: dict[int, bool] = {}  # id of an optimiser -> whether a gradient of it overflowed
        self._stepped: set[int] = set()

    def is_enabled(self) -> bool:
        """Whether it scales at all."""
        return self._enabled

    def get_scale(self) -> float:
        """The factor now, 1 where nothing is scaled."""
        return self._scale if self._enabled else 1.0

    def scale(self, outputs: Any) -> Any:
        """A loss, or a list or tuple of losses, times the scale."""
        if not self._enabled:
            return outputs
        if isinstance(outputs, list | tuple):
            return type(outputs)(map(self.scale, outputs))
        return outputs * self._scale

    def unscale_(self, optimizer: Any) -> None:
        """Divide the gradients of an optimiser's parameters by the scale, so that they can be clipped before the step.

        RuntimeError: a second time before :meth:`update`. ValueError: gradients in float16, which may have lost what
        the scale should save.
        """
        if not self._enabled:
            return
        if id(optimizer) in self._unscaled:
            raise RuntimeError(
                "GradScaler.unscale_: these gradients have been divided already. Call it once a step, before step(), "
                "and update() after it."
            )
        grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        overflowed: Any = False
        for g in grads:
            if g.dtype == np.float16:
                raise ValueError(
                    "GradScaler.unscale_: a gradient is float16. Keep the parameters in float32; autocast makes "
                    "float16 copies of them."
                )
            xp = array_module(g.data)
            g.data *= g.dtype.type(1 / self._scale)
            g.changed()
            overflowed = overflowed | ~xp.isfinite(g.data).all()  # stays on the device
        self._unscaled[id(optimizer)] = bool(overflowed)

    def step(self, optimizer: Any) -> Any:
        """``optimizer.step()`` with gradients divided by the scale; left out where one of them is infinite or NaN.

        RuntimeError: a second time before :meth:`update`.
        """
        if not self._enabled:
            return optimizer.step()
        if id(optimizer) in self._stepped:
            raise RuntimeError("GradScaler.step: this optimiser has made its step already. Call update() after it.")
        if id(optimizer) not in self._unscaled:
            self.unscale_(optimizer)
        self._stepped.add(id(optimizer))
        return None if self._unscaled[id(optimizer)] else optimizer.step()

    def update(self, new_scale: float | None = None) -> None:
        """Adjust the scale, or set it; once, after the steps of all optimisers. RuntimeError: before any of them."""
        if not self._enabled:
            return
        if new_scale is not None:
            self._scale = float(new_scale)
        elif not self._unscaled:
            raise RuntimeError("GradScaler.update: no step has been made since the last update. Call step() first.")
        elif any(self._unscaled.values()):
            self._scale *= self.backoff_factor
            self._good_steps = 0
        else:
            self._good_steps += 1
            if self._good_steps == self.growth_interval:
                self._scale *= self.growth_factor
                self._good_steps = 0
        self._unscaled, self._stepped = {}, set()

    def state_dict(self) -> dict[str, Any]:
        """Scale and counter, with torch's keys; empty where nothing is scaled."""
        if not self._enabled:
            return {}
        return {
            "scale": self._scale,
            "growth_factor": self.growth_factor,
            "backoff_factor": self.backoff_factor,
            "growth_interval": self.growth_interval,
            "_growth_tracker": self._good_steps,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken. RuntimeError: from a scaler that did not scale."""
        if not self._enabled:
            return
        if not state_dict:
            raise RuntimeError("GradScaler.load_state_dict: the state is empty: it was saved with enabled=False.")
        self._scale = float(state_dict["scale"])
        self.growth_factor, self.backoff_factor = state_dict["growth_factor"], state_dict["backoff_factor"]
        self.growth_interval, self._good_steps = state_dict["growth_interval"], state_dict["_growth_tracker"]
