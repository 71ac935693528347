"""The CUDA kernels as machine code for three generations of GPUs, and their launcher. Their results are tested with
those of every other rung, in the emulator: test_kernels.py, test_operators.py, test_conv.py, test_pool.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import nvrtc
from compare import RUNGS
from tinyconv import kernels
from tinyconv.cuda_on_cpu import kernels_of
from tinyconv.geometry import window_geometry
from tinyconv.kernels import cuda
from tinyconv.kernels.cuda import convolution, launcher, normalisation

emulated = pytest.mark.skipif("cuda" not in RUNGS, reason="no C++ compiler is here, which the emulator needs")

FILES = sorted(path.name for path in Path(launcher.__file__).parent.glob("*.cu"))

#: Registers a thread, so that a multiprocessor of 65,536 holds 1,024 threads; 900 where each has 16 and more numbers of
#: float64, 512 where it makes 4 x 4 results, 256 where it holds 128 sums of a tensor core.
REGISTERS = dict.fromkeys(FILES, 64) | dict.fromkeys(("corners.cu", "maps.cu", "norm.cu", "update.cu"), 72)
REGISTERS |= dict.fromkeys(("tiled.cu", "winograd.cu"), 128) | dict.fromkeys(("bf16.cu", "tf32.cu"), 255)
SHARED = 48 << 10  #: bytes a block

#: Tensor cores multiply these since sm_80, and no doubles.
ON_TENSOR_CORES = ("bf16.cu", "tf32.cu")
BUILDS = [
    (file, dtype, architecture)
    for file in FILES
    for dtype in launcher.REALS
    for architecture in nvrtc.ARCHITECTURES
    if file not in ON_TENSOR_CORES or (dtype == np.float32 and architecture != "sm_75")
]


@pytest.mark.skipif(nvrtc.library() is None, reason="nvidia-cuda-nvrtc is not installed")
@pytest.mark.parametrize(("file", "dtype", "architecture"), BUILDS, ids=str)
def test_every_kernel_is_machine_code_within_its_budget(file: str, dtype: np.dtype, architecture: str) -> None:
    source = launcher.source(file, dtype)
    used = nvrtc.compile_for(source, architecture)
    assert set(used) == set(kernels_of(source))
    for name, row in used.items():
        assert row.registers <= REGISTERS[file] and row.spills == 0 and row.shared <= SHARED, (name, row)


@pytest.mark.skipif(nvrtc.library() is None, reason="nvidia-cuda-nvrtc is not installed")
def test_the_budget_counts() -> None:
    # A block's array of 4 KiB, and 64 numbers a thread that all live at once.
    source = """extern "C" __global__ void k(const float* x, float* y) {
        __shared__ float tile[1024];
        tile[threadIdx.x] = x[threadIdx.x];
        __syncthreads();
        float v[64];
        for (int i = 0; i < 64; ++i) v[i] = x[i * 64 + threadIdx.x];
        for (int i = 0; i < 64; ++i) y[i * 64 + threadIdx.x] = v[63 - i] + v[(i * 7) % 64] + tile[i];
    }"""
    row = nvrtc.compile_for(source, "sm_80")["k"]
    assert row.shared == 4096 and row.registers > 64
    with pytest.raises(AssertionError, match="foo"):
        nvrtc.compile_for('extern "C" __global__ void k() { foo(); }', "sm_80")


def test_the_docstring_names_every_file() -> None:
    assert re.findall(r"^    (\w+\.cu) ", cuda.__doc__ or "", re.MULTILINE) == FILES


def test_numpy_arrays_are_emulated_only_where_it_is_asked_for() -> None:
    assert kernels.kernel("conv").__module__ == "tinyconv.kernels.cpu.convolution"
    with kernels.use_kernels("cuda"):
        assert kernels.kernel("conv").__module__ == "tinyconv.kernels.cuda.convolution"
        assert kernels.table()["conv"] == "cuda" and kernels.table()["relu"] == "cuda"
        assert kernels.kernel("conv", np.zeros(3, np.float16)).__module__ == "tinyconv.kernels.im2col"
    with kernels.use_kernels("numba"):
        assert kernels.table()["conv"] == "numba"


def test_the_launcher_checks_what_a_gpu_would_misread() -> None:
    g = window_geometry("test", (4,), (2,))
    x, y = np.zeros((1, 1, 4), np.float32), np.zeros((1, 1, 3), np.float32)
    indices = np.zeros((1, 1, 3), np.int64)
    window = launcher.window(g)
    with pytest.raises(TypeError, match=r"max_pool: indices must be a C-contiguous numpy.ndarray of int64.*int32"):
        launcher.launch("pool.cu", "max_pool", 1, (x, y, indices.astype(np.int32), 1, 3, window))
    with pytest.raises(TypeError, match=r"y must be a C-contiguous.*strides .12, 12, -4"):
        launcher.launch("pool.cu", "max_pool", 1, (x, y[..., ::-1], indices, 1, 3, window))
    with pytest.raises(TypeError, match="takes 6 arguments, but 3"):
        launcher.launch("pool.cu", "max_pool", 1, (x, y, indices))
    with pytest.raises(OverflowError):
        launcher.launch("pool.cu", "max_pool", 1, (x, y, indices, 1, 1 << 70, window))


@st.composite
def layers(draw: st.DrawFn) -> tuple[Any, ...]:
    """(batch, groups, channels in and out, size, kernel, stride, padding, dilation): more than a tile, or less."""
    rank, groups = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    c_in, c_out = (groups * draw(st.sampled_from([1, 5, 16, 17])), groups * draw(st.sampled_from([1, 3, 65])))
    axes = [[draw(st.integers(1, top)) for _ in range(rank)] for top in (3, 2, 2, 2)]
    kernel, stride, dilation, more = axes
    padding = [draw(st.integers(0, 2)) for _ in range(rank)]
    size = [max(1, d * (k - 1) + m - 2 * p) for k, d, m, p in zip(kernel, dilation, more, padding)]
    size[-1] += draw(st.sampled_from([0, 1, 70 if rank == 1 else 9]))
    return draw(st.integers(1, 3)), groups, c_in, c_out, size, kernel, stride, padding, dilation


@pytest.fixture(scope="module")
def monkeypatch_module() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@emulated
@given(layer=layers(), share=st.sampled_from([1, 8, 1024]), dtype=st.sampled_from([np.float32, np.float64]))
@settings(max_examples=30, deadline=None)
def test_tiles_are_torchs_convolution(
    layer: tuple[Any, ...], share: int, dtype: type, monkeypatch_module: pytest.MonkeyPatch
) -> None:
    batch, groups, c_in, c_out, size, kernel, stride, padding, dilation = layer
    g = window_geometry("test", tuple(size), kernel, stride, padding, dilation)
    generator = np.random.default_rng(c_in)
    x = generator.standard_normal((batch, c_in, *size)).astype(dtype)
    w = generator.standard_normal((c_out, c_in // groups, *kernel)).astype(dtype)
    gy = generator.standard_normal((batch, c_out, *g.output)).astype(dtype)
    tx, tw = (torch.tensor(a, dtype=torch.float64, requires_grad=True) for a in (x, w))
    convolve = (torch.nn.functional.conv1d, torch.nn.functional.conv2d, torch.nn.functional.conv3d)[g.rank - 1]
    expected = convolve(tx, tw, None, stride, padding, dilation, groups)
    (expected * torch.tensor(gy)).sum().backward()
    terms, unit = max(w[0].size, gy[:, 0].size), np.finfo(dtype).eps
    monkeypatch_module.setattr(convolution, "_SHARE", share)
    for found, right in (
        (convolution.conv_tiled(x, w, g, groups), expected.detach()),
        (convolution.conv_weight_tiled(x, gy, g, groups), tw.grad),
    ):
        assert right is not None and found.dtype == dtype
        np.testing.assert_allclose(found, right.numpy(), rtol=0, atol=8 * terms * unit)


@emulated
def test_the_weight_gradient_has_the_same_bits_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution, "_SHARE", 40)
    g = window_geometry("test", (12, 12), (3, 3), padding=1)
    x, gy = np.random.default_rng(0).standard_normal((2, 2, 5, 12, 12), np.float32)
    first = convolution.conv_weight_tiled(x, gy, g, 1)
    assert first.tobytes() == convolution.conv_weight_tiled(x, gy, g, 1).tobytes()


def test_the_norms_of_networks_lie_as_the_kernels_want_them() -> None:
    layout, block = normalisation._layout, normalisation._block
    batch, instance, layer = ((0, 2, 3), (1, 8, 1, 1)), ((2, 3), (1, 8, 1, 1)), ((1, 2, 3), (1, 8, 5, 6))
    shape = (4, 8, 5, 6)
    assert [layout(shape, axes) for axes, _ in (batch, instance, layer)] == [(4, 8, 30), (1, 32, 30), (1, 4, 240)]
    assert [block(weight, shape) for _, weight in (batch, instance, layer)] == [(30, 8), (30, 8), (1, 240)]
    assert layout((4, 2, 4, 30), (2, 3)) == (1, 8, 120)  # group norm: (N, G, C/G, pixels), a weight a channel
    assert block((1, 2, 4, 1), (4, 2, 4, 30)) == (30, 8)
    assert block((1, 1, 1, 1), shape) == (960, 1)
    assert layout(shape, (1, 3)) is None and block((4, 1, 5, 1), shape) is None  # left to the array code


@emulated
def test_norms_run_in_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    launched = []
    launch = launcher.launch
    monkeypatch.setattr(normalisation, "launch", lambda *a: (launched.append(a[1]), launch(*a)))
    x = np.random.default_rng(0).standard_normal((3, 4, 5), np.float32)
    w = np.ones((1, 4, 1), np.float32)
    with kernels.use_kernels("cuda"):
        y, mean, var = kernels.normalise(x, w, w, (0, 2), 1e-5)
        kernels.normalise_grad(y, x, w, mean, var, (0, 2), 1e-5)
    forward, backward = ["statistics", "join_statistics", "scale_shift"], ["gradient_parts", "join_gradients"]
    assert launched == [*forward, *backward, "gradient_input"]
