"""The CUDA kernels as machine code for three generations of GPUs, and their launcher. Their results are tested with
those of every other rung, in the emulator: test_kernels.py, test_operators.py, test_conv.py, test_pool.py.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import nvrtc
from tinyconv import kernels
from tinyconv.cuda_on_cpu import kernels_of
from tinyconv.geometry import window_geometry
from tinyconv.kernels import cuda
from tinyconv.kernels.cuda import launcher

FILES = sorted(path.name for path in Path(launcher.__file__).parent.glob("*.cu"))

#: Registers a thread, so that a multiprocessor of 65,536 holds 1,024 threads; bytes of shared memory a block.
REGISTERS, SHARED = 64, 48 << 10


@pytest.mark.skipif(nvrtc.library() is None, reason="nvidia-cuda-nvrtc is not installed")
@pytest.mark.parametrize("architecture", nvrtc.ARCHITECTURES)
@pytest.mark.parametrize("dtype", cuda.DTYPES, ids=str)
@pytest.mark.parametrize("file", FILES)
def test_every_kernel_is_machine_code_within_its_budget(file: str, dtype: np.dtype, architecture: str) -> None:
    source = launcher.source(file, dtype)
    used = nvrtc.compile_for(source, architecture)
    assert set(used) == set(kernels_of(source))
    for name, row in used.items():
        assert row.registers <= REGISTERS and row.spills == 0 and row.shared <= SHARED, (name, row)


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
        assert kernels.kernel("conv").__module__ == "tinyconv.kernels.cuda"
        assert kernels.table()["conv"] == "cuda" and kernels.table()["relu"] == "numba"
        assert kernels.kernel("conv", np.zeros(3, np.float16)).__module__ == "tinyconv.kernels.im2col"
    with kernels.use_kernels("numba"):
        assert kernels.table()["conv"] == "numba"


def test_the_launcher_checks_what_a_gpu_would_misread() -> None:
    g = window_geometry("test", (4,), (2,))
    x, y = np.zeros((1, 1, 4), np.float32), np.zeros((1, 1, 3), np.float32)
    indices = np.zeros((1, 1, 3), np.int64)
    windows = cuda._windows(g)
    with pytest.raises(TypeError, match=r"max_pool: indices must be a C-contiguous numpy.ndarray of int64.*int32"):
        launcher.launch("pool.cu", "max_pool", 1, (x, y, indices.astype(np.int32), 3, *windows))
    with pytest.raises(TypeError, match=r"y must be a C-contiguous.*strides .12, 12, -4"):
        launcher.launch("pool.cu", "max_pool", 1, (x, y[..., ::-1], indices, 3, *windows))
    with pytest.raises(TypeError, match="takes 22 arguments, but 3"):
        launcher.launch("pool.cu", "max_pool", 1, (x, y, indices))
    with pytest.raises(OverflowError):
        launcher.launch("pool.cu", "max_pool", 1, (x, y, indices, 3, 1 << 40, *windows[1:]))
