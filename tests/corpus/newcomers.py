"""A second attack by people who had not read `check`: all that it missed or refused at first."""

from __future__ import annotations

import math
import random
from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from tests.corpus import right, samples, wrong
from tests.corpus.kinds import Kind

draw = partial(samples.draw, dtype=torch.float32)
X, Y = draw(4, 7), draw(4, 7, seed=1)


def attend_back(dout, q, k, v, scale, mask):
    scores = q @ k.mT * scale
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    probs, dprobs = scores.softmax(-1), dout @ v.mT
    dscores = probs * (dprobs - (dprobs * probs).sum(-1, keepdim=True)) * scale
    return dscores @ k, dscores.mT @ q, probs.mT @ dout


def relu(x):
    return x.relu()


@wrong(relu, X, kind=Kind.KINK, mistake="kink")
def more_than_one_at_zero(dout, x):
    return torch.where(x > 0, dout, torch.where(x == 0, 1.3 * dout, 0))


def leaky(x, *, slope=0.3):
    return functional.leaky_relu(x, slope)


@wrong(leaky, X, kind=Kind.KINK, mistake="kink")
def nothing_at_zero(dout, x, *, slope):
    return torch.where(x > 0, dout, torch.where(x < 0, slope * dout, 0))


def silu(x):
    return functional.silu(x)


@wrong(silu, X, kind=Kind.VARIANT, mistake=("zero-gradient", "missing-term", "overflow"))
def nothing_beyond_a_million(dout, x):
    s = x.sigmoid()
    return dout * s * (1 + x * (1 - s)) * (x < 1e6)


@wrong(silu, X, kind=Kind.OVERFLOW, mistake="cancellation")
def from_its_large_output(dout, x, out):
    """For a large out, cancellation leaves little of out + s · (1 - out), which is about 1."""
    return dout * (out + x.sigmoid() * (1 - out))


def softplus(x, *, beta=1.0, threshold=20.0):
    return functional.softplus(x, beta, threshold)


@wrong(softplus, X, kind=Kind.OTHER, mistake="option-ignored")
def threshold_compared_with_x(dout, x, *, beta, threshold):
    return torch.where(x > threshold, dout, dout * (beta * x).sigmoid())


@wrong(softplus, X, kind=Kind.VARIANT, mistake=("zero-gradient", "missing-term"))
def without_its_tail(dout, x, *, beta, threshold):
    straight = beta * x > threshold
    return dout * torch.where(straight, 1.0, (beta * x).sigmoid()) * (beta * x > -10)


def elu(x, *, scale=1.0, rate=1.0):
    return scale * torch.where(x > 0, x, torch.expm1(rate * x.clamp(max=0)))


@wrong(elu, X, kind=Kind.OTHER, mistake="option-ignored")
def one_factor_or_the_other(dout, x, *, scale, rate):
    slope = rate * (rate * x.clamp(max=0)).exp() * (scale if rate == 1 else 1)
    return dout * torch.where(x > 0, torch.full_like(x, scale), slope)


def huber(x, y, *, delta=1.35):
    size = (x - y).abs()
    return torch.where(size <= delta, size**2 / 2, delta * (size - delta / 2)).mean()


@right(huber, X, Y)
def closed_at_delta(dout, x, y, *, delta):
    dx = dout / x.numel() * (x - y).clamp(-delta, delta)
    return dx, -dx


@wrong(huber, X, Y, kind=Kind.KINK, mistake=("kink", "missing-term"))
def a_hole_at_delta(dout, x, y, *, delta):
    d, size = x - y, (x - y).abs()
    slope = torch.where(size < delta, d, torch.where(size > delta, delta * d.sign(), 0))
    return dout / d.numel() * slope, -dout / d.numel() * slope


def power(x, *, p=2.0):
    return x**p


