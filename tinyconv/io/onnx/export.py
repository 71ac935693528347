"""Networks as ONNX files, which other programs run.

One forward pass is watched: every operator that depends on the input becomes a node, all else a constant. So the file
holds the network as it is evaluated, for inputs of that one shape.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import prod
from typing import Any

import numpy as np

from tinyconv import nn
from tinyconv.autograd import Function, Tensor
from tinyconv.explain.receptive import run_quietly
from tinyconv.geometry import Geometry
from tinyconv.ops import activation, broadcast, conv, convert, elementwise, matmul, norm, pad, pool, resample, shape
from tinyconv.ops.convert import as_tensor

_OPSET, _IR = 18, 9  # of 2023: what onnxruntime 1.15 and later reads

Array = np.ndarray[Any, Any]
Call = tuple[Function, tuple[Tensor, ...], tuple[Tensor, ...]]


def save_onnx(model: nn.Module, x: Any, path: str | os.PathLike[str]) -> None:
    """Write ``model`` as evaluated on inputs of the shape and dtype of ``x``; input "input", output "output".

    Of several outputs the names are "output0", "output1", ... ValueError: an operator that ONNX has no node for here.
    What the model computes without operators, from ``x.data``, would be a constant. ImportError: no onnx.
    """
    try:
        import onnx
    except ImportError:
        raise ImportError("save_onnx: ONNX files are written by onnx, which is missing: pip install onnx") from None
    images = Tensor(as_tensor(x, "save_onnx", "x").detach().data)
    calls: list[Call] = []
    with _watching(calls):
        result = run_quietly(model, images)
    results = result if isinstance(result, tuple) else (result,)
    names = ["output"] if len(results) == 1 else [f"output{i}" for i in range(len(results))]
    writer = _Writer(images, model)
    for function, inputs, outputs in calls:
        writer.add(function, inputs, outputs)
    for name, t in zip(names, results):
        writer.nodes.append(onnx.helper.make_node("Identity", [writer.name(t)], [name]))
    graph = onnx.helper.make_graph(
        writer.nodes,
        type(model).__name__,
        [_value("input", images)],
        [_value(name, t) for name, t in zip(names, results)],
        [onnx.numpy_helper.from_array(array, name) for name, array in writer.constants.items()],
    )
    opset = onnx.helper.make_opsetid("", _OPSET)
    file = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=_IR, producer_name="tinyconv")
    onnx.checker.check_model(file, full_check=True)
    onnx.save(file, os.fspath(path))


def _value(name: str, t: Tensor) -> Any:
    from onnx import helper

    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(t.dtype), t.shape)


@contextmanager
def _watching(calls: list[Call]) -> Iterator[None]:
    """Every application of an operator is noted, in order; the notes keep its tensors alive."""
    apply = Function.__call__

    def watched(self: Function, *inputs: Tensor) -> Any:
        result = apply(self, *inputs)
        calls.append((self, inputs, result if isinstance(result, tuple) else (result,)))
        return result

    Function.__call__ = watched  # type: ignore[method-assign]
    try:
        yield
    finally:
        Function.__call__ = apply  # type: ignore[method-assign]


class _Writer:
    """Nodes and constants of the graph so far. A tensor without a name does not depend on the input."""

    def __init__(self, images: Tensor, model: nn.Module) -> None:
        self.nodes: list[Any] = []
        self.constants: dict[str, Array] = {}
        self.known = {id(images): "input"}
        self.stored = {id(t): name for name, t in [*model.named_parameters(), *model.named_buffers()]}

    def add(self, function: Function, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...]) -> None:
        """The nodes of one application; none where nothing depends on the input."""
        if not any(id(t) in self.known for t in inputs):
            return
        rule = _RULES.get(type(function))
        if rule is None:
            raise ValueError(f"save_onnx: no ONNX node is known for {function.name} (at its input {inputs[0].shape}).")
        self.known[id(outputs[0])] = rule(self, function, inputs, outputs[0])

    def name(self, t: Tensor) -> str:
        """The name of a tensor: a value of the graph, a parameter, or a constant."""
        if id(t) in self.known:
            return self.known[id(t)]
        return self.constant(t.detach().to("cpu").data, self.stored.get(id(t)))

    def constant(self, value: Any, name: str | None = None, dtype: Any = None) -> str:
        """A constant of the graph, by a name of its own where none is given."""
        name = f"constant{len(self.constants)}" if name is None else name
        self.constants[name] = np.array(value, dtype, order="C")
        return name

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """One more node; the name of its result."""
        from onnx import helper

        name = f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def reshaped(self, name: str, sizes: tuple[int, ...]) -> str:
        return self.node("Reshape", name, self.constant(sizes, dtype=np.int64))


# --------------------------------------------------------------------------------------------------
# Rules: (writer, operator, inputs, output) to the name of the result


def _simple(kind: str) -> Callable[..., str]:
    """Operators that are one node of the same inputs."""
    return lambda to, f, xs, y: to.node(kind, *map(to.name, xs))


def _along(kind: str) -> Callable[..., str]:
    return lambda to, f, xs, y: to.node(kind, *map(to.name, xs), axis=f.axis)


def _pads(g: Geometry) -> list[int]:
    """Before each axis, then after it: as far as the last window reaches, which ceil mode may put beyond."""
    ends = [g.input_index(axis, g.output[axis] - 1, g.kernel[axis] - 1) + 1 for axis in range(g.rank)]
    return [before for before, _ in g.padding] + [max(0, end - n) for end, n in zip(ends, g.size)]


def _window(g: Geometry) -> dict[str, Any]:
    return dict(kernel_shape=g.kernel, strides=g.stride, pads=_pads(g))


def _conv(to: _Writer, f: Any, xs: tuple[Tensor, ...], y: Tensor) -> str:
    return to.node("Conv", *map(to.name, xs), dilations=f.g.dilation, group=f.groups, **_window(f.g))


def _conv_transpose(to: _Writer, f: Any, xs: tuple[Tensor, ...], y: Tensor) -> str:
    g, rank = f.g, f.g.rank
    after = [after for _, after in g.padding]
    last = [g.input_index(axis, g.output[axis] - 1, g.kernel[axis] - 1) for axis in range(rank)]
    window = _window(g) | dict(
        pads=[before for before, _ in g.padding] + after,
        output_padding=[n - 1 - end + cut for n, end, cut in zip(g.size, last, after)],
    )
    return to.node("ConvTranspose", *map(to.name, xs), dilations=g.dilation, group=f.groups, **window)


def _max_pool(to: _Writer, f: Any, xs: tuple[Tensor, ...], y: Tensor) -> str:
    return to.node("MaxPool", to.name(xs[0]), dilations=f.g.dilation, **_window(f.g))


def _avg_pool(to: _Writer, f: Any, xs: tuple[Tensor, ...], y: Tensor) -> str:
    """The mean over whole windows, padding included, times window over divisor."""
    mean = to.node("AveragePool", to.name(xs[0]), count_include_pad=1, **_window(f.g))
    divisor = Tensor(f.divisor).to("cpu").data
    return to.node("Mul", mean, to.constant(prod(f.g.kernel) / divisor, dtype=y.dtype))


def _resample(to: _Writer, f: Any, xs: tuple[Tensor, ...], y: Tensor) -> str:
    """A matrix (O, I) for each axis that changes."""
    name, letters = to.name(xs[0]), "abcdefgh"[: y.ndim]
    for axis, m in enumerate(f.maps, start=y.ndim - len(f.maps)):
        matrix = np.zeros((m.output, m.size), y.dtype)
        np.add.at(matrix, (m.outputs, m.inputs), m.weights)
        if m.output != m.size or not np.array_equal(matrix, np.eye(m.size)):
            equation = f"z{letters[axis]},{letters}->{letters.replace(letters[axis], 'z')}"
            name = to.node("Einsum", to.constant(matrix), name, equation=equation)
    return name


def _expand(to: _Writer, f: Any, xs: tuple[Tensor, ...], y: Tensor) -> str:
    return to.node("Expand", to.reshaped(to.name(xs[0]), f.via), to.constant(f.shape, dtype=np.int64))


def _sum(to: _Writer, f: Any, xs: tuple[Tensor, ...], y: Tensor) -> str:
    total = to.node("ReduceSum", to.name(xs[0]), to.constant(f.axes, dtype=np.int64))
    return to.reshaped(total, y.shape)


def _index(to: _Writer, f: Any, xs: tuple[Tensor, ...], y: Tensor) -> str:
    """Slices with steps forward, and single places, which are slices of one element."""
    parts = [part for part in f.key if part is not None]
    if not all(part is Ellipsis or type(part) in (int, slice) for part in parts):
        raise ValueError("save_onnx: indexing by arrays has no ONNX node here; only slices and single places have.")
    if Ellipsis in parts:
        at = parts.index(Ellipsis)
        parts[at : at + 1] = [slice(None)] * (xs[0].ndim - len(parts) + 1)
    ranges = [range(n)[p] if isinstance(p, slice) else range(n)[p:][:1] for p, n in zip(parts, xs[0].shape)]
    if any(r.step < 0 for r in ranges):
        raise ValueError("save_onnx: slices with a negative step have no ONNX node here.")
    listed = [[r.start for r in ranges], [r.stop for r in ranges], list(range(len(ranges))), [r.step for r in ranges]]
    taken = to.node("Slice", to.name(xs[0]), *(to.constant(numbers, dtype=np.int64) for numbers in listed))
    return to.reshaped(taken, y.shape)


def _pad(to: _Writer, f: Any, xs: tuple[Tensor, ...], y: Tensor) -> str:
    pads = [before for before, _ in f.pairs] + [after for _, after in f.pairs]
    return to.node("Pad", to.name(xs[0]), to.constant(pads, dtype=np.int64), to.constant(f.value, dtype=y.dtype))


def _activation(to: _Writer, f: Any, xs: tuple[Tensor, ...], y: Tensor) -> str:
    """One node, or two for x sigmoid(x); 'elu' with parameters (1, alpha, 1) is the one of the paper."""
    x = to.name(xs[0])
    if f.kind == "hardtanh":
        return to.node("Clip", x, *(to.constant(bound, dtype=y.dtype) for bound in f.parameters))
    if f.kind == "hardsigmoid":
        return to.node("HardSigmoid", x, alpha=1 / 6, beta=0.5)
    if f.kind == "silu":
        return to.node("Mul", x, to.node("Sigmoid", x))
    if f.kind == "elu" and f.parameters[::2] == (1.0, 1.0):
        return to.node("Elu", x, alpha=f.parameters[1])
    if f.kind == "softplus" and f.parameters[0] == 1:
        return to.node("Softplus", x)
    if f.kind == "hardswish":
        return to.node("HardSwish", x)
    if f.kind == "gelu":  # x (1 + erf(x / sqrt 2)) / 2: a node of its own has come with a later version

        def number(value: float) -> str:
            return to.constant(value, dtype=y.dtype)

        erf = to.node("Erf", to.node("Mul", x, number(0.5**0.5)))
        return to.node("Mul", to.node("Mul", x, number(0.5)), to.node("Add", erf, number(1)))
    raise ValueError(f"save_onnx: no ONNX node is known for {f.kind}{f.parameters or ''} (at its input {xs[0].shape}).")


def _normalise(to: _Writer, f: Any, xs: tuple[Tensor, ...], y: Tensor) -> str:
    """w (x - mean) / sqrt(var + eps) + b, node by node: ONNX's own norms have fixed axes."""
    x, weight, bias = map(to.name, xs)
    axes = to.constant(f.axes, dtype=np.int64)
    centred = to.node("Sub", x, to.node("ReduceMean", x, axes))
    var = to.node("ReduceMean", to.node("Mul", centred, centred), axes)
    deviation = to.node("Sqrt", to.node("Add", var, to.constant(f.eps, dtype=y.dtype)))
    return to.node("Add", to.node("Mul", to.node("Div", centred, deviation), weight), bias)


