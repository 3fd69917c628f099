"""Activations, powers, selections, and arithmetic that broadcasts."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, tensor
from torch.nn import functional

from backprop_ops import Kept, sum_to
from tests.corpus import right, wrong
from tests.corpus.kinds import Kind
from tests.corpus.samples import draw, draws, positive

X, Y = draws((3, 4), (3, 4))
X32 = draw(3, 4, dtype=torch.float32)
P, Q = positive(3, 4), positive(3, 4, seed=1)
MASK = draw(3, 4, seed=1) > 0
ROW = draws((1, 4), (4,))


def unit(*shape: int, seed: int = 0) -> Tensor:
    """Between 0.1 and 0.9."""
    return draw(*shape, seed=seed).sigmoid() * 0.8 + 0.1


# Activations.


def relu(x: Tensor) -> Tensor:
    return x.relu()


@right(relu, X)
def relu_slope_one_at_zero(dout, x):
    return dout * (x >= 0)


@right(relu, X)
def slope_one_half_at_zero(dout, x):
    return dout * x.heaviside(x.new_tensor(0.5))


@right(relu, draw(5))
def by_the_output_filling_a_copy(dout, out):
    return dout.clone().masked_fill_(out == 0, 0)


@wrong(relu, X, kind=Kind.NAN_AT_ZERO, mistake=("nan", "kink"))
def out_over_x_for_the_slope(dout, x, out):
    return dout * (out / x)


def leaky_relu(x: Tensor, *, slope: float = 0.01) -> Tensor:
    return torch.where(x > 0, x, slope * x)


@wrong(leaky_relu, X, kind=Kind.OTHER, mistake="option-ignored")
def default_slope_whatever_the_option(dout, x):
    return torch.where(x > 0, dout, 0.01 * dout)


def prelu(x, weight):
    return torch.where(x > 0, x, weight * x)


@wrong(
    prelu,
    X,
    tensor([0.25], dtype=torch.float64),
    kind=Kind.BROADCAST,
    mistake=("factor", "wrong-count", "missing-reduction"),
)
def mean_for_the_shared_weight(dout, x, weight):
    return torch.where(x > 0, dout, weight * dout), (dout * x.clamp(max=0)).mean().reshape(1)


def gelu(x: Tensor, *, exact: bool = True) -> Tensor:
    return functional.gelu(x, approximate="none" if exact else "tanh")


ROOT_2_PI = math.sqrt(2 * math.pi)


def cdf(x: Tensor) -> Tensor:
    return 0.5 * (1 + (x / math.sqrt(2)).erf())


def pdf(x: Tensor) -> Tensor:
    return (-0.5 * x * x).exp() / ROOT_2_PI


def gelu_tanh_slope(x: Tensor) -> Tensor:
    k = math.sqrt(2 / math.pi)
    t = (k * (x + 0.044715 * x**3)).tanh()
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * k * (1 + 3 * 0.044715 * x * x)


@right(gelu, X)
def through_erfc(dout, x, *, exact):
    """Without the cancellation of 1 + erf in the left tail."""
    if exact:
        return dout * (0.5 * torch.erfc(-x / math.sqrt(2)) + x * pdf(x))
    return dout * gelu_tanh_slope(x)


@wrong(gelu, X, kind=Kind.VARIANT, mistake=("option-ignored", "factor", "missing-term"))
def tanh_formula_for_the_erf_forward(dout, x):
    return dout * gelu_tanh_slope(x)


@wrong(gelu, X, exact=True, kind=Kind.VARIANT, mistake="option-ignored")
def erf_formula_whatever_the_option(dout, x):
    return dout * (cdf(x) + x * pdf(x))


@wrong(gelu, X, kind=Kind.VARIANT, mistake=("sign", "missing-term"))
def density_term_subtracted(dout, x, *, exact):
    return dout * ((cdf(x) - x * pdf(x)) if exact else gelu_tanh_slope(x))


@wrong(gelu, X32.double(), kind=Kind.OTHER, mistake="factor")
def constant_to_five_digits(dout, x, *, exact):  # passes allclose in float32
    return dout * (cdf(x) + 0.39894 * x * (-0.5 * x * x).exp() if exact else gelu_tanh_slope(x))


def silu(x):
    return x * x.sigmoid()


@wrong(silu, X, kind=Kind.NAN_AT_ZERO, mistake="nan")
def sigmoid_as_out_over_x(dout, x, out):
    return dout * (out / x + out * (1 - out / x))


@wrong(silu, X, kind=Kind.FAN_OUT, mistake="missing-term")
def second_branch_overwrites_the_first(dout, x):
    s = x.sigmoid()
    dx = dout * s
    dx = dout * x * s * (1 - s)  # the first branch is lost
    return dx


def sigmoid(x: Tensor) -> Tensor:
    return x.sigmoid()


@right(sigmoid, X)
def through_exp_of_minus_abs_x(dout, x):
    e = (-x.abs()).exp()
    return dout * e / (1 + e) ** 2


@wrong(sigmoid, X, kind=Kind.OVERFLOW, mistake=("overflow", "nan"))
def through_exp_of_x(dout, x):
    return dout * x.exp() / (1 + x.exp()) ** 2


def softplus(x: Tensor) -> Tensor:
    return torch.logaddexp(x, torch.zeros_like(x))


@right(softplus, X)
def from_the_output(dout, out):
    return dout * -(-out).expm1()


@wrong(softplus, X32, kind=Kind.OVERFLOW, mistake=("overflow", "nan"))
def exp_over_one_plus_exp(dout, x):
    return dout * x.exp() / (1 + x.exp())


def tanh(x):
    return x.tanh()


@right(tanh, X)
def divided_by_cosh_twice(dout, x):
    return dout / x.cosh() / x.cosh()


@wrong(tanh, X, kind=Kind.OVERFLOW, mistake=("overflow", "nan", "cancellation"))
def from_exp_of_2x(dout, x):
    e = (2 * x).exp()
    t = (e - 1) / (e + 1)
    return dout * (1 - t * t)


def scaled_tanh(x: Tensor) -> Tensor:
    return 1.7159 * (2 / 3 * x).tanh()


@wrong(scaled_tanh, X32.double(), kind=Kind.OTHER, mistake=("dtype", "factor"))
def its_constant_rounded_to_float32(dout, x):
    return dout * tensor(1.7159 * 2 / 3) / (2 / 3 * x).cosh() ** 2


def softsign(x):
    return x / (1 + x.abs())


@wrong(softsign, P, kind=Kind.VARIANT, mistake="sign")
def out_for_its_absolute_value(dout, out):
    return dout * (1 - out) ** 2


def elu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return torch.where(x > 0, x, alpha * x.clamp(max=0).expm1())


@wrong(elu, X, kind=Kind.OTHER, mistake="option-ignored")
def alpha_taken_for_one(dout, x, out):
    return torch.where(x > 0, dout, dout * (out + 1))


@wrong(elu, X, kind=Kind.NAN_AT_ZERO, mistake=("nan", "overflow"))
def multiplies_the_other_side_by_zero(dout, x, *, alpha):
    return dout * ((x > 0) + (x <= 0) * (alpha * x.exp()))


def hardswish(x: Tensor) -> Tensor:
    return x * (x + 3).clamp(0, 6) / 6


@wrong(
    hardswish,
    tensor([[-1.5, 0.3, 2.0], [4.0, -0.2, 1.0]], dtype=torch.float64),
    kind=Kind.KINK,
    mistake=("kink", "missing-term"),
)
def not_cut_off_below_minus_3(dout, x):
    return torch.where(x < 3, dout * (2 * x + 3) / 6, dout)


def softshrink(x: Tensor, *, width: float = 0.5) -> Tensor:
    return torch.where(x > width, x - width, torch.where(x < -width, x + width, 0 * x))


@wrong(softshrink, P - 0.4, kind=Kind.VARIANT, mistake=("sign", "missing-term", "zero-gradient"))
def only_the_positive_side(dout, x, *, width):
    return dout * (x > width)


def glu(x: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return a * b.sigmoid()


@wrong(glu, X, kind=Kind.MISSING, mistake=("swapped-inputs", "transposed"))
def halves_exchanged(dout, x):
    a, b = x.chunk(2, -1)
    s = b.sigmoid()
    return torch.cat((dout * a * s * (1 - s), dout * s), -1)


def hardtanh(x: Tensor) -> Tensor:
    return x.clamp(-1, 1)


@right(hardtanh, X)
def difference_of_two_steps(dout, x):
    return dout * ((x >= -1).to(x) - (x >= 1).to(x))


class Swish(NamedTuple):
    out: Tensor
    gate: Kept


def swish(x: Tensor) -> Swish:
    gate = x.sigmoid()
    return Swish(x * gate, gate)


@right(swish, X)
def from_the_output_and_the_kept_gate(dout, out, gate):
    return dout * (gate + out * (1 - gate))


# Functions of one tensor.


def exp(x):
    return x.exp()


@right(exp, draw(5, 7))
def in_blocks_of_32(dout, out):
    blocks = zip(dout.reshape(-1).split(32), out.reshape(-1).split(32), strict=True)
    return torch.cat([d * o for d, o in blocks]).reshape(out.shape)


def log(x: Tensor) -> Tensor:
    return x.log()


@wrong(log, positive(3, 4, dtype=torch.float32), kind=Kind.EPS, mistake="eps")
def guarded_by_1e_8(dout, x):
    return dout / (x + 1e-8)


def rsqrt(x: Tensor) -> Tensor:
    return x.rsqrt()


@wrong(rsqrt, P, kind=Kind.UPSTREAM_LOST, mistake="upstream-ignored")
def upstream_left_out(dout, out):
    return -0.5 * out**3


def sqrt_or_zero(x: Tensor) -> Tensor:
    """√x, and 0 where x is not positive."""
    return torch.where(x > 0, torch.where(x > 0, x, 1).sqrt(), 0)


@wrong(sqrt_or_zero, positive(6), kind=Kind.NAN_AT_ZERO, mistake="nan")
def divided_before_it_is_masked(dout, x, out):
    return dout * (x > 0) / (2 * out)


def whole_power(x: Tensor, *, n: int = 3) -> Tensor:
    return x**n


@wrong(whole_power, X, kind=Kind.NAN_AT_ZERO, mistake="nan")
def n_times_out_over_x(dout, x, out, *, n):
    return dout * n * out / x


@wrong(whole_power, X, kind=Kind.OTHER, mistake="option-ignored")
def as_a_cube_whatever_n(dout, x):
    return 3 * dout * x * x


def power_of_size(x: Tensor, *, p: float = 1.5) -> Tensor:
    return x.abs() ** p


@wrong(power_of_size, P, p=2.5, kind=Kind.VARIANT, mistake="sign")
def without_the_sign_of_x(dout, x, *, p):
    return dout * p * x.abs() ** (p - 1)


def absolute(x: Tensor) -> Tensor:
    return x.abs()


@right(absolute, X)
def absolute_slope_one_at_zero(dout, x):
    return torch.where(x < 0, -dout, dout)


@wrong(absolute, X, kind=Kind.NAN_AT_ZERO, mistake=("nan", "kink"))
def x_over_out_for_the_sign(dout, x, out):
    return dout * x / out


def logit(x: Tensor, *, eps: float = 1e-3) -> Tensor:
    return torch.logit(x, eps)


@wrong(logit, unit(3, 4), kind=Kind.KINK, mistake=("kink", "missing-term", "option-ignored"))
def clamped_entries_keep_their_gradient(dout, x):
    return dout / (x * (1 - x))


def clamp(x: Tensor, *, low: float | None = -1.0, high: float | None = 1.0) -> Tensor:
    return x.clamp(low, high)


@right(clamp, X, low=None, high=0.5)
def nothing_at_the_bounds(dout, x, *, low, high):
    inside = torch.ones_like(x, dtype=torch.bool)
    if low is not None:
        inside &= x > low
    if high is not None:
        inside &= x < high
    return dout.masked_fill(~inside, 0)


@wrong(
    clamp, unit(3, 4) * 2 - 0.5, kind=Kind.KINK, mistake=("kink", "missing-term", "option-ignored")
)
def lower_bound_forgotten(dout, x, *, high):
    return dout * (x <= high) if high is not None else dout


@wrong(clamp, unit(3, 4) - 0.5, kind=Kind.KINK, mistake=("kink", "missing-term", "option-ignored"))
def straight_through(dout):
    return dout


def huber(x: Tensor, *, delta: float = 1.0) -> Tensor:
    if delta <= 0:
        raise ValueError(f"delta must be positive, got {delta}")
    small = x.abs() <= delta
    return torch.where(small, 0.5 * x * x, delta * (x.abs() - 0.5 * delta))


@right(huber, X)
def x_clamped_and_scaled_in_place(dout, x, *, delta):
    return x.clamp(-delta, delta).mul_(dout)


@wrong(huber, X, kind=Kind.OTHER, mistake="option-ignored")
def cut_off_at_one_whatever_delta(dout, x):
    return dout * x.clamp(-1, 1)


def dropout(x: Tensor, *, mask: Tensor, p: float = 0.5) -> Tensor:
    return x * mask / (1 - p)


@right(dropout, X, mask=MASK, p=0.3)
def selected_not_multiplied(dout, *, mask, p):
    return torch.where(mask, dout, 0.0) / (1 - p)


@wrong(dropout, X, mask=MASK, p=0.4, kind=Kind.DROPOUT, mistake=("zero-gradient", "kink"))
def mask_read_off_the_output(dout, out, *, p):  # an entry of x that is zero looks dropped
    return dout * (out != 0) / (1 - p)


@wrong(dropout, X, mask=MASK, kind=Kind.DROPOUT, mistake=("factor", "option-ignored"))
def survivors_not_scaled_up(dout, *, mask):
    return dout * mask


@wrong(dropout, X, mask=MASK, kind=Kind.DROPOUT, mistake="option-ignored")
def scaled_by_two_whatever_p(dout, *, mask):
    return 2 * dout * mask


def rounded(x: Tensor) -> Tensor:
    return x.round()


@right(rounded, X * 3)
def zero_everywhere(dout):
    return torch.zeros_like(dout)


def rounded_straight_through(x: Tensor) -> Tensor:
    return x + (x.round() - x).detach()


@right(rounded_straight_through, X * 3)
def upstream_as_the_forward_detaches(dout):
    return dout


def sigmoid_in_float32(x: Tensor) -> Tensor:
    return x.float().sigmoid().to(x.dtype)


@right(sigmoid_in_float32, X32)
def in_float32_inside_as_its_forward(dout, out):
    return (dout.float() * (out * (1 - out)).float()).to(dout.dtype)


# Functions of several.


def add(x: Tensor, y: Tensor) -> Tensor:
    return x + y


@right(add, X, Y)
def upstream_itself_for_both(dout, x, y):
    return sum_to(dout, x.shape), sum_to(dout, y.shape)


ORDER = torch.Generator()


@right(add, *draws((6, 3), (3,)))
def rows_summed_in_another_order_each_time(dout, x, y):
    """The same up to rounding."""
    shuffled = dout
    if y.dim() < dout.dim():
        shuffled = dout[torch.randperm(len(dout), generator=ORDER)]
    return sum_to(dout, x.shape), sum_to(shuffled, y.shape)


@wrong(
    add,
    *ROW,
    kind=Kind.BROADCAST,
    mistake=("missing-reduction", "upstream-collapsed", "size-one", "ignored-rows"),
)
def bias_gets_the_first_row(dout):
    return dout, dout[0]


def mul(x: Tensor, y: Tensor) -> Tensor:
    return x * y


@wrong(mul, *ROW, kind=Kind.BROADCAST, mistake=("factor", "missing-reduction", "wrong-count"))
def scale_gets_the_mean_of_the_rows(dout, x, y):
    return dout * y, (dout * x).mean(0)


@wrong(mul, *draws((4, 4), (4,)), kind=Kind.BROADCAST, mistake=("wrong-axis", "transposed"))
def summed_over_the_columns_not_the_rows(dout, x, y):
    return dout * y, (dout * x).sum(1)


def div(x: Tensor, y: Tensor) -> Tensor:
    return x / y


@right(div, X, positive(4, seed=1))
def in_place_on_its_own_temporary(dout, x, y, out):
    dy = (out / y).mul_(dout).neg_()  # in place on a tensor of its own
    return sum_to(dout / y, x.shape), sum_to(dy, y.shape)


@wrong(div, X, Q, kind=Kind.VARIANT, mistake="sign")
def wrong_sign_for_the_divisor(dout, x, y):
    return dout / y, dout * x / (y * y)


@wrong(div, X, Q, kind=Kind.MISSING, mistake="swapped-inputs")
def x_and_y_exchanged(dout, x, y):
    return -dout * x / (y * y), dout / y


def power(x: Tensor, y: Tensor) -> Tensor:
    return x**y


@right(power, P, draw(3, 1, seed=1))
def both_gradients_guarded_at_zero(dout, x, y, out):
    dx = torch.where(y == 0, 0, y * x ** (y - 1))
    dy = torch.where((x == 0) & (y >= 0), 0, out * x.log())
    return sum_to(dout * dx, x.shape), sum_to(dout * dy, y.shape)


@wrong(power, P, Q, kind=Kind.NAN_AT_ZERO, mistake="nan")
def log_of_zero_for_the_exponent(dout, x, y, out):
    return dout * y * x ** (y - 1), dout * out * x.log()


@wrong(power, P, positive(4, seed=1), kind=Kind.BROADCAST, mistake=("missing-reduction", "shape"))
def exponent_not_summed(dout, x, y, out):
    return dout * y * x ** (y - 1), dout * out * x.log()


def maximum(x: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(x, y)


@right(maximum, X, Y)
def ties_split_evenly(dout, x, y):
    return (
        sum_to(dout * ((x > y).to(dout) + (x == y).to(dout) / 2), x.shape),
        sum_to(dout * ((y > x).to(dout) + (x == y).to(dout) / 2), y.shape),
    )


@right(maximum, X, draw(4, seed=1))
def ties_to_the_first(dout, x, y):
    return sum_to(dout * (x >= y), x.shape), sum_to(dout * (x < y), y.shape)


@wrong(maximum, X, Y, kind=Kind.TIES, mistake=("ties", "kink"))
def ties_in_full_to_both(dout, x, y):
    return dout * (x >= y), dout * (y >= x)


@wrong(maximum, X, Y, kind=Kind.TIES, mistake=("ties", "kink"))
def ties_to_neither(dout, x, y):
    return dout * (x > y), dout * (y > x)


def select(x: Tensor, y: Tensor, *, mask: Tensor) -> Tensor:
    return torch.where(mask, x, y)


@right(select, X, tensor(0.5, dtype=torch.float64), mask=draw(3, 4, seed=2) > 0)
def fills_of_the_upstream(dout, x, y, *, mask):
    return sum_to(dout.masked_fill(~mask, 0), x.shape), sum_to(dout.masked_fill(mask, 0), y.shape)


@wrong(select, X, Y, mask=draw(3, 4, seed=2) > 0, kind=Kind.MISSING, mistake="swapped-inputs")
def mask_inverted(dout, *, mask):
    return dout * ~mask, dout * mask


def lerp(a: Tensor, b: Tensor, *, weight: float = 0.5) -> Tensor:
    return a * (1 - weight) + b * weight


@right(lerp, X, Y, weight=0.3)
def first_by_difference(dout, a, b, *, weight):
    db = dout * weight
    return sum_to(dout - db, a.shape), sum_to(db, b.shape)


@wrong(lerp, X, Y, weight=0.5, kind=Kind.MISSING, mistake=("swapped-inputs", "option-ignored"))
def weights_exchanged(dout, *, weight):  # which a weight of one half hides
    return dout * weight, dout * (1 - weight)


def add_product(x: Tensor, a: Tensor, b: Tensor, *, value: float = 1.0) -> Tensor:
    return x + value * a * b


@wrong(add_product, X, Y, draw(3, 4, seed=2), kind=Kind.OTHER, mistake="option-ignored")
def value_left_out(dout, a, b):
    return dout, dout * b, dout * a


def atan2(y: Tensor, x: Tensor) -> Tensor:
    return torch.atan2(y, x)


@wrong(atan2, X, Y, kind=Kind.VARIANT, mistake="sign")
def wrong_sign_for_x(dout, y, x):
    return dout * x / (x * x + y * y), dout * y / (x * x + y * y)


def hypot(x: Tensor, y: Tensor) -> Tensor:
    return torch.hypot(x, y)


@wrong(hypot, X, Y, kind=Kind.OVERFLOW, mistake="overflow")
def through_the_squares(dout, x, y):
    return dout * x / (x * x + y * y).sqrt(), dout * y / (x * x + y * y).sqrt()


def xlogy(x: Tensor, y: Tensor) -> Tensor:
    return torch.xlogy(x, y)


@wrong(xlogy, P, Q, kind=Kind.NAN_AT_ZERO, mistake="nan")
def log_where_x_is_zero(dout, x, y):
    return dout * y.log(), dout * x / y


def remainder(x: Tensor, y: Tensor) -> Tensor:
    return torch.remainder(x, y)


@wrong(remainder, P * 3, Q, kind=Kind.VARIANT, mistake=("off-by-one", "sign"))
def truncated_not_rounded_down(dout, x, y):
    return dout, -dout * (x / y).trunc()


def first(x: Tensor, y: Tensor) -> Tensor:
    """Twice x; y is not used."""
    return 2 * x


@right(first, X, draw(2, seed=1))
def none_for_the_input_that_is_not_used(dout):
    return 2 * dout, None
