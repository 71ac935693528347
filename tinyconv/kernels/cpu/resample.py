"""Resampling on the CPU: output row by output row, the outer axes first.

Idea. All pixels of an output row read the same rows of the image with the same weights. So those rows are added into
one buffer as long as a row of the image, vectors along the row; then each output picks its few numbers out of the
buffer, which lies in the first cache. Nothing of the size of an image lies in between.

Where all pixels of a plane make one output with one weight (global average pooling), and the reverse, its gradient,
there are no rows: a plane is one run.

Cost. For an output row, one product a pixel for each row that it reads, and one for each pixel that an output reads of
the buffer. Enlarging is bound by picking, shrinking by reading the image once.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import prod

import numpy as np
from numba import njit

from tinyconv.kernels import im2col
from tinyconv.kernels.arrays import Array
from tinyconv.kernels.axismap import AxisMap, axis_map
from tinyconv.kernels.cpu.memory import plain
from tinyconv.kernels.cpu.product import LEAF, leaf
from tinyconv.kernels.threads import parallel

_ONE = axis_map(1, [[0]], [[1]], np.float64)  # of an axis of size 1


@leaf
def _pick(row, y, p, od, oh, inputs, weights):  # type: ignore[no-untyped-def]
    """An output row of which each pixel reads one of the buffer's."""
    for ow in range(y.shape[3]):
        y[p, od, oh, ow] = weights[ow] * row[inputs[ow]]


@leaf
def resample_rows(  # type: ignore[no-untyped-def]
    first, last, row, single, x, y, ends_d, in_d, weights_d, ends_h, in_h, weights_h, ends_w, in_w, weights_w
):  # fmt: skip
    """Rows [first, last) of all planes: x (P, D, H, W) to y (P, OD, OH, OW).

    Output o of an axis reads the pixels in[t] with weights[t], t from ends[o] to ends[o + 1]; with ``single``, each
    output of a row reads one. row: scratch of a row of x.
    """
    for item in range(first, last):
        rest, oh = divmod(item, y.shape[2])
        p, od = divmod(rest, y.shape[1])
        for iw in range(row.size):
            row[iw] = 0
        for td in range(ends_d[od], ends_d[od + 1]):
            for th in range(ends_h[oh], ends_h[oh + 1]):
                weight = weights_d[td] * weights_h[th]
                for iw in range(row.size):
                    row[iw] += weight * x[p, in_d[td], in_h[th], iw]
        if single:
            _pick(row, y, p, od, oh, in_w, weights_w)
        else:
            for ow in range(y.shape[3]):
                total = weights_w.dtype.type(0)
                for tw in range(ends_w[ow], ends_w[ow + 1]):
                    total += weights_w[tw] * row[in_w[tw]]
                y[p, od, oh, ow] = total


@njit(**LEAF, fastmath={"reassoc"})  # a sum may be cut into vectors; NaN and infinity stay what they are
def plane_sums(first, last, x, weight, y):  # type: ignore[no-untyped-def]
    """Planes [first, last): y[p] = weight times the sum of x[p]."""
    for p in range(first, last):
        total = x.dtype.type(0)
        for i in range(x.shape[1]):
            total += x[p, i]
        y[p] = weight * total


@leaf
def fill_planes(first, last, x, weight, y):  # type: ignore[no-untyped-def]
    """Planes [first, last): y[p] = weight x[p] everywhere."""
    for p in range(first, last):
        share = weight * x[p]
        for i in range(y.shape[1]):
            y[p, i] = share


@lru_cache(maxsize=256)
def _common_weight(maps: tuple[AxisMap, ...]) -> float | None:
    """The weight with which every pixel reaches every output; None where it is not one, or not once."""
    once = all(len(m.inputs) == m.size * m.output == len(set(zip(m.inputs, m.outputs))) for m in maps)
    return prod(float(m.weights[0]) for m in maps) if once and all(len(set(m.weights)) == 1 for m in maps) else None


def _whole(x: Array, before: tuple[int, ...], output: list[int], weight: float) -> Array:
    """Planes to one output, or one pixel to planes."""
    planes = plain(x).reshape(prod(before), prod(x.shape[len(before) :]))
    y = np.empty((*before, *output), x.dtype)
    results = y.reshape(len(planes), prod(output))
    number = planes.dtype.type(weight)
    if results.shape[1] == 1:
        given, work = (planes, number, results[:, 0]), plane_sums
    else:
        given, work = (planes[:, 0], number, results), fill_planes
    parallel(lambda first, last: work(first, last, *given), len(planes), 0.2 * max(x.size, y.size))
    return y


def resample(x: Array, maps: Sequence[AxisMap]) -> Array:
    """y[..., o] = sum of weight * x[..., i] over the triples (o, i, weight) of one of the last axes after the other."""
    if len(maps) > 3:
        return im2col.resample(x, maps)
    before, size = x.shape[: x.ndim - len(maps)], [m.size for m in maps]
    output = [m.output for m in maps]
    weight = _common_weight(tuple(maps)) if 1 in (prod(size), prod(output)) else None
    if weight is not None:
        return _whole(x, before, output, weight)
    ones = (1,) * (3 - len(maps))
    pixels = plain(x).reshape(prod(before), *ones, *size)
    y = np.empty((*before, *output), pixels.dtype)
    planes = y.reshape(prod(before), *ones, *output)
    tables = []
    for m in [_ONE] * len(ones) + list(maps):
        tables += [m.ends.astype(np.uintp), m.inputs.astype(np.uintp), m.weights.astype(pixels.dtype)]
    single = np.array_equal(maps[-1].outputs, np.arange(output[-1]))
    d, h, w = (len(m.inputs) for m in [_ONE] * len(ones) + list(maps))

    def work(first: int, last: int) -> None:
        resample_rows(first, last, np.empty(pixels.shape[3], pixels.dtype), single, pixels, planes, *tables)

    cost = len(pixels) * (0.2 * d * h * pixels.shape[3] + 0.7 * prod(planes.shape[1:3]) * w)
    parallel(work, prod(planes.shape[:3]), cost)
    return y
