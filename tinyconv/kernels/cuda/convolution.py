"""The convolutions: which algorithm is taken for which of the three faces.

depthwise  one input channel a group: nothing to sum but the taps
tiled      tiles in shared memory
direct     by the definition: for what would leave a tile nearly empty
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from tinyconv.geometry import Geometry
from tinyconv.kernels.arrays import Array
from tinyconv.kernels.cuda import depthwise, direct, tiled

ALGORITHMS: dict[str, ModuleType] = {"depthwise": depthwise, "tiled": tiled, "direct": direct}

_LEAST_PRODUCTS = 64  # of channels of one group: a quarter of the smallest tile's row of 32 and slice of 8


def choose(face: str, g: Geometry, batch: int, c_in: int, c_out: int, groups: int, dtype: np.dtype[Any]) -> str:
    """The algorithm for 'conv', 'conv_input' or 'conv_weight', a key of ``ALGORITHMS``."""
    if c_in == groups and groups > 1:
        return "depthwise"
    return "tiled" if (c_in // groups) * (c_out // groups) >= _LEAST_PRODUCTS else "direct"


def conv(x: Array, w: Array, g: Geometry, groups: int) -> Array:
    """x (N, C_in, *I), w (C_out, C_in/groups, *K) to y (N, C_out, *O)."""
    name = choose("conv", g, x.shape[0], x.shape[1], w.shape[0], groups, x.dtype)
    return ALGORITHMS[name].conv(x, w, g, groups)


def conv_input(gy: Array, w: Array, g: Geometry, groups: int) -> Array:
    """gy (N, C_out, *O), w (C_out, C_in/groups, *K) to gx (N, C_in, *I)."""
    name = choose("conv_input", g, gy.shape[0], w.shape[1] * groups, w.shape[0], groups, gy.dtype)
    return ALGORITHMS[name].conv_input(gy, w, g, groups)


def conv_weight(x: Array, gy: Array, g: Geometry, groups: int) -> Array:
    """x (N, C_in, *I), gy (N, C_out, *O) to gw (C_out, C_in/groups, *K)."""
    name = choose("conv_weight", g, x.shape[0], x.shape[1], gy.shape[1], groups, x.dtype)
    return ALGORITHMS[name].conv_weight(x, gy, g, groups)
