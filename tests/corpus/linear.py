"""Products, convolutions and pooling."""

from __future__ import annotations

import math

import torch
from torch import Tensor, tensor
from torch.nn import functional

from backprop_ops import sum_to
from tests.corpus import right, wrong
from tests.corpus.kinds import Kind
from tests.corpus.samples import draw, draws, require

ROWS, SQUARE = draws((4, 3), (3, 3))
IMAGE = draw(1, 2, 5, 4)
MLP = (ROWS, draw(3, 5, seed=1), draw(3, 5, seed=2))
LINEAR = (ROWS, draw(3, 2, seed=1), draw(2, seed=2))
CONV = draws((2, 3, 7), (2, 3, 3), (2,))
LOW_RANK = (ROWS, draw(3, 4, seed=1), draw(3, 2, seed=2), draw(2, 4, seed=3))


def flat(x: Tensor) -> Tensor:
    """The rows of a vector, a matrix, or a tensor with more dimensions in front."""
    return x.unsqueeze(0).flatten(0, -2)


# Products.


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """The product of matrices; the dimensions before theirs broadcast."""
    require(a.dim() > 1 and b.dim() > 1)
    return a @ b


@right(matmul, *draws((2, 1, 3, 4), (3, 4, 2)))
def by_einsum_summed_over_what_was_broadcast(dout, a, b):
    da = torch.einsum("...ik,...jk->...ij", dout, b)
    db = torch.einsum("...ij,...ik->...jk", a, dout)
    return sum_to(da, a.shape), sum_to(db, b.shape)


@wrong(
    matmul, *draws((2, 3, 4), (4, 2)), kind=Kind.BROADCAST, mistake=("missing-reduction", "shape")
)
def shared_b_not_summed_over_the_batch(dout, a, b):
    return dout @ b.mT, a.mT @ dout


@wrong(matmul, ROWS, SQUARE, kind=Kind.VARIANT, mistake="transposed")
def b_is_not_transposed(dout, a, b):
    return sum_to(dout @ b, a.shape), sum_to(a.mT @ dout, b.shape)


@wrong(matmul, ROWS, draw(3, 5, seed=1), kind=Kind.LAYOUT, mistake="upstream-layout")
def upstream_read_through_its_memory(dout, a, b):
    """As if its rows followed one another."""
    rows, columns = dout.shape[-2:]
    packed = dout.as_strided((rows, columns), (columns, 1))
    return packed @ b.mT, a.mT @ packed


def linear(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """x (…, in), w (in, out), b (out)"""
    require(w.dim() == 2 and b.shape == w.shape[1:])
    return x @ w + b


@right(linear, *draws((2, 2, 3), (3, 2), (2,)))
def both_products_from_the_other_side(dout, x, w):
    """This leaves each product with its columns first in memory."""
    rows, up = flat(x), flat(dout)
    dx = (w @ up.mT).mT.reshape(x.shape)
    return dx, (up.mT @ rows).mT, up.new_ones(len(up)) @ up


@right(linear, *draws((21, 2), (2, 3), (3,), dtype=torch.float32))
def sixteen_rows_at_a_time_in_float64(dout, x, w):
    dw = torch.zeros_like(w, dtype=torch.float64)
    db = dout.new_zeros(w.shape[1], dtype=torch.float64)
    for rows, up in zip(flat(x).split(16), flat(dout).split(16), strict=True):
        dw += rows.to(torch.float64).mT @ up.to(torch.float64)
        db += up.to(torch.float64).sum(0)
    return dout @ w.mT, dw.to(w.dtype), db.to(w.dtype)


@right(linear, *LINEAR)
def autograd_through_the_forward_recomputed(dout, x, w, b):
    return torch.func.vjp(linear, x, w, b)[1](dout)


@right(linear, *draws((2, 4, 3), (3, 2), (2,)))
def weight_and_bias_as_views_of_one_product(dout, x, w):
    """The bias is one more row of the weight."""
    rows = flat(x)
    both = torch.cat((rows, rows.new_ones(len(rows), 1)), 1).mT @ flat(dout)
    return dout @ w.mT, both[:-1], both[-1]


@wrong(
    linear,
    *draws((1, 3), (3, 4), (4,)),
    kind=Kind.BROADCAST,
    mistake=("factor", "wrong-count", "missing-reduction"),
)
def mean_for_the_bias_of_one_row(dout, x, w):
    return dout @ w.mT, flat(x).mT @ flat(dout), flat(dout).mean(0)


@wrong(
    linear,
    *draws((2, 2, 3), (3, 2), (2,)),
    kind=Kind.BROADCAST,
    mistake=("missing-reduction", "shape"),
)
def bias_summed_over_the_first_dimension_only(dout, x, w):
    return dout @ w.mT, flat(x).mT @ flat(dout), dout.sum(0)


@wrong(
    linear,
    *draws((900, 2), (2, 2), (2,), dtype=torch.bfloat16),
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
    *draws((8, 3), (3, 2), (2,)),
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


@right(outer, *draws((3,), (4,)))
def upstream_times_the_other(dout, a, b):
    return (dout * b).sum(1), (dout * a[:, None]).sum(0)


@wrong(outer, *draws((3,), (3,)), kind=Kind.MISSING, mistake=("swapped-inputs", "transposed"))
def two_gradients_exchanged(dout, a, b):
    return dout.mT @ a, dout @ b


WORKSPACE: dict[tuple[object, ...], Tensor] = {}


@wrong(outer, *draws((4,), (3,)), kind=Kind.STALE, mistake=("state", "aliased"))
def each_call_returns_the_same_memory(dout, a, b):
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


@right(contract, *draws((2, 3, 4), (2, 5, 4)))
def batch_that_was_summed_is_expanded(dout, x, y):
    return dout.expand(len(y), *dout.shape) @ y, dout.mT @ x


def low_rank(x: Tensor, w: Tensor, down: Tensor, up: Tensor, *, alpha: float = 2.0) -> Tensor:
    """A matrix w and beside it an adapter of rank r, scaled by alpha / r."""
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
    """The input's length is computed from the output's."""
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
def taps_not_turned_round(dout, x, taps):  # the sample's are the same from both ends
    end = len(taps) - 1
    dx = functional.conv1d(functional.pad(dout, (end, end))[:, None], taps[None, None])[:, 0]
    return dx, (x.unfold(1, len(taps), 1) * dout[:, :, None]).sum((0, 1))


def avg_pool(x: Tensor, *, size: int = 2) -> Tensor:
    """x (n, channels, length); entries left over at the end are dropped."""
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
    """Autograd takes the first."""
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
