"""Losses, with all that they count, ignore, mask, weight and clamp."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor, tensor
from torch.nn import functional

from backprop_ops import Index, Kept, sum_to
from tests.corpus import right, wrong
from tests.corpus.kinds import Kind
from tests.corpus.samples import draw, draws

LOGITS = draw(5, 4)
TARGET = tensor([2, 0, 1, 3, 0])
ROWS, OTHERS, FARTHER = draws((4, 3), (4, 3), (4, 3))
CLICKS = (draw(4, 3, seed=3) > 0).to(torch.float64)
WEIGHTS = tensor([0.5, 1.0, 2.0], dtype=torch.float64)
TEACHER = draw(4, 3, seed=4).softmax(1)
CLASSES = tensor([0, 2, 1, 2])
TOKENS = (draw(2, 3, 4), tensor([[0, 3, 1], [2, 2, 0]]))


Reduction = Literal["mean", "sum", "none"]


def alike(*tensors: Tensor, shape: bool = True) -> None:
    """For forwards that refuse other dtypes and, unless they broadcast, other shapes."""
    if len({(t.dtype, t.shape if shape else None) for t in tensors}) > 1:
        raise ValueError("the tensors are not alike")


def reduced(each: Tensor, reduction: Reduction, count: Tensor | int) -> Tensor:
    if reduction == "none":
        return each
    return each.sum() / count if reduction == "mean" else each.sum()


def per_row(dout: Tensor, reduction: Reduction, count: Tensor | int) -> Tensor:
    return (dout / count if reduction == "mean" else dout).unsqueeze(-1)


def soft_target(logits: Tensor, target: Tensor, ignore_index: int, smoothing: float) -> Tensor:
    hot = functional.one_hot(target.where(target != ignore_index, 0), logits.shape[1])
    return hot.to(logits.dtype) * (1 - smoothing) + smoothing / logits.shape[1]


# Classes.


def counted(target: Tensor, ignore_index: int) -> Tensor:
    """The rows that are not ignored; 1 where all are, which makes the mean loss 0."""
    return (target != ignore_index).sum().clamp(min=1)


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


def kept(target: Tensor, ignore_index: int) -> Tensor:
    return (target != ignore_index)[:, None]


@right(cross_entropy, LOGITS, TARGET, smoothing=0.1)
def in_place_on_a_softmax_of_its_own(dout, logits, target, *, reduction, ignore_index, smoothing):
    dlogits = logits.softmax(1)
    dlogits -= soft_target(logits, target, ignore_index, smoothing)
    dlogits *= per_row(dout, reduction, counted(target, ignore_index))
    return dlogits.masked_fill_(~kept(target, ignore_index), 0)


@right(cross_entropy, LOGITS, tensor([2, -100, 1, 3, 0]), reduction="none")
def only_the_rows_that_count(dout, logits, target, *, reduction, ignore_index, smoothing):
    rows = (target != ignore_index).nonzero()[:, 0]
    few, classes = logits[rows], target[rows]
    slope = few.log_softmax(1).exp() - smoothing / logits.shape[1]
    slope.scatter_add_(1, classes[:, None], torch.full_like(slope[:, :1], smoothing - 1))
    if reduction == "none":
        slope = dout[rows, None] * slope
    else:
        slope = slope * (dout / max(len(rows), 1) if reduction == "mean" else dout)
    return torch.zeros_like(logits).index_copy(0, rows, slope)


@right(cross_entropy, LOGITS, TARGET, reduction="mean", ignore_index=0)
def four_rows_at_a_time(dout, logits, target, *, reduction, ignore_index, smoothing):
    up = per_row(dout, reduction, counted(target, ignore_index)).expand(len(logits), 1)
    dlogits = torch.empty_like(logits)
    for start in range(0, len(logits), 4):
        block = slice(start, start + 4)
        soft = soft_target(logits[block], target[block], ignore_index, smoothing)
        slope = (logits[block].softmax(1) - soft).masked_fill(~kept(target[block], ignore_index), 0)
        dlogits[block] = slope * up[block]
    return dlogits


@wrong(cross_entropy, LOGITS, TARGET, kind=Kind.MEAN_COUNT, mistake=("wrong-count", "ignored-rows"))
def divides_by_all_rows(dout, logits, target, *, reduction, ignore_index, smoothing):
    slope = logits.softmax(1) - soft_target(logits, target, ignore_index, smoothing)
    return slope * kept(target, ignore_index) * per_row(dout, reduction, max(len(target), 1))


@wrong(cross_entropy, LOGITS, TARGET, kind=Kind.IGNORED_ROWS, mistake="ignored-rows")
def ignored_rows_keep_their_softmax(dout, logits, target, *, reduction, ignore_index, smoothing):
    pull = soft_target(logits, target, ignore_index, smoothing) * kept(target, ignore_index)
    return (logits.softmax(1) - pull) * per_row(dout, reduction, counted(target, ignore_index))


@wrong(cross_entropy, LOGITS, TARGET, smoothing=0.1, kind=Kind.IGNORED_ROWS, mistake="ignored-rows")
def ignored_rows_are_smoothed_all_the_same(
    dout, logits, target, *, reduction, ignore_index, smoothing
):
    probs, rows = logits.softmax(1), kept(target, ignore_index)
    hot = functional.one_hot(target.where(rows[:, 0], 0), logits.shape[1])
    pulled = (1 - smoothing) * (probs - hot.to(probs.dtype)) * rows
    spread = smoothing * (probs - 1 / logits.shape[1])
    return (pulled + spread) * per_row(dout, reduction, counted(target, ignore_index))


@wrong(
    cross_entropy,
    LOGITS,
    TARGET,
    kind=Kind.VARIANT,
    mistake=("option-ignored", "wrong-count", "factor"),
)
def smoothing_goes_only_to_the_others(dout, logits, target, *, reduction, ignore_index, smoothing):
    hot = soft_target(logits, target, ignore_index, 0.0)
    soft = hot * (1 - smoothing) + (1 - hot) * smoothing / (logits.shape[1] - 1)
    slope = (logits.softmax(1) - soft) * kept(target, ignore_index)
    return slope * per_row(dout, reduction, counted(target, ignore_index))


@wrong(
    cross_entropy,
    LOGITS,
    TARGET,
    reduction="none",
    kind=Kind.UPSTREAM_LOST,
    mistake="upstream-collapsed",
)
def one_upstream_for_all_rows(dout, logits, target, *, reduction, ignore_index, smoothing):
    slope = logits.softmax(1) - soft_target(logits, target, ignore_index, smoothing)
    rows = slope * kept(target, ignore_index)
    return rows * dout.mean() / (counted(target, ignore_index) if reduction == "mean" else 1)


@wrong(
    cross_entropy,
    LOGITS,
    TARGET,
    kind=Kind.EMPTY_MEAN,
    mistake=("nan", "ignored-rows", "wrong-count"),
)
def zero_over_zero_if_all_rows_are_ignored(
    dout, logits, target, *, reduction, ignore_index, smoothing
):
    slope = logits.softmax(1) - soft_target(logits, target, ignore_index, smoothing)
    rows = kept(target, ignore_index)
    return slope * rows * per_row(dout, reduction, rows.sum())


@wrong(
    cross_entropy,
    LOGITS,
    TARGET,
    kind=Kind.IGNORED_ROWS,
    mistake=("option-ignored", "ignored-rows"),
)
def ignores_100_whatever_the_option(dout, logits, target, *, reduction, smoothing):
    safe = target.clamp(min=0)
    slope = logits.softmax(1) - soft_target(logits, safe, -100, smoothing)
    return slope * kept(target, -100) * per_row(dout, reduction, counted(target, -100))


@wrong(cross_entropy, LOGITS.float(), TARGET, smoothing=0.1, kind=Kind.PRECISION, mistake="dtype")
def one_hot_is_float32(dout, logits, target, *, reduction, ignore_index, smoothing):
    hot = functional.one_hot(target.where(target != ignore_index, 0), logits.shape[1]).float()
    soft = hot * (1 - smoothing) + smoothing / logits.shape[1]
    slope = (logits.softmax(1) - soft) * kept(target, ignore_index)
    return slope * per_row(dout, reduction, counted(target, ignore_index))


@wrong(cross_entropy, LOGITS, TARGET, kind=Kind.OVERWRITTEN, mistake="mutates-upstream")
def upstream_is_divided_in_place(dout, logits, target, *, reduction, ignore_index, smoothing):
    slope = logits.softmax(1) - soft_target(logits, target, ignore_index, smoothing)
    if reduction == "mean":
        dout /= counted(target, ignore_index)
    return slope * kept(target, ignore_index) * dout.unsqueeze(-1)


@wrong(
    cross_entropy, LOGITS, TARGET, reduction="sum", kind=Kind.OVERFLOW, mistake=("overflow", "nan")
)
def softmax_without_the_maximum(dout, logits, target, *, reduction, ignore_index, smoothing):
    e = logits.exp()
    slope = e / e.sum(1, keepdim=True) - soft_target(logits, target, ignore_index, smoothing)
    count = counted(target, ignore_index)
    return slope * kept(target, ignore_index) * per_row(dout, reduction, count)


class FusedCrossEntropy(NamedTuple):
    out: Tensor
    slope: Kept  # of the loss in the logits, found in the forward


def fused_cross_entropy(logits: Tensor, target: Index) -> FusedCrossEntropy:
    slope = logits.softmax(1) - functional.one_hot(target, logits.shape[1])
    count = max(len(target), 1)
    loss = functional.cross_entropy(logits, target, reduction="sum") / count
    return FusedCrossEntropy(loss, slope / count)


@right(fused_cross_entropy, LOGITS.float(), TARGET)
def slope_of_the_forward_is_scaled(dout, slope):
    return slope * dout


@wrong(fused_cross_entropy, LOGITS, TARGET, kind=Kind.UPSTREAM_LOST, mistake="upstream-ignored")
def slope_of_the_forward_is_returned_as_it_is(dout, slope):
    return slope.clone()


@wrong(fused_cross_entropy, LOGITS, TARGET, kind=Kind.OVERWRITTEN, mistake="mutates-kept")
def kept_slope_is_scaled_in_place(dout, slope):
    return slope.mul_(dout)


def weighted_cross_entropy(logits, target, *, weight):
    """The mean, each row as heavy as its class."""
    alike(logits, weight, shape=False)
    each = functional.cross_entropy(logits, target, weight=weight, reduction="none")
    return each.sum() / weight[target].sum()


@right(weighted_cross_entropy, ROWS, CLASSES, weight=WEIGHTS)
def targets_weight_is_scattered(dout, logits, target, *, weight):
    heavy = weight[target][:, None]
    pulled = (heavy * logits.softmax(1)).scatter_add(1, target[:, None], -heavy)
    return pulled * (dout / heavy.sum())


@wrong(
    weighted_cross_entropy,
    ROWS,
    CLASSES,
    weight=WEIGHTS,
    kind=Kind.MEAN_COUNT,
    mistake=("wrong-count", "factor"),
)
def divides_by_the_rows_not_by_their_weights(dout, logits, target, *, weight):
    return (
        weight[target][:, None]
        * (logits.softmax(1) - soft_target(logits, target, -100, 0.0))
        * (dout / len(target))
    )


@wrong(
    weighted_cross_entropy,
    ROWS,
    CLASSES,
    weight=WEIGHTS,
    kind=Kind.VARIANT,
    mistake=("factor", "missing-term"),
)
def softmax_is_not_weighted(dout, logits, target, *, weight):
    return (logits.softmax(1) - weight * soft_target(logits, target, -100, 0.0)) * (
        dout / weight[target].sum()
    )


def nll(log_probs, target, *, reduction: Reduction = "mean"):
    each = -log_probs.gather(1, target[:, None])[:, 0]
    return reduced(each, reduction, max(len(target), 1))


@right(nll, draw(5, 3), tensor([1, 2, 0, 1, 1]), reduction="none")
def a_scatter_of_the_upstream(dout, log_probs, target, *, reduction):
    return torch.zeros_like(log_probs).scatter(
        1,
        target[:, None],
        -per_row(dout, reduction, max(len(target), 1)).expand(len(target), 1),
    )


@wrong(
    nll,
    draw(4, 4).log_softmax(1),
    tensor([1, 3, 0, 1]),
    reduction="none",
    kind=Kind.BROADCAST,
    mistake=("wrong-axis", "transposed"),
)
def upstream_of_rows_spread_over_classes(dout, log_probs, target, *, reduction):
    # no shape tells, as there are as many rows as classes
    return -functional.one_hot(target, log_probs.shape[1]) * (
        dout / len(target) if reduction == "mean" else dout
    )


REMEMBERED: dict[tuple[int, ...], Tensor] = {}


@wrong(nll, draw(5, 3), tensor([1, 2, 0, 1, 1]), kind=Kind.STALE, mistake="state")
def targets_of_the_first_call_are_remembered(dout, log_probs, target, *, reduction):
    shape = tuple(log_probs.shape)
    if shape not in REMEMBERED:
        REMEMBERED[shape] = functional.one_hot(target, log_probs.shape[1])
    return -REMEMBERED[shape] * per_row(dout, reduction, max(len(target), 1))


def token_loss(logits: Tensor, target: Index) -> Tensor:
    """The loss of each token: (batch, time) of (batch, time, classes)."""
    return -logits.log_softmax(2).gather(2, target[:, :, None])[:, :, 0]


@right(token_loss, *TOKENS)
def class_by_class(dout, logits, target):
    """Into a tensor whose classes are first in memory."""
    probs = logits.softmax(2)
    slopes = [dout * (probs[:, :, c] - (target == c).to(dout.dtype)) for c in range(probs.shape[2])]
    return torch.stack(slopes).permute(1, 2, 0)


@wrong(token_loss, *TOKENS, kind=Kind.LAYOUT, mistake="upstream-layout")
def views_the_upstream_flat(dout, logits, target):
    flat = logits.flatten(0, 1)
    hot = functional.one_hot(target.flatten(), logits.shape[2])
    return (dout.view(-1, 1) * (flat.softmax(1) - hot)).reshape(logits.shape)


def next_token(logits: Tensor, tokens: Index) -> Tensor:
    each = token_loss(logits[:, :-1], tokens[:, 1:])
    return each.sum() / max(each.numel(), 1)


@wrong(
    next_token,
    draw(2, 4, 3),
    tensor([[0, 2, 1, 1], [2, 0, 0, 1]]),
    kind=Kind.OTHER,
    mistake="off-by-one",
)
def lands_on_the_token_not_before_it(dout, logits, tokens):
    dlogits = torch.zeros_like(logits)
    count = max(tokens[:, 1:].numel(), 1)
    hot = functional.one_hot(tokens[:, 1:], logits.shape[2])
    dlogits[:, 1:] = dout / count * (logits[:, :-1].softmax(2) - hot)
    return dlogits


def focal(logits, target, *, gamma=2.0):
    log_p = logits.log_softmax(1).gather(1, target[:, None])
    return -((1 - log_p.exp()) ** gamma * log_p).sum()


def through_log_p(dlog_p: Tensor, logits: Tensor, target: Tensor) -> Tensor:
    hot = functional.one_hot(target, logits.shape[1])
    return dlog_p * (hot - logits.softmax(1))


def slope_in_log_p(log_p: Tensor, gamma: float) -> Tensor:
    """The slope of the focal loss in log p."""
    p = log_p.exp()
    pull = gamma * (1 - p) ** (gamma - 1) * p * log_p if gamma else 0
    return pull - (1 - p) ** gamma


@right(focal, ROWS, CLASSES, gamma=2.0)
def everything_recomputed(dout, logits, target, *, gamma):
    log_p = logits.log_softmax(1).gather(1, target[:, None])
    return through_log_p(dout * slope_in_log_p(log_p, gamma), logits, target)


@wrong(focal, ROWS, CLASSES, kind=Kind.STATISTICS, mistake="missing-term")
def its_factor_taken_for_a_constant(dout, logits, target, *, gamma):
    log_p = logits.log_softmax(1).gather(1, target[:, None])
    return through_log_p(-dout * (1 - log_p.exp()) ** gamma, logits, target)


@wrong(focal, draw(4, 3, dtype=torch.float32), CLASSES, kind=Kind.NAN_AT_ZERO, mistake="nan")
def divides_by_one_minus_p(dout, logits, target, *, gamma):  # p rounds to 1
    log_p = logits.log_softmax(1).gather(1, target[:, None])
    p = log_p.exp()
    hard = (1 - p) ** gamma
    return through_log_p(dout * (gamma * hard / (1 - p) * p * log_p - hard), logits, target)


def multi_margin(scores: Tensor, target: Index) -> Tensor:
    """Σ max(0, 1 + s_j − s_y) over the classes j ≠ y"""
    gap = 1 + scores - scores.gather(1, target[:, None])
    return gap.clamp(min=0).scatter(1, target[:, None], 0).sum()


@wrong(
    multi_margin,
    tensor([[2.0, 1.5, 0.1], [-1.0, 1.0, 1.8], [0.2, 0.1, 2.4]], dtype=torch.float64),
    tensor([0, 2, 2]),
    kind=Kind.BROADCAST,
    mistake=("missing-reduction", "missing-term", "wrong-count", "factor"),
)
def several_violations_pull_the_target_once(dout, scores, target):
    gap = 1 + scores - scores.gather(1, target[:, None])
    over = (gap > 0).scatter(1, target[:, None], False).to(scores.dtype)
    own = -over.amax(1, keepdim=True)
    return dout * over.scatter(1, target[:, None], own)


def max_margin(scores: Tensor, target: Index) -> Tensor:
    """Σ max(0, 1 + max s_j − s_y), the maximum over the classes j ≠ y"""
    rival = scores.scatter(1, target[:, None], -torch.inf).amax(1)
    return (1 + rival - scores.gather(1, target[:, None])[:, 0]).clamp(min=0).sum()


def to_one_rival(dout, scores, target, first):
    others = scores.scatter(1, target[:, None], -torch.inf)
    tied = (others == others.amax(1, keepdim=True)).scatter(1, target[:, None], False)
    rank = tied.cumsum(1) if first else tied.flip(1).cumsum(1).flip(1)
    over = 1 + others.amax(1, keepdim=True) - scores.gather(1, target[:, None]) > 0
    push = (tied & (rank == 1) & over).to(scores.dtype)
    return dout * push.scatter(1, target[:, None], -over.to(scores.dtype))


@right(max_margin, LOGITS, TARGET)
def a_tie_goes_to_the_first_rival(dout, scores, target):
    return to_one_rival(dout, scores, target, first=True)


@right(max_margin, LOGITS, TARGET)
def a_tie_goes_to_the_last_rival(dout, scores, target):
    return to_one_rival(dout, scores, target, first=False)


@wrong(max_margin, LOGITS, TARGET, kind=Kind.TIES, mistake="ties")
def every_tied_rival_gets_the_whole(dout, scores, target):
    others = scores.scatter(1, target[:, None], -torch.inf)
    rival = others.amax(1, keepdim=True)
    own = scores.gather(1, target[:, None])
    over = (1 + rival - own > 0).to(scores.dtype)
    return dout * ((others == rival) * over).scatter(1, target[:, None], -over)


def bce(logits: Tensor, *, target: Tensor, pos_weight: Tensor) -> Tensor:
    """pos_weight is one weight a column."""
    alike(logits, target)
    alike(logits[0], pos_weight)
    return functional.binary_cross_entropy_with_logits(
        logits, target, pos_weight=pos_weight, reduction="sum"
    )


@right(bce, ROWS, target=CLICKS, pos_weight=WEIGHTS)
def from_exp_of_minus_abs_x(dout, logits, *, target, pos_weight):
    e = (-logits.abs()).exp()
    p = torch.where(logits < 0, e, 1) / (1 + e)
    not_p = torch.where(logits < 0, 1, e) / (1 + e)
    return dout * ((1 - target) * p - pos_weight * target * not_p)


@wrong(
    bce,
    ROWS.float(),
    target=CLICKS.float(),
    pos_weight=WEIGHTS.float(),
    kind=Kind.OVERFLOW,
    mistake=("overflow", "nan"),
)
def exp_over_one_plus_exp(dout, logits, *, target, pos_weight):
    return dout * (
        (1 + (pos_weight - 1) * target) * (logits.exp() / (1 + logits.exp())) - pos_weight * target
    )


@wrong(
    bce,
    ROWS,
    target=CLICKS,
    pos_weight=WEIGHTS,
    kind=Kind.VARIANT,
    mistake=("factor", "option-ignored"),
)
def pos_weight_on_the_negatives_as_well(dout, logits, *, target, pos_weight):
    return dout * pos_weight * (logits.sigmoid() - target)


def column_bce(logits: Tensor, *, target: Tensor) -> Tensor:
    """One logit a row: (n, 1)."""
    alike(logits, target)
    return functional.binary_cross_entropy_with_logits(logits, target, reduction="sum")


@wrong(
    column_bce,
    draw(5, 1),
    target=CLICKS.flatten()[:5, None],
    kind=Kind.OTHER,
    mistake=("size-one", "shape"),
)
def squeezed_and_unsqueezed(dout, logits, *, target):  # a lone row is squeezed as well
    return (dout * (logits.sigmoid().squeeze() - target.squeeze())).unsqueeze(-1)


def kl_div(log_q, *, target, log_target=False):
    alike(log_q, target)
    return functional.kl_div(log_q, target, reduction="sum", log_target=log_target)


@wrong(kl_div, ROWS.log_softmax(1), target=TEACHER, kind=Kind.VARIANT, mistake="option-ignored")
def log_target_is_not_looked_at(dout, log_q, *, target):
    return (-dout * target).expand_as(log_q)


def kl_to_teacher(logits: Tensor, *, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """T² times the divergence of the softened student from the teacher's probabilities."""
    alike(logits, teacher)
    log_q = (logits / temperature).log_softmax(1)
    return temperature**2 * functional.kl_div(log_q, teacher, reduction="sum")


