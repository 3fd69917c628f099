"""The cases made of a sample: which are tried, and which mean nothing."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from backprop_ops import check

pytestmark = pytest.mark.usefixtures("unseen")

LOGITS = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
TARGET = torch.tensor([1, 0, 4, 4, 2, 3])


def loss(logits, target):
    return cross_entropy(logits, target)


def loss_backward(dout, logits, target):
    """As in the lecture's second exercise: index -100 is out of bounds."""
    dlogits = logits.softmax(1)
    dlogits[range(len(target)), target] -= 1
    return dlogits / len(target) * dout


def loss_counting_ignored_rows(dout, logits, target):
    rows = target >= 0
    dlogits = logits.softmax(1) * rows[:, None]
    dlogits[rows, target[rows]] -= 1
    return dlogits / len(target) * dout


def loss_naming_it(logits, target, *, ignore_index=-100):
    return cross_entropy(logits, target, ignore_index=ignore_index)


def test_torchs_ignore_index_where_no_option_names_it() -> None:
    report = check(loss, loss_backward, (LOGITS, TARGET), seed=0)
    assert report, str(report)
    (note,) = report.notes
    assert "not asked when target" in note
    assert "raises IndexError" in note


def test_a_wrong_value_at_torchs_ignore_index() -> None:
    (failure,) = check(loss, loss_counting_ignored_rows, (LOGITS, TARGET), seed=0).failures
    assert failure.property == "value"
    assert failure.variation == "target holds torch's ignore_index (-100)"


def test_an_option_that_names_torchs_ignore_index() -> None:
    """Who has the option has to take it."""

    def backward(dout, logits, target, *, ignore_index):
        rows = target != ignore_index if ignore_index >= 0 else target < 5
        dlogits = logits.softmax(1)
        dlogits[range(len(target)), target] -= 1
        return dlogits * rows[:, None] / rows.sum() * dout

    (failure,) = check(loss_naming_it, backward, (LOGITS, TARGET), seed=0).failures
    assert failure.property == "call"
    assert failure.variation == "target holds ignore_index (-100)"
