"""A trained network at work: its loss on a split, and the names that it draws."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from backprop_ops.lecture.data import END, Split
from backprop_ops.lecture.network import (
    BLOCK_SIZE,
    LECTURE_SEED,
    Parameters,
    Statistics,
    predict,
)
from backprop_ops.ops.loss import cross_entropy
from backprop_ops.ops.softmax import softmax

SAMPLE_SEED = LECTURE_SEED + 10
LONGEST_NAME = 100  # sampling stops here, should a network never end a name


def split_loss(parameters: Parameters, statistics: Statistics, split: Split) -> float:
    """The mean cross-entropy over a split, with calibrated statistics."""
    logits = predict(parameters, statistics, split.context)
    return cross_entropy(logits, split.target).out.item()


def sample_names(
    parameters: Parameters,
    statistics: Statistics,
    alphabet: str,
    count: int,
    seed: int = SAMPLE_SEED,
) -> Iterator[str]:
    """Draw names, each character from the network's probabilities for the next one."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        numbers: list[int] = []
        context = [END] * BLOCK_SIZE
        while len(numbers) < LONGEST_NAME:
            logits = predict(parameters, statistics, torch.tensor([context]))
            number = int(torch.multinomial(softmax(logits, dim=1), 1, generator=generator))
            if number == END:
                break
            numbers.append(number)
            context = [*context[1:], number]
        yield "".join(alphabet[number - 1] for number in numbers)
