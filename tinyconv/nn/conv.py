"""Convolutions and transposed convolutions as layers. All start as U(-1/sqrt(fan_in), 1/sqrt(fan_in)), weight and
bias.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from tinyconv import functional as F
from tinyconv.autograd import Tensor
from tinyconv.geometry import Padding, Size, as_axes, transposed_output_size, window_geometry
from tinyconv.nn import init
from tinyconv.nn.linear import new_parameter
from tinyconv.nn.module import Module, Parameter

_MODES = ("zeros", "reflect", "replicate", "circular")


class _Conv(Module):
    """What the convolutions of all ranks share."""

    rank: ClassVar[int]
    function: ClassVar[Callable[..., Tensor]]
    weight: Parameter
    bias: Parameter | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Padding = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
    ) -> None:
        super().__init__()
        op = type(self).__name__
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise ValueError(
                f"{op}: groups must divide the channels, but groups={groups}, in_channels={in_channels}, "
                f"out_channels={out_channels}."
            )
        if min(in_channels, out_channels) < 1:
            raise ValueError(f"{op}: needs channels, but in_channels={in_channels}, out_channels={out_channels}.")
        if padding_mode not in _MODES:
            raise ValueError(f"{op}: padding_mode must be one of {', '.join(_MODES)}, but is {padding_mode!r}.")
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = as_axes(op, "kernel_size", kernel_size, self.rank, least=1)
        self.stride = as_axes(op, "stride", stride, self.rank, least=1)
        self.dilation = as_axes(op, "dilation", dilation, self.rank, least=1)
        self.padding, self.padding_mode = padding, padding_mode
        self.weight = new_parameter(*self._weight_shape())
        self.register_parameter("bias", new_parameter(out_channels) if bias else None)
        self.reset_parameters()

    def _weight_shape(self) -> tuple[int, ...]:
        return (self.out_channels, self.in_channels // self.groups, *self.kernel_size)

    def reset_parameters(self) -> None:
        """Draw new initial values."""
        init.default_weight_(self.weight, self.bias)

    def extra_repr(self) -> str:
        """Channels, kernel, stride, and what is not as usual."""
        ones, zeros = (1,) * self.rank, (0,) * self.rank
        usual = {"padding": 0, "output_padding": zeros, "dilation": ones, "groups": 1, "padding_mode": "zeros"}
        parts = [f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"]
        parts += [f"{n}={getattr(self, n)!r}" for n, plain in usual.items() if getattr(self, n, plain) != plain]
        return ", ".join(parts if self.bias is not None else [*parts, "bias=False"])

    def forward(self, input: Tensor) -> Tensor:
        """F.conv*d, after padding of another kind than zeros."""
        function, padding = type(self).function, self.padding
        if self.padding_mode != "zeros":
            size = input.shape[-self.rank :]
            g = window_geometry(type(self).__name__, size, self.kernel_size, self.stride, padding, self.dilation)
            widths = [width for pair in reversed(g.padding) for width in pair]  # pad counts from the last axis
            input, padding = F.pad(input, widths, self.padding_mode), 0
        return function(input, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)


class Conv1d(_Conv):
    """(N, in_channels, L) -> (N, out_channels, L'), see F.conv1d. weight (out, in/groups, k), bias (out,)."""

    rank, function = 1, staticmethod(F.conv1d)


class Conv2d(_Conv):
    """(N, in_channels, H, W) -> (N, out_channels, H', W'), see F.conv2d. weight (out, in/groups, kh, kw), bias
    (out,).
    """

    rank, function = 2, staticmethod(F.conv2d)


class Conv3d(_Conv):
    """(N, in_channels, D, H, W) -> (N, out_channels, D', H', W'), see F.conv3d. weight (out, in/groups, kd, kh,
    kw).
    """

    rank, function = 3, staticmethod(F.conv3d)


class _ConvTranspose(_Conv):
    """What the transposed convolutions of all ranks share."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Padding = 0,
        output_padding: Size = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Size = 1,
        padding_mode: str = "zeros",
    ) -> None:
        if padding_mode != "zeros":
            raise ValueError(f"{type(self).__name__}: padding_mode must be 'zeros', but is {padding_mode!r}.")
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias)
        self.output_padding = as_axes(type(self).__name__, "output_padding", output_padding, self.rank, least=0)

    def _weight_shape(self) -> tuple[int, ...]:
        return (self.in_channels, self.out_channels // self.groups, *self.kernel_size)

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """F.conv_transpose*d; ``output_size`` chooses the output padding that leads to this spatial size."""
        function, extra = type(self).function, self.output_padding
        if output_size is not None:
            extra = self._output_padding(input, output_size)
        return function(input, self.weight, self.bias, self.stride, self.padding, extra, self.groups, self.dilation)

    def _output_padding(self, input: Tensor, output_size: Sequence[int]) -> tuple[int, ...]:
        wanted = tuple(output_size)[-self.rank :]
        padding: Any = self.padding
        pads = (padding,) * self.rank if isinstance(padding, int) else padding
        size = input.shape[-self.rank :]
        least = [
            transposed_output_size(*axis) for axis in zip(size, self.kernel_size, self.stride, pads, self.dilation)
        ]
        extra = tuple(w - n for w, n in zip(wanted, least))
        if len(wanted) != self.rank or any(
            not 0 <= e < max(s, d) for e, s, d in zip(extra, self.stride, self.dilation)
        ):
            most = [n + max(s, d) - 1 for n, s, d in zip(least, self.stride, self.dilation)]
            raise ValueError(
                f"{type(self).__name__}: output_size must lie between {tuple(least)} and {tuple(most)} for input "
                "of size "
                f"{size}, but is {tuple(output_size)}."
            )
        return extra


class ConvTranspose1d(_ConvTranspose):
    """(N, in_channels, L) -> (N, out_channels, L'), see F.conv_transpose1d. weight (in, out/groups, k), bias
    (out,).
    """

    rank, function = 1, staticmethod(F.conv_transpose1d)


class ConvTranspose2d(_ConvTranspose):
    """(N, in_channels, H, W) -> (N, out_channels, H', W'), see F.conv_transpose2d. weight (in, out/groups, kh,
    kw).
    """

    rank, function = 2, staticmethod(F.conv_transpose2d)


class ConvTranspose3d(_ConvTranspose):
    """(N, in_channels, D, H, W) -> (N, out_channels, D', H', W'), see F.conv_transpose3d."""

    rank, function = 3, staticmethod(F.conv_transpose3d)
