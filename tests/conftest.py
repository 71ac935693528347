"""What all tests share: reproducible hypothesis runs, and where the larger data sets are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# No time is ever asserted; a continuous-integration run draws the same examples every time.
settings.register_profile(
    "tinyconv",
    deadline=None,
    derandomize="CI" in os.environ,
    suppress_health_check=[HealthCheck.too_slow],
)
# For a longer hunt: HYPOTHESIS_PROFILE=deep pytest tests/test_operators.py
settings.register_profile("deep", settings.get_profile("tinyconv"), max_examples=4000, derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "tinyconv"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Add up the operator and argument combinations that the passed tests say they tried."""
    told = [value for report in terminalreporter.stats.get("passed", []) for _, value in report.user_properties]
    if told:
        terminalreporter.write_line(f"{sum(told)} combinations of operator and arguments compared with torch")


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of the larger data sets; a test that asks for it is skipped where there is none."""
    root = os.environ.get("TINYCONV_DATA")
    if not root:
        pytest.skip("TINYCONV_DATA is not set: the larger data sets are not at hand")
    return Path(root)
