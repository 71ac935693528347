"""What the labs in ``lectures/`` need: exercises that check themselves, and figures with alternative text."""

from __future__ import annotations

import inspect
import io
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Checker = Callable[..., "str | None"]


class NotSolved(AssertionError):
    """An exercise has no answer yet or a wrong one; the message says what is wrong with it."""

    def _render_traceback_(self) -> list[str]:  # IPython asks for this in place of a traceback
        return [str(self)]


@dataclass
class _Exercise:
    checker: Checker
    hints: tuple[str, ...]
    hints_given: int = 0
    solution: str = field(default="The solution stands in this file, in the cell of the exercise.")


class Quiz:
    """The exercises of one notebook.

    An exercise is a function whose parameters are the names of the variables or functions that the learner has to
    define. It returns None for a right answer, or one sentence that says what is wrong with this one::

        q = Quiz(globals())

        @q.exercise(1, "A filter has one weight for each pixel under it, and one bias.")
        def _(c1_parameters):
            if c1_parameters == 6 * 25:
                return "these are the weights; a filter also has a bias."
            if c1_parameters != 6 * 26:
                return f"{c1_parameters} is not 6 filters times the parameters of one."

    The learner then calls ``q.check(1)``, ``q.hint()`` or ``q.solution()``; without a number the last exercise that
    was checked is meant. A wrong number raises ValueError.
    """

    def __init__(self, namespace: dict[str, Any]) -> None:
        self._namespace = namespace
        self._exercises: dict[int, _Exercise] = {}
        self._latest: int | None = None

    def exercise(self, number: int, *hints: str) -> Callable[[Checker], Checker]:
        """Decorate the function that checks exercise ``number``; ``hints`` are given one at a time."""
        if not hints:
            raise ValueError(f"exercise: exercise {number} has no hint; give at least one sentence after its number.")

        def register(checker: Checker) -> Checker:
            self._exercises[number] = _Exercise(checker, hints)
            return checker

        return register

    def check(self, number: int) -> None:
        """Print that the answer is right, or raise `NotSolved` with what is wrong."""
        exercise = self._get(number, "check")
        names = list(inspect.signature(exercise.checker).parameters)
        for name in names:
            if self._namespace.get(name, ...) is ...:
                raise NotSolved(f"Exercise {number} is open: define `{name}` in the cell above q.check({number}).")
        diagnosis = exercise.checker(*(self._namespace[name] for name in names))
        if diagnosis is not None:
            raise NotSolved(f"Exercise {number}: {diagnosis} (q.hint({number}) helps.)")
        print(f"Exercise {number} is right.")

    def hint(self, number: int | None = None) -> None:
        """Print the next hint of an exercise, the last one again when there is no other."""
        exercise = self._get(number, "hint")
        print(exercise.hints[exercise.hints_given])
        exercise.hints_given = min(exercise.hints_given + 1, len(exercise.hints) - 1)

    def solution(self, number: int | None = None) -> None:
        """Print a solution of an exercise."""
        print(self._get(number, "solution").solution)

    def set_solution(self, number: int, text: str) -> None:
        """Say what `solution` prints; the generator of the notebooks writes these calls."""
        self._get(number, "set_solution").solution = text

    def _get(self, number: int | None, caller: str) -> _Exercise:
        if number is None:
            number = self._latest
        if number not in self._exercises:
            raise ValueError(
                f"{caller}: number must be one of {sorted(self._exercises)}, but is {number}; "
                f"write for example q.{caller}({min(self._exercises, default=1)})."
            )
        self._latest = number
        return self._exercises[number]


def show(figure: Figure, alt: str) -> None:
    """Display a Matplotlib figure in a notebook with ``alt``, the sentence for those who cannot see it, and close it.

    A figure wider than 7 inches does not fit a page and raises ValueError.
    """
    try:
        import matplotlib.pyplot as plt
        from IPython.display import Image, display
    except ImportError as error:
        raise ImportError("show: matplotlib and IPython are missing; pip install 'tinyconv[lab]'.") from error
    width = figure.get_figwidth()
    if width > 7:
        raise ValueError(f"show: figure must be at most 7 inches wide but is {width:g}; set figsize=(7, ...).")
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=150)
    plt.close(figure)
    display(Image(data=picture.getvalue(), width=round(100 * width), alt=alt))
