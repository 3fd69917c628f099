"""That `check` finds every wrong backward written here, names most, and refuses no right one."""

from __future__ import annotations

import pytest

from backprop_ops import Report, check
from tests.corpus import Right, Wrong, entries, right
from tests.corpus.kinds import Kind
from tests.support.verdict import unexplained

pytestmark = pytest.mark.usefixtures("unseen")

WRONG, RIGHT = entries()

NEAR = 0.75  # of the wrong ones, that have to be found at the sample or on inputs like it
NAMED = 0.75  # of the wrong ones whose mistake the first failure has to name

ONE_OF_EACH_KIND = {wrong.kind: name for name, wrong in reversed(WRONG.items())}
WITH_PROPERTY = [name for name, wrong in WRONG.items() if wrong.property]
EACH_EIGHTH = sorted(RIGHT)[::8]


def checked(entry: Wrong | Right) -> Report:
    return check(entry.forward, entry.backward, entry.args, entry.kwargs)


def assert_accepted(name: str) -> None:
    report = checked(RIGHT[name])
    assert report, str(report)
    assert all(row.approximate for row in report.comparisons)


@pytest.mark.parametrize(
    "name",
    [n for n in ONE_OF_EACH_KIND.values() if not n.startswith("scan")],  # a slow forward
)
def test_one_of_each_kind(name: str) -> None:
    with unexplained():
        assert not checked(WRONG[name])


@pytest.mark.parametrize("name", WITH_PROPERTY)
def test_the_property_that_fails_first(name: str) -> None:
    wrong, report = WRONG[name], checked(WRONG[name])
    assert report.failures[0].property == wrong.property
    assert not wrong.mistake or report.failures[0].mistake in wrong.mistake
    assert "wrong" in str(report)


@pytest.mark.parametrize("name", EACH_EIGHTH)
def test_some_right_ones(name: str) -> None:
    assert_accepted(name)


def test_there_are_enough() -> None:
    assert len(WRONG) >= 120
    assert len(RIGHT) >= 60
    assert {wrong.kind for wrong in WRONG.values()} == set(Kind) - {Kind.INDEX_OVERFLOW}


def test_two_of_one_name() -> None:
    name, entry = next(iter(RIGHT.items()))
    with pytest.raises(ValueError, match=f"two entries are called '{name}'"):
        right(entry.forward, *entry.args)(entry.backward)


@pytest.mark.thorough
@pytest.mark.parametrize("name", WRONG)
def test_no_wrong_one_is_passed(name: str) -> None:
    with unexplained():
        assert not checked(WRONG[name])


@pytest.mark.parametrize(
    "each",
    [
        pytest.param(8, marks=pytest.mark.thorough),
        pytest.param(1, marks=pytest.mark.exhaustive),
    ],
)
def test_most_mistakes_are_named_and_near(each: int) -> None:
    """Three in four at the sample or on inputs like it: a reach is no way to call things far."""
    to_name = [wrong for wrong in [*WRONG.values()][::each] if wrong.mistake]
    named = near = 0
    for wrong in to_name:
        report = checked(wrong)
        failures = report.failures
        named += bool(failures) and failures[0].mistake in wrong.mistake
        near += report.reach in ("sample", "alike")
    assert named >= NAMED * len(to_name), f"{named} of {len(to_name)}"
    assert near >= NEAR * len(to_name), f"{near} of {len(to_name)}"


@pytest.mark.thorough
@pytest.mark.parametrize("name", RIGHT)
def test_no_right_one_is_refused(name: str) -> None:
    assert_accepted(name)
