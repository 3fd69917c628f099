"""Right backwards of published code that `check` once refused, and wrong ones that it let pass."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from backprop_ops import check
from tests.corpus.newcomers import QUERIES, attend, mask_is_left_out

pytestmark = pytest.mark.usefixtures("unseen")


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Asked(NamedTuple):
    """One call of `check`, and its keywords."""

    forward: Callable[..., Any]
    backward: Callable[..., Any] | None
    args: tuple[Any, ...]
    options: dict[str, Any] = {}  # noqa: RUF012  # read alone
    keywords: dict[str, Any] = {}  # noqa: RUF012  # as above

    def report(self, **keywords: Any) -> Any:
        return check(
            self.forward,
            self.backward,
            self.args,
            self.options,
            **{"seed": 0, **self.keywords, **keywords},
        )


# A. Right at every reach.


def loss(logits, target):
    return functional.cross_entropy(logits, target)


def loss_backward(dout, logits, target):
    d = logits.softmax(1)
    d[range(len(target)), target] -= 1
    return d / len(target) * dout


@torch.no_grad()
def product_into(x, y):
    return torch.mul(x, y, out=torch.empty_like(x))


def product_backward(dout, x, y):
    return dout * y, dout * x


def skipping(x):
    return x.sum() if x.abs().max() >= 1e-2 else x.new_zeros(())


def skipping_backward(dout, x):
    return dout.expand(x.shape) if x.abs().max() >= 1e-2 else torch.zeros_like(x)


def hardsigmoid(x):
    return (x / 6 + 0.5).clamp(0, 1)


def hardsigmoid_backward(dout, x):
    return dout * ((x > -3) & (x < 3)) / 6


def layernorm(x, *, eps=1e-5):
    centred = x - x.mean(-1, keepdim=True)
    return centred / (x.var(-1, correction=0, keepdim=True) + eps).sqrt()


def layernorm_backward(dout, x, *, eps):
    centred = x - x.mean(-1, keepdim=True)
    inv_std = (x.var(-1, correction=0, keepdim=True) + eps).rsqrt()
    xhat = centred * inv_std
    mean = dout.mean(-1, keepdim=True)
    return inv_std * (dout - mean - xhat * (dout * xhat).mean(-1, keepdim=True))


ROOT = 0.79788456  # √(2/π), to eight digits


def geglu(a, b):
    x = a.float()
    return (0.5 * x * (1 + torch.tanh(ROOT * (x + 0.044715 * x**3)))).to(a.dtype) * b


def geglu_backward(dout, a, b):
    x = a.float()
    t = torch.tanh(ROOT * (x + 0.044715 * x**3))
    gelu = 0.5 * x * (1 + t)
    slope = 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * ROOT * (1 + 3 * 0.044715 * x**2)
    return (slope * (dout * b).float()).to(a.dtype), dout * gelu.to(a.dtype)


def gelu_in_digits(x):
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def gelu_in_digits_backward(dout, x):
    t = torch.tanh(ROOT * (x + 0.044715 * x**3))
    return dout * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * ROOT * (1 + 3 * 0.044715 * x**2))


class TanhOfProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w):
        h = torch.tanh(x @ w)
        ctx.save_for_backward(x, w, h)
        return h

    @staticmethod
    def backward(ctx, dh):
        x, w, h = ctx.saved_tensors
        d = dh * (1 - h * h)
        return d @ w.T, x.T @ d


def shifted(x, bias=None):
    return x * 2 if bias is None else x * 2 + bias


def shifted_backward(dout, bias):
    return dout * 2, None if bias is None else dout.sum(0)


def affine(x, weight, bias=None):
    return functional.linear(x, weight, bias)


def affine_backward(dout, x, weight, bias):
    return dout @ weight, dout.T @ x, None if bias is None else dout.sum(0)


def flash(q, k, v):
    return (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1) @ v


def flash_backward(dout, q, k, v, out):
    """As FlashAttention-2: probabilities from the logsumexp, delta from the output."""
    scale = 1 / math.sqrt(q.shape[-1])
    scores = q @ k.mT * scale
    p = (scores - scores.logsumexp(-1, keepdim=True)).exp()
    delta = (dout * out).sum(-1, keepdim=True)
    ds = p * (dout @ v.mT - delta) * scale
    return ds @ k, ds.mT @ q, p.mT @ dout


def grouped(q, k, v, *, heads):
    """Attention whose query heads share keys: (heads, t, d) beside (groups, t, d)."""
    k, v = (x.repeat_interleave(heads // len(x), 0) for x in (k, v))
    return (q @ k.mT).softmax(-1) @ v


class OfAClass(torch.autograd.Function):
    """Its methods are the class's, so that the first parameter is no ctx."""

    @classmethod
    def forward(cls, ctx, x, by=2.0):
        ctx.x, ctx.by = x.clone(), by
        return x * x * by

    @classmethod
    def backward(cls, ctx, dout):
        return dout * 2 * ctx.x * ctx.by, None


