"""The cause behind the wrong products of a convolution: each usual mistake is tried, and must explain all of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from itertools import product
from math import prod
from typing import Any

import numpy as np

from tinyconv.explain.kinds import ConvolutionTrace
from tinyconv.explain.triples import Triple, Triples
from tinyconv.geometry import Geometry, Sizes

_AXES = {1: ("position",), 2: ("row", "column"), 3: ("slice", "row", "column")}
_NUMBERS = {1: "one", 2: "two"}


def diagnose(products: Collection[tuple[Sizes, Sizes, Sizes]], trace: ConvolutionTrace) -> str | None:
    """The first mistake under which exactly these products, (output, input, weight), would be made; None if there is
    none.
    """
    found = set(products)
    for sentence, triples, change in _mistakes(trace.triples):
        if found == set(_made(triples, change, trace)):
            return sentence
    return None


def _made(triples: Triples, change: Callable[[Triple], Triple], trace: ConvolutionTrace) -> Iterator[Any]:
    """The products that a mistake makes."""
    for unit in product(*map(range, triples.small)):
        for triple in map(change, triples.of_unit(unit)):
            if triple.inside:
                output, input, _ = trace.named(triple)
                yield output, input, triple.weight


def _mistakes(right: Triples) -> Iterator[tuple[str, Triples, Callable[[Triple], Triple]]]:
    """(sentence, triples, what is done to each of them)"""
    g = right.g
    for wrong, sentence in _geometries(g):
        yield sentence, replace(right, g=wrong), _unchanged

    def rotated(t: Triple) -> Triple:
        taps = tuple(k - 1 - at for k, at in zip(g.kernel, t.weight[2:]))
        return t._replace(weight=(*t.weight[:2], *taps))

    def swapped(t: Triple) -> Triple:
        return t._replace(weight=(*t.weight[:2], *reversed(t.weight[2:])))

    def wrapped(t: Triple) -> Triple:
        at = tuple(i + n if i < 0 else i for i, n in zip(t.pixel[2:], g.size))
        return t._replace(pixel=(*t.pixel[:2], *at), inside=all(0 <= i < n for i, n in zip(at, g.size)))

    def overrun(t: Triple) -> Triple:
        flat = 0
        for i, n in zip(t.pixel[2:], g.size):
            flat = flat * n + i
        if not 0 <= flat < prod(g.size):
            return t
        return t._replace(pixel=(*t.pixel[:2], *map(int, np.unravel_index(flat, g.size))), inside=True)

    yield "the kernel is rotated by 180 degrees", right, rotated
    yield "the axes of the kernel are swapped", right, swapped
    yield "a negative index counts from the far end, so the padding before must be left out by hand", right, wrapped
    yield "the flat index runs over the edge into the next row, so the padding must be left out by hand", right, overrun
    if right.groups == 1 and right.c_in == right.c_out > 1:
        yield "the channels of the weight are swapped, which is (C_out, C_in/groups, ...)", right, _other_way_round


def _unchanged(t: Triple) -> Triple:
    return t


def _other_way_round(t: Triple) -> Triple:
    co, ci, *k = t.weight
    return t._replace(weight=(ci, co, *k))


def _geometries(g: Geometry) -> Iterator[tuple[Geometry, str]]:
    """The same windows with a wrong padding, stride or dilation, on one axis or on all."""
    names = _AXES[g.rank]
    for axes in [(axis,) for axis in range(g.rank)] + ([tuple(range(g.rank))] if g.rank > 1 else []):
        for off in (1, -1, 2, -2):
            pads = tuple((b + off * (a in axes), c) for a, (b, c) in enumerate(g.padding))
            plural = "" if abs(off) == 1 else "s"
            by = " and ".join(f"{_NUMBERS[abs(off)]} {names[axis]}{plural}" for axis in axes)
            yield replace(g, padding=pads), f"the padding is off by {by}"
        where = f" over the {names[axes[0]]}s" if len(axes) == 1 < g.rank else ""
        for value in range(1, 5):
            for what, sizes in (("stride", g.stride), ("dilation", g.dilation)):
                wrong = tuple(value if axis in axes else s for axis, s in enumerate(sizes))
                if wrong != sizes:
                    meant = " x ".join(str(sizes[axis]) for axis in axes)
                    altered = replace(g, stride=wrong) if what == "stride" else replace(g, dilation=wrong)
                    yield altered, f"the {what}{where} is {value}, not {meant}"
