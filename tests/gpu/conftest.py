"""Real CuPy where there is a GPU, else the stand-in in its place, for every test of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import cupy_on_cpu
from gpu.place import HAS_GPU, NAME, XP


def pytest_report_header() -> str:
    return f"tests/gpu: {NAME}"


@pytest.fixture(autouse=True)
def cupy() -> Iterator[Any]:
    """The module that the engine finds as ``cupy``."""
    if HAS_GPU:
        yield XP
    else:
        with cupy_on_cpu.installed(checked=False):
            yield XP
