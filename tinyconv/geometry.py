"""The index arithmetic of every sliding window, written once.

A window slides over an image. For output position ``o`` and kernel tap ``k`` it reads the input at

    i = o * stride + k * dilation - padding

on each spatial axis. Convolution, pooling, unfolding, their transposes, their gradients, their traces
and their error messages are all this one line, so no other file writes it again.

Letters (Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", 2016): ``i`` input
size, ``k`` kernel, ``s`` stride, ``p`` padding, ``d`` dilation, ``o`` output size, ``a`` output padding.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import product
from math import gcd
from typing import NamedTuple, TypeAlias

Sizes: TypeAlias = tuple[int, ...]
Size: TypeAlias = "int | Sequence[int]"
Pairs: TypeAlias = tuple[tuple[int, int], ...]
Padding: TypeAlias = "str | int | Sequence[int] | Sequence[tuple[int, int]]"


@dataclass(frozen=True)
class Geometry:
    """Where a window of ``kernel`` taps lands on an image of ``size`` pixels, one entry a spatial axis.

    Immutable. ``padding`` holds (before, after) pairs; ``output`` is the number of window placements.
    Build one with :func:`window_geometry` or :func:`transposed_geometry`, which check their arguments; this class
    checks none.
    """

    size: Sizes
    kernel: Sizes
    stride: Sizes
    padding: tuple[tuple[int, int], ...]
    dilation: Sizes
    output: Sizes

    @property
    def rank(self) -> int:
        """Number of spatial axes."""
        return len(self.size)

    @property
    def extent(self) -> Sizes:
        """Pixels that a dilated kernel spans: d(k-1) + 1 an axis."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilation))

    def input_index(self, axis: int, o: int, k: int) -> int:
        """The line: i = o*s + k*d - p on one axis. Outside [0, size) it is padding. Also takes integer arrays."""
        return o * self.stride[axis] + k * self.dilation[axis] - self.padding[axis][0]

    def span(self, axis: int, k: int) -> tuple[int, int]:
        """The outputs [first, last) for which tap ``k`` reads a pixel of the image, not padding."""
        s, n = self.stride[axis], self.size[axis]
        at_zero = self.input_index(axis, 0, k)  # i grows by s with each o, starting here
        first = max(0, -(at_zero // s))  # smallest o with i >= 0
        last = min(self.output[axis], (n - 1 - at_zero) // s + 1)  # one past the largest o with i < n
        return first, max(first, last)

    def slices(self, taps: Sequence[int]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
        """(output slices, input slices) that pair all outputs with the pixel which ``taps`` reads for them.

        ``y[..., *out] += w[taps] * x[..., *inp]`` over all taps is a convolution; padding never appears.
        """
        outs, ins = [], []
        for axis, k in enumerate(taps):
            first, last = self.span(axis, k)
            start, s = self.input_index(axis, first, k), self.stride[axis]
            outs.append(slice(first, last))
            ins.append(slice(start, start + (last - first - 1) * s + 1, s) if last > first else slice(0, 0))
        return tuple(outs), tuple(ins)

    def taps(self) -> Iterator[Sizes]:
        """All kernel positions in row-major order: (kh, kw) in two dimensions."""
        return product(*(range(k) for k in self.kernel))

    def window(self, o: Sequence[int]) -> Iterator[tuple[Sizes, Sizes]]:
        """The (tap, input index) pairs of the window at output ``o`` that lie on the image, row-major."""
        for k in self.taps():
            i = tuple(self.input_index(axis, o[axis], k[axis]) for axis in range(self.rank))
            if all(0 <= i[axis] < self.size[axis] for axis in range(self.rank)):
                yield k, i

    def readers(self, axis: int, i: int) -> list[tuple[int, int]]:
        """The (output, tap) pairs that read pixel ``i`` on one axis: the same line solved for o."""
        pairs = []
        for k in range(self.kernel[axis]):
            o, rest = divmod(i - self.input_index(axis, 0, k), self.stride[axis])
            if rest == 0 and 0 <= o < self.output[axis]:
                pairs.append((o, k))
        return pairs

    def counts(self, axis: int, include_pad: bool) -> list[int]:
        """How many positions of each undilated window count in an average, on one axis.

        With ``include_pad`` the padding counts, but never what lies beyond it (which ceil mode can reach).
        """
        before, after = self.padding[axis] if include_pad else (0, 0)
        starts = (self.input_index(axis, o, 0) for o in range(self.output[axis]))
        end = self.size[axis] + after
        return [max(0, min(start + self.kernel[axis], end) - max(start, -before)) for start in starts]

    def rows(self, first: int, last: int) -> Geometry:
        """The same windows restricted to outputs [first, last) of the first axis: a tile of the whole."""
        (before, after), *others = self.padding
        moved = (before - first * self.stride[0], after)
        return replace(self, padding=(moved, *others), output=(last - first, *self.output[1:]))

    def lifted(self) -> Geometry:
        """The same windows with an axis of size 1 in front: a 1-D signal seen as an image of one row."""
        return Geometry(
            (1, *self.size),
            (1, *self.kernel),
            (1, *self.stride),
            ((0, 0), *self.padding),
            (1, *self.dilation),
            (1, *self.output),
        )

    def planes(self, axis: int) -> AxisPlanes:
        """The pixels of one axis sorted by their remainder modulo the stride: see :class:`AxisPlanes`."""
        s, outputs = self.stride[axis], self.output[axis]
        starts = [divmod(self.input_index(axis, 0, k), s) for k in range(self.kernel[axis])]  # (position, remainder)
        lowest = min(position for position, _ in starts)
        remainders = sorted({remainder for _, remainder in starts})
        length = outputs + max(position for position, _ in starts) - lowest
        pixels = [[(u + lowest) * s + remainder for u in range(length)] for remainder in remainders]
        return AxisPlanes(
            tuple(tuple(i if 0 <= i < self.size[axis] else -1 for i in plane) for plane in pixels),
            tuple(remainders.index(remainder) for _, remainder in starts),
            tuple(position - lowest for position, _ in starts),
        )

    def transposed_phases(self) -> list[Phase]:
        """The transposed map as direct maps of stride 1, one for each remainder of the pixels modulo the stride.

        Pixels with the same remainder are read by the same taps, and stepping to the next of them steps all windows by
        one: so the sum over the windows that read a pixel is a convolution of the outputs, with those taps rotated.
        """
        return [
            Phase(*(tuple(part) for part in zip(*axes)))
            for axes in product(*(self._axis_phases(axis) for axis in range(self.rank)))
        ]

    def _axis_phases(self, axis: int) -> Iterator[tuple[slice, slice, int, int, int, int]]:
        """(pixels, their taps from the last to the first, taps, padding, dilation, pixels) of each remainder."""
        size, s, d = self.size[axis], self.stride[axis], self.dilation[axis]
        every = s // gcd(s, d)  # of the taps, this many lie from one that reads a pixel to the next
        for first in range(min(s, size)):
            # first = o*s + k*d - p solved for o; the last tap reads for the smallest o.
            taps = [k for k in range(self.kernel[axis]) if (first - self.input_index(axis, 0, k)) % s == 0]
            lowest = (first - self.input_index(axis, 0, taps[-1])) // s if taps else 0
            rotated = slice(taps[-1], taps[0] - 1 if taps[0] else None, -every) if taps else slice(0, 0)
            yield slice(first, None, s), rotated, len(taps), -lowest, d // gcd(s, d), len(range(first, size, s))


class AxisPlanes(NamedTuple):
    """The pixels of one axis sorted into planes, one for each remainder modulo the stride that some tap reads.

    In its plane, the pixel that tap k reads for output o stands at o + ``shift[k]``: what a tap reads for all outputs
    is a run of neighbours. ``pixels[plane][position]`` is the input index there, -1 for padding; ``plane[k]`` the
    tap's.
    """

    pixels: tuple[Sizes, ...]
    plane: Sizes
    shift: Sizes


class Phase(NamedTuple):
    """Some pixels of a transposed map, and the direct map of stride 1 that makes them from the outputs."""

    pixels: tuple[slice, ...]
    taps: tuple[slice, ...]
    kernel: Sizes
    before: Sizes
    dilation: Sizes
    made: Sizes

    def geometry(self, outputs: Sizes) -> Geometry:
        """The direct map on images of the size ``outputs``. Its padding is negative where it crops."""
        padding = [
            (before, n - 1 + d * (k - 1) - before - (size - 1))
            for n, d, k, before, size in zip(self.made, self.dilation, self.kernel, self.before, outputs)
        ]
        return Geometry(outputs, self.kernel, (1,) * len(outputs), tuple(padding), self.dilation, self.made)


# --------------------------------------------------------------------------------------------------
# Reading arguments


def as_axes(op: str, name: str, value: Size, rank: int, least: int | None = None) -> Sizes:
    """One int an axis from an int or a sequence of ``rank`` ints, each at least ``least``.

    >>> as_axes("conv2d", "stride", 2, 2, least=1)
    (2, 2)
    """
    listed = list(value) if isinstance(value, Iterable) and not isinstance(value, str) else [value]
    if len(listed) == 1:
        listed = listed * rank
    try:
        axes = tuple(operator.index(v) for v in listed if not isinstance(v, bool))
    except TypeError:
        axes = ()
    if len(axes) != len(listed):
        raise TypeError(f"{op}: {name} must be an int or {rank} ints, but is {value!r}.")
    if len(axes) != rank:
        raise ValueError(
            f"{op}: {name} needs one int for all axes or {rank} ints, but has {len(axes)}: {name}={value!r}."
        )
    if least is not None and min(axes) < least:
        raise ValueError(f"{op}: {name} must be at least {least} on every axis, but is {value!r}.")
    return axes


def _read_padding(op: str, padding: Padding, stride: Sizes, extent: Sizes) -> tuple[tuple[int, int], ...]:
    """(before, after) an axis from 'same', 'valid', an int, ints, or pairs."""
    rank = len(extent)
    if isinstance(padding, str):
        if padding == "valid":
            return ((0, 0),) * rank
        if padding != "same":
            raise ValueError(f"{op}: padding must be 'same', 'valid' or numbers, but is {padding!r}.")
        if max(stride) > 1:
            raise ValueError(
                f"{op}: padding='same' needs stride 1, but stride={stride}. Give the padding in numbers, "
                f"e.g. padding=kernel // 2."
            )
        # An odd total puts the extra element after the image, as torch does.
        return tuple(((e - 1) // 2, (e - 1) - (e - 1) // 2) for e in extent)
    if isinstance(padding, Sequence) and len(padding) == rank and all(isinstance(p, Sequence) for p in padding):
        return tuple(as_pair(op, p) for p in padding)  # type: ignore[arg-type]
    return tuple((p, p) for p in as_axes(op, "padding", padding, rank, least=0))  # type: ignore[arg-type]


def as_pair(op: str, pair: Sequence[int]) -> tuple[int, int]:
    """A (before, after) padding of one axis, both at least 0."""
    before, after = as_axes(op, "padding (before, after)", pair, 2, least=0)
    return before, after


def _check_kernel(op: str, kernel: Sizes) -> None:
    if min(kernel) < 1:
        raise ValueError(f"{op}: the kernel must be at least 1 on every axis, but is {kernel}.")


# --------------------------------------------------------------------------------------------------
# Sizes


def output_size(i: int, k: int, s: int = 1, p: int | tuple[int, int] = 0, d: int = 1, ceil_mode: bool = False) -> int:
    """Number of window placements on one axis.

        o = floor((i + p_before + p_after - d(k-1) - 1) / s) + 1

    With ``ceil_mode`` the quotient is rounded up, and a last window that would start beyond the image
    and its left padding is dropped. May be zero or negative: then no window fits. Source: relationship
    15 of Dumoulin and Visin.

    >>> output_size(5, 3, s=2, p=1)
    3
    """
    before, after = (p, p) if isinstance(p, int) else p
    room = i + before + after - d * (k - 1) - 1
    if not ceil_mode:
        return room // s + 1
    o = -(-room // s) + 1
    return o - 1 if (o - 1) * s >= i + before else o


def transposed_output_size(i: int, k: int, s: int = 1, p: int | tuple[int, int] = 0, d: int = 1, a: int = 0) -> int:
    """Size that a transposed window map makes from ``i`` on one axis.

        o = (i - 1)s - p_before - p_after + d(k-1) + a + 1

    Source: relationships 8 to 14 of Dumoulin and Visin, with dilation and output padding ``a``.

    >>> transposed_output_size(3, 3, s=2, p=1)
    5
    """
    before, after = (p, p) if isinstance(p, int) else p
    return (i - 1) * s - before - after + d * (k - 1) + a + 1


def window_geometry(
    op: str,
    size: Sizes,
    kernel: Size,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
) -> Geometry:
    """The geometry of a window map on images of ``size``, with checked arguments.

    ``op`` is the operator's name for the messages. Raises ValueError where no window fits, naming the numbers.
    """
    rank = len(size)
    kernel = as_axes(op, "kernel_size", kernel, rank)
    _check_kernel(op, kernel)
    stride = as_axes(op, "stride", stride, rank, least=1)
    dilation = as_axes(op, "dilation", dilation, rank, least=1)
    extent = tuple(d * (k - 1) + 1 for k, d in zip(kernel, dilation))
    pads = _read_padding(op, padding, stride, extent)
    output = tuple(output_size(i, k, s, p, d, ceil_mode) for i, k, s, p, d in zip(size, kernel, stride, pads, dilation))
    if min(size) < 1:
        raise ValueError(f"{op}: the input's spatial size is {size}; every axis needs at least one pixel.")
    if min(output) < 1:
        padded = tuple(i + before + after for i, (before, after) in zip(size, pads))
        raise ValueError(
            f"{op}: the window spans {extent} pixels (kernel {kernel}, dilation {dilation}) but the padded input has "
            f"only {padded} (input {size}, padding {pads}). Use a smaller kernel or dilation, or more padding."
        )
    return Geometry(size, kernel, stride, pads, dilation, output)


def transposed_geometry(
    op: str,
    size: Sizes,
    kernel: Size,
    stride: Size = 1,
    padding: Padding = 0,
    output_padding: Size = 0,
    dilation: Size = 1,
) -> Geometry:
    """The geometry of the direct map whose transpose makes larger images from ``size``.

    In the result ``output`` is the given ``size`` and ``size`` is what the transposed map makes, so
    that a transposed convolution is the input gradient of a convolution with this geometry.
    """
    rank = len(size)
    kernel = as_axes(op, "kernel_size", kernel, rank)
    _check_kernel(op, kernel)
    stride = as_axes(op, "stride", stride, rank, least=1)
    dilation = as_axes(op, "dilation", dilation, rank, least=1)
    extra = as_axes(op, "output_padding", output_padding, rank, least=0)
    if any(a >= max(s, d) for a, s, d in zip(extra, stride, dilation)):
        raise ValueError(
            f"{op}: output_padding must be smaller than the stride or the dilation, but output_padding={extra}, "
            f"stride={stride}, dilation={dilation}."
        )
    if isinstance(padding, str):
        raise TypeError(f"{op}: padding must be numbers for a transposed convolution, but is {padding!r}.")
    pads = _read_padding(op, padding, stride, tuple(d * (k - 1) + 1 for k, d in zip(kernel, dilation)))
    made = tuple(
        transposed_output_size(i, k, s, p, d, a)
        for i, k, s, p, d, a in zip(size, kernel, stride, pads, dilation, extra)
    )
    if min(size) < 1:
        raise ValueError(f"{op}: the input's spatial size is {size}; every axis needs at least one pixel.")
    if min(made) < 1:
        raise ValueError(
            f"{op}: the output would have the size {made} (input {size}, kernel {kernel}, stride {stride}, "
            f"padding {pads}, dilation {dilation}). Use less padding."
        )
    return Geometry(made, kernel, stride, pads, dilation, size)


def same_padding(size: Sizes, kernel: Sizes, stride: Sizes, dilation: Sizes, more_after: bool) -> Pairs:
    """The least padding with which a map has ceil(i / s) windows an axis, an odd total with the larger half after, or
    before: auto_pad SAME_UPPER and SAME_LOWER of ONNX, padding='same' of TensorFlow.
    """
    totals = [max(0, (-(-i // s) - 1) * s + d * (k - 1) + 1 - i) for i, k, s, d in zip(size, kernel, stride, dilation)]
    return _halves(totals, more_after)


def shape_padding(g: Geometry, made: Sequence[int], more_after: bool) -> Pairs:
    """The padding that leaves ``made`` pixels of those which a transposed map with the geometry ``g`` makes."""
    return _halves([n - wanted for n, wanted in zip(g.size, made)], more_after)


def _halves(totals: Sequence[int], more_after: bool) -> Pairs:
    return tuple((t // 2, t - t // 2) if more_after else (t - t // 2, t // 2) for t in totals)


# --------------------------------------------------------------------------------------------------
# Receptive field


@dataclass(frozen=True)
class ReceptiveField:
    """The input region that one output unit sees on one axis: ``size`` pixels, one every ``stride``, ``padding``
    before the image.
    """

    size: int
    stride: int
    padding: int

    def centre(self, o: int) -> float:
        """The input position in the middle of what output ``o`` sees."""
        return o * self.stride - self.padding + (self.size - 1) / 2

    def pixels(self, o: int) -> tuple[int, int]:
        """(first, last) pixel that output ``o`` sees, padding included."""
        first = o * self.stride - self.padding
        return first, first + self.size - 1


def receptive_field(layers: Iterable[tuple[int, int, int, int]]) -> ReceptiveField:
    """Receptive field of a chain of (kernel, stride, padding, dilation) layers, first layer first, on one axis.

        r <- s r + d(k-1) + 1 - s,   S <- s S,   P <- s P + p     from the last layer to the first

    Source: Araujo, Norris and Sim, "Computing receptive fields of convolutional neural networks", 2019.

    >>> receptive_field([(3, 1, 1, 1)] * 3)
    ReceptiveField(size=7, stride=1, padding=3)
    """
    r, stride, padding = 1, 1, 0
    for k, s, p, d in reversed(list(layers)):
        r = s * r + d * (k - 1) + 1 - s
        stride *= s
        padding = s * padding + p
    return ReceptiveField(r, stride, padding)


#: First and last pixel of a region on one axis; None for a unit that sees no pixel.
Span: TypeAlias = "tuple[int, int] | None"


@dataclass(frozen=True)
class PhasedField:
    """The input regions that the units of a layer see on one axis, where they differ from unit to unit.

    Behind a transposed map of stride s the units take turns: s phases with regions of their own, which come again s
    units later, moved by the stride of the map's input. Unit ``m * period + phase`` sees ``spans[phase]`` moved by
    ``m * advance``, with ``period = len(spans)``.
    """

    spans: tuple[Span, ...] = ((0, 0),)
    advance: int = 1

    @property
    def size(self) -> int:
        """Pixels of the largest region; 0 if there is none."""
        return max((last - first + 1 for first, last in filter(None, self.spans)), default=0)

    @property
    def stride(self) -> Fraction:
        """How far the regions of two neighbours are apart on average, in pixels: S / s behind a stride s."""
        return Fraction(self.advance, len(self.spans))

    def pixels(self, o: int) -> Span:
        """(first, last) pixel that unit ``o`` sees, padding included."""
        times, phase = divmod(o, len(self.spans))
        span = self.spans[phase]
        return None if span is None else (span[0] + times * self.advance, span[1] + times * self.advance)

    def centre(self, o: int) -> float:
        """The input position in the middle of what unit ``o`` sees; NaN if it sees nothing."""
        span = self.pixels(o)
        return math.nan if span is None else sum(span) / 2

    def window(self, k: int, s: int, p: int, d: int) -> PhasedField:
        """Behind one more layer of windows: unit o sees what its taps o s + t d - p see."""
        period = len(self.spans) // math.gcd(len(self.spans), s)
        spans = [_hull(self.pixels(o * s + t * d - p) for t in range(k)) for o in range(period)]
        return _shortest(spans, self.advance * s * period // len(self.spans))

    def transposed(self, k: int, s: int, p: int, d: int) -> PhasedField:
        """Behind a transposed layer: pixel i sees what the units o with o s + t d - p = i see, ceil(k / s) at most."""
        spans = []
        for i in range(len(self.spans) * s):
            pairs = (divmod(i + p - t * d, s) for t in range(k))
            spans.append(_hull(self.pixels(o) for o, rest in pairs if rest == 0))
        return _shortest(spans, self.advance)

    def joined(self, other: PhasedField) -> PhasedField | None:
        """Both regions of each unit and what lies between; None where the strides differ, for then there is no end."""
        if self.stride != other.stride:
            return None
        period = math.lcm(len(self.spans), len(other.spans))
        spans = [_hull((self.pixels(o), other.pixels(o))) for o in range(period)]
        return _shortest(spans, int(self.stride * period))


def _hull(spans: Iterable[Span]) -> Span:
    """The smallest region that holds all of them."""
    seen = [span for span in spans if span is not None]
    return (min(first for first, _ in seen), max(last for _, last in seen)) if seen else None


def _shortest(spans: Sequence[Span], advance: int) -> PhasedField:
    """The field with the shortest period that repeats like this."""
    for period in range(1, len(spans)):
        if len(spans) % period == 0 and advance * period % len(spans) == 0:
            short = PhasedField(tuple(spans[:period]), advance * period // len(spans))
            if all(short.pixels(o) == span for o, span in enumerate(spans)):
                return short
    return PhasedField(tuple(spans), advance)
