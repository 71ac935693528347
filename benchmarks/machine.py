"""The machine: what it is, with how many threads it is used, and what it can do at best."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_info, threadpool_limits

import tinyconv
from tinyconv import kernels

PACKAGES = ("tinyconv", "numpy", "numba", "torch", "mygrad", "autograd", "tinygrad", "smallpebble")
_blas_limits: list[Any] = []  # a limit ends when it is collected


def set_threads(threads: int) -> None:
    """Let every library use as many threads as the others."""
    torch.set_num_threads(threads)
    _blas_limits.append(threadpool_limits(threads, user_api="blas"))
    tinyconv.set_num_threads(threads)


def describe(threads: int, removed: str | None) -> dict[str, Any]:
    """Everything that a reader of the numbers has to know. ``removed``: the OPENBLAS_CORETYPE that was taken out."""
    return {
        "date": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "blas": [
            {key: pool.get(key) for key in ("internal_api", "version", "architecture", "num_threads")}
            for pool in threadpool_info()
            if pool["user_api"] == "blas"
        ],
        "kernels": dict(kernels.table()),
        "environment": {k: v for k, v in os.environ.items() if k.startswith(("OPENBLAS_", "OMP_", "MKL_", "NUMBA_"))},
        "removed_from_environment": {"OPENBLAS_CORETYPE": removed} if removed else {},
        "ceilings": ceilings(),
    }


def _processor() -> str:
    """The model's name where Linux tells it."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def ceilings(size: int = 2048, megabytes: int = 256) -> dict[str, float]:
    """The best of some calls: a copy in bytes read and written a second, float32 matrix products in FLOP/s."""
    rng = np.random.default_rng(0)
    source = torch.from_numpy(rng.standard_normal(megabytes * 2**18, np.float32))
    target = torch.zeros_like(source)
    a, b = rng.standard_normal((2, size, size), np.float32)
    c, d = torch.from_numpy(a), torch.from_numpy(b)
    return {
        "copy": 2 * source.nbytes / _best(lambda: target.copy_(source)),
        "numpy_matmul": 2 * size**3 / _best(lambda: a @ b),
        "torch_matmul": 2 * size**3 / _best(lambda: c @ d),
    }


def _best(run: Callable[[], Any], calls: int = 8) -> float:
    """The shortest of some calls in seconds, after two to warm up."""
    seconds = []
    for _ in range(calls + 2):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return min(seconds[2:])
