"""LeNet-5, the first convolutional network that was put to work: reading digits on cheques.

| layer | what                  | output (28x28 input) | parameters |
|-------|-----------------------|----------------------|------------|
| conv1 | 6 filters 5x5, pad 2  | 6 x 28 x 28          | 156        |
| pool  | 2x2                   | 6 x 14 x 14          | 0          |
| conv2 | 16 filters 5x5        | 16 x 10 x 10         | 2,416      |
| pool  | 2x2                   | 16 x 5 x 5           | 0          |
| fc1   | 400 to 120            | 120                  | 48,120     |
| fc2   | 120 to 84             | 84                   | 10,164     |
| fc3   | 84 to 10              | 10                   | 850        |
| sum   |                       |                      | 61,706     |

This is the form of today: full connection between the maps, and a linear output.
Source: LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document recognition", 1998, figure 2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tinyconv import functional as F
from tinyconv import nn
from tinyconv.autograd import Tensor
from tinyconv.models.sizes import check_images


class LeNet5(nn.Module):
    """(N, in_channels, H, W) to class scores (N, num_classes).

    ``size`` is H = W of the input: 28 (padded to 32, as in the paper) by default, at least 12.
    ``activation``: F.tanh or F.sigmoid as in its time, F.relu as today. ``pool``: F.avg_pool2d or F.max_pool2d.
    ValueError: another size than was said.
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 1,
        size: int = 28,
        activation: Callable[[Tensor], Tensor] = F.tanh,
        pool: Callable[[Tensor, int], Tensor] = F.avg_pool2d,
    ) -> None:
        super().__init__()
        side = (size // 2 - 4) // 2  # after conv1 and a pool, conv2 and a pool
        if side < 1:
            raise ValueError(f"LeNet5: size must be at least 12, or no pixel is left for fc1, but it is {size}.")
        self.in_channels, self.size, self.side = in_channels, size, side
        self.activation, self.pool = activation, pool
        self.conv1 = nn.Conv2d(in_channels, 6, 5, padding=2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * side * side, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Scores before the softmax."""
        least = 4 * self.side + 8  # an odd row or column is lost in each pooling
        sizes = f"{least} to {least + 3}, for which size={self.size} was given"
        check_images("LeNet5", x, self.in_channels, lambda n: least <= n <= least + 3, sizes)
        x = self.pool(self.activation(self.conv1(x)), 2)  # (N, 6, 14, 14)
        x = self.pool(self.activation(self.conv2(x)), 2)  # (N, 16, 5, 5)
        x = self.activation(self.fc1(x.flatten(1)))
        x = self.activation(self.fc2(x))
        return self.fc3(x)


def lenet5(**options: Any) -> LeNet5:
    """LeNet-5 in the form of today; 61,706 parameters."""
    return LeNet5(**options)
