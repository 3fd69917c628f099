"""The losses on class probabilities, each fused pair one formula each way."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812  # torch's own name for it
from torch import Tensor

from backprop_ops.ops import _refuse as refuse
from backprop_ops.ops._large import in_one_piece, log_sum_exp
from backprop_ops.ops._precision import cast, wide
from backprop_ops.pair import Index, Kept

__all__ = [
    "CrossEntropy",
    "SoftCrossEntropy",
    "cross_entropy",
    "cross_entropy_backward",
    "nll_loss",
    "nll_loss_backward",
    "soft_cross_entropy",
    "soft_cross_entropy_backward",
]


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
    The mean of ignored rows alone is nan, and its gradient zero, as in torch. The mean of no rows
    is a ValueError; torch gives nan. A target out of range is an IndexError.
    """
    _refuse_classes("logprobs", logprobs, target, weight, ignore_index, reduction)
    scores, class_weight = wide(logprobs), None if weight is None else wide(weight)
    size = logprobs.shape[_class_dimension(logprobs)]
    with refuse.out_of_range("target", target, size, "classes of logprobs", ignore_index):
        out = F.nll_loss(
            scores, target, class_weight, ignore_index=ignore_index, reduction=reduction
        )
    return cast(out, logprobs.dtype)


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
    _, divisor = _divisors(wide(logprobs), target, weight, ignore_index, reduction)
    dlosses = (dout.unsqueeze(dim) if reduction == "none" else dout) / divisor
    classes = _classes(target, logprobs)
    dpicked = -_weighted(dlosses, weight, classes)
    dlogprobs = torch.zeros_like(logprobs).scatter(dim, classes, dpicked.to(logprobs.dtype))
    return dlogprobs


class CrossEntropy(NamedTuple):
    """The result of `cross_entropy`. The kept fields are in float32 for bfloat16 and float16."""

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
    """out = -Σᵢ Σⱼ q[i, j] · ln softmax(logits)[i, j] / Σₖ w[target[k]]

    with q[i] = w · ((1 - label_smoothing) · one_hot(target[i]) + label_smoothing / classes), w = 1
    without weight: so -1/n Σ ln softmax(logits)[i, target[i]] by default.

    Shapes, ignore_index, reduction and errors as in `nll_loss`. The logarithm is logits - ln Σ
    e^logits: that of a small probability would lose digits.
    """
    _refuse_classes("logits", logits, target, weight, ignore_index, reduction)
    _refuse_smoothing(label_smoothing)
    scores, dim = wide(logits), _class_dimension(logits)
    class_weight = None if weight is None else wide(weight)
    probs = scores.softmax(dim)
    size = scores.shape[dim]
    with refuse.out_of_range("target", target, size, "classes of logits", ignore_index):
        total, divisor = _divisors(scores, target, class_weight, ignore_index, reduction)
        out = _loss(
            scores,
            probs,
            target,
            total,
            class_weight,
            ignore_index,
            reduction,
            label_smoothing,
        )
    return CrossEntropy(cast(out, logits.dtype), probs, divisor)


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
    """dlogits[i] = dout / Σₖ w[target[k]] · (softmax(logits)[i] · Σⱼ q[i, j] - q[i])

    so dout / n · (softmax(logits) - one_hot(target)) by default, k over the rows that count. Each
    row sums to zero: the probabilities push the logits down, and the target pulls its own up.
    """
    dim = _class_dimension(probs)
    dlosses = (dout.unsqueeze(dim) if reduction == "none" else dout) / divisor
    classes = _classes(target, probs)
    pull = _weighted(dlosses, weight, classes)  # on the target's logit
    if label_smoothing:
        pull = (1 - label_smoothing) * pull
        share, shares = _shares(label_smoothing, weight, probs)
        pushed = (probs * (pull + shares * dlosses)).sub_(share * dlosses)
    else:
        pushed = probs * pull
    dlogits = cast(pushed.scatter_add_(dim, classes, -pull), dout.dtype)
    return dlogits


class SoftCrossEntropy(NamedTuple):
    """The result of `soft_cross_entropy`."""

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
    _refuse_soft_classes("logits", logits, target, weight, reduction)
    _refuse_smoothing(label_smoothing)
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
    if weight is not None:
        dq = dq * _along_classes(weight, dq)
    dtarget = ((1 - label_smoothing) * dq).to(target.dtype)
    return dlogits, dtarget


def _class_dimension(scores: Tensor) -> int:
    """The dimension of the classes: the second, as in torch, or the only one."""
    return 0 if scores.dim() == 1 else 1


def _divisors(
    scores: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, reduction: str
) -> tuple[Tensor, Tensor]:
    """The divisor of the sum of the losses, and that of each row, with one class; ∞ if ignored."""
    counted = (target != ignore_index).unsqueeze(_class_dimension(scores))
    if reduction != "mean":
        total = scores.new_ones(())
    elif weight is None:
        total = counted.sum(dtype=scores.dtype)
    else:
        total = wide(weight)[_classes(target, scores)].masked_fill(~counted, 0).sum()
    return total, torch.where(counted, total, math.inf)


