"""Figures of a trained network: its filters, its feature maps, and heat maps laid over images.

Each figure's label is its alternative text.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyconv import nn
from tinyconv.explain.attribution import feature_maps
from tinyconv.explain.figure import WIDTH, require_matplotlib
from tinyconv.kernels.arrays import Array
from tinyconv.ops.convert import as_tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLUMNS = 8  # pictures beside each other
_MOST = 64  # pictures in a figure
_TITLE = 0.28  # inches


def plot_filters(model: nn.Module, layer: str) -> Figure:
    """The filters (C_out, C_in/G, KH, KW) of a Conv2d, at most 64: in colour where they see three channels.

    Else the first channel that each sees. One scale for all: zero is grey, the largest weight black or white.
    ValueError: a layer that is not there or is no Conv2d.
    """
    named = dict(model.named_modules())
    conv = named.get(layer)
    if not isinstance(conv, nn.Conv2d):
        found = f"{layer!r} is a {type(conv).__name__}" if conv is not None else f"there is no {layer!r}"
        choices = ", ".join(name for name, module in named.items() if isinstance(module, nn.Conv2d))
        raise ValueError(f"plot_filters: layer must name a Conv2d, but {found}. Choose from: {choices or 'none'}.")
    weight = conv.weight.detach().to("cpu").data
    largest = np.abs(weight).max(initial=0.0) or 1.0
    shown = 0.5 + 0.5 * weight / largest  # 0 to 1, zero in the middle
    colour = weight.shape[1] == 3
    pictures = [f.transpose(1, 2, 0) if colour else f[0] for f in shown[:_MOST]]
    what = "in colour" if colour else f"channel 0 of {weight.shape[1]}"
    said = f"{len(pictures)} of {len(weight)} filters of {layer}, {what}: grey is 0, white {largest:.2g}."
    return _grid("plot_filters", pictures, [str(k) for k in range(len(pictures))], said, 0.0, 1.0)


def plot_feature_maps(model: nn.Module, x: Any, layer: str) -> Figure:
    """What the layer makes of the first image of ``x`` (N, C, H, W): its maps, at most 64, on one scale of grey.

    ValueError: a layer that is not there, or whose output is not (N, K, H, W).
    """
    maps = feature_maps(model, x, layer)
    if maps.ndim != 4:
        raise ValueError(f"plot_feature_maps: the output of {layer!r} must be (N, K, H, W), but has {maps.shape}.")
    pictures = list(maps[0, :_MOST])
    low, high = float(maps[0].min()), float(maps[0].max())
    said = f"{len(pictures)} of {maps.shape[1]} maps of {layer}: black is {low:.2g}, white {high:.2g}."
    return _grid("plot_feature_maps", pictures, [str(k) for k in range(len(pictures))], said, low, high)


def plot_heat(x: Any, heat: Array, titles: Sequence[str] | None = None) -> Figure:
    """Each image of ``x`` (N, C, H, W) in grey, and beside it the same under its heat map (N, H, W).

    Every heat map has its own scale, from its least to its largest value. ``titles``: one an image.
    ValueError: shapes that do not fit.
    """
    images, heat = as_tensor(x, "plot_heat", "x").detach().to("cpu").data, np.asarray(heat)
    if images.ndim != 4 or heat.shape != (images.shape[0], *images.shape[2:]):
        raise ValueError(
            f"plot_heat: x must be (N, C, H, W) and heat (N, H, W), but are {images.shape} and {heat.shape}."
        )
    names = [str(n) for n in range(len(images))] if titles is None else list(titles)
    if len(names) != len(images):
        raise ValueError(f"plot_heat: {len(images)} images need as many titles, but there are {len(names)}.")
    plt = require_matplotlib("plot_heat")
    side = WIDTH / 4
    figure: Figure = plt.figure(figsize=(2 * side, len(images) * (side + _TITLE)), layout="constrained")
    for row, (image, warm) in enumerate(zip(images.mean(1), heat)):
        for column in range(2):
            axes = figure.add_subplot(len(images), 2, 2 * row + column + 1)
            axes.imshow(image, cmap="gray", interpolation="nearest")
            axes.set_axis_off()
            axes.set_title(names[row] if column == 0 else f"{warm.min():.2g} to {warm.max():.2g}", fontsize=8)
        axes.imshow(warm, cmap="magma", alpha=0.6, interpolation="nearest")
    hottest = [np.unravel_index(int(warm.argmax()), warm.shape) for warm in heat]
    places = ", ".join(f"{name} at row {row}, column {column}" for name, (row, column) in zip(names, hottest))
    figure.set_label(f"{len(images)} images, and the same under their heat maps. Hottest: {places}.")
    return figure


def _grid(op: str, pictures: list[Array], titles: list[str], said: str, low: float, high: float) -> Figure:
    """Pictures in rows of eight, with ``said`` above them and as the alternative text."""
    plt = require_matplotlib(op)
    columns = min(_COLUMNS, len(pictures))
    rows = ceil(len(pictures) / columns)
    side = WIDTH / _COLUMNS
    figure: Figure = plt.figure(figsize=(WIDTH, rows * (side + _TITLE) + 2 * _TITLE), layout="constrained")
    for place, (picture, title) in enumerate(zip(pictures, titles)):
        axes = figure.add_subplot(rows, columns, place + 1)
        axes.imshow(picture, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
        axes.set_title(title, fontsize=7, pad=2)
        axes.set_axis_off()
    figure.suptitle(said, fontsize=9)
    figure.set_label(said)
    return figure
