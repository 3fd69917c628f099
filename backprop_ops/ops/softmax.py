"""Class probabilities and their logarithms: x and out of any one shape.

A dimension that x lacks is an IndexError.
"""

from __future__ import annotations

from torch import Tensor

from backprop_ops.ops import _refuse as refuse
from backprop_ops.ops._precision import wide

__all__ = [
    "log_softmax",
    "log_softmax_backward",
    "softmax",
    "softmax_backward",
]


def softmax(x: Tensor, *, dim: int = -1) -> Tensor:
    """out = eˣ / Σ eˣ, the sum over ``dim``"""
    refuse.floating(x=x)
    refuse.dimension(x, dim)
    return x.softmax(dim)


def softmax_backward(dout: Tensor, out: Tensor, *, dim: int = -1) -> Tensor:
    """dx = out · (dout - Σ out · dout), the sum over ``dim``"""
    probs, dprobs = wide(out), wide(dout)
    dx = (probs * (dprobs - (probs * dprobs).sum(dim, keepdim=True))).to(out.dtype)
    return dx


def log_softmax(x: Tensor, *, dim: int = -1) -> Tensor:
    """out = x - ln Σ eˣ, the sum over ``dim``"""
    refuse.floating(x=x)
    refuse.dimension(x, dim)
    return x.log_softmax(dim)


def log_softmax_backward(dout: Tensor, out: Tensor, *, dim: int = -1) -> Tensor:
    """dx = dout - e^out · Σ dout, the sum over ``dim``"""
    logprobs, dlogprobs = wide(out), wide(dout)
    dx = (dlogprobs - logprobs.exp() * dlogprobs.sum(dim, keepdim=True)).to(out.dtype)
    return dx
