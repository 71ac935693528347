"""Tensor cores: the instructions alone, and convolution by them, in the emulator.

What none of this shows: that the lanes of a real warp hold the elements that NVIDIA's tables say. Both sides of these
tests, the emulator and the kernels, were written after those tables.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from compare import RUNGS
from tinyconv.cuda_on_cpu import KernelError, RawKernel
from tinyconv.geometry import window_geometry
from tinyconv.kernels.cuda import tensor_cores

pytestmark = pytest.mark.skipif("cuda" not in RUNGS, reason="no C++ compiler is here, which the emulator needs")

#: Significant bits of the operands, and whether a number in the middle of two goes away from zero or to the even one.
PRECISIONS = {"tf32": (11, True), "bf16": (8, False)}


def rounded(x: np.ndarray, precision: str) -> np.ndarray:
    """x in float64, rounded by the definition: to a multiple of the last bit's unit, as far as the exponent goes."""
    bits, away = PRECISIONS[precision]
    with np.errstate(invalid="ignore"):
        x = x.astype(np.float64)
    unit = np.ldexp(1.0, np.maximum(np.frexp(x)[1], -125) - bits)  # below 2^-126 the unit stays
    with np.errstate(invalid="ignore"):
        number = np.where(np.isfinite(x), x / unit, x)
        y = (np.copysign(np.floor(np.abs(number) + 0.5), x) if away else np.rint(number)) * unit
    return np.where(np.abs(y) >= 2.0**128, np.copysign(np.inf, x), np.where(np.isfinite(x), y, x))


def kernel(body: str, arguments: str) -> RawKernel:
    return RawKernel(f'extern "C" __global__ void k({arguments}) {{\n{body}\n}}', "k")


# --- instructions -----------------------------------------------------------------------------------------------------

ROUND = kernel(
    "int i = threadIdx.x; tf32[i] = to_tf32(x[i]); bf16[i] = to_bf16(x[i], x[(i + 1) % blockDim.x]);",
    "const float* x, unsigned* tf32, unsigned* bf16",
)
ONE = 0x3F800000
EDGES = [0, 1, 0xFFF, 0x1000, 0x7FFFFF, 0x800000, 0x7F7FFFFF, 0x7F7FEFFF, 0x7F800000, 0x7F800001, 0x7FFFFFFF]
TIES = [ONE + step + 1 for middle in (0x1000, 0x3000, 0x8000, 0x18000) for step in (middle - 2, middle - 1, middle)]


@given(hnp.arrays(np.uint32, 32, elements=st.integers(0, 2**32 - 1)))
@example(np.array([bits | sign for bits in EDGES for sign in (0, 1 << 31)], np.uint32))
@example(np.array([bits | sign for bits in TIES for sign in (0, 1 << 31)], np.uint32))
def test_operands_are_rounded_to_the_nearest(patterns: np.ndarray) -> None:
    x = patterns.view(np.float32)
    tf32, pairs = np.zeros((2, len(x)), np.uint32)
    ROUND((1,), (len(x),), (x, tf32, pairs))
    number = ~np.isnan(x)
    np.testing.assert_array_equal(tf32.view(np.float32), rounded(x, "tf32"))
    assert np.array_equal(np.signbit(tf32.view(np.float32)[number]), np.signbit(x[number]))
    assert not np.any(tf32[number] & 0x1FFF)
    low, high = (pairs & 0xFFFF).astype(np.uint16), (pairs >> 16).astype(np.uint16)
    with np.errstate(all="ignore"):
        expected = x.astype(ml_dtypes.bfloat16)
    assert np.array_equal(low[number], expected.view(np.uint16)[number])
    np.testing.assert_array_equal(low.view(ml_dtypes.bfloat16).astype(np.float32), rounded(x, "bf16"))
    assert np.array_equal(high, np.roll(low, -1))


