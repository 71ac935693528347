"""The weight gradient of a convolution with one channel a group; its other two faces are those of ``direct``.

Idea. Each weight is the inner product of two images, one of them shifted: gw[c, k] = sum over n, o of x[n, c, o + shift(k)]
gy[n, c, o]. There is nothing to share among channels, so an image and its cotangent are read once and stay in the cache
for all taps.

Cost. 2 K operations a number read: bound by memory.
"""

from __future__ import annotations

from math import prod

import numpy as np
from numba import njit

from tinyconv.geometry import Geometry
from tinyconv.kernels.arrays import Array
from tinyconv.kernels.cpu.direct import lay_piece, tables
from tinyconv.kernels.cpu.memory import scratch
from tinyconv.kernels.cpu.threads import parallel


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})  # the compiler orders the sum of a row, once for all
def inner_product(a, b):  # type: ignore[no-untyped-def]
    """The sum of a[i] b[i]."""
    total = a.dtype.type(0)
    for i in range(a.size):
        total += a[i] * b[i]
    return total


@njit(nogil=True, cache=True)
def correlate(  # type: ignore[no-untyped-def]
    first, last, x, gy, gw, out, depth, rows, runs, step, tap_plane, tap_row, tap_column, pitch, reach, planes, piece
):
    """Output channels [first, last): gw (C_out, K) from x (N, C_in, D, H, W) and gy (N, C_out, OD, OH, OW)."""
    length = (out[1] - 1) * pitch + out[2] + reach
    for co in range(first, last):
        c = co // (gy.shape[1] // x.shape[1])
        for n in range(x.shape[0]):
            for od in range(out[0]):
                lay_piece(x, n, (c, c + 1), od, 0, length, depth, rows, runs, pitch, step, piece)
                for oh in range(out[1]):
                    row = gy[n, co, od, oh]
                    for t in range(tap_plane.size):
                        at = tap_plane[t] * length + (tap_row[t] + oh) * pitch + tap_column[t]
                        gw[co, t] += inner_product(row, piece[at : at + out[2]])


def conv_weight(x: Array, gy: Array, g: Geometry) -> Array:
    """x (N, C_in, D, H, W), gy (N, C_out, *O) to gw (C_out, 1, *K)."""
    t = tables(g)
    gw = np.zeros((gy.shape[1], prod(g.kernel)))  # float64: rows are added one after the other

    def work(first: int, last: int) -> None:
        piece = scratch("piece", t.planes * (g.output[1] * t.pitch + t.reach), x.dtype)
        correlate(
            first, last, x, gy, gw, g.output,
            t.depth, t.rows, t.runs, g.stride[2], t.tap_plane, t.tap_row, t.tap_column, t.pitch, t.reach, t.planes, piece,
        )  # fmt: skip

    parallel(work, len(gw), gy.size * prod(g.kernel) / 4)
    return gw.astype(x.dtype).reshape(len(gw), 1, *g.kernel)