@wrong(power, X, p=3.0, kind=Kind.NAN_AT_ZERO, mistake=("kink", "zero-gradient", "overflow"))
def from_its_output_at_zero(dout, x, out, *, p):
    return torch.where(x == 0, 0, dout * p * out / torch.where(x == 0, 1, x))


def unit(x, *, eps=1e-12):
    return functional.normalize(x, dim=1, eps=eps)


@wrong(unit, X, kind=Kind.EPS, mistake=("eps", "option-ignored"))
def projected_where_it_was_only_scaled(dout, x, out, *, eps):
    size = x.norm(dim=1, keepdim=True).clamp(min=eps)
    return (dout - out * (out * dout).sum(1, keepdim=True)) / size


def attend(q, k, v, *, scale: float | None = None, mask: Tensor | None = None):
    scores = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return scores.softmax(-1) @ v


QUERIES = (draw(2, 3, 4), draw(2, 5, 4, seed=1), draw(2, 5, 2, seed=2))
BATCH_OF_ONE = (draw(1, 3, 4), draw(1, 5, 4, seed=1), draw(1, 5, 2, seed=2))


@right(attend, *BATCH_OF_ONE)
def a_batch_of_one(dout, q, k, v, *, scale, mask):
    return attend_back(dout, q, k, v, q.shape[-1] ** -0.5 if scale is None else scale, mask)


