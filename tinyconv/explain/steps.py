"""A trace: the list of triples of one call, read step by step, summed three ways, or told.

Everything is in closed form; nothing is listed before it is asked for.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import product
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyconv.explain import figure, page, text, widget
from tinyconv.explain.debug import StepDebugger
from tinyconv.explain.triples import Triple, Triples
from tinyconv.geometry import Sizes
from tinyconv.kernels import loops
from tinyconv.kernels.arrays import Array
from tinyconv.ops.convert import as_tensor

if TYPE_CHECKING:
    from matplotlib.animation import FuncAnimation
    from matplotlib.figure import Figure

#: What the terms of a step are: left x right, left as it is, left / right, or a candidate for the maximum.
PRODUCT, COPY, SHARE, MAXIMUM = "product", "copy", "share", "maximum"


@dataclass(frozen=True)
class Term:
    """One entry of the list of triples, with its numbers.

    ``output``, ``input``, ``weight``: indices into those arrays, weight None where there is none. With ``padding`` the
    index into the larger image lies outside it. ``left`` and ``right`` are the factors, ``product`` what is added,
    ``partial`` the sum (or maximum) so far. ``winner``: this is the pixel that a max pooling takes.
    """

    output: Sizes
    input: Sizes
    weight: Sizes | None
    padding: bool
    left: float
    right: float | None
    product: float
    partial: float
    winner: bool = False


@dataclass(frozen=True)
class Step:
    """One element of the output, of the input's gradient or of the weight's gradient, and the terms that make it.

    ``value`` is the last partial sum, divided by ``divisor``, rounded to the dtype, plus ``bias``.
    """

    by: str
    index: Sizes
    operation: str
    terms: tuple[Term, ...]
    divisor: float | None
    bias: float | None
    value: float


class Trace:
    """The list of triples of one call of an operator. Made by :func:`trace`.

    Attributes: ``name`` of the operator; ``g`` its :class:`~tinyconv.geometry.Geometry` and ``groups``; ``x``, ``w``
    (or None) and ``b`` (or None), copies of input, weight and bias; ``output``, ``input`` and ``weight``, the shapes of
    the three. An input without batch axis is traced as a batch of one.
    """

    #: The output is the large image that the windows slide over, and the padding is what it was cropped by.
    transposed = False
    #: "output" or "input" where that is the columns of an unfolding, (N, rows, columns), with no channels.
    columns: str | None = None
    #: Name of the arithmetic: "convolution", "transposed", "max", "average", "unfold" or "fold".
    kind: str
    w: Array | None = None
    b: Array | None = None

    def __init__(self, name: str, x: Array, triples: Triples) -> None:
        self.name, self.x, self.triples = name, x, triples
        self.g, self.groups = triples.g, triples.groups
        self.max_terms = 0
        self._rerun: Callable[[Array], Trace]

    # ----------------------------------------------------------------------------------------------
    # What a kind of operator defines

    @property
    def input(self) -> Sizes:
        """Shape of the input, with its batch axis."""
        return self.triples.large

    @property
    def output(self) -> Sizes:
        """Shape of the output, with its batch axis."""
        return self.triples.small

    @property
    def weight(self) -> Sizes | None:
        """Shape of the weight; None for pooling, unfolding and folding."""
        return None

    def _gather(self, by: str, index: Sizes) -> list[Triple]:
        """The triples of one step."""
        return list(self.triples.of_unit(index) if by == "output" else self.triples.of_pixel(index))

    def _step(self, by: str, index: Sizes, g: Array) -> Step:
        raise NotImplementedError

    # ----------------------------------------------------------------------------------------------
    # Looking

    def at(
        self, output: Sizes | None = None, input: Sizes | None = None, weight: Sizes | None = None, g: Any = None
    ) -> Step:
        """What feeds one output, who uses one input (its gradient), or where one weight is used (its gradient).

        Give one index. ``g``, the gradient of the output, is ones unless given. IndexError for an index outside.
        """
        asked = {by: index for by, index in (("output", output), ("input", input), ("weight", weight)) if index}
        if len(asked) != 1:
            raise ValueError("at: give one of output, input and weight, an index such as output=(0, 0, 1, 2).")
        ((by, index),) = asked.items()
        shape = self.shape(by)
        index = tuple(int(i) for i in index)
        if len(index) != len(shape) or any(not 0 <= i < n for i, n in zip(index, shape)):
            raise IndexError(f"at: {by}={index} is not an element of the {by}, whose shape is {shape}.")
        self._check_terms(f"at({by}={index})", self._most_terms(by))
        return self._step(by, index, self._cotangent(g))

    def steps(self, by: str = "output", g: Any = None) -> Iterator[Step]:
        """All steps in row-major order, by "output", "input" or "weight"; ``g`` as in :meth:`at`."""
        shape = self.shape(by)
        self._check_terms(f"steps(by={by!r})", len(self.triples))
        cotangent = self._cotangent(g)
        return (self._step(by, index, cotangent) for index in product(*map(range, shape)))

    def products(self) -> Iterator[tuple[Sizes, Sizes, Sizes | None]]:
        """All (output, input, weight) indices, without those whose pixel is padding."""
        for step in self.steps():
            yield from ((t.output, t.input, t.weight) for t in step.terms if not t.padding)

    def coverage(self) -> Array:
        """How many (output, tap) pairs read each pixel, (*I).

        For a transposed convolution: how many reach each pixel of its output, the checkerboard where they differ.
        """
        counts = np.ones((), np.int64)
        for axis, size in enumerate(self.g.size):
            counts = np.multiply.outer(counts, [len(self.g.readers(axis, i)) for i in range(size)])
        return counts

    def unused(self) -> list[Sizes]:
        """Positions that no window reads (for a transposed convolution: that nothing reaches)."""
        return [tuple(map(int, at)) for at in np.argwhere(self.coverage() == 0)]

    # ----------------------------------------------------------------------------------------------
    # Summing

    def forward(self) -> Array:
        """The list summed by output: what the operator computes.

        Like :meth:`grad_input` and :meth:`grad_weight` it adds in the order of the loops rung, in float64 with one
        rounding at the end, and so has its bits; the other rungs add in another order and differ in the last places.
        """
        return self._sum("output", None)

    def grad_input(self, g: Any) -> Array:
        """The list summed by input: the gradient of the input, for ``g``, that of the output."""
        return self._sum("input", g)

    def grad_weight(self, g: Any) -> Array:
        """The list summed by weight: the gradient of the weight, for ``g``, that of the output."""
        return self._sum("weight", g)

    def matrix(self, image: int = 0) -> Array:
        """C with output = C input (plus bias), both flattened, of one image: (prod of outputs, prod of inputs)."""
        shape = self.output[1:], self.input[1:]
        self._check_terms("matrix()", prod(shape[0]) * prod(shape[1]), "entries")
        C = np.zeros((prod(shape[0]), prod(shape[1])))
        ones = self._cotangent(None)
        for row, index in enumerate(product(*map(range, shape[0]))):
            step = self._step("output", (image, *index), ones)
            for term in step.terms:
                if not term.padding:
                    column = np.ravel_multi_index(term.input[1:], shape[1])
                    C[row, column] = self._coefficient(step, term)
        return C

    def im2col(self) -> Array:
        """The windows as columns, (N, C * prod K, prod O): a convolution is the weight times it."""
        self._check_terms("im2col()", len(self.triples))
        return loops.unfold(self.x, self.g)

    @staticmethod
    def _coefficient(step: Step, term: Term) -> float:
        """The entry of the matrix that a term of a step by output stands for."""
        if step.operation == PRODUCT:
            assert term.right is not None
            return term.right
        if step.operation == MAXIMUM:
            return float(term.winner)
        return 1 / step.divisor if step.divisor else 1.0

    def _sum(self, by: str, g: Any) -> Array:
        values = [step.value for step in self.steps(by, g)]
        return np.array(values, self.x.dtype).reshape(self.shape(by))

    # ----------------------------------------------------------------------------------------------
    # Limits and shapes

    def crop(self) -> Trace:
        """The trace of the first image's top left corner, halved until it has at most ``max_terms`` products."""
        x = self.x[:1]
        while True:
            smaller = self._rerun(x)
            if len(smaller.triples) <= self.max_terms:
                return smaller
            if max(x.shape[2:]) == 1:
                raise ValueError(
                    f"crop: one pixel of {self.name} already takes {len(smaller.triples):,} products, more than "
                    f"max_terms={self.max_terms:,}. Trace fewer channels, or give trace a larger max_terms."
                )
            x = x[(..., *(slice(0, -(-n // 2)) for n in x.shape[2:]))]

    def _check_terms(self, what: str, count: int, unit: str = "products") -> None:
        if count > self.max_terms:
            raise ValueError(
                f"{what} would list {count:,} {unit} of {self.name}, more than max_terms={self.max_terms:,}. Look at "
                "single steps with at(...), trace the corner that crop() cuts out, or give trace a larger max_terms."
            )

    def _most_terms(self, by: str) -> int:
        """At most so many terms has one step."""
        if by == "weight":
            return prod(self.triples.small) // self.triples.c_out
        return max(self.triples.c_in, self.triples.c_out) // self.groups * prod(self.g.kernel)

    def shape(self, by: str) -> Sizes:
        """Shape of the "output", the "input" or the "weight"."""
        if by not in ("output", "input", "weight"):
            raise ValueError(f"trace: by must be 'output', 'input' or 'weight', but is {by!r}.")
        shape: Sizes | None = getattr(self, by)
        if shape is None:
            raise ValueError(f"{self.name} has no weight; ask by 'output' or 'input'.")
        return shape

    def _cotangent(self, g: Any) -> Array:
        if g is None:
            return np.broadcast_to(self.x.dtype.type(1), self.output)
        array = as_tensor(g, "trace", "g").data
        if array.size != prod(self.output) or array.shape[-1:] != self.output[-1:]:
            raise ValueError(f"trace: g must have the shape of the output, {self.output}, but has {array.shape}.")
        return array.reshape(self.output)

    def _round(self, value: float) -> float:
        """The number that an array of the operator's dtype keeps of a sum."""
        return self.x.dtype.type(value).item()

    # ----------------------------------------------------------------------------------------------
    # Telling

    def describe(self, step: Step) -> str:
        """One plain sentence that says what a step is made of."""
        return text.describe(self, step)

    def text(self, step: Step, colour: bool = False, unicode: bool | None = None) -> str:
        """The step for a terminal of 80 columns: window, terms, partial sums, sentence.

        ``colour`` adds ANSI codes; without ``unicode`` (by default where the terminal has none) it is ASCII.
        """
        return text.format_step(self, step, colour=colour, unicode=unicode)

    def plot(self, step: Step, g: Any = None) -> Figure:
        """The step as a matplotlib figure at most 7 inches wide; its alternative text is ``describe(step)``.

        ``g`` is what :meth:`at` was given. ValueError for more than two axes, or more cells than can be read.
        """
        return figure.plot(self, step, g)

    def animate(self, by: str = "output", g: Any = None) -> FuncAnimation:
        """A matplotlib animation of all steps, by "output", "input" or "weight", one frame each."""
        return figure.animate(self, by, g)

    def save(self, path: str | Path, by: str = "output", step: Step | None = None, g: Any = None) -> None:
        """Write the animation as .gif or .mp4, or a step (by default the first) as figure, .png or .svg, or .html."""
        if Path(path).suffix.lower() != ".html":
            figure.save(self, path, by, step, g)
            return
        step = next(self.steps(by, g)) if step is None else step
        Path(path).write_text(self.to_html(step, g), encoding="utf-8")

    def to_html(self, step: Step | None = None, g: Any = None) -> str:
        """A web page, whole and without network, that opens at ``step`` (by default the first output).

        In it one steps through the output and both gradients, the matrix and the columns of im2col, and changes
        numbers. ``g`` is what :meth:`at` was given. ValueError for more than two axes, or more than a page can show.
        """
        return page.to_html(self, step, g)

    def widget(self, step: Step | None = None, g: Any = None) -> Any:
        """The page as a notebook widget, opened at ``step``; needs anywidget.

        Its traits ``view`` and ``index`` say what is looked at, and ``input``, ``weight``, ``bias`` and ``g`` hold the
        numbers, flat; set them, or observe them. ``widget.trace`` and ``widget.step`` are those of the numbers shown.
        """
        return widget.widget(self, step, g)

    def _repr_html_(self) -> str:
        """The page in a notebook: without scripts a picture of the first step; where it is too large, text."""
        return page.repr_html(self)

    def debug(self, by: str = "output", g: Any = None) -> None:
        """Step through the products at the terminal, with pdb's letters: s, n, c, j, b, p, w, l, q."""
        StepDebugger(self, by, g).cmdloop()

    def to_json(self, by: str = "output", g: Any = None) -> str:
        """Operator, geometry, arrays and all steps as JSON; NaN and infinities as the strings that name them."""
        told = {
            "operator": self.name,
            "geometry": asdict(self.g),
            "groups": self.groups,
            "input": self.x.tolist(),
            "weight": None if self.w is None else self.w.tolist(),
            "bias": None if self.b is None else self.b.tolist(),
            "by": by,
            "steps": [asdict(step) for step in self.steps(by, g)],
        }
        return json.dumps(_finite(told), allow_nan=False)


def _finite(value: Any) -> Any:
    """The same with 'NaN', 'Infinity' and '-Infinity' for what JSON cannot say."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
