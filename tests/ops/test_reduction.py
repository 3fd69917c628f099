"""The reductions: the data for the tests of every pair, and tests of their own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import ones

from backprop_ops import max, max_backward, mean, mean_backward, sum, sum_backward
from tests.support.counterpart import Counterpart, with_options
from tests.support.exact import Matrix, exact
from tests.support.samples import bad, real, sample

X = ones(2, 3)

DIMENSIONS = [
    bad(TypeError, "x must be a Tensor, got list", [1.0], dim=0),
    bad(TypeError, "x must be a floating Tensor, got torch.int64", X.long(), dim=0),
    bad(IndexError, "dim must lie in [-2, 1] for x of shape (2, 3), got 2", X, dim=2),
    bad(TypeError, "dim must be an integer, got str '0'", X, dim="0"),
]

SAMPLES = {
    "sum": [
        sample(real("n c"), dim=1, keepdim=True),
        sample(real("n c d"), dim=1),
        sample(real("n c d"), dim=(0, -1)),
        sample(real("n c")),
    ],
    "mean": [
        sample(real("n c"), dim=0, keepdim=True),
        sample(real("n c d"), dim=-2),
        sample(real("n c d"), dim=(0, 2), keepdim=True),
        sample(real("n c")),
    ],
    "max": [
        sample(real("n c"), dim=1, keepdim=True),
        sample(real("n c d"), dim=-2),
    ],
}

BAD_INPUTS = {
    "sum": [
        *DIMENSIONS,
        bad(ValueError, "dim must name each dimension once, got (0, -2)", X, dim=(0, -2)),
    ],
    "mean": [
        *DIMENSIONS,
        bad(ValueError, "x must have at least one element along dim=0", ones(0, 3), dim=0),
        bad(ValueError, "x must have at least one element along dim=None", ones(0)),
    ],
    "max": [
        *DIMENSIONS,
        bad(ValueError, "x must have at least one element along dim=1", ones(3, 0), dim=1),
    ],
}

OPINFO = {
    "sum": Counterpart("sum", with_options("dim", "keepdim")),
    "mean": Counterpart("mean", with_options("dim", "keepdim")),
    "max": Counterpart(
        "max",
        with_options("dim", "keepdim"),
        variant="reduction_with_dim",
        alone={
            "reduction_no_dim": "max over all: reshape first",
            "binary": "max of two tensors",
        },
    ),
}


def total(mp: Any, dout: Matrix, x: Matrix) -> tuple[Matrix, ...]:
    return [[mp.fsum(row)] for row in x], [d * len(x[0]) for d in dout]


def average(mp: Any, dout: Matrix, x: Matrix) -> tuple[Matrix, ...]:
    sums, dx = total(mp, dout, x)
    n = len(x[0])
    return [[s / n] for (s,) in sums], [[d / n for d in row] for row in dx]


EXACT = {
    "sum": [exact(total, "x", unit_of="terms", dim=1, keepdim=True)],
    "mean": [exact(average, "x", unit_of="terms", dim=1, keepdim=True)],
    "max": "it picks entries: nothing is rounded",
}


def test_empty_as_in_torch() -> None:
    assert sum(ones(0, 3), dim=0).tolist() == [0, 0, 0]
    assert sum_backward(ones(3), ones(0, 3), dim=0).shape == (0, 3)
    assert mean(ones(0, 3), dim=1).shape == (0,)
    assert mean_backward(ones(0), ones(0, 3), dim=1).shape == (0, 3)
    assert max(ones(0, 3), dim=1).shape == (0,)


def test_scalar_as_in_torch() -> None:
    x = torch.tensor(2.0)
    assert sum(x) == mean(x) == max(x, dim=0) == 2
    assert sum_backward(ones(()), x) == mean_backward(ones(()), x) == 1
    assert max_backward(ones(()), x, dim=-1) == 1


@pytest.mark.parametrize("dim", [0, 1])
def test_one_of_several_largest_takes_the_gradient(dim: int) -> None:
    x = ones(3, 4, requires_grad=True)
    dout = torch.arange(1.0, 5 - dim)
    (expected,) = torch.autograd.grad(x.max(dim).values, x, dout)
    assert torch.equal(max_backward(dout, x.detach(), dim=dim), expected)


EQUIVALENT = {
    "sum": {
        "only the shape and the dtype are read": (
            "sum: dx: x → -x",
            "sum: _unreduced.reduced: x → -x",
        ),
        "what is kept is reshaped to the shape that it has": (
            "sum: _unreduced.if: keepdim → False",
        ),
        "a range has the same dimensions as a set of them": (
            "sum: _reduced.return: set(range(x.dim())) → range(x.dim())",
        ),
        "a dimension is an int, but where a compiler takes it for a size": (
            "sum: _reduced.return: int(d) → d",
        ),
    },
    "mean": {
        "only the shape and the dtype are read": (
            "mean: n: x → -x",
            "mean: dx: x → -x",
            "mean: _unreduced.reduced: x → -x",
        ),
        "what is kept is reshaped to the shape that it has": (
            "mean: _unreduced.if: keepdim → False",
        ),
        "a range has the same dimensions as a set of them": (
            "mean: _reduced.return: set(range(x.dim())) → range(x.dim())",
        ),
        "a dimension is an int, but where a compiler takes it for a size": (
            "mean: _reduced.return: int(d) → d",
        ),
    },
    "max": {
        "each place is named once, and was zero": (
            "max: dx: torch.zeros_like(x).scatter → torch.zeros_like(x).scatter_add",
        ),
    },
}
