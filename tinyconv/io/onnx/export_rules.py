"""Operators as nodes of ONNX. A rule takes (graph, operator, inputs, output) and gives the name of the result."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from tinyconv.autograd import Function, Tensor
from tinyconv.geometry import Geometry, transposed_output_size
from tinyconv.io.onnx.node import DTYPES, Node
from tinyconv.io.onnx.resize import resize_map
from tinyconv.io.onnx.writer import Graph, NoNode, Rule, Tensors
from tinyconv.ops import (
    activation,
    broadcast,
    compare,
    conv,
    convert,
    elementwise,
    matmul,
    norm,
    pad,
    pool,
    reduce,
    resample,
    shape,
)

OPSET = 18  # of 2022, which onnxruntime 1.15 and later reads
_FIRST, _LAST = np.iinfo(np.int64).min, np.iinfo(np.int64).max


class BatchNormed(Function):
    """What stands for the operators of a batch norm in evaluation: (x, weight, bias, mean, variance) to y."""

    def __init__(self, eps: float) -> None:
        self.eps = eps


def _simple(kind: str, *names: str) -> Rule:
    """Operators that are one node of the same inputs; ``names`` are attributes that both have."""
    return lambda to, f, xs, y: to.node(kind, *map(to.name, xs), **{name: getattr(f, name) for name in names})


def _operands(to: Graph, xs: Tensors, y: Tensor) -> Tensors:
    """What was expanded to the shape of the other operand, for its gradient, as it was before: a node broadcasts."""
    before = tuple(to.narrow.get(id(x.data), x) for x in xs)
    return before if np.broadcast_shapes(*(x.shape for x in before)) == y.shape else xs


def _broadcast(kind: str) -> Rule:
    return lambda to, f, xs, y: to.node(kind, *map(to.name, _operands(to, xs, y)))


def _number(to: Graph, value: Any, y: Tensor) -> str:
    """A constant of the type of y."""
    return to.constant(value, dtype=y.dtype)


# Windows


def _pads(g: Geometry) -> list[int]:
    """Before each axis, then after it: as far as the last window reaches, which ceil mode may put beyond."""
    ends = [g.input_index(axis, g.output[axis] - 1, g.kernel[axis] - 1) + 1 for axis in range(g.rank)]
    return [before for before, _ in g.padding] + [max(0, end - n) for end, n in zip(ends, g.size)]


def _window(g: Geometry) -> dict[str, Any]:
    return dict(kernel_shape=g.kernel, strides=g.stride, pads=_pads(g))


def _conv(to: Graph, f: Any, xs: Tensors, y: Tensor) -> str:
    return to.node("Conv", *map(to.name, xs), dilations=f.g.dilation, group=f.groups, **_window(f.g))


def _conv_transpose(to: Graph, f: Any, xs: Tensors, y: Tensor) -> str:
    g, rank = f.g, f.g.rank
    after = [after for _, after in g.padding]
    last = [g.input_index(axis, g.output[axis] - 1, g.kernel[axis] - 1) for axis in range(rank)]
    window = _window(g) | dict(
        pads=[before for before, _ in g.padding] + after,
        output_padding=[n - 1 - end + cut for n, end, cut in zip(g.size, last, after)],
    )
    return to.node("ConvTranspose", *map(to.name, xs), dilations=g.dilation, group=f.groups, **window)


def _add(to: Graph, f: Any, xs: Tensors, y: Tensor) -> str:
    """The bias that is added to a convolution, and to nothing else, becomes its third input."""
    xs = _operands(to, xs, y)
    name, bias = to.name(xs[0]), to.vectors.get(id(xs[1].data))
    maker = to.makers.get(name)
    alone = to.uses[id(xs[0].data)] == 1 and y.ndim > 2 and xs[1].shape == (y.shape[1], *[1] * (y.ndim - 2))
    if bias and maker is not None and maker.op_type in ("Conv", "ConvTranspose") and len(maker.input) == 2 and alone:
        maker.input.append(bias)
        return name
    return to.node("Add", name, to.name(xs[1]))


def _max_pool(to: Graph, f: Any, xs: Tensors, y: Tensor) -> str:
    name = to.node("MaxPool", to.name(xs[0]), dilations=f.g.dilation, **_window(f.g))
    indices = f"{name}_indices"
    to.nodes[-1].output.append(indices)
    to.unpooled[id(f.kept[0])] = indices, f.g
    return name


def _unpool(to: Graph, f: Any, xs: Tensors, y: Tensor) -> str:
    """The indices of ONNX count through the whole batch, so that they fit only where all sizes come back."""
    indices, g = to.unpooled.get(id(f.indices), ("", None))
    if g is None or g.size != f.size or max(g.dilation) > 1:
        raise NoNode("save_onnx: unpooling has a node only for the indices and the size of a pooling of the model.")
    inferred = tuple(transposed_output_size(n, k, s, p) for n, k, s, p in zip(g.output, g.kernel, g.stride, g.padding))
    size = [] if inferred == f.size else [to.integers(*y.shape)]
    window = dict(kernel_shape=g.kernel, strides=g.stride, pads=[n for part in zip(*g.padding) for n in part])
    return to.node("MaxUnpool", to.name(xs[0]), indices, *size, **window)


def _avg_pool(to: Graph, f: Any, xs: Tensors, y: Tensor) -> str:
    """The mean over whole windows, padding included; where it is not that, times window over divisor."""
    mean = to.node("AveragePool", to.name(xs[0]), count_include_pad=1, **_window(f.g))
    factor = prod(f.g.kernel) / Tensor(f.divisor).to("cpu").data
    return mean if (factor == 1).all() else to.node("Mul", mean, _number(to, factor, y))


#: What Resize can be, of which one may be the map that is to be written.
_RESIZES = [
    dict(mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
    dict(mode="nearest", coordinate_transformation_mode="half_pixel", nearest_mode="round_prefer_ceil"),
    dict(mode="linear", coordinate_transformation_mode="half_pixel"),
    dict(mode="linear", coordinate_transformation_mode="align_corners"),
]


def _is_resize(attributes: dict[str, Any], maps: Any) -> bool:
    """The node with these attributes makes on each axis what the maps make."""
    node = Node("Resize", "", (), (), attributes, OPSET)
    for m in maps:
        made = resize_map(node, m.size, m.output, np.float32(m.output / m.size), m.weights.dtype.type)
        if not np.allclose(_matrix(made), _matrix(m), rtol=0, atol=1e-6):
            return False
    return True


def _matrix(m: Any) -> Any:
    matrix = np.zeros((m.output, m.size), m.weights.dtype)
    np.add.at(matrix, (m.outputs, m.inputs), m.weights)
    return matrix


def _resample(to: Graph, f: Any, xs: Tensors, y: Tensor) -> str:
    """The mean of whole images, or Resize, where it is one of them; else a matrix (O, I) for each axis that changes."""
    if y.ndim == 2 + len(f.maps):
        if all(m.output == 1 and np.allclose(_matrix(m), 1 / m.size, atol=1e-6) for m in f.maps):
            return to.node("GlobalAveragePool", to.name(xs[0]))
        attributes = next((each for each in _RESIZES if _is_resize(each, f.maps)), None)
        if attributes is not None:
            sizes, axes = to.integers(*(m.output for m in f.maps)), list(range(2, y.ndim))
            return to.node("Resize", to.name(xs[0]), "", "", sizes, axes=axes, **attributes)
    name, letters = to.name(xs[0]), "abcdefgh"[: y.ndim]
    for axis, m in enumerate(f.maps, start=y.ndim - len(f.maps)):
        matrix = _matrix(m)
        if m.output != m.size or not np.array_equal(matrix, np.eye(m.size)):
            equation = f"z{letters[axis]},{letters}->{letters.replace(letters[axis], 'z')}"
            name = to.node("Einsum", _number(to, matrix, y), name, equation=equation)
    return name


# Shapes


def _reshape(to: Graph, f: Any, xs: Tensors, y: Tensor) -> str:
    if xs[0].ndim == 1 and id(xs[0].data) in to.stored:
        to.vectors[id(y.data)] = to.name(xs[0])
    return to.reshaped(to.name(xs[0]), y.shape)


def _expand(to: Graph, f: Any, xs: Tensors, y: Tensor) -> str:
    """A size of 1 keeps that of the input."""
    to.narrow[id(y.data)] = xs[0]
    if xs[0].shape == y.shape:
        return to.name(xs[0])
    name = to.name(xs[0]) if xs[0].shape == f.via else to.reshaped(to.name(xs[0]), f.via)
    return to.node("Expand", name, to.integers(*(1 if n == m else m for n, m in zip(f.via, f.shape))))


def _sum(to: Graph, f: Any, xs: Tensors, y: Tensor) -> str:
    total = to.node("ReduceSum", to.name(xs[0]), to.integers(*f.axes), keepdims=int(y.ndim == xs[0].ndim))
    fewer = (xs[0].ndim, xs[0].ndim - len(f.axes))
    return total if y.ndim in fewer else to.reshaped(total, y.shape)


def _index(to: Graph, f: Any, xs: Tensors, y: Tensor) -> str:
    """Slices, and single places, which are slices of one element; then arrays."""
    key = list(f.key)
    if any(part is Ellipsis for part in key):
        at = next(i for i, part in enumerate(key) if part is Ellipsis)
        taken = sum(part is not None for part in key) - 1
        key[at : at + 1] = [slice(None)] * (xs[0].ndim - taken)
    parts = [part for part in key if part is not None]
    if any(isinstance(part, np.ndarray) for part in parts):
        if len(parts) < len(key) or any(type(part) is int for part in parts):
            raise NoNode("save_onnx: indexing by arrays beside None has no ONNX node here. Index twice.")
        return _gather(to, xs[0], parts)
    name = _slice(to, to.name(xs[0]), [slice(p, p + 1 or None) if type(p) is int else p for p in parts], xs[0].shape)
    return name if all(isinstance(part, slice) for part in key) else to.reshaped(name, y.shape)


def _slice(to: Graph, name: str, parts: list[Any], sizes: tuple[int, ...]) -> str:
    """The axes that are cut. An end that is not given is none in the file either: it may be another one time."""
    starts, ends, axes, steps = [], [], [], []
    for axis, (part, n) in enumerate(zip(parts, sizes)):
        if isinstance(part, np.ndarray) or part == slice(None):
            continue
        step = 1 if part.step is None else part.step
        if step < 0 and part.start is not None and part.start < -n:
            raise NoNode(f"save_onnx: a slice that begins at {part.start} of {n} and goes back has no ONNX node.")
        starts.append(part.start if part.start is not None else 0 if step > 0 else _LAST)
        ends.append(part.stop if part.stop is not None else _LAST if step > 0 else _FIRST)
        axes.append(axis)
        steps.append(step)
    if not axes:
        return name
    return to.node("Slice", name, *(to.integers(*numbers) for numbers in (starts, ends, axes, steps)))


def _gather(to: Graph, x: Tensor, parts: list[Any]) -> str:
    """One array among slices: Gather; an array for each axis, one of them computed: GatherElements; arrays that are
    constants, on the first axes: GatherND.
    """
    arrays = {axis: part for axis, part in enumerate(parts) if isinstance(part, np.ndarray)}
    name = _slice(to, to.name(x), parts, x.shape)
    computed = [axis for axis, array in arrays.items() if id(array) in to.depends]
    if len(arrays) == 1:
        ((axis, array),) = arrays.items()
        if array.dtype.kind == "b" and (array.ndim > 1 or computed):
            raise NoNode("save_onnx: indexing by a mask that is computed, or has several axes, has no ONNX node here.")
        index = to.integers(*np.flatnonzero(array)) if array.dtype.kind == "b" else _index_name(to, array)
        return to.node("Gather", name, index, axis=axis)
    if len(arrays) == x.ndim and len(computed) == 1:
        (axis,) = computed
        at = arrays[axis]
        places = np.indices(at.shape)
        if all(a == axis or not (array - places[a]).any() for a, array in arrays.items()):
            return to.node("GatherElements", name, to.array(at), axis=axis)
    if computed or list(arrays) != list(range(len(arrays))) or any(a.dtype.kind == "b" for a in arrays.values()):
        raise NoNode("save_onnx: indexing by these arrays together has no ONNX node here. Index one after the other.")
    places = np.stack(np.broadcast_arrays(*arrays.values()), -1)
    return to.node("GatherND", name, to.constant(places, dtype=np.int64))


def _index_name(to: Graph, array: Any) -> str:
    return to.array(array) if id(array) in to.depends else to.constant(array, dtype=np.int64)


def _flip(to: Graph, f: Any, xs: Tensors, y: Tensor) -> str:
    parts = [slice(None, None, -1 if axis in f.axes else None) for axis in range(y.ndim)]
    return _slice(to, to.name(xs[0]), parts, y.shape)


def _roll(to: Graph, f: Any, xs: Tensors, y: Tensor) -> str:
    """For each axis the end, then what was before it."""
    name = to.name(xs[0])
    for shift, axis in zip(f.shifts, f.axes):
        if at := -shift % y.shape[axis]:
            whole = [slice(None)] * axis
            parts = [_slice(to, name, [*whole, cut], y.shape) for cut in (slice(at, None), slice(0, at))]
            name = to.node("Concat", *parts, axis=axis)
    return name


def _pad(to: Graph, f: Any, xs: Tensors, y: Tensor) -> str:
    pads = [before for before, _ in f.pairs] + [after for _, after in f.pairs]
    return to.node("Pad", to.name(xs[0]), to.integers(*pads), _number(to, f.value, y))


def _cast(to: Graph, f: Any, xs: Tensors, y: Tensor) -> str:
    return to.node("Cast", to.name(xs[0]), to=next(number for number, dtype in DTYPES.items() if dtype == y.dtype))


# Arithmetic


def _compare(to: Graph, f: Any, xs: Tensors, y: Tensor) -> str:
    kinds = {"less": "Less", "less_equal": "LessOrEqual", "greater": "Greater", "greater_equal": "GreaterOrEqual"}
    kinds |= {"equal": "Equal", "not_equal": "Equal"}
    kinds |= {"logical_and": "And", "logical_or": "Or", "logical_xor": "Xor"}
    names = [to.name(x) for x in _operands(to, xs, y)]
    if f.kind.startswith("logical") and any(x.dtype.kind != "b" for x in xs):
        raise NoNode(f"save_onnx: {f.kind} has an ONNX node for bools only. Compare with 0 first.")
    name = to.node(kinds[f.kind], *names)
    return to.node("Not", name) if f.kind == "not_equal" else name


def _where(to: Graph, f: Any, xs: Tensors, y: Tensor) -> str:
    condition = Tensor(f.condition)
    return to.node("Where", to.array(f.condition), *map(to.name, _operands(to, (condition, *xs), y)[1:]))


def _quotient(to: Graph, f: Any, xs: Tensors, y: Tensor) -> str:
    if y.dtype.kind != "f":
        raise NoNode(f"save_onnx: {f.name} has an ONNX node for floats only.")
    quotient = to.node("Div", *map(to.name, xs))
    return to.node("Floor", quotient) if isinstance(f, elementwise.FloorDiv) else _truncated(to, quotient)


def _truncated(to: Graph, name: str) -> str:
    return to.node("Mul", to.node("Sign", name), to.node("Floor", to.node("Abs", name)))


def _beside_one(kind: str, first: str) -> Rule:
    """log(1 + x) and e^x - 1, which have no node: near 0 they lose digits."""

    def rule(to: Graph, f: Any, xs: Tensors, y: Tensor) -> str:
        one, x = _number(to, 1, y), to.name(xs[0])
        return to.node(kind, to.node("Add", x, one)) if first == "Add" else to.node("Sub", to.node(kind, x), one)

    return rule


def _extreme(kind: str) -> Rule:
    return lambda to, f, xs, y: to.node(kind, to.name(xs[0]), to.integers(*f.axes))


def _cumsum(to: Graph, f: Any, xs: Tensors, y: Tensor) -> str:
    return to.node("CumSum", to.name(xs[0]), to.constant(f.axis, dtype=np.int64))


def _arg(to: Graph, f: Any, xs: Tensors, y: Tensor) -> str:
    kind, x = {"argmax": "ArgMax", "argmin": "ArgMin"}[f.kind], to.name(xs[0])
    if f.axis is not None:
        return to.node(kind, x, axis=f.axis, keepdims=int(f.keepdim))
    return to.reshaped(to.node(kind, to.reshaped(x, (-1,)), axis=0), y.shape)


def _activation(to: Graph, f: Any, xs: Tensors, y: Tensor) -> str:
    """One node where there is one; gelu's has come with a later version."""
    x, numbers = to.name(xs[0]), f.parameters
    if f.kind == "hardtanh":
        return to.node("Clip", x, *(_number(to, bound, y) for bound in numbers))
    if f.kind == "hardsigmoid":
        return to.node("HardSigmoid", x, alpha=1 / 6, beta=0.5)
    if f.kind == "hardswish":
        return to.node("HardSwish", x)
    if f.kind == "silu":
        return to.node("Mul", x, to.node("Sigmoid", x))
    if f.kind == "elu":  # a x where x > 0, else b (e^(c x) - 1)
        a, b, c = numbers
        if (a, c) == (1, 1):
            return to.node("Elu", x, alpha=b)
        if a == 1 and abs(b * c - 1) < 1e-12:
            return to.node("Celu", x, alpha=b)
        if c == 1:
            return to.node("Selu", x, alpha=b / a, gamma=a)
    if f.kind == "softplus":
        beta, threshold = (_number(to, n, y) for n in numbers)
        steep = x if numbers[0] == 1 else to.node("Mul", x, beta)
        soft = to.node("Softplus", steep) if numbers[0] == 1 else to.node("Div", to.node("Softplus", steep), beta)
        return soft if numbers[1] >= 20 else to.node("Where", to.node("Greater", steep, threshold), x, soft)
    if f.kind == "logsigmoid":
        return to.node("Neg", to.node("Softplus", to.node("Neg", x)))
    half = to.node("Mul", x, _number(to, 0.5, y))
    if f.kind == "gelu":  # x (1 + erf(x / sqrt 2)) / 2
        bent = to.node("Erf", to.node("Mul", x, _number(to, 0.5**0.5, y)))
    elif f.kind == "gelu-tanh":  # x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) / 2
        cube = to.node("Mul", to.node("Mul", to.node("Mul", x, x), x), _number(to, 0.044715, y))
        bent = to.node("Tanh", to.node("Mul", to.node("Add", x, cube), _number(to, (2 / np.pi) ** 0.5, y)))
    else:
        raise NoNode(f"save_onnx: no ONNX node is known for {f.kind}{numbers or ''} (at its input {xs[0].shape}).")
    return to.node("Mul", half, to.node("Add", bent, _number(to, 1, y)))


