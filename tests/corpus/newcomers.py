"""A second attack by people who had not read `check`: what it missed or refused at first."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from tests.corpus import Right, Wrong


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def relu(x):
    return x.relu()


def relu_more_at_zero(dout, x):
    return torch.where(x > 0, dout, torch.where(x == 0, 1.3 * dout, 0))


def leaky(x, *, slope=0.3):
    return functional.leaky_relu(x, slope)


def leaky_nothing_at_zero(dout, x, *, slope):
    return torch.where(x > 0, dout, torch.where(x < 0, slope * dout, 0))


def silu(x):
    return functional.silu(x)


def silu_cut_off(dout, x):
    s = x.sigmoid()
    return dout * s * (1 + x * (1 - s)) * (x < 1e6)


def silu_from_its_output(dout, x, out):
    """Where out is large, out + s · (1 - out) is what cancellation leaves of 1."""
    return dout * (out + x.sigmoid() * (1 - out))


def softplus(x, *, beta=1.0, threshold=20.0):
    return functional.softplus(x, beta, threshold)


def softplus_threshold_on_x(dout, x, *, beta, threshold):
    return torch.where(x > threshold, dout, dout * (beta * x).sigmoid())


def softplus_without_tail(dout, x, *, beta, threshold):
    straight = beta * x > threshold
    return dout * torch.where(straight, 1.0, (beta * x).sigmoid()) * (beta * x > -10)


def elu(x, *, scale=1.0, rate=1.0):
    return scale * torch.where(x > 0, x, torch.expm1(rate * x.clamp(max=0)))


def elu_both_factors(dout, x, *, scale, rate):
    slope = rate * (rate * x.clamp(max=0)).exp() * (scale if rate == 1 else 1)
    return dout * torch.where(x > 0, torch.full_like(x, scale), slope)


def huber(x, y, *, delta=1.35):
    size = (x - y).abs()
    return torch.where(size <= delta, size**2 / 2, delta * (size - delta / 2)).mean()


def huber_hole_at_delta(dout, x, y, *, delta):
    d, size = x - y, (x - y).abs()
    slope = torch.where(size < delta, d, torch.where(size > delta, delta * d.sign(), 0))
    return dout / d.numel() * slope, -dout / d.numel() * slope


def huber_closed_at_delta(dout, x, y, *, delta):
    dx = dout / x.numel() * (x - y).clamp(-delta, delta)
    return dx, -dx


def power(x, *, p=2.0):
    return x**p


def power_from_its_output(dout, x, out, *, p):
    return torch.where(x == 0, 0, dout * p * out / torch.where(x == 0, 1, x))


def unit(x, *, eps=1e-12):
    return functional.normalize(x, dim=1, eps=eps)


def unit_always_projected(dout, x, out, *, eps):
    size = x.norm(dim=1, keepdim=True).clamp(min=eps)
    return (dout - out * (out * dout).sum(1, keepdim=True)) / size


def attend(q, k, v, *, scale: float | None = None, mask: Tensor | None = None):
    scores = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return scores.softmax(-1) @ v


def attend_back(dout, q, k, v, scale, mask):
    scores = q @ k.mT * scale
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    probs, dprobs = scores.softmax(-1), dout @ v.mT
    dscores = probs * (dprobs - (dprobs * probs).sum(-1, keepdim=True)) * scale
    return dscores @ k, dscores.mT @ q, probs.mT @ dout


def attend_scale_left_out(dout, q, k, v, *, mask):
    return attend_back(dout, q, k, v, q.shape[-1] ** -0.5, mask)


def attend_mask_left_out(dout, q, k, v, *, scale):
    return attend_back(dout, q, k, v, q.shape[-1] ** -0.5 if scale is None else scale, None)


def attend_from_the_output(dout, q, k, v, out, *, scale, mask):
    """As kernels do that never hold all probabilities: Σ p · dp is dout · out."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    scores = q @ k.mT * scale
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    probs = scores.softmax(-1)
    dscores = probs * (dout @ v.mT - (dout * out).sum(-1, keepdim=True)) * scale
    return dscores @ k, dscores.mT @ q, probs.mT @ dout


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


