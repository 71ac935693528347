"""Real CuPy where there is a GPU, else the stand-in in its place, for every test of this folder."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import pytest

from tinyconv.cuda_on_cpu.compiler import COMPILERS

if find_spec("cupy") is None:  # a system that CuPy is not made for
    collect_ignore_glob = ["test_*.py"]
else:
    import cupy_on_cpu
    from gpu.place import HAS_GPU, NAME, XP


def pytest_report_header() -> str:
    return "tests/gpu: CuPy is not installed" if find_spec("cupy") is None else f"tests/gpu: {NAME}"


@pytest.fixture(autouse=True)
def cupy() -> Iterator[Any]:
    """The module that the engine finds as ``cupy``."""
    if HAS_GPU:
        yield XP
    elif not any(map(shutil.which, COMPILERS)):
        pytest.skip("the stand-in for a GPU needs a C++ compiler for its kernels")
    else:
        with cupy_on_cpu.installed(checked=False):
            yield XP
