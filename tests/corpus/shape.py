"""What only moves, repeats, joins or cuts off entries, and records of several outputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from backprop_ops import sum_to
from tests.corpus import Right, Wrong


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def require(fits: bool) -> None:
    """What the forwards refuse."""
    if not fits:
        raise ValueError("the shapes do not fit")


# The forwards: the same entries in another shape or order.


def reshape(x: Tensor, *, shape: tuple[int, ...]) -> Tensor:
    return x.reshape(shape)


def flatten(x):
    return x.flatten()


def squeeze(x: Tensor) -> Tensor:
    """Without the last dimension, where its size is 1."""
    return x.squeeze(-1)


def like(x: Tensor, template: Tensor) -> Tensor:
    """x in the shape of template, of which nothing else is used."""
    return x.reshape(template.shape)


def transpose(x: Tensor, *, dim0: int = -2, dim1: int = -1) -> Tensor:
    return x.transpose(dim0, dim1)


def permute(x: Tensor, *, dims: tuple[int, ...]) -> Tensor:
    return x.permute(dims)


def split_heads(x: Tensor, *, heads: int) -> Tensor:
    """(time, heads · width) to (heads, time, width)"""
    require(x.dim() == 2)
    return x.unflatten(1, (heads, -1)).transpose(0, 1)


def flip(x: Tensor, *, dim: int = -1) -> Tensor:
    return x.flip(dim)


def roll(x, *, shift, dim=-1):
    return x.roll(shift, dim)


def center(x: Tensor) -> Tensor:
    """The zero frequency in the middle, as fftshift does."""
    return torch.fft.fftshift(x, -1)


# Repeated and summed.


def expand(x: Tensor, *, size: tuple[int, ...]) -> Tensor:
    return x.expand(size)


def repeat(x: Tensor, *, times: int = 2) -> Tensor:
    """One copy of the rows after the other."""
    require(x.dim() > 0)
    return x.repeat(times, *[1] * (x.dim() - 1))


def broadcast_add(x, y):
    return x + y


def row_mean(x: Tensor) -> Tensor:
    require(x.dim() > 0)
    return x.mean(-1)


class Grid(NamedTuple):
    rows: Tensor
    columns: Tensor


def meshgrid(x: Tensor, y: Tensor) -> Grid:
    require(x.dim() == y.dim() == 1)
    rows, columns = torch.meshgrid(x, y, indexing="ij")
    return Grid(rows, columns)


# Joined and taken apart.


def cat(xs: Sequence[Tensor], *, dim: int = 0) -> Tensor:
    require(len({(x.dim(), x.dtype) for x in xs}) == 1)
    return torch.cat(list(xs), dim)


def stack(xs: Sequence[Tensor], *, dim: int = 0) -> Tensor:
    require(len({x.dtype for x in xs}) == 1)
    return torch.stack(list(xs), dim)


class Pieces(NamedTuple):
    left: Tensor
    right: Tensor


def split(x: Tensor, *, at: int) -> Pieces:
    """Before and from column at."""
    return Pieces(x[..., :at], x[..., at:])


def halves(x: Tensor) -> Pieces:
    """Of an odd number of rows the first half has the one more."""
    require(len(x) > 1)
    left, right = x.chunk(2)
    return Pieces(left, right)


class Bands(NamedTuple):
    low: Tensor
    high: Tensor


def haar(x: Tensor) -> Bands:
    require(x.shape[-1] % 2 == 0)
    even, odd = x[..., ::2], x[..., 1::2]
    return Bands((even + odd) / math.sqrt(2), (even - odd) / math.sqrt(2))


class Moments(NamedTuple):
    total: Tensor
    spread: Tensor


def moments(x: Tensor) -> Moments:
    """Of each row, the sum and the sum of the squares."""
    require(x.dim() > 0)
    return Moments(x.sum(-1), x.square().sum(-1))


# Cut off, filled up, windowed.


def crop(x: Tensor, *, start: int = 0, length: int = 2) -> Tensor:
    return x.narrow(-1, start, length)


def every(x: Tensor, *, start: int = 0, step: int = 2) -> Tensor:
    return x[..., start::step]


def pad(x: Tensor, *, before: int = 1, after: int = 1) -> Tensor:
    require(before >= 0 and after >= 0)
    return functional.pad(x, (before, after))


def pad_edges(x: Tensor, *, width: int = 1, mode: Literal["reflect", "replicate"]) -> Tensor:
    """Rows on both sides filled up with what is inside: (n, length)."""
    require(x.dim() == 2 and 0 <= width < x.shape[1])
    return functional.pad(x[:, None], (width, width), mode)[:, 0]


def windows(x: Tensor, *, size: int = 2, step: int = 2) -> Tensor:
    """The windows of a vector, one a row."""
    require(x.dim() == 1)
    return x.unfold(0, size, step)


def diagonal(x: Tensor, *, offset: int = 0) -> Tensor:
    require(x.dim() == 2)
    return x.diagonal(offset)


def tril(x: Tensor, *, diagonal: int = 0) -> Tensor:
    return x.tril(diagonal)


def tril_vector(x: Tensor) -> Tensor:
    """The entries of the lower triangle of a square matrix, row by row."""
    require(x.dim() == 2 and len(x) == x.shape[1])
    rows, columns = torch.tril_indices(len(x), len(x))
    return x[rows, columns]


# Wrong ones that take some lines.


def cat_equal(dout, xs, *, dim):
    return (dout.chunk(len(xs), dim),)


def cat_two(dout, xs, *, dim):
    first, rest = dout.split([xs[0].shape[dim], dout.shape[dim] - xs[0].shape[dim]], dim)
    return ((first, rest.narrow(dim, 0, xs[1].shape[dim])),)


def flip_through_memory(dout, *, dim):
    strides = torch.empty(dout.shape, device="meta").stride()
    return dout.as_strided(dout.shape, strides).flip(dim)


def split_in_the_middle(dleft, dright, x):
    dx = torch.zeros_like(x)
    middle = x.shape[-1] // 2
    dx[..., :middle], dx[..., middle:] = dleft, dright
    return dx


def halves_from_the_middle(dleft, dright, x):
    middle = len(x) // 2
    return torch.cat((dleft[:middle], dright), 0)


def every_unfilled(dout, x, *, start, step):
    dx = torch.empty_like(x)
    dx[..., start::step] = dout
    return dx


def every_from_the_first(dout, x, *, step):
    dx = torch.zeros_like(x)
    dx[..., ::step][..., : dout.shape[-1]] = dout
    return dx


def crop_into_float32(dout, x, *, start, length):
    dx = torch.zeros(x.shape)
    dx.narrow(-1, start, length).copy_(dout)
    return dx


def windows_assigned(dout, x, *, size, step):
    dx = torch.zeros_like(x)
    for i in range(len(dout)):
        dx[i * step : i * step + size] = dout[i]
    return dx


def windows_to_the_last(dout, *, size, step):
    """As long as the windows reach."""
    dx = dout.new_zeros((len(dout) - 1) * step + size)
    for i in range(len(dout)):
        dx[i * step : i * step + size] += dout[i]
    return dx


def tril_vector_by_columns(dout, x):
    columns, rows = torch.triu_indices(len(x), len(x))
    return torch.zeros_like(x).index_put((rows, columns), dout)


# Right ones that take some lines.


def permute_back(dout, *, dims):
    inverse = [0] * len(dims)
    for place, dim in enumerate(dims):
        inverse[dim] = place
    return dout.permute(inverse)


def expand_by_einsum(dout, x):
    """Summed over whatever x has no size for, as one product with ones."""
    added = dout.dim() - x.dim()
    gone = list(range(added))
    gone += [added + d for d, size in enumerate(x.shape) if size == 1]
    sizes = [dout.shape[d] for d in gone]
    left = [d for d in range(dout.dim()) if d not in gone]
    summed = torch.einsum(dout, list(range(dout.dim())), dout.new_ones(sizes), gone, left)
    return summed.reshape(x.shape)


def repeat_summed(dout, x, *, times):
    return dout.unflatten(0, (times, len(x))).sum(0)


def repeat_by_loop(dout, x, *, times):
    dx = torch.zeros_like(x, dtype=torch.float64)
    for i in reversed(range(times)):
        dx += dout[i * len(x) : (i + 1) * len(x)]
    return dx.to(x.dtype)


def meshgrid_by_product(drows, dcolumns, x, y):
    return drows @ torch.ones_like(y), torch.ones_like(x) @ dcolumns


def cat_split(dout, xs, *, dim):
    return (dout.split([x.shape[dim] for x in xs], dim),)


def cat_copied(dout, xs, *, dim):
    """From the last to the first, each a tensor of its own."""
    end, pieces = dout.shape[dim], []
    for x in reversed(xs):
        end -= x.shape[dim]
        pieces.append(dout.narrow(dim, end, x.shape[dim]).clone())
    return (tuple(reversed(pieces)),)


def stack_selected(dout, xs, *, dim):
    return (tuple(dout.select(dim, i) for i in range(len(xs))),)


def split_padded(dleft, dright):
    left, right = dleft.shape[-1], dright.shape[-1]
    return functional.pad(dleft, (0, right)) + functional.pad(dright, (left, 0))


def haar_interleaved(dlow, dhigh):
    return torch.stack((dlow + dhigh, dlow - dhigh), -1).div_(math.sqrt(2)).flatten(-2)


def haar_in_place(dlow, dhigh, x):
    dx = torch.empty_like(x)
    dx[..., ::2] = dlow
    dx[..., 1::2] = dlow
    dx[..., ::2] += dhigh
    dx[..., 1::2] -= dhigh
    dx *= 1 / math.sqrt(2)
    return dx


def every_interleaved(dout, x, *, start, step):
    """Zeros put between, in front and behind."""
    start = range(x.shape[-1])[start:].start  # a start that counts from the end
    spread = functional.pad(dout[..., None], (0, step - 1)).flatten(-2)
    return functional.pad(spread, (start, x.shape[-1] - start - spread.shape[-1]))


def pad_edges_by_index(dout, x, *, width, mode):
    place = torch.arange(-width, x.shape[1] + width)
    if mode == "reflect":
        place = (x.shape[1] - 1 - (x.shape[1] - 1 - place.abs()).abs()).abs()
    else:
        place = place.clamp(0, x.shape[1] - 1)
    return torch.zeros_like(x).index_add(1, place, dout)


def windows_by_index(dout, x, *, size, step):
    place = torch.arange(len(x)).unfold(0, size, step)
    return torch.zeros_like(x).index_put((place,), dout, accumulate=True)


def windows_by_offset(dout, x, *, size, step):
    """One place in the windows after the other, each of which covers different entries."""
    dx = torch.zeros_like(x)
    for offset in range(size):
        dx[offset : offset + len(dout) * step : step][: len(dout)] += dout[:, offset]
    return dx


def diagonal_by_mask(dout, x, *, offset):
    rows, columns = x.shape
    gap = torch.arange(columns) - torch.arange(rows)[:, None]
    spread = functional.pad(dout, (max(-offset, 0), rows))[:rows]
    return torch.where(gap == offset, spread[:, None], 0)


def tril_vector_filled(dout, x):
    dx = torch.zeros_like(x)
    dx[torch.ones_like(x, dtype=torch.bool).tril()] = dout
    return dx


# The samples.

X = draw(3, 4)
CUBE = draw(3, 3, 3)

WRONG: dict[str, Wrong] = {
    "reshape: views the upstream": Wrong(
        reshape, lambda dout, x: dout.view(x.shape), (X,), {"shape": (2, 6)}, 3, "upstream-layout"
    ),
    "flatten: back to the shape of the sample": Wrong(
        flatten, lambda dout: dout.reshape(3, 4), (X,), {}, 17, ("hard-coded-size", "shape")
    ),
    "squeeze: always puts a dimension back": Wrong(
        squeeze, lambda dout: dout.unsqueeze(-1), (draw(3, 1),), {}, 0, ("size-one", "shape")
    ),
    "transpose: the last two, whatever the options": Wrong(
        transpose, lambda dout: dout.mT, (CUBE,), {}, 5, ("option-ignored", "wrong-axis", "shape")
    ),
    "permute: once more the same way": Wrong(
        permute,
        lambda dout, *, dims: dout.permute(dims),
        (CUBE,),
        {"dims": (1, 2, 0)},
        0,
        ("transposed", "wrong-axis"),
    ),
    "split heads: reshaped without transposing": Wrong(
        split_heads,
        lambda dout, x: dout.reshape(x.shape),
        (draw(3, 4),),
        {"heads": 2},
        0,
        ("transposed", "wrong-axis"),
    ),
    "flip: the upstream read through its memory": Wrong(
        flip, flip_through_memory, (X,), {}, 3, "upstream-layout"
    ),
    "flip: the last dimension, whatever the option": Wrong(
        flip, lambda dout: dout.flip(-1), (X,), {}, 5, ("option-ignored", "wrong-axis")
    ),
    "roll: the same way again": Wrong(
        roll,  # half way round both ways are one
        lambda dout, *, shift, dim: dout.roll(shift, dim),
        (draw(2, 6),),
        {"shift": 3},
        20,
        ("sign", "off-by-one"),
    ),
    "center: once more, though the length may be odd": Wrong(
        center, lambda dout: torch.fft.fftshift(dout, -1), (draw(2, 6),), {}, 17, "off-by-one"
    ),
    "expand: one of the copies": Wrong(
        expand,
        lambda dout, x: dout[(0,) * (dout.dim() - x.dim())],
        (draw(4),),
        {"size": (3, 4)},
        5,
        "missing-reduction",
    ),
    "expand: the mean of the copies": Wrong(
        expand,
        lambda dout, x: sum_to(dout, x.shape) * (x.numel() / max(dout.numel(), 1)),
        (draw(3, 1),),
        {"size": (3, 4)},
        5,
        ("factor", "wrong-count"),
    ),
    "expand: the summed dimension is lost": Wrong(
        expand,
        lambda dout, x: dout.sum([d for d, size in enumerate(x.shape) if size == 1]),
        (draw(3, 1),),
        {"size": (3, 4)},
        5,
        "shape",
    ),
    "repeat: as if each row were repeated in place": Wrong(
        repeat,
        lambda dout, x, *, times: dout.unflatten(0, (len(x), times)).sum(1),
        (X,),
        {},
        20,
        ("transposed", "wrong-axis"),
    ),
    "repeat: twice, whatever the option": Wrong(
        repeat,
        lambda dout, x: dout[: len(x)] + dout[len(x) :],
        (X,),
        {},
        20,
        ("option-ignored", "hard-coded-size", "shape"),
    ),
    "broadcast add: summed over the dimensions in front only": Wrong(
        broadcast_add,
        lambda dout, x, y: (
            dout.sum(list(range(dout.dim() - x.dim()))) if dout.dim() > x.dim() else dout,
            dout.sum(list(range(dout.dim() - y.dim()))) if dout.dim() > y.dim() else dout,
        ),
        (X, draw(1, 4, seed=1)),
        {},
        5,
        ("missing-reduction", "shape"),
    ),
    "row mean: divides by the number of rows": Wrong(
        row_mean,
        lambda dout, x: (dout / len(x))[..., None].expand(x.shape),
        (draw(4, 4),),
        {},
        1,
        ("wrong-count", "hard-coded-size", "factor"),
    ),
    "meshgrid: both summed over the columns": Wrong(
        meshgrid,
        lambda drows, dcolumns: (drows.sum(1), dcolumns.sum(1)),
        (draw(3), draw(3, seed=1)),
        {},
        5,
        ("wrong-axis", "transposed"),
    ),
    "meshgrid: no gradient for y": Wrong(
        meshgrid,
        lambda drows, dcolumns: (drows.sum(1), None),
        (draw(3), draw(4, seed=1)),
        {},
        19,
        "none-gradient",
    ),
    "meshgrid: y gets a matrix of one row": Wrong(
        meshgrid,
        lambda drows, dcolumns: (drows.sum(1), dcolumns.sum(0, keepdim=True)),
        (draw(3), draw(4, seed=1)),
        {},
        5,
        "shape",
    ),
    "cat: parts of the same size": Wrong(
        cat, cat_equal, ((X, draw(3, 4, seed=1)),), {}, 17, ("hard-coded-size", "shape")
    ),
    "cat: along the rows, whatever dim": Wrong(
        cat,
        lambda dout, xs: (dout.split([len(x) for x in xs]),),
        ((draw(3, 3), draw(3, 3, seed=1)),),
        {},
        5,
        ("option-ignored", "wrong-axis", "shape"),
    ),
    "cat: the parts in reverse": Wrong(
        cat,
        lambda dout, xs, *, dim: (cat_split(dout, xs, dim=dim)[0][::-1],),
        ((X, draw(3, 4, seed=1)),),
        {},
        19,
        ("swapped-inputs", "shape"),
    ),
    "cat: of two, whatever their number": Wrong(
        cat, cat_two, ((X, draw(2, 4, seed=1)),), {}, 19, ("hard-coded-size", "shape")
    ),
    "stack: along the first, whatever dim": Wrong(
        stack,
        lambda dout, xs: (dout.unbind(0),),
        ((draw(2, 2), draw(2, 2, seed=1)),),
        {},
        5,
        ("option-ignored", "wrong-axis", "shape"),
    ),
    "split: in the middle, whatever the option": Wrong(
        split, split_in_the_middle, (X,), {"at": 2}, 20, ("option-ignored", "hard-coded-size")
    ),
    "split: the parts exchanged": Wrong(
        split,
        lambda dleft, dright: torch.cat((dright, dleft), -1),
        (X,),
        {"at": 2},
        19,
        "swapped-inputs",
    ),
    "halves: the middle row of an odd number is lost": Wrong(
        halves, halves_from_the_middle, (draw(4, 2),), {}, 17, ("off-by-one", "shape")
    ),
    "haar: the difference added": Wrong(
        haar,
        lambda dlow, dhigh: (
            torch.stack((dlow + dhigh, dlow + dhigh), -1).flatten(-2) / math.sqrt(2)
        ),
        (draw(2, 6),),
        {},
        20,
        "sign",
    ),
    "haar: halved, as for a mean": Wrong(
        haar,
        lambda dlow, dhigh: torch.stack((dlow + dhigh, dlow - dhigh), -1).flatten(-2) / 2,
        (draw(2, 6),),
        {},
        20,
        "factor",
    ),
    "haar: the high band's upstream is left out": Wrong(
        haar,
        lambda dlow, dhigh: dlow.repeat_interleave(2, -1) / math.sqrt(2),
        (draw(2, 6),),
        {},
        2,
        ("upstream-ignored", "missing-term"),
    ),
    "moments: one upstream for all rows": Wrong(
        moments,
        lambda dtotal, dspread, x: dtotal[..., None] + 2 * x * dspread.mean(),
        (X,),
        {},
        2,
        "upstream-collapsed",
    ),
    "moments: the sum's upstream does not depend on the row's": Wrong(
        moments,
        lambda dtotal, dspread, x: torch.ones_like(x) + 2 * x * dspread[..., None],
        (X,),
        {},
        2,
        "upstream-ignored",
    ),
    "crop: into zeros of the default dtype": Wrong(
        crop, crop_into_float32, (X.float(),), {"start": 1}, 15, "dtype"
    ),
    "crop: from the first, whatever the option": Wrong(
        crop,
        lambda dout, x, *, length: functional.pad(dout, (0, x.shape[-1] - length)),
        (X,),
        {},
        20,
        ("option-ignored", "off-by-one"),
    ),
    "every: what lies between is not filled": Wrong(
        every, every_unfilled, (draw(2, 5),), {}, 24, ("nondeterministic", "nan")
    ),
    "every: from the first, whatever the option": Wrong(
        every, every_from_the_first, (draw(2, 6),), {}, 20, ("option-ignored", "off-by-one")
    ),
    "pad: as much in front as behind": Wrong(
        pad,
        lambda dout, x, *, after: dout.narrow(-1, after, x.shape[-1]),
        (X,),
        {},
        20,
        ("option-ignored", "off-by-one"),
    ),
    "pad edges: what was filled in is cut off": Wrong(
        pad_edges,
        lambda dout, x, *, width: dout.narrow(-1, width, x.shape[1]),
        (X,),
        {"mode": "reflect"},
        5,
        ("missing-term", "missing-reduction"),
    ),
    "pad edges: reflected, whatever the mode": Wrong(
        pad_edges,
        lambda dout, x, *, width: pad_edges_by_index(dout, x, width=width, mode="reflect"),
        (X,),
        {"mode": "reflect"},
        20,
        "option-ignored",
    ),
    "windows: where they overlap the last one stays": Wrong(
        windows, windows_assigned, (draw(6),), {}, 7, ("repeated-index", "missing-reduction")
    ),
    "windows: what none reaches is missing": Wrong(
        windows, windows_to_the_last, (draw(6),), {}, 17, ("shape", "off-by-one")
    ),
    "diagonal: always of a square, and the main one": Wrong(
        diagonal,
        lambda dout: torch.diag(dout),
        (draw(3, 3),),
        {},
        17,
        ("hard-coded-size", "option-ignored", "shape"),
    ),
    "tril: the main diagonal, whatever the option": Wrong(
        tril, lambda dout: dout.tril(), (X,), {}, 20, ("option-ignored", "off-by-one")
    ),
    "tril: the upstream is cut in place": Wrong(
        tril,
        lambda dout, *, diagonal: dout.tril_(diagonal),
        (X,),
        {},
        4,
        "mutates-upstream",
    ),
    "tril vector: column by column": Wrong(
        tril_vector,  # the same for two columns
        tril_vector_by_columns,
        (draw(2, 2),),
        {},
        17,
        ("transposed", "wrong-axis"),
    ),
}

RIGHT: dict[str, Right] = {
    "reshape: the upstream, as a view where it can be one": Right(
        reshape, lambda dout, x: dout.reshape(x.shape), (X,), {"shape": (2, 6)}
    ),
    "like: None for the template": Right(
        like, lambda dout, x: (dout.reshape(x.shape), None), (X, draw(6, 2, seed=1)), {}
    ),
    "transpose: a view of the upstream": Right(
        transpose, lambda dout, *, dim0, dim1: dout.transpose(dim1, dim0), (CUBE,), {"dim0": 0}
    ),
    "permute: by the inverse": Right(permute, permute_back, (draw(2, 3, 4),), {"dims": (1, -1, 0)}),
    "split heads: transposed, then joined": Right(
        split_heads, lambda dout: dout.transpose(0, 1).flatten(1), (draw(3, 4),), {"heads": 2}
    ),
    "flip: by an index": Right(
        flip,
        lambda dout, *, dim: dout.index_select(dim, torch.arange(dout.shape[dim] - 1, -1, -1)),
        (X,),
        {"dim": 0},
    ),
    "roll: cut and joined": Right(
        roll,
        lambda dout, *, shift, dim: torch.cat(
            dout.tensor_split((shift % max(dout.shape[dim], 1),), dim)[::-1], dim
        ),
        (draw(2, 5),),
        {"shift": 2},
    ),
    "center: the inverse shift": Right(
        center, lambda dout: torch.fft.ifftshift(dout, -1), (draw(2, 5),), {}
    ),
    "expand: a product with ones": Right(
        expand, expand_by_einsum, (draw(3, 1),), {"size": (2, 3, 4)}
    ),
    "repeat: unflattened and summed": Right(repeat, repeat_summed, (X,), {"times": 3}),
    "repeat: from the last copy to the first, in float64": Right(
        repeat, repeat_by_loop, (X.float(),), {"times": 3}
    ),
    "row mean: the upstream expanded": Right(
        row_mean, lambda dout, x: (dout / x.shape[-1])[..., None].expand_as(x), (X,), {}
    ),
    "meshgrid: products with ones": Right(
        meshgrid, meshgrid_by_product, (draw(3), draw(4, seed=1)), {}
    ),
    "cat: views of the upstream": Right(
        cat, cat_split, ((X, draw(1, 4, seed=1), draw(2, 4, seed=2)),), {}
    ),
    "cat: copies, from the last to the first": Right(
        cat, cat_copied, ([X, draw(3, 2, seed=1)],), {"dim": -1}
    ),
    "stack: selected from the upstream": Right(
        stack, stack_selected, ((X, draw(3, 4, seed=1)),), {"dim": -1}
    ),
    "split: each part padded, and the two added": Right(split, split_padded, (X,), {"at": 1}),
    "halves: joined": Right(
        halves, lambda dleft, dright: torch.cat((dleft, dright)), (draw(5, 2),), {}
    ),
    "haar: the bands interleaved": Right(haar, haar_interleaved, (draw(2, 6),), {}),
    "haar: filled and scaled in a buffer of its own": Right(haar, haar_in_place, (draw(4),), {}),
    "moments: one product": Right(
        moments,
        lambda dtotal, dspread, x: torch.addcmul(
            dtotal[..., None].expand_as(x), x, dspread[..., None].expand_as(x), value=2
        ),
        (X.float(),),
        {},
    ),
    "every: zeros put between": Right(
        every, every_interleaved, (draw(2, 7),), {"start": 1, "step": 3}
    ),
    "pad edges: added by the index of what was copied": Right(
        pad_edges, pad_edges_by_index, (X,), {"width": 2, "mode": "reflect"}
    ),
    "windows: put by their index, accumulating": Right(
        windows, windows_by_index, (draw(7),), {"size": 3, "step": 1}
    ),
    "windows: one place in them after the other": Right(
        windows, windows_by_offset, (draw(7),), {"size": 3, "step": 2}
    ),
    "diagonal: where the column is as far from the row": Right(
        diagonal, diagonal_by_mask, (X,), {"offset": 1}
    ),
    "tril: a product with the triangle": Right(
        tril,
        lambda dout, *, diagonal: dout * torch.ones_like(dout).tril(diagonal),
        (X,),
        {"diagonal": 1},
    ),
    "tril vector: filled by a mask": Right(tril_vector, tril_vector_filled, (draw(3, 3),), {}),
}