#: Each lane takes its words as the tables in the PTX ISA say, a word one number of TF32 or two of bf16.
PRODUCT = """
    const int K = {k};
    int g = threadIdx.x / 4, t = threadIdx.x % 4;
    auto word = [](const float* v, int next) {{ return {word}; }};
    unsigned fa[4], fb[2];
    float fc[4];
    for (int i = 0; i < 4; ++i) fa[i] = word(a + (g + i % 2 * 8) * K + (t + i / 2 * 4) * (K / 8), 1);
    for (int i = 0; i < 2; ++i) fb[i] = word(b + (t + i * 4) * (K / 8) * 8 + g, 8);
    for (int i = 0; i < 4; ++i) fc[i] = c[(g + i / 2 * 8) * 8 + 2 * t + i % 2];
    mma_{precision}(fc, fa, fb);
    for (int i = 0; i < 4; ++i) c[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = fc[i];"""
POINTERS = "const float* a, const float* b, float* c"
WORD = {"tf32": "to_tf32(v[0])", "bf16": "to_bf16(v[0], v[next])", "cut": "__float_as_uint(v[0])"}


def product(precision: str, word: str, seed: int) -> tuple[np.ndarray, ...]:
    """a (16, K), b (K, 8), c (16, 8) and what one warp makes of them."""
    k = 16 if precision == "bf16" else 8
    generator = np.random.default_rng(seed)
    a, b, c = (generator.standard_normal(shape, np.float32) for shape in ((16, k), (k, 8), (16, 8)))
    found = c.copy()
    text = PRODUCT.format(k=k, precision=precision, word=WORD[word])
    kernel(text, POINTERS)((1,), (32,), (a, b, found))
    return a, b, c, found


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("seed", range(3))
def test_one_warp_multiplies_and_adds(precision: str, seed: int) -> None:
    a, b, c, found = product(precision, precision, seed)
    right = rounded(a, precision) @ rounded(b, precision) + c
    assert np.abs(right).max() < 32
    np.testing.assert_allclose(found, right, rtol=0, atol=2.0**-20)  # half a unit of float32 from 16 to 32


def test_what_is_not_rounded_is_cut_off() -> None:
    a, b, c, found = product("tf32", "cut", 0)
    a, b = ((v.view(np.uint32) & 0xFFFFE000).view(np.float32).astype(np.float64) for v in (a, b))
    np.testing.assert_allclose(found, a @ b + c, rtol=0, atol=2.0**-20)


def test_infinity_and_nan_reach_their_row_or_column_alone() -> None:
    a, b, c = np.ones((16, 8), np.float32), np.ones((8, 8), np.float32), np.zeros((16, 8), np.float32)
    a[5, 3], b[2, 6] = np.inf, np.nan
    kernel(PRODUCT.format(k=8, precision="tf32", word=WORD["tf32"]), POINTERS)((1,), (32,), (a, b, c))
    right = np.full((16, 8), 8.0)
    right[5], right[:, 6] = np.inf, np.nan
    np.testing.assert_array_equal(c, right)


COPY = """
    __shared__ __align__(16) float tile[32];
    copy_async<4>(&tile[threadIdx.x], x + threadIdx.x, threadIdx.x < 20);
    copy_async_wait();
    __syncthreads();
    out[threadIdx.x] = tile[31 - threadIdx.x];"""

