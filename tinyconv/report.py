"""The report of a training: curves, a figure of held-out images with their errors, and the metrics as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Light for one class, dark for the next, so that a grey print still tells them apart.
CLASS_COLOURS = ("#000000", "#f0a030", "#3070c0", "#d04070")


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError:
        raise ImportError("report: figures need matplotlib, which is missing: pip install matplotlib") from None
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def write_report(
    folder: Path,
    history: Sequence[dict[str, float]],
    metrics: dict[str, Any],
    examples: Sequence[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]],
    classes: Sequence[str],
) -> None:
    """Write curves.png, examples.png and metrics.json into ``folder``.

    ``examples`` are (image, truth, prediction): image (H, W) or (D, H, W), the others of its shape or one class number.
    """
    (folder / "metrics.json").write_text(json.dumps({**metrics, "history": list(history)}, indent=2) + "\n")
    plt = _pyplot()
    _curves(plt, history).savefig(folder / "curves.png", dpi=120)
    draw = _classified if np.ndim(examples[0][1]) == 0 else _segmented
    draw(plt, examples, classes).savefig(folder / "examples.png", dpi=120)
    plt.close("all")


def _curves(plt: Any, history: Sequence[dict[str, float]]) -> Any:
    """Loss and metrics against the epoch, training and validation, and the learning rate."""
    names = [key for key in history[0] if not key.startswith("val_") and key not in ("epoch", "seconds")]
    figure, axes = plt.subplots(1, len(names), figsize=(7, 2.6), layout="constrained")
    epochs = [row["epoch"] for row in history]
    for axis, name in zip(np.atleast_1d(axes), names):
        axis.plot(epochs, [row[name] for row in history], "o-", markersize=3, color="#3070c0", label="training")
        if f"val_{name}" in history[0]:
            axis.plot(
                epochs,
                [row[f"val_{name}"] for row in history],
                "s--",
                markersize=3,
                color="#c06010",
                label="validation",
            )
            axis.legend(frameon=False)
        axis.set(title={"lr": "learning rate"}.get(name, name), xlabel="epoch")
    return figure


def _evenly(examples: Sequence[Any], count: int) -> list[Any]:
    """At most ``count`` of them, from the first to the last."""
    return [examples[i] for i in np.linspace(0, len(examples) - 1, min(count, len(examples))).round().astype(int)]


def _classified(plt: Any, examples: Sequence[tuple[NDArray[Any], Any, Any]], classes: Sequence[str]) -> Any:
    """Sixteen images with their class, and that which was predicted where it is another."""
    figure, axes = plt.subplots(4, 4, figsize=(7, 7.6), layout="constrained")
    for axis in axes.flat:
        axis.axis("off")
    for axis, (image, truth, predicted) in zip(axes.flat, _evenly(examples, 16)):
        axis.imshow(image, cmap="gray")
        wrong = predicted != truth
        title = f"{classes[truth]}, taken\nfor {classes[predicted]}" if wrong else classes[truth]
        axis.set_title(title, fontsize=8, color="#b02020" if wrong else "black", weight="bold" if wrong else "normal")
    return figure


def _through_the_middle(
    image: NDArray[Any], truth: NDArray[Any], predicted: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Of volumes the plane across the last axis that has most of the truth, its first axis to the right."""
    if image.ndim == 2:
        return image, truth, predicted
    z = int(np.argmax((truth > 0).sum((0, 1))))
    return image[:, ::-1, z].T, truth[:, ::-1, z].T, predicted[:, ::-1, z].T


def _segmented(
    plt: Any, examples: Sequence[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]], classes: Sequence[str]
) -> Any:
    """A row an example: image, truth, prediction, and the pixels where the two differ."""
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    colours = ListedColormap(CLASS_COLOURS[: len(classes)])
    shown = [_through_the_middle(*example) for example in _evenly(examples, 4)]
    height = shown[0][0].shape[0] / shown[0][0].shape[1] * 1.75
    figure, axes = plt.subplots(
        len(shown), 4, figsize=(7, len(shown) * height + 0.6), layout="constrained", squeeze=False
    )
    for row, (image, truth, predicted) in zip(axes, shown):
        row[0].imshow(image, cmap="gray")
        for axis, labels in zip(row[1:], (truth, predicted)):
            axis.imshow(labels, cmap=colours, vmin=-0.5, vmax=len(classes) - 0.5, interpolation="nearest")
        row[3].imshow(truth != predicted, cmap="gray_r", interpolation="nearest")
        row[3].set_xlabel(f"{np.mean(truth != predicted):.1%} wrong", fontsize=8)
        for axis in row:
            axis.set(xticks=[], yticks=[])
    for axis, title in zip(axes[0], ("image", "truth", "prediction", "error")):
        axis.set_title(title)
    patches = [Patch(facecolor=colour, edgecolor="grey", label=name) for colour, name in zip(CLASS_COLOURS, classes)]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(classes), frameon=False)
    return figure
