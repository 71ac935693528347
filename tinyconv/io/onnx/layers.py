"""Layers of ONNX by our operators: windows, norms, activations. Source: ONNX, "Operator schemas"."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

from tinyconv import functional as F
from tinyconv.autograd import Tensor
from tinyconv.geometry import Geometry, Pairs, Sizes, same_padding, shape_padding, transposed_geometry, window_geometry
from tinyconv.io.onnx.node import Node, integers
from tinyconv.kernels.arrays import array_module
from tinyconv.ops.activation import Activation, erf
from tinyconv.ops.clamp import clamp
from tinyconv.ops.convert import cast
from tinyconv.ops.elementwise import where
from tinyconv.ops.matmul import matmul
from tinyconv.ops.pool import AvgPool, MaxPool, Unpool
from tinyconv.ops.reduce import amax, mean
from tinyconv.ops.shape import flip, reshape, transpose
from tinyconv.ops.windows import outer_product

# --------------------------------------------------------------------------------------------------
# Windows


def _of_rank(op: str, x: Tensor) -> Callable[..., Tensor]:
    """The operator ``op`` for as many spatial axes as x (N, C, *I) has."""
    if x.ndim not in (3, 4, 5):
        raise ValueError(f"the input must have one to three spatial axes, but has shape {x.shape}.")
    function: Callable[..., Tensor] = getattr(F, f"{op}{x.ndim - 2}d")
    return function


def _steps(node: Node, rank: int) -> tuple[Sizes, Sizes]:
    """Strides and dilations."""
    return tuple(node.get("strides", [1] * rank)), tuple(node.get("dilations", [1] * rank))


def _pads(node: Node, rank: int) -> Pairs:
    """(before, after) an axis; the file lists what comes before each axis, then what comes after."""
    pads = node.get("pads", [0] * 2 * rank)
    if len(pads) != 2 * rank:
        raise ValueError(f"pads must be {2 * rank} numbers, but are {pads}.")
    return tuple(zip(pads[:rank], pads[rank:]))


def _padding(node: Node, size: Sizes, kernel: Sizes, stride: Sizes, dilation: Sizes) -> Pairs:
    """(before, after) an axis for a direct map."""
    auto = node.get("auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        return same_padding(size, kernel, stride, dilation, auto == "SAME_UPPER")
    return ((0, 0),) * len(size) if auto == "VALID" else _pads(node, len(size))


def _conv(node: Node, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    function = _of_rank("conv", x)
    stride, dilation = _steps(node, x.ndim - 2)
    padding = _padding(node, x.shape[2:], w.shape[2:], stride, dilation)
    return function(x, w, b, stride, padding, dilation, node.get("group", 1))


def _conv_transpose(node: Node, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    function, rank = _of_rank("conv_transpose", x), x.ndim - 2
    stride, dilation = _steps(node, rank)
    extra = tuple(node.get("output_padding", [0] * rank))
    auto, made = node.get("auto_pad", "NOTSET"), node.get("output_shape")
    if auto in ("SAME_UPPER", "SAME_LOWER") and made is None:
        made = [n * s for n, s in zip(x.shape[2:], stride)]
    if made is not None:
        g = transposed_geometry("ConvTranspose", x.shape[2:], w.shape[2:], stride, 0, extra, dilation)
        padding = shape_padding(g, made[-rank:], auto == "SAME_UPPER")
    else:
        padding = ((0, 0),) * rank if auto == "VALID" else _pads(node, rank)
    return function(x, w, b, stride, padding, extra, node.get("group", 1), dilation)


def _pool_geometry(node: Node, x: Tensor) -> Geometry:
    _of_rank("max_pool", x)
    kernel = tuple(node.get("kernel_shape", ()))
    stride, dilation = _steps(node, x.ndim - 2)
    padding = _padding(node, x.shape[2:], kernel, stride, dilation)
    g = window_geometry(node.kind, x.shape[2:], kernel, stride, padding, dilation, bool(node.get("ceil_mode", 0)))
    if any(max(pair) >= extent for pair, extent in zip(padding, g.extent)):
        raise ValueError(f"padding {padding} makes windows of {g.extent} that see no pixel.")
    return g


def _planes(x: Tensor, size: Sizes) -> Any:
    """Where each plane of (N, C, *size) begins in the flat array: ONNX counts from there, we within the plane."""
    starts = array_module(x.data).arange(x.shape[0] * x.shape[1]) * prod(size)
    return starts.reshape(*x.shape[:2], *[1] * (x.ndim - 2))


def _max_pool(node: Node, x: Tensor) -> Any:
    g = _pool_geometry(node, x)
    y, indices = MaxPool(g)(x)
    return (y, Tensor.wrap(indices.data + _planes(x, g.size))) if len(node.outputs) > 1 else y


def _max_unpool(node: Node, x: Tensor, indices: Tensor, output_shape: Tensor | None = None) -> Tensor:
    _of_rank("max_unpool", x)
    rank = x.ndim - 2
    g = transposed_geometry(
        "MaxUnpool", x.shape[2:], node.get("kernel_shape"), *_steps(node, rank)[:1], _pads(node, rank)
    )
    size = g.size if output_shape is None else tuple(integers(output_shape)[2:])
    at = indices.data - _planes(x, size)
    if indices.shape != x.shape or at.size and (at.min() < 0 or at.max() >= prod(size)):
        raise ValueError(f"the indices do not lie in an image of {size} for each plane of {x.shape}.")
    y: Tensor = Unpool(at, size)(x)
    return y


def _average_pool(node: Node, x: Tensor) -> Tensor:
    g = _pool_geometry(node, x)
    counts = [g.counts(axis, bool(node.get("count_include_pad", 0))) for axis in range(g.rank)]
    y: Tensor = AvgPool(g, array_module(x.data).asarray(outer_product(counts, x.dtype)))(x)
    return y


def _space(x: Tensor) -> tuple[int, ...]:
    return tuple(range(2, x.ndim))


# --------------------------------------------------------------------------------------------------
# Norms


def _batch_norm(node: Node, x: Tensor, w: Tensor, b: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    return F.batch_norm(x, mean, var, w, b, eps=node.get("epsilon", 1e-5))


def _instance_norm(node: Node, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return F.instance_norm(x, weight=w, bias=b, eps=node.get("epsilon", 1e-5))


def _layer_norm(node: Node, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    y = F.layer_norm(x, x.shape[node.get("axis", -1) :], eps=node.get("epsilon", 1e-5)) * w
    return y if b is None else y + b


def _group_norm(node: Node, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """Until version 21 of the operators weight and bias are one number a group."""
    groups, channels = node.get("num_groups"), x.shape[1]
    if w.shape != (channels,):
        w, b = (t.reshape(groups, 1).expand(groups, channels // groups).reshape(channels) for t in (w, b))
    return F.group_norm(x, groups, w, b, node.get("epsilon", 1e-5))


def _lrn(node: Node, x: Tensor) -> Tensor:
    """An even number of neighbours has one more after the channel, torch's one more before it."""
    size, turned = node.get("size"), node.get("size") % 2 == 0
    numbers = (size, node.get("alpha", 1e-4), node.get("beta", 0.75), node.get("bias", 1.0))
    return flip(F.local_response_norm(flip(x, 1), *numbers), 1) if turned else F.local_response_norm(x, *numbers)