#: mistake: (body, threads, what is said of it)
WRONG = {
    "half a warp": (
        "float c[4] = {}; unsigned a[4] = {}, b[2] = {};\nif (threadIdx.x < 16) mma_tf32(c, a, b);",
        32,
        r"line 3.*waits in mma_tf32\(\) for lanes",
    ),
    "two places": (
        "float c[4] = {}; unsigned a[4] = {}, b[2] = {};\nif (threadIdx.x < 16) mma_bf16(c, a, b);\n"
        "else mma_bf16(c, a, b);",
        32,
        r"waits in mma_bf16\(\) for lanes",
    ),
    "a block that ends within a warp": (
        "float c[4] = {}; unsigned a[4] = {}, b[2] = {};\nmma_tf32(c, a, b);",
        48,
        r"thread \(32, 0, 0\), line 3.*needs all 32 threads",
    ),
    "no wait": (
        COPY.replace("copy_async_wait();", ""),
        32,
        r"line 7.*byte 124, to which a copy is still under way. Is a copy_async_wait",
    ),
    "no barrier": (
        COPY.replace("__syncthreads();", ""),
        32,
        r"line 7.*byte 124, which no thread.*yet. Is a __syncthreads",
    ),
    "a target that others still read": (
        COPY + "\nif (threadIdx.x == 31) copy_async<4>(&tile[3], x);",
        32,
        r"line 8.*a race: it writes shared memory\[12\], which thread \(28, 0, 0\) reads since the last barrier",
    ),
    "a target that is not aligned": (
        "__shared__ __align__(16) float tile[32];\ncopy_async<16>(tile + 1, x);",
        1,
        "line 3.*multiples",
    ),
    "a target that is not shared": ("copy_async<4>(out, x);", 1, "line 2.*copies to shared memory"),
    "a source beyond its array": (COPY.replace("x + threadIdx.x", "x + 13 + threadIdx.x"), 32, r"reads x\[32\]"),
}


def test_a_copy_has_come_after_the_wait() -> None:
    x, out = np.arange(1, 33, dtype=np.float32), np.zeros(32, np.float32)
    kernel(COPY, "const float* x, float* out")((1,), (32,), (x, out))
    assert np.array_equal(out[::-1], np.where(np.arange(32) < 20, x, 0))


@pytest.mark.parametrize("mistake", WRONG)
def test_a_mistake_is_found(mistake: str) -> None:
    body, threads, words = WRONG[mistake]
    x, out = np.zeros(32, np.float32), np.zeros(32, np.float32)
    with pytest.raises(KernelError, match=words):
        kernel(body, "const float* x, float* out")((1,), (threads,), (x, out))


# --- convolution ------------------------------------------------------------------------------------------------------


