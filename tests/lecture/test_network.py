"""The lecture's network: every node by hand against autograd, atomic and fused."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  # torch's own name for it

from backprop_ops import Comparison
from backprop_ops.lecture.data import Dataset
from backprop_ops.lecture.exercises import run_exercises
from backprop_ops.lecture.network import (
    LECTURE_ROWS,
    LECTURE_SEED,
    Nodes,
    Parameters,
    backward,
    calibrate,
    forward,
    fused_backward,
    fused_forward,
    initialize,
    predict,
)


def batch(
    dataset: Dataset, n: int, hidden: int, dtype: torch.dtype
) -> tuple[Parameters, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(LECTURE_SEED)
    drawn = initialize(dataset.vocabulary, hidden, generator)
    rows = torch.randint(len(dataset.train.target), (n,), generator=generator)
    parameters = Parameters(*(p.to(dtype).requires_grad_() for p in drawn))
    return parameters, dataset.train.context[rows], dataset.train.target[rows]


@pytest.fixture(scope="module")
def nodes(few: Dataset) -> tuple[Nodes, Nodes]:
    """The gradients by hand and autograd's, in float64, batch, hidden and classes all unequal."""
    parameters, context, target = batch(few, 33, 17, torch.float64)
    values = forward(parameters, context, target)
    expected = Nodes(*torch.autograd.grad(values.loss, values))
    with torch.no_grad():
        return backward(values, context, target), expected


@pytest.mark.parametrize("name", Nodes._fields)
def test_node(nodes: tuple[Nodes, Nodes], name: str) -> None:
    by_hand, expected = (getattr(gradients, name) for gradients in nodes)
    torch.testing.assert_close(by_hand, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("n", "hidden"), [(32, 64), (5, 64), (33, 64), (64, 17), (32, 200)])
def test_rows_are_exact(few: Dataset, n: int, hidden: int, dtype: str) -> None:
    exercises = run_exercises(few, hidden=hidden, batch_size=n, dtype=dtype)
    assert [row.name for row in exercises.rows] == list(LECTURE_ROWS)
    inexact = [str(row) for row in exercises.rows if not row.exact]
    assert not inexact
    assert exercises.logits.approximate
    assert exercises.hprebn.approximate
    assert abs(exercises.loss_difference) < 1e-6
    assert exercises.hpreact_difference < 2e-6


def test_there_are_26_rows() -> None:
    assert len(LECTURE_ROWS) == len(set(LECTURE_ROWS)) == 26
    assert set(LECTURE_ROWS) < set(Nodes._fields)


def test_logit_maxes_proves_nothing(nodes: tuple[Nodes, Nodes]) -> None:
    """Its gradient is analytically zero, so its row passes any sign; max is judged alone too."""
    assert nodes[1].logit_maxes.abs().max() < 1e-16
    assert nodes[1].logits.abs().max() > 1e-3


def test_forward_is_the_lectures(lecture: Dataset) -> None:
    """The lecture's code, line by line, on its first batch, whose first target is 8."""
    parameters, context, target = batch(lecture, 32, 64, torch.float32)
    assert target[0] == 8
    C, W1, b1, W2, b2, bngain, bnbias = parameters
    hprebn = C[context].view(32, -1) @ W1 + b1
    bndiff = hprebn - 1 / 32 * hprebn.sum(0, keepdim=True)
    bnvar = 1 / 31 * (bndiff**2).sum(0, keepdim=True)
    hpreact = bngain * (bndiff * (bnvar + 1e-5) ** -0.5) + bnbias
    logits = torch.tanh(hpreact) @ W2 + b2
    loss = F.cross_entropy(logits, target)
    nodes = forward(parameters, context, target)
    torch.testing.assert_close(nodes.hpreact, hpreact)
    torch.testing.assert_close(nodes.logits, logits)
    torch.testing.assert_close(nodes.loss, loss)


@pytest.mark.parametrize("name", Parameters._fields)
def test_fused_is_atomic(few: Dataset, name: str) -> None:
    parameters, context, target = batch(few, 33, 17, torch.float64)
    with torch.no_grad():
        atomic = backward(forward(parameters, context, target), context, target)
        values = fused_forward(parameters, context, target)
        fused = fused_backward(parameters, values, context, target)
    expected = getattr(atomic, name)
    torch.testing.assert_close(getattr(fused, name), expected, rtol=1e-11, atol=1e-15)


def test_no_autograd(few: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both backwards run where autograd records nothing and may not be called."""
    monkeypatch.setattr(torch.autograd, "grad", None)
    parameters, context, target = batch(few, 8, 17, torch.float32)
    with torch.inference_mode():
        backward(forward(parameters, context, target), context, target)
        fused_backward(parameters, fused_forward(parameters, context, target), context, target)


def test_calibrated_statistics_are_those_of_the_training_set(few: Dataset) -> None:
    parameters, _, _ = batch(few, 8, 17, torch.float32)
    with torch.no_grad():
        context, target = few.train
        statistics = calibrate(parameters, context)
        whole = forward(parameters, context, target)
        torch.testing.assert_close(statistics.mean, whole.bnmeani)
        torch.testing.assert_close(statistics.var, whole.bnvar)
        torch.testing.assert_close(predict(parameters, statistics, context), whole.logits)


def test_broken_line_shows_in_its_row(few: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "backprop_ops.lecture.network.tanh_backward", lambda dout, out: dout * (1 - out)
    )
    exercises = run_exercises(few)
    verdicts = {row.name: row.approximate for row in exercises.rows}
    assert verdicts["h"]
    assert not verdicts["hpreact"]
    assert isinstance(exercises.logits, Comparison)
