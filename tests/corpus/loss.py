"""Losses: what is counted, ignored, masked, weighted and clamped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor, tensor
from torch.nn import functional

from backprop_ops import Index, Kept, sum_to
from tests.corpus import Right, Wrong

Reduction = Literal["mean", "sum", "none"]


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def alike(*tensors: Tensor, shape: bool = True) -> None:
    """What the forwards refuse: other dtypes and, unless they broadcast, other shapes."""
    if len({(t.dtype, t.shape if shape else None) for t in tensors}) > 1:
        raise ValueError("the tensors are not alike")


def reduced(each: Tensor, reduction: Reduction, count: Tensor | int) -> Tensor:
    if reduction == "none":
        return each
    return each.sum() / count if reduction == "mean" else each.sum()


def counted(target: Tensor, ignore_index: int) -> Tensor:
    """The rows that are not ignored; 1 where all are, which makes the mean loss 0."""
    return (target != ignore_index).sum().clamp(min=1)


# The forwards: of classes.


def cross_entropy(
    logits: Tensor,
    target: Index,
    *,
    reduction: Reduction = "mean",
    ignore_index: int = -100,
    smoothing: float = 0.0,
) -> Tensor:
    each = functional.cross_entropy(
        logits, target, ignore_index=ignore_index, label_smoothing=smoothing, reduction="none"
    )
    return reduced(each, reduction, counted(target, ignore_index))


class FusedCrossEntropy(NamedTuple):
    out: Tensor
    slope: Kept  # of the loss in the logits, found in the forward


def fused_cross_entropy(logits: Tensor, target: Index) -> FusedCrossEntropy:
    slope = logits.softmax(1) - functional.one_hot(target, logits.shape[1])
    count = max(len(target), 1)
    loss = functional.cross_entropy(logits, target, reduction="sum") / count
    return FusedCrossEntropy(loss, slope / count)


def weighted_cross_entropy(logits, target, *, weight):
    """The mean, each row as heavy as its class."""
    alike(logits, weight, shape=False)
    each = functional.cross_entropy(logits, target, weight=weight, reduction="none")
    return each.sum() / weight[target].sum()


def nll(log_probs, target, *, reduction: Reduction = "mean"):
    each = -log_probs.gather(1, target[:, None])[:, 0]
    return reduced(each, reduction, max(len(target), 1))


def token_loss(logits: Tensor, target: Index) -> Tensor:
    """The loss of each token: (batch, time) of (batch, time, classes)."""
    return -logits.log_softmax(2).gather(2, target[:, :, None])[:, :, 0]


def next_token(logits: Tensor, tokens: Index) -> Tensor:
    each = token_loss(logits[:, :-1], tokens[:, 1:])
    return each.sum() / max(each.numel(), 1)


def focal(logits, target, *, gamma=2.0):
    log_p = logits.log_softmax(1).gather(1, target[:, None])
    return -((1 - log_p.exp()) ** gamma * log_p).sum()


def multi_margin(scores: Tensor, target: Index) -> Tensor:
    """Σ max(0, 1 + s_j − s_y) over the classes j ≠ y"""
    gap = 1 + scores - scores.gather(1, target[:, None])
    return gap.clamp(min=0).scatter(1, target[:, None], 0).sum()


def max_margin(scores: Tensor, target: Index) -> Tensor:
    """Σ max(0, 1 + max s_j − s_y), the maximum over the classes j ≠ y"""
    rival = scores.scatter(1, target[:, None], -torch.inf).amax(1)
    return (1 + rival - scores.gather(1, target[:, None])[:, 0]).clamp(min=0).sum()


def bce(logits: Tensor, *, target: Tensor, pos_weight: Tensor) -> Tensor:
    """pos_weight is one weight a column."""
    alike(logits, target)
    alike(logits[0], pos_weight)
    return functional.binary_cross_entropy_with_logits(
        logits, target, pos_weight=pos_weight, reduction="sum"
    )


def column_bce(logits: Tensor, *, target: Tensor) -> Tensor:
    """Of one logit a row: (n, 1)."""
    alike(logits, target)
    return functional.binary_cross_entropy_with_logits(logits, target, reduction="sum")


def kl_div(log_q, *, target, log_target=False):
    alike(log_q, target)
    return functional.kl_div(log_q, target, reduction="sum", log_target=log_target)


def kl_to_teacher(logits: Tensor, *, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """T² times the divergence of the softened student from the teacher's probabilities."""
    alike(logits, teacher)
    log_q = (logits / temperature).log_softmax(1)
    return temperature**2 * functional.kl_div(log_q, teacher, reduction="sum")


# Of differences.


def mse(pred: Tensor, target: Tensor) -> Tensor:
    alike(pred, target, shape=False)
    return ((pred - target) ** 2).mean()


def l1(pred: Tensor, target: Tensor, *, reduction: Reduction = "sum") -> Tensor:
    alike(pred, target)
    each = (pred - target).abs()
    return reduced(each, reduction, max(each.numel(), 1))


