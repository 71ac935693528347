"""VGG: nothing but 3x3 convolutions, stacked until the image is seen whole.

| block | VGG-11 | VGG-13 | VGG-16 | VGG-19 | channels | size (224) | parameters (VGG-16) |
|-------|--------|--------|--------|--------|----------|------------|---------------------|
| 1     | 1 conv | 2      | 2      | 2      | 64       | 224        | 38,720              |
| 2     | 1      | 2      | 2      | 2      | 128      | 112        | 221,440             |
| 3     | 2      | 2      | 3      | 4      | 256      | 56         | 1,475,328           |
| 4     | 2      | 2      | 3      | 4      | 512      | 28         | 5,899,776           |
| 5     | 2      | 2      | 3      | 4      | 512      | 14         | 7,079,424           |
| fc    | 25,088 to 4096  |     |        |        | 4096     |            | 102,764,544         |
| fc    | 4096 to 4096    |     |        |        | 4096     |            | 16,781,312          |
| fc    | 4096 to 1000    |     |        |        | 1000     |            | 4,097,000           |

| parameters      | VGG-11      | VGG-13      | VGG-16      | VGG-19      |
|-----------------|-------------|-------------|-------------|-------------|
| as published    | 132,863,336 | 133,047,848 | 138,357,544 | 143,667,240 |
| with batch norm | 132,868,840 | 133,053,736 | 138,365,992 | 143,678,248 |

Each convolution is 3x3 with padding 1 and ReLU, each block ends with 2x2 max pooling. Three 3x3 see 7x7 pixels with
27 C^2 weights, where one 7x7 has 49 C^2. Of VGG-16's parameters 74 % are in the first linear layer.
Source: Simonyan and Zisserman, "Very deep convolutional networks for large-scale image recognition", 2014, table 1,
columns A, B, D and E. Batch norm came a year later; keys and initial values are torchvision's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tinyconv import nn
from tinyconv.autograd import Tensor
from tinyconv.models.sizes import check_images
from tinyconv.nn import init

#: Convolutions in each block.
BLOCKS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


class VGG(nn.Module):
    """Images (N, in_channels, H, W) to class scores (N, num_classes); H and W at least 2 to the number of blocks.

    ``blocks``: convolutions of each, as in BLOCKS; ``batch_norm``: one behind every convolution. ``width`` is the
    channels of the first block, doubled up to eightfold, or one number a block; ``kernel``, an odd number, the side of
    all windows; ``hidden`` the width of the linear layers; ``grid`` the side of the maps that they see, to which any
    image is averaged. ValueError: an even kernel, not one width a block, an image that the poolings use up.
    """

    def __init__(
        self,
        blocks: Sequence[int] = BLOCKS[16],
        batch_norm: bool = False,
        num_classes: int = 1000,
        dropout: float = 0.5,
        *,
        in_channels: int = 3,
        width: int | Sequence[int] = 64,
        kernel: int = 3,
        hidden: int = 4096,
        grid: int = 7,
    ) -> None:
        super().__init__()
        if kernel % 2 == 0:
            raise ValueError(f"VGG: kernel must be odd, so that padding keeps the size of the maps, but is {kernel}.")
        widths = [width << min(number, 3) for number in range(len(blocks))] if isinstance(width, int) else width
        if len(widths) != len(blocks):
            raise ValueError(f"VGG: width must be one number, or one for each of {len(blocks)} blocks, but is {width}.")
        self.in_channels, self.least = in_channels, 1 << len(blocks)
        layers: list[nn.Module] = []
        channels = in_channels
        for convolutions, out in zip(blocks, widths):
            for _ in range(convolutions):
                layers.append(nn.Conv2d(channels, out, kernel, padding=kernel // 2))
                layers.extend([nn.BatchNorm2d(out), nn.ReLU()] if batch_norm else [nn.ReLU()])
                channels = out
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(grid)
        self.classifier = nn.Sequential(
            nn.Linear(channels * grid * grid, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, num_classes),
        )
        self.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor:
        """Scores before the softmax."""
        check_images("VGG", x, self.in_channels, lambda n: n >= self.least, f"at least {self.least}")
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


def _initialise(module: nn.Module) -> None:
    """He's normal for convolutions, N(0, 0.01^2) for linear layers, no bias."""
    if isinstance(module, nn.Conv2d):
        init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        init.normal_(module.weight, 0.0, 0.01)
    if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
        init.zeros_(module.bias)


def vgg11(**options: Any) -> VGG:
    """torchvision's VGG-11; 132,863,336 parameters."""
    return VGG(BLOCKS[11], **options)


def vgg13(**options: Any) -> VGG:
    """torchvision's VGG-13; 133,047,848 parameters."""
    return VGG(BLOCKS[13], **options)


def vgg16(**options: Any) -> VGG:
    """torchvision's VGG-16; 138,357,544 parameters."""
    return VGG(BLOCKS[16], **options)


def vgg19(**options: Any) -> VGG:
    """torchvision's VGG-19; 143,667,240 parameters."""
    return VGG(BLOCKS[19], **options)


def vgg11_bn(**options: Any) -> VGG:
    """torchvision's VGG-11 with batch norm; 132,868,840 parameters."""
    return VGG(BLOCKS[11], True, **options)


def vgg13_bn(**options: Any) -> VGG:
    """torchvision's VGG-13 with batch norm; 133,053,736 parameters."""
    return VGG(BLOCKS[13], True, **options)


def vgg16_bn(**options: Any) -> VGG:
    """torchvision's VGG-16 with batch norm; 138,365,992 parameters."""
    return VGG(BLOCKS[16], True, **options)


def vgg19_bn(**options: Any) -> VGG:
    """torchvision's VGG-19 with batch norm; 143,678,248 parameters."""
    return VGG(BLOCKS[19], True, **options)
