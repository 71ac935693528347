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
3. 'tiled' where the rows between the outputs, which 'direct' computes and throws away, would be more than a fifth,
   and at least 64 output channels share the columns; and for the weight gradient of few input channels, whose
   vectors then run over the taps as well.
4. 'direct'.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from tinyconv.geometry import Geometry, Padding, Size, window_geometry

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
    """Use one algorithm wherever it can compute the convolution, or follow the rule; 'exact' forbids Winograd's."""
    global _forced
    _forced = algorithm


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
    if c_in == groups and (c_out == groups or (c_out <= 2 * groups and face != "conv_input")):
        return Choice("depthwise", "one channel a group: nothing to sum but the taps")
    fits = winograd_fits(g, groups)
    if _forced in ("direct", "tiled") or (_forced.startswith("winograd") and fits):
        return Choice(_forced, "forced by use_kernels")
    depth, rows, columns = g.output
    tiles = batch * depth * -(-rows // 4) * -(-columns // 4)
    if fits and _forced != "exact" and dtype == np.float32:
        if min(c_in, c_out) >= _LEAST_CHANNELS and tiles >= _LEAST_TILES:
            return Choice("winograd4", f"3x3 windows of stride 1, {c_in} to {c_out} channels, {tiles} tiles of 4x4")
    if face == "conv_weight" and c_in // groups < _LEAST_CHANNELS:
        return Choice("tiled", f"{c_in // groups} input channels do not fill a vector, their taps do")
    reach = g.dilation[-1] * (g.kernel[-1] - 1) // g.stride[-1]
    wasted = reach / (columns + reach) if rows > 1 else 0.0  # of a row as it lies between two others
    if face != "conv_weight" and wasted > 0.2 and c_out // groups >= 64:
        return Choice("tiled", f"'direct' would throw away {wasted:.0%} of its work on images of {rows} x {columns}")
    return Choice("direct", f"{rows} x {columns} outputs, {c_in // groups} to {c_out // groups} channels a group")


class Choices(dict[str, Choice]):
    """Face of the convolution: its :class:`Choice`. Prints as lines."""

    def __repr__(self) -> str:
        return "\n".join(f"{face:11}  {choice.algorithm:9}  {choice.reason}" for face, choice in self.items())


def explain_choice(
    input: Sequence[int],
    weight: Sequence[int],
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
    dtype: DTypeLike = np.float32,
) -> Choices:
    """Which algorithm the compiled kernels use for a convolution and its two gradients, and why.

    ``input`` (N, C_in, *I) and ``weight`` (C_out, C_in/groups, *K) are shapes, the rest as in ``conv2d``. Raises
    ValueError where no window fits.

    >>> explain_choice((16, 64, 56, 56), (64, 64, 3, 3), padding=1)["conv"].algorithm
    'winograd4'
    """
    if len(input) != len(weight) or len(input) not in (3, 4, 5):
        raise ValueError(
            f"explain_choice: input and weight must be shapes (N, C_in, *I) and (C_out, C_in/groups, *K) with one to "
            f"three axes *I, but are {tuple(input)} and {tuple(weight)}."
        )
    g = volumes(window_geometry("explain_choice", tuple(input[2:]), weight[2:], stride, padding, dilation))
    faces = ("conv", "conv_input", "conv_weight")
    return Choices((f, choose(f, g, input[0], input[1], weight[0], groups, np.dtype(dtype))) for f in faces)
