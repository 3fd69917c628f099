"""Sums, means, products, extrema and order statistics, along a dimension or over everything."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, tensor

from backprop_ops import Kept, sum_to
from tests.corpus import Right, Wrong


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def positive(*shape: int, seed: int = 0) -> Tensor:
    return draw(*shape, seed=seed).abs() + 0.5


# The forwards: sums and moments.


def total(x: Tensor, *, dim: int = -1) -> Tensor:
    return x.sum(dim)


def total_keepdim(x: Tensor, *, keepdim: bool = False) -> Tensor:
    return x.sum(-1, keepdim=keepdim)


def mean(x: Tensor, *, dim: int = -1) -> Tensor:
    return x.mean(dim)


def mean_over(x: Tensor, *, dim: tuple[int, ...]) -> Tensor:
    return x.mean(dim)


def mean_of_all(x):
    return x.mean()


def masked_mean(x: Tensor, *, mask: Tensor) -> Tensor:
    """The mean of the entries where mask is true; 0 where it is true nowhere."""
    return (x * mask).sum() / mask.sum().clamp(min=1)


def weighted_mean(x: Tensor, w: Tensor) -> Tensor:
    return (x * w).sum(-1) / w.expand_as(x).sum(-1)


def var(x: Tensor, *, dim: int = -1, correction: int = 1) -> Tensor:
    deviation = x - x.mean(dim, keepdim=True)
    return (deviation * deviation).sum(dim) / (x.shape[dim] - correction)


def std_of_rows(x: Tensor) -> Tensor:
    return x.std(-1, correction=0)


class Moments(NamedTuple):
    mean: Tensor
    var: Tensor


def moments(x: Tensor) -> Moments:
    """The mean and the uncorrected variance of each row."""
    return Moments(x.mean(-1), x.var(-1, correction=0))


def mean_square_error(x: Tensor, target: Tensor) -> Tensor:
    return ((x - target) ** 2).mean()


def dot(x: Tensor, y: Tensor) -> Tensor:
    return (x * y).sum(-1)


def differences(x: Tensor) -> Tensor:
    return x.diff(dim=-1)


def repeat_heads(x: Tensor, *, times: int = 2) -> Tensor:
    return x.repeat_interleave(times, 0)


def average_pairs(x: Tensor) -> Tensor:
    """The mean of each two neighbours; a last one without a neighbour is left out."""
    return x.unfold(-1, 2, 2).mean(-1)


# Norms, products and exponentials.


def norm(x: Tensor, *, p: float = 2.0) -> Tensor:
    if not 1 <= p < math.inf:
        raise ValueError(f"p must lie between 1 and infinity, came {p}")
    return torch.linalg.vector_norm(x, p, -1)


def norm_of_largest(x: Tensor) -> Tensor:
    return x.abs().amax(-1)


def prod(x: Tensor) -> Tensor:
    return x.prod(-1)


def cumsum(x: Tensor, *, dim: int = -1) -> Tensor:
    return x.cumsum(dim)


def cumprod(x: Tensor) -> Tensor:
    return x.cumprod(-1)


def logsumexp(x: Tensor) -> Tensor:
    return x.logsumexp(-1)


def logcumsumexp(x: Tensor) -> Tensor:
    upto = torch.ones(2 * x.shape[-1:], dtype=torch.bool, device=x.device).tril()
    return x.unsqueeze(-2).masked_fill(~upto, -math.inf).logsumexp(-1)


# Extrema and order statistics.


def amax(x: Tensor) -> Tensor:
    return x.amax(-1)


def largest(x: Tensor) -> Tensor:
    """The largest entry of all."""
    return x.max()


def spread(x: Tensor) -> Tensor:
    return x.amax(-1) - x.amin(-1)


class Chosen(NamedTuple):
    out: Tensor
    index: Kept


def median(x: Tensor) -> Chosen:
    """The middle one of each row, the lower of two."""
    return Chosen(*x.median(-1))


def top_total(x: Tensor, *, k: int = 2) -> Tensor:
    return x.topk(k, -1).values.sum(-1)


def sort(x: Tensor) -> Chosen:
    return Chosen(*x.sort(-1))


def pool(x: Tensor) -> Tensor:
    """The largest of each three neighbours, every second time: windows share an entry."""
    return x.unfold(-1, 3, 2).amax(-1)


# Backwards that take more than an expression.


def spread_out(values: Tensor, x: Tensor) -> Tensor:
    """One value a row, for every entry of the row."""
    return values.unsqueeze(-1).expand_as(x)


def at_index(values: Tensor, index: Tensor, x: Tensor) -> Tensor:
    """Zeros of x's shape, with one value a row at index."""
    return torch.zeros_like(x).scatter(-1, index.unsqueeze(-1), values.unsqueeze(-1))


