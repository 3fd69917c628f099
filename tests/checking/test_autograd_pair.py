"""Which pairs are autograd's own: those that are checked without a backward, and no others."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch

from backprop_ops import check

pytestmark = pytest.mark.usefixtures("unseen")

X = torch.tensor([[0.5, -1.25, 2.0], [1.5, 0.75, -0.5]], dtype=torch.float64)


@torch.no_grad()
def product(x, y):
    """Written into a buffer of its own, as a kernel does: autograd cannot follow."""
    return torch.mul(x, y, out=torch.empty_like(x))


def product_backward(dout, x, y):
    return dout * y, dout * x


def logged(function):
    @functools.wraps(function)
    def logging(*args, **kwargs):
        return function(*args, **kwargs)

    return logging


@logged
def square(x):
    return x * x


def square_backward(dout, x):
    return 3 * x * dout


@pytest.mark.parametrize("forward", [product, logged(product), torch.inference_mode()(product)])
def test_a_decorated_forward_is_not_autograds_own(forward: Callable[..., Any]) -> None:
    report = check(forward, product_backward, (X, 3 - X), reference=torch.mul, seed=0)
    assert report, str(report)


def test_reproducing_a_decorated_pair_calls_the_backward_by_hand() -> None:
    report = check(square, logged(square_backward), (X,), seed=0)
    assert "dx = square_backward(dout, x)" in report.failures[0].reproduce


def test_an_input_that_alone_requires_a_gradient() -> None:
    """A Function that sends a gradient to the second input only where the first wants one too."""

    class Product(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, y):
            ctx.save_for_backward(x, y)
            return x * y

        @staticmethod
        def backward(ctx, dout):
            x, y = ctx.saved_tensors
            return dout * y, dout * x if ctx.needs_input_grad[0] else None

    report = check(Product.apply, None, (X, 3 - X), seed=0)
    assert [failure.variation for failure in report.failures] == ["y alone requires a gradient"]
    assert "Product.apply(x, y)" in report.failures[0].reproduce


class HidingSquare(torch.autograd.Function):
    """Autograd of the forward as written sees half of it."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x.detach()

    @staticmethod
    def backward(ctx, dout):
        return 2 * ctx.saved_tensors[0] * dout


class AsHidden(HidingSquare):
    @staticmethod
    def backward(ctx, dout):
        return ctx.saved_tensors[0] * dout


def test_a_forward_that_hides_from_autograd() -> None:
    """Finite differences do not confirm what autograd says of it, and judge alone."""
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    assert check(HidingSquare.apply, None, (x,), seed=0)
    report = check(AsHidden.apply, None, (x,), seed=0)
    assert report.verdict == "wrong on your sample"
    assert "finite differences say" in report.failures[0].message
