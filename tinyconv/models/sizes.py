"""What every network says about images that it cannot take."""

from __future__ import annotations

from collections.abc import Callable

from tinyconv.autograd import Tensor


def check_images(
    network: str, x: Tensor, channels: int, legal: Callable[[int], bool], sizes: str, axes: str = "H, W"
) -> None:
    """ValueError unless ``x`` is (N, channels, *axes) and every spatial size is ``legal``; ``sizes`` says which are."""
    rank = len(axes.split(", "))
    if x.ndim != rank + 2 or x.shape[1] != channels or not all(map(legal, x.shape[2:])):
        raise ValueError(
            f"{network}: input must be (N, {channels}, {axes}) with {' and '.join(axes.split(', '))} {sizes}, "
            f"but has shape {x.shape}."
        )
