"""Sampling an image at given points, affine grids of points, and moving pixels between channels and space."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from tinyconv import kernels
from tinyconv.autograd import Function, Tensor
from tinyconv.geometry import Sizes
from tinyconv.kernels.arrays import Array, array_module, table
from tinyconv.kernels.corners import NEIGHBOURS
from tinyconv.ops.convert import as_tensor
from tinyconv.ops.matmul import matmul
from tinyconv.ops.mixed import in_float32
from tinyconv.ops.shape import stack
from tinyconv.ops.windows import require_float


@in_float32
def grid_sample(
    input: Tensor,
    grid: Tensor,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool | None = None,
) -> Tensor:
    """y[n, c, o] = input[n, c] interpolated at the point grid[n, o] = (x, y) or (x, y, z).

    input (N, C, H, W) and grid (N, OH, OW, 2), or (N, C, D, H, W) and (N, OD, OH, OW, 3); result (N, C, *O). -1 and 1
    are the borders of the image, or the centres of its corner pixels with ``align_corners``. ``mode``: bilinear
    (trilinear in 3-D), nearest, bicubic (2-D). Beyond the image: zeros; border, its last pixel; reflection about the
    border. Differentiable in input and grid, except nearest in the grid. Source: Jaderberg et al., "Spatial
    transformer networks", 2015, equation 3.
    """
    input, grid = require_float("grid_sample", "input", input), require_float("grid_sample", "grid", grid)
    _check_sample(input, grid, mode, padding_mode)
    images, channels, *size = input.shape
    points = grid.reshape(images, prod(grid.shape[1:-1]), len(size))
    w, at = Corners(tuple(size), mode, padding_mode, bool(align_corners), (0,) * len(size))(points)
    y = Sample(at.data)(input.reshape(images, channels, prod(size)), w)
    return y.reshape(images, channels, *grid.shape[1:-1])


def _check_sample(input: Tensor, grid: Tensor, mode: str, padding_mode: str) -> None:
    op, rank = "grid_sample", input.ndim - 2
    if mode not in NEIGHBOURS:
        raise ValueError(f"{op}: mode must be 'bilinear', 'nearest' or 'bicubic', but is {mode!r}.")
    if padding_mode not in ("zeros", "border", "reflection"):
        raise ValueError(f"{op}: padding_mode must be 'zeros', 'border' or 'reflection', but is {padding_mode!r}.")
    if rank not in (2, 3):
        raise ValueError(f"{op}: input must be (N, C, H, W) or (N, C, D, H, W), but has shape {input.shape}.")
    if grid.ndim != input.ndim or grid.shape[0] != input.shape[0] or grid.shape[-1] != rank:
        raise ValueError(
            f"{op}: for an input of shape {input.shape} grid must be ({input.shape[0]}, "
            f"{'OH, OW, 2' if rank == 2 else 'OD, OH, OW, 3'}), "
            f"but has shape {grid.shape}."
        )
    if grid.dtype != input.dtype:
        raise TypeError(
            f"{op}: input and grid must have one dtype, but are {input.dtype} and {grid.dtype}. "
            f"Use grid.to(input.dtype)."
        )
    if 0 in input.shape[2:]:
        raise ValueError(f"{op}: the input needs at least one pixel on every axis, but has shape {input.shape}.")
    if mode == "bicubic" and rank != 2:
        raise ValueError(
            f"{op}: mode='bicubic' needs an input (N, C, H, W), but has shape {input.shape}. Use mode='bilinear'."
        )


class Corners(Function):
    """(w, at): the weights of the corners around each point, and their flat indices; as :func:`kernels.corners`.

    The derivative of the weights by a coordinate is the weights of another ``order``.
    """

    saves = (0,)

    def __init__(self, size: Sizes, mode: str, padding_mode: str, align_corners: bool, order: Sizes) -> None:
        self.size, self.mode, self.order = size, mode, order
        self.padding_mode, self.align_corners = padding_mode, align_corners

    def forward(self, grid: Array) -> tuple[Array, Array]:
        return kernels.corners(grid, self.size, self.mode, self.padding_mode, self.align_corners, self.order)

    def backward(self, gw: Tensor, _: Tensor) -> Tensor:
        (grid,) = self.saved_inputs
        if self.mode == "nearest":  # also where gw is not finite
            return Tensor.wrap(array_module(grid.data).zeros(grid.shape, grid.dtype))
        parts = []
        for axis in reversed(range(len(self.size))):  # the first coordinate is that of the image's last axis
            order = tuple(d + (a == axis) for a, d in enumerate(self.order))
            slope, _ = Corners(self.size, self.mode, self.padding_mode, self.align_corners, order)(grid)
            parts.append((gw * slope).sum(1))
        return stack(parts, -1)


class Sample(Function):
    """y[n, c, o] = sum over k of w[n, k, o] x[n, c, at[n, k, o]]: bilinear, and closed under differentiation."""

    saves = (0, 1)

    def __init__(self, at: Array) -> None:
        self.at = at

    def forward(self, x: Array, w: Array) -> Array:
        return kernels.sample(x, w, self.at)

    def backward(self, gy: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, w = self.saved_inputs
        by_x = SampleInput(self.at, x.shape[2])(gy, w) if self.needs_grad(0) else None
        return by_x, SampleWeight(self.at)(x, gy) if self.needs_grad(1) else None


class SampleInput(Function):
    """gx[n, c, i] = sum over the (k, o) with at[n, k, o] = i of w[n, k, o] gy[n, c, o]"""

    saves = (0, 1)

    def __init__(self, at: Array, pixels: int) -> None:
        self.at, self.pixels = at, pixels

    def forward(self, gy: Array, w: Array) -> Array:
        return kernels.sample_input(gy, w, self.at, self.pixels)

    def backward(self, v: Tensor) -> tuple[Tensor | None, Tensor | None]:
        gy, w = self.saved_inputs
        by_gy = Sample(self.at)(v, w) if self.needs_grad(0) else None
        return by_gy, SampleWeight(self.at)(v, gy) if self.needs_grad(1) else None


class SampleWeight(Function):
    """gw[n, k, o] = sum over c of x[n, c, at[n, k, o]] gy[n, c, o]"""

    saves = (0, 1)

    def __init__(self, at: Array) -> None:
        self.at = at

    def forward(self, x: Array, gy: Array) -> Array:
        return kernels.sample_weight(x, gy, self.at)

    def backward(self, v: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, gy = self.saved_inputs
        by_x = SampleInput(self.at, x.shape[2])(gy, v) if self.needs_grad(0) else None
        return by_x, Sample(self.at)(x, v) if self.needs_grad(1) else None


# --------------------------------------------------------------------------------------------------
# Affine grids


@in_float32
def affine_grid(theta: Tensor, size: Sequence[int], align_corners: bool | None = None) -> Tensor:
    """grid[n, o] = theta[n] (x, y[, z], 1) for the pixel centres o of an image of ``size``; for :func:`grid_sample`.

    theta (N, 2, 3) with size (N, C, H, W), result (N, H, W, 2); or (N, 3, 4) with (N, C, D, H, W), result (N, D, H,
    W, 3). The coordinates run from -1 to 1: between the outer borders, or with ``align_corners`` the centres of the
    corner pixels.
    """
    theta, size = require_float("affine_grid", "theta", theta), tuple(size)
    rank = len(size) - 2
    if rank not in (2, 3) or min(size) < 1:
        raise ValueError(
            f"affine_grid: size must be (N, C, H, W) or (N, C, D, H, W) of sizes of at least 1, but is {size}."
        )
    if theta.shape != (size[0], rank, rank + 1):
        raise ValueError(
            f"affine_grid: theta must have shape {(size[0], rank, rank + 1)} for size {size}, but has {theta.shape}."
        )
    base = Tensor.wrap(table(_points(size[2:], bool(align_corners)), theta.data).astype(theta.dtype))
    return matmul(base, theta.transpose(1, 2)).reshape(size[0], *size[2:], rank)


@lru_cache(maxsize=64)
def _points(size: Sizes, align_corners: bool) -> np.ndarray[Any, Any]:
    """(x, y[, z], 1) of every pixel centre: (prod I, rank + 1)."""
    axes = [_centres(n, align_corners) for n in size]
    points = np.stack([*reversed(np.meshgrid(*axes, indexing="ij")), np.ones(size)], axis=-1)
    return points.reshape(-1, len(size) + 1)


def _centres(n: int, align_corners: bool) -> np.ndarray[Any, Any]:
    """Coordinates of the n pixel centres of an axis."""
    if align_corners and n > 1:
        return np.linspace(-1, 1, n)
    return (2 * np.arange(n) + 1) / n - 1


# --------------------------------------------------------------------------------------------------
# Pixels between channels and space


def _factor(op: str, name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{op}: {name} must be an int, but is {value!r}.")
    if value < 1:
        raise ValueError(f"{op}: {name} must be at least 1, but is {value}.")
    return value


def pixel_shuffle(input: Tensor, upscale_factor: int) -> Tensor:
    """y[..., c, h r + i, w r + j] = input[..., c r^2 + i r + j, h, w]: (..., C r^2, H, W) to (..., C, H r, W r).

    Source: Shi et al., "Real-time single image and video super-resolution using an efficient sub-pixel convolutional
    neural network", 2016, equation 4.
    """
    input, r = as_tensor(input, "pixel_shuffle"), _factor("pixel_shuffle", "upscale_factor", upscale_factor)
    if input.ndim < 3 or input.shape[-3] % (r * r):
        raise ValueError(
            f"pixel_shuffle: input must be (..., C, H, W) with C divisible by upscale_factor^2 = {r * r}, but has "
            f"shape {input.shape}."
        )
    *batch, channels, h, w = input.shape
    k = len(batch)
    blocks = input.reshape(*batch, channels // (r * r), r, r, h, w)
    blocks = blocks.permute(*range(k), k, k + 3, k + 1, k + 4, k + 2)  # (..., C, H, i, W, j)
    return blocks.reshape(*batch, channels // (r * r), h * r, w * r)


def pixel_unshuffle(input: Tensor, downscale_factor: int) -> Tensor:
    """The inverse of :func:`pixel_shuffle`: (..., C, H r, W r) to (..., C r^2, H, W)."""
    input, r = as_tensor(input, "pixel_unshuffle"), _factor("pixel_unshuffle", "downscale_factor", downscale_factor)
    if input.ndim < 3 or input.shape[-2] % r or input.shape[-1] % r:
        raise ValueError(
            f"pixel_unshuffle: input must be (..., C, H, W) with H and W divisible by downscale_factor={r}, but "
            f"has shape {input.shape}."
        )
    *batch, channels, h, w = input.shape
    k = len(batch)
    blocks = input.reshape(*batch, channels, h // r, r, w // r, r)
    blocks = blocks.permute(*range(k), k, k + 2, k + 4, k + 1, k + 3)  # (..., C, i, j, H, W)
    return blocks.reshape(*batch, channels * r * r, h // r, w // r)


def channel_shuffle(input: Tensor, groups: int) -> Tensor:
    """y[n, c G + g] = input[n, g (C/G) + c]: deals the channels of the groups out in turn. (N, C, *I).

    Source: Zhang et al., "ShuffleNet", 2018, section 3.1.
    """
    input, groups = as_tensor(input, "channel_shuffle"), _factor("channel_shuffle", "groups", groups)
    if input.ndim < 3 or input.shape[1] % groups:
        raise ValueError(
            f"channel_shuffle: input must be (N, C, *I) with C divisible by groups={groups}, but has shape "
            f"{input.shape}."
        )
    images, channels, *spatial = input.shape
    dealt = input.reshape(images, groups, channels // groups, *spatial).transpose(1, 2)
    return dealt.reshape(images, channels, *spatial)
