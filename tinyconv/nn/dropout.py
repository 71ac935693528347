"""Dropout layers: active in training, the identity after eval()."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from tinyconv import functional as F
from tinyconv.autograd import Tensor
from tinyconv.nn.module import Module


class _Dropout(Module):
    """``p``: the probability of a zero."""

    function: ClassVar[Callable[..., Tensor]]
    shown = ("p",)

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"{type(self).__name__}: p is a probability and must lie in [0, 1], but is {p}.")
        self.p = p

    def forward(self, input: Tensor) -> Tensor:
        """F.*dropout*"""
        return type(self).function(input, self.p, self.training)


class Dropout(_Dropout):
    """Zeros elements, see F.dropout."""

    function = staticmethod(F.dropout)


class Dropout1d(_Dropout):
    """Zeros channels of (N, C, L), see F.dropout1d."""

    function = staticmethod(F.dropout1d)


class Dropout2d(_Dropout):
    """Zeros channels of (N, C, H, W), see F.dropout2d."""

    function = staticmethod(F.dropout2d)


class Dropout3d(_Dropout):
    """Zeros channels of (N, C, D, H, W), see F.dropout3d."""

    function = staticmethod(F.dropout3d)


class AlphaDropout(_Dropout):
    """Keeps mean 0 and variance 1, see F.alpha_dropout."""

    function = staticmethod(F.alpha_dropout)


class FeatureAlphaDropout(_Dropout):
    """Alpha dropout of channels, see F.feature_alpha_dropout."""

    function = staticmethod(F.feature_alpha_dropout)
