"""Exercises 1 to 3: the network's gradients by hand against autograd's, atomic and fused."""

from __future__ import annotations

from typing import Literal, NamedTuple

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


class Exercises(NamedTuple):
    """What the lecture compares and looks at, on one batch."""

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
        hpreact = batchnorm(nodes.hprebn, nodes.bngain, nodes.bnbias, eps=EPS)
        dhprebn, _, _ = batchnorm_backward(
            gradients.hpreact, nodes.bngain, hpreact.xhat, hpreact.inv_std, correction=1
        )
        return Exercises(
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
