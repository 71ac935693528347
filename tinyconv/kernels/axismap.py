"""A linear map along one axis, as a list of triples (output o, input i, weight): y[o] += weight x[i].

Resizing, adaptive pooling and padding by reflection are such maps, one an axis, and the transposed map, which
their gradients need, is the same list with o and i exchanged. Nothing is padded with zero weights, so a NaN or an
infinity reaches exactly the outputs whose triples name its pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from tinyconv.geometry import Geometry

Integers = NDArray[np.int64]
Layer = tuple[Integers, Integers, NDArray[np.floating]]


@dataclass(frozen=True, eq=False)
class AxisMap:
    """The triples of a map from ``size`` to ``output`` elements, sorted by output."""

    size: int
    output: int
    outputs: Integers
    inputs: Integers
    weights: NDArray[np.floating]

    @cached_property
    def transposed(self) -> AxisMap:
        """The map with inputs and outputs exchanged, sorted by its outputs."""
        order = np.argsort(self.inputs, kind="stable")
        return AxisMap(self.output, self.size, self.inputs[order], self.outputs[order], self.weights[order])

    @cached_property
    def layers(self) -> list[Layer]:
        """(outputs, inputs, weights) of the first triple of every output, of the second, ...: each output at most
        once a layer.
        """
        firsts = np.searchsorted(self.outputs, self.outputs)  # where the triples of the same output begin
        rank = np.arange(len(self.outputs)) - firsts
        chosen = (rank == r for r in range(rank.max(initial=-1) + 1))
        return [(self.outputs[c], self.inputs[c], self.weights[c]) for c in chosen]

    @cached_property
    def ends(self) -> Integers:
        """The triples of output o are those from ``ends[o]`` up to ``ends[o + 1]``."""
        return np.searchsorted(self.outputs, np.arange(self.output + 1))

    @cached_property
    def readers(self) -> list[list[tuple[int, float]]]:
        """For each output the (input, weight) pairs that it reads."""
        pairs: list[list[tuple[int, float]]] = [[] for _ in range(self.output)]
        for o, i, weight in zip(self.outputs.tolist(), self.inputs.tolist(), self.weights.tolist()):
            pairs[o].append((i, weight))
        return pairs


def axis_map(
    size: int, taps: Sequence[Sequence[int]], weights: Sequence[Sequence[float]], dtype: type[np.floating]
) -> AxisMap:
    """The map whose output o reads the inputs ``taps[o]`` with ``weights[o]``."""
    outputs = np.repeat(np.arange(len(taps)), [len(t) for t in taps])
    inputs = np.fromiter((i for row in taps for i in row), np.int64, len(outputs))
    values = np.fromiter((w for row in weights for w in row), dtype, len(outputs))
    return AxisMap(size, len(taps), outputs, inputs, values)


@lru_cache(maxsize=256)
def window_maps(g: Geometry) -> tuple[AxisMap, ...]:
    """Of each axis of ``g`` the map that adds up the pixels of a window."""
    return tuple(_window_map(g, axis) for axis in range(g.rank))


def _window_map(g: Geometry, axis: int) -> AxisMap:
    o, k = np.arange(g.output[axis])[:, None], np.arange(g.kernel[axis])
    pixels = np.asarray(g.input_index(axis, o, k))  # type: ignore[arg-type]  # (O, K)
    inside = (pixels >= 0) & (pixels < g.size[axis])
    outputs = np.broadcast_to(o, inside.shape)[inside]
    return AxisMap(g.size[axis], g.output[axis], outputs, pixels[inside], np.ones(len(outputs), np.float32))
