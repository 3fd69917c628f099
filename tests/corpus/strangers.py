"""What people who had not read `check` wrote against it, and what it missed or refused at first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from backprop_ops import Index
from tests.corpus import Right, Wrong


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def mean_over(x, *, dims=(1,)):
    return x.mean(dims)


def mean_over_last_counted(dout, x, *, dims):
    for d in sorted(d % x.dim() for d in dims):
        dout = dout.unsqueeze(d)
    return (dout / x.shape[dims[-1]]).expand_as(x)


def pool(x, *, size=(2, 2)):
    return functional.avg_pool2d(x, size)


def pool_counts_squares(dout, x, *, size):
    spread = dout.repeat_interleave(size[0], 2).repeat_interleave(size[1], 3) / size[0] ** 2
    rest = (0, x.shape[3] - spread.shape[3], 0, x.shape[2] - spread.shape[2])
    return functional.pad(spread, rest)


def ranked_parts(x, *, sizes):
    return sum((i + 1) * part.sum(-1) for i, part in enumerate(x.split(sizes, -1)))


def ranked_equal_parts(dout, x, *, sizes):
    n = len(sizes)
    ranks = torch.arange(1, n + 1, dtype=x.dtype)
    return dout[..., None] * ranks.repeat_interleave(x.shape[-1] // n)


def smooth_l1(x, y, *, beta=1.0):
    return functional.smooth_l1_loss(x, y, beta=beta)


def smooth_l1_divided(dout, x, y, *, beta):
    dx = dout * ((x - y) / beta).clamp(-1, 1) / x.numel()
    return dx, -dx


def power(x, *, n=2.0):
    return x**n


def power_times_one_less(dout, x, *, n):
    return dout * n * x ** (n - 1)


def activation(x, *, name="relu"):
    return getattr(functional, name)(x)


def two_activations(dout, x, *, name):
    if name == "relu":
        return dout * (x > 0)
    return dout * (1 - x.tanh() ** 2)


def rmsnorm(x, gain):
    """In float32 inside."""
    xhat = x.float() * (x.float().square().mean(-1, keepdim=True) + 1e-6).rsqrt()
    return (xhat * gain.float()).to(x.dtype)


def rmsnorm_in_its_own(dout, x, gain):
    inv = (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
    xhat, dxhat = x * inv, dout * gain
    dx = inv * (dxhat - xhat * (dxhat * xhat).mean(-1, keepdim=True))
    return dx, (dout * xhat).reshape(-1, x.shape[-1]).sum(0)


def embedding(weight: Tensor, index: Index, *, padding_idx: int | None = None) -> Tensor:
    return functional.embedding(index, weight, padding_idx)


def embedding_without_padding(dout, weight, index):
    rows = dout.reshape(-1, weight.shape[1])
    return torch.zeros_like(weight).index_add(0, index.reshape(-1), rows)


def cosine(x):
    return x.cos()


def cosine_seeds(dout, x):
    torch.manual_seed(0)
    return -dout * x.sin()


def cube(x):
    return x**3


def cube_in_the_mode_it_finds(dout, x):
    y = x.detach().requires_grad_()
    return torch.autograd.grad(y**3, y, dout)[0]


CALLS = [0]


def cosine_fails_later(dout, x):
    CALLS[0] += 1
    if CALLS[0] > 9:
        raise RuntimeError("the workspace is gone")
    return -dout * x.sin()


def correlate(x, w):
    return functional.conv1d(x[:, None], w[None, None])[:, 0]


def correlate_in_the_frequencies(dout, x, w):
    n = x.shape[1]
    upstream = torch.fft.rfft(dout.double(), n=n)
    dx = torch.fft.irfft(upstream * torch.fft.rfft(w.double(), n=n), n=n)
    both = (torch.fft.rfft(x.double(), n=n) * upstream.conj()).sum(0)
    return dx.to(x.dtype), torch.fft.irfft(both, n=n)[: len(w)].to(w.dtype)


def rotate(q, angle):
    c, s = angle.cos(), angle.sin()
    a, b = q.chunk(2, -1)
    return torch.cat([a * c - b * s, a * s + b * c], -1)


def rotate_as_complex(dout, q, angle):
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


def joined_split(dout, xs, *, dim):
    return dout.split([x.shape[dim] for x in xs], dim)


def rows(weight, index):
    return weight[index]


def rows_in_any_order(dout, weight, index):
    """As atomic additions come."""
    order = torch.randperm(len(index))
    return torch.zeros_like(weight).index_add(0, index[order], dout[order])


def cube_in_numpy(dout, x):
    return torch.from_numpy(3 * x.numpy() ** 2 * dout.numpy())


def rows_sparse(dout, weight, index):
    return torch.sparse_coo_tensor(index[None], dout, weight.shape)


ROWS = draw(3, 4)

WRONG: Mapping[str, Wrong] = {
    "mean over some: the last dimension counted": Wrong(
        mean_over,
        mean_over_last_counted,
        (draw(3, 4, 2),),
        {},
        1,
        ("wrong-count", "option-ignored"),
    ),
    "average pool: the height's square counted": Wrong(
        pool, pool_counts_squares, (draw(1, 2, 4, 6),), {}, 1, ("wrong-count", "option-ignored")
    ),
    "ranked parts: of one size": Wrong(
        ranked_parts,
        ranked_equal_parts,
        (draw(2, 6),),
        {"sizes": [2, 2, 2]},
        17,
        ("option-ignored", "hard-coded-size"),
    ),
    "smooth l1: divided by a beta of zero": Wrong(
        smooth_l1, smooth_l1_divided, (ROWS, draw(3, 4, seed=1)), {}, 14, "nan"
    ),
    "power: zero to the power of zero": Wrong(
        power, power_times_one_less, (ROWS.abs(),), {"n": 3.0}, 14, "nan"
    ),
    "activation: two of many": Wrong(
        activation, two_activations, (ROWS,), {}, 20, "option-ignored"
    ),
    "rmsnorm: squares in half precision": Wrong(
        rmsnorm,
        rmsnorm_in_its_own,
        (draw(4, 8), draw(8, seed=1)),
        {},
        23,
        ("overflow", "zero-gradient"),
    ),
    "embedding: padding_idx is not looked at": Wrong(
        embedding,
        embedding_without_padding,
        (draw(5, 3), torch.tensor([[1, 3], [4, 2]])),
        {},
        12,
        ("option-ignored", "ignored-rows"),
    ),
    "cosine: seeds what others draw from": Wrong(cosine, cosine_seeds, (ROWS,), {}, 25, "state"),
    "cube: differentiated without turning gradients on": Wrong(
        cube, cube_in_the_mode_it_finds, (ROWS,), {}, 25, "state"
    ),
    "cosine: raises at a later call": Wrong(cosine, cosine_fails_later, (ROWS,), {}, 25, "state"),
}

RIGHT: Mapping[str, Right] = {
    "correlate: in the frequencies of float64": Right(
        correlate, correlate_in_the_frequencies, (draw(2, 9), draw(3, seed=1)), {}
    ),
    "rotate: as complex numbers": Right(
        rotate, rotate_as_complex, (draw(2, 3, 4), draw(3, 2, seed=1)), {}
    ),
    "elu: by its output": Right(
        lambda x: functional.elu(x),
        lambda dout, out: dout * torch.where(out > 0, torch.ones_like(out), out + 1),
        (ROWS,),
        {},
    ),
    "softplus: by its output": Right(
        lambda x: functional.softplus(x), lambda dout, out: dout * -torch.expm1(-out), (ROWS,), {}
    ),
    "softplus: one less a power": Right(
        lambda x: functional.softplus(x), lambda dout, out: dout * (1 - (-out).exp()), (ROWS,), {}
    ),
    "log sigmoid: by its output": Right(
        lambda x: functional.logsigmoid(x), lambda dout, out: dout * (1 - out.exp()), (ROWS,), {}
    ),
    "joined: the parts as they were split": Right(
        joined, joined_split, ([draw(2, 3), draw(1, 3), draw(4, 3)],), {}
    ),
    "rows: in any order": Right(
        rows, rows_in_any_order, (draw(5, 3), torch.randint(5, (300,))), {}
    ),
    "cube: in numpy, which has no bfloat16": Right(cube, cube_in_numpy, (ROWS,), {}),
    "rows: a sparse gradient": Right(rows, rows_sparse, (draw(5, 3), torch.tensor([4, 0, 2])), {}),
}
