"""What was measured, as tables: a row for each case, a column for each provider."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tabulate import tabulate


@dataclass(frozen=True)
class Result:
    """One provider on one case.

    ``ratio``: its time by that of the form it is compared with. ``load``: how many processes wanted
    a core, on the mean of the minute before.
    """

    table: str
    case: str
    provider: str
    seconds: float
    ratio: float
    peak: int  # bytes beyond what was held before
    load: float
    elements: int = 0


def tables(results: Sequence[Result], style: str) -> dict[str, str]:
    """Each table under its title, in a style of `tabulate`: of the time, and of the memory."""
    made = {}
    for name in dict.fromkeys(result.table for result in results):
        own = [result for result in results if result.table == name]
        made[f"{name}: time, as a ratio"] = _table(own, style, lambda r: f"{r.ratio:.2f}")
        made[f"{name}: peak of extra memory"] = _table(own, style, lambda r: _size(r.peak))
    return made


def _table(results: Sequence[Result], style: str, cell: Callable[[Result], str]) -> str:
    rows: dict[str, dict[str, str]] = {}
    for result in results:
        rows.setdefault(result.case, {})[result.provider] = cell(result)
    providers = dict.fromkeys(result.provider for result in results)
    headers = list(providers)
    if style == "simple":  # a terminal of 100 columns
        headers = [provider.replace(" ", "\n") for provider in providers]
    cells = [[case, *(row.get(p, "") for p in providers)] for case, row in rows.items()]
    return tabulate(cells, ["", *headers], style, stralign="right", disable_numparse=True)


def conditions(results: Sequence[Result]) -> str:
    """How busy the machine was; on one that others use the ratios mean little."""
    loads, cores = [result.load for result in results], os.cpu_count() or 1
    busy = ": busy, so the ratios mean little" if max(loads) > cores + 0.5 else ""
    return f"load {min(loads):.1f} to {max(loads):.1f} on {cores} cores{busy}"


def _size(count: int) -> str:
    """Bytes in the largest unit in which they are 1 at least."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if count >= 100 else f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} GiB"
