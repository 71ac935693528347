"""The compiled algorithms of convolution, each forced, against torch in float64; and the rule that chooses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from test_kernels import Case, convolutions, laid_out, torch_triangle, triangle
from tinyconv import kernels
from tinyconv.geometry import Geometry, window_geometry
from tinyconv.kernels import choice
from tinyconv.kernels.threads import get_num_threads, set_num_threads

pytest.importorskip("numba", reason="Numba is not installed: there are no compiled kernels")

FACES = ("conv", "conv_input", "conv_weight")
#: Error allowed in float32, of the largest sum of absolute products.
WINOGRAD = {"winograd2": 2e-6, "winograd4": 2e-5}


def drawn(case: Case, dtype: Any, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(case.seed + seed)
    return [rng.standard_normal(shape).astype(dtype) for shape in case.shapes]


def computed(algorithm: str, arrays: list[np.ndarray], case: Case) -> list[np.ndarray]:
    with kernels.use_kernels("numba", conv=algorithm):
        return triangle(*arrays, case.g, case.groups)


@pytest.mark.parametrize("algorithm", ["direct", "tiled"])
@given(case=convolutions(), dtype=st.sampled_from([np.float32, np.float64]))
def test_forced_algorithms_stay_within_the_bound_of_their_sums(algorithm: str, case: Case, dtype: type) -> None:
    arrays = drawn(case, dtype)
    bounds = torch_triangle(*map(np.abs, arrays), case.g, case.groups)
    unit = np.finfo(dtype).eps / 2
    for result, expected, bound in zip(
        computed(algorithm, arrays, case), torch_triangle(*arrays, case.g, case.groups), bounds
    ):
        assert (np.abs(result - expected) <= 8 * unit * bound).all()


@st.composite
def three_by_three(draw: st.DrawFn) -> Case:
    """What Winograd's algorithms take: 3x3 windows of stride 1 in any padding, in two or three dimensions."""
    depth = draw(st.sampled_from([(), (1,), (2,), (3,)]))
    size = tuple(k + draw(st.integers(0, 2)) for k in depth) + tuple(draw(st.integers(1, 13)) for _ in range(2))
    padding = [(0, 0)] * len(depth)
    for n in size[-2:]:
        before = draw(st.integers(0, 3))
        padding.append((before, max(draw(st.integers(0, 3)), 3 - n - before)))
    g = window_geometry("test", size, (*depth, 3, 3), 1, padding)
    channels = st.integers(1, 35)
    return Case(g, draw(st.integers(0, 3)), 1, draw(channels), draw(channels), draw(st.integers(0, 2**32)))


@pytest.mark.parametrize("algorithm", WINOGRAD)
@given(case=three_by_three())
def test_winograd_is_torch_within_a_bound_of_its_own(algorithm: str, case: Case) -> None:
    arrays = drawn(case, np.float32)
    bounds = torch_triangle(*map(np.abs, arrays), case.g, 1)
    for result, expected, bound in zip(computed(algorithm, arrays, case), torch_triangle(*arrays, case.g, 1), bounds):
        assert np.abs(result - expected).max(initial=0) <= WINOGRAD[algorithm] * bound.max(initial=0)


@pytest.mark.parametrize("algorithm", WINOGRAD)
@given(case=three_by_three())
def test_winograd_in_float64_is_torch_to_rounding(algorithm: str, case: Case) -> None:
    """Finds a wrong index or coefficient that float32's bound would hide."""
    arrays = drawn(case, np.float64)
    bounds = torch_triangle(*map(np.abs, arrays), case.g, 1)
    for result, expected, bound in zip(computed(algorithm, arrays, case), torch_triangle(*arrays, case.g, 1), bounds):
        assert np.abs(result - expected).max(initial=0) <= 1e-13 * bound.max(initial=0)


