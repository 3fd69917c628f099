"""`check` says of the published functions, where they are installed, what docs/field.md says."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version

import pytest

from backprop_ops import check
from tests.field.__main__ import PAGE
from tests.field.functions import FUNCTIONS, WHY, Published

pytestmark = pytest.mark.usefixtures("unseen")

ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.read_text("utf-8").splitlines()
    if re.match(r"\| \S+ \d", line)
]


def test_the_page_has_every_function() -> None:
    rows = [(f"{entry.package} {entry.version}", entry.name, entry.kind) for entry in FUNCTIONS]
    assert [tuple(row[:3]) for row in ROWS] == rows
    assert len(FUNCTIONS) == 20
    assert len({entry.package for entry in FUNCTIONS}) == 16


def test_every_refusal_has_its_reason() -> None:
    assert {row[1] for row in ROWS if "wrong" in "".join(row[3:5])} == WHY.keys()


@pytest.mark.exhaustive
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("entry", FUNCTIONS, ids=lambda entry: f"{entry.package} {entry.name}")
def test_the_verdict(entry: Published) -> None:
    try:
        installed = version(entry.package)
    except PackageNotFoundError:
        pytest.skip(f"{entry.package} is not installed")
    if installed != entry.version:
        pytest.skip(f"{entry.package} is {installed} here, not {entry.version}")
    asked = entry.ask()
    report = check(asked.function, None, asked.args, seed=0, **asked.keywords)
    (row,) = (row for row in ROWS if row[:2] == [f"{entry.package} {entry.version}", entry.name])
    assert report.verdict == row[4]
