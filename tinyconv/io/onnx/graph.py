"""The module that runs the nodes of an ONNX graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from tinyconv.autograd import Tensor
from tinyconv.io.onnx import arrays, layers, resize
from tinyconv.io.onnx.node import Node
from tinyconv.nn import Module, Parameter
from tinyconv.ops.convert import as_tensor

RULES: dict[str, Callable[..., Any]] = {**layers.RULES, **arrays.RULES, **resize.RULES}

#: What an attribute may be, where we have only a part of the operator.
_LIMITS: dict[tuple[str, str], tuple[Any, ...]] = {
    ("ArgMax", "select_last_index"): (0,),
    ("ArgMin", "select_last_index"): (0,),
    ("AveragePool", "dilations"): ([1], [1, 1], [1, 1, 1]),
    ("BatchNormalization", "training_mode"): (0,),
    ("BatchNormalization", "spatial"): (1,),
    ("CumSum", "exclusive"): (0,),
    ("GatherND", "batch_dims"): (0,),
    ("MaxPool", "storage_order"): (0,),
    ("Pad", "mode"): tuple(arrays.PAD_MODES),
    ("Resize", "antialias"): (0,),
    ("Resize", "coordinate_transformation_mode"): resize.COORDINATES,
    ("Resize", "exclude_outside"): (0,),
    ("Resize", "keep_aspect_ratio_policy"): ("stretch",),
    ("Resize", "mode"): resize.MODES,
    ("Upsample", "mode"): resize.MODES,
}

#: Inputs that are numbers of the operator, not weights: nobody trains them.
_FIXED = {
    "BatchNormalization": (3, 4),
    "Clip": (1, 2),
    "Pad": (2,),
    "Pow": (1,),
    "Range": (0, 1, 2),
    "Resize": (1, 2),
    "Upsample": (1,),
}


class Input(NamedTuple):
    """An input as the file declares it: a size is a number, or a name for any."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str, ...] | None


def missing(nodes: Sequence[Node]) -> list[str]:
    """The nodes that no rule runs, by operator and name, and the attribute where it is one that is not known."""
    found = []
    for node in nodes:
        limits = {name: allowed for (kind, name), allowed in _LIMITS.items() if kind == node.kind}
        wrong = [
            f"{n}={node.get(n)!r}"
            for n, allowed in limits.items()
            if n in node.attributes and node.get(n) not in allowed
        ]
        if node.kind not in RULES or wrong:
            found.append(" with ".join([str(node), *wrong]))
    return found


class OnnxModule(Module):
    """The graph of an ONNX file, run node by node with tinyconv's operators, in the form for evaluation.

    Its initialisers are parameters and buffers under the names that they have in the file. A floating one with an axis
    or more is a parameter, unless an operator reads it as a number of its own, as the running mean of a batch norm.
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        inputs: Sequence[Input],
        outputs: Sequence[str],
        initialisers: dict[str, np.ndarray[Any, Any]],
        constants: dict[str, np.ndarray[Any, Any]],
    ) -> None:
        super().__init__()
        self.nodes, self.inputs, self.outputs = tuple(nodes), tuple(inputs), tuple(outputs)
        fixed = {name for node in nodes for i, name in enumerate(node.inputs) if i in _FIXED.get(node.kind, ())}
        for name, array in initialisers.items():
            if array.dtype.kind == "f" and array.ndim and name not in fixed:
                self.register_parameter(name, Parameter(array))
            else:
                self.register_buffer(name, Tensor(array), persistent=array.dtype.kind == "f")
        for name, array in constants.items():
            self.register_buffer(name, Tensor(array), persistent=False)
        last = {name: i for i, node in enumerate(nodes) for name in node.inputs}
        kept = {"", *outputs}
        self._done = [
            [n for n in dict.fromkeys(node.inputs) if last[n] == i and n not in kept] for i, node in enumerate(nodes)
        ]

    def extra_repr(self) -> str:
        shapes = ", ".join(f"{name}: {dtype} {shape}" for name, dtype, shape in self.inputs)
        return f"{shapes}; {len(self.nodes)} nodes; {', '.join(self.outputs)}"

    def forward(self, *args: Any) -> Any:
        """The outputs for inputs in the order of the file: a Tensor, or a tuple of several.

        ValueError: an input is not of the declared type and sizes, or a node refuses its inputs; the node is named.
        """
        if len(args) != len(self.inputs):
            names = ", ".join(declared.name for declared in self.inputs)
            raise ValueError(f"OnnxModule: {len(self.inputs)} inputs are needed ({names}), but {len(args)} were given.")
        values: dict[str, Any] = {"": None, **self._parameters, **self._buffers}
        for declared, x in zip(self.inputs, args):
            values[declared.name] = _checked(declared, as_tensor(x, "OnnxModule", declared.name))
        for node, done in zip(self.nodes, self._done):
            try:
                result = RULES[node.kind](node, *[values[name] for name in node.inputs])
            except Exception as error:  # also what an input that is left out makes of a rule
                shapes = [getattr(values[name], "shape", None) for name in node.inputs]
                raise ValueError(f"OnnxModule: {node} of {shapes}: {error}") from error
            values.update(zip(node.outputs, result if isinstance(result, tuple) else (result,)))
            for name in done:  # memory that nobody reads again
                del values[name]
        results = tuple(values[name] for name in self.outputs)
        return results if len(results) > 1 else results[0]


def _checked(declared: Input, x: Tensor) -> Tensor:
    """``x`` where it is what the file declares; sizes of one name must be the same only to the operators."""
    name, dtype, shape = declared
    fits = shape is None or len(shape) == x.ndim and all(isinstance(n, str) or n == m for n, m in zip(shape, x.shape))
    if x.dtype != dtype or not fits:
        raise ValueError(f"OnnxModule: {name} must be {dtype} of shape {shape}, but is {x.dtype} of shape {x.shape}.")
    return x
