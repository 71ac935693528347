"""The dilated context module: sees 67x67 pixels with seven 3x3 convolutions, without any pooling.

| layer    | 1 | 2 | 3 | 4  | 5  | 6  | 7  | 8   |
|----------|---|---|---|----|----|----|----|-----|
| kernel   | 3 | 3 | 3 | 3  | 3  | 3  | 3  | 1   |
| dilation | 1 | 1 | 2 | 4  | 8  | 16 | 1  | 1   |
| field    | 3 | 5 | 9 | 17 | 33 | 65 | 67 | 67  |

| channels | 1  | 2  | 3  | 4  | 5   | 6   | 7   | 8 |
|----------|----|----|----|----|-----|-----|-----|---|
| basic    | C  | C  | C  | C  | C   | C   | C   | C |
| large    | 2C | 2C | 4C | 8C | 16C | 32C | 32C | C |

ReLU behind all but the last. Every layer is padded with zeros, where the authors' network pads its input once, by 33.
The basic module has 64 C^2 weights and 8 C biases. It starts as the identity (of what is not negative), so that it can
be put behind a trained network: random weights would throw that network off.
Source: Yu and Koltun, "Multi-scale context aggregation by dilated convolutions", 2016, table 1, equations 4 and 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tinyconv import nn
from tinyconv.autograd import Tensor
from tinyconv.models.sizes import check_images
from tinyconv.nn import init

DILATIONS = (1, 1, 2, 4, 8, 16, 1)
#: Channels of the large module's layers, in units of C.
LARGE = (2, 2, 4, 8, 16, 32, 32)


class ContextModule(nn.Module):
    """Maps (N, channels, H, W) to maps of the same shape, of any size.

    ``dilations`` of the 3x3 convolutions; ``widths``: their channels in units of ``channels``, all 1 by default, LARGE
    for the large module. ValueError: not as many widths as dilations.
    """

    def __init__(
        self, channels: int, dilations: Sequence[int] = DILATIONS, widths: Sequence[int] | None = None
    ) -> None:
        super().__init__()
        widths = [1] * len(dilations) if widths is None else widths
        if len(widths) != len(dilations):
            raise ValueError(
                f"ContextModule: needs a width for each of {len(dilations)} dilations, but has {len(widths)}."
            )
        self.channels = channels
        layers: list[nn.Module] = []
        before = channels
        for dilation, width in zip(dilations, widths):
            layers += [nn.Conv2d(before, width * channels, 3, padding=dilation, dilation=dilation), nn.ReLU()]
            before = width * channels
        self.layers = nn.Sequential(*layers, nn.Conv2d(before, channels, 1))
        for module in self.layers:
            if isinstance(module, nn.Conv2d):
                _identity(module, channels)

    def forward(self, x: Tensor) -> Tensor:
        """The maps with their surroundings taken in."""
        check_images("ContextModule", x, self.channels, lambda n: n >= 1, "at least 1")
        return self.layers(x)


def _identity(conv: nn.Conv2d, channels: int) -> None:
    """The middle tap is C / C_out where floor(a C / C_in) = floor(b C / C_out) for input a and output b, else noise.

    So every map of the module's input has its share of the maps between, which add up to it again at the end. The noise
    N(0, 0.001^2) tells the maps of one share apart; with C maps everywhere there is none (equations 5 and 4).
    """
    outputs, inputs = conv.out_channels, conv.in_channels
    same = np.arange(outputs)[:, None] * channels // outputs == np.arange(inputs) * channels // inputs
    init.normal_(conv.weight, 0.0, 0.001 if max(inputs, outputs) > channels else 0.0)
    middle = tuple(size // 2 for size in conv.kernel_size)
    values = conv.weight.data[(slice(None), slice(None), *middle)]
    values[same] = channels / outputs
    conv.weight.changed()
    assert conv.bias is not None
    init.zeros_(conv.bias)


def context_module(channels: int, **options: Any) -> ContextModule:
    """The basic context module; 64 C^2 + 8 C parameters."""
    return ContextModule(channels, **options)
