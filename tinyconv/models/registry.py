"""Networks by name."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

from tinyconv import nn
from tinyconv.models.alexnet import alexnet, alexnet2012
from tinyconv.models.aspp import aspp
from tinyconv.models.attention_unet import attention_unet
from tinyconv.models.context import context_module
from tinyconv.models.googlenet import googlenet, googlenet2014
from tinyconv.models.lenet import lenet5
from tinyconv.models.lenet1998 import lenet1998
from tinyconv.models.mobilenet import mobilenet_v1
from tinyconv.models.mobilenetv2 import mobilenet_v2
from tinyconv.models.resnet import resnet18, resnet34, resnet50, resnet101, resnet152
from tinyconv.models.resnet_cifar import (
    cifar_resnet20,
    cifar_resnet32,
    cifar_resnet44,
    cifar_resnet56,
    cifar_resnet110,
)
from tinyconv.models.unet import unet
from tinyconv.models.unet3d import unet3d
from tinyconv.models.unet2015 import unet2015
from tinyconv.models.vgg import vgg11, vgg11_bn, vgg13, vgg13_bn, vgg16, vgg16_bn, vgg19, vgg19_bn

_FACTORIES: tuple[Callable[..., nn.Module], ...] = (
    *(lenet5, lenet1998, alexnet, alexnet2012),
    *(vgg11, vgg11_bn, vgg13, vgg13_bn, vgg16, vgg16_bn, vgg19, vgg19_bn),
    *(googlenet, googlenet2014),
    *(resnet18, resnet34, resnet50, resnet101, resnet152),
    *(cifar_resnet20, cifar_resnet32, cifar_resnet44, cifar_resnet56, cifar_resnet110),
    *(mobilenet_v1, mobilenet_v2),
    *(unet, unet2015, unet3d, attention_unet),
    *(context_module, aspp),
)
NETWORKS: dict[str, Callable[..., nn.Module]] = {factory.__name__: factory for factory in _FACTORIES}


def create(name: str, **options: Any) -> nn.Module:
    """The network of that name, e.g. create("resnet18", num_classes=2). ValueError: no such name; lists near ones."""
    if name not in NETWORKS:
        near = get_close_matches(name.lower(), NETWORKS, n=4, cutoff=0.5) or list(NETWORKS)
        raise ValueError(f"create: there is no network {name!r}. Did you mean one of: {', '.join(near)}?")
    return NETWORKS[name](**options)
