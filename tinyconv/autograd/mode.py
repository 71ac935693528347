"""Switches of a thread: is the tape recording, looking for anomalies, repeating an earlier pass; is precision mixed."""

from __future__ import annotations

import threading
from contextlib import ContextDecorator
from types import TracebackType
from typing import Any

import numpy as np


class _Switches(threading.local):
    recording = True
    anomaly = False
    repeating = False
    amp: frozenset[str] = frozenset()  # the devices on which precision is mixed


switches = _Switches()


class _Switch(ContextDecorator):
    """Sets one switch inside a ``with`` block or a decorated function and restores it on the way out."""

    def __init__(self, name: str, value: Any) -> None:
        self.name, self.value = name, value
        self.before: list[Any] = []  # a stack, so that one object can be entered again while it is in use

    def __enter__(self) -> None:
        self.before.append(getattr(switches, self.name))
        setattr(switches, self.name, self.value)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        setattr(switches, self.name, self.before.pop())


class no_grad(_Switch):
    """``with no_grad():`` operators record nothing, results do not require gradients. Also a decorator."""

    def __init__(self) -> None:
        super().__init__("recording", False)


class enable_grad(_Switch):
    """``with enable_grad():`` record again inside a :class:`no_grad` block. Also a decorator."""

    def __init__(self) -> None:
        super().__init__("recording", True)


class set_grad_enabled(_Switch):
    """``with set_grad_enabled(flag):`` record or not, as ``flag`` says. Works on entering, not as a plain call."""

    def __init__(self, mode: bool) -> None:
        super().__init__("recording", bool(mode))


class detect_anomaly(_Switch):
    """``with detect_anomaly():`` forward and backward; a NaN or an exception in backward names the forward line.

    On a GPU every operator waits for its kernels, so that their errors, and questions about values such as class
    numbers, come out at the operator that caused them and not at the next read. Keeps the whole call stack of every
    operator, so it is slow: for finding a fault, not for training.
    """

    def __init__(self) -> None:
        super().__init__("anomaly", True)


class repeating(_Switch):
    """``with repeating():`` a forward pass that was made before is made again, so running statistics stay as they
    are.
    """

    def __init__(self) -> None:
        super().__init__("repeating", True)


class autocast(_Switch):
    """``with autocast("cuda"):`` products in float16, what needs more in float32, on that device. Also a decorator.

    Convolutions, matrix products and linear maps turn float32 arguments into float16; sums, exponentials, logarithms,
    powers, softmax, losses and layer and group norm turn float16 into float32 (:mod:`tinyconv.ops.mixed`); others
    compute in what they are given. For the forward pass and the loss; backward follows the forward pass. ``dtype`` can
    only be float16: NumPy has no bfloat16, for which ``use_kernels(precision="bf16")`` rounds. With ``enabled`` False
    nothing is mixed inside.
    """

    def __init__(self, device_type: str, dtype: Any = "float16", enabled: bool = True) -> None:
        if device_type not in ("cpu", "cuda"):
            raise ValueError(f"autocast: device_type must be 'cpu' or 'cuda', but is {device_type!r}.")
        try:
            half = np.dtype(dtype) == np.float16
        except TypeError:  # bfloat16, which NumPy does not know
            half = False
        if not half:
            raise ValueError(
                f"autocast: dtype must be float16, but is {dtype}. For bfloat16 operands: "
                "use_kernels(precision='bf16')."
            )
        super().__init__("amp", None)
        self.device, self.enabled = device_type, enabled

    def __enter__(self) -> None:
        device = frozenset([self.device])
        self.value = switches.amp | device if self.enabled else switches.amp - device
        super().__enter__()


class amp_paused(_Switch):
    """Inside, dtypes are what they are: for what an operator is made of, and for the way back."""

    def __init__(self) -> None:
        super().__init__("amp", frozenset())


def is_grad_enabled() -> bool:
    """True where operators are being recorded in this thread."""
    return switches.recording
