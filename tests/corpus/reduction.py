"""Sums, means, products, extrema and order statistics, along a dimension or over everything."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, tensor

from backprop_ops import Kept, sum_to
from tests.corpus import right, wrong
from tests.corpus.kinds import Kind
from tests.corpus.samples import draw, draws, positive

X, Y = draws((3, 4), (3, 4))
MASK = draw(3, 4, seed=1) > 0
ALL = torch.ones(3, 4, dtype=torch.bool)


class Chosen(NamedTuple):
    out: Tensor
    index: Kept


def spread_out(values: Tensor, x: Tensor) -> Tensor:
    """One value a row, for every entry of the row."""
    return values.unsqueeze(-1).expand_as(x)


def at_index(values: Tensor, index: Tensor, x: Tensor) -> Tensor:
    """Zeros of x's shape, with one value a row at index."""
    return torch.zeros_like(x).scatter(-1, index.unsqueeze(-1), values.unsqueeze(-1))


def reversed_cumsum(x: Tensor) -> Tensor:
    return x.flip(-1).cumsum(-1).flip(-1)


# Sums and moments.


def total(x: Tensor, *, dim: int = -1) -> Tensor:
    return x.sum(dim)


@right(total, X, dim=0)
def a_view_of_the_upstream(dout, x, *, dim):
    return dout.unsqueeze(dim).expand_as(x)


@wrong(total, draw(4, 4), dim=-1, kind=Kind.BROADCAST, mistake=("wrong-axis", "option-ignored"))
def dimension_put_back_last(dout, x):
    return dout.unsqueeze(-1).expand(x.shape)


def total_keepdim(x: Tensor, *, keepdim: bool = False) -> Tensor:
    return x.sum(-1, keepdim=keepdim)


@wrong(total_keepdim, X, kind=Kind.BROADCAST, mistake=("option-ignored", "shape"))
def keepdim_not_looked_at(dout, x):
    return dout.unsqueeze(-1) * torch.ones_like(x)


def mean(x: Tensor, *, dim: int = -1) -> Tensor:
    return x.mean(dim)


@wrong(mean, draw(4, 4), kind=Kind.MEAN_COUNT, mistake="wrong-count")
def rows_counted_for_the_columns(dout, x, *, dim):
    return (dout / x.shape[0]).unsqueeze(dim).expand_as(x)


@wrong(mean, X, kind=Kind.UPSTREAM_LOST, mistake="upstream-collapsed")
def mean_of_the_upstream_for_every_row(dout, x, *, dim):
    return (dout.mean() / x.shape[dim]).expand_as(x)


def mean_over(x: Tensor, *, dim: tuple[int, ...]) -> Tensor:
    return x.mean(dim)


@wrong(mean_over, draw(2, 6, 1), dim=(1, 2), kind=Kind.MEAN_COUNT, mistake="wrong-count")
def only_the_first_counted(dout, x):
    return (dout / x.shape[1])[:, None, None].expand_as(x)


def mean_of_all(x):
    return x.mean()


@right(mean_of_all, X)
def one_number_expanded(dout, x):
    return (dout / x.numel()).expand(x.shape)


@wrong(mean_of_all, X, kind=Kind.MEAN_COUNT, mistake=("hard-coded-size", "wrong-count"))
def divided_by_twelve(dout, x):
    return (dout / 12).expand_as(x)


@wrong(mean_of_all, X, kind=Kind.UPSTREAM_LOST, mistake="upstream-ignored")
def upstream_taken_for_one(dout, x):
    return torch.full_like(x, 1 / x.numel())


def masked_mean(x: Tensor, *, mask: Tensor) -> Tensor:
    """The mean of the entries where mask is true; 0 where it is true nowhere."""
    return (x * mask).sum() / mask.sum().clamp(min=1)


@right(masked_mean, X, mask=MASK)
def selected_and_divided_by_one_at_least(dout, x, *, mask):
    return sum_to(torch.where(mask, dout / max(int(mask.sum()), 1), torch.zeros_like(x)), x.shape)


@wrong(masked_mean, X, mask=ALL, kind=Kind.MEAN_COUNT, mistake="wrong-count")
def all_entries_counted(dout, x, *, mask):
    return dout * mask / x.numel()


@wrong(masked_mean, X, mask=ALL, kind=Kind.IGNORED_ROWS, mistake=("option-ignored", "ignored-rows"))
def entries_left_out_get_their_share(dout, x, *, mask):
    return (dout / mask.sum().clamp(min=1)).expand_as(x)


