"""Arithmetic and shapes of ONNX by our operators. Source: ONNX, "Operator schemas"."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from math import prod
from typing import Any

import numpy as np

from tinyconv import functional as F
from tinyconv.autograd import Tensor
from tinyconv.io.onnx.node import DTYPES, Node, integers
from tinyconv.ops import compare, elementwise, shape
from tinyconv.ops import reduce as reductions
from tinyconv.ops.broadcast import expand
from tinyconv.ops.convert import cast
from tinyconv.ops.matmul import einsum

# --------------------------------------------------------------------------------------------------
# Arithmetic


def _plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """An operator that has the inputs of the node, and no attributes."""
    return lambda node, *xs: function(*xs)


def _folded(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    """Of two inputs or more, or the one."""
    return lambda node, *xs: reduce(function, xs)


def _div(node: Node, a: Tensor, b: Tensor) -> Tensor:
    """Whole numbers are divided as in C, towards zero."""
    return elementwise.div(a, b, rounding_mode="trunc" if a.dtype.kind in "iu" else None)


def _mod(node: Node, a: Tensor, b: Tensor) -> Tensor:
    """With the sign of b, or with ``fmod`` that of a."""
    if not node.get("fmod", 0):
        return elementwise.remainder(a, b)
    return a - elementwise.div(a, b, rounding_mode="trunc") * b


def _pow(node: Node, a: Tensor, b: Tensor) -> Tensor:
    """The exponent may be of another type, which the result does not take."""
    return elementwise.pow(a, cast(b, a.dtype))


def _cast(node: Node, x: Tensor) -> Tensor:
    if node.get("to") not in DTYPES:
        raise ValueError(f"type {node.get('to')} is none that NumPy has.")
    return cast(x, DTYPES[node.get("to")])


# --------------------------------------------------------------------------------------------------
# Reductions


def _axes(node: Node, axes: Tensor | None) -> list[int] | None:
    """An input, or an attribute in older files."""
    listed: list[int] | None = node.get("axes") if axes is None else integers(axes)
    return listed


def _reduced(function: Callable[[Tensor, tuple[int, ...], bool], Tensor]) -> Callable[..., Tensor]:
    def rule(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
        listed = _axes(node, axes) or []
        if not listed and node.get("noop_with_empty_axes", 0):
            return x
        over = tuple(shape.axes_of(node.kind, listed, x.ndim))
        return cast(function(x, over, bool(node.get("keepdims", 1))), x.dtype)

    return rule


def _prod(x: Tensor, axes: tuple[int, ...], keepdim: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = reductions.prod(x, axis, keepdim)
    return x


def _arg(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda node, x: function(x, node.get("axis", 0), bool(node.get("keepdims", 1)))


def _cumsum(node: Node, x: Tensor, axis: Tensor) -> Tensor:
    (along,) = integers(axis)
    if node.get("reverse", 0):
        return shape.flip(reductions.cumsum(shape.flip(x, along), along, x.dtype), along)
    return reductions.cumsum(x, along, x.dtype)


# --------------------------------------------------------------------------------------------------
# Shapes


def _reshape(node: Node, x: Tensor, sizes: Tensor) -> Tensor:
    """A size of 0 is that of the input on this axis, unless ``allowzero``."""
    wanted = integers(sizes)
    if not node.get("allowzero", 0):
        wanted = [x.shape[axis] if n == 0 else n for axis, n in enumerate(wanted)]
    return shape.reshape(x, wanted)


def _flatten(node: Node, x: Tensor) -> Tensor:
    """A matrix: the axes before ``axis``, and those from it on."""
    axis = node.get("axis", 1)
    axis = axis + x.ndim if axis < 0 else axis
    return shape.reshape(x, prod(x.shape[:axis]), prod(x.shape[axis:]))


def _transpose(node: Node, x: Tensor) -> Tensor:
    return shape.permute(x, node.get("perm", list(range(x.ndim))[::-1]))


def _squeeze(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    return shape.squeeze(x, _axes(node, axes))


def _unsqueeze(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    listed = _axes(node, axes) or []
    for axis in sorted(axis % (x.ndim + len(listed)) for axis in listed):
        x = shape.unsqueeze(x, axis)
    return x


def _expand(node: Node, x: Tensor, sizes: Tensor) -> Tensor:
    return expand(x, np.broadcast_shapes(x.shape, tuple(integers(sizes))))


def _concat(node: Node, *xs: Tensor) -> Tensor:
    return shape.cat(xs, node.get("axis", 0))


def _split(node: Node, x: Tensor, sizes: Tensor | None = None) -> Any:
    """Into the listed sizes, or into as many equal parts as the node has outputs."""
    axis, parts = node.get("axis", 0), len(node.outputs)
    listed = node.get("split") if sizes is None else integers(sizes)
    return shape.split(x, -(-x.shape[axis] // parts) if listed is None else listed, axis)


def _slice(node: Node, x: Tensor, *numbers: Tensor | None) -> Tensor:
    """Starts, ends, axes and steps, inputs since version 10 of the operators.

    They are cut off as Python's are, but backwards from before the first element begins with the first.
    """
    listed = [None if t is None else integers(t) for t in numbers]
    listed = listed or [node.get(name) for name in ("starts", "ends", "axes")]
    starts, ends, axes, steps = (listed + [None, None])[:4]
    assert starts is not None and ends is not None
    key = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes or range(x.ndim), steps or [1] * len(starts)):
        key[axis] = slice(max(start, -x.shape[axis]), None if step < 0 and end < -x.shape[axis] else end, step)
    return shape.getitem(x, tuple(key))


def _gather(node: Node, x: Tensor, index: Tensor) -> Tensor:
    return shape.getitem(x, (*[slice(None)] * (node.get("axis", 0) % x.ndim), index))


def _gather_elements(node: Node, x: Tensor, index: Tensor) -> Tensor:
    axis = node.get("axis", 0)
    return shape.gather(x, axis, elementwise.where(index < 0, index + x.shape[axis], index))


def _gather_nd(node: Node, x: Tensor, index: Tensor) -> Tensor:
    """The last axis of the index holds a place on the first axes of x."""
    return shape.getitem(x, tuple(index[..., i] for i in range(index.shape[-1])))


PAD_MODES = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}


def _pad(
    node: Node, x: Tensor, pads: Tensor | None = None, value: Tensor | None = None, axes: Tensor | None = None
) -> Tensor:
    """Amounts and value are inputs since version 11 of the operators, attributes before."""
    amounts = node.get("pads", node.get("paddings", [])) if pads is None else integers(pads)
    named = range(x.ndim) if axes is None else [axis % x.ndim for axis in integers(axes)]
    pairs = [(0, 0)] * x.ndim
    for axis, before, after in zip(named, amounts[: len(named)], amounts[len(named) :]):
        pairs[axis] = (before, after)
    mode = PAD_MODES[node.get("mode", "constant")]
    if mode == "constant":
        return F.pad(x, _last_first(pairs), value=node.get("value", 0.0) if value is None else value.data.item())
    spatial = pairs[2:] if x.ndim > 2 else pairs[1:]
    if any(pair != (0, 0) for pair in pairs[: x.ndim - len(spatial)]):
        raise ValueError(f"mode {mode!r} pads spatial axes only, but the amounts are {pairs} for shape {x.shape}.")
    return F.pad(x, _last_first(spatial), mode)


def _last_first(pairs: list[tuple[int, int]]) -> list[int]:
    return [n for pair in reversed(pairs) for n in pair]


def _shape(node: Node, x: Tensor) -> Tensor:
    return Tensor(np.array(x.shape[node.get("start", 0) : node.get("end")], np.int64))


def _constant_of_shape(node: Node, sizes: Tensor) -> Tensor:
    value = node.get("value", np.zeros(1, np.float32))
    return Tensor(np.full(integers(sizes), value.reshape(-1)[0], value.dtype))


def _range(node: Node, start: Tensor, limit: Tensor, step: Tensor) -> Tensor:
    return Tensor(np.arange(start.item(), limit.item(), step.item(), dtype=start.dtype))


def _dropout(node: Node, x: Tensor, *_: Tensor) -> Any:
    """As in evaluation."""
    return (x, Tensor(np.ones(x.shape, np.bool_))) if len(node.outputs) > 1 else x


def _depth_to_space(node: Node, x: Tensor) -> Tensor:
    r = node.get("blocksize")
    if node.get("mode", "DCR") == "CRD":
        return F.pixel_shuffle(x, r)
    n, c, h, w = x.shape
    blocks = shape.permute(shape.reshape(x, n, r, r, c // (r * r), h, w), 0, 3, 4, 1, 5, 2)  # (N, C, H, i, W, j)
    return shape.reshape(blocks, n, c // (r * r), h * r, w * r)


def _space_to_depth(node: Node, x: Tensor) -> Tensor:
    r, (n, c, h, w) = node.get("blocksize"), x.shape
    blocks = shape.permute(shape.reshape(x, n, c, h // r, r, w // r, r), 0, 3, 5, 1, 2, 4)  # (N, i, j, C, H, W)
    return shape.reshape(blocks, n, c * r * r, h // r, w // r)


def _grid_sample(node: Node, x: Tensor, grid: Tensor) -> Tensor:
    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(node.get("mode"), node.get("mode", "bilinear"))
    return F.grid_sample(x, grid, mode, node.get("padding_mode", "zeros"), bool(node.get("align_corners", 0)))


RULES: dict[str, Callable[..., Any]] = {
    **{
        kind: _plain(getattr(elementwise, kind.lower()))
        for kind in ("Abs", "Ceil", "Cos", "Exp", "Floor", "Log", "Neg", "Reciprocal", "Round", "Sign", "Sin", "Sqrt")
    },
    **{kind: _plain(getattr(elementwise, kind.lower())) for kind in ("Add", "Mul", "Sub", "Tan", "Where")},
    **{
        kind: _plain(getattr(compare, name))
        for kind, name in {
            **{"Equal": "eq", "Greater": "gt", "GreaterOrEqual": "ge", "Less": "lt", "LessOrEqual": "le"},
            **{"And": "logical_and", "Or": "logical_or", "Xor": "logical_xor", "Not": "logical_not"},
            **{"IsInf": "isinf", "IsNaN": "isnan"},
        }.items()
    },
    "ArgMax": _arg(reductions.argmax),
    "ArgMin": _arg(reductions.argmin),
    "Cast": _cast,
    "CastLike": lambda node, x, like: cast(x, like.dtype),
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "CumSum": _cumsum,
    "DepthToSpace": _depth_to_space,
    "Div": _div,
    "Dropout": _dropout,
    "Einsum": lambda node, *xs: einsum(node.get("equation"), *xs),
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "GridSample": _grid_sample,
    "Identity": lambda node, x: x,
    "Max": _folded(elementwise.maximum),
    "Mean": lambda node, *xs: reduce(elementwise.add, xs) / len(xs),
    "Min": _folded(elementwise.minimum),
    "Mod": _mod,
    "Pad": _pad,
    "Pow": _pow,
    "Range": _range,
    "ReduceL1": _reduced(lambda x, axes, keep: reductions.sum(elementwise.abs(x), axes, keep)),
    "ReduceL2": _reduced(lambda x, axes, keep: elementwise.sqrt(reductions.sum(x * x, axes, keep))),
    "ReduceLogSumExp": _reduced(reductions.logsumexp),
    "ReduceMax": _reduced(reductions.amax),
    "ReduceMean": _reduced(reductions.mean),
    "ReduceMin": _reduced(reductions.amin),
    "ReduceProd": _reduced(_prod),
    "ReduceSum": _reduced(reductions.sum),
    "ReduceSumSquare": _reduced(lambda x, axes, keep: reductions.sum(x * x, axes, keep)),
    "Reshape": _reshape,
    "Shape": _shape,
    "Size": lambda node, x: Tensor(np.array(x.data.size, np.int64)),
    "Slice": _slice,
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Squeeze": _squeeze,
    "Sum": _folded(elementwise.add),
    "Tile": lambda node, x, repeats: shape.repeat(x, integers(repeats)),
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
