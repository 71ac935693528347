"""What every network says about images that it cannot take."""

from __future__ import annotations

from collections.abc import Callable

from tinyconv.autograd import Tensor


def check_images(
    network: str, x: Tensor, channels: int, legal: Callable[[int], bool], sizes: str, axes: str = "H, W"
) -> None:
    """ValueError unless ``x`` is (N, channels, *axes) and every spatial size is ``legal``; ``sizes`` says which are."""
    rank = len(axes.split(", "))
    if x.ndim == rank + 2 and x.shape[1] == channels and all(map(legal, x.shape[2:])):
        return
    mend = ""
    if x.ndim == rank + 2 and x.shape[1] != channels and x.shape[-1] == channels:
        mend = f" Channels last: x.permute(0, {rank + 1}, {', '.join(map(str, range(1, rank + 1)))})."
    elif x.ndim == rank + 1:
        mend = " One image: x.unsqueeze(0)."
    raise ValueError(
        f"{network}: input must be (N, {channels}, {axes}) with {' and '.join(axes.split(', '))} {sizes}, "
        f"but has shape {x.shape}.{mend}"
    )


def valid_unet_output(size: int, levels: int) -> int:
    """Output size of a U-Net without padding, two 3x3 convolutions at each of ``levels`` stages, 0 for an illegal size.

    A size is legal where every pooling finds an even number of pixels and some are left at the end.
    """
    for _ in range(levels - 1):
        size -= 4
        if size < 2 or size % 2:
            return 0
        size //= 2
    size -= 4
    for _ in range(levels - 1):
        size = 2 * size - 4
    return max(size, 0)


def valid_unet_sizes(levels: int) -> str:
    """Which sizes are legal, in words."""
    step = 1 << (levels - 1)
    least = next(size for size in range(1, 12 * step) if valid_unet_output(size, levels))
    return f"{least % step} modulo {step}, at least {least}"