@wrong(masked_mean, X, mask=MASK, kind=Kind.EMPTY_MEAN, mistake="nan")
def nothing_selected_is_0_over_0(dout, *, mask):
    return dout * mask / mask.sum()


def weighted_mean(x: Tensor, w: Tensor) -> Tensor:
    return (x * w).sum(-1) / w.expand_as(x).sum(-1)


@right(weighted_mean, X, positive(3, 4, seed=1))
def through_the_output(dout, x, w, out):
    share = spread_out(dout / w.expand_as(x).sum(-1), x)
    return share * w, sum_to(share * (x - out.unsqueeze(-1)), w.shape)


@wrong(
    weighted_mean,
    X,
    positive(3, 4, seed=1),
    kind=Kind.STATISTICS,
    mistake=("missing-mean-term", "missing-term"),
)
def sum_of_the_weights_taken_for_a_constant(dout, x, w):
    share = spread_out(dout / w.sum(-1), x)
    return share * w, share * x


def var(x: Tensor, *, dim: int = -1, correction: int = 1) -> Tensor:
    deviation = x - x.mean(dim, keepdim=True)
    return (deviation * deviation).sum(dim) / (x.shape[dim] - correction)


def var_gradient(dout: Tensor, x: Tensor, dim: int, count: int) -> Tensor:
    return 2 * dout.unsqueeze(dim) * (x - x.mean(dim, keepdim=True)) / count


@right(var, draw(3, 5), correction=0)
def centred_a_second_time(dout, x, *, dim, correction):
    return (
        x - x.mean(dim, keepdim=True) - (x - x.mean(dim, keepdim=True)).mean(dim, keepdim=True)
    ) * (2 * dout.unsqueeze(dim) / (x.shape[dim] - correction))


@wrong(var, draw(3, 5), kind=Kind.EPS, mistake="bessel")
def n_for_n_minus_correction(dout, x, *, dim, correction):
    return var_gradient(dout, x, dim, x.shape[dim])


@wrong(var, draw(3, 5), kind=Kind.EPS, mistake=("option-ignored", "bessel"))
def n_minus_1_whatever_the_correction(dout, x, *, dim, correction):
    return var_gradient(dout, x, dim, x.shape[dim] - 1)


@wrong(var, draw(4, 4), kind=Kind.MEAN_COUNT, mistake="wrong-count")
def n_read_off_the_other_dimension(dout, x, *, dim, correction):
    return var_gradient(dout, x, dim, x.shape[0] - correction)


def std_of_rows(x: Tensor) -> Tensor:
    return x.std(-1, correction=0)


@right(std_of_rows, draw(3, 5))
def equal_entries_apart(dout, x, out):
    scale = torch.where(out == 0, 0, dout / torch.where(out == 0, 1, out * x.shape[-1]))
    return spread_out(scale, x) * (x - x.mean(-1, keepdim=True))


@wrong(std_of_rows, draw(3, 5), kind=Kind.NAN_AT_ZERO, mistake="nan")
def divides_by_zero_where_entries_are_equal(dout, x, out):
    return spread_out(dout / (out * x.shape[-1]), x) * (x - x.mean(-1, keepdim=True))


@wrong(std_of_rows, draw(3, 5, dtype=torch.float32), kind=Kind.EPS, mistake="eps")
def guarded_by_1e_8(dout, x, out):
    return spread_out(dout / (out * x.shape[-1] + 1e-8), x) * (x - x.mean(-1, keepdim=True))


class Moments(NamedTuple):
    mean: Tensor
    var: Tensor


def moments(x: Tensor) -> Moments:
    """The mean and the uncorrected variance of each row."""
    return Moments(x.mean(-1), x.var(-1, correction=0))


@right(moments, draw(3, 5))
def both_in_one_expression(dmean, dvar, x, mean):
    n = x.shape[-1]
    return (dmean.unsqueeze(-1) + 2 * dvar.unsqueeze(-1) * (x - mean.unsqueeze(-1))) / n


@wrong(
    moments,
    draw(3, 5),
    kind=Kind.MISSING,
    mistake=("missing-term", "upstream-ignored", "missing-mean-term"),
)
def upstream_of_the_mean_not_used(dmean, dvar, x, mean):
    return 2 * dvar.unsqueeze(-1) * (x - mean.unsqueeze(-1)) / x.shape[-1]


def mean_square_error(x: Tensor, target: Tensor) -> Tensor:
    return ((x - target) ** 2).mean()


