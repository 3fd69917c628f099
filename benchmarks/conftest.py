"""After a run of the benchmarks: their ratios, and the memory that each takes, as tables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks.tables import Result, tables

RESULTS = pytest.StashKey[list[Result]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[RESULTS] = []


@pytest.fixture(autouse=True)
def _result(request: pytest.FixtureRequest, benchmark: Any) -> Iterator[None]:
    yield
    if "ratio" in benchmark.extra_info:
        seconds = benchmark.stats.stats.median
        request.config.stash[RESULTS].append(
            Result(case=benchmark.group, seconds=seconds, **benchmark.extra_info)
        )


@pytest.hookimpl(trylast=True)  # after the table of pytest-benchmark
def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    for title, text in tables(config.stash[RESULTS], "simple").items():
        terminalreporter.section(title)
        terminalreporter.write_line(text)
