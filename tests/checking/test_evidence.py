"""What experiments on a failing case rest on."""

from __future__ import annotations

import torch

from backprop_ops.checking.calling import Learned, Oracle
from backprop_ops.checking.case import Case
from backprop_ops.checking.evidence import Evidence
from backprop_ops.checking.inspector import Inspector
from backprop_ops.pair import Pair


def half_detached(x):
    return x * x.detach()


def half_detached_backward(dout, x):
    return 2 * x * dout


def test_an_experiment_is_judged_as_the_check_judges() -> None:
    """On a leaf where the judges disagree, what either says is right."""
    pair = Pair.bind(half_detached, half_detached_backward)
    case = Case({"x": torch.tensor([0.5, -1.25])}, 0)
    inspector = Inspector(pair, Oracle(pair, pair), learned=Learned(differenced={"x"}))
    assert not inspector.findings(case)
    assert Evidence(inspector, case, "x").holds(case)
    strict = Inspector(pair, Oracle(pair, pair))
    assert not Evidence(strict, case, "x").holds(case)


def test_nothing_holds_of_a_case_that_is_none() -> None:
    def demanding(x):
        if (x < 0).any():
            raise ValueError
        return x * x

    pair = Pair.bind(demanding, half_detached_backward)
    case = Case({"x": torch.tensor([0.5, 1.25])}, 0)
    evidence = Evidence(Inspector(pair, Oracle(pair, pair)), case, "x")
    assert evidence.holds(case)
    assert not evidence.holds(case.of({"x": torch.tensor([0.5, -1.25])}))
