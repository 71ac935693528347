"""Switches of the tape, one set a thread: is it recording, looking for anomalies, repeating an earlier pass."""

from __future__ import annotations

import threading
from contextlib import ContextDecorator
from types import TracebackType


class _Switches(threading.local):
    recording = True
    anomaly = False
    repeating = False


switches = _Switches()


class _Switch(ContextDecorator):
    """Sets one switch inside a ``with`` block or a decorated function and restores it on the way out."""

    def __init__(self, name: str, value: bool) -> None:
        self.name, self.value = name, value
        self.before: list[bool] = []  # a stack, so that one object can be entered again while it is in use

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

    Keeps the whole call stack of every operator, so it is slow: for finding a fault, not for training.
    """

    def __init__(self) -> None:
        super().__init__("anomaly", True)


class repeating(_Switch):
    """``with repeating():`` a forward pass that was made before is made again, so running statistics stay as they
    are.
    """

    def __init__(self) -> None:
        super().__init__("repeating", True)


def is_grad_enabled() -> bool:
    """True where operators are being recorded in this thread."""
    return switches.recording