@right(attend, *QUERIES)
def from_the_output(dout, q, k, v, out, *, scale, mask):
    """Σ p · dp is dout · out, so that a kernel need not hold all probabilities."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    scores = q @ k.mT * scale
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    probs = scores.softmax(-1)
    dscores = probs * (dout @ v.mT - (dout * out).sum(-1, keepdim=True)) * scale
    return dscores @ k, dscores.mT @ q, probs.mT @ dout


@wrong(attend, *QUERIES, kind=Kind.OTHER, mistake="option-ignored")
def a_scale_that_is_given_is_left_out(dout, q, k, v, *, mask):
    return attend_back(dout, q, k, v, q.shape[-1] ** -0.5, mask)


@wrong(attend, *QUERIES, kind=Kind.OTHER, mistake="option-ignored")
def mask_is_left_out(dout, q, k, v, *, scale):
    return attend_back(dout, q, k, v, q.shape[-1] ** -0.5 if scale is None else scale, None)


def grouped(q, k, v):
    """q (b, heads, t, d); k and v (b, fewer heads, t, d)"""
    shared = q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(shared, 1) for x in (k, v))
    return (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1) @ v


def grouped_back(dout, q, k, v, gather):
    shared = q.shape[1] // k.shape[1]
    wide_k, wide_v = (x.repeat_interleave(shared, 1) for x in (k, v))
    scale = q.shape[-1] ** -0.5
    dq, dk, dv = attend_back(dout, q, wide_k, wide_v, scale, None)
    return dq, gather(dk, shared), gather(dv, shared)


HEADS = (draw(1, 4, 3, 2), draw(1, 1, 3, 2, seed=1), draw(1, 1, 3, 2, seed=2))


@right(grouped, *HEADS)
def one_head_for_all(dout, q, k, v):
    return grouped_back(dout, q, k, v, lambda d, n: d.unflatten(1, (-1, n)).sum(2))


@wrong(grouped, *HEADS, kind=Kind.SHARED_HEADS, mistake=("hard-coded-size", "wrong-axis"))
def heads_in_the_other_order(dout, q, k, v):
    return grouped_back(dout, q, k, v, lambda d, n: d.unflatten(1, (n, -1)).sum(1))


def pooled(x, *, mean=False, keepdim=False):
    return x.mean(-1, keepdim=keepdim) if mean else x.sum(-1, keepdim=keepdim)


@wrong(pooled, X, kind=Kind.MEAN_COUNT, mistake=("option-ignored", "wrong-count"))
def mean_or_kept_dimension_not_both(dout, x, *, mean, keepdim):
    dx = (dout if keepdim else dout[..., None]).expand_as(x)
    return dx / x.shape[-1] if mean and not keepdim else dx


def masked(scores, width, causal):
    i, j = torch.arange(scores.shape[-2])[:, None], torch.arange(scores.shape[-1])
    keep = (i - j).abs() < width
    keep = keep & (j <= i) if causal else keep
    return scores.masked_fill(~keep, -torch.inf)


def window(scores, *, width=9, causal=False):
    return masked(scores, width, causal).softmax(-1)


@wrong(window, draw(2, 5, 5), kind=Kind.OTHER, mistake="option-ignored")
def width_forgotten_if_causal(dout, scores, *, width, causal):
    probs = masked(scores, 10**6 if causal else width, causal).softmax(-1)
    return probs * (dout - (dout * probs).sum(-1, keepdim=True))


def rolled(x, *, shift=2):
    return x.roll(shift, -1)


@wrong(rolled, X, kind=Kind.OTHER, mistake="option-ignored")
def only_forwards(dout, x, *, shift):
    return torch.cat([dout[..., shift:], dout[..., :shift]], -1) if shift > 0 else dout.clone()


def cross_entropy(logits, target):
    return functional.cross_entropy(logits, target)


@wrong(
    cross_entropy,
    X,
    torch.tensor([0, 3, 1, 6]),
    kind=Kind.IGNORED_ROWS,
    mistake=("ignored-rows", "wrong-count"),
)
def ignored_rows_count(dout, logits, target):
    pull = functional.one_hot(target.clamp(min=0), logits.shape[1])
    rows = (logits.softmax(-1) - pull) * (target >= 0)[:, None]
    return dout * rows / len(target)


def convolved(x, w, *, stride=1):
    return functional.conv1d(x, w, stride=stride)


@wrong(convolved, draw(2, 3, 9), draw(4, 3, 3), kind=Kind.SIZES, mistake="shape")
def only_whole_strides(dout, x, w, *, stride):
    dx = functional.conv_transpose1d(dout, w, stride=stride)
    dw = functional.conv1d(x.transpose(0, 1), dout.transpose(0, 1), dilation=stride)
    return dx, dw.transpose(0, 1)[..., : w.shape[-1]]


def cube(x):
    return x**3


@wrong(cube, X, kind=Kind.STALE, mistake="state")
def changes_the_default_dtype(dout, x):
    torch.set_default_dtype(torch.float64)
    return 3 * x * x * dout


@wrong(cube, X, kind=Kind.STALE, mistake="state")
def turns_gradients_off(dout, x):
    torch.set_grad_enabled(False)
    return 3 * x * x * dout


@wrong(cube, X, kind=Kind.STALE, mistake="state")
def changes_the_number_of_threads(dout, x):
    torch.set_num_threads(torch.get_num_threads() % 2 + 1)
    return 3 * x * x * dout


@wrong(cube, X, kind=Kind.STALE, mistake="state")
def seeds_pythons_random_numbers(dout, x):
    random.seed(1)
    return 3 * x * x * dout


@wrong(cube, X, kind=Kind.OVERWRITTEN, mistake="mutates-input")
def makes_the_input_require_a_gradient(dout, x):
    x.requires_grad_()
    return (3 * x * x * dout).detach()


@wrong(cube, X, kind=Kind.OVERWRITTEN, mistake=("mutates-input", "state", "aliased"))
def adds_to_the_inputs_grad(dout, x):
    with torch.enable_grad():
        leaf = x if x.is_leaf and x.requires_grad else x.detach().requires_grad_()
        cube(leaf).backward(dout)
    return leaf.grad


@wrong(cube, X, kind=Kind.LAYOUT, mistake="upstream-layout")
def reads_the_inputs_buffer_from_its_beginning(dout, x):
    """As if no tensor were a part of a longer one."""
    return 3 * torch.as_strided(x, x.shape, x.stride(), 0) ** 2 * dout


@wrong(cube, X, kind=Kind.LAYOUT, mistake="upstream-layout")
def written_in_the_strides_of_the_input(dout, x):
    dx = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype)
    return dx.copy_(3 * x * x * dout)


def summed(x, *, dims):
    return x.sum(tuple(dims))


@wrong(summed, draw(3, 4, 5), dims=[2, 0], kind=Kind.OVERWRITTEN, mistake="mutates-input")
def sorts_the_callers_list(dout, x, *, dims):
    dims.sort()
    for d in dims:
        dout = dout.unsqueeze(d)
    return dout.expand(x.shape)


def project(x, w):
    return x @ w


@lru_cache
def transposed(w):
    return w.T.contiguous()


@wrong(project, X, draw(7, 5), kind=Kind.STALE, mistake="state")
def keeps_the_transposed_weight(dout, x, w):
    return dout @ transposed(w), x.T @ dout


MASKS: dict[str, Any] = {}


def gate(x):
    MASKS["last"] = x > 0
    return torch.where(x > 0, x, x / 10)


@wrong(gate, X, kind=Kind.STALE, mistake="state")
def mask_of_the_last_call(dout):
    return torch.where(MASKS["last"], dout, dout / 10)


def outer_sum(x, y):
    return x[:, None] + y


@wrong(
    outer_sum,
    draw(4),
    draw(5),
    kind=Kind.OVERWRITTEN,
    mistake=("mutates-upstream", "state", "shape"),
)
def turns_the_upstream_itself(dout, x, y):
    dy = dout.sum(0)
    return dout.transpose_(0, 1).sum(0), dy


def channel_scale(x, w):
    return x * w[:, None, None]


@wrong(channel_scale, draw(2, 3, 4, 5), draw(3), kind=Kind.LAYOUT, mistake="upstream-layout")
def input_read_in_the_upstreams_layout(dout, x, w):
    last = dout.is_contiguous(memory_format=torch.channels_last) and not dout.is_contiguous()
    if last:
        dw = (dout.permute(0, 2, 3, 1).reshape(-1, len(w)) * x.reshape(-1, len(w))).sum(0)
    else:
        dw = (dout * x).sum((0, 2, 3))
    return dout * w[:, None, None], dw


def bce(p, *, target):
    return functional.binary_cross_entropy(p, target)


P, T = draw(3, 5).sigmoid(), draw(3, 5, seed=1).sigmoid()


@wrong(bce, P, target=T, kind=Kind.EPS, mistake=("eps", "factor"))
def eps_that_the_forward_lacks(dout, p, *, target):
    return dout * (p - target) / (p * (1 - p) + 1e-6) / p.numel()


def glu(x):
    a, b = x.chunk(2, -1)
    return a * b.sigmoid()


@right(glu, draw(4, 6))
def filled_by_halves(dout, x):
    a, b = x.chunk(2, -1)
    dx = torch.empty_like(x)
    da, db = dx.chunk(2, -1)
    s = b.sigmoid()
    da.copy_(dout * s)
    db.copy_(dout * a * s * (1 - s))
    return dx


class Range(NamedTuple):
    low: Tensor
    high: Tensor


def span(x) -> Range:
    return Range(x.amin(1), x.amax(1))


@right(span, X)
def first_of_each(dlow, dhigh, x):
    dx = torch.zeros_like(x).scatter_add(1, x.argmin(1, keepdim=True), dlow[:, None])
    return dx.scatter_add(1, x.argmax(1, keepdim=True), dhigh[:, None])


def both_ways(x):
    return torch.cat([x.relu(), (-x).relu()], -1)


@right(both_ways, X)
def at_zero_too(dout, x):
    positive, negative = dout.chunk(2, -1)
    return positive * (x >= 0) - negative * (x <= 0)


def copysign(x, y):
    return torch.copysign(x, y)


@right(copysign, X, Y)
def by_bits(dout, x, y):
    flipped = x.signbit() ^ y.signbit()
    return torch.where(flipped, -dout, dout), torch.zeros_like(y)
