"""One list of triples: every product of a convolution as (unit of the small image, pixel of the large one, weight).

Summed by unit it is the convolution, by pixel the transposed convolution (the input gradient), by weight the weight
gradient. Each of the three gatherings is in closed form, and in the order in which :mod:`tinyconv.kernels.loops` adds,
so the same numbers give the same bits. A pooling or unfolding is the list of a depthwise convolution.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import NamedTuple

from tinyconv.geometry import Geometry, Sizes


class Triple(NamedTuple):
    """One product. ``pixel`` lies in the padding, outside the large image, where ``inside`` is False."""

    unit: Sizes  # (n, co, *o)
    pixel: Sizes  # (n, ci, *i), ci counted over all groups
    weight: Sizes  # (co, ci within its group, *k)
    inside: bool


@dataclass(frozen=True)
class Triples:
    """The products between a large image (N, C_in, *I) and a small one (N, C_out, *O), as ``g`` and ``groups`` say."""

    g: Geometry
    images: int
    c_in: int
    c_out: int
    groups: int

    @property
    def large(self) -> Sizes:
        """Shape of the large image: the input of a convolution, the output of a transposed one."""
        return (self.images, self.c_in, *self.g.size)

    @property
    def small(self) -> Sizes:
        """Shape of the small image: the output of a convolution, the input of a transposed one."""
        return (self.images, self.c_out, *self.g.output)

    @property
    def kernel(self) -> Sizes:
        """Shape of the weight, (C_out, C_in/groups, *K)."""
        return (self.c_out, self.c_in // self.groups, *self.g.kernel)

    def __len__(self) -> int:
        """How many products there are, those with padding included."""
        return prod(self.small) * prod(self.kernel[1:])

    def of_unit(self, index: Sizes) -> Iterator[Triple]:
        """The window of one unit of the small image, padding included: ci, then the taps, row-major."""
        n, co, *o = index
        first = co // (self.c_out // self.groups) * self.kernel[1]  # the first input channel of co's group
        for ci in range(self.kernel[1]):
            for k in self.g.taps():
                yield self._triple(n, co, tuple(o), first + ci, ci, k)

    def of_weight(self, index: Sizes) -> Iterator[Triple]:
        """Everywhere that one weight is used, padding included: n, then the units, row-major."""
        co, ci, *k = index
        first = co // (self.c_out // self.groups) * self.kernel[1]
        for n, *o in product(range(self.images), *map(range, self.g.output)):
            yield self._triple(n, co, tuple(o), first + ci, ci, tuple(k))

    def of_pixel(self, index: Sizes) -> Iterator[Triple]:
        """The units that read one pixel of the large image: co, then the taps, row-major."""
        n, c, *i = index
        group, ci = divmod(c, self.kernel[1])
        each = self.c_out // self.groups
        for co in range(group * each, (group + 1) * each):
            for pairs in product(*(self.g.readers(axis, at) for axis, at in enumerate(i))):
                o, k = tuple(zip(*pairs))
                yield Triple((n, co, *o), tuple(index), (co, ci, *k), True)

    def _triple(self, n: int, co: int, o: Sizes, c: int, ci: int, k: Sizes) -> Triple:
        i = tuple(self.g.input_index(axis, o[axis], k[axis]) for axis in range(self.g.rank))
        inside = all(0 <= at < size for at, size in zip(i, self.g.size))
        return Triple((n, co, *o), (n, c, *i), (co, ci, *k), inside)
