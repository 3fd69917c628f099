"""Make the parts of the pages that are no prose.

    python -m docs [PAGE ...]

A part stands between ``<!-- name -->`` and ``<!-- /name -->``, and `PARTS` holds what makes it.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path

from docs import api, pairs, parity, reports

ROOT = Path(__file__).parents[1]

PARTS: dict[str, Callable[[], str]] = {
    "api": api.checking,
    "reference": api.reference,
    "pairs": pairs.families,
    "formulas": pairs.formulas,
    "forgotten": pairs.forgotten,
    "samples": parity.samples,
    "departures": parity.departures,
    "exactness": parity.exactness,
    "reports": reports.reports,
    "students": reports.students,
}
PART = re.compile(r"<!-- (\w+) -->\n(.*?)<!-- /\1 -->", re.DOTALL)

PAGES = [
    page
    for page in (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")))
    if PART.search(page.read_text("utf-8"))
]


def made(page: Path) -> str:
    """The page with its parts as they are now."""

    def part(match: re.Match[str]) -> str:
        return f"<!-- {match[1]} -->\n\n{PARTS[match[1]]()}\n\n<!-- /{match[1]} -->"

    return PART.sub(part, page.read_text("utf-8"))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m docs", description=__doc__)
    parser.add_argument("pages", nargs="*", type=Path, metavar="PAGE", default=PAGES)
    for page in parser.parse_args().pages:
        page.write_text(made(page), "utf-8")


if __name__ == "__main__":
    main()
