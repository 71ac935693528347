"""Mixed precision: under :class:`tinyconv.amp.autocast` products are computed in float16, and what float16 is too
coarse or too narrow for in float32. An operator says which of the two it is where it is defined, by one of these
decorators; one that says neither computes in the dtype that it is given.

Source: Micikevicius et al., "Mixed precision training", ICLR 2018; the lists are torch's for CUDA.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import numpy as np

from tinyconv.autograd import Tensor
from tinyconv.autograd.mode import amp_paused, switches
from tinyconv.ops.convert import cast

Operator = TypeVar("Operator", bound=Callable[..., Any])


def in_float16(operator: Operator) -> Operator:
    """Under autocast: float32 arguments become float16, and so does the result. Sums still run in float32."""
    return _in(np.dtype(np.float16), np.dtype(np.float32), operator)


def in_float32(operator: Operator) -> Operator:
    """Under autocast: float16 arguments become float32, and so does the result."""
    return _in(np.dtype(np.float32), np.dtype(np.float16), operator)


def _in(target: np.dtype[Any], source: np.dtype[Any], operator: Operator) -> Operator:
    def converted(value: Any) -> Any:
        if isinstance(value, Tensor) and value.dtype == source and value.device in switches.amp:
            return cast(value, target)
        return value

    @wraps(operator)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not switches.amp:
            return operator(*args, **kwargs)
        given, named = [converted(value) for value in args], {k: converted(value) for k, value in kwargs.items()}
        with amp_paused():  # what the operator is made of has its dtype now
            return operator(*given, **named)

    return call  # type: ignore[return-value]
