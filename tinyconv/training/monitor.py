"""Does the gradient reach the first layer? Norms and relative updates of each layer, step by step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tinyconv.kernels.arrays import array_module
from tinyconv.nn import Module, Parameter
from tinyconv.training.trainer import Callback, Trainer

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class GradientMonitor(Callback):
    """Of every ``every``-th step and each layer (a module with parameters of its own, by its dotted name):

        gradient[name]   |g|, the norm of the gradient of the layer's parameters as one vector, before clipping
        update[name]     |w_after - w_before| / |w_before|, of the parameters (NaN where they are all 0)

    and in ``steps`` the numbers of the steps, from its first on. A gradient that vanishes falls by orders of magnitude
    from the last layer to the first; updates about 1e-3 are usual. Keeps a copy of the weights during a step that it
    watches. Source: Glorot and Bengio, AISTATS 2010, section 4.2, for gradients a layer.
    """

    def __init__(self, every: int = 1) -> None:
        if every < 1:
            raise ValueError(f"GradientMonitor: every must be at least 1, but is {every}.")
        self.every = every
        self.taken = 0
        self.steps: list[int] = []
        self.gradient: dict[str, list[float]] = {}
        self.update: dict[str, list[float]] = {}
        self._before: dict[str, list[Any]] = {}

    def on_gradients(self, trainer: Trainer) -> None:
        """The norms of the gradients, and the weights before the step."""
        self.taken += 1
        if self.taken % self.every:
            return
        self.steps.append(self.taken)
        for name, parameters in _layers(trainer.model).items():
            gradients = [p.grad.data for p in parameters if p.grad is not None]
            self.gradient.setdefault(name, []).append(_norm(gradients))
            self._before[name] = [p.data.copy() for p in parameters]

    def on_batch_end(self, trainer: Trainer) -> None:
        """The change of the weights."""
        layers = _layers(trainer.model)
        for name, before in self._before.items():
            change, size = _norm([p.data - w for p, w in zip(layers[name], before)]), _norm(before)
            self.update.setdefault(name, []).append(change / size if size else float("nan"))
        self._before = {}

    def plot(self) -> Figure:
        """Two axes, gradient and update against the step, a line a layer: the first layer dark, the last one light."""
        try:
            import matplotlib
            from matplotlib.figure import Figure
        except ImportError:
            raise ImportError(
                "GradientMonitor: figures need matplotlib, which is missing: pip install matplotlib"
            ) from None
        figure = Figure(figsize=(7, 3.2), layout="constrained")
        titles = ("norm of the gradient", "update / weights")
        colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.9, max(len(self.gradient), 1)))
        for axis, title, rows in zip(figure.subplots(1, 2), titles, (self.gradient, self.update)):
            for colour, (name, values) in zip(colours, rows.items()):
                axis.plot(self.steps, values, color=colour, label=name or "(the module)")
            axis.set(title=title, xlabel="step", yscale="log")
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
        return figure


def _layers(model: Module) -> dict[str, list[Parameter]]:
    """The parameters of each module that has some of its own, in the order of the modules."""
    layers = {name: list(module.parameters(recurse=False)) for name, module in model.named_modules()}
    return {name: parameters for name, parameters in layers.items() if parameters}


def _norm(arrays: list[Any]) -> float:
    """The Euclidean norm of all elements together."""
    return float(np.linalg.norm([float(array_module(a).linalg.norm(a.ravel())) for a in arrays]))