@right(kl_to_teacher, ROWS, teacher=TEACHER, temperature=2.0)
def from_the_log_of_the_student(dout, logits, *, teacher, temperature):
    return (
        dout
        * temperature
        * ((logits / temperature).log_softmax(1).exp() * teacher.sum(1, True) - teacher)
    )


@wrong(
    kl_to_teacher, ROWS, teacher=TEACHER, kind=Kind.VARIANT, mistake=("factor", "option-ignored")
)
def temperature_left_out(dout, logits, *, teacher, temperature):
    return dout * ((logits / temperature).softmax(1) * teacher.sum(1, keepdim=True) - teacher)


# Differences.


def mse(pred: Tensor, target: Tensor) -> Tensor:
    alike(pred, target, shape=False)
    return ((pred - target) ** 2).mean()


@right(mse, ROWS, OTHERS[:1])
def one_is_the_others_negative(dout, pred, target):
    d = pred - target
    scaled = d * (dout * 2 / max(d.numel(), 1))
    return sum_to(scaled, pred.shape), sum_to(-scaled, target.shape)


@wrong(mse, ROWS, OTHERS, kind=Kind.VARIANT, mistake="sign")
def both_get_the_same_sign(dout, pred, target):
    return dout * 2 / pred.numel() * (pred - target), dout * 2 / pred.numel() * (pred - target)


