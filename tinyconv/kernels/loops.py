"""The definition: every operator as plain Python loops, made to be stepped through with a debugger.

The names are the field's. n image, co output channel, ci input channel within its group, c channel;
od, oh, ow output position; kd, kh, kw kernel tap; id_, ih, iw pixel; acc the sum so far. The pooling and
folding loops, which are the same for any number of axes, say o, k and i for those triples.

Arrays are read as Python numbers, so the sums run in Python's own float, which is float64, and are rounded once, when
the result is stored: what a float32 kernel computes is compared with this. A signal (rank 1) is an image of one row.
Two-dimensional convolution is written out loop by loop; the three-dimensional one runs over the same indices with
``np.ndindex``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np

from tinyconv.geometry import Geometry, Sizes
from tinyconv.kernels.arrays import Array, native
from tinyconv.kernels.axismap import AxisMap
from tinyconv.kernels.corners import first_neighbour, weights
from tinyconv.kernels.loops_pointwise import activation as activation
from tinyconv.kernels.loops_pointwise import activation_grad as activation_grad
from tinyconv.kernels.loops_pointwise import adam_step as adam_step
from tinyconv.kernels.loops_pointwise import cross_entropy as cross_entropy
from tinyconv.kernels.loops_pointwise import cross_entropy_grad as cross_entropy_grad
from tinyconv.kernels.loops_pointwise import erf as erf
from tinyconv.kernels.loops_pointwise import relu as relu
from tinyconv.kernels.loops_pointwise import relu_grad as relu_grad
from tinyconv.kernels.loops_pointwise import rmsprop_step as rmsprop_step
from tinyconv.kernels.loops_pointwise import sgd_step as sgd_step
from tinyconv.kernels.loops_pointwise import sigmoid as sigmoid
from tinyconv.kernels.loops_pointwise import slopes as slopes
from tinyconv.kernels.loops_pointwise import softmax as softmax
from tinyconv.kernels.loops_pointwise import softmax_grad as softmax_grad

# --------------------------------------------------------------------------------------------------
# The matrix product


def matmul(a: Array, b: Array) -> Array:
    """a (*B, M, K), b (*B, K, N) to (*B, M, N)."""
    dtype = np.dtype(np.float64) if a.dtype.kind == "f" else native(a).dtype  # of the sum: whole numbers wrap around
    a_wide, b_wide = a.astype(dtype), b.astype(dtype)
    y = np.zeros((*a.shape[:-1], b.shape[-1]), dtype)
    for *batch, m, n in np.ndindex(y.shape):
        for k in range(a.shape[-1]):
            y[(*batch, m, n)] += a_wide[(*batch, m, k)] * b_wide[(*batch, k, n)]
    return y.astype(native(a).dtype)


# --------------------------------------------------------------------------------------------------
# The convolution triangle: forward


def conv(x: Array, w: Array, g: Geometry, groups: int) -> Array:
    """x (N, C_in, *I), w (C_out, C_in/groups, *K) to y (N, C_out, *O)."""
    if g.rank == 1:
        return conv(x[:, :, None], w[:, :, None], g.lifted(), groups)[:, :, 0]
    y = np.empty((x.shape[0], w.shape[0], *g.output), native(x).dtype)
    (_conv2d if g.rank == 2 else _conv3d)(x.astype(object), w.astype(object), y, g, groups)
    return y


def _conv2d(x: Array, w: Array, y: Array, g: Geometry, groups: int) -> None:
    N, C_out, OH, OW = y.shape
    C_out, C_group, KH, KW = w.shape
    IH, IW = g.size
    for n in range(N):
        for co in range(C_out):
            first = co // (C_out // groups) * C_group  # the first input channel of co's group
            for oh in range(OH):
                for ow in range(OW):
                    acc = 0
                    for ci in range(C_group):
                        for kh in range(KH):
                            ih = g.input_index(0, oh, kh)
                            for kw in range(KW):
                                iw = g.input_index(1, ow, kw)
                                inside = 0 <= ih < IH and 0 <= iw < IW
                                pixel = x[n, first + ci, ih, iw] if inside else 0  # padding takes part: 0 * inf is NaN
                                acc += pixel * w[co, ci, kh, kw]
                    y[n, co, oh, ow] = acc


def _conv3d(x: Array, w: Array, y: Array, g: Geometry, groups: int) -> None:
    C_out, C_group, KD, KH, KW = w.shape
    ID, IH, IW = g.size
    for n, co, od, oh, ow in np.ndindex(y.shape):
        first = co // (C_out // groups) * C_group  # the first input channel of co's group
        acc = 0
        for ci, kd, kh, kw in np.ndindex(C_group, KD, KH, KW):
            id_, ih, iw = g.input_index(0, od, kd), g.input_index(1, oh, kh), g.input_index(2, ow, kw)
            inside = 0 <= id_ < ID and 0 <= ih < IH and 0 <= iw < IW
            pixel = x[n, first + ci, id_, ih, iw] if inside else 0  # padding takes part: 0 * inf is NaN
            acc += pixel * w[co, ci, kd, kh, kw]
        y[n, co, od, oh, ow] = acc


# --------------------------------------------------------------------------------------------------
# The convolution triangle: input gradient, gathered pixel by pixel


def conv_input(gy: Array, w: Array, g: Geometry, groups: int) -> Array:
    """gy (N, C_out, *O), w (C_out, C_in/groups, *K) to gx (N, C_in, *I)."""
    if g.rank == 1:
        return conv_input(gy[:, :, None], w[:, :, None], g.lifted(), groups)[:, :, 0]
    gx = np.empty((gy.shape[0], w.shape[1] * groups, *g.size), native(gy).dtype)
    (_conv2d_input if g.rank == 2 else _conv3d_input)(gy.astype(object), w.astype(object), gx, g, groups)
    return gx


def _conv2d_input(gy: Array, w: Array, gx: Array, g: Geometry, groups: int) -> None:
    N, C_in, IH, IW = gx.shape
    C_out, C_group, KH, KW = w.shape
    for n in range(N):
        for c in range(C_in):
            group, ci = divmod(c, C_group)
            for ih in range(IH):
                for iw in range(IW):
                    acc = 0  # stays 0 for a pixel that no window reads
                    for co in range(group * (C_out // groups), (group + 1) * (C_out // groups)):
                        for oh, kh in g.readers(0, ih):
                            for ow, kw in g.readers(1, iw):
                                acc += gy[n, co, oh, ow] * w[co, ci, kh, kw]
                    gx[n, c, ih, iw] = acc


def _conv3d_input(gy: Array, w: Array, gx: Array, g: Geometry, groups: int) -> None:
    C_out, C_group = w.shape[:2]
    for n, c, id_, ih, iw in np.ndindex(gx.shape):
        group, ci = divmod(c, C_group)
        acc = 0  # stays 0 for a pixel that no window reads
        for co in range(group * (C_out // groups), (group + 1) * (C_out // groups)):
            for od, kd in g.readers(0, id_):
                for oh, kh in g.readers(1, ih):
                    for ow, kw in g.readers(2, iw):
                        acc += gy[n, co, od, oh, ow] * w[co, ci, kd, kh, kw]
        gx[n, c, id_, ih, iw] = acc


# --------------------------------------------------------------------------------------------------
# The convolution triangle: weight gradient, gathered weight by weight


def conv_weight(x: Array, gy: Array, g: Geometry, groups: int) -> Array:
    """x (N, C_in, *I), gy (N, C_out, *O) to gw (C_out, C_in/groups, *K)."""
    if g.rank == 1:
        return conv_weight(x[:, :, None], gy[:, :, None], g.lifted(), groups)[:, :, 0]
    gw = np.empty((gy.shape[1], x.shape[1] // groups, *g.kernel), native(x).dtype)
    (_conv2d_weight if g.rank == 2 else _conv3d_weight)(x.astype(object), gy.astype(object), gw, g, groups)
    return gw


def _conv2d_weight(x: Array, gy: Array, gw: Array, g: Geometry, groups: int) -> None:
    C_out, C_group, KH, KW = gw.shape
    N, C_out, OH, OW = gy.shape
    IH, IW = g.size
    for co in range(C_out):
        first = co // (C_out // groups) * C_group  # the first input channel of co's group
        for ci in range(C_group):
            for kh in range(KH):
                for kw in range(KW):
                    acc = 0
                    for n in range(N):
                        for oh in range(OH):
                            ih = g.input_index(0, oh, kh)
                            for ow in range(OW):
                                iw = g.input_index(1, ow, kw)
                                inside = 0 <= ih < IH and 0 <= iw < IW
                                pixel = x[n, first + ci, ih, iw] if inside else 0
                                acc += pixel * gy[n, co, oh, ow]
                    gw[co, ci, kh, kw] = acc


def _conv3d_weight(x: Array, gy: Array, gw: Array, g: Geometry, groups: int) -> None:
    C_out, C_group = gw.shape[:2]
    N, C_out, OD, OH, OW = gy.shape
    ID, IH, IW = g.size
    for co, ci, kd, kh, kw in np.ndindex(gw.shape):
        first = co // (C_out // groups) * C_group  # the first input channel of co's group
        acc = 0
        for n, od, oh, ow in np.ndindex(N, OD, OH, OW):
            id_, ih, iw = g.input_index(0, od, kd), g.input_index(1, oh, kh), g.input_index(2, ow, kw)
            inside = 0 <= id_ < ID and 0 <= ih < IH and 0 <= iw < IW
            pixel = x[n, first + ci, id_, ih, iw] if inside else 0
            acc += pixel * gy[n, co, od, oh, ow]
        gw[co, ci, kd, kh, kw] = acc


# --------------------------------------------------------------------------------------------------
# Pooling, for any number of axes


def max_pool(x: Array, g: Geometry) -> tuple[Array, Array]:
    """x (N, C, *I) to the largest pixel of each window and its flat index, both (N, C, *O)."""
    x = native(x)
    lowest = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
    y = np.full((*x.shape[:2], *g.output), lowest, x.dtype)  # what stays where a window reads no pixel
    indices = np.zeros(y.shape, np.int64)
    pixels = np.arange(np.prod(g.size)).reshape(g.size)  # the flat index of each pixel
    for n, c, *o in np.ndindex(y.shape):
        best = None
        for _, i in g.window(o):
            pixel = x[(n, c, *i)]
            if best is None or pixel > best or pixel != pixel:  # the first of equals stays; a NaN always wins
                best = pixel
                y[(n, c, *o)] = pixel
                indices[(n, c, *o)] = pixels[i]
    return y, indices


def scatter_windows(gy: Array, indices: Array, size: Sizes, windows: Sequence[AxisMap] | None) -> Array:
    """gy and indices (N, C, *O) to gx (N, C, *size): each element added to the pixel at its index."""
    gy = native(gy)
    gx = np.zeros((*gy.shape[:2], *size), object)
    for n, c, *o in np.ndindex(gy.shape):
        i = np.unravel_index(indices[(n, c, *o)], size)
        gx[(n, c, *i)] += gy.item((n, c, *o))
    return gx.astype(gy.dtype)


def avg_pool(x: Array, g: Geometry, divisor: Array) -> Array:
    """x (N, C, *I), divisor (*O) to y (N, C, *O): the sum of each window divided by its divisor."""
    y = np.empty((*x.shape[:2], *g.output), native(x).dtype)
    x, divisor = x.astype(object), divisor.astype(object)
    for n, c, *o in np.ndindex(y.shape):
        acc = 0
        for _, i in g.window(o):
            acc += x[(n, c, *i)]
        y[(n, c, *o)] = acc / divisor[tuple(o)]
    return y


def avg_pool_input(gy: Array, g: Geometry, divisor: Array) -> Array:
    """gy (N, C, *O), divisor (*O) to gx (N, C, *I): each pixel gets its share from every window that reads it."""
    dtype = native(gy).dtype
    gy, divisor = gy.astype(object), divisor.astype(object)
    gx = np.zeros((*gy.shape[:2], *g.size), object)
    for n, c, *o in np.ndindex(gy.shape):
        for _, i in g.window(o):
            gx[(n, c, *i)] += gy[(n, c, *o)] / divisor[tuple(o)]
    return gx.astype(dtype)


# --------------------------------------------------------------------------------------------------
# Unfolding, for any number of axes


def unfold(x: Array, g: Geometry) -> Array:
    """x (N, C, *I) to columns (N, C * prod K, prod O)."""
    N, C = x.shape[:2]
    cols = np.zeros((N, C, *g.kernel, *g.output), native(x).dtype)  # padding stays 0
    for n, c, *o in np.ndindex((N, C, *g.output)):
        for k, i in g.window(o):
            cols[(n, c, *k, *o)] = x[(n, c, *i)]
    return cols.reshape(N, C * np.prod(g.kernel), np.prod(g.output))


def fold(cols: Array, g: Geometry) -> Array:
    """Columns (N, C * prod K, prod O) to x (N, C, *I): each column added back to the pixels of its window."""
    N, C = cols.shape[0], cols.shape[1] // int(np.prod(g.kernel))
    dtype = native(cols).dtype
    cols = cols.reshape(N, C, *g.kernel, *g.output).astype(object)
    x = np.zeros((N, C, *g.size), object)
    for n, c, *o in np.ndindex((N, C, *g.output)):
        for k, i in g.window(o):
            x[(n, c, *i)] += cols[(n, c, *k, *o)]
    return x.astype(dtype)


# --------------------------------------------------------------------------------------------------
# Maps along single axes


def resample(x: Array, maps: Sequence[AxisMap]) -> Array:
    """y[..., o] = sum of weight * x[..., i] over the triples (o, i, weight) of one of the last axes after the other."""
    dtype = native(x).dtype
    x = x.astype(object)
    for axis, axis_map in enumerate(maps, x.ndim - len(maps)):
        y = np.zeros((*x.shape[:axis], axis_map.output, *x.shape[axis + 1 :]), object)
        for o, pairs in enumerate(axis_map.readers):
            for i, weight in pairs:
                y.swapaxes(0, axis)[o] += x.swapaxes(0, axis)[i] * weight
        x = y
    return x.astype(dtype)


def adaptive_max_pool(x: Array, maps: Sequence[AxisMap]) -> tuple[Array, Array]:
    """x (N, C, *I) to the largest pixel that each output reads and its flat index, both (N, C, *O)."""
    size = tuple(m.size for m in maps)
    pixels = np.arange(np.prod(size)).reshape(size)  # the flat index of each pixel
    y = np.empty((*x.shape[:2], *(m.output for m in maps)), native(x).dtype)
    indices = np.empty(y.shape, np.int64)
    for n, c, *o in np.ndindex(y.shape):
        best = None
        for triples in product(*(m.readers[position] for m, position in zip(maps, o))):
            i = tuple(pixel for pixel, _ in triples)
            pixel = x[(n, c, *i)]
            if best is None or pixel > best or pixel != pixel:  # the first of equals stays; a NaN always wins
                best = pixel
                y[(n, c, *o)] = pixel
                indices[(n, c, *o)] = pixels[i]
    return y, indices


# --------------------------------------------------------------------------------------------------
# Sampling at points


def corners(
    grid: Array, size: Sizes, mode: str, padding_mode: str, align_corners: bool, order: Sequence[int]
) -> tuple[Array, Array]:
    """grid (N, L, rank) to weights and flat indices (N, K, L). A floor follows: positions have the grid's precision."""
    N, L, rank = grid.shape
    number = native(grid).dtype.type
    polynomials = [weights(mode, d) for d in order]  # of each axis (neighbours, powers)
    choices = list(product(range(len(polynomials[0])), repeat=rank))
    w, at = np.empty((N, len(choices), L), number), np.empty((N, len(choices), L), np.int64)
    pixels = np.arange(math.prod(size)).reshape(size)
    for n, o in np.ndindex(N, L):
        lists = []
        for axis, m in enumerate(size):
            x = number(grid[n, o, rank - 1 - axis])
            position = (x + 1) * number((m - 1) / 2) if align_corners else ((x + 1) * number(m) - 1) / number(2)
            slope = (m - 1) / 2 if align_corners else m / 2
            if mode != "bicubic":
                position, slope = _folded(position, slope, m, padding_mode, align_corners)
            start = np.rint(position) if mode == "nearest" else np.floor(position)
            t = float(position - start)
            neighbours = []
            for j, coefficients in enumerate(polynomials[axis]):
                pixel = start + (first_neighbour(mode) + j)
                if mode == "bicubic":
                    pixel, _ = _folded(pixel, slope, m, padding_mode, align_corners)
                weight = sum(float(c) * t**power for power, c in enumerate(coefficients)) * slope ** order[axis]
                neighbours.append((pixel, weight))
            lists.append(neighbours)
        for k, corner in enumerate(product(*lists)):
            inside = all(0 <= pixel <= m - 1 for m, (pixel, _) in zip(size, corner))
            w[n, k, o] = math.prod(weight for _, weight in corner)
            at[n, k, o] = pixels[tuple(int(pixel) for pixel, _ in corner)] if inside else -1
    return w, at


