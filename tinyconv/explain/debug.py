"""Stepping through a convolution: with pdb's letters through a trace, and with pdb itself through the loops."""

from __future__ import annotations

import bdb
import cmd
import inspect
import pdb
import sys
from bisect import bisect_right
from collections.abc import Callable
from math import prod
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from tinyconv import kernels
from tinyconv.explain import text
from tinyconv.geometry import Sizes
from tinyconv.kernels import loops

if TYPE_CHECKING:  # steps.py offers the debugger as a method
    from tinyconv.explain.steps import Step, Trace


class StepDebugger(cmd.Cmd):
    """Walk through the steps of a trace product by product. ``help`` lists the letters, which are those of pdb."""

    prompt = "(tinyconv) "

    def __init__(
        self,
        trace: Trace,
        by: str = "output",
        g: Any = None,
        stdin: IO[str] | None = None,
        stdout: IO[str] | None = None,
    ) -> None:
        super().__init__(stdin=stdin, stdout=stdout)
        self.use_rawinput = stdin is None
        self.trace, self.by, self.g = trace, by, g
        self.shape = trace.shape(by)
        if not prod(self.shape):
            raise ValueError(f"debug: there is nothing to step through; the {by} of {trace.name} is {self.shape}.")
        self.breaks: list[int] = []
        self._go(0)

    def _go(self, position: int) -> None:
        """Stand before the first product of an element."""
        self.position, self.done = position, 0
        index = tuple(int(i) for i in np.unravel_index(position, self.shape))
        self.step: Step = self.trace.at(**{self.by: index}, g=self.g)
        self._say(f"{text.element(self.by, index)}, {len(self.step.terms)} products")

    def _say(self, line: str) -> None:
        print(line, file=self.stdout)

    def _forward(self) -> bool | None:
        """To the next element; True, which ends the loop, after the last."""
        if self.position + 1 == prod(self.shape):
            self._say("That was the last element.")
            return True
        self._go(self.position + 1)
        return None

    def _read(self, argument: str) -> int | None:
        """The position of an element that is named as 0,0,1,2; a sentence and None if there is none."""
        try:
            index = tuple(int(part) for part in argument.strip("[]() ").split(","))
            return int(np.ravel_multi_index(index, self.shape))
        except ValueError:
            self._say(f"Name an element of the {self.by}, whose shape is {self.shape}, e.g. 0,0,1,2; not {argument!r}.")
            return None

    def do_s(self, _: str) -> bool | None:
        """s: add one product."""
        if self.done == len(self.step.terms):
            return self._forward()
        term = self.step.terms[self.done]
        self.done += 1
        self._say(f"{self.done}/{len(self.step.terms)}  {text.term_line(self.trace, self.step, term)}")
        if self.done == len(self.step.terms):
            self._say(f"{text.element(self.by, self.step.index)} = {text.number(self.step.value)}")
        return None

    def do_n(self, _: str) -> bool | None:
        """n: finish this element and go to the next."""
        self._say(f"{text.element(self.by, self.step.index)} = {text.number(self.step.value)}")
        return self._forward()

    def do_j(self, argument: str) -> None:
        """j 0,0,1,2: jump to an element."""
        position = self._read(argument)
        if position is not None:
            self._go(position)

    def do_b(self, argument: str) -> None:
        """b 0,0,1,2: stop there on c; without an index, list where."""
        if argument:
            position = self._read(argument)
            if position is not None and position not in self.breaks:
                self.breaks = sorted([*self.breaks, position])
        self._say("breaks: " + ", ".join(str(tuple(map(int, np.unravel_index(b, self.shape)))) for b in self.breaks))

    def do_c(self, _: str) -> bool | None:
        """c: go on to the next break, or to the end."""
        after = bisect_right(self.breaks, self.position)
        if after == len(self.breaks):
            self._say("No break before the end.")
            return True
        self._go(self.breaks[after])
        return None

    def do_p(self, argument: str) -> None:
        """p expression: its value; step, terms, acc (the sum so far), g, trace, x, w, b and np are known."""
        acc = self.step.terms[self.done - 1].partial if self.done else 0
        known = {"step": self.step, "terms": self.step.terms, "acc": acc, "g": self.g, "trace": self.trace, "np": np}
        known |= {"x": self.trace.x, "w": self.trace.w, "b": self.trace.b}
        try:
            self._say(repr(eval(argument, known)))
        except Exception as error:  # whatever the learner typed; the session goes on, as in pdb
            self._say(f"*** {type(error).__name__}: {error}")

    def do_w(self, _: str) -> None:
        """w: where we are, as a sentence."""
        self._say(f"{self.done} of {len(self.step.terms)} products are added.")
        self._say(self.trace.describe(self.step))

    def do_l(self, _: str) -> None:
        """l: list the products of this element; an arrow marks the next."""
        self._say(text.format_step(self.trace, self.step, current=self.done))

    def do_q(self, _: str) -> bool:
        """q: quit."""
        return True

    do_EOF = do_q  # noqa: N815 - the name that cmd asks for

    def default(self, line: str) -> None:
        """An unknown letter."""
        self._say(f"*** {line!r} is none of s, n, c, j, b, p, w, l, q; help explains them.")