def smooth_l1(pred, target, *, beta=1.0):
    pred, target = torch.broadcast_tensors(pred, target)
    return functional.smooth_l1_loss(pred, target, beta=beta, reduction="none")


def huber(pred: Tensor, target: Tensor, *, delta: float = 1.0) -> Tensor:
    alike(pred, target, shape=False)
    d = (pred - target).abs()
    return torch.where(d <= delta, d * d / 2, delta * (d - delta / 2)).sum()


def log_cosh(pred, target):
    alike(pred, target, shape=False)
    return torch.logaddexp(pred - target, target - pred).sum()


def masked_mse(pred: Tensor, target: Tensor, *, mask: Tensor) -> Tensor:
    """The mean over the entries of mask, 0 where it has none."""
    alike(pred, target)
    alike(pred.bool(), mask)
    return ((pred - target) ** 2 * mask).sum() / mask.sum().clamp(min=1)


def distill(pred: Tensor, target: Tensor, teacher: Tensor, *, share: float = 0.0) -> Tensor:
    alike(pred, target, teacher)
    loss = ((pred - target) ** 2).sum()
    return loss + share * ((pred - teacher) ** 2).sum() if share else loss


def gaussian_nll(mean: Tensor, target: Tensor, var: Tensor) -> Tensor:
    alike(mean, target, var)
    return (0.5 * (var.log() + (target - mean) ** 2 / var)).sum()


def dice(pred: Tensor, *, target: Tensor, eps: float = 1e-6) -> Tensor:
    return 1 - (2 * (pred * target).sum() + eps) / (pred.sum() + target.sum() + eps)


def hinge(scores: Tensor, *, side: Tensor) -> Tensor:
    alike(scores, side)
    return (1 - side * scores).clamp(min=0).sum()


def triplet(anchor: Tensor, positive: Tensor, negative: Tensor, *, margin: float = 1.0) -> Tensor:
    alike(anchor, positive, negative)
    near = torch.linalg.vector_norm(anchor - positive, dim=1)
    far = torch.linalg.vector_norm(anchor - negative, dim=1)
    return (near - far + margin).clamp(min=0)


def cosine_loss(a: Tensor, b: Tensor, *, eps: float = 1e-12) -> Tensor:
    alike(a, b)
    return 1 - (unit(a, eps) * unit(b, eps)).sum(1)


def info_nce(x: Tensor) -> Tensor:
    """Each row is to be most like the row after it."""
    order = torch.arange(len(x), device=x.device)
    return functional.cross_entropy(x @ x.mT, order.roll(-1), reduction="sum")


def critic(fake, real):
    alike(fake, real, shape=False)
    return fake.mean() - real.mean()


# What several backwards share.


def unit(x: Tensor, eps: float) -> Tensor:
    return x * inverse_norm(x, eps)


def inverse_norm(x: Tensor, eps: float) -> Tensor:
    return (x.square().sum(1, keepdim=True) + eps).rsqrt()


def per_row(dout: Tensor, reduction: Reduction, count: Tensor | int) -> Tensor:
    return (dout / count if reduction == "mean" else dout).unsqueeze(-1)


def soft_target(logits: Tensor, target: Tensor, ignore_index: int, smoothing: float) -> Tensor:
    hot = functional.one_hot(target.where(target != ignore_index, 0), logits.shape[1])
    return hot.to(logits.dtype) * (1 - smoothing) + smoothing / logits.shape[1]


def kept(target: Tensor, ignore_index: int) -> Tensor:
    return (target != ignore_index)[:, None]


def l1_by(sign: Callable[[Tensor], Tensor]) -> Callable[..., tuple[Tensor, Tensor]]:
    def backward(dout, pred, target, *, reduction):
        up = dout / max(pred.numel(), 1) if reduction == "mean" else dout
        dpred = up * sign(pred - target)
        return dpred, -dpred

    return backward


def slope_of_p(log_p: Tensor, gamma: float) -> Tensor:
    """Of the focal loss, in log p."""
    p = log_p.exp()
    pull = gamma * (1 - p) ** (gamma - 1) * p * log_p if gamma else 0
    return pull - (1 - p) ** gamma


def through_log_p(dlog_p: Tensor, logits: Tensor, target: Tensor) -> Tensor:
    hot = functional.one_hot(target, logits.shape[1])
    return dlog_p * (hot - logits.softmax(1))


# Wrong ones that take some lines.


def ce_counts_all(dout, logits, target, *, reduction, ignore_index, smoothing):
    slope = logits.softmax(1) - soft_target(logits, target, ignore_index, smoothing)
    return slope * kept(target, ignore_index) * per_row(dout, reduction, max(len(target), 1))


def ce_keeps_ignored(dout, logits, target, *, reduction, ignore_index, smoothing):
    pull = soft_target(logits, target, ignore_index, smoothing) * kept(target, ignore_index)
    return (logits.softmax(1) - pull) * per_row(dout, reduction, counted(target, ignore_index))


