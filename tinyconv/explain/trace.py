"""Every product of a convolution, a pooling or an unfolding, in closed form: listed only where it is asked for."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import product
from math import prod
from typing import Any, ClassVar

import numpy as np

from tinyconv import functional
from tinyconv.autograd import Function, Tensor, enable_grad
from tinyconv.explain import text
from tinyconv.explain.debug import StepDebugger
from tinyconv.explain.triples import Triple, Triples
from tinyconv.geometry import Size, Sizes, as_axes
from tinyconv.kernels import loops
from tinyconv.kernels.arrays import Array
from tinyconv.ops.broadcast import Expand
from tinyconv.ops.conv import Conv, ConvInput
from tinyconv.ops.convert import as_tensor
from tinyconv.ops.elementwise import Add
from tinyconv.ops.fold import Unfold
from tinyconv.ops.pool import AvgPool, MaxPool
from tinyconv.ops.shape import Reshape

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

    kind: ClassVar[str]
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
        """Shape of the weight; None for pooling and unfolding."""
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
        shape = self._shape(by)
        index = tuple(int(i) for i in index)
        if len(index) != len(shape) or any(not 0 <= i < n for i, n in zip(index, shape)):
            raise IndexError(f"at: {by}={index} is not an element of the {by}, whose shape is {shape}.")
        self._check_terms(f"at({by}={index})", self._most_terms(by))
        return self._step(by, index, self._cotangent(g))

    def steps(self, by: str = "output", g: Any = None) -> Iterator[Step]:
        """All steps in row-major order, by "output", "input" or "weight"; ``g`` as in :meth:`at`."""
        shape = self._shape(by)
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
        """The list summed by output: what the operator computes; to the last bit what the loops rung computes."""
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
        return np.array(values, self.x.dtype).reshape(self._shape(by))

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

    def _shape(self, by: str) -> Sizes:
        if by not in ("output", "input", "weight"):
            raise ValueError(f"steps: by must be 'output', 'input' or 'weight', but is {by!r}.")
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


# --------------------------------------------------------------------------------------------------
# The kinds of operators


class ConvolutionTrace(Trace):
    """A convolution: terms are pixel x weight; by input g x weight; by weight pixel x g."""

    kind = "convolution"
    w: Array

    def __init__(self, name: str, x: Array, w: Array, triples: Triples) -> None:
        super().__init__(name, x, triples)
        self.w = w

    @property
    def weight(self) -> Sizes:
        """Shape of the weight."""
        return self.triples.kernel

    def _gather(self, by: str, index: Sizes) -> list[Triple]:
        return list(self.triples.of_weight(index)) if by == "weight" else super()._gather(by, index)

    def _step(self, by: str, index: Sizes, g: Array) -> Step:
        terms = []
        acc: float = 0
        for triple in self._gather(by, index):
            output, input, padding = self._named(triple)
            left = self._read(g, output, padding) if by == "input" else self._read(self.x, input, padding)
            right = self._read(g, output, padding) if by == "weight" else self.w.item(triple.weight)
            acc += left * right
            terms.append(Term(output, input, triple.weight, padding, left, right, left * right, acc))
        value, bias = self._round(acc), None
        if by == "output" and self.b is not None:
            bias = self.b.item(index[1])
            value = (self.x.dtype.type(value) + self.b[index[1]]).item()
        return Step(by, index, PRODUCT, tuple(terms), None, bias, value)

    def _named(self, triple: Triple) -> tuple[Sizes, Sizes, bool]:
        """(output, input, padding)"""
        return triple.unit, triple.pixel, not triple.inside

    def _read(self, array: Array, index: Sizes, padding: bool) -> float:
        """The element, 0 where the index lies in the padding."""
        inside = not padding or all(0 <= i < n for i, n in zip(index, array.shape))
        return array.item(index) if inside else 0.0


class TransposedTrace(ConvolutionTrace):
    """A transposed convolution: input and output change places. Padding is what the output was cropped by."""

    kind = "transposed convolution"

    @property
    def input(self) -> Sizes:
        """Shape of the input, the small image."""
        return self.triples.small

    @property
    def output(self) -> Sizes:
        """Shape of the output, the large image."""
        return self.triples.large

    def _gather(self, by: str, index: Sizes) -> list[Triple]:
        return super()._gather({"output": "input", "input": "output"}.get(by, by), index)

    def _named(self, triple: Triple) -> tuple[Sizes, Sizes, bool]:
        return triple.pixel, triple.unit, not triple.inside

    def im2col(self) -> Array:
        """The columns that fold() adds up to the output, (N, C_out * prod K, prod of the input's sizes)."""
        self._check_terms("im2col()", len(self.triples))
        N, G, K = self.input[0], self.groups, prod(self.g.kernel)
        x = self.x.reshape(N, G, self.input[1] // G, -1)  # (N, G, C_in/G, P)
        w = self.w.reshape(G, self.input[1] // G, -1)  # (G, C_in/G, C_out/G * K)
        return np.einsum("gcm,ngcp->ngmp", w, x).reshape(N, self.output[1] * K, -1)


class _DepthwiseTrace(Trace):
    """No weight: each channel is seen alone, by its own windows."""

    def _in_order(self, index: Sizes) -> list[Triple]:
        """The triples of one pixel in the order of the outputs, in which the loops add a pooling's gradient."""
        return sorted(self._gather("input", index), key=lambda triple: triple.unit)


class AvgPoolTrace(_DepthwiseTrace):
    """An average pooling: the window's pixels are added and divided; by input, shares g / divisor are added."""

    kind = "average pooling"

    def __init__(self, name: str, x: Array, triples: Triples, divisor: Array) -> None:
        super().__init__(name, x, triples)
        self.divisor = divisor

    def _step(self, by: str, index: Sizes, g: Array) -> Step:
        terms = []
        acc: float = 0
        if by == "output":
            for t in self._gather(by, index):
                left = self.x.item(t.pixel) if t.inside else 0.0
                acc += left
                terms.append(Term(t.unit, t.pixel, None, not t.inside, left, None, left, acc))
            divisor = self.divisor.item(index[2:])
            return Step(by, index, COPY, tuple(terms), divisor, None, self._round(acc / divisor))
        for t in self._in_order(index):
            left, right = g.item(t.unit), self.divisor.item(t.unit[2:])
            acc += left / right
            terms.append(Term(t.unit, t.pixel, None, False, left, right, left / right, acc))
        return Step(by, index, SHARE, tuple(terms), None, None, self._round(acc))


class MaxPoolTrace(_DepthwiseTrace):
    """A max pooling: the winner is the first maximum, or the last NaN; by input, it gets the whole g of its window."""

    kind = "max pooling"

    def _step(self, by: str, index: Sizes, g: Array) -> Step:
        if by == "output":
            candidates = self._candidates(index)
            return Step(by, index, MAXIMUM, candidates, None, None, candidates[-1].partial)
        terms = []
        acc: float = 0
        for t in self._in_order(index):
            won = any(c.winner and c.input == index for c in self._candidates(t.unit))
            left, right = g.item(t.unit), float(won)
            given = left if won else 0.0
            acc += given
            terms.append(Term(t.unit, t.pixel, None, False, left, right, given, acc, won))
        return Step(by, index, PRODUCT, tuple(terms), None, None, self._round(acc))

    def _candidates(self, unit: Sizes) -> tuple[Term, ...]:
        """The window of one output, padding as minus infinity, the winner marked."""
        terms: list[Term] = []
        best, winner = -math.inf, None
        for t in self._gather("output", unit):
            left = self.x.item(t.pixel) if t.inside else -math.inf
            if t.inside and (winner is None or left > best or left != left):  # as in loops.max_pool
                best, winner = left, len(terms)
            terms.append(Term(t.unit, t.pixel, None, not t.inside, left, None, left, best))
        if winner is not None:
            terms[winner] = replace(terms[winner], winner=True)
        return tuple(terms)


class UnfoldTrace(_DepthwiseTrace):
    """An unfolding: each output is a copy of one pixel; by input, the copies' gradients are added."""

    kind = "unfolding"

    @property
    def output(self) -> Sizes:
        """Shape (N, C * prod K, prod O) of the columns."""
        return (self.input[0], self.input[1] * prod(self.g.kernel), prod(self.g.output))

    def _column(self, t: Triple) -> Sizes:
        """The element of the output that holds this copy."""
        n, c, *o = t.unit
        row = int(np.ravel_multi_index((c, *t.weight[2:]), (self.input[1], *self.g.kernel)))
        return (n, row, int(np.ravel_multi_index(o, self.g.output)))

    def _step(self, by: str, index: Sizes, g: Array) -> Step:
        if by == "output":
            n, row, column = index
            c, *k = map(int, np.unravel_index(row, (self.input[1], *self.g.kernel)))
            unit = (n, c, *map(int, np.unravel_index(column, self.g.output)))
            t = next(t for t in self._gather(by, unit) if t.weight[2:] == tuple(k))
            left = self.x.item(t.pixel) if t.inside else 0.0
            term = Term(index, t.pixel, None, not t.inside, left, None, left, left)
            return Step(by, index, COPY, (term,), None, None, left)
        terms = []
        acc: float = 0
        for t in self._in_order(index):
            left = g.item(self._column(t))
            acc += left
            terms.append(Term(self._column(t), t.pixel, None, False, left, None, left, acc))
        return Step(by, index, COPY, tuple(terms), None, None, self._round(acc))


# --------------------------------------------------------------------------------------------------
# Tracing a call


def trace(operator: Callable[..., Any], *args: Any, max_terms: int = 1_000_000, **kwargs: Any) -> Trace:
    """The trace of ``operator(*args, **kwargs)``, an operator of tinyconv.functional or a layer of tinyconv.nn.

    Any convolution, transposed convolution, max or average pooling, or unfold. The operator is run, so it refuses
    illegal arguments with its own message. Integers are traced as float64. Whatever would list more than
    ``max_terms`` products is refused, with what to do instead. ValueError for an operator that slides no window.

    >>> t = trace(F.conv2d, x, w, stride=2, padding=1)
    >>> t.at(output=(0, 0, 1, 2)).terms
    """
    leaves = [_leaf(a) for a in args], {name: _leaf(a) for name, a in kwargs.items()}
    with enable_grad():
        result = operator(*leaves[0], **leaves[1])
    name = getattr(operator, "__name__", type(operator).__name__)
    made = _read(name, operator, result[0] if isinstance(result, tuple) else result)
    made.max_terms = max_terms

    def rerun(x: Array) -> Trace:
        first = {"input": Tensor(x)} if not args else {}
        return trace(operator, *((Tensor(x), *args[1:]) if args else ()), max_terms=max_terms, **{**kwargs, **first})

    made._rerun = rerun
    return made


def example(operator: str, size: Size, kernel: Size, **options: Any) -> Trace:
    """The trace of an operator, by its name in tinyconv.functional, on small whole numbers: one image, one channel."""
    if operator not in _RANKS:
        raise ValueError(f"example: operator must be one of {', '.join(_RANKS)}, but is {operator!r}.")
    rank = _RANKS[operator]
    numbers = np.random.default_rng(0)
    x = numbers.integers(0, 4, (1, 1, *as_axes(operator, "input", size, rank, least=1))).astype(np.float64)
    taps = as_axes(operator, "kernel", kernel, rank, least=1)
    if operator.startswith("conv"):
        return trace(getattr(functional, operator), x, numbers.integers(0, 3, (1, 1, *taps)).astype(float), **options)
    return trace(getattr(functional, operator), x, taps, **options)


_RANKS = {
    f"{name}{rank}d": rank for name in ("conv", "conv_transpose", "max_pool", "avg_pool") for rank in (1, 2, 3)
} | {"unfold": 2}


def _leaf(value: Any) -> Any:
    """A tensor or array as a leaf of the tape, so that the operator's node can be found; anything else as it is."""
    if not isinstance(value, Tensor | np.ndarray):
        return value
    array = value.data if isinstance(value, Tensor) else value
    if array.dtype.kind in "iu":
        array = array.astype(np.float64)
    return Tensor(array, requires_grad=array.dtype.kind == "f")


def _read(name: str, operator: Any, y: Any) -> Trace:
    """The trace of the one windowed node that y was made by, with nothing but a bias and reshapes after it."""
    node, bias = _find(y)
    if isinstance(node, Conv | ConvInput):
        x, w = (t.data.copy() for t in node.saved_inputs)
        triples = Triples(node.g, len(x), w.shape[1] * node.groups, w.shape[0], node.groups)
        made = (ConvolutionTrace if isinstance(node, Conv) else TransposedTrace)(name, x, w, triples)
        if bias is None:
            bias = getattr(operator, "bias", None)  # a layer's that is not trained, and so not on the tape
        if bias is None or bias.shape == (made.output[1],):
            made.b = None if bias is None else bias.data.copy()
            return made
    leaf = _behind(node.edges[0], Reshape) if isinstance(node, MaxPool | AvgPool | Unfold) else None
    if leaf is None:
        raise ValueError(
            f"trace: {name} is not a single convolution, transposed convolution, max or average pooling or unfold. "
            "Trace such an operator or layer by itself."
        )
    assert isinstance(node, MaxPool | AvgPool | Unfold)
    x = leaf.data.reshape(-1, *leaf.shape[-node.g.rank - 1 :]).copy()  # without a batch axis: a batch of one
    triples = Triples(node.g, x.shape[0], x.shape[1], x.shape[1], x.shape[1])
    if isinstance(node, AvgPool):
        return AvgPoolTrace(name, x, triples, node.divisor)
    return (MaxPoolTrace if isinstance(node, MaxPool) else UnfoldTrace)(name, x, triples)


def _find(y: Any) -> tuple[Function | None, Tensor | None]:
    """The first node behind y that is no bias and no reshape, and the bias."""
    node, bias = getattr(y, "grad_fn", None), None
    while isinstance(node, Reshape | Add):
        if isinstance(node, Add):
            bias = _behind(node.edges[1], Expand, Reshape)
        edge = node.edges[0]
        node = None if edge is None else edge[0]
    return (node if isinstance(node, Function) else None), bias


def _behind(edge: Any, *through: type[Function]) -> Tensor | None:
    """The leaf behind nodes of these kinds."""
    while edge is not None and isinstance(edge[0], through):
        edge = edge[0].edges[0]
    return edge[0] if edge is not None and isinstance(edge[0], Tensor) else None
