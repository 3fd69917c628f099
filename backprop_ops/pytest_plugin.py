"""The pytest plugin: a fixture, a marker, a seed for the run, and the table at its end.

pytest loads it in every project of the environment. So it imports neither torch nor the checker,
and its wrappers are of the kind that every version of pluggy has.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypedDict, cast

import pytest

import backprop_ops.context as context

if TYPE_CHECKING:
    from backprop_ops.checking.report import Report

MANY_ROWS = 40  # from here on the table has a line a pair, unless pytest is verbose
VERDICTS = ("correct", "correct, but", "vacuous", "wrong")  # how they begin, from best to worst

_PROPERTY = "backprop_ops"
_REPORTS = pytest.StashKey["list[Report]"]()


class _Row(TypedDict):
    name: str
    exact: bool
    approximate: bool
    maxdiff: float
    vacuous: bool
    line: str


class _Check(TypedDict):
    """The part of a report that the table shows, in values that pytest-xdist can send."""

    name: str
    verdict: str
    rows: list[_Row]


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("backprop_ops", "checks of hand-written backwards")
    group.addoption(
        "--backward-seed",
        type=int,
        metavar="N",
        help="seed of every check that a test makes without one (default: a fresh one each)",
    )
    group.addoption(
        "--backward-reach",
        choices=("sample", "alike", "beyond"),
        help="how far from its sample every check goes that is given no reach (default: beyond)",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "backward(skip=(...), reach=...): what no check in the test tries, and how far each goes",
    )


@pytest.fixture(name="assert_backward", scope="session")
def _assert_backward() -> Callable[..., None]:
    """`backprop_ops.assert_backward`: fail where `backprop_ops.check` finds something wrong."""
    from backprop_ops.checking.checker import assert_backward

    return assert_backward


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, Any, None]:
    """From setup to teardown, checks have the run's seed and the marker's skip, and are noted."""
    reports = item.stash[_REPORTS] = []
    before = context.current
    # Read by `check` alone: a project may have a marker of this name for something else.
    marks = [mark.kwargs for mark in item.iter_markers("backward")]  # the closest first
    reaches = [mark["reach"] for mark in marks if "reach" in mark]
    context.current = context.Context(
        seed=item.config.getoption("backward_seed"),
        reach=reaches[0] if reaches else item.config.getoption("backward_reach"),
        skips=tuple(mark.get("skip", ()) for mark in marks),
        observe=reports.append,
    )
    yield
    context.current = before


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, Any, None]:
    """Give the report of a test's phase the checks that were made in it."""
    outcome = yield
    of_phase: pytest.TestReport = outcome.get_result()
    reports = item.stash.get(_REPORTS, [])
    of_phase.user_properties += [(_PROPERTY, _plain(report)) for report in reports]
    if of_phase.failed and call.excinfo:
        shown = getattr(call.excinfo.value, "report", None)  # that of a BackwardError
        # By name: of the many checks of a Hypothesis test the last is the smallest that fails.
        for report in {report.name: report for report in reports if not report}.values():
            if report is not shown:
                of_phase.sections.append((report.name, str(report)))
    reports.clear()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Every pair that was checked, with the worst row of each gradient."""
    pairs: dict[str, list[_Check]] = {}
    for check in _checks(terminalreporter):
        pairs.setdefault(check["name"], []).append(check)
    if not pairs:
        return
    rows = {name: _worst(row for check in pairs[name] for row in check["rows"]) for name in pairs}
    in_full = terminalreporter.verbosity > 0 or sum(map(len, rows.values())) < MANY_ROWS
    terminalreporter.write_sep("=", "gradients by hand against autograd")
    for name in sorted(pairs):
        verdicts = [check["verdict"] for check in pairs[name]]
        worst = max(verdicts, key=_badness)
        line = f"{name}: {worst}"
        if len(verdicts) > 1:
            line += f" in {verdicts.count(worst)} of {len(verdicts)} checks"
        if not in_full:
            line = " | ".join([line, *map(_short, rows[name])])
        terminalreporter.write_line(line, red=worst != "correct")
        if in_full:
            for row in rows[name]:
                terminalreporter.write_line(f"  {row['line']}")


def _plain(report: Report) -> _Check:
    rows: list[_Row] = [
        {
            "name": row.name,
            "exact": row.exact,
            "approximate": row.approximate,
            "maxdiff": row.maxdiff,
            "vacuous": row.name in report.vacuous,
            "line": line,
        }
        for row, line in zip(report.comparisons, report.table, strict=True)
    ]
    return {"name": report.name, "verdict": report.verdict, "rows": rows}


def _badness(verdict: str) -> int:
    return max(i for i, begin in enumerate(VERDICTS) if verdict.startswith(begin))


def _checks(terminalreporter: pytest.TerminalReporter) -> Iterator[_Check]:
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                for name, value in report.user_properties:
                    if name == _PROPERTY:
                        yield cast("_Check", value)


def _worst(rows: Iterable[_Row]) -> list[_Row]:
    """The worst row of each gradient; one of another shape, whose maxdiff is nan, is the worst."""

    def badness(row: _Row) -> tuple[bool, bool, bool, float]:
        maxdiff = math.inf if math.isnan(row["maxdiff"]) else row["maxdiff"]
        wrong = not row["approximate"] and not row["vacuous"]
        return wrong, row["vacuous"], not row["exact"], maxdiff

    worst: dict[str, _Row] = {}
    for row in rows:
        worst[row["name"]] = max(worst.get(row["name"], row), row, key=badness)
    return list(worst.values())


def _short(row: _Row) -> str:
    if row["vacuous"]:
        return f"{row['name']} vacuous"
    if row["exact"]:
        return f"{row['name']} exact"
    return f"{row['name']} {row['maxdiff']:.1e}" + ("" if row["approximate"] else " wrong")