@wrong(mse, *draws((6, 1), (6, 1)), kind=Kind.MEAN_COUNT, mistake=("wrong-count", "factor"))
def divides_by_the_rows(dout, pred, target):
    return dout * 2 / len(pred) * (pred - target), dout * 2 / len(pred) * (target - pred)


@wrong(mse, ROWS, OTHERS[:1], kind=Kind.BROADCAST, mistake=("missing-reduction", "shape"))
def a_target_that_was_broadcast_is_not_summed(dout, pred, target):
    return dout * 2 / pred.numel() * (pred - target), dout * 2 / pred.numel() * (target - pred)


@wrong(mse, ROWS, OTHERS, kind=Kind.MISSING, mistake="none-gradient")
def no_gradient_for_the_target(dout, pred, target):
    return one_is_the_others_negative(dout, pred, target)[0], None


@wrong(mse, ROWS, OTHERS, kind=Kind.PRECISION, mistake=("dtype", "cancellation"))
def through_float32(dout, pred, target):
    return tuple(
        g.to(pred.dtype)
        for g in one_is_the_others_negative(dout.float(), pred.float(), target.float())
    )


def l1(pred: Tensor, target: Tensor, *, reduction: Reduction = "sum") -> Tensor:
    alike(pred, target)
    each = (pred - target).abs()
    return reduced(each, reduction, max(each.numel(), 1))


