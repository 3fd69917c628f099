"""The judges, each on a backward that is right, one that is wrong, and two that do not return."""

from __future__ import annotations

import pytest

from backprop_ops import pairs
from tests.mutation import judging
from tests.mutation.judging import JUDGES, Entry, judge
from tests.mutation.mutation import Mutant, calls

pytestmark = pytest.mark.usefixtures("unseen")

HEAD = "def tanh_backward(dout, out):\n    "


def entry(body: str) -> Entry:
    return Entry("automatic", body, mutant=Mutant(body, pairs["tanh"], HEAD + body))


@pytest.mark.parametrize("name", JUDGES)
def test_right_and_wrong(name: str) -> None:
    for body, right in (("return dout * (1 - out**2)", True), ("return dout * out**2", False)):
        forward, backward, given = entry(body).load()
        passed, _ = judging.passes(JUDGES[name], forward, backward, given)
        assert passed == right


@pytest.mark.parametrize("name", JUDGES)
@pytest.mark.parametrize("pair", ["linear", "cross_entropy"])
def test_several_inputs_and_kept_fields(name: str, pair: str) -> None:
    given = calls(pairs[pair])[:1]
    assert judging.passes(JUDGES[name], pairs[pair].forward, pairs[pair].backward, given)[0]


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("import os; os.abort()", "the process crashed"),
        ("while True: pass", "no verdict within 5 s"),
        ("raise KeyError(1)", "KeyError: 1"),
    ],
)
def test_no_verdict(body: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "SECONDS", 5.0)
    judge("gradcheck", entry("return dout * (1 - out**2)"))  # the fork server has started
    verdict = judge("gradcheck", entry(body))
    assert not verdict.passed
    assert verdict.reason == reason
