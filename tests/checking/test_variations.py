"""The cases made of a sample: which are tried, and which mean nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from backprop_ops import check
from backprop_ops.checking.case import Case, described
from backprop_ops.checking.structure import Structures
from backprop_ops.checking.variations import variations
from backprop_ops.checking.variations.maker import Maker
from backprop_ops.pair import Pair

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
    (note,) = (note for note in report.notes if "not asked when target" in note)
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


class TanhOfProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w):
        h = torch.tanh(x @ w)
        ctx.save_for_backward(x, w, h)
        return h

    @staticmethod
    def backward(ctx, dh):
        x, w, h = ctx.saved_tensors
        d = dh * (1 - h * h)
        return d @ w.T, x.T @ d


def recurrent(x, w):
    h = torch.zeros_like(x[0])
    for step in x:
        h = torch.tanh(step + h @ w)
    return h


def recurrent_backward(dout, x, w):
    states = [torch.zeros_like(x[0])]
    for step in x:
        states.append(torch.tanh(step + states[-1] @ w))
    dx, dw, dh = torch.zeros_like(x), torch.zeros_like(w), dout
    for t in reversed(range(len(x))):
        d = dh * (1 - states[t + 1] ** 2)
        dx[t] = d
        dw += states[t].T @ d
        dh = d @ w.T
    return dx, dw


def solution(a, b):
    return torch.linalg.solve(a, b)


def solution_backward(dout, a, out):
    db = torch.linalg.solve(a.mT, dout)
    return -db @ out.mT, db


@pytest.mark.parametrize(
    ("forward", "backward", "args"),
    [
        (TanhOfProduct.apply, None, (LOGITS[:, :4], LOGITS[2:6, :3])),
        (recurrent, recurrent_backward, (LOGITS.view(3, 2, 5), LOGITS[:5] / 2)),
        (solution, solution_backward, (LOGITS[:5] + 4 * torch.eye(5), LOGITS[:5, :2])),
    ],
)
def test_no_infinity_that_the_sample_lacks(
    forward: Callable[..., Any], backward: Any, args: tuple[Any, ...]
) -> None:
    report = check(forward, backward, args, seed=0)
    assert report, str(report)


def test_an_infinity_that_the_sample_has() -> None:
    """In the leaf that has one: the scores, some of which were masked, and not the others."""
    scores = LOGITS.masked_fill(LOGITS > 1.5, -torch.inf)
    pair = Pair.bind(lambda scores, v: scores.softmax(1) * v.softmax(1), lambda dout: dout)
    sample = Case({"scores": scores, "v": LOGITS}, 0)
    maker = Maker(pair, Structures.shown_by(sample.arguments), torch.Generator())
    texts = {described(case.changes) for case in variations(maker, sample)}
    assert "scores is as it was, one element -inf" in texts
    assert "v is as it was, one element 10000" in texts
    assert "v is as it was, one element -inf" not in texts


@pytest.mark.parametrize("seed", [0, 1])
def test_what_saturates_in_large_sizes(seed: int) -> None:
    """Of 1 - h² next to zero the rounding of h is left, which is no mistake."""
    generator = torch.Generator().manual_seed(seed)
    x, w = torch.randn(6, 4, generator=generator), torch.randn(4, 3, generator=generator)
    report = check(TanhOfProduct.apply, None, (x, w), seed=seed)
    assert report, str(report)
