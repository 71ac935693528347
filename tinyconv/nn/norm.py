"""Normalisation layers; the operators in tinyconv.ops.norm have the formulas."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, TypeVar

import numpy as np

from tinyconv import functional as F
from tinyconv.autograd import Tensor
from tinyconv.autograd.dtypes import default_float
from tinyconv.autograd.mode import switches
from tinyconv.nn import init
from tinyconv.nn.linear import new_parameter
from tinyconv.nn.module import Module, Parameter

S = TypeVar("S", bound="_WithStatistics")


class _Norm(Module):
    """weight of ones and bias of zeros, where ``affine``."""

    weight: Parameter | None
    bias: Parameter | None

    def _register_affine(self, shape: tuple[int, ...], affine: bool, bias: bool) -> None:
        self.register_parameter("weight", new_parameter(*shape) if affine else None)
        self.register_parameter("bias", new_parameter(*shape) if affine and bias else None)

    def reset_parameters(self) -> None:
        """weight = 1, bias = 0"""
        if self.weight is not None:
            init.ones_(self.weight)
        if self.bias is not None:
            init.zeros_(self.bias)


class _WithStatistics(_Norm):
    """What batch and instance norm share: running statistics."""

    axes: ClassVar[tuple[int, ...]]  # numbers of axes that an input may have
    layout: ClassVar[str]
    shown = ("num_features", "eps", "momentum", "affine", "track_running_stats")
    frozen = False
    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.affine, self.track_running_stats = affine, track_running_stats
        self._register_affine((num_features,), affine, bias)
        tracked = track_running_stats
        self.register_buffer("running_mean", Tensor(np.zeros(num_features, default_float)) if tracked else None)
        self.register_buffer("running_var", Tensor(np.ones(num_features, default_float)) if tracked else None)
        self.register_buffer("num_batches_tracked", Tensor(np.zeros((), np.int64)) if tracked else None)
        self.reset_parameters()

    def train(self: S, mode: bool = True) -> S:
        """Module.train, but frozen layers stay in evaluation: see tinyconv.transfer.freeze."""
        return super().train(mode and not self.frozen)

    def reset_running_stats(self) -> None:
        """Forget what was seen: mean 0, variance 1."""
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            init.zeros_(self.running_mean)
            init.ones_(self.running_var)
            init.zeros_(self.num_batches_tracked)

    def _check(self, input: Tensor) -> None:
        if input.ndim not in self.axes:
            raise ValueError(f"{type(self).__name__}: input must be {self.layout}, but has shape {input.shape}.")


class _BatchNorm(_WithStatistics):
    """y = weight (x - mean) / sqrt(var + eps) + bias, see F.batch_norm: the batch's statistics in training, running
    ones else.

    ``momentum=None`` averages all batches seen. Without ``track_running_stats`` those of the batch always.
    """

    def forward(self, input: Tensor) -> Tensor:
        """F.batch_norm"""
        self._check(input)
        if not (self.training and self.num_batches_tracked is not None):
            use_batch = self.training or self.running_mean is None
            return F.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, use_batch, 0.0, self.eps
            )
        momentum = self.momentum
        if momentum is None:  # this alone reads the number, for which a GPU would have to be waited
            momentum = 1 / (int(self.num_batches_tracked.data) + 1)
        y = F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, True, momentum, self.eps)
        if not switches.repeating:
            self.num_batches_tracked.data += 1
            self.num_batches_tracked.changed()
        return y


class BatchNorm1d(_BatchNorm):
    """For inputs (N, C) and (N, C, L)."""

    axes, layout = (2, 3), "(N, C) or (N, C, L)"


class BatchNorm2d(_BatchNorm):
    """For inputs (N, C, H, W)."""

    axes, layout = (4,), "(N, C, H, W)"


class BatchNorm3d(_BatchNorm):
    """For inputs (N, C, D, H, W)."""

    axes, layout = (5,), "(N, C, D, H, W)"


class _InstanceNorm(_WithStatistics):
    """y = weight (x - mean) / sqrt(var + eps) + bias with the statistics of each image and channel, see
    F.instance_norm.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, bias=bias)
        self._momentum = momentum

    def forward(self, input: Tensor) -> Tensor:
        """F.instance_norm"""
        self._check(input)
        unbatched = input.ndim == self.axes[0]
        use_input = self.training or not self.track_running_stats
        y = F.instance_norm(
            input.unsqueeze(0) if unbatched else input,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            use_input,
            self._momentum,
            self.eps,
        )
        return y.squeeze(0) if unbatched else y


class InstanceNorm1d(_InstanceNorm):
    """For inputs (N, C, L) and (C, L)."""

    axes, layout = (2, 3), "(N, C, L) or (C, L)"


class InstanceNorm2d(_InstanceNorm):
    """For inputs (N, C, H, W) and (C, H, W)."""

    axes, layout = (3, 4), "(N, C, H, W) or (C, H, W)"


class InstanceNorm3d(_InstanceNorm):
    """For inputs (N, C, D, H, W) and (C, D, H, W)."""

    axes, layout = (4, 5), "(N, C, D, H, W) or (C, D, H, W)"


class GroupNorm(_Norm):
    """Statistics of ``num_groups`` groups of channels in each image, see F.group_norm."""

    shown = ("num_groups", "num_channels", "eps", "affine")

    def __init__(
        self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True, *, bias: bool = True
    ) -> None:
        super().__init__()
        if num_groups < 1 or num_channels % num_groups:
            raise ValueError(
                f"GroupNorm: num_groups must divide num_channels, but num_groups={num_groups} and "
                f"num_channels={num_channels}."
            )
        self.num_groups, self.num_channels, self.eps, self.affine = num_groups, num_channels, eps, affine
        self._register_affine((num_channels,), affine, bias)
        self.reset_parameters()

    def forward(self, input: Tensor) -> Tensor:
        """F.group_norm"""
        return F.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)


class LayerNorm(_Norm):
    """Statistics of the last axes, which have the shape ``normalized_shape``, see F.layer_norm."""

    shown = ("normalized_shape", "eps", "elementwise_affine")

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
    ) -> None:
        super().__init__()
        shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        self.normalized_shape, self.eps, self.elementwise_affine = shape, eps, elementwise_affine
        self._register_affine(shape, elementwise_affine, bias)
        self.reset_parameters()

    def forward(self, input: Tensor) -> Tensor:
        """F.layer_norm"""
        return F.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)


class LocalResponseNorm(Module):
    """Divides by the activity of neighbouring channels, see F.local_response_norm."""

    shown = ("size", "alpha", "beta", "k")

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> None:
        super().__init__()
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k

    def forward(self, input: Tensor) -> Tensor:
        """F.local_response_norm"""
        return F.local_response_norm(input, self.size, self.alpha, self.beta, self.k)