@pytest.mark.parametrize("algorithm", WINOGRAD)
@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("special", [np.nan, np.inf])
def test_what_is_not_finite_stays_in_its_windows_where_winograd_is_asked_for(
    algorithm: str, place: int, special: float
) -> None:
    case = Case(window_geometry("test", (9, 10), 3, 1, 1), 2, 1, 17, 18, 0)
    rng = np.random.default_rng(1)
    arrays = [rng.integers(-3, 4, shape).astype(np.float32) for shape in case.shapes]
    arrays[place].flat[arrays[place].size // 2] = special
    for result, expected in zip(computed(algorithm, arrays, case), torch_triangle(*arrays, case.g, 1)):
        # Sums of 17 * 9 products of at most 9: the face that the number does not touch is Winograd's.
        np.testing.assert_allclose(result, expected, rtol=0, atol=17 * 81 * WINOGRAD[algorithm])


@given(
    seed=st.integers(0, 2**32),
    each=st.integers(1, 2),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 2),
    layout=st.sampled_from(["plain", "fortran", "strided", "reversed"]),
)
def test_depthwise_convolution_is_that_of_torch(seed: int, each: int, stride: int, dilation: int, layout: str) -> None:
    """Integers, so exact; images of several rows of vectors, with leftover pixels."""
    g = window_geometry("test", (23, 37), (3, 2), (stride, 1), [(1, 2), (0, 1)], dilation)
    case = Case(g, 2, 5, 5, 5 * each, seed)
    rng = np.random.default_rng(seed)
    arrays = [laid_out(rng.integers(-4, 5, shape).astype(np.float32), layout) for shape in case.shapes]
    for result, expected in zip(computed("auto", arrays, case), torch_triangle(*arrays, g, 5)):
        np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("algorithm", ["direct", "tiled", "winograd2", "winograd4", "auto"])
@pytest.mark.parametrize("shape", [(2, 48, 14, 15), (1, 20, 33, 9), (5, 33, 7, 7)])
def test_the_bits_do_not_depend_on_the_number_of_threads(algorithm: str, shape: tuple[int, ...]) -> None:
    case = Case(window_geometry("test", shape[2:], 3, 1, 1), shape[0], 1, shape[1], 40, 3)
    arrays = drawn(case, np.float32)
    before = get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3, 5):
            set_num_threads(threads)
            found.append([result.tobytes() for result in computed(algorithm, arrays, case)])
    finally:
        set_num_threads(before)
    assert all(bits == found[0] for bits in found)


@pytest.mark.parametrize(
    "shape, weight, options",
    [
        ((2, 64, 30, 31), (70, 64, 3, 3), {"padding": 1}),
        ((3, 3, 64, 65), (20, 3, 7, 7), {"stride": 2, "padding": 3}),
        ((2, 130, 7, 7), (96, 130, 3, 3), {"padding": 1}),
        ((2, 300, 9, 9), (520, 300, 1, 1), {}),
        ((2, 40, 21, 20), (600, 40, 1, 1), {"stride": 2}),
        ((1, 24, 8, 9, 10), (40, 24, 3, 3, 3), {"padding": 1}),
        ((2, 16, 1500), (24, 16, 5), {"dilation": 3}),
        ((2, 12, 40, 40), (24, 3, 5, 5), {"groups": 4, "padding": 2}),
        ((3, 32, 7, 7), (128, 32, 5, 5), {"padding": 2}),
        ((2, 40, 16, 18), (70, 40, 2, 2), {"stride": 2}),
        ((1, 20, 8, 6, 8), (40, 20, 2, 2, 2), {"stride": 2}),
        ((2, 33, 17, 15), (40, 33, 3, 3), {"stride": 2, "padding": 1}),
        ((2, 20, 13, 16), (17, 20, 5, 3), {"stride": 3, "dilation": 2}),
        ((70, 64, 15, 15), (33, 64, 3, 3), {"stride": 2, "padding": 1}),  # more images than are laid out at a time
        ((2, 21, 150, 150), (21, 1, 3, 3), {"groups": 21, "padding": 1}),  # several bands of rows
        ((5, 40, 61, 70), (80, 1, 5, 5), {"groups": 40, "stride": 2, "padding": 2}),
        ((1, 18, 6, 40, 41), (18, 1, 3, 3, 3), {"groups": 18, "stride": 2, "padding": 1}),
        ((1, 1, 120, 130), (9, 1, 3, 3), {"padding": 1}),
    ],
)
def test_layers_of_networks_are_those_of_torch(
    shape: tuple[int, ...], weight: tuple[int, ...], options: dict[str, int]
) -> None:
    """Several blocks, chunks and parts, which small cases do not reach: integers, so exact but for Winograd."""
    options = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, **options}
    g = window_geometry("test", shape[2:], weight[2:], options["stride"], options["padding"], options["dilation"])
    case = Case(g, shape[0], options["groups"], shape[1], weight[0], 5)
    rng = np.random.default_rng(7)
    arrays = [rng.integers(-2, 3, s).astype(np.float32) for s in case.shapes]
    expected = torch_triangle(*arrays, g, case.groups)
    bounds = torch_triangle(*map(np.abs, arrays), g, case.groups)
    for algorithm in ("exact", "tiled"):
        for result, reference in zip(computed(algorithm, arrays, case), expected):
            np.testing.assert_array_equal(result, reference)
    for result, reference, bound in zip(computed("auto", arrays, case), expected, bounds):
        assert np.abs(result - reference).max() <= 2e-5 * bound.max()


