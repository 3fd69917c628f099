"""Entries moved, repeated, joined or cut off, and records of several outputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from backprop_ops import sum_to
from tests.corpus import right, wrong
from tests.corpus.kinds import Kind
from tests.corpus.samples import draw, draws, require

X = draw(3, 4)
CUBE = draw(3, 3, 3)


class Pieces(NamedTuple):
    left: Tensor
    right: Tensor


# The same entries in another shape or order.


def reshape(x: Tensor, *, shape: tuple[int, ...]) -> Tensor:
    return x.reshape(shape)


@right(reshape, X, shape=(2, 6))
def view_where_there_can_be_one(dout, x):
    return dout.reshape(x.shape)


@wrong(reshape, X, shape=(2, 6), kind=Kind.LAYOUT, mistake="upstream-layout")
def views_the_upstream(dout, x):
    return dout.view(x.shape)


def flatten(x):
    return x.flatten()


@wrong(flatten, X, kind=Kind.SIZES, mistake=("hard-coded-size", "shape"))
def back_to_the_shape_of_the_sample(dout):
    return dout.reshape(3, 4)


def squeeze(x: Tensor) -> Tensor:
    """Without the last dimension, where its size is 1."""
    return x.squeeze(-1)


@wrong(squeeze, draw(3, 1), kind=Kind.OTHER, mistake=("size-one", "shape"))
def always_puts_a_dimension_back(dout):
    return dout.unsqueeze(-1)


def like(x: Tensor, template: Tensor) -> Tensor:
    """x in the shape of template, of which nothing else is used."""
    return x.reshape(template.shape)


@right(like, X, draw(6, 2, seed=1))
def none_for_the_template(dout, x):
    return dout.reshape(x.shape), None


def transpose(x: Tensor, *, dim0: int = -2, dim1: int = -1) -> Tensor:
    return x.transpose(dim0, dim1)


@right(transpose, CUBE, dim0=0)
def a_view_of_the_upstream(dout, *, dim0, dim1):
    return dout.transpose(dim1, dim0)


@wrong(transpose, CUBE, kind=Kind.BROADCAST, mistake=("option-ignored", "wrong-axis", "shape"))
def last_two_whatever_the_options(dout):
    return dout.mT


def permute(x: Tensor, *, dims: tuple[int, ...]) -> Tensor:
    return x.permute(dims)


@right(permute, draw(2, 3, 4), dims=(1, -1, 0))
def by_the_inverse(dout, *, dims):
    inverse = [0] * len(dims)
    for place, dim in enumerate(dims):
        inverse[dim] = place
    return dout.permute(inverse)


@wrong(permute, CUBE, dims=(1, 2, 0), kind=Kind.OTHER, mistake=("transposed", "wrong-axis"))
def once_more_the_same_way(dout, *, dims):
    return dout.permute(dims)


def split_heads(x: Tensor, *, heads: int) -> Tensor:
    """(time, heads · width) to (heads, time, width)"""
    require(x.dim() == 2)
    return x.unflatten(1, (heads, -1)).transpose(0, 1)


@right(split_heads, draw(3, 4), heads=2)
def transposed_then_joined(dout):
    return dout.transpose(0, 1).flatten(1)


@wrong(split_heads, draw(3, 4), heads=2, kind=Kind.OTHER, mistake=("transposed", "wrong-axis"))
def reshaped_without_transposing(dout, x):
    return dout.reshape(x.shape)


def flip(x: Tensor, *, dim: int = -1) -> Tensor:
    return x.flip(dim)


@right(flip, X, dim=0)
def by_an_index(dout, *, dim):
    return dout.index_select(dim, torch.arange(dout.shape[dim] - 1, -1, -1))


@wrong(flip, X, kind=Kind.LAYOUT, mistake="upstream-layout")
def upstream_read_through_its_memory(dout, *, dim):
    strides = torch.empty(dout.shape, device="meta").stride()
    return dout.as_strided(dout.shape, strides).flip(dim)


@wrong(flip, X, kind=Kind.BROADCAST, mistake=("option-ignored", "wrong-axis"))
def last_dimension_whatever_the_option(dout):
    return dout.flip(-1)


def roll(x, *, shift, dim=-1):
    return x.roll(shift, dim)


@right(roll, draw(2, 5), shift=2)
def cut_and_joined(dout, *, shift, dim):
    return torch.cat(dout.tensor_split((shift % max(dout.shape[dim], 1),), dim)[::-1], dim)


@wrong(roll, draw(2, 6), shift=3, kind=Kind.VARIANT, mistake=("sign", "off-by-one"))
def same_way_again(dout, *, shift, dim):  # half way round both ways are one
    return dout.roll(shift, dim)


def center(x: Tensor) -> Tensor:
    """The zero frequency in the middle, as fftshift does."""
    return torch.fft.fftshift(x, -1)


@right(center, draw(2, 5))
def inverse_shift(dout):
    return torch.fft.ifftshift(dout, -1)


@wrong(center, draw(2, 6), kind=Kind.SIZES, mistake="off-by-one")
def once_more_though_the_length_may_be_odd(dout):
    return torch.fft.fftshift(dout, -1)


# Repeated and summed.


def expand(x: Tensor, *, size: tuple[int, ...]) -> Tensor:
    return x.expand(size)


@right(expand, draw(3, 1), size=(2, 3, 4))
def a_product_with_ones(dout, x):
    """Summed over each dimension that x lacks or has of size 1."""
    added = dout.dim() - x.dim()
    gone = list(range(added))
    gone += [added + d for d, size in enumerate(x.shape) if size == 1]
    sizes = [dout.shape[d] for d in gone]
    left = [d for d in range(dout.dim()) if d not in gone]
    summed = torch.einsum(dout, list(range(dout.dim())), dout.new_ones(sizes), gone, left)
    return summed.reshape(x.shape)


@wrong(expand, draw(4), size=(3, 4), kind=Kind.BROADCAST, mistake="missing-reduction")
def one_of_the_copies(dout, x):
    return dout[(0,) * (dout.dim() - x.dim())]


@wrong(expand, draw(3, 1), size=(3, 4), kind=Kind.BROADCAST, mistake=("factor", "wrong-count"))
def mean_of_the_copies(dout, x):
    return sum_to(dout, x.shape) * (x.numel() / max(dout.numel(), 1))


@wrong(expand, draw(3, 1), size=(3, 4), kind=Kind.BROADCAST, mistake="shape")
def summed_dimension_is_lost(dout, x):
    return dout.sum([d for d, size in enumerate(x.shape) if size == 1])


def repeat(x: Tensor, *, times: int = 2) -> Tensor:
    """One copy of the rows after the other."""
    require(x.dim() > 0)
    return x.repeat(times, *[1] * (x.dim() - 1))


@right(repeat, X, times=3)
def unflattened_and_summed(dout, x, *, times):
    return dout.unflatten(0, (times, len(x))).sum(0)


@right(repeat, X.float(), times=3)
def from_the_last_copy_in_float64(dout, x, *, times):
    dx = torch.zeros_like(x, dtype=torch.float64)
    for i in reversed(range(times)):
        dx += dout[i * len(x) : (i + 1) * len(x)]
    return dx.to(x.dtype)


@wrong(repeat, X, kind=Kind.VARIANT, mistake=("transposed", "wrong-axis"))
def as_if_each_row_were_repeated_in_place(dout, x, *, times):
    return dout.unflatten(0, (len(x), times)).sum(1)


@wrong(repeat, X, kind=Kind.VARIANT, mistake=("option-ignored", "hard-coded-size", "shape"))
def twice_whatever_the_option(dout, x):
    return dout[: len(x)] + dout[len(x) :]


def broadcast_add(x, y):
    return x + y


@wrong(
    broadcast_add,
    X,
    draw(1, 4, seed=1),
    kind=Kind.BROADCAST,
    mistake=("missing-reduction", "shape"),
)
def summed_over_the_dimensions_in_front_only(dout, x, y):
    return (
        dout.sum(list(range(dout.dim() - x.dim()))) if dout.dim() > x.dim() else dout,
        dout.sum(list(range(dout.dim() - y.dim()))) if dout.dim() > y.dim() else dout,
    )


def row_mean(x: Tensor) -> Tensor:
    require(x.dim() > 0)
    return x.mean(-1)


@right(row_mean, X)
def upstream_expanded(dout, x):
    return (dout / x.shape[-1])[..., None].expand_as(x)


@wrong(
    row_mean, draw(4, 4), kind=Kind.MEAN_COUNT, mistake=("wrong-count", "hard-coded-size", "factor")
)
def divides_by_the_number_of_rows(dout, x):
    return (dout / len(x))[..., None].expand(x.shape)


class Grid(NamedTuple):
    rows: Tensor
    columns: Tensor


def meshgrid(x: Tensor, y: Tensor) -> Grid:
    require(x.dim() == y.dim() == 1)
    rows, columns = torch.meshgrid(x, y, indexing="ij")
    return Grid(rows, columns)


@right(meshgrid, *draws((3,), (4,)))
def products_with_ones(drows, dcolumns, x, y):
    return drows @ torch.ones_like(y), torch.ones_like(x) @ dcolumns


@wrong(meshgrid, *draws((3,), (3,)), kind=Kind.BROADCAST, mistake=("wrong-axis", "transposed"))
def both_summed_over_the_columns(drows, dcolumns):
    return drows.sum(1), dcolumns.sum(1)


@wrong(meshgrid, *draws((3,), (4,)), kind=Kind.MISSING, mistake="none-gradient")
def no_gradient_for_y(drows, dcolumns):
    return drows.sum(1), None


@wrong(meshgrid, *draws((3,), (4,)), kind=Kind.BROADCAST, mistake="shape")
def y_gets_a_matrix_of_one_row(drows, dcolumns):
    return drows.sum(1), dcolumns.sum(0, keepdim=True)


# Joined and taken apart.


def cat(xs: Sequence[Tensor], *, dim: int = 0) -> Tensor:
    require(len({(x.dim(), x.dtype) for x in xs}) == 1)
    return torch.cat(list(xs), dim)


@right(cat, (X, draw(1, 4, seed=1), draw(2, 4, seed=2)))
def views_of_the_upstream(dout, xs, *, dim):
    return (dout.split([x.shape[dim] for x in xs], dim),)


@right(cat, [X, draw(3, 2, seed=1)], dim=-1)
def copies_from_the_last_to_the_first(dout, xs, *, dim):
    """Each a tensor of its own."""
    end, pieces = dout.shape[dim], []
    for x in reversed(xs):
        end -= x.shape[dim]
        pieces.append(dout.narrow(dim, end, x.shape[dim]).clone())
    return (tuple(reversed(pieces)),)


@wrong(cat, (X, draw(3, 4, seed=1)), kind=Kind.SIZES, mistake=("hard-coded-size", "shape"))
def parts_of_the_same_size(dout, xs, *, dim):
    return (dout.chunk(len(xs), dim),)


@wrong(
    cat,
    draws((3, 3), (3, 3)),
    kind=Kind.BROADCAST,
    mistake=("option-ignored", "wrong-axis", "shape"),
)
def along_the_rows_whatever_dim(dout, xs):
    return (dout.split([len(x) for x in xs]),)


@wrong(cat, (X, draw(3, 4, seed=1)), kind=Kind.MISSING, mistake=("swapped-inputs", "shape"))
def parts_in_reverse(dout, xs, *, dim):
    return (views_of_the_upstream(dout, xs, dim=dim)[0][::-1],)


@wrong(cat, (X, draw(2, 4, seed=1)), kind=Kind.MISSING, mistake=("hard-coded-size", "shape"))
def of_two_whatever_their_number(dout, xs, *, dim):
    first, rest = dout.split([xs[0].shape[dim], dout.shape[dim] - xs[0].shape[dim]], dim)
    return ((first, rest.narrow(dim, 0, xs[1].shape[dim])),)


def stack(xs: Sequence[Tensor], *, dim: int = 0) -> Tensor:
    require(len({x.dtype for x in xs}) == 1)
    return torch.stack(list(xs), dim)


@right(stack, (X, draw(3, 4, seed=1)), dim=-1)
def selected_from_the_upstream(dout, xs, *, dim):
    return (tuple(dout.select(dim, i) for i in range(len(xs))),)


@wrong(
    stack,
    draws((2, 2), (2, 2)),
    kind=Kind.BROADCAST,
    mistake=("option-ignored", "wrong-axis", "shape"),
)
def along_the_first_whatever_dim(dout, xs):
    return (dout.unbind(0),)


def split(x: Tensor, *, at: int) -> Pieces:
    """Before and from column at."""
    return Pieces(x[..., :at], x[..., at:])


@right(split, X, at=1)
def parts_padded_and_added(dleft, dright):
    left, right = dleft.shape[-1], dright.shape[-1]
    return functional.pad(dleft, (0, right)) + functional.pad(dright, (left, 0))


@wrong(split, X, at=2, kind=Kind.VARIANT, mistake=("option-ignored", "hard-coded-size"))
def in_the_middle_whatever_the_option(dleft, dright, x):
    dx = torch.zeros_like(x)
    middle = x.shape[-1] // 2
    dx[..., :middle], dx[..., middle:] = dleft, dright
    return dx


@wrong(split, X, at=2, kind=Kind.MISSING, mistake="swapped-inputs")
def parts_exchanged(dleft, dright):
    return torch.cat((dright, dleft), -1)


def halves(x: Tensor) -> Pieces:
    """The first half has one row more if their number is odd."""
    require(len(x) > 1)
    left, right = x.chunk(2)
    return Pieces(left, right)


@right(halves, draw(5, 2))
def joined(dleft, dright):
    return torch.cat((dleft, dright))


@wrong(halves, draw(4, 2), kind=Kind.SIZES, mistake=("off-by-one", "shape"))
def middle_row_of_an_odd_number_is_lost(dleft, dright, x):
    middle = len(x) // 2
    return torch.cat((dleft[:middle], dright), 0)


class Bands(NamedTuple):
    low: Tensor
    high: Tensor


def haar(x: Tensor) -> Bands:
    require(x.shape[-1] % 2 == 0)
    even, odd = x[..., ::2], x[..., 1::2]
    return Bands((even + odd) / math.sqrt(2), (even - odd) / math.sqrt(2))


@right(haar, draw(2, 6))
def bands_interleaved(dlow, dhigh):
    return torch.stack((dlow + dhigh, dlow - dhigh), -1).div_(math.sqrt(2)).flatten(-2)


@right(haar, draw(4))
def filled_and_scaled_in_its_own_buffer(dlow, dhigh, x):
    dx = torch.empty_like(x)
    dx[..., ::2] = dlow
    dx[..., 1::2] = dlow
    dx[..., ::2] += dhigh
    dx[..., 1::2] -= dhigh
    dx *= 1 / math.sqrt(2)
    return dx


@wrong(haar, draw(2, 6), kind=Kind.VARIANT, mistake="sign")
def difference_added(dlow, dhigh):
    return torch.stack((dlow + dhigh, dlow + dhigh), -1).flatten(-2) / math.sqrt(2)


@wrong(haar, draw(2, 6), kind=Kind.VARIANT, mistake="factor")
def halved_as_for_a_mean(dlow, dhigh):
    return torch.stack((dlow + dhigh, dlow - dhigh), -1).flatten(-2) / 2


@wrong(haar, draw(2, 6), kind=Kind.UPSTREAM_LOST, mistake=("upstream-ignored", "missing-term"))
def upstream_of_the_high_band_left_out(dlow, dhigh):
    return dlow.repeat_interleave(2, -1) / math.sqrt(2)


class Moments(NamedTuple):
    total: Tensor
    spread: Tensor


def moments(x: Tensor) -> Moments:
    """The sum of each row, and the sum of its squares."""
    require(x.dim() > 0)
    return Moments(x.sum(-1), x.square().sum(-1))


@right(moments, X.float())
def one_product(dtotal, dspread, x):
    return torch.addcmul(
        dtotal[..., None].expand_as(x), x, dspread[..., None].expand_as(x), value=2
    )


@wrong(moments, X, kind=Kind.UPSTREAM_LOST, mistake="upstream-collapsed")
def one_upstream_for_all_rows(dtotal, dspread, x):
    return dtotal[..., None] + 2 * x * dspread.mean()


@wrong(moments, X, kind=Kind.UPSTREAM_LOST, mistake="upstream-ignored")
def upstream_of_the_sum_ignored(dtotal, dspread, x):
    return torch.ones_like(x) + 2 * x * dspread[..., None]


# Cut off, filled up, windowed.


def crop(x: Tensor, *, start: int = 0, length: int = 2) -> Tensor:
    return x.narrow(-1, start, length)


@wrong(crop, X.float(), start=1, kind=Kind.PRECISION, mistake="dtype")
def into_zeros_of_the_default_dtype(dout, x, *, start, length):
    dx = torch.zeros(x.shape)
    dx.narrow(-1, start, length).copy_(dout)
    return dx


@wrong(crop, X, kind=Kind.VARIANT, mistake=("option-ignored", "off-by-one"))
def from_the_first_whatever_the_option(dout, x, *, length):
    return functional.pad(dout, (0, x.shape[-1] - length))


def every(x: Tensor, *, start: int = 0, step: int = 2) -> Tensor:
    return x[..., start::step]


@right(every, draw(2, 7), start=1, step=3)
def zeros_put_between(dout, x, *, start, step):
    """And in front and behind."""
    start = range(x.shape[-1])[start:].start  # a start that counts from the end
    spread = functional.pad(dout[..., None], (0, step - 1)).flatten(-2)
    return functional.pad(spread, (start, x.shape[-1] - start - spread.shape[-1]))


@wrong(every, draw(2, 5), kind=Kind.STALE, mistake=("nondeterministic", "nan"))
def entries_between_not_filled(dout, x, *, start, step):
    dx = torch.empty_like(x)
    dx[..., start::step] = dout
    return dx


@wrong(every, draw(2, 6), kind=Kind.VARIANT, mistake=("option-ignored", "off-by-one"))
def from_the_first_whatever_start(dout, x, *, step):
    dx = torch.zeros_like(x)
    dx[..., ::step][..., : dout.shape[-1]] = dout
    return dx


def pad(x: Tensor, *, before: int = 1, after: int = 1) -> Tensor:
    require(before >= 0 and after >= 0)
    return functional.pad(x, (before, after))


@wrong(pad, X, kind=Kind.VARIANT, mistake=("option-ignored", "off-by-one"))
def as_much_in_front_as_behind(dout, x, *, after):
    return dout.narrow(-1, after, x.shape[-1])


def pad_edges(x: Tensor, *, width: int = 1, mode: Literal["reflect", "replicate"]) -> Tensor:
    """Rows on both sides filled up with what is inside: (n, length)."""
    require(x.dim() == 2 and 0 <= width < x.shape[1])
    return functional.pad(x[:, None], (width, width), mode)[:, 0]


@right(pad_edges, X, width=2, mode="reflect")
def added_by_the_index_of_each_copy(dout, x, *, width, mode):
    place = torch.arange(-width, x.shape[1] + width)
    if mode == "reflect":
        place = (x.shape[1] - 1 - (x.shape[1] - 1 - place.abs()).abs()).abs()
    else:
        place = place.clamp(0, x.shape[1] - 1)
    return torch.zeros_like(x).index_add(1, place, dout)


@wrong(
    pad_edges, X, mode="reflect", kind=Kind.BROADCAST, mistake=("missing-term", "missing-reduction")
)
def what_was_filled_in_is_cut_off(dout, x, *, width):
    return dout.narrow(-1, width, x.shape[1])


@wrong(pad_edges, X, mode="reflect", kind=Kind.VARIANT, mistake="option-ignored")
def reflected_whatever_the_mode(dout, x, *, width):
    return added_by_the_index_of_each_copy(dout, x, width=width, mode="reflect")


def windows(x: Tensor, *, size: int = 2, step: int = 2) -> Tensor:
    """The windows of a vector, one a row."""
    require(x.dim() == 1)
    return x.unfold(0, size, step)


@right(windows, draw(7), size=3, step=1)
def put_by_index_accumulating(dout, x, *, size, step):
    place = torch.arange(len(x)).unfold(0, size, step)
    return torch.zeros_like(x).index_put((place,), dout, accumulate=True)


@right(windows, draw(7), size=3, step=2)
def one_place_after_the_other(dout, x, *, size, step):
    """A place in the windows covers different entries in each."""
    dx = torch.zeros_like(x)
    for offset in range(size):
        dx[offset : offset + len(dout) * step : step][: len(dout)] += dout[:, offset]
    return dx


@wrong(windows, draw(6), kind=Kind.REPEATED_INDEX, mistake=("repeated-index", "missing-reduction"))
def last_window_stays_where_they_overlap(dout, x, *, size, step):
    dx = torch.zeros_like(x)
    for i in range(len(dout)):
        dx[i * step : i * step + size] = dout[i]
    return dx


@wrong(windows, draw(6), kind=Kind.SIZES, mistake=("shape", "off-by-one"))
def entries_that_no_window_reaches_missing(dout, *, size, step):
    """The gradient ends with the last window."""
    dx = dout.new_zeros((len(dout) - 1) * step + size)
    for i in range(len(dout)):
        dx[i * step : i * step + size] += dout[i]
    return dx


def diagonal(x: Tensor, *, offset: int = 0) -> Tensor:
    require(x.dim() == 2)
    return x.diagonal(offset)


@right(diagonal, X, offset=1)
def by_the_distance_of_column_from_row(dout, x, *, offset):
    rows, columns = x.shape
    gap = torch.arange(columns) - torch.arange(rows)[:, None]
    spread = functional.pad(dout, (max(-offset, 0), rows))[:rows]
    return torch.where(gap == offset, spread[:, None], 0)


@wrong(
    diagonal, draw(3, 3), kind=Kind.SIZES, mistake=("hard-coded-size", "option-ignored", "shape")
)
def always_the_main_one_of_a_square(dout):
    return torch.diag(dout)


def tril(x: Tensor, *, diagonal: int = 0) -> Tensor:
    return x.tril(diagonal)


@right(tril, X, diagonal=1)
def a_product_with_the_triangle(dout, *, diagonal):
    return dout * torch.ones_like(dout).tril(diagonal)


@wrong(tril, X, kind=Kind.VARIANT, mistake=("option-ignored", "off-by-one"))
def main_diagonal_whatever_the_option(dout):
    return dout.tril()


@wrong(tril, X, kind=Kind.OVERWRITTEN, mistake="mutates-upstream")
def upstream_is_cut_in_place(dout, *, diagonal):
    return dout.tril_(diagonal)


def tril_vector(x: Tensor) -> Tensor:
    """The entries of the lower triangle of a square matrix, row by row."""
    require(x.dim() == 2 and len(x) == x.shape[1])
    rows, columns = torch.tril_indices(len(x), len(x))
    return x[rows, columns]


@right(tril_vector, draw(3, 3))
def filled_by_a_mask(dout, x):
    dx = torch.zeros_like(x)
    dx[torch.ones_like(x, dtype=torch.bool).tril()] = dout
    return dx


@wrong(tril_vector, draw(2, 2), kind=Kind.SIZES, mistake=("transposed", "wrong-axis"))
def column_by_column(dout, x):  # the same for two columns
    columns, rows = torch.triu_indices(len(x), len(x))
    return torch.zeros_like(x).index_put((rows, columns), dout)
