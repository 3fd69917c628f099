"""Attention, rotary positions, and recurrences."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from backprop_ops import Kept, sum_to
from tests.corpus import right, wrong
from tests.corpus.kinds import Kind
from tests.corpus.samples import draw, draws, require

QUERIES, KEYS, VALUES = draws((4, 4), (4, 4), (4, 4))
GRU = draws((2, 3), (2, 2), (3, 6), (2, 6), (6,))
ATTENTION = (QUERIES, KEYS, VALUES)


def visible(q: Tensor, k: Tensor) -> Tensor:
    queries, keys = q.shape[-2], k.shape[-2]
    return torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)


def weights(q: Tensor, k: Tensor, causal: bool) -> Tensor:
    require(not causal or q.shape[-2] <= k.shape[-2])  # or the first queries would see nothing
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    return (scores.masked_fill(~visible(q, k), -torch.inf) if causal else scores).softmax(-1)


def attention_gradients(dout, q, k, v, p):
    dp = dout @ v.mT
    ds = p * (dp - (p * dp).sum(-1, keepdim=True)) / math.sqrt(q.shape[-1])
    return sum_to(ds @ k, q.shape), sum_to(ds.mT @ q, k.shape), sum_to(p.mT @ dout, v.shape)


# Attention.


def attention(q: Tensor, k: Tensor, v: Tensor, *, causal: bool = False) -> Tensor:
    """(…, time, width); the last query sees the last key."""
    return weights(q, k, causal) @ v


@right(attention, draw(3, 2), KEYS[:, :2], VALUES, causal=True)
def softmaxs_sum_from_the_output(dout, q, k, v, out, *, causal):
    """Σ p dp of a query is Σ out dout, which takes no sum over the keys."""
    p = weights(q, k, causal)
    delta = (out * dout).sum(-1, keepdim=True)
    ds = p * (dout @ v.mT - delta) / math.sqrt(q.shape[-1])
    return sum_to(ds @ k, q.shape), sum_to(ds.mT @ q, k.shape), sum_to(p.mT @ dout, v.shape)


@right(attention, *draws((2, 3, 4), (2, 4, 4)), VALUES)
def query_by_query(dout, q, k, v, *, causal):
    p = weights(q, k, causal)
    batch = dout.shape[:-2]
    dq = dout.new_zeros(*dout.shape[:-1], q.shape[-1])
    dk = dout.new_zeros(*batch, *k.shape[-2:], dtype=torch.float64)
    dv = dout.new_zeros(*batch, *v.shape[-2:], dtype=torch.float64)
    for i in range(q.shape[-2]):
        row, up = p[..., i : i + 1, :], dout[..., i : i + 1, :]
        dp = up @ v.mT
        ds = row * (dp - (row * dp).sum(-1, keepdim=True)) / math.sqrt(q.shape[-1])
        dq[..., i : i + 1, :] = ds @ k
        dk += ds.mT @ q[..., i : i + 1, :]
        dv += row.mT @ up
    dk, dv = sum_to(dk, k.shape).to(k.dtype), sum_to(dv, v.shape).to(v.dtype)
    return sum_to(dq, q.shape), dk, dv


@wrong(attention, *ATTENTION, kind=Kind.STATISTICS, mistake="missing-term")
def sum_of_the_softmax_is_dropped(dout, q, k, v, *, causal):
    p = weights(q, k, causal)
    ds = p * (dout @ v.mT) / math.sqrt(q.shape[-1])
    return ds @ k, ds.mT @ q, p.mT @ dout


@wrong(attention, *ATTENTION, kind=Kind.VARIANT, mistake=("hard-coded-size", "factor"))
def scale_of_width_4(dout, q, k, v, *, causal):
    p = weights(q, k, causal)
    dp = dout @ v.mT
    ds = p * (dp - (p * dp).sum(-1, keepdim=True)) * 0.5
    return ds @ k, ds.mT @ q, p.mT @ dout


@wrong(attention, *ATTENTION, kind=Kind.VARIANT, mistake="option-ignored")
def causal_is_not_looked_at(dout, q, k, v):
    return attention_gradients(dout, q, k, v, weights(q, k, False))


@wrong(
    attention, *ATTENTION, causal=True, kind=Kind.SIZES, mistake=("hard-coded-size", "off-by-one")
)
def causal_from_the_first_key(dout, q, k, v, *, causal):
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if causal:
        scores = scores.masked_fill(~torch.ones_like(scores, dtype=torch.bool).tril(), -torch.inf)
    return attention_gradients(dout, q, k, v, scores.softmax(-1))


class Attended(NamedTuple):
    out: Tensor
    p: Kept


def masked_attention(q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor) -> Attended:
    """mask (queries, keys): what a query sees. One that sees nothing gets 0."""
    scores = (q @ k.mT / math.sqrt(q.shape[-1])).masked_fill(~mask, -torch.inf)
    blind = ~mask.any(-1, keepdim=True)
    p = scores.masked_fill(blind, 0).softmax(-1).masked_fill(blind, 0)
    return Attended(p @ v, p)


@right(masked_attention, *ATTENTION, mask=draw(4, 4, seed=3) > 0)
def by_the_weights_that_were_kept(dout, q, k, v, p):
    return attention_gradients(dout, q, k, v, p)


@wrong(
    masked_attention,
    *ATTENTION,
    mask=torch.ones(4, 4, dtype=torch.bool).tril(),
    kind=Kind.MASKED_ROW,
    mistake="nan",
)
def a_query_that_sees_nothing(dout, q, k, v, *, mask):
    scores = (q @ k.mT / math.sqrt(q.shape[-1])).masked_fill(~mask, -torch.inf)
    return attention_gradients(dout, q, k, v, scores.softmax(-1))


def dropped_attention(q: Tensor, k: Tensor, v: Tensor, *, keep: Tensor) -> Tensor:
    """keep (queries, keys): 1 / (1 - rate), or 0 where dropped."""
    return (weights(q, k, False) * keep) @ v


@wrong(
    dropped_attention,
    *ATTENTION,
    keep=1.25 * (draw(4, 4, seed=3) > -0.8),
    kind=Kind.DROPOUT,
    mistake=("factor", "missing-term", "option-ignored"),
)
def v_as_if_nothing_were_dropped(dout, q, k, v, *, keep):
    p = weights(q, k, False)
    dp = dout @ v.mT * keep
    ds = p * (dp - (p * dp).sum(-1, keepdim=True)) / math.sqrt(q.shape[-1])
    return ds @ k, ds.mT @ q, p.mT @ dout


def grouped_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q (heads, time, width), k and v (groups, time, width): heads share keys in turn."""
    require(q.dim() == 3 and len(k) == len(v) and len(q) % len(k) == 0)
    share = len(q) // len(k)
    return attention(q, k.repeat_interleave(share, 0), v.repeat_interleave(share, 0))


