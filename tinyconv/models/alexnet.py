"""AlexNet, which won ImageNet in 2012: deep, ReLU, dropout, trained on two GPUs.

| layer | AlexNet2012 (227x227)            | parameters | AlexNet (224x224, pad 2)   | parameters | size |
|-------|----------------------------------|------------|----------------------------|------------|------|
| conv1 | 96 of 11x11, stride 4, LRN       | 34,944     | 64 of 11x11, stride 4      | 23,296     | 55   |
| pool  | 3x3, stride 2                    |            | 3x3, stride 2              |            | 27   |
| conv2 | 256 of 5x5, pad 2, 2 groups, LRN | 307,456    | 192 of 5x5, pad 2          | 307,392    | 27   |
| pool  | 3x3, stride 2                    |            | 3x3, stride 2              |            | 13   |
| conv3 | 384 of 3x3, pad 1                | 885,120    | 384 of 3x3, pad 1          | 663,936    | 13   |
| conv4 | 384 of 3x3, pad 1, 2 groups      | 663,936    | 256 of 3x3, pad 1          | 884,992    | 13   |
| conv5 | 256 of 3x3, pad 1, 2 groups      | 442,624    | 256 of 3x3, pad 1          | 590,080    | 13   |
| pool  | 3x3, stride 2                    |            | 3x3, stride 2              |            | 6    |
| fc6   | 9216 to 4096                     | 37,752,832 | 9216 to 4096               | 37,752,832 |      |
| fc7   | 4096 to 4096                     | 16,781,312 | 4096 to 4096               | 16,781,312 |      |
| fc8   | 4096 to 1000                     | 4,097,000  | 4096 to 1000               | 4,097,000  |      |
| sum   |                                  | 60,965,224 |                            | 61,100,840 |      |

A ReLU follows every layer but the last, dropout stands before fc6 and fc7 in AlexNet and behind them in AlexNet2012.
The groups are the two GPUs of 2012: each saw only its own half of the maps. The paper writes 224x224, but
(224 - 11) / 4 is no whole number: 227 without padding and 224 with padding 2 both give its 55x55.

Sources: Krizhevsky, Sutskever and Hinton, "ImageNet classification with deep convolutional neural networks", 2012,
figure 2. AlexNet is torchvision's: Krizhevsky, "One weird trick for parallelizing convolutional neural networks", 2014.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tinyconv import nn
from tinyconv.autograd import Tensor
from tinyconv.models.sizes import check_images
from tinyconv.nn import init


class AlexNet(nn.Module):
    """Images (N, in_channels, H, W), H and W at least 63, to class scores (N, num_classes); torchvision's network.

    ``width`` multiplies the channels of the convolutions, ``hidden`` is that of fc6 and fc7. For small images:
    ``stem``, (kernel, stride, padding) of the first convolution, e.g. (5, 1, 2) for 32x32, and ``grid``, the side of
    the maps that fc6 sees, to which they are averaged, 3 there. For experiments: ``activation`` in place of ReLU, and
    ``channels``, one number a convolution, of which all behind the second stand between the last two poolings.
    ValueError: fewer than three ``channels``; an image that the poolings use up.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        dropout: float = 0.5,
        *,
        in_channels: int = 3,
        width: float = 1.0,
        hidden: int = 4096,
        stem: tuple[int, int, int] = (11, 4, 2),
        grid: int = 6,
        activation: Callable[[], nn.Module] = nn.ReLU,
        channels: Sequence[int] = (64, 192, 384, 256, 256),
    ) -> None:
        super().__init__()
        if len(channels) < 3:
            raise ValueError(f"AlexNet: channels must be three numbers at least, one a convolution, but is {channels}.")
        c1, c2, *others = (round(width * count) for count in channels)
        kernel, stride, padding = stem
        self.in_channels = in_channels
        self.least = 14 * stride + kernel - 2 * padding  # 15 pixels behind conv1 leave 7, 3 and 1 behind the poolings
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, c1, kernel, stride, padding),  # (N, 64, 55, 55)
            activation(),
            nn.MaxPool2d(3, 2),  # (N, 64, 27, 27)
            nn.Conv2d(c1, c2, 5, padding=2),
            activation(),
            nn.MaxPool2d(3, 2),  # (N, 192, 13, 13)
        )
        for source, target in zip([c2, *others], others):
            self.features.extend([nn.Conv2d(source, target, 3, padding=1), activation()])
        self.features.append(nn.MaxPool2d(3, 2))  # (N, 256, 6, 6)
        self.avgpool = nn.AdaptiveAvgPool2d(grid)
        self.classifier = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(others[-1] * grid * grid, hidden),
            activation(),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden),
            activation(),
            nn.Linear(hidden, num_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Scores before the softmax."""
        check_images("AlexNet", x, self.in_channels, lambda n: n >= self.least, f"at least {self.least}")
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


class AlexNet2012(nn.Module):
    """Images (N, in_channels, 227, 227) to class scores (N, num_classes), the paper's network.

    ``padding`` of the first convolution: 0, or 2 for images of 224x224. ``groups=1`` joins the two halves (62,378,344
    parameters). ``width`` multiplies the channels of the convolutions, ``hidden`` is that of fc6 and fc7.
    Local response normalisation has n = 5, alpha = 1e-4, beta = 0.75, k = 2, where the sum is not divided by n.
    Weights start as N(0, 0.01^2), biases as 1 in conv2, conv4, conv5, fc6 and fc7 and as 0 elsewhere (section 5).
    Caffe's replication starts these biases at 0.1, because with 1 its loss did not fall.
    ValueError: images of another size.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        dropout: float = 0.5,
        *,
        in_channels: int = 3,
        width: float = 1.0,
        hidden: int = 4096,
        padding: int = 0,
        groups: int = 2,
    ) -> None:
        super().__init__()
        if padding not in (0, 2):
            raise ValueError(f"AlexNet2012: padding must be 0 (images of 227) or 2 (of 224), but is {padding}.")
        c1, c2, c3, c4, c5 = (groups * round(width * channels / groups) for channels in (96, 256, 384, 384, 256))
        self.in_channels, self.size = in_channels, 227 if padding == 0 else 224
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, c1, 11, 4, padding),  # (N, 96, 55, 55)
            nn.ReLU(),
            nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0),  # this layer divides alpha by 5
            nn.MaxPool2d(3, 2),  # (N, 96, 27, 27)
            nn.Conv2d(c1, c2, 5, padding=2, groups=groups),
            nn.ReLU(),
            nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0),
            nn.MaxPool2d(3, 2),  # (N, 256, 13, 13)
            nn.Conv2d(c2, c3, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(c3, c4, 3, padding=1, groups=groups),
            nn.ReLU(),
            nn.Conv2d(c4, c5, 3, padding=1, groups=groups),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),  # (N, 256, 6, 6)
        )
        self.classifier = nn.Sequential(
            nn.Linear(c5 * 6 * 6, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, num_classes),
        )
        self._initialise()

    def _initialise(self) -> None:
        weighted = [m for m in self.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        for number, layer in enumerate(weighted, start=1):
            init.normal_(layer.weight, 0.0, 0.01)
            assert layer.bias is not None
            init.constant_(layer.bias, float(number in (2, 4, 5, 6, 7)))

    def forward(self, x: Tensor) -> Tensor:
        """Scores before the softmax."""
        sizes = f"{self.size} (padding=0 takes 227, padding=2 takes 224)"
        check_images("AlexNet2012", x, self.in_channels, lambda n: n == self.size, sizes)
        return self.classifier(self.features(x).flatten(1))


def alexnet(**options: Any) -> AlexNet:
    """torchvision's AlexNet; 61,100,840 parameters."""
    return AlexNet(**options)


def alexnet2012(**options: Any) -> AlexNet2012:
    """The AlexNet of the paper; 60,965,224 parameters."""
    return AlexNet2012(**options)