def _folded(position: Any, slope: float, n: int, padding_mode: str, align_corners: bool) -> tuple[Any, float]:
    """A position brought back into [0, n-1] by clamping or reflection, and its derivative by the coordinate."""
    if padding_mode == "zeros":
        return position, slope
    if position != position:
        return position.dtype.type(0), 0.0
    if padding_mode == "reflection":
        low, span = (0.0, n - 1.0) if align_corners else (-0.5, float(n))
        position = np.nan_to_num(position)
        distance, turned = abs(position - position.dtype.type(low)), position < low
        rest = distance % position.dtype.type(span) if span else distance * 0
        odd = bool(span) and np.floor(distance / position.dtype.type(span)) % 2 == 1
        position = (span - rest if odd else rest) + position.dtype.type(low)
        slope = -slope if odd != turned else slope
    if position <= 0 or position >= n - 1:
        return position.dtype.type(0 if position <= 0 else n - 1), 0.0
    return position, slope


def sample(x: Array, w: Array, at: Array) -> Array:
    """x (N, C, P), w and at (N, K, L) to y (N, C, L)."""
    N, K, L = at.shape
    y = np.empty((*x.shape[:2], L), native(x).dtype)
    for n, c, o in np.ndindex(y.shape):
        acc = 0.0
        for k in range(K):
            acc += w.item(n, k, o) * (x.item(n, c, at.item(n, k, o)) if at[n, k, o] >= 0 else 0)
        y[n, c, o] = acc
    return y


