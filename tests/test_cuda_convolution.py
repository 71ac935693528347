"""Every algorithm of the CUDA convolution, with every tile, against PyTorch: in the emulator."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from math import prod
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compare import RUNGS
from tinyconv import kernels
from tinyconv.geometry import Geometry, window_geometry
from tinyconv.kernels.cuda import convolution, depthwise, direct, launcher, tiled
from tinyconv.kernels.precision import rounded

pytestmark = pytest.mark.skipif("cuda" not in RUNGS, reason="no C++ compiler is here, which the emulator needs")

Layer = tuple[int, int, int, int, Geometry]  # images, groups, channels in and out, windows
CONVOLVE = (torch.nn.functional.conv1d, torch.nn.functional.conv2d, torch.nn.functional.conv3d)


def windows(draw: st.DrawFn, rank: int, largest: int = 3) -> Geometry:
    """Windows on a few pixels, sometimes on many; strides may be larger than the kernel, padding larger on one side."""
    kernel, stride, dilation = ([draw(st.integers(1, top)) for _ in range(rank)] for top in (largest, 4, 2))
    padding = [(draw(st.integers(0, 2)), draw(st.integers(0, 1))) for _ in range(rank)]
    extent = [d * (k - 1) + 1 for k, d in zip(kernel, dilation)]
    size = [max(1, e - sum(p)) + draw(st.integers(0, 5)) for e, p in zip(extent, padding)]
    size[-1] += draw(st.sampled_from([0, 0, 70 if rank == 1 else 15]))
    return window_geometry("test", tuple(size), kernel, stride, padding, dilation)


@st.composite
def layers(draw: st.DrawFn, c_in: tuple[int, ...], c_out: tuple[int, ...]) -> Layer:
    """With so many channels a group: more than a tile, or less."""
    groups = draw(st.sampled_from([1, 1, 2]))
    channels = groups * draw(st.sampled_from(c_in)), groups * draw(st.sampled_from(c_out))
    return draw(st.integers(1, 3)), groups, *channels, windows(draw, draw(st.integers(1, 3)))


@st.composite
def depthwise_layers(draw: st.DrawFn) -> Layer:
    channels = draw(st.integers(1, 3))
    g = windows(draw, draw(st.integers(1, 3)))
    if draw(st.booleans()):  # the windows whose loops are unrolled
        size, stride = (draw(st.integers(2, 20)), draw(st.integers(2, 20))), draw(st.integers(1, 2))
        g = window_geometry("test", size, 3, stride, ((1, draw(st.integers(0, 2))), (draw(st.integers(1, 2)), 1)))
    return draw(st.sampled_from([1, 3, 40])), channels, channels, channels * draw(st.integers(1, 2)), g


def arrays(layer: Layer, dtype: Any, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x, w and gy."""
    batch, groups, c_in, c_out, g = layer
    shapes = (batch, c_in, *g.size), (c_out, c_in // groups, *g.kernel), (batch, c_out, *g.output)
    generator = np.random.default_rng(seed)
    x, w, gy = (generator.standard_normal(shape).astype(dtype) for shape in shapes)
    return x, w, gy


def torchs(layer: Layer, x: np.ndarray, w: np.ndarray, gy: np.ndarray) -> list[np.ndarray]:
    """What conv, conv_input and conv_weight should be, in float64."""
    groups, g = layer[1], layer[4]
    tx, tw = (torch.tensor(a, dtype=torch.float64, requires_grad=True) for a in (x, w))
    before_after = [side for pair in reversed(g.padding) for side in pair]
    y = CONVOLVE[g.rank - 1](torch.nn.functional.pad(tx, before_after), tw, None, g.stride, 0, g.dilation, groups)
    y = y[(..., *(slice(n) for n in g.output))]
    y.backward(torch.tensor(gy, dtype=torch.float64))
    assert tx.grad is not None and tw.grad is not None
    return [a.numpy() for a in (y.detach(), tx.grad, tw.grad)]


def compare(module: Any, layer: Layer, dtype: Any) -> None:
    """All three faces. The tolerance is that of a sum of so many products, each rounded."""
    x, w, gy = arrays(layer, dtype)
    groups, g = layer[1], layer[4]
    found = module.conv(x, w, g, groups), module.conv_input(gy, w, g, groups), module.conv_weight(x, gy, g, groups)
    terms = w[0].size, w[:, 0].size // groups, gy[:, 0].size
    for name, ours, right, n in zip(("conv", "conv_input", "conv_weight"), found, torchs(layer, x, w, gy), terms):
        assert ours.dtype == dtype and ours.shape == right.shape
        np.testing.assert_allclose(ours, right, rtol=0, atol=8 * (n + 1) * np.finfo(dtype).eps, err_msg=name)


@pytest.fixture(scope="module")
def patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


def with_plan(patch: pytest.MonkeyPatch, tile: tiled.Tile, splits: int) -> None:
    def plan(kind: str, *rest: Any) -> tiled.Plan:
        tiles = tiled.TILES[rest[-1]]  # of the dtype
        return tiled.Plan(tile if kind in tiles[tile] else next(t for t in tiles if kind in tiles[t]), splits)

    patch.setattr(tiled, "plan", plan)


ALL_TILES = [
    pytest.param(tile, dtype.type, id=f"{dtype}-{tile.rows}x{tile.columns}")
    for dtype, tiles in tiled.TILES.items()
    for tile in tiles
]


@pytest.mark.parametrize("tile, dtype", ALL_TILES)
@given(data=st.data(), splits=st.sampled_from([1, 1, 3]))
@settings(max_examples=8, deadline=None)
def test_tiles_are_torchs_convolution(
    tile: tiled.Tile, dtype: Any, data: st.DataObject, splits: int, patch: pytest.MonkeyPatch
) -> None:
    edge = tile.rows + 1  # of the second tile
    layer = data.draw(layers((1, 5, 8, 9, 19), (1, 3, 8, 33, edge)))
    with_plan(patch, tile, splits)
    compare(tiled, layer, dtype)
    patch.undo()


@given(layer=depthwise_layers(), least=st.sampled_from([128, 512]), dtype=st.sampled_from([np.float32, np.float64]))
@settings(max_examples=40, deadline=None)
def test_depthwise_is_torchs_convolution(layer: Layer, least: int, dtype: Any, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(depthwise, "_LEAST", least)
    compare(depthwise, layer, dtype)


@given(layer=layers((1, 2, 3), (1, 2, 4)), dtype=st.sampled_from([np.float32, np.float64]))
@settings(max_examples=15, deadline=None)
def test_direct_is_torchs_convolution(layer: Layer, dtype: Any) -> None:
    compare(direct, layer, dtype)


LAYERS: dict[Any, Layer] = {
    tiled: (2, 1, 12, 40, window_geometry("test", (9, 10), (3, 3), padding=1)),
    depthwise: (2, 3, 3, 6, window_geometry("test", (9, 10), (3, 3), padding=1)),
}


@pytest.mark.parametrize("module", LAYERS, ids=lambda module: module.__name__.rpartition(".")[2])
def test_every_face_has_the_same_bits_every_time(module: Any, patch: pytest.MonkeyPatch) -> None:
    with_plan(patch, tiled.Tile(32, 128, 1), 3)
    patch.setattr(depthwise, "_LEAST", 32)
    layer = LAYERS[module]
    x, w, gy = arrays(layer, np.float32)
    groups, g = layer[1], layer[4]
    calls: list[Callable[[], Any]] = [
        lambda: module.conv(x, w, g, groups),
        lambda: module.conv_input(gy, w, g, groups),
        lambda: module.conv_weight(x, gy, g, groups),
    ]
    assert [call().tobytes() for call in calls] == [call().tobytes() for call in calls]
    patch.undo()


@pytest.mark.parametrize("splits, kernel, times", [(1, (3, 2), 3), (3, (3, 3), 1)])
@pytest.mark.parametrize("stride, padding", [(1, 0), (1, 2), (2, 1), (4, 1)])
@pytest.mark.parametrize("module", [tiled, depthwise, direct], ids=lambda module: module.__name__.rpartition(".")[2])
def test_nan_and_infinity_are_where_torch_has_them(
    module: Any, stride: int, padding: int, splits: int, kernel: Any, times: int, patch: pytest.MonkeyPatch
) -> None:
    # Padding takes part in a sum, so 0 * inf is NaN; a pixel that no window reads is 0, whatever the weights are.
    with_plan(patch, tiled.Tile(32, 128, 1), splits)
    channels = 3 if times > 1 else 6  # for outputs, tiles tell few channels from others
    groups = channels if module is depthwise else 1
    layer = (2, groups, channels, channels * times, window_geometry("test", (6, 7), kernel, stride, padding))
    g = layer[4]
    for which in range(3):
        x, w, gy = all_three = arrays(layer, np.float32, which)
        a = all_three[which]
        a.flat[np.random.default_rng(which).integers(a.size, size=3)] = [np.nan, np.inf, -np.inf]
        a[0, 0, -1, 0] = np.inf  # the last row, which strips that are longer than the image read
        found = module.conv(x, w, g, groups), module.conv_input(gy, w, g, groups), module.conv_weight(x, gy, g, groups)
        for ours, right in zip(found, torchs(layer, x, w, gy)):
            np.testing.assert_array_equal(np.isnan(ours), np.isnan(right))
            np.testing.assert_array_equal(ours[np.isinf(right)], right[np.isinf(right)])
            finite = np.isfinite(right)
            assert np.isfinite(ours[finite]).all()
            np.testing.assert_allclose(ours[finite], right[finite], rtol=0, atol=1e-4)
            assert (ours[right == 0] == 0).all()
    patch.undo()


def test_every_choice_is_an_algorithm_that_fits() -> None:
    def chosen(g: Geometry, layers: list[tuple[int, int, int]], face: str = "conv", batch: int = 4, **how: Any) -> Any:
        dtype = np.dtype(how.pop("dtype", np.float32))
        return [convolution.choose(face, g, batch, *layer, dtype, **how).algorithm for layer in layers]

    g = window_geometry("test", (56, 56), (3, 3), padding=1)
    layers = [(32, 64, 1), (32, 32, 32), (32, 64, 32), (1, 8, 1), (3, 64, 1), (64, 64, 16), (1, 64, 1)]
    assert chosen(g, layers) == ["tiled", "depthwise", "depthwise", "direct", "tiled", "direct", "tiled"]
    large = [(64, 64, 1)]
    assert chosen(g, large) == ["winograd4"] and chosen(g, large, batch=1) == ["tiled"]
    assert chosen(g, large, dtype=np.float64) == ["tiled"]
    point, faces = window_geometry("test", (56, 56), (1, 1)), ("conv", "conv_input", "conv_weight")
    assert [chosen(point, large, face)[0] for face in faces] == ["columns", "columns", "tiled"]
    assert chosen(g, layers, asked="tf32")[:4] == ["tf32", "depthwise", "depthwise", "direct"]
    assert chosen(g, large, asked="bf16") == ["bf16"] and chosen(g, large, asked="tf32", dtype=np.float64) == ["tiled"]
    for name in ("direct", "columns", "winograd2", "exact", "depthwise"):
        with kernels.use_kernels(conv=name):
            assert chosen(g, large) == ["tiled" if name == "exact" else "winograd4" if name == "depthwise" else name]


def test_the_choice_is_explained() -> None:
    shapes = (16, 64, 56, 56), (64, 64, 1, 1)
    said = str(kernels.explain_choice(*shapes, rung="cuda")).splitlines()
    assert [line.split()[:2] for line in said] == [
        ["conv", "columns"], ["conv_input", "columns"], ["conv_weight", "tiled"],
    ]  # fmt: skip
    assert said[2].endswith("4096 pairs of channels a group")
    with kernels.use_kernels(precision="bf16"):
        assert kernels.explain_choice(*shapes, rung="cuda")["conv"].algorithm == "bf16"
        assert kernels.explain_choice(*shapes)["conv"].algorithm != "bf16"


@pytest.mark.parametrize("asked", ["tf32", "bf16"])
@pytest.mark.parametrize("face", ["conv", "conv_input", "conv_weight"])
def test_the_precision_that_is_asked_for_is_that_of_the_products(asked: str, face: str) -> None:
    layer = (2, 1, 16, 24, window_geometry("test", (7, 6), (3, 3), padding=1))
    x, w, gy = arrays(layer, np.float32)
    at = ("conv", "conv_input", "conv_weight").index(face)
    operands = [(x, w), (gy, w), (x, gy)][at]
    exact = torchs(layer, x, w, gy)[at]
    of_rounded = torchs(layer, *(rounded(a, asked) for a in (x, w, gy)))[at]
    with kernels.use_kernels("cuda", precision=asked):
        found = kernels.kernel(face)(*operands, layer[4], 1)
    scale = np.abs(exact).max()
    np.testing.assert_allclose(found, of_rounded, atol=2e-6 * scale)
    assert np.abs(found - exact).max() > 1e-4 * scale


def test_float16_is_multiplied_exactly_and_summed_in_float32() -> None:
    layer = (2, 1, 16, 24, window_geometry("test", (7, 6), (3, 3), padding=1))
    x, w, gy = (a.astype(np.float16) for a in arrays(layer, np.float32))
    g = layer[4]
    with kernels.use_kernels("cuda"):
        found = kernels.conv(x, w, g, 1), kernels.conv_input(gy, w, g, 1), kernels.conv_weight(x, gy, g, 1)
    for ours, right in zip(found, torchs(layer, x, w, gy)):
        assert ours.dtype == np.float16
        np.testing.assert_allclose(ours, right, rtol=2.0**-11, atol=2e-6 * np.abs(right).max())


@pytest.mark.parametrize("channels", [(64, 64, 1), (6, 6, 6), (3, 4, 1)])
def test_the_rung_takes_what_is_chosen(channels: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    c_in, c_out, groups = channels
    layer = (1, groups, c_in, c_out, window_geometry("test", (4, 4), (3, 3), padding=1))
    launched = []
    for module in (tiled, depthwise, direct):
        monkeypatch.setattr(module, "launch", lambda *a, **b: (launched.append(a[0]), launcher.launch(*a, **b)))
    x, w, gy = arrays(layer, np.float32)
    with kernels.use_kernels("cuda"):
        kernels.conv(x, w, layer[4], groups)
        kernels.conv_input(gy, w, layer[4], groups)
        kernels.conv_weight(x, gy, layer[4], groups)
    name = convolution.choose("conv", layer[4], 1, c_in, c_out, groups, np.dtype(np.float32)).algorithm
    assert {re.split(r"[_.]", file)[0] for file in launched} - {"pack"} == {name}


def test_plans_fill_the_machine_within_the_memory_for_parts() -> None:
    float32 = np.dtype(np.float32)
    for channels, pixels in ((64, 56), (128, 28), (256, 14), (512, 7)):  # ResNet's layers, of 64 images
        taps, outputs = 9 * channels, 64 * pixels**2
        forward = tiled.plan("gather", channels, outputs, taps // 8, 1, channels * outputs, float32)
        weight = tiled.plan("weight", channels, taps, outputs // 8, 1, channels * taps, float32)
        for plan, rows, columns in ((forward, channels, outputs), (weight, channels, taps)):
            blocks = -(-rows // plan.tile.rows) * -(-columns // plan.tile.columns) * plan.splits
            busiest = -(-blocks // 132) * plan.tile.rows * plan.tile.columns
            assert busiest <= 1.35 * rows * columns * plan.splits / 132, (channels, plan)
            assert plan.splits == 1 or plan.splits * rows * columns * 4 <= 64 << 20
    assert prod(tiled.plan("gather", 64, 100, 4, 1, 6400, float32).tile[:2]) < 128 * 128  # few results: a small tile
