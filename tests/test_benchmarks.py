"""The stopwatch: tables against published figures, both sides of a ratio doing the same, its arithmetic. No times."""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("threadpoolctl")
pytest.importorskip("matplotlib")

import tinyconv
from benchmarks import device, figures, layers, networks, peers, report, steps, timing, training
from benchmarks.shapes import INCEPTION, NETWORKS, Layer, distinct, inception
from compare import RUNGS
from tinyconv import kernels, recipes
from tinyconv.data import Subset
from tinyconv.models import UNet

# --------------------------------------------------------------------------------------------------
# Shapes

#: Multiply-adds of one image in units of 10^9, less those of the linear layers where the source counts them.
PUBLISHED = {
    "AlexNet": 0.714 - 0.0586,  # torchvision; 9216*4096 + 4096*4096 + 4096*1000 linear
    "VGG-16": 15.47 - 0.1236,  # torchvision; 25088*4096 + 4096*4096 + 4096*1000 linear
    "GoogLeNet": 1.502 + 0.118 - 0.034 - 0.001,  # the paper's table, whose 34 M of the first layer are 118 M in full
    "ResNet-18": 1.814,  # torchvision
    "ResNet-50": 4.089,  # torchvision
    "MobileNet V1": 0.569,  # the paper, table 4
    "MobileNet V2": 0.300,  # the paper, table 4
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_multiply_adds_are_the_published_ones(name: str) -> None:
    assert sum(layer.multiply_adds() for layer in NETWORKS[name]) / 1e9 == pytest.approx(PUBLISHED[name], rel=5e-3)


def test_inception_modules_are_those_of_the_paper() -> None:
    # The column "ops" of table 1, in millions. Its 54 for 5a is 51 by the row's own numbers.
    ops = {"3a": 128, "3b": 304, "4a": 73, "4b": 88, "4c": 100, "4d": 119, "4e": 170, "5a": 51, "5b": 71}
    counted = {name: sum(layer.multiply_adds() for layer in inception(*row)) / 1e6 for name, row in INCEPTION.items()}
    assert counted == pytest.approx(ops, abs=1)
    for (_, *widths), after in zip(INCEPTION.values(), [*list(INCEPTION.values())[1:], None]):
        if after:  # the outputs of the four branches are the input of the next module
            assert widths[1] + widths[3] + widths[5] + widths[6] == after[1]


def test_every_layer_has_the_shapes_that_torch_gives_it() -> None:
    for layer in distinct():
        shapes = layer.shapes(2)
        x, w = (torch.empty(shapes[name], device="meta") for name in ("x", "w"))
        assert tuple(layers.convolve(torch, layer, x, w).shape) == shapes["gy"], layer


def test_transposed_layer_counts_the_products_of_the_map_that_it_transposes() -> None:
    # 2x2 windows that do not overlap: each of the 8*8 pixels meets each of 2*2 taps, 4 channels to 3, nothing else.
    layer = Layer(4, 3, 8, 2, 2, 0, transposed=True)
    assert (layer.multiply_adds(5), layer.output) == (5 * 8 * 8 * 2 * 2 * 4 * 3, (16, 16))


def test_distinct_keeps_how_often_a_layer_occurs() -> None:
    found = distinct()
    assert found[Layer(64, 64, 56, 3)] == {"ResNet-18": 4, "ResNet-50": 3}
    for name, table in NETWORKS.items():
        assert sum(uses.get(name, 0) for uses in found.values()) == len(table)
    assert set(distinct(quick=True)) < set(found)


@pytest.mark.parametrize("name", ["ResNet-18", "MobileNet V1"])
def test_trained_networks_have_the_layers_of_the_tables(name: str) -> None:
    convs = [m for m in networks.JOBS[name].build(torch).modules() if isinstance(m, torch.nn.Conv2d)]
    built = [(m.in_channels, m.out_channels, m.kernel_size[0], m.stride[0], m.padding[0], m.groups) for m in convs]
    table = [(i.channels_in, i.channels_out, i.kernel, i.stride, i.pad, i.groups) for i in NETWORKS[name]]
    assert sorted(built) == sorted(table)


# --------------------------------------------------------------------------------------------------
# Both sides do the same


@pytest.mark.parametrize("name", networks.JOBS)
def test_networks_have_the_losses_of_torch_for_two_steps(name: str) -> None:
    job = networks.JOBS[name]
    small = replace(job, shape=(1 if job.per_pixel else 2, *job.shape[1:]))  # batch norm needs two
    losses = steps.compare_losses(steps.job_steps(small, "float64"))
    assert losses["tinyconv"] == pytest.approx(losses["torch"], rel=1e-9)
    assert losses["torch"][0] != losses["torch"][1]  # the step between them did something


@pytest.mark.parametrize(("model", "data"), training.TWINS)
def test_recipes_have_the_losses_of_torch_for_two_steps(model: str, data: str) -> None:
    shape = {"hippocampus": (2, 1, 16, 24, 16), "pneumoniamnist": (8, 1, 28, 28)}.get(data, (2, 1, 32, 24))
    losses = steps.compare_losses(steps.recipe_steps(model, data, shape))
    assert losses["tinyconv"] == pytest.approx(losses["torch"], rel=1e-3)
    assert losses["torch"][0] != losses["torch"][1]


@pytest.mark.skipif(not os.environ.get("TINYCONV_DATA"), reason="TINYCONV_DATA is not set")
def test_a_training_beside_torch_sees_the_same_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    task = recipes.TASKS["pneumoniamnist"]
    parts = [Subset(part, range(96)) for part in task.datasets()]
    monkeypatch.setitem(recipes.TASKS, "pneumoniamnist", replace(task, datasets=lambda: parts))
    row = training.train("cifar_resnet20", "pneumoniamnist", epochs=2)
    assert len(row["seconds"]["tinyconv"]) == len(row["seconds"]["torch"]) == 2
    ours, theirs = row["held_out"]["tinyconv"], row["held_out"]["torch"]
    assert ours["auc"] == pytest.approx(theirs["auc"], abs=0.02) and 0 < ours["auc"] < 1


def test_losses_that_differ_are_refused() -> None:
    with pytest.raises(AssertionError, match="differ"):
        steps.compare_losses({"tinyconv": lambda: 1.01, "torch": lambda: 1.0})
    with pytest.raises(AssertionError, match="differ"):
        steps.compare_losses({"tinyconv": lambda: math.nan, "torch": lambda: 1.0})


def test_unet_is_the_model_of_the_demo() -> None:
    ours, built = UNet(1, 3, 8, 4).state_dict(), networks.unet(tinyconv, 2, 3, 8, 4).state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in built.items()}


