"""The verdict of a report, and how a gradient reads that nothing proves."""

from __future__ import annotations

import pytest
import torch

from backprop_ops import check

pytestmark = pytest.mark.usefixtures("unseen")

X = torch.tensor([[0.5, -1.25, 2.0], [1.5, 0.75, -0.5], [0.1, 0.3, -0.7]])


def centred(x, b):
    y = x + b
    return y - y.mean(0)


def centred_backward(dout):
    dx = dout - dout.mean(0)
    return dx, dx.sum(0)


def test_a_gradient_that_nothing_proves() -> None:
    report = check(centred, centred_backward, (X, X[0]), seed=0)
    assert report.ok
    assert report.verdict == "correct, but nothing proves db"
    head, dx, db, *_ = str(report).splitlines()
    assert head == f"centred_backward: {report.verdict}"
    assert not dx.endswith("vacuous")
    assert db.startswith(f"  {report.comparisons[1]}")
    assert db.endswith(" | vacuous")


def test_every_gradient_proved_by_nothing() -> None:
    def alone(b):
        return centred(X.to(b.dtype), b)

    report = check(alone, lambda dout: centred_backward(dout)[1], (X[0],), seed=0)
    assert report.verdict == "vacuous"
    assert not report.ok


def test_wrong_whatever_nothing_proves() -> None:
    report = check(centred, lambda dout: (dout, dout.sum(0) * 0), (X, X[0]), seed=0)
    assert report.verdict == "wrong on your sample"
    assert str(report).splitlines()[0].endswith("_backward: wrong on your sample")
    assert "vacuous" not in str(report)


def test_correct_throughout() -> None:
    report = check(lambda x: x * x, lambda dout, x: 2 * x * dout, (X,), seed=0)
    assert report.verdict == "correct"
