"""Elementwise pairs: x and out of one shape. Two operands broadcast, and a number is a constant.

A wrong type or dtype is a TypeError, shapes that do not broadcast are a ValueError.
"""

from __future__ import annotations

import torch
from torch import Tensor

from backprop_ops.broadcasting import sum_to
from backprop_ops.leaves import takes_gradient
from backprop_ops.ops import _refuse as refuse
from backprop_ops.pair import Gradient

__all__ = [
    "add",
    "add_backward",
    "div",
    "div_backward",
    "exp",
    "exp_backward",
    "log",
    "log_backward",
    "mul",
    "mul_backward",
    "pow",
    "pow_backward",
    "reciprocal",
    "reciprocal_backward",
    "sigmoid",
    "sigmoid_backward",
    "sub",
    "sub_backward",
    "tanh",
    "tanh_backward",
]


def add(x: Tensor | float, y: Tensor | float) -> Tensor:
    """out = x + y"""
    refuse.broadcastable(x=x, y=y)
    out: Tensor = x + y  # type: ignore[assignment]  # one of the two is a Tensor
    return out


def add_backward(dout: Tensor, x: Tensor | float, y: Tensor | float) -> tuple[Gradient, Gradient]:
    """dx = dout, dy = dout, each summed to its input's shape"""
    dx = sum_to(dout, x.shape) if takes_gradient(x) else None
    dy = sum_to(dout, y.shape) if takes_gradient(y) else None
    return dx, dy


def sub(x: Tensor | float, y: Tensor | float) -> Tensor:
    """out = x - y"""
    refuse.broadcastable(x=x, y=y)
    out: Tensor = x - y  # type: ignore[assignment]  # one of the two is a Tensor
    return out


def sub_backward(dout: Tensor, x: Tensor | float, y: Tensor | float) -> tuple[Gradient, Gradient]:
    """dx = dout, dy = -dout, each summed to its input's shape"""
    dx = sum_to(dout, x.shape) if takes_gradient(x) else None
    dy = sum_to(-dout, y.shape) if takes_gradient(y) else None
    return dx, dy


def mul(x: Tensor | float, y: Tensor | float) -> Tensor:
    """out = x · y"""
    refuse.broadcastable(x=x, y=y)
    out: Tensor = x * y  # type: ignore[assignment]  # one of the two is a Tensor
    return out


def mul_backward(dout: Tensor, x: Tensor | float, y: Tensor | float) -> tuple[Gradient, Gradient]:
    """dx = dout · y, dy = dout · x, each summed to its input's shape"""
    dx = sum_to(dout * y, x.shape) if takes_gradient(x) else None
    dy = sum_to(dout * x, y.shape) if takes_gradient(y) else None
    return dx, dy


def div(x: Tensor | float, y: Tensor | float) -> Tensor:
    """out = x / y"""
    refuse.broadcastable(x=x, y=y)
    out: Tensor = x / y  # type: ignore[assignment]  # one of the two is a Tensor
    return out


def div_backward(
    dout: Tensor, x: Tensor | float, y: Tensor | float, out: Tensor
) -> tuple[Gradient, Gradient]:
    """dx = dout / y, dy = -dout · out / y, each summed to its input's shape

    Written in the output: x / y², its other form, overflows where y² does.
    """
    dx = sum_to(dout / y, x.shape) if takes_gradient(x) else None
    dy = sum_to(-dout * (out / y), y.shape) if takes_gradient(y) else None
    return dx, dy


def pow(x: Tensor, *, exponent: float) -> Tensor:
    """out = x ** exponent, the exponent a constant"""
    refuse.floating(x=x)
    refuse.number(exponent=exponent)
    return x**exponent


def pow_backward(dout: Tensor, x: Tensor, *, exponent: float) -> Tensor:
    """dx = dout · exponent · x ** (exponent - 1)"""
    # exponent 0 apart, since 0 · x⁻¹ is nan at x = 0
    dx = dout * (exponent * x ** (exponent - 1)) if exponent else torch.zeros_like(x)
    return dx


def reciprocal(x: Tensor) -> Tensor:
    """out = 1 / x"""
    refuse.floating(x=x)
    return x.reciprocal()


def reciprocal_backward(dout: Tensor, out: Tensor) -> Tensor:
    """dx = -dout · out²"""
    dx = dout * -(out * out)
    return dx


def exp(x: Tensor) -> Tensor:
    """out = eˣ"""
    refuse.floating(x=x)
    return x.exp()


def exp_backward(dout: Tensor, out: Tensor) -> Tensor:
    """dx = dout · out"""
    dx = dout * out
    return dx


def log(x: Tensor) -> Tensor:
    """out = ln x"""
    refuse.floating(x=x)
    return x.log()


def log_backward(dout: Tensor, x: Tensor) -> Tensor:
    """dx = dout / x

    One division: the lecture's (1 / x) · dout rounds twice, and is not exact at every batch size.
    """
    dx = dout / x
    return dx


def tanh(x: Tensor) -> Tensor:
    """out = tanh x"""
    refuse.floating(x=x)
    return x.tanh()


def tanh_backward(dout: Tensor, out: Tensor) -> Tensor:
    """dx = dout · (1 - out²)

    With one rounding for 1 - out², as torch's own kernel where the processor has a fused
    multiply-add, which is nearly everywhere: the lecture's (1 - h**2) * dh rounds h**2 first.
    """
    one = out.new_ones(())
    dx = dout * torch.addcmul(one, out, out, value=-1)
    return dx


def sigmoid(x: Tensor) -> Tensor:
    """out = 1 / (1 + e⁻ˣ)"""
    refuse.floating(x=x)
    return x.sigmoid()


def sigmoid_backward(dout: Tensor, out: Tensor) -> Tensor:
    """dx = dout · out · (1 - out)"""
    dx = dout * (out * (1 - out))
    return dx
