"""The CUDA kernels as machine code for three generations of GPUs, and their launcher. Their results are tested with
those of every other rung, in the emulator: test_kernels.py, test_operators.py, test_conv.py, test_pool.py; each
algorithm of the convolution for itself: test_cuda_convolution.py.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nvrtc
from compare import RUNGS
from test_cpu import calls
from tinyconv import kernels
from tinyconv.cuda_on_cpu import RawKernel, kernels_of
from tinyconv.geometry import window_geometry
from tinyconv.kernels import cuda, im2col
from tinyconv.kernels.cuda import launcher, normalisation, tiled

emulated = pytest.mark.skipif("cuda" not in RUNGS, reason="no C++ compiler is here, which the emulator needs")

FILES = sorted(path.name for path in Path(launcher.__file__).parent.glob("*.cu"))

#: Registers a thread: with 64 a multiprocessor of 65,536 holds 1,024 threads, with 72 900. Tiles keep their results
#: there, up to 8 x 8 of a thread, with 128 registers and 512 threads, or where blocks are small with 168 and 384; and
#: 128 sums of a tensor core with 255 and 256.
REGISTERS = dict.fromkeys(FILES, 64) | dict.fromkeys(("corners.cu", "maps.cu", "norm.cu", "update.cu"), 72)
REGISTERS |= {"wgmma.cu": 128, "winograd.cu": 128, "tiled.cu": 168, "tiled_weight.cu": 168}
REGISTERS |= {"bf16.cu": 255, "tf32.cu": 255}
SHARED = 48 << 10  # bytes a block

#: What tensor cores multiply, and on which of them; no doubles.
ON_TENSOR_CORES = {"bf16.cu": ("sm_80", "sm_90"), "tf32.cu": ("sm_80", "sm_90"), "wgmma.cu": ("sm_90a",)}

#: What a file leaves open, each way in which it is compiled, by dtype.
CONSTANTS = {
    "tiled.cu": lambda dtype: [
        (*tile.constants, ("FEW", int(kind == "few")))
        for tile, kinds in tiled.TILES[dtype].items()
        for kind in kinds
        if kind != "weight"
    ],
    "tiled_weight.cu": lambda dtype: [tile.constants for tile in tiled.TILES[dtype]],
    "depthwise.cu": lambda dtype: [(("SIZE", size), ("STRIDE", stride)) for size, stride in ((3, 1), (3, 2), (0, 0))],
}
VARIANTS = [
    pytest.param(file, dtype, constants, id="-".join([file, str(dtype), *(str(value) for _, value in constants)]))
    for file in FILES
    for dtype in launcher.REALS
    for constants in CONSTANTS.get(file, lambda dtype: [()])(dtype)
    if file not in ON_TENSOR_CORES or dtype == np.float32
]
compiler = pytest.mark.skipif(nvrtc.library() is None, reason="nvidia-cuda-nvrtc is not installed")
disassembler = pytest.mark.skipif(nvrtc.disassembler() is None, reason="nvidia-cuda-nvdisasm is not installed")


@compiler
@pytest.mark.parametrize(
    "file, dtype, constants, architecture",
    [
        pytest.param(*v.values, architecture, id=f"{v.id}-{architecture}")
        for v in VARIANTS
        for architecture in ON_TENSOR_CORES.get(v.values[0], nvrtc.ARCHITECTURES)
    ],
)
def test_every_kernel_is_machine_code_within_its_budget(
    file: str, dtype: np.dtype, constants: launcher.Constants, architecture: str
) -> None:
    source = launcher.source(file, dtype, constants)
    used = nvrtc.compile_for(source, architecture)
    assert set(used) == set(kernels_of(source))
    most = 128 if dict(constants).get("ROWS") == 128 else REGISTERS[file]
    for name, row in used.items():
        assert row.registers <= most and row.spills == 0 and row.shared <= SHARED, (name, row)


#: The least share of multiplications among the instructions of the main loop, by the rows of the tile, and with FEW;
#: what is rare, as the step to the next row of an image, counts as well.
SHARES = {"tiled.cu": {128: 0.85, 64: 0.72, 32: 0.75}, "tiled_weight.cu": {128: 0.74, 64: 0.56, 32: 0.55}}
FEW_SHARE = 0.58


@compiler
@disassembler
@pytest.mark.parametrize("file, dtype, constants", [v for v in VARIANTS if v.values[0] in SHARES])
def test_the_loops_of_tiles_multiply(file: str, dtype: np.dtype, constants: launcher.Constants) -> None:
    named = dict(constants)
    least = FEW_SHARE if named.get("FEW") else SHARES[file][named["ROWS"]]
    ((_, loops),) = nvrtc.loops(launcher.source(file, dtype, constants), "sm_90").items()
    assert max(loop.share for loop in loops) >= least


@compiler
@disassembler
@pytest.mark.parametrize("file, dtype, constants", [v for v in VARIANTS if v.values[0] in (*CONSTANTS, "pack.cu")])
def test_no_innermost_loop_divides(file: str, dtype: np.dtype, constants: launcher.Constants) -> None:
    for name, found in nvrtc.loops(launcher.source(file, dtype, constants), "sm_90").items():
        assert not any(loop.innermost and loop.divides for loop in found), name


@compiler
@disassembler
def test_the_loops_are_counted() -> None:
    source = """extern "C" __global__ void k(float* y, int n, int m) {
        for (int i = 0; i < n; ++i) {
            y[i] = 0;
#pragma unroll 1
            for (int j = 0; j < m; ++j) y[j] = y[j] * y[j + 1] + INDEX;
        }
    }"""
    found = [loop for loop in nvrtc.loops(source.replace("INDEX", "1"), "sm_90")["k"] if loop.count["FFMA"]]
    inner, outer = sorted(found, key=lambda loop: not loop.innermost)
    assert inner.count["FFMA"] == 1 and inner.count["STG"] == 1 and inner.innermost and not outer.innermost
    assert 0 < outer.share < inner.share < 1 and outer.count.total() > inner.count.total()
    assert not inner.divides and not outer.divides
    for division in ("n / (j + m)", "(n + 1LL << m) % (j + m)"):
        found = nvrtc.loops(source.replace("INDEX", division), "sm_90")["k"]
        assert any(loop.divides for loop in found if loop.innermost), division


@compiler
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


def test_the_launcher_makes_machine_code_with_cupys_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cupy = pytest.importorskip("cupy")
    if nvrtc.library() is None:
        pytest.skip("nvidia-cuda-nvrtc is not installed")
    monkeypatch.setattr(launcher.compiler, "folder", lambda: tmp_path)
    known = cupy.cuda.nvrtc
    hopper = """extern "C" __global__ void k() { asm volatile("wgmma.fence.sync.aligned;"); }"""
    path = launcher.machine_code(known, hopper, "90a")
    assert path.read_bytes()[:4] == b"\x7fELF" and list(tmp_path.iterdir()) == [path]
    assert launcher.machine_code(known, hopper, "90a") == path
    with pytest.raises(RuntimeError, match="NVRTC refuses a source(.|\n)*foo"):
        launcher.machine_code(known, 'extern "C" __global__ void k() { foo(); }', "80")
    half = 'extern "C" __global__ void k(float* x) { x[0] *= 0.5f; }'
    later = launcher.machine_code(known, half, "999")  # a GPU of the future
    text = later.read_text()
    assert f".target sm_{max(known.getSupportedArchs())}" in text
    assert "mul.f32" in text and "ftz" not in text  # half of the smallest normal number is not zero


def test_the_docstring_names_every_file() -> None:
    assert re.findall(r"^    (\w+\.cu) ", cuda.__doc__ or "", re.MULTILINE) == FILES


def test_numpy_arrays_are_emulated_only_where_it_is_asked_for() -> None:
    assert kernels.kernel("conv").__module__ == "tinyconv.kernels.cpu.convolution"
    with kernels.use_kernels("cuda"):
        assert kernels.kernel("conv").__module__ == "tinyconv.kernels.cuda.convolution"
        assert kernels.table()["conv"] == "cuda" and kernels.table()["relu"] == "cuda"
        assert kernels.kernel("conv", np.zeros(3, np.float16)).__module__ == "tinyconv.kernels.cuda.convolution"
        assert kernels.kernel("relu", np.zeros(3, np.float16)) is im2col.relu
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


@emulated
@pytest.mark.parametrize("algorithm", ["auto", "direct", "tiled", "columns", "winograd2", "winograd4"])
def test_every_launch_writes_all_of_its_results(algorithm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    launched = set()

    class Complete(RawKernel):
        def __call__(self, *args: Any, **options: Any) -> None:
            super().__call__(*args, **options)
            launched.add(self.name)
            assert not self.unwritten, self.name

    monkeypatch.setattr(launcher, "RawKernel", Complete)
    launcher._kernel.cache_clear()
    todo = calls(2)
    names = todo if algorithm == "auto" else ("conv", "conv_input", "conv_weight")
    try:
        with kernels.use_kernels("cuda", conv=algorithm):
            for name in names:
                call, arguments = todo[name]
                call(*arguments)
    finally:
        launcher._kernel.cache_clear()
    assert len(launched) >= (30 if algorithm == "auto" else 2)
