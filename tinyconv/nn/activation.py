"""Activations as layers; the operators in tinyconv.ops.activation have the formulas."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from tinyconv import functional as F
from tinyconv.autograd import Tensor
from tinyconv.nn import init
from tinyconv.nn.linear import new_parameter
from tinyconv.nn.module import Module


class _Activation(Module):
    """y = function(x, *options): the options are the attributes named in ``shown``, in the function's order."""

    function: ClassVar[Callable[..., Tensor]]

    def forward(self, input: Tensor) -> Tensor:
        """The function of tinyconv.functional with this layer's name."""
        return type(self).function(input, *[getattr(self, name) for name in self.shown])


class ReLU(_Activation):
    """y = max(x, 0)"""

    function = staticmethod(F.relu)


class ReLU6(_Activation):
    """y = min(max(x, 0), 6)"""

    function = staticmethod(F.relu6)


class SELU(_Activation):
    """y = 1.0507 elu(x, 1.6733)"""

    function = staticmethod(F.selu)


class SiLU(_Activation):
    """y = x sigmoid(x)"""

    function = staticmethod(F.silu)


class Mish(_Activation):
    """y = x tanh(softplus(x))"""

    function = staticmethod(F.mish)


class Hardswish(_Activation):
    """y = x min(max(x + 3, 0), 6) / 6"""

    function = staticmethod(F.hardswish)


class Hardsigmoid(_Activation):
    """y = min(max(x + 3, 0), 6) / 6"""

    function = staticmethod(F.hardsigmoid)


class Sigmoid(_Activation):
    """y = 1 / (1 + e^-x)"""

    function = staticmethod(F.sigmoid)


class LogSigmoid(_Activation):
    """y = log sigmoid(x)"""

    function = staticmethod(F.logsigmoid)


class Tanh(_Activation):
    """y = tanh(x)"""

    function = staticmethod(F.tanh)


class Tanhshrink(_Activation):
    """y = x - tanh(x)"""

    function = staticmethod(F.tanhshrink)


class Softsign(_Activation):
    """y = x / (1 + |x|)"""

    function = staticmethod(F.softsign)


class LeakyReLU(_Activation):
    """y = x where x > 0, else negative_slope x"""

    function, shown = staticmethod(F.leaky_relu), ("negative_slope",)

    def __init__(self, negative_slope: float = 0.01) -> None:
        super().__init__()
        self.negative_slope = negative_slope


class ELU(_Activation):
    """y = x where x > 0, else alpha (e^x - 1)"""

    function, shown = staticmethod(F.elu), ("alpha",)

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__()
        self.alpha = alpha


class CELU(_Activation):
    """y = x where x > 0, else alpha (e^(x/alpha) - 1)"""

    function, shown = staticmethod(F.celu), ("alpha",)

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__()
        self.alpha = alpha


class GELU(_Activation):
    """y = x Phi(x); approximate='none' or 'tanh'"""

    function, shown = staticmethod(F.gelu), ("approximate",)

    def __init__(self, approximate: str = "none") -> None:
        super().__init__()
        self.approximate = approximate


class Hardtanh(_Activation):
    """y = x moved into [min_val, max_val]"""

    function, shown = staticmethod(F.hardtanh), ("min_val", "max_val")

    def __init__(self, min_val: float = -1.0, max_val: float = 1.0) -> None:
        super().__init__()
        self.min_val, self.max_val = min_val, max_val


class Softplus(_Activation):
    """y = log(1 + e^(beta x)) / beta, and x where beta x > threshold"""

    function, shown = staticmethod(F.softplus), ("beta", "threshold")

    def __init__(self, beta: float = 1.0, threshold: float = 20.0) -> None:
        super().__init__()
        self.beta, self.threshold = beta, threshold


class Threshold(_Activation):
    """y = x where x > threshold, else value"""

    function, shown = staticmethod(F.threshold), ("threshold", "value")

    def __init__(self, threshold: float, value: float) -> None:
        super().__init__()
        self.threshold, self.value = threshold, value


class GLU(_Activation):
    """y = a sigmoid(b), a and b the halves of x along ``dim``"""

    function, shown = staticmethod(F.glu), ("dim",)

    def __init__(self, dim: int = -1) -> None:
        super().__init__()
        self.dim = dim


class _AlongAxis(_Activation):
    shown = ("dim",)

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim


class Softmax(_AlongAxis):
    """y = e^x / sum e^x along ``dim``"""

    function = staticmethod(F.softmax)


class LogSoftmax(_AlongAxis):
    """y = log softmax(x) along ``dim``"""

    function = staticmethod(F.log_softmax)


class Softmin(_AlongAxis):
    """y = softmax(-x) along ``dim``"""

    function = staticmethod(F.softmin)


class PReLU(Module):
    """y = x where x > 0, else weight x; weight learned, one for all (num_parameters=1) or one a channel."""

    shown = ("num_parameters",)

    def __init__(self, num_parameters: int = 1, init: float = 0.25) -> None:
        super().__init__()
        self.num_parameters, self.init = num_parameters, init
        self.weight = new_parameter(num_parameters)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """weight = init"""
        init.constant_(self.weight, self.init)

    def forward(self, input: Tensor) -> Tensor:
        """F.prelu"""
        return F.prelu(input, self.weight)