#: What an element of the loops is called, and the function whose innermost line makes it: (argument, axes) to these.
_KERNELS: dict[tuple[str, int], tuple[Callable[..., None], str]] = {
    ("output", 4): (loops._conv2d, "n, co, oh, ow"),
    ("output", 5): (loops._conv3d, "n, co, od, oh, ow"),
    ("input", 4): (loops._conv2d_input, "n, c, ih, iw"),
    ("input", 5): (loops._conv3d_input, "n, c, id_, ih, iw"),
    ("weight", 4): (loops._conv2d_weight, "co, ci, kh, kw"),
    ("weight", 5): (loops._conv3d_weight, "co, ci, kd, kh, kw"),
}


class break_at:  # noqa: N801 - used like a function
    """Stop in pdb at every product of one element, inside the loops that compute it.

        with explain.break_at(output=(0, 0, 1, 2)):
            F.conv2d(x, w, stride=2, padding=1)

    Within the block the loops rung computes. The debugger stands before the product is added, with n, co, oh, ow, ci,
    kh, kw, ih, iw, pixel and acc in scope; ``c`` goes to the next product, ``q`` leaves the block. ``input`` stops in
    the input gradient, which is the forward pass of a transposed convolution, ``weight`` in the weight gradient. A
    signal (three indices) is an image of one row. ``debugger`` is a ``pdb.Pdb`` of your own.
    """

    def __init__(
        self,
        output: Sizes | None = None,
        input: Sizes | None = None,
        weight: Sizes | None = None,
        debugger: pdb.Pdb | None = None,
    ) -> None:
        asked = {by: index for by, index in (("output", output), ("input", input), ("weight", weight)) if index}
        if len(asked) != 1:
            raise ValueError("break_at: give one of output, input and weight, an index such as output=(0, 0, 1, 2).")
        ((by, index),) = asked.items()
        at = (*index[:2], 0, *index[2:]) if len(index) == 3 else tuple(index)
        if (by, len(at)) not in _KERNELS:
            raise ValueError(f"break_at: {by} must have 3, 4 or 5 indices, but is {index}.")
        function, names = _KERNELS[by, len(at)]
        lines, first = inspect.getsourcelines(function)
        self.line = first + next(row for row, line in enumerate(lines) if "acc +=" in line)
        self.file = inspect.getsourcefile(function) or ""
        self.condition = f"({names}) == {tuple(int(i) for i in at)}"
        self.debugger = debugger or pdb.Pdb()

    def __enter__(self) -> None:
        self.rung = kernels.use_kernels("loops")
        self.before = sys.gettrace()
        debugger: Any = self.debugger  # what follows is bdb's own way to run until a breakpoint
        debugger.reset()
        debugger.set_break(self.file, self.line, cond=self.condition)
        debugger.botframe = sys._getframe(1)
        debugger.set_continue()
        sys.settrace(debugger.trace_dispatch)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        sys.settrace(self.before)
        self.debugger.clear_break(self.file, self.line)
        self.rung.__exit__(kind, error, trace)
        return kind is not None and issubclass(kind, bdb.BdbQuit)
