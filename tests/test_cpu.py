"""What holds for every compiled kernel: threads, forks, layouts, bounds, and what a process says when it compiles."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinyconv
from test_kernels import LAYOUTS, laid_out
from tinyconv import kernels
from tinyconv.geometry import window_geometry
from tinyconv.kernels.axismap import axis_map

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def same_number_of_threads() -> Iterator[None]:
    before = tinyconv.get_num_threads()
    yield
    tinyconv.set_num_threads(before)


def normal(*shape: int, dtype: type = np.float32) -> np.ndarray:
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(dtype)


def stepped(step: Callable[..., None]) -> Callable[..., tuple[np.ndarray, ...]]:
    """What a step of an optimiser makes of copies of its arrays."""

    def call(*arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        copies = tuple(a.copy() for a in arrays)
        step(*copies)
        return copies

    return call


def calls(scale: int = 1, dtype: type = np.float32) -> dict[str, tuple[Callable[..., Any], list[np.ndarray]]]:
    """For every operator of the ladder a function of arrays, and arrays; ``scale`` 1 is enough for several threads."""
    n, side = (8, 64) if scale == 1 else (2, 9)
    g = window_geometry("test", (side, side + 1), 3, 2, 1)
    same = window_geometry("test", (side, side), 3, 1, 1)
    x, gy = normal(n, 8, *g.size, dtype=dtype), normal(n, 8, *g.output, dtype=dtype)
    square = normal(n, 8, side, side, dtype=dtype)
    w = normal(8, 8, 3, 3, dtype=dtype)
    divisor = np.full(g.output, 9, dtype)
    indices = np.random.default_rng(0).integers(0, side * (side + 1), gy.shape)
    maps = [axis_map(m, [range(i, i + 2) for i in range(m - 1)], [[0.5, 0.5]] * (m - 1), dtype) for m in g.size]
    points = (np.random.default_rng(1).uniform(-1.2, 1.2, (n, side * side, 2))).astype(dtype)
    how = (side, side), "bilinear", "reflection", False, (0, 0)
    with kernels.use_kernels("im2col"):
        corners, at = kernels.corners(points, *how)
    planes = square.reshape(n, 8, -1)
    weight = normal(1, 8, 1, 1, dtype=dtype)
    mean, var = np.zeros((1, 8, 1, 1)), np.ones((1, 8, 1, 1))
    norm = (0, 2, 3), 1e-5
    scores = x.reshape(n, 8, -1)
    target, valid = indices.reshape(n, 8, -1)[:, 0] % 8, np.ones((n, scores.shape[2]), bool)
    target = np.resize(target, valid.shape)
    return {
        "matmul": (kernels.matmul, [square, square[::-1].swapaxes(2, 3)]),
        "conv": (lambda x, w: kernels.conv(x, w, same, 1), [square, w]),
        "conv_input": (lambda gy, w: kernels.conv_input(gy, w, same, 1), [square, w]),
        "conv_weight": (lambda x, gy: kernels.conv_weight(x, gy, same, 1), [square, square[::-1]]),
        "max_pool": (lambda x: kernels.max_pool(x, g), [x]),
        "scatter_windows": (lambda gy: kernels.scatter_windows(gy, indices, g.size, None), [gy]),
        "avg_pool": (lambda x: kernels.avg_pool(x, g, divisor), [x]),
        "avg_pool_input": (lambda gy: kernels.avg_pool_input(gy, g, divisor), [gy]),
        "unfold": (lambda x: kernels.unfold(x, g), [x]),
        "fold": (lambda cols: kernels.fold(cols, g), [normal(n, 72, int(np.prod(g.output)), dtype=dtype)]),
        "resample": (lambda x: kernels.resample(x, maps), [x]),
        "adaptive_max_pool": (lambda x: kernels.adaptive_max_pool(x, maps), [x]),
        "corners": (lambda points: kernels.corners(points, *how), [points]),
        "sample": (lambda x, w: kernels.sample(x, w, at), [planes, corners]),
        "sample_input": (lambda gy, w: kernels.sample_input(gy, w, at, side * side), [planes, corners]),
        "sample_weight": (lambda x, gy: kernels.sample_weight(x, gy, at), [planes, planes[::-1]]),
        "normalise": (lambda x, w: kernels.normalise(x, w, w, *norm), [x, weight]),
        "relu": (kernels.relu, [x]),
        "relu_grad": (kernels.relu_grad, [x, x[::-1]]),
        "slopes": (lambda x, of: kernels.slopes(x, of > 0, 0.1), [x, x[::-1]]),
        "sigmoid": (kernels.sigmoid, [x]),
        "erf": (kernels.erf, [x]),
        "activation": (lambda x: kernels.activation(x, "gelu", ()), [x]),
        "activation_grad": (lambda g, x: kernels.activation_grad(g, x, "elu", (1.0, 0.5, 2.0)), [x, x[::-1]]),
        "softmax": (lambda x: kernels.softmax(x, x.ndim - 1, False), [x]),
        "softmax_grad": (lambda g, y: kernels.softmax_grad(g, y, 1, True), [x, x[::-1]]),
        "sgd_step": (stepped(lambda x, g, v: kernels.sgd_step(x, g, v, 0.1, 0.9, 0.1, 0.2, True, False)), [x, x, x]),
        "adam_step": (
            stepped(lambda x, g, m, v: kernels.adam_step(x, g, m, v * v, v, 3, 0.1, 0.9, 0.99, 0.1, 0.1, True, True)),
            [x, x[::-1], x, x],
        ),
        "rmsprop_step": (
            stepped(lambda x, g, v, b: kernels.rmsprop_step(x, g, v * v + 1, g / 9, b, 0.1, 0.9, 0.1, 0.1, 0.8, True)),
            [x, x[::-1], x, x],
        ),
        "cross_entropy": (lambda x: kernels.cross_entropy(x, target, valid, valid), [scores]),
        "cross_entropy_grad": (
            lambda x, g: kernels.cross_entropy_grad(g, x, target, valid, valid, g[:, None], g[:, None]),
            [scores, scores[:, 0]],
        ),
        "normalise_grad": (lambda g, x, w: kernels.normalise_grad(g, x, w, mean, var, *norm), [x[::-1], x, weight]),
    }


def as_bytes(result: Any) -> list[bytes]:
    return [a.tobytes() for a in (result if isinstance(result, tuple) else (result,))]


def test_every_operator_is_called_here() -> None:
    assert set(calls(2)) == set(kernels.OPERATORS)


@pytest.mark.parametrize("operator", kernels.OPERATORS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_number_of_threads_changes_no_bit(operator: str, dtype: type) -> None:
    call, arrays = calls(dtype=dtype)[operator]
    with kernels.use_kernels("numba"):
        tinyconv.set_num_threads(1)
        alone = as_bytes(call(*arrays))
        for threads in (2, 3, 2):
            tinyconv.set_num_threads(threads)
            assert as_bytes(call(*arrays)) == alone


@pytest.mark.parametrize("operator", kernels.OPERATORS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_in_memory_changes_no_bit_and_nothing_is_written_to(operator: str, layout: str) -> None:
    call, arrays = calls(2)[operator]
    given_in = [laid_out(a, layout) for a in arrays]
    copies = [a.copy() for a in given_in]
    native = [np.array(a, a.dtype.newbyteorder("="), order="C") for a in given_in]
    with kernels.use_kernels("numba"):
        result, expected = call(*given_in), call(*native)
    for a, b in zip(*(r if isinstance(r, tuple) else (r,) for r in (result, expected))):
        # The other byte order is computed by the rung below, which adds in another order.
        close = 1e-5 if layout == "byte-swapped" else 0
        np.testing.assert_allclose(a, b, rtol=close, atol=close)
    for a, b in zip(given_in, copies):
        np.testing.assert_array_equal(a, b)


def test_two_python_threads_at_once_get_the_results_of_one() -> None:
    made = calls()
    with kernels.use_kernels("numba"):
        expected = {name: as_bytes(call(*arrays)) for name, (call, arrays) in made.items()}
        wrong: list[str] = []

        def run(names: list[str]) -> None:
            for name in names * 3:
                call, arrays = made[name]
                if as_bytes(call(*arrays)) != expected[name]:
                    wrong.append(name)

        names = list(made)
        workers = [threading.Thread(target=run, args=(order,), daemon=True) for order in (names, names[::-1], names)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(120)
    assert not any(worker.is_alive() for worker in workers)
    assert wrong == []


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", **environment}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, env=env)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_process_computes_on() -> None:
    code = """