def sample_input(gy: Array, w: Array, at: Array, pixels: int) -> Array:
    """gy (N, C, L), w and at (N, K, L) to gx (N, C, pixels)."""
    gx = np.zeros((*gy.shape[:2], pixels))
    for n, c, k, o in np.ndindex(*gy.shape[:2], *at.shape[1:]):
        if at[n, k, o] >= 0:
            gx[n, c, at[n, k, o]] += w.item(n, k, o) * gy.item(n, c, o)
    return gx.astype(native(gy).dtype)


def sample_weight(x: Array, gy: Array, at: Array) -> Array:
    """x (N, C, P), gy (N, C, L), at (N, K, L) to gw (N, K, L)."""
    gw = np.empty(at.shape, native(x).dtype)
    for n, k, o in np.ndindex(at.shape):
        acc = 0.0
        for c in range(x.shape[1]):
            acc += (x.item(n, c, at.item(n, k, o)) if at[n, k, o] >= 0 else 0) * gy.item(n, c, o)
        gw[n, k, o] = acc
    return gw


# --------------------------------------------------------------------------------------------------
# Normalisation


def normalise(x: Array, weight: Array, bias: Array, axes: tuple[int, ...], eps: float) -> tuple[Array, Array, Array]:
    """y of the shape of x, and mean and var in float64 with axes of size 1; a ``group`` shares one mean."""
    y = np.empty(x.shape, native(x).dtype)
    mean = np.empty([1 if axis in axes else n for axis, n in enumerate(x.shape)])
    var = np.empty(mean.shape)
    w, b = np.broadcast_to(weight, x.shape), np.broadcast_to(bias, x.shape)
    for group in np.ndindex(mean.shape):
        members = _members(x.shape, axes, group)
        mean[group] = sum(x.item(i) for i in members) / len(members)
        squares = [(x.item(i) - mean.item(group)) * (x.item(i) - mean.item(group)) for i in members]
        var[group] = sum(squares) / len(members)
        for i in members:
            y[i] = (x.item(i) - mean.item(group)) / math.sqrt(var.item(group) + eps) * w.item(i) + b.item(i)
    return y, mean, var


