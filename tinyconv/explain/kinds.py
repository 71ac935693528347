"""The kinds of operators that have a trace, each adding in the order in which the loops rung adds."""

from __future__ import annotations

import math
from dataclasses import replace
from math import prod

import numpy as np

from tinyconv.explain.steps import COPY, MAXIMUM, PRODUCT, SHARE, Step, Term, Trace
from tinyconv.explain.triples import Triple, Triples
from tinyconv.geometry import Sizes, window_geometry
from tinyconv.kernels.arrays import Array


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
            output, input, padding = self.named(triple)
            left = self._read(g, output, padding) if by == "input" else self._read(self.x, input, padding)
            right = self._read(g, output, padding) if by == "weight" else self.w.item(triple.weight)
            acc += left * right
            terms.append(Term(output, input, triple.weight, padding, left, right, left * right, acc))
        value, bias = self._round(acc), None
        if by == "output" and self.b is not None:
            bias = self.b.item(index[1])
            value = (self.x.dtype.type(value) + self.b[index[1]]).item()
        return Step(by, index, PRODUCT, tuple(terms), None, bias, value)

    def named(self, triple: Triple) -> tuple[Sizes, Sizes, bool]:
        """(output, input, padding)"""
        return triple.unit, triple.pixel, not triple.inside

    def _read(self, array: Array, index: Sizes, padding: bool) -> float:
        """The element, 0 where the index lies in the padding."""
        inside = not padding or all(0 <= i < n for i, n in zip(index, array.shape))
        return array.item(index) if inside else 0.0


class TransposedTrace(ConvolutionTrace):
    """A transposed convolution: input and output change places. Padding is what the output was cropped by."""

    kind = "transposed"
    transposed = True

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

    def named(self, triple: Triple) -> tuple[Sizes, Sizes, bool]:
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

    kind = "average"

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

    kind = "max"

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


class _ColumnsTrace(_DepthwiseTrace):
    """Between an image and the columns of its windows, (N, C * prod K, prod O), which have no channels."""

    def _columns_shape(self) -> Sizes:
        return (self.triples.images, self.triples.c_in * prod(self.g.kernel), prod(self.g.output))

    def _column(self, t: Triple) -> Sizes:
        """The element of the columns for this triple."""
        n, c, *o = t.unit
        row = int(np.ravel_multi_index((c, *t.weight[2:]), (self.triples.c_in, *self.g.kernel)))
        return (n, row, int(np.ravel_multi_index(o, self.g.output)))

    def _of_column(self, index: Sizes) -> Triple:
        """The triple for this element of the columns."""
        n, row, column = index
        c, *k = map(int, np.unravel_index(row, (self.triples.c_in, *self.g.kernel)))
        unit = (n, c, *map(int, np.unravel_index(column, self.g.output)))
        return next(t for t in self.triples.of_unit(unit) if t.weight[2:] == tuple(k))


class UnfoldTrace(_ColumnsTrace):
    """An unfolding: each output is a copy of one pixel; by input, the copies' gradients are added."""

    columns = "output"
    kind = "unfold"

    @property
    def output(self) -> Sizes:
        """Shape (N, C * prod K, prod O) of the columns."""
        return self._columns_shape()

    def _step(self, by: str, index: Sizes, g: Array) -> Step:
        if by == "output":
            t = self._of_column(index)
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


class FoldTrace(_ColumnsTrace):
    """A folding, the transposed map: copies are added at their pixel; by input, each gets the gradient of its pixel."""

    kind = "fold"
    transposed = True
    columns = "input"

    @property
    def input(self) -> Sizes:
        """Shape (N, C * prod K, prod O) of the columns."""
        return self._columns_shape()

    @property
    def output(self) -> Sizes:
        """Shape of the image."""
        return self.triples.large

    def _step(self, by: str, index: Sizes, g: Array) -> Step:
        if by == "input":
            t = self._of_column(index)
            left = g.item(t.pixel) if t.inside else 0.0
            term = Term(t.pixel, index, None, not t.inside, left, None, left, left)
            return Step(by, index, COPY, (term,), None, None, left)
        terms = []
        acc: float = 0
        for t in self._in_order(index):
            left = self.x.item(self._column(t))
            acc += left
            terms.append(Term(t.pixel, self._column(t), None, False, left, None, left, acc))
        return Step(by, index, COPY, tuple(terms), None, None, self._round(acc))

    def im2col(self) -> Array:
        """The columns that are folded: the input itself."""
        return self.x.copy()

    def crop(self) -> FoldTrace:
        """The trace of the first image's top left corner, halved until it has at most ``max_terms`` products."""
        g, C, size = self.g, self.triples.c_in, self.g.size
        cut = self
        while len(cut.triples) > self.max_terms:
            size = tuple(-(-n // 2) for n in size)
            smaller = window_geometry("crop", size, g.kernel, g.stride, g.padding, g.dilation)  # or no window fits
            columns = self.x[:1].reshape(1, -1, *g.output)[(..., *map(slice, smaller.output))]
            x = columns.reshape(1, columns.shape[1], prod(smaller.output)).copy()
            cut = FoldTrace(self.name, x, Triples(smaller, 1, C, C, C))
        cut.max_terms = self.max_terms
        return cut
