"""The convolutions of the rung cuda that multiply matrices, by columns and by Winograd's algorithms, in the emulator
against torch in float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compare import RUNGS
from test_cpu_convolution import WINOGRAD, three_by_three
from test_kernels import Case, convolutions, scratch, torch_triangle
from tinyconv import kernels
from tinyconv.geometry import window_geometry
from tinyconv.kernels.cuda import columns, launcher, winograd

pytestmark = pytest.mark.skipif("cuda" not in RUNGS, reason="no C++ compiler is here, which the emulator needs")


def triangle(faces: Any, arrays: list[np.ndarray], case: Case) -> list[np.ndarray]:
    x, w, gy = arrays
    g, groups = case.g, case.groups
    return [faces.conv(x, w, g, groups), faces.conv_input(gy, w, g, groups), faces.conv_weight(x, gy, g, groups)]


def drawn(case: Case, dtype: Any) -> list[np.ndarray]:
    rng = np.random.default_rng(case.seed)
    return [rng.standard_normal(shape).astype(dtype) for shape in case.shapes]


@given(case=convolutions(), limit=st.sampled_from([1, 2000, 1 << 20]), dtype=st.sampled_from([np.float32, np.float64]))
def test_columns_are_torchs_convolution_within_the_bound_of_its_sums(case: Case, limit: int, dtype: type) -> None:
    """For every limit: tiles of output rows, of images, everything at once."""
    arrays = drawn(case, dtype)
    bounds = torch_triangle(*map(np.abs, arrays), case.g, case.groups)
    with scratch(limit):
        results, again = (triangle(columns, arrays, case) for _ in range(2))
    unit = np.finfo(dtype).eps / 2
    for result, second, right, bound in zip(results, again, torch_triangle(*arrays, case.g, case.groups), bounds):
        assert result.dtype == dtype and result.tobytes() == second.tobytes()
        assert (np.abs(result - right) <= 8 * unit * bound).all()


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@given(case=convolutions(), special=st.sampled_from([np.nan, np.inf, -np.inf]), place=st.integers(0, 2))
def test_what_is_not_finite_spreads_in_columns_as_in_torch(case: Case, special: float, place: int) -> None:
    rng = np.random.default_rng(case.seed)
    arrays = [rng.integers(-3, 4, shape).astype(np.float64) for shape in case.shapes]
    if arrays[place].size:
        arrays[place].flat[rng.integers(arrays[place].size)] = special
    with scratch(2000):
        results = triangle(columns, arrays, case)
    for result, right in zip(results, torch_triangle(*arrays, case.g, case.groups)):
        np.testing.assert_array_equal(result, right)


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("kernel, stride, padding", [((1, 1), 1, 0), ((3, 2), 2, 1), ((2, 5), 1, 2)])
def test_columns_of_integers_do_not_depend_on_the_tiles(groups: int, kernel: Any, stride: int, padding: int) -> None:
    g = window_geometry("test", (9, 23), kernel, stride, padding)
    case = Case(g, 5, groups, 2 * groups, 4 * groups, 0)
    rng = np.random.default_rng(0)
    arrays = [rng.integers(-4, 5, shape).astype(np.float32) for shape in case.shapes]
    expected = torch_triangle(*arrays, g, groups)
    row = 2 * groups * 4 * int(np.prod(kernel)) * g.output[1]  # bytes
    for limit in (row, 3 * row, 2 * row * g.output[0], 1 << 30):
        with scratch(limit):
            for result, right in zip(triangle(columns, arrays, case), expected):
                np.testing.assert_array_equal(result, right)


def test_more_rows_than_an_axis_of_the_grid_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "MOST_BLOCKS", 5)
    assert launcher.side_by_side(40, 22) == ((1, 5, 5), 64)
    assert launcher.side_by_side(300, 5) == ((3, 5, 1), 128)
    g = window_geometry("test", (3,), 2)
    x = np.arange(66, dtype=np.float32).reshape(2, 11, 3)
    cols = columns.unfold(x, g)
    np.testing.assert_array_equal(cols.reshape(2, 11, 2, 2), np.stack([x[..., :2], x[..., 1:]], 2))
    np.testing.assert_array_equal(columns.fold(cols, g), x * np.array([1, 2, 1], np.float32))


def test_the_limit_holds_for_the_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    launch = columns.launch

    def watched(file: str, name: str, grid: Any, args: Any, threads: int) -> None:
        made.append(args[1 if name == "unfold" else 0].nbytes)
        launch(file, name, grid, args, threads)

    monkeypatch.setattr(columns, "launch", watched)
    case = Case(window_geometry("test", (8, 9), 3, 1, 1), 6, 2, 4, 4, 0)
    image = 4 * 9 * 72 * 4  # bytes of one image's columns
    for limit, launches in ((image // 8, 48), (image, 6), (4 * image, 2), (1 << 20, 1)):
        made.clear()
        with scratch(limit):
            triangle(columns, drawn(case, np.float32), case)
        assert len(made) == 3 * launches and max(made) <= limit


def test_a_gpu_has_a_larger_limit_until_one_is_set() -> None:
    assert kernels.scratch_limit() == 4 << 20
    assert kernels.scratch_limit(object()) == 256 << 20  # any module but NumPy
    try:
        kernels.set_scratch_limit(1000)
        assert kernels.scratch_limit() == kernels.scratch_limit(object()) == 1000
    finally:
        kernels.set_scratch_limit(None)
    assert kernels.scratch_limit() == 4 << 20


# --------------------------------------------------------------------------------------------------
# Winograd


every_tile = pytest.mark.parametrize("algorithm", WINOGRAD)


@every_tile
@given(
    case=three_by_three(),
    limit=st.sampled_from([1, 1 << 16, 1 << 30]),
    least=st.sampled_from([8, 256]),
    dtype=st.sampled_from([np.float32, np.float64]),
)
@settings(max_examples=40)
def test_winograd_is_torchs_convolution(algorithm: str, case: Case, limit: int, least: int, dtype: type) -> None:
    """In pieces and parts of any number. To rounding in float64, where a wrong coefficient shows; in float32 within the
    algorithm's own bound.
    """
    arrays = drawn(case, dtype)
    bounds = torch_triangle(*map(np.abs, arrays), case.g, 1)
    share = WINOGRAD[algorithm] if dtype is np.float32 else 1e-13
    with pytest.MonkeyPatch.context() as patch, scratch(limit):
        patch.setattr(winograd, "_SUM", least)
        results, again = (triangle(getattr(winograd, algorithm), arrays, case) for _ in range(2))
    for result, second, right, bound in zip(results, again, torch_triangle(*arrays, case.g, 1), bounds):
        assert result.dtype == dtype and result.shape == right.shape and result.tobytes() == second.tobytes()
        assert np.abs(result - right).max(initial=0) <= share * bound.max(initial=0)


@every_tile
@pytest.mark.parametrize("dilation, padding", [(1, 1), (2, 1), (2, 4), (3, (0, 5))])
def test_the_axis_of_depth_may_be_dilated(algorithm: str, dilation: int, padding: Any) -> None:
    pads = [padding if isinstance(padding, tuple) else (padding, padding), (1, 0), (0, 2)]
    case = Case(window_geometry("test", (6, 5, 7), 3, 1, pads, (dilation, 1, 1)), 2, 1, 3, 2, 0)
    arrays = drawn(case, np.float64)
    for result, right in zip(triangle(getattr(winograd, algorithm), arrays, case), torch_triangle(*arrays, case.g, 1)):
        np.testing.assert_allclose(result, right, rtol=0, atol=1e-12 * np.abs(right).max())


@every_tile
@pytest.mark.parametrize("columns_of", [7, 8])
@pytest.mark.parametrize("start", [1, 4])
def test_arrays_may_begin_anywhere(algorithm: str, columns_of: int, start: int) -> None:
    """Four neighbours are read at once only where they can be."""
    case = Case(window_geometry("test", (5, columns_of), 3, 1, 1), 2, 1, 3, 5, 0)
    arrays = []
    for array in drawn(case, np.float32):
        arrays.append(np.zeros(array.size + start, np.float32)[start:].reshape(array.shape))
        arrays[-1][...] = array
    bounds = torch_triangle(*map(np.abs, arrays), case.g, 1)
    results = triangle(getattr(winograd, algorithm), arrays, case)
    for result, right, bound in zip(results, torch_triangle(*arrays, case.g, 1), bounds):
        assert np.abs(result - right).max() <= WINOGRAD[algorithm] * bound.max()


@pytest.mark.parametrize("algorithm, least, most", [("winograd2", 1e-7, 2e-6), ("winograd4", 2e-6, 2e-5)])
def test_the_rounding_of_winograd_is_what_is_said_of_it(algorithm: str, least: float, most: float) -> None:
    """In float32, of the largest output, with 64 channels; below it, this would be another algorithm."""
    case = Case(window_geometry("test", (14, 14), 3, 1, 1), 2, 1, 64, 64, 0)
    arrays = drawn(case, np.float32)
    for result, right in zip(triangle(getattr(winograd, algorithm), arrays, case), torch_triangle(*arrays, case.g, 1)):
        assert least < np.abs(result - right).max() / np.abs(right).max() < most


@pytest.mark.filterwarnings("ignore:(invalid value|overflow):RuntimeWarning")
@pytest.mark.parametrize(
    "algorithm, special",
    [(a, special) for a in WINOGRAD for special in (np.nan, np.inf)] + [("winograd4", 3e38)],
)
@pytest.mark.parametrize("limit", [1, 1 << 30])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_what_is_not_finite_stays_in_its_windows(algorithm: str, special: float, limit: int, place: int) -> None:
    """And what is finite by the definition is so, though numbers on the way overflow."""
    case = Case(window_geometry("test", (2, 7, 9), (2, 3, 3), 1, 1), 2, 1, 3, 4, 0)
    rng = np.random.default_rng(1)
    arrays = [rng.integers(-1, 2, shape).astype(np.float32) for shape in case.shapes]
    arrays[place].flat[arrays[place].size // 2] = special
    with scratch(limit):
        results = triangle(getattr(winograd, algorithm), arrays, case)
    for result, right in zip(results, torch_triangle(*arrays, case.g, 1)):
        touched = ~(np.abs(right) < 1e6)
        np.testing.assert_array_equal(result[touched], right[touched].astype(np.float32))
        # Sums of 72 products of at most 1, or of 400.
        np.testing.assert_allclose(result[~touched], right[~touched], rtol=0, atol=400 * WINOGRAD[algorithm])


@every_tile
def test_the_limit_holds_for_the_transformed_numbers(algorithm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    launch = winograd.launch

    def watched(file: str, name: str, grid: Any, args: Any, *threads: int) -> None:
        if name == "transform_pixels":
            made.append(args[1].nbytes // args[1].shape[2] * 7)  # with the products or cotangents: 3 and 4 channels
        launch(file, name, grid, args, *threads)

    monkeypatch.setattr(winograd, "launch", watched)
    case = Case(window_geometry("test", (12, 33), 3, 1, 1), 2, 1, 3, 4, 0)
    arrays = drawn(case, np.float32)
    step = 8 * 4 * 7 * (getattr(winograd, algorithm).m + 2) ** 2  # bytes
    for limit in (2 * step, 3 * step + 5, 1 << 30):
        made.clear()
        with scratch(limit):
            triangle(getattr(winograd, algorithm), arrays, case)
        assert max(made) <= limit and (len(made) == 3) == (limit == 1 << 30)


def test_what_winograd_takes() -> None:
    yes = window_geometry("test", (4, 7, 7), (2, 3, 3), 1, (0, 5, 1), (2, 1, 1))
    assert winograd.fits(yes, 1) and winograd.fits(window_geometry("test", (5, 6), 3), 1)
    assert not winograd.fits(yes, 2)
    for size, kernel, stride, dilation in [
        ((9,), 3, 1, 1),
        ((9, 9), 3, 2, 1),
        ((9, 9), 3, 1, 2),
        ((9, 9), (3, 2), 1, 1),
    ]:
        assert not winograd.fits(window_geometry("test", size, kernel, stride, 0, dilation), 1)
