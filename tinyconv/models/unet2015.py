"""U-Net as published: no padding, so that every class is decided by true pixels only, and large images in tiles.

| stage  | what                                                 | channels     | size, from 572       |
|--------|------------------------------------------------------|--------------|----------------------|
| down 0 | 2 x (3x3 conv, ReLU)                                 | 1 to 64      | 570, 568             |
| down 1 | 2x2 max pool, 2 x (conv, ReLU)                       | to 128       | 284, 282, 280        |
| down 2 | the same                                             | to 256       | 140, 138, 136        |
| down 3 | the same                                             | to 512       | 68, 66, 64           |
| down 4 | the same, dropout                                    | to 1024      | 32, 30, 28           |
| up 3   | 2x2 transposed conv, join down 3 cropped by 4, 2 x (conv, ReLU) | to 512 | 56, 54, 52        |
| up 2   | the same with down 2 cropped by 16                   | to 256       | 104, 102, 100        |
| up 1   | the same with down 1 cropped by 40                   | to 128       | 200, 198, 196        |
| up 0   | the same with down 0 cropped by 88                   | to 64        | 392, 390, 388        |
| head   | 1x1 conv                                             | to 2         | 388                  |
| sum    | 23 convolutional layers, 31,030,658 parameters       |              |                      |

The output has 184 pixels less than the input, which must be 12 modulo 16: 188 gives 4, 204 gives 20, 572 gives 388.
Source: Ronneberger, Fischer and Brox, "U-Net: convolutional networks for biomedical image segmentation", 2015,
figures 1 and 2, section 3.
"""

from __future__ import annotations

from typing import Any

from tinyconv import nn
from tinyconv.autograd import Tensor, no_grad
from tinyconv.kernels.arrays import array_module
from tinyconv.models.sizes import check_images, valid_unet_output, valid_unet_sizes
from tinyconv.nn import init
from tinyconv.ops.shape import cat


def double_conv(in_channels: int, out_channels: int) -> nn.Sequential:
    """Twice: 3x3 convolution without padding, ReLU. (N, in, H, W) to (N, out, H-4, W-4)."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3), nn.ReLU(), nn.Conv2d(out_channels, out_channels, 3), nn.ReLU()
    )


class UNet2015(nn.Module):
    """Images (N, in_channels, H, W) to class scores (N, num_classes, H - 184, W - 184).

    ``base``: channels of the first stage, doubled at each below; ``levels``: number of scales, 5 in the paper;
    ``dropout`` at the end of the contracting path. Weights start as N(0, 2/n), n the inputs of a unit.
    ValueError: an image whose size is not 12 modulo 16, or below 188.
    """

    def __init__(
        self, in_channels: int = 1, num_classes: int = 2, base: int = 64, levels: int = 5, dropout: float = 0.5
    ) -> None:
        super().__init__()
        channels = [base << level for level in range(levels)]
        self.in_channels, self.levels = in_channels, levels
        self.down = nn.ModuleList([double_conv(a, b) for a, b in zip([in_channels, *channels], channels)])
        self.pool = nn.MaxPool2d(2)
        self.dropout = nn.Dropout(dropout)
        self.up = nn.ModuleList([nn.ConvTranspose2d(2 * c, c, 2, stride=2) for c in channels[:-1]])
        self.merge = nn.ModuleList([double_conv(2 * c, c) for c in channels[:-1]])
        self.head = nn.Conv2d(base, num_classes, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                init.kaiming_normal_(module.weight, nonlinearity="relu")

    @property
    def step(self) -> int:
        """Sizes that differ by this see the same grid of poolings: 2 for each pooling, 16 in the paper."""
        return 1 << (self.levels - 1)

    @property
    def margin(self) -> int:
        """Pixels that the output has less than the input on each side: 92 in the paper."""
        return 6 * self.step - 4

    def forward(self, x: Tensor) -> Tensor:
        """Scores before the softmax."""
        sizes = f"{valid_unet_sizes(self.levels)} (predict_in_tiles takes any size)"
        check_images("UNet2015", x, self.in_channels, lambda n: valid_unet_output(n, self.levels) > 0, sizes)
        skips = []
        for level, stage in enumerate(self.down):
            x = stage(x if level == 0 else self.pool(x))
            skips.append(x)
        x = self.dropout(x)
        for level in reversed(range(len(self.up))):
            x = self.up[level](x)
            x = self.merge[level](cat([crop(skips[level], x.shape[2], x.shape[3]), x], 1))
        return self.head(x)


def crop(x: Tensor, height: int, width: int) -> Tensor:
    """The middle ``height`` x ``width`` pixels of (N, C, H, W)."""
    top, left = (x.shape[2] - height) // 2, (x.shape[3] - width) // 2
    return x[:, :, top : top + height, left : left + width]


def predict_in_tiles(network: UNet2015, images: Tensor, tile: int = 388) -> Tensor:
    """Class scores (N, num_classes, H, W) of images (N, C, H, W) of any size, ``tile`` x ``tile`` at a time, in eval.

    What a tile needs around it is taken from the image, and beyond the border from its mirror. Tiles start at multiples
    of 16, so that each pooling sees the same pixels as in one piece, and overlap by 4: the result is that of the whole
    mirrored image at once (the paper's figure 2). ValueError: a tile that the network cannot give.
    """
    step, margin = network.step, network.margin
    stride = tile // step * step
    if stride < 1 or not valid_unet_output(tile + 2 * margin, network.levels):
        sizes = valid_unet_sizes(network.levels)
        raise ValueError(
            f"predict_in_tiles: tile + {2 * margin} must be a size that the network takes, {sizes}, and tile at least "
            f"{step}, but tile is {tile}."
        )
    height, width = images.shape[2:]
    rows, columns = (max(0, -(-(size - tile) // stride)) + 1 for size in (height, width))
    beyond = [(count - 1) * stride + tile - size for count, size in ((rows, height), (columns, width))]
    pad = ((0, 0), (0, 0), (margin, margin + beyond[0]), (margin, margin + beyond[1]))
    xp = array_module(images.data)
    mirrored = xp.pad(images.data, pad, mode="reflect")
    network.eval()
    size = (tile + (rows - 1) * stride, tile + (columns - 1) * stride)
    scores = xp.empty((images.shape[0], network.head.out_channels, *size), images.dtype)
    with no_grad():
        for top in range(0, rows * stride, stride):
            for left in range(0, columns * stride, stride):
                seen = mirrored[:, :, top : top + tile + 2 * margin, left : left + tile + 2 * margin]
                scores[:, :, top : top + tile, left : left + tile] = network(Tensor(seen)).data
    return Tensor(scores[:, :, :height, :width])


def unet2015(**options: Any) -> UNet2015:
    """U-Net as published; 31,030,658 parameters."""
    return UNet2015(**options)