import os
import numpy as np
import tinyconv
from tinyconv import kernels
from tinyconv.geometry import window_geometry

g = window_geometry("test", (64, 64), 3, 1, 1)
x = np.random.default_rng(0).standard_normal((8, 16, 64, 64)).astype(np.float32)
tinyconv.set_num_threads(2)
before = kernels.max_pool(x, g)[0]
child = os.fork()
if child == 0:
    os._exit(0 if (kernels.max_pool(x, g)[0] == before).all() else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(int((kernels.max_pool(x, g)[0] != before).sum()))
"""
    done = python(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["0", "0"]


def test_import_and_a_choice_of_threads_leave_numba_alone() -> None:
    done = python("import sys, tinyconv; tinyconv.set_num_threads(1); print('numba' in sys.modules)")
    assert done.stdout.strip() == "False", done.stderr


def test_the_first_process_says_that_it_compiles_and_the_second_finds_the_kernels(tmp_path: Path) -> None:
    code = """
import numpy as np
from tinyconv import kernels
from tinyconv.geometry import window_geometry

kernels.scatter_windows(np.ones((1, 1, 2), np.float32), np.zeros((1, 1, 2), np.int64), (3,), None)
kernels.avg_pool(np.ones((1, 1, 4), np.float32), window_geometry("test", (4,), 2), np.ones(3, np.float32))
"""
    first, second = (python(code, NUMBA_CACHE_DIR=str(tmp_path)) for _ in range(2))
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    (line,) = first.stderr.splitlines()
    assert line.startswith("tinyconv: compiling kernels for this machine, once") and "watch ..." in line
    assert second.stderr == ""


def test_no_kernel_reads_or_writes_outside_its_arrays(tmp_path: Path) -> None:
    """On small shapes, compiled anew with bounds checks, which see a planted error. The explicit vectors of the
    convolutions cannot be checked so."""
    code = """
import numpy as np
from test_cpu import calls
from tinyconv import kernels

for name, (call, arrays) in calls(2).items():
    if not name.startswith("conv"):
        call(*arrays)
try:
    kernels.scatter_windows(np.ones((1, 1, 2), np.float32), np.full((1, 1, 2), 3), (3,), None)
except IndexError:
    print("seen")
"""
    done = python(code, NUMBA_BOUNDSCHECK="1", NUMBA_CACHE_DIR=str(tmp_path))
    assert done.returncode == 0 and done.stdout.strip() == "seen", done.stderr


@pytest.mark.parametrize(
    "value, error, named",
    [(0, ValueError, ["at least 1", "0"]), (2.0, TypeError, ["int", "2.0"]), (True, TypeError, ["int", "True"])],
)
def test_wrong_numbers_of_threads_are_refused(value: Any, error: type[Exception], named: list[str]) -> None:
    before = tinyconv.get_num_threads()
    with pytest.raises(error) as caught:
        tinyconv.set_num_threads(value)
    for part in ("set_num_threads", *named):
        assert part in str(caught.value)
    assert tinyconv.get_num_threads() == before


@pytest.mark.skipif(sys.platform != "linux", reason="the C library of Linux alone is asked to keep memory")
def test_freed_arrays_are_used_again_without_fresh_pages() -> None:
    code = """
import platform, resource
import numpy as np
from tinyconv import kernels

kernels.kernel("max_pool")

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    arrays = [np.ones(4 << 20, np.float32) for _ in range(8)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
print(platform.libc_ver()[0] != "glibc" or faults() < 8 * 4096 / 10)
"""
    done = python(code)
    assert done.stdout.strip() == "True", done.stderr


@pytest.mark.parametrize("features", ["avx2", ""])
def test_narrower_vectors_of_other_machines_compute_the_same(features: str, tmp_path: Path) -> None:
    """The layers of networks against torch in a process that believes to run on a smaller processor."""
    simd = pytest.importorskip("tinyconv.kernels.cpu.simd", reason="Numba is not installed: no compiled kernels")
    width = 32 if features else 16
    if platform.machine() not in ("x86_64", "AMD64") or simd.VECTOR_BYTES <= width:
        pytest.skip(f"this machine has no vectors of more than {width} bytes")
    code = f"""
import sys, llvmlite.binding, pytest

found = {{"sse2": True, **dict.fromkeys({features.split()!r}, True)}}
llvmlite.binding.get_host_cpu_features = lambda: found
from tinyconv.kernels.cpu import simd

assert simd.VECTOR_BYTES == {width} and simd.ROWS == 4
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", "tests/test_cpu_convolution.py", "-k", "layers_of_networks"]))
"""
    cpu = dict(NUMBA_CPU_NAME="haswell" if features else "x86-64", NUMBA_CPU_FEATURES="+avx2,+fma" if features else "")
    done = python(code, NUMBA_CACHE_DIR=str(tmp_path), **cpu)
    assert done.returncode == 0, done.stdout + done.stderr
