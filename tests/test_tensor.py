"""The tensor beside NumPy, torch and Python: sharing memory, indexing, repr."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tinyconv
from tinyconv import Tensor, grad

rng = np.random.default_rng(0)


def leaf(*shape: int, dtype: str = "float64") -> Tensor:
    return Tensor(np.asarray(rng.standard_normal(shape)).astype(dtype), requires_grad=True)


@pytest.fixture(autouse=True)
def same_start() -> None:
    """Every test draws the same numbers, whichever ran before it."""
    rng.bit_generator.state = np.random.default_rng(7).bit_generator.state


# --------------------------------------------------------------------------------------------------
# NumPy and DLPack


def test_numpy_on_both_sides() -> None:
    x, a = leaf(2, 3), rng.standard_normal((2, 3))
    for ours, expected in (
        (a + x, a + x.data),
        (x + a, x.data + a),
        (a - x, a - x.data),
        (a * x, a * x.data),
        (a / x, a / x.data),
        (np.float64(2) * x, 2 * x.data),
        (np.float64(2) - x, 2 - x.data),
        (a.T @ x, a.T @ x.data),
        (np.exp(x), np.exp(x.data)),
        (np.maximum(x, a), np.maximum(x.data, a)),
        (a > x, a > x.data),
        (2**x, 2**x.data),
        (abs(-x), np.abs(x.data)),
    ):
        assert isinstance(ours, Tensor)
        np.testing.assert_allclose(ours.data, expected, rtol=1e-15)
        assert ours.requires_grad == (ours.dtype.kind == "f")


def test_numpy_scalars_stay_weak() -> None:
    x = Tensor(np.ones(2, np.float32), requires_grad=True)
    for y in (x * np.float64(2), np.float64(2) * x, x + np.float64(1), np.int64(3) + x, 1.5 - x, x / np.float64(3)):
        assert y.dtype == np.float32
    assert (Tensor(np.ones(2, np.int64)) * 2.5).dtype == np.float32
    assert (Tensor(np.array([True])) + 1).dtype == np.int64


def test_arrays_are_shared_and_never_changed() -> None:
    array = np.arange(3.0)
    assert np.shares_memory(Tensor(array).data, array)
    assert np.shares_memory(tinyconv.from_numpy(array).data, array)
    assert np.shares_memory(tinyconv.as_tensor(array).data, array)
    assert not np.shares_memory(tinyconv.tensor(array).data, array)
    assert np.shares_memory(np.asarray(Tensor(array)), array)
    assert np.asarray(Tensor(array), dtype=np.float32).dtype == np.float32
    assert tinyconv.tensor([1.5]).dtype == np.float32 and tinyconv.tensor([1]).dtype == np.int64
    assert tinyconv.tensor(np.float64(1)).dtype == np.float64
    swapped = Tensor(array.astype(">f8"))
    assert swapped.dtype.isnative
    np.testing.assert_array_equal(swapped.data, array)


def test_python_protocols() -> None:
    x = Tensor(np.array([[1, 2], [3, 4]]))
    assert len(x) == 2 and [row.tolist() for row in x] == [[1, 2], [3, 4]]
    assert float(x[0, 1]) == 2.0 and int(x[1, 0]) == 3 and bool(x[0, 0]) and range(5)[x[0, 1]] == 2
    assert f"{x[0, 0]:03d}" == "001"
    assert (x == x).all() and (x == None) is False  # noqa: E711
    assert x.T.tolist() == [[1, 3], [2, 4]] and x.size(0) == 2 and x.numel() == 4 and x.dim() == 2


def test_dlpack_both_ways() -> None:
    ours = Tensor(np.arange(6.0).reshape(2, 3))
    theirs = torch.from_dlpack(ours)
    theirs[0, 0] = 9
    assert ours.data[0, 0] == 9
    back = tinyconv.from_dlpack(theirs)
    assert np.shares_memory(back.data, ours.data)
    assert np.shares_memory(np.from_dlpack(ours), ours.data)
    with pytest.raises(BufferError, match="detach"):
        torch.from_dlpack(leaf(2))


# --------------------------------------------------------------------------------------------------
# Indexing


@st.composite
def keys(draw: st.DrawFn) -> Any:
    """Any legal index of a (3, 4, 5) tensor, as a function of the engine."""
    parts: list[Any] = []
    for n in (3, 4, 5)[: draw(st.integers(0, 3))]:
        kind = draw(st.integers(0, 4))
        if kind == 0:
            parts.append(draw(st.integers(-n, n - 1)))
        elif kind == 1:
            parts.append(slice(draw(st.integers(-n, n)), draw(st.integers(-n, n) | st.none()), draw(st.integers(1, 3))))
        elif kind == 2:
            parts.append(draw(st.lists(st.integers(-n, n - 1), min_size=2, max_size=2)))
        elif kind == 3:
            parts.append(np.array(draw(st.lists(st.integers(0, n - 1), min_size=2, max_size=2))))
        else:
            parts.extend([None, slice(None)])
    return tuple(parts)


@given(keys(), st.integers(0, 1000))
def test_indexing_equals_torchs(key: Any, seed: int) -> None:
    values = np.random.default_rng(seed).standard_normal((3, 4, 5))
    x, t = Tensor(values, requires_grad=True), torch.tensor(values, requires_grad=True)
    torch_key = tuple(torch.from_numpy(k) if isinstance(k, np.ndarray) else k for k in key)
    y, z = x[key], t[torch_key]
    a, b = Tensor(values.copy()), torch.tensor(values)
    b[torch_key] = torch.arange(z.numel(), dtype=torch.float64).reshape(z.shape)
    a[key] = np.arange(float(z.numel())).reshape(z.shape)
    np.testing.assert_array_equal(a.data, b.numpy())
    np.testing.assert_array_equal(y.data, z.detach().numpy())
    v = np.random.default_rng(seed + 1).standard_normal(y.shape)
    y.backward(Tensor(v))
    z.backward(torch.from_numpy(v))
    np.testing.assert_allclose(x.grad.data, t.grad.numpy(), rtol=1e-14)


def test_assignment_by_index_equals_numpys() -> None:
    for key, value in (((slice(1, 3),), 7.0), ((1, 2), 5.0), (([0, 2],), np.ones(4)), ((slice(None), 1), 0.5)):
        array = rng.standard_normal((3, 4))
        t = Tensor(array.copy())
        array[key] = value
        t[key] = value
        np.testing.assert_array_equal(t.data, array)


def test_masks() -> None:
    values = rng.standard_normal((3, 4))
    x, t = Tensor(values, requires_grad=True), torch.tensor(values, requires_grad=True)
    for mask in (values > 0, values[:, 0] > 0):
        y, z = x[Tensor(mask)], t[torch.from_numpy(mask)]
        np.testing.assert_array_equal(y.data, z.detach().numpy())
        v = rng.standard_normal(y.shape)
        (g,), (h,) = grad(y, x, Tensor(v)), torch.autograd.grad(z, t, torch.from_numpy(v))
        np.testing.assert_array_equal(g.data, h.numpy())
    with pytest.raises(IndexError, match=re.escape("(3, 4)")):
        x[Tensor(np.ones(2, bool))]


# --------------------------------------------------------------------------------------------------
# repr


def test_repr() -> None:
    assert repr(tinyconv.tensor([1.0, 2.5])) == "tensor([1. , 2.5])"
    assert repr(tinyconv.tensor([1, 2])) == "tensor([1, 2])"
    assert "requires_grad=True" in repr(leaf(2)) and "dtype=float64" in repr(leaf(2))
    assert "grad_fn=Mul" in repr(leaf(2) * 2)
    big = repr(Tensor(np.zeros((100, 100), np.float32)))
    assert "shape=(100, 100)" in big and len(big.splitlines()) < 12
    assert repr(Tensor(np.float32(3))) == "tensor(3.)"
