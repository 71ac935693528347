"""ONNX files read: every operator beside onnxruntime, networks of torch and of our own, and hostile files."""

from __future__ import annotations

import pickle
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn as tnn

from test_io import FUZZ, damaged
from tinyconv import Tensor, io

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnx.reference")
onnxruntime = pytest.importorskip("onnxruntime")
helper = onnx.helper

Rng = np.random.Generator
#: Inputs (None for one that is left out), attributes, and how many outputs of the node are asked for.
Case = tuple[list[Any], dict[str, Any], int]


def network(
    nodes: list[Any],
    inputs: dict[str, Any],
    outputs: list[str],
    weights: dict[str, Any] | None = None,
    opset: int = 18,
    **options: Any,
) -> Any:
    """A model of these nodes; ``inputs`` and ``weights`` are arrays."""
    declared = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape) for n, x in inputs.items()
    ]
    results = [onnx.ValueInfoProto(name=name) for name in outputs]
    initialisers = [onnx.numpy_helper.from_array(w, n) for n, w in (weights or {}).items()]
    graph = helper.make_graph(nodes, "test", declared, results, initialisers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8, **options)


def run(model: Any, inputs: dict[str, Any]) -> list[Any]:
    """What onnxruntime makes of it, its optimisations off."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, inputs))


def agree(model: Any, inputs: dict[str, Any], path: Path, tolerance: float = 1e-5) -> None:
    onnx.save(model, str(path))
    found = io.load_onnx(path)(*map(Tensor, inputs.values()))
    for ours, theirs in zip(found if isinstance(found, tuple) else (found,), run(model, inputs), strict=True):
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
        scale = np.abs(theirs[np.isfinite(theirs)]).max(initial=1.0) if theirs.dtype.kind == "f" else 0
        np.testing.assert_allclose(ours.data, theirs, rtol=tolerance, atol=tolerance * scale)


# --------------------------------------------------------------------------------------------------
# Every operator, with drawn attributes


def floats(rng: Rng, *shape: int) -> Any:
    return rng.standard_normal(shape, np.float32)


def ints(*values: int) -> Any:
    return np.array(values, np.int64)


def some(rng: Rng, low: int, high: int, count: int) -> list[int]:
    return [int(n) for n in rng.integers(low, high + 1, count)]


def window(rng: Rng, rank: int, kernel: list[int], dilated: bool = True) -> dict[str, Any]:
    """Attributes of a window map: strides, dilations, and padding of one kind or the other."""
    attributes: dict[str, Any] = {"kernel_shape": kernel, "strides": some(rng, 1, 3, rank)}
    if dilated:
        attributes["dilations"] = some(rng, 1, 2, rank)
    kind = rng.integers(5)
    if kind < 3:
        attributes["pads"] = [int(rng.integers(0, k)) for k in kernel * 2]
    elif kind == 3:
        attributes.update(auto_pad="VALID")
    else:
        attributes.update(auto_pad=("SAME_UPPER", "SAME_LOWER")[int(rng.integers(2))])
        attributes["strides"] = [min(s, k) for s, k in zip(attributes["strides"], kernel)]  # more is refused there
        attributes["dilations"] = [1] * rank
    return attributes


def conv(rng: Rng) -> Case:
    rank, groups = int(rng.integers(1, 4)), int(rng.integers(1, 3))
    kernel = some(rng, 1, 3, rank)
    x, w = floats(rng, 2, 2 * groups, *some(rng, 6, 8, rank)), floats(rng, 3 * groups, 2, *kernel)
    return [x, w, floats(rng, 3 * groups)][: int(rng.integers(2, 4))], window(rng, rank, kernel) | {"group": groups}, 1


def conv_transpose(rng: Rng) -> Case:
    rank, groups = int(rng.integers(1, 4)), int(rng.integers(1, 3))
    kernel, strides, dilations = some(rng, 2, 3, rank), some(rng, 1, 3, rank), some(rng, 1, 2, rank)
    x, w = floats(rng, 2, 2 * groups, *some(rng, 3, 5, rank)), floats(rng, 2 * groups, 3, *kernel)
    attributes: dict[str, Any] = {"group": groups, "strides": strides, "dilations": dilations, "kernel_shape": kernel}
    kind = rng.integers(4)
    if kind == 0:
        attributes["output_shape"] = [(n - 1) * s + 1 for n, s in zip(x.shape[2:], strides)]
        attributes["auto_pad"] = ("NOTSET", "SAME_UPPER")[int(rng.integers(2))]
    elif kind == 1:
        attributes["strides"] = [min(s, k) for s, k in zip(strides, kernel)]
        attributes["auto_pad"] = ("SAME_UPPER", "SAME_LOWER")[int(rng.integers(2))]
    else:
        attributes["pads"] = some(rng, 0, 1, 2 * rank)
        attributes["output_padding"] = [int(rng.integers(0, s)) for s in strides]
    return [x, w, floats(rng, 3 * groups)], attributes, 1


def max_pool(rng: Rng) -> Case:
    rank = int(rng.integers(1, 4))
    attributes = window(rng, rank, some(rng, 2, 3, rank)) | {"ceil_mode": int(rng.integers(2))}
    return [floats(rng, 2, 3, *some(rng, 5, 8, rank))], attributes, int(rng.integers(1, 3))


def average_pool(rng: Rng) -> Case:
    rank = int(rng.integers(1, 4))
    attributes = window(rng, rank, some(rng, 2, 3, rank), dilated=False)
    attributes |= {"ceil_mode": int(rng.integers(2))}
    attributes |= [{}, {"count_include_pad": 0}, {"count_include_pad": 1}][rng.integers(3)]
    return [floats(rng, 2, 3, *some(rng, 5, 8, rank))], attributes, 1


def max_unpool(rng: Rng) -> Case:
    x = floats(rng, 2, 3, 4, 2)
    at = rng.permuted(np.tile(np.arange(32), (6, 1)), axis=1)[:, :8] + np.arange(6)[:, None] * 32
    return [x, at.reshape(x.shape)], {"kernel_shape": [2, 2], "strides": [2, 2]}, 1


def batch_norm(rng: Rng) -> Case:
    x = floats(rng, 2, 3, *some(rng, 2, 4, int(rng.integers(0, 4))))
    w, b, mean = floats(rng, 3), floats(rng, 3), floats(rng, 3)
    return [x, w, b, mean, rng.uniform(0.5, 2, 3).astype(np.float32)], {"epsilon": float(rng.uniform(1e-5, 0.1))}, 1


def instance_norm(rng: Rng) -> Case:
    x = floats(rng, 2, 3, *some(rng, 2, 4, int(rng.integers(1, 4))))
    return [x, floats(rng, 3), floats(rng, 3)], {"epsilon": float(rng.uniform(1e-5, 0.1))}, 1


def layer_norm(rng: Rng) -> Case:
    axis = int(rng.integers(-2, 3))
    x = floats(rng, 2, 3, 4)
    shape = x.shape[axis:]
    return [x, floats(rng, *shape), floats(rng, *shape)][: int(rng.integers(2, 4))], {"axis": axis}, 1


def lrn(rng: Rng) -> Case:
    numbers = {name: float(rng.uniform(0.3, 2)) for name in ("alpha", "beta", "bias")}
    return [floats(rng, 2, 7, 3, 3)], {"size": int(rng.choice([1, 3, 5])), **numbers}, 1


def gemm(rng: Rng) -> Case:
    a_turned, b_turned = some(rng, 0, 1, 2)
    a = floats(rng, *((4, 3) if a_turned else (3, 4)))
    b = floats(rng, *((5, 4) if b_turned else (4, 5)))
    c = floats(rng, *[(5,), (3, 1), (1, 5), ()][int(rng.integers(4))])
    numbers = {"alpha": float(rng.uniform(0.5, 2)), "beta": float(rng.uniform(0.5, 2))}
    return [a, b, c][: int(rng.integers(2, 4))], {"transA": a_turned, "transB": b_turned, **numbers}, 1


def matmul(rng: Rng) -> Case:
    a, b = [((3, 4), (4, 5)), ((2, 3, 4), (4, 5)), ((2, 1, 3, 4), (6, 4, 2)), ((4,), (4, 3)), ((2, 3, 4), (4,))][
        rng.integers(5)
    ]
    return [floats(rng, *a), floats(rng, *b)], {}, 1


def unary(low: float = -3.0, high: float = 3.0, **numbers: tuple[float, float]) -> Callable[[Rng], Case]:
    """Of any shape, with attributes between bounds."""

    def draw(rng: Rng) -> Case:
        x = rng.uniform(low, high, some(rng, 1, 4, int(rng.integers(0, 5)))).astype(np.float32)
        return [np.asarray(x)], {name: float(rng.uniform(*bounds)) for name, bounds in numbers.items()}, 1

    return draw


def binary(low: float = -3.0, high: float = 3.0, kind: str = "float32") -> Callable[[Rng], Case]:
    def draw(rng: Rng) -> Case:
        a, b = [((2, 3, 4), (3, 1)), ((3,), (2, 3)), ((), (2, 2)), ((2, 3), (2, 3))][rng.integers(4)]
        return [np.asarray(rng.uniform(low, high, shape)).astype(kind) for shape in (a, b)], {}, 1

    return draw


def logical(rng: Rng) -> Case:
    return [rng.integers(0, 2, shape).astype(np.bool_) for shape in ((2, 3), (3,))], {}, 1


def several(rng: Rng) -> Case:
    return [floats(rng, *shape) for shape in ((2, 3), (3,), (4, 1, 3))[: int(rng.integers(1, 4))]], {}, 1


def along(least: int = -3) -> Callable[[Rng], Case]:
    return lambda rng: ([floats(rng, 2, 3, 4)], {"axis": int(rng.integers(least, 3))}, 1)


def reduction(old: bool = False) -> Callable[[Rng], Case]:
    """Over axes that are an input, or an attribute in the older versions."""

    def draw(rng: Rng) -> Case:
        axes = [int(a) for a in rng.choice(3, rng.integers(0, 4), replace=False) - 3 * rng.integers(2)]
        x, keep = rng.uniform(0.5, 2, (2, 3, 4)).astype(np.float32), {"keepdims": int(rng.integers(2))}
        if not axes:
            return [x], keep, 1
        return ([x], keep | {"axes": axes}, 1) if old else ([x, ints(*axes)], keep, 1)

    return draw


def whole_sum(rng: Rng) -> Case:
    return [rng.integers(-9, 9, (2, 3)).astype(np.int32), ints(1)], {}, 1


def reshape(rng: Rng) -> Case:
    x = floats(rng, 2, 3, 4)
    return [x, ints(*[(0, -1), (4, 3, 2), (-1,), (2, 0, 2, 2)][rng.integers(4)])], {}, 1


def split(rng: Rng) -> Case:
    if rng.integers(2):
        return [floats(rng, 2, 5), ints(1, 3, 1)], {"axis": 1}, 3
    return [floats(rng, 2, 5)], {"axis": -1, "num_outputs": 2}, 2


def sliced(rng: Rng) -> Case:
    x, far = floats(rng, 6, 7), np.iinfo(np.int64)
    starts, ends = ints(*rng.integers(-8, 8, 2)), ints(*rng.integers(-8, 8, 2))
    steps = ints(*rng.choice([-2, -1, 1, 2], 2))
    ends = np.where(rng.integers(0, 3, 2) == 0, np.where(steps < 0, far.min, far.max), ends)
    return [x, starts, ends, ints(1, -2), steps], {}, 1


def pad(mode: str) -> Callable[[Rng], Case]:
    def draw(rng: Rng) -> Case:
        rank = int(rng.integers(1, 4))
        amounts = [0, 0, *some(rng, 0, 2, rank), 0, 0, *some(rng, 0, 2, rank)]
        x = floats(rng, 2, 3, *some(rng, 3, 4, rank))
        if mode != "constant":
            return [x, ints(*amounts)], {"mode": mode}, 1
        return [x, ints(*[n - int(rng.integers(0, 2)) * (n == 0) for n in amounts]), np.float32(rng.normal())], {}, 1

    return draw


def pad_axes(rng: Rng) -> Case:
    return [floats(rng, 2, 3, 4), ints(1, 2, 0, 1), np.float32(2), ints(-1, 0)], {}, 1


def resize(mode: str, by_size: bool) -> Callable[[Rng], Case]:
    def draw(rng: Rng) -> Case:
        size = some(rng, 3, 6, 2)
        x = floats(rng, 1, 2, *size)
        places = ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"]
        attributes: dict[str, Any] = {"mode": mode, "coordinate_transformation_mode": str(rng.choice(places))}
        if mode == "nearest":
            attributes["nearest_mode"] = str(rng.choice(["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]))
        if mode == "cubic":
            attributes["cubic_coeff_a"] = float(rng.choice([-0.5, -0.75]))
        if by_size:
            return [x, None, None, ints(1, 2, *some(rng, 2, 12, 2))], attributes, 1
        scales = [1, 1, *rng.choice([0.5, 1, 1.5, 2, 3], 2)]
        return [x, None, np.array(scales, np.float32)], attributes, 1

    return draw


def gathered(rng: Rng) -> Case:
    index = rng.integers(-3, 3, [(), (4,), (2, 2)][rng.integers(3)])
    return [floats(rng, 3, 3, 3), np.asarray(index, np.int64)], {"axis": int(rng.integers(-3, 3))}, 1


def grid(rng: Rng) -> Case:
    modes, borders = ["linear", "nearest", "cubic"], ["zeros", "border", "reflection"]
    points = rng.uniform(-1.3, 1.3, (2, 4, 3, 2)).astype(np.float32)
    attributes = {"mode": str(rng.choice(modes)), "padding_mode": str(rng.choice(borders))}
    return [floats(rng, 2, 3, 5, 6), points], attributes | {"align_corners": int(rng.integers(2))}, 1


def fixed(*inputs: Any, outputs: int = 1, **attributes: Any) -> Callable[[Rng], Case]:
    return lambda rng: ([np.asarray(x) for x in inputs], attributes, outputs)


RAMP = np.arange(2 * 8 * 4 * 6, dtype=np.float32).reshape(2, 8, 4, 6)

#: Operator, version of the operators, and how a case is drawn.
OPERATORS: list[tuple[str, int, Callable[[Rng], Case]]] = [
    ("Conv", 18, conv),
    ("ConvTranspose", 18, conv_transpose),
    ("MaxPool", 18, max_pool),
    ("AveragePool", 19, average_pool),
    ("MaxUnpool", 18, max_unpool),
    ("GlobalAveragePool", 18, lambda rng: ([floats(rng, 2, 3, 4, 5)], {}, 1)),
    ("GlobalMaxPool", 18, lambda rng: ([floats(rng, 2, 3, 4)], {}, 1)),
    ("BatchNormalization", 18, batch_norm),
    ("InstanceNormalization", 18, instance_norm),
    ("LayerNormalization", 18, layer_norm),
    (
        "GroupNormalization",
        21,
        lambda rng: ([floats(rng, 2, 6, 3), floats(rng, 6), floats(rng, 6)], {"num_groups": 3}, 1),
    ),
    ("LRN", 18, lrn),
    ("Gemm", 18, gemm),
    ("MatMul", 18, matmul),
    ("Einsum", 18, lambda rng: ([floats(rng, 2, 3), floats(rng, 4, 3)], {"equation": "ij,kj->ki"}, 1)),
    *((kind, 18, unary()) for kind in ("Relu", "Sigmoid", "Tanh", "Softplus", "Softsign", "Erf", "HardSwish", "Mish")),
    *((kind, 18, unary(alpha=(0.1, 2.0))) for kind in ("LeakyRelu", "Elu", "Celu", "ThresholdedRelu")),
    ("Selu", 18, unary(alpha=(0.5, 2), gamma=(0.5, 2))),
    ("Selu", 18, unary()),
    ("HardSigmoid", 18, unary(alpha=(0.1, 0.5), beta=(0.2, 0.7))),
    ("HardSigmoid", 18, unary()),
    ("HardSigmoid", 18, unary(alpha=(1 / 6, 1 / 6), beta=(0.5, 0.5))),
    ("Gelu", 20, unary()),
    ("Gelu", 20, lambda rng: ([floats(rng, 3, 4)], {"approximate": "tanh"}, 1)),
    ("PRelu", 18, lambda rng: ([floats(rng, 2, 3, 4), floats(rng, *[(1,), (3, 1)][rng.integers(2)])], {}, 1)),
    (
        "Clip",
        18,
        lambda rng: ([floats(rng, 3, 4), np.float32(-0.5), np.float32(0.5)][: int(rng.integers(1, 4))], {}, 1),
    ),
    ("Clip", 10, unary(min=(-1, 0), max=(0, 1))),
    *((kind, 18, along()) for kind in ("Softmax", "LogSoftmax", "Flatten", "ArgMax", "ArgMin")),
    *((kind, 11, along(0)) for kind in ("Softmax", "LogSoftmax")),
    *(
        (kind, 18, unary())
        for kind in ("Abs", "Ceil", "Cos", "Exp", "Floor", "Neg", "Round", "Sign", "Sin", "Tan", "Identity")
    ),
    *((kind, 18, unary(0.1, 4)) for kind in ("Log", "Sqrt", "Reciprocal")),
    *(
        (kind, 18, binary())
        for kind in ("Add", "Sub", "Mul", "Div", "Greater", "Less", "GreaterOrEqual", "LessOrEqual")
    ),
    *((kind, 18, binary(1, 5, "int64")) for kind in ("Add", "Div", "Mod", "Equal")),
    ("Mod", 18, lambda rng: ([floats(rng, 3), floats(rng, 3)], {"fmod": 1}, 1)),
    ("Pow", 18, binary(0.1, 3)),
    ("Pow", 18, fixed(np.float32([1, 2, 3]), np.int64(2))),
    *((kind, 18, several) for kind in ("Max", "Min", "Mean", "Sum")),
    *((kind, 18, logical) for kind in ("And", "Or", "Xor")),
    ("Not", 18, fixed(np.array([True, False]))),
    ("IsNaN", 18, fixed(np.float32([1, np.nan, np.inf]))),
    ("IsInf", 18, fixed(np.float32([1, np.nan, np.inf, -np.inf]))),
    ("Where", 18, lambda rng: ([np.array([True, False, True]), floats(rng, 2, 3), floats(rng, 1, 3)], {}, 1)),
    ("Cast", 18, fixed(np.float32([-1.7, 0, 2.5]), to=7)),
    ("CastLike", 18, fixed(np.float32([-1.7, 0, 2.5]), np.int32(0))),
    *(
        (f"Reduce{kind}", 18, reduction())
        for kind in ("Mean", "Sum", "Max", "Min", "Prod", "L1", "L2", "LogSumExp", "SumSquare")
    ),
    *((f"Reduce{kind}", 11, reduction(old=True)) for kind in ("Mean", "Sum", "Max")),
    ("ReduceSum", 18, whole_sum),
    (
        "CumSum",
        18,
        lambda rng: ([floats(rng, 3, 4), np.int64(rng.integers(-2, 2))], {"reverse": int(rng.integers(2))}, 1),
    ),
    ("Reshape", 18, reshape),
    ("Transpose", 18, lambda rng: ([RAMP], [{}, {"perm": [2, 0, 3, 1]}][rng.integers(2)], 1)),
    ("Squeeze", 18, fixed(np.ones((1, 3, 1), np.float32), ints(-1))),
    ("Squeeze", 11, fixed(np.ones((1, 3, 1), np.float32), axes=[0])),
    ("Squeeze", 18, fixed(np.ones((1, 3, 1), np.float32))),
    ("Unsqueeze", 18, fixed(np.ones((2, 3), np.float32), ints(-1, 0))),
    ("Unsqueeze", 11, fixed(np.ones((2, 3), np.float32), axes=[1, 3])),
    ("Expand", 18, fixed(np.arange(3, dtype=np.float32).reshape(3, 1), ints(2, 1, 4))),
    ("Tile", 18, fixed(RAMP, ints(1, 2, 1, 3))),
    ("Concat", 18, lambda rng: ([floats(rng, 2, n, 3) for n in (1, 2, 3)], {"axis": -2}, 1)),
    ("Split", 18, split),
    ("Split", 11, fixed(RAMP, outputs=2, axis=1, split=[3, 5])),
    ("Slice", 18, sliced),
    ("Slice", 9, fixed(RAMP, starts=[1, -3], ends=[100, -1], axes=[1, 3])),
    ("Gather", 18, gathered),
    ("GatherElements", 18, lambda rng: ([floats(rng, 3, 4), rng.integers(-4, 4, (3, 2))], {"axis": 1}, 1)),
    ("GatherND", 18, fixed(RAMP, np.int64([[[0, 1], [1, -1]], [[1, 0], [-2, 7]]]))),
    *(("Pad", 19, pad(mode)) for mode in ("constant", "reflect", "edge", "wrap")),
    ("Pad", 18, pad_axes),
    ("Pad", 10, fixed(RAMP, pads=[0, 0, 1, 2, 0, 0, 3, 0], value=1.5)),
    *(("Resize", 18, resize(mode, by_size)) for mode in ("nearest", "linear", "cubic") for by_size in (False, True)),
    ("Resize", 10, lambda rng: ([floats(rng, 1, 2, 3, 4), np.float32([1, 1, 2, 1.5])], {"mode": "linear"}, 1)),
    ("Upsample", 9, lambda rng: ([floats(rng, 1, 2, 3, 4), np.float32([1, 1, 2, 3])], {"mode": "nearest"}, 1)),
    ("Shape", 18, fixed(RAMP, start=1, end=-1)),
    ("Size", 18, fixed(RAMP)),
    ("Range", 18, fixed(np.int64(1), np.int64(9), np.int64(3))),
    ("ConstantOfShape", 18, fixed(ints(2, 3))),
    ("Dropout", 18, fixed(RAMP)),
    ("DepthToSpace", 18, lambda rng: ([RAMP], {"blocksize": 2, "mode": str(rng.choice(["DCR", "CRD"]))}, 1)),
    ("SpaceToDepth", 18, fixed(RAMP, blocksize=2)),
    ("GridSample", 20, grid),
]


@pytest.mark.parametrize("number", range(len(OPERATORS)), ids=lambda i: f"{OPERATORS[i][0]}-{OPERATORS[i][1]}-{i}")
def test_an_operator_is_that_of_onnxruntime(number: int, tmp_path: Path) -> None:
    kind, opset, draw = OPERATORS[number]
    for seed in range(12):
        arrays, attributes, count = draw(np.random.default_rng([seed, number]))
        inputs = {f"x{i}": np.asarray(x) for i, x in enumerate(arrays) if x is not None}
        names = ["" if x is None else f"x{i}" for i, x in enumerate(arrays)]
        outputs = [f"y{i}" for i in range(count)]
        model = network([helper.make_node(kind, names, outputs, **attributes)], inputs, outputs, opset=opset)
        try:
            agree(model, inputs, tmp_path / "a.onnx")
        except Exception as error:
            raise AssertionError(f"seed {seed}: {attributes}, {[x.shape for x in inputs.values()]}") from error


@pytest.mark.parametrize(
    ("kind", "opset", "shapes", "attributes"),
    [
        ("LRN", 18, [(5, 5, 3, 3)], {"size": 4, "alpha": 0.7}),  # its loop ends with the batch
        ("GroupNormalization", 18, [(2, 6, 4), (3,), (3,)], {"num_groups": 3}),
        ("Upsample", 7, [(1, 2, 3, 4)], {"scales": [1.0, 1.0, 2.0, 3.0]}),
    ],
)
def test_what_onnxruntime_lacks_is_that_of_the_reference(
    kind: str, opset: int, shapes: list[Any], attributes: dict[str, Any], tmp_path: Path
) -> None:
    """An even number of neighbours, and forms of older versions; the reference is the one that onnx brings."""
    rng = np.random.default_rng(0)
    inputs = {f"x{i}": floats(rng, *shape) for i, shape in enumerate(shapes)}
    model = network([helper.make_node(kind, list(inputs), ["y"], **attributes)], inputs, ["y"], opset=opset)
    onnx.save(model, str(tmp_path / "a.onnx"))
    found = io.load_onnx(tmp_path / "a.onnx")(*inputs.values())
    if kind == "Upsample":
        expected = inputs["x0"].repeat(2, 2).repeat(3, 3)
    else:
        (expected,) = onnx.reference.ReferenceEvaluator(model).run(None, inputs)
    np.testing.assert_allclose(found.data, expected, rtol=1e-5, atol=1e-6)


def test_every_rule_is_in_the_table() -> None:
    from tinyconv.io.onnx.graph import RULES

    assert set(RULES) == {kind for kind, _, _ in OPERATORS}


# --------------------------------------------------------------------------------------------------
# Whole networks of torch


class Branches(torch.nn.Module):
    """What the layers above do not have: shapes read at run time, chunks, and joins."""

    def forward(self, x: torch.Tensor) -> Any:
        a, b = x.chunk(2, 1)
        y = torch.cat([a, b.flip(1)], 1).view(x.size(0), -1, x.size(3)).transpose(1, 2)
        z = tnn.functional.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
        masked = torch.where(x > 0, x, x.mean(dim=(2, 3), keepdim=True)).clamp(-0.5, 0.5)
        return y.softmax(-1), z[:, 1:3, ::2], masked.pow(2).sum(1)


TORCH: dict[str, Callable[[], torch.nn.Module]] = {
    "plain": lambda: tnn.Sequential(
        *(tnn.Conv2d(4, 6, 3, 2, 1), tnn.BatchNorm2d(6), tnn.LeakyReLU(0.2), tnn.MaxPool2d(2, 2, ceil_mode=True)),
        *(tnn.Conv2d(6, 6, 3, padding="same", groups=3), tnn.PReLU(6), tnn.AvgPool2d(2, 1, 1)),
        *(tnn.AdaptiveAvgPool2d(1), tnn.Flatten(), tnn.Dropout(), tnn.Linear(6, 3), tnn.LogSoftmax(1)),
    ),
    "activations": lambda: tnn.Sequential(
        *(tnn.GELU(), tnn.ELU(), tnn.SELU(), tnn.CELU(0.5), tnn.Hardswish(), tnn.Hardsigmoid(), tnn.SiLU(), tnn.Mish()),
        *(tnn.Softplus(), tnn.LogSigmoid(), tnn.Tanh(), tnn.Sigmoid(), tnn.ReLU6(), tnn.Softsign(), tnn.GLU(1)),
    ),
    "norms": lambda: tnn.Sequential(
        *(tnn.GroupNorm(2, 4), tnn.InstanceNorm2d(4, affine=True), tnn.LayerNorm((8, 9))),
        *(tnn.ReflectionPad2d(1), tnn.ReplicationPad2d(1), tnn.ZeroPad2d(1), tnn.ConstantPad2d(1, 2.0)),
    ),
    "decoder": lambda: tnn.Sequential(
        *(tnn.ConvTranspose2d(4, 4, 3, 2, 1, 1, groups=2), tnn.Upsample(scale_factor=2), tnn.PixelShuffle(2)),
        *(tnn.Upsample(size=(9, 7), mode="bicubic"), tnn.Conv2d(1, 2, 1), tnn.AdaptiveMaxPool2d(1)),
    ),
    "branches": Branches,
    "attention": lambda: tnn.Sequential(
        *(tnn.Flatten(2), tnn.TransformerEncoderLayer(72, 4, 16, batch_first=True, norm_first=True), tnn.Linear(72, 2))
    ),
}


def exported(net: torch.nn.Module, x: torch.Tensor, path: Path, opset: int = 18, **options: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(net, (x,), str(path), dynamo=False, opset_version=opset, **options)


@pytest.mark.parametrize(("name", "opset"), [(n, v) for n in TORCH for v in (12, 18) if (n, v) != ("attention", 12)])
def test_a_network_that_torch_wrote(name: str, opset: int, tmp_path: Path) -> None:
    """Exported for two images with a free batch, run on three. torch writes its attention from version 14 on."""
    torch.manual_seed(0)
    net = TORCH[name]()
    for module in net.modules():
        if isinstance(module, tnn.BatchNorm2d):
            module.running_mean.uniform_(-1, 1)
            module.running_var.uniform_(0.5, 2)
    net.eval()
    exported(net, torch.randn(2, 4, 8, 9), tmp_path / "a.onnx", opset, input_names=["x"], dynamic_axes={"x": {0: "n"}})
    x = torch.randn(3, 4, 8, 9)
    with torch.no_grad():
        expected = net(x)
    found = io.load_onnx(tmp_path / "a.onnx")(x.numpy())
    for ours, theirs in zip(*(y if isinstance(y, tuple) else (y,) for y in (found, expected)), strict=True):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours.data, theirs.numpy(), rtol=1e-5, atol=1e-5)


def test_the_weights_are_parameters_under_their_names_and_have_the_gradients_of_torch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = tnn.Sequential(tnn.Conv2d(2, 3, 3), tnn.ReLU(), tnn.Flatten(), tnn.Linear(3 * 4 * 4, 2))
    x = torch.randn(2, 2, 6, 6)
    exported(net, x, tmp_path / "a.onnx")
    net(x).square().sum().backward()
    ours = io.load_onnx(tmp_path / "a.onnx")
    ours(x.numpy()).square().sum().backward()
    expected = dict(net.named_parameters())
    found = dict(ours.named_parameters())
    assert set(found) == set(expected) == set(ours.state_dict())
    for name, p in found.items():
        assert p.grad is not None
        np.testing.assert_allclose(p.grad.data, expected[name].grad.numpy(), rtol=1e-4, atol=1e-5)
    again = pickle.loads(pickle.dumps(ours))  # for a loader's workers, and for copy.deepcopy
    assert np.array_equal(again(x.numpy()).data, ours(x.numpy()).data)


def test_running_statistics_are_buffers(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights = dict(zip(("w", "b", "mean", "var"), rng.uniform(0.5, 1, (4, 3)).astype(np.float32)))
    node = helper.make_node("BatchNormalization", ["x", *weights], ["y"])
    onnx.save(network([node], {"x": floats(rng, 2, 3, 4)}, ["y"], weights), str(tmp_path / "a.onnx"))
    model = io.load_onnx(tmp_path / "a.onnx")
    assert [n for n, _ in model.named_parameters()] == ["w", "b"]
    assert [n for n, _ in model.named_buffers()] == ["mean", "var"]
    assert set(model.state_dict()) == set(weights)


# --------------------------------------------------------------------------------------------------
# Refused


def refused(model: Any, path: Path, match: str) -> None:
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    with pytest.raises(ValueError, match=match) as caught:
        io.load_onnx(path)
    assert "\n" not in str(caught.value) and path.name in str(caught.value) and len(str(caught.value)) < 1000


X = np.ones((2, 3), np.float32)


def chain(*kinds: str, **attributes: Any) -> list[Any]:
    nodes = [helper.make_node(kind, [f"v{i}"], [f"v{i + 1}"], name=f"n{i}") for i, kind in enumerate(kinds)]
    nodes[-1].attribute.extend(helper.make_attribute(name, value) for name, value in attributes.items())
    return nodes


def test_all_operators_that_are_missing_are_named_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    nodes = chain("Det", "Relu", "NonZero", "BatchNormalization", training_mode=1)
    refused(
        network(nodes, {"v0": X}, ["v4"]),
        path,
        r"no Det \(n0\); no NonZero \(n2\); no Batch.*\(n3\) with training_mode=1\.",
    )
    nodes[0].domain = "com.microsoft"
    refused(network(nodes, {"v0": X}, ["v4"]), path, r"no com.microsoft.Det \(n0\)")
    refused(network(chain("Relu"), {"v0": X}, ["v1"], opset=6), path, "version 6 of ONNX's operators; 7 is the oldest")


def test_a_graph_that_does_not_hang_together(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    refused(
        network(chain("Relu", "Relu")[::-1], {"v0": X}, ["v2"]), path, r"Relu \(n1\) reads 'v1', .* a cycle or is not"
    )
    refused(network(chain("Relu"), {"x": X}, ["v1"]), path, r"Relu \(n0\) reads 'v0', which is made nowhere")
    refused(network(chain("Relu"), {"v0": X}, ["z"]), path, "the output 'z' is made nowhere")
    refused(network(chain("Relu") * 2, {"v0": X}, ["v1"]), path, r"Relu \(n0\) makes a value that is there already")
    refused(network(chain("Relu"), {"v0": X, "v1": X}, ["v1"]), path, "makes a value that is there already")
    refused(network(chain("Relu"), {"v0": X}, []), path, "no graph with an output")
    refused(b"", path, "no graph with an output")
    refused(b"\x3a\xff", path, "DecodeError")


def test_weights_that_are_not_what_they_claim(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    model = network(chain("Relu"), {"v0": X}, ["v1"], {"w": X})
    (w,) = model.graph.initializer
    w.dims[:] = [2**40, 2**40]
    refused(model, path, r"tensor 'w' claims \(1099511627776, 1099511627776\) of float32, but has 24 bytes")
    w.dims[:] = [-2, -3]
    refused(model, path, r"tensor 'w' claims the shape \(-2, -3\)")
    w.ClearField("raw_data")
    w.dims[:] = [2**40]
    refused(model, path, "broken")
    w.data_type = onnx.TensorProto.BFLOAT16
    refused(model, path, "tensor 'w' is BFLOAT16, which NumPy has not")
    w.data_type = 99
    refused(model, path, "tensor 'w' is of type 99")


def test_weights_in_a_file_beside(tmp_path: Path) -> None:
    path, rng = tmp_path / "net" / "a.onnx", np.random.default_rng(0)
    path.parent.mkdir()
    weights = {"w": floats(rng, 4, 3, 3, 3), "b": floats(rng, 4)}
    x = {"x": floats(rng, 1, 3, 8, 8)}
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"])
    inside = network([node], x, ["y"], weights)
    expected = run(inside, x)[0]
    onnx.save(inside, str(path), save_as_external_data=True, location="weights.bin", size_threshold=0)
    np.testing.assert_allclose(io.load_onnx(path)(x["x"]).data, expected, rtol=1e-5, atol=1e-5)

    model = onnx.load(str(path), load_external_data=False)
    entries = {entry.key: entry for entry in model.graph.initializer[0].external_data}
    whole = (path.parent / "weights.bin").read_bytes()
    for length in (0, len(whole) - 1):
        (path.parent / "weights.bin").write_bytes(whole[:length])
        refused(model, path, "claim .* bytes, which 'weights.bin' has not")
    (path.parent / "weights.bin").write_bytes(whole)
    (tmp_path / "secret").write_bytes(whole)
    (path.parent / "link").symlink_to(tmp_path / "secret")
    for outside in ("../secret", str(tmp_path / "secret"), "link", "", "nothing", ".."):
        entries["location"].value = outside
        refused(model, path, "no file in its folder")
    entries["location"].value = "weights.bin"
    entries["offset"].value = "-4"
    refused(model, path, "claim 432 bytes, which 'weights.bin' has not")
    many = [onnx.TensorProto.FromString(model.graph.initializer[1].SerializeToString()) for _ in range(100)]
    for i, t in enumerate(many):  # a few bytes that many weights claim
        t.name = f"t{i}"
    model.graph.initializer.extend(many)
    entries["offset"].value = "0"
    refused(model, path, "which 'weights.bin' has not")


def test_what_is_given_is_compared_with_what_the_file_declares(tmp_path: Path) -> None:
    onnx.save(network(chain("Relu"), {"v0": X}, ["v1"]), str(tmp_path / "a.onnx"))
    model = io.load_onnx(tmp_path / "a.onnx")
    with pytest.raises(ValueError, match=r"v0 must be float32 of shape \(2, 3\), but is float32 of shape \(3, 2\)"):
        model(X.T)
    with pytest.raises(ValueError, match=r"but is float64"):
        model(X.astype(np.float64))
    with pytest.raises(ValueError, match=r"1 inputs are needed \(v0\), but 2 were given"):
        model(X, X)
    onnx.save(network([helper.make_node("MatMul", ["a", "a"], ["y"])], {"a": X}, ["y"]), str(tmp_path / "b.onnx"))
    with pytest.raises(ValueError, match=r"MatMul \(makes 'y'\) of \[\(2, 3\), \(2, 3\)\]: matmul: the last axis"):
        io.load_onnx(tmp_path / "b.onnx")(X)


@FUZZ
@given(data=st.data())
def test_a_damaged_file_gives_a_network_or_a_sentence(tmp_path: Path, data: st.DataObject) -> None:
    whole = tmp_path / "whole.onnx"
    if not whole.exists():
        exported(TORCH["plain"]().eval(), torch.randn(1, 4, 8, 9), whole)
    path = tmp_path / "damaged.onnx"
    content = data.draw(damaged(whole.read_bytes()))
    path.write_bytes(content)
    tracemalloc.start()
    try:
        io.load_onnx(path)
    except ValueError as error:
        assert path.name in str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 2**22 + 20 * len(content)