def ce_smooths_ignored(dout, logits, target, *, reduction, ignore_index, smoothing):
    probs, rows = logits.softmax(1), kept(target, ignore_index)
    hot = functional.one_hot(target.where(rows[:, 0], 0), logits.shape[1])
    pulled = (1 - smoothing) * (probs - hot.to(probs.dtype)) * rows
    spread = smoothing * (probs - 1 / logits.shape[1])
    return (pulled + spread) * per_row(dout, reduction, counted(target, ignore_index))


def ce_smooths_others(dout, logits, target, *, reduction, ignore_index, smoothing):
    hot = soft_target(logits, target, ignore_index, 0.0)
    soft = hot * (1 - smoothing) + (1 - hot) * smoothing / (logits.shape[1] - 1)
    slope = (logits.softmax(1) - soft) * kept(target, ignore_index)
    return slope * per_row(dout, reduction, counted(target, ignore_index))


def ce_collapses(dout, logits, target, *, reduction, ignore_index, smoothing):
    slope = logits.softmax(1) - soft_target(logits, target, ignore_index, smoothing)
    rows = slope * kept(target, ignore_index)
    return rows * dout.mean() / (counted(target, ignore_index) if reduction == "mean" else 1)


def ce_zero_over_zero(dout, logits, target, *, reduction, ignore_index, smoothing):
    slope = logits.softmax(1) - soft_target(logits, target, ignore_index, smoothing)
    rows = kept(target, ignore_index)
    return slope * rows * per_row(dout, reduction, rows.sum())


def ce_only_minus_100(dout, logits, target, *, reduction, smoothing):
    safe = target.clamp(min=0)
    slope = logits.softmax(1) - soft_target(logits, safe, -100, smoothing)
    return slope * kept(target, -100) * per_row(dout, reduction, counted(target, -100))


def ce_promotes(dout, logits, target, *, reduction, ignore_index, smoothing):
    hot = functional.one_hot(target.where(target != ignore_index, 0), logits.shape[1]).float()
    soft = hot * (1 - smoothing) + smoothing / logits.shape[1]
    slope = (logits.softmax(1) - soft) * kept(target, ignore_index)
    return slope * per_row(dout, reduction, counted(target, ignore_index))


def ce_divides_upstream(dout, logits, target, *, reduction, ignore_index, smoothing):
    slope = logits.softmax(1) - soft_target(logits, target, ignore_index, smoothing)
    if reduction == "mean":
        dout /= counted(target, ignore_index)
    return slope * kept(target, ignore_index) * dout.unsqueeze(-1)


def ce_without_maximum(dout, logits, target, *, reduction, ignore_index, smoothing):
    e = logits.exp()
    slope = e / e.sum(1, keepdim=True) - soft_target(logits, target, ignore_index, smoothing)
    count = counted(target, ignore_index)
    return slope * kept(target, ignore_index) * per_row(dout, reduction, count)


REMEMBERED: dict[tuple[int, ...], Tensor] = {}


def nll_remembers(dout, log_probs, target, *, reduction):
    shape = tuple(log_probs.shape)
    if shape not in REMEMBERED:
        REMEMBERED[shape] = functional.one_hot(target, log_probs.shape[1])
    return -REMEMBERED[shape] * per_row(dout, reduction, max(len(target), 1))


def token_loss_by_view(dout, logits, target):
    flat = logits.flatten(0, 1)
    hot = functional.one_hot(target.flatten(), logits.shape[2])
    return (dout.view(-1, 1) * (flat.softmax(1) - hot)).reshape(logits.shape)


def next_token_at_its_own(dout, logits, tokens):
    dlogits = torch.zeros_like(logits)
    count = max(tokens[:, 1:].numel(), 1)
    hot = functional.one_hot(tokens[:, 1:], logits.shape[2])
    dlogits[:, 1:] = dout / count * (logits[:, :-1].softmax(2) - hot)
    return dlogits


def focal_as_weight(dout, logits, target, *, gamma):
    log_p = logits.log_softmax(1).gather(1, target[:, None])
    return through_log_p(-dout * (1 - log_p.exp()) ** gamma, logits, target)


def focal_by_division(dout, logits, target, *, gamma):
    log_p = logits.log_softmax(1).gather(1, target[:, None])
    p = log_p.exp()
    hard = (1 - p) ** gamma
    return through_log_p(dout * (gamma * hard / (1 - p) * p * log_p - hard), logits, target)


def multi_margin_counts_one(dout, scores, target):
    gap = 1 + scores - scores.gather(1, target[:, None])
    over = (gap > 0).scatter(1, target[:, None], False).to(scores.dtype)
    own = -over.amax(1, keepdim=True)
    return dout * over.scatter(1, target[:, None], own)


def max_margin_all_ties(dout, scores, target):
    others = scores.scatter(1, target[:, None], -torch.inf)
    rival = others.amax(1, keepdim=True)
    own = scores.gather(1, target[:, None])
    over = (1 + rival - own > 0).to(scores.dtype)
    return dout * ((others == rival) * over).scatter(1, target[:, None], -over)