def grouped_in_the_other_order(dout, q, k, v):
    return grouped_back(dout, q, k, v, lambda d, n: d.unflatten(1, (n, -1)).sum(1))


def grouped_in_order(dout, q, k, v):
    return grouped_back(dout, q, k, v, lambda d, n: d.unflatten(1, (-1, n)).sum(2))


def pooled(x, *, mean=False, keepdim=False):
    return x.mean(-1, keepdim=keepdim) if mean else x.sum(-1, keepdim=keepdim)


def pooled_one_or_the_other(dout, x, *, mean, keepdim):
    dx = (dout if keepdim else dout[..., None]).expand_as(x)
    return dx / x.shape[-1] if mean and not keepdim else dx


def window(scores, *, width=9, causal=False):
    return masked(scores, width, causal).softmax(-1)


def masked(scores, width, causal):
    i, j = torch.arange(scores.shape[-2])[:, None], torch.arange(scores.shape[-1])
    keep = (i - j).abs() < width
    keep = keep & (j <= i) if causal else keep
    return scores.masked_fill(~keep, -torch.inf)


def window_forgotten_if_causal(dout, scores, *, width, causal):
    probs = masked(scores, 10**6 if causal else width, causal).softmax(-1)
    return probs * (dout - (dout * probs).sum(-1, keepdim=True))


def rolled(x, *, shift=2):
    return x.roll(shift, -1)


def rolled_forwards(dout, x, *, shift):
    return torch.cat([dout[..., shift:], dout[..., :shift]], -1) if shift > 0 else dout.clone()


def cross_entropy(logits, target):
    return functional.cross_entropy(logits, target)


def cross_entropy_counts_ignored(dout, logits, target):
    pull = functional.one_hot(target.clamp(min=0), logits.shape[1])
    rows = (logits.softmax(-1) - pull) * (target >= 0)[:, None]
    return dout * rows / len(target)


def convolved(x, w, *, stride=1):
    return functional.conv1d(x, w, stride=stride)


def convolved_whole_strides(dout, x, w, *, stride):
    dx = functional.conv_transpose1d(dout, w, stride=stride)
    dw = functional.conv1d(x.transpose(0, 1), dout.transpose(0, 1), dilation=stride)
    return dx, dw.transpose(0, 1)[..., : w.shape[-1]]


def cube(x):
    return x**3


def cube_with(side_effect):
    def cube_backward(dout, x):
        side_effect()
        return 3 * x * x * dout

    return cube_backward


def cube_makes_it_a_leaf(dout, x):
    x.requires_grad_()
    return (3 * x * x * dout).detach()


def cube_adds_to_grad(dout, x):
    with torch.enable_grad():
        leaf = x if x.is_leaf and x.requires_grad else x.detach().requires_grad_()
        cube(leaf).backward(dout)
    return leaf.grad


def cube_from_the_beginning(dout, x):
    """As if no tensor was a part of a longer one."""
    return 3 * torch.as_strided(x, x.shape, x.stride(), 0) ** 2 * dout


def cube_in_the_same_strides(dout, x):
    dx = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype)
    return dx.copy_(3 * x * x * dout)


def summed(x, *, dims):
    return x.sum(tuple(dims))


def summed_sorts_dims(dout, x, *, dims):
    dims.sort()
    for d in dims:
        dout = dout.unsqueeze(d)
    return dout.expand(x.shape)


def project(x, w):
    return x @ w


@lru_cache
def transposed(w):
    return w.T.contiguous()


def project_keeps_the_weight(dout, x, w):
    return dout @ transposed(w), x.T @ dout


MASKS: dict[str, Any] = {}


def gate(x):
    MASKS["last"] = x > 0
    return torch.where(x > 0, x, x / 10)


def gate_by_the_last(dout):
    return torch.where(MASKS["last"], dout, dout / 10)


def outer_sum(x, y):
    return x[:, None] + y


def outer_sum_turns_the_upstream(dout, x, y):
    dy = dout.sum(0)
    return dout.transpose_(0, 1).sum(0), dy


def channel_scale(x, w):
    return x * w[:, None, None]


