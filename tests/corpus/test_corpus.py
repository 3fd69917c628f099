"""That `check` finds every wrong backward written here, names most, and refuses no right one."""

from __future__ import annotations

import importlib

import pytest

from backprop_ops import check
from tests.corpus import Right, Wrong
from tests.mutation.judging import FAMILIES

pytestmark = pytest.mark.usefixtures("unseen")

WRONG: dict[str, Wrong] = {}
RIGHT: dict[str, Right] = {}
for family in FAMILIES:
    module = importlib.import_module(family)
    assert not WRONG.keys() & module.WRONG.keys()
    assert not RIGHT.keys() & module.RIGHT.keys()
    WRONG |= module.WRONG
    RIGHT |= module.RIGHT

NAMED = 0.75  # of the wrong ones whose mistake the first failure has to name

# Of each of the 25 kinds the first, and of the right ones each eighth.
ONE_OF_EACH_KIND = {wrong.kind: name for name, wrong in reversed(WRONG.items())}
SOME = sorted(RIGHT)[::8]


@pytest.mark.parametrize("name", ONE_OF_EACH_KIND.values())
def test_one_of_each_kind(name: str) -> None:
    wrong = WRONG[name]
    assert not check(wrong.forward, wrong.backward, wrong.args, wrong.kwargs)


@pytest.mark.parametrize("name", SOME)
def test_some_right_ones(name: str) -> None:
    right = RIGHT[name]
    report = check(right.forward, right.backward, right.args, right.kwargs)
    assert report, str(report)


def test_there_are_enough() -> None:
    assert len(WRONG) >= 120
    assert len(RIGHT) >= 60
    assert {wrong.kind for wrong in WRONG.values()} == set(range(26)) - {16}  # past 2³¹ elements


@pytest.mark.thorough
def test_every_wrong_one_is_found_and_most_are_named() -> None:
    missed, named = [], 0
    for name, wrong in WRONG.items():
        report = check(wrong.forward, wrong.backward, wrong.args, wrong.kwargs)
        if report:
            missed.append(name)
        elif report.failures:
            keys = (wrong.mistake,) if isinstance(wrong.mistake, str) else wrong.mistake
            named += report.failures[0].mistake in keys
    assert not missed
    assert named >= NAMED * len(WRONG), f"{named} of {len(WRONG)}"


@pytest.mark.thorough
@pytest.mark.parametrize("name", RIGHT)
def test_no_right_one_is_refused(name: str) -> None:
    right = RIGHT[name]
    report = check(right.forward, right.backward, right.args, right.kwargs)
    assert report, str(report)