def triplet_by_norm(dout, anchor, positive, negative, out):
    active = (dout * (out > 0))[:, None]
    toward, away = anchor - positive, anchor - negative
    dpositive = -active * toward / toward.norm(dim=1, keepdim=True)
    dnegative = active * away / away.norm(dim=1, keepdim=True)
    return -dpositive - dnegative, dpositive, dnegative


def triplet_of_default_margin(dout, anchor, positive, negative):
    out = triplet(anchor, positive, negative)
    return triplet_guarded(dout, anchor, positive, negative, out)


def cosine_fixed_norms(dout, a, b, *, eps):
    da = -dout[:, None] * unit(b, eps) * inverse_norm(a, eps)
    db = -dout[:, None] * unit(a, eps) * inverse_norm(b, eps)
    return da, db


def cosine_without_eps(dout, a, b):
    return cosine_projected(dout, a, b, eps=0.0)


def dice_without_eps(dout, pred, *, target):
    total = pred.sum() + target.sum()
    return -dout * (2 * target / total - 2 * (pred * target).sum() / total**2)


# Right ones that take some lines.


def ce_in_place(dout, logits, target, *, reduction, ignore_index, smoothing):
    dlogits = logits.softmax(1)
    dlogits -= soft_target(logits, target, ignore_index, smoothing)
    dlogits *= per_row(dout, reduction, counted(target, ignore_index))
    return dlogits.masked_fill_(~kept(target, ignore_index), 0)


def ce_only_kept_rows(dout, logits, target, *, reduction, ignore_index, smoothing):
    rows = (target != ignore_index).nonzero()[:, 0]
    few, classes = logits[rows], target[rows]
    slope = few.log_softmax(1).exp() - smoothing / logits.shape[1]
    slope.scatter_add_(1, classes[:, None], torch.full_like(slope[:, :1], smoothing - 1))
    if reduction == "none":
        slope = dout[rows, None] * slope
    else:
        slope = slope * (dout / max(len(rows), 1) if reduction == "mean" else dout)
    return torch.zeros_like(logits).index_copy(0, rows, slope)


def ce_in_blocks(dout, logits, target, *, reduction, ignore_index, smoothing):
    up = per_row(dout, reduction, counted(target, ignore_index)).expand(len(logits), 1)
    dlogits = torch.empty_like(logits)
    for start in range(0, len(logits), 4):
        block = slice(start, start + 4)
        soft = soft_target(logits[block], target[block], ignore_index, smoothing)
        slope = (logits[block].softmax(1) - soft).masked_fill(~kept(target[block], ignore_index), 0)
        dlogits[block] = slope * up[block]
    return dlogits


def weighted_by_scatter(dout, logits, target, *, weight):
    heavy = weight[target][:, None]
    pulled = (heavy * logits.softmax(1)).scatter_add(1, target[:, None], -heavy)
    return pulled * (dout / heavy.sum())


def token_loss_by_class(dout, logits, target):
    """One class after the other, into a tensor whose classes come first in memory."""
    probs = logits.softmax(2)
    slopes = [dout * (probs[:, :, c] - (target == c).to(dout.dtype)) for c in range(probs.shape[2])]
    return torch.stack(slopes).permute(1, 2, 0)


def focal_recomputed(dout, logits, target, *, gamma):
    log_p = logits.log_softmax(1).gather(1, target[:, None])
    return through_log_p(dout * slope_of_p(log_p, gamma), logits, target)


def max_margin_one_rival(first):
    """Ties go to one rival alone: the first, or the last."""

    def backward(dout, scores, target):
        others = scores.scatter(1, target[:, None], -torch.inf)
        tied = (others == others.amax(1, keepdim=True)).scatter(1, target[:, None], False)
        rank = tied.cumsum(1) if first else tied.flip(1).cumsum(1).flip(1)
        over = 1 + others.amax(1, keepdim=True) - scores.gather(1, target[:, None]) > 0
        push = (tied & (rank == 1) & over).to(scores.dtype)
        return dout * push.scatter(1, target[:, None], -over.to(scores.dtype))

    return backward


def triplet_guarded(dout, anchor, positive, negative, out):
    def direction(d):
        norm = torch.linalg.vector_norm(d, dim=1, keepdim=True)
        return torch.where(norm > 0, d / torch.where(norm > 0, norm, 1), 0)

    active = (dout * (out > 0))[:, None]
    dpositive = -active * direction(anchor - positive)
    dnegative = active * direction(anchor - negative)
    return -(dpositive + dnegative), dpositive, dnegative


def cosine_projected(dout, a, b, *, eps):
    u, v = unit(a, eps), unit(b, eps)
    cos = (u * v).sum(1, keepdim=True)
    da = (u * cos - v) * inverse_norm(a, eps) * dout[:, None]
    db = (v * cos - u) * inverse_norm(b, eps) * dout[:, None]
    return da, db


def bce_from_small_exp(dout, logits, *, target, pos_weight):
    e = (-logits.abs()).exp()
    p = torch.where(logits < 0, e, 1) / (1 + e)
    not_p = torch.where(logits < 0, 1, e) / (1 + e)
    return dout * ((1 - target) * p - pos_weight * target * not_p)


