"""Networks, one file an architecture, its layer table first; ``create(name, **options)`` makes one by its name."""

from tinyconv.models.alexnet import AlexNet, AlexNet2012, alexnet, alexnet2012
from tinyconv.models.aspp import ASPP, aspp
from tinyconv.models.attention_unet import AttentionUNet, attention_unet
from tinyconv.models.context import ContextModule, context_module
from tinyconv.models.googlenet import GoogLeNet, GoogLeNetOutputs, googlenet, googlenet2014
from tinyconv.models.lenet import LeNet5, lenet5
from tinyconv.models.lenet1998 import LeNet1998, lenet1998
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
from tinyconv.models.unet3d import UNet3d, unet3d
from tinyconv.models.unet2015 import UNet2015, predict_in_tiles, unet2015
from tinyconv.models.vgg import VGG, vgg11, vgg11_bn, vgg13, vgg13_bn, vgg16, vgg16_bn, vgg19, vgg19_bn

__all__ = [
    "ASPP",
    "VGG",
    "AlexNet",
    "AlexNet2012",
    "AttentionUNet",
    "CifarResNet",
    "ContextModule",
    "GoogLeNet",
    "GoogLeNetOutputs",
    "LeNet5",
    "LeNet1998",
    "MobileNetV1",
    "MobileNetV2",
    "ResNet",
    "UNet",
    "UNet3d",
    "UNet2015",
    "alexnet",
    "alexnet2012",
    "aspp",
    "attention_unet",
    "cifar_resnet20",
    "cifar_resnet32",
    "cifar_resnet44",
    "cifar_resnet56",
    "cifar_resnet110",
    "context_module",
    "create",
    "googlenet",
    "googlenet2014",
    "lenet5",
    "lenet1998",
    "mobilenet_v1",
    "mobilenet_v2",
    "predict_in_tiles",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "unet",
    "unet3d",
    "unet2015",
    "vgg11",
    "vgg11_bn",
    "vgg13",
    "vgg13_bn",
    "vgg16",
    "vgg16_bn",
    "vgg19",
    "vgg19_bn",
]
