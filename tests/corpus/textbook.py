"""The plainest pairs, and with each mistake the property of the check that has to fail first."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, tensor

from backprop_ops import Kept
from tests.corpus import right, wrong
from tests.corpus.kinds import Kind

X = tensor([[0.5, -1.25, 2.0], [1.5, 0.75, -0.5]], dtype=torch.float64)
W = tensor([[1.0, -0.5], [0.25, 2.0], [-1.5, 0.75]], dtype=torch.float64)
INDEX = tensor([0, 2, 1])


def square(x):
    return x * x


@right(square, X)
def by_the_rule(dout, x):
    return 2 * x * dout


@right(square, X.float())
def by_the_rule_in_float32(dout, x):
    return 2 * x * dout


@right(square, X.bfloat16())
def by_the_rule_in_bfloat16(dout, x):
    return 2 * x * dout


@right(square, X)
def in_place_on_its_own_product(dout, x):
    return dout.mul(x).mul_(2)


@wrong(square, X, kind=Kind.VARIANT, mistake="sign", property="value")
def negated(dout, x):
    return -2 * x * dout


@wrong(square, X, kind=Kind.VARIANT, mistake="factor", property="value")
def seven_for_two(dout, x):
    return 7 * x * dout


@wrong(square, X, kind=Kind.OTHER, mistake="factor", property="value")
def slightly_too_large(dout, x):
    return 2.0004 * x * dout


@wrong(square, X.float(), kind=Kind.OTHER, mistake="factor", property="value")
def slightly_too_large_in_float32(dout, x):
    return 2.0004 * x * dout


@wrong(square, X, kind=Kind.MISSING, mistake="zero-gradient", property="value")
def zero(dout, x):
    return 0 * x * dout


@wrong(square, X, kind=Kind.UPSTREAM_LOST, mistake="upstream-ignored", property="zero")
def upstream_ignored(dout, x):
    return 2 * x


@wrong(square, X, kind=Kind.OTHER, mistake="upstream-collapsed", property="linearity")
def upstream_squared(dout, x):
    return 2 * x * dout**2


@wrong(square, X, kind=Kind.UPSTREAM_LOST, mistake="upstream-collapsed", property="value")
def upstream_collapsed(dout, x):
    return 2 * x * dout.mean()


@wrong(square, X, kind=Kind.OVERWRITTEN, mistake="mutates-input", property="purity")
def input_overwritten(dout, x):
    return x.mul_(2).mul_(dout)


@wrong(square, X, kind=Kind.LAYOUT, mistake="upstream-layout", property="layout")
def upstream_read_as_contiguous(dout, x):
    return dout.as_strided(x.shape, (x.shape[1], 1)) * 2 * x


CALLS = {"n": 0}


@wrong(square, X, kind=Kind.STALE, mistake="state", property="repeat")
def another_each_time(dout, x):
    CALLS["n"] += 1
    return dout * 2 * x * (1 + 0.01 * (CALLS["n"] % 2))


BUFFER: dict[tuple[torch.Size, torch.dtype], Tensor] = {}


@wrong(square, X, kind=Kind.STALE, mistake="aliased", property="alias")
def buffer_returned(dout, x):
    buffer = BUFFER.setdefault((x.shape, x.dtype), torch.empty_like(x))
    return torch.mul(dout, 2 * x, out=buffer)


@wrong(square, X, kind=Kind.PRECISION, mistake="dtype", property="value")
def float32_inside(dout, x):
    return (dout.float() * 2 * x.float()).double()


@wrong(square, X, kind=Kind.PRECISION, mistake="dtype", property="dtype")
def float32_returned(dout, x):
    return (dout * 2 * x).float()


@wrong(square, X, kind=Kind.MISSING, mistake="none-gradient", property="count")
def none(dout, x):
    return None


@wrong(square, X, kind=Kind.MISSING, mistake="wrong-count", property="count")
def one_gradient_too_many(dout, x):
    return dout * 2 * x, dout


@wrong(square, X, kind=Kind.OTHER, property="call")
def raises(dout, x):
    return dout @ x


@wrong(square, X, kind=Kind.SIZES, mistake="hard-coded-size", property="value")
def columns_beyond_128_left_out(dout, x):
    return 2 * x * dout * (torch.arange(x.shape[1]) < 128)


def tanh(x):
    return x.tanh()


@right(tanh, X)
def from_the_factored_output(dout, out):
    return dout * (1 - out) * (1 + out)


@wrong(tanh, X, kind=Kind.VARIANT, property="value")
def square_of_x_for_that_of_the_output(dout, x):
    return dout * (1 - x**2)


def relu(x):
    return x.relu()


@right(relu, X)
def zero_at_the_kink(dout, x):
    return dout * (x > 0)


@right(relu, X)
def one_at_the_kink(dout, x):
    return dout * (x >= 0)


@right(relu, X)
def half_at_the_kink(dout, x):
    return dout * (x.sign() + 1) / 2


@wrong(relu, X, kind=Kind.KINK, mistake="kink", property="value")
def two_at_the_kink(dout, x):
    return dout * ((x > 0) + 2.0 * (x == 0))


def clamp(x):
    return x.clamp(-1, 1)


@right(clamp, X)
def bounds_inside(dout, x):
    return dout * (x.abs() <= 1)


@right(clamp, X)
def bounds_outside(dout, x):
    return dout * (x.abs() < 1)


@wrong(clamp, X, kind=Kind.KINK, property="value")
def on_one_side(dout, x):
    return dout * (x <= 1)


def scaled(x, *, halve=False):
    return x / 2 if halve else x * 3


@right(scaled, X)
def either_way(dout, halve):
    return dout / 2 if halve else dout * 3


@wrong(scaled, X, kind=Kind.OTHER, mistake="option-ignored", property="value")
def option_ignored(dout):
    return dout * 3


@wrong(scaled, X, kind=Kind.OVERWRITTEN, mistake="aliased", property="alias")
def input_returned(dout, x):
    return x


def mean(x):
    return x.mean()


@right(mean, X)
def view_of_the_upstream(dout, x):
    return (dout / x.numel()).expand(x.shape)


@wrong(mean, X, kind=Kind.MEAN_COUNT, mistake="factor", property="value")
def not_divided(dout, x):
    return dout.expand(x.shape)


@wrong(mean, X, kind=Kind.SIZES, mistake="hard-coded-size", property="value")
def always_divided_by_six(dout, x):
    return (dout / 6).expand(x.shape)


def row_max(x):
    return x.amax(1)


@right(row_max, X)
def one_of_the_largest(dout, x):
    return torch.zeros_like(x).scatter(1, x.argmax(1, keepdim=True), dout.unsqueeze(1))


@right(row_max, X)
def shared_by_the_largest(dout, x):
    largest = (x == x.amax(1, keepdim=True)).to(x.dtype)
    return dout.unsqueeze(1) * largest / largest.sum(1, keepdim=True)


@wrong(row_max, X, kind=Kind.TIES, mistake="ties", property="value")
def each_of_the_largest(dout, x):
    return dout.unsqueeze(1) * (x == x.amax(1, keepdim=True))


def softmax(x):
    return x.softmax(1)


@right(softmax, X)
def minus_the_weighted_sum(dout, out):
    return out * (dout - (out * dout).sum(1, True))


@wrong(softmax, X, kind=Kind.STATISTICS, mistake="missing-term", property="value")
def without_its_sum(dout, out):
    return out * dout


@wrong(softmax, X, kind=Kind.BROADCAST, property="value")
def over_the_other_axis(dout, out):
    return out * (dout - (out * dout).sum(0))


def norm(x):
    centered = x - x.mean(1, keepdim=True)
    return centered / (centered.square().mean(1, keepdim=True) + 1e-5).sqrt()


def norm_backward(dout, x, correction=0, eps=1e-5, root=False, mean_term=True, var_term=True):
    n = x.shape[1]
    centered = x - x.mean(1, keepdim=True)
    var = centered.square().mean(1, keepdim=True)
    inv_std = 1 / (var.sqrt() + eps) if root else (var + eps).rsqrt()
    xhat = centered * inv_std
    through_mean = dout.mean(1, keepdim=True) if mean_term else 0
    through_var = xhat * (dout * xhat).sum(1, keepdim=True) / (n - correction) if var_term else 0
    return inv_std * (dout - through_mean - through_var)


@right(norm, X)
def recomputed(dout, x):
    return norm_backward(dout, x)


@wrong(norm, X, kind=Kind.EPS, mistake="bessel", property="value")
def with_bessels_correction(dout, x):
    return norm_backward(dout, x, 1)


@wrong(norm, X, kind=Kind.EPS, mistake="eps", property="value")
def eps_outside_of_the_root(dout, x):
    return norm_backward(dout, x, root=True)


@wrong(norm, X, kind=Kind.STATISTICS, mistake="missing-mean-term", property="value")
def without_the_mean_term(dout, x):
    return norm_backward(dout, x, mean_term=False)


@wrong(norm, X, kind=Kind.STATISTICS, mistake="missing-term", property="value")
def without_the_variance_term(dout, x):
    return norm_backward(dout, x, var_term=False)


def add_row(x, y):
    return x + y


@right(add_row, X, X.clone())
def upstream_itself(dout, x, y):
    return dout, dout


@wrong(add_row, X, X[0], kind=Kind.BROADCAST, mistake="missing-reduction", property="shape")
def not_summed(dout, x, y):
    return dout, dout


@wrong(add_row, X, X[0], kind=Kind.BROADCAST, mistake="wrong-count", property="value")
def averaged(dout, x, y):
    return dout, dout.mean(0)


def matmul(x, y):
    return x @ y


@right(matmul, X, W)
def by_the_transposed(dout, x, y):
    return dout @ y.mT, x.mT @ dout


@wrong(matmul, X, W, kind=Kind.MISSING, mistake="shape", property="shape")
def gradients_swapped(dout, x, y):
    return x.mT @ dout, dout @ y.mT


@wrong(
    matmul, W[:2] @ X[:, :2], X[:, :2], kind=Kind.VARIANT, mistake="transposed", property="value"
)
def not_transposed(dout, x, y):
    return dout @ y, x @ dout


@wrong(matmul, X, W, kind=Kind.SIZES, mistake="size-one", property="call")
def size_one_squeezed(dout, x, y):
    return dout.squeeze() @ y.mT, x.mT @ dout


def rows(weight, index):
    return weight[index]


@right(rows, W, INDEX)
def added_by_index(dout, weight, index):
    return torch.zeros_like(weight).index_add(0, index, dout)


@wrong(rows, W, INDEX, kind=Kind.REPEATED_INDEX, mistake="repeated-index", property="value")
def copied_by_index(dout, weight, index):
    return torch.zeros_like(weight).index_copy(0, index, dout)


class Two(NamedTuple):
    low: Tensor
    high: Tensor


def both(x: Tensor) -> Two:
    return Two(x - 1, x * x)


@right(both, X)
def from_both_upstreams(dlow, dhigh, x):
    return dlow + 2 * x * dhigh


@wrong(both, X, kind=Kind.UPSTREAM_LOST, mistake="upstream-ignored", property="zero")
def second_upstream_ignored(dlow, dhigh, x):
    return dlow + 2 * x


class Quartic(NamedTuple):
    out: Tensor
    cube: Kept


def keeps(x: Tensor) -> Quartic:
    return Quartic(x**4, x**3)


@right(keeps, X)
def from_the_kept_cube(dout, cube):
    return dout * 4 * cube


@wrong(keeps, X, kind=Kind.OVERWRITTEN, mistake="mutates-kept", property="purity")
def kept_cube_overwritten(dout, cube):
    return dout * cube.mul_(4)
