"""Peak memory of a training step beside torch, each in a fresh process that imports one library alone."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.networks import JOBS

STEPS = 3
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


def resident() -> dict[str, int]:
    """Bytes of this process that are in memory now, and the most that ever were.

    From Linux where that is at hand: the maximum that getrusage reports is inherited from the process that started
    this one, and cannot tell a small child of a large parent.
    """
    status = Path("/proc/self/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return {"now": int(lines["VmRSS"].split()[0]) * 1024, "peak": int(lines["VmHWM"].split()[0]) * 1024}
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"now": peak, "peak": peak}


def measure(library: str, network: str, rung: str | None) -> dict[str, int]:
    """In this process: bytes after the library is imported and has convolved once, and the peak of some steps."""
    lib = importlib.import_module(library)
    if rung and library == "tinyconv":
        lib.use_kernels(rung)
    x = lib.zeros(1, 1, 4, 4)
    lib.nn.Conv2d(1, 1, 3)(x).sum().backward()  # what is loaded at first use belongs to the library
    before = resident()["now"]
    job = JOBS[network]
    step = job.training(lib, job.build(lib))
    for _ in range(STEPS):
        step()
    return {"imported": before, "peak": resident()["peak"]}


def run(quick: bool, threads: int, rung: str | None) -> list[dict[str, Any]]:
    """Every network with both libraries; the smaller peak of two processes, the first of which may compile kernels."""
    environment = {**os.environ, **dict.fromkeys(THREADS, str(threads))}
    rows = []
    for network in list(JOBS)[: 2 if quick else None]:
        sides = {}
        for library in ("tinyconv", "torch"):
            command = [sys.executable, "-m", "benchmarks.memory", library, network, *([rung] if rung else [])]
            made = [json.loads(subprocess.check_output(command, env=environment)) for _ in range(2)]
            sides[library] = min(made, key=lambda row: row["peak"])
        rows.append({"network": network, "shape": JOBS[network].shape, "bytes": sides})
    return rows


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else None)))
