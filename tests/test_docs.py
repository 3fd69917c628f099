"""The made parts of the pages are current: `python -m docs` would change nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from backprop_ops import pairs
from docs.__main__ import PAGES, PARTS, ROOT, made
from docs.pairs import forgotten
from tests.support.families import data

pytestmark = pytest.mark.usefixtures("unseen")

NUMBER = re.compile(r"(\d+(?:\.\d+)?(?:e[-+]?\d+)?)")

# How far a number may be off that was measured on another machine, where sums go in another order.
MEASURED = {
    "reports.md": {"rel": 1e-3, "abs": 1e-3},
    "parity.md": {"rel": 0.1, "abs": 1.0},  # a unit in the last place, as test_accuracy.py allows
}

# A row of the errors, as far as ours. How far torch's own sums cancel depends on the width of the
# processor's registers: its figures differ by a factor of three between two machines.
OURS = re.compile(r"(?m)^(\| \S+ \| b?float\d+ \| \S+ \|).*$")


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(
            page,
            id=page.name,
            # The worst error of each pair takes a minute to measure.
            marks=pytest.mark.thorough if page.name == "parity.md" else [],
        )
        for page in PAGES
    ],
)
def test_page_is_current(page: Path) -> None:
    text, now = page.read_text("utf-8"), made(page)
    if page.name not in MEASURED:
        assert now == text
        return
    text, now = (OURS.sub(r"\1", each) for each in (text, now))
    assert words(now) == words(text)
    numbers = [float(number) for number in NUMBER.findall(text)]
    found = [float(number) for number in NUMBER.findall(now)]
    assert found == pytest.approx(numbers, **MEASURED[page.name])


def words(text: str) -> list[str]:
    """A page without its numbers, without what depends on a last digit, and however wrapped."""
    return NUMBER.sub("0", re.sub(r"exact: \w+", "", text)).split()


def test_every_part_is_on_a_page() -> None:
    text = "".join(page.read_text("utf-8") for page in PAGES)
    assert sorted(re.findall(r"<!-- /(\w+) -->", text)) == sorted(PARTS)


def test_ten_wrong_pairs_and_ten_students() -> None:
    page = (ROOT / "docs" / "reports.md").read_text("utf-8")
    pairs_of_ours, of_students = (half.split("\n## ")[1:] for half in page.split("\n# Ten of"))
    assert len(pairs_of_ours) == len(of_students) == 10
    for section in pairs_of_ours + of_students:
        assert ": wrong " in section
    assert all("\nlikely mistake (" in section for section in pairs_of_ours)


def test_an_option_that_no_sample_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = data(pairs["softmax"]).SAMPLES
    monkeypatch.setitem(samples, "softmax", [s for s in samples["softmax"] if not s.options])
    with pytest.raises(LookupError, match=r"test_softmax\.py: no sample of softmax sets dim"):
        forgotten()