SMALL = [
    Layer(3, 4, 9, 3, 2),
    Layer(4, 4, 6, 3, groups=4),
    Layer(2, 3, 5, 3, rank=3),
    Layer(4, 2, 5, 2, 2, 0, 1, 2, True),
]


@pytest.mark.parametrize("layer", SMALL, ids=str)
def test_a_layer_is_checked_before_it_is_timed(layer: Layer) -> None:
    operands = layers.Pool(1).take(*layer.shapes(2).values())
    ours = layers.results(tinyconv, layer, *operands)
    assert layers.check(layer, ours, operands)["of_sum"] <= layers.DIRECT
    for name in ours:
        wrong = {key: value.copy() for key, value in ours.items()}
        wrong[name].flat[1] += 1e-3 * np.abs(wrong[name]).max()
        with pytest.raises(AssertionError, match=f"{name} differs"):
            layers.check(layer, wrong, operands)
        wrong[name].flat[1] = np.nan
        with pytest.raises(AssertionError, match=f"{name} differs"):
            layers.check(layer, wrong, operands)


@pytest.mark.parametrize("name", peers.EVERYONE)
def test_peers_compute_the_same_convolution(name: str) -> None:
    pytest.importorskip(name)
    if name == "tinygrad" and not shutil.which("clang"):
        pytest.skip("tinygrad compiles with clang, which is not here")
    layer = Layer(3, 4, 6, 3)
    operands = [array.copy() for array in layers.Pool(1).take(*layer.shapes(2).values())]
    results = map(peers.as_array, peers.EVERYONE[name](layer, *operands)())
    assert layers.check(layer, dict(zip(("y", "gx", "gw"), results)), operands, name)["of_sum"] <= layers.DIRECT


def test_pool_gives_other_aligned_numbers_each_time() -> None:
    pool = layers.Pool(1)
    first, second = pool.take((3, 5), (7,)), pool.take((3, 5), (7,))
    for array in (*first, *second):
        assert array.ctypes.data % 64 == 0 and np.all(array != 0)
    assert not np.intersect1d(first[0], second[0]).size and not np.intersect1d(*first).size
    (large,) = pool.take((1 << 19,))  # more than it held
    assert large.shape == (1 << 19,) and large.std() == pytest.approx(1, abs=0.01)


# --------------------------------------------------------------------------------------------------
# On a GPU, by its stand-in


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Generator[device.Gpu, None, None]:
    """Both sides on this CPU; each call takes a second."""
    cupy_on_cpu = pytest.importorskip("cupy_on_cpu", exc_type=ImportError)
    if "cuda" not in RUNGS:
        pytest.skip("no C++ compiler is here, which the emulator needs")

    def seconds(run: Callable[[], Any], calls: int) -> float:
        for _ in range(calls):
            run()
        return 1.0

    with cupy_on_cpu.installed():
        yield device.Gpu("none", cupy_on_cpu.module, lambda a: torch.tensor(a.get()), seconds, "cpu")