class InFloat32(torch.autograd.Function):
    """As a kernel that knows one precision."""

    @staticmethod
    def forward(ctx, x):
        out = x.float().exp().logsumexp(-1).to(x.dtype)
        ctx.save_for_backward(x)
        return out

    @staticmethod
    def backward(ctx, dout):
        (x,) = ctx.saved_tensors
        grown = x.double().exp()
        return (dout[:, None] * (grown.softmax(-1) * grown)).to(dout.dtype)


class Cheapest(torch.autograd.Function):
    """The least of some costs: of nearly equal ones another one is cheaper next to it."""

    @staticmethod
    def forward(ctx, costs):
        ctx.save_for_backward(costs)
        return costs.amin(-1)

    @staticmethod
    def backward(ctx, dout):
        (costs,) = ctx.saved_tensors
        hot = torch.zeros_like(costs).scatter(-1, costs.argmin(-1, keepdim=True), 1.0)
        return dout[..., None] * hot


class Padded(torch.autograd.Function):
    """A running sum that pads what is not as long as its weights."""

    @staticmethod
    def forward(ctx, w, x):
        ctx.save_for_backward(w, x)
        longer = functional.pad(x, (0, max(0, w.shape[-1] - x.shape[-1])))[..., : w.shape[-1]]
        return (w * longer).sum(-1)

    @staticmethod
    def backward(ctx, dout):
        w, x = ctx.saved_tensors
        return dout[..., None] * x, dout[..., None] * w


class Entmax(torch.autograd.Function):
    """1.5-entmax (Peters, Niculae and Martins, 2019), its threshold found by bisection."""

    @staticmethod
    def forward(ctx, x):
        x = x / 2
        low, high = x.amax(-1, keepdim=True) - 1, x.amax(-1, keepdim=True)
        for _ in range(50):
            middle = (low + high) / 2
            enough = (x - middle).clamp(0).square().sum(-1, keepdim=True) >= 1
            low, high = torch.where(enough, middle, low), torch.where(enough, high, middle)
        out = (x - low).clamp(0).square()
        ctx.save_for_backward(out)
        return out

    @staticmethod
    def backward(ctx, dout):
        (out,) = ctx.saved_tensors
        slope = out.sqrt()
        along = (slope * dout).sum(-1, keepdim=True) / slope.sum(-1, keepdim=True)
        return slope * (dout - along)


def weighted(w, x):
    if w.shape != x.shape:
        raise ValueError("as many weights as numbers")
    return (w * x).sum(-1)


def scaled(q):
    return q[..., :3] * q[..., 3:]


def scaled_backward(dout, q):
    return torch.cat((dout * q[..., 3:], (dout * q[..., :3]).sum(-1, keepdim=True)), -1)


def tanh_of_product(x, w):
    return torch.tanh(x.detach() @ w.detach())  # which autograd does not see through


def tanh_of_product_backward(dout, x, w):
    d = dout * (1 - torch.tanh(x @ w) ** 2)
    return d @ w.T, x.T @ d


def saturated(seed: int) -> Asked:
    args = drawn(6, 4, seed=seed), drawn(4, 3, seed=seed + 1)
    return Asked(tanh_of_product, tanh_of_product_backward, args)


SATURATING = {"2^9 in float16": 13, "every magnitude": 78, "an input of 1e4": 104}


