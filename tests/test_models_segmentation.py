"""U-Nets, dilated modules and LeNet-5 of 1998: published figures, and every layer beside the same network in torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as tF
from torch import nn as tnn

import tinyconv as tc
from model_checks import compare, parameters, undrawn
from tinyconv import Tensor, explain, models
from tinyconv.models.context import LARGE
from tinyconv.models.lenet1998 import PICTURES, digit_codes
from tinyconv.models.sizes import valid_unet_output


def made(name: str, *args: Any, **options: Any) -> Any:
    """A network without drawn weights."""
    with undrawn():
        return getattr(models, name)(*args, **options)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


# --------------------------------------------------------------------------------------------------
# U-Net of 2015


class TorchUNet2015(tnn.Module):
    def __init__(self, base: int, levels: int, classes: int) -> None:
        super().__init__()
        c = [base * 2**level for level in range(levels)]

        def double(a: int, b: int) -> tnn.Module:
            return tnn.Sequential(tnn.Conv2d(a, b, 3), tnn.ReLU(), tnn.Conv2d(b, b, 3), tnn.ReLU())

        self.down = tnn.ModuleList(double(a, b) for a, b in zip([1, *c], c))
        self.pool, self.dropout = tnn.MaxPool2d(2), tnn.Dropout(0)
        self.up = tnn.ModuleList(tnn.ConvTranspose2d(2 * a, a, 2, 2) for a in c[:-1])
        self.merge = tnn.ModuleList(double(2 * a, a) for a in c[:-1])
        self.head = tnn.Conv2d(base, classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = [self.down[0](x)]
        for stage in list(self.down)[1:]:
            skips.append(stage(self.pool(skips[-1])))
        y = self.dropout(skips.pop())
        for up, merge in reversed(list(zip(self.up, self.merge))):
            y, skip = up(y), skips.pop()
            top, left = (skip.shape[2] - y.shape[2]) // 2, (skip.shape[3] - y.shape[3]) // 2
            y = merge(torch.cat([tF.pad(skip, (-left, -left, -top, -top)), y], 1))
        return self.head(y)


def test_unet2015_layer_by_layer() -> None:
    ours = made("unet2015", base=2, levels=3, num_classes=3, in_channels=1)
    compare(ours, TorchUNet2015(2, 3, 3), (1, 1, 44, 60))


def test_unet2015_has_the_published_figures() -> None:
    assert parameters(made("unet2015")) == 31_030_658
    assert parameters(made("unet2015", in_channels=3)) == 31_031_810
    assert [parameters(made("unet2015", base=base)) for base in (32, 16)] == [7_759_554, 1_940_834]
    model = made("unet2015", base=1)
    assert len(model.state_dict()) == 46 and (model.step, model.margin) == (16, 92)
    table = explain.summary(model, (1, 1, 572, 572))
    convolutions = [layer for layer in table.layers if layer.kind.startswith("Conv")]
    assert len(convolutions) == 23
    assert [layer.output[2] for layer in convolutions] == [
        *(570, 568, 282, 280, 138, 136, 66, 64, 30, 28),
        *(56, 54, 52, 104, 102, 100, 200, 198, 196, 392, 390, 388, 388),
    ]
    assert {layer.output[2] for layer in table.layers if layer.kind == "MaxPool2d"} == {284, 140, 68, 32}


@pytest.mark.parametrize(("size", "output"), [(188, 4), (204, 20), (572, 388), (588, 404)])
def test_unet2015_takes_12_modulo_16(size: int, output: int) -> None:
    assert valid_unet_output(size, 5) == output
    model = made("unet2015", base=1)
    if size < 300:
        assert model(tc.zeros(1, 1, size, 188)).shape == (1, 2, output, 4)
    for wrong in (size - 1, size + 4, size + 8):
        with pytest.raises(ValueError, match="12 modulo 16, at least 188"):
            model(tc.zeros(1, 1, 188, wrong))


@pytest.mark.parametrize("levels", range(1, 6))
def test_legal_sizes_are_those_that_torch_takes_without_loss(levels: int) -> None:
    """A pooling of an odd number of pixels would lose one, and the halves would no longer fit."""

    def walk(size: int) -> int:
        for level in range(levels):
            if level > 0:
                if size % 2:
                    return 0
                size //= 2
            size -= 4
            if size < 1:
                return 0
        for _ in range(levels - 1):
            size = 2 * size - 4
        return max(size, 0)

    assert [valid_unet_output(size, levels) for size in range(1, 300)] == [walk(size) for size in range(1, 300)]


def whole_numbers(model: Any, seed: int = 0) -> Any:
    """Weights -1, 0 and 1 in float64: every sum is exact, so that equal means equal."""
    rng = np.random.default_rng(seed)
    model.to("float64")
    for p in model.parameters():
        p.data[...] = rng.integers(-1, 2, p.shape)
        p.changed()
    return model


@pytest.mark.parametrize(("levels", "tile", "size"), [(3, 8, (20, 32)), (3, 12, (17, 30)), (4, 20, (36, 20))])
def test_tiles_are_the_whole_mirrored_image(levels: int, tile: int, size: tuple[int, int]) -> None:
    network = whole_numbers(models.unet2015(base=4, levels=levels)).eval()
    image = np.random.default_rng(1).integers(-2, 3, (1, 1, *size)).astype(float)
    found = models.predict_in_tiles(network, Tensor(image), tile)
    m, step = network.margin, network.step
    extra = [(4 - n) % step for n in size]  # up to a size that the network takes in one piece
    mirrored = np.pad(image, ((0, 0), (0, 0), (m, m + extra[0]), (m, m + extra[1])), mode="reflect")
    expected = network(Tensor(mirrored)).data[:, :, : size[0], : size[1]]
    assert found.shape == (1, 2, *size) and len(np.unique(expected)) > 100
    np.testing.assert_array_equal(found.data, expected)


def test_a_tile_that_does_not_fit_is_refused() -> None:
    network = made("unet2015", base=1)
    for tile in (4, 387, 384):
        with pytest.raises(ValueError, match="tile . 184 must be a size that the network takes, 12 modulo 16"):
            models.predict_in_tiles(network, tc.zeros(1, 1, 30, 30), tile)


def test_unet2015_moves_with_the_image_by_16_pixels() -> None:
    network = whole_numbers(models.unet2015(base=4)).eval()
    image = np.random.default_rng(0).integers(-1, 2, (1, 1, 188, 220)).astype(float)
    left, right = (network(Tensor(image[..., a : a + 204])).data for a in (0, 16))
    np.testing.assert_array_equal(left[..., 16:], right[..., :4])
    moved = network(Tensor(image[..., 8 : 8 + 204])).data
    assert not np.array_equal(left[..., 8:], moved[..., :12])


def test_unet2015_starts_with_he_s_deviation() -> None:
    weight = models.unet2015(base=16, levels=3).down[2][2].weight.data
    assert weight.std() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.03)


# --------------------------------------------------------------------------------------------------
# Padded U-Net


class TorchUNet(tnn.Module):
    def __init__(self, base: int, levels: int, norm: str, up: str, kernel: int, skips: bool) -> None:
        super().__init__()
        c = [base * 2**level for level in range(levels)]
        self.kind, self.skips = up, skips

        def double(a: int, b: int) -> tnn.Module:
            def one(a: int) -> list[tnn.Module]:
                n = tnn.BatchNorm2d(b) if norm == "batch" else tnn.InstanceNorm2d(b, affine=True)
                return [tnn.Conv2d(a, b, 3, padding=1, bias=False), n, tnn.ReLU()]

            return tnn.Sequential(*one(a), *one(b))

        def enlarge(a: int) -> tnn.Module:
            if up == "transposed":
                pads = {2: (0, 0), 3: (1, 1), 4: (1, 0)}[kernel]
                return tnn.ConvTranspose2d(2 * a, a, kernel, 2, *pads)
            conv = tnn.Conv2d(2 * a, a, 3, padding=1)
            return tnn.Sequential(tnn.Upsample(scale_factor=2, mode="bilinear"), conv) if up == "interpolated" else conv

        self.down = tnn.ModuleList(double(a, b) for a, b in zip([2, *c], c))
        self.up = tnn.ModuleList(enlarge(a) for a in c[:-1])
        self.merge = tnn.ModuleList(double(2 * a if skips else a, a) for a in c[:-1])
        self.head = tnn.Conv2d(base, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips, places = [self.down[0](x)], []
        for stage in list(self.down)[1:]:
            pooled, place = tF.max_pool2d(skips[-1], 2, return_indices=True)
            places.append(place)
            skips.append(stage(pooled))
        y = skips.pop()
        for up, merge in reversed(list(zip(self.up, self.merge))):
            y, skip, place = up(y), skips.pop(), places.pop()
            if self.kind == "unpooled":
                y = tF.max_unpool2d(y, place, 2)
            y = merge(torch.cat([skip, y], 1) if self.skips else y)
        return self.head(y)


@pytest.mark.parametrize(
    ("norm", "up", "kernel", "skips"),
    [
        ("instance", "transposed", 2, True),
        ("batch", "transposed", 3, True),
        ("batch", "transposed", 4, False),
        ("batch", "interpolated", 2, True),
        ("instance", "unpooled", 2, True),
        ("batch", "unpooled", 2, False),
    ],
)
def test_unet_layer_by_layer(norm: str, up: str, kernel: int, skips: bool) -> None:
    ours = made("unet", in_channels=2, num_classes=3, base=3, levels=3, norm=norm, upsampling=up, up_kernel=kernel,
                skips=skips)  # fmt: skip
    compare(ours, TorchUNet(3, 3, norm, up, kernel, skips), (2, 2, 12, 20), own={"pool"})


def test_unet_with_batch_norm_has_the_published_parameters() -> None:
    """milesial/Pytorch-UNet with transposed convolutions: 3 to 2 classes and 1 to 2."""
    paper = dict(base=64, levels=5, norm="batch")
    assert parameters(made("unet", in_channels=3, num_classes=2, **paper)) == 31_037_698
    assert parameters(made("unet", in_channels=1, num_classes=2, **paper)) == 31_036_546
    twin = TorchUNet(16, 4, "instance", "transposed", 2, True)
    assert parameters(made("unet", in_channels=2, num_classes=3)) == sum(p.numel() for p in twin.parameters())
    assert parameters(made("unet")) == 482_466
    sizes = {up: parameters(made("unet", upsampling=up)) for up in ("transposed", "interpolated", "unpooled")}
    squares = sum((16 << level) ** 2 for level in range(3))
    assert sizes["interpolated"] == sizes["unpooled"] == sizes["transposed"] + 10 * squares


@pytest.mark.parametrize(
    "options", [{"norm": "layer"}, {"upsampling": "nearest"}, {"up_kernel": 5}], ids=lambda o: next(iter(o))
)
def test_unet_refuses_unknown_parts(options: Any) -> None:
    with pytest.raises(ValueError, match=f"UNet: {next(iter(options))} must be"):
        models.unet(**options)


# --------------------------------------------------------------------------------------------------
# 3D U-Net


class TorchUNet3d(tnn.Module):
    def __init__(self, base: int, levels: int, padding: int) -> None:
        super().__init__()

        def double(a: int, m: int, b: int) -> tnn.Module:
            return tnn.Sequential(
                *(tnn.Conv3d(a, m, 3, padding=padding), tnn.BatchNorm3d(m), tnn.ReLU()),
                *(tnn.Conv3d(m, b, 3, padding=padding), tnn.BatchNorm3d(b), tnn.ReLU()),
            )

        half = [base * 2**level for level in range(levels)]
        self.down = tnn.ModuleList(double(a, m, 2 * m) for a, m in zip([3, *(2 * m for m in half)], half))
        self.pool = tnn.MaxPool3d(2)
        self.up = tnn.ModuleList(tnn.ConvTranspose3d(4 * m, 4 * m, 2, 2, bias=False) for m in half[:-1])
        self.merge = tnn.ModuleList(double(6 * m, 2 * m, 2 * m) for m in half[:-1])
        self.head = tnn.Conv3d(2 * base, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = [self.down[0](x)]
        for stage in list(self.down)[1:]:
            skips.append(stage(self.pool(skips[-1])))
        y = skips.pop()
        for up, merge in reversed(list(zip(self.up, self.merge))):
            y, skip = up(y), skips.pop()
            crops = [-((a - b) // 2) for a, b in zip(skip.shape[2:], y.shape[2:]) for _ in range(2)]
            y = merge(torch.cat([tF.pad(skip, crops[::-1]), y], 1))
        return self.head(y)


@pytest.mark.parametrize(("padded", "shape"), [(False, (1, 3, 20, 24, 28)), (True, (2, 3, 4, 6, 8))])
def test_unet3d_layer_by_layer(padded: bool, shape: tuple[int, ...]) -> None:
    compare(made("unet3d", base=2, levels=2, padded=padded), TorchUNet3d(2, 2, int(padded)), shape)


def test_unet3d_has_the_published_figures() -> None:
    model = made("unet3d")
    norms = sum(parameters(m) for m in model.modules() if type(m).__name__ == "BatchNorm3d")
    assert (parameters(model) - norms, parameters(model)) == (19_069_955, 19_074_627)
    assert [valid_unet_output(size, 4) for size in (132, 132, 116)] == [44, 44, 28]
    small = made("unet3d", base=1, levels=3)
    assert small(tc.zeros(1, 3, 44, 48, 52)).shape == (1, 3, 4, 8, 12)
    with pytest.raises(ValueError, match="D and H and W 0 modulo 4, at least 44 .padded=True takes multiples of 4"):
        small(tc.zeros(1, 3, 44, 44, 45))
    with pytest.raises(ValueError, match="divisible by 8"):
        made("unet3d", base=1, padded=True)(tc.zeros(1, 3, 8, 8, 12))


# --------------------------------------------------------------------------------------------------
# Attention


class TorchResidual(tnn.Module):
    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = tnn.Conv2d(a, b, 3, padding=1, bias=False), tnn.BatchNorm2d(b)
        self.conv2, self.bn2 = tnn.Conv2d(b, b, 3, padding=1, bias=False), tnn.BatchNorm2d(b)
        self.shortcut = tnn.Sequential(tnn.Conv2d(a, b, 1, bias=False), tnn.BatchNorm2d(b))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))) + self.shortcut(x))


class TorchGate(tnn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.theta, self.phi = tnn.Conv2d(c, c, 2, 2, bias=False), tnn.Conv2d(2 * c, c, 1)
        self.psi = tnn.Conv2d(c, 1, 1)

    def forward(self, x: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        a = torch.sigmoid(self.psi(torch.relu(self.theta(x) + self.phi(g))))
        return tF.interpolate(a, x.shape[2:], mode="bilinear") * x


class TorchAttention(tnn.Module):
    def __init__(self, base: int, levels: int) -> None:
        super().__init__()
        c = [base * 2**level for level in range(levels)]
        self.down = tnn.ModuleList(TorchResidual(a, b) for a, b in zip([1, *c], c))
        self.gate = tnn.ModuleList(TorchGate(a) for a in c[:-1])
        self.up = tnn.ModuleList(tnn.ConvTranspose2d(2 * a, a, 2, 2) for a in c[:-1])
        self.merge = tnn.ModuleList(TorchResidual(2 * a, a) for a in c[:-1])
        self.head = tnn.Conv2d(base, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = [self.down[0](x)]
        for stage in list(self.down)[1:]:
            skips.append(stage(tF.max_pool2d(skips[-1], 2)))
        y = skips.pop()
        for gate, up, merge in reversed(list(zip(self.gate, self.up, self.merge))):
            y = merge(torch.cat([gate(skips.pop(), y), up(y)], 1))
        return self.head(y)


def test_attention_unet_layer_by_layer() -> None:
    ours = made("attention_unet", base=3, levels=3)
    own = {"pool", *(f"gate.{level}.weigh.{part}" for level in (0, 1) for part in (0, 1))}
    compare(ours, TorchAttention(3, 3), (2, 1, 12, 16), own=own)
    with pytest.raises(ValueError, match="AttentionUNet: .*H and W divisible by 4"):
        ours(tc.zeros(1, 1, 12, 18))


def test_an_attention_gate_lies_between_nothing_and_all() -> None:
    model = models.attention_unet(base=2, levels=2).eval()
    seen: list[np.ndarray] = []
    model.gate[0].weigh.register_forward_hook(lambda _, __, a: seen.append(a.data) and None)
    for bias, weight in ((-60.0, 0.0), (60.0, 1.0)):
        model.gate[0].psi.bias.data[...] = bias
        model(Tensor(noise(1, 1, 8, 8).astype(np.float32)))
        assert seen[-1].shape == (1, 1, 8, 8)
        np.testing.assert_allclose(seen[-1], weight, atol=1e-6)


# --------------------------------------------------------------------------------------------------
# Dilation


def torch_context(c: int, widths: tuple[int, ...]) -> tnn.Module:
    layers: list[tnn.Module] = []
    before = c
    for dilation, width in zip((1, 1, 2, 4, 8, 16, 1), widths):
        layers += [tnn.Conv2d(before, width * c, 3, padding=dilation, dilation=dilation), tnn.ReLU()]
        before = width * c
    model = tnn.Sequential()
    model.add_module("layers", tnn.Sequential(*layers, tnn.Conv2d(before, c, 1)))
    return model


@pytest.mark.parametrize("widths", [(1,) * 7, LARGE])
def test_context_module_layer_by_layer(widths: tuple[int, ...]) -> None:
    ours = made("context_module", 2, widths=widths)
    compare(ours, torch_context(2, widths), (1, 2, 20, 24))


def test_context_module_has_the_published_figures() -> None:
    model = made("context_module", 5)
    assert parameters(model) == 64 * 5**2 + 8 * 5
    table = explain.summary(made("context_module", 1), (1, 1, 80, 80))
    fields = [layer.field[0] for layer in table.layers if layer.kind == "Conv2d"]
    assert fields == [3, 5, 9, 17, 33, 65, 67, 67]
    assert parameters(made("context_module", 1, widths=LARGE)) == sum(
        9 * a * b + b for a, b in zip((1, *LARGE), LARGE)
    ) + (32 + 1)
    with pytest.raises(ValueError, match="a width for each of 7 dilations, but has 2"):
        models.context_module(3, widths=(1, 1))


def test_the_field_of_the_context_module_is_where_the_gradient_is() -> None:
    model = models.context_module(1)
    for p in model.parameters():
        p.data[...] = 1.0
    x = tc.ones(1, 1, 81, 81, requires_grad=True)
    model(x)[0, 0, 40, 40].backward()
    rows = np.flatnonzero(x.grad.data[0, 0].any(1))
    assert (rows[0], rows[-1], len(rows)) == (40 - 33, 40 + 33, 67)


def test_context_module_starts_as_the_identity() -> None:
    x = Tensor(np.abs(noise(1, 3, 9, 10)).astype(np.float32))
    np.testing.assert_array_equal(models.context_module(3)(x).data, x.data)
    large = models.context_module(3, widths=LARGE)
    np.testing.assert_allclose(large(x).data, x.data, atol=0.2)  # noise of 0.001 on the other taps
    for layer in large.layers:
        if hasattr(layer, "weight"):
            layer.weight.data[np.abs(layer.weight.data) < 0.006] = 0.0
    np.testing.assert_allclose(large(x).data, x.data, rtol=1e-5)


def test_aspp_is_that_of_torchvision() -> None:
    from torchvision_oracle import torchvision_models

    segmentation = torchvision_models().segmentation
    ours = made("aspp", 6, atrous_rates=(2, 3), out_channels=4)
    compare(ours, segmentation.deeplabv3.ASPP(6, (2, 3), 4), (2, 6, 9, 11))
    with undrawn(), torch.device("meta"):
        assert parameters(made("aspp", 2048)) == 15_535_104
        full = segmentation.deeplabv3.ASPP(2048, (12, 24, 36))
        assert sum(p.numel() for p in full.parameters()) == 15_535_104
        assert list(made("aspp", 2048).state_dict()) == list(full.state_dict())


# --------------------------------------------------------------------------------------------------
# LeNet-5 of 1998

TABLE_I = """
X...XXX..XXXX.XX
XX...XXX..XXXX.X
XXX...XXX..X.XXX
.XXX..XXXX..X.XX
..XXX..XXXX.XX.X
...XXX..XXXX.XXX
"""


class TorchLeNet1998(tnn.Module):
    """C3 as one convolution whose missing connections are zeros."""

    def __init__(self, ours: Any) -> None:
        super().__init__()
        weights = {name: torch.tensor(t.numpy()) for name, t in ours.state_dict().items()}
        table = np.array([[mark == "X" for mark in row] for row in TABLE_I.split()])  # (6, 16)
        dense = torch.zeros(16, 6, 5, 5, dtype=torch.float64)
        for k in range(16):
            dense[k, torch.tensor(np.flatnonzero(table[:, k]))] = weights[f"c3.maps.{k}.weight"][0]
        bias = torch.cat([weights[f"c3.maps.{k}.bias"] for k in range(16)])
        self.w, self.dense, self.bias = weights, tnn.Parameter(dense), bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        w = self.w

        def squash(a: torch.Tensor) -> torch.Tensor:
            return 1.7159 * torch.tanh(2 * a / 3)

        def subsample(x: torch.Tensor, name: str) -> torch.Tensor:
            total = 4 * tF.avg_pool2d(x, 2)
            return squash(total * w[f"{name}.weight"][:, None, None] + w[f"{name}.bias"][:, None, None])

        x = subsample(squash(tF.conv2d(x, w["c1.weight"], w["c1.bias"])), "s2")
        x = subsample(squash(tF.conv2d(x, self.dense, self.bias)), "s4")
        x = squash(tF.conv2d(x, w["c5.weight"], w["c5.bias"])).flatten(1)
        x = squash(tF.linear(x, w["f6.weight"], w["f6.bias"]))
        return torch.cdist(x, w["rbf.code"]) ** 2


def test_lenet1998_as_torch() -> None:
    ours = models.lenet1998().to("float64")
    theirs = TorchLeNet1998(ours)
    x = noise(3, 1, 32, 32)
    a, b = Tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    y, z = ours(a), theirs(b)
    np.testing.assert_allclose(y.data, z.detach().numpy(), rtol=1e-10)
    v = noise(3, 10)
    y.backward(Tensor(v))
    z.backward(torch.tensor(v))
    np.testing.assert_allclose(a.grad.data, b.grad.numpy(), rtol=1e-8, atol=1e-12)
    for k in (0, 7, 15):
        seen = [row for row, line in enumerate(TABLE_I.split()) if line[k] == "X"]
        expected = theirs.dense.grad.numpy()[k, seen]
        np.testing.assert_allclose(ours.c3.maps[k].weight.grad.data[0], expected, rtol=1e-8, atol=1e-12)


def test_lenet1998_has_the_published_60_000_parameters() -> None:
    model = models.lenet1998()
    parts = [parameters(m) for m in (model.c1, model.s2, model.c3, model.s4, model.c5, model.f6, model.rbf)]
    assert parts == [156, 12, 1_516, 32, 48_120, 10_164, 0] and parameters(model) == 60_000
    assert [len(seen) for seen in model.c3.table] == [3] * 6 + [4] * 9 + [6]
    assert model.squash(tc.ones(1)).item() == pytest.approx(1.0, abs=1e-4)
    with pytest.raises(ValueError, match="H and W 32 .pad 28x28 by 2"):
        model(tc.zeros(1, 1, 28, 28))


def test_every_digit_has_a_picture_of_its_own() -> None:
    codes = digit_codes()
    assert codes.shape == (10, 84) and set(np.unique(codes)) == {-1.0, 1.0} and "#" in PICTURES
    distances = ((codes[:, None] - codes[None]) ** 2).sum(2) / 4  # pixels that differ
    assert distances[~np.eye(10, dtype=bool)].min() >= 5
    model = models.lenet1998()
    penalties = model.rbf(Tensor(codes)).data
    np.testing.assert_array_equal(penalties, 4 * distances)