# Norms


def _normalise(to: Graph, f: Any, xs: Tensors, y: Tensor) -> str:
    """w (x - mean) / sqrt(var + eps) + b, node by node: ONNX's own norms have fixed axes."""
    x, weight, bias = map(to.name, xs)
    axes = to.integers(*f.axes)
    centred = to.node("Sub", x, to.node("ReduceMean", x, axes))
    var = to.node("ReduceMean", to.node("Mul", centred, centred), axes)
    deviation = to.node("Sqrt", to.node("Add", var, _number(to, f.eps, y)))
    return to.node("Add", to.node("Mul", to.node("Div", centred, deviation), weight), bias)


def _batch_norm(to: Graph, f: Any, xs: Tensors, y: Tensor) -> str:
    names = [to.name(x) for x in xs]
    to.weights.update(names[3:])  # the running statistics, which are buffers
    return to.node("BatchNormalization", *names, epsilon=f.eps)


RULES: dict[type[Function], Rule] = {
    **{
        getattr(elementwise, kind): _simple(kind)
        for kind in (
            *("Neg", "Exp", "Log", "Sqrt", "Abs", "Sin", "Cos", "Tanh", "Sigmoid", "Sign", "Floor", "Ceil", "Round"),
        )
    },
    **{getattr(elementwise, kind): _broadcast(kind) for kind in ("Sub", "Mul", "Div", "Pow")},
    elementwise.Add: _add,
    elementwise.Expm1: _beside_one("Exp", "Exp"),
    elementwise.FloorDiv: _quotient,
    elementwise.Log1p: _beside_one("Log", "Add"),
    elementwise.Maximum: _broadcast("Max"),
    elementwise.Minimum: _broadcast("Min"),
    elementwise.Trunc: lambda to, f, xs, y: _truncated(to, to.name(xs[0])),
    elementwise.TruncDiv: _quotient,
    elementwise.Where: _where,
    activation.Activation: _activation,
    activation.Erf: _simple("Erf"),
    activation.LogSoftmax: _simple("LogSoftmax", "axis"),
    activation.Relu: _simple("Relu"),
    activation.Slopes: lambda to, f, xs, y: to.node("LeakyRelu", to.name(xs[0]), alpha=f.slope),
    activation.Softmax: _simple("Softmax", "axis"),
    broadcast.Expand: _expand,
    broadcast.SumAxes: _sum,
    compare.Compare: _compare,
    conv.Conv: _conv,
    conv.ConvInput: _conv_transpose,
    convert.Cast: _cast,
    convert.Clone: _simple("Identity"),
    convert.ToDevice: _simple("Identity"),
    matmul.MatMul: _simple("MatMul"),
    norm.Normalise: _normalise,
    BatchNormed: _batch_norm,
    pad.ConstantPad: _pad,
    pool.AvgPool: _avg_pool,
    pool.MaxPool: _max_pool,
    pool.Unpool: _unpool,
    reduce.Amax: _extreme("ReduceMax"),
    reduce.Amin: _extreme("ReduceMin"),
    reduce.Arg: _arg,
    reduce.Cumsum: _cumsum,
    resample.Resample: _resample,
    shape.Cat: _simple("Concat", "axis"),
    shape.Flip: _flip,
    shape.Index: _index,
    shape.Permute: lambda to, f, xs, y: to.node("Transpose", to.name(xs[0]), perm=f.axes),
    shape.Reshape: _reshape,
    shape.Roll: _roll,
}
