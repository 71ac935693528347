"""Interpolation, padding, grid sampling and pixel shuffling against torch, and the wrong calls."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as TF
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from compare import FINITE, RUNGS, A, Call, Turn, as_torch, check
from tinyconv import Tensor, gradcheck, gradgradcheck, kernels
from tinyconv import functional as F
from windowed import on_every_rung, refused, some, spelled, turns

WITH_NAN = (*FINITE, "nan")

# --------------------------------------------------------------------------------------------------
# interpolate

MODES = {
    1: ("nearest", "nearest-exact", "area", "linear"),
    2: ("nearest", "nearest-exact", "area", "bilinear", "bicubic"),
}
MODES[3] = ("nearest", "nearest-exact", "area", "trilinear")


def near_an_integer(n: int, m: int, scale: float | None) -> bool:
    """Is a nearest-exact position a rounding error away from a whole number, where torch's own kernels disagree?"""
    ratio = n / m if scale is None else 1 / scale
    at = (np.arange(m) + 0.5) * ratio
    return bool((np.abs(at - np.rint(at)) < 1e-5).any())


@st.composite
def resizings(draw: st.DrawFn) -> Call:
    rank = draw(st.sampled_from([1, 2, 2, 3]))
    mode = draw(st.sampled_from(MODES[rank]))
    size = some(draw, rank, st.integers(1, 6))
    arguments: dict[str, Any] = {"mode": mode}
    scales: list[float | None] = [None] * rank
    copied = False
    if draw(st.booleans()):
        output = some(draw, rank, st.integers(1, 8))
        arguments["size"] = spelled(draw, output)
    else:
        factors = [draw(st.sampled_from([0.5, 0.7, 1.0, 1.3, 1.5, 2.0, 2.7])) for _ in range(rank)]
        assume(all(int(n * f) >= 1 for n, f in zip(size, factors)))
        output = tuple(int(n * f) for n, f in zip(size, factors))
        arguments["scale_factor"] = factors if draw(st.booleans()) or len(set(factors)) > 1 else factors[0]
        arguments["recompute_scale_factor"] = draw(st.sampled_from([None, True, False]))
        if not arguments["recompute_scale_factor"]:
            scales = list(factors)
            copied = any(n == m and f != 1 for n, m, f in zip(size, output, factors))
            # Torch's nearest kernels for the two memory formats disagree here: one copies, the other uses the scale.
            assume(not (copied and mode.startswith("nearest")))
            # Where no size changes torch's bicubic backward copies, though its forward uses the scale: see below.
            assume(not (copied and mode == "bicubic" and size == output))
    if mode == "nearest-exact":
        assume(not any(near_an_integer(n, m, s) for n, m, s in zip(size, output, scales)))
    if "linear" in mode or "cubic" in mode:
        arguments["align_corners"] = draw(st.sampled_from([None, True, False]))
    if mode in ("bilinear", "bicubic"):
        # Where only the scale changes torch's antialiased image is a copy and its gradient is that of something else;
        # where it is one pixel wide torch repeats its first row.
        arguments["antialias"] = draw(st.booleans()) and not copied and output[-1] > 1
    return Call((A((draw(st.sampled_from([0, 1, 2])), 2, *size)),), arguments)


@settings(max_examples=150)
@given(resizings(), turns())
def test_interpolation_is_that_of_torch(call: Call, turn: Any) -> None:
    # torch has no second derivative of the antialiased ones, and none is interesting: the operator is linear.
    on_every_rung(F.interpolate, TF.interpolate, call, turn, order=1, same_precision=True)


def test_the_bicubic_gradient_is_that_of_the_values_where_torchs_is_not() -> None:
    x = np.random.default_rng(0).standard_normal((1, 2, 1, 2))
    options = {"scale_factor": [1.0, 1.3], "mode": "bicubic"}
    theirs = torch.tensor(x, requires_grad=True)
    np.testing.assert_allclose(F.interpolate(Tensor(x), **options).data, TF.interpolate(theirs, **options).detach())
    assert gradcheck(lambda t: F.interpolate(t, **options), (Tensor(x, requires_grad=True),))
    with pytest.raises(RuntimeError, match="Jacobian mismatch"):
        torch.autograd.gradcheck(lambda t: TF.interpolate(t, **options), (theirs,))