def l1_by(sign: Callable[[Tensor], Tensor]) -> Callable[..., tuple[Tensor, Tensor]]:
    def backward(dout, pred, target, *, reduction):
        up = dout / max(pred.numel(), 1) if reduction == "mean" else dout
        dpred = up * sign(pred - target)
        return dpred, -dpred

    backward.__name__ = sign.__name__
    return backward


@right(l1, ROWS, OTHERS, reduction="none")
@l1_by
def plus_one_where_they_are_equal(d):  # a subgradient too
    return torch.where(d >= 0, 1, -1)


@wrong(l1, ROWS, OTHERS, kind=Kind.NAN_AT_ZERO, mistake=("nan", "kink"))
@l1_by
def divided_by_its_absolute_value(d):
    return d / d.abs()


def smooth_l1(pred, target, *, beta=1.0):
    pred, target = torch.broadcast_tensors(pred, target)
    return functional.smooth_l1_loss(pred, target, beta=beta, reduction="none")


@wrong(smooth_l1, ROWS, OTHERS, kind=Kind.VARIANT, mistake=("option-ignored", "factor"))
def beta_is_not_divided_by(dout, pred, target, *, beta):
    return (
        sum_to(dout * (pred - target).clamp(-beta, beta), pred.shape),
        sum_to(dout * (target - pred).clamp(-beta, beta), target.shape),
    )


