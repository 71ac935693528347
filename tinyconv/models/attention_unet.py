"""A U-Net of residual blocks whose skips pass a gate: what is taken over from a stage is weighed by the stage below.

| stage    | what                                                                  | channels     | size |
|----------|-----------------------------------------------------------------------|--------------|------|
| down 0   | residual block                                                        | in to b      | 1    |
| down 1   | 2x2 max pool, residual block                                          | b to 2b      | 1/2  |
| ...      |                                                                       |              |      |
| down L-1 | the same                                                              | to 2^(L-1) b | 1/2^(L-1) |
| up L-2   | gate on down L-2, 2x2/2 transposed conv, concatenate, residual block  | to 2^(L-2) b | 1/2^(L-2) |
| ...      |                                                                       |              |      |
| up 0     | the same with down 0                                                  | to b         | 1    |
| head     | 1x1 conv                                                              | b to classes | 1    |

A residual block is relu(s(x) + f(x)), f: 3x3 conv, norm, ReLU, 3x3 conv, norm; s: 1x1 conv, norm. A gate gives every
pixel a weight between 0 and 1:

    a = sigmoid(psi(relu(theta(x) + phi(g)))), bilinear to the size of x;  y = a x

x the maps of the skip, g those of the stage below; theta a 2x2 convolution with stride 2, phi and psi 1x1.
Sources: Oktay et al., "Attention U-Net: learning where to look for the pancreas", 2018, equations 1 to 3; residual
blocks: Zhang, Liu and Wang, "Road extraction by deep residual U-Net", 2018.
"""

from __future__ import annotations

from typing import Any

from tinyconv import functional as F
from tinyconv import nn
from tinyconv.autograd import Tensor
from tinyconv.models.sizes import check_images
from tinyconv.ops.shape import cat


class ResidualBlock(nn.Module):
    """(N, in_channels, H, W) to (N, out_channels, H, W), see the module."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut = nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """relu(s(x) + f(x))"""
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.shortcut(x) + self.bn2(self.conv2(y)))


class AttentionGate(nn.Module):
    """x (N, channels, H, W) and g (N, 2 channels, H/2, W/2) to a x, see the module; ``weigh`` gives a."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.theta = nn.Conv2d(channels, channels, 2, stride=2, bias=False)
        self.phi = nn.Conv2d(2 * channels, channels, 1)
        self.psi = nn.Conv2d(channels, 1, 1)
        self.weigh = nn.Sequential(nn.Sigmoid(), nn.Upsample(scale_factor=2.0, mode="bilinear", align_corners=False))

    def forward(self, x: Tensor, g: Tensor) -> Tensor:
        """a x"""
        return x * self.weigh(self.psi(F.relu(self.theta(x) + self.phi(g))))


class AttentionUNet(nn.Module):
    """Images (N, in_channels, H, W) to class scores (N, num_classes, H, W); H and W divisible by 2^(levels-1).

    ``base``: channels of the first stage, doubled at each stage below; ``levels``: number of scales.
    ValueError: a size that does not divide.
    """

    def __init__(self, in_channels: int = 1, num_classes: int = 2, base: int = 16, levels: int = 4) -> None:
        super().__init__()
        channels = [base << level for level in range(levels)]
        self.in_channels, self.step = in_channels, 1 << (levels - 1)
        self.down = nn.ModuleList([ResidualBlock(a, b) for a, b in zip([in_channels, *channels], channels)])
        self.pool = nn.MaxPool2d(2)
        self.gate = nn.ModuleList([AttentionGate(c) for c in channels[:-1]])
        self.up = nn.ModuleList([nn.ConvTranspose2d(2 * c, c, 2, stride=2) for c in channels[:-1]])
        self.merge = nn.ModuleList([ResidualBlock(2 * c, c) for c in channels[:-1]])
        self.head = nn.Conv2d(base, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Scores before the softmax."""
        check_images("AttentionUNet", x, self.in_channels, lambda n: n % self.step == 0, f"divisible by {self.step}")
        stages = []
        for level, stage in enumerate(self.down):
            x = stage(x if level == 0 else self.pool(x))  # (N, base * 2^level, H / 2^level, W / 2^level)
            stages.append(x)
        for level in reversed(range(len(self.up))):
            skip = self.gate[level](stages[level], x)
            x = self.merge[level](cat([skip, self.up[level](x)], 1))
        return self.head(x)


def attention_unet(**options: Any) -> AttentionUNet:
    """A residual U-Net with attention gates; 537,173 parameters at base 16 with 4 levels."""
    return AttentionUNet(**options)
