"""The trace of a call: the operator is run once, and what slid its windows is read off the tape."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from tinyconv import functional
from tinyconv.autograd import Function, Tensor, enable_grad
from tinyconv.explain.kinds import (
    AvgPoolTrace,
    ConvolutionTrace,
    FoldTrace,
    MaxPoolTrace,
    TransposedTrace,
    UnfoldTrace,
)
from tinyconv.explain.steps import Trace
from tinyconv.explain.triples import Triples
from tinyconv.geometry import Size, as_axes
from tinyconv.kernels.arrays import Array
from tinyconv.ops.broadcast import Expand
from tinyconv.ops.conv import Conv, ConvInput
from tinyconv.ops.elementwise import Add
from tinyconv.ops.fold import Fold, Unfold
from tinyconv.ops.pool import AvgPool, MaxPool
from tinyconv.ops.shape import Reshape


def trace(operator: Callable[..., Any], *args: Any, max_terms: int = 1_000_000, **kwargs: Any) -> Trace:
    """The trace of ``operator(*args, **kwargs)``, an operator of tinyconv.functional or a layer of tinyconv.nn.

    Any convolution, transposed convolution, max or average pooling, unfold or fold. The operator is run, so it refuses
    illegal arguments with its own message. Integers are traced as float64. Whatever would list more than
    ``max_terms`` products is refused, with what to do instead. ValueError for an operator that slides no window.

        t = explain.trace(F.conv2d, x, w, stride=2, padding=1)
        t.at(output=(0, 0, 1, 2)).terms
    """
    called = getattr(operator, "__name__", type(operator).__name__)
    _refuse(called)
    leaves = [_leaf(a) for a in args], {name: _leaf(a) for name, a in kwargs.items()}
    with enable_grad():
        result = operator(*leaves[0], **leaves[1])
    made = _read(called, operator, result[0] if isinstance(result, tuple) else result)
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


#: How the names of operators and layers begin that move windows, or seem to, but not one kernel in steps of a stride.
_NO_WINDOW = {
    "adaptive": "its windows share the image out and may differ in size. Where the output size divides the input size "
    "it is the pooling with kernel_size = input size // output size: trace that.",
    "lppool": "it is a root of a sum of powers. Trace the sum: F.avg_pool2d(x ** p, kernel_size, divisor_override=1).",
    "maxunpool": "it puts each value where a max pooling found it and slides no window. Trace that pooling.",
    "interpolate": "it weighs the neighbours of each new pixel, by weights that differ from pixel to pixel.",
    "upsampl": "it weighs the neighbours of each new pixel, by weights that differ from pixel to pixel.",
    "linear": "it has a weight for each pair of input and output and slides no window. F.conv2d with a kernel as large "
    "as the image is the same, and can be traced.",
}


def _refuse(name: str) -> None:
    """ValueError for what is known to have no trace, before it is run: the sentence then says what to do instead."""
    plain = name.lower().replace("_", "")
    for start, sentence in _NO_WINDOW.items():
        if plain.startswith(start):
            raise ValueError(f"trace: {name} is not a single convolution, pooling, unfold or fold: {sentence}")


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
    leaf = _behind(node.edges[0], Reshape) if isinstance(node, MaxPool | AvgPool | Unfold | Fold) else None
    if leaf is None:
        raise ValueError(
            f"trace: {name} is not a single convolution, transposed convolution, max or average pooling, unfold or "
            "fold. Trace such an operator or layer by itself."
        )
    assert isinstance(node, MaxPool | AvgPool | Unfold | Fold)
    if isinstance(node, Fold):
        x = leaf.data.reshape(-1, *leaf.shape[-2:]).copy()
        channels = x.shape[1] // prod(node.g.kernel)
        return FoldTrace(name, x, Triples(node.g, len(x), channels, channels, channels))
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
