"""Operators on the rung cuda where the tests of all rungs do not reach: sums that many threads share, indices of 64
bits, orders of summation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from compare import RUNGS
from tinyconv import kernels
from tinyconv.geometry import window_geometry
from tinyconv.kernels.axismap import axis_map, window_maps
from tinyconv.kernels.cuda import launcher, normalisation, resampling
from tinyconv.ops.resample import adaptive_map

pytestmark = pytest.mark.skipif("cuda" not in RUNGS, reason="no C++ compiler is here, which the emulator needs")

DTYPES = (np.float32, np.float64)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


# --------------------------------------------------------------------------------------------------
# Norms

#: Shape of x, axes, shape of the weight; how the sums for the mean and for the weight are shared out.
NORMS: dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = {
    "batch, columns": ((70, 3, 9), (0, 2), (1, 3, 1)),
    "batch, rows": ((2, 3, 130), (0, 2), (1, 3, 1)),
    "batch, segments of rows": ((2, 3, 1500), (0, 2), (1, 3, 1)),
    "one channel": ((5, 1, 7, 9), (0, 2, 3), (1, 1, 1, 1)),
    "numbers": ((100, 5, 1), (0, 2), (1, 5, 1)),
    "instance, segments": ((2, 3, 1100), (2,), (1, 3, 1)),
    "instance, columns of weights": ((40, 2, 8), (2,), (1, 2, 1)),
    "group": ((2, 2, 3, 140), (2, 3), (1, 2, 3, 1)),
    "group, columns of weights": ((40, 2, 3, 5), (2, 3), (1, 2, 3, 1)),
    "layer": ((40, 200), (1,), (1, 200)),
    "layer, a weight a channel": ((33, 4, 40), (1, 2), (1, 4, 1)),
    "one weight": ((3, 4, 50), (2,), (1, 1, 1)),
}


@pytest.mark.parametrize("kind", NORMS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_norms_of_every_layout_are_the_formula_in_torch(kind: str, dtype: type) -> None:
    """Within 64 units in the last place of the largest number; a mean keeps fewer digits of what is taken off it."""
    shape, axes, weights = NORMS[kind]
    mean = 100.0
    x = (normal(*shape) + mean).astype(dtype)
    x.flat[0] = mean + 50  # sums around an outlier must keep their digits
    w, b, g = (normal(*s, seed=i).astype(dtype) for i, s in enumerate((weights, weights, shape), 1))
    X, W, B = (torch.tensor(a, dtype=torch.float64, requires_grad=True) for a in (x, w, b))
    var, centre = torch.var_mean(X, axes, correction=0, keepdim=True)
    expected = (X - centre) / torch.sqrt(var + 1e-5) * W + B
    gradients = torch.autograd.grad(expected, (X, W, B), torch.tensor(g, dtype=torch.float64))
    with kernels.use_kernels("cuda"):
        y, found_mean, found_var = kernels.normalise(x, w, b, axes, 1e-5)
        found = kernels.normalise_grad(g, x, w, found_mean, found_var, axes, 1e-5)
    unit = 32 * np.finfo(dtype).eps
    np.testing.assert_allclose(found_mean, centre.detach().numpy(), rtol=unit, atol=unit)
    np.testing.assert_allclose(found_var, var.detach().numpy(), rtol=unit * mean)
    for result, reference in zip((y, *found), (expected, *gradients)):
        right = reference.detach().numpy()
        assert result.dtype == dtype and result.shape == right.shape
        np.testing.assert_allclose(result, right, rtol=0, atol=unit * mean / 8 * max(1, np.abs(right).max()))


def test_sums_are_shared_out_as_the_names_say() -> None:
    teams = normalisation._teams
    assert teams(70, 3, 9)[3:] == (4, 18, 36, 1)  # segments, length, parts, lanes
    assert teams(2, 3, 130)[3:] == (1, 130, 2, 32)
    assert teams(2, 3, 1500)[3:] == (2, 750, 4, 32)
    assert teams(1, 40, 100)[3:] == (1, 100, 1, 8)
    assert teams(64, 64, 56 * 56)[3:] == (1, 3136, 64, 32)
    assert teams(2, 16, 64**3)[3:] == (128, 2048, 256, 32)
    assert normalisation._layout((5, 1, 7, 9), (0, 2, 3)) == (1, 1, 315)  # one channel is one row


# --------------------------------------------------------------------------------------------------
# Windows given as lists


@given(
    size=st.lists(st.integers(1, 60), min_size=1, max_size=2),
    output=st.lists(st.integers(1, 3), min_size=2, max_size=2),
    planes=st.integers(1, 9),
    dtype=st.sampled_from(DTYPES),
)
@settings(max_examples=25)
def test_wide_windows_are_shared_by_threads(size: list[int], output: list[int], planes: int, dtype: type) -> None:
    x = normal(1, planes, *size).astype(dtype)
    X = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    pool = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d)[len(size) - 1]
    expected = pool(X, output[: len(size)])
    gy = normal(*expected.shape, seed=1).astype(dtype)
    (expected_gx,) = torch.autograd.grad(expected, X, torch.tensor(gy, dtype=torch.float64))
    maps = [adaptive_map(n, m, np.float64) for n, m in zip(size, output)]
    with kernels.use_kernels("cuda"):
        y, gx = kernels.resample(x, maps), kernels.resample(gy, [m.transposed for m in maps])
    for result, right in ((y, expected.detach()), (gx, expected_gx)):
        np.testing.assert_allclose(result, right.numpy(), rtol=0, atol=16 * np.finfo(dtype).eps)


def test_a_map_is_copied_to_the_device_once() -> None:
    maps = (axis_map(3, [[0, 1], [2]], [[1, 2], [3]], np.float64),)
    first, second = (resampling._on_device(maps, np.ones(3, np.float32)) for _ in range(2))
    assert all(a is b for a, b in zip(first, second))


def test_enlarging_and_padding_need_no_lists_of_differing_lengths() -> None:
    two, one = (
        axis_map(3, [[0, 1], [1, 2]], [[0.5, 0.5]] * 2, np.float64),
        axis_map(3, [[2], [0]], [[1]] * 2, np.float64),
    )
    uneven = axis_map(3, [[0], [1, 2]], [[1], [1, 1]], np.float64)
    taps = resampling._taps
    assert [taps(m) for m in ((two, two), (one, one), (one,), (two,), (two, one), (two, uneven))] == [
        2, 1, 1, None, None, None,
    ]  # fmt: skip


# --------------------------------------------------------------------------------------------------
# Indices of 64 bits, which arrays of 2^31 elements and more would need

G = window_geometry("test", (7, 6), 3, 2, 1)


def _calls() -> dict[str, Callable[[], Any]]:
    """An operator of every file on small arrays."""
    x, gy = normal(2, 5, 7, 6).astype(np.float32), normal(2, 5, *G.output).astype(np.float32)
    weight = normal(1, 5, 1, 1).astype(np.float32)
    at = np.random.default_rng(0).integers(-1, 42, (2, 4, 9))
    w = normal(2, 4, 9).astype(np.float32)
    norm = x, weight, weight, (0, 2, 3), 1e-5
    return {
        "max_pool": lambda: kernels.max_pool(x, G),
        "avg_pool_input": lambda: kernels.avg_pool_input(gy, G, np.full(G.output, 9, np.float32)),
        "scatter_windows": lambda: kernels.scatter_windows(gy, kernels.max_pool(x, G)[1], G.size, window_maps(G)),
        "sample": lambda: kernels.sample(x.reshape(2, 5, 42), w, at),
        "sample_input": lambda: kernels.sample_input(normal(2, 5, 9).astype(np.float32), w, at, 42),
        "normalise": lambda: kernels.normalise(*norm),
        "normalise_grad": lambda: kernels.normalise_grad(
            x[::-1], x, weight, *kernels.normalise(*norm)[1:], (0, 2, 3), 1e-5
        ),
        "softmax": lambda: kernels.softmax(x, 1, False),
        "activation": lambda: kernels.activation(x, "silu", ()),
    }


@pytest.mark.parametrize("operator", _calls())
def test_wide_indices_give_the_same_bits(operator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    call = _calls()[operator]
    with kernels.use_kernels("cuda"):
        narrow = call()
        compiled = launcher._kernel.cache_info().misses
        monkeypatch.setattr(launcher, "_NARROW", 1)
        wide = call()
    assert launcher._kernel.cache_info().misses > compiled
    for a, b in zip(*((r if isinstance(r, tuple) else (r,)) for r in (narrow, wide))):
        np.testing.assert_array_equal(a, b)


# --------------------------------------------------------------------------------------------------
# Sums in a fixed order


def test_gradients_of_sampling_have_the_same_bits_every_time() -> None:
    """Float32 sums of many terms into few pixels, in the order of the corners: the last digits tell."""
    rng = np.random.default_rng(0)
    gy, w = rng.standard_normal((1, 3, 500), np.float32), rng.standard_normal((1, 4, 500), np.float32)
    at = rng.integers(-1, 5, (1, 4, 500))
    with kernels.use_kernels("cuda"):
        first, second = (kernels.sample_input(gy, w, at, 5) for _ in range(2))
    in_order = np.zeros((1, 3, 5), np.float32)
    for k, o in np.ndindex(4, 500):
        if at[0, k, o] >= 0:
            in_order[0, :, at[0, k, o]] += w[0, k, o] * gy[0, :, o]
    assert first.tobytes() == second.tobytes() == in_order.tobytes()


@pytest.mark.parametrize("shape, axis", [((3, 1000), 1), ((2, 40, 3), 1), ((2, 40, 20), 1), ((5, 15), 1)])
@pytest.mark.parametrize("log", [False, True])
def test_columns_of_softmax_that_a_warp_shares(shape: tuple[int, ...], axis: int, log: bool) -> None:
    x, g = normal(*shape) * 5, normal(*shape, seed=1)
    X = torch.tensor(x, requires_grad=True)
    expected = (F.log_softmax if log else F.softmax)(X, axis)
    (expected_dx,) = torch.autograd.grad(expected, X, torch.tensor(g))
    with kernels.use_kernels("cuda"):
        y = kernels.softmax(x, axis, log)
        dx = kernels.softmax_grad(g, y, axis, log)
    for result, right in ((y, expected.detach()), (dx, expected_dx)):
        np.testing.assert_allclose(result, right.numpy(), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("shape", [(5, 40, 1), (2, 17, 3)])
def test_columns_of_cross_entropy_that_a_warp_shares(shape: tuple[int, int, int]) -> None:
    x, g, rng = normal(*shape) * 5, normal(shape[0], shape[2], seed=1), np.random.default_rng(2)
    target, factor = rng.integers(0, shape[1], g.shape), rng.uniform(0.5, 2, g.shape)
    X = torch.tensor(x, requires_grad=True)
    expected = F.cross_entropy(X, torch.tensor(target), reduction="none") * torch.tensor(factor)
    (expected_dx,) = torch.autograd.grad(expected, X, torch.tensor(g))
    valid = np.ones(g.shape, bool)
    with kernels.use_kernels("cuda"):
        loss, top, log_sum = kernels.cross_entropy(x, target, factor, valid)
        dx = kernels.cross_entropy_grad(g, x, target, factor, valid, top, log_sum)
    np.testing.assert_allclose(loss, expected.detach().numpy(), rtol=1e-14, atol=1e-14)
    np.testing.assert_allclose(dx, expected_dx.numpy(), rtol=1e-14, atol=1e-14)


# --------------------------------------------------------------------------------------------------
# Places in memory


@pytest.mark.parametrize("n", [1, 3, 4, 5, 259])
@pytest.mark.parametrize("first", range(4))
def test_four_elements_at_a_time_wherever_they_begin(n: int, first: int) -> None:
    """A slice of an array need not begin where 16 bytes do."""
    x, positive = normal(n + first).astype(np.float32)[first:], (normal(n + 1, seed=1) > 0)[1:]
    v, g = x.copy(), normal(n, seed=2).astype(np.float32)
    with kernels.use_kernels("cuda"):
        y = kernels.slopes(x, positive, 0.5)
        kernels.sgd_step(x, g, v, 0.5, 0.5, 0, 0, False, False)
    start = normal(n + first).astype(np.float32)[first:]
    np.testing.assert_array_equal(y, np.where(positive, start, start * np.float32(0.5)))
    np.testing.assert_array_equal(v, start * np.float32(0.5) + g)
    np.testing.assert_array_equal(x, start - v * np.float32(0.5))
