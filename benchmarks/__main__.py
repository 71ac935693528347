"""python -m benchmarks: time tinyconv beside torch and its peers, write JSON, then tables and plots from the JSON."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

# Before NumPy loads: it holds OpenBLAS to the kernels of another, often older, processor.
REMOVED = os.environ.pop("OPENBLAS_CORETYPE", None)

SECTIONS = ("layers", "steps", "peers", "ladder", "memory", "training", "cuda")
APART = ("training", "cuda")  # half an hour, and a GPU: only where they are asked for
RESULTS = Path(__file__).with_name("results.json")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "section",
        nargs="?",
        choices=(*SECTIONS, "report"),
        help="one part alone; report times nothing (default: all but training, which takes half an hour, and cuda)",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda: the kernels on a GPU")
    parser.add_argument("--quick", action="store_true", help="few shapes and short, in about three minutes")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of every library (default: all cores)")
    parser.add_argument("--kernels", metavar="RUNG", help="tinyconv's kernels, as use_kernels takes them")
    parser.add_argument("--out", type=Path, default=RESULTS, help=f"the JSON file (default: {RESULTS.name} here)")
    options = parser.parse_args()
    if options.device == "cuda" and options.section not in (None, "cuda"):
        parser.error(f"--device cuda measures all of the section cuda, not {options.section}")
    return options


def measure(section: str, options: argparse.Namespace) -> Any:
    """What one section measures."""
    from benchmarks import device, ladder, layers, memory, overhead, peers, steps, training

    if section == "cuda":
        return device.run(device.nvidia(), options.quick)
    if section == "memory":
        return memory.run(options.quick, options.threads, options.kernels)
    if section == "steps":
        return {"overhead": overhead.run(options.quick), "rows": steps.run(options.quick)}
    return {"layers": layers, "peers": peers, "ladder": ladder, "training": training}[section].run(options.quick)


def sections(options: argparse.Namespace) -> list[str]:
    """What is measured: the section that is named, or all of the device."""
    if options.device == "cuda" or options.section == "cuda":
        return ["cuda"]
    return [options.section] if options.section else [name for name in SECTIONS if name not in APART]


def main() -> None:
    """Measure what was asked for; each section keeps the machine that it was measured on."""
    from benchmarks import figures, machine, report

    options = parse()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    known = json.loads(options.out.read_text()) if options.out.exists() else {}
    results = {name: known[name] for name in SECTIONS if name in known}  # sections not measured now stay
    if options.section != "report":
        if options.kernels:
            from tinyconv import use_kernels

            use_kernels(options.kernels)
        machine.set_threads(options.threads)
        here = machine.describe(options.threads, REMOVED)
        for section in sections(options):
            found = measure(section, options)
            results[section] = {"machine": here, "quick": options.quick, "found": found}
            options.out.write_text(json.dumps(results, indent=1) + "\n")
        print(f"written: {options.out}")
    print(report.text(results))
    for path in figures.draw(results, options.out.parent / "figures"):
        print(f"drawn: {path}")


main()
