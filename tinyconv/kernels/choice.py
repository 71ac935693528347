"""Which algorithm the compiled kernels use for a convolution, and why.

    direct      taps on shifted planes: the sums of the definition, in its order; not for the weight gradient
    tiled       tiles of outputs that read their pixels wherever they lie, channels last: the same sums
    columns     the weight gradient with vectors along all taps of all channels: the same sums
    winograd2   Winograd's minimal filtering with tiles of 2 x 2 outputs: fewer products, rounded more
    winograd4   the same with tiles of 4 x 4
    depthwise   for one channel a group: a channel in each lane of a vector

The rule, first match:

1. 'depthwise' where each of at least four groups has one input channel and one output channel; or two, but for the
   input gradient.
2. 'winograd4' for float32, 3x3 windows of stride 1 without dilation or groups, at least 16 channels on both sides, and
   at least 32 tiles a plane of the window to share the cost of transforming the weights. For the weight gradient 64
   channels: the tiles of both arguments, transformed, are megabytes that are written once and read once, and with fewer
   channels that costs what the products save; where other programs use the last cache as well, twice as much.
3. For the weight gradient 'columns' where there are fewer than 16 input channels, whose taps fill a vector together,
   and else 'tiled'.
4. 'tiled' for at least 16 channels that are summed and 16 that are made, where 'direct' would throw away more than 3 %
   of its work between the rows of the outputs, where images are small or few, and for windows with a stride.
5. 'direct'.
"""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import NamedTuple

import numpy as np

from tinyconv.geometry import Geometry

ALGORITHMS = ("auto", "exact", "direct", "tiled", "winograd", "winograd2", "winograd4", "columns", "depthwise")

_LEAST_CHANNELS = 16  # for Winograd: a vector of float32
_LEAST_CHANNELS_OF_GRADIENT = 64  # for Winograd's weight gradient
_LEAST_TILES = 32
_SMALL_IMAGE = 800  # pixels
_FEW_PIXELS = 4000  # of all images, for the input gradient: 'direct' turns the weights around first
_forced = "auto"


class Choice(NamedTuple):
    """An algorithm, and in a sentence why it was chosen."""

    algorithm: str
    reason: str


def forced() -> str:
    """What ``use_kernels(conv=...)`` asks for now."""
    return _forced


def force(algorithm: str) -> None:
    """Use one algorithm wherever it can compute the convolution, or follow the rule; 'exact' forbids Winograd's."""
    global _forced
    _forced = "winograd4" if algorithm == "winograd" else algorithm


@lru_cache(maxsize=256)
def volumes(g: Geometry) -> Geometry:
    """The same windows with three axes. Where they are single pixels, all of those lie on one long axis."""
    if prod(g.kernel) == 1 and g.output == g.size and max(g.stride) == 1 and g.padding == ((0, 0),) * g.rank:
        line = (1, 1, prod(g.size))
        return Geometry(line, (1, 1, 1), (1, 1, 1), ((0, 0),) * 3, (1, 1, 1), line)
    while g.rank < 3:
        g = g.lifted()
    return g


def winograd_fits(g: Geometry, groups: int) -> bool:
    """Whether the windows are 3x3 on the last two axes, of stride 1, without dilation or groups."""
    return groups == 1 and g.kernel[1:] == (3, 3) and max(g.stride) == 1 and max(g.dilation[1:]) == 1


def choose(
    face: str, g: Geometry, batch: int, c_in: int, c_out: int, groups: int, dtype: np.dtype[np.generic]
) -> Choice:
    """The algorithm for 'conv', 'conv_input' or 'conv_weight' by the rule above, or the one that is forced.

    ``g`` has three axes, as :func:`volumes` gives them.
    """
    return _choose(_forced, face, g, batch, c_in, c_out, groups, dtype)


@lru_cache(maxsize=1024)
def _choose(
    forced: str, face: str, g: Geometry, batch: int, c_in: int, c_out: int, groups: int, dtype: np.dtype[np.generic]
) -> Choice:
    if c_in == groups and groups >= 4 and (c_out == groups or (c_out <= 2 * groups and face != "conv_input")):
        return Choice("depthwise", "one channel a group: nothing to sum but the taps")
    fits = winograd_fits(g, groups)
    if forced == "tiled" or (forced == "direct" and face != "conv_weight") or (forced.startswith("winograd") and fits):
        return Choice(forced, "forced by use_kernels")
    depth, rows, columns = g.output
    tiles = batch * depth * -(-rows // 4) * -(-columns // 4)
    if fits and forced != "exact" and dtype == np.float32:
        least = _LEAST_CHANNELS_OF_GRADIENT if face == "conv_weight" else _LEAST_CHANNELS
        if min(c_in, c_out) >= least and tiles >= _LEAST_TILES * g.kernel[0]:
            return Choice("winograd4", f"3x3 windows of stride 1, {c_in} to {c_out} channels, {tiles} tiles of 4x4")
    c_in, c_out = c_in // groups, c_out // groups
    if face == "conv_weight" and c_in < _LEAST_CHANNELS:
        return Choice("columns", f"{c_in} input channels do not fill a vector, their taps do")
    if face == "conv_weight":
        return Choice("tiled", f"{c_in} input channels fill {-(-c_in // _LEAST_CHANNELS)} vectors")
    if min(c_in, c_out) >= _LEAST_CHANNELS:
        pixels = prod(g.size if face == "conv_input" else g.output)
        reach = g.dilation[-1] * (g.kernel[-1] - 1) // g.stride[-1]
        wasted = reach / (columns + reach) if rows > 1 else 0.0
        if wasted > 0.03:
            return Choice(
                "tiled", f"'direct' would throw away {wasted:.0%} of its work on images of {rows} x {columns}"
            )
        if pixels < _SMALL_IMAGE or (face == "conv_input" and batch * pixels < _FEW_PIXELS):
            return Choice("tiled", f"{batch} images of {pixels} pixels are few")
        if max(g.stride) > 1 and prod(g.kernel) > 1:
            return Choice("tiled", f"windows with a stride of {max(g.stride)}")
    return Choice("direct", f"{rows} x {columns} outputs, {c_in} to {c_out} channels a group")
