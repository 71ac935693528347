"""Sizes, paddings and receptive fields: what can be said of a convolution before any number is multiplied.

Letters (Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", 2016): ``i`` input size, ``k``
kernel, ``s`` stride, ``p`` padding, ``d`` dilation, ``o`` output size, ``a`` output padding, all on one axis. Every
number here is read from :mod:`tinyconv.geometry`, as the kernels read theirs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from tinyconv import geometry
from tinyconv.autograd import Tensor
from tinyconv.geometry import Geometry, Size, transposed_geometry, window_geometry
from tinyconv.kernels.arrays import Array
from tinyconv.ops.convert import as_tensor


def _padding(p: str | int | tuple[int, int]) -> str | int | list[tuple[int, int]]:
    return p if isinstance(p, str | int) else [p]


def output_size(i: int, k: int, s: int = 1, p: str | int | tuple[int, int] = 0, d: int = 1) -> int:
    """o = floor((i + 2p - d(k-1) - 1) / s) + 1, the size that a convolution makes.

    ``p`` is one int, a (before, after) pair, 'same' or 'valid'. ValueError where no window fits. Source:
    relationship 15 of Dumoulin and Visin.

    >>> output_size(5, 3, s=2, p=1)
    3
    """
    return window_geometry("output_size", (i,), k, s, _padding(p), d).output[0]


def pool_output_size(i: int, k: int, s: int | None = None, p: int = 0, d: int = 1, ceil_mode: bool = False) -> int:
    """The size that a pooling makes; the stride is the kernel unless given.

    With ``ceil_mode`` the quotient is rounded up, but a last window must start inside the input or its left padding.

    >>> pool_output_size(5, 2), pool_output_size(5, 2, ceil_mode=True)
    (2, 3)
    """
    return window_geometry("pool_output_size", (i,), k, k if s is None else s, p, d, ceil_mode).output[0]


def transposed_output_size(i: int, k: int, s: int = 1, p: int | tuple[int, int] = 0, d: int = 1, a: int = 0) -> int:
    """o' = (i - 1)s - 2p + d(k-1) + a + 1, the size that a transposed convolution makes, with 0 <= a < max(s, d).

    Source: relationships 8 to 14 of Dumoulin and Visin, with dilation.

    >>> transposed_output_size(3, 3, s=2, p=1)
    5
    """
    return transposed_geometry("transposed_output_size", (i,), k, s, _padding(p), a, d).size[0]


def same_padding(k: int, d: int = 1) -> tuple[int, int]:
    """(before, after) with which a convolution of stride 1 keeps the size; an odd total puts one more after.

    >>> same_padding(3), same_padding(4)
    ((1, 1), (1, 2))
    """
    return window_geometry("same_padding", (1,), k, 1, "same", d).padding[0]


class Setting(NamedTuple):
    """Stride, padding and dilation of one axis."""

    s: int
    p: int
    d: int


def solve(i: int, o: int, k: int) -> list[Setting]:
    """All (s, p, d) with which a kernel of ``k`` makes ``o`` outputs of ``i`` pixels, the plainest first.

    Searched: windows that span at most the image, paddings that leave each window a pixel, strides up to the image.

    >>> solve(i=28, o=14, k=3)[0]
    Setting(s=2, p=1, d=1)
    """
    found = []
    for d in range(1, i + 1):
        extent = Geometry((i,), (k,), (1,), ((0, 0),), (d,), (0,)).extent[0]
        if extent > i or (k == 1 and d > 1):  # one tap has nothing between
            break
        for p in range(extent):
            for s in range(1, i + 1):
                if geometry.output_size(i, k, s, p, d) == o:
                    found.append(Setting(s, p, d))
    return found


# --------------------------------------------------------------------------------------------------
# A transposed convolution as a direct one


@dataclass(frozen=True)
class EquivalentConvolution:
    """The direct convolution, of stride 1, that computes a transposed one.

    ``conv(e.input, e.weight, padding=e.padding, dilation=e.dilation, groups=e.groups)`` is the transposed convolution.
    ``zeros``: how many stand between two units of the stretched input, on each axis. ``padding`` and ``cropped``:
    (before, after) an axis. An axis with a negative p' is cropped, and what it needs of padding is in the input.
    """

    input: Tensor
    weight: Tensor
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int
    zeros: tuple[int, ...]
    cropped: tuple[tuple[int, int], ...]


def equivalent_convolution(
    input: Tensor,
    weight: Tensor,
    stride: Size = 1,
    padding: Size = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
) -> EquivalentConvolution:
    """The direct convolution equal to ``conv_transpose(input, weight, ...)``, arguments as there.

    The kernel is rotated by 180 degrees, s - 1 zeros are put between the units of the input, and the padding becomes
    p' = d(k-1) - p, with a more after; negative, it crops. Source: relationships 8 to 14 of Dumoulin and Visin.
    input (N, C_in, *O), weight (C_in, C_out/groups, *K).
    """
    op = "equivalent_convolution"
    x, w = as_tensor(input, op).data, as_tensor(weight, op, "weight").data
    rank = w.ndim - 2
    if rank not in (1, 2, 3) or x.ndim != w.ndim or x.shape[1] != w.shape[0] or groups < 1 or w.shape[0] % groups:
        raise ValueError(
            f"{op}: input must be (N, C_in, *O), weight (C_in, C_out/groups, *K) and groups divide C_in, but "
            f"input.shape={x.shape}, weight.shape={w.shape}, groups={groups}."
        )
    g = transposed_geometry(op, x.shape[2:], w.shape[2:], stride, padding, output_padding, dilation)
    extra = geometry.as_axes(op, "output_padding", output_padding, rank)
    wanted = [(e - 1 - before, e - 1 - after + a) for e, (before, after), a in zip(g.extent, g.padding, extra)]  # p'
    cropped = tuple((max(0, -before), max(0, -after)) for before, after in wanted)
    return EquivalentConvolution(
        Tensor(_crop(_stretch(x, g), wanted)),
        Tensor(_rotate(w, groups)),
        tuple((0, 0) if min(pair) < 0 else pair for pair in wanted),
        g.dilation,
        groups,
        tuple(s - 1 for s in g.stride),
        cropped,
    )


def _stretch(x: Array, g: Geometry) -> Array:
    """x with s - 1 zeros between its units: a transposed convolution with a kernel of one tap."""
    ones = (1,) * g.rank
    apart = transposed_geometry("stretch", g.output, ones, g.stride)
    stretched = np.zeros((*x.shape[:2], *apart.size), x.dtype)
    units: Any = apart.slices((0,) * g.rank)[1]
    stretched[(..., *units)] = x
    return stretched


def _crop(x: Array, wanted: list[tuple[int, int]]) -> Array:
    """x with the negative paddings cut off; a positive one beside a negative one is put on first."""
    pads = [(max(0, b), max(0, a)) if min(b, a) < 0 else (0, 0) for b, a in wanted]
    x = np.pad(x, [(0, 0), (0, 0), *pads])
    kept = tuple(slice(max(0, -b), n - max(0, -a)) for n, (b, a) in zip(x.shape[2:], wanted))
    return x[(..., *kept)]


def _rotate(w: Array, groups: int) -> Array:
    """(C_in, C_out/G, *K) to (C_out, C_in/G, *K), rotated by 180 degrees."""
    grouped = w.reshape(groups, w.shape[0] // groups, *w.shape[1:]).swapaxes(1, 2)  # (G, C_out/G, C_in/G, *K)
    rotated = np.flip(grouped, tuple(range(3, grouped.ndim)))
    return rotated.reshape(groups * w.shape[1], w.shape[0] // groups, *w.shape[2:])
