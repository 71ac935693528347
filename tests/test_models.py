"""The networks in their papers' own forms: published figures, and every layer beside the same network in torch."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as tF
from torch import nn as tnn

import tinyconv as tc
from model_checks import compare, parameters, undrawn
from tinyconv import Tensor, explain, models, nn
from tinyconv.models.googlenet import Inception
from tinyconv.models.registry import NETWORKS
from tinyconv.models.resnet import BasicBlock, Bottleneck
from tinyconv.nn import init

CIFAR_DEPTHS = (20, 32, 44, 56, 110)


def made(name: str, **options: Any) -> nn.Module:
    """A network without drawn weights."""
    with undrawn():
        return models.create(name, **options)


def counts(name: str, **options: Any) -> int:
    return parameters(made(name, **options))


# --------------------------------------------------------------------------------------------------
# By name


def test_an_unknown_name_lists_near_ones() -> None:
    with pytest.raises(ValueError, match="no network 'resnet51'. Did you mean one of: .*resnet50"):
        models.create("resnet51")
    with pytest.raises(ValueError, match="VGG_16.*vgg16"):
        models.create("VGG_16")
    with pytest.raises(ValueError, match="one of: lenet5, lenet1998, alexnet, .*aspp"):
        models.create("%%%")


def test_every_factory_is_offered_under_its_name() -> None:
    for name, factory in NETWORKS.items():
        assert getattr(models, name) is factory and name in models.__all__


@pytest.mark.parametrize("name", sorted(NETWORKS.keys() - {"context_module"}))
def test_the_parameters_are_as_many_as_the_docstring_says(name: str) -> None:
    """Those of torchvision's and the papers' networks are compared with published figures elsewhere."""
    said = re.search(r"([\d,]+) parameters", str(NETWORKS[name].__doc__))
    assert said is not None
    options = {"in_channels": 2048} if name == "aspp" else {}
    assert counts(name, **options) == int(said[1].replace(",", ""))


#: Every network small enough for a laptop, and the shape of a batch; None for the number of outputs where it is given.
MINIATURES: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "lenet5": ({"num_classes": 3, "size": 12}, (2, 1, 12, 12)),
    "lenet1998": ({}, (2, 1, 32, 32)),
    "alexnet": ({"num_classes": 3, "width": 1 / 16, "hidden": 8, "stem": (5, 1, 2), "grid": 2}, (2, 3, 24, 24)),
    "alexnet2012": ({"num_classes": 3, "width": 1 / 16, "hidden": 8}, (1, 3, 227, 227)),
    **{
        f"vgg{depth}{norm}": ({"num_classes": 3, "width": 2, "hidden": 8, "grid": 1}, (2, 3, 32, 33))
        for depth in (11, 13, 16, 19)
        for norm in ("", "_bn")
    },
    "googlenet": ({"num_classes": 3, "width": 1 / 16}, (2, 3, 32, 32)),
    "googlenet2014": ({"num_classes": 3, "width": 1 / 16}, (1, 3, 224, 224)),
    **{f"resnet{depth}": ({"num_classes": 3, "width": 2}, (2, 3, 32, 33)) for depth in (18, 34, 50, 101, 152)},
    **{f"cifar_resnet{d}": ({"num_classes": 3, "width": 2, "in_channels": 1}, (2, 1, 12, 12)) for d in CIFAR_DEPTHS},
    "mobilenet_v1": ({"num_classes": 3, "width": 1 / 8, "pairs": ((64, 1), (128, 2))}, (2, 3, 16, 16)),
    "mobilenet_v2": ({"num_classes": 3, "width_mult": 0.25, "rows": ((1, 16, 1, 1), (6, 24, 2, 2))}, (2, 3, 16, 16)),
    "unet": ({"num_classes": 3, "base": 2, "levels": 2}, (2, 1, 8, 8)),
    "unet2015": ({"num_classes": 3, "base": 2, "levels": 2}, (2, 1, 20, 20)),
    "unet3d": ({"num_classes": 3, "base": 2, "levels": 2, "in_channels": 1, "padded": True}, (2, 1, 4, 4, 4)),
    "attention_unet": ({"num_classes": 3, "base": 2, "levels": 2}, (2, 1, 8, 8)),
    "context_module": ({"channels": 3}, (2, 3, 9, 9)),
    "aspp": ({"in_channels": 4, "out_channels": 3, "atrous_rates": (1, 2)}, (2, 4, 9, 9)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_miniature_has_a_gradient_everywhere(name: str) -> None:
    """Small enough for a laptop; no part of it is left out of the forward pass."""
    options, shape = MINIATURES[name]
    tc.manual_seed(0)
    model = models.create(name, **options)
    x = Tensor(np.random.default_rng(0).standard_normal(shape, np.float32))
    y = model(x)
    sum(part.square().sum() for part in (y if isinstance(y, tuple) else (y,))).backward()
    for key, p in model.named_parameters():
        assert p.grad is not None and np.isfinite(p.grad.data).all(), key
    scores = y[0] if isinstance(y, tuple) else y
    assert scores.shape[:2] == (shape[0], 10 if name == "lenet1998" else 3)


def test_an_image_that_does_not_fit_is_told_the_mend() -> None:
    model = models.cifar_resnet20(width=2)
    with pytest.raises(ValueError, match=r"must be .N, 3, H, W.*Channels last: x.permute\(0, 3, 1, 2\)"):
        model(tc.zeros(2, 8, 8, 3))
    with pytest.raises(ValueError, match=r"One image: x.unsqueeze\(0\)"):
        model(tc.zeros(3, 8, 8))
    with pytest.raises(ValueError, match=r"Channels last: x.permute\(0, 4, 1, 2, 3\)"):
        models.unet3d(base=1, padded=True)(tc.zeros(1, 8, 8, 8, 3))
    with pytest.raises(ValueError, match=r"LeNet5: .*H and W 28 to 31, for which size=28 was given"):
        models.LeNet5()(tc.zeros(1, 1, 32, 32))


# --------------------------------------------------------------------------------------------------
# AlexNet


class TorchAlexNet2012(tnn.Module):
    def __init__(self, c: tuple[int, ...], hidden: int, padding: int) -> None:
        super().__init__()

        def norm() -> tnn.Module:
            return tnn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)

        self.features = tnn.Sequential(
            *(tnn.Conv2d(3, c[0], 11, 4, padding), tnn.ReLU(), norm(), tnn.MaxPool2d(3, 2)),
            *(tnn.Conv2d(c[0], c[1], 5, padding=2, groups=2), tnn.ReLU(), norm(), tnn.MaxPool2d(3, 2)),
            *(tnn.Conv2d(c[1], c[2], 3, padding=1), tnn.ReLU()),
            *(tnn.Conv2d(c[2], c[3], 3, padding=1, groups=2), tnn.ReLU()),
            *(tnn.Conv2d(c[3], c[4], 3, padding=1, groups=2), tnn.ReLU(), tnn.MaxPool2d(3, 2)),
        )
        self.classifier = tnn.Sequential(
            *(tnn.Linear(c[4] * 36, hidden), tnn.ReLU(), tnn.Dropout(0)),
            *(tnn.Linear(hidden, hidden), tnn.ReLU(), tnn.Dropout(0), tnn.Linear(hidden, 3)),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(x).flatten(1))


@pytest.mark.parametrize(("padding", "size"), [(0, 227), (2, 224)])
def test_alexnet2012_layer_by_layer(padding: int, size: int) -> None:
    ours = made("alexnet2012", num_classes=3, width=1 / 8, hidden=6, padding=padding)
    theirs = TorchAlexNet2012((12, 32, 48, 48, 32), 6, padding)
    compare(ours, theirs, (1, 3, size, size))


def test_alexnet2012_has_the_published_figures() -> None:
    assert counts("alexnet2012") == 60_965_224
    assert counts("alexnet2012", groups=1) == 62_378_344
    table = explain.summary(made("alexnet2012"), (1, 3, 227, 227))
    rows = [layer for layer in table.layers if layer.parameters]
    per_layer = [34_944, 307_456, 885_120, 663_936, 442_624, 37_752_832, 16_781_312, 4_097_000]
    assert [layer.parameters for layer in rows] == per_layer
    assert [layer.output[1:] for layer in rows[:5]] == [
        (96, 55, 55),
        (256, 27, 27),
        (384, 13, 13),
        (384, 13, 13),
        (256, 13, 13),
    ]
    assert sum(np.prod(layer.output) for layer in rows) == 659_272  # units; "650,000 neurons"
    padded = explain.summary(made("alexnet2012", width=1 / 8, hidden=2, padding=2), (1, 3, 224, 224))
    assert padded.layers[0].output == (1, 12, 55, 55)


def test_alexnet2012_starts_as_the_paper_says() -> None:
    model = models.alexnet2012(width=1 / 4, hidden=64)
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert [float(layer.bias.data.min()) for layer in layers] == [0, 1, 0, 1, 1, 1, 1, 0]
    assert [float(layer.bias.data.max()) for layer in layers] == [0, 1, 0, 1, 1, 1, 1, 0]
    assert layers[1].weight.data.std() == pytest.approx(0.01, rel=0.05)


@pytest.mark.parametrize(("padding", "shape"), [(0, (1, 3, 224, 224)), (2, (1, 3, 227, 227)), (0, (1, 3, 227, 226))])
def test_alexnet2012_refuses_other_sizes(padding: int, shape: tuple[int, ...]) -> None:
    model = made("alexnet2012", width=1 / 8, hidden=2, padding=padding)
    with pytest.raises(ValueError, match="padding=0 takes 227, padding=2 takes 224"):
        model(tc.zeros(*shape))
    with pytest.raises(ValueError, match="padding must be 0"):
        models.alexnet2012(padding=1)


def test_a_small_alexnet_takes_small_images() -> None:
    model = models.alexnet(num_classes=4, width=1 / 4, hidden=32, stem=(5, 1, 2), grid=3)
    assert model(tc.zeros(2, 3, 32, 32)).shape == (2, 4)
    assert model.features(tc.zeros(1, 3, 32, 32)).shape == (1, 64, 3, 3)
    assert model(tc.zeros(1, 3, 15, 15)).shape == (1, 4)
    with pytest.raises(ValueError, match="at least 15"):
        model(tc.zeros(1, 3, 32, 14))


class TorchDeepTanhNet(tnn.Module):
    """AlexNet with tanh and channels 4, 12, 24, 16, 16, 16, for small images."""

    def __init__(self) -> None:
        super().__init__()
        c = (12, 24, 16, 16, 16)
        pairs = [(tnn.Conv2d(a, b, 3, padding=1), tnn.Tanh()) for a, b in zip(c, c[1:])]
        self.features = tnn.Sequential(
            *(tnn.Conv2d(1, 4, 5, 2, 2), tnn.Tanh(), tnn.MaxPool2d(3, 2)),
            *(tnn.Conv2d(4, 12, 5, padding=2), tnn.Tanh(), tnn.MaxPool2d(3, 2)),
            *[layer for pair in pairs for layer in pair],
            tnn.MaxPool2d(3, 2),
        )
        self.avgpool = tnn.AdaptiveAvgPool2d(1)
        self.classifier = tnn.Sequential(
            *(tnn.Dropout(0), tnn.Linear(16, 8), tnn.Tanh()),
            *(tnn.Dropout(0), tnn.Linear(8, 8), tnn.Tanh(), tnn.Linear(8, 3)),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


def test_alexnet_of_another_depth_and_activation_layer_by_layer() -> None:
    sizes = {"in_channels": 1, "width": 1 / 16, "hidden": 8, "stem": (5, 2, 2), "grid": 1}
    channels = (64, 192, 384, 256, 256, 256)
    ours = made("alexnet", num_classes=3, dropout=0.0, activation=nn.Tanh, channels=channels, **sizes)
    compare(ours, TorchDeepTanhNet(), (2, 1, 32, 32))
    with pytest.raises(ValueError, match="channels must be three numbers at least"):
        models.alexnet(channels=(64, 192))


# --------------------------------------------------------------------------------------------------
# VGG


def test_vgg16_has_the_published_blocks_and_field() -> None:
    model = made("vgg16")
    layers = [layer for layer in model.features if isinstance(layer, nn.Conv2d)]
    sizes = [parameters(layer) for layer in layers]
    blocks = [sizes[:2], sizes[2:4], sizes[4:7], sizes[7:10], sizes[10:]]
    assert [sum(block) for block in blocks] == [38_720, 221_440, 1_475_328, 5_899_776, 7_079_424]
    field = explain.receptive_field(made("vgg16", width=1, hidden=1).features, (1, 3, 64, 64))
    assert (field.size, field.stride, field.padding) == (212, 32, 90)
    three = explain.receptive_field([(3, 1, 1, 1)] * 3)
    assert three == explain.receptive_field([(7, 1, 3, 1)])
    assert [counts(f"vgg{depth}") for depth in (11, 13, 19)] == [132_863_336, 133_047_848, 143_667_240]


class TorchWideVGG(tnn.Module):
    """Blocks of one and of two 5x5 convolutions with 4 and 6 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.features = tnn.Sequential(
            *(tnn.Conv2d(1, 4, 5, padding=2), tnn.ReLU(), tnn.MaxPool2d(2)),
            *(tnn.Conv2d(4, 6, 5, padding=2), tnn.ReLU(), tnn.Conv2d(6, 6, 5, padding=2), tnn.ReLU()),
            tnn.MaxPool2d(2),
        )
        self.avgpool = tnn.AdaptiveAvgPool2d(2)
        self.classifier = tnn.Sequential(
            *(tnn.Linear(24, 8), tnn.ReLU(), tnn.Dropout(0)),
            *(tnn.Linear(8, 8), tnn.ReLU(), tnn.Dropout(0), tnn.Linear(8, 3)),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


def test_vgg_with_another_kernel_and_widths_layer_by_layer() -> None:
    options = {"in_channels": 1, "width": (4, 6), "kernel": 5, "hidden": 8, "grid": 2}
    with undrawn():
        ours = models.VGG((1, 2), num_classes=3, dropout=0.0, **options)
    compare(ours, TorchWideVGG(), (2, 1, 12, 13))
    with pytest.raises(ValueError, match="kernel must be odd"):
        models.VGG(kernel=4)
    with pytest.raises(ValueError, match="one for each of 2 blocks"):
        models.VGG((1, 2), width=(4, 6, 8))


# --------------------------------------------------------------------------------------------------
# GoogLeNet


class TorchConv(tnn.Module):
    def __init__(self, a: int, b: int, k: int, s: int = 1) -> None:
        super().__init__()
        self.conv = tnn.Conv2d(a, b, k, s, k // 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.conv(x))


class TorchInception(tnn.Module):
    def __init__(self, a: int, one: int, r3: int, three: int, r5: int, five: int, pool: int) -> None:
        super().__init__()
        self.branch1 = TorchConv(a, one, 1)
        self.branch2 = tnn.Sequential(TorchConv(a, r3, 1), TorchConv(r3, three, 3))
        self.branch3 = tnn.Sequential(TorchConv(a, r5, 1), TorchConv(r5, five, 5))
        self.branch4 = tnn.Sequential(tnn.MaxPool2d(3, 1, 1), TorchConv(a, pool, 1))
        self.out = one + three + five + pool

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


class TorchHead(tnn.Module):
    def __init__(self, a: int, maps: int, hidden: int) -> None:
        super().__init__()
        self.pool, self.conv = tnn.AvgPool2d(5, 3), TorchConv(a, maps, 1)
        self.fc1, self.fc2, self.dropout = tnn.Linear(16 * maps, hidden), tnn.Linear(hidden, 3), tnn.Dropout(0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.dropout(torch.relu(self.fc1(self.conv(self.pool(x)).flatten(1)))))


class TorchGoogLeNet2014(tnn.Module):
    """Table 1 of the paper, channels divided by ``thin``; poolings as in Caffe, whose sizes are rounded up."""

    def __init__(self, thin: int) -> None:
        super().__init__()
        table = """3a 64 96 128 16 32 32; 3b 128 128 192 32 96 64; 4a 192 96 208 16 48 64; 4b 160 112 224 24 64 64;
        4c 128 128 256 24 64 64; 4d 112 144 288 32 64 64; 4e 256 160 320 32 128 128; 5a 256 160 320 32 128 128;
        5b 384 192 384 48 128 128"""
        self.conv1, self.conv2 = TorchConv(3, 64 // thin, 7, 2), TorchConv(64 // thin, 64 // thin, 1)
        self.conv3, self.norm = TorchConv(64 // thin, 192 // thin, 3), tnn.LocalResponseNorm(5, 1e-4, 0.75, 1.0)
        for number in range(1, 5):
            setattr(self, f"maxpool{number}", tnn.MaxPool2d(3, 2, ceil_mode=True))
        channels = 192 // thin
        for row in table.split(";"):
            name, *sizes = row.split()
            block = TorchInception(channels, *(int(size) // thin for size in sizes))
            setattr(self, f"inception{name}", block)
            channels = block.out
        self.aux1 = TorchHead(512 // thin, 128 // thin, 1024 // thin)
        self.aux2 = TorchHead(528 // thin, 128 // thin, 1024 // thin)
        self.avgpool, self.dropout, self.fc = tnn.AdaptiveAvgPool2d(1), tnn.Dropout(0), tnn.Linear(channels, 3)

    def forward(self, x: torch.Tensor) -> Any:
        x = self.norm(self.maxpool1(self.conv1(x)))
        x = self.maxpool2(self.norm(self.conv3(self.conv2(x))))
        x = self.maxpool3(self.inception3b(self.inception3a(x)))
        x = self.inception4a(x)
        aux1 = self.aux1(x) if self.training else None
        x = self.inception4d(self.inception4c(self.inception4b(x)))
        aux2 = self.aux2(x) if self.training else None
        x = self.inception5b(self.inception5a(self.maxpool4(self.inception4e(x))))
        y = self.fc(self.dropout(self.avgpool(x).flatten(1)))
        return (y, aux2, aux1) if self.training else y


def test_inception_without_reduction_and_without_a_branch() -> None:
    torch.manual_seed(0)
    reference = TorchInception(6, 4, 3, 5, 2, 3, 2)
    reference.branch2 = tnn.Sequential(TorchConv(6, 5, 3))
    x = torch.randn(2, 6, 7, 5)
    branches = {0: reference.branch1, 2: reference.branch2, 4: reference.branch3, 5: reference.branch4}
    state = {key: tc.tensor(value.numpy()) for key, value in reference.state_dict().items()}
    for missing, left_out in branches.items():
        sizes = [4, 0, 5, 2, 3, 2]
        sizes[missing] = 0
        ours = Inception(6, sizes, paper=True)
        ours.load_state_dict({key: state[key] for key in ours.state_dict()})
        expected = torch.cat([branch(x) for branch in branches.values() if branch is not left_out], 1)
        np.testing.assert_allclose(ours(tc.tensor(x.numpy())).detach().numpy(), expected.detach().numpy(), atol=1e-6)
    with pytest.raises(ValueError, match="at least some maps"):
        Inception(6, (0, 3, 0, 2, 0, 0))


def test_googlenet2014_layer_by_layer() -> None:
    ours = made("googlenet2014", num_classes=3, width=1 / 8)
    compare(ours, TorchGoogLeNet2014(8), (1, 3, 224, 224))


def test_googlenet2014_has_the_published_figures() -> None:
    model = made("googlenet2014", aux_logits=False)
    assert parameters(model) == 6_998_552 and counts("googlenet2014") == 13_378_280
    blocks = ["3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b"]
    assert [parameters(model.get_submodule(f"inception{block}")) for block in blocks] == [
        *(163_696, 388_736, 376_176, 449_160, 510_104, 605_376, 868_352, 1_043_456, 1_444_080),
    ]
    thin = made("googlenet2014", width=1 / 8)
    sizes = {layer.name: layer.output[2:] for layer in explain.summary(thin, (1, 3, 224, 224)).layers}
    assert [sizes[f"maxpool{number}"][0] for number in range(1, 5)] == [56, 28, 14, 7]
    assert [m.p for m in thin.modules() if isinstance(m, nn.Dropout)] == [0.7, 0.7, 0.4]


def test_googlenet2014_says_which_sizes_its_heads_take() -> None:
    model = made("googlenet2014", num_classes=2, width=1 / 16)
    for size in (223, 270):
        assert model(tc.zeros(1, 3, size, 224)).aux_logits1.shape == (1, 2)
    for size in (222, 271):
        with pytest.raises(ValueError, match="from 223 to 270"):
            model(tc.zeros(1, 3, 224, size))
        assert model.eval()(tc.zeros(1, 3, 64, size)).shape == (1, 2)
        model.train()


# --------------------------------------------------------------------------------------------------
# ResNet


def test_resnet_stages_halve_the_image() -> None:
    table = explain.summary(models.resnet18(width=2), (1, 3, 224, 224))
    sizes = {layer.name: layer.output[2:] for layer in table.layers}
    names = ["conv1", "maxpool", "layer1.1.bn2", "layer2.1.bn2", "layer3.1.bn2", "layer4.1.bn2"]
    assert [sizes[name] for name in names] == [(n, n) for n in (112, 56, 56, 28, 14, 7)]


@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
def test_a_block_with_a_last_gamma_of_zero_is_the_identity(block: Any) -> None:
    part = block(4 * block.expansion, 4)
    x = Tensor(np.abs(np.random.default_rng(0).standard_normal((2, 4 * block.expansion, 5, 6))).astype(np.float32))
    assert not np.array_equal(part(x).data, x.data)
    init.zeros_(part.last_norm.weight)
    np.testing.assert_array_equal(part(x).data, x.data)


def test_zero_init_residual_makes_a_deep_network_shallow() -> None:
    """Every block is the identity, so eight in a stage give what one gives, whatever their weights."""
    options = dict(num_classes=3, zero_init_residual=True, width=4)
    deep, shallow = (models.ResNet(BasicBlock, (blocks,), **options).eval() for blocks in (8, 1))
    shared = {name: t for name, t in deep.state_dict().items() if not name.startswith("layer1")}
    shallow.load_state_dict(shared, strict=False)
    x = Tensor(np.random.default_rng(0).standard_normal((1, 3, 32, 32)).astype(np.float32))
    np.testing.assert_array_equal(deep(x).data, shallow(x).data)


class TorchCifarBlock(tnn.Module):
    def __init__(self, a: int, b: int, stride: int, shortcut: str | None) -> None:
        super().__init__()
        self.conv1, self.bn1 = tnn.Conv2d(a, b, 3, stride, 1, bias=False), tnn.BatchNorm2d(b)
        self.conv2, self.bn2 = tnn.Conv2d(b, b, 3, 1, 1, bias=False), tnn.BatchNorm2d(b)
        self.kind, self.stride, self.extra = shortcut, stride, b - a
        if shortcut == "B" and (stride > 1 or a != b):
            self.shortcut = tnn.Sequential(tnn.Conv2d(a, b, 1, stride, bias=False), tnn.BatchNorm2d(b))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        if hasattr(self, "shortcut"):
            y = y + self.shortcut(x)
        elif self.kind is not None:
            zeros = x.new_zeros(x.shape[0], self.extra, *y.shape[2:])
            y = y + torch.cat([tF.avg_pool2d(x, 1, self.stride), zeros], 1)
        return torch.relu(y)


class TorchCifar(tnn.Module):
    def __init__(self, n: int, width: int, shortcut: str | None) -> None:
        super().__init__()
        self.conv1, self.bn1 = tnn.Conv2d(3, width, 3, 1, 1, bias=False), tnn.BatchNorm2d(width)
        ends = [(width, width, 1), (width, 2 * width, 2), (2 * width, 4 * width, 2)]
        self.stages = tnn.ModuleList(
            tnn.Sequential(
                TorchCifarBlock(a, b, s, shortcut), *(TorchCifarBlock(b, b, 1, shortcut) for _ in range(n - 1))
            )
            for a, b, s in ends
        )
        self.fc = tnn.Linear(4 * width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        for stage in self.stages:
            x = stage(x)
        return self.fc(x.mean((2, 3)))


@pytest.mark.parametrize("shortcut", ["A", "B", None])
def test_cifar_resnet_layer_by_layer(shortcut: str | None) -> None:
    ours = made("cifar_resnet20", shortcut=shortcut, width=4)
    own = {name for name, m in ours.named_modules() if type(m).__name__ in ("Identity", "Subsample")}
    assert len(own) == {"A": 9, "B": 7, None: 0}[shortcut]
    compare(ours, TorchCifar(3, 4, shortcut), (2, 3, 17, 16), own=own)


def test_cifar_resnets_have_the_published_parameters() -> None:
    published = {20: 269_722, 32: 464_154, 44: 658_586, 56: 853_018, 110: 1_727_962}
    assert {depth: counts(f"cifar_resnet{depth}") for depth in published} == published
    assert counts("cifar_resnet20", shortcut=None) == 269_722
    assert counts("cifar_resnet20", shortcut="B") == 269_722 + (16 * 32 + 2 * 32) + (32 * 64 + 2 * 64)
    for depth in (7, 19, 21):
        with pytest.raises(ValueError, match=r"6n \+ 2, e.g. (8 or 14|14 or 20|20 or 26)"):
            models.CifarResNet(depth)
    with pytest.raises(ValueError, match="'A', 'B' or None"):
        models.CifarResNet(20, "C")


# --------------------------------------------------------------------------------------------------
# MobileNet


def torch_mobilenet_v1(thin: int, separable: bool = True) -> tnn.Module:
    def part(a: int, b: int, k: int, stride: int, groups: int) -> list[tnn.Module]:
        conv = tnn.Conv2d(a // thin, b // thin, k, stride, k // 2, groups=groups, bias=False)
        return [conv, tnn.BatchNorm2d(b // thin), tnn.ReLU()]

    layers, channels = [tnn.Sequential(*part(3 * thin, 32, 3, 2, 1))], 32
    strides = [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1]
    for out, stride in zip([64, 128, 128, 256, 256, *[512] * 6, 1024, 1024], strides):
        both = [*part(channels, channels, 3, stride, channels // thin), *part(channels, out, 1, 1, 1)]
        layers.append(tnn.Sequential(*(both if separable else part(channels, out, 3, stride, 1))))
        channels = out
    parts = {"features": tnn.Sequential(*layers), "avgpool": tnn.AdaptiveAvgPool2d(1), "flatten": tnn.Flatten()}
    model = tnn.Sequential()
    for name, module in {**parts, "dropout": tnn.Dropout(0), "classifier": tnn.Linear(channels // thin, 3)}.items():
        model.add_module(name, module)
    return model


def test_mobilenet_v1_layer_by_layer() -> None:
    compare(made("mobilenet_v1", num_classes=3, width=1 / 8), torch_mobilenet_v1(8), (2, 3, 65, 48))


def test_mobilenet_v1_of_full_convolutions_layer_by_layer() -> None:
    model = made("mobilenet_v1", num_classes=3, width=1 / 8, separable=False)
    compare(model, torch_mobilenet_v1(8, separable=False), (2, 3, 65, 48))


def test_mobilenet_v1_has_the_published_figures() -> None:
    published = {1.0: (4_231_976, 569), 0.75: (2_585_560, 325), 0.5: (1_331_592, 149), 0.25: (470_072, 41)}
    for width, (size, millions) in published.items():
        model = made("mobilenet_v1", width=width)
        table = explain.summary(model, (1, 3, 224, 224))
        assert (table.parameters, round(table.multiply_adds / 1e6)) == (size, millions)
        if width == 1.0:
            assert table.multiply_adds == 568_740_352
            assert table.parameters + sum(b.data.size for n, b in model.named_buffers() if "running" in n) == 4_253_864


def test_a_separable_convolution_costs_one_over_channels_plus_a_ninth() -> None:
    table = explain.summary(made("mobilenet_v1", width=0.25), (1, 3, 64, 64))
    convolutions = [layer for layer in table.layers if layer.kind == "Conv2d"][1:]
    assert len(convolutions) == 26
    for depthwise, pointwise in zip(convolutions[::2], convolutions[1::2]):
        _, inputs, height, width = depthwise.output
        outputs = pointwise.output[1]
        full = 9 * inputs * outputs * height * width
        assert depthwise.multiply_adds + pointwise.multiply_adds == pytest.approx(
            full * (1 / outputs + 1 / 9), rel=1e-12
        )