def test_the_benchmark_of_a_gpu_runs_and_reports(gpu: device.Gpu, tmp_path: Path) -> None:
    pool = device.Pool(gpu, 8)
    tops = device.ceilings(gpu, pool, 64)
    assert tops["copy"] == pool.numbers.nbytes // 4 * 2 and tops["ieee"] == tops["bf16"] == 2 * 64**3
    layers = [(Layer(16, 16, 4, 3), 1), (Layer(3, 4, 3, 2, 2, 0, transposed=True), 1)]
    rows = [row for layer in layers for row in device.run_layers(gpu, pool, True, tops, [layer])]
    assert len(rows) == 2 * 3 * len(device.PRECISIONS)
    sides = {(row["layer"], row["precision"], row["face"]): set(row["seconds"]) for row in rows}
    first = str(layers[0][0])
    others = {"winograd2", "winograd4", "columns", "tiled", "direct"}
    assert sides[first, "ieee", "forward"] == {"auto", "torch", *others}
    assert sides[first, "bf16", "weight"] == {"auto", "torch"}
    assert [row["auto"] for row in rows if row["face"] == "input"] == ["tiled", "tf32", "bf16", *["direct"] * 3]
    assert "depthwise" in device.algorithms(Layer(3, 3, 5, 3, groups=3), "input", 2, "ieee")
    bandwidth = device.run_bandwidth(gpu, pool, True, tops, (2, 3, 6, 6))
    steps = device.run_steps(gpu, True, {"LeNet": (2, 1, 28, 28)})
    assert [row["precision"] for row in steps] == ["ieee", "tf32", "float16"]
    found = {"gpu": gpu.name, "ceilings": tops, "layers": rows, "bandwidth": bandwidth, "steps": steps}
    section = json.loads(json.dumps({"cuda": {"quick": True, "found": found}}))
    said = report.text(section)
    for words in ("cuda: none", "tf32", first, "us by algorithm", "adam", "LeNet 2x1x28x28, float16"):
        assert words in said
    assert figures.draw(section, tmp_path) == [tmp_path / "cuda.png"]


def test_a_wrong_kernel_is_not_timed(gpu: device.Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    pool, conv = device.Pool(gpu, 1), kernels.conv
    monkeypatch.setattr(kernels, "conv", lambda *args: conv(*args) * 1.01)
    with pytest.raises(AssertionError, match="forward, auto, ieee: differs from torch by 0.01 of the norm"):
        device.algorithm_side(gpu, pool, Layer(3, 4, 5, 3), "forward", 1, "auto", "ieee")
    with pytest.raises(AssertionError, match="relu: differs"):
        device.check_operator(gpu, pool, "relu", lambda: pool.take((9,)), lambda: gpu.share(pool.take((9,))).relu())
    with pytest.raises(AssertionError, match="the losses of the two sides differ"):
        device.check_losses("LeNet", "ieee", {"tinyconv": [1.0, 1.0], "torch": [1.0, 1.1]})


def test_without_a_gpu_the_benchmark_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="torch finds no GPU. Install its CUDA build"):
        device.nvidia()
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(SystemExit, match="CuPy is missing: pip install 'tinyconv.gpu.'"):
        device.nvidia()


# --------------------------------------------------------------------------------------------------
# Arithmetic