def reversed_cumsum(x: Tensor) -> Tensor:
    return x.flip(-1).cumsum(-1).flip(-1)


def weighted_mean_constant_sum(dout: Tensor, x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    share = spread_out(dout / w.sum(-1), x)
    return share * w, share * x


def weighted_mean_by_output(
    dout: Tensor, x: Tensor, w: Tensor, out: Tensor
) -> tuple[Tensor, Tensor]:
    share = spread_out(dout / w.expand_as(x).sum(-1), x)
    return share * w, sum_to(share * (x - out.unsqueeze(-1)), w.shape)


def var_backward(count):
    """The variance's backward with ``count(x, dim, correction)`` for its denominator."""

    def backward(dout: Tensor, x: Tensor, *, dim: int, correction: int) -> Tensor:
        deviation = x - x.mean(dim, keepdim=True)
        return 2 * dout.unsqueeze(dim) * deviation / count(x, dim, correction)

    return backward


def std_divided(dout: Tensor, x: Tensor, out: Tensor) -> Tensor:
    return spread_out(dout / (out * x.shape[-1]), x) * (x - x.mean(-1, keepdim=True))


def std_guarded(dout: Tensor, x: Tensor, out: Tensor) -> Tensor:
    return spread_out(dout / (out * x.shape[-1] + 1e-8), x) * (x - x.mean(-1, keepdim=True))


def std_of_equal_entries_apart(dout: Tensor, x: Tensor, out: Tensor) -> Tensor:
    scale = torch.where(out == 0, 0, dout / torch.where(out == 0, 1, out * x.shape[-1]))
    centred = spread_out(scale, x) * (x - x.mean(-1, keepdim=True))
    return centred


def norm_without_sign(dout: Tensor, x: Tensor, out: Tensor, *, p: float) -> Tensor:
    return spread_out(dout, x) * (x.abs() / spread_out(out, x)) ** (p - 1)


def norm_zero_apart(dout: Tensor, x: Tensor, out: Tensor, *, p: float) -> Tensor:
    """Zero for the zero vector, as torch takes it."""
    scale = torch.where(out == 0, 1, out).unsqueeze(-1)
    return dout.unsqueeze(-1) * x.sign() * torch.where(x == 0, 0, (x / scale).abs() ** (p - 1))


def prod_one_zero(dout: Tensor, x: Tensor, out: Tensor) -> Tensor:
    """Right for one zero in a row; with two of them the others' product is not zero but taken."""
    zero = x == 0
    filled = x.masked_fill(zero, 1)
    others = torch.where(zero, spread_out(filled.prod(-1), x), spread_out(out, x) / filled)
    return spread_out(dout, x) * others


def prod_from_both_sides(dout: Tensor, x: Tensor) -> Tensor:
    """The product of those before times the product of those after: no division."""
    one = torch.ones_like(x[..., :1])
    before = torch.cat((one, x[..., :-1]), -1).cumprod(-1)
    after = torch.cat((one, x.flip(-1)[..., :-1]), -1).cumprod(-1).flip(-1)
    return spread_out(dout, x) * before * after


def cumprod_entry_by_entry(dout: Tensor, x: Tensor) -> Tensor:
    """Each entry's gradient from the product in which it is replaced by one."""
    dx = torch.zeros_like(x)
    for i in range(x.shape[-1]):
        others = x.clone()
        others[..., i] = 1
        dx[..., i] = (dout * others.cumprod(-1))[..., i:].sum(-1)
    return dx


def logcumsumexp_pairwise(dout: Tensor, x: Tensor, out: Tensor) -> Tensor:
    """Every exponential that is taken is of a number below zero."""
    later = torch.ones(2 * x.shape[-1:], dtype=torch.bool, device=x.device).triu()
    share = (x.unsqueeze(-1) - out.unsqueeze(-2)).masked_fill(~later, -math.inf).exp()
    return (share * dout.unsqueeze(-2)).sum(-1)


def median_upper(dout: Tensor, x: Tensor) -> Tensor:
    return at_index(dout, x.argsort(-1)[..., x.shape[-1] // 2], x)


def top_total_by_threshold(dout: Tensor, x: Tensor, *, k: int) -> Tensor:
    return spread_out(dout, x) * (x >= x.topk(k, -1).values[..., -1:])


def top_total_scattered(dout: Tensor, x: Tensor, *, k: int) -> Tensor:
    chosen = x.topk(k, -1).indices
    return torch.zeros_like(x).scatter(-1, chosen, dout.unsqueeze(-1).expand(chosen.shape))


def largest_at_argmax(dout: Tensor, x: Tensor) -> Tensor:
    dx = torch.zeros(x.numel(), dtype=x.dtype, device=x.device)
    dx[x.argmax()] = dout
    return dx.reshape(x.shape)


def amax_last(dout: Tensor, x: Tensor) -> Tensor:
    return at_index(dout, x.shape[-1] - 1 - x.flip(-1).argmax(-1), x)


def amax_evenly(dout: Tensor, x: Tensor, out: Tensor) -> Tensor:
    hit = (x == out.unsqueeze(-1)).to(x.dtype)
    return dout.unsqueeze(-1) * (hit / hit.sum(-1, keepdim=True))


def spread_first(dout: Tensor, x: Tensor) -> Tensor:
    return at_index(dout, x.argmax(-1), x) - at_index(dout, x.argmin(-1), x)


def pool_assigned(dout: Tensor, x: Tensor) -> Tensor:
    """An entry that is the largest of two windows gets the later one's alone."""
    dx = torch.zeros_like(x)
    for i, window in enumerate(x.unfold(-1, 3, 2).unbind(-2)):
        index = 2 * i + window.argmax(-1, keepdim=True)
        dx.scatter_(-1, index, dout[..., i : i + 1])
    return dx


def pool_added(dout: Tensor, x: Tensor) -> Tensor:
    starts = 2 * torch.arange(dout.shape[-1], device=x.device)
    index = starts + x.unfold(-1, 3, 2).argmax(-1)
    return torch.zeros_like(x).scatter_add(-1, index, dout)


def moments_backward(dmean: Tensor, dvar: Tensor, x: Tensor, mean: Tensor) -> Tensor:
    n = x.shape[-1]
    return (dmean.unsqueeze(-1) + 2 * dvar.unsqueeze(-1) * (x - mean.unsqueeze(-1))) / n


def mean_square_error_negated(dout: Tensor, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    difference = target - x
    dtarget = difference * (dout * 2 / difference.numel())
    return sum_to(-dtarget, x.shape), sum_to(dtarget, target.shape)


WRONG: dict[str, Wrong] = {
    "total: the dimension put back last wherever it was": Wrong(
        total,
        lambda dout, x: dout.unsqueeze(-1).expand(x.shape),
        (draw(4, 4),),
        {"dim": -1},
        5,
        ("wrong-axis", "option-ignored"),
    ),
    "total: keepdim not looked at": Wrong(
        total_keepdim,
        lambda dout, x: dout.unsqueeze(-1) * torch.ones_like(x),
        (draw(3, 4),),
        {},
        5,
        ("option-ignored", "shape"),
    ),
    "mean: the rows counted for the columns": Wrong(
        mean,
        lambda dout, x, *, dim: (dout / x.shape[0]).unsqueeze(dim).expand_as(x),
        (draw(4, 4),),
        {},
        1,
        "wrong-count",
    ),
    "mean over two dimensions: the first alone counted": Wrong(
        mean_over,
        lambda dout, x: (dout / x.shape[1])[:, None, None].expand_as(x),
        (draw(2, 6, 1),),
        {"dim": (1, 2)},
        1,
        "wrong-count",
    ),
    "mean of all: divided by twelve": Wrong(
        mean_of_all,
        lambda dout, x: (dout / 12).expand_as(x),
        (draw(3, 4),),
        {},
        1,
        ("hard-coded-size", "wrong-count"),
    ),
    "mean of all: the upstream taken for one": Wrong(
        mean_of_all,
        lambda dout, x: torch.full_like(x, 1 / x.numel()),
        (draw(3, 4),),
        {},
        2,
        "upstream-ignored",
    ),
    "mean: the mean of the upstream for every row": Wrong(
        mean,
        lambda dout, x, *, dim: (dout.mean() / x.shape[dim]).expand_as(x),
        (draw(3, 4),),
        {},
        2,
        "upstream-collapsed",
    ),
    "masked mean: all entries counted": Wrong(
        masked_mean,
        lambda dout, x, *, mask: dout * mask / x.numel(),
        (draw(3, 4),),
        {"mask": torch.ones(3, 4, dtype=torch.bool)},
        1,
        "wrong-count",
    ),
    "masked mean: the entries left out get their share": Wrong(
        masked_mean,
        lambda dout, x, *, mask: (dout / mask.sum().clamp(min=1)).expand_as(x),
        (draw(3, 4),),
        {"mask": torch.ones(3, 4, dtype=torch.bool)},
        12,
        ("option-ignored", "ignored-rows"),
    ),
    "masked mean: nothing selected is 0 / 0": Wrong(
        masked_mean,
        lambda dout, *, mask: dout * mask / mask.sum(),
        (draw(3, 4),),
        {"mask": draw(3, 4, seed=1) > 0},
        13,
        "nan",
    ),
    "weighted mean: the sum of the weights taken for a constant": Wrong(
        weighted_mean,
        weighted_mean_constant_sum,
        (draw(3, 4), positive(3, 4, seed=1)),
        {},
        10,
        ("missing-mean-term", "missing-term"),
    ),
    "var: n for n - correction": Wrong(
        var, var_backward(lambda x, dim, correction: x.shape[dim]), (draw(3, 5),), {}, 11, "bessel"
    ),
    "var: n - 1 whatever the correction": Wrong(
        var,
        var_backward(lambda x, dim, correction: x.shape[dim] - 1),
        (draw(3, 5),),
        {},
        11,
        ("option-ignored", "bessel"),
    ),
    "var: n read off the other dimension": Wrong(
        var,
        var_backward(lambda x, dim, correction: x.shape[0] - correction),
        (draw(4, 4),),
        {},
        1,
        "wrong-count",
    ),
    "std: divided by zero where the entries are equal": Wrong(
        std_of_rows, std_divided, (draw(3, 5),), {}, 8, "nan"
    ),
    "std: guarded by 1e-8": Wrong(
        std_of_rows, std_guarded, (draw(3, 5, dtype=torch.float32),), {}, 11, "eps"
    ),
    "moments: the mean's upstream not used": Wrong(
        moments,
        lambda dmean, dvar, x, mean: (
            2 * dvar.unsqueeze(-1) * (x - mean.unsqueeze(-1)) / x.shape[-1]
        ),
        (draw(3, 5),),
        {},
        19,
        ("missing-term", "upstream-ignored", "missing-mean-term"),
    ),
    "mean square error: the rows counted, not the entries": Wrong(
        mean_square_error,
        lambda dout, x, target: (
            dout * 2 * (x - target) / x.shape[0],
            dout * 2 * (target - x) / x.shape[0],
        ),
        (draw(6, 1), draw(6, 1, seed=1)),
        {},
        1,
        ("wrong-count", "factor"),
    ),
    "mean square error: nothing for the target": Wrong(
        mean_square_error,
        lambda dout, x, target: (dout * 2 * (x - target) / x.numel(), None),
        (draw(3, 4), draw(3, 4, seed=1)),
        {},
        19,
        "none-gradient",
    ),
    "dot: x and y exchanged": Wrong(
        dot,
        lambda dout, x, y: (dout.unsqueeze(-1) * x, dout.unsqueeze(-1) * y),
        (draw(3, 4), draw(3, 4, seed=1)),
        {},
        19,
        "swapped-inputs",
    ),
    "differences: the last upstream left out": Wrong(
        differences,
        lambda dout: (
            torch.nn.functional.pad(dout, (1, 0)) - torch.nn.functional.pad(dout[..., :-1], (0, 2))
        ),
        (draw(3, 5),),
        {},
        17,
        ("off-by-one", "ignored-rows", "missing-term"),
    ),
    "repeated heads: summed as if the whole were repeated": Wrong(
        repeat_heads,  # which is the same for one head
        lambda dout, x, *, times: dout.reshape(times, *x.shape).sum(0),
        (draw(1, 5),),
        {},
        22,
        ("transposed", "wrong-axis", "repeated-index"),
    ),
    "average of pairs: a last one without a neighbour": Wrong(
        average_pairs,
        lambda dout: (dout / 2).repeat_interleave(2, -1),
        (draw(3, 6),),
        {},
        17,
        ("shape", "off-by-one", "ignored-rows"),
    ),
    "norm: x / out for the zero vector": Wrong(
        norm,
        lambda dout, x, out, *, p: (
            spread_out(dout, x) * x.sign() * (x.abs() / spread_out(out, x)) ** (p - 1)
        ),
        (draw(3, 4),),
        {},
        8,
        "nan",
    ),
    "norm: the Euclidean one's whatever p": Wrong(
        norm,
        lambda dout, x, out: torch.where(
            spread_out(out, x) == 0, 0, spread_out(dout, x) * x / spread_out(out, x)
        ),
        (draw(3, 4),),
        {"p": 2.0},
        20,
        "option-ignored",
    ),
    "norm: without the sign of x": Wrong(
        norm, norm_without_sign, (positive(3, 4),), {"p": 3.0}, 20, "sign"
    ),
    "norm of the largest: every tie in full": Wrong(
        norm_of_largest,
        lambda dout, x, out: spread_out(dout, x) * x.sign() * (x.abs() == spread_out(out, x)),
        (draw(3, 4),),
        {},
        6,
        "ties",
    ),
    "prod: out / x": Wrong(
        prod, lambda dout, x, out: spread_out(dout * out, x) / x, (draw(3, 4),), {}, 9, "nan"
    ),
    "prod: a second zero in the row": Wrong(
        prod, prod_one_zero, (draw(3, 4),), {}, 9, ("nan", "ties", "zero-gradient")
    ),
    "cumsum: not reversed": Wrong(
        cumsum,
        lambda dout, *, dim: dout.cumsum(dim),
        (draw(3, 4),),
        {},
        20,
        ("transposed", "wrong-axis", "off-by-one"),
    ),
    "cumsum: an entry's own output left out": Wrong(
        cumsum,
        lambda dout, *, dim: dout.flip(dim).cumsum(dim).flip(dim) - dout,
        (draw(3, 4),),
        {},
        17,
        ("off-by-one", "missing-term"),
    ),
    "cumsum: along the last dimension whatever dim": Wrong(
        cumsum,
        lambda dout: reversed_cumsum(dout),
        (draw(3, 4),),
        {"dim": 1},
        5,
        ("wrong-axis", "option-ignored"),
    ),
    "cumprod: divided by x": Wrong(
        cumprod, lambda dout, x, out: reversed_cumsum(dout * out) / x, (draw(3, 4),), {}, 9, "nan"
    ),
    "logsumexp: the maximum not taken out": Wrong(
        logsumexp,
        lambda dout, x: spread_out(dout, x) * x.exp() / x.exp().sum(-1, keepdim=True),
        (draw(3, 4),),
        {},
        23,
        ("overflow", "nan"),
    ),
    "logcumsumexp: exp(x) and exp(-out) apart": Wrong(
        logcumsumexp,
        lambda dout, x, out: x.exp() * reversed_cumsum(dout * (-out).exp()),
        (draw(3, 4),),
        {},
        23,
        ("overflow", "nan"),
    ),
    "amax: every tie in full": Wrong(
        amax,
        lambda dout, x, out: spread_out(dout, x) * (x == spread_out(out, x)),
        (draw(3, 4),),
        {},
        6,
        "ties",
    ),
    "amax: ties compared with isclose": Wrong(
        amax,
        lambda dout, x, out: spread_out(dout, x) * torch.isclose(x, spread_out(out, x)),
        (draw(3, 4),),
        {},
        6,
        "ties",
    ),
    "amax: nearly equal ones share": Wrong(
        amax,  # right for ties, wrong for two that differ by little
        lambda dout, x, out: amax_evenly(
            dout, torch.where(x.isclose(out.unsqueeze(-1)), out.unsqueeze(-1), x), out
        ),
        (draw(3, 4, dtype=torch.float32),),
        {},
        6,
        "ties",
    ),
    "spread: every tie in full": Wrong(
        spread,
        lambda dout, x: (
            dout.unsqueeze(-1)
            * ((x == x.amax(-1, keepdim=True)).to(x) - (x == x.amin(-1, keepdim=True)).to(x))
        ),
        (draw(3, 4),),
        {},
        6,
        "ties",
    ),
    "median: the upper of the two in the middle": Wrong(
        median, median_upper, (draw(3, 5),), {}, 6, ("off-by-one", "ties")
    ),
    "top total: everything from the kth up": Wrong(
        top_total, top_total_by_threshold, (draw(3, 5),), {}, 6, "ties"
    ),
    "sort: gathered where it was to be scattered": Wrong(
        sort,  # the same where the order is its own inverse, as of two
        lambda dout, index: dout.gather(-1, index),
        (draw(5, 2),),
        {},
        7,
        ("transposed", "swapped-inputs", "repeated-index"),
    ),
    "pool: an entry of two windows assigned, not added to": Wrong(
        pool,
        pool_assigned,
        (tensor([[3.0, 1.0, 2.0, 5.0, 0.0, 1.0, 4.0], [1.0, 7.0, 3.0, 4.0, 2.0, 0.0, 6.0]]),),
        {},
        7,
        "repeated-index",
    ),
}


RIGHT: dict[str, Right] = {
    "total: a view of the upstream": Right(
        total, lambda dout, x, *, dim: dout.unsqueeze(dim).expand_as(x), (draw(3, 4),), {"dim": 0}
    ),
    "mean of all: one number expanded": Right(
        mean_of_all, lambda dout, x: (dout / x.numel()).expand(x.shape), (draw(3, 4),), {}
    ),
    "masked mean: selected, the count at least one": Right(
        masked_mean,
        lambda dout, x, *, mask: sum_to(
            torch.where(mask, dout / max(int(mask.sum()), 1), torch.zeros_like(x)), x.shape
        ),
        (draw(3, 4),),
        {"mask": draw(3, 4, seed=1) > 0},
    ),
    "weighted mean: through the output": Right(
        weighted_mean,
        weighted_mean_by_output,
        (draw(3, 4), positive(3, 4, seed=1)),
        {},
    ),
    "var: centred a second time": Right(
        var,
        lambda dout, x, *, dim, correction: (
            (
                x
                - x.mean(dim, keepdim=True)
                - (x - x.mean(dim, keepdim=True)).mean(dim, keepdim=True)
            )
            * (2 * dout.unsqueeze(dim) / (x.shape[dim] - correction))
        ),
        (draw(3, 5),),
        {"correction": 0},
    ),
    "std: equal entries apart": Right(std_of_rows, std_of_equal_entries_apart, (draw(3, 5),), {}),
    "moments: both in one expression": Right(moments, moments_backward, (draw(3, 5),), {}),
    "mean square error: one the other's negative": Right(
        mean_square_error, mean_square_error_negated, (draw(3, 4), draw(3, 4, seed=1)), {}
    ),
    "differences: upstream padded at either end": Right(
        differences,
        lambda dout, x: -torch.nn.functional.pad(dout, (1, 1)).diff(dim=-1)[..., : x.shape[-1]],
        (draw(3, 5),),
        {},
    ),
    "repeated heads: a dimension of the copies, summed": Right(
        repeat_heads,
        lambda dout, x, *, times: dout.reshape(len(x), times, *x.shape[1:]).sum(1),
        (draw(2, 5),),
        {"times": 3},
    ),
    "norm: the zero vector apart": Right(norm, norm_zero_apart, (draw(3, 4),), {"p": 3.0}),
    "prod: from both sides": Right(prod, prod_from_both_sides, (draw(3, 4),), {}),
    "cumsum: a triangle of ones": Right(
        cumsum,
        lambda dout, *, dim: (
            dout.movedim(dim, -1) @ dout.new_ones(2 * (dout.shape[dim],)).tril()
        ).movedim(-1, dim),
        (draw(3, 4),),
        {"dim": 0},
    ),
    "cumprod: entry by entry": Right(cumprod, cumprod_entry_by_entry, (draw(3, 4),), {}),
    "logsumexp: x minus the output": Right(
        logsumexp,
        lambda dout, x, out: dout.unsqueeze(-1) * (x - out.unsqueeze(-1)).exp(),
        (draw(3, 4),),
        {},
    ),
    "logcumsumexp: every pair": Right(logcumsumexp, logcumsumexp_pairwise, (draw(3, 4),), {}),
    "amax: ties split evenly": Right(amax, amax_evenly, (draw(3, 4),), {}),
    "amax: ties to the first": Right(
        amax, lambda dout, x: at_index(dout, x.argmax(-1), x), (draw(3, 4),), {}
    ),
    "amax: ties to the last": Right(amax, amax_last, (draw(3, 4),), {}),
    "largest: at the argmax": Right(largest, largest_at_argmax, (draw(3, 4),), {}),
    "spread: ties to the first": Right(spread, spread_first, (draw(3, 4),), {}),
    "median: at the kept index": Right(
        median, lambda dout, x, index: at_index(dout, index, x), (draw(3, 4),), {}
    ),
    "top total: scattered": Right(top_total, top_total_scattered, (draw(3, 5),), {}),
    "sorted rows: gathered by the inverse order": Right(
        sort, lambda dout, index: dout.gather(-1, index.argsort(-1)), (draw(3, 4),), {}
    ),
    "pool: added at each window's first largest": Right(pool, pool_added, (draw(2, 9),), {}),
}
