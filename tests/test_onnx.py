"""Every network as an ONNX file, run by onnxruntime and read again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinyconv as tc
from test_models import MINIATURES
from tinyconv import Tensor, models, nn
from tinyconv.io import load_onnx, save_onnx
from tinyconv.models.registry import NETWORKS

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


def run(path: Path, x: Any) -> list[Any]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"input": x})


def agree(model: nn.Module, shape: tuple[int, ...], path: Path) -> None:
    """Traced on one input, compared on another."""
    rng = np.random.default_rng(0)
    for name, t in model.named_buffers():  # statistics that are neither 0 nor 1
        if "running" in name:
            t.data[...] = rng.uniform(0.5, 1.5, t.shape)
            t.changed()
    save_onnx(model, rng.standard_normal(shape, np.float32), path)
    assert model.training
    x = rng.standard_normal(shape, np.float32)
    (found,) = run(path, x)
    expected = model.eval()(Tensor(x)).data
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    np.testing.assert_allclose(load_onnx(path)(x).data, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_gives_the_same_in_onnxruntime(name: str, tmp_path: Path) -> None:
    options, shape = MINIATURES[name]
    tc.manual_seed(0)
    agree(models.create(name, **options), shape, tmp_path / "model.onnx")


@pytest.mark.parametrize(
    "layer",
    [
        nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False),
        nn.AvgPool2d(2, ceil_mode=True),
        nn.MaxPool2d(3, 2, 1, dilation=2, ceil_mode=True),
        nn.ConvTranspose2d(2, 4, 3, 2, 1, 1, groups=2, dilation=1),
        nn.Conv2d(2, 4, (3, 2), (2, 1), "valid", groups=2),
        nn.AdaptiveAvgPool2d((3, 2)),
        nn.Upsample(scale_factor=2.0, mode="bicubic"),
        nn.GroupNorm(2, 2),
        nn.Softmax(1),
        nn.GELU(),
        nn.ReLU6(),
        nn.SiLU(),
        nn.ELU(0.7),
        nn.Softplus(),
        nn.Hardsigmoid(),
        nn.Hardswish(),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_a_layer_gives_the_same_in_onnxruntime(layer: nn.Module, tmp_path: Path) -> None:
    agree(nn.Sequential(layer), (2, 2, 8, 9), tmp_path / "layer.onnx")


def test_an_operator_without_a_node_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no ONNX node is known for Unpool"):
        save_onnx(models.unet(base=2, levels=2, upsampling="unpooled"), tc.zeros(1, 1, 8, 8), tmp_path / "unet.onnx")
    assert not (tmp_path / "unet.onnx").exists()
