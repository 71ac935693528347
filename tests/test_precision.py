"""Products with fewer bits: the rounding bit for bit, and the error of a product bounded from both sides."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyconv import kernels
from tinyconv.kernels.precision import PRECISIONS, precision, rounded

floats = st.floats(width=32, allow_nan=False)


def tf32(x: np.ndarray) -> np.ndarray:
    """11 bits, of two numbers as near the larger: by arithmetic in float64, for normal numbers."""
    fraction, exponent = np.frexp(x.astype(np.float64))
    return np.ldexp(np.sign(fraction) * np.floor(np.abs(fraction) * 2**11 + 0.5), exponent - 11).astype(np.float32)


@given(st.lists(floats, min_size=1, max_size=50))
@settings(max_examples=200)
def test_bf16_is_torchs_and_tf32_is_nearest(values: list[float]) -> None:
    x = np.array(values, np.float32)
    expected = torch.tensor(x).to(torch.bfloat16).to(torch.float32).numpy()
    np.testing.assert_array_equal(rounded(x, "bf16").view(np.uint32), expected.view(np.uint32))
    normal = x[(np.abs(x) >= np.finfo(np.float32).tiny) | (x == 0)]
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(rounded(normal, "tf32"), tf32(normal))


@pytest.mark.parametrize("name", ["tf32", "bf16"])
def test_rounding_at_ties_and_ends(name: str) -> None:
    step = 2.0 ** (1 - PRECISIONS[name])  # between two numbers at 1
    ties = np.array([1 + step / 2, 1 + 3 * step / 2, -1 - step / 2], np.float32)
    away, even = [1 + step, 1 + 2 * step, -1 - step], [1, 1 + 2 * step, -1]
    assert rounded(ties, name).tolist() == (away if name == "tf32" else even)
    ends = np.array([np.inf, -np.inf, np.nan, np.finfo(np.float32).max, 0.0, -0.0], np.float32)
    with np.errstate(all="raise"):
        found = rounded(ends, name)
    assert np.isnan(found[2]) and found[[0, 1, 3]].tolist() == [np.inf, -np.inf, np.inf]
    assert np.signbit(found[-2:]).tolist() == [False, True]
    assert rounded(ties, "ieee") is ties


def relative_error(found: np.ndarray, exact: np.ndarray) -> float:
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))


#: Each operand is rounded by up to half a step at 1, evenly distributed over mantissas: the error of a product of two,
#: relative in norm, is about 0.3 to 0.45 of that half step times sqrt(2); and float32 itself stays below 2e-6.
BOUNDS = {"ieee": (0.0, 2e-6), "tf32": (2.2e-4, 3.8e-4), "bf16": (1.8e-3, 3.0e-3)}


@pytest.mark.parametrize("name", PRECISIONS)
def test_the_error_of_a_matrix_product_lies_between_two_bounds(name: str) -> None:
    generator = np.random.default_rng(0)
    a, b = (generator.standard_normal(shape, np.float32) for shape in ((3, 64, 200), (3, 200, 48)))
    exact = (torch.tensor(a).double() @ torch.tensor(b).double()).numpy()
    with kernels.use_kernels("cuda", precision=name):
        low, high = BOUNDS[name]
        assert low <= relative_error(kernels.matmul(a, b), exact) <= high
        wide = kernels.matmul(a.astype(np.float64), b.astype(np.float64))
    assert relative_error(wide, exact) < 1e-14  # float64 is not asked to be less


def test_other_rungs_keep_all_bits() -> None:
    a, b = np.random.default_rng(1).standard_normal((2, 30, 30)).astype(np.float32)
    with kernels.use_kernels("numba"):
        expected = kernels.matmul(a, b)
        with kernels.use_kernels(precision="bf16"):
            assert precision() == "bf16"
            np.testing.assert_array_equal(kernels.matmul(a, b), expected)
    assert precision() == "ieee"


def test_the_precision_is_one_of_three_and_ends_with_its_block() -> None:
    with pytest.raises(ValueError, match=r"use_kernels: precision must be one of 'ieee', 'tf32', 'bf16', but is 'fp8'"):
        kernels.use_kernels(precision="fp8")
    with pytest.raises(KeyError), kernels.use_kernels("cuda", precision="tf32"):
        raise KeyError
    assert precision() == "ieee"
