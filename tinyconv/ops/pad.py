"""Padding and cropping."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from tinyconv.autograd import Function, Tensor
from tinyconv.kernels.arrays import Array, array_module
from tinyconv.kernels.axismap import AxisMap, axis_map
from tinyconv.ops.convert import as_tensor
from tinyconv.ops.resample import Resample

Pairs = tuple[tuple[int, int], ...]


class ConstantPad(Function):
    """y = value, then y[i + before] = x[i] on every axis; a negative amount crops; so the transpose."""

    def __init__(self, pairs: Pairs, value: float) -> None:
        self.pairs, self.value = pairs, value

    def forward(self, x: Array) -> Array:
        shape = tuple(n + before + after for n, (before, after) in zip(x.shape, self.pairs))
        y = array_module(x).full(shape, self.value, x.dtype)
        crop = tuple(slice(max(-before, 0), n - max(-after, 0)) for n, (before, after) in zip(x.shape, self.pairs))
        inner = tuple(slice(max(before, 0), n - max(after, 0)) for n, (before, after) in zip(shape, self.pairs))
        y[inner] = x[crop]
        return y

    def backward(self, g: Tensor) -> Tensor:
        return ConstantPad(tuple((-before, -after) for before, after in self.pairs), 0)(g)


@lru_cache(maxsize=256)
def _mirrored_map(mode: str, n: int, before: int, after: int, dtype: type[np.generic]) -> AxisMap:
    """For each output of one axis, the pixel whose value it takes."""
    i = np.arange(-before, n + after)  # output positions, counted on the input's axis
    if mode == "replicate":
        i = np.clip(i, 0, n - 1)
    elif mode == "reflect":
        i = np.abs(i)
        i = np.where(i >= n, 2 * (n - 1) - i, i)
    else:  # circular: what is cropped is gone before the rest is repeated
        first, last = max(0, -before), n - max(0, -after)
        i = (i - first) % (last - first) + first
    return axis_map(n, i[:, None].tolist(), [[1]] * len(i), dtype)  # type: ignore[arg-type]


def pad(input: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Tensor:
    """input with ``pad`` = (last axis before, after, second last before, after, ...) more elements, cropped if < 0.

    ``mode``: constant (``value``, 0 by default, on any axes); reflect (c b | a b c | b a, less than the size),
    replicate (a a | a b c | c c), circular (b c | a b c | a b, at most the size) on the last one to three axes of (N,
    C, *I) or (C, *I). Raises ValueError for an odd list, for more pairs than axes, and for amounts that the mode or
    the crop do not allow.
    """
    input = as_tensor(input, "pad")
    try:
        amounts = [operator.index(p) for p in pad]
    except TypeError:
        raise TypeError(f"pad: pad must be a sequence of ints, but is {pad!r}.") from None
    if len(amounts) % 2:
        raise ValueError(
            f"pad: pad needs a (before, after) pair an axis, last axis first, but has {len(amounts)} numbers: {pad!r}."
        )
    if len(amounts) > 2 * input.ndim:
        raise ValueError(
            f"pad: pad has pairs for {len(amounts) // 2} axes, but input has {input.ndim} (shape {input.shape})."
        )
    last_first = list(zip(amounts[::2], amounts[1::2]))
    pairs = ((0, 0),) * (input.ndim - len(last_first)) + tuple(reversed(last_first))
    if mode == "constant":
        _check_crop(input, pairs)
        return ConstantPad(pairs, 0 if value is None else value)(input)
    if mode not in ("reflect", "replicate", "circular"):
        raise ValueError(f"pad: mode must be 'constant', 'reflect', 'replicate' or 'circular', but is {mode!r}.")
    if value is not None:
        raise ValueError(f"pad: value has no meaning with mode={mode!r}. Leave it out.")
    rank = len(last_first)
    _check_mode(input, mode, rank, pairs)
    dtype: Any = input.dtype.type
    return Resample([_mirrored_map(mode, n, *p, dtype) for n, p in zip(input.shape[-rank:], pairs[-rank:])])(input)


def _check_crop(input: Tensor, pairs: Pairs) -> None:
    for axis, (n, (before, after)) in enumerate(zip(input.shape, pairs)):
        if n + min(before, after, before + after) < 0:
            raise ValueError(
                f"pad: ({before}, {after}) crops more than the {n} elements of axis {axis} (input.shape={input.shape})."
            )


def _check_mode(input: Tensor, mode: str, rank: int, pairs: Pairs) -> None:
    """What the modes that copy pixels allow."""
    if not 1 <= rank <= 3 or input.ndim - rank not in (1, 2):
        raise ValueError(
            f"pad: mode={mode!r} pads all spatial axes, one to three, of an input (N, C, *I) or (C, *I), but pad "
            f"has {rank} pairs for shape "
            f"{input.shape}. Give (0, 0) for spatial axes that stay as they are."
        )
    if 0 in input.shape[-rank - 1 :]:
        raise ValueError(f"pad: only the batch may be empty with mode={mode!r}, but input.shape={input.shape}.")
    for axis in range(input.ndim - rank, input.ndim):
        n, (before, after) = input.shape[axis], pairs[axis]
        if n + before + after < 1:
            raise ValueError(
                f"pad: ({before}, {after}) leaves none of the {n} elements of axis {axis} (input.shape={input.shape})."
            )
        if mode == "reflect" and max(before, after) >= n:
            raise ValueError(
                f"pad: reflection needs less padding than the size, but axis {axis} has {n} elements and padding "
                f"({before}, {after})."
            )
        kept = n + min(before, 0) + min(after, 0)
        if mode == "circular" and max(before, after) > kept:
            raise ValueError(
                f"pad: circular padding repeats at most all {kept} elements of axis {axis}, but the padding is "
                f"({before}, {after})."
            )
