"""The properties of one call: which one fails, and by which mistake."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from backprop_ops import check, sum_to

pytestmark = pytest.mark.usefixtures("unseen")

X = torch.tensor([[0.5, -1.25, 2.0], [1.5, 0.75, -0.5]], dtype=torch.float64)


def square(x):
    return x * x


def cached() -> Callable[..., Any]:
    """The gradient at the input of the call before, where one had this shape."""
    inputs: dict[torch.Size, Tensor] = {}

    def square_backward(dout, x):
        before = inputs.get(x.shape, x)
        inputs[x.shape] = x.clone()
        return 2 * before * dout

    return square_backward


def counted() -> Callable[..., Any]:
    calls = itertools.count()
    return lambda dout, x: 2 * x * dout * next(calls)


def raced() -> Callable[..., Any]:
    """Entries lost at random, whatever the seed: as threads lose them that write to one place."""
    own = torch.Generator().manual_seed(0)
    return lambda dout, x: 2 * x * dout * (torch.rand(x.shape, generator=own) < 0.5)


def dropped() -> Callable[..., Any]:
    return lambda dout, x: 2 * x * dout * (torch.rand(x.shape) < 0.5)


@pytest.mark.parametrize(
    ("backward", "mistake", "explanation"),
    [
        (cached(), "state", "something is kept between calls"),
        (counted(), "state", "something is kept between calls"),
        (dropped(), "nondeterministic", "it draws random numbers"),
        (raced(), "nondeterministic", "threads race"),
    ],
)
def test_why_two_equal_calls_differ(
    backward: Callable[..., Any], mistake: str, explanation: str
) -> None:
    (failure,) = check(square, backward, (X,), seed=0).failures
    assert (failure.property, failure.mistake) == ("repeat", mistake)
    assert explanation in failure.explanation


def affine(x, w, b=None):
    return x * w if b is None else x * w + b


@pytest.mark.parametrize("args", [(X, 3 - X), (X, 3 - X, X / 2)])
def test_a_gradient_for_every_input(args: tuple[Tensor, ...]) -> None:
    def backward(dout, x, w, b):
        return dout * w, dout * x, None if b is None else sum_to(dout, b.shape)

    report = check(affine, backward, args, seed=0)
    assert report, str(report)


def test_a_gradient_for_what_has_none() -> None:
    def backward(dout, x, w):
        return dout * w, dout * x, dout.clone()

    (failure,) = check(affine, backward, (X, 3 - X), seed=0).failures
    assert (failure.property, failure.mistake) == ("count", "wrong-count")
    assert "or for each of x, w, b, None where there is no gradient), got 3" in failure.message
