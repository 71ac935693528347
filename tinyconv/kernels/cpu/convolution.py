"""The convolution triangle on the CPU: which algorithm, and on what."""

from __future__ import annotations

import numpy as np

from tinyconv.geometry import Geometry
from tinyconv.kernels import im2col
from tinyconv.kernels.arrays import Array
from tinyconv.kernels.cpu import direct
from tinyconv.kernels.cpu.memory import plain


def _volumes(a: Array, g: Geometry) -> Array:
    """(N, C, *I) as (N, C, D, H, W), axes of size 1 in front."""
    return plain(a).reshape(*a.shape[:2], *(1,) * (3 - g.rank), *a.shape[2:])


def _lifted(g: Geometry) -> Geometry:
    """The same windows with three axes."""
    while g.rank < 3:
        g = g.lifted()
    return g


def conv(x: Array, w: Array, g: Geometry, groups: int) -> Array:
    """x (N, C_in, *I), w (C_out, C_in/groups, *K) to y (N, C_out, *O)."""
    y = direct.conv(_volumes(x, g), _volumes(w, g), _lifted(g), groups)
    return y.reshape(*y.shape[:2], *g.output)


def conv_input(gy: Array, w: Array, g: Geometry, groups: int) -> Array:
    """gy (N, C_out, *O), w (C_out, C_in/groups, *K) to gx (N, C_in, *I)."""
    if not np.isfinite(
        w
    ).all():  # beyond the border zeros would meet an infinite weight, where the definition has no product
        return im2col.conv_input(gy, w, g, groups)
    gx = direct.conv_input(_volumes(gy, g), _volumes(w, g), _lifted(g), groups)
    return gx.reshape(*gx.shape[:2], *g.size)


def conv_weight(x: Array, gy: Array, g: Geometry, groups: int) -> Array:
    """x (N, C_in, *I), gy (N, C_out, *O) to gw (C_out, C_in/groups, *K)."""
    gw = direct.conv_weight(_volumes(x, g), _volumes(gy, g), _lifted(g), groups)
    return gw.reshape(*gw.shape[:2], *g.kernel)