@right(mean_square_error, X, Y)
def one_is_the_others_negative(dout, x, target):
    difference = target - x
    dtarget = difference * (dout * 2 / difference.numel())
    return sum_to(-dtarget, x.shape), sum_to(dtarget, target.shape)


@wrong(
    mean_square_error,
    *draws((6, 1), (6, 1)),
    kind=Kind.MEAN_COUNT,
    mistake=("wrong-count", "factor"),
)
def rows_counted_not_entries(dout, x, target):
    return dout * 2 * (x - target) / x.shape[0], dout * 2 * (target - x) / x.shape[0]


@wrong(mean_square_error, X, Y, kind=Kind.MISSING, mistake="none-gradient")
def nothing_for_the_target(dout, x, target):
    return dout * 2 * (x - target) / x.numel(), None


def dot(x: Tensor, y: Tensor) -> Tensor:
    return (x * y).sum(-1)


@wrong(dot, X, Y, kind=Kind.MISSING, mistake="swapped-inputs")
def x_and_y_exchanged(dout, x, y):
    return dout.unsqueeze(-1) * x, dout.unsqueeze(-1) * y


def differences(x: Tensor) -> Tensor:
    return x.diff(dim=-1)


@right(differences, draw(3, 5))
def upstream_padded_at_either_end(dout, x):
    return -torch.nn.functional.pad(dout, (1, 1)).diff(dim=-1)[..., : x.shape[-1]]


@wrong(
    differences, draw(3, 5), kind=Kind.SIZES, mistake=("off-by-one", "ignored-rows", "missing-term")
)
def last_upstream_left_out(dout):
    return torch.nn.functional.pad(dout, (1, 0)) - torch.nn.functional.pad(dout[..., :-1], (0, 2))


def repeat_heads(x: Tensor, *, times: int = 2) -> Tensor:
    return x.repeat_interleave(times, 0)


@right(repeat_heads, draw(2, 5), times=3)
def copies_summed(dout, x, *, times):
    return dout.reshape(len(x), times, *x.shape[1:]).sum(1)


@wrong(
    repeat_heads,
    draw(1, 5),
    kind=Kind.SHARED_HEADS,
    mistake=("transposed", "wrong-axis", "repeated-index"),
)
def summed_as_if_the_whole_were_repeated(dout, x, *, times):  # which is the same for one head
    return dout.reshape(times, *x.shape).sum(0)


def average_pairs(x: Tensor) -> Tensor:
    """The mean of each two neighbours; a last one without a neighbour is left out."""
    return x.unfold(-1, 2, 2).mean(-1)


@wrong(average_pairs, draw(3, 6), kind=Kind.SIZES, mistake=("shape", "off-by-one", "ignored-rows"))
def last_one_without_a_neighbour_missing(dout):
    return (dout / 2).repeat_interleave(2, -1)


# Norms, products and exponentials.


def norm(x: Tensor, *, p: float = 2.0) -> Tensor:
    if not 1 <= p < math.inf:
        raise ValueError(f"p must lie between 1 and infinity, got {p}")
    return torch.linalg.vector_norm(x, p, -1)


@right(norm, X, p=3.0)
def zero_vector_apart(dout, x, out, *, p):
    """Zero for the zero vector, as torch takes it."""
    scale = torch.where(out == 0, 1, out).unsqueeze(-1)
    return dout.unsqueeze(-1) * x.sign() * torch.where(x == 0, 0, (x / scale).abs() ** (p - 1))


@wrong(norm, X, kind=Kind.NAN_AT_ZERO, mistake="nan")
def x_over_out_for_the_zero_vector(dout, x, out, *, p):
    return spread_out(dout, x) * x.sign() * (x.abs() / spread_out(out, x)) ** (p - 1)


@wrong(norm, X, p=2.0, kind=Kind.VARIANT, mistake="option-ignored")
def euclidean_whatever_p(dout, x, out):
    return torch.where(spread_out(out, x) == 0, 0, spread_out(dout, x) * x / spread_out(out, x))


@wrong(norm, positive(3, 4), p=3.0, kind=Kind.VARIANT, mistake="sign")
def without_the_sign_of_x(dout, x, out, *, p):
    return spread_out(dout, x) * (x.abs() / spread_out(out, x)) ** (p - 1)


def norm_of_largest(x: Tensor) -> Tensor:
    return x.abs().amax(-1)


@wrong(norm_of_largest, X, kind=Kind.TIES, mistake="ties")
def norm_of_largest_every_tie_in_full(dout, x, out):
    return spread_out(dout, x) * x.sign() * (x.abs() == spread_out(out, x))


def prod(x: Tensor) -> Tensor:
    return x.prod(-1)


