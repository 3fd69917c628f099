"""A mistake's name is true of the input that the report shows, and of others beside it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from backprop_ops import check
from tests.corpus import entries

pytestmark = pytest.mark.usefixtures("unseen")

WRONG = entries()[0]

FALSE = {
    "nll: upstream of rows spread over classes": "repeated-index",
    "segment_mean: sizes of the first call are remembered": "repeated-index",
    "multi_margin: several violations pull the target once": "repeated-index",
    "gelu: constant to five digits": "dtype",
    "gru_cell: reset gate before the product": "hard-coded-size",
    "segment_sum: segments of the same length in order": "option-ignored",
}
"""Names that `check` once gave, by entries of the corpus of which they are not true."""


@pytest.mark.parametrize("name", FALSE)
def test_what_it_is_not(name: str) -> None:
    wrong = WRONG[name]
    report = check(wrong.forward, wrong.backward, wrong.args, wrong.kwargs, seed=0)
    assert FALSE[name] not in {failure.mistake for failure in report.failures}


def shown(code: str) -> dict[str, Any]:
    """The values that the code of a report gives its arguments."""
    values: dict[str, Any] = {}
    for line in code.splitlines():
        name, equals, text = line.partition(" = torch.tensor(")
        if equals:
            values[name] = eval(f"torch.tensor({text}")
    return values


def test_a_repeated_index_is_shown() -> None:
    wrong = WRONG["gather: scattered without adding"]
    (failure,) = check(wrong.forward, wrong.backward, wrong.args, wrong.kwargs, seed=0).failures
    assert failure.mistake == "repeated-index"
    index = shown(failure.reproduce)["index"]
    assert len(index.unique()) < index.numel()


def spread(x):
    return x.std(1, keepdim=True)


def spread_of_the_population(dout, x, out):
    return dout * (x - x.mean(1, keepdim=True)) / (x.shape[1] * out)


def test_the_count_is_that_of_the_input_shown() -> None:
    """It was once that of the sample, beside an input that has been made smaller."""
    (failure,) = check(spread, spread_of_the_population, (torch.randn(4, 6),), seed=0).failures
    assert failure.mistake == "bessel"
    n = shown(failure.reproduce)["x"].shape[1]
    assert n > 2
    assert f"n = {n}" in failure.explanation or f"{n - 1}/{n}" in failure.explanation


def test_a_factor_that_only_looks_like_a_count() -> None:
    """Two thirds is (n - 1)/n of three elements, and of no other number."""
    report = check(lambda x: x * 3, lambda dout: dout * 2, (torch.randn(3),), seed=0)
    assert report.failures[0].mistake == "factor"
