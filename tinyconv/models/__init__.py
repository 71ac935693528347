"""Networks, one file an architecture, its layer table first; ``create(name, **options)`` makes one by its name."""

from tinyconv.models.alexnet import AlexNet, AlexNet2012, alexnet, alexnet2012
from tinyconv.models.googlenet import GoogLeNet, GoogLeNetOutputs, googlenet, googlenet2014
from tinyconv.models.lenet import LeNet5, lenet5
from tinyconv.models.mobilenet import MobileNetV1, mobilenet_v1
from tinyconv.models.mobilenetv2 import MobileNetV2, mobilenet_v2
from tinyconv.models.registry import create
from tinyconv.models.resnet import ResNet, resnet18, resnet34, resnet50, resnet101, resnet152
from tinyconv.models.resnet_cifar import (
    CifarResNet,
    cifar_resnet20,
    cifar_resnet32,
    cifar_resnet44,
    cifar_resnet56,
    cifar_resnet110,
)
from tinyconv.models.unet import UNet, unet
from tinyconv.models.vgg import VGG, vgg11, vgg11_bn, vgg13, vgg13_bn, vgg16, vgg16_bn, vgg19, vgg19_bn

__all__ = [
    "VGG",
    "AlexNet",
    "AlexNet2012",
    "CifarResNet",
    "GoogLeNet",
    "GoogLeNetOutputs",
    "LeNet5",
    "MobileNetV1",
    "MobileNetV2",
    "ResNet",
    "UNet",
    "alexnet",
    "alexnet2012",
    "cifar_resnet20",
    "cifar_resnet32",
    "cifar_resnet44",
    "cifar_resnet56",
    "cifar_resnet110",
    "create",
    "googlenet",
    "googlenet2014",
    "lenet5",
    "mobilenet_v1",
    "mobilenet_v2",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "unet",
    "vgg11",
    "vgg11_bn",
    "vgg13",
    "vgg13_bn",
    "vgg16",
    "vgg16_bn",
    "vgg19",
    "vgg19_bn",
]
