"""Convolution and transposed convolution in one, two and three dimensions.

Convolution is bilinear: y = conv(x, w). Written as the list of its products (output o, pixel i, tap k),

    Conv         y[n, co, o]   = sum over ci, k   x[n, ci, i] w[co, ci, k]
    ConvInput    x'[n, ci, i]  = sum over co, o   y'[n, co, o] w[co, ci, k]      (the transposed convolution)
    ConvWeight   w'[co, ci, k] = sum over n, o    y'[n, co, o] x[n, ci, i]

with i = o*stride + k*dilation - padding. Each is linear in each argument, and the gradients of each are the other
two, so the three are closed under differentiation: gradients of every order need nothing else.
"""

from __future__ import annotations

from tinyconv import kernels
from tinyconv.autograd import Function, Tensor
from tinyconv.geometry import Geometry, Padding, Size, transposed_geometry, window_geometry
from tinyconv.kernels.arrays import Array
from tinyconv.ops.convert import as_tensor
from tinyconv.ops.mixed import in_float16
from tinyconv.ops.windows import SPATIAL, as_batch


class _Triangle(Function):
    """One corner of the triangle: two tensors, one window geometry."""

    saves = (0, 1)

    def __init__(self, g: Geometry, groups: int) -> None:
        self.g, self.groups = g, groups


class Conv(_Triangle):
    """y = conv(x, w): (N, C_in, *I), (C_out, C_in/G, *K) to (N, C_out, *O)."""

    def forward(self, x: Array, w: Array) -> Array:
        return kernels.conv(x, w, self.g, self.groups)

    def backward(self, gy: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, w = self.saved_inputs
        gx = ConvInput(self.g, self.groups)(gy, w) if self.needs_grad(0) else None
        gw = ConvWeight(self.g, self.groups)(x, gy) if self.needs_grad(1) else None
        return gx, gw


class ConvInput(_Triangle):
    """x' = conv_input(y', w): (N, C_out, *O), (C_out, C_in/G, *K) to (N, C_in, *I)."""

    def forward(self, gy: Array, w: Array) -> Array:
        return kernels.conv_input(gy, w, self.g, self.groups)

    def backward(self, ggx: Tensor) -> tuple[Tensor | None, Tensor | None]:
        gy, w = self.saved_inputs
        ggy = Conv(self.g, self.groups)(ggx, w) if self.needs_grad(0) else None
        gw = ConvWeight(self.g, self.groups)(ggx, gy) if self.needs_grad(1) else None
        return ggy, gw


class ConvWeight(_Triangle):
    """w' = conv_weight(x, y'): (N, C_in, *I), (N, C_out, *O) to (C_out, C_in/G, *K)."""

    def forward(self, x: Array, gy: Array) -> Array:
        return kernels.conv_weight(x, gy, self.g, self.groups)

    def backward(self, ggw: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, gy = self.saved_inputs
        gx = ConvInput(self.g, self.groups)(gy, ggw) if self.needs_grad(0) else None
        ggy = Conv(self.g, self.groups)(x, ggw) if self.needs_grad(1) else None
        return gx, ggy


# --------------------------------------------------------------------------------------------------
# Public operators


@in_float16
def conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Tensor:
    """y[n, co, o] = bias[co] + sum over ci, k of x[n, ci, o*stride + k*dilation - padding] w[co, ci, k].

    input (N, C_in, L) or (C_in, L); weight (C_out, C_in/groups, K); bias (C_out,). ``padding`` is an int, a (before,
    after) pair in a list, 'same' or 'valid'. Result (N, C_out, O) with O = floor((L + 2p - d(K-1) - 1)/s) + 1.
    """
    return _conv(1, input, weight, bias, stride, padding, dilation, groups)


@in_float16
def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Tensor:
    """y[n, co, oh, ow] = bias[co] + sum over ci, kh, kw of x[n, ci, ih, iw] w[co, ci, kh, kw], ih = oh*s + kh*d - p.

    input (N, C_in, H, W) or (C_in, H, W); weight (C_out, C_in/groups, KH, KW); bias (C_out,). ``stride``, ``padding``
    and ``dilation`` are one int or one an axis; ``padding`` also 'same' (stride 1), 'valid', or a (before, after)
    pair an axis. A group of output channels sees only its group of input channels. Raises ValueError (shapes, sizes)
    and TypeError (dtypes). Source: Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", 2016.
    """
    return _conv(2, input, weight, bias, stride, padding, dilation, groups)


@in_float16
def conv3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Tensor:
    """:func:`conv2d` with one axis more: input (N, C_in, D, H, W); weight (C_out, C_in/groups, KD, KH, KW)."""
    return _conv(3, input, weight, bias, stride, padding, dilation, groups)


@in_float16
def conv_transpose1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Padding = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
) -> Tensor:
    """:func:`conv_transpose2d` with one spatial axis: input (N, C_in, L); weight (C_in, C_out/groups, K)."""
    return _conv_transpose(1, input, weight, bias, stride, padding, output_padding, groups, dilation)


@in_float16
def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Padding = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
) -> Tensor:
    """y[n, co, i] = bias[co] + sum of x[n, ci, o] w[ci, co, k] over ci and the (o, k) with o*s + k*d - p = i.

    The input gradient of a convolution, used forward. input (N, C_in, H, W) or (C_in, H, W); weight
    (C_in, C_out/groups, KH, KW); bias (C_out,). The result has (H-1)s - 2p + d(KH-1) + output_padding + 1 rows:
    ``output_padding`` < max(stride, dilation) chooses among the sizes that the convolution maps to H, and adds no
    zeros. Source: relationships 8 to 14 of Dumoulin and Visin, 2016.
    """
    return _conv_transpose(2, input, weight, bias, stride, padding, output_padding, groups, dilation)