def _loss(
    scores: Tensor,
    probs: Tensor,
    target: Tensor,
    total: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    reduction: str,
    label_smoothing: float,
) -> Tensor:
    """The loss of `cross_entropy`; torch has one kernel for it without label_smoothing."""
    if in_one_piece(scores, probs) and not label_smoothing:
        return F.cross_entropy(
            scores, target, weight, ignore_index=ignore_index, reduction=reduction
        )
    dim = _class_dimension(scores)
    ignored = (target == ignore_index).unsqueeze(dim)
    classes = target.unsqueeze(dim).masked_fill(ignored, 0)
    logsumexp = log_sum_exp(scores, probs, dim)
    losses = _weighted(logsumexp - scores.gather(dim, classes), weight, classes)
    if label_smoothing:
        share, shares = _shares(label_smoothing, weight, scores)
        everywhere = shares * logsumexp - (share * scores).sum(dim, keepdim=True)
        losses = (1 - label_smoothing) * losses + everywhere
    losses = losses.masked_fill(ignored, 0)
    return losses.squeeze(dim) if reduction == "none" else losses.sum() / total


def _classes(target: Tensor, scores: Tensor) -> Tensor:
    """Each row's class, any one where it is ignored, in the shape that picks it from ``scores``."""
    dim = _class_dimension(scores)
    return target.clamp(0, scores.shape[dim] - 1).unsqueeze(dim)


def _weighted(rows: Tensor, weight: Tensor | None, classes: Tensor) -> Tensor:
    """``rows``, each times the weight of its class."""
    return rows if weight is None else rows * wide(weight)[classes]


def _shares(
    label_smoothing: float, weight: Tensor | None, scores: Tensor
) -> tuple[Tensor | float, Tensor | float]:
    """The part of q that smoothing gives to each class, a number or (classes, 1…), and its sum."""
    share = label_smoothing / scores.shape[_class_dimension(scores)]
    if weight is None:
        return share, label_smoothing
    weighted = share * _along_classes(weight, scores)
    return weighted, weighted.sum()


def _along_classes(weight: Tensor, scores: Tensor) -> Tensor:
    """The weights of the classes in a shape that broadcasts along them."""
    return wide(weight).reshape([-1, *[1] * (scores.dim() - 2)])


def _smoothed(target: Tensor, weight: Tensor | None, label_smoothing: float) -> Tensor:
    """The target's probabilities with a part spread over all classes, weighted."""
    probs = wide(target)
    if label_smoothing:
        classes = target.shape[_class_dimension(target)]
        probs = (1 - label_smoothing) * probs + label_smoothing / classes
    return probs if weight is None else probs * _along_classes(weight, probs)


def _refuse_classes(
    name: str,
    scores: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    reduction: str,
) -> None:
    """``scores`` (classes), (n, classes) or (n, classes, …), and the class of each row."""
    _refuse_scores(name, scores, weight, reduction)
    refuse.index("target", target)
    sizes = tuple(scores.shape)
    rows = sizes[:1] + sizes[2:] if len(sizes) > 1 else ()
    if target.shape != rows:
        raise ValueError(
            f"target must be of shape {rows}, a class for each row of {name}, "
            f"got {tuple(target.shape)}"
        )
    refuse.integer(ignore_index=ignore_index)


def _refuse_soft_classes(
    name: str, scores: Tensor, target: Tensor, weight: Tensor | None, reduction: str
) -> None:
    """``scores`` as in `_refuse_classes`; ``target``, of its shape, holds probabilities."""
    _refuse_scores(name, scores, weight, reduction)
    refuse.floating(**{name: scores, "target": target})
    if target.shape != scores.shape:
        raise ValueError(
            f"target must be of the shape of {name}, {tuple(scores.shape)}, "
            f"got {tuple(target.shape)}"
        )


def _refuse_scores(name: str, scores: Tensor, weight: Tensor | None, reduction: str) -> None:
    refuse.floating(**{name: scores})
    rank = scores.dim()
    if rank == 0:
        raise ValueError(f"{name} must be of shape (classes) or (n, classes, …), got a scalar")
    size = scores.shape[1 if rank > 1 else 0]
    if size == 0:
        raise ValueError(f"{name} must have at least one class, got {tuple(scores.shape)}")
    if weight is not None:
        refuse.tensor("weight", weight)
        if weight.dtype != scores.dtype:
            raise TypeError(
                f"weight must have the dtype of {name}, {scores.dtype}, got {weight.dtype}"
            )
        if weight.shape != (size,):
            raise ValueError(
                f"weight must be of shape ({size},), one for each class, got {tuple(weight.shape)}"
            )
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"reduction must be none, mean or sum, got {refuse.described(reduction)}")
    if reduction == "mean" and scores.numel() == 0:
        raise ValueError(f"{name} must have at least one row to take a mean over, got 0 rows")


def _refuse_smoothing(label_smoothing: float) -> None:
    refuse.number(label_smoothing=label_smoothing)
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing must lie in [0, 1], got {label_smoothing}")