@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8"])
@pytest.mark.parametrize("mode", ["nearest", "nearest-exact"])
def test_the_nearest_pixel_is_that_of_torch_for_all_small_sizes(mode: str, dtype: str) -> None:
    for n in range(1, 25):
        x = np.arange(n).astype(dtype)[None, None]
        for m in range(1, 41):
            if mode == "nearest" or not near_an_integer(n, m, None):
                found, expected = F.interpolate(x, m, mode=mode).data, TF.interpolate(as_torch(x), m, mode=mode).numpy()
                np.testing.assert_array_equal(found, expected, err_msg=f"{n} to {m}")


@pytest.mark.parametrize("rung", RUNGS)
def test_a_nan_reaches_only_what_uses_it(rung: str) -> None:
    x = np.zeros((1, 1, 5))
    x[0, 0, 2] = np.nan
    with kernels.use_kernels(rung):
        assert np.isnan(F.interpolate(x, 10).data).ravel().nonzero()[0].tolist() == [4, 5]
        assert np.isnan(F.interpolate(x, 10, mode="linear").data).ravel().nonzero()[0].tolist() == [3, 4, 5, 6]
        assert np.isnan(F.adaptive_avg_pool1d(x, 2).data).ravel().tolist() == [True, True]
        assert np.isnan(F.pad(x, (2, 1), mode="reflect").data).ravel().nonzero()[0].tolist() == [0, 4]


# --------------------------------------------------------------------------------------------------
# pad


@st.composite
def paddings(draw: st.DrawFn) -> Call:
    mode = draw(st.sampled_from(["constant", "reflect", "replicate", "circular"]))
    rank = draw(st.integers(1, 3))
    size = some(draw, rank, st.integers(1, 5))
    pairs = []
    for n in size:
        limit = {"constant": 3, "reflect": n - 1, "replicate": 3, "circular": n}[mode]
        before, after = (draw(st.integers(-1, limit)) for _ in range(2))
        if mode == "circular" and min(before, after) < 0:
            before, after = min(before, n - 1), min(after, n - 1)
        low = 0 if mode == "constant" else 1
        pairs.append((before, after) if n + before + after >= low else (0, 0))
    flat = tuple(p for pair in reversed(pairs) for p in pair)
    arguments: dict[str, Any] = {"mode": mode}
    if mode == "constant" and draw(st.booleans()):
        arguments["value"] = draw(st.sampled_from([-1.5, 0, 2]))
    batch = draw(st.sampled_from([(2,), (2, 1), (0, 2)]))
    return Call((A((*batch, *size)), flat), arguments)


@settings(max_examples=100)
@given(paddings(), turns(WITH_NAN))
def test_padding_is_that_of_torch(call: Call, turn: Any) -> None:
    on_every_rung(F.pad, TF.pad, call, turn)