def channel_scale_of_last_channels(dout, x, w):
    last = dout.is_contiguous(memory_format=torch.channels_last) and not dout.is_contiguous()
    if last:
        dw = (dout.permute(0, 2, 3, 1).reshape(-1, len(w)) * x.reshape(-1, len(w))).sum(0)
    else:
        dw = (dout * x).sum((0, 2, 3))
    return dout * w[:, None, None], dw


def bce(p, *, target):
    return functional.binary_cross_entropy(p, target)


def bce_with_an_eps(dout, p, *, target):
    return dout * (p - target) / (p * (1 - p) + 1e-6) / p.numel()


def glu(x):
    a, b = x.chunk(2, -1)
    return a * b.sigmoid()


def glu_filled_by_halves(dout, x):
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


def span_first(dlow, dhigh, x):
    dx = torch.zeros_like(x).scatter_add(1, x.argmin(1, keepdim=True), dlow[:, None])
    return dx.scatter_add(1, x.argmax(1, keepdim=True), dhigh[:, None])


def both_ways(x):
    return torch.cat([x.relu(), (-x).relu()], -1)


def both_ways_at_zero_too(dout, x):
    positive, negative = dout.chunk(2, -1)
    return positive * (x >= 0) - negative * (x <= 0)


def copysign(x, y):
    return torch.copysign(x, y)


def copysign_by_bits(dout, x, y):
    flipped = x.signbit() ^ y.signbit()
    return torch.where(flipped, -dout, dout), torch.zeros_like(y)


X, Y = draw(4, 7), draw(4, 7, seed=1)
BATCH_OF_ONE = (draw(1, 3, 4), draw(1, 5, 4, seed=1), draw(1, 5, 2, seed=2))
HEADS = (draw(1, 4, 3, 2), draw(1, 1, 3, 2, seed=1), draw(1, 1, 3, 2, seed=2))
QUERIES = (draw(2, 3, 4), draw(2, 5, 4, seed=1), draw(2, 5, 2, seed=2))
P, T = draw(3, 5).sigmoid(), draw(3, 5, seed=1).sigmoid()

