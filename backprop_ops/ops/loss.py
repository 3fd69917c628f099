"""Class probabilities and the losses on them, each fused pair one formula each way."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from backprop_ops import validate
from backprop_ops.pair import Index, Kept
from backprop_ops.precision import wide


def softmax(x: Tensor, *, dim: int = -1) -> Tensor:
    """out = eˣ / Σ eˣ, the sum over ``dim``"""
    validate.floating(x=x)
    validate.dimension(x, dim)
    return x.softmax(dim)


def softmax_backward(dout: Tensor, out: Tensor, *, dim: int = -1) -> Tensor:
    """dx = out · (dout - Σ out · dout), the sum over ``dim``"""
    probs, dprobs = wide(out), wide(dout)
    dx = (probs * (dprobs - (probs * dprobs).sum(dim, keepdim=True))).to(out.dtype)
    return dx


def log_softmax(x: Tensor, *, dim: int = -1) -> Tensor:
    """out = x - ln Σ eˣ, the sum over ``dim``"""
    validate.floating(x=x)
    validate.dimension(x, dim)
    return x.log_softmax(dim)


def log_softmax_backward(dout: Tensor, out: Tensor, *, dim: int = -1) -> Tensor:
    """dx = dout - e^out · Σ dout, the sum over ``dim``"""
    logprobs, dlogprobs = wide(out), wide(dout)
    dx = (dlogprobs - logprobs.exp() * dlogprobs.sum(dim, keepdim=True)).to(out.dtype)
    return dx


def nll_loss(logprobs: Tensor, target: Index) -> Tensor:
    """out = -1/n Σ logprobs[i, target[i]], the negative log-likelihood

    logprobs (n, classes), target (n) of int64, out a scalar. The mean of no rows is refused:
    torch gives nan.
    """
    validate.classes("logprobs", logprobs, target)
    with validate.index_range("target", target, logprobs.shape[1], "columns of logprobs"):
        picked = logprobs.gather(1, target.unsqueeze(1))
    return -picked.mean()


def nll_loss_backward(dout: Tensor, logprobs: Tensor, target: Index) -> Tensor:
    """dlogprobs[i, target[i]] = -dout / n, and 0 elsewhere"""
    n = logprobs.shape[0]
    dpicked = (-dout / n).expand(n, 1)
    dlogprobs = torch.zeros_like(logprobs).scatter(1, target.unsqueeze(1), dpicked)
    return dlogprobs


class CrossEntropy(NamedTuple):
    """What `cross_entropy` returns."""

    out: Tensor
    probs: Kept  # (n, classes), the softmax; in float32 for bfloat16 and float16


def cross_entropy(logits: Tensor, target: Index) -> CrossEntropy:
    """out = -1/n Σ ln softmax(logits)[i, target[i]]

    logits (n, classes), target (n) of int64, out a scalar. The mean of no rows is refused: torch
    gives nan.
    """
    validate.classes("logits", logits, target)
    scores = wide(logits)
    with validate.index_range("target", target, logits.shape[1], "columns of logits"):
        picked = scores.log_softmax(1).gather(1, target.unsqueeze(1))
    out = -picked.mean()
    return CrossEntropy(out.to(logits.dtype), scores.softmax(1))


def cross_entropy_backward(dout: Tensor, target: Index, probs: Tensor) -> Tensor:
    """dlogits = dout / n · (softmax(logits) - one_hot(target))

    Each row sums to zero: what the probabilities push down, the target pulls up. One is taken from
    the target's probability before scaling, where the subtraction is exact.
    """
    n = probs.shape[0]
    pull = probs.new_full((), -1.0).expand(n, 1)
    dlogits = (probs.scatter_add(1, target.unsqueeze(1), pull) * (wide(dout) / n)).to(dout.dtype)
    return dlogits