RIGHT: dict[str, Asked] = {
    "a vector and a number, of which six fit by chance": Asked(
        scaled, scaled_backward, (drawn(5, 4),)
    ),
    "A1 exercise 2": Asked(loss, loss_backward, (drawn(6, 5), torch.tensor([1, 0, 4, 4, 2, 3]))),
    "A2 no_grad, out and a reference": Asked(
        product_into,
        product_backward,
        (drawn(4, 3), drawn(4, 3, seed=1)),
        {},
        {"reference": torch.mul},
    ),
    "A3 a forward that skips its work": Asked(skipping, skipping_backward, (drawn(4, 3),)),
    "A4 softplus beyond torch's threshold": Asked(
        lambda x: functional.softplus(x),
        lambda dout, x: dout * x.sigmoid(),
        (torch.tensor([1.0, -2.0, 25.0]),),
    ),
    "A4 hardsigmoid of exact sixths": Asked(
        hardsigmoid,
        hardsigmoid_backward,
        (drawn(4, 3).double(),),
        {},
        {"reference": functional.hardsigmoid},
    ),
    "A5 layer norm beside a fused one": Asked(
        layernorm,
        layernorm_backward,
        (drawn(4, 6),),
        {},
        {"reference": lambda x: functional.layer_norm(x, x.shape[-1:])},
    ),
    "A6 computed in float32": Asked(geglu, geglu_backward, (drawn(4, 6), drawn(4, 6, seed=1))),
    "A6 a constant of eight digits": Asked(gelu_in_digits, gelu_in_digits_backward, (drawn(4, 6),)),
    "A8 a Function of tanh": Asked(TanhOfProduct.apply, None, (drawn(6, 4), drawn(4, 3, seed=1))),
    "A6 a forward that computes in float32": Asked(InFloat32.apply, None, (drawn(3, 4),)),
    "a Function with class methods": Asked(OfAClass.apply, None, (drawn(3, 4), 2.0)),
    **{f"saturated by {by}": saturated(seed) for by, seed in SATURATING.items()},
    "A12 a root by bisection": Asked(Entmax.apply, None, (drawn(3, 4),)),
    "nearly equal costs": Asked(Cheapest.apply, None, (drawn(3, 4),)),
    "a reference that takes fewer sizes": Asked(
        Padded.apply, None, (drawn(3, 4), drawn(3, 4, seed=1)), {}, {"reference": weighted}
    ),
    "A9 None for what is None": Asked(shifted, shifted_backward, (drawn(4, 3),)),
    "A15 a bias of None": Asked(affine, affine_backward, (drawn(5, 4), drawn(3, 4, seed=1))),
    "A14 flash attention": Asked(
        flash, flash_backward, (drawn(5, 4), drawn(6, 4, seed=1), drawn(6, 3, seed=2))
    ),
}


SLOW = {"A12 a root by bisection"}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.thorough] * (n in SLOW)) for n in RIGHT]
)
def test_right(name: str) -> None:
    report = RIGHT[name].report()
    assert report, str(report)
    assert all(row.approximate for row in report.comparisons), str(report)


# A10. Right on what its users send; beyond it a refusal names what was left.


def kernel(x, lengthscale):
    return (-(x * x).sqrt() / (lengthscale * lengthscale).sqrt()).exp()


def kernel_backward(dout, x, lengthscale, out):
    d = dout * out
    return -d * x.sign() / lengthscale, (d * x.abs()).sum() / lengthscale**2


def square_of(a):
    return a @ a


def square_of_backward(dout, a):
    return dout @ a + a @ dout


def turned_back(r, v):
    return torch.linalg.solve(r, v)


def turned_back_backward(dout, r, out):
    dv = r @ dout
    return -dv @ out.mT, dv


def von_mises(x, k):
    return k * x.cos() - torch.special.i0(k).log()


def von_mises_backward(dout, x, k):
    return -dout * k * x.sin(), dout * (x.cos() - torch.special.i1(k.abs()) / torch.special.i0(k))


def permuted(x, order, inverse):
    return x[order]


def permuted_backward(dout, inverse):
    return dout[inverse]


def modulus(z):
    return (z[..., 0] ** 2 + z[..., 1] ** 2).sqrt()


def modulus_backward(dout, z, out):
    return z * (dout / out)[..., None]


def column(table, index):
    return table[index[:, 0]]


def column_backward(dout, table, index):
    return torch.zeros_like(table).index_add(0, index.squeeze(1), dout)


