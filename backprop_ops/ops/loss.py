"""Class probabilities and the losses on them, each fused pair one formula each way."""

from __future__ import annotations

import math
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


def nll_loss(
    logprobs: Tensor,
    target: Index,
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """out = -Σ w[target[i]] · logprobs[i, target[i]] / Σ w[target[i]], the negative log-likelihood

    logprobs (classes), (n, classes) or (n, classes, …), target the same without the classes, of
    int64; weight (classes), a constant, w = 1 without it. Rows whose target is ignore_index count
    nothing. reduction "mean" as above, "sum" without the division, "none" of target's shape.
    As in torch the mean of ignored rows alone is nan, and its gradient zero; the mean of no rows
    is refused: torch gives nan.
    """
    validate.classes("logprobs", logprobs, target, weight, ignore_index, reduction)
    scores, dim = wide(logprobs), _class_dimension(logprobs)
    classes = logprobs.shape[dim]
    with validate.index_range("target", target, classes, "classes of logprobs", ignore_index):
        rows = _rows(scores, target, weight, ignore_index, reduction)
        losses = -scores.gather(dim, rows.classes) * rows.weight
    return _reduced(losses, rows, reduction).to(logprobs.dtype)


def nll_loss_backward(
    dout: Tensor,
    logprobs: Tensor,
    target: Index,
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """dlogprobs[i, target[i]] = -dout · w[target[i]] / Σ w[target[i]], and 0 elsewhere"""
    dim = _class_dimension(logprobs)
    rows = _rows(wide(logprobs), target, weight, ignore_index, reduction)
    dlosses = (dout.unsqueeze(dim) if reduction == "none" else dout) / rows.divisor
    dpicked = (-dlosses * rows.weight).to(logprobs.dtype)
    dlogprobs = torch.zeros_like(logprobs).scatter(dim, rows.classes, dpicked)
    return dlogprobs


class CrossEntropy(NamedTuple):
    """What `cross_entropy` returns. What it keeps is in float32 for bfloat16 and float16."""

    out: Tensor
    probs: Kept  # as logits, the softmax
    divisor: Kept  # as logits with one class: what the row's loss is divided by, ∞ where ignored


def cross_entropy(
    logits: Tensor,
    target: Index,
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> CrossEntropy:
    """out = -Σᵢ Σⱼ q[i, j] · ln softmax(logits)[i, j] / Σᵢ w[target[i]]

    with q[i] = w · ((1 - label_smoothing) · one_hot(target[i]) + label_smoothing / classes), w = 1
    without weight: so -1/n Σ ln softmax(logits)[i, target[i]] by default.

    Shapes, ignore_index and reduction as in `nll_loss`. The logarithm is taken of no probability,
    which may be too small to be one, but as logits - ln Σ e^logits.
    """
    validate.classes("logits", logits, target, weight, ignore_index, reduction)
    validate.fraction(label_smoothing=label_smoothing)
    scores, dim = wide(logits), _class_dimension(logits)
    logprobs = scores.log_softmax(dim)
    classes = logits.shape[dim]
    with validate.index_range("target", target, classes, "classes of logits", ignore_index):
        rows = _rows(scores, target, weight, ignore_index, reduction)
        losses = -logprobs.gather(dim, rows.classes) * rows.weight
    if label_smoothing:
        everywhere = -(logprobs * _along_classes(weight, scores)).mean(dim, keepdim=True)
        losses = (1 - label_smoothing) * losses + label_smoothing * everywhere
    out = _reduced(losses, rows, reduction).to(logits.dtype)
    return CrossEntropy(out, scores.softmax(dim), rows.divisor)


def cross_entropy_backward(
    dout: Tensor,
    target: Index,
    probs: Tensor,
    divisor: Tensor,
    *,
    weight: Tensor | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """dlogits[i] = dout / Σᵢ w[target[i]] · (softmax(logits)[i] · Σⱼ q[i, j] - q[i])

    so dout / n · (softmax(logits) - one_hot(target)) by default. Each row sums to zero: what the
    probabilities push down, the target pulls up. The target's part is taken from its probability
    before scaling, where the subtraction is exact.
    """
    dim = _class_dimension(probs)
    dlosses = (dout.unsqueeze(dim) if reduction == "none" else dout) / divisor
    classes = target.clamp(0, probs.shape[dim] - 1).unsqueeze(dim)  # any one where ignored
    row_weight = _weight_of(classes, weight, probs)
    if label_smoothing:
        pull = (1 - label_smoothing) * row_weight
        spread = label_smoothing / probs.shape[dim] * _along_classes(weight, probs)
        push = pull + spread.sum()
        pushed = probs * push - spread
    else:
        pull = probs.new_ones(()).expand(classes.shape)
        pushed, dlosses = probs, dlosses * row_weight
    dlogits = (pushed.scatter_add(dim, classes, -pull) * dlosses).to(dout.dtype)
    return dlogits


class SoftCrossEntropy(NamedTuple):
    """What `soft_cross_entropy` returns."""

    out: Tensor
    logprobs: Kept  # as logits, the log-softmax; in float32 for bfloat16 and float16


def soft_cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> SoftCrossEntropy:
    """out = -1/n Σᵢ Σⱼ q[i, j] · ln softmax(logits)[i, j], with the probability of each class given

    q = w · ((1 - label_smoothing) · target + label_smoothing / classes), w = 1 without weight.

    logits and target (classes), (n, classes) or (n, classes, …), both differentiable; weight
    (classes), a constant. reduction "mean" divides by the number of rows, whatever their weights,
    as torch; "sum" does not, "none" leaves the rows as they are.
    """
    validate.soft_classes("logits", logits, target, weight, reduction)
    validate.fraction(label_smoothing=label_smoothing)
    dim = _class_dimension(logits)
    logprobs = wide(logits).log_softmax(dim)
    losses = -(_smoothed(target, weight, label_smoothing) * logprobs).sum(dim)
    out = {"none": losses, "sum": losses.sum(), "mean": losses.mean()}[reduction]
    return SoftCrossEntropy(out.to(logits.dtype), logprobs)


def soft_cross_entropy_backward(
    dout: Tensor,
    target: Tensor,
    logprobs: Tensor,
    *,
    weight: Tensor | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """dlogits = dout / n · (softmax(logits) · Σ q - q), the sum over the classes,

    dtarget = -dout / n · (1 - label_smoothing) · w · ln softmax(logits)
    """
    dim = _class_dimension(logprobs)
    n = logprobs.select(dim, 0).numel() if reduction == "mean" else 1
    upstream = dout.unsqueeze(dim) if reduction == "none" else dout
    dlosses = wide(upstream) / n
    q = _smoothed(target, weight, label_smoothing)
    dlogits = ((logprobs.exp() * q.sum(dim, keepdim=True) - q) * dlosses).to(target.dtype)
    dq = -logprobs * dlosses
    dtarget = (dq * ((1 - label_smoothing) * _along_classes(weight, dq))).to(target.dtype)
    return dlogits, dtarget


def _class_dimension(scores: Tensor) -> int:
    """The dimension of the classes: the second, as in torch, or the only one."""
    return 0 if scores.dim() == 1 else 1


class _Rows(NamedTuple):
    """What the targets say of each row, with size 1 along the classes."""

    classes: Tensor  # the row's class; 0 where ignored
    weight: Tensor  # that of its class
    ignored: Tensor
    divisor: Tensor  # what its loss is divided by; ∞ where ignored
    total: Tensor  # (), the divisor of the others


def _rows(
    scores: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, reduction: str
) -> _Rows:
    dim = _class_dimension(scores)
    ignored = (target == ignore_index).unsqueeze(dim)
    classes = target.unsqueeze(dim).masked_fill(ignored, 0)
    row_weight = _weight_of(classes, weight, scores)
    total = scores.new_ones(())
    if reduction == "mean":
        total = row_weight.masked_fill(ignored, 0).sum()
    divisor = torch.where(ignored, math.inf, total)
    return _Rows(classes, row_weight, ignored, divisor, total)


def _reduced(losses: Tensor, rows: _Rows, reduction: str) -> Tensor:
    losses = losses.masked_fill(rows.ignored, 0)
    if reduction == "none":
        return losses.squeeze(_class_dimension(losses))
    return losses.sum() / rows.total


def _weight_of(classes: Tensor, weight: Tensor | None, scores: Tensor) -> Tensor:
    """The weight of each row's class, 1 without weights."""
    return scores.new_ones(()).expand(classes.shape) if weight is None else wide(weight)[classes]


def _along_classes(weight: Tensor | None, scores: Tensor) -> Tensor:
    """The weights in a shape that broadcasts along the classes, all 1 without weights."""
    if weight is None:
        weight = scores.new_ones(()).expand(scores.shape[_class_dimension(scores)])
    return wide(weight).reshape([-1, *[1] * (scores.dim() - 2)])


def _smoothed(target: Tensor, weight: Tensor | None, label_smoothing: float) -> Tensor:
    """The target's probabilities with a part spread over all classes, weighted."""
    probs = wide(target)
    if label_smoothing:
        classes = target.shape[_class_dimension(target)]
        probs = (1 - label_smoothing) * probs + label_smoothing / classes
    return probs if weight is None else probs * _along_classes(weight, probs)