def huber(pred: Tensor, target: Tensor, *, delta: float = 1.0) -> Tensor:
    alike(pred, target, shape=False)
    d = (pred - target).abs()
    return torch.where(d <= delta, d * d / 2, delta * (d - delta / 2)).sum()


@right(huber, ROWS.float(), OTHERS.float(), delta=0.5)
def difference_clamped(dout, pred, target, *, delta):
    return (
        sum_to(dout * (pred - target).clamp(-delta, delta), pred.shape),
        sum_to(dout * (target - pred).clamp(-delta, delta), target.shape),
    )


@wrong(huber, ROWS, OTHERS, kind=Kind.VARIANT, mistake="option-ignored")
def clamped_to_1_whatever_delta(dout, pred, target):
    return (
        sum_to(dout * (pred - target).clamp(-1, 1), pred.shape),
        sum_to(dout * (target - pred).clamp(-1, 1), target.shape),
    )


@wrong(
    huber,
    tensor([0.5, 3.0, -0.4, 2.0]),
    tensor([0.0, 0.5, 0.1, 1.5]),
    kind=Kind.KINK,
    mistake=("sign", "kink", "missing-term"),
)
def far_below_the_target_is_taken_for_near(dout, pred, target, *, delta):
    return (
        sum_to(dout * (pred - target).clamp(max=delta), pred.shape),
        sum_to(-dout * (pred - target).clamp(max=delta), target.shape),
    )


