"""A differentiable operator, applied once: a node of the tape.

A subclass computes with arrays in ``forward`` and with Tensors in ``backward``, so that the gradient is
itself recorded and can be differentiated again:

    class Mul(Function):
        saves = (0, 1)                                   # backward reads both inputs
        def forward(self, a, b):
            return a * b
        def backward(self, g):
            a, b = self.saved_inputs
            return g * b, g * a

    y = Mul()(x, w)
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

import numpy as np

from tinyconv.autograd.dtypes import is_float
from tinyconv.autograd.gpu import explained, one_device, wait
from tinyconv.autograd.mode import switches
from tinyconv.autograd.tensor import Array, Place, Tensor, Version, callers_place

#: Where a gradient goes: the node that made the input (a Function, or the leaf itself) and which of its outputs it was.
Edge = tuple[Any, int]


class Function:
    """One application of an operator. Arguments that are not tensors go to ``__init__``, tensors to the call.

    Class attributes that say what is kept for backward: ``saves`` positions of the inputs, ``saves_output``
    True for the (single) output; ``view`` True if the output shares memory with input 0. Other arrays that backward
    needs, such as a mask, are put by ``forward`` into the tuple ``self.kept``.
    """

    saves: tuple[int, ...] = ()
    saves_output = False
    view = False
    kept: tuple[Array, ...] = ()

    __slots__ = (
        "edges",
        "_saved",
        "_output",
        "outputs",
        "place",
        "stack",
        "hooks",
        "released",
        "__dict__",
        "__weakref__",
    )

    edges: tuple[Edge | None, ...]
    _saved: tuple[tuple[Tensor, int], ...]
    _output: tuple[Array, Version, int] | None
    outputs: list[tuple[tuple[int, ...], Any]]
    place: Place
    stack: list[str] | None
    hooks: dict[int, list[Callable[[Tensor], Tensor | None]]] | None
    released: bool

    def forward(self, *arrays: Array) -> Any:
        """Arrays in, one array or a tuple of arrays out."""
        raise NotImplementedError(f"{self.name}: forward(self, *arrays) is not written.")

    def backward(self, *grads: Tensor) -> Any:
        """Gradients of the outputs in, gradients of the inputs out: one Tensor, or a tuple with None where there is
        none.
        """
        raise NotImplementedError(f"{self.name}: no derivative is known.")

    @property
    def name(self) -> str:
        """Name for messages: that of the class."""
        return type(self).__name__

    def __call__(self, *inputs: Tensor) -> Any:
        """Compute, and record the node if the tape is running and an input requires a gradient.

        RuntimeError for inputs on different devices and for errors of a GPU, MemoryError where it has no room.
        """
        arrays = [t.data for t in inputs]
        for a in arrays:
            if type(a) is not type(arrays[0]):
                one_device(self.name, *arrays)
        failure = None
        try:  # gpu.guarded, written out: a call more is felt in small operators
            with np.errstate(all="ignore"):  # infinities and NaN are values here, not warnings, as in torch
                result = self.forward(*arrays)
        except Exception as error:
            failure = explained(self.name, error)
            if failure is None:
                raise
        if failure is not None:
            raise failure
        if switches.anomaly:
            wait(self.name, tuple(arrays))
        several = type(result) is tuple
        version = inputs[0].version if self.view else None
        outputs = [Tensor.wrap(as_array(r), version) for r in (result if several else (result,))]
        if switches.recording and any([t.requires_grad for t in inputs]):
            self._record(inputs, outputs)
        return tuple(outputs) if several else outputs[0]

    def _record(self, inputs: tuple[Tensor, ...], outputs: list[Tensor]) -> None:
        if hasattr(self, "edges"):
            raise RuntimeError(f"{self.name}: one object is one application on the tape. Make a new one for each call.")
        self.edges = tuple([_edge(t) for t in inputs])
        self._saved = tuple([(inputs[i], inputs[i].version.count) for i in self.saves])
        self._output = None
        if self.saves_output:
            self._output = (outputs[0].data, outputs[0].version, outputs[0].version.count)
        self.outputs = [(out.data.shape, out.data.dtype) for out in outputs]
        self.place = callers_place()
        self.stack = traceback.format_stack()[:-2] if switches.anomaly else None
        self.hooks = None
        self.released = False
        for index, out in enumerate(outputs):
            if is_float(out.data.dtype):
                out.requires_grad, out.grad_fn, out.output_index = True, self, index

    def needs_grad(self, position: int) -> bool:
        """True if the gradient of this input is wanted. For use in ``backward``."""
        return self.edges[position] is not None

    @property
    def saved_inputs(self) -> tuple[Tensor, ...]:
        """The inputs named by ``saves``, unchanged since the forward pass."""
        for position, (t, count) in zip(self.saves, self._saved):
            self._check_version(f"input {position}", t.version, count)
        return tuple([t for t, _ in self._saved])

    @property
    def saved_output(self) -> Tensor:
        """The output, attached to this node again, so that backward can be differentiated."""
        assert self._output is not None
        data, version, count = self._output
        self._check_version("output", version, count)
        out = Tensor.wrap(data, version)
        out.requires_grad, out.grad_fn = True, self
        return out

    def _check_version(self, what: str, version: Version, count: int) -> None:
        if version.count != count:
            raise RuntimeError(
                f"{self.name}: its {what} was kept for the gradient at {self.place}, and was changed in place at "
                f"{version.place}. Change a copy (x.clone()), or make a new tensor (x = x + 1 for x += 1)."
            )

    def release(self) -> None:
        """Let go of everything kept for backward."""
        if self._saved or self._output is not None or self.kept:
            self.released = True
            self._saved, self._output, self.kept = (), None, ()


def as_array(result: Any) -> Array:
    """NumPy's reductions and 0-d arithmetic return scalars; a tensor holds arrays."""
    return np.asarray(result) if isinstance(result, np.generic) else result


def _edge(t: Tensor) -> Edge | None:
    if not t.requires_grad:
        return None
    return (t, 0) if t.grad_fn is None else (t.grad_fn, t.output_index)
