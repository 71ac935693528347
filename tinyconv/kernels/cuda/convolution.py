"""The convolutions: which algorithm is taken for which of the three faces.

    depthwise  one input channel a group: nothing to sum but the taps
    winograd4  Winograd's minimal filtering with tiles of 4 x 4 outputs, around a batch of matrix products
    winograd2  the same with tiles of 2 x 2: rounded less
    columns    im2col written down, and a matrix product by cuBLAS
    tiled      the same product from tiles in shared memory, its columns never written down
    direct     by the definition
    tf32       on tensor cores, operands rounded to TF32
    bf16       on tensor cores, operands rounded to bf16

The rule, first match; what ``use_kernels(conv=...)`` asks for comes before it, where it can compute the convolution:

1. 'tf32' or 'bf16' where that precision is asked for, with 16 channels a group or more on both sides.
2. 'depthwise' for one input channel a group.
3. 'winograd4' for float32, 3x3 windows of stride 1 without dilation or groups, 64 channels on both sides (with taps
   along depth 128, since pixels are then written once a tap), and 512 tiles: below that the transforms cost what the
   products save.
4. 'columns' where they are the image itself (1x1 windows of stride 1), but not for the weight gradient, for which the
   images would have to be laid side by side.
5. 'tiled' for groups of 64 and more pairs of channels, a quarter of the smallest tile.
6. 'direct'.

The rule is reckoned from bytes and products, for a GPU with 14 float32 operations a byte, and not measured.
"""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np

from tinyconv.geometry import Geometry
from tinyconv.kernels import choice
from tinyconv.kernels.arrays import Array
from tinyconv.kernels.choice import Choice
from tinyconv.kernels.cuda import columns, depthwise, direct, tensor_cores, tiled, winograd
from tinyconv.kernels.im2col import is_pointwise
from tinyconv.kernels.precision import precision


def _on_tensor_cores(name: str) -> SimpleNamespace:
    faces = (tensor_cores.conv, tensor_cores.conv_input, tensor_cores.conv_weight)
    return SimpleNamespace(**{face.__name__: partial(face, precision=name) for face in faces})


ALGORITHMS: dict[str, Any] = {
    "depthwise": depthwise,
    "winograd4": winograd.winograd4,
    "winograd2": winograd.winograd2,
    "columns": columns,
    "tiled": tiled,
    "direct": direct,
    "tf32": _on_tensor_cores("tf32"),
    "bf16": _on_tensor_cores("bf16"),
}

_LEAST_CHANNELS, _LEAST_TILES = 64, 512  # of 'winograd4'
_LEAST_PAIRS = 64  # of channels of one group, for 'tiled'


def choose(
    face: str, g: Geometry, batch: int, c_in: int, c_out: int, groups: int, dtype: np.dtype[Any], asked: str = "ieee"
) -> Choice:
    """The algorithm for 'conv', 'conv_input' or 'conv_weight' by the rule above, or the one that is forced.

    ``asked``: the precision of products, one that the GPU has.
    """
    if asked != "ieee" and dtype == np.float32 and tensor_cores.fits(face, g, c_in, c_out, groups):
        return Choice(asked, f"asked for, and {c_in} to {c_out} channels keep tensor cores busy")
    forced = choice.forced()
    if _takes(forced, g, c_in, groups):
        return Choice(forced, "forced by use_kernels")
    if _takes("depthwise", g, c_in, groups):
        return Choice("depthwise", "one channel a group: nothing to sum but the taps")
    if _takes("winograd4", g, c_in, groups) and dtype == np.float32 and forced != "exact":
        deep = g.rank == 3 and g.kernel[0] > 1
        tiles = batch * (g.output[0] if g.rank == 3 else 1) * -(-g.output[-2] // 4) * -(-g.output[-1] // 4)
        if min(c_in, c_out) >= (2 if deep else 1) * _LEAST_CHANNELS and tiles >= _LEAST_TILES:
            return Choice("winograd4", f"3x3 windows of stride 1, {c_in} to {c_out} channels, {tiles} tiles of 4x4")
    if is_pointwise(g) and groups == 1 and face != "conv_weight":
        return Choice("columns", "the image is its own columns")
    pairs = (c_in // groups) * (c_out // groups)
    if pairs >= _LEAST_PAIRS:
        return Choice("tiled", f"{pairs} pairs of channels a group")
    return Choice("direct", f"{pairs} pairs of channels a group would leave a tile nearly empty")


def _takes(name: str, g: Geometry, c_in: int, groups: int) -> bool:
    """Whether an algorithm that can be forced computes such a convolution."""
    if name.startswith("winograd"):
        return winograd.fits(g, groups)
    if name == "depthwise":
        return c_in == groups and groups > 1
    return name in ("columns", "tiled", "direct")


def conv(x: Array, w: Array, g: Geometry, groups: int) -> Array:
    """x (N, C_in, *I), w (C_out, C_in/groups, *K) to y (N, C_out, *O)."""
    return _run("conv", x, w, g, groups, x.shape[1], w.shape[0])


def conv_input(gy: Array, w: Array, g: Geometry, groups: int) -> Array:
    """gy (N, C_out, *O), w (C_out, C_in/groups, *K) to gx (N, C_in, *I)."""
    return _run("conv_input", gy, w, g, groups, w.shape[1] * groups, w.shape[0])


def conv_weight(x: Array, gy: Array, g: Geometry, groups: int) -> Array:
    """x (N, C_in, *I), gy (N, C_out, *O) to gw (C_out, C_in/groups, *K)."""
    return _run("conv_weight", x, gy, g, groups, x.shape[1], gy.shape[1])


def _run(face: str, a: Array, b: Array, g: Geometry, groups: int, c_in: int, c_out: int) -> Array:
    asked, dtype = precision(), a.dtype
    if dtype == np.float16:  # each of its numbers is one of TF32: tensor cores multiply them exactly
        asked, a, b = "tf32", a.astype(np.float32), b.astype(np.float32)
    if not tensor_cores.available(a):
        asked = "ieee"
    name = choose(face, g, len(a), c_in, c_out, groups, a.dtype, asked).algorithm
    return getattr(ALGORITHMS[name], face)(a, b, g, groups).astype(dtype, copy=False)
