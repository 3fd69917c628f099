"""Check every published function that is installed, and write docs/field.md.

    python -m tests.field

One thread. The packages are no dependency of anything: install those of the list, each of its
version and without what it depends on, beside this one.
"""

from __future__ import annotations

import time
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from rich.progress import track

from backprop_ops import Report, check
from tests.field.functions import FUNCTIONS, WHY, Published

PAGE = Path(__file__).parents[2] / "docs" / "field.md"

HEAD = """\
# Published functions

Twenty functions with backwards of their own, of sixteen packages, as they are on PyPI. The list was
fixed before `check` first saw one of them, and none was dropped. `python -m tests.field` makes this
page, with seed 0 and one thread. `tests/field/functions.py` has the samples, and what `check` is
told: a reference, a domain, or the function whose gradient it is on purpose.

| package | function | kind | up to inputs like the sample | all the way | seconds |
|---|---|---|---|---|---|
"""


def row(entry: Published) -> str:
    reports: list[Report] = []
    started = time.process_time()
    for reach in ("alike", "beyond"):
        asked = entry.ask()
        reports.append(
            check(asked.function, None, asked.args, seed=0, reach=reach, **asked.keywords)
        )
    seconds = time.process_time() - started
    verdicts = " | ".join(report.verdict for report in reports)
    name = f"{entry.package} {entry.version} | {entry.name}"
    return f"| {name} | {entry.kind} | {verdicts} | {seconds:.0f} |\n"


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # the packages' own
    rows = []
    for entry in track(FUNCTIONS, "functions"):
        try:
            installed = version(entry.package)
        except PackageNotFoundError:
            raise SystemExit(f"{entry.package} {entry.version} is not installed") from None
        if installed != entry.version:
            raise SystemExit(f"{entry.package} has to be {entry.version}, got {installed}")
        rows.append(row(entry))
    why = "\n".join(f"## {name}\n\n{text}" for name, text in WHY.items())
    PAGE.write_text(f"{HEAD}{''.join(rows)}\n{why}", "utf-8")


if __name__ == "__main__":
    main()