@right(prod, X)
def from_both_sides(dout, x):
    """The product of those before times the product of those after: no division."""
    one = torch.ones_like(x[..., :1])
    before = torch.cat((one, x[..., :-1]), -1).cumprod(-1)
    after = torch.cat((one, x.flip(-1)[..., :-1]), -1).cumprod(-1).flip(-1)
    return spread_out(dout, x) * before * after


@wrong(prod, X, kind=Kind.PRODUCT, mistake="nan")
def out_over_x(dout, x, out):
    return spread_out(dout * out, x) / x


@wrong(prod, X, kind=Kind.PRODUCT, mistake=("nan", "ties", "zero-gradient"))
def wrong_for_a_second_zero(dout, x, out):
    """With two zeros, the product of the others leaves out both."""
    zero = x == 0
    filled = x.masked_fill(zero, 1)
    others = torch.where(zero, spread_out(filled.prod(-1), x), spread_out(out, x) / filled)
    return spread_out(dout, x) * others


def cumsum(x: Tensor, *, dim: int = -1) -> Tensor:
    return x.cumsum(dim)


@right(cumsum, X, dim=0)
def a_triangle_of_ones(dout, *, dim):
    return (dout.movedim(dim, -1) @ dout.new_ones(2 * (dout.shape[dim],)).tril()).movedim(-1, dim)


@wrong(cumsum, X, kind=Kind.VARIANT, mistake=("transposed", "wrong-axis", "off-by-one"))
def not_reversed(dout, *, dim):
    return dout.cumsum(dim)


@wrong(cumsum, X, kind=Kind.SIZES, mistake=("off-by-one", "missing-term"))
def own_output_left_out(dout, *, dim):
    return dout.flip(dim).cumsum(dim).flip(dim) - dout


@wrong(cumsum, X, dim=1, kind=Kind.BROADCAST, mistake=("wrong-axis", "option-ignored"))
def along_the_last_dimension_whatever_dim(dout):
    return reversed_cumsum(dout)


def cumprod(x: Tensor) -> Tensor:
    return x.cumprod(-1)


@right(cumprod, X)
def entry_by_entry(dout, x):
    """Each entry's gradient from the product in which it is replaced by one."""
    dx = torch.zeros_like(x)
    for i in range(x.shape[-1]):
        others = x.clone()
        others[..., i] = 1
        dx[..., i] = (dout * others.cumprod(-1))[..., i:].sum(-1)
    return dx


@wrong(cumprod, X, kind=Kind.PRODUCT, mistake="nan")
def divided_by_x(dout, x, out):
    return reversed_cumsum(dout * out) / x


def logsumexp(x: Tensor) -> Tensor:
    return x.logsumexp(-1)


@right(logsumexp, X)
def x_minus_the_output(dout, x, out):
    return dout.unsqueeze(-1) * (x - out.unsqueeze(-1)).exp()


@wrong(logsumexp, X, kind=Kind.OVERFLOW, mistake=("overflow", "nan"))
def maximum_not_subtracted(dout, x):
    return spread_out(dout, x) * x.exp() / x.exp().sum(-1, keepdim=True)


def logcumsumexp(x: Tensor) -> Tensor:
    upto = torch.ones(2 * x.shape[-1:], dtype=torch.bool, device=x.device).tril()
    return x.unsqueeze(-2).masked_fill(~upto, -math.inf).logsumexp(-1)


@right(logcumsumexp, X)
def every_pair(dout, x, out):
    """Every exponential that is taken is of a number below zero."""
    later = torch.ones(2 * x.shape[-1:], dtype=torch.bool, device=x.device).triu()
    share = (x.unsqueeze(-1) - out.unsqueeze(-2)).masked_fill(~later, -math.inf).exp()
    return (share * dout.unsqueeze(-2)).sum(-1)


@wrong(logcumsumexp, X, kind=Kind.OVERFLOW, mistake=("overflow", "nan"))
def exponentials_apart(dout, x, out):
    return x.exp() * reversed_cumsum(dout * (-out).exp())


# Extrema and order statistics.


def amax(x: Tensor) -> Tensor:
    return x.amax(-1)


@right(amax, X)
def ties_split_evenly(dout, x, out):
    hit = (x == out.unsqueeze(-1)).to(x.dtype)
    return dout.unsqueeze(-1) * (hit / hit.sum(-1, keepdim=True))


@right(amax, X)
def amax_ties_to_the_first(dout, x):
    return at_index(dout, x.argmax(-1), x)