def test_a_long_sum_of_positive_numbers_keeps_its_digits() -> None:
    """180,000 terms: their sum is made of shorter ones, whose rounding adds up to less than that of one long chain."""
    rng = np.random.default_rng(0)
    x, gy = (rng.random((5, 16, 190, 190), dtype=np.float32) for _ in range(2))
    exact = np.einsum("nihw,nohw->oi", x.astype(float), gy.astype(float))
    g = window_geometry("test", (190, 190), 1)
    for algorithm in ("direct", "tiled"):
        with kernels.use_kernels("numba", conv=algorithm):
            gw = kernels.conv_weight(x, gy, g, 1)[..., 0, 0]
        assert (np.abs(gw - exact) <= 32 * 2.0**-24 * exact).all()


# --------------------------------------------------------------------------------------------------
# The rule


@pytest.mark.parametrize(
    "shape, weight, options, expected",
    [
        ((16, 64, 56, 56), (64, 64, 3, 3), {"padding": 1}, ("winograd4", "winograd4", "winograd4")),
        ((16, 64, 56, 56), (64, 64, 3, 3), {"stride": 2}, ("tiled", "tiled", "tiled")),
        ((16, 64, 56, 56), (64, 64, 3, 3), {"dtype": np.float64}, ("tiled", "tiled", "tiled")),
        ((1, 256, 14, 14), (256, 256, 3, 3), {"padding": 1}, ("tiled", "tiled", "tiled")),
        ((16, 64, 56, 56), (256, 64, 1, 1), {}, ("direct", "direct", "tiled")),
        ((16, 512, 7, 7), (1024, 512, 1, 1), {}, ("tiled", "tiled", "tiled")),
        ((16, 32, 56, 56), (32, 1, 3, 3), {"groups": 32}, ("depthwise", "depthwise", "depthwise")),
        ((4, 3, 64, 64), (64, 3, 7, 7), {"stride": 2}, ("direct", "direct", "columns")),
    ],
)
def test_the_rule_says_what_it_documents(
    shape: tuple[int, ...], weight: tuple[int, ...], options: dict[str, Any], expected: tuple[str, ...]
) -> None:
    choices = kernels.explain_choice(shape, weight, **options)
    assert tuple(choices[face].algorithm for face in FACES) == expected
    assert all(choices[face].algorithm in line and face in line for face, line in zip(FACES, repr(choices).split("\n")))


def test_exact_never_takes_winograd_and_forcing_ends_with_the_block() -> None:
    shapes = (16, 64, 56, 56), (64, 64, 3, 3)
    with kernels.use_kernels(conv="exact"):
        assert kernels.explain_choice(*shapes)["conv"].algorithm == "tiled"
        with kernels.use_kernels(conv="winograd"):
            assert kernels.explain_choice(*shapes)["conv"].algorithm == "winograd4"
        with kernels.use_kernels(conv="winograd2"):
            assert kernels.explain_choice(*shapes)["conv"].algorithm == "winograd2"
            assert kernels.explain_choice(*shapes, stride=2)["conv"].algorithm == "tiled"  # where it cannot
    assert choice.forced() == "auto" and kernels.explain_choice(*shapes)["conv"].algorithm == "winograd4"


def test_wrong_choices_are_refused_with_the_legal_ones() -> None:
    with pytest.raises(ValueError, match=r"use_kernels: conv must be one of 'auto', 'exact', .* but is 'fft'"):
        kernels.use_kernels(conv="fft")
    with pytest.raises(ValueError, match="explain_choice: input and weight must be shapes"):
        kernels.explain_choice((3, 3), (3, 3))
    with pytest.raises(ValueError, match="explain_choice: rung must be 'numba' or 'cuda', but is 'im2col'"):
        kernels.explain_choice((1, 3, 5, 5), (3, 3, 3, 3), rung="im2col")
    with pytest.raises(ValueError, match="explain_choice: the window spans"):
        kernels.explain_choice((1, 3, 2, 2), (3, 3, 3, 3))


def test_volumes_hold_the_same_windows() -> None:
    g = window_geometry("test", (5,), 3, 2, 1)
    assert choice.volumes(g) == Geometry(
        (1, 1, 5), (1, 1, 3), (1, 1, 2), ((0, 0), (0, 0), (1, 1)), (1, 1, 1), (1, 1, 3)
    )
    x, w = torch.randn(2, 3, 4, 5, dtype=torch.double), torch.randn(6, 3, 1, 1, dtype=torch.double)
    with kernels.use_kernels("numba"):
        y = kernels.conv(x.numpy(), w.numpy(), window_geometry("test", (4, 5), 1), 1)
    np.testing.assert_allclose(y, torch.nn.functional.conv2d(x, w).numpy(), rtol=1e-12, atol=1e-13)