class Clock:
    """Time that passes only when a side says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.log = 0.0, []
        monkeypatch.setattr(timing.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(timing.time, "process_time", lambda: 2 * self.now)

    def side(self, name: str, forward: float, backward: float) -> timing.Side:
        def run() -> Generator[str, None, None]:
            self.log.append(name)
            self.now += 100.0  # preparation
            yield "start"
            self.now += forward
            yield "forward"
            self.now += backward
            yield "both"

        return run


def test_interleaved_times_stages_without_preparation(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    timed = timing.interleaved({"a": clock.side("a", 1.0, 2.0), "b": clock.side("b", 0.25, 0.5)}, 0, least=4)
    assert clock.log == ["a", "b"] * 5  # in turn, after a round to warm up
    for name, forward, both in (("a", 1.0, 3.0), ("b", 0.25, 0.75)):
        for stage, seconds in (("forward", forward), ("both", both)):
            expected = {"median": seconds, "min": seconds, "spread": 0, "processor": 2 * seconds, "calls": 4}
            assert timed[name][stage] == pytest.approx(expected, abs=1e-9)


def test_short_calls_settle_before_they_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    timed = timing.interleaved({"a": clock.side("a", 0.001, 0), "b": clock.side("b", 1.0, 0)}, 0, least=1)
    first = clock.log.index("b")
    assert first == 2  # one call to settle, one that would have been timed, were this not the round to warm up
    assert timed["a"]["both"]["calls"] == 1 and clock.log[first + 1 :] == ["a", "a", "b"]


def test_geometric_mean() -> None:
    assert timing.geometric_mean([2, 0.5]) == pytest.approx(1)
    assert timing.geometric_mean([1, 10, 100]) == pytest.approx(10)


# --------------------------------------------------------------------------------------------------
# Report


def time_of(median: float, least: float) -> dict[str, float]:
    return {"median": median, "min": least, "spread": 0.1 * median, "processor": median, "calls": 3}


def layer_row(name: str, network: str, ours: float, theirs: float, plain: bool) -> dict[str, Any]:
    sides = {"tinyconv": ours, "torch": theirs}
    seconds = {n: {"forward": time_of(t, t / 2), "both": time_of(3 * t, 3 * t / 2)} for n, t in sides.items()}
    row = {"layer": name, "batch": 1, "networks": {network: 1}, "plain_3x3": plain, "flop": 1e9, "bytes": 1e7}
    return {**row, "error": {"of_sum": 1e-7, "of_largest": 1e-6}, "seconds": seconds}


@pytest.fixture
def results() -> dict[str, Any]:
    """As __main__ writes it, after a trip through JSON; layers with ratios 4, 1 and 0.25, steps with 2."""
    machine = {
        "date": "2020-01-01 00:00", "processor": "abacus", "cores": 2, "threads": 2, "load": 0.0, "python": "3.12",
        "packages": {"numpy": "2.0", "mygrad": None}, "kernels": {"conv": "im2col"}, "environment": {},
        "blas": [{"internal_api": "openblas", "version": "1", "architecture": "Beads", "num_threads": 2}],
        "removed_from_environment": {"OPENBLAS_CORETYPE": "Haswell"},
        "ceilings": {"copy": 2e10, "numpy_matmul": 2e11, "torch_matmul": 1e11},
    }  # fmt: skip
    both = {"tinyconv": time_of(0.1, 0.1), "torch": time_of(0.2, 0.1)}
    rungs = {name: {"forward": time_of(t, t), "both": time_of(t, t)} for name, t in (("loops", 1.0), ("torch", 0.001))}
    found: dict[str, Any] = {
        "layers": [
            layer_row("one", "VGG-16", 0.01, 0.04, True),
            layer_row("two", "VGG-16", 0.01, 0.01, True),
            layer_row("three", "AlexNet", 0.04, 0.01, False),
        ],
        "steps": {"overhead": both, "rows": [{"network": "LeNet", "shape": [64, 1, 28, 28], "seconds": both}]},
        "memory": [
            {
                "network": "LeNet",
                "shape": [64, 1, 28, 28],
                "bytes": {name: {"imported": 50e6, "peak": 90e6} for name in both},
            }
        ],
        "ladder": {"layer": "one", "flop": 1e6, "skipped": ["numba"], "seconds": rungs},
        "peers": {"rows": [{"layer": "one", "batch": 8, "seconds": both}], "skipped": {"mygrad": "ImportError: no"}},
    }
    sections = {name: {"machine": machine, "quick": False, "found": value} for name, value in found.items()}
    return json.loads(json.dumps(sections))


def test_headlines(results: dict[str, Any]) -> None:
    means = {row["what"]: row["median"] for row in report.headlines(results)}
    assert means == pytest.approx(
        {
            "layers, forward": 1,
            "layers, forward and both gradients": 1,
            "layers 3x3, stride 1, forward and both gradients": 2,
            "training steps": 2,
        }
    )
    assert report.slowest(results["layers"]["found"])["layer"] == "three"


def test_report_says_what_was_measured_and_what_was_not(results: dict[str, Any]) -> None:
    said = report.text(results)
    for words in ("abacus", "Beads", "Haswell", "slowest layer: three, batch 1: 0.25", "skipped: numba", "ImportError"):
        assert words in said
    assert said.index("  two ") < said.index("  one ")  # within a network from the smallest ratio up
    del results["layers"], results["peers"]
    said = report.text(results)
    assert "layers: not measured" in said and "peers: not measured" in said and "training steps" in said


def test_figures_are_drawn_from_the_json_alone(results: dict[str, Any], tmp_path: Path) -> None:
    from PIL import Image

    drawn = figures.draw(results, tmp_path / "figures")
    assert [path.stem for path in drawn] == ["ratios", "roofline", "ladder", "peers"]
    for path in drawn:
        with Image.open(path) as image:
            assert image.width <= 7 * image.info["dpi"][0] + 1
            assert np.asarray(image.convert("L")).std() > 10  # not an empty page
    assert figures.draw({"ladder": results["ladder"]}, tmp_path) == [tmp_path / "ladder.png"]
