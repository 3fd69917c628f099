"""Written against `check` by people who had not read it: all that it missed or refused at first."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from backprop_ops import Index
from tests.corpus import right, samples, wrong
from tests.corpus.kinds import Kind
from tests.corpus.samples import integers

draw = partial(samples.draw, dtype=torch.float32)
ROWS = draw(3, 4)


def mean_over(x, *, dims=(1,)):
    return x.mean(dims)


@wrong(mean_over, draw(3, 4, 2), kind=Kind.MEAN_COUNT, mistake=("wrong-count", "option-ignored"))
def last_dimension_counted(dout, x, *, dims):
    for d in sorted(d % x.dim() for d in dims):
        dout = dout.unsqueeze(d)
    return (dout / x.shape[dims[-1]]).expand_as(x)


def pool(x, *, size=(2, 2)):
    return functional.avg_pool2d(x, size)


@wrong(pool, draw(1, 2, 4, 6), kind=Kind.MEAN_COUNT, mistake=("wrong-count", "option-ignored"))
def heights_square_counted(dout, x, *, size):
    spread = dout.repeat_interleave(size[0], 2).repeat_interleave(size[1], 3) / size[0] ** 2
    rest = (0, x.shape[3] - spread.shape[3], 0, x.shape[2] - spread.shape[2])
    return functional.pad(spread, rest)


def ranked_parts(x, *, sizes):
    return sum((i + 1) * part.sum(-1) for i, part in enumerate(x.split(sizes, -1)))


@wrong(
    ranked_parts,
    draw(2, 6),
    sizes=[2, 2, 2],
    kind=Kind.SIZES,
    mistake=("option-ignored", "hard-coded-size"),
)
def parts_of_one_size(dout, x, *, sizes):
    n = len(sizes)
    ranks = torch.arange(1, n + 1, dtype=x.dtype)
    return dout[..., None] * ranks.repeat_interleave(x.shape[-1] // n)


def smooth_l1(x, y, *, beta=1.0):
    return functional.smooth_l1_loss(x, y, beta=beta)


@wrong(smooth_l1, ROWS, draw(3, 4, seed=1), kind=Kind.NAN_AT_ZERO, mistake="nan")
def divided_by_a_beta_of_zero(dout, x, y, *, beta):
    dx = dout * ((x - y) / beta).clamp(-1, 1) / x.numel()
    return dx, -dx


def power(x, *, n=2.0):
    return x**n


@wrong(power, ROWS.abs(), n=3.0, kind=Kind.NAN_AT_ZERO, mistake="nan")
def zero_times_zero_to_minus_one(dout, x, *, n):
    return dout * n * x ** (n - 1)


def activation(x, *, name="relu"):
    return getattr(functional, name)(x)


@wrong(activation, ROWS, kind=Kind.VARIANT, mistake="option-ignored")
def knows_two_of_many(dout, x, *, name):
    if name == "relu":
        return dout * (x > 0)
    return dout * (1 - x.tanh() ** 2)


def rmsnorm(x, gain):
    """In float32 inside."""
    xhat = x.float() * (x.float().square().mean(-1, keepdim=True) + 1e-6).rsqrt()
    return (xhat * gain.float()).to(x.dtype)


@wrong(
    rmsnorm, draw(4, 8), draw(8, seed=1), kind=Kind.OVERFLOW, mistake=("overflow", "zero-gradient")
)
def squares_in_half_precision(dout, x, gain):
    inv = (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
    xhat, dxhat = x * inv, dout * gain
    dx = inv * (dxhat - xhat * (dxhat * xhat).mean(-1, keepdim=True))
    return dx, (dout * xhat).reshape(-1, x.shape[-1]).sum(0)


def embedding(weight: Tensor, index: Index, *, padding_idx: int | None = None) -> Tensor:
    return functional.embedding(index, weight, padding_idx)


@wrong(
    embedding,
    draw(5, 3),
    torch.tensor([[1, 3], [4, 2]]),
    kind=Kind.IGNORED_ROWS,
    mistake=("option-ignored", "ignored-rows"),
)
def padding_idx_is_not_looked_at(dout, weight, index):
    rows = dout.reshape(-1, weight.shape[1])
    return torch.zeros_like(weight).index_add(0, index.reshape(-1), rows)


def cosine(x):
    return x.cos()


@wrong(cosine, ROWS, kind=Kind.STALE, mistake="state")
def seeds_what_others_draw_from(dout, x):
    torch.manual_seed(0)
    return -dout * x.sin()


CALLS = [0]


@wrong(cosine, ROWS, kind=Kind.STALE, mistake="state")
def raises_at_a_later_call(dout, x):
    CALLS[0] += 1
    if CALLS[0] > 9:
        raise RuntimeError("the workspace is gone")
    return -dout * x.sin()


def cube(x):
    return x**3


@right(cube, ROWS)
def in_numpy(dout, x):
    return torch.from_numpy(3 * x.numpy() ** 2 * dout.numpy())


@wrong(cube, ROWS, kind=Kind.STALE, mistake="state")
def differentiated_in_the_mode_it_finds(dout, x):
    y = x.detach().requires_grad_()
    return torch.autograd.grad(y**3, y, dout)[0]


def correlate(x, w):
    return functional.conv1d(x[:, None], w[None, None])[:, 0]


@right(correlate, draw(2, 9), draw(3, seed=1))
def in_the_frequencies_of_float64(dout, x, w):
    n = x.shape[1]
    upstream = torch.fft.rfft(dout.double(), n=n)
    dx = torch.fft.irfft(upstream * torch.fft.rfft(w.double(), n=n), n=n)
    both = (torch.fft.rfft(x.double(), n=n) * upstream.conj()).sum(0)
    return dx.to(x.dtype), torch.fft.irfft(both, n=n)[: len(w)].to(w.dtype)


def rotate(q, angle):
    c, s = angle.cos(), angle.sin()
    a, b = q.chunk(2, -1)
    return torch.cat([a * c - b * s, a * s + b * c], -1)


@right(rotate, draw(2, 3, 4), draw(3, 2, seed=1))
def as_complex_numbers(dout, q, angle):
    wide = torch.promote_types(q.dtype, torch.float32)
    upstream = torch.complex(*dout.to(wide).chunk(2, -1))
    turn = torch.polar(torch.ones_like(angle, dtype=wide), angle.to(wide))
    back = upstream * turn.conj()
    dq = torch.cat([back.real, back.imag], -1).to(q.dtype)
    a, b = (part.contiguous() for part in q.to(wide).chunk(2, -1))
    dangle = (back * torch.complex(a, b).conj()).imag
    return dq, dangle.sum_to_size(angle.shape).to(angle.dtype)


def joined(xs: Sequence[Tensor], *, dim: int = 0) -> Tensor:
    return torch.cat(list(xs), dim)


@right(joined, [draw(2, 3), draw(1, 3), draw(4, 3)])
def parts_as_they_were_split(dout, xs, *, dim):
    return dout.split([x.shape[dim] for x in xs], dim)


def rows(weight, index):
    return weight[index]


@right(rows, draw(5, 3), integers(5, 300))
def in_any_order(dout, weight, index):
    """As atomic additions do."""
    order = torch.randperm(len(index))
    return torch.zeros_like(weight).index_add(0, index[order], dout[order])


@right(rows, draw(5, 3), torch.tensor([4, 0, 2]))
def a_sparse_gradient(dout, weight, index):
    return torch.sparse_coo_tensor(index[None], dout, weight.shape)


def elu(x):
    return functional.elu(x)


@right(elu, ROWS)
def elu_by_its_output(dout, out):
    return dout * torch.where(out > 0, torch.ones_like(out), out + 1)


def softplus(x):
    return functional.softplus(x)


@right(softplus, ROWS)
def softplus_by_its_output(dout, out):
    return dout * -torch.expm1(-out)


@right(softplus, ROWS)
def one_minus_an_exponential(dout, out):
    return dout * (1 - (-out).exp())


def log_sigmoid(x):
    return functional.logsigmoid(x)


@right(log_sigmoid, ROWS)
def log_sigmoid_by_its_output(dout, out):
    return dout * (1 - out.exp())
