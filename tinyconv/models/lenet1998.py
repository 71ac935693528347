"""LeNet-5 as it was in 1998: subsampling that learns, a table of connections, an output that measures distances.

| layer | what                                        | output  | parameters |
|-------|---------------------------------------------|---------|------------|
| C1    | 6 filters 5x5                               | 6x28x28 | 156        |
| S2    | a sum of 2x2, times a weight, plus a bias   | 6x14x14 | 12         |
| C3    | 16 filters 5x5, each on some of the 6 maps  | 16x10x10 | 1,516     |
| S4    | as S2                                       | 16x5x5  | 32         |
| C5    | 120 filters 5x5                             | 120x1x1 | 48,120     |
| F6    | 120 to 84                                   | 84      | 10,164     |
| RBF   | squared distance to a picture of each digit | 10      | 0 (fixed)  |
| sum   |                                             |         | 60,000     |

f(a) = 1.7159 tanh(2a/3) follows every layer but the last.
Source: LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document recognition", 1998, section
II.B, table I, equations 5 to 9 and appendix A. The pictures are drawn in the manner of its figure 3; they are not its.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from tinyconv import functional as F
from tinyconv import nn
from tinyconv.autograd import Tensor
from tinyconv.models.sizes import check_images
from tinyconv.nn import init
from tinyconv.ops.shape import cat

#: The maps of S2 that each of the 16 maps of C3 sees: table I.
CONNECTIONS = (
    *((0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (0, 4, 5), (0, 1, 5)),
    *((0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (0, 3, 4, 5), (0, 1, 4, 5), (0, 1, 2, 5)),
    *((0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5)),
    (0, 1, 2, 3, 4, 5),
)

#: The ten digits in 7x12 pixels: what the 84 units of F6 should show.
PICTURES = """
....... ....... ....... ....... ....... ....... ....... ....... ....... .......
..###.. ...#... ..###.. ..###.. ....#.. ####### ...###. ####### ..###.. ..###..
.#...#. ..##... .#...#. .#...#. ...##.. #...... ..#.... ......# .#...#. .#...#.
#.....# .#.#... #.....# ......# ..#.#.. #...... .#..... ......# #.....# #.....#
#.....# ...#... ......# ......# ..#.#.. #...... #...... .....#. #.....# #.....#
#.....# ...#... .....#. .....#. .#..#.. #.###.. #.###.. .....#. .#...#. #....##
#.....# ...#... ....#.. ..###.. .#..#.. ##...#. ##...#. ....#.. ..###.. .#...##
#.....# ...#... ...#... .....#. #...#.. ......# #.....# ....#.. .#...#. ..###.#
#.....# ...#... ..#.... ......# ####### ......# #.....# ...#... #.....# ......#
.#...#. ...#... .#..... #.....# ....#.. #.....# #.....# ...#... #.....# .....#.
.#...#. ...#... #...... .#...#. ....#.. .#...#. .#...#. ..#.... .#...#. ....#..
..###.. .#####. ####### ..###.. ....#.. ..###.. ..###.. ..#.... ..###.. .###...
"""


def digit_codes() -> np.ndarray[Any, Any]:
    """(10, 84): PICTURES as +1 and -1, where f is at its most curved, far from saturation."""
    rows = [line.split() for line in PICTURES.split("\n") if line]
    digits = ["".join(row[digit] for row in rows) for digit in range(10)]
    return np.array([[1.0 if pixel == "#" else -1.0 for pixel in digit] for digit in digits], np.float32)


class Squash(nn.Module):
    """f(a) = 1.7159 tanh(2a/3), so that f(1) = 1 and f(-1) = -1."""

    def forward(self, a: Tensor) -> Tensor:
        """1.7159 tanh(2a/3)"""
        return F.tanh(a * (2 / 3)) * 1.7159


class Subsampling(nn.Module):
    """y = weight (x00 + x01 + x10 + x11) + bias, one weight and bias a map: (N, C, H, W) to (N, C, H/2, W/2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(np.zeros(channels, np.float32))
        self.bias = nn.Parameter(np.zeros(channels, np.float32))

    def forward(self, x: Tensor) -> Tensor:
        """weight sum + bias"""
        total = F.avg_pool2d(x, 2, divisor_override=1)
        return total * self.weight.reshape(1, -1, 1, 1) + self.bias.reshape(1, -1, 1, 1)


class TableConv(nn.Module):
    """A convolution whose filter k sees only the maps ``table[k]``: (N, C, H, W) to (N, len(table), H-4, W-4)."""

    def __init__(self, table: tuple[tuple[int, ...], ...] = CONNECTIONS) -> None:
        super().__init__()
        self.table = table
        self.maps = nn.ModuleList([nn.Conv2d(len(seen), 1, 5) for seen in table])

    def forward(self, x: Tensor) -> Tensor:
        """One filter after the other."""
        return cat([conv(cat([x[:, i : i + 1] for i in seen], 1)) for conv, seen in zip(self.maps, self.table)], 1)


class RBF(nn.Module):
    """y_i = sum over j of (x_j - code_ij)^2: (N, 84) to (N, 10), small for the digit that x shows."""

    code: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("code", Tensor(digit_codes()))

    def forward(self, x: Tensor) -> Tensor:
        """Squared distances."""
        return ((x.unsqueeze(1) - self.code) ** 2).sum(2)


class LeNet1998(nn.Module):
    """Images (N, 1, 32, 32) of ten digits to penalties (N, 10): the answer is the smallest.

    Train with F.cross_entropy(-y, labels), which is the paper's equation 9 without its class for rubbish. Pixels should
    be -0.1 (background) to 1.175 (ink), which gives mean 0 and variance 1. Weights start as U(-2.4/n, 2.4/n), n the
    inputs of a unit. ValueError: another size.
    """

    def __init__(self) -> None:
        super().__init__()
        self.c1, self.s2 = nn.Conv2d(1, 6, 5), Subsampling(6)
        self.c3, self.s4 = TableConv(), Subsampling(16)
        self.c5, self.f6 = nn.Conv2d(16, 120, 5), nn.Linear(120, 84)
        self.squash, self.rbf = Squash(), RBF()
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear | Subsampling):
                inputs = 4 if isinstance(module, Subsampling) else prod(module.weight.shape[1:])
                assert module.bias is not None
                init.uniform_(module.weight, -2.4 / inputs, 2.4 / inputs)
                init.uniform_(module.bias, -2.4 / inputs, 2.4 / inputs)

    def forward(self, x: Tensor) -> Tensor:
        """Squared distances to the ten codes."""
        check_images("LeNet1998", x, 1, lambda n: n == 32, "32 (pad 28x28 by 2 on each side)")
        for layer in (self.c1, self.s2, self.c3, self.s4, self.c5):
            x = self.squash(layer(x))  # (N, 6, 28, 28), (N, 6, 14, 14), (N, 16, 10, 10), (N, 16, 5, 5), (N, 120, 1, 1)
        return self.rbf(self.squash(self.f6(x.flatten(1))))


def lenet1998() -> LeNet1998:
    """LeNet-5 as published; 60,000 parameters."""
    return LeNet1998()