@in_float16
def conv_transpose3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Padding = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
) -> Tensor:
    """:func:`conv_transpose2d` with one axis more: input (N, C_in, D, H, W); weight (C_in, C_out/groups, *K)."""
    return _conv_transpose(3, input, weight, bias, stride, padding, output_padding, groups, dilation)


def _conv(
    rank: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Size,
    padding: Padding,
    dilation: Size,
    groups: int,
) -> Tensor:
    op = f"conv{rank}d"
    input, weight, bias = _read(op, rank, input, weight, bias, ("C_out", "C_in/groups"))
    images, unbatched = as_batch(op, input, rank)
    _check_groups(op, groups, weight.shape[0], "output channels (weight.shape[0])")
    expected = weight.shape[1] * groups
    if images.shape[1] != expected:
        raise ValueError(
            f"{op}: weight expects {expected} input channels (weight.shape[1]={weight.shape[1]} times "
            f"groups={groups}) but input has {images.shape[1]} (input.shape={input.shape})."
            f"{_mend(input, rank, expected, unbatched)}"
        )
    _check_bias(op, bias, weight.shape[0])
    g = window_geometry(op, images.shape[2:], weight.shape[2:], stride, padding, dilation)
    return _finish(Conv(g, groups)(images, weight), bias, unbatched)


def _conv_transpose(
    rank: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Size,
    padding: Padding,
    output_padding: Size,
    groups: int,
    dilation: Size,
) -> Tensor:
    op = f"conv_transpose{rank}d"
    input, weight, bias = _read(op, rank, input, weight, bias, ("C_in", "C_out/groups"))
    images, unbatched = as_batch(op, input, rank)
    _check_groups(op, groups, weight.shape[0], "input channels (weight.shape[0])")
    if images.shape[1] != weight.shape[0]:
        raise ValueError(
            f"{op}: weight expects {weight.shape[0]} input channels (weight.shape[0]; its layout is "
            f"(C_in, C_out/groups, *K)) but input has {images.shape[1]} (input.shape={input.shape})."
            f"{_mend(input, rank, weight.shape[0], unbatched)}"
        )
    _check_bias(op, bias, weight.shape[1] * groups)
    g = transposed_geometry(op, images.shape[2:], weight.shape[2:], stride, padding, output_padding, dilation)
    return _finish(ConvInput(g, groups)(images, weight), bias, unbatched)


def _read(
    op: str, rank: int, input: Tensor, weight: Tensor, bias: Tensor | None, channels: tuple[str, str]
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The arguments as Tensors of one dtype, the weight with rank + 2 axes."""
    input, weight = as_tensor(input, op), as_tensor(weight, op, "weight")
    bias = None if bias is None else as_tensor(bias, op, "bias")
    if input.dtype.kind == "b":
        raise TypeError(f"{op}: input must be numbers, but is bool. Convert it with input.float().")
    for name, other in (("weight", weight), ("bias", bias)):
        if other is not None and other.dtype != input.dtype:
            raise TypeError(
                f"{op}: input and {name} must have one dtype, but are {input.dtype} and {other.dtype}. "
                f"Convert one of them, e.g. x.to({name}.dtype)."
            )
    if weight.ndim != rank + 2:
        raise ValueError(
            f"{op}: weight must be ({', '.join(channels)}, "
            f"{', '.join('K' + a for a in SPATIAL[rank].split(', '))}), {rank + 2} axes, "
            f"but has {weight.ndim} (weight.shape={weight.shape})."
        )
    if 0 in weight.shape[:2]:
        named = " and ".join(channels[:2])
        raise ValueError(f"{op}: weight needs at least one of {named}, but weight.shape={weight.shape}.")
    return input, weight, bias


def _check_groups(op: str, groups: int, channels: int, what: str) -> None:
    if isinstance(groups, bool) or not isinstance(groups, int):
        raise TypeError(f"{op}: groups must be an int, but is {groups!r}.")
    if groups < 1 or channels % groups:
        raise ValueError(f"{op}: groups must be at least 1 and divide the {channels} {what}, but groups={groups}.")


def _check_bias(op: str, bias: Tensor | None, channels: int) -> None:
    if bias is not None and bias.shape != (channels,):
        raise ValueError(
            f"{op}: bias must have shape ({channels},), one number an output channel, but has {bias.shape}."
        )


_CHANNELS_LAST = {
    1: ("an NLC signal", "an LC signal"),
    2: ("an NHWC image", "an HWC image"),
    3: ("an NDHWC volume", "a DHWC volume"),
}


def _mend(input: Tensor, rank: int, expected: int, unbatched: bool) -> str:
    """What to do about the wrong number of channels, where the shape tells."""
    if input.shape[-1] != expected:
        return ""
    last = input.ndim - 1
    order = (last, *range(last)) if unbatched else (0, last, *range(1, last))
    batched_layout, layout = _CHANNELS_LAST[rank]
    return f" For {layout if unbatched else batched_layout} use x.permute{order}."


def _finish(y: Tensor, bias: Tensor | None, unbatched: bool) -> Tensor:
    if bias is not None:
        y = y + bias.reshape(-1, *(1,) * (y.ndim - 2))  # (C_out, 1, 1)
    return y.squeeze(0) if unbatched else y
