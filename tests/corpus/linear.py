"""Products, convolutions and pooling, attention, and recurrences."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, tensor
from torch.nn import functional

from backprop_ops import Kept, sum_to
from tests.corpus import right, wrong
from tests.corpus.kinds import Kind
from tests.corpus.samples import draw, require

ROWS, SQUARE = draw(4, 3), draw(3, 3, seed=1)
QUERIES, KEYS, VALUES = draw(4, 4), draw(4, 4, seed=1), draw(4, 4, seed=2)
IMAGE = draw(1, 2, 5, 4)
MLP = (ROWS, draw(3, 5, seed=1), draw(3, 5, seed=2))
LINEAR = (ROWS, draw(3, 2, seed=1), draw(2, seed=2))
GRU = (draw(2, 3), draw(2, 2, seed=1), draw(3, 6, seed=2), draw(2, 6, seed=3), draw(6, seed=4))
ATTENTION = (QUERIES, KEYS, VALUES)
CONV = (draw(2, 3, 7), draw(2, 3, 3, seed=1), draw(2, seed=2))
LOW_RANK = (ROWS, draw(3, 4, seed=1), draw(3, 2, seed=2), draw(2, 4, seed=3))


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


def flat(x: Tensor) -> Tensor:
    """The rows of a vector, a matrix, or what has more dimensions before."""
    return x.unsqueeze(0).flatten(0, -2)


# Products.


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """Of matrices; the dimensions before theirs broadcast."""
    require(a.dim() > 1 and b.dim() > 1)
    return a @ b


@right(matmul, draw(2, 1, 3, 4), draw(3, 4, 2, seed=1))
def by_einsum_summed_over_what_was_broadcast(dout, a, b):
    da = torch.einsum("...ik,...jk->...ij", dout, b)
    db = torch.einsum("...ij,...ik->...jk", a, dout)
    return sum_to(da, a.shape), sum_to(db, b.shape)


@wrong(
    matmul,
    draw(2, 3, 4),
    draw(4, 2, seed=1),
    kind=Kind.BROADCAST,
    mistake=("missing-reduction", "shape"),
)
def shared_b_not_summed_over_the_batch(dout, a, b):
    return dout @ b.mT, a.mT @ dout


@wrong(matmul, ROWS, SQUARE, kind=Kind.VARIANT, mistake="transposed")
def b_is_not_transposed(dout, a, b):
    return sum_to(dout @ b, a.shape), sum_to(a.mT @ dout, b.shape)


@wrong(matmul, ROWS, draw(3, 5, seed=1), kind=Kind.LAYOUT, mistake="upstream-layout")
def upstream_read_through_its_memory(dout, a, b):
    """Reads the upstream as if its rows followed one another."""
    rows, columns = dout.shape[-2:]
    packed = dout.as_strided((rows, columns), (columns, 1))
    return packed @ b.mT, a.mT @ packed


def linear(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """x (…, in), w (in, out), b (out)"""
    require(w.dim() == 2 and b.shape == w.shape[1:])
    return x @ w + b


@right(linear, draw(2, 2, 3), draw(3, 2, seed=1), draw(2, seed=2))
def both_products_from_the_other_side(dout, x, w):
    """Each product from the other side, which leaves it with its columns first in memory."""
    rows, up = flat(x), flat(dout)
    dx = (w @ up.mT).mT.reshape(x.shape)
    return dx, (up.mT @ rows).mT, up.new_ones(len(up)) @ up


@right(
    linear,
    draw(21, 2, dtype=torch.float32),
    draw(2, 3, seed=1, dtype=torch.float32),
    draw(3, seed=2, dtype=torch.float32),
)
def sixteen_rows_at_a_time_in_float64(dout, x, w):
    """Sixteen rows at a time, the last block as it comes."""
    dw = torch.zeros_like(w, dtype=torch.float64)
    db = dout.new_zeros(w.shape[1], dtype=torch.float64)
    for rows, up in zip(flat(x).split(16), flat(dout).split(16), strict=True):
        dw += rows.to(torch.float64).mT @ up.to(torch.float64)
        db += up.to(torch.float64).sum(0)
    return dout @ w.mT, dw.to(w.dtype), db.to(w.dtype)


@right(linear, *LINEAR)
def autograd_through_the_forward_recomputed(dout, x, w, b):
    """The forward again, and autograd backwards through it."""
    return torch.func.vjp(linear, x, w, b)[1](dout)


@right(linear, draw(2, 4, 3), draw(3, 2, seed=1), draw(2, seed=2))
def weight_and_bias_as_views_of_one_product(dout, x, w):
    """The bias as one more row of the weight: both gradients are views of one product."""
    rows = flat(x)
    both = torch.cat((rows, rows.new_ones(len(rows), 1)), 1).mT @ flat(dout)
    return dout @ w.mT, both[:-1], both[-1]


@wrong(
    linear,
    draw(1, 3),
    draw(3, 4, seed=1),
    draw(4, seed=2),
    kind=Kind.BROADCAST,
    mistake=("factor", "wrong-count", "missing-reduction"),
)
def mean_for_the_bias_of_one_row(dout, x, w):
    return dout @ w.mT, flat(x).mT @ flat(dout), flat(dout).mean(0)


@wrong(
    linear,
    draw(2, 2, 3),
    draw(3, 2, seed=1),
    draw(2, seed=2),
    kind=Kind.BROADCAST,
    mistake=("missing-reduction", "shape"),
)
def bias_summed_over_the_first_dimension_only(dout, x, w):
    return dout @ w.mT, flat(x).mT @ flat(dout), dout.sum(0)


@wrong(
    linear,
    draw(900, 2, dtype=torch.bfloat16),
    draw(2, 2, seed=1, dtype=torch.bfloat16),
    draw(2, seed=2, dtype=torch.bfloat16),
    kind=Kind.PRECISION,
    mistake=("dtype", "cancellation"),
)
def bias_is_summed_in_bfloat16(dout, x, w):
    db = dout.new_zeros(w.shape[1])
    for row in flat(dout):
        db += row  # in the bias's own dtype
    return dout @ w.mT, flat(x).mT @ flat(dout), db


@wrong(linear, *LINEAR, kind=Kind.SIZES, mistake=("hard-coded-size", "missing-term"))
def only_64_rows_reach_the_weight(dout, x, w):
    rows, up = flat(x)[:64], flat(dout)[:64]
    return dout @ w.mT, rows.mT @ up, flat(dout).sum(0)


@wrong(
    linear,
    draw(8, 3),
    draw(3, 2, seed=1),
    draw(2, seed=2),
    kind=Kind.SIZES,
    mistake=("hard-coded-size", "missing-term"),
)
def last_rows_fewer_than_four_are_lost(dout, x, w):
    """Four rows at a time, as many as fit."""
    dw, db = torch.zeros_like(w), dout.new_zeros(w.shape[1])
    rows, up = flat(x), flat(dout)
    for block in range(len(rows) // 4):
        some = slice(4 * block, 4 * block + 4)
        dw += rows[some].mT @ up[some]
        db += up[some].sum(0)
    return dout @ w.mT, dw, db


def value_head(x: Tensor, w: Tensor) -> Tensor:
    """One number a row: x (n, in), w (in, 1)."""
    require(w.shape == (x.shape[1], 1))
    return (x @ w).squeeze(-1)


@wrong(value_head, ROWS, draw(3, 1, seed=1), kind=Kind.OTHER, mistake=("size-one", "shape"))
def squeezes_everything(dout, x, w):
    return torch.outer(dout, w.squeeze()), (x.mT @ dout)[:, None]


def residual(x, w):
    require(w.shape == (x.shape[1], x.shape[1]))
    return x + x @ w


@wrong(residual, ROWS, SQUARE, kind=Kind.OVERWRITTEN, mistake="mutates-upstream")
def added_to_the_upstream_in_place(dout, x, w):
    dw = x.mT @ dout
    return dout.add_(dout @ w.mT), dw


@wrong(residual, ROWS, SQUARE, kind=Kind.FAN_OUT, mistake="missing-term")
def product_overwrites_what_went_past_it(dout, x, w):
    return dout @ w.mT, x.mT @ dout


def outer(a, b):
    return torch.outer(a, b)


WORKSPACE: dict[tuple[object, ...], Tensor] = {}


@right(outer, draw(3), draw(4, seed=1))
def upstream_times_the_other(dout, a, b):
    return (dout * b).sum(1), (dout * a[:, None]).sum(0)


@wrong(outer, draw(3), draw(3, seed=1), kind=Kind.MISSING, mistake=("swapped-inputs", "transposed"))
def two_gradients_exchanged(dout, a, b):
    return dout.mT @ a, dout @ b


@wrong(outer, draw(4), draw(3, seed=1), kind=Kind.STALE, mistake=("state", "aliased"))
def each_call_returns_the_same_memory(dout, a, b):
    """Allocates once for each size, and hands out the same memory each time."""
    key = (len(a), a.dtype)
    if key not in WORKSPACE:
        WORKSPACE[key] = torch.empty_like(a)
    da = WORKSPACE[key]
    torch.mv(dout, b, out=da)
    return da, dout.mT @ a


def quadratic(x: Tensor, a: Tensor) -> Tensor:
    """xᵀ A x of each row"""
    require(a.shape == (x.shape[1], x.shape[1]))
    return torch.einsum("ni,ij,nj->n", x, a, x)


@right(quadratic, ROWS, SQUARE)
def by_a_plus_its_transpose(dout, x, a):
    return dout[:, None] * (x @ (a + a.mT)), (dout[:, None] * x).mT @ x


@wrong(
    quadratic,
    ROWS,
    SQUARE @ SQUARE.mT,
    kind=Kind.VARIANT,
    mistake=("missing-term", "transposed", "factor"),
)
def as_if_a_were_symmetric(dout, x, a):  # which a covariance is
    return 2 * dout[:, None] * (x @ a), torch.einsum("n,ni,nj->ij", dout, x, x)


def bilinear(x: Tensor, w: Tensor, y: Tensor) -> Tensor:
    require(len(x) == len(y) and w.shape[1:] == (x.shape[1], y.shape[1]))
    return torch.einsum("ni,kij,nj->nk", x, w, y)


@right(bilinear, ROWS, draw(2, 3, 2, seed=1), draw(4, 2, seed=2))
def output_by_output(dout, x, w, y):
    dx, dy = torch.zeros_like(x), torch.zeros_like(y)
    dw = torch.empty_like(w)
    for k in range(len(w)):
        up = dout[:, k : k + 1]
        dx = dx + up * (y @ w[k].mT)
        dy = dy + up * (x @ w[k])
        dw[k] = (up * x).mT @ y
    return dx, dw, dy


@wrong(
    bilinear,
    ROWS,
    draw(2, 3, 3, seed=1),
    draw(4, 3, seed=2),
    kind=Kind.MISSING,
    mistake="swapped-inputs",
)
def x_and_y_exchanged(dout, x, w, y):
    return (
        torch.einsum("nk,kij,nj->ni", dout, w, x),
        torch.einsum("nk,ni,nj->kij", dout, x, y),
        torch.einsum("nk,kij,ni->nj", dout, w, y),
    )


def contract(x, y):
    require(x.shape[0] == y.shape[0] and x.shape[2] == y.shape[2])
    return torch.einsum("bij,bkj->ik", x, y)


@right(contract, draw(2, 3, 4), draw(2, 5, 4, seed=1))
def batch_that_was_summed_is_expanded(dout, x, y):
    return dout.expand(len(y), *dout.shape) @ y, dout.mT @ x


def low_rank(x: Tensor, w: Tensor, down: Tensor, up: Tensor, *, alpha: float = 2.0) -> Tensor:
    """A frozen-size matrix w and an adapter of rank r beside it, scaled by alpha / r."""
    require(w.shape == (down.shape[0], up.shape[1]))
    return x @ w + alpha / down.shape[1] * (x @ down @ up)


@right(low_rank, *LOW_RANK, alpha=3.0)
def by_way_of_the_merged_matrix(dout, x, w, down, up, *, alpha):
    """The gradient of the merged matrix, taken apart."""
    scale = alpha / down.shape[1]
    dmerged = flat(x).mT @ flat(dout)
    dx = dout @ (w + scale * down @ up).mT
    return dx, dmerged, scale * dmerged @ up.mT, scale * down.mT @ dmerged


@wrong(low_rank, *LOW_RANK, kind=Kind.VARIANT, mistake=("option-ignored", "factor"))
def scale_is_missing_on_the_way_to_its_factors(dout, x, w, down, up, *, alpha):  # alpha is the rank
    scale = alpha / down.shape[1]
    dx = dout @ w.mT + scale * (dout @ up.mT @ down.mT)
    return dx, x.mT @ dout, x.mT @ (dout @ up.mT), (x @ down).mT @ dout


def swiglu(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    require(gate.shape == up.shape)
    return (functional.silu(x @ gate) * (x @ up)) @ down


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


@right(swiglu, *MLP, draw(5, 3, seed=3))
def everything_recomputed(dout, x, gate, up, down):
    return swiglu_gradients(dout, x, gate, up, down)


@wrong(swiglu, *MLP, draw(5, 3, seed=3), kind=Kind.FAN_OUT, mistake="missing-term")
def one_of_the_two_paths_to_x(dout, x, gate, up, down):
    return swiglu_gradients(dout, x, gate, up, down, both=False)


def geglu(x: Tensor, gate: Tensor, up: Tensor, *, exact: bool = True) -> Tensor:
    require(gate.shape == up.shape)
    return functional.gelu(x @ gate, approximate="none" if exact else "tanh") * (x @ up)


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


@right(geglu, *MLP)
def by_the_complement_of_erf(dout, x, gate, up, *, exact):
    return geglu_gradients(dout, x, gate, up, exact)


@wrong(geglu, *MLP, exact=False, kind=Kind.VARIANT, mistake="option-ignored")
def tanh_formula_whatever_the_option(dout, x, gate, up):
    return geglu_gradients(dout, x, gate, up, False)


# Windows.


def conv1d(x: Tensor, w: Tensor, b: Tensor, *, stride: int = 1, padding: int = 0) -> Tensor:
    require(x.dim() == 3)
    return functional.conv1d(x, w, b, stride=stride, padding=padding)


@right(conv1d, *CONV, stride=3, padding=1)
def tap_by_tap_into_the_padded_signal(dout, x, w, *, stride, padding):
    padded = functional.pad(x, (padding, padding))
    dpadded, dw = torch.zeros_like(padded), torch.empty_like(w)
    reach = stride * (dout.shape[2] - 1) + 1
    for tap in range(w.shape[2]):
        steps = slice(tap, tap + reach, stride)
        dpadded[:, :, steps] += torch.einsum("nol,oc->ncl", dout, w[:, :, tap])
        dw[:, :, tap] = torch.einsum("nol,ncl->oc", dout, padded[:, :, steps])
    dx = dpadded[:, :, padding : padding + x.shape[2]]
    return dx, dw, dout.sum((0, 2))


@wrong(conv1d, *CONV, stride=2, kind=Kind.SIZES, mistake=("shape", "off-by-one"))
def entries_that_no_window_reaches_are_missing(dout, x, w, *, stride, padding):
    """The input's length from the output's: what no window reached is missing."""
    dx = functional.conv_transpose1d(dout, w, stride=stride, padding=padding)
    dw = torch.nn.grad.conv1d_weight(x, w.shape, dout, stride=stride, padding=padding)
    return dx, dw, dout.sum((0, 2))


@wrong(conv1d, *CONV, kind=Kind.VARIANT, mistake=("option-ignored", "off-by-one"))
def padding_is_all_behind(dout, x, w, *, stride, padding):
    dx = torch.nn.grad.conv1d_input(x.shape, w, dout, stride=stride, padding=padding)
    windows = functional.pad(x, (0, 2 * padding)).unfold(2, w.shape[2], stride)
    dw = torch.einsum("nol,nclk->ock", dout, windows)
    return dx, dw, dout.sum((0, 2))


@wrong(conv1d, *CONV, padding=1, kind=Kind.MISSING, mistake="none-gradient")
def no_gradient_for_the_bias(dout, x, w, *, stride, padding):
    return *tap_by_tap_into_the_padded_signal(dout, x, w, stride=stride, padding=padding)[:2], None


def conv2d(x: Tensor, w: Tensor, *, stride: int = 1, padding: int = 0) -> Tensor:
    require(x.dim() == 4)
    return functional.conv2d(x, w, stride=stride, padding=padding)


@right(conv2d, IMAGE, draw(3, 2, 3, 2, seed=1), stride=2, padding=1)
def unfolded_and_folded(dout, x, w, *, stride, padding):
    """The windows as the columns of a matrix, and folded back."""
    options = {"kernel_size": w.shape[2:], "stride": stride, "padding": padding}
    columns = functional.unfold(x, **options)
    up = dout.flatten(2)
    dw = torch.einsum("nol,nkl->ok", up, columns).reshape(w.shape)
    return functional.fold(w.flatten(1).mT @ up, x.shape[2:], **options), dw


@wrong(conv2d, IMAGE, draw(2, 2, 2, 2, seed=1), kind=Kind.VARIANT, mistake="option-ignored")
def stride_1_whatever_the_option(dout, x, w, *, padding):
    dx = torch.nn.grad.conv2d_input(x.shape, w, dout, padding=padding)
    return dx, torch.nn.grad.conv2d_weight(x, w.shape, dout, padding=padding)


def centered_conv2d(x: Tensor, w: Tensor) -> Tensor:
    """Padded by half of the kernel on each side."""
    return functional.conv2d(x, w, padding=(w.shape[2] // 2, w.shape[3] // 2))


@wrong(
    centered_conv2d,
    IMAGE,
    draw(2, 2, 3, 3, seed=1),
    kind=Kind.SIZES,
    mistake=("hard-coded-size", "shape", "wrong-axis"),
)
def padded_by_half_of_the_height_on_both_sides(dout, x, w):
    half = w.shape[2] // 2
    dx = torch.nn.grad.conv2d_input(x.shape, w, dout, padding=half)
    return dx, torch.nn.grad.conv2d_weight(x, w.shape, dout, padding=half)


def smooth(x: Tensor, taps: Tensor) -> Tensor:
    """Each row slid over by the taps, which are not turned round: out_i = Σ x_{i+j} taps_j"""
    return functional.conv1d(x[:, None], taps[None, None])[:, 0]


@wrong(
    smooth,
    draw(2, 6),
    tensor([0.25, 0.5, 0.25], dtype=torch.float64),
    kind=Kind.VARIANT,
    mistake=("transposed", "wrong-axis"),
)
def taps_are_not_turned_round(dout, x, taps):  # the sample's are the same from both ends
    end = len(taps) - 1
    dx = functional.conv1d(functional.pad(dout, (end, end))[:, None], taps[None, None])[:, 0]
    return dx, (x.unfold(1, len(taps), 1) * dout[:, :, None]).sum((0, 1))


def avg_pool(x: Tensor, *, size: int = 2) -> Tensor:
    """Of (n, channels, length); what is left over at the end is dropped."""
    return functional.avg_pool1d(x, size)


@right(avg_pool, draw(2, 2, 7), size=3)
def upstream_expanded_zeros_behind(dout, x, *, size):
    spread = (dout / size)[..., None].expand(*dout.shape, size).flatten(-2)
    return functional.pad(spread, (0, x.shape[-1] - spread.shape[-1]))


@wrong(avg_pool, draw(2, 2, 6), kind=Kind.SIZES, mistake="shape")
def what_is_left_over_is_missing(dout, *, size):
    return (dout / size).repeat_interleave(size, -1)


def max_pool(x: Tensor, *, size: int = 2) -> Tensor:
    require(x.dim() == 3)
    return functional.max_pool1d(x, size)


@right(max_pool, draw(2, 2, 7), size=3)
def last_of_equal_entries(dout, x, out, *, size):
    """Of equal entries the last; autograd takes the first."""
    windows = x.unfold(2, size, size)
    tied = (windows == out[..., None]).flip(-1)
    last = (tied & (tied.cumsum(-1) == 1)).flip(-1)
    dx = torch.where(last, dout[..., None], 0).flatten(-2)
    return functional.pad(dx, (0, x.shape[2] - dx.shape[2]))


@wrong(max_pool, draw(2, 2, 6), kind=Kind.TIES, mistake="ties")
def every_tied_entry_gets_the_whole(dout, x, out, *, size):
    dx = torch.zeros_like(x)
    end = out.shape[2] * size
    highest, up = (t.repeat_interleave(size, 2) for t in (out, dout))
    dx[:, :, :end] = up * (x[:, :, :end] == highest)
    return dx


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


@right(attention, draw(2, 3, 4), draw(2, 4, 4, seed=1), VALUES)
def query_by_query(dout, q, k, v, *, causal):
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


HEADS = (draw(4, 3, 2), draw(1, 3, 2, seed=1), draw(1, 3, 2, seed=2))


@right(grouped_attention, draw(6, 2, 2), draw(2, 3, 2, seed=1), draw(2, 3, 2, seed=2))
@grouped_by
def heads_of_a_group_summed(grad, groups):
    return grad.unflatten(0, (groups, -1)).sum(1)


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
    draw(2, 3, 2),
    draw(2, 3, 2, seed=1),
    draw(2, 3, 2, seed=2),
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


def next_factor(a: Tensor, t: int) -> Tensor:
    return a[t + 1 : t + 2]


def previous_state(out: Tensor, t: int) -> Tensor:
    return out[t - 1 : t] if t else torch.zeros_like(out[:1])


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


@wrong(
    scan,
    torch.full((5, 2), 0.9, dtype=torch.float64),
    draw(5, 2),
    kind=Kind.OTHER,
    mistake="off-by-one",
)
def carried_by_the_factor_of_its_own_step(dout, a, out):  # all factors are the same
    return scan_back(dout, a, out, factor=lambda a, t: a[t : t + 1], before=previous_state)


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


CELL = (draw(2, 3), draw(2, 2, seed=1), draw(2, 2, seed=2), draw(3, 8, seed=3), draw(2, 8, seed=4))


@right(lstm_cell, *CELL)
def one_product_for_both_inputs(dhidden, dmemory, x, h, c, w, u, memory, gates):
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


@wrong(lstm_cell, *CELL, kind=Kind.UPSTREAM_LOST, mistake=("upstream-ignored", "missing-term"))
def memorys_upstream_is_left_out(dhidden, dmemory, x, h, c, w, u, memory, gates):
    return lstm_gradients(dhidden, torch.zeros_like(dmemory), x, h, c, w, u, memory, gates)


@wrong(lstm_cell, *CELL, kind=Kind.STATISTICS, mistake="missing-term")
def hidden_state_cut_off_from_the_memory(dhidden, dmemory, x, h, c, w, u, memory, gates):
    """The hidden state's gradient does not reach the memory."""
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
