"""An ONNX file read: first all of it is checked, then its graph becomes a Module.

The file is a Protocol Buffers message, which onnx decodes; nothing in it is executed. What it claims about sizes is
held against the bytes that are there before anything is allocated. Running the module then costs what its graph says.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from tinyconv.io.onnx.graph import Input, OnnxModule, missing
from tinyconv.io.onnx.node import DTYPES, Node

_OLDEST = 7  # before, operators broadcast by attributes

Array = np.ndarray[Any, Any]


def load_onnx(path: str | os.PathLike[str]) -> OnnxModule:
    """The network in an ONNX file as a Module of tinyconv's operators: ``y = load_onnx("net.onnx")(x)``.

    Its weights are parameters under their names in the file: it can be trained on, frozen, moved, saved. It computes
    what the file says, the form for evaluation: dropout does nothing, batch norm takes its running statistics, in
    training mode too. Arguments come in the order of the graph's inputs; of several outputs it gives a tuple.

    FileNotFoundError: no such file. ValueError: it is broken; it uses operators that tinyconv has not, all of which
    are named; or its weights lie in files outside its folder. ImportError: no onnx.
    """
    try:
        import onnx
    except ImportError:
        raise ImportError("load_onnx: ONNX files are read by onnx, which is missing: pip install onnx") from None
    path = Path(path)
    data = path.read_bytes()
    try:
        return _Reader(path.parent).module(onnx.ModelProto.FromString(data))
    except Exception as error:  # whatever a damaged file makes the decoder raise
        reason = " ".join(str(error).split()) if type(error) is ValueError else f"{type(error).__name__}: {error}"
        raise ValueError(f"load_onnx: {path} is broken, or no network that tinyconv can run: {reason}.") from None


class _Reader:
    """Decodes one message; weights in files of their own are looked for in ``folder`` only."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.taken: Counter[Path] = Counter()  # bytes read of each file of weights

    def module(self, model: Any) -> OnnxModule:
        graph = model.graph
        if not graph.output:
            raise ValueError("it has no graph with an output")
        opset = max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=1)
        if opset < _OLDEST:
            raise ValueError(f"it is for version {opset} of ONNX's operators; {_OLDEST} is the oldest that is read")
        if graph.sparse_initializer:
            raise ValueError("it has sparse weights")
        nodes = [self._node(n, opset) for n in graph.node]
        constants = {n.outputs[0]: _constant(n) for n in nodes if n.kind == "Constant" and n.outputs}
        nodes = [n for n in nodes if n.kind != "Constant"]
        if lacking := missing(nodes):
            raise ValueError(f"tinyconv has no {'; no '.join(lacking[:20])}{'; ...' if len(lacking) > 20 else ''}")
        initialisers = {t.name: self.array(t) for t in graph.initializer}
        inputs = [_declared(value) for value in graph.input if value.name not in initialisers]
        outputs = [value.name for value in graph.output]
        names = [*initialisers, *constants, *(i.name for i in inputs)]
        if len(initialisers) < len(graph.initializer):
            raise ValueError("two weights have one name")
        _check_order(nodes, names, outputs)
        return OnnxModule(nodes, inputs, outputs, initialisers, constants)

    def _node(self, proto: Any, opset: int) -> Node:
        kind = proto.op_type if proto.domain in ("", "ai.onnx") else f"{proto.domain}.{proto.op_type}"
        attributes = {a.name: self._attribute(a) for a in proto.attribute}
        return Node(kind[:80], proto.name[:80], tuple(proto.input), tuple(proto.output), attributes, opset)

    def _attribute(self, proto: Any) -> Any:
        """Numbers, strings, lists of them, or an array; a graph or the like, which only loops and branches have, is
        left as it is.
        """
        from onnx import TensorProto, helper

        value = helper.get_attribute_value(proto)
        if isinstance(value, bytes):
            return value.decode()
        if isinstance(value, TensorProto):
            return self.array(value)
        return list(value) if proto.type in (proto.INTS, proto.FLOATS) else value

    def array(self, proto: Any) -> Array:
        """A tensor of the file, with memory of its own."""
        from onnx import TensorProto, numpy_helper

        name = proto.name[:80]
        if proto.data_type not in DTYPES:
            known = proto.data_type in TensorProto.DataType.values()
            what = TensorProto.DataType.Name(proto.data_type) if known else f"of type {proto.data_type}"
            raise ValueError(f"the tensor {name!r} is {what}, which NumPy has not")
        dtype, shape = DTYPES[proto.data_type], tuple(proto.dims)
        if any(n < 0 for n in shape):
            raise ValueError(f"the tensor {name!r} claims the shape {shape}")
        size = prod(shape) * dtype.itemsize
        if proto.data_location == TensorProto.EXTERNAL:
            data = self._outside(name, {entry.key: entry.value for entry in proto.external_data}, size)
        elif proto.HasField("raw_data"):
            data = proto.raw_data
        else:
            return np.array(numpy_helper.to_array(proto), dtype)  # refuses a shape that does not fit the numbers
        if len(data) != size:
            raise ValueError(f"the tensor {name!r} claims {shape} of {dtype}, but has {len(data)} bytes")
        if dtype == np.bool_:  # any byte may be there, and NumPy counts on 0 and 1
            return (np.frombuffer(data, np.uint8) != 0).reshape(shape)
        return np.frombuffer(bytearray(data), dtype.newbyteorder("<")).astype(dtype, copy=False).reshape(shape)

    def _outside(self, name: str, where: Mapping[str, str], size: int) -> bytes:
        """``size`` bytes of a file beside this one; of each file no more in all than it has."""
        file = (self.folder / where.get("location", "")).resolve()  # follows links, so that none leads outside
        if not file.is_relative_to(self.folder) or not file.is_file():
            raise ValueError(f"the weights {name!r} lie in {where.get('location', '')[:80]!r}: no file in its folder")
        offset, self.taken[file] = int(where.get("offset", 0)), self.taken[file] + size
        if offset < 0 or int(where.get("length", size)) != size or self.taken[file] > file.stat().st_size:
            raise ValueError(f"the weights {name!r} claim {size} bytes, which {file.name[:80]!r} has not")
        with open(file, "rb") as opened:
            opened.seek(offset)
            return opened.read(size)