@right(amax, X)
def ties_to_the_last(dout, x):
    return at_index(dout, x.shape[-1] - 1 - x.flip(-1).argmax(-1), x)


@wrong(amax, X, kind=Kind.TIES, mistake="ties")
def amax_every_tie_in_full(dout, x, out):
    return spread_out(dout, x) * (x == spread_out(out, x))


@wrong(amax, X, kind=Kind.TIES, mistake="ties")
def ties_compared_with_isclose(dout, x, out):
    return spread_out(dout, x) * torch.isclose(x, spread_out(out, x))


@wrong(amax, draw(3, 4, dtype=torch.float32), kind=Kind.TIES, mistake="ties")
def nearly_equal_ones_share(dout, x, out):  # right for ties, wrong for two that differ by little
    return ties_split_evenly(
        dout, torch.where(x.isclose(out.unsqueeze(-1)), out.unsqueeze(-1), x), out
    )


def largest(x: Tensor) -> Tensor:
    """The largest entry of all."""
    return x.max()


@right(largest, X)
def at_the_argmax(dout, x):
    dx = torch.zeros(x.numel(), dtype=x.dtype, device=x.device)
    dx[x.argmax()] = dout
    return dx.reshape(x.shape)


def spread(x: Tensor) -> Tensor:
    return x.amax(-1) - x.amin(-1)


@right(spread, X)
def spread_ties_to_the_first(dout, x):
    return at_index(dout, x.argmax(-1), x) - at_index(dout, x.argmin(-1), x)


@wrong(spread, X, kind=Kind.TIES, mistake="ties")
def spread_every_tie_in_full(dout, x):
    return dout.unsqueeze(-1) * (
        (x == x.amax(-1, keepdim=True)).to(x) - (x == x.amin(-1, keepdim=True)).to(x)
    )


def median(x: Tensor) -> Chosen:
    """The middle one of each row, the lower of two."""
    return Chosen(*x.median(-1))


@right(median, X)
def at_the_kept_index(dout, x, index):
    return at_index(dout, index, x)


@wrong(median, draw(3, 5), kind=Kind.TIES, mistake=("off-by-one", "ties"))
def upper_one_in_the_middle(dout, x):
    return at_index(dout, x.argsort(-1)[..., x.shape[-1] // 2], x)


def top_total(x: Tensor, *, k: int = 2) -> Tensor:
    return x.topk(k, -1).values.sum(-1)


@right(top_total, draw(3, 5))
def scattered(dout, x, *, k):
    chosen = x.topk(k, -1).indices
    return torch.zeros_like(x).scatter(-1, chosen, dout.unsqueeze(-1).expand(chosen.shape))


@wrong(top_total, draw(3, 5), kind=Kind.TIES, mistake="ties")
def everything_from_the_kth_up(dout, x, *, k):
    return spread_out(dout, x) * (x >= x.topk(k, -1).values[..., -1:])


def sort(x: Tensor) -> Chosen:
    return Chosen(*x.sort(-1))


@right(sort, X)
def by_the_argsort_of_the_order(dout, index):
    return dout.gather(-1, index.argsort(-1))


@wrong(
    sort,
    draw(5, 2),
    kind=Kind.REPEATED_INDEX,
    mistake=("transposed", "swapped-inputs", "repeated-index"),
)
def gathered_where_it_was_to_be_scattered(dout, index):
    # the same where the order is its own inverse, as of two
    return dout.gather(-1, index)


def pool(x: Tensor) -> Tensor:
    """The largest of each three neighbours, every second time: windows share an entry."""
    return x.unfold(-1, 3, 2).amax(-1)


@right(pool, draw(2, 9))
def added_at_each_windows_first_largest(dout, x):
    starts = 2 * torch.arange(dout.shape[-1], device=x.device)
    index = starts + x.unfold(-1, 3, 2).argmax(-1)
    return torch.zeros_like(x).scatter_add(-1, index, dout)


@wrong(
    pool,
    tensor([[3.0, 1.0, 2.0, 5.0, 0.0, 1.0, 4.0], [1.0, 7.0, 3.0, 4.0, 2.0, 0.0, 6.0]]),
    kind=Kind.REPEATED_INDEX,
    mistake="repeated-index",
)
def entry_of_two_windows_assigned(dout, x):
    """It gets the gradient of the later window alone."""
    dx = torch.zeros_like(x)
    for i, window in enumerate(x.unfold(-1, 3, 2).unbind(-2)):
        index = 2 * i + window.argmax(-1, keepdim=True)
        dx.scatter_(-1, index, dout[..., i : i + 1])
    return dx
