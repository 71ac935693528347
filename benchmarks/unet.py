"""One training step of the U-Net of `tinyconv train`, beside the same network in PyTorch with the same weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

import tinyconv
from benchmarks.timing import interleaved
from tinyconv.models import UNet
from tinyconv.optim import Adam
from tinyconv.recipes import segmentation_loss

SHAPES = {"brain": ((4, 1, 192, 160), 3), "nuclei": ((4, 1, 256, 256), 2)}


def double_conv(in_channels: int, out_channels: int) -> nn.Sequential:
    """As tinyconv.models.unet.double_conv."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
        nn.InstanceNorm2d(out_channels, affine=True),
        nn.ReLU(),
        nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
        nn.InstanceNorm2d(out_channels, affine=True),
        nn.ReLU(),
    )


class TorchUNet(nn.Module):
    """The same layers under the same names as tinyconv.models.UNet, so that state dicts fit."""

    def __init__(self, in_channels: int, num_classes: int, base: int, levels: int) -> None:
        super().__init__()
        channels = [base << level for level in range(levels)]
        self.down = nn.ModuleList([double_conv(a, b) for a, b in zip([in_channels, *channels], channels)])
        self.pool = nn.MaxPool2d(2)
        self.up = nn.ModuleList([nn.ConvTranspose2d(2 * c, c, 2, stride=2) for c in channels[:-1]])
        self.merge = nn.ModuleList([double_conv(2 * c, c) for c in channels[:-1]])
        self.head = nn.Conv2d(base, num_classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As tinyconv.models.UNet.forward."""
        skips = []
        for level, stage in enumerate(self.down):
            x = stage(x if level == 0 else self.pool(x))
            skips.append(x)
        for level in reversed(range(len(self.up))):
            x = self.merge[level](torch.cat([skips[level], self.up[level](x)], 1))
        return self.head(x)


def torch_loss(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """As tinyconv.recipes.segmentation_loss."""
    one_hot = nn.functional.one_hot(labels, scores.shape[1]).movedim(-1, 1).to(scores.dtype)
    p = scores.softmax(1)
    axes = (0, 2, 3)
    dice = (2 * (p * one_hot).sum(axes) + 1e-5) / (p.sum(axes) + one_hot.sum(axes) + 1e-5)
    return nn.functional.cross_entropy(scores, labels) + 1 - dice.mean()


def run(base: int = 8, levels: int = 4, rounds: int = 8) -> dict[str, Any]:
    """The step on batches as the two main jobs have them."""
    return {name: measure(shape, classes, base, levels, rounds) for name, (shape, classes) in SHAPES.items()}


def measure(shape: tuple[int, ...], classes: int, base: int, levels: int, rounds: int) -> dict[str, Any]:
    """Seconds a step of both sides, the ratio torch / tinyconv, and how far the losses of all steps are apart."""
    rng = np.random.default_rng(0)
    images = rng.standard_normal(shape, np.float32)
    labels = rng.integers(0, classes, (shape[0], *shape[2:]))
    tinyconv.manual_seed(0)
    ours, theirs = UNet(1, classes, base, levels), TorchUNet(1, classes, base, levels)
    theirs.load_state_dict({name: torch.tensor(value.numpy()) for name, value in ours.state_dict().items()})
    adam, torch_adam = Adam(ours.parameters(), lr=1e-3), torch.optim.Adam(theirs.parameters(), lr=1e-3)
    losses: dict[str, list[float]] = {"tinyconv": [], "torch": []}

    def our_step() -> None:
        loss = segmentation_loss(ours(tinyconv.Tensor(images)), tinyconv.Tensor(labels))
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses["tinyconv"].append(loss.item())

    def torch_step() -> None:
        loss = torch_loss(theirs(torch.from_numpy(images)), torch.from_numpy(labels))
        torch_adam.zero_grad()
        loss.backward()
        torch_adam.step()
        losses["torch"].append(loss.item())

    timed = interleaved({"tinyconv": our_step, "torch": torch_step}, rounds)
    apart = max(abs(a - b) / abs(b) for a, b in zip(losses["tinyconv"], losses["torch"]))
    if not apart < 1e-2:
        raise AssertionError(f"{shape}: the losses of the two sides differ by {apart:.2g}: they do not do the same.")
    ratio = timed["torch"]["median"] / timed["tinyconv"]["median"]
    return {"shape": shape, "seconds": timed, "ratio": ratio, "losses_apart": apart}
