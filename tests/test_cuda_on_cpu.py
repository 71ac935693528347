"""CUDA kernels on the CPU: right results of right kernels, and a sentence with the place for each kind of mistake."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyconv.cuda_on_cpu import CompileError, KernelError, NoCompiler, RawKernel, compiler, kernels_of

pytestmark = pytest.mark.skipif(
    not any(map(shutil.which, compiler.COMPILERS)), reason="no C++ compiler is here, which cuda_on_cpu needs"
)


@pytest.fixture(autouse=True, scope="module", params=compiler.COMPILERS)
def each_compiler(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test of this file with each compiler that is here."""
    if not shutil.which(request.param):
        pytest.skip(f"{request.param} is not here")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiler, "COMPILERS", (request.param,))
        for cached in (compiler.compiler, compiler.runtime):
            cached.cache_clear()
        yield
    for cached in (compiler.compiler, compiler.runtime):
        cached.cache_clear()


def kernel(body: str, arguments: str = "float* out", before: str = "", **options: Any) -> RawKernel:
    return RawKernel(f'{before}extern "C" __global__ void k({arguments}) {{\n{body}\n}}', "k", **options)


def run(
    body: str, threads: int | tuple[int, ...] = 64, blocks: int | tuple[int, ...] = 1, **options: Any
) -> np.ndarray:
    """out, 64 floats."""
    out = np.zeros(64, np.float32)
    shape = [n if isinstance(n, tuple) else (n,) for n in (blocks, threads)]
    kernel(body, **options)(*shape, (out,))
    return out


# --- right kernels --------------------------------------------------------------------------------------------------

ADD = """
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) z[i] = a * x[i] + y[i];"""


