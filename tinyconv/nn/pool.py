"""Pooling layers; the operators in tinyconv.ops.pool say what they compute."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from tinyconv import functional as F
from tinyconv.autograd import Tensor
from tinyconv.geometry import Size
from tinyconv.nn.module import Module


class _MaxPool(Module):
    """The largest value of each window; with ``return_indices`` a pair (values, positions)."""

    function: ClassVar[Callable[..., Any]]
    shown = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")

    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        dilation: Size = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        self.kernel_size, self.stride = kernel_size, kernel_size if stride is None else stride
        self.padding, self.dilation = padding, dilation
        self.return_indices, self.ceil_mode = return_indices, ceil_mode

    def forward(self, input: Tensor) -> Any:
        """F.max_pool*d"""
        return type(self).function(
            input, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode, self.return_indices
        )


class MaxPool1d(_MaxPool):
    """(N, C, L) -> (N, C, L'), see F.max_pool1d."""

    function = staticmethod(F.max_pool1d)


class MaxPool2d(_MaxPool):
    """(N, C, H, W) -> (N, C, H', W'), see F.max_pool2d."""

    function = staticmethod(F.max_pool2d)


class MaxPool3d(_MaxPool):
    """(N, C, D, H, W) -> (N, C, D', H', W'), see F.max_pool3d."""

    function = staticmethod(F.max_pool3d)


class _MaxUnpool(Module):
    """Puts values back at the positions that max pooling gave, zeros elsewhere."""

    function: ClassVar[Callable[..., Tensor]]
    shown = ("kernel_size", "stride", "padding")

    def __init__(self, kernel_size: Size, stride: Size | None = None, padding: Size = 0) -> None:
        super().__init__()
        self.kernel_size, self.stride, self.padding = kernel_size, kernel_size if stride is None else stride, padding

    def forward(self, input: Tensor, indices: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """F.max_unpool*d"""
        return type(self).function(input, indices, self.kernel_size, self.stride, self.padding, output_size)


class MaxUnpool1d(_MaxUnpool):
    """(N, C, L') -> (N, C, L), see F.max_unpool1d."""

    function = staticmethod(F.max_unpool1d)


class MaxUnpool2d(_MaxUnpool):
    """(N, C, H', W') -> (N, C, H, W), see F.max_unpool2d."""

    function = staticmethod(F.max_unpool2d)


class MaxUnpool3d(_MaxUnpool):
    """(N, C, D', H', W') -> (N, C, D, H, W), see F.max_unpool3d."""

    function = staticmethod(F.max_unpool3d)


class AvgPool1d(Module):
    """(N, C, L) -> (N, C, L'), the mean of each window, see F.avg_pool1d."""

    shown = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad")

    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        super().__init__()
        self.kernel_size, self.stride, self.padding = kernel_size, kernel_size if stride is None else stride, padding
        self.ceil_mode, self.count_include_pad = ceil_mode, count_include_pad

    def forward(self, input: Tensor) -> Tensor:
        """F.avg_pool1d"""
        return F.avg_pool1d(input, self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad)


class _AvgPool(Module):
    """The mean of each window."""

    function: ClassVar[Callable[..., Tensor]]
    shown = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")

    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        super().__init__()
        self.kernel_size, self.stride, self.padding = kernel_size, kernel_size if stride is None else stride, padding
        self.ceil_mode, self.count_include_pad, self.divisor_override = ceil_mode, count_include_pad, divisor_override

    def forward(self, input: Tensor) -> Tensor:
        """F.avg_pool*d"""
        options = (self.ceil_mode, self.count_include_pad, self.divisor_override)
        return type(self).function(input, self.kernel_size, self.stride, self.padding, *options)


class AvgPool2d(_AvgPool):
    """(N, C, H, W) -> (N, C, H', W'), see F.avg_pool2d."""

    function = staticmethod(F.avg_pool2d)


class AvgPool3d(_AvgPool):
    """(N, C, D, H, W) -> (N, C, D', H', W'), see F.avg_pool3d."""

    function = staticmethod(F.avg_pool3d)


class _LPPool(Module):
    """(sum of x^p)^(1/p) of each window."""

    function: ClassVar[Callable[..., Tensor]]
    shown = ("norm_type", "kernel_size", "stride", "ceil_mode")

    def __init__(
        self, norm_type: float, kernel_size: Size, stride: Size | None = None, ceil_mode: bool = False
    ) -> None:
        super().__init__()
        self.norm_type, self.kernel_size, self.stride, self.ceil_mode = norm_type, kernel_size, stride, ceil_mode

    def forward(self, input: Tensor) -> Tensor:
        """F.lp_pool*d"""
        return type(self).function(input, self.norm_type, self.kernel_size, self.stride, self.ceil_mode)


class LPPool1d(_LPPool):
    """(N, C, L) -> (N, C, L'), see F.lp_pool1d."""

    function = staticmethod(F.lp_pool1d)


class LPPool2d(_LPPool):
    """(N, C, H, W) -> (N, C, H', W'), see F.lp_pool2d."""

    function = staticmethod(F.lp_pool2d)


class LPPool3d(_LPPool):
    """(N, C, D, H, W) -> (N, C, D', H', W'), see F.lp_pool3d."""

    function = staticmethod(F.lp_pool3d)


class _AdaptiveAvgPool(Module):
    """The mean of each of ``output_size`` windows that share out the image; None keeps an axis."""

    function: ClassVar[Callable[..., Tensor]]
    shown = ("output_size",)

    def __init__(self, output_size: int | None | Sequence[int | None]) -> None:
        super().__init__()
        self.output_size = output_size

    def forward(self, input: Tensor) -> Tensor:
        """F.adaptive_avg_pool*d"""
        return type(self).function(input, self.output_size)


class AdaptiveAvgPool1d(_AdaptiveAvgPool):
    """(N, C, L) -> (N, C, L'), see F.adaptive_avg_pool1d."""

    function = staticmethod(F.adaptive_avg_pool1d)


class AdaptiveAvgPool2d(_AdaptiveAvgPool):
    """(N, C, H, W) -> (N, C, H', W'), see F.adaptive_avg_pool2d."""

    function = staticmethod(F.adaptive_avg_pool2d)


class AdaptiveAvgPool3d(_AdaptiveAvgPool):
    """(N, C, D, H, W) -> (N, C, D', H', W'), see F.adaptive_avg_pool3d."""

    function = staticmethod(F.adaptive_avg_pool3d)


class _AdaptiveMaxPool(Module):
    """The largest value of each of ``output_size`` windows that share out the image; None keeps an axis."""

    function: ClassVar[Callable[..., Any]]
    shown = ("output_size",)

    def __init__(self, output_size: int | None | Sequence[int | None], return_indices: bool = False) -> None:
        super().__init__()
        self.output_size, self.return_indices = output_size, return_indices

    def forward(self, input: Tensor) -> Any:
        """F.adaptive_max_pool*d"""
        return type(self).function(input, self.output_size, self.return_indices)


class AdaptiveMaxPool1d(_AdaptiveMaxPool):
    """(N, C, L) -> (N, C, L'), see F.adaptive_max_pool1d."""

    function = staticmethod(F.adaptive_max_pool1d)


class AdaptiveMaxPool2d(_AdaptiveMaxPool):
    """(N, C, H, W) -> (N, C, H', W'), see F.adaptive_max_pool2d."""

    function = staticmethod(F.adaptive_max_pool2d)


class AdaptiveMaxPool3d(_AdaptiveMaxPool):
    """(N, C, D, H, W) -> (N, C, D', H', W'), see F.adaptive_max_pool3d."""

    function = staticmethod(F.adaptive_max_pool3d)