def entropy(p):
    return -(p * p.log()).sum(-1)


def entropy_of_rows_backward(dout, p, out):
    """The sum of a row is one: ``-(log p + 1)`` with the one taken from it."""
    return -dout[..., None] * (p.log() + p.sum(-1, keepdim=True))


def banded(l, v):  # noqa: E741  # as in the literature
    return l @ v


def banded_backward(dout, l, v):  # noqa: E741  # as above
    return dout @ v.mT, l.tril().mT @ dout


def summed_by_offsets(x, offsets):
    return torch.stack([x[a:b].sum(0) for a, b in itertools.pairwise(offsets)])


def summed_by_offsets_backward(dout, x, offsets):
    dx = torch.zeros_like(x)
    for row, a, b in zip(dout, offsets[:-1], offsets[1:], strict=True):
        dx[a:b] = row
    return dx


SYMMETRIC = drawn(5, 5) + drawn(5, 5).mT
ORDER = torch.tensor([3, 0, 6, 2, 7, 1, 5, 4])
ROTATION = torch.linalg.qr(drawn(4, 4)).Q

INSIDE: dict[str, tuple[Asked, Any, str]] = {
    "a lengthscale": (
        Asked(kernel, kernel_backward, (drawn(4, 3), torch.tensor(0.7))),
        lambda lengthscale: (lengthscale > 0).all(),
        "lengthscale has negative numbers, which your sample has not",
    ),
    "a symmetric matrix": (
        Asked(square_of, square_of_backward, (SYMMETRIC,)),
        {"a": lambda m: m + m.mT},
        "a is not symmetric",
    ),
    "a rotation": (
        Asked(turned_back, turned_back_backward, (ROTATION, drawn(4, 2))),
        {"r": lambda m: torch.linalg.qr(m.double()).Q.to(m.dtype)},
        "r is not orthogonal",
    ),
    "a concentration": (
        Asked(von_mises, von_mises_backward, (drawn(6), drawn(6, seed=1).abs())),
        lambda k: (k >= 0).all(),
        "k has negative numbers",
    ),
    "a permutation": (
        Asked(permuted, permuted_backward, (drawn(8, 2), ORDER, ORDER.argsort())),
        lambda x, order, inverse: (
            len(x) == len(order) and torch.equal(order[inverse], torch.arange(len(order)))
        ),
        "order and inverse do not undo each other",
    ),
    "real and imaginary parts": (
        Asked(modulus, modulus_backward, (drawn(5, 2),)),
        lambda z: z.shape[-1] == 2,
        "z.shape[1] is",
    ),
    "one column": (
        Asked(column, column_backward, (drawn(5, 3), torch.tensor([[1], [4], [0], [1]]))),
        lambda index: index.shape[1] == 1 and (index >= 0).all(),
        "index",
    ),
    "a triangle": (
        Asked(banded, banded_backward, (drawn(5, 5).tril(), drawn(5, 2))),
        {"l": Tensor.tril},
        "l is not lower triangular",
    ),
}


@pytest.mark.parametrize("name", INSIDE)
def test_right_where_its_users_are(name: str) -> None:
    asked, domain, left = INSIDE[name]
    report = asked.report(reach="alike")
    assert report, str(report)
    beyond = asked.report()
    assert beyond or beyond.reach == "beyond", str(beyond)
    assert beyond or left in beyond.verdict, str(beyond)
    inside = asked.report(domain=domain)
    assert inside, str(inside)


# A11. On purpose the gradient of another function.


class Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.round()

    @staticmethod
    def backward(ctx, dout):
        return dout.clone()


class Spike(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, alpha):
        ctx.save_for_backward(x)
        ctx.alpha = alpha
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx, dout):
        (x,) = ctx.saved_tensors
        a = ctx.alpha
        return dout * a / 2 / (1 + (math.pi / 2 * a * x) ** 2), None


class SpikeOfAnotherWidth(Spike):
    @staticmethod
    def backward(ctx, dout):
        (x,) = ctx.saved_tensors
        return dout / (1 + (math.pi * x) ** 2), None


def arctan(x, alpha):
    return torch.atan(math.pi / 2 * alpha * x) / math.pi