def log_cosh(pred, target):
    alike(pred, target, shape=False)
    return torch.logaddexp(pred - target, target - pred).sum()


@right(log_cosh, ROWS, OTHERS[:1])
def by_tanh(dout, pred, target):
    return (
        sum_to(dout * (pred - target).tanh(), pred.shape),
        sum_to(dout * (target - pred).tanh(), target.shape),
    )


@wrong(log_cosh, ROWS, OTHERS, kind=Kind.OVERFLOW, mistake=("overflow", "nan"))
def sinh_over_cosh(dout, pred, target):
    return (
        sum_to(dout * (pred - target).sinh() / (pred - target).cosh(), pred.shape),
        sum_to(dout * (target - pred).sinh() / (pred - target).cosh(), target.shape),
    )


def masked_mse(pred: Tensor, target: Tensor, *, mask: Tensor) -> Tensor:
    """The mean over the entries of mask, 0 where it has none."""
    alike(pred, target)
    alike(pred.bool(), mask)
    return ((pred - target) ** 2 * mask).sum() / mask.sum().clamp(min=1)


@right(masked_mse, ROWS, OTHERS, mask=CLICKS.bool())
def only_the_entries_of_the_mask(dout, pred, target, *, mask):
    dpred = torch.zeros_like(pred)
    dpred[mask] = 2 * (pred[mask] - target[mask]) * (dout / mask.sum().clamp(min=1))
    return dpred, dpred.neg()


