"""python -m benchmarks: run all, print, and write benchmarks/results.json."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path

if "OPENBLAS_CORETYPE" in os.environ:
    raise SystemExit("OPENBLAS_CORETYPE is set and would time another machine's matrix product: use `make bench`.")

import numpy as np
import torch
from threadpoolctl import threadpool_info

from benchmarks import overhead, unet
from tinyconv.training import one_blas_thread


def main() -> None:
    """Run every benchmark; torch with two threads."""
    torch.set_num_threads(min(2, os.cpu_count() or 1))
    machine = {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": torch.__version__,
        "torch_threads": torch.get_num_threads(),
        "blas": [
            {k: pool[k] for k in ("internal_api", "architecture", "num_threads") if k in pool}
            for pool in threadpool_info()
        ],
    }
    with one_blas_thread():  # as `tinyconv train` does
        results = {"machine": machine, "overhead": overhead.run(), "unet_step": unet.run()}
    micro = results["overhead"]["microseconds"]
    one, other = micro["tinyconv"]["median"], micro["torch"]["median"]
    print(f"(a*b+c).sum().backward(): tinyconv {one:.1f} us, torch {other:.1f} us, {one / other:.2f} times torch")
    for name, row in results["unet_step"].items():
        ours, theirs = row["seconds"]["tinyconv"]["median"], row["seconds"]["torch"]["median"]
        print(
            f"U-Net step, {name} {row['shape']}: tinyconv {ours:.3f} s, torch {theirs:.3f} s, ratio {row['ratio']:.2f}"
        )
    path = Path(__file__).with_name("results.json")
    path.write_text(json.dumps(results, indent=2) + "\n")
    print(f"written: {path}")


main()