# --------------------------------------------------------------------------------------------------
# Linear


def _gemm(node: Node, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    """alpha A B + beta C, A and B turned where the node says so."""
    a = transpose(a, 0, 1) if node.get("transA", 0) else a
    b = transpose(b, 0, 1) if node.get("transB", 0) else b
    y, alpha, beta = matmul(a, b), node.get("alpha", 1.0), node.get("beta", 1.0)
    y = y if alpha == 1 else y * alpha
    return y if c is None else y + (c if beta == 1 else c * beta)


# --------------------------------------------------------------------------------------------------
# Activations


def _hard_sigmoid(node: Node, x: Tensor) -> Tensor:
    alpha, beta = node.get("alpha", 0.2), node.get("beta", 0.5)
    if abs(alpha - 1 / 6) < 1e-7 and beta == 0.5:
        return F.hardsigmoid(x)
    return clamp(x * alpha + beta, 0, 1)


def _selu(node: Node, x: Tensor) -> Tensor:
    alpha, gamma = node.get("alpha", 1.67326319217681884765625), node.get("gamma", 1.05070102214813232421875)
    y: Tensor = Activation("elu", (gamma, gamma * alpha, 1.0))(x)
    return y


def _clip(node: Node, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    """The bounds are inputs since version 11 of the operators, attributes before."""
    bounds = [node.get(name) if t is None else t for name, t in (("min", low), ("max", high))]
    return cast(clamp(x, *bounds), x.dtype) if any(bound is not None for bound in bounds) else x


def _softmax(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Along an axis since version 13 of the operators; before, over all axes from it on."""

    def rule(node: Node, x: Tensor) -> Tensor:
        if node.opset >= 13:
            return function(x, node.get("axis", -1))
        axis = node.get("axis", 1) % max(x.ndim, 1)
        return reshape(function(reshape(x, prod(x.shape[:axis]), prod(x.shape[axis:])), 1), x.shape)

    return rule


RULES: dict[str, Callable[..., Any]] = {
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Celu": lambda node, x: F.celu(x, node.get("alpha", 1.0)),
    "Clip": _clip,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Elu": lambda node, x: F.elu(x, node.get("alpha", 1.0)),
    "Erf": lambda node, x: erf(x),
    "Gelu": lambda node, x: F.gelu(x, node.get("approximate", "none")),
    "Gemm": _gemm,
    "GlobalAveragePool": lambda node, x: mean(x, _space(x), keepdim=True),
    "GlobalMaxPool": lambda node, x: amax(x, _space(x), keepdim=True),
    "GroupNormalization": _group_norm,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": lambda node, x: F.hardswish(x),
    "InstanceNormalization": _instance_norm,
    "LRN": _lrn,
    "LayerNormalization": _layer_norm,
    "LeakyRelu": lambda node, x: F.leaky_relu(x, node.get("alpha", 0.01)),
    "LogSoftmax": _softmax(F.log_softmax),
    "MatMul": lambda node, a, b: matmul(a, b),
    "MaxPool": _max_pool,
    "MaxUnpool": _max_unpool,
    "Mish": lambda node, x: F.mish(x),
    "PRelu": lambda node, x, slope: where(x > 0, x, slope * x),
    "Relu": lambda node, x: F.relu(x),
    "Selu": _selu,
    "Sigmoid": lambda node, x: F.sigmoid(x),
    "Softmax": _softmax(F.softmax),
    "Softplus": lambda node, x: F.softplus(x),
    "Softsign": lambda node, x: F.softsign(x),
    "Tanh": lambda node, x: F.tanh(x),
    "ThresholdedRelu": lambda node, x: F.threshold(x, node.get("alpha", 1.0), 0.0),
}
