"""Padding layers. ``padding``: one width for all sides, or (left, right[, top, bottom[, front, back]])."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from tinyconv import functional as F
from tinyconv.autograd import Tensor
from tinyconv.geometry import as_axes
from tinyconv.nn.module import Module


class _Pad(Module):
    rank: ClassVar[int]
    mode: ClassVar[str]
    shown: tuple[str, ...] = ("padding",)
    value: float | None = None

    def __init__(self, padding: int | Sequence[int]) -> None:
        super().__init__()
        self.padding = as_axes(type(self).__name__, "padding", padding, 2 * self.rank)

    def forward(self, input: Tensor) -> Tensor:
        """F.pad"""
        return F.pad(input, self.padding, self.mode, self.value)


class _ConstantPad(_Pad):
    mode = "constant"
    shown = ("padding", "value")

    def __init__(self, padding: int | Sequence[int], value: float) -> None:
        super().__init__(padding)
        self.value = value


class ConstantPad1d(_ConstantPad):
    """Pads (N, C, L) with ``value``."""

    rank = 1


class ConstantPad2d(_ConstantPad):
    """Pads (N, C, H, W) with ``value``."""

    rank = 2


class ConstantPad3d(_ConstantPad):
    """Pads (N, C, D, H, W) with ``value``."""

    rank = 3


class ZeroPad1d(_Pad):
    """Pads (N, C, L) with zeros."""

    rank, mode = 1, "constant"


class ZeroPad2d(_Pad):
    """Pads (N, C, H, W) with zeros."""

    rank, mode = 2, "constant"


class ZeroPad3d(_Pad):
    """Pads (N, C, D, H, W) with zeros."""

    rank, mode = 3, "constant"


class ReflectionPad1d(_Pad):
    """Pads (N, C, L) with its mirror image, the edge not repeated."""

    rank, mode = 1, "reflect"


class ReflectionPad2d(_Pad):
    """Pads (N, C, H, W) with its mirror image, the edge not repeated."""

    rank, mode = 2, "reflect"


class ReflectionPad3d(_Pad):
    """Pads (N, C, D, H, W) with its mirror image, the edge not repeated."""

    rank, mode = 3, "reflect"


class ReplicationPad1d(_Pad):
    """Pads (N, C, L) with its edge."""

    rank, mode = 1, "replicate"


class ReplicationPad2d(_Pad):
    """Pads (N, C, H, W) with its edge."""

    rank, mode = 2, "replicate"


class ReplicationPad3d(_Pad):
    """Pads (N, C, D, H, W) with its edge."""

    rank, mode = 3, "replicate"


class CircularPad1d(_Pad):
    """Pads (N, C, L) with what lies at its other end."""

    rank, mode = 1, "circular"


class CircularPad2d(_Pad):
    """Pads (N, C, H, W) with what lies at its other end."""

    rank, mode = 2, "circular"


class CircularPad3d(_Pad):
    """Pads (N, C, D, H, W) with what lies at its other end."""

    rank, mode = 3, "circular"