@wrong(
    masked_mse,
    ROWS,
    OTHERS,
    mask=torch.ones(4, 3, dtype=torch.bool),
    kind=Kind.MEAN_COUNT,
    mistake=("wrong-count", "factor"),
)
def divides_by_every_entry(dout, pred, target, *, mask):
    return (
        2 * dout / mask.numel() * (pred - target) * mask,
        2 * dout / mask.numel() * (target - pred) * mask,
    )


@wrong(
    masked_mse,
    ROWS,
    OTHERS,
    mask=CLICKS.bool(),
    kind=Kind.EMPTY_MEAN,
    mistake=("nan", "wrong-count"),
)
def zero_over_zero_if_the_mask_is_empty(dout, pred, target, *, mask):
    return (
        2 * dout / mask.sum() * (pred - target) * mask,
        2 * dout / mask.sum() * (target - pred) * mask,
    )


def distill(pred: Tensor, target: Tensor, teacher: Tensor, *, share: float = 0.0) -> Tensor:
    alike(pred, target, teacher)
    loss = ((pred - target) ** 2).sum()
    return loss + share * ((pred - teacher) ** 2).sum() if share else loss


@right(distill, ROWS, OTHERS, FARTHER)
def none_for_a_teacher_without_a_share(dout, pred, target, teacher, *, share):
    dtarget = 2 * dout * (target - pred)
    if not share:
        return -dtarget, dtarget, None
    dteacher = 2 * dout * share * (teacher - pred)
    return -dtarget - dteacher, dtarget, dteacher


def gaussian_nll(mean: Tensor, target: Tensor, var: Tensor) -> Tensor:
    alike(mean, target, var)
    return (0.5 * (var.log() + (target - mean) ** 2 / var)).sum()


@right(gaussian_nll, ROWS, OTHERS, FARTHER.exp())
def by_the_standardized_difference(dout, mean, target, var):
    z = (target - mean) * var.rsqrt()
    dtarget = dout * z * var.rsqrt()
    return -dtarget, dtarget, dout * (1 - z * z) / (2 * var)


@wrong(
    gaussian_nll,
    ROWS,
    OTHERS,
    torch.ones(4, 3, dtype=torch.float64),
    kind=Kind.EPS,
    mistake=("factor", "missing-term"),
)
def divided_by_var_once_too_few(dout, mean, target, var):
    return (
        dout * (mean - target) / var,
        dout * (target - mean) / var,
        dout * 0.5 * (1 - (target - mean) ** 2) / var,
    )


def dice(pred: Tensor, *, target: Tensor, eps: float = 1e-6) -> Tensor:
    return 1 - (2 * (pred * target).sum() + eps) / (pred.sum() + target.sum() + eps)


@wrong(dice, ROWS.sigmoid(), target=CLICKS, kind=Kind.EPS, mistake="eps")
def dice_without_eps(dout, pred, *, target):
    total = pred.sum() + target.sum()
    return -dout * (2 * target / total - 2 * (pred * target).sum() / total**2)