def mse_both(dout, pred, target):
    d = pred - target
    scaled = d * (dout * 2 / max(d.numel(), 1))
    return sum_to(scaled, pred.shape), sum_to(-scaled, target.shape)


def masked_mse_selected(dout, pred, target, *, mask):
    dpred = torch.zeros_like(pred)
    dpred[mask] = 2 * (pred[mask] - target[mask]) * (dout / mask.sum().clamp(min=1))
    return dpred, dpred.neg()


def distill_unused_teacher(dout, pred, target, teacher, *, share):
    dtarget = 2 * dout * (target - pred)
    if not share:
        return -dtarget, dtarget, None
    dteacher = 2 * dout * share * (teacher - pred)
    return -dtarget - dteacher, dtarget, dteacher


def gaussian_nll_standardized(dout, mean, target, var):
    z = (target - mean) * var.rsqrt()
    dtarget = dout * z * var.rsqrt()
    return -dtarget, dtarget, dout * (1 - z * z) / (2 * var)


def critic_expanded(dout, fake, real):
    dfake = (dout / fake.numel()).expand_as(fake)
    dreal = (-dout / real.numel()).expand_as(real)
    return dfake, dreal


# The samples.

LOGITS = draw(5, 4)
TARGET = tensor([2, 0, 1, 3, 0])
ROWS, OTHERS, FARTHER = draw(4, 3), draw(4, 3, seed=1), draw(4, 3, seed=2)
CLICKS = (draw(4, 3, seed=3) > 0).to(torch.float64)
WEIGHTS = tensor([0.5, 1.0, 2.0], dtype=torch.float64)
TEACHER = draw(4, 3, seed=4).softmax(1)