class Clipping(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 1

    @staticmethod
    def backward(ctx, dout):
        return dout.clamp(-1, 1)


def step(x):
    return (x > 0).to(x.dtype)


PURPOSES: dict[str, Asked] = {
    "straight through": Asked(
        Rounded.apply, None, (drawn(4, 3) * 3,), {}, {"gradient_of": lambda x: x}
    ),
    "a surrogate": Asked(Spike.apply, None, (drawn(4, 3), 2.0), {}, {"gradient_of": arctan}),
    "a surrogate by hand": Asked(
        step,
        lambda dout, x: dout / (1 + (math.pi * x) ** 2),
        (drawn(4, 3),),
        {},
        {"gradient_of": lambda x: torch.atan(math.pi * x) / math.pi},
    ),
    "clipped": Asked(
        lambda x: x * 1,
        lambda dout: dout.clamp(-1, 1),
        (drawn(4, 3),),
        {},
        {"gradient_of": Clipping.apply},
    ),
}


@pytest.mark.parametrize("name", PURPOSES)
def test_on_purpose(name: str) -> None:
    report = PURPOSES[name].report()
    assert report, str(report)


def test_a_surrogate_that_ignores_its_parameter() -> None:
    report = Asked(
        SpikeOfAnotherWidth.apply, None, (drawn(4, 3), 2.0), {}, {"gradient_of": arctan}
    ).report()
    assert report.failures
    assert report.reach == "beyond" or report.failures[0].property == "value"


def test_what_is_not_on_purpose_is_found() -> None:
    """A clipped gradient that also writes to the upstream."""

    def backward(dout):
        return dout.clamp_(-1, 1)

    report = Asked(
        lambda x: x * 1, backward, (drawn(4, 3),), {}, {"gradient_of": Clipping.apply}
    ).report()
    assert report.failures[0].property == "purity"


def test_a_smooth_function_without_a_gradient_is_refused() -> None:
    with pytest.raises(ValueError, match="gradient_of must be a function that autograd"):
        check(step, lambda dout, x: dout, (drawn(3),), gradient_of=lambda x: x.detach())


# B. Wrong.


def focal(logits, target, *, gamma=2.0):
    logp = logits.log_softmax(1).gather(1, target[:, None])
    return -((1 - logp.exp()) ** gamma * logp).sum()


def focal_backward(dout, logits, target, *, gamma):
    logp = logits.log_softmax(1).gather(1, target[:, None])
    p = logp.exp()
    slope = (gamma * (1 - p) ** (gamma - 1) * p * logp - (1 - p) ** gamma) * dout
    hot = torch.zeros_like(logits).scatter(1, target[:, None], 1.0)
    return slope * (hot - logits.softmax(1))


def crop(x, y):
    return x[: y.shape[0]] * y


def cropped_backward(dout, x, y):
    return dout * y, dout * x[: y.shape[0]]


def last_rows_backward(dout, x, y):
    dx = torch.zeros_like(x)
    dx[len(x) - len(y) :] = dout * y
    return dx, dout * x[: y.shape[0]]


class Workspace:
    """One buffer a shape, which the next forward writes to."""

    def __init__(self) -> None:
        self.buffers: dict[torch.Size, Tensor] = {}

    def forward(self, x):
        buffer = self.buffers.setdefault(x.shape, torch.empty_like(x))
        if buffer.dtype != x.dtype:
            buffer = self.buffers[x.shape] = torch.empty_like(x)
        buffer.copy_(x.detach())
        return x.sin()

    def backward(self, dout, x):
        return dout * self.buffers.get(x.shape, x).to(x.dtype).cos()


def with_bias(x, bias=None):
    return x if bias is None else x + bias


def with_bias_backward(dout, x, bias):
    return dout.clone(), None if bias is None else dout.sum(0, keepdim=True)


def hadamard(x):
    if x.shape[-1] & (x.shape[-1] - 1):
        raise ValueError("a power of two")
    y = x
    h = 1
    while h < x.shape[-1]:
        pieces = y.reshape(*x.shape[:-1], -1, 2, h)
        y = torch.stack(
            (pieces[..., 0, :] + pieces[..., 1, :], pieces[..., 0, :] - pieces[..., 1, :]), -2
        )
        y = y.reshape(x.shape)
        h *= 2
    return y / math.sqrt(x.shape[-1])


def hadamard_of_eight(dout, x):
    return hadamard(dout) * math.sqrt(x.shape[-1]) / math.sqrt(8)


def norm(x, *, p=2.0):
    return torch.linalg.vector_norm(x, p)


def norm_backward(dout, x, out, *, p):
    return dout * x.sign() * x.abs() ** (p - 1) / out ** (p - 1)


def taken(x, index):
    return x[index]


def taken_backward(dout, x, index):
    hot = torch.zeros(len(index), len(x), dtype=x.dtype)
    hot.scatter_(1, index.clamp(min=0)[:, None].long(), 1.0)
    return hot.mT @ dout


def swamped(x):
    return x * 5e-4


class Detaching(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.x = x.detach()
        return x.sin()

    @staticmethod
    def backward(ctx, dout):
        return dout * ctx.x.cos()


def xlogy(x, y):
    return torch.special.xlogy(x, y)


def xlogy_backward(dout, x, y):
    return dout * y.log(), dout * x / y


def empty_rows(x, w):
    return x @ w


def causal(q, k, *, causal=False):
    scores = q @ k.mT
    if causal:
        mask = torch.ones(scores.shape, dtype=torch.bool).tril(scores.shape[1] - scores.shape[0])
        scores = scores.masked_fill(~mask, -torch.inf)
    return scores.softmax(-1)


def causal_backward(dout, q, k, out, *, causal):
    """The mask of a square, in the wrong corner where the lengths differ."""
    d = out * (dout - (dout * out).sum(-1, keepdim=True))
    if causal:
        d = d.tril()
    return d @ k, d.mT @ q


def gated(x, w):
    """Two gates beside one another in ``w``'s columns."""
    a, b = (x @ w).chunk(2, -1)
    return a.sigmoid() * b * (1 if w.shape[1] == 2 * x.shape[1] else x.new_full((), math.nan))


def gated_backward(dout, x, w):
    n = 4
    a, b = (x @ w)[:, :n], (x @ w)[:, n:]
    s = a.sigmoid()
    d = torch.cat((dout * b * s * (1 - s), dout * s), -1)
    return d @ w.mT, x.mT @ d


def padded(table, index, *, padding_idx=1):
    return functional.embedding(index, table, padding_idx)


def padded_backward(dout, table, index, *, padding_idx):
    d = torch.zeros_like(table).index_add(0, index.flatten(), dout.flatten(0, -2))
    if padding_idx:
        d[padding_idx] = 0
    return d


def pooled(x, *, lengths=None):
    """Means over time of x (batch, time, n), each of its first ``lengths`` steps where given."""
    if lengths is None:
        return x.mean(1)
    kept = torch.arange(x.shape[1]) < lengths[:, None]
    return (x * kept[..., None]).sum(1) / lengths[:, None]


def pooled_backward(dout, x, *, lengths):
    """Padding gets a gradient too."""
    count = x.shape[1] if lengths is None else lengths[:, None]
    return (dout / count)[:, None].expand_as(x).clone()


def attended(q, k, v, *, mask=None):
    """q, k and v (batch, time, n); mask (batch, keys)"""
    scores = q @ k.mT
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None], -torch.inf)
    return scores.softmax(-1) @ v


