"""Resize and Upsample of ONNX: where each output pixel lies on the input's axes, and which pixels it reads.

Source: ONNX, "Operator schemas", Resize.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tinyconv.autograd import Tensor
from tinyconv.io.onnx.node import Node, integers
from tinyconv.kernels.axismap import AxisMap, axis_map
from tinyconv.ops.resample import Resample, cubic_weights

Array = np.ndarray[Any, Any]

MODES = ("nearest", "linear", "cubic")
COORDINATES = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric")
_ROUNDED: dict[str, Callable[[Array], Array]] = {
    "round_prefer_floor": lambda p: np.ceil(p - np.float32(0.5)),
    "round_prefer_ceil": lambda p: np.floor(p + np.float32(0.5)),
    "floor": np.floor,
    "ceil": np.ceil,
}


def _positions(node: Node, size: int, output: int, scale: np.float32) -> Array:
    """Of each output pixel on the input's axis, in float32, as onnxruntime has them: they decide between pixels."""
    o, kind = np.arange(output, dtype=np.float32), node.get("coordinate_transformation_mode", "half_pixel")
    if node.kind == "Upsample" or kind == "asymmetric" or node.opset < 11:
        return o / scale
    if kind == "align_corners":
        return o * np.float32(size - 1) / np.float32(output - 1) if output > 1 else o * 0
    if kind == "pytorch_half_pixel" and output == 1:
        return o * 0
    return (o + np.float32(0.5)) / scale - np.float32(0.5)


def resize_map(node: Node, size: int, output: int, scale: np.float32, dtype: Any) -> AxisMap:
    """What the node makes of one axis."""
    position, mode = _positions(node, size, output, scale), node.get("mode", "nearest")
    if mode == "nearest":
        rounding = "floor" if node.kind == "Upsample" or node.opset < 11 else "round_prefer_floor"
        taps = _ROUNDED[node.get("nearest_mode", rounding)](position)[:, None]
        weights = np.ones_like(taps)
    else:
        first = np.floor(position)
        t, reach = position - first, (0, 2) if mode == "linear" else (-1, 3)
        taps = first[:, None] + np.arange(*reach)
        weights = np.stack([1 - t, t] if mode == "linear" else cubic_weights(t, node.get("cubic_coeff_a", -0.75)), 1)
    inside = np.clip(taps, 0, size - 1).astype(np.int64)
    return axis_map(size, inside.tolist(), weights.tolist(), dtype)


def _resized(node: Node, x: Tensor, axes: Sequence[int], scales: Sequence[float], sizes: Sequence[int]) -> Tensor:
    """The axes of x that change, each by its own map."""
    output, scale = list(x.shape), [1.0] * x.ndim
    for axis, n, factor in zip(axes, sizes, scales):
        output[axis], scale[axis] = n, factor
    first = next((axis for axis in range(x.ndim) if scale[axis] != 1 or output[axis] != x.shape[axis]), x.ndim)
    if first == x.ndim:
        return x
    if x.ndim - first > 3 or first == 0:
        raise ValueError(f"only the last one to three axes can be resized, but {x.shape} is to become {tuple(output)}.")
    dtype: Any = x.dtype.type
    rest = range(first, x.ndim)
    y: Tensor = Resample([resize_map(node, x.shape[a], output[a], np.float32(scale[a]), dtype) for a in rest])(x)
    return y


def resize(
    node: Node, x: Tensor, roi: Tensor | None = None, scales: Tensor | None = None, sizes: Tensor | None = None
) -> Tensor:
    """By ``sizes``, or by ``scales``: output size floor(size * scale)."""
    if node.opset < 11:  # Resize-10 has no region of interest
        scales = roi
    axes = [axis % x.ndim for axis in node.get("axes", range(x.ndim))]
    if sizes is not None and sizes.data.size:
        made = integers(sizes)
        return _resized(node, x, axes, [n / x.shape[axis] for n, axis in zip(made, axes)], made)
    if scales is None or not scales.data.size:
        raise ValueError("it has neither scales nor sizes.")
    return _scaled(node, x, axes, scales.to("cpu").data)


def upsample(node: Node, x: Tensor, scales: Tensor | None = None) -> Tensor:
    """Resize as it was until version 9 of the operators."""
    factors = np.asarray(node.get("scales"), np.float32) if scales is None else scales.to("cpu").data
    return _scaled(node, x, range(x.ndim), factors)


def _scaled(node: Node, x: Tensor, axes: Sequence[int], scales: Array) -> Tensor:
    return _resized(node, x, axes, scales.tolist(), [int(x.shape[a] * np.float32(s)) for a, s in zip(axes, scales)])


RULES: dict[str, Callable[..., Tensor]] = {"Resize": resize, "Upsample": upsample}