_RULES: dict[type[Function], Callable[..., str]] = {
    **{
        getattr(elementwise, kind): _simple(kind)
        for kind in ("Add", "Sub", "Mul", "Div", "Pow", "Neg", "Exp", "Log", "Sqrt", "Abs", "Tanh", "Sigmoid")
    },
    elementwise.Maximum: _simple("Max"),
    elementwise.Minimum: _simple("Min"),
    activation.Relu: _simple("Relu"),
    activation.Erf: _simple("Erf"),
    activation.Activation: _activation,
    activation.Softmax: _along("Softmax"),
    activation.LogSoftmax: _along("LogSoftmax"),
    broadcast.Expand: _expand,
    broadcast.SumAxes: _sum,
    conv.Conv: _conv,
    conv.ConvInput: _conv_transpose,
    convert.Clone: _simple("Identity"),
    matmul.MatMul: _simple("MatMul"),
    norm.Normalise: _normalise,
    pad.ConstantPad: _pad,
    pool.AvgPool: _avg_pool,
    pool.MaxPool: _max_pool,
    resample.Resample: _resample,
    shape.Cat: _along("Concat"),
    shape.Index: _index,
    shape.Permute: lambda to, f, xs, y: to.node("Transpose", to.name(xs[0]), perm=f.axes),
    shape.Reshape: lambda to, f, xs, y: to.reshaped(to.name(xs[0]), y.shape),
}
