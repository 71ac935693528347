"""GoogLeNet: in every block windows of several sizes side by side, made affordable by 1x1 convolutions before them.

| layer       | 1x1 | 3x3: 1x1, then 3x3 | 5x5: 1x1, then 5x5 | pool, then 1x1 | output     | parameters (paper) |
|-------------|-----|--------------------|--------------------|----------------|------------|--------------------|
| conv1       |     | 7x7, stride 2      |                    |                | 64x112x112 | 9,472              |
| maxpool1    |     |                    |                    |                | 64x56x56   |                    |
| conv2       | 64  |                    |                    |                | 64x56x56   | 4,160              |
| conv3       |     | 192                |                    |                | 192x56x56  | 110,784            |
| maxpool2    |     |                    |                    |                | 192x28x28  |                    |
| inception3a | 64  | 96, 128            | 16, 32             | 32             | 256x28x28  | 163,696            |
| inception3b | 128 | 128, 192           | 32, 96             | 64             | 480x28x28  | 388,736            |
| maxpool3    |     |                    |                    |                | 480x14x14  |                    |
| inception4a | 192 | 96, 208            | 16, 48             | 64             | 512x14x14  | 376,176            |
| inception4b | 160 | 112, 224           | 24, 64             | 64             | 512x14x14  | 449,160            |
| inception4c | 128 | 128, 256           | 24, 64             | 64             | 512x14x14  | 510,104            |
| inception4d | 112 | 144, 288           | 32, 64             | 64             | 528x14x14  | 605,376            |
| inception4e | 256 | 160, 320           | 32, 128            | 128            | 832x14x14  | 868,352            |
| maxpool4    |     |                    |                    |                | 832x7x7    |                    |
| inception5a | 256 | 160, 320           | 32, 128            | 128            | 832x7x7    | 1,043,456          |
| inception5b | 384 | 192, 384           | 48, 128            | 128            | 1024x7x7   | 1,444,080          |
| fc          |     | mean of each map, 1024 to 1000          |  |                | 1000       | 1,025,000          |
| sum         |     |                    |                    |                |            | 6,998,552          |

The two forms differ:

|                             | googlenet2014, the paper's          | googlenet, torchvision's |
|-----------------------------|-------------------------------------|--------------------------|
| the wide window             | 5x5                                 | 3x3 under the name of 5x5 |
| behind each convolution     | bias, ReLU                          | batch norm, ReLU         |
| local response norm         | behind maxpool1 and before maxpool2 | none                     |
| before the auxiliary heads  | 5x5 mean, stride 3: 14x14 to 4x4    | mean to 4x4 from any size |
| dropout before fc           | 0.4                                 | 0.2                      |
| maxpool4                    | 3x3, stride 2                       | 2x2, stride 2            |
| parameters, with both heads | 13,378,280                          | 13,004,888               |
| without                     | 6,998,552                           | 6,624,904                |

The auxiliary heads on 4a and 4d give the early layers a loss of their own in training (weight 0.3 each).
Source: Szegedy et al., "Going deeper with convolutions", 2014, table 1 and section 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from tinyconv import functional as F
from tinyconv import nn
from tinyconv.autograd import Tensor
from tinyconv.models.sizes import check_images
from tinyconv.nn import init
from tinyconv.ops.shape import cat

#: Channels of each block: (1x1, 3x3 reduced, 3x3, 5x5 reduced, 5x5, pool).
BLOCKS = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}


class GoogLeNetOutputs(NamedTuple):
    """What training gets: scores of the head and of the two auxiliary ones, (N, num_classes) each."""

    logits: Tensor
    aux_logits2: Tensor
    aux_logits1: Tensor


class ConvReLU(nn.Module):
    """Convolution, ReLU: with batch norm between and no bias, or (``paper``) with a bias."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, paper: bool, **options: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, bias=paper, **options)
        self.bn = None if paper else nn.BatchNorm2d(out_channels, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        """relu(norm(conv(x)))"""
        x = self.conv(x)
        return F.relu(x if self.bn is None else self.bn(x))


class Inception(nn.Module):
    """Four branches on the same maps, joined: (N, C, H, W) to (N, 1x1 + 3x3 + 5x5 + pool, H, W).

    ``sizes``: as in BLOCKS. For experiments, 0 maps behind a branch leave the branch out, and a reduction to 0 maps
    leaves out the 1x1 convolution before the window. ValueError: no branch is left.
    """

    def __init__(self, in_channels: int, sizes: Sequence[int], paper: bool = False) -> None:
        super().__init__()
        one, three_reduced, three, five_reduced, five, pool = sizes
        if not any((one, three, five, pool)):
            raise ValueError(f"Inception: sizes must leave one branch at least some maps, but is {sizes}.")

        def windowed(reduced: int, out: int, kernel: int) -> nn.Module | None:
            if not out:
                return None
            first = [ConvReLU(in_channels, reduced, 1, paper)] if reduced else []
            return nn.Sequential(*first, ConvReLU(reduced or in_channels, out, kernel, paper, padding=kernel // 2))

        self.branch1 = ConvReLU(in_channels, one, 1, paper) if one else None
        self.branch2 = windowed(three_reduced, three, 3)
        self.branch3 = windowed(five_reduced, five, 5 if paper else 3)
        self.branch4 = None
        if pool:
            self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, padding=1), ConvReLU(in_channels, pool, 1, paper))

    def forward(self, x: Tensor) -> Tensor:
        """The branches behind each other on the channel axis."""
        branches = (self.branch1, self.branch2, self.branch3, self.branch4)
        return cat([branch(x) for branch in branches if branch is not None], 1)


class InceptionAux(nn.Module):
    """An auxiliary head: mean to 4x4, 1x1 convolution, two linear layers."""

    def __init__(
        self, in_channels: int, num_classes: int, dropout: float, paper: bool, maps: int = 128, hidden: int = 1024
    ) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(5, 3) if paper else nn.AdaptiveAvgPool2d(4)
        self.conv = ConvReLU(in_channels, maps, 1, paper)
        self.fc1 = nn.Linear(16 * maps, hidden)
        self.fc2 = nn.Linear(hidden, num_classes)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Scores before the softmax."""
        x = self.conv(self.pool(x)).flatten(1)  # (N, 128 * 4 * 4)
        return self.fc2(self.dropout(F.relu(self.fc1(x))))


class GoogLeNet(nn.Module):
    """Images (N, in_channels, H, W) to class scores (N, num_classes); in training with heads to GoogLeNetOutputs.

    ``paper``: its form in place of torchvision's, see the table; then ``dropout`` should be 0.4. ``width`` multiplies
    all channels. ValueError: an image below 15 pixels; for the auxiliary heads of the paper one outside 223 to 270.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        aux_logits: bool = True,
        dropout: float = 0.2,
        dropout_aux: float = 0.7,
        *,
        paper: bool = False,
        in_channels: int = 3,
        width: float = 1.0,
    ) -> None:
        super().__init__()
        c64, c192, c128, c1024 = (round(width * channels) for channels in (64, 192, 128, 1024))
        self.in_channels, self.aux_logits, self.paper = in_channels, aux_logits, paper
        self.conv1 = ConvReLU(in_channels, c64, 7, paper, stride=2, padding=3)
        self.maxpool1 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv2 = ConvReLU(c64, c64, 1, paper)
        self.conv3 = ConvReLU(c64, c192, 3, paper, padding=1)
        self.maxpool2 = nn.MaxPool2d(3, 2, ceil_mode=True)
        if paper:
            self.norm = nn.LocalResponseNorm(5)  # alpha = 1e-4, beta = 0.75, k = 1, as Caffe's replication
        channels, heads = c192, {}
        for name, full in BLOCKS.items():
            sizes = tuple(round(width * size) for size in full)
            self.add_module(f"inception{name}", Inception(channels, sizes, paper))
            channels = sizes[0] + sizes[2] + sizes[4] + sizes[5]
            heads[name] = channels
        self.maxpool3 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.maxpool4 = nn.MaxPool2d(3 if paper else 2, 2, ceil_mode=True)
        if aux_logits:
            self.aux1 = InceptionAux(heads["4a"], num_classes, dropout_aux, paper, c128, c1024)
            self.aux2 = InceptionAux(heads["4d"], num_classes, dropout_aux, paper, c128, c1024)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                init.normal_(module.weight, 0.0, 0.01)  # torchvision cuts it off at 200 deviations: never

    def forward(self, x: Tensor) -> Any:
        """Scores before the softmax."""
        heads = self.training and self.aux_logits
        if heads and self.paper:
            sizes = "from 223 to 270 (224 in the paper), for the auxiliary heads to see 4x4"
            check_images("GoogLeNet", x, self.in_channels, lambda n: 223 <= n <= 270, sizes)
        else:
            check_images("GoogLeNet", x, self.in_channels, lambda n: n >= 15, "at least 15")
        x = self.maxpool1(self.conv1(x))  # (N, 64, 56, 56)
        x = self.conv3(self.conv2(self.norm(x) if self.paper else x))
        x = self.maxpool2(self.norm(x) if self.paper else x)  # (N, 192, 28, 28)
        x = self.maxpool3(self.inception3b(self.inception3a(x)))  # (N, 480, 14, 14)
        x = self.inception4a(x)
        early = x
        x = self.inception4d(self.inception4c(self.inception4b(x)))
        late = x
        x = self.maxpool4(self.inception4e(x))  # (N, 832, 7, 7)
        x = self.inception5b(self.inception5a(x))  # (N, 1024, 7, 7)
        scores = self.fc(self.dropout(self.avgpool(x).flatten(1)))
        return GoogLeNetOutputs(scores, self.aux2(late), self.aux1(early)) if heads else scores


def googlenet(**options: Any) -> GoogLeNet:
    """torchvision's GoogLeNet: 3x3 in place of 5x5, batch norm; 13,004,888 parameters with auxiliary heads."""
    return GoogLeNet(**options)


def googlenet2014(**options: Any) -> GoogLeNet:
    """The GoogLeNet of the paper: real 5x5, biases; 13,378,280 parameters with auxiliary heads."""
    return GoogLeNet(**{"dropout": 0.4, "paper": True, **options})
