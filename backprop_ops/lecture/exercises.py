"""Exercises 1 to 3: the network's gradients by hand against autograd's, atomic and fused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from backprop_ops.comparison import Comparison
from backprop_ops.lecture.data import Dataset
from backprop_ops.lecture.network import (
    EPS,
    LECTURE_ROWS,
    LECTURE_SEED,
    Nodes,
    Parameters,
    backward,
    forward,
    initialize,
)
from backprop_ops.ops.batchnorm import batchnorm, batchnorm_backward
from backprop_ops.ops.loss import cross_entropy, cross_entropy_backward
from backprop_ops.ops.softmax import softmax
from backprop_ops.styled import HEADING, RIGHT, WRONG, Line, Styled

COLUMNS = 8  # characters a line in the table of dlogits


@dataclass(frozen=True)
class Exercises(Styled):
    """The values and rows that the lecture looks at, on one batch; `str` is the page of them."""

    dataset: Dataset
    context: Tensor  # (n, block), of the batch
    target: Tensor  # (n)
    parameters: Parameters
    nodes: Nodes
    gradients: Nodes  # by hand
    rows: list[Comparison]  # exercise 1, in the lecture's order
    logits: Comparison  # exercise 2: cross-entropy in one formula
    loss_difference: float  # of its forward
    hprebn: Comparison  # exercise 3: batch normalization in one formula
    hpreact_difference: float  # of its forward
    dlogits: Tensor  # (n, vocabulary), by exercise 2's formula
    probs: Tensor  # (n, vocabulary)

    @property
    def comparisons(self) -> list[Comparison]:
        return [*self.rows, self.logits, self.hprebn]

    @property
    def wrong(self) -> list[str]:
        """The rows that are not approximate."""
        return [row.name for row in self.comparisons if not row]

    def lines(self) -> Iterator[Line]:
        yield "", str(self.dataset)
        yield "", f"{sum(p.numel() for p in self.parameters)} parameters"
        yield "", f"loss {self.nodes.loss.item():.4f}"
        yield HEADING, "\nexercise 1: every value of the forward pass"
        yield from map(_row, self.rows)
        yield HEADING, "\nexercise 2: cross-entropy in one formula"
        yield "", f"loss difference: {self.loss_difference}"
        yield _row(self.logits)
        yield HEADING, "\nexercise 3: batch normalization in one formula"
        yield "", f"hpreact difference: {self.hpreact_difference}"
        yield _row(self.hprebn)
        yield HEADING, "\ndlogits of the first row, times n: the softmax minus the one-hot target"
        yield from (("", line) for line in self._first_row())
        yield WRONG if self.wrong else RIGHT, f"\n{self._verdict()}"

    def as_dict(self) -> dict[str, Any]:
        """The rows and the loss, in values that JSON has."""
        return {
            "ok": not self.wrong,
            "loss": self.nodes.loss.item(),
            "rows": [row.as_dict() for row in self.rows],
            "fused": [self.logits.as_dict(), self.hprebn.as_dict()],
        }

    def _first_row(self) -> Iterator[str]:
        """The first row of the batch, a column for each character."""
        softmax = self.probs[0].tolist()
        one_hot = [float(number == self.target[0]) for number in range(len(softmax))]
        difference = (len(self.dlogits) * self.dlogits[0]).tolist()
        characters = "." + self.dataset.alphabet
        for start in range(0, len(characters), COLUMNS):
            part = slice(start, start + COLUMNS)
            yield "character  " + "".join(f"{character:>8s}" for character in characters[part])
            yield "softmax    " + "".join(f"{value:8.4f}" for value in softmax[part])
            yield "one-hot    " + "".join(f"{value:8.0f}" for value in one_hot[part])
            yield "difference " + "".join(f"{value:8.4f}" for value in difference[part])
            yield ""
        yield f"sum of the difference: {sum(difference):.1e}"

    def _verdict(self) -> str:
        exact = sum(row.exact for row in self.rows)
        if not self.wrong:
            return (
                f"correct: {exact} of {len(self.rows)} rows exact, "
                f"all {len(self.comparisons)} approximate"
            )
        verdict = f"wrong: not approximate: {', '.join(self.wrong)}"
        if self.dlogits.dtype == torch.float64:
            return verdict
        # On a batch of few or of equal rows, float32 may round a right gradient away.
        return f"{verdict}\n(--dtype float64 tells a mistake from rounding)"


def _row(row: Comparison) -> Line:
    return "" if row else WRONG, str(row)


def run_exercises(
    dataset: Dataset,
    *,
    hidden: int = 64,
    batch_size: int = 32,
    seed: int = LECTURE_SEED,
    dtype: Literal["float32", "float64"] = "float32",
) -> Exercises:
    """The lecture's network on its first batch: parameters and batch are drawn from ``seed``."""
    generator = torch.Generator().manual_seed(seed)
    drawn = initialize(dataset.vocabulary, hidden, generator)
    parameters = Parameters(
        *(parameter.to(getattr(torch, dtype)).requires_grad_() for parameter in drawn)
    )
    train = dataset.train
    rows = torch.randint(len(train.target), (batch_size,), generator=generator)
    context, target = train.context[rows], train.target[rows]

    nodes = forward(parameters, context, target)
    expected = Nodes(*torch.autograd.grad(nodes.loss, nodes))
    with torch.no_grad():
        gradients = backward(nodes, context, target)
        loss = cross_entropy(nodes.logits, target)
        dlogits = cross_entropy_backward(gradients.loss, target, loss.probs, loss.divisor)
        hpreact = batchnorm(nodes.hprebn, nodes.bngain, nodes.bnbias, eps=EPS, correction=1)
        dhprebn, _, _ = batchnorm_backward(
            gradients.hpreact, nodes.bngain, hpreact.xhat, hpreact.inv_std, correction=1
        )
        return Exercises(
            dataset,
            context,
            target,
            parameters,
            nodes,
            gradients,
            [
                Comparison.of(name, getattr(gradients, name), getattr(expected, name))
                for name in LECTURE_ROWS
            ],
            Comparison.of("logits", dlogits, expected.logits),
            (loss.out - nodes.loss).item(),
            Comparison.of("hprebn", dhprebn, expected.hprebn),
            (hpreact.out - nodes.hpreact).abs().max().item(),
            dlogits,
            softmax(nodes.logits, dim=1),
        )
