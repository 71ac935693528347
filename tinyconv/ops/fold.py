"""Unfolding an image into the columns of its windows, and folding columns back by addition."""

from __future__ import annotations

from math import prod

from tinyconv import kernels
from tinyconv.autograd import Function, Tensor
from tinyconv.geometry import Geometry, Size, as_axes, window_geometry
from tinyconv.kernels.arrays import Array
from tinyconv.ops.windows import as_batch, check_channels, require_float


class Unfold(Function):
    """cols[n, c*K + k, o] = x[n, c, i]"""

    def __init__(self, g: Geometry) -> None:
        self.g = g

    def forward(self, x: Array) -> Array:
        return kernels.unfold(x, self.g)

    def backward(self, gcols: Tensor) -> Tensor:
        return Fold(self.g)(gcols)


class Fold(Function):
    """x[n, c, i] = sum over the (o, k) that read i of cols[n, c*K + k, o]: the transpose of :class:`Unfold`."""

    def __init__(self, g: Geometry) -> None:
        self.g = g

    def forward(self, cols: Array) -> Array:
        return kernels.fold(cols, self.g)

    def backward(self, gx: Tensor) -> Tensor:
        return Unfold(self.g)(gx)


def unfold(input: Tensor, kernel_size: Size, dilation: Size = 1, padding: Size = 0, stride: Size = 1) -> Tensor:
    """The windows of an image as columns: y[n, (c, k), o] = input[n, c, o*s + k*d - p], for two axes.

    input (N, C, H, W) or (C, H, W), zero-padded; result (N, C KH KW, OH OW). A convolution is a matrix
    product with it.
    """
    images, unbatched = as_batch("unfold", require_float("unfold", "input", input), 2)
    check_channels("unfold", images)
    pads = as_axes("unfold", "padding", padding, 2, least=0)
    y = Unfold(window_geometry("unfold", images.shape[2:], kernel_size, stride, pads, dilation))(images)
    return y.squeeze(0) if unbatched else y


def fold(
    input: Tensor, output_size: Size, kernel_size: Size, dilation: Size = 1, padding: Size = 0, stride: Size = 1
) -> Tensor:
    """Columns added back to their pixels, the transpose of :func:`unfold`; overlapping windows add up.

    input (N, C KH KW, OH OW) or without N; result (N, C, H, W) with (H, W) = ``output_size``.
    """
    cols = require_float("fold", "input", input)
    if cols.ndim not in (2, 3):
        raise ValueError(f"fold: input must be (N, C*KH*KW, OH*OW) or without N, but has shape {cols.shape}.")
    size = as_axes("fold", "output_size", output_size, 2, least=1)
    pads = as_axes("fold", "padding", padding, 2, least=0)
    g = window_geometry("fold", size, kernel_size, stride, pads, dilation)
    rows, columns = cols.shape[-2:]
    if rows == 0 or rows % prod(g.kernel):
        raise ValueError(
            f"fold: the second last axis of input must be channels times {prod(g.kernel)} taps "
            f"(kernel_size={g.kernel}), but has {rows}."
        )
    if columns != prod(g.output):
        raise ValueError(
            f"fold: an image of {size} has {g.output[0]} x {g.output[1]} = {prod(g.output)} windows, but the last "
            "axis of input has "
            f"{columns}. output_size, stride, padding and dilation must be those of the unfold."
        )
    y = Fold(g)(cols if cols.ndim == 3 else cols.unsqueeze(0))
    return y if cols.ndim == 3 else y.squeeze(0)
