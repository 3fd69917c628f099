"""Activations, powers, selections, and arithmetic that broadcasts."""

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


def positive(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return draw(*shape, seed=seed, dtype=dtype).abs() + 0.5


def unit(*shape: int, seed: int = 0) -> Tensor:
    """Between 0.1 and 0.9."""
    return draw(*shape, seed=seed).sigmoid() * 0.8 + 0.1


# The forwards: activations.


def relu(x: Tensor) -> Tensor:
    return x.relu()


def leaky_relu(x: Tensor, *, slope: float = 0.01) -> Tensor:
    return torch.where(x > 0, x, slope * x)


def prelu(x, weight):
    return torch.where(x > 0, x, weight * x)


def gelu(x: Tensor, *, exact: bool = True) -> Tensor:
    return functional.gelu(x, approximate="none" if exact else "tanh")


def silu(x):
    return x * x.sigmoid()


def sigmoid(x: Tensor) -> Tensor:
    return x.sigmoid()


def softplus(x: Tensor) -> Tensor:
    return torch.logaddexp(x, torch.zeros_like(x))


def tanh(x):
    return x.tanh()


def scaled_tanh(x: Tensor) -> Tensor:
    return 1.7159 * (2 / 3 * x).tanh()


def softsign(x):
    return x / (1 + x.abs())


def elu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return torch.where(x > 0, x, alpha * x.clamp(max=0).expm1())


def hardswish(x: Tensor) -> Tensor:
    return x * (x + 3).clamp(0, 6) / 6


def softshrink(x: Tensor, *, width: float = 0.5) -> Tensor:
    return torch.where(x > width, x - width, torch.where(x < -width, x + width, 0 * x))


def glu(x: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return a * b.sigmoid()


def hardtanh(x: Tensor) -> Tensor:
    return x.clamp(-1, 1)


class Swish(NamedTuple):
    out: Tensor
    gate: Kept


def swish(x: Tensor) -> Swish:
    gate = x.sigmoid()
    return Swish(x * gate, gate)


# Functions of one tensor.


def exp(x):
    return x.exp()


def log(x: Tensor) -> Tensor:
    return x.log()


def rsqrt(x: Tensor) -> Tensor:
    return x.rsqrt()


def sqrt_or_zero(x: Tensor) -> Tensor:
    """√x, and 0 where x is not positive."""
    return torch.where(x > 0, torch.where(x > 0, x, 1).sqrt(), 0)


def whole_power(x: Tensor, *, n: int = 3) -> Tensor:
    return x**n


def power_of_size(x: Tensor, *, p: float = 1.5) -> Tensor:
    return x.abs() ** p


def absolute(x: Tensor) -> Tensor:
    return x.abs()


def logit(x: Tensor, *, eps: float = 1e-3) -> Tensor:
    return torch.logit(x, eps)


def clamp(x: Tensor, *, low: float | None = -1.0, high: float | None = 1.0) -> Tensor:
    return x.clamp(low, high)


def huber(x: Tensor, *, delta: float = 1.0) -> Tensor:
    if delta <= 0:
        raise ValueError(f"delta must be positive, came {delta}")
    small = x.abs() <= delta
    return torch.where(small, 0.5 * x * x, delta * (x.abs() - 0.5 * delta))


def dropout(x: Tensor, *, mask: Tensor, p: float = 0.5) -> Tensor:
    return x * mask / (1 - p)


def rounded(x: Tensor) -> Tensor:
    return x.round()


def rounded_straight_through(x: Tensor) -> Tensor:
    return x + (x.round() - x).detach()


def sigmoid_in_float32(x: Tensor) -> Tensor:
    return x.float().sigmoid().to(x.dtype)


# Functions of several.


def add(x: Tensor, y: Tensor) -> Tensor:
    return x + y


def mul(x: Tensor, y: Tensor) -> Tensor:
    return x * y


def div(x: Tensor, y: Tensor) -> Tensor:
    return x / y


def power(x: Tensor, y: Tensor) -> Tensor:
    return x**y


def maximum(x: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(x, y)


def select(x: Tensor, y: Tensor, *, mask: Tensor) -> Tensor:
    return torch.where(mask, x, y)


def lerp(a: Tensor, b: Tensor, *, weight: float = 0.5) -> Tensor:
    return a * (1 - weight) + b * weight


def add_product(x: Tensor, a: Tensor, b: Tensor, *, value: float = 1.0) -> Tensor:
    return x + value * a * b


def atan2(y: Tensor, x: Tensor) -> Tensor:
    return torch.atan2(y, x)


def hypot(x: Tensor, y: Tensor) -> Tensor:
    return torch.hypot(x, y)


def xlogy(x: Tensor, y: Tensor) -> Tensor:
    return torch.xlogy(x, y)


def remainder(x: Tensor, y: Tensor) -> Tensor:
    return torch.remainder(x, y)


def first(x: Tensor, y: Tensor) -> Tensor:
    """Twice x; y is not used."""
    return 2 * x


# What several backwards share.

ROOT_2_PI = math.sqrt(2 * math.pi)


def cdf(x: Tensor) -> Tensor:
    return 0.5 * (1 + (x / math.sqrt(2)).erf())


def pdf(x: Tensor) -> Tensor:
    return (-0.5 * x * x).exp() / ROOT_2_PI


def gelu_tanh_slope(x: Tensor) -> Tensor:
    k = math.sqrt(2 / math.pi)
    t = (k * (x + 0.044715 * x**3)).tanh()
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * k * (1 + 3 * 0.044715 * x * x)


def gelu_through_erfc(dout: Tensor, x: Tensor, *, exact: bool) -> Tensor:
    """Without the cancellation of 1 + erf in the left tail."""
    if exact:
        return dout * (0.5 * torch.erfc(-x / math.sqrt(2)) + x * pdf(x))
    return dout * gelu_tanh_slope(x)


def silu_fan_out_overwritten(dout: Tensor, x: Tensor) -> Tensor:
    s = x.sigmoid()
    dx = dout * s
    dx = dout * x * s * (1 - s)  # the first branch is lost
    return dx


def glu_halves_exchanged(dout: Tensor, x: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    s = b.sigmoid()
    return torch.cat((dout * a * s * (1 - s), dout * s), -1)


def tanh_from_exp(dout: Tensor, x: Tensor) -> Tensor:
    e = (2 * x).exp()
    t = (e - 1) / (e + 1)
    return dout * (1 - t * t)


def sigmoid_from_small_exp(dout: Tensor, x: Tensor) -> Tensor:
    e = (-x.abs()).exp()
    return dout * e / (1 + e) ** 2


def power_guarded(dout: Tensor, x: Tensor, y: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
    dx = torch.where(y == 0, 0, y * x ** (y - 1))
    dy = torch.where((x == 0) & (y >= 0), 0, out * x.log())
    return sum_to(dout * dx, x.shape), sum_to(dout * dy, y.shape)


def clamp_by_open_bounds(
    dout: Tensor, x: Tensor, *, low: float | None, high: float | None
) -> Tensor:
    inside = torch.ones_like(x, dtype=torch.bool)
    if low is not None:
        inside &= x > low
    if high is not None:
        inside &= x < high
    return dout.masked_fill(~inside, 0)


def div_in_place(dout: Tensor, x: Tensor, y: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
    dy = (out / y).mul_(dout).neg_()  # in place on a tensor of its own
    return sum_to(dout / y, x.shape), sum_to(dy, y.shape)


def lerp_by_difference(dout: Tensor, a: Tensor, b: Tensor, *, weight: float):
    db = dout * weight
    return sum_to(dout - db, a.shape), sum_to(db, b.shape)


def exp_in_blocks(dout: Tensor, out: Tensor) -> Tensor:
    blocks = zip(dout.reshape(-1).split(32), out.reshape(-1).split(32), strict=True)
    return torch.cat([d * o for d, o in blocks]).reshape(out.shape)


ORDER = torch.Generator()


def bias_rows_in_random_order(dout: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The sum over the rows in another order each time: the same up to rounding."""
    shuffled = dout
    if y.dim() < dout.dim():
        shuffled = dout[torch.randperm(len(dout), generator=ORDER)]
    return sum_to(dout, x.shape), sum_to(shuffled, y.shape)


WRONG: dict[str, Wrong] = {
    "relu: out / x for the slope": Wrong(
        relu, lambda dout, x, out: dout * (out / x), (draw(3, 4),), {}, 8, ("nan", "kink")
    ),
    "leaky relu: the default slope whatever the option": Wrong(
        leaky_relu,
        lambda dout, x: torch.where(x > 0, dout, 0.01 * dout),
        (draw(3, 4),),
        {},
        0,
        "option-ignored",
    ),
    "prelu: the mean for the shared weight": Wrong(
        prelu,
        lambda dout, x, weight: (
            torch.where(x > 0, dout, weight * dout),
            (dout * x.clamp(max=0)).mean().reshape(1),
        ),
        (draw(3, 4), tensor([0.25], dtype=torch.float64)),
        {},
        5,
        ("factor", "wrong-count", "missing-reduction"),
    ),
    "gelu: the tanh formula for the erf forward": Wrong(
        gelu,
        lambda dout, x: dout * gelu_tanh_slope(x),
        (draw(3, 4),),
        {},
        20,
        ("option-ignored", "factor", "missing-term"),
    ),
    "gelu: the erf formula whatever the option": Wrong(
        gelu,
        lambda dout, x: dout * (cdf(x) + x * pdf(x)),
        (draw(3, 4),),
        {"exact": True},
        20,
        "option-ignored",
    ),
    "gelu: the density's term subtracted": Wrong(
        gelu,
        lambda dout, x, *, exact: dout * ((cdf(x) - x * pdf(x)) if exact else gelu_tanh_slope(x)),
        (draw(3, 4),),
        {},
        20,
        ("sign", "missing-term"),
    ),
    "gelu: 1/sqrt(2 pi) to five digits": Wrong(
        gelu,  # passes allclose in float32
        lambda dout, x, *, exact: (
            dout * (cdf(x) + 0.39894 * x * (-0.5 * x * x).exp() if exact else gelu_tanh_slope(x))
        ),
        (draw(3, 4, dtype=torch.float32),),
        {},
        0,
        "factor",
    ),
    "silu: sigma found as out / x": Wrong(
        silu,
        lambda dout, x, out: dout * (out / x + out * (1 - out / x)),
        (draw(3, 4),),
        {},
        8,
        "nan",
    ),
    "silu: the second branch overwrites the first": Wrong(
        silu, silu_fan_out_overwritten, (draw(3, 4),), {}, 25, "missing-term"
    ),
    "sigmoid: through the exponential of x": Wrong(
        sigmoid,
        lambda dout, x: dout * x.exp() / (1 + x.exp()) ** 2,
        (draw(3, 4),),
        {},
        23,
        ("overflow", "nan"),
    ),
    "softplus: exp(x) / (1 + exp(x))": Wrong(
        softplus,
        lambda dout, x: dout * x.exp() / (1 + x.exp()),
        (draw(3, 4, dtype=torch.float32),),
        {},
        23,
        ("overflow", "nan"),
    ),
    "tanh: from exp(2x)": Wrong(
        tanh, tanh_from_exp, (draw(3, 4),), {}, 23, ("overflow", "nan", "cancellation")
    ),
    "scaled tanh: its constant rounded to float32": Wrong(
        scaled_tanh,
        lambda dout, x: dout * tensor(1.7159 * 2 / 3) / (2 / 3 * x).cosh() ** 2,
        (draw(3, 4, dtype=torch.float32),),
        {},
        0,
        ("dtype", "factor"),
    ),
    "softsign: 1 - out for 1 - |out|": Wrong(
        softsign, lambda dout, out: dout * (1 - out) ** 2, (positive(3, 4),), {}, 20, "sign"
    ),
    "elu: alpha taken for one": Wrong(
        elu,
        lambda dout, x, out: torch.where(x > 0, dout, dout * (out + 1)),
        (draw(3, 4),),
        {},
        0,
        "option-ignored",
    ),
    "elu: both sides computed, one multiplied by zero": Wrong(
        elu,
        lambda dout, x, *, alpha: dout * ((x > 0) + (x <= 0) * (alpha * x.exp())),
        (draw(3, 4),),
        {},
        8,
        ("nan", "overflow"),
    ),
    "hardswish: not cut off below -3": Wrong(
        hardswish,
        lambda dout, x: torch.where(x < 3, dout * (2 * x + 3) / 6, dout),
        (tensor([[-1.5, 0.3, 2.0], [4.0, -0.2, 1.0]], dtype=torch.float64),),
        {},
        21,
        ("kink", "missing-term"),
    ),
    "softshrink: the positive side alone": Wrong(
        softshrink,
        lambda dout, x, *, width: dout * (x > width),
        (positive(3, 4) - 0.4,),
        {},
        20,
        ("sign", "missing-term", "zero-gradient"),
    ),
    "glu: the halves exchanged": Wrong(
        glu, glu_halves_exchanged, (draw(3, 4),), {}, 19, ("swapped-inputs", "transposed")
    ),
    "log: guarded by 1e-8": Wrong(
        log,
        lambda dout, x: dout / (x + 1e-8),
        (positive(3, 4, dtype=torch.float32),),
        {},
        11,
        "eps",
    ),
    "rsqrt: the upstream left out": Wrong(
        rsqrt, lambda dout, out: -0.5 * out**3, (positive(3, 4),), {}, 2, "upstream-ignored"
    ),
    "square root or zero: divided before it is masked": Wrong(
        sqrt_or_zero, lambda dout, x, out: dout * (x > 0) / (2 * out), (positive(6),), {}, 8, "nan"
    ),
    "whole power: n out / x": Wrong(
        whole_power, lambda dout, x, out, *, n: dout * n * out / x, (draw(3, 4),), {}, 8, "nan"
    ),
    "whole power: the cube's formula whatever n": Wrong(
        whole_power, lambda dout, x: 3 * dout * x * x, (draw(3, 4),), {}, 0, "option-ignored"
    ),
    "power of the size: without the sign of x": Wrong(
        power_of_size,
        lambda dout, x, *, p: dout * p * x.abs() ** (p - 1),
        (positive(3, 4),),
        {"p": 2.5},
        20,
        "sign",
    ),
    "power: log of zero for the exponent": Wrong(
        power,
        lambda dout, x, y, out: (dout * y * x ** (y - 1), dout * out * x.log()),
        (positive(3, 4), positive(3, 4, seed=1)),
        {},
        8,
        "nan",
    ),
    "power: the exponent's gradient not summed": Wrong(
        power,
        lambda dout, x, y, out: (dout * y * x ** (y - 1), dout * out * x.log()),
        (positive(3, 4), positive(4, seed=1)),
        {},
        5,
        ("missing-reduction", "shape"),
    ),
    "absolute: x / out for the sign": Wrong(
        absolute, lambda dout, x, out: dout * x / out, (draw(3, 4),), {}, 8, ("nan", "kink")
    ),
    "logit: clamped entries keep their gradient": Wrong(
        logit,
        lambda dout, x: dout / (x * (1 - x)),
        (unit(3, 4),),
        {},
        21,
        ("kink", "missing-term", "option-ignored"),
    ),
    "clamp: the lower bound forgotten": Wrong(
        clamp,
        lambda dout, x, *, high: dout * (x <= high) if high is not None else dout,
        (unit(3, 4) * 2 - 0.5,),
        {},
        21,
        ("kink", "missing-term", "option-ignored"),
    ),
    "clamp: straight through": Wrong(
        clamp,
        lambda dout: dout,
        (unit(3, 4) - 0.5,),
        {},
        21,
        ("kink", "missing-term", "option-ignored"),
    ),
    "huber: cut off at one whatever delta": Wrong(
        huber, lambda dout, x: dout * x.clamp(-1, 1), (draw(3, 4),), {}, 0, "option-ignored"
    ),
    "dropout: the mask read off the output": Wrong(
        dropout,  # an entry of x that is zero looks dropped
        lambda dout, out, *, p: dout * (out != 0) / (1 - p),
        (draw(3, 4),),
        {"mask": draw(3, 4, seed=1) > 0, "p": 0.4},
        18,
        ("zero-gradient", "kink"),
    ),
    "dropout: survivors not scaled up": Wrong(
        dropout,
        lambda dout, *, mask: dout * mask,
        (draw(3, 4),),
        {"mask": draw(3, 4, seed=1) > 0},
        18,
        "factor",
    ),
    "dropout: scaled by two whatever p": Wrong(
        dropout,
        lambda dout, *, mask: 2 * dout * mask,
        (draw(3, 4),),
        {"mask": draw(3, 4, seed=1) > 0},
        18,
        "option-ignored",
    ),
    "add: the bias gets the first row": Wrong(
        add,
        lambda dout: (dout, dout[0]),
        (draw(1, 4), draw(4, seed=1)),
        {},
        5,
        ("missing-reduction", "upstream-collapsed", "size-one", "ignored-rows"),
    ),
    "mul: the scale gets the mean over the rows": Wrong(
        mul,
        lambda dout, x, y: (dout * y, (dout * x).mean(0)),
        (draw(1, 4), draw(4, seed=1)),
        {},
        5,
        ("factor", "missing-reduction", "wrong-count"),
    ),
    "mul: summed over the columns, not the rows": Wrong(
        mul,
        lambda dout, x, y: (dout * y, (dout * x).sum(1)),
        (draw(4, 4), draw(4, seed=1)),
        {},
        5,
        ("wrong-axis", "transposed"),
    ),
    "div: the divisor's sign": Wrong(
        div,
        lambda dout, x, y: (dout / y, dout * x / (y * y)),
        (draw(3, 4), positive(3, 4, seed=1)),
        {},
        20,
        "sign",
    ),
    "div: x and y exchanged": Wrong(
        div,
        lambda dout, x, y: (-dout * x / (y * y), dout / y),
        (draw(3, 4), positive(3, 4, seed=1)),
        {},
        19,
        "swapped-inputs",
    ),
    "maximum: ties in full to both": Wrong(
        maximum,
        lambda dout, x, y: (dout * (x >= y), dout * (y >= x)),
        (draw(3, 4), draw(3, 4, seed=1)),
        {},
        6,
        ("ties", "kink"),
    ),
    "maximum: ties to neither": Wrong(
        maximum,
        lambda dout, x, y: (dout * (x > y), dout * (y > x)),
        (draw(3, 4), draw(3, 4, seed=1)),
        {},
        6,
        ("ties", "kink"),
    ),
    "select: the mask the wrong way round": Wrong(
        select,
        lambda dout, *, mask: (dout * ~mask, dout * mask),
        (draw(3, 4), draw(3, 4, seed=1)),
        {"mask": draw(3, 4, seed=2) > 0},
        19,
        "swapped-inputs",
    ),
    "lerp: the weights exchanged": Wrong(
        lerp,  # which a weight of one half hides
        lambda dout, *, weight: (dout * weight, dout * (1 - weight)),
        (draw(3, 4), draw(3, 4, seed=1)),
        {"weight": 0.5},
        19,
        ("swapped-inputs", "option-ignored"),
    ),
    "add product: the option value left out": Wrong(
        add_product,
        lambda dout, a, b: (dout, dout * b, dout * a),
        (draw(3, 4), draw(3, 4, seed=1), draw(3, 4, seed=2)),
        {},
        0,
        "option-ignored",
    ),
    "atan2: the second gradient's sign": Wrong(
        atan2,
        lambda dout, y, x: (dout * x / (x * x + y * y), dout * y / (x * x + y * y)),
        (draw(3, 4), draw(3, 4, seed=1)),
        {},
        20,
        "sign",
    ),
    "hypot: through the squares": Wrong(
        hypot,
        lambda dout, x, y: (
            dout * x / (x * x + y * y).sqrt(),
            dout * y / (x * x + y * y).sqrt(),
        ),
        (draw(3, 4), draw(3, 4, seed=1)),
        {},
        23,
        "overflow",
    ),
    "x log y: the log where x is zero": Wrong(
        xlogy,
        lambda dout, x, y: (dout * y.log(), dout * x / y),
        (positive(3, 4), positive(3, 4, seed=1)),
        {},
        8,
        "nan",
    ),
    "remainder: truncated, not rounded down": Wrong(
        remainder,
        lambda dout, x, y: (dout, -dout * (x / y).trunc()),
        (positive(3, 4) * 3, positive(3, 4, seed=1)),
        {},
        20,
        ("off-by-one", "sign"),
    ),
}


RIGHT: dict[str, Right] = {
    "relu: slope one at zero": Right(relu, lambda dout, x: dout * (x >= 0), (draw(3, 4),), {}),
    "relu: slope one half at zero": Right(
        relu, lambda dout, x: dout * x.heaviside(x.new_tensor(0.5)), (draw(3, 4),), {}
    ),
    "relu: told by the output, by filling a copy": Right(
        relu, lambda dout, out: dout.clone().masked_fill_(out == 0, 0), (draw(5),), {}
    ),
    "absolute: slope one at zero": Right(
        absolute, lambda dout, x: torch.where(x < 0, -dout, dout), (draw(3, 4),), {}
    ),
    "gelu: through erfc": Right(gelu, gelu_through_erfc, (draw(3, 4),), {}),
    "silu: in terms of the output and the kept gate": Right(
        swish, lambda dout, out, gate: dout * (gate + out * (1 - gate)), (draw(3, 4),), {}
    ),
    "sigmoid: through exp(-|x|)": Right(sigmoid, sigmoid_from_small_exp, (draw(3, 4),), {}),
    "sigmoid: in float32 inside, as its forward": Right(
        sigmoid_in_float32,
        lambda dout, out: (dout.float() * (out * (1 - out)).float()).to(dout.dtype),
        (draw(3, 4, dtype=torch.float32),),
        {},
    ),
    "softplus: from the output": Right(
        softplus, lambda dout, out: dout * -(-out).expm1(), (draw(3, 4),), {}
    ),
    "tanh: divided by cosh twice": Right(
        tanh, lambda dout, x: dout / x.cosh() / x.cosh(), (draw(3, 4),), {}
    ),
    "hardtanh: the difference of two steps": Right(
        hardtanh, lambda dout, x: dout * ((x >= -1).to(x) - (x >= 1).to(x)), (draw(3, 4),), {}
    ),
    "clamp: nothing at the bounds, one of which is None": Right(
        clamp, clamp_by_open_bounds, (draw(3, 4),), {"low": None, "high": 0.5}
    ),
    "huber: x clamped, and scaled in place": Right(
        huber, lambda dout, x, *, delta: x.clamp(-delta, delta).mul_(dout), (draw(3, 4),), {}
    ),
    "dropout: selected, not multiplied": Right(
        dropout,
        lambda dout, *, mask, p: torch.where(mask, dout, 0.0) / (1 - p),
        (draw(3, 4),),
        {"mask": draw(3, 4, seed=1) > 0, "p": 0.3},
    ),
    "rounded: zero everywhere": Right(
        rounded, lambda dout: torch.zeros_like(dout), (draw(3, 4) * 3,), {}
    ),
    "rounded straight through: the upstream, as the forward detaches": Right(
        rounded_straight_through, lambda dout: dout, (draw(3, 4) * 3,), {}
    ),
    "exp: in blocks of 32, the last one shorter": Right(exp, exp_in_blocks, (draw(5, 7),), {}),
    "add: the upstream itself for both": Right(
        add,
        lambda dout, x, y: (sum_to(dout, x.shape), sum_to(dout, y.shape)),
        (draw(3, 4), draw(3, 4, seed=1)),
        {},
    ),
    "add: the rows summed in another order each time": Right(
        add, bias_rows_in_random_order, (draw(6, 3), draw(3, seed=1)), {}
    ),
    "div: in place on its own temporary": Right(
        div, div_in_place, (draw(3, 4), positive(4, seed=1)), {}
    ),
    "power: both gradients guarded at zero": Right(
        power, power_guarded, (positive(3, 4), draw(3, 1, seed=1)), {}
    ),
    "maximum: ties split evenly": Right(
        maximum,
        lambda dout, x, y: (
            sum_to(dout * ((x > y).to(dout) + (x == y).to(dout) / 2), x.shape),
            sum_to(dout * ((y > x).to(dout) + (x == y).to(dout) / 2), y.shape),
        ),
        (draw(3, 4), draw(3, 4, seed=1)),
        {},
    ),
    "maximum: ties to the first": Right(
        maximum,
        lambda dout, x, y: (sum_to(dout * (x >= y), x.shape), sum_to(dout * (x < y), y.shape)),
        (draw(3, 4), draw(4, seed=1)),
        {},
    ),
    "select: fills of the upstream": Right(
        select,
        lambda dout, x, y, *, mask: (
            sum_to(dout.masked_fill(~mask, 0), x.shape),
            sum_to(dout.masked_fill(mask, 0), y.shape),
        ),
        (draw(3, 4), tensor(0.5, dtype=torch.float64)),
        {"mask": draw(3, 4, seed=2) > 0},
    ),
    "lerp: the first by difference from the second": Right(
        lerp, lerp_by_difference, (draw(3, 4), draw(3, 4, seed=1)), {"weight": 0.3}
    ),
    "first of two: None for the input that is not used": Right(
        first, lambda dout: (2 * dout, None), (draw(3, 4), draw(2, seed=1)), {}
    ),
}
