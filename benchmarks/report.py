"""Tables from the JSON alone. A ratio is torch's time by tinyconv's: above 1, tinyconv is the faster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.timing import geometric_mean

Row = dict[str, Any]


def ratio(seconds: dict[str, Any], stage: str | None = None, of: str = "median") -> float:
    """torch / tinyconv of one row's medians, or of its minima, which a busy machine disturbs less."""
    theirs, ours = (seconds[name][stage] if stage else seconds[name] for name in ("torch", "tinyconv"))
    return theirs[of] / ours[of]


def headlines(results: dict[str, Any]) -> list[Row]:
    """The geometric means: what, over how many rows, of the medians, of the minima."""
    layers = results["layers"]["found"] if "layers" in results else []
    steps = results["steps"]["found"]["rows"] if "steps" in results else []
    plain = [row for row in layers if row["plain_3x3"]]
    groups = [
        ("layers, forward", layers, "forward"),
        ("layers, forward and both gradients", layers, "both"),
        ("layers 3x3, stride 1, forward and both gradients", plain, "both"),
        ("training steps", steps, None),
    ]
    return [
        {"what": what, "rows": len(rows)}
        | {of: geometric_mean(ratio(row["seconds"], stage, of) for row in rows) for of in ("median", "min")}
        for what, rows, stage in groups
        if rows
    ]


def slowest(layers: list[Row]) -> Row:
    """The layer with the smallest ratio, forward and both gradients."""
    return min(layers, key=lambda row: ratio(row["seconds"], "both"))


def text(results: dict[str, Any]) -> str:
    """Everything that was measured, and the names of the parts that were not."""
    parts: dict[str, Callable[[Any], list[str]]] = {
        "layers": _layers,
        "steps": _steps,
        "memory": _memory,
        "ladder": _ladder,
        "peers": _peers,
        "training": _training,
    }
    lines: list[str] = []
    before = None
    for name, write in parts.items():
        if name not in results:
            lines += ["", f"{name}: not measured"]
            continue
        quick = ", quick" if results[name]["quick"] else ""
        machine = results[name]["machine"]
        where = "same run" if machine == before else _machine(machine)
        lines += ["", f"{name}{quick}: {where}", *write(results[name]["found"])]
        before = machine
    if "cuda" in results:
        lines += ["", *_cuda(results["cuda"]["found"])]
    means = headlines(results)
    if means:
        lines += ["", "torch's time / tinyconv's, geometric means           rows   of medians   of minima"]
    lines += [f"  {r['what']:50s} {r['rows']:5d} {r['median']:12.2f} {r['min']:11.2f}" for r in means]
    if "layers" in results:
        row = slowest(results["layers"]["found"])
        lines += [f"  slowest layer: {row['layer']}, batch {row['batch']}: {ratio(row['seconds'], 'both'):.2f}"]
    return "\n".join(lines[1:])


def _machine(machine: Row) -> str:
    blas = ", ".join(f"{pool['internal_api']} {pool['version']} {pool['architecture']}" for pool in machine["blas"])
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items() if version)
    ceilings = machine["ceilings"]
    kernels = sorted(set(machine["kernels"].values()))
    lines = [
        f"{machine['date']}, {machine['processor']}, {machine['threads']} of {machine['cores']} cores, load "
        f"{machine['load'] or 0:.1f} at the start",
        f"Python {machine['python']}, {packages}",
        f"BLAS: {blas}; kernels: {', '.join(kernels)}; environment: {machine['environment'] or 'nothing set'}",
        f"copy {ceilings['copy'] / 1e9:.0f} GB/s; matrix product {ceilings['numpy_matmul'] / 1e9:.0f} GFLOP/s in NumPy"
        f" and {ceilings['torch_matmul'] / 1e9:.0f} in torch",
    ]
    if machine["load"] and machine["load"] > 0.5:
        lines.append("other programs were at work: measure again on a quiet machine")
    lines += [f"taken out of the environment: {k}={v}" for k, v in machine["removed_from_environment"].items()]
    return "\n  ".join(lines)


def _layers(rows: list[Row]) -> list[str]:
    """By network, each row under the first that has it; from the smallest ratio up."""
    networks = list(dict.fromkeys(next(iter(row["networks"])) for row in rows))
    lines = []
    for network in networks:
        mine = [row for row in rows if next(iter(row["networks"])) == network]
        lines += ["", f"{network:44s} batch  forward: ms  torch  ratio   both: ms    torch  ratio  spread   error"]
        for row in sorted(mine, key=lambda row: ratio(row["seconds"], "both")):
            both, cells = row["seconds"]["tinyconv"]["both"], []
            for stage in ("forward", "both"):
                ours, theirs = (row["seconds"][name][stage]["median"] * 1e3 for name in ("tinyconv", "torch"))
                cells.append(f"{ours:11.3f} {theirs:8.3f} {theirs / ours:6.2f}")
            spread = both["spread"] / both["median"]
            lines.append(
                f"  {row['layer']:42s} {row['batch']:5d} {'  '.join(cells)} {spread:6.0%} {row['error']['of_sum']:8.1e}"
            )
    return lines


def _steps(found: dict[str, Any]) -> list[str]:
    lines = [f"{'':40s} tinyconv ms      torch  ratio  of minima  processor ms (both)"]
    for row in found["rows"]:
        ours, theirs = row["seconds"]["tinyconv"], row["seconds"]["torch"]
        lines.append(
            f"  {row['network'] + ' ' + 'x'.join(map(str, row['shape'])):38s} {ours['median'] * 1e3:11.1f} "
            f"{theirs['median'] * 1e3:10.1f} {ratio(row['seconds']):6.2f} {ratio(row['seconds'], of='min'):10.2f} "
            f"{ours['processor'] * 1e3:10.0f} {theirs['processor'] * 1e3:6.0f}"
        )
    micro = {name: found["overhead"][name]["median"] * 1e6 for name in ("tinyconv", "torch")}
    return [*lines, f"  (a*b + c).sum().backward(): tinyconv {micro['tinyconv']:.1f} us, torch {micro['torch']:.1f} us"]