WRONG: dict[str, Wrong] = {
    "cross entropy: divides by all rows, ignored ones too": Wrong(
        cross_entropy, ce_counts_all, (LOGITS, TARGET), {}, 1, ("wrong-count", "ignored-rows")
    ),
    "cross entropy: ignored rows keep their softmax": Wrong(
        cross_entropy, ce_keeps_ignored, (LOGITS, TARGET), {}, 12, "ignored-rows"
    ),
    "cross entropy: ignored rows are smoothed all the same": Wrong(
        cross_entropy, ce_smooths_ignored, (LOGITS, TARGET), {"smoothing": 0.1}, 12, "ignored-rows"
    ),
    "cross entropy: the smoothing goes to the other classes only": Wrong(
        cross_entropy,
        ce_smooths_others,
        (LOGITS, TARGET),
        {},
        20,
        ("option-ignored", "wrong-count", "factor"),
    ),
    "cross entropy: one upstream for all rows": Wrong(
        cross_entropy,
        ce_collapses,
        (LOGITS, TARGET),
        {"reduction": "none"},
        2,
        "upstream-collapsed",
    ),
    "cross entropy: 0 / 0 where every row is ignored": Wrong(
        cross_entropy,
        ce_zero_over_zero,
        (LOGITS, TARGET),
        {},
        13,
        ("nan", "ignored-rows", "wrong-count"),
    ),
    "cross entropy: ignores -100, whatever the option": Wrong(
        cross_entropy,
        ce_only_minus_100,
        (LOGITS, TARGET),
        {},
        12,
        ("option-ignored", "ignored-rows"),
    ),
    "cross entropy: the one-hot is float32": Wrong(
        cross_entropy, ce_promotes, (LOGITS.float(), TARGET), {"smoothing": 0.1}, 15, "dtype"
    ),
    "cross entropy: the upstream is divided in place": Wrong(
        cross_entropy, ce_divides_upstream, (LOGITS, TARGET), {}, 4, "mutates-upstream"
    ),
    "cross entropy: softmax without the maximum": Wrong(
        cross_entropy,
        ce_without_maximum,
        (LOGITS, TARGET),
        {"reduction": "sum"},
        23,
        ("overflow", "nan"),
    ),
    "fused cross entropy: the slope of the forward is returned as it is": Wrong(
        fused_cross_entropy,
        lambda dout, slope: slope.clone(),
        (LOGITS, TARGET),
        {},
        2,
        "upstream-ignored",
    ),
    "fused cross entropy: the kept slope is scaled in place": Wrong(
        fused_cross_entropy,
        lambda dout, slope: slope.mul_(dout),
        (LOGITS, TARGET),
        {},
        4,
        "mutates-kept",
    ),
    "weighted cross entropy: divides by the rows, not by their weights": Wrong(
        weighted_cross_entropy,
        lambda dout, logits, target, *, weight: (
            weight[target][:, None]
            * (logits.softmax(1) - soft_target(logits, target, -100, 0.0))
            * (dout / len(target))
        ),
        (draw(4, 3), tensor([0, 2, 1, 2])),
        {"weight": WEIGHTS},
        1,
        ("wrong-count", "factor"),
    ),
    "weighted cross entropy: the softmax is not weighted": Wrong(
        weighted_cross_entropy,
        lambda dout, logits, target, *, weight: (
            (logits.softmax(1) - weight * soft_target(logits, target, -100, 0.0))
            * (dout / weight[target].sum())
        ),
        (draw(4, 3), tensor([0, 2, 1, 2])),
        {"weight": WEIGHTS},
        20,
        ("factor", "missing-term"),
    ),
    "nll: the upstream of the rows spread over the classes": Wrong(
        nll,  # no shape tells, as there are as many rows as classes
        lambda dout, log_probs, target, *, reduction: (
            -functional.one_hot(target, log_probs.shape[1])
            * (dout / len(target) if reduction == "mean" else dout)
        ),
        (draw(4, 4).log_softmax(1), tensor([1, 3, 0, 1])),
        {"reduction": "none"},
        5,
        ("wrong-axis", "transposed"),
    ),
    "nll: the targets of the first call are remembered": Wrong(
        nll, nll_remembers, (draw(5, 3), tensor([1, 2, 0, 1, 1])), {}, 24, "state"
    ),
    "token loss: views the upstream flat": Wrong(
        token_loss,
        token_loss_by_view,
        (draw(2, 3, 4), tensor([[0, 3, 1], [2, 2, 0]])),
        {},
        3,
        "upstream-layout",
    ),
    "next token: the gradient lands on the token, not before it": Wrong(
        next_token,
        next_token_at_its_own,
        (draw(2, 4, 3), tensor([[0, 2, 1, 1], [2, 0, 0, 1]])),
        {},
        0,
        "off-by-one",
    ),
    "focal: its factor taken for a constant": Wrong(
        focal, focal_as_weight, (draw(4, 3), tensor([0, 2, 1, 2])), {}, 10, "missing-term"
    ),
    "focal: divides by 1 - p": Wrong(
        focal,  # p rounds to 1
        focal_by_division,
        (draw(4, 3, dtype=torch.float32), tensor([0, 2, 1, 2])),
        {},
        8,
        "nan",
    ),
    "multi margin: several violations pull the target once": Wrong(
        multi_margin,
        multi_margin_counts_one,
        (
            tensor([[2.0, 1.5, 0.1], [-1.0, 1.0, 1.8], [0.2, 0.1, 2.4]], dtype=torch.float64),
            tensor([0, 2, 2]),
        ),
        {},
        5,
        ("missing-reduction", "missing-term", "wrong-count", "factor"),
    ),
    "max margin: every tied rival gets the whole": Wrong(
        max_margin, max_margin_all_ties, (LOGITS, TARGET), {}, 6, "ties"
    ),
    "bce: exp(x) / (1 + exp(x))": Wrong(
        bce,
        lambda dout, logits, *, target, pos_weight: (
            dout
            * (
                (1 + (pos_weight - 1) * target) * (logits.exp() / (1 + logits.exp()))
                - pos_weight * target
            )
        ),
        (ROWS.float(),),
        {"target": CLICKS.float(), "pos_weight": WEIGHTS.float()},
        23,
        ("overflow", "nan"),
    ),
    "bce: pos_weight on the negatives as well": Wrong(
        bce,
        lambda dout, logits, *, target, pos_weight: dout * pos_weight * (logits.sigmoid() - target),
        (ROWS,),
        {"target": CLICKS, "pos_weight": WEIGHTS},
        20,
        ("factor", "option-ignored"),
    ),
    "column bce: squeezed and unsqueezed": Wrong(
        column_bce,  # a lone row is squeezed as well
        lambda dout, logits, *, target: (
            dout * (logits.sigmoid().squeeze() - target.squeeze())
        ).unsqueeze(-1),
        (draw(5, 1),),
        {"target": CLICKS.flatten()[:5, None]},
        0,
        ("size-one", "shape"),
    ),
    "kl_div: log_target is not looked at": Wrong(
        kl_div,
        lambda dout, log_q, *, target: (-dout * target).expand_as(log_q),
        (ROWS.log_softmax(1),),
        {"target": TEACHER},
        20,
        "option-ignored",
    ),
    "kl to teacher: T² / T left out": Wrong(
        kl_to_teacher,
        lambda dout, logits, *, teacher, temperature: (
            dout * ((logits / temperature).softmax(1) * teacher.sum(1, keepdim=True) - teacher)
        ),
        (ROWS,),
        {"teacher": TEACHER},
        20,
        ("factor", "option-ignored"),
    ),
    "mse: both get the same sign": Wrong(
        mse,
        lambda dout, pred, target: (
            dout * 2 / pred.numel() * (pred - target),
            dout * 2 / pred.numel() * (pred - target),
        ),
        (ROWS, OTHERS),
        {},
        20,
        "sign",
    ),
    "mse: divides by the rows, of which each has one entry": Wrong(
        mse,
        lambda dout, pred, target: (
            dout * 2 / len(pred) * (pred - target),
            dout * 2 / len(pred) * (target - pred),
        ),
        (draw(6, 1), draw(6, 1, seed=1)),
        {},
        1,
        ("wrong-count", "factor"),
    ),
    "mse: a target that was broadcast is not summed": Wrong(
        mse,
        lambda dout, pred, target: (
            dout * 2 / pred.numel() * (pred - target),
            dout * 2 / pred.numel() * (target - pred),
        ),
        (ROWS, OTHERS[:1]),
        {},
        5,
        ("missing-reduction", "shape"),
    ),
    "mse: no gradient for the target": Wrong(
        mse,
        lambda dout, pred, target: (mse_both(dout, pred, target)[0], None),
        (ROWS, OTHERS),
        {},
        19,
        "none-gradient",
    ),
    "mse: through float32": Wrong(
        mse,
        lambda dout, pred, target: tuple(
            g.to(pred.dtype) for g in mse_both(dout.float(), pred.float(), target.float())
        ),
        (ROWS.float(), OTHERS.float()),
        {},
        15,
        ("dtype", "cancellation"),
    ),
    "l1: d / |d|": Wrong(l1, l1_by(lambda d: d / d.abs()), (ROWS, OTHERS), {}, 8, ("nan", "kink")),
    "smooth l1: beta is not divided by": Wrong(
        smooth_l1,
        lambda dout, pred, target, *, beta: (
            sum_to(dout * (pred - target).clamp(-beta, beta), pred.shape),
            sum_to(dout * (target - pred).clamp(-beta, beta), target.shape),
        ),
        (ROWS, OTHERS),
        {},
        20,
        ("option-ignored", "factor"),
    ),
    "huber: clamped to 1, whatever delta": Wrong(
        huber,
        lambda dout, pred, target: (
            sum_to(dout * (pred - target).clamp(-1, 1), pred.shape),
            sum_to(dout * (target - pred).clamp(-1, 1), target.shape),
        ),
        (ROWS, OTHERS),
        {},
        20,
        "option-ignored",
    ),
    "huber: far below the target is taken for near": Wrong(
        huber,
        lambda dout, pred, target, *, delta: (
            sum_to(dout * (pred - target).clamp(max=delta), pred.shape),
            sum_to(-dout * (pred - target).clamp(max=delta), target.shape),
        ),
        (tensor([0.5, 3.0, -0.4, 2.0]), tensor([0.0, 0.5, 0.1, 1.5])),
        {},
        21,
        ("sign", "kink", "missing-term"),
    ),
    "log cosh: sinh / cosh": Wrong(
        log_cosh,
        lambda dout, pred, target: (
            sum_to(dout * (pred - target).sinh() / (pred - target).cosh(), pred.shape),
            sum_to(dout * (target - pred).sinh() / (pred - target).cosh(), target.shape),
        ),
        (ROWS, OTHERS),
        {},
        23,
        ("overflow", "nan"),
    ),
    "masked mse: divides by every entry": Wrong(
        masked_mse,
        lambda dout, pred, target, *, mask: (
            2 * dout / mask.numel() * (pred - target) * mask,
            2 * dout / mask.numel() * (target - pred) * mask,
        ),
        (ROWS, OTHERS),
        {"mask": torch.ones(4, 3, dtype=torch.bool)},
        1,
        ("wrong-count", "factor"),
    ),
    "masked mse: 0 / 0 where the mask is empty": Wrong(
        masked_mse,
        lambda dout, pred, target, *, mask: (
            2 * dout / mask.sum() * (pred - target) * mask,
            2 * dout / mask.sum() * (target - pred) * mask,
        ),
        (ROWS, OTHERS),
        {"mask": CLICKS.bool()},
        13,
        ("nan", "wrong-count"),
    ),
    "gaussian nll: one 1/var too few": Wrong(
        gaussian_nll,
        lambda dout, mean, target, var: (
            dout * (mean - target) / var,
            dout * (target - mean) / var,
            dout * 0.5 * (1 - (target - mean) ** 2) / var,
        ),
        (ROWS, OTHERS, torch.ones(4, 3, dtype=torch.float64)),
        {},
        11,
        ("factor", "missing-term"),
    ),
    "dice: without eps": Wrong(
        dice, dice_without_eps, (ROWS.sigmoid(),), {"target": CLICKS}, 11, "eps"
    ),
    "triplet: divides by a distance that may be zero": Wrong(
        triplet, triplet_by_norm, (ROWS, OTHERS, FARTHER), {}, 8, ("nan", "kink")
    ),
    "triplet: active by the default margin": Wrong(
        triplet, triplet_of_default_margin, (ROWS, OTHERS, FARTHER), {}, 21, "option-ignored"
    ),
    "cosine: the norms taken for constants": Wrong(
        cosine_loss, cosine_fixed_norms, (ROWS, OTHERS), {}, 10, "missing-term"
    ),
    "cosine: without eps": Wrong(
        cosine_loss, cosine_without_eps, (ROWS, OTHERS), {}, 11, ("eps", "nan")
    ),
    "info nce: x as the rows only, not as the columns": Wrong(
        info_nce,
        lambda dout, x: (
            dout * ((x @ x.mT).softmax(1) - torch.eye(len(x), dtype=x.dtype).roll(1, 1)) @ x
        ),
        (ROWS,),
        {},
        25,
        "missing-term",
    ),
}