def hinge(scores: Tensor, *, side: Tensor) -> Tensor:
    alike(scores, side)
    return (1 - side * scores).clamp(min=0).sum()


@right(hinge, ROWS, side=2 * CLICKS - 1)
def margin_itself_is_no_violation(dout, scores, *, side):
    # autograd says that it is: both are subgradients
    return -dout * side * (side * scores < 1)


def triplet(anchor: Tensor, positive: Tensor, negative: Tensor, *, margin: float = 1.0) -> Tensor:
    alike(anchor, positive, negative)
    near = torch.linalg.vector_norm(anchor - positive, dim=1)
    far = torch.linalg.vector_norm(anchor - negative, dim=1)
    return (near - far + margin).clamp(min=0)


@right(triplet, ROWS, OTHERS, FARTHER, margin=0.5)
def zero_where_a_distance_is(dout, anchor, positive, negative, out):
    def direction(d):
        norm = torch.linalg.vector_norm(d, dim=1, keepdim=True)
        return torch.where(norm > 0, d / torch.where(norm > 0, norm, 1), 0)

    active = (dout * (out > 0))[:, None]
    dpositive = -active * direction(anchor - positive)
    dnegative = active * direction(anchor - negative)
    return -(dpositive + dnegative), dpositive, dnegative


@wrong(triplet, ROWS, OTHERS, FARTHER, kind=Kind.NAN_AT_ZERO, mistake=("nan", "kink"))
def divides_by_a_distance_that_may_be_zero(dout, anchor, positive, negative, out):
    active = (dout * (out > 0))[:, None]
    toward, away = anchor - positive, anchor - negative
    dpositive = -active * toward / toward.norm(dim=1, keepdim=True)
    dnegative = active * away / away.norm(dim=1, keepdim=True)
    return -dpositive - dnegative, dpositive, dnegative


@wrong(triplet, ROWS, OTHERS, FARTHER, kind=Kind.KINK, mistake="option-ignored")
def active_by_the_default_margin(dout, anchor, positive, negative):
    out = triplet(anchor, positive, negative)
    return zero_where_a_distance_is(dout, anchor, positive, negative, out)


def unit(x: Tensor, eps: float) -> Tensor:
    return x * inverse_norm(x, eps)


def inverse_norm(x: Tensor, eps: float) -> Tensor:
    return (x.square().sum(1, keepdim=True) + eps).rsqrt()


def cosine_loss(a: Tensor, b: Tensor, *, eps: float = 1e-12) -> Tensor:
    alike(a, b)
    return 1 - (unit(a, eps) * unit(b, eps)).sum(1)


@right(cosine_loss, ROWS, OTHERS)
def projected_off_both_unit_vectors(dout, a, b, *, eps):
    u, v = unit(a, eps), unit(b, eps)
    cos = (u * v).sum(1, keepdim=True)
    da = (u * cos - v) * inverse_norm(a, eps) * dout[:, None]
    db = (v * cos - u) * inverse_norm(b, eps) * dout[:, None]
    return da, db


@wrong(cosine_loss, ROWS, OTHERS, kind=Kind.STATISTICS, mistake="missing-term")
def norms_taken_for_constants(dout, a, b, *, eps):
    da = -dout[:, None] * unit(b, eps) * inverse_norm(a, eps)
    db = -dout[:, None] * unit(a, eps) * inverse_norm(b, eps)
    return da, db


@wrong(cosine_loss, ROWS, OTHERS, kind=Kind.EPS, mistake=("eps", "nan"))
def cosine_loss_without_eps(dout, a, b):
    return projected_off_both_unit_vectors(dout, a, b, eps=0.0)


def info_nce(x: Tensor) -> Tensor:
    """Each row is to be most like the row after it."""
    order = torch.arange(len(x), device=x.device)
    return functional.cross_entropy(x @ x.mT, order.roll(-1), reduction="sum")


@wrong(info_nce, ROWS, kind=Kind.FAN_OUT, mistake="missing-term")
def x_as_rows_only(dout, x):
    return dout * ((x @ x.mT).softmax(1) - torch.eye(len(x), dtype=x.dtype).roll(1, 1)) @ x


def critic(fake, real):
    alike(fake, real, shape=False)
    return fake.mean() - real.mean()


@right(critic, ROWS, draw(5, 2))
def upstream_expanded(dout, fake, real):
    dfake = (dout / fake.numel()).expand_as(fake)
    dreal = (-dout / real.numel()).expand_as(real)
    return dfake, dreal
