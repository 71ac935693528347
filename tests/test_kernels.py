"""Every kernel on every rung against torch, and the ladder itself."""

from __future__ import annotations

import ast
import inspect
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from math import prod
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from compare import RUNGS
from tinyconv import kernels
from tinyconv.geometry import Geometry, transposed_geometry, window_geometry
from tinyconv.kernels import cuda, im2col, loops, pointwise
from tinyconv.kernels.axismap import AxisMap, axis_map, window_maps

DTYPES = (np.float64, np.float32, np.float16)
UNIT = {np.float64: 2.0**-53, np.float32: 2.0**-24, np.float16: 2.0**-24}  # float16 is summed in float32

every_rung = pytest.mark.parametrize("rung", RUNGS)
# An infinity among the pixels is meant; NumPy warns of it where torch does not.
not_finite = pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")


@contextmanager
def scratch(limit: int) -> Iterator[None]:
    kernels.set_scratch_limit(limit)
    try:
        yield
    finally:
        kernels.set_scratch_limit(None)


# --------------------------------------------------------------------------------------------------
# Cases: valid by construction


class Case(NamedTuple):
    """A convolution: its geometry, channels and data."""

    g: Geometry
    batch: int
    groups: int
    c_in: int
    c_out: int
    seed: int

    @property
    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Of x, w and y."""
        x = (self.batch, self.c_in, *self.g.size)
        w = (self.c_out, self.c_in // self.groups, *self.g.kernel)
        return x, w, (self.batch, self.c_out, *self.g.output)


@st.composite
def geometries(draw: st.DrawFn, dilate: bool = True, pooling: bool = False) -> Geometry:
    """The output is drawn and the image's size derived from it; it need not divide."""
    rank = draw(st.integers(1, 3))
    axes = []
    for _ in range(rank):
        k = draw(st.integers(1, 3 if rank == 3 else 4))
        s = draw(st.integers(1, 3))
        d = draw(st.integers(1, 3 if dilate else 1))
        room = (draw(st.integers(1, 5 - rank)) - 1) * s + d * (k - 1) + 1 + draw(st.integers(0, s - 1))
        if pooling:
            before = after = draw(st.integers(0, min(k // 2, (room - 1) // 2)))
        else:
            before = draw(st.integers(0, min(3, room - 1)))
            after = draw(st.integers(0, min(3, room - 1 - before)))
        axes.append((room - before - after, k, s, (before, after), d))
    size, k, s, p, d = zip(*axes)
    return window_geometry("test", size, k, s, p, d, ceil_mode=pooling and draw(st.booleans()))


@st.composite
def convolutions(draw: st.DrawFn) -> Case:
    groups = draw(st.integers(1, 3))
    c_in, c_out = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 3))
    return Case(draw(geometries()), draw(st.integers(0, 3)), groups, c_in, c_out, draw(st.integers(0, 2**32)))


limits = st.sampled_from([1, 2000, 8 << 20])  # a row at a time, a few rows, everything at once


LAYOUTS = ("plain", "fortran", "strided", "reversed", "read-only", "byte-swapped", "unaligned", "broadcast")


def laid_out(a: np.ndarray, layout: str) -> np.ndarray:
    """The values of ``a`` (its first image for all where broadcast) lying in memory in an unusual way."""
    if layout == "fortran":
        return np.asfortranarray(a)
    if layout == "strided":
        spread = np.zeros((*a.shape[:-1], 2 * a.shape[-1]), a.dtype)
        spread[..., ::2] = a
        return spread[..., ::2]
    if layout == "reversed":
        return np.flip(np.flip(a).copy())
    if layout == "read-only":
        a = a.copy()
        a.flags.writeable = False
    if layout == "byte-swapped":
        return a.astype(a.dtype.newbyteorder("S"))
    if layout == "unaligned":
        raw = np.zeros(a.nbytes + 1, np.uint8)[1:].view(a.dtype).reshape(a.shape)
        raw[...] = a
        return raw
    if layout == "broadcast" and len(a):
        return np.broadcast_to(a[:1], a.shape)
    return a


def as_torch(a: np.ndarray, dtype: Any = np.float64) -> torch.Tensor:
    return torch.from_numpy(np.array(a, dtype, order="C"))


# --------------------------------------------------------------------------------------------------
# The convolution triangle


def torch_triangle(x: np.ndarray, w: np.ndarray, gy: np.ndarray, g: Geometry, groups: int) -> list[np.ndarray]:
    """y, gx, gw in float64."""
    X, W = as_torch(x).requires_grad_(), as_torch(w).requires_grad_()
    pads = [p for pair in reversed(g.padding) for p in pair]
    conv = (F.conv1d, F.conv2d, F.conv3d)[g.rank - 1]
    y = conv(F.pad(X, pads), W, None, g.stride, 0, g.dilation, groups)
    gx, gw = torch.autograd.grad(y, (X, W), as_torch(gy))
    return [y.detach().numpy(), gx.numpy(), gw.numpy()]


def triangle(x: np.ndarray, w: np.ndarray, gy: np.ndarray, g: Geometry, groups: int) -> list[np.ndarray]:
    return [
        kernels.conv(x, w, g, groups),
        kernels.conv_input(gy, w, g, groups),
        kernels.conv_weight(x, gy, g, groups),
    ]


@every_rung
@given(case=convolutions(), limit=limits, dtype=st.sampled_from(DTYPES), layout=st.sampled_from(LAYOUTS))
def test_convolution_and_its_gradients_are_those_of_torch(
    rung: str, case: Case, limit: int, dtype: type, layout: str
) -> None:
    """|y - y64| <= 8 u conv(|x|, |w|), element by element, and half a unit more where float16 is stored."""
    rng = np.random.default_rng(case.seed)
    given_in = [laid_out(rng.standard_normal(shape).astype(dtype), layout) for shape in case.shapes]
    before = [a.copy() for a in given_in]
    expected = torch_triangle(*given_in, case.g, case.groups)
    bounds = torch_triangle(*map(np.abs, given_in), case.g, case.groups)
    with kernels.use_kernels(rung), scratch(limit):
        results = triangle(*given_in, case.g, case.groups)
        again = triangle(*given_in, case.g, case.groups)
    for result, second, reference, bound in zip(results, again, expected, bounds):
        assert result.dtype == dtype and result.dtype.isnative
        assert result.shape == reference.shape
        stored = np.abs(reference) * 2.0**-11 + 2.0**-25 if dtype is np.float16 else 0
        assert (np.abs(result - reference) <= 8 * UNIT[dtype] * bound + stored).all()
        assert result.tobytes() == second.tobytes()
        assert not any(np.shares_memory(result, a) for a in given_in)
    for a, b in zip(given_in, before):
        np.testing.assert_array_equal(a, b)


@every_rung
@given(case=convolutions(), limit=limits, dtype=st.sampled_from([np.float32, np.float64, np.int64]))
def test_convolution_of_small_integers_is_exact_and_its_faces_are_adjoint(
    rung: str, case: Case, limit: int, dtype: type
) -> None:
    """<conv(x, w), g> = <x, conv_input(g, w)> = <w, conv_weight(x, g)>, with == for every scratch limit."""
    rng = np.random.default_rng(case.seed)
    x, w, gy = (rng.integers(-4, 5, shape).astype(dtype) for shape in case.shapes)
    with kernels.use_kernels(rung), scratch(limit):
        y, gx, gw = triangle(x, w, gy, case.g, case.groups)
    for result, reference in zip((y, gx, gw), torch_triangle(x, w, gy, case.g, case.groups)):
        assert result.dtype == dtype
        np.testing.assert_array_equal(result, reference)
    assert (y * gy).sum() == (x * gx).sum() == (w * gw).sum()


@not_finite
@every_rung
@given(case=convolutions(), special=st.sampled_from([np.nan, np.inf, -np.inf]), place=st.integers(0, 2))
def test_nan_and_infinity_spread_as_in_torch(rung: str, case: Case, special: float, place: int) -> None:
    """Zero padding takes part: an infinite weight or cotangent on it gives NaN. A NaN stays in its windows."""
    rng = np.random.default_rng(case.seed)
    given_in = [rng.integers(-3, 4, shape).astype(np.float64) for shape in case.shapes]
    if given_in[place].size:
        given_in[place].flat[rng.integers(given_in[place].size)] = special
    with kernels.use_kernels(rung):
        results = triangle(*given_in, case.g, case.groups)
    for result, reference in zip(results, torch_triangle(*given_in, case.g, case.groups)):
        np.testing.assert_array_equal(result, reference)


@every_rung
@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("k, s, p, a, d", [(3, 2, 1, 1, 1), (2, 2, 0, 0, 1), (4, 3, 2, 2, 1), (3, 1, 1, 1, 2)])
def test_input_gradient_is_the_transposed_convolution(
    rung: str, rank: int, k: int, s: int, p: int, a: int, d: int
) -> None:
    rng = np.random.default_rng(0)
    g = transposed_geometry("test", (3, 4, 2)[:rank], k, s, p, a, d)
    x, w = rng.standard_normal((2, 4, *g.output)), rng.standard_normal((4, 3, *g.kernel))
    transposed = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[rank - 1]
    expected = transposed(as_torch(x), as_torch(w), None, s, p, a, 2, d)
    with kernels.use_kernels(rung):
        np.testing.assert_allclose(kernels.conv_input(x, w, g, 2), expected.numpy(), rtol=1e-12, atol=1e-13)


@every_rung
def test_pixels_that_no_window_reads_have_a_gradient_of_exactly_zero(rung: str) -> None:
    g = window_geometry("test", (8, 9), 2, (3, 4))  # leaves row 2, rows 5 on, and columns 2, 3, 6, 7, 8
    rng = np.random.default_rng(0)
    gy, w = rng.standard_normal((2, 3, *g.output)), rng.standard_normal((3, 2, 2, 2))
    with kernels.use_kernels(rung):
        gx = kernels.conv_input(gy, w, g, 1)
    read = np.zeros(g.size, bool)
    for o in product(*map(range, g.output)):
        for _, i in g.window(o):
            read[i] = True
    assert not read.all()
    assert gx.shape == (2, 2, 8, 9)
    np.testing.assert_array_equal(gx != 0, np.broadcast_to(read, gx.shape))


@every_rung
def test_the_numeric_examples_of_the_guide(rung: str) -> None:
    """Dumoulin and Visin, figures 1.1 and 1.2."""
    image = [[3, 3, 2, 1, 0], [0, 0, 1, 3, 1], [3, 1, 2, 2, 3], [2, 0, 0, 2, 2], [2, 0, 0, 0, 1]]
    x = np.array(image, np.float32)[None, None]
    w = np.array([[0, 1, 2], [2, 2, 0], [0, 1, 2]], np.float32)[None, None]
    with kernels.use_kernels(rung):
        plain = kernels.conv(x, w, window_geometry("test", (5, 5), 3), 1)
        strided = kernels.conv(x, w, window_geometry("test", (5, 5), 3, 2, 1), 1)
    assert plain[0, 0].tolist() == [[12, 12, 17], [10, 17, 19], [9, 6, 14]]
    assert strided[0, 0].tolist() == [[6, 17, 3], [8, 17, 13], [6, 4, 4]]


def test_the_written_loops_use_the_names_of_the_field() -> None:
    """A debugger and the traces find them in one frame."""
    assert {"n", "co", "oh", "ow", "ci", "kh", "kw", "ih", "iw", "acc"} <= set(loops._conv2d.__code__.co_varnames)
    names = {"n", "co", "od", "oh", "ow", "ci", "kd", "kh", "kw", "id_", "ih", "iw", "acc"}
    assert names <= set(loops._conv3d.__code__.co_varnames)


# --------------------------------------------------------------------------------------------------
# Pooling


def pooling_data(kind: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if kind == "ties":
        return rng.integers(-2, 1, shape).astype(float)
    x = -rng.permutation(prod(shape)).astype(float).reshape(shape) - 1  # distinct and negative
    if kind in ("nan", "-inf"):
        x[rng.random(shape) < (0.3 if kind == "nan" else 0.8)] = float(kind)
    return x


@every_rung
@given(
    g=geometries(pooling=True),
    batch=st.integers(0, 2),
    kind=st.sampled_from(["negative", "ties", "nan", "-inf"]),
    dtype=st.sampled_from([*DTYPES, np.int64]),
    layout=st.sampled_from(LAYOUTS),
    seed=st.integers(0, 2**32),
)
@example(g=window_geometry("test", (6,), 5, 1, 2), batch=1, kind="nan", dtype=np.float32, layout="plain", seed=3)
def test_max_pooling_is_that_of_torch(
    rung: str, g: Geometry, batch: int, kind: str, dtype: type, layout: str, seed: int
) -> None:
    if dtype is np.int64 and kind in ("nan", "-inf"):
        kind = "ties"
    x = laid_out(pooling_data(kind, (batch, 2, *g.size), seed).astype(dtype), layout)
    before = x.copy()
    with kernels.use_kernels(rung):
        y, indices = kernels.max_pool(x, g)
    pool = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[g.rank - 1]
    pads = [before for before, _ in g.padding]
    ceil_mode = g.output != window_geometry("test", g.size, g.kernel, g.stride, g.padding, g.dilation).output
    expected, at = pool(as_torch(x), g.kernel, g.stride, pads, g.dilation, ceil_mode, True)
    assert y.dtype == dtype and indices.dtype == np.int64
    reads = np.array([any(True for _ in g.window(o)) for o in product(*map(range, g.output))]).reshape(g.output)
    np.testing.assert_array_equal(y[..., reads], expected.numpy()[..., reads])
    np.testing.assert_array_equal(indices[..., reads], at.numpy()[..., reads])
    # A dilated window can step over the whole image: torch then gives an index outside it.
    assert (indices[..., ~reads] == 0).all()
    assert (y[..., ~reads] == (np.iinfo(dtype).min if dtype is np.int64 else -np.inf)).all()
    np.testing.assert_array_equal(x, before)


@given(g=geometries(), kind=st.sampled_from(["negative", "ties", "nan", "-inf"]), seed=st.integers(0, 2**32))
def test_max_pooling_with_any_padding_is_the_same_on_both_rungs(g: Geometry, kind: str, seed: int) -> None:
    x = pooling_data(kind, (2, 2, *g.size), seed)
    (y, indices), (y_loops, indices_loops) = im2col.max_pool(x, g), loops.max_pool(x, g)
    np.testing.assert_array_equal(y, y_loops)
    np.testing.assert_array_equal(indices, indices_loops)


@every_rung
@pytest.mark.parametrize("dtype", DTYPES)
def test_scattering_adds_every_element_at_its_index(rung: str, dtype: type) -> None:
    rng = np.random.default_rng(0)
    gy = rng.integers(-9, 9, (2, 3, 4, 5)).astype(dtype)
    indices = rng.integers(0, 42, gy.shape)  # with repetitions
    expected = torch.zeros(2, 3, 42, dtype=torch.double)
    expected.scatter_add_(2, torch.from_numpy(indices).flatten(2), as_torch(gy).flatten(2))
    with kernels.use_kernels(rung):
        gx = kernels.scatter_windows(laid_out(gy, "byte-swapped"), indices[:, :, ::-1][:, :, ::-1], (6, 7), None)
        empty = kernels.scatter_windows(gy[:0], indices[:0], (6, 7), None)
    assert gx.dtype == dtype
    np.testing.assert_array_equal(gx, expected.reshape(2, 3, 6, 7).numpy())
    assert empty.shape == (0, 3, 6, 7)


@every_rung
@given(
    g=geometries(pooling=True),
    batch=st.integers(0, 2),
    channels=st.integers(1, 5),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**32),
)
def test_the_gradient_of_max_pooling_is_that_of_torch(
    rung: str, g: Geometry, batch: int, channels: int, dtype: type, seed: int
) -> None:
    """Of whole numbers, so that every order of summation gives the same. The windows that overlap choose together."""
    assume(all(any(True for _ in g.window(o)) for o in product(*map(range, g.output))))
    rng = np.random.default_rng(seed)
    x = pooling_data(str(rng.choice(["negative", "ties"])), (batch, channels, *g.size), seed)
    gy = rng.integers(-9, 10, (batch, channels, *g.output)).astype(dtype)
    X = as_torch(x).requires_grad_()
    pool = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[g.rank - 1]
    pads = [before for before, _ in g.padding]
    ceil_mode = g.output != window_geometry("test", g.size, g.kernel, g.stride, g.padding, g.dilation).output
    expected, at = pool(X, g.kernel, g.stride, pads, g.dilation, ceil_mode, True)
    (expected_gx,) = torch.autograd.grad(expected, X, as_torch(gy))
    with kernels.use_kernels(rung):
        gx = kernels.scatter_windows(gy, at.numpy(), g.size, window_maps(g))
    assert gx.dtype == dtype
    np.testing.assert_array_equal(gx, expected_gx.numpy())


@every_rung
@given(
    g=geometries(dilate=False, pooling=True),
    batch=st.integers(0, 2),
    dtype=st.sampled_from(DTYPES),
    layout=st.sampled_from(LAYOUTS),
    seed=st.integers(0, 2**32),
)
def test_average_pooling_is_that_of_torch(
    rung: str, g: Geometry, batch: int, dtype: type, layout: str, seed: int
) -> None:
    """torch's window sums (divisor_override=1) divided by a random divisor; integers, so that the sums are exact."""
    assume(g.rank < 3 or all(i >= k for i, k in zip(g.size, g.kernel)))  # torch forgets the padding there
    rng = np.random.default_rng(seed)
    x = laid_out(rng.integers(-9, 10, (batch, 2, *g.size)).astype(dtype), layout)
    gy = laid_out(rng.integers(-9, 10, (batch, 2, *g.output)).astype(dtype), layout)
    divisor = 2.0 ** rng.integers(-2, 3, g.output)
    flat = g.lifted() if g.rank == 1 else g
    X = as_torch(x).requires_grad_()
    pads = [before for before, _ in flat.padding]
    ceil_mode = g.output != window_geometry("test", g.size, g.kernel, g.stride, g.padding).output
    pool = F.avg_pool3d if g.rank == 3 else F.avg_pool2d
    sums = pool(X.reshape(batch, 2, *flat.size), flat.kernel, flat.stride, pads, ceil_mode, divisor_override=1)
    expected = sums.reshape(gy.shape) / as_torch(divisor)
    (expected_gx,) = torch.autograd.grad(expected, X, as_torch(gy))
    with kernels.use_kernels(rung):
        y = kernels.avg_pool(x, g, divisor.astype(dtype))
        gx = kernels.avg_pool_input(gy, g, divisor.astype(dtype))
    assert y.dtype == gx.dtype == dtype
    np.testing.assert_array_equal(y, expected.detach().numpy())
    np.testing.assert_array_equal(gx, expected_gx.numpy())


# --------------------------------------------------------------------------------------------------
# Unfolding


@every_rung
@given(
    g=geometries(),
    batch=st.integers(0, 2),
    dtype=st.sampled_from(DTYPES),
    layout=st.sampled_from(LAYOUTS),
    seed=st.integers(0, 2**32),
)
def test_unfolding_and_folding_are_those_of_torch(
    rung: str, g: Geometry, batch: int, dtype: type, layout: str, seed: int
) -> None:
    """In any rank, torch's convolution with one weight of 1 in each filter."""
    rng = np.random.default_rng(seed)
    taps, channels = prod(g.kernel), 2
    one_hot = np.tile(np.eye(taps), (channels, 1)).reshape(channels * taps, 1, *g.kernel)
    x = laid_out(rng.integers(-9, 10, (batch, channels, *g.size)).astype(dtype), layout)
    cols = laid_out(rng.integers(-9, 10, (batch, channels * taps, prod(g.output))).astype(dtype), layout)
    y, gx, _ = torch_triangle(x, one_hot, cols.reshape(batch, -1 if batch else channels * taps, *g.output), g, channels)
    with kernels.use_kernels(rung):
        unfolded, folded = kernels.unfold(x, g), kernels.fold(cols, g)
    assert unfolded.dtype == folded.dtype == dtype
    np.testing.assert_array_equal(unfolded, y.reshape(cols.shape))
    np.testing.assert_array_equal(folded, gx)
    assert not np.shares_memory(unfolded, x) and not np.shares_memory(folded, cols)


@every_rung
def test_the_layout_of_unfold_is_torchs(rung: str) -> None:
    g = window_geometry("test", (7, 6), (3, 2), (2, 1), (1, 0), (1, 2))
    x = np.random.default_rng(0).standard_normal((2, 3, 7, 6))
    expected = F.unfold(as_torch(x), g.kernel, g.dilation, (1, 0), g.stride)
    folded = F.fold(expected, g.size, g.kernel, g.dilation, (1, 0), g.stride)
    with kernels.use_kernels(rung):
        np.testing.assert_array_equal(kernels.unfold(x, g), expected.numpy())
        np.testing.assert_allclose(kernels.fold(expected.numpy(), g), folded.numpy(), rtol=1e-14)


# --------------------------------------------------------------------------------------------------
# Maps along single axes


def adaptive(n: int, o: int) -> AxisMap:
    taps = [range(i * n // o, -(-(i + 1) * n // o)) for i in range(o)]
    return axis_map(n, taps, [[1] * len(t) for t in taps], np.float64)


@every_rung
@pytest.mark.parametrize("kind", ["negative", "ties", "nan", "-inf"])
@pytest.mark.parametrize(
    "size, output",
    [((5,), (3,)), ((5, 7), (3, 4)), ((5, 7, 4), (3, 4, 6)), ((6, 19), (1, 1)), ((3, 18), (2, 3))],
)
def test_adaptive_max_pooling_and_its_gradient_are_those_of_torch(
    rung: str, kind: str, size: tuple[int, ...], output: tuple[int, ...]
) -> None:
    rank = len(size)
    x = pooling_data(kind, (2, 2, *size), 1)
    pool = (F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d)[rank - 1]
    X = as_torch(x).requires_grad_()
    expected, at = pool(X, output, return_indices=True)
    gy = np.random.default_rng(2).integers(-9, 10, expected.shape).astype(float)
    (expected_gx,) = torch.autograd.grad(expected, X, as_torch(gy))
    maps = [adaptive(n, o) for n, o in zip(size, output)]
    with kernels.use_kernels(rung):
        y, indices = kernels.adaptive_max_pool(x, maps)
        gx = kernels.scatter_windows(gy, indices, size, maps)
    np.testing.assert_array_equal(y, expected.detach().numpy())
    np.testing.assert_array_equal(indices, at.numpy())
    np.testing.assert_array_equal(gx, expected_gx.numpy())


@every_rung
@pytest.mark.parametrize("dtype", DTYPES)
@given(layout=st.sampled_from(LAYOUTS), size=st.lists(st.integers(1, 9), min_size=1, max_size=3))
@settings(max_examples=20)
def test_averaging_whole_planes_and_its_gradient_are_those_of_torch(
    rung: str, dtype: type, layout: str, size: list[int]
) -> None:
    rng = np.random.default_rng(len(size))
    x, gy = rng.standard_normal((3, 2, *size)), rng.standard_normal((3, 2, *(1,) * len(size)))
    x[0, 1].flat[-1], gy[1, 0] = np.nan, np.inf
    x, gy = laid_out(x.astype(dtype), layout), laid_out(gy.astype(dtype), layout)
    X = as_torch(x).requires_grad_()
    expected = X.mean(tuple(range(2, X.ndim)), keepdim=True)
    (expected_gx,) = torch.autograd.grad(expected, X, as_torch(gy))
    maps = [axis_map(n, [range(n)], [[1 / n] * n], dtype) for n in size]
    with kernels.use_kernels(rung):
        y, gx = kernels.resample(x, maps), kernels.resample(gy, [m.transposed for m in maps])
    unit = 2.0**-10 if dtype is np.float16 else 16 * UNIT[dtype]
    for result, reference in ((y, expected.detach().numpy()), (gx, expected_gx.numpy())):
        assert result.dtype == dtype and result.dtype.isnative
        np.testing.assert_allclose(result, reference, rtol=unit, atol=unit)


@every_rung
def test_resampling_multiplies_by_the_matrix_of_each_axis(rung: str) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 3, 5, 4))
    taps = [[0, 2], [1], [4, 4, 3]], [[3], [], [0, 1]]
    weights = [[0.5, 2], [1], [1, -1.5, 3]], [[2], [], [1, 1]]
    maps = [axis_map(n, t, w, np.float64) for n, t, w in zip((5, 4), taps, weights)]
    A, B = np.zeros((3, 5)), np.zeros((3, 4))
    for matrix, tap_rows, weight_rows in zip((A, B), taps, weights):
        for o, (row, values) in enumerate(zip(tap_rows, weight_rows)):
            np.add.at(matrix[o], row, values)
    with kernels.use_kernels(rung):
        np.testing.assert_allclose(kernels.resample(x, maps), A @ x @ B.T, rtol=1e-13, atol=1e-14)
        back = kernels.resample(A @ x @ B.T, [m.transposed for m in maps])
    np.testing.assert_allclose(back, A.T @ (A @ x @ B.T) @ B, rtol=1e-13, atol=1e-14)


# --------------------------------------------------------------------------------------------------
# Sampling at points


@every_rung
@given(
    st.integers(0, 2), st.integers(0, 3), st.integers(1, 9), st.integers(0, 300), st.integers(1, 4),
    st.sampled_from(DTYPES), st.sampled_from(LAYOUTS), st.integers(0, 2**32),
)  # fmt: skip
def test_sampling_and_its_gradients_are_products_with_a_matrix(
    rung: str, N: int, C: int, P: int, L: int, K: int, dtype: type, layout: str, seed: int
) -> None:
    """Of whole numbers, so that every order of summation gives the same: y[n] = x[n] A[n], A (P, L) the weights."""
    L = min(L, 20) if rung == "loops" else L
    rng = np.random.default_rng(seed)
    x, gy, w = (rng.integers(-3, 4, shape).astype(dtype) for shape in ((N, C, P), (N, C, L), (N, K, L)))
    at = rng.integers(-1, P, (N, K, L))
    x, gy, w, at = (laid_out(a, layout) for a in (x, gy, w, at))
    n, k, o = (axis[at >= 0] for axis in np.indices(at.shape))
    A = np.zeros((N, P, L))
    np.add.at(A, (n, at[n, k, o], o), w[n, k, o])
    gA = np.einsum("ncp,nco->npo", x.astype(float), gy.astype(float))
    expected_gw = np.zeros(at.shape)
    expected_gw[n, k, o] = gA[n, at[n, k, o], o]
    with kernels.use_kernels(rung):
        results = kernels.sample(x, w, at), kernels.sample_input(gy, w, at, P), kernels.sample_weight(x, gy, at)
    for result, expected in zip(results, (x @ A, np.einsum("nco,npo->ncp", gy.astype(float), A), expected_gw)):
        assert result.dtype == dtype and result.dtype.isnative
        np.testing.assert_array_equal(result, expected)


# --------------------------------------------------------------------------------------------------
# Normalisation


def torch_batch_norm(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return F.batch_norm(x, None, None, w.flatten(), b.flatten(), True)


def torch_instance_norm(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return F.instance_norm(x, None, None, w.flatten(), b.flatten())


def torch_group_norm(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """x (N, G, C/G, L)"""
    return F.group_norm(x.flatten(1, 2), x.shape[1], w.flatten(), b.flatten()).reshape(x.shape)


def torch_layer_norm(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(x, x.shape[1:], w[0].expand(x.shape[1:]), b[0].expand(x.shape[1:]))


#: Shape of x, axes, shape of the weight, and torch's function of x, weight and bias.
NORMS: dict[str, tuple[Any, ...]] = {
    "batch": ((3, 4, 11), (0, 2), (1, 4, 1), torch_batch_norm),
    "batch of numbers": ((9, 4, 1), (0, 2), (1, 4, 1), torch_batch_norm),
    "instance": ((2, 3, 4, 5), (2, 3), (1, 3, 1, 1), torch_instance_norm),
    "group": ((2, 3, 2, 7), (2, 3), (1, 3, 2, 1), torch_group_norm),
    "one group": ((2, 1, 3, 5), (2, 3), (1, 1, 3, 1), torch_group_norm),
    "layer": ((150, 6), (1,), (1, 6), torch_layer_norm),
    "one weight": ((4, 9), (1,), (1, 1), torch_layer_norm),
}  # fmt: skip


@every_rung
@pytest.mark.parametrize("kind", NORMS)
@given(  # broadcast images are all alike: no variance
    dtype=st.sampled_from(DTYPES), layout=st.sampled_from(LAYOUTS[:-1]), mean=st.sampled_from([0.0, 30.0])
)
def test_normalisation_and_its_gradients_are_those_of_torch(
    rung: str, kind: str, dtype: type, layout: str, mean: float
) -> None:
    """Within 64 units of the last place of the largest number; a mean m keeps fewer digits of what is taken off it."""
    shape, axes, weights, norm = NORMS[kind]
    rng = np.random.default_rng(3)
    # An outlier first: sums around it must keep their digits.
    x = rng.standard_normal(shape) + mean
    x.flat[0] = mean + 50
    x, w, b, g = (
        laid_out(a.astype(dtype), layout)
        for a in (x, *(rng.standard_normal(weights) for _ in range(2)), rng.standard_normal(shape))
    )
    X, W, B = (as_torch(a).requires_grad_() for a in (x, w, b))
    expected = norm(X, W, B)
    gradients = torch.autograd.grad(expected, (X, W, B), as_torch(g))
    with kernels.use_kernels(rung):
        y, found_mean, var = kernels.normalise(x, w, b, axes, 1e-5)
        grads = kernels.normalise_grad(g, x, w, found_mean, var, axes, 1e-5)
    assert found_mean.dtype == var.dtype == np.float64
    exact = x.astype(np.float64)
    unit = 64 * UNIT[dtype]
    np.testing.assert_allclose(found_mean, exact.mean(axes, keepdims=True), rtol=unit, atol=unit)
    np.testing.assert_allclose(var, exact.var(axes, keepdims=True), rtol=unit * max(1, mean))
    stored = 2.0**-10 if dtype is np.float16 else unit * max(1, mean)
    for result, reference in zip((y, *grads), (expected, *gradients)):
        reference = reference.detach().numpy()
        assert result.dtype == dtype and result.dtype.isnative and result.shape == reference.shape
        np.testing.assert_allclose(result, reference, rtol=0, atol=stored * max(1, np.abs(reference).max()))


@not_finite
@every_rung
@pytest.mark.parametrize("special", [np.nan, np.inf])
@pytest.mark.parametrize("at", [0, 3])
def test_what_is_not_finite_spoils_its_own_group_only(rung: str, special: float, at: int) -> None:
    x = np.random.default_rng(0).standard_normal((3, 4, 9))
    x[1, 2].flat[at] = special
    one = np.ones((1, 4, 1))
    with kernels.use_kernels(rung):
        y, mean, var = kernels.normalise(x, one, one, (2,), 1e-5)
        dx, dw, _ = kernels.normalise_grad(np.ones_like(x), x, one, mean, var, (2,), 1e-5)
    group = np.zeros((3, 4), bool)
    group[1, 2] = True
    for array in (y, dx):
        np.testing.assert_array_equal(np.isnan(array), np.broadcast_to(group[..., None], array.shape))
    np.testing.assert_array_equal(np.isnan(dw[0, :, 0]), group.any(0))


# --------------------------------------------------------------------------------------------------
# Activation


@every_rung
@pytest.mark.parametrize("size", [0, 7, 20_000])
@pytest.mark.parametrize("dtype", DTYPES)
def test_relu_and_its_gradient_are_those_of_torch(rung: str, size: int, dtype: type) -> None:
    rng = np.random.default_rng(0)
    x = rng.permutation(np.resize(np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.5, -2.5], dtype), size))
    g = rng.permutation(x)
    X = torch.from_numpy(x.copy()).requires_grad_()
    expected = torch.relu(X)
    (expected_gx,) = torch.autograd.grad(expected, X, torch.from_numpy(g.copy()))
    with kernels.use_kernels(rung):
        y = kernels.relu(x)
        gx = kernels.relu_grad(g, y)
    assert y.dtype == gx.dtype == dtype
    np.testing.assert_array_equal(y, expected.detach().numpy())
    np.testing.assert_array_equal(gx, expected_gx.numpy())


@every_rung
@pytest.mark.parametrize("size", [0, 7, 20_000])
@pytest.mark.parametrize("dtype", DTYPES)
def test_slopes_sigmoid_and_erf_are_those_of_torch(rung: str, size: int, dtype: type) -> None:
    """To 4 units in the last place of the result, also where that is subnormal or the argument is not finite."""
    rng = np.random.default_rng(0)
    x = (rng.standard_normal(size) * rng.choice([0.1, 1, 30], size)).astype(dtype)
    x[: size // 7] = np.resize(np.array([np.nan, np.inf, -np.inf, 0.0, -0.0], dtype), size // 7)
    X = as_torch(x)
    with kernels.use_kernels(rung), np.errstate(over="ignore"):
        results = kernels.slopes(x, x > 0, 0.25), kernels.sigmoid(x), kernels.erf(x)
    half = dtype is np.float16
    for result, reference in zip(results, (F.leaky_relu(X, 0.25), torch.sigmoid(X), torch.erf(X))):
        assert result.dtype == dtype and result.shape == x.shape
        rtol = 2.0**-8 if half else 16 * UNIT[dtype]
        np.testing.assert_allclose(result, reference.numpy(), rtol=rtol, atol=1e-3 if half else np.finfo(dtype).tiny)


#: Name, parameters, torch's function, and what it is asked about that is not finite. Torch's gelu gives NaN for some
#: infinities in float32 and not in float64, and the slope of its hardtanh at NaN depends on the number's place.
ACTIVATIONS: list[tuple[str, tuple[float, ...], Callable[[torch.Tensor], torch.Tensor], tuple[float, ...]]] = [
    ("elu", (1.0, 0.7, 1.0), lambda x: F.elu(x, 0.7), (np.nan, np.inf, -np.inf)),
    ("elu", (1.0, 2.0, 0.5), lambda x: F.celu(x, 2.0), (np.nan, np.inf, -np.inf)),
    ("hardsigmoid", (), F.hardsigmoid, (np.nan, np.inf, -np.inf)),
    ("hardswish", (), F.hardswish, (np.nan, np.inf, -np.inf)),
    ("hardtanh", (-3.0, 0.5), lambda x: F.hardtanh(x, -3.0, 0.5), (np.inf, -np.inf)),
    ("softplus", (1.0, 20.0), F.softplus, (np.nan, np.inf, -np.inf)),
    ("softplus", (2.0, 3.0), lambda x: F.softplus(x, 2.0, 3.0), (np.nan, np.inf, -np.inf)),
    ("logsigmoid", (), F.logsigmoid, (np.nan, np.inf, -np.inf)),
    ("silu", (), F.silu, (np.nan, np.inf, -np.inf)),
    ("gelu", (), F.gelu, (np.nan,)),
    ("gelu-tanh", (), lambda x: F.gelu(x, approximate="tanh"), (np.nan,)),
]  # fmt: skip


@not_finite
@every_rung
@pytest.mark.parametrize("name, parameters, theirs, special", ACTIVATIONS)
@pytest.mark.parametrize("size", [0, 64, 20_000])  # whole vectors: beyond them torch's slopes at NaN are others
@pytest.mark.parametrize("dtype", DTYPES)
def test_activations_of_one_formula_and_their_gradients_are_those_of_torch(
    rung: str,
    name: str,
    parameters: tuple[float, ...],
    theirs: Callable[[torch.Tensor], torch.Tensor],
    special: tuple[float, ...],
    size: int,
    dtype: type,
) -> None:
    """To 16 units in the last place of the result, and of what it is the difference of."""
    rng = np.random.default_rng(0)
    x = (rng.standard_normal(size) * rng.choice([0.01, 1, 4, 30], size)).astype(dtype)
    x[: size // 2] = np.resize(np.array([-3.0, 3.0, 0.0, -0.0, *special], dtype), size // 2)
    g = rng.standard_normal(size).astype(dtype)
    X = as_torch(x).requires_grad_()
    expected = theirs(X)
    (expected_gx,) = torch.autograd.grad(expected, X, as_torch(g))
    with kernels.use_kernels(rung), np.errstate(over="ignore"):
        y, gx = kernels.activation(x, name, parameters), kernels.activation_grad(g, x, name, parameters)
    unit = 2.0**-10 if dtype is np.float16 else 16 * UNIT[dtype]
    if name == "hardsigmoid":  # torch's slope is 1/6 rounded to float32, in float64 too
        unit = max(unit, UNIT[np.float32])
    wide = np.nan_to_num(np.abs(x.astype(np.float64)))
    for result, reference, parts in (
        (y, expected.detach().numpy(), np.minimum(wide, 1)),
        (gx, expected_gx.numpy(), np.abs(g) * (1 + np.minimum(wide, 20))),
    ):
        assert result.dtype == dtype and result.shape == x.shape
        finite = np.isfinite(reference)
        np.testing.assert_array_equal(result[~finite], reference[~finite])
        bound = unit * (np.abs(reference) + parts) + np.finfo(dtype).tiny
        assert (np.abs(result - reference) <= bound)[finite].all()


# --------------------------------------------------------------------------------------------------
# Softmax and cross-entropy


@not_finite
@every_rung
@pytest.mark.parametrize("shape, axis", [((9, 70), 1), ((70, 9), 0), ((2, 5, 300), 1), ((2, 7, 3), 1), ((3, 1), 1)])
@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@given(layout=st.sampled_from(LAYOUTS), seed=st.integers(0, 2**32))
@settings(max_examples=10)
def test_softmax_and_its_gradient_are_those_of_torch(
    rung: str, shape: tuple[int, ...], axis: int, log: bool, dtype: type, layout: str, seed: int
) -> None:
    """Within 16 units of the last place of the largest number; among them rows with NaN of both signs and infinities,
    and one of nothing but minus infinity."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape) * rng.choice([1, 30], shape)
    rows = np.moveaxis(x, axis, -1).reshape(-1, shape[axis])
    for row, special in zip(rng.permutation(len(rows)), (np.nan, -np.nan, np.inf, -np.inf)):
        rows[row, rng.integers(shape[axis])] = special
    rows[rng.integers(len(rows))] = -np.inf
    x = np.moveaxis(rows.reshape(np.moveaxis(x, axis, -1).shape), -1, axis)
    x, g = laid_out(x.astype(dtype), layout), laid_out(rng.standard_normal(shape).astype(dtype), layout)
    X = as_torch(x).requires_grad_()
    expected = (F.log_softmax if log else F.softmax)(X, axis)
    (expected_dx,) = torch.autograd.grad(expected, X, as_torch(g))
    with kernels.use_kernels(rung):
        y = kernels.softmax(x, axis, log)
        dx = kernels.softmax_grad(g, y, axis, log)
    unit = 2.0**-9 if dtype is np.float16 else 16 * UNIT[dtype]
    references = expected.detach().numpy(), expected_dx.numpy()
    largest = max(np.abs(a[np.isfinite(a)]).max(initial=1) for a in references)
    for result, reference in zip((y, dx), references):
        assert result.dtype == dtype and result.dtype.isnative
        np.testing.assert_allclose(result, reference, rtol=unit, atol=unit * largest)


@not_finite
@every_rung
@pytest.mark.parametrize("special", [None, np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("pixels", [1, 300])
@pytest.mark.parametrize("dtype", DTYPES)
def test_cross_entropy_and_its_gradient_are_those_of_torch(
    rung: str, special: float | None, pixels: int, dtype: type
) -> None:
    """Within 16 units of the last place of the largest number, scores from -100 to 100 among them."""
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((3, 5, pixels)) * rng.choice([1, 30], (3, 1, pixels))).astype(dtype)
    if special is not None:
        x[1, 2, 0] = special
    target, g = rng.integers(0, 5, (3, pixels)), rng.standard_normal((3, pixels)).astype(dtype)
    factor, valid = rng.uniform(0.5, 2, (3, pixels)).astype(dtype), rng.random((3, pixels)) < 0.8
    X = as_torch(x).requires_grad_()
    valid[1, 0] = True
    ignoring = np.where(valid, target, -1)
    expected = F.cross_entropy(X, torch.from_numpy(ignoring), reduction="none", ignore_index=-1) * as_torch(factor)
    (expected_dx,) = torch.autograd.grad(expected, X, as_torch(g))
    with kernels.use_kernels(rung):
        loss, top, log_sum = kernels.cross_entropy(x, target, factor, valid)
        dx = kernels.cross_entropy_grad(g, x, target, factor, valid, top, log_sum)
    assert loss.dtype == dx.dtype == dtype
    np.testing.assert_array_equal(top, as_torch(x).amax(1, keepdim=True).numpy())
    unit = 2.0**-10 if dtype is np.float16 else 16 * UNIT[dtype]
    with np.errstate(invalid="ignore"):  # of infinite losses
        for result, reference in ((loss, expected.detach().numpy()), (dx, expected_dx.numpy())):
            largest = np.abs(reference[np.isfinite(reference)]).max(initial=1)
            np.testing.assert_allclose(result, reference, rtol=unit, atol=unit * largest)


# --------------------------------------------------------------------------------------------------
# Steps of optimisers

#: An optimiser of torch, the options that it and our step are given, and our step of (x, g, state, count).
STEPS: dict[str, tuple[Any, dict[str, Any], int, Callable[..., None]]] = {
    "plain": (
        torch.optim.SGD, {"lr": 0.1}, 0,
        lambda x, g, _: kernels.sgd_step(x, g, None, 0.1, 0, 0, 0, False, False),
    ),
    "decay, upwards": (
        torch.optim.SGD, {"lr": 0.1, "weight_decay": 0.3, "maximize": True}, 0,
        lambda x, g, _: kernels.sgd_step(x, g, None, 0.1, 0, 0, 0.3, False, True),
    ),
    "momentum": (
        torch.optim.SGD, {"lr": 0.1, "momentum": 0.8, "weight_decay": 0.3}, 1,
        lambda x, g, _, v: kernels.sgd_step(x, g, v, 0.1, 0.8, 0, 0.3, False, False),
    ),
    "nesterov": (
        torch.optim.SGD, {"lr": 0.1, "momentum": 0.8, "nesterov": True, "maximize": True}, 1,
        lambda x, g, _, v: kernels.sgd_step(x, g, v, 0.1, 0.8, 0, 0, True, True),
    ),
    "adam": (
        torch.optim.Adam, {"lr": 0.1, "betas": (0.8, 0.9), "weight_decay": 0.3}, 2,
        lambda x, g, t, m, v: kernels.adam_step(x, g, m, v, None, t, 0.1, 0.8, 0.9, 1e-8, 0.3, False, False),
    ),
    "amsgrad": (
        torch.optim.Adam, {"lr": 0.1, "betas": (0.8, 0.9), "amsgrad": True, "maximize": True}, 3,
        lambda x, g, t, m, v, top: kernels.adam_step(x, g, m, v, top, t, 0.1, 0.8, 0.9, 1e-8, 0, False, True),
    ),
    "adamw": (
        torch.optim.AdamW, {"lr": 0.1, "betas": (0.8, 0.9), "weight_decay": 0.3}, 2,
        lambda x, g, t, m, v: kernels.adam_step(x, g, m, v, None, t, 0.1, 0.8, 0.9, 1e-8, 0.3, True, False),
    ),
    "rmsprop": (
        torch.optim.RMSprop, {"lr": 0.1, "alpha": 0.9, "eps": 0.1, "weight_decay": 0.3, "maximize": True}, 1,
        lambda x, g, _, v: kernels.rmsprop_step(x, g, v, None, None, 0.1, 0.9, 0.1, 0.3, 0, True),
    ),
    "rmsprop with momentum, centered": (
        torch.optim.RMSprop, {"lr": 0.1, "alpha": 0.9, "eps": 0.1, "momentum": 0.8, "centered": True}, 3,
        lambda x, g, _, v, mean, b: kernels.rmsprop_step(x, g, v, mean, b, 0.1, 0.9, 0.1, 0, 0.8, False),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("layout", ["plain", "fortran", "strided", "reversed"])
@pytest.mark.parametrize("shape", [(7, 5), (300, 500)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_steps_of_optimisers_are_those_of_torch_with_the_same_bits_on_both_array_rungs(
    name: str, layout: str, shape: tuple[int, int], dtype: type
) -> None:
    """Three steps, each of another gradient, within 16 units in the last place of the largest number."""
    optimiser, options, states, step = STEPS[name]
    rng = np.random.default_rng(0)
    start, *gradients = rng.standard_normal((4, *shape)).astype(dtype)
    p = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    theirs = optimiser([p], **options)
    found = {rung: laid_out(start.copy(), layout) for rung in (RUNGS if start.size < 100 else RUNGS[1:])}
    state = {rung: [laid_out(np.zeros_like(start), layout) for _ in range(states)] for rung in found}
    for count, g in enumerate(gradients, 1):
        p.grad = as_torch(g)
        theirs.step()
        for rung, x in found.items():
            with kernels.use_kernels(rung):
                step(x, laid_out(g, layout), count, *state[rung])
    for rung, x in found.items():
        np.testing.assert_allclose(x, p.detach().numpy(), rtol=0, atol=16 * UNIT[dtype] * np.abs(x).max(), err_msg=rung)
    np.testing.assert_array_equal(found["im2col"], found["numba"])
    np.testing.assert_array_equal(state["im2col"], state["numba"])


# --------------------------------------------------------------------------------------------------
# Memory, CuPy


def peak(call: Callable[[], object]) -> int:
    call()
    tracemalloc.start()
    call()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most


@pytest.mark.parametrize("limit", [1 << 18, 1 << 20, 1 << 30])
@pytest.mark.parametrize("groups", [1, 16])
def test_im2col_stays_under_the_scratch_limit(limit: int, groups: int) -> None:
    """Two outputs and twice the limit: the columns, and what BLAS makes of them. All columns would be 9 images of 8."""
    g = window_geometry("test", (64, 64), 3, 1, 1)
    rng = np.random.default_rng(0)
    x, gy = (rng.standard_normal((8, 16, 64, 64)).astype(np.float32) for _ in range(2))
    w = rng.standard_normal((16, 16 // groups, 3, 3)).astype(np.float32)
    columns = min(limit, 9 * x.nbytes)
    with scratch(limit):
        for call in (
            lambda: im2col.conv(x, w, g, groups),
            lambda: im2col.conv_input(gy, w, g, groups),
            lambda: im2col.conv_weight(x, gy, g, groups),
        ):
            assert peak(call) < 2 * gy.nbytes + 2 * columns


def test_one_output_row_of_one_image_is_the_least() -> None:
    g = window_geometry("test", (32, 512), 3, 1, 1)
    x, w = np.ones((4, 8, 32, 512), np.float32), np.ones((8, 8, 3, 3), np.float32)
    row = 8 * 9 * 512 * 4
    with scratch(1):
        assert peak(lambda: im2col.conv(x, w, g, 1)) < x.nbytes + 2 * row


def used(module: str) -> set[str]:
    """The names that the array code takes from ``module``, and from the arrays' module ``xp``."""
    trees = [ast.parse(inspect.getsource(code)) for code in (im2col, pointwise)]
    nodes = (
        node
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    )
    return {node.attr for node in nodes if node.value.id == module}


def test_im2col_makes_arrays_only_through_the_array_module() -> None:
    assert used("np") <= {"dtype", "iinfo", "inf", "min_scalar_type"}
    assert used("xp") >= {"matmul", "empty", "zeros"}


# --------------------------------------------------------------------------------------------------
# The ladder


def test_use_kernels_is_a_call_and_a_context_manager() -> None:
    start = kernels.kernel("conv")
    with pytest.raises(KeyError):
        with kernels.use_kernels("loops"):
            assert kernels.kernel("conv") is loops.conv
            kernels.use_kernels("im2col")
            assert kernels.kernel("conv") is im2col.conv
            raise KeyError
    assert kernels.kernel("conv") is start
    with kernels.use_kernels("im2col"):
        with kernels.use_kernels("loops"):
            assert set(kernels.table().values()) == {"loops"}
        assert set(kernels.table().values()) == {"im2col"}


def test_a_missing_operator_falls_to_the_next_rung(monkeypatch: pytest.MonkeyPatch) -> None:
    def conv() -> None: ...

    monkeypatch.setitem(kernels._modules, "numba", SimpleNamespace(conv=conv))
    monkeypatch.setitem(kernels._modules, "cuda", SimpleNamespace())
    kernels._serving.cache_clear()
    try:
        for rung in ("numba", "cuda"):
            with kernels.use_kernels(rung):
                assert kernels.kernel("conv") is conv
                assert kernels.kernel("fold") is im2col.fold
                table = kernels.table()
                assert table["conv"] == "numba" and table["fold"] == "im2col"
                assert ["conv", "numba"] in [line.split() for line in str(table).splitlines()]
    finally:
        kernels._serving.cache_clear()


def test_every_rung_has_the_same_signatures() -> None:
    for operator in kernels.OPERATORS:
        expected = inspect.signature(getattr(kernels, operator))
        assert inspect.signature(getattr(loops, operator)) == expected
        assert inspect.signature(getattr(im2col, operator)) == expected
        if hasattr(cuda, operator):
            assert inspect.signature(getattr(cuda, operator)) == expected


@pytest.mark.parametrize(
    "call, error, named",
    [
        (lambda: kernels.use_kernels("fast"), ValueError, ["use_kernels", "'loops'", "'cuda'", "'fast'"]),
        (lambda: kernels.kernel("convolve"), ValueError, ["kernel", "'conv'", "'convolve'"]),
        (lambda: kernels.set_scratch_limit(0), ValueError, ["set_scratch_limit", "at least 1", "0"]),
        (lambda: kernels.set_scratch_limit(1e6), TypeError, ["set_scratch_limit", "int", "1000000.0"]),
    ],
)
def test_wrong_calls_are_refused_with_a_sentence(
    call: Callable[[], object], error: type[Exception], named: list[str]
) -> None:
    before = kernels.table(), kernels.scratch_limit()
    with pytest.raises(error) as caught:
        call()
    for part in named:
        assert part in str(caught.value)
    assert (kernels.table(), kernels.scratch_limit()) == before