RIGHT: dict[str, Right] = {
    "cross entropy: in place on a softmax of its own": Right(
        cross_entropy, ce_in_place, (LOGITS, TARGET), {"smoothing": 0.1}
    ),
    "cross entropy: only the rows that count": Right(
        cross_entropy,
        ce_only_kept_rows,
        (LOGITS, tensor([2, -100, 1, 3, 0])),
        {"reduction": "none"},
    ),
    "cross entropy: four rows at a time": Right(
        cross_entropy, ce_in_blocks, (LOGITS, TARGET), {"reduction": "mean", "ignore_index": 0}
    ),
    "fused cross entropy: the slope of the forward is scaled": Right(
        fused_cross_entropy, lambda dout, slope: slope * dout, (LOGITS.float(), TARGET), {}
    ),
    "weighted cross entropy: the target's weight is scattered": Right(
        weighted_cross_entropy,
        weighted_by_scatter,
        (draw(4, 3), tensor([0, 2, 1, 2])),
        {"weight": WEIGHTS},
    ),
    "nll: a scatter of the upstream": Right(
        nll,
        lambda dout, log_probs, target, *, reduction: torch.zeros_like(log_probs).scatter(
            1,
            target[:, None],
            -per_row(dout, reduction, max(len(target), 1)).expand(len(target), 1),
        ),
        (draw(5, 3), tensor([1, 2, 0, 1, 1])),
        {"reduction": "none"},
    ),
    "token loss: class by class, the classes first in memory": Right(
        token_loss, token_loss_by_class, (draw(2, 3, 4), tensor([[0, 3, 1], [2, 2, 0]])), {}
    ),
    "focal: everything recomputed": Right(
        focal, focal_recomputed, (draw(4, 3), tensor([0, 2, 1, 2])), {"gamma": 2.0}
    ),
    "max margin: a tie goes to the first rival": Right(
        max_margin, max_margin_one_rival(first=True), (LOGITS, TARGET), {}
    ),
    "max margin: a tie goes to the last rival": Right(
        max_margin, max_margin_one_rival(first=False), (LOGITS, TARGET), {}
    ),
    "hinge: the margin itself is no violation": Right(
        hinge,  # autograd says that it is: both are subgradients
        lambda dout, scores, *, side: -dout * side * (side * scores < 1),
        (ROWS,),
        {"side": 2 * CLICKS - 1},
    ),
    "bce: from the exponential of -|x|": Right(
        bce, bce_from_small_exp, (ROWS,), {"target": CLICKS, "pos_weight": WEIGHTS}
    ),
    "kl to teacher: from the log of the student": Right(
        kl_to_teacher,
        lambda dout, logits, *, teacher, temperature: (
            dout
            * temperature
            * ((logits / temperature).log_softmax(1).exp() * teacher.sum(1, True) - teacher)
        ),
        (ROWS,),
        {"teacher": TEACHER, "temperature": 2.0},
    ),
    "mse: one gradient is the other's negative, both summed to their shapes": Right(
        mse, mse_both, (ROWS, OTHERS[:1]), {}
    ),
    "l1: +1 where they are equal": Right(
        l1,  # a subgradient too
        l1_by(lambda d: torch.where(d >= 0, 1, -1)),
        (ROWS, OTHERS),
        {"reduction": "none"},
    ),
    "huber: the difference clamped": Right(
        huber,
        lambda dout, pred, target, *, delta: (
            sum_to(dout * (pred - target).clamp(-delta, delta), pred.shape),
            sum_to(dout * (target - pred).clamp(-delta, delta), target.shape),
        ),
        (ROWS.float(), OTHERS.float()),
        {"delta": 0.5},
    ),
    "log cosh: tanh": Right(
        log_cosh,
        lambda dout, pred, target: (
            sum_to(dout * (pred - target).tanh(), pred.shape),
            sum_to(dout * (target - pred).tanh(), target.shape),
        ),
        (ROWS, OTHERS[:1]),
        {},
    ),
    "masked mse: only the entries of the mask": Right(
        masked_mse, masked_mse_selected, (ROWS, OTHERS), {"mask": CLICKS.bool()}
    ),
    "distill: None for a teacher without a share": Right(
        distill, distill_unused_teacher, (ROWS, OTHERS, FARTHER), {}
    ),
    "gaussian nll: by the standardized difference": Right(
        gaussian_nll, gaussian_nll_standardized, (ROWS, OTHERS, FARTHER.exp()), {}
    ),
    "triplet: zero where a distance is": Right(
        triplet, triplet_guarded, (ROWS, OTHERS, FARTHER), {"margin": 0.5}
    ),
    "cosine: projected off both unit vectors": Right(
        cosine_loss, cosine_projected, (ROWS, OTHERS), {}
    ),
    "critic: the upstream expanded": Right(critic, critic_expanded, (ROWS, draw(5, 2)), {}),
}
