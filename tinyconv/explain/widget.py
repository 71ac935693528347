"""The page of a trace as a notebook widget that Python hears from: anywidget around page.js."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyconv.explain import page

if TYPE_CHECKING:  # steps.py offers this function as a method
    from tinyconv.explain.steps import Step, Trace

_EDITED = ("input", "weight", "bias", "g")


def widget(trace: Trace, step: Step | None, g: Any) -> Any:
    """The widget; ImportError with what to install where there is no anywidget."""
    try:
        import anywidget
        import traitlets
    except ImportError as error:
        raise ImportError("widget: this needs anywidget, which is missing: pip install 'tinyconv[lab]'.") from error
    page.check_size(trace)
    step = page.first_step(trace) if step is None else step
    data = page.page_data(trace, step, g)

    class TraceWidget(anywidget.AnyWidget):
        """The view that is looked at ("output", "input", "weight", "matrix" or "columns"), its index, and the numbers.

        All are traits, set from either side. The arrays are flat lists; :attr:`trace` is the trace of what they hold.
        """

        _esm = page.script() + page.asset("widget.js")
        _css = page.asset("page.css")
        data = traitlets.Dict().tag(sync=True)
        view = traitlets.Enum(["output", "input", "weight", "matrix", "columns"]).tag(sync=True)
        index = traitlets.List(traitlets.Int()).tag(sync=True)
        input: Any = traitlets.List().tag(sync=True)
        weight: Any = traitlets.List(allow_none=True).tag(sync=True)
        bias: Any = traitlets.List(allow_none=True).tag(sync=True)
        g: Any = traitlets.List().tag(sync=True)

        @property
        def _by(self) -> str:
            return self.view if self.view in ("input", "weight") else "output"

        @traitlets.validate("view")
        def _check_view(self, proposal: Any) -> Any:
            if proposal["value"] == "weight":
                trace.shape("weight")  # refuses where there is none
            return proposal["value"]

        @traitlets.validate("index")
        def _check_index(self, proposal: Any) -> Any:
            trace.at(**{self._by: tuple(proposal["value"])})  # refuses what is no element
            return proposal["value"]

        @traitlets.observe("view")
        def _start_again(self, change: Any) -> None:
            """Another array has other indices: at the first, unless the index is one of its own."""
            shape = trace.shape(self._by)
            if len(self.index) != len(shape) or any(i >= n for i, n in zip(self.index, shape)):
                self.index = [0] * len(shape)

        @property
        def trace(self) -> Trace:
            """A trace like the first, with the numbers as they are now."""
            made = copy.copy(trace)
            made.x = _decode(self.input, trace.x)
            if trace.w is not None:
                made.w = _decode(self.weight, trace.w)
            if trace.b is not None:
                made.b = _decode(self.bias, trace.b)
            return made

        @property
        def step(self) -> Step:
            """The step that is looked at, of :attr:`trace`."""
            cotangent = np.array([float(v) for v in self.g], trace.x.dtype).reshape(trace.output)
            return self.trace.at(**{self._by: tuple(self.index)}, g=cotangent)

    arrays = {name: data["arrays"][name] for name in _EDITED}
    return TraceWidget(data=data, view=step.by, index=list(step.index), **arrays)


def _decode(values: list[float | str], like: Any) -> Any:
    return np.array([float(v) for v in values], like.dtype).reshape(like.shape)