@pytest.mark.parametrize("mode", ["constant", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("dtype", ["int64", "uint8"])
def test_integers_are_padded_as_they_are(mode: str, dtype: str) -> None:
    x = (np.arange(24).reshape(2, 3, 4) + (2**60 if dtype == "int64" else 0)).astype(dtype)
    for rung in RUNGS:
        with kernels.use_kernels(rung):
            found = F.pad(x, (2, 1), mode)
        expected = TF.pad(as_torch(x), (2, 1), mode).numpy()
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found.data, expected)


def test_a_constant_pads_any_axes() -> None:
    x = np.ones((2, 3))
    assert F.pad(x, (0, 0, 1, 0), value=4).data.tolist() == [[4] * 3, [1] * 3, [1] * 3]
    assert F.pad(x, ()).data.tolist() == x.tolist()
    assert F.pad(x, (-1, -2)).shape == (2, 0)
    assert F.pad(np.array([True]), (1, 1)).data.tolist() == [False, True, False]


# --------------------------------------------------------------------------------------------------
# grid_sample and affine_grid


@st.composite
def samplings(draw: st.DrawFn) -> Call:
    rank = draw(st.sampled_from([2, 2, 3]))
    mode = draw(st.sampled_from(["bilinear", "nearest", "bicubic"][: 3 if rank == 2 else 2]))
    size, output = some(draw, rank, st.integers(1, 4)), some(draw, rank, st.integers(1, 3))
    batch = draw(st.sampled_from([0, 1, 2]))
    arguments = {"mode": mode, "padding_mode": draw(st.sampled_from(["zeros", "border", "reflection"]))}
    arguments["align_corners"] = draw(st.booleans())
    return Call((A((batch, 2, *size)), A((batch, *output, rank))), arguments)


@settings(max_examples=120)
@given(samplings(), turns(("normal",)))
def test_grid_sampling_is_that_of_torch(call: Call, turn: Any) -> None:
    on_every_rung(F.grid_sample, TF.grid_sample, call, turn, order=1, same_precision=True, factor=16.0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection"])
@pytest.mark.parametrize(
    ("mode", "content"),
    # Not bicubic with infinities: whether a weight is rounded to 0 or to next to it decides between NaN and infinity.
    [(m, c) for m in ("nearest", "bilinear", "bicubic", "trilinear") for c in ("normal", "nan", "infinite")
     if (m, c) != ("bicubic", "infinite")],
)  # fmt: skip
def test_sampling_at_many_points_is_that_of_torch(mode: str, padding_mode: str, content: str, dtype: str) -> None:
    """More points than fit a block of the compiled kernels, and pixels that are not finite."""
    size, output = ((4, 5, 3), (7, 9, 11)) if mode == "trilinear" else ((7, 6), (19, 31))
    arguments = {"mode": mode.replace("trilinear", "bilinear"), "padding_mode": padding_mode, "align_corners": False}
    call = Call((A((2, 3, *size)), A((2, *output, len(size)), "finite")), arguments)
    for rung in ("im2col", "numba"):
        with kernels.use_kernels(rung):
            turn = Turn(3, content, dtype=dtype)
            check(F.grid_sample, TF.grid_sample, call, turn, same_precision=True, factor=16.0)


@pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("mode", ["bilinear", "bicubic", "trilinear"])
def test_derivatives_of_grid_sampling_against_finite_differences(mode: str, padding_mode: str) -> None:
    """First and second, in the image and in the points, away from the kinks at whole pixels."""
    rng = np.random.default_rng(2)
    rank = 3 if mode == "trilinear" else 2
    x = Tensor(rng.standard_normal((1, 1, *(3, 4, 3)[:rank])), requires_grad=True)
    grid = Tensor(rng.uniform(-1.4, 1.4, (1, *(2, 2, 1)[:rank], rank)), requires_grad=True)

    def sample(x: Tensor, grid: Tensor) -> Tensor:
        return F.grid_sample(x, grid, "bicubic" if mode == "bicubic" else "bilinear", padding_mode, align_corners=False)

    assert gradcheck(sample, (x, grid))
    assert gradgradcheck(sample, (x, grid))


def test_points_that_are_nan() -> None:
    """Of the padding modes only zeros is defined in torch; the others read NaN as -1, as its manual says."""
    x, grid = np.arange(1.0, 10).reshape(1, 1, 3, 3), np.full((1, 1, 1, 2), np.nan)
    for mode in ("bilinear", "nearest", "bicubic"):
        expected = TF.grid_sample(as_torch(x), as_torch(grid), mode, "zeros", False).numpy()
        np.testing.assert_array_equal(F.grid_sample(x, grid, mode, "zeros", False).data, expected)
    for padding_mode in ("border", "reflection"):
        for mode in ("bilinear", "nearest"):
            assert F.grid_sample(x, grid, mode, padding_mode, False).data.item() == 1


def test_the_nearest_pixel_has_the_gradient_zero_in_the_points() -> None:
    x, grid = np.ones((1, 1, 3, 3)), np.array([[[[0.3, 5.0], [np.nan, -0.2]]]])
    points = Tensor(grid, requires_grad=True)
    y = F.grid_sample(x, points, "nearest", align_corners=False)
    assert y.data.tolist() == [[[[0, 0]]]]
    y.sum().backward()
    assert not points.grad.data.any()


def test_a_nan_pixel_outside_the_points_is_not_read() -> None:
    x = np.full((1, 1, 3, 3), np.nan)
    x[0, 0, 1:, 1:] = 1.0
    grid = np.full((1, 1, 1, 2), 0.4)
    assert F.grid_sample(x, grid, align_corners=True).data.item() == 1
    assert F.grid_sample(x, grid + 100, align_corners=True).data.item() == 0


@settings(max_examples=30)
@given(st.sampled_from([2, 3]), st.lists(st.integers(1, 4), min_size=5, max_size=5), st.booleans(), turns())
def test_affine_grids_are_those_of_torch(rank: int, sizes: list[int], align_corners: bool, turn: Any) -> None:
    size = tuple(sizes[: rank + 2])
    call = Call((A((size[0], rank, rank + 1)), size), {"align_corners": align_corners})
    on_every_rung(F.affine_grid, TF.affine_grid, call, turn)


def test_the_identity_grid_returns_the_image() -> None:
    x = np.random.default_rng(0).standard_normal((1, 2, 4, 5))
    theta = np.array([[[1.0, 0, 0], [0, 1, 0]]])
    for align_corners in (False, True):
        y = F.grid_sample(x, F.affine_grid(theta, x.shape, align_corners), align_corners=align_corners)
        np.testing.assert_allclose(y.data, x, rtol=1e-12, atol=1e-12)


# --------------------------------------------------------------------------------------------------
# Pixels between channels and space


@pytest.mark.parametrize("batch", [(), (2,), (0,), (2, 3)])
def test_shuffling_is_that_of_torch(batch: tuple[int, ...]) -> None:
    x = np.arange(int(np.prod(batch)) * 18 * 4 * 6, dtype=float).reshape(*batch, 18, 4, 6)
    np.testing.assert_array_equal(F.pixel_shuffle(x, 3).data, TF.pixel_shuffle(as_torch(x), 3).numpy())
    if x.size:  # torch returns an empty batch unchanged
        np.testing.assert_array_equal(F.pixel_unshuffle(x, 2).data, TF.pixel_unshuffle(as_torch(x), 2).numpy())
    np.testing.assert_array_equal(F.pixel_unshuffle(F.pixel_shuffle(x, 3), 3).data, x)


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_channel_shuffling_is_that_of_torch(groups: int) -> None:
    x = np.arange(2 * 6 * 4.0).reshape(2, 6, 2, 2)
    np.testing.assert_array_equal(F.channel_shuffle(x, groups).data, TF.channel_shuffle(as_torch(x), groups).numpy())


def test_shuffling_has_gradients() -> None:
    x = Tensor(np.random.default_rng(1).standard_normal((1, 8, 2, 2)), requires_grad=True)
    assert gradcheck(lambda x: F.pixel_shuffle(x, 2), x)
    assert gradcheck(lambda x: F.pixel_unshuffle(x, 2), x)
    assert gradcheck(lambda x: F.channel_shuffle(x, 2), x)


def test_resizing_and_padding_are_linear_with_exact_differences() -> None:
    x = Tensor(np.random.default_rng(1).integers(-3, 4, (1, 1, 4, 5)).astype(float), requires_grad=True)
    for function in (
        lambda x: F.interpolate(x, (7, 3), mode="bicubic", align_corners=True),
        lambda x: F.interpolate(x, (2, 9), mode="bilinear", antialias=True),
        lambda x: F.pad(x, (2, 1, 3, 0), "reflect"),
        lambda x: F.pad(x, (2, -1, 3, 0), "circular"),
        lambda x: F.pad(x, (-1, 1, 3, 0), "replicate"),
        lambda x: F.pad(x, (2, 1, -1, 0)),
    ):
        assert gradcheck(function, x, eps=1.0, atol=1e-12, rtol=1e-12)
        assert gradgradcheck(lambda x, function=function: function(x * x), x, fast=True)


# --------------------------------------------------------------------------------------------------
# Wrong calls


def ones(*shape: int, dtype: str = "float32") -> np.ndarray:
    return np.ones(shape, dtype)


S, X, V = ones(1, 2, 5), ones(1, 2, 5, 5), ones(1, 2, 5, 5, 5)
GRID = ones(1, 3, 3, 2)
WRONG = [
    ("neither size nor scale", "interpolate", (X,), {}, "size | scale_factor"),
    ("both", "interpolate", (X, 4, 2.0), {}, "size=4 | scale_factor=2.0"),
    ("mode", "interpolate", (X, 4), {"mode": "lanczos5"}, "mode | 'lanczos5'"),
    ("mode for another rank", "interpolate", (S, 4), {"mode": "bilinear"}, "4 axes | mode='linear'"),
    ("cubic signal", "interpolate", (S, 4), {"mode": "bicubic"}, "4 axes"),
    ("linear image", "interpolate", (X, 4), {"mode": "linear"}, "3 axes | mode='bilinear'"),
    ("rank", "interpolate", (ones(5, 5), 4), {}, "(5, 5)"),
    ("corners of nearest", "interpolate", (X, 4), {"align_corners": True}, "align_corners"),
    ("corners of area", "interpolate", (X, 4), {"mode": "area", "align_corners": False}, "align_corners"),
    ("sizes", "interpolate", (X, (4, 4, 4)), {}, "size | 2 ints"),
    ("size zero", "interpolate", (X, 0), {}, "size"),
    ("size fractional", "interpolate", (X, 3.5), {}, "size | 3.5"),
    ("scale zero", "interpolate", (X,), {"scale_factor": 0.0}, "scale_factor"),
    ("scale too small", "interpolate", (X,), {"scale_factor": 0.1}, "scale_factor | (0, 0)"),
    ("scales", "interpolate", (X,), {"scale_factor": (2.0,)}, "scale_factor"),
    ("recompute with size", "interpolate", (X, 4), {"recompute_scale_factor": True}, "recompute_scale_factor"),
    ("antialias nearest", "interpolate", (X, 4), {"antialias": True}, "antialias"),
    ("antialias volume", "interpolate", (V, 4), {"mode": "trilinear", "antialias": True}, "antialias"),
    ("no channels", "interpolate", (ones(1, 0, 5), 4), {}, "(1, 0, 5)"),
    ("no pixels", "interpolate", (ones(1, 1, 0), 4), {}, "(1, 1, 0)"),
    ("integers", "interpolate", (ones(1, 1, 4, dtype="int64"), 4), {}, "int64"),
    ("pad odd", "pad", (X, (1, 2, 3)), {}, "pair | 3"),
    ("pad more axes", "pad", (ones(5), (1, 1, 1, 1)), {}, "2 axes | 1"),
    ("pad mode", "pad", (X, (1, 1, 1, 1)), {"mode": "edge"}, "'reflect' | 'edge'"),
    ("pad value of a mode", "pad", (S, (1, 1)), {"mode": "reflect", "value": 1.0}, "value"),
    ("pad crop too far", "pad", (S, (-3, -3)), {}, "(-3, -3) | 5"),
    ("pad crop one side", "pad", (S, (2, -8)), {}, "-8"),
    ("reflect too far", "pad", (S, (5, 0)), {"mode": "reflect"}, "reflection | 5"),
    ("circular too far", "pad", (S, (6, 0)), {"mode": "circular"}, "circular | 5"),
    ("replicate to nothing", "pad", (S, (-2, -3)), {"mode": "replicate"}, "(-2, -3)"),
    ("reflect some axes", "pad", (X, (1, 1)), {"mode": "reflect"}, "Give (0, 0)"),
    ("replicate no channels", "pad", (ones(1, 0, 5), (1, 1)), {"mode": "replicate"}, "(1, 0, 5)"),
    ("reflect four axes", "pad", (ones(1, 1, 3, 3, 3, 3), (1,) * 8), {"mode": "reflect"}, "4 pairs"),
    ("pad fractional", "pad", (S, (1.5, 1)), {}, "1.5"),
    ("grid mode", "grid_sample", (X, GRID), {"mode": "cubic"}, "'bicubic' | 'cubic'"),
    ("grid padding mode", "grid_sample", (X, GRID), {"padding_mode": "reflect"}, "'reflection' | 'reflect'"),
    ("grid rank", "grid_sample", (X, ones(1, 3, 3, 3, 2)), {}, "(1, 3, 3, 3, 2)"),
    ("grid batch", "grid_sample", (X, ones(2, 3, 3, 2)), {}, "(1, OH, OW, 2) | (2, 3, 3, 2)"),
    ("grid coordinates", "grid_sample", (X, ones(1, 3, 3, 3)), {}, "(1, OH, OW, 2)"),
    ("grid dtype", "grid_sample", (X, GRID.astype("float64")), {}, "float32 | float64"),
    ("grid integers", "grid_sample", (X.astype("int64"), GRID.astype("int64")), {}, "int64"),
    ("grid signal", "grid_sample", (S, ones(1, 3, 2)), {}, "(1, 2, 5)"),
    ("grid bicubic volume", "grid_sample", (V, ones(1, 2, 2, 2, 3)), {"mode": "bicubic"}, "bicubic"),
    ("grid no pixels", "grid_sample", (ones(1, 1, 0, 3), GRID), {}, "(1, 1, 0, 3)"),
    ("affine rank", "affine_grid", (ones(1, 2, 3), (1, 1, 2)), {}, "(1, 1, 2)"),
    ("affine batch", "affine_grid", (ones(1, 2, 3), (2, 1, 2, 2)), {}, "(2, 2, 3) | (1, 2, 3)"),
    ("affine empty", "affine_grid", (ones(1, 2, 3), (1, 1, 0, 2)), {}, "(1, 1, 0, 2)"),
    ("affine integers", "affine_grid", (ones(1, 2, 3, dtype="int64"), (1, 1, 2, 2)), {}, "int64"),
    ("shuffle rank", "pixel_shuffle", (ones(4, 4), 2), {}, "(4, 4)"),
    ("shuffle channels", "pixel_shuffle", (ones(3, 4, 4), 2), {}, "4 | (3, 4, 4)"),
    ("shuffle negative", "pixel_shuffle", (ones(4, 4, 4), -2), {}, "upscale_factor"),
    ("unshuffle size", "pixel_unshuffle", (ones(4, 3, 4), 2), {}, "downscale_factor=2 | (4, 3, 4)"),
    ("channel shuffle groups", "channel_shuffle", (ones(1, 4, 3, 3), 3), {}, "groups=3"),
    ("channel shuffle rank", "channel_shuffle", (ones(4, 3), 2), {}, "(4, 3)"),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:Default grid_sample")
@pytest.mark.parametrize(("name", "args", "options", "named"), [pytest.param(*w[1:], id=w[0]) for w in WRONG])
def test_wrong_calls_are_refused_in_words(
    name: str, args: tuple[Any, ...], options: dict[str, Any], named: str
) -> None:
    refused(getattr(F, name), getattr(TF, name), args, named, **options)
