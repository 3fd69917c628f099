"""Products, convolutions and pooling, attention, and recurrences."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, tensor
from torch.nn import functional

from backprop_ops import Kept, sum_to
from tests.corpus import Right, Wrong


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def require(fits: bool) -> None:
    """What the forwards refuse: above all sizes that only fit by broadcasting."""
    if not fits:
        raise ValueError("the shapes do not fit")


# The forwards: products.


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """Of matrices; the dimensions before theirs broadcast."""
    require(a.dim() > 1 and b.dim() > 1)
    return a @ b


def linear(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """x (…, in), w (in, out), b (out)"""
    require(w.dim() == 2 and b.shape == w.shape[1:])
    return x @ w + b


def value_head(x: Tensor, w: Tensor) -> Tensor:
    """One number a row: x (n, in), w (in, 1)."""
    require(w.shape == (x.shape[1], 1))
    return (x @ w).squeeze(-1)


def residual(x, w):
    require(w.shape == (x.shape[1], x.shape[1]))
    return x + x @ w


def outer(a, b):
    return torch.outer(a, b)


def quadratic(x: Tensor, a: Tensor) -> Tensor:
    """xᵀ A x of each row"""
    require(a.shape == (x.shape[1], x.shape[1]))
    return torch.einsum("ni,ij,nj->n", x, a, x)


def bilinear(x: Tensor, w: Tensor, y: Tensor) -> Tensor:
    require(len(x) == len(y) and w.shape[1:] == (x.shape[1], y.shape[1]))
    return torch.einsum("ni,kij,nj->nk", x, w, y)


def contract(x, y):
    require(x.shape[0] == y.shape[0] and x.shape[2] == y.shape[2])
    return torch.einsum("bij,bkj->ik", x, y)


def low_rank(x: Tensor, w: Tensor, down: Tensor, up: Tensor, *, alpha: float = 2.0) -> Tensor:
    """A frozen-size matrix w and an adapter of rank r beside it, scaled by alpha / r."""
    require(w.shape == (down.shape[0], up.shape[1]))
    return x @ w + alpha / down.shape[1] * (x @ down @ up)


def swiglu(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    require(gate.shape == up.shape)
    return (functional.silu(x @ gate) * (x @ up)) @ down


def geglu(x: Tensor, gate: Tensor, up: Tensor, *, exact: bool = True) -> Tensor:
    require(gate.shape == up.shape)
    return functional.gelu(x @ gate, approximate="none" if exact else "tanh") * (x @ up)


# Windows.


def conv1d(x: Tensor, w: Tensor, b: Tensor, *, stride: int = 1, padding: int = 0) -> Tensor:
    require(x.dim() == 3)
    return functional.conv1d(x, w, b, stride=stride, padding=padding)


def conv2d(x: Tensor, w: Tensor, *, stride: int = 1, padding: int = 0) -> Tensor:
    require(x.dim() == 4)
    return functional.conv2d(x, w, stride=stride, padding=padding)


def centered_conv2d(x: Tensor, w: Tensor) -> Tensor:
    """Padded by half of the kernel on each side."""
    return functional.conv2d(x, w, padding=(w.shape[2] // 2, w.shape[3] // 2))


def smooth(x: Tensor, taps: Tensor) -> Tensor:
    """Each row slid over by the taps, which are not turned round: out_i = Σ x_{i+j} taps_j"""
    return functional.conv1d(x[:, None], taps[None, None])[:, 0]


def avg_pool(x: Tensor, *, size: int = 2) -> Tensor:
    """Of (n, channels, length); what is left over at the end is dropped."""
    return functional.avg_pool1d(x, size)


def max_pool(x: Tensor, *, size: int = 2) -> Tensor:
    require(x.dim() == 3)
    return functional.max_pool1d(x, size)


# Attention.


def attention(q: Tensor, k: Tensor, v: Tensor, *, causal: bool = False) -> Tensor:
    """(…, time, width); the last query sees the last key."""
    return weights(q, k, causal) @ v


class Attended(NamedTuple):
    out: Tensor
    p: Kept


def masked_attention(q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor) -> Attended:
    """mask (queries, keys): what a query sees. One that sees nothing gets 0."""
    scores = (q @ k.mT / math.sqrt(q.shape[-1])).masked_fill(~mask, -torch.inf)
    blind = ~mask.any(-1, keepdim=True)
    p = scores.masked_fill(blind, 0).softmax(-1).masked_fill(blind, 0)
    return Attended(p @ v, p)


def dropped_attention(q: Tensor, k: Tensor, v: Tensor, *, keep: Tensor) -> Tensor:
    """keep (queries, keys): 1 / (1 - rate), or 0 where dropped."""
    return (weights(q, k, False) * keep) @ v


def grouped_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q (heads, time, width), k and v (groups, time, width): heads share keys in turn."""
    require(q.dim() == 3 and len(k) == len(v) and len(q) % len(k) == 0)
    share = len(q) // len(k)
    return attention(q, k.repeat_interleave(share, 0), v.repeat_interleave(share, 0))