def faces(
    layer: tuple[Any, ...], precision: str | None, seed: int = 0
) -> tuple[tuple[np.ndarray, ...], dict[str, np.ndarray], Any]:
    """(x, w, gy), and by torch in float64 what each face makes of them, their operands rounded or not; the geometry."""
    batch, groups, c_in, c_out, size, taps, stride, padding, dilation = layer
    g = window_geometry("test", tuple(size), taps, stride, padding, dilation)
    generator = np.random.default_rng(seed)
    shapes = ((batch, c_in, *size), (c_out, c_in // groups, *taps), (batch, c_out, *g.output))
    arrays = tuple(generator.standard_normal(shape, np.float32) for shape in shapes)
    exact = (rounded(a, precision) if precision else a.astype(np.float64) for a in arrays)
    x, w, gy = (torch.tensor(a, requires_grad=True) for a in exact)
    convolve = (torch.nn.functional.conv1d, torch.nn.functional.conv2d, torch.nn.functional.conv3d)[g.rank - 1]
    y = convolve(x, w, None, stride, padding, dilation, groups)
    gx, gw = torch.autograd.grad(y, (x, w), gy)
    right = {"conv": y.detach().numpy(), "conv_input": gx.numpy(), "conv_weight": gw.numpy()}
    return arrays, right, g


def made(face: str, arrays: tuple[np.ndarray, ...], g: Any, groups: int, precision: str) -> np.ndarray:
    x, w, gy = arrays
    given = {"conv": (x, w), "conv_input": (gy, w), "conv_weight": (x, gy)}[face]
    return getattr(tensor_cores, face)(*given, g, groups, precision)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("face", ["conv", "conv_input", "conv_weight"])
def test_the_error_is_that_of_rounded_operands(face: str, precision: str) -> None:
    # An operand m 2^e with m in [1, 2) is off by up to half a unit, u = 2^-bits of 2^e, evenly: u / sqrt(3) in the mean
    # square. The mean of 1 / m^2 over mantissas as they occur (Benford) is 3 / (8 ln 2), and a product has two of them.
    bits, _ = PRECISIONS[precision]
    expected = 2.0**-bits * np.sqrt(2 / 3 * 3 / (8 * np.log(2)))
    assert expected == pytest.approx({"tf32": 2.9e-4, "bf16": 2.35e-3}[precision], rel=0.02)
    arrays, right, g = faces((2, 1, 32, 32, (12, 12), (3, 3), 1, 1, 1), None)
    error = made(face, arrays, g, 1, precision) - right[face]
    norm = np.linalg.norm(right[face])
    assert np.linalg.norm(error) / norm == pytest.approx(expected, rel=0.06)
    # To no side: operands cut off would take 2^-bits of each off, on average, towards zero.
    assert abs(np.vdot(error, right[face])) / norm**2 < 0.1 * expected


@st.composite
def layers(draw: st.DrawFn) -> tuple[Any, ...]:
    """(batch, groups, channels in and out, size, kernel, stride, padding, dilation): more than a tile, or less."""
    rank, groups = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    c_in, c_out = (groups * draw(st.sampled_from(sizes)) for sizes in ([1, 16, 17, 33], [1, 3, 65, 130]))
    if draw(st.booleans()):
        c_in, c_out = c_out, c_in
    axes = [[draw(st.integers(1, top)) for _ in range(rank)] for top in (3, 2, 2, 2)]
    taps, stride, dilation, more = axes
    padding = [draw(st.integers(0, 2)) for _ in range(rank)]
    size = [max(1, d * (k - 1) + m - 2 * p) for k, d, m, p in zip(taps, dilation, more, padding)]
    size[-1] += draw(st.sampled_from([0, 1, 130 if rank == 1 else 9]))
    return draw(st.integers(1, 3)), groups, c_in, c_out, size, taps, stride, padding, dilation


@given(layer=layers(), precision=st.sampled_from(list(PRECISIONS)), share=st.sampled_from([1, 3, 16]))
@settings(max_examples=12)
def test_tensor_cores_are_torchs_convolution(layer: tuple[Any, ...], precision: str, share: int) -> None:
    arrays, right, g = faces(layer, precision)
    terms = max(arrays[1][0].size, arrays[1][:, 0].size, arrays[2][:, 0].size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tensor_cores, "_LEAST_SHARE", share)
        for face, expected in right.items():
            found = made(face, arrays, g, layer[1], precision)
            np.testing.assert_allclose(found, expected, rtol=0, atol=8 * terms * 2.0**-24, err_msg=face)


def test_the_same_bits_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_cores, "_LEAST_SHARE", 1)
    arrays, _, g = faces((2, 1, 16, 16, (10, 10), (3, 3), 1, 1, 1), None)
    first, again = (made("conv_weight", arrays, g, 1, "tf32") for _ in range(2))
    assert first.tobytes() == again.tobytes()


def test_infinite_weights_meet_the_padding_but_no_pixel_that_nothing_reads() -> None:
    # Three pixels, two taps that lie two apart: the window reads the outer pixels, the middle one is read by nothing.
    (x, w, gy), _, g = faces((1, 1, 16, 16, (3,), (2,), 1, 0, 2), None)
    w[:] = np.inf
    gx = made("conv_input", (x, w, gy), g, 1, "tf32")
    assert np.array_equal(gx[:, :, 1], np.zeros((1, 16))) and not np.isfinite(gx[:, :, [0, 2]]).any()
    g = window_geometry("test", (3,), (2,), padding=1)
    y = made("conv", (np.ones_like(x), w, gy), g, 1, "tf32")  # 0 * inf at both ends
    np.testing.assert_array_equal(y, np.broadcast_to([np.nan, np.inf, np.inf, np.nan], (1, 16, 4)))


def test_which_layers_fit() -> None:
    g, strided = (window_geometry("test", (8, 8), (3, 3), stride, 1) for stride in (1, 2))
    assert tensor_cores.fits("conv", strided, 16, 64, 1) and tensor_cores.fits("conv_input", g, 16, 64, 1)
    assert not tensor_cores.fits("conv_input", strided, 16, 64, 1)
    assert not tensor_cores.fits("conv", g, 3, 64, 1) and not tensor_cores.fits("conv_weight", g, 64, 64, 64)
