"""Which algorithm the compiled kernels use for a convolution, and why.

    direct      taps on shifted planes: the sums of the definition, in its order
    tiled       columns of pixels, a block of them at a time: the same sums
    winograd2   Winograd's minimal filtering with tiles of 2 x 2 outputs: fewer products, rounded more
    winograd4   the same with tiles of 4 x 4
    depthwise   direct, for one channel a group

The rule, first match:

1. 'depthwise' where every group has one input channel and one output channel; or two, but for the input gradient.
2. 'winograd4' for float32, 3x3 windows of stride 1 without dilation or groups, at least 16 channels on both sides, and
   at least 32 tiles to share the cost of transforming the weights.
3. 'tiled' where the rows between the outputs, which 'direct' computes and throws away, would be more than a fifth, and at
   least 64 output channels share the columns; and for the weight gradient of few input channels, whose vectors then run
   over the taps as well.
4. 'direct'.
"""

from __future__ import annotations

from math import prod
from typing import NamedTuple

import numpy as np

from tinyconv.geometry import Geometry

ALGORITHMS = ("auto", "exact", "direct", "tiled", "winograd2", "winograd4")

_LEAST_CHANNELS = 16  # for Winograd: a vector of float32
_LEAST_TILES = 32
_forced = "auto"


class Choice(NamedTuple):
    """An algorithm, and in a sentence why it was chosen."""

    algorithm: str
    reason: str


def forced() -> str:
    """What ``use_kernels(conv=...)`` asks for now."""
    return _forced


def force(algorithm: str) -> None:
    """Use one algorithm wherever it can compute the convolution; 'exact' forbids Winograd's, 'auto' follows the rule."""
    global _forced
    _forced = algorithm


def winograd_fits(g: Geometry, groups: int) -> bool:
    """Whether the windows are 3x3 on the last two axes, of stride 1, without dilation or groups."""
    return groups == 1 and g.kernel[-2:] == (3, 3) and max(g.stride) == 1 and max(g.dilation[-2:]) == 1


def choose(
    face: str, g: Geometry, batch: int, c_in: int, c_out: int, groups: int, dtype: np.dtype[np.generic]
) -> Choice:
    """The algorithm for 'conv', 'conv_input' or 'conv_weight' by the rule above, or the one that is forced."""
    if c_in == groups and (c_out == groups or (c_out <= 2 * groups and face != "conv_input")):
        return Choice("depthwise", "one channel a group: nothing to sum but the taps")
    fits = winograd_fits(g, groups)
    if _forced in ("direct", "tiled") or (_forced.startswith("winograd") and fits):
        return Choice(_forced, "forced by use_kernels")
    tiles = batch * prod(g.output[:-2]) * prod(-(-o // 4) for o in g.output[-2:])
    if fits and _forced != "exact" and dtype == np.float32:
        if min(c_in, c_out) >= _LEAST_CHANNELS and tiles >= _LEAST_TILES:
            return Choice("winograd4", f"3x3 windows of stride 1, {c_in} to {c_out} channels, {tiles} tiles of 4x4")
    if face == "conv_weight" and c_in // groups < _LEAST_CHANNELS:
        return Choice("tiled", f"{c_in // groups} input channels do not fill a vector, their taps do")
    rows, columns = (g.output[-2] if g.rank > 1 else 1), g.output[-1]
    reach = g.dilation[-1] * (g.kernel[-1] - 1) // g.stride[-1]
    wasted = reach / (columns + reach) if rows > 1 else 0.0
    if face != "conv_weight" and wasted > 0.2 and c_out // groups >= 64:
        return Choice("tiled", f"'direct' would throw away {wasted:.0%} of its work on images of {rows} x {columns}")
    return Choice("direct", f"{rows} x {columns} outputs, {c_in // groups} to {c_out // groups} channels a group")