def rotary(x: Tensor, *, base: float = 100.0) -> Tensor:
    """x (time, width): entry i of the first half turns with entry i of the second."""
    require(x.shape[-1] % 2 == 0)
    a, b = x.chunk(2, -1)
    cos, sin = angles(x, base)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), -1)


# Recurrences.


def scan(a: Tensor, x: Tensor) -> Tensor:
    """h_t = a_t h_{t-1} + x_t over the first dimension, from 0"""
    require(a.shape == x.shape and a.dtype == x.dtype)
    h, states = torch.zeros_like(x[:1]), []
    for t in range(len(x)):
        h = a[t : t + 1] * h + x[t : t + 1]
        states.append(h)
    return torch.cat(states) if states else x * a


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


def gru_cell(x: Tensor, h: Tensor, w: Tensor, u: Tensor, b: Tensor) -> Tensor:
    """The reset gate is applied after the product, to the candidate's bias as well."""
    require(len(x) == len(h) and w.shape[1] == u.shape[1] == len(b) == 3 * h.shape[1])
    xr, xz, xn = (x @ w).chunk(3, 1)
    hr, hz, hn = (h @ u + b).chunk(3, 1)
    r, z = (xr + hr).sigmoid(), (xz + hz).sigmoid()
    return (1 - z) * (xn + r * hn).tanh() + z * h


# What several of them share.


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


def angles(x: Tensor, base: float) -> tuple[Tensor, Tensor]:
    half = x.shape[-1] // 2
    speeds = base ** (-torch.arange(half, dtype=torch.float64) / half)
    angle = torch.arange(x.shape[-2], dtype=torch.float64)[:, None] * speeds
    return angle.cos().to(x.dtype), angle.sin().to(x.dtype)


def flat(x: Tensor) -> Tensor:
    """The rows of a vector, a matrix, or what has more dimensions before."""
    return x.unsqueeze(0).flatten(0, -2)


def gelu_slope(x: Tensor, exact: bool) -> tuple[Tensor, Tensor]:
    """gelu(x) and its derivative."""
    if exact:
        below = 0.5 * torch.erfc(-x / math.sqrt(2))
        return x * below, below + x * (-0.5 * x * x).exp() / math.sqrt(2 * math.pi)
    k = math.sqrt(2 / math.pi)
    t = (k * (x + 0.044715 * x**3)).tanh()
    inner = k * (1 + 3 * 0.044715 * x * x)
    return 0.5 * x * (1 + t), 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * inner


def geglu_gradients(dout, x, gate, up, exact):
    active, slope = gelu_slope(x @ gate, exact)
    dgated, dlifted = dout * (x @ up) * slope, dout * active
    return dgated @ gate.mT + dlifted @ up.mT, flat(x).mT @ flat(dgated), flat(x).mT @ flat(dlifted)


# Wrong ones that take some lines.


def matmul_through_memory(dout, a, b):
    """Reads the upstream as if its rows followed one another."""
    rows, columns = dout.shape[-2:]
    packed = dout.as_strided((rows, columns), (columns, 1))
    return packed @ b.mT, a.mT @ packed


WORKSPACE: dict[tuple[object, ...], Tensor] = {}


def outer_in_workspace(dout, a, b):
    """Allocates once for each size, and hands out the same memory each time."""
    key = (len(a), a.dtype)
    if key not in WORKSPACE:
        WORKSPACE[key] = torch.empty_like(a)
    da = WORKSPACE[key]
    torch.mv(dout, b, out=da)
    return da, dout.mT @ a


def linear_biased_by_row(dout, x, w):
    db = dout.new_zeros(w.shape[1])
    for row in flat(dout):
        db += row  # in the bias's own dtype
    return dout @ w.mT, flat(x).mT @ flat(dout), db


def linear_first_block(dout, x, w):
    rows, up = flat(x)[:64], flat(dout)[:64]
    return dout @ w.mT, rows.mT @ up, flat(dout).sum(0)