def grouped_by(gather):
    """Keys and values repeated, their gradients brought together by ``gather(grad, groups)``."""

    def backward(dout, q, k, v):
        share = len(q) // len(k)
        keys, values = (t.repeat_interleave(share, 0) for t in (k, v))
        dq, dkeys, dvalues = attention_gradients(dout, q, keys, values, weights(q, keys, False))
        return dq, gather(dkeys, len(k)), gather(dvalues, len(k))

    backward.__name__ = gather.__name__
    return backward


@right(grouped_attention, *draws((6, 2, 2), (2, 3, 2), (2, 3, 2)))
@grouped_by
def heads_of_a_group_summed(grad, groups):
    return grad.unflatten(0, (groups, -1)).sum(1)


HEADS = draws((4, 3, 2), (1, 3, 2), (1, 3, 2))


@wrong(
    grouped_attention,
    *HEADS,
    kind=Kind.SHARED_HEADS,
    mistake=("wrong-axis", "hard-coded-size", "transposed"),
)
@grouped_by
def heads_of_a_group_taken_in_turn(grad, groups):  # one group has no order
    return grad.unflatten(0, (-1, groups)).sum(0)


@wrong(
    grouped_attention,
    *draws((2, 3, 2), (2, 3, 2), (2, 3, 2)),
    kind=Kind.SHARED_HEADS,
    mistake=("missing-reduction", "missing-term"),
)
@grouped_by
def one_head_of_those_that_share(grad, groups):  # one head a group
    return grad.unflatten(0, (groups, -1))[:, -1]


def angles(x: Tensor, base: float) -> tuple[Tensor, Tensor]:
    half = x.shape[-1] // 2
    speeds = base ** (-torch.arange(half, dtype=torch.float64) / half)
    angle = torch.arange(x.shape[-2], dtype=torch.float64)[:, None] * speeds
    return angle.cos().to(x.dtype), angle.sin().to(x.dtype)


