"""After a run of the benchmarks: their ratios, and the memory that each takes, as tables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks.tables import Result, conditions, tables

RESULTS = pytest.StashKey[list[Result]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[RESULTS] = []


@pytest.fixture(autouse=True)
def _result(request: pytest.FixtureRequest, benchmark: Any) -> Iterator[None]:
    yield
    if "ratio" in benchmark.extra_info:
        result = Result(case=benchmark.group, **benchmark.extra_info)
        request.config.stash[RESULTS].append(result)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A part of the benchmarks compiles nothing unless it asks for that, since it takes minutes."""
    asked = config.option.keyword
    if asked and "compiled" not in asked:
        left_out = [item for item in items if "compiled" in item.name]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    results = config.stash[RESULTS]
    for title, text in tables(results, "simple").items():
        terminalreporter.section(title)
        terminalreporter.write_line(conditions(results))
        terminalreporter.write_line(text)