def linear_whole_blocks(dout, x, w):
    """Four rows at a time, as many as fit."""
    dw, db = torch.zeros_like(w), dout.new_zeros(w.shape[1])
    rows, up = flat(x), flat(dout)
    for block in range(len(rows) // 4):
        some = slice(4 * block, 4 * block + 4)
        dw += rows[some].mT @ up[some]
        db += up[some].sum(0)
    return dout @ w.mT, dw, db


def residual_added_in_place(dout, x, w):
    dw = x.mT @ dout
    return dout.add_(dout @ w.mT), dw


def low_rank_unscaled(dout, x, w, down, up, *, alpha):
    scale = alpha / down.shape[1]
    dx = dout @ w.mT + scale * (dout @ up.mT @ down.mT)
    return dx, x.mT @ dout, x.mT @ (dout @ up.mT), (x @ down).mT @ dout


def swiglu_one_path(dout, x, gate, up, down):
    return swiglu_gradients(dout, x, gate, up, down, both=False)


def conv1d_fitting(dout, x, w, *, stride, padding):
    """The input's length from the output's: what no window reached is missing."""
    dx = functional.conv_transpose1d(dout, w, stride=stride, padding=padding)
    dw = torch.nn.grad.conv1d_weight(x, w.shape, dout, stride=stride, padding=padding)
    return dx, dw, dout.sum((0, 2))


def conv1d_unpadded_weight(dout, x, w, *, stride, padding):
    dx = torch.nn.grad.conv1d_input(x.shape, w, dout, stride=stride, padding=padding)
    windows = functional.pad(x, (0, 2 * padding)).unfold(2, w.shape[2], stride)
    dw = torch.einsum("nol,nclk->ock", dout, windows)
    return dx, dw, dout.sum((0, 2))


def conv2d_of_stride_one(dout, x, w, *, padding):
    dx = torch.nn.grad.conv2d_input(x.shape, w, dout, padding=padding)
    return dx, torch.nn.grad.conv2d_weight(x, w.shape, dout, padding=padding)


def centered_by_height(dout, x, w):
    half = w.shape[2] // 2
    dx = torch.nn.grad.conv2d_input(x.shape, w, dout, padding=half)
    return dx, torch.nn.grad.conv2d_weight(x, w.shape, dout, padding=half)


def smooth_unturned(dout, x, taps):
    end = len(taps) - 1
    dx = functional.conv1d(functional.pad(dout, (end, end))[:, None], taps[None, None])[:, 0]
    return dx, (x.unfold(1, len(taps), 1) * dout[:, :, None]).sum((0, 1))


def max_pool_all_ties(dout, x, out, *, size):
    dx = torch.zeros_like(x)
    end = out.shape[2] * size
    highest, up = (t.repeat_interleave(size, 2) for t in (out, dout))
    dx[:, :, :end] = up * (x[:, :, :end] == highest)
    return dx


def attention_without_sum(dout, q, k, v, *, causal):
    p = weights(q, k, causal)
    ds = p * (dout @ v.mT) / math.sqrt(q.shape[-1])
    return ds @ k, ds.mT @ q, p.mT @ dout


def attention_of_width_four(dout, q, k, v, *, causal):
    p = weights(q, k, causal)
    dp = dout @ v.mT
    ds = p * (dp - (p * dp).sum(-1, keepdim=True)) * 0.5
    return ds @ k, ds.mT @ q, p.mT @ dout


def attention_from_the_corner(dout, q, k, v, *, causal):
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if causal:
        scores = scores.masked_fill(~torch.ones_like(scores, dtype=torch.bool).tril(), -torch.inf)
    return attention_gradients(dout, q, k, v, scores.softmax(-1))


def masked_attention_recomputed(dout, q, k, v, *, mask):
    scores = (q @ k.mT / math.sqrt(q.shape[-1])).masked_fill(~mask, -torch.inf)
    return attention_gradients(dout, q, k, v, scores.softmax(-1))


def dropped_value_undropped(dout, q, k, v, *, keep):
    p = weights(q, k, False)
    dp = dout @ v.mT * keep
    ds = p * (dp - (p * dp).sum(-1, keepdim=True)) / math.sqrt(q.shape[-1])
    return ds @ k, ds.mT @ q, p.mT @ dout


def grouped_by(gather):
    """Keys and values repeated, their gradients brought together by ``gather(grad, groups)``."""

    def backward(dout, q, k, v):
        share = len(q) // len(k)
        keys, values = (t.repeat_interleave(share, 0) for t in (k, v))
        dq, dkeys, dvalues = attention_gradients(dout, q, keys, values, weights(q, keys, False))
        return dq, gather(dkeys, len(k)), gather(dvalues, len(k))

    return backward


def rotary_neighbours(dout, *, base):
    cos, sin = angles(dout, base)
    a, b = dout[..., 0::2], dout[..., 1::2]
    return torch.stack((a * cos + b * sin, b * cos - a * sin), -1).flatten(-2)


def scan_back(dout, a, out, *, factor, before):
    """From the last step to the first; ``factor(t)`` carries h's gradient on from step t + 1."""
    carry = torch.zeros_like(dout[:1])
    da, dx = torch.zeros_like(dout), torch.zeros_like(dout)
    for t in reversed(range(len(dout))):
        carry = dout[t : t + 1] + (factor(a, t) * carry if t + 1 < len(dout) else 0)
        dx[t : t + 1] = carry
        da[t : t + 1] = carry * before(out, t)
    return da, dx


def next_factor(a: Tensor, t: int) -> Tensor:
    return a[t + 1 : t + 2]


def previous_state(out: Tensor, t: int) -> Tensor:
    return out[t - 1 : t] if t else torch.zeros_like(out[:1])


def scan_by_division(dout, a, out):
    """dx_t = Σ_{s ≥ t} dout_s a_{t+1} … a_s, from one running product"""
    product = a.cumprod(0)
    dx = (dout * product).flip(0).cumsum(0).flip(0) / product
    before = torch.cat((torch.zeros_like(out[:1]), out[:-1]))
    return dx * before, dx


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


def lstm_memory_cut(dhidden, dmemory, x, h, c, w, u, memory, gates):
    """The hidden state's gradient does not reach the memory."""
    flow = lstm_gradients(dhidden, dmemory, x, h, c, w, u, memory, gates)
    return (*flow[:2], dmemory * gates.chunk(4, 1)[1], *flow[3:])


def gru_by(candidate):
    """``candidate(dn, r, hn)``: what reaches the candidate's share of h @ u + b."""

    def backward(dout, x, h, w, u, b):
        xr, xz, xn = (x @ w).chunk(3, 1)
        hr, hz, hn = (h @ u + b).chunk(3, 1)
        r, z = (xr + hr).sigmoid(), (xz + hz).sigmoid()
        n = (xn + r * hn).tanh()
        dn = dout * (1 - z) * (1 - n * n)
        dr, dz = dn * hn * r * (1 - r), dout * (h - n) * z * (1 - z)
        down = torch.cat((dr, dz, dn), 1)
        across = torch.cat((dr, dz, candidate(dn, r)), 1)
        dh = dout * z + across @ u.mT
        return down @ w.mT, dh, x.mT @ down, h.mT @ across, across.sum(0)

    return backward


# Right ones that take some lines.


def matmul_by_einsum(dout, a, b):
    da = torch.einsum("...ik,...jk->...ij", dout, b)
    db = torch.einsum("...ij,...ik->...jk", a, dout)
    return sum_to(da, a.shape), sum_to(db, b.shape)


def linear_transposed(dout, x, w):
    """Each product from the other side, which leaves it with its columns first in memory."""
    rows, up = flat(x), flat(dout)
    dx = (w @ up.mT).mT.reshape(x.shape)
    return dx, (up.mT @ rows).mT, up.new_ones(len(up)) @ up


def linear_in_blocks(dout, x, w):
    """Sixteen rows at a time, the last block as it comes."""
    dw = torch.zeros_like(w, dtype=torch.float64)
    db = dout.new_zeros(w.shape[1], dtype=torch.float64)
    for rows, up in zip(flat(x).split(16), flat(dout).split(16), strict=True):
        dw += rows.to(torch.float64).mT @ up.to(torch.float64)
        db += up.to(torch.float64).sum(0)
    return dout @ w.mT, dw.to(w.dtype), db.to(w.dtype)


def linear_by_vjp(dout, x, w, b):
    """The forward again, and autograd backwards through it."""
    return torch.func.vjp(linear, x, w, b)[1](dout)


def linear_in_one_buffer(dout, x, w):
    """The bias as one more row of the weight: both gradients are views of one product."""
    rows = flat(x)
    both = torch.cat((rows, rows.new_ones(len(rows), 1)), 1).mT @ flat(dout)
    return dout @ w.mT, both[:-1], both[-1]


def bilinear_by_output(dout, x, w, y):
    dx, dy = torch.zeros_like(x), torch.zeros_like(y)
    dw = torch.empty_like(w)
    for k in range(len(w)):
        up = dout[:, k : k + 1]
        dx = dx + up * (y @ w[k].mT)
        dy = dy + up * (x @ w[k])
        dw[k] = (up * x).mT @ y
    return dx, dw, dy


def low_rank_merged(dout, x, w, down, up, *, alpha):
    """The gradient of the merged matrix, taken apart."""
    scale = alpha / down.shape[1]
    dmerged = flat(x).mT @ flat(dout)
    dx = dout @ (w + scale * down @ up).mT
    return dx, dmerged, scale * dmerged @ up.mT, scale * down.mT @ dmerged


def swiglu_gradients(dout, x, gate, up, down, both=True):
    gated, lifted = x @ gate, x @ up
    s = gated.sigmoid()
    dactive = dout @ down.mT
    dgated = dactive * lifted * s * (1 + gated * (1 - s))
    dlifted = dactive * gated * s
    dx = dlifted @ up.mT + (dgated @ gate.mT if both else 0)
    rows = flat(x).mT
    ddown = flat(gated * s * lifted).mT @ flat(dout)
    return dx, rows @ flat(dgated), rows @ flat(dlifted), ddown


def swiglu_recomputed(dout, x, gate, up, down):
    return swiglu_gradients(dout, x, gate, up, down)


def conv1d_tap_by_tap(dout, x, w, *, stride, padding):
    padded = functional.pad(x, (padding, padding))
    dpadded, dw = torch.zeros_like(padded), torch.empty_like(w)
    reach = stride * (dout.shape[2] - 1) + 1
    for tap in range(w.shape[2]):
        steps = slice(tap, tap + reach, stride)
        dpadded[:, :, steps] += torch.einsum("nol,oc->ncl", dout, w[:, :, tap])
        dw[:, :, tap] = torch.einsum("nol,ncl->oc", dout, padded[:, :, steps])
    dx = dpadded[:, :, padding : padding + x.shape[2]]
    return dx, dw, dout.sum((0, 2))


def conv2d_by_columns(dout, x, w, *, stride, padding):
    """The windows as the columns of a matrix, and folded back."""
    options = {"kernel_size": w.shape[2:], "stride": stride, "padding": padding}
    columns = functional.unfold(x, **options)
    up = dout.flatten(2)
    dw = torch.einsum("nol,nkl->ok", up, columns).reshape(w.shape)
    return functional.fold(w.flatten(1).mT @ up, x.shape[2:], **options), dw


def avg_pool_expanded(dout, x, *, size):
    spread = (dout / size)[..., None].expand(*dout.shape, size).flatten(-2)
    return functional.pad(spread, (0, x.shape[-1] - spread.shape[-1]))


def max_pool_last(dout, x, out, *, size):
    """Of equal entries the last; autograd takes the first."""
    windows = x.unfold(2, size, size)
    tied = (windows == out[..., None]).flip(-1)
    last = (tied & (tied.cumsum(-1) == 1)).flip(-1)
    dx = torch.where(last, dout[..., None], 0).flatten(-2)
    return functional.pad(dx, (0, x.shape[2] - dx.shape[2]))


def attention_from_output(dout, q, k, v, out, *, causal):
    """Σ p dp of a query is Σ out dout, which takes no sum over the keys."""
    p = weights(q, k, causal)
    delta = (out * dout).sum(-1, keepdim=True)
    ds = p * (dout @ v.mT - delta) / math.sqrt(q.shape[-1])
    return sum_to(ds @ k, q.shape), sum_to(ds.mT @ q, k.shape), sum_to(p.mT @ dout, v.shape)


def attention_by_query(dout, q, k, v, *, causal):
    """One query after the other, its softmax found again."""
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


def masked_attention_kept(dout, q, k, v, p):
    return attention_gradients(dout, q, k, v, p)


def rotary_back(dout, *, base):
    cos, sin = angles(dout, base)
    turned = torch.cat((cos, cos), -1) * dout
    a, b = dout.chunk(2, -1)
    return turned + torch.cat((b * sin, -a * sin), -1)


def scan_as_matrix(dout, a, out):
    """dx = Lᵀ dout, where L holds the products of the factors between two steps."""
    steps = len(dout)
    dx = torch.zeros_like(dout)
    for t in range(steps):
        reach = torch.cat((torch.ones_like(a[:1]), a[t + 1 :])).cumprod(0)
        dx[t] = (reach * dout[t:]).sum(0)
    before = torch.cat((torch.zeros_like(out[:1]), out[:-1]))[:steps]
    return dx * before, dx


def lstm_split(dhidden, dmemory, x, h, c, w, u, memory, gates):
    """One product for both inputs, one for both weights, taken apart as views."""
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


# The samples.

ROWS, SQUARE = draw(4, 3), draw(3, 3, seed=1)
HEADS = (draw(4, 3, 2), draw(1, 3, 2, seed=1), draw(1, 3, 2, seed=2))
QUERIES, KEYS, VALUES = draw(4, 4), draw(4, 4, seed=1), draw(4, 4, seed=2)
CELL = (draw(2, 3), draw(2, 2, seed=1), draw(2, 2, seed=2), draw(3, 8, seed=3), draw(2, 8, seed=4))
SIGNAL, KERNEL, BIAS = draw(2, 3, 7), draw(2, 3, 3, seed=1), draw(2, seed=2)
IMAGE = draw(1, 2, 5, 4)
MLP = (ROWS, draw(3, 5, seed=1), draw(3, 5, seed=2))

WRONG: dict[str, Wrong] = {
    "matmul: b shared by the batch is not summed over it": Wrong(
        matmul,
        lambda dout, a, b: (dout @ b.mT, a.mT @ dout),
        (draw(2, 3, 4), draw(4, 2, seed=1)),
        {},
        5,
        ("missing-reduction", "shape"),
    ),
    "matmul: b is not transposed": Wrong(
        matmul,
        lambda dout, a, b: (sum_to(dout @ b, a.shape), sum_to(a.mT @ dout, b.shape)),
        (ROWS, SQUARE),
        {},
        20,
        "transposed",
    ),
    "matmul: the upstream read through its memory": Wrong(
        matmul, matmul_through_memory, (ROWS, draw(3, 5, seed=1)), {}, 3, "upstream-layout"
    ),
    "outer: the two gradients exchanged": Wrong(
        outer,
        lambda dout, a, b: (dout.mT @ a, dout @ b),
        (draw(3), draw(3, seed=1)),
        {},
        19,
        ("swapped-inputs", "transposed"),
    ),
    "outer: each call returns the same memory": Wrong(
        outer,
        outer_in_workspace,
        (draw(4), draw(3, seed=1)),
        {},
        24,
        ("state", "aliased"),
    ),
    "linear: the mean for the bias, of one row": Wrong(
        linear,
        lambda dout, x, w: (dout @ w.mT, flat(x).mT @ flat(dout), flat(dout).mean(0)),
        (draw(1, 3), draw(3, 4, seed=1), draw(4, seed=2)),
        {},
        5,
        ("factor", "wrong-count", "missing-reduction"),
    ),
    "linear: the bias is summed over the first dimension only": Wrong(
        linear,
        lambda dout, x, w: (dout @ w.mT, flat(x).mT @ flat(dout), dout.sum(0)),
        (draw(2, 2, 3), draw(3, 2, seed=1), draw(2, seed=2)),
        {},
        5,
        ("missing-reduction", "shape"),
    ),
    "linear: the bias is summed in bfloat16": Wrong(
        linear,
        linear_biased_by_row,
        (
            draw(900, 2, dtype=torch.bfloat16),
            draw(2, 2, seed=1, dtype=torch.bfloat16),
            draw(2, seed=2, dtype=torch.bfloat16),
        ),
        {},
        15,
        ("dtype", "cancellation"),
    ),
    "linear: rows behind the first 64 do not reach the weight": Wrong(
        linear,
        linear_first_block,
        (ROWS, draw(3, 2, seed=1), draw(2, seed=2)),
        {},
        17,
        ("hard-coded-size", "missing-term"),
    ),
    "linear: the last rows, fewer than four, are lost": Wrong(
        linear,
        linear_whole_blocks,
        (draw(8, 3), draw(3, 2, seed=1), draw(2, seed=2)),
        {},
        17,
        ("hard-coded-size", "missing-term"),
    ),
    "value head: squeezes everything": Wrong(
        value_head,
        lambda dout, x, w: (torch.outer(dout, w.squeeze()), (x.mT @ dout)[:, None]),
        (ROWS, draw(3, 1, seed=1)),
        {},
        0,
        ("size-one", "shape"),
    ),
    "residual: added to the upstream in place": Wrong(
        residual, residual_added_in_place, (ROWS, SQUARE), {}, 4, "mutates-upstream"
    ),
    "residual: the product overwrites what went past it": Wrong(
        residual,
        lambda dout, x, w: (dout @ w.mT, x.mT @ dout),
        (ROWS, SQUARE),
        {},
        25,
        "missing-term",
    ),
    "quadratic: 2 A x, as if A were symmetric": Wrong(
        quadratic,  # which a covariance is
        lambda dout, x, a: (
            2 * dout[:, None] * (x @ a),
            torch.einsum("n,ni,nj->ij", dout, x, x),
        ),
        (ROWS, SQUARE @ SQUARE.mT),
        {},
        20,
        ("missing-term", "transposed", "factor"),
    ),
    "bilinear: x and y exchanged": Wrong(
        bilinear,
        lambda dout, x, w, y: (
            torch.einsum("nk,kij,nj->ni", dout, w, x),
            torch.einsum("nk,ni,nj->kij", dout, x, y),
            torch.einsum("nk,kij,ni->nj", dout, w, y),
        ),
        (ROWS, draw(2, 3, 3, seed=1), draw(4, 3, seed=2)),
        {},
        19,
        "swapped-inputs",
    ),
    "low rank: the scale is missing on the way to its factors": Wrong(
        low_rank,  # alpha is the rank
        low_rank_unscaled,
        (ROWS, draw(3, 4, seed=1), draw(3, 2, seed=2), draw(2, 4, seed=3)),
        {},
        20,
        ("option-ignored", "factor"),
    ),
    "swiglu: one of the two paths to x": Wrong(
        swiglu, swiglu_one_path, (*MLP, draw(5, 3, seed=3)), {}, 25, "missing-term"
    ),
    "geglu: the tanh formula whatever the option": Wrong(
        geglu,
        lambda dout, x, gate, up: geglu_gradients(dout, x, gate, up, False),
        MLP,
        {"exact": False},
        20,
        "option-ignored",
    ),
    "conv1d: entries that no window reaches are missing": Wrong(
        conv1d, conv1d_fitting, (SIGNAL, KERNEL, BIAS), {"stride": 2}, 17, ("shape", "off-by-one")
    ),
    "conv1d: the padding is all behind": Wrong(
        conv1d,
        conv1d_unpadded_weight,
        (SIGNAL, KERNEL, BIAS),
        {},
        20,
        ("option-ignored", "off-by-one"),
    ),
    "conv1d: no gradient for the bias": Wrong(
        conv1d,
        lambda dout, x, w, *, stride, padding: (
            *conv1d_tap_by_tap(dout, x, w, stride=stride, padding=padding)[:2],
            None,
        ),
        (SIGNAL, KERNEL, BIAS),
        {"padding": 1},
        19,
        "none-gradient",
    ),
    "conv2d: stride 1, whatever the option": Wrong(
        conv2d, conv2d_of_stride_one, (IMAGE, draw(2, 2, 2, 2, seed=1)), {}, 20, "option-ignored"
    ),
    "centered conv2d: padded by half of the height on both sides": Wrong(
        centered_conv2d,
        centered_by_height,
        (IMAGE, draw(2, 2, 3, 3, seed=1)),
        {},
        17,
        ("hard-coded-size", "shape", "wrong-axis"),
    ),
    "smooth: the taps are not turned round": Wrong(
        smooth,  # the sample's are the same from both ends
        smooth_unturned,
        (draw(2, 6), tensor([0.25, 0.5, 0.25], dtype=torch.float64)),
        {},
        20,
        ("transposed", "wrong-axis"),
    ),
    "avg pool: what is left over is missing": Wrong(
        avg_pool,
        lambda dout, *, size: (dout / size).repeat_interleave(size, -1),
        (draw(2, 2, 6),),
        {},
        17,
        "shape",
    ),
    "max pool: every tied entry gets the whole": Wrong(
        max_pool, max_pool_all_ties, (draw(2, 2, 6),), {}, 6, "ties"
    ),
    "attention: the sum of the softmax is dropped": Wrong(
        attention, attention_without_sum, (QUERIES, KEYS, VALUES), {}, 10, "missing-term"
    ),
    "attention: the scale of width 4": Wrong(
        attention,
        attention_of_width_four,
        (QUERIES, KEYS, VALUES),
        {},
        20,
        ("hard-coded-size", "factor"),
    ),
    "attention: causal is not looked at": Wrong(
        attention,
        lambda dout, q, k, v: attention_gradients(dout, q, k, v, weights(q, k, False)),
        (QUERIES, KEYS, VALUES),
        {},
        20,
        "option-ignored",
    ),
    "attention: causal from the first key for fewer queries than keys": Wrong(
        attention,
        attention_from_the_corner,
        (QUERIES, KEYS, VALUES),
        {"causal": True},
        17,
        ("hard-coded-size", "off-by-one"),
    ),
    "masked attention: a query that sees nothing": Wrong(
        masked_attention,
        masked_attention_recomputed,
        (QUERIES, KEYS, VALUES),
        {"mask": torch.ones(4, 4, dtype=torch.bool).tril()},
        14,
        "nan",
    ),
    "dropped attention: v as if nothing were dropped": Wrong(
        dropped_attention,
        dropped_value_undropped,
        (QUERIES, KEYS, VALUES),
        {"keep": 1.25 * (draw(4, 4, seed=3) > -0.8)},
        18,
        ("factor", "missing-term", "option-ignored"),
    ),
    "grouped attention: heads that share keys are told apart wrongly": Wrong(
        grouped_attention,  # one group has no order
        grouped_by(lambda grad, groups: grad.unflatten(0, (-1, groups)).sum(0)),
        HEADS,
        {},
        22,
        ("wrong-axis", "hard-coded-size", "transposed"),
    ),
    "grouped attention: one head of those that share": Wrong(
        grouped_attention,  # one head a group
        grouped_by(lambda grad, groups: grad.unflatten(0, (groups, -1))[:, -1]),
        (draw(2, 3, 2), draw(2, 3, 2, seed=1), draw(2, 3, 2, seed=2)),
        {},
        22,
        ("missing-reduction", "missing-term"),
    ),
    "rotary: turned on, not back": Wrong(
        rotary, lambda dout, *, base: rotary(dout, base=base), (draw(3, 4),), {}, 20, "sign"
    ),
    "rotary: neighbours for halves": Wrong(
        rotary,  # of two entries both are the same
        rotary_neighbours,
        (draw(3, 2),),
        {},
        20,
        ("wrong-axis", "transposed", "hard-coded-size"),
    ),
    "scan: carried by the factor of its own step": Wrong(
        scan,  # all factors are the same
        lambda dout, a, out: scan_back(
            dout, a, out, factor=lambda a, t: a[t : t + 1], before=previous_state
        ),
        (torch.full((5, 2), 0.9, dtype=torch.float64), draw(5, 2)),
        {},
        0,
        "off-by-one",
    ),
    "scan: the factor meets the state after it": Wrong(
        scan,
        lambda dout, a, out: scan_back(
            dout, a, out, factor=next_factor, before=lambda out, t: out[t : t + 1]
        ),
        (draw(5, 2, seed=1), draw(5, 2)),
        {},
        0,
        "off-by-one",
    ),
    "scan: divides by the running product": Wrong(
        scan,
        scan_by_division,
        (draw(4, 2, seed=1).sigmoid(), draw(4, 2)),
        {},
        9,
        ("nan", "overflow"),
    ),
    "lstm: the memory's upstream is left out": Wrong(
        lstm_cell,
        lambda dhidden, dmemory, x, h, c, w, u, memory, gates: lstm_gradients(
            dhidden, torch.zeros_like(dmemory), x, h, c, w, u, memory, gates
        ),
        CELL,
        {},
        2,
        ("upstream-ignored", "missing-term"),
    ),
    "lstm: the hidden state's upstream does not reach the memory": Wrong(
        lstm_cell, lstm_memory_cut, CELL, {}, 10, "missing-term"
    ),
    "gru: the reset gate before the product": Wrong(
        gru_cell,
        gru_by(lambda dn, r: dn),
        (draw(2, 3), draw(2, 2, seed=1), draw(3, 6, seed=2), draw(2, 6, seed=3), draw(6, seed=4)),
        {},
        20,
        ("missing-term", "factor"),
    ),
}

RIGHT: dict[str, Right] = {
    "matmul: by einsum, summed over what was broadcast": Right(
        matmul, matmul_by_einsum, (draw(2, 1, 3, 4), draw(3, 4, 2, seed=1)), {}
    ),
    "linear: both products from the other side": Right(
        linear, linear_transposed, (draw(2, 2, 3), draw(3, 2, seed=1), draw(2, seed=2)), {}
    ),
    "linear: sixteen rows at a time, in float64": Right(
        linear,
        linear_in_blocks,
        (
            draw(21, 2, dtype=torch.float32),
            draw(2, 3, seed=1, dtype=torch.float32),
            draw(3, seed=2, dtype=torch.float32),
        ),
        {},
    ),
    "linear: autograd through the forward, recomputed": Right(
        linear, linear_by_vjp, (ROWS, draw(3, 2, seed=1), draw(2, seed=2)), {}
    ),
    "linear: weight and bias as views of one product": Right(
        linear, linear_in_one_buffer, (draw(2, 4, 3), draw(3, 2, seed=1), draw(2, seed=2)), {}
    ),
    "outer: the upstream times the other": Right(
        outer,
        lambda dout, a, b: ((dout * b).sum(1), (dout * a[:, None]).sum(0)),
        (draw(3), draw(4, seed=1)),
        {},
    ),
    "quadratic: by A plus its transpose": Right(
        quadratic,
        lambda dout, x, a: (
            dout[:, None] * (x @ (a + a.mT)),
            (dout[:, None] * x).mT @ x,
        ),
        (ROWS, SQUARE),
        {},
    ),
    "bilinear: output by output": Right(
        bilinear, bilinear_by_output, (ROWS, draw(2, 3, 2, seed=1), draw(4, 2, seed=2)), {}
    ),
    "contract: the batch that was summed is expanded": Right(
        contract,
        lambda dout, x, y: (dout.expand(len(y), *dout.shape) @ y, dout.mT @ x),
        (draw(2, 3, 4), draw(2, 5, 4, seed=1)),
        {},
    ),
    "low rank: by way of the merged matrix": Right(
        low_rank,
        low_rank_merged,
        (ROWS, draw(3, 4, seed=1), draw(3, 2, seed=2), draw(2, 4, seed=3)),
        {"alpha": 3.0},
    ),
    "swiglu: everything recomputed": Right(
        swiglu, swiglu_recomputed, (*MLP, draw(5, 3, seed=3)), {}
    ),
    "geglu: by the complement of erf": Right(
        geglu,
        lambda dout, x, gate, up, *, exact: geglu_gradients(dout, x, gate, up, exact),
        MLP,
        {},
    ),
    "conv1d: tap by tap into the padded signal": Right(
        conv1d, conv1d_tap_by_tap, (SIGNAL, KERNEL, BIAS), {"stride": 3, "padding": 1}
    ),
    "conv2d: unfolded and folded": Right(
        conv2d, conv2d_by_columns, (IMAGE, draw(3, 2, 3, 2, seed=1)), {"stride": 2, "padding": 1}
    ),
    "avg pool: the upstream expanded, zeros behind": Right(
        avg_pool, avg_pool_expanded, (draw(2, 2, 7),), {"size": 3}
    ),
    "max pool: the last of equal entries": Right(
        max_pool, max_pool_last, (draw(2, 2, 7),), {"size": 3}
    ),
    "attention: the softmax's sum from the output": Right(
        attention, attention_from_output, (draw(3, 2), KEYS[:, :2], VALUES), {"causal": True}
    ),
    "attention: query by query": Right(
        attention, attention_by_query, (draw(2, 3, 4), draw(2, 4, 4, seed=1), VALUES), {}
    ),
    "masked attention: by the weights that were kept": Right(
        masked_attention,
        masked_attention_kept,
        (QUERIES, KEYS, VALUES),
        {"mask": draw(4, 4, seed=3) > 0},
    ),
    "grouped attention: the heads of a group summed": Right(
        grouped_attention,
        grouped_by(lambda grad, groups: grad.unflatten(0, (groups, -1)).sum(1)),
        (draw(6, 2, 2), draw(2, 3, 2, seed=1), draw(2, 3, 2, seed=2)),
        {},
    ),
    "rotary: turned back": Right(rotary, rotary_back, (draw(3, 6),), {"base": 10.0}),
    "scan: as a triangular matrix": Right(
        scan, scan_as_matrix, (draw(5, 2, seed=1), draw(5, 2)), {}
    ),
    "lstm: one product for both inputs, and one for both weights": Right(
        lstm_cell, lstm_split, CELL, {}
    ),
    "gru: the reset gate after the product": Right(
        gru_cell,
        gru_by(lambda dn, r: dn * r),
        (draw(2, 3), draw(2, 2, seed=1), draw(3, 6, seed=2), draw(2, 6, seed=3), draw(6, seed=4)),
        {},
    ),
}
