"""Every network as an ONNX file, run by onnxruntime and read again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinyconv as tc
from test_models import MINIATURES
from tinyconv import Tensor, models, nn
from tinyconv import functional as F
from tinyconv.io import load_onnx, save_onnx
from tinyconv.models.registry import NETWORKS

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


def run(path: Path, x: Any) -> list[Any]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"input": x})


def agree(model: nn.Module, shape: tuple[int, ...], path: Path, least: float = -3, free: bool = True) -> None:
    """Traced on one input; compared on another, and on other numbers of images; the file read again."""
    rng = np.random.default_rng(0)
    for name, t in model.named_buffers():  # statistics that are neither 0 nor 1
        if "running" in name:
            t.data[...] = rng.uniform(0.5, 1.5, t.shape)
            t.changed()
    save_onnx(model, rng.uniform(least, 3, shape).astype(np.float32), path)
    assert model.training
    again = load_onnx(path)
    for images in (shape[0], 1, 5) if free else shape[:1]:
        x = rng.uniform(least, 3, (images, *shape[1:])).astype(np.float32)
        result = model.eval()(Tensor(x))
        results = result if isinstance(result, tuple) else (result,)
        reread = again(x)
        for found, mine, y in zip(
            run(path, x), reread if isinstance(reread, tuple) else (reread,), results, strict=True
        ):
            assert found.shape == y.shape and found.dtype == y.dtype
            scale = np.abs(y.data).max(initial=1)
            np.testing.assert_allclose(found, y.data, rtol=1e-4, atol=1e-4 * scale)
            np.testing.assert_allclose(mine.data, y.data, rtol=1e-5, atol=1e-5 * scale)
    model.train()


@pytest.mark.filterwarnings("error")
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


class Lambda(nn.Module):
    """A function as a network."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__()
        self.forward = function  # type: ignore[method-assign]


def unpooled(stride: int, padding: int) -> Callable[[Any], Any]:
    def function(x: Any) -> Any:
        y, indices = F.max_pool2d(x, 2 + padding, stride, padding, return_indices=True)
        return F.max_unpool2d(y * 2, indices, 2 + padding, stride, padding, x.shape[2:])

    return function


