"""Sampling an image at given points, affine grids of points, and moving pixels between channels and space."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import numpy as np

from tinyconv.autograd import Tensor
from tinyconv.geometry import Sizes
from tinyconv.kernels.arrays import Array, array_module
from tinyconv.ops.convert import as_tensor
from tinyconv.ops.elementwise import where
from tinyconv.ops.matmul import matmul
from tinyconv.ops.resample import cubic_weights
from tinyconv.ops.windows import TakePixels, require_float

#: One neighbour on one axis: its index on the axis, whether that lies in the image, and its weight.
Neighbour = tuple[Array, Array, Tensor]


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
    size = input.shape[2:]
    neighbours = []
    for axis, n in enumerate(size):
        # The last axis of the image is the first coordinate of a point.
        position = _pixels(grid[..., len(size) - 1 - axis], n, bool(align_corners))
        neighbours.append(_NEIGHBOURS[mode](position, n, padding_mode, bool(align_corners)))
    return sum(_corner(input, size, corner) for corner in product(*neighbours))  # type: ignore[return-value]


def _check_sample(input: Tensor, grid: Tensor, mode: str, padding_mode: str) -> None:
    op, rank = "grid_sample", input.ndim - 2
    if mode not in _NEIGHBOURS:
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


def _corner(input: Tensor, size: Sizes, corner: Sequence[Neighbour]) -> Tensor:
    """One neighbour pixel of every point, times its weight: (N, C, *O)."""
    xp = array_module(input.data)
    index: Any = 0
    inside: Any = True
    weight: Any = None
    for n, (at, within, factor) in zip(size, corner):
        index = index * n + at
        inside = inside & within
        weight = factor if weight is None else weight * factor
    shape = (*input.shape[:2], *index.shape[1:])
    pixels = TakePixels(xp.broadcast_to(index[:, None], shape), size)(input)
    return where(Tensor.wrap(inside[:, None]), pixels, 0.0) * weight.unsqueeze(1)


# --------------------------------------------------------------------------------------------------
# From coordinates to pixels, one axis at a time


def _pixels(x: Tensor, n: int, align_corners: bool) -> Tensor:
    """Coordinates from -1 to 1 as positions on an axis of n pixels, the first at 0."""
    return (x + 1) * ((n - 1) / 2) if align_corners else ((x + 1) * n - 1) / 2


def _folded(position: Tensor, n: int, padding_mode: str, align_corners: bool) -> Tensor:
    """Positions brought back into [0, n-1] by clamping or reflection; NaN is the coordinate -1, the first pixel.

    What is clamped has the gradient 0, on the bounds as well.
    """
    if padding_mode == "zeros":
        return position
    xp = array_module(position.data)
    at = xp.nan_to_num(position.data, nan=0.0)
    sign = xp.ones_like(at)
    if padding_mode == "reflection":
        at, sign = _reflected(at, n, align_corners)
    clamped = xp.clip(at, 0, n - 1)
    sign = xp.where((at <= 0) | (at >= n - 1) | xp.isnan(position.data), 0, sign)
    # at = sign * position + what is constant in between
    constant = clamped - xp.where(sign == 0, 0, sign * position.data)
    return where(Tensor.wrap(sign != 0), position * Tensor.wrap(sign), 0.0) + Tensor.wrap(constant)


def _reflected(at: Array, n: int, align_corners: bool) -> tuple[Array, Array]:
    """Positions reflected about the first and last pixel's centre or outer border, and the sign of the derivative."""
    xp = array_module(at)
    low, span = (0.0, float(n - 1)) if align_corners else (-0.5, float(n))
    if span == 0:
        return xp.zeros_like(at), xp.zeros_like(at)
    sign = xp.where(at < low, -1, 1).astype(at.dtype)
    distance = xp.abs(at - low)
    rest = distance % span
    odd = xp.floor(distance / span) % 2 == 1
    return xp.where(odd, span - rest, rest) + low, xp.where(odd, -sign, sign)


def _neighbour(at: Array, n: int, weight: Tensor) -> Neighbour:
    """The pixels at the whole numbers ``at``; where those are outside, any index serves, since it is not used."""
    xp = array_module(at)
    within = (at >= 0) & (at <= n - 1)
    return xp.where(within, at, 0).astype(np.int64), within, weight


def _two(position: Tensor, n: int, padding_mode: str, align_corners: bool) -> list[Neighbour]:
    """The two pixels around each position, weighted by nearness."""
    position = _folded(position, n, padding_mode, align_corners)
    left = array_module(position.data).floor(position.data)
    t = position - Tensor.wrap(left)
    return [_neighbour(left, n, 1 - t), _neighbour(left + 1, n, t)]


def _one(position: Tensor, n: int, padding_mode: str, align_corners: bool) -> list[Neighbour]:
    """The pixel nearest to each position; of two equally near the even one."""
    position = _folded(position, n, padding_mode, align_corners)
    xp = array_module(position.data)
    nowhere = Tensor.wrap(xp.zeros(position.shape, bool))
    # The weight 1, tied to the position so that the grid's gradient is 0, as torch's is, and not missing.
    return [_neighbour(xp.rint(position.data), n, where(nowhere, position, 1.0))]


def _four(position: Tensor, n: int, padding_mode: str, align_corners: bool) -> list[Neighbour]:
    """The four pixels around each position, weighted by Keys' cubic; each pixel is folded, not the position."""
    first = array_module(position.data).floor(position.data)
    weights = cubic_weights(position - Tensor.wrap(first), -0.75)
    pixels = (_folded(Tensor.wrap(first + k), n, padding_mode, align_corners) for k in (-1, 0, 1, 2))
    return [_neighbour(at.data, n, weight) for at, weight in zip(pixels, weights)]


_NEIGHBOURS: dict[str, Callable[[Tensor, int, str, bool], list[Neighbour]]] = {
    "bilinear": _two,
    "nearest": _one,
    "bicubic": _four,
}


# --------------------------------------------------------------------------------------------------
# Affine grids


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
    xp = array_module(theta.data)
    axes = [_centres(n, bool(align_corners)) for n in size[2:]]
    points = np.stack([*reversed(np.meshgrid(*axes, indexing="ij")), np.ones(size[2:])], axis=-1)  # (*I, rank + 1)
    base = Tensor.wrap(xp.asarray(points.reshape(-1, rank + 1), theta.dtype))
    return matmul(base, theta.transpose(1, 2)).reshape(size[0], *size[2:], rank)


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
