"""The graph of an ONNX file while it is written: nodes, constants, and which array has which name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from tinyconv import nn
from tinyconv.autograd import Function, Tensor

Array = np.ndarray[Any, Any]
Tensors = tuple[Tensor, ...]
Rule = Callable[..., str]  # (graph, operator, inputs, output) to the name of the result


class Graph:
    """Nodes and constants so far. ``known`` are the names of arrays that nodes have made, by their ids; ``depends``
    those that depend on the input; all others depend on weights only.
    """

    def __init__(self, model: nn.Module, images: Tensor, results: tuple[Tensor, ...]) -> None:
        self.images, self.results = images, results
        self.outputs = ["output"] if len(results) == 1 else [f"output{i}" for i in range(len(results))]
        self.nodes: list[Any] = []
        self.makers: dict[str, Any] = {}  # name of a result -> its node
        self.constants: dict[str, Array] = {}
        self.known = {id(images.data): "input"}
        self.depends = {id(images.data)}
        self.stored = {id(t.data): name for name, t in [*model.named_buffers(), *model.named_parameters()]}
        self.trained = {name for name, _ in model.named_parameters()}
        self.weights: set[str] = set()  # constants that a reader of the file shall find under their names
        self.shapes: set[str] = set()  # constants that say a shape
        self.vectors: dict[int, str] = {}  # id of a reshaped vector -> name of the parameter
        self.narrow: dict[int, Tensor] = {}  # id of an expanded array -> what was expanded
        self.unpooled: dict[int, tuple[str, Any]] = {}  # id of indices -> their name, and the pooling
        self.uses = Counter(id(t.data) for t in results)
        self.calls: list[Any] = []

    def add(self, rule: Rule | None, function: Function, inputs: Tensors, outputs: Tensors) -> None:
        """The nodes of one application; none where nothing depends on the input or on a parameter."""
        asked = [*(t.data for t in inputs), *vars(function).values(), *getattr(function, "key", ())]  # such as a mask
        depends = any(id(array) in self.depends for array in asked)
        trained = [self.stored.get(id(t.data)) in self.trained or id(t.data) in self.known for t in inputs]
        if not depends and not any(trained):
            return
        try:
            if rule is None:
                raise NoNode(f"save_onnx: no ONNX node is known for {function.name} (at its input {inputs[0].shape}).")
            self.known[id(outputs[0].data)] = rule(self, function, inputs, outputs[0])
        except NoNode:
            if depends:
                raise
            return  # of weights alone: what it gave is a constant
        if depends:
            self.depends.update(id(t.data) for t in outputs)

    def finish(self) -> None:
        """Outputs under their names, and only the nodes that they need."""
        for name, t in zip(self.outputs, self.results):
            self.node("Identity", self.name(t), result=name)
        needed, kept = set(self.outputs), []
        for node in reversed(self.nodes):
            if needed.intersection(node.output):
                needed.update(node.input)
                kept.append(node)
        self.nodes = kept[::-1]
        self.constants = {name: array for name, array in self.constants.items() if name in needed}
        self.weights &= needed

    def join(self, other: Graph) -> None:
        """Make this graph right for another run of the model too. ValueError: they differ in more than a size."""
        for mine, theirs in zip(self.calls, other.calls):
            if type(mine[0]) is not type(theirs[0]):
                raise ValueError(_differs(f"{mine[0].name} is run in place of {theirs[0].name}"))
        if [n.SerializeToString() for n in self.nodes] != [n.SerializeToString() for n in other.nodes]:
            raise ValueError(_differs("the operators that are run, or their arguments, differ"))
        for name, mine in self.constants.items():
            theirs = other.constants[name]
            if mine is theirs or mine.shape == theirs.shape and mine.tobytes() == theirs.tobytes():
                continue
            if name in self.shapes and mine.shape == theirs.shape and (mine != theirs).sum() == 1:
                self.constants[name] = np.where(mine == theirs, mine, -1)  # follows from the rest
                continue
            reader = next(n for n in self.nodes if name in n.input)
            raise ValueError(_differs(f"an argument of {reader.op_type}, of shape {mine.shape}, differs"))

    def constant_nodes(self) -> list[Any]:
        """What is no weight stands in the graph itself: nobody trains it."""
        from onnx import helper, numpy_helper

        rest = {name: array for name, array in self.constants.items() if name not in self.weights}
        return [helper.make_node("Constant", [], [n], value=numpy_helper.from_array(a, n)) for n, a in rest.items()]

    def name(self, t: Tensor) -> str:
        return self.array(t.data)

    def array(self, array: Any) -> str:
        """The name of an array: a value of the graph, a parameter, or a constant."""
        if id(array) in self.known:
            return self.known[id(array)]
        if id(array) in self.depends:
            raise NoNode(f"save_onnx: no ONNX node is known that gives the second result of shape {array.shape}.")
        stored = self.stored.get(id(array))
        if stored in self.trained:
            self.weights.add(stored)
        return self.constant(Tensor(array).to("cpu").data, stored)

    def constant(self, value: Any, name: str | None = None, dtype: Any = None) -> str:
        """A constant of the graph, by a name of its own where none is given."""
        name = f"constant{len(self.constants)}" if name is None else name
        self.constants[name] = np.asarray(value, dtype, order="C")
        return name

    def node(self, kind: str, *inputs: str, result: str | None = None, **attributes: Any) -> str:
        """One more node; the name of its result."""
        from onnx import helper

        name = f"{kind.lower()}{len(self.nodes)}" if result is None else result
        self.makers[name] = helper.make_node(kind, inputs, [name], **attributes)
        self.nodes.append(self.makers[name])
        return name

    def integers(self, *values: int) -> str:
        return self.constant(values, dtype=np.int64)

    def reshaped(self, name: str, sizes: tuple[int, ...]) -> str:
        sizes_name = self.integers(*sizes)
        self.shapes.add(sizes_name)
        return self.node("Reshape", name, sizes_name)


def _differs(what: str) -> str:
    return (
        f"save_onnx: for other images {what}: the model computes past its operators with their values or number "
        "(x.data, item(), len(x)), or draws at random."
    )


class NoNode(ValueError):
    """There is no node for an operator, or for these arguments of it."""
