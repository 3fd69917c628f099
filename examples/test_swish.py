"""The tests of another project, which checks a pair of its own with the fixture.

    pytest test_swish.py

The package brings the fixture `assert_backward`: one ordinary sample is enough.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor


def swish(x: Tensor, *, beta: float = 1.0) -> Tensor:
    return x * (beta * x).sigmoid()


def swish_backward(dout: Tensor, x: Tensor, *, beta: float) -> Tensor:
    gate = (beta * x).sigmoid()
    return dout * gate * (1 + beta * x * (1 - gate))


@pytest.mark.parametrize("beta", [0.5, 1.0, 1.7])
def test_swish(assert_backward: Callable[..., None], beta: float) -> None:
    x = torch.randn(4, 7)
    assert_backward(swish, swish_backward, (x,), {"beta": beta})


def test_a_forgotten_factor_is_found(assert_backward: Callable[..., None]) -> None:
    def forgetful_backward(dout: Tensor, x: Tensor, *, beta: float) -> Tensor:
        gate = (beta * x).sigmoid()
        return dout * gate * (1 + x * (1 - gate))  # without beta

    with pytest.raises(AssertionError, match="forgetful_backward: wrong"):
        assert_backward(swish, forgetful_backward, (torch.randn(4, 7),), {"beta": 1.7})
