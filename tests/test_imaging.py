"""The simulated MRI acquisition against the moments of Rice's distribution and the closed form of the bias field."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyconv.imaging import bias_field, rician_noise, simulate_acquisition

COUNT = 1_000_000
SIGMA = 25.0


def test_zero_signal_is_rayleigh() -> None:
    noise = rician_noise(np.zeros(COUNT, np.uint8), SIGMA, np.random.default_rng(0)).astype(np.float64)
    # Five standard errors: the Rayleigh distribution has variance (2 - pi / 2) sigma^2.
    bound = 5 * SIGMA * math.sqrt((2 - math.pi / 2) / COUNT)
    assert noise.mean() == pytest.approx(SIGMA * math.sqrt(math.pi / 2), abs=bound)
    below_median = np.mean(noise < SIGMA * math.sqrt(2 * math.log(2)))
    assert below_median == pytest.approx(0.5, abs=5 * 0.5 / math.sqrt(COUNT))


@pytest.mark.parametrize("signal", [0.0, 10.0, 25.0, 200.0])
def test_second_moment(signal: float) -> None:
    magnitude = rician_noise(np.full(COUNT, signal), SIGMA, np.random.default_rng(1)).astype(np.float64)
    # M^2 / sigma^2 is noncentral chi-squared with 2 degrees of freedom, of variance 4 + 4 A^2 / sigma^2.
    bound = 5 * SIGMA**2 * math.sqrt((4 + 4 * signal**2 / SIGMA**2) / COUNT)
    assert np.mean(magnitude**2) == pytest.approx(signal**2 + 2 * SIGMA**2, abs=bound)


def test_no_noise_is_the_magnitude() -> None:
    image = np.array([[-3.0, 0.0], [4.0, 255.0]])
    assert np.array_equal(rician_noise(image, 0, np.random.default_rng(2)), np.abs(image))


@given(
    st.lists(st.integers(1, 12), min_size=1, max_size=3),
    st.integers(2, 5),
    st.floats(0.1, 1.0),
    st.floats(0.0, 2.0),
    st.integers(0, 1000),
)
def test_bias_field_is_bounded_and_smooth(
    shape: list[int], control_points: int, low: float, spread: float, seed: int
) -> None:
    high = low + spread
    field = bias_field(shape, np.random.default_rng(seed), low, high, control_points)
    assert field.shape == tuple(shape) and field.dtype == np.float32
    assert np.float32(low) <= field.min() and field.max() <= np.float32(high)
    for axis, size in enumerate(shape):
        if size > 1:
            steepest = 1.5 * spread * (control_points - 1) / (size - 1)
            assert np.abs(np.diff(field, axis=axis)).max() <= steepest + 4 * high * 2.0**-24


def test_bias_field_passes_through_its_control_points_and_halfway_between() -> None:
    field = bias_field((13, 9), np.random.default_rng(3), control_points=5)
    control = np.random.default_rng(3).uniform(0.6, 1.4, (5, 5))
    np.testing.assert_allclose(field[::3, ::2], control, rtol=1e-6)
    np.testing.assert_allclose(field[::3, 1::2], (control[:, 1:] + control[:, :-1]) / 2, rtol=1e-6)


def test_bias_field_leaves_its_control_points_without_slope() -> None:
    field = bias_field((9,), np.random.default_rng(3))
    a, b, c = np.random.default_rng(3).uniform(0.6, 1.4, 3)
    # A quarter of the way the cubic 3 t^2 - 2 t^3 stands at 5 / 32; linear interpolation would stand at 1 / 4.
    np.testing.assert_allclose(field[[1, 3]], [a + (b - a) * 5 / 32, b - (b - a) * 5 / 32], rtol=1e-6)
    np.testing.assert_allclose(field[[5, 7]], [b + (c - b) * 5 / 32, c - (c - b) * 5 / 32], rtol=1e-6)


def test_acquisition_is_noise_on_the_biased_image_and_follows_from_the_generator() -> None:
    image = np.random.default_rng(4).integers(0, 256, (2, 20, 30), np.uint8)
    before = image.copy()
    acquired = simulate_acquisition(image, np.random.default_rng(5), sigma=7)
    generator = np.random.default_rng(5)
    expected = rician_noise(image * bias_field(image.shape, generator), 7, generator)
    assert np.array_equal(acquired, expected) and np.array_equal(image, before)
    assert not np.array_equal(acquired, simulate_acquisition(image, np.random.default_rng(6), sigma=7))


def test_wrong_arguments() -> None:
    generator = np.random.default_rng(0)
    for shape in ((), (3, 0), (-1,)):
        with pytest.raises(ValueError, match="bias_field: shape"):
            bias_field(shape, generator)
    for low, high in ((0, 1), (1.4, 0.6), (0.5, math.inf), (math.nan, 1)):
        with pytest.raises(ValueError, match="bias_field: low and high"):
            bias_field((4,), generator, low, high)
    with pytest.raises(ValueError, match="control_points"):
        bias_field((4,), generator, control_points=1)
    for sigma in (-1, math.nan, math.inf):
        with pytest.raises(ValueError, match="rician_noise: sigma"):
            rician_noise(np.zeros(3), sigma, generator)
    with pytest.raises(TypeError, match="complex128"):
        rician_noise(np.zeros(3, complex), 1, generator)
