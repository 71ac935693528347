"""Plots from the JSON alone: at most 7 inches wide, and told apart without colour."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from benchmarks.report import ratio
from benchmarks.shapes import NETWORKS
from benchmarks.timing import geometric_mean

Row = dict[str, Any]
INK, GREY = "black", "0.65"


def draw(results: dict[str, Any], folder: Path) -> list[Path]:
    """Write a PNG of every section that was measured, and return the paths."""
    drawn: list[tuple[str, Any]] = []
    if "layers" in results or "steps" in results:
        drawn.append(("ratios", _ratios(results)))
    if "layers" in results:
        section = results["layers"]
        drawn.append(("roofline", _roofline(section["found"], section["machine"]["ceilings"])))
    if "ladder" in results:
        drawn.append(("ladder", _ladder(results["ladder"]["found"])))
    if results.get("peers", {}).get("found", {}).get("rows"):
        drawn.append(("peers", _peers(results["peers"]["found"]["rows"])))
    if "cuda" in results:
        drawn.append(("cuda", _cuda(results["cuda"]["found"])))
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, figure in drawn:
        paths.append(folder / f"{name}.png")
        figure.savefig(paths[-1], dpi=150)
        plt.close(figure)
    return paths


def _ratios(results: dict[str, Any]) -> Any:
    """A point a layer, a column a network, and a column for the training steps."""
    layers = results["layers"]["found"] if "layers" in results else []
    names = [name for name in NETWORKS if any(name in row["networks"] for row in layers)]
    columns: list[tuple[str, list[Row], str | None]] = []
    columns += [(name, [row for row in layers if name in row["networks"]], "both") for name in names]
    if "steps" in results:
        columns.append(("training\nsteps", results["steps"]["found"]["rows"], None))
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for x, (_, rows, stage) in enumerate(columns):
        values = [ratio(row["seconds"], stage) for row in rows]
        batches = [row.get("batch") for row in rows]
        order = np.argsort(np.argsort(values))
        across = x + 0.5 * (order - (len(values) - 1) / 2) / max(len(values), 4)
        for batch, marker, face in ((1, "o", "none"), (16, "o", GREY), (None, "D", INK)):
            chosen = [i for i, b in enumerate(batches) if b == batch]
            label = f"batch {batch}" if batch and x == 0 else None
            style = dict(s=22, marker=marker, facecolors=face, edgecolors=INK, lw=0.7)
            axes.scatter(across[chosen], np.array(values)[chosen], label=label, **style)
        axes.plot(
            [x - 0.38, x + 0.38], [geometric_mean(values)] * 2, c=INK, lw=2, label=None if x else "geometric mean"
        )
    axes.axhline(1, c=INK, lw=0.8, ls="--")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda y, _: f"{y:g}")
    axes.yaxis.set_minor_formatter(lambda y, _: f"{y:g}" if f"{y:.0e}"[0] in "25" else "")
    axes.set_xticks(range(len(columns)), [name.replace(" ", "\n") for name, _, _ in columns])
    axes.tick_params(axis="x", labelsize=7)
    axes.set_ylabel("torch's time / tinyconv's")
    axes.set_title("Forward and both gradients of each layer: above the dashed line tinyconv is faster", fontsize=9)
    axes.legend(fontsize=8, loc="best")
    return figure


def _roofline(rows: list[Row], ceilings: dict[str, float]) -> Any:
    """Forward: GFLOP/s, counted as direct convolution, over FLOPs a byte of input, weight and output."""
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    intensity = np.array([row["flop"] / row["bytes"] for row in rows])
    for name, marker, face, edge in (("torch", "s", "none", GREY), ("tinyconv", "o", INK, INK)):
        speed = [row["flop"] / row["seconds"][name]["forward"]["median"] / 1e9 for row in rows]
        axes.scatter(intensity, speed, s=16, marker=marker, facecolors=face, edgecolors=edge, lw=0.9, label=name)
    peak = max(ceilings["numpy_matmul"], ceilings["torch_matmul"]) / 1e9
    across = np.geomspace(intensity.min() / 1.5, intensity.max() * 1.5, 200)
    copy = ceilings["copy"] / 1e9
    label = f"copy {copy:.0f} GB/s, matrix product {peak:.0f} GFLOP/s"
    axes.plot(across, np.minimum(across * copy, peak), c=INK, lw=2, label=label, zorder=3)
    axes.set(xscale="log", yscale="log", xlabel="FLOP a byte", ylabel="GFLOP/s, forward")
    axes.set_title("The lines are this machine's own; data in cache or Winograd may pass them", fontsize=9)
    axes.legend(fontsize=8, loc="lower right")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:g}")
    return figure


def _milliseconds(value: float) -> str:
    return f"{value:.3g} ms" if value < 1000 else f"{value:.0f} ms"


def _ladder(found: dict[str, Any]) -> Any:
    """Time of one layer, forward and both gradients, a bar a rung."""
    names = list(found["seconds"])
    values = [found["seconds"][name]["both"]["median"] * 1e3 for name in names]
    figure, axes = plt.subplots(figsize=(7, 0.5 * len(names) + 1.2), layout="constrained")
    bars = axes.barh(names, values, color=[GREY if name == "torch" else "0.35" for name in names])
    axes.bar_label(bars, [_milliseconds(value) for value in values], padding=3, fontsize=8)
    axes.set(xscale="log", xlim=(min(values) / 3, max(values) * 6), xlabel="ms, forward and both gradients")
    axes.set_title(f"{found['layer']}, batch 1", fontsize=9)
    axes.invert_yaxis()
    return figure


def _peers(rows: list[Row]) -> Any:
    """A panel a layer, a bar a library, each with its own logarithmic axis of time."""
    names = list(dict.fromkeys(name for row in rows for name in row["seconds"]))
    figure, panels = plt.subplots(
        len(rows), 1, figsize=(7, (0.16 * len(names) + 0.5) * len(rows)), layout="constrained", squeeze=False
    )
    for axes, row in zip(panels[:, 0], rows):
        here = sorted(row["seconds"], key=lambda name: row["seconds"][name]["median"])
        values = [row["seconds"][name]["median"] * 1e3 for name in here]
        bars = axes.barh(here, values, color=["0.25" if name == "tinyconv" else GREY for name in here])
        axes.bar_label(bars, [_milliseconds(value) for value in values], padding=3, fontsize=7)
        axes.set(xscale="log", xlim=(min(values) / 3, max(values) * 6))
        axes.set_title(f"{row['layer']}, batch {row['batch']}: forward and both gradients", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.invert_yaxis()
    return figure


def _cuda(found: Row) -> Any:
    """A panel a precision: the share of the GPU's ceiling that each algorithm and torch reach, a column a layer."""
    precisions = list(dict.fromkeys(row["precision"] for row in found["layers"]))
    layers = list(dict.fromkeys(row["layer"] for row in found["layers"]))
    figure, panels = plt.subplots(
        len(precisions), 1, figsize=(7, 2.2 * len(precisions) + 1), layout="constrained", squeeze=False, sharex=True
    )
    faces = {"forward": -0.25, "input": 0.0, "weight": 0.25}
    for axes, precision in zip(panels[:, 0], precisions):
        for name, marker, face in (("torch", "s", "none"), ("auto", "o", INK), ("others", "x", GREY)):
            across, share = [], []
            for row in (row for row in found["layers"] if row["precision"] == precision):
                for side, times in row["seconds"].items():
                    if side == name or (name == "others" and side not in ("auto", "torch")):
                        across.append(layers.index(row["layer"]) + faces[row["face"]])
                        share.append(row["floor"] / times["median"])
            label = {"auto": "tinyconv, as chosen", "others": "its other algorithms"}.get(name, name)
            colours = {"c": GREY} if marker == "x" else {"facecolors": face, "edgecolors": INK}
            axes.scatter(across, share, s=18, marker=marker, lw=0.8, label=label if share else None, **colours)
        axes.axhline(1, c=INK, lw=0.8, ls="--")
        axes.set(yscale="log", ylabel=precision)
        axes.yaxis.set_major_formatter(lambda y, _: f"{y:g}")
        axes.yaxis.set_minor_formatter(lambda y, _: f"{y:g}" if f"{y:.0e}"[0] in "25" else "")
    panels[0, 0].set_title(f"{found['gpu']}: share of the ceiling; forward, input and weight gradient", fontsize=9)
    panels[0, 0].legend(fontsize=7, loc="lower right")
    panels[-1, 0].set_xticks(
        range(len(layers)), [name.replace(" -> ", "\n") for name in layers], fontsize=6, rotation=45
    )
    return figure
