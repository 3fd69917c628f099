"""What holds for every run of pytest here: profiles, which tests run, and the table at the end."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

settings.register_profile("dev", deadline=None, max_examples=20)
settings.register_profile("ci", deadline=None, max_examples=20, derandomize=True)
settings.register_profile("deep", deadline=None, max_examples=500)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if "CI" in os.environ else "dev"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """`pytest` runs no timing, and `pytest --benchmark-only` runs nothing else."""
    if config.getoption("benchmark_disable"):  # timings as tests, once each
        return
    only = config.getoption("benchmark_only")
    selected = [item for item in items if ("benchmark" in item.fixturenames) == only]
    config.hook.pytest_deselected(items=[item for item in items if item not in selected])
    items[:] = selected


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Every row that was compared, as the lecture prints them."""
    rows = [
        value
        for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed")
        for name, value in report.user_properties
        if name == "comparison"
    ]
    if rows:
        terminalreporter.section("gradients by hand against autograd")
        for row in sorted(rows):
            terminalreporter.write_line(row)