def rotary(x: Tensor, *, base: float = 100.0) -> Tensor:
    """x (time, width): entry i of the first half turns with entry i of the second."""
    require(x.shape[-1] % 2 == 0)
    a, b = x.chunk(2, -1)
    cos, sin = angles(x, base)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), -1)


@right(rotary, draw(3, 6), base=10.0)
def turned_back(dout, *, base):
    cos, sin = angles(dout, base)
    turned = torch.cat((cos, cos), -1) * dout
    a, b = dout.chunk(2, -1)
    return turned + torch.cat((b * sin, -a * sin), -1)


@wrong(rotary, draw(3, 4), kind=Kind.VARIANT, mistake="sign")
def turned_on_not_back(dout, *, base):
    return rotary(dout, base=base)


@wrong(
    rotary, draw(3, 2), kind=Kind.VARIANT, mistake=("wrong-axis", "transposed", "hard-coded-size")
)
def neighbours_for_halves(dout, *, base):  # of two entries both are the same
    cos, sin = angles(dout, base)
    a, b = dout[..., 0::2], dout[..., 1::2]
    return torch.stack((a * cos + b * sin, b * cos - a * sin), -1).flatten(-2)


# Recurrences.


def scan(a: Tensor, x: Tensor) -> Tensor:
    """h_t = a_t h_{t-1} + x_t over the first dimension, from 0"""
    require(a.shape == x.shape and a.dtype == x.dtype)
    h, states = torch.zeros_like(x[:1]), []
    for t in range(len(x)):
        h = a[t : t + 1] * h + x[t : t + 1]
        states.append(h)
    return torch.cat(states) if states else x * a


def scan_back(dout, a, out, *, factor, before):
    """From the last step to the first; ``factor(t)`` carries h's gradient on from step t + 1."""
    carry = torch.zeros_like(dout[:1])
    da, dx = torch.zeros_like(dout), torch.zeros_like(dout)
    for t in reversed(range(len(dout))):
        carry = dout[t : t + 1] + (factor(a, t) * carry if t + 1 < len(dout) else 0)
        dx[t : t + 1] = carry
        da[t : t + 1] = carry * before(out, t)
    return da, dx


@right(scan, draw(5, 2, seed=1), draw(5, 2))
def as_a_triangular_matrix(dout, a, out):
    """dx = Lᵀ dout, where L holds the products of the factors between two steps."""
    steps = len(dout)
    dx = torch.zeros_like(dout)
    for t in range(steps):
        reach = torch.cat((torch.ones_like(a[:1]), a[t + 1 :])).cumprod(0)
        dx[t] = (reach * dout[t:]).sum(0)
    before = torch.cat((torch.zeros_like(out[:1]), out[:-1]))[:steps]
    return dx * before, dx


def previous_state(out: Tensor, t: int) -> Tensor:
    return out[t - 1 : t] if t else torch.zeros_like(out[:1])


@wrong(
    scan,
    torch.full((5, 2), 0.9, dtype=torch.float64),
    draw(5, 2),
    kind=Kind.OTHER,
    mistake="off-by-one",
)
def carried_by_the_factor_of_its_own_step(dout, a, out):  # all factors are the same
    return scan_back(dout, a, out, factor=lambda a, t: a[t : t + 1], before=previous_state)


def next_factor(a: Tensor, t: int) -> Tensor:
    return a[t + 1 : t + 2]


@wrong(scan, draw(5, 2, seed=1), draw(5, 2), kind=Kind.OTHER, mistake="off-by-one")
def factor_meets_the_state_after_it(dout, a, out):
    return scan_back(dout, a, out, factor=next_factor, before=lambda out, t: out[t : t + 1])


@wrong(
    scan, draw(4, 2, seed=1).sigmoid(), draw(4, 2), kind=Kind.PRODUCT, mistake=("nan", "overflow")
)
def divides_by_the_running_product(dout, a, out):
    """dx_t = Σ_{s ≥ t} dout_s a_{t+1} … a_s, from one running product"""
    product = a.cumprod(0)
    dx = (dout * product).flip(0).cumsum(0).flip(0) / product
    before = torch.cat((torch.zeros_like(out[:1]), out[:-1]))
    return dx * before, dx


class Recurrent(NamedTuple):
    hidden: Tensor
    memory: Tensor
    gates: Kept  # (n, 4 width), after their nonlinearities


def lstm_cell(x: Tensor, h: Tensor, c: Tensor, w: Tensor, u: Tensor) -> Recurrent:
    require(len(x) == len(h) == len(c) and w.shape[1] == u.shape[1] == 4 * c.shape[1])
    i, f, g, o = (x @ w + h @ u).chunk(4, 1)
    i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
    memory = f * c + i * g
    return Recurrent(o * memory.tanh(), memory, torch.cat((i, f, g, o), 1))


