"""The animations of Dumoulin and Visin's guide, with real numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tinyconv.explain.trace import example

#: File name: operator, input size, kernel, options. Sizes as in the guide's figures.
GALLERY: dict[str, tuple[str, int, int, dict[str, Any]]] = {
    "no_padding": ("conv2d", 4, 3, {}),
    "arbitrary_padding": ("conv2d", 5, 4, {"padding": 2}),
    "half_padding": ("conv2d", 5, 3, {"padding": 1}),
    "full_padding": ("conv2d", 5, 3, {"padding": 2}),
    "stride": ("conv2d", 5, 3, {"stride": 2}),
    "padding_stride": ("conv2d", 5, 3, {"stride": 2, "padding": 1}),
    "padding_stride_odd": ("conv2d", 6, 3, {"stride": 2, "padding": 1}),
    "transposed_no_padding": ("conv_transpose2d", 2, 3, {}),
    "transposed_arbitrary_padding": ("conv_transpose2d", 6, 4, {"padding": 2}),
    "transposed_half_padding": ("conv_transpose2d", 5, 3, {"padding": 1}),
    "transposed_full_padding": ("conv_transpose2d", 7, 3, {"padding": 2}),
    "transposed_stride": ("conv_transpose2d", 2, 3, {"stride": 2}),
    "transposed_padding_stride": ("conv_transpose2d", 3, 3, {"stride": 2, "padding": 1}),
    "transposed_padding_stride_odd": ("conv_transpose2d", 3, 3, {"stride": 2, "padding": 1, "output_padding": 1}),
    "dilation": ("conv2d", 7, 3, {"dilation": 2}),
}


def gallery(folder: str | Path) -> list[Path]:
    """Write the GIFs of :data:`GALLERY` into ``folder``, which is made; the paths, in that order.

    Each shows one output a frame. Source: Dumoulin and Visin, "A guide to convolution arithmetic for deep learning",
    2016, chapters 2, 4 and 5.
    """
    made = []
    for name, (operator, size, kernel, options) in GALLERY.items():
        Path(folder).mkdir(parents=True, exist_ok=True)
        made.append(Path(folder) / f"{name}.gif")
        example(operator, size, kernel, **options).save(made[-1])
    return made
