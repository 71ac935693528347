"""Dense layers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinyconv import functional as F
from tinyconv.autograd import Tensor
from tinyconv.autograd.dtypes import default_float
from tinyconv.nn import init
from tinyconv.nn.module import Module, Parameter


def new_parameter(*shape: int) -> Parameter:
    """A parameter of zeros, to be initialised."""
    return Parameter(np.zeros(shape, default_float))


class Identity(Module):
    """y = x; takes and ignores any arguments of the layer whose place it holds."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def forward(self, input: Tensor) -> Tensor:
        """The input itself."""
        return input


class Linear(Module):
    """y = x W^T + b.  x (..., in_features) -> (..., out_features); weight (out_features, in_features), bias
    (out_features,).

    Both start as U(-1/sqrt(in_features), 1/sqrt(in_features)).
    """

    shown = ("in_features", "out_features")
    bias: Parameter | None

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.weight = new_parameter(out_features, in_features)
        self.register_parameter("bias", new_parameter(out_features) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new initial values."""
        init.default_weight_(self.weight, self.bias)

    def forward(self, input: Tensor) -> Tensor:
        """F.linear"""
        return F.linear(input, self.weight, self.bias)

    def extra_repr(self) -> str:
        """Sizes, and whether there is a bias."""
        return f"{super().extra_repr()}, bias={self.bias is not None}"


class Bilinear(Module):
    """y_k = x1^T W_k x2 + b_k.  x1 (..., in1_features), x2 (..., in2_features) -> (..., out_features)."""

    shown = ("in1_features", "in2_features", "out_features")
    bias: Parameter | None

    def __init__(self, in1_features: int, in2_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__()
        self.in1_features, self.in2_features, self.out_features = in1_features, in2_features, out_features
        self.weight = new_parameter(out_features, in1_features, in2_features)
        self.register_parameter("bias", new_parameter(out_features) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new initial values: U(-1/sqrt(in1_features), 1/sqrt(in1_features))."""
        bound = 1 / math.sqrt(self.in1_features)
        for p in self.parameters():
            init.uniform_(p, -bound, bound)

    def forward(self, input1: Tensor, input2: Tensor) -> Tensor:
        """F.bilinear"""
        return F.bilinear(input1, input2, self.weight, self.bias)

    def extra_repr(self) -> str:
        """Sizes, and whether there is a bias."""
        return f"{super().extra_repr()}, bias={self.bias is not None}"
