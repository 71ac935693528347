"""The tape: tensors that remember how they were made, and the walk back that gives gradients."""

from tinyconv.autograd.check import gradcheck, gradgradcheck
from tinyconv.autograd.function import Function
from tinyconv.autograd.mode import detect_anomaly, enable_grad, is_grad_enabled, no_grad, set_grad_enabled
from tinyconv.autograd.tape import backward, grad
from tinyconv.autograd.tensor import Tensor

__all__ = [
    "Function",
    "Tensor",
    "backward",
    "detect_anomaly",
    "enable_grad",
    "grad",
    "gradcheck",
    "gradgradcheck",
    "is_grad_enabled",
    "no_grad",
    "set_grad_enabled",
]