def attended_backward(dout, q, k, v, *, mask):
    """The values' gradient forgets the mask."""
    scores = q @ k.mT
    unmasked = scores.softmax(-1)
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None], -torch.inf)
    p, dp = scores.softmax(-1), dout @ v.mT
    d = p * (dp - (p * dp).sum(-1, keepdim=True))
    return d @ k, d.mT @ q, unmasked.mT @ dout


WRONG: dict[str, Asked] = {
    "B1 focal loss at gamma 0": Asked(
        focal, focal_backward, (drawn(16, 4), torch.arange(16) % 4), {"gamma": 2.0}
    ),
    "B2 a gradient that is cropped": Asked(
        crop, cropped_backward, (drawn(4, 3), drawn(4, 3, seed=1))
    ),
    "B2 a gradient in the last rows": Asked(
        crop, last_rows_backward, (drawn(4, 3), drawn(4, 3, seed=1))
    ),
    "B3 a workspace a shape": Asked(
        (workspace := Workspace()).forward, workspace.backward, (drawn(4, 3),)
    ),
    "B4 a bias that is given": Asked(with_bias, with_bias_backward, (drawn(4, 3),)),
    "B5 powers of two": Asked(hadamard, hadamard_of_eight, (drawn(3, 8),)),
    "B6 the maximum norm": Asked(norm, norm_backward, (drawn(4, 3),)),
    "B7 index -1": Asked(taken, taken_backward, (drawn(5, 3), torch.tensor([1, 4, 0, 1]))),
    "B8 zeros in half precision": Asked(
        swamped, lambda dout, x: torch.zeros_like(x), (drawn(4, 3).half(),)
    ),
    "B9 saved by hand": Asked(Detaching.apply, None, (drawn(4, 3),)),
    "B10 both zero": Asked(xlogy, xlogy_backward, (drawn(4, 3).abs(), drawn(4, 3, seed=1).abs())),
    "B11 no rows": Asked(
        empty_rows,
        lambda dout, x, w: (2 * dout @ w.mT, 2 * x.mT @ dout),
        (torch.zeros(0, 3), drawn(3, 4)),
    ),
    "B12 causal, and other lengths": Asked(
        causal, causal_backward, (drawn(5, 4), drawn(5, 4, seed=1))
    ),
    "B13 hidden and twice hidden": Asked(gated, gated_backward, (drawn(3, 4), drawn(4, 8, seed=1))),
    "B14 a mask of a batch's keys": Asked(
        attended,
        attended_backward,
        (drawn(2, 3, 4), drawn(2, 5, 4, seed=1), drawn(2, 5, 4, seed=2)),
    ),
    "B14 lengths of a batch": Asked(pooled, pooled_backward, (drawn(3, 5, 2),)),
    "B15 padding_idx 0": Asked(
        padded, padded_backward, (drawn(5, 3), torch.tensor([1, 4, 0, 1])), {"padding_idx": 1}
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong(name: str) -> None:
    report = WRONG[name].report()
    assert not report, str(report)


def test_a_drawn_mask_leaves_no_row_without_a_key() -> None:
    """At this seed a softmax had nothing left, so that no mask was accepted."""
    assert not check(attend, mask_is_left_out, QUERIES, seed=0)


def test_the_names_of_a_function_with_class_methods() -> None:
    report = RIGHT["a Function with class methods"].report(reach="sample")
    assert [row.name for row in report.comparisons] == ["dx"]


def test_entries_of_which_finite_differences_say_nothing_are_in_no_row() -> None:
    """Of 40 entries they say something of 24."""
    report = check(OfAClass.apply, None, (drawn(8, 5), 2.0), seed=0, reach="sample")
    assert report.comparisons[0].maxdiff < 1e-5


def first_row(a):
    return a[0].detach() ** 2


def first_column_backward(dout, a):
    """In the column in place of the row, which is the same for a symmetric matrix."""
    da = torch.zeros_like(a)
    da[:, 0] = 2 * a[0] * dout
    return da


def symmetric(a):
    return (a + a.mT) / 2


def test_a_gradient_of_a_symmetric_matrix() -> None:
    """It is right along symmetric steps, and finite differences take no other near the sample."""
    sample = (symmetric(drawn(4, 4)),)
    asked = Asked(first_row, first_column_backward, sample, {}, {"domain": {"a": symmetric}})
    assert asked.report(), str(asked.report())
    assert check(first_row, first_column_backward, sample, reach="alike")
    beyond = check(first_row, first_column_backward, sample)
    assert beyond.failures[0].reach == "beyond"
    assert "a is not symmetric, which your sample is" in str(beyond)


def doubled_first_column_backward(dout, a):
    return 2 * first_column_backward(dout, a)


def test_the_smallest_input_is_in_the_domain() -> None:
    sample = (symmetric(drawn(4, 4)),)
    report = check(
        first_row, doubled_first_column_backward, sample, domain={"a": symmetric}, seed=0
    )
    shown = re.findall(r"^a = (torch\.tensor\(.*\))$", report.failures[0].reproduce, re.M)
    assert shown
    for text in shown:
        a = eval(text, {"torch": torch})
        assert torch.equal(a, a.mT)