@given(st.integers(0, 500), st.integers(1, 128), st.booleans())
@settings(max_examples=20, deadline=None)
def test_every_thread_of_every_block_runs_once(n: int, threads: int, checked: bool) -> None:
    generator = np.random.default_rng(n)
    x, y = generator.standard_normal((2, n), np.float32)
    z, before = np.zeros(n, np.float32), x.copy()
    saxpy = kernel(ADD, "const float* x, const float* y, float* z, float a, int n", checked=checked)
    saxpy((max(1, -(-n // threads)),), (threads,), (x, y, z, np.float32(3), np.int32(n)))
    np.testing.assert_array_equal(z, np.float32(3) * x + y)
    assert np.array_equal(x, before)


def test_indices_of_threads_and_blocks_in_three_axes() -> None:
    out = np.full((2, 3, 4, 5, 6, 7), -1, np.int32)
    body = """
        int block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
        int thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
        int i = block * blockDim.x * blockDim.y * blockDim.z + thread;
        out[i] = i;"""
    kernel(body, "int* out")((4, 3, 2), (7, 6, 5), (out,))
    assert np.array_equal(out.ravel(), np.arange(out.size))


@given(st.integers(1, 300), st.sampled_from([32, 64, 96, 256]), st.booleans())
@settings(max_examples=15, deadline=None)
def test_a_reduction_by_shuffles_and_shared_memory(n: int, threads: int, checked: bool) -> None:
    x = np.random.default_rng(n).integers(-9, 9, n).astype(np.float32)
    out = np.zeros(1, np.float32)
    body = """
        extern __shared__ float part[];
        float acc = 0;
        for (int i = threadIdx.x; i < n; i += blockDim.x) acc += x[i];
        for (int d = 16; d > 0; d /= 2) acc += __shfl_down_sync(0xffffffff, acc, d);
        if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = acc;
        __syncthreads();
        if (threadIdx.x == 0) {
            float all = 0;
            for (int i = 0; i < blockDim.x / 32; ++i) all += part[i];
            out[0] = all;
        }"""
    total = kernel(body, "const float* x, float* out, int n", checked=checked)
    total((1,), (threads,), (x, out, np.int32(n)), shared_mem=threads // 32 * 4)
    assert out[0] == x.sum()


def test_transposition_through_a_shared_tile() -> None:
    x = np.arange(32 * 64, dtype=np.float32).reshape(32, 64)
    out = np.zeros((64, 32), np.float32)
    body = """
        __shared__ float tile[16][17];
        int row = blockIdx.y * 16 + threadIdx.y, column = blockIdx.x * 16 + threadIdx.x;
        tile[threadIdx.y][threadIdx.x] = x[row * 64 + column];
        __syncthreads();
        out[(blockIdx.x * 16 + threadIdx.y) * 32 + blockIdx.y * 16 + threadIdx.x] = tile[threadIdx.x][threadIdx.y];"""
    kernel(body, "const float* x, float* out")((4, 2), (16, 16), (x, out))
    assert np.array_equal(out, x.T)


def test_lanes_take_from_each_other_as_in_the_programming_guide() -> None:
    lanes = np.arange(64) % 32
    groups = lanes // 8 * 8
    for call, expected in {
        "__shfl_sync(0xffffffff, v, 5)": np.full(64, 5),
        "__shfl_sync(0xffffffff, v, 3, 8)": groups + 3,
        "__shfl_up_sync(0xffffffff, v, 2)": np.where(lanes < 2, lanes, lanes - 2),
        "__shfl_down_sync(0xffffffff, v, 3, 8)": np.where(lanes % 8 < 5, lanes + 3, lanes),
        "__shfl_xor_sync(0xffffffff, v, 1)": lanes ^ 1,
    }.items():
        found = run(f"float v = threadIdx.x % 32; out[threadIdx.x] = {call};")
        assert np.array_equal(found, expected), call
    assert np.array_equal(run("out[threadIdx.x] = __popc(__ballot_sync(0xffffffff, threadIdx.x % 3 == 0));")[:1], [11])
    assert run("out[threadIdx.x] = __all_sync(0xffffffff, threadIdx.x < 32);")[[0, 40]].tolist() == [1, 0]


def test_atomics_vectors_and_bits() -> None:
    out = np.zeros(4, np.int32)
    kernel("atomicAdd(out, 2); atomicMax(out + 1, int(threadIdx.x));", "int* out")((3,), (50,), (out,))
    assert out.tolist() == [300, 49, 0, 0]
    body = "float4 v = *(const float4*)(x + 4 * threadIdx.x); out[threadIdx.x] = v.x + v.y * v.z - v.w;"
    x, out = np.random.default_rng(0).standard_normal((2, 16)).astype(np.float32)
    kernel(body, "const float* x, float* out")((1,), (4,), (x, out))
    rows = x.reshape(4, 4)
    np.testing.assert_allclose(out[:4], rows[:, 0] + rows[:, 1] * rows[:, 2] - rows[:, 3], rtol=1e-6)
    assert run("out[0] = __int_as_float(0x40490fdb);", threads=1)[0] == np.float32(np.pi)


def test_a_struct_is_passed_by_value() -> None:
    before = "struct Axis { int size; double step; };\nstruct Box { Axis x, y; bool on; };\n"
    body = "out[0] = box.x.size * box.x.step; out[1] = box.y.size * box.y.step; out[2] = box.on; box.on = false;"
    scale = kernel(body, "float* out, Box box", before)
    axis = np.dtype([("size", np.int32), ("step", np.float64)], align=True)
    box = np.array(((3, 0.5), (5, -2.0), True), np.dtype([("x", axis), ("y", axis), ("on", np.bool_)], align=True))
    out = np.zeros(3, np.float32)
    scale((1,), (1,), (out, box))
    assert out.tolist() == [1.5, -10, 1] and box["on"]
    assert scale.parameters[1].dtype == box.dtype and box.itemsize == 40
    with pytest.raises(TypeError, match="box must be a numpy.ndarray of one element for the struct Box"):
        scale((1,), (1,), (out, np.stack([box, box])))
    with pytest.raises(ValueError, match="has a parameter `Node n`"):
        kernels_of("struct Node { Node* next; }; __global__ void k(Node n) {}")


def test_an_array_without_axes_is_one_element() -> None:
    x, out = np.array(3, np.float32), np.array(0, np.float32)
    kernel("out[0] = 2 * x[0];", "const float* x, float* out")((1,), (1,), (x, out))
    assert out == 6


def test_options_and_prints(capsys: pytest.CaptureFixture[str]) -> None:
    body = 'if (threadIdx.x == 2) printf("thread %d has %g\\n", threadIdx.x, 0.5f * WIDTH);'
    run(body, options=("-DWIDTH=5",))
    assert capsys.readouterr().out == "thread 2 has 2.5\n"


# --- wrong kernels --------------------------------------------------------------------------------------------------

#: body -> line of the mistake (the kernel's head is line 1), what is said of it
WRONG = {
    "outside of an array, by one": (
        "out[threadIdx.x + 1] = 0;",
        2,
        r"thread \(63, 0, 0\).*writes out\[64\].*64 elements",
    ),
    "before an array": ("float v = 1;\nout[0] = out[-1] + v;", 3, r"reads out\[-1\]"),
    "far outside": ("out[threadIdx.x * 1000] = 0;", 2, r"thread \(1, 0, 0\).*writes out\[1000\]"),
    "where nothing is": ("out[0] = *(float*)nullptr;", 2, "where no array is|a null pointer"),
    "a division by zero": ("int n = threadIdx.x;\nout[n] = 5 / n;", 3, r"thread \(0, 0, 0\).*divides a whole number"),
    "outside of shared memory": (
        "__shared__ float tile[32];\ntile[threadIdx.x] = 0;",
        3,
        r"thread \(32, 0, 0\).*the index 32 is outside",
    ),
    "outside of a local array": ("float v[3];\nfor (int i = 0; i < 4; ++i) v[i] = i;\nout[0] = v[0];", 3, "index 3"),
    "shared memory that nobody wrote": ("__shared__ float tile[64];\nout[threadIdx.x] = tile[threadIdx.x];", 3, "yet"),
    "no barrier between write and read": (
        "__shared__ float t[64];\nt[threadIdx.x] = 1;\nout[threadIdx.x] = threadIdx.x ? t[threadIdx.x - 1] : 0;",
        4,
        r"a race: it reads shared memory\[0\], which thread \(0, 0, 0\) writes since the last barrier.*__syncthreads",
    ),
    "no barrier between read and write": (
        "__shared__ float t;\nif (threadIdx.x == 0) t = 1;\n__syncthreads();\nout[threadIdx.x] = t;\n"
        "if (threadIdx.x == 9) t = 2;",
        6,
        r"thread \(9, 0, 0\).*a race: it writes shared memory\[0\], which other threads reads since the last barrier",
    ),
    "two threads write one element": (
        "out[threadIdx.x / 2] = 1;",
        2,
        r"thread \(1, 0, 0\).*a race: it writes out\[0\], which thread \(0, 0, 0\) writes since the last barrier",
    ),
    "a barrier that some miss": (
        "if (threadIdx.x >= 32) return;\n__syncthreads();\nout[0] = threadIdx.x == 0;",
        3,
        r"thread \(0, 0, 0\).*waits at __syncthreads\(\), but thread \(32, 0, 0\) has left the kernel",
    ),
    "two barriers": (
        "if (threadIdx.x < 32)\n__syncthreads();\nelse\n__syncthreads();",
        3,
        r"thread \(32, 0, 0\) waits at that of line 5",
    ),
    "lanes that do not come": (
        "if (threadIdx.x < 8)\nout[0] = __shfl_sync(0xffffffff, 1.0f, 0);",
        3,
        r"waits in __shfl_sync",
    ),
    "a lane outside of its mask": (
        "out[threadIdx.x] = __shfl_sync(0xff, 1.0f, 0);",
        2,
        r"thread \(8, 0, 0\).*leaves this lane out",
    ),
    "misaligned": ("*(float4*)(out + 5) = *(float4*)out;", 2, r"writes 16 bytes at out\[5\], which is no multiple"),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_a_mistake_is_found_with_its_place(mistake: str) -> None:
    body, line, words = WRONG[mistake]
    with pytest.raises(KernelError, match=words) as caught:
        run(body)
    error = caught.value
    assert (error.kernel, error.block, error.line) == ("k", (0, 0, 0), line)
    assert f"kernel k, block (0, 0, 0), thread {error.thread}, line {line}" in str(error)
    assert body.splitlines()[line - 2].strip() in str(error)  # the line itself is shown


def test_a_local_array_that_is_larger_than_the_stack() -> None:
    body = "volatile float v[75000];\nfor (int i = 0; i < 75000; ++i) v[i] = i;\nout[0] = v[5];"
    with pytest.raises(KernelError, match="more than the 256 KiB of stack") as caught:
        run(body)
    assert caught.value.line in (1, 3)  # where it is made room for, or first written


def test_blocks_that_write_one_element_and_const_arrays() -> None:
    with pytest.raises(KernelError, match=r"block \(1, 0, 0\).*race.*thread \(0, 0, 0\) of block number 0.*one block"):
        run("if (threadIdx.x == 0) out[0] = blockIdx.x;", blocks=2)
    with pytest.raises(KernelError, match=r"writes x\[0\], which is const"):
        kernel("*(float*)x = 1;", "const float* x")((1,), (1,), (np.zeros(3, np.float32),))
    out = np.zeros(3, np.float32)
    kernel("out[0] = x[0] + 1;", "const float* x, float* out")((1,), (1,), (out, out))  # the same memory twice
    assert out[0] == 1
    with pytest.raises(ValueError, match="overlap without being the same"):
        kernel("out[0] = x[0] + 1;", "const float* x, float* out")((1,), (1,), (out[:2], out[1:]))


def test_what_no_thread_wrote_is_told() -> None:
    body = "int i = threadIdx.x;\nif (i % 10 != 3) out[i] = x[i];\nif (i == 0) atomicAdd(count + 1, 1);"
    copy = kernel(body, "const float* x, float* out, int* count")
    x, out, count = np.ones(50, np.float32), np.full(50, 7, np.float32), np.zeros(3, np.int32)
    copy((1,), (50,), (x, out, count))
    assert copy.unwritten["out"].tolist() == np.flatnonzero(out == 7).tolist() == [3, 13, 23, 33, 43]
    assert copy.unwritten["count"].tolist() == [0, 2] and "x" not in copy.unwritten
    whole = kernel("out[threadIdx.x] = x[threadIdx.x];", "const float* x, float* out")
    whole((1,), (50,), (out, out))  # in place
    assert whole.unwritten == {}
    whole((1,), (40,), (x, out))
    assert whole.unwritten["out"].tolist() == list(range(40, 50))
    unchecked = kernel("out[0] = 1;", checked=False)
    unchecked((1,), (1,), (out,))
    assert unchecked.unwritten == {}


def test_barriers_and_warps_make_it_right() -> None:
    body = "__shared__ float t[64];\nt[threadIdx.x] = threadIdx.x;\n__syncthreads();\n"
    found = run(body + "out[threadIdx.x] = t[63 - threadIdx.x];")
    assert np.array_equal(found, np.arange(63, -1, -1))
    body = (
        "__shared__ float t[64];\nt[threadIdx.x] = threadIdx.x;\n__syncwarp();\nout[threadIdx.x] = t[threadIdx.x ^ 1];"
    )
    assert np.array_equal(run(body), np.arange(64) ^ 1)  # lanes of one warp
    with pytest.raises(KernelError, match="race|yet"):  # of two
        run(body.replace("^ 1", "^ 32"))


def test_a_view_is_as_misaligned_as_on_a_gpu() -> None:
    x, out = np.arange(32, dtype=np.float32), np.zeros(4, np.float32)
    load = kernel("*(float4*)out = *(const float4*)x;", "const float* x, float* out")
    load((1,), (1,), (x[4:20], out))
    assert np.array_equal(out, x[4:8])
    with pytest.raises(KernelError, match=r"reads 16 bytes at x\[0\], which is no multiple of 16"):
        load((1,), (1,), (x[1:17], out))


def test_after_a_mistake_the_next_launch_is_right() -> None:
    with pytest.raises(KernelError):
        run("__shared__ float t[64];\nout[0] = t[1];")
    assert run("out[threadIdx.x] = 1;").all()


# --- wrong calls ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (
            lambda k, x: k((1,), (1,), (x, 3)),
            TypeError,
            r"n must be a int32 for int, but is 3 of type int.*numpy\.int32",
        ),
        (lambda k, x: k((1,), (1,), (x, np.float32(3))), TypeError, r"n must be a int32 for int, but is .*float32"),
        (
            lambda k, x: k((1,), (1,), (x.astype(float), np.int32(3))),
            TypeError,
            r"float32 for float\*, but is a float64",
        ),
        (lambda k, x: k((1,), (1,), ([1.0], np.int32(3))), TypeError, r"out must be an array.*but is a list"),
        (lambda k, x: k((1,), (1,), (x[::2], np.int32(3))), ValueError, r"C-contiguous.*ascontiguousarray"),
        (lambda k, x: k((1,), (1,), (x,)), TypeError, r"takes 2 arguments \(out, n\), but 1"),
        (lambda k, x: k((1,), (2000,), (x, np.int32(3))), ValueError, "at most 1024 threads"),
        (lambda k, x: k((0,), (1,), (x, np.int32(3))), ValueError, "grid must be one to three positive"),
        (lambda k, x: k((1,), (1,), (x, np.int32(3)), shared_mem=1 << 20), ValueError, "shared_mem must lie in"),
    ],
)
def test_wrong_calls(call: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call(kernel("out[0] = n;", "float* out, int n"), np.zeros(4, np.float32))


def test_read_only_arrays_are_not_written_to() -> None:
    x = np.zeros(4, np.float32)
    x.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        kernel("out[0] = 1;")((1,), (1,), (x,))


def test_a_source_that_does_not_compile_is_shown() -> None:
    with pytest.raises(CompileError, match=r"kernel\.cu:2.*(foo.* was not declared|undeclared .*foo)"):
        run("out[0] = foo;")
    with pytest.raises(ValueError, match="no __global__ function j; it has k"):
        RawKernel('extern "C" __global__ void k(float* x) {}', "j")
    with pytest.raises(ValueError, match=r"parameter `half\* x`"):
        RawKernel('extern "C" __global__ void k(half* x) {}', "k")


def test_parameters_are_read_from_the_source() -> None:
    source = """
    // extern "C" __global__ void no(int n) {}
    extern "C" __global__ void __launch_bounds__(256) a(const float* __restrict__ x, /* y */ unsigned long long n) {}
    extern "C" __global__ void b() {}"""
    found = kernels_of(source)
    assert list(found) == ["a", "b"] and found["b"] == ()
    x, n = found["a"]
    assert (x.name, x.type, x.pointer, x.constant, x.dtype) == ("x", "float", True, True, np.float32)
    assert (n.name, n.type, n.pointer, n.dtype) == ("n", "unsigned long long", False, np.uint64)


def test_without_a_compiler_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    compiler.compiler.cache_clear()
    monkeypatch.setenv("PATH", "")
    try:
        with pytest.raises(NoCompiler, match=r"g\+\+ or clang\+\+, and neither is here"):
            compiler.compiler()
    finally:
        compiler.compiler.cache_clear()