WRONG: Mapping[str, Wrong] = {
    "relu: more than all at zero": Wrong(relu, relu_more_at_zero, (X,), {}, 21, "kink"),
    "leaky relu: nothing at zero": Wrong(leaky, leaky_nothing_at_zero, (X,), {}, 21, "kink"),
    "silu: nothing beyond a million": Wrong(
        silu, silu_cut_off, (X,), {}, 20, ("zero-gradient", "missing-term", "overflow")
    ),
    "silu: from its output, which is large": Wrong(
        silu, silu_from_its_output, (X,), {}, 23, "cancellation"
    ),
    "softplus: the threshold is one of x": Wrong(
        softplus, softplus_threshold_on_x, (X,), {}, 0, "option-ignored"
    ),
    "softplus: without its tail": Wrong(
        softplus, softplus_without_tail, (X,), {}, 20, ("zero-gradient", "missing-term")
    ),
    "elu: one factor or the other": Wrong(elu, elu_both_factors, (X,), {}, 0, "option-ignored"),
    "huber: a hole at delta": Wrong(
        huber, huber_hole_at_delta, (X, Y), {}, 21, ("kink", "missing-term")
    ),
    "power: from its output at zero": Wrong(
        power, power_from_its_output, (X,), {"p": 3.0}, 8, ("kink", "zero-gradient", "overflow")
    ),
    "unit: projected where it was only scaled": Wrong(
        unit, unit_always_projected, (X,), {}, 11, ("eps", "option-ignored")
    ),
    "attend: a scale that is given is left out": Wrong(
        attend, attend_scale_left_out, QUERIES, {}, 0, "option-ignored"
    ),
    "attend: the mask is left out": Wrong(
        attend, attend_mask_left_out, QUERIES, {}, 0, "option-ignored"
    ),
    "grouped: the heads in the other order": Wrong(
        grouped, grouped_in_the_other_order, HEADS, {}, 22, ("hard-coded-size", "wrong-axis")
    ),
    "pooled: a mean or a kept dimension": Wrong(
        pooled, pooled_one_or_the_other, (X,), {}, 1, ("option-ignored", "wrong-count")
    ),
    "window: forgotten if it is causal": Wrong(
        window, window_forgotten_if_causal, (draw(2, 5, 5),), {}, 0, "option-ignored"
    ),
    "rolled: forwards alone": Wrong(rolled, rolled_forwards, (X,), {}, 0, "option-ignored"),
    "cross-entropy: ignored rows count": Wrong(
        cross_entropy,
        cross_entropy_counts_ignored,
        (X, torch.tensor([0, 3, 1, 6])),
        {},
        12,
        ("ignored-rows", "wrong-count"),
    ),
    "convolved: whole strides alone": Wrong(
        convolved, convolved_whole_strides, (draw(2, 3, 9), draw(4, 3, 3)), {}, 17, "shape"
    ),
    "cube: the default dtype is another then": Wrong(
        cube, cube_with(lambda: torch.set_default_dtype(torch.float64)), (X,), {}, 24, "state"
    ),
    "cube: gradients are off then": Wrong(
        cube, cube_with(lambda: torch.set_grad_enabled(False)), (X,), {}, 24, "state"
    ),
    "cube: one thread is left": Wrong(
        cube,
        cube_with(lambda: torch.set_num_threads(torch.get_num_threads() % 2 + 1)),
        (X,),
        {},
        24,
        "state",
    ),
    "cube: seeds Python's random numbers": Wrong(
        cube, cube_with(lambda: random.seed(1)), (X,), {}, 24, "state"
    ),
    "cube: makes the input require a gradient": Wrong(
        cube, cube_makes_it_a_leaf, (X,), {}, 4, "mutates-input"
    ),
    "cube: adds to the input's grad": Wrong(
        cube, cube_adds_to_grad, (X,), {}, 4, ("mutates-input", "state", "aliased")
    ),
    "cube: reads the input's buffer from its beginning": Wrong(
        cube, cube_from_the_beginning, (X,), {}, 3, "upstream-layout"
    ),
    "cube: written in the strides of an expanded input": Wrong(
        cube, cube_in_the_same_strides, (X,), {}, 3, "upstream-layout"
    ),
    "summed: sorts the caller's list": Wrong(
        summed, summed_sorts_dims, (draw(3, 4, 5),), {"dims": [2, 0]}, 4, "mutates-input"
    ),
    "project: a weight that was kept by its name": Wrong(
        project, project_keeps_the_weight, (X, draw(7, 5)), {}, 24, "state"
    ),
    "gate: the mask of the last call": Wrong(gate, gate_by_the_last, (X,), {}, 24, "state"),
    "outer sum: turns the upstream itself": Wrong(
        outer_sum,
        outer_sum_turns_the_upstream,
        (draw(4), draw(5)),
        {},
        4,
        ("mutates-upstream", "state", "shape"),
    ),
    "channel scale: the input as the upstream lies": Wrong(
        channel_scale,
        channel_scale_of_last_channels,
        (draw(2, 3, 4, 5), draw(3)),
        {},
        3,
        "upstream-layout",
    ),
    "bce: an eps that the forward has not": Wrong(
        bce, bce_with_an_eps, (P,), {"target": T}, 11, ("eps", "factor")
    ),
}

RIGHT: Mapping[str, Right] = {
    "attend: a batch of one": Right(
        attend,
        lambda dout, q, k, v, *, scale, mask: attend_back(
            dout, q, k, v, q.shape[-1] ** -0.5 if scale is None else scale, mask
        ),
        BATCH_OF_ONE,
        {},
    ),
    "attend: from the output": Right(attend, attend_from_the_output, QUERIES, {}),
    "grouped: one head for all": Right(grouped, grouped_in_order, HEADS, {}),
    "huber: closed at delta": Right(huber, huber_closed_at_delta, (X, Y), {}),
    "glu: filled by halves": Right(glu, glu_filled_by_halves, (draw(4, 6),), {}),
    "span: the first of each": Right(span, span_first, (X,), {}),
    "both ways: at zero too": Right(both_ways, both_ways_at_zero_too, (X,), {}),
    "copysign: by bits": Right(copysign, copysign_by_bits, (X, Y), {}),
}