def _training(rows: list[Row]) -> list[str]:
    lines = []
    for row in rows:
        ours, theirs = (row["seconds"][name] for name in ("tinyconv", "torch"))
        lines.append(
            f"  {row['model']}, {row['data']}, {row['epochs']} epochs, seed {row['seed']}: {sum(ours):.0f} s, torch "
            f"{sum(theirs):.0f} s, ratio {sum(theirs) / sum(ours):.2f}"
        )
        for name in ("tinyconv", "torch"):
            lines.append(f"    {name:9s} {_figures(row['held_out'][name])}")
    return lines


def _figures(found: dict[str, Any]) -> str:
    """What the recipe's figures are, in one line."""
    if "auc" in found:
        return f"AUC {found['auc']:.4f}, accuracy {found['accuracy']:.4f}"
    if "nuclei" in found:
        whole = found["nuclei"]
        ap = ", ".join(f"{value:.3f}" for value in whole["ap"].values())
        return (
            f"IoU {whole['iou']:.4f}, Dice of an image {whole['case_dice']:.4f}, AP at {', '.join(whole['ap'])}: {ap}"
        )
    cases = (f"{name} {found['case_dice'][name]:.4f}" for name in list(found["case_dice"])[1:])
    return f"Dice of a case: {', '.join(cases)}"


def _memory(rows: list[Row]) -> list[str]:
    lines = [f"{'':36s} tinyconv MB: peak   over the import      torch: peak   over the import"]
    for row in rows:
        cells = []
        for name in ("tinyconv", "torch"):
            side = row["bytes"][name]
            cells.append(f"{side['peak'] / 1e6:18.0f} {(side['peak'] - side['imported']) / 1e6:17.0f}")
        lines.append(f"  {row['network'] + ' ' + 'x'.join(map(str, row['shape'])):34s} {''.join(cells)}")
    return lines


def _ladder(found: dict[str, Any]) -> list[str]:
    lines = [f"  {found['layer']}, batch 1: forward ms, both ms, GFLOP/s forward"]
    for name, stages in found["seconds"].items():
        forward, both = stages["forward"]["median"], stages["both"]["median"]
        lines.append(f"  {name:10s} {forward * 1e3:10.4f} {both * 1e3:10.4f} {found['flop'] / forward / 1e9:10.4f}")
    return lines + [f"  skipped: {name}" for name in found["skipped"]]


def _peers(found: dict[str, Any]) -> list[str]:
    lines = ["  forward and both gradients, median ms (least)"]
    for row in found["rows"]:
        lines.append(f"  {row['layer']}, batch {row['batch']}")
        for name, times in sorted(row["seconds"].items(), key=lambda item: item[1]["median"]):
            lines.append(f"    {name:12s} {times['median'] * 1e3:10.2f} ({times['min'] * 1e3:.2f})")
    return lines + [f"  skipped: {name}: {why}" for name, why in found["skipped"].items()]


# --------------------------------------------------------------------------------------------------
# On a GPU


def _cuda(found: dict[str, Any]) -> list[str]:
    """The layers by precision, the operators that only move memory, the steps."""
    top = found["ceilings"]
    products = ", ".join(f"{p} {top[p] / 1e12:.0f}" for p in top if p != "copy")
    lines = [f"cuda: {found['gpu']}; copy {top['copy'] / 1e12:.2f} TB/s; matrix products in TFLOP/s: {products}"]
    for precision in dict.fromkeys(row["precision"] for row in found["layers"]):
        rows = [row for row in found["layers"] if row["precision"] == precision]
        lines += ["", f"{precision:30s}            face      tinyconv us      torch  ratio  of the floor"]
        for row in rows:
            beside = _beside(row, "auto")
            lines.append(f"  {row['layer']:34s} {row['batch']:3d}  {row['face']:8s} {beside}  {row['auto']}")
            others = {k: v["median"] for k, v in row["seconds"].items() if k not in ("auto", "torch")}
            if others:
                each = ", ".join(f"{k} {v * 1e6:.0f}" for k, v in sorted(others.items(), key=lambda item: item[1]))
                lines.append(f"      us by algorithm: {each}")
        mean = geometric_mean(row["seconds"]["torch"]["median"] / row["seconds"]["auto"]["median"] for row in rows)
        lines.append(f"  torch's time / tinyconv's, geometric mean of {len(rows)}: {mean:.2f}")
    lines += ["", f"{'only memory':50s}      tinyconv us      torch  ratio  of the copy"]
    lines += [f"  {row['operator']:48s}  {_beside(row, 'tinyconv')}" for row in found["bandwidth"]]
    lines += ["", "training steps                                  tinyconv ms      torch  ratio"]
    for row in found["steps"]:
        ours, theirs = (row["seconds"][name]["median"] * 1e3 for name in ("tinyconv", "torch"))
        name = f"{row['network']} {'x'.join(map(str, row['shape']))}, {row['precision']}"
        lines.append(f"  {name:44s} {ours:12.2f} {theirs:10.2f} {theirs / ours:6.2f}")
    return lines


def _beside(row: Row, name: str) -> str:
    """Microseconds of ours and torch's, their ratio, and the least time that the GPU's ceilings allow by ours."""
    ours, theirs = (row["seconds"][side]["median"] for side in (name, "torch"))
    return f"{ours * 1e6:12.1f} {theirs * 1e6:10.1f} {theirs / ours:6.2f} {row['floor'] / ours:10.0%}"