def lstm_gradients(dhidden, dmemory, x, h, c, w, u, memory, gates):
    i, f, g, o = gates.chunk(4, 1)
    squashed = memory.tanh()
    dstate = dmemory + dhidden * o * (1 - squashed * squashed)
    slopes = (
        dstate * g * i * (1 - i),
        dstate * c * f * (1 - f),
        dstate * i * (1 - g * g),
        dhidden * squashed * o * (1 - o),
    )
    dz = torch.cat(slopes, 1)
    return dz @ w.mT, dz @ u.mT, dstate * f, x.mT @ dz, h.mT @ dz


CELL = draws((2, 3), (2, 2), (2, 2), (3, 8), (2, 8))


@right(lstm_cell, *CELL)
def one_product_for_both_inputs(dhidden, dmemory, x, h, c, w, u, memory, gates):
    """And one for both weights; the gradients are views of the two."""
    width = x.shape[1]
    both = torch.cat((w, u))
    i, f, g, o = gates.chunk(4, 1)
    squashed = memory.tanh()
    dstate = torch.addcmul(dmemory, dhidden * o, 1 - squashed.square())
    dz = torch.empty_like(gates)
    for part, (slope, up) in zip(
        dz.chunk(4, 1),
        (
            (i * (1 - i), g * dstate),
            (f * (1 - f), c * dstate),
            (1 - g.square(), i * dstate),
            (o * (1 - o), squashed * dhidden),
        ),
        strict=True,
    ):
        torch.mul(slope, up, out=part)
    dinputs = dz @ both.mT
    dweights = torch.cat((x, h), 1).mT @ dz
    return dinputs[:, :width], dinputs[:, width:], f * dstate, dweights[:width], dweights[width:]


@wrong(lstm_cell, *CELL, kind=Kind.UPSTREAM_LOST, mistake=("upstream-ignored", "missing-term"))
def memorys_upstream_is_left_out(dhidden, dmemory, x, h, c, w, u, memory, gates):
    return lstm_gradients(dhidden, torch.zeros_like(dmemory), x, h, c, w, u, memory, gates)


@wrong(lstm_cell, *CELL, kind=Kind.STATISTICS, mistake="missing-term")
def hidden_state_cut_off_from_the_memory(dhidden, dmemory, x, h, c, w, u, memory, gates):
    flow = lstm_gradients(dhidden, dmemory, x, h, c, w, u, memory, gates)
    return (*flow[:2], dmemory * gates.chunk(4, 1)[1], *flow[3:])


def gru_cell(x: Tensor, h: Tensor, w: Tensor, u: Tensor, b: Tensor) -> Tensor:
    """The reset gate is applied after the product, to the candidate's bias as well."""
    require(len(x) == len(h) and w.shape[1] == u.shape[1] == len(b) == 3 * h.shape[1])
    xr, xz, xn = (x @ w).chunk(3, 1)
    hr, hz, hn = (h @ u + b).chunk(3, 1)
    r, z = (xr + hr).sigmoid(), (xz + hz).sigmoid()
    return (1 - z) * (xn + r * hn).tanh() + z * h


def gru_gradients(dout, x, h, w, u, b, reset_first=False):
    xr, xz, xn = (x @ w).chunk(3, 1)
    hr, hz, hn = (h @ u + b).chunk(3, 1)
    r, z = (xr + hr).sigmoid(), (xz + hz).sigmoid()
    n = (xn + r * hn).tanh()
    dn = dout * (1 - z) * (1 - n * n)
    dr, dz = dn * hn * r * (1 - r), dout * (h - n) * z * (1 - z)
    down = torch.cat((dr, dz, dn), 1)
    across = torch.cat((dr, dz, dn if reset_first else dn * r), 1)
    dh = dout * z + across @ u.mT
    return down @ w.mT, dh, x.mT @ down, h.mT @ across, across.sum(0)


@right(gru_cell, *GRU)
def reset_gate_after_the_product(dout, x, h, w, u, b):
    return gru_gradients(dout, x, h, w, u, b)


@wrong(gru_cell, *GRU, kind=Kind.VARIANT, mistake=("missing-term", "factor"))
def reset_gate_before_the_product(dout, x, h, w, u, b):
    return gru_gradients(dout, x, h, w, u, b, reset_first=True)