def _members(shape: Sizes, axes: Sizes, group: Sizes) -> list[Sizes]:
    """The indices of the elements that share the mean at ``group``."""
    return list(product(*(range(n) if axis in axes else (at,) for axis, (n, at) in enumerate(zip(shape, group)))))


def normalise_grad(
    g: Array, x: Array, weight: Array, mean: Array, var: Array, axes: tuple[int, ...], eps: float
) -> tuple[Array, Array, Array]:
    """dx = (g w - mean(g w) - n mean(g w n)) / sqrt(var + eps), dw = sum g n, db = sum g, n = (x - mean) / sqrt(..)."""
    dx = np.empty(x.shape, native(x).dtype)
    dw, db = np.zeros(weight.shape), np.zeros(weight.shape)
    w = np.broadcast_to(weight, x.shape)
    for group in np.ndindex(mean.shape):
        members = _members(x.shape, axes, group)
        deviation = math.sqrt(var.item(group) + eps)
        n = [(x.item(i) - mean.item(group)) / deviation for i in members]
        gw = [g.item(i) * w.item(i) for i in members]
        mean_gw = sum(gw) / len(members)
        mean_gwn = sum(a * b for a, b in zip(gw, n)) / len(members)
        for i, gw_i, n_i in zip(members, gw, n):
            dx[i] = (gw_i - mean_gw - n_i * mean_gwn) / deviation
            own = tuple(0 if size == 1 else at for size, at in zip(weight.shape, i))  # the weight of this element
            dw[own] += g.item(i) * n_i
            db[own] += g.item(i)
    return dx, dw.astype(native(weight).dtype), db.astype(native(weight).dtype)