PLACES = np.array([[2, 0], [1, -1]])
FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "arithmetic": lambda x: (x + 1, 1 - x, x * x, x / 2, x**2, -x, abs(x), x.round()),
    "functions": lambda x: ((x * 0.1).exp(), (x.abs() + 1).log(), (x.abs()).sqrt(), x.sin(), x.cos(), x.sign()),
    "rounding": lambda x: (x.floor(), x.ceil(), x.trunc(), x // 2, tc.div(x, 0.7, rounding_mode="trunc")),
    "near one": lambda x: (tc.expm1(x), tc.log1p(x.abs())),
    "comparison": lambda x: (x > 0, x >= 1, x < 0, x <= -1, (x * 0) == 0, x != 1, (x > 0) & ~(x > 1) | (x < -2)),
    "where": lambda x: (tc.where(x > 0, x, x * x), tc.where(x > 0, 1.0, -1.0), x.clamp(-1, 1), x.clamp(min=0.5)),
    "maximum": lambda x: (tc.maximum(x, -x), tc.minimum(x, x * x), x.amax((1, 2)), x.amin(-1, keepdim=True)),
    "sums": lambda x: (x.sum(1), x.mean((2, 3)), x.mean((2, 3), keepdim=True), x.var(1), x.cumsum(2), x.norm(dim=1)),
    "largest": lambda x: (*x.max(1), *x.min(-1, keepdim=True), x[0].argmax(), x.argmin(2)),
    "leaky": lambda x: (F.leaky_relu(x), F.leaky_relu(x, 0.3), F.threshold(x, 0.2, -1.0)),
    "smooth": lambda x: (F.selu(x), F.celu(x, 0.4), F.mish(x), F.logsigmoid(x), F.softplus(x, 2.0, 1.0), F.glu(x)),
    "gelu": lambda x: (F.gelu(x, "tanh"), F.softsign(x), F.tanhshrink(x), F.hardtanh(x, -0.5, 2.0), F.softmin(x, 1)),
    "slices": lambda x: (x[:, 1:], x[..., ::2], x[:, -2:, :3, None], x[:, 0], x[:, :, -1], x[1:], x[:, ::-2]),
    "arrays": lambda x: (
        x[:, [2, 0]],
        x[:, :, PLACES],
        x[..., np.arange(8) < 3],
        x[0, [1, 0], [2, 3]],
        x[0][[1, 0], [2, 3]],
    ),
    "turned": lambda x: (x.flip(1, 3), x.roll(2, 3), x.roll((1, -1), (1, 2)), x.transpose(1, 2), x.repeat(1, 2, 1, 1)),
    "shapes": lambda x: (x.flatten(1), x.reshape(-1, 8), x.unsqueeze(1), x[:, :1].squeeze(1), x.reshape(len(x), -1).T),
    "pieces": lambda x: (*x.split(2, 1), *x.chunk(2, 2), tc.cat([x, x], 1), tc.stack([x, -x], 1)),
    "pads": lambda x: (F.pad(x, (1, 2, 0, 1)), F.pad(x, (1, 2, 0, 1), value=3.0), F.pad(x, (1, 1), "constant", -1.0)),
    "mirrors": lambda x: (F.pad(x, (1, 2, 0, 1), "reflect"), F.pad(x, (1, 2, 0, 1), "replicate")),
    "resized": lambda x: (
        *(
            F.interpolate(x, scale_factor=2.0),
            F.interpolate(x, (9, 5)),
            F.interpolate(x, (9, 20), mode="nearest-exact"),
        ),
        *(F.interpolate(x, (9, 5), mode="bilinear"), F.interpolate(x, (7, 20), mode="bilinear", align_corners=True)),
        *(F.interpolate(x, (9, 5), mode="bicubic"), F.interpolate(x, (4, 5), mode="area"), F.adaptive_avg_pool2d(x, 1)),
        *(F.interpolate(x[:, 0], 5, mode="linear"), F.interpolate(x, scale_factor=1.7, mode="bilinear")),
        F.interpolate(x[:, None], (5, 9, 7), mode="trilinear"),
    ),
    "unpooled": unpooled(2, 0),
    "unpooled in overlaps": unpooled(1, 1),
    "norms": lambda x: (F.local_response_norm(x, 4), F.layer_norm(x, (8,)), F.instance_norm(x), F.normalize(x)),
    "expanded": lambda x: (x[:, :1].expand(-1, 3, -1, -1) * 2, x + x[:, :1].expand(-1, 4, -1, -1)),
    "casts": lambda x: (x.to(tc.float64), (x * 2).long(), (x > 0).float()),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_gives_the_same_in_onnxruntime(name: str, tmp_path: Path) -> None:
    agree(Lambda(FUNCTIONS[name]), (2, 4, 6, 8), tmp_path / "a.onnx")


def test_resizing_is_a_node_where_there_is_one(tmp_path: Path) -> None:
    """Not for cubic and area, nor for a scale that is not the ratio of the sizes."""
    for name, kinds in (("resized", {"Resize": 7, "GlobalAveragePool": 1}), ("mirrors", {"Resize": 0})):
        save_onnx(Lambda(FUNCTIONS[name]), np.ones((2, 4, 6, 8), np.float32), tmp_path / "a.onnx")
        found = Counter(node.kind for node in load_onnx(tmp_path / "a.onnx").nodes)
        assert {kind: found[kind] for kind in kinds} == kinds


def test_the_weights_of_a_file_are_those_of_the_model(tmp_path: Path) -> None:
    model = nn.Sequential(
        *(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.PReLU(3), nn.ConvTranspose2d(3, 2, 2, bias=False)),
        *(nn.Flatten(), nn.LayerNorm(2 * 7 * 7), nn.Linear(2 * 7 * 7, 4)),
    )
    agree(model, (2, 2, 8, 8), tmp_path / "a.onnx")
    again = load_onnx(tmp_path / "a.onnx")
    assert {node.kind for node in again.nodes} >= {"Conv", "BatchNormalization", "ConvTranspose"}
    own = {name: t for name, t in model.state_dict().items() if "tracked" not in name}
    assert set(own) == set(again.state_dict())
    assert {n for n, _ in again.named_parameters()} == {n for n, _ in model.named_parameters()}
    x = Tensor(np.random.default_rng(0).standard_normal((2, 2, 8, 8), np.float32))
    model.eval()
    for net in (model, again):
        net(x).square().sum().backward()
    theirs = dict(again.named_parameters())
    for name, p in model.named_parameters():
        assert p.grad is not None and theirs[name].grad is not None
        scale = np.abs(p.grad.data).max()
        np.testing.assert_allclose(theirs[name].grad.data, p.grad.data, rtol=1e-4, atol=1e-5 * scale, err_msg=name)


class Twice(nn.Module):
    """A convolution that is read with and without a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bias = nn.Conv2d(4, 3, 3, bias=False), nn.Parameter(np.arange(3, dtype=np.float32))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.conv(x)
        return y + self.bias.reshape(-1, 1, 1), y


def test_a_convolution_takes_its_own_bias_only(tmp_path: Path) -> None:
    agree(Twice(), (2, 4, 6, 6), tmp_path / "a.onnx")
    agree(nn.Sequential(nn.Conv2d(4, 3, 3), nn.ConvTranspose2d(3, 2, 3)), (2, 4, 6, 6), tmp_path / "b.onnx")
    kinds = [node.kind for node in load_onnx(tmp_path / "b.onnx").nodes]
    assert kinds == ["Conv", "ConvTranspose", "Identity"]


class Clipped(nn.BatchNorm2d):
    """A batch norm with a forward of its own."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).clamp(-1, 1)


def test_a_changed_batch_norm_is_written_as_it_is(tmp_path: Path) -> None:
    hooked = nn.BatchNorm2d(4)
    hooked.register_forward_hook(lambda module, args, y: y * 2)
    untracked = nn.BatchNorm2d(4, track_running_stats=False)
    for norm in (Clipped(4), hooked, nn.BatchNorm2d(4, affine=False), untracked):
        agree(nn.Sequential(norm), (2, 4, 3, 3), tmp_path / "a.onnx")


# --------------------------------------------------------------------------------------------------
# What no file can say


def written_to(y: Tensor) -> Tensor:
    y.data[...] += 1
    return y


REFUSED: dict[str, tuple[Callable[[Any], Any], str]] = {
    "data": (
        lambda x: x * Tensor(x.data.mean(keepdims=True)),
        "an argument of Mul, of shape .*, differs",
    ),
    "item": (lambda x: x * x.mean().item(), "an argument of Mul, .* past its operators"),
    "branch": (lambda x: F.relu(x) if x.data[0, 0, 0, 0] > 0.5 else F.elu(x), "is run in place of"),
    "attribute": (lambda x: F.leaky_relu(x, float(x.data.max())), "the operators that are run, or their arguments"),
    "chance": (
        lambda x: x + Tensor(np.random.default_rng().random(x.shape, np.float32)),
        "draws at random",
    ),
    "in place": (lambda x: (x * 1).add_(1), r"the result of Mul, .* is changed in place at .*x = x \+ 1"),
    "input": (lambda x: x.mul_(2), "the input, of shape .*, is changed in place at"),
    "written": (lambda x: written_to(x * 1), r"the result of Mul, .* is changed in place, which ONNX cannot say"),
    "node": (lambda x: F.unfold(x, 2), r"no ONNX node is known for Unfold .at its input .2, 4, 6, 8\)"),
    "mask": (lambda x: x[x > 0], "by a mask that is computed"),
    "index": (lambda x: F.max_pool2d(x, 2, return_indices=True)[1] * 1, "gives the second result of shape"),
    "unpooling": (
        lambda x: F.max_unpool2d(x, Tensor(np.arange(48).reshape(1, 1, 6, 8).repeat(2, 0).repeat(4, 1)), 2),
        "only for the indices",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_file_cannot_say_is_refused(name: str, tmp_path: Path) -> None:
    function, match = REFUSED[name]
    x = np.ones((2, 4, 6, 8), np.float32)
    with pytest.raises(ValueError, match=f"^save_onnx: .*{match}"):
        save_onnx(Lambda(function), x, tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir()) and (x == 1).all()


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x - x.mean(0),
        lambda x: x + Tensor(np.arange(2, dtype=np.float32)).reshape(2, 1, 1, 1),
        lambda x: x.reshape(len(x) * 2, -1, len(x)),
    ],
)
def test_a_file_for_one_number_of_images_says_so(function: Callable[[Any], Any], tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"is for inputs of shape \(2, 4, 6, 8\) alone: "):
        agree(Lambda(function), (2, 4, 6, 8), tmp_path / "a.onnx", free=False)
    with pytest.raises(ValueError, match=r"input must be float32 of shape \(2, 4, 6, 8\)"):
        load_onnx(tmp_path / "a.onnx")(np.ones((3, 4, 6, 8), np.float32))
