"""The networks that torchvision has too: names, shapes and counts, and every layer's output and gradient."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from model_checks import compare, parameters, shapes, undrawn
from tinyconv import explain, models, nn
from tinyconv.models.resnet import Bottleneck
from torchvision_oracle import torchvision_models

tv = torchvision_models()

NAMES = [
    "alexnet",
    *[f"vgg{depth}{norm}" for depth in (11, 13, 16, 19) for norm in ("", "_bn")],
    "googlenet",
    *[f"resnet{depth}" for depth in (18, 34, 50, 101, 152)],
    "mobilenet_v2",
]


def theirs(name: str, **options: Any) -> torch.nn.Module:
    """torchvision's network without drawn weights."""
    if name == "googlenet":
        options.setdefault("init_weights", False)
    return getattr(tv, name)(**options)


@pytest.mark.parametrize("name", NAMES)
def test_state_is_that_of_torchvision(name: str) -> None:
    with undrawn():
        ours = models.create(name)
    with torch.device("meta"):
        reference = theirs(name)
    assert shapes(ours.state_dict()) == shapes(reference.state_dict())
    assert list(ours.state_dict()) == list(reference.state_dict())
    assert [n for n, _ in ours.named_parameters()] == [n for n, _ in reference.named_parameters()]
    if name == "googlenet":  # counted without its auxiliary heads
        with undrawn():
            ours = models.create(name, aux_logits=False)
    assert parameters(ours) == tv.get_model_weights(name).IMAGENET1K_V1.meta["num_params"]


@pytest.mark.parametrize("width", [0.1, 0.35, 0.75, 1.4])
def test_mobilenet_v2_of_other_widths_has_torchvisions_shapes(width: float) -> None:
    with undrawn(), torch.device("meta"):
        ours, reference = models.mobilenet_v2(width_mult=width), tv.mobilenet_v2(width_mult=width)
    assert shapes(ours.state_dict()) == shapes(reference.state_dict())


def test_resnet_of_other_depths_has_torchvisions_shapes() -> None:
    with undrawn(), torch.device("meta"):
        ours = models.ResNet(Bottleneck, (1, 2, 1, 3))
        reference = tv.ResNet(tv.resnet.Bottleneck, [1, 2, 1, 3])
    assert shapes(ours.state_dict()) == shapes(reference.state_dict())


@pytest.mark.parametrize("name", ["alexnet", "vgg11", "vgg16_bn", "googlenet", "resnet18", "resnet50", "mobilenet_v2"])
def test_multiply_adds_are_the_published_ones(name: str) -> None:
    with undrawn():
        ours = models.create(name)
    published = tv.get_model_weights(name).IMAGENET1K_V1.meta["_ops"]  # in units of 10^9, to three digits
    found = explain.summary(ours, (1, 3, 224, 224)).multiply_adds
    assert found / 1e9 == pytest.approx(published, abs=0.00051)


def narrow(model: torch.nn.Module, hidden: int) -> torch.nn.Module:
    """The linear layers of AlexNet and VGG with few units: their width is no matter of structure, but of gigabytes."""
    linear = [m for m in model.classifier if isinstance(m, torch.nn.Linear)]
    sizes = [linear[0].in_features, *[hidden] * (len(linear) - 1), linear[-1].out_features]
    pairs = iter(zip(sizes, sizes[1:]))
    for index, module in enumerate(model.classifier):
        if isinstance(module, torch.nn.Linear):
            model.classifier[index] = torch.nn.Linear(*next(pairs))
    return model


NETWORKS = {
    "alexnet": ({"hidden": 16}, (2, 3, 95, 63)),
    "vgg11": ({"hidden": 8}, (1, 3, 33, 40)),
    "vgg13_bn": ({"hidden": 8}, (2, 3, 32, 47)),
    "vgg16": ({"hidden": 8}, (1, 3, 32, 40)),
    "vgg19_bn": ({"hidden": 8}, (2, 3, 33, 32)),
    "googlenet": ({}, (2, 3, 66, 64)),
    "resnet18": ({}, (2, 3, 65, 40)),
    "resnet34": ({}, (2, 3, 33, 40)),
    "resnet50": ({}, (2, 3, 33, 40)),
    "resnet101": ({}, (2, 3, 33, 32)),
    "resnet152": ({}, (3, 3, 65, 64)),  # statistics of 4 numbers would amplify rounding through 152 layers
    "mobilenet_v2": ({}, (2, 3, 33, 40)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_layer_by_layer(name: str) -> None:
    """Full depth and width; the image is small."""
    options, shape = NETWORKS[name]
    with undrawn():
        ours = models.create(name, num_classes=5, **options)
    with torch.device("meta"):
        reference = theirs(name, num_classes=5)
        if "hidden" in options:
            reference = narrow(reference, options["hidden"])
    own = {"aux1.pool", "aux2.pool"} if name == "googlenet" else None  # there they are functions
    compare(ours, reference.to_empty(device="cpu"), shape, own=own)


def test_dropout_stands_where_torchvisions_does() -> None:
    for name in ("alexnet", "vgg16", "googlenet", "mobilenet_v2"):
        with undrawn(), torch.device("meta"):
            pair = models.create(name), theirs(name)
        found, expected = (
            [(n, m.p) for n, m in model.named_modules() if type(m).__name__ == "Dropout"] for model in pair
        )
        assert found == expected


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_initial_values_have_torchvisions_spread(name: str) -> None:
    """Weights of 9,000 values or more within 5 % of its standard deviation, norms equal."""
    options = {"zero_init_residual": True} if name == "resnet18" else {}
    ours = models.create(name, **options).state_dict()
    for key, t in theirs(name, **options).state_dict().items():
        if t.numel() > 9000:
            assert ours[key].numpy().std() == pytest.approx(float(t.std()), rel=0.05), key
        elif "bn" in key:
            np.testing.assert_array_equal(ours[key].numpy(), t.numpy(), err_msg=key)


def test_smallest_images_are_torchvisions() -> None:
    for name in ("alexnet", "vgg11", "googlenet", "resnet18", "mobilenet_v2"):
        least = tv.get_model_weights(name).IMAGENET1K_V1.meta["min_size"][0]
        options = {"hidden": 4} if name in ("alexnet", "vgg11") else {}
        with undrawn():
            model = models.create(name, num_classes=2, **options).eval()
        x = np.zeros((1, 3, least, least), np.float32)
        assert model(nn.Parameter(x)).shape == (1, 2)
        if least > 1:
            with pytest.raises(ValueError, match=f"at least {least}"):
                model(nn.Parameter(x[:, :, 1:]))
        with pytest.raises(ValueError, match="must be .N, 3, H, W."):
            model(nn.Parameter(x[:, :2]))
