"""Your own code under the lens: which products a convolution really computes, and the first that is wrong, in words.

Two ways in. :func:`capture` runs Python loops on numbers that remember where they came from. :func:`probe` sees the
products of a kernel that cannot be looked into, compiled or on a GPU: a convolution is bilinear, so an input with a
single 1 and the weights 1, 4, 16, ... give sums whose digits in base 4 are the weights that met that 1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import numpy as np

from tinyconv.autograd import Tensor
from tinyconv.explain.diagnosis import diagnose
from tinyconv.explain.kinds import ConvolutionTrace
from tinyconv.explain.steps import Trace
from tinyconv.explain.text import element
from tinyconv.geometry import Sizes
from tinyconv.kernels.arrays import Array
from tinyconv.ops.convert import as_tensor

#: (output, input, weight) indices of one product.
Product = tuple[Sizes, Sizes, Sizes]
#: Indices of the factors of one term of a sum; None where a factor is a plain number.
Pair = tuple["Sizes | None", "Sizes | None"]


class Tracked:
    """A number that remembers the products that it is the sum of, as (input index, weight index) pairs."""

    __slots__ = ("value", "terms")

    def __init__(self, value: float, terms: tuple[Pair, ...]) -> None:
        self.value, self.terms = value, terms

    def __add__(self, other: Any) -> Any:
        if isinstance(other, np.ndarray):
            return NotImplemented  # numpy then adds element by element
        if isinstance(other, Tracked):
            return Tracked(self.value + other.value, self.terms + other.terms)
        return Tracked(self.value + float(other), self.terms)

    __radd__ = __add__

    def __mul__(self, other: Any) -> Any:
        if isinstance(other, np.ndarray):
            return NotImplemented
        if isinstance(other, Tracked):
            pairs = tuple(_product(a, b) for a in self.terms for b in other.terms)
            return Tracked(self.value * other.value, pairs)
        # A zero of the padding makes nothing, and times 1 nothing changes.
        return Tracked(self.value * float(other), self.terms) if other != 0 else 0.0

    __rmul__ = __mul__

    def __float__(self) -> Any:
        raise TypeError(
            "capture: an array of plain numbers cannot keep where its numbers came from. Make the array that collects "
            "the sums with np.zeros(shape, dtype=x.dtype) or np.zeros_like(...), so that it holds objects here."
        )

    __int__ = __float__

    def __repr__(self) -> str:
        return f"{self.value:g} (sum of {len(self.terms)} terms)"


def _product(a: Pair, b: Pair) -> Pair:
    """The term that two terms multiply to."""
    if (a[0] is not None and b[0] is not None) or (a[1] is not None and b[1] is not None):
        raise ValueError("capture: two pixels, or two weights, were multiplied; a convolution multiplies one by one.")
    return (b[0] if a[0] is None else a[0], b[1] if a[1] is None else a[1])


def _tracked(array: Array, which: Literal[0, 1]) -> Array:
    """The array with every number tracked: which=0 an input, 1 a weight."""
    made = np.empty(array.shape, object)
    for index in np.ndindex(array.shape):
        made[index] = Tracked(array.item(index), (((index, None), (None, index))[which],))
    return made


@dataclass(frozen=True)
class Capture:
    """What a convolution of one's own did: its ``value`` (float64), and the ``products`` in the order of the sums.

    ``products`` has each as (output, input, weight) indices, as often as it was added.
    """

    value: Array
    products: tuple[Product, ...]


def capture(convolution: Callable[..., Any], x: Any, w: Any) -> Capture:
    """Run ``convolution(x, w)`` on numbers that remember their products.

    ``convolution`` is any Python code of loops or slices on two arrays; of a Numba kernel the Python body is run. The
    array that it collects its sums in must take the dtype of its arguments (object, here): TypeError with the mend
    where it is a float array. Padding with plain zeros is fine.
    """
    x, w = as_tensor(x, "capture", "x").data, as_tensor(w, "capture", "w").data
    body = getattr(convolution, "py_func", convolution)
    result = body(_tracked(x, 0), _tracked(w, 1))
    y = result.data if isinstance(result, Tensor) else np.asarray(result)
    if y.dtype != object:
        raise TypeError(
            f"capture: the result is an array of {y.dtype}, which does not know its products. Return the array that "
            "the products were added to, made with np.zeros(shape, dtype=x.dtype)."
        )
    value, products = np.zeros(y.shape), []
    for index in np.ndindex(y.shape):
        number = y[index]
        if isinstance(number, Tracked):
            value[index] = number.value
            products += [(index, *_whole(pair, index)) for pair in number.terms]
        else:
            value[index] = number
    return Capture(value, tuple(products))


def _whole(pair: Pair, output: Sizes) -> tuple[Sizes, Sizes]:
    """The pair, if it is a product of an input and a weight."""
    i, k = pair
    if i is None or k is None:
        alone = element("weight", k) if k is not None else element("input", i or ())
        raise ValueError(f"capture: {element('output', output)} adds {alone} alone; each term must be input x weight.")
    return i, k


def mismatch(convolution: Callable[..., Any], trace: Trace) -> str | None:
    """The first product of ``convolution`` that is not in the trace, or is missing, as a sentence; None if all agree.

    ``convolution(x, w)`` is run by :func:`capture` on the arrays of the trace (of a convolution, with batch axis).
    Where all wrong products have one cause, such as a padding that is off by one, the sentence names it.
    """
    if not isinstance(trace, ConvolutionTrace):
        raise TypeError(f"mismatch: only convolutions multiply inputs by weights, but this is a trace of {trace.name}.")
    found = capture(convolution, trace.x, trace.w)
    if found.value.shape != trace.output:
        return f"The result has the shape {found.value.shape}, but {trace.name} makes {trace.output}."
    used: dict[Sizes, Counter[tuple[Sizes, Sizes]]] = {}
    for output, i, k in found.products:
        used.setdefault(output, Counter())[i, k] += 1
    for step in trace.steps():
        right = Counter((t.input, t.weight) for t in step.terms if not t.padding)
        said = _first_difference(step.index, used.get(step.index, Counter()), right)
        if said:
            cause = diagnose(found.products, trace)
            return f"{said}: {cause}." if cause else f"{said}."
    return None


def _first_difference(output: Sizes, used: Counter[Any], right: Counter[Any]) -> str | None:
    """The first product that is wrong, then the first that is twice there, then the first that is missing."""
    where = element("output", output)
    for (i, k), times in used.items():
        what = f"{element('input', i)} x {element('weight', k)}"
        if (i, k) not in right:
            inside = any(i == pixel for pixel, _ in right)
            why = "which belongs to its window, but not with that weight" if inside else "which lies outside its window"
            return f"{where} used {what}, {why}"
        if times > 1:
            return f"{where} used {what} {times} times, not once"
    for i, k in right:
        if (i, k) not in used:
            return f"{where} left out {element('input', i)} x {element('weight', k)}"
    return None


# --------------------------------------------------------------------------------------------------
# Probing


def probe(
    kernel: Callable[..., Any], x_shape: Sizes, w_shape: Sizes, dtype: Any = np.float64
) -> Counter[tuple[Sizes, Sizes, Sizes]]:
    """Every product of a black box ``kernel(x, w)``, as (output, input, weight) indices and how often it is added.

    Exact, without a tolerance, for any kernel that only multiplies and adds: a product may be there up to three times.
    Costs one call for each input element and each block of weights (26 in float64, 12 in float32). Not for Winograd or
    FFT kernels, whose sums are not exact. ValueError for results that are no such sums.
    """
    digits = int((np.finfo(dtype).nmant + 1) // 2)  # base-4 digits that the mantissa holds
    count: Counter[tuple[Sizes, Sizes, Sizes]] = Counter()
    for pixel in np.ndindex(x_shape):
        x = np.zeros(x_shape, dtype)
        x[pixel] = 1
        for first, w in _weights(w_shape, digits, dtype):
            result = kernel(x, w)
            y = result.data if isinstance(result, Tensor) else np.asarray(result)
            for output in zip(*(axis.tolist() for axis in np.nonzero(y))):
                for place, times in _digits(y[output].item(), digits):
                    weight = tuple(map(int, np.unravel_index(first + place, w_shape)))
                    count[output, pixel, weight] = times
    return count


def _weights(shape: Sizes, digits: int, dtype: Any) -> Iterator[tuple[int, Array]]:
    """(place of the first, array): blocks of weights 1, 4, 16, ..., all others zero."""
    for first in range(0, prod(shape), digits):
        w = np.zeros(prod(shape), dtype)
        block = w[first : first + digits]
        block[:] = 4.0 ** np.arange(len(block))
        yield first, w.reshape(shape)


def _digits(total: float, digits: int) -> Iterator[tuple[int, int]]:
    """(place, digit) of the digits of a whole number in base 4 that are not 0."""
    if not 0 <= total < 4**digits or total != int(total):
        raise ValueError(f"probe: the kernel gave {total!r} where only sums of the weights 1, 4, 16, ... are possible.")
    whole, place = int(total), 0
    while whole:
        whole, digit = divmod(whole, 4)
        if digit:
            yield place, digit
        place += 1