def _constant(node: Node) -> Array:
    """What a node Constant holds, in whichever attribute."""
    kinds = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
    for name, value in node.attributes.items():
        if name == "value" and isinstance(value, np.ndarray):
            return value
        if name in kinds:
            return np.array(value, kinds[name])
    raise ValueError(f"{node} holds no numbers")


def _declared(value: Any) -> Input:
    """Name, type and sizes of an input."""
    kind = value.type.tensor_type
    if kind.elem_type not in DTYPES:
        raise ValueError(f"the input {value.name[:80]!r} is no tensor of numbers that NumPy has")
    sizes = [d.dim_value if d.HasField("dim_value") else d.dim_param or "?" for d in kind.shape.dim]
    return Input(value.name, DTYPES[kind.elem_type], tuple(sizes) if kind.HasField("shape") else None)


def _check_order(nodes: list[Node], names: list[str], outputs: list[str]) -> None:
    """Every value is there before it is read, and is made once."""
    made = set(names)
    later = {name for node in nodes for name in node.outputs}
    if len(made) < len(names) or "" in made:
        raise ValueError("an input or a weight has no name, or the name of another")
    for node in nodes:
        for name in node.inputs:
            if name and name not in made:
                lacking = (
                    "only made later: the graph has a cycle or is not in order" if name in later else "made nowhere"
                )
                raise ValueError(f"{node} reads {name[:80]!r}, which is {lacking}")
        results = [name for name in node.outputs if name]
        if not made.isdisjoint(results) or len(set(results)) < len(results):
            raise ValueError(f"{node} makes a value that is there already")
        made.update(results)
    for name in outputs:
        if name not in made:
            raise ValueError(f"the output {name[:80]!r} is made nowhere")
