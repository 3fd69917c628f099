"""The elementwise pairs: the data for the tests of every pair, and tests of their own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, ones

from backprop_ops import div, div_backward, exp, pow, pow_backward, tanh, tanh_backward
from tests.support.counterpart import Arguments, Counterpart, no_alpha
from tests.support.exact import Exact, each, exact
from tests.support.samples import bad, nonzero, positive, real, sample

X = ones(2, 3)


def operands() -> list:
    return [
        bad(TypeError, "x must be a Tensor or a number, got list", [1.0], X),
        bad(TypeError, "y must be a Tensor or a number, got str", X, "1"),
        bad(TypeError, "y must be a Tensor or a number, got bool", X, True),
        bad(TypeError, "y must be a Tensor or a number, got NoneType", X, None),
        bad(TypeError, "one of x, y must be a Tensor, got numbers", 1.0, 2.0),
        bad(TypeError, "x must be a floating Tensor, got torch.int64", ones(3).long(), X),
        bad(TypeError, "y must be a floating Tensor, got torch.complex64", X, ones(3) * 1j),
        bad(TypeError, "y must have the dtype of x, torch.float32", X, ones(3).double()),
        bad(ValueError, "x (2, 3) and y (2,)", X, ones(2)),
    ]


def operand() -> list:
    return [
        bad(TypeError, "x must be a Tensor, got list", [1.0]),
        bad(TypeError, "x must be a Tensor, got NoneType", None),
        bad(TypeError, "x must be a floating Tensor, got torch.int64", ones(3).long()),
        bad(TypeError, "x must be a floating Tensor, got torch.complex64", ones(3) * 1j),
    ]


SAMPLES = {
    "add": [
        sample(real("n c"), real("1 c")),
        sample(real("*"), real("*")),
        sample(real("n c"), 2.5),
        sample(2.5, real("n c")),
    ],
    "sub": [
        sample(real("n c"), real("1 c")),
        sample(real("*"), real("*")),
        sample(real("n c"), 2.5),
        sample(2.5, real("n c")),
    ],
    "mul": [
        sample(real("n c"), real("1 c")),
        sample(real("*"), real("*")),
        sample(real("n c"), 2.5),
        sample(2.5, real("n c")),
    ],
    "div": [
        sample(real("n c"), nonzero("1 c")),
        sample(real("*"), nonzero("*")),
        sample(real("n c"), 3),
        sample(3, nonzero("n c")),
    ],
    "pow": [
        *(sample(positive("n c"), exponent=exponent) for exponent in (-0.5, -1, 0.5, 2.5)),
        *(sample(real("n c"), exponent=exponent) for exponent in (0, 1, 2, 3)),
    ],
    "reciprocal": [sample(nonzero("n c"))],
    "exp": [sample(real("n c"))],
    "log": [sample(positive("n c"))],
    "tanh": [sample(real("n c"))],
    "sigmoid": [sample(real("n c"))],
}

BAD_INPUTS = {
    "add": operands(),
    "sub": operands(),
    "mul": operands(),
    "div": operands(),
    "pow": [
        bad(TypeError, "x must be a Tensor, got float 2.0", 2.0, exponent=2),
        bad(TypeError, "exponent must be a number, got Tensor", X, exponent=ones(())),
    ],
    "reciprocal": operand(),
    "exp": operand(),
    "log": operand(),
    "tanh": operand(),
    "sigmoid": operand(),
}


def pow_call(x: Any, exponent: Any) -> Arguments:
    if isinstance(exponent, Tensor):  # a constant here: one of them for all
        exponent = float(exponent.flatten()[0]) if exponent.numel() else 2.0
    return (x,), {"exponent": exponent}


OPINFO = {
    "add": Counterpart("add", no_alpha),
    "sub": Counterpart("sub", no_alpha),
    "mul": Counterpart("mul"),
    "div": Counterpart(
        "div",
        variant="no_rounding_mode",
        alone={
            "trunc_rounding": "rounding_mode: steps, whose gradient is zero",
            "floor_rounding": "rounding_mode: steps, whose gradient is zero",
        },
    ),
    "pow": Counterpart("pow", pow_call),
    "reciprocal": Counterpart("reciprocal"),
    "exp": Counterpart("exp"),
    "log": Counterpart("log"),
    "tanh": Counterpart("tanh"),
    "sigmoid": Counterpart("sigmoid"),
}


def power(exponent: float) -> Exact:
    reference = each(
        lambda mp, x: x ** mp.mpf(exponent),
        lambda mp, x: exponent * x ** (mp.mpf(exponent) - 1),
    )
    return exact(reference, "positive", unit_of="entry", exponent=exponent)


SUM = each(lambda mp, x, y: x + y, lambda mp, x, y: 1, lambda mp, x, y: 1)
DIFFERENCE = each(lambda mp, x, y: x - y, lambda mp, x, y: 1, lambda mp, x, y: -1)
PRODUCT = each(lambda mp, x, y: x * y, lambda mp, x, y: y, lambda mp, x, y: x)
QUOTIENT = each(lambda mp, x, y: x / y, lambda mp, x, y: 1 / y, lambda mp, x, y: -x / y / y)
RECIPROCAL = each(lambda mp, x: 1 / x, lambda mp, x: -1 / x / x)
EXPONENTIAL = each(lambda mp, x: mp.exp(x), lambda mp, x: mp.exp(x))
LOGARITHM = each(lambda mp, x: mp.log(x), lambda mp, x: 1 / x)
TANH = each(lambda mp, x: mp.tanh(x), lambda mp, x: mp.sech(x) ** 2)

EXACT = {
    "add": [exact(SUM, "x", "x", unit_of="entry")],
    "sub": [exact(DIFFERENCE, "x", "x", unit_of="entry")],
    "mul": [exact(PRODUCT, "x", "x", unit_of="entry")],
    "div": [exact(QUOTIENT, "x", "positive", unit_of="entry")],
    "pow": [power(2), power(3), power(-0.5)],
    "reciprocal": [exact(RECIPROCAL, "positive", unit_of="entry")],
    "exp": [exact(EXPONENTIAL, "x", unit_of="entry")],
    "log": [exact(LOGARITHM, "positive", unit_of="entry")],
    "tanh": [exact(TANH, "x", unit_of="entry")],
    "sigmoid": [
        exact(
            each(
                lambda mp, x: 1 / (1 + mp.exp(-x)),
                lambda mp, x: 1 / (2 + mp.exp(x) + mp.exp(-x)),
            ),
            "x",
            unit_of="entry",
        )
    ],
}


def test_empty_as_in_torch() -> None:
    assert exp(ones(0, 3)).shape == (0, 3)


@pytest.mark.parametrize("exponent", [0, 1, 2])
def test_pow_at_zero(exponent: float) -> None:
    x = torch.zeros(3, requires_grad=True)
    pow(x, exponent=exponent).sum().backward()
    assert torch.equal(pow_backward(ones(3), x.detach(), exponent=exponent), x.grad)


def test_div_by_what_overflows_when_squared() -> None:
    x, y = torch.tensor([1e30]), torch.tensor([1e30])
    _, dy = div_backward(ones(1), x, y, div(x, y))
    assert dy.item() == pytest.approx(-1e-30, rel=1e-6, abs=0)


def test_tanh_is_rounded_once() -> None:
    """1 - h² as torch has it, where (1 - h**2) rounds h² first."""
    x = torch.linspace(-3, 3, 1001, requires_grad=True)
    h = tanh(x)
    (expected,) = torch.autograd.grad(h, x, ones(1001))
    assert torch.equal(tanh_backward(ones(1001), h.detach()), expected)


EQUIVALENT = {
    "pow": {
        "-0 is zero": ("pow: dx: exponent → -exponent",),
        "the two have the same size there": ("pow: dx: x → dout (#2)",),
    },
    "tanh": {
        "the two have the same dtype, which the forward refuses to do without": (
            "tanh: one: out.new_ones → dout.new_ones",
        ),
    },
}
