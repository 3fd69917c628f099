"""Tables, gathers and scatters, segments, and sorting and selecting by value."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, tensor
from torch.nn import functional

from backprop_ops import Index, Kept, sum_to
from tests.corpus import right, wrong
from tests.corpus.kinds import Kind
from tests.corpus.samples import draw, integers

TABLE = draw(5, 3)
ROWS = draw(4, 3, seed=1)
SEGMENTS = tensor([0, 0, 1, 1, 2, 2])
INDEX = tensor([[3, 0], [1, 3]])
REPEATED = tensor([4, 0, 2, 4])


def rows_added(dout: Tensor, index: Tensor, rows: int) -> Tensor:
    """Σ dout over the places where index is the row."""
    flat = dout.reshape(index.numel(), dout.shape[-1])
    return flat.new_zeros(rows, dout.shape[-1]).index_add(0, index.reshape(-1), flat)


def hot(index: Tensor, classes: int, like: Tensor) -> Tensor:
    return functional.one_hot(index, classes).to(like.dtype)


# Tables.


def embedding(weight: Tensor, index: Index, *, padding_idx: int | None = None) -> Tensor:
    """The rows of weight; the one at padding_idx does not learn."""
    return functional.embedding(index, weight, padding_idx=padding_idx)


def pads(padding_idx: int | None, rows: int) -> int | None:
    """The row of padding; -1 is the last."""
    return None if padding_idx is None else padding_idx % rows


ONCE = tensor([3, 0, 4])  # no row twice


@right(embedding, TABLE.float(), INDEX)
def one_row_after_the_other_in_float64(dout, weight, index, *, padding_idx):
    padding = pads(padding_idx, len(weight))
    dweight = torch.zeros_like(weight, dtype=torch.float64)
    rows = dout.reshape(index.numel(), weight.shape[1])
    for row, position in enumerate(index.flatten().tolist()):
        if position != padding:
            dweight[position] += rows[row]
    return dweight.to(weight.dtype)


@right(embedding, TABLE, tensor([[3, 0, 1], [1, 3, 3]]), padding_idx=1)
def runs_of_the_sorted_index(dout, weight, index, *, padding_idx):
    """Each run of the sorted index is summed."""
    flat, order = index.flatten().sort(stable=True)
    rows = dout.reshape(index.numel(), weight.shape[1])[order]
    used, sizes = flat.unique_consecutive(return_counts=True)
    padding = pads(padding_idx, len(weight))
    dweight = torch.zeros_like(weight)
    for position, run in zip(used.tolist(), rows.split(sizes.tolist()), strict=True):
        if position != padding:
            dweight[position] = run.sum(0)
    return dweight


@right(embedding, TABLE, tensor([3, 0, 2, 3]), padding_idx=2)
def padding_in_a_row_that_is_cut_off(dout, weight, index, *, padding_idx):
    """The row of padding is one behind the last."""
    rows = index.flatten()
    if padding_idx is not None:
        rows = rows.masked_fill(rows == pads(padding_idx, len(weight)), len(weight))
    return rows_added(dout, rows, len(weight) + 1)[: len(weight)]


@wrong(embedding, TABLE, ONCE, kind=Kind.REPEATED_INDEX, mistake="repeated-index")
def a_repeated_row_is_assigned(dout, weight, index, *, padding_idx):
    dweight = torch.zeros_like(weight)
    dweight[index] = dout
    if padding_idx is not None:
        dweight[padding_idx] = 0
    return dweight


@wrong(
    embedding,
    TABLE,
    INDEX,
    padding_idx=4,
    kind=Kind.IGNORED_ROWS,
    mistake=("option-ignored", "ignored-rows"),
)
def padding_row_learns(dout, weight, index):
    return rows_added(dout, index, len(weight))


@wrong(
    embedding,
    TABLE,
    tensor([3, 0, 2, 3]),
    padding_idx=1,
    kind=Kind.IGNORED_ROWS,
    mistake=("option-ignored", "ignored-rows"),
)
def row_0_as_padding_is_taken_for_none(dout, weight, index, *, padding_idx):
    dweight = rows_added(dout, index, len(weight))
    if padding_idx:
        dweight[padding_idx] = 0
    return dweight


@wrong(
    embedding,
    TABLE,
    ONCE,
    kind=Kind.REPEATED_INDEX,
    mistake=("repeated-index", "wrong-count", "factor"),
)
def divided_by_how_often_a_row_is_used(dout, weight, index, *, padding_idx):
    uses = index.flatten().bincount(minlength=len(weight)).clamp(min=1)[:, None]
    return one_row_after_the_other_in_float64(dout, weight, index, padding_idx=padding_idx) / uses


@wrong(embedding, TABLE, INDEX, kind=Kind.LAYOUT, mistake="upstream-layout")
def views_the_upstream_flat(dout, weight, index, *, padding_idx):
    flat = dout.view(-1, weight.shape[1])
    return one_row_after_the_other_in_float64(
        flat.reshape(dout.shape), weight, index, padding_idx=padding_idx
    )


@wrong(
    embedding,
    draw(3, 2),
    tensor([2, 0, 1, 2]),
    kind=Kind.STALE,
    mistake=("nondeterministic", "nan", "zero-gradient"),
)
def rows_that_nothing_uses_are_not_filled(dout, weight, index, *, padding_idx):
    dweight = torch.empty_like(weight)
    dweight[index] = 0
    dweight.index_add_(0, index.flatten(), dout.reshape(-1, weight.shape[1]))
    if padding_idx is not None:
        dweight[padding_idx] = 0
    return dweight


@wrong(embedding, TABLE.float(), REPEATED, kind=Kind.PRECISION, mistake="dtype")
def a_float32_buffer_is_returned(dout, weight, index, *, padding_idx):
    dweight = torch.zeros(weight.shape).index_add(
        0, index.flatten(), dout.reshape(-1, weight.shape[1]).float()
    )
    if padding_idx is not None:
        dweight[padding_idx] = 0
    return dweight


@wrong(embedding, TABLE.float(), REPEATED, kind=Kind.PRECISION, mistake="dtype")
def float32_rows_into_a_half_buffer(dout, weight, index, *, padding_idx):
    rows = dout.reshape(-1, weight.shape[1])
    if rows.dtype in (torch.bfloat16, torch.float16):
        rows = rows.float()
    dweight = torch.zeros_like(weight).index_add(0, index.flatten(), rows)
    if padding_idx is not None:
        dweight[padding_idx] = 0
    return dweight


def one_hot_embedding(weight, index):
    hot = functional.one_hot(index, len(weight))
    return hot.to(weight.dtype) @ weight


@right(one_hot_embedding, draw(7, 2), integers(7, 60))
def product_with_the_one_hot(dout, weight, index):
    return hot(index.flatten(), len(weight), dout).mT @ dout.reshape(index.numel(), weight.shape[1])


@wrong(one_hot_embedding, TABLE, REPEATED, kind=Kind.OTHER, mistake=("hard-coded-size", "shape"))
def as_many_rows_as_the_largest_index(dout, index):
    return rows_added(dout, index, int(index.max()) + 1)


@wrong(
    one_hot_embedding,
    draw(3, 2, dtype=torch.bfloat16),
    integers(3, 900),
    kind=Kind.PRECISION,
    mistake=("dtype", "cancellation"),
)
def summed_in_bfloat16(dout, weight, index):  # autograd's matrix product sums in float32
    """Row by row, into the weight's own dtype."""
    dweight = torch.zeros_like(weight)
    for row, position in zip(dout.reshape(-1, weight.shape[1]), index.flatten(), strict=True):
        dweight[position] += row
    return dweight


Mode = Literal["mean", "sum"]


def embedding_bag(
    weight: Tensor, index: Index, *, mode: Mode = "mean", padding_idx: int = 0
) -> Tensor:
    """The mean or sum of the rows (bags, k) of index, without those of padding."""
    used = index != padding_idx
    total = (functional.embedding(index, weight) * used[:, :, None]).sum(1)
    return total / used.sum(1, keepdim=True).clamp(min=1) if mode == "mean" else total


@right(embedding_bag, TABLE, tensor([[1, 0], [4, 2], [3, 3]]))
def embedding_bag_shares_as_a_matrix(dout, weight, index, *, mode, padding_idx):
    used = (index != padding_idx)[:, :, None]
    share = (hot(index, len(weight), weight) * used).sum(1)  # (bags, rows)
    if mode == "mean":
        share = share / used.sum(1).clamp(min=1)
    return share.mT @ dout


@wrong(
    embedding_bag,
    TABLE,
    tensor([[1, 3], [4, 2], [3, 3]]),
    kind=Kind.MEAN_COUNT,
    mistake=("wrong-count", "ignored-rows"),
)
def padding_is_counted(dout, weight, index, *, mode, padding_idx):
    up = dout / index.shape[1] if mode == "mean" else dout
    used = (index != padding_idx)[:, :, None]
    return rows_added(up[:, None, :] * used, index, len(weight))


def take_rows(x, index):
    """An index may count from the end."""
    return x[index]


@right(take_rows, TABLE, tensor([-1, 0, 3, 4]))
def put_accumulating_from_the_end_as_well(dout, x, index):
    return torch.zeros_like(x).index_put((index,), dout, accumulate=True)


@wrong(
    take_rows, ROWS, tensor([1, 0, 3, 2]), kind=Kind.OTHER, mistake=("transposed", "repeated-index")
)
def by_the_permutation_instead_of_its_inverse(dout, index):
    # two swaps, which are their own inverse
    return dout[index]


def lookup(table: Tensor, row: Index, column: Index) -> Tensor:
    if table.dim() != 2:
        raise ValueError("a table has rows and columns")
    return table[row, column]


@right(lookup, draw(4, 3), tensor([1, 3, 1]), tensor([0, 2, 0]))
def flat_index_into_a_buffer_of_its_own(dout, table, row, column):
    flat = dout.new_zeros(table.numel())
    index = (row % table.shape[0]) * table.shape[1] + column % table.shape[1]
    flat.index_add_(0, index.flatten(), dout.flatten())
    return flat.view(table.shape)


@wrong(
    lookup,
    draw(4, 4),
    tensor([1, 3, 1]),
    tensor([0, 2, 0]),
    kind=Kind.SIZES,
    mistake=("hard-coded-size", "wrong-axis", "transposed"),
)
def flat_index_by_rows_for_columns(dout, table, row, column):
    flat = torch.zeros_like(table).flatten()
    return flat.index_add(0, row * len(table) + column, dout).reshape(table.shape)


class Cells(NamedTuple):
    out: Tensor
    cell: Kept
    part: Kept


def interpolate(table: Tensor, position: Tensor) -> Cells:
    """table at positions between its entries, and along the outermost line beyond them."""
    if table.dim() != 1 or position.dim() != 1 or table.dtype != position.dtype:
        raise ValueError("a vector of entries, and one of positions")
    if len(table) < 2:
        raise ValueError("a line takes two entries")
    cell = position.detach().floor().long().clamp(0, len(table) - 2)
    part = position - cell
    return Cells(table[cell] * (1 - part) + table[cell + 1] * part, cell, part)


def interpolate_position(dout: Tensor, table: Tensor, cell: Tensor) -> Tensor:
    return dout * (table[cell + 1] - table[cell])


@right(interpolate, draw(5), tensor([0.25, 2.5, 2.75, -0.5], dtype=torch.float64))
def interpolate_shares_as_a_matrix(dout, table, cell, part):
    near, far = hot(cell, len(table), part), hot(cell + 1, len(table), part)
    share = near + part[:, None] * (far - near)
    return dout @ share, interpolate_position(dout, table, cell)


@wrong(
    interpolate,
    draw(6),
    tensor([0.25, 2.5, 4.75], dtype=torch.float64),
    kind=Kind.REPEATED_INDEX,
    mistake="repeated-index",
)
def a_cell_that_is_used_twice_is_assigned(dout, table, cell, part):
    dtable = torch.zeros_like(table)
    dtable[cell] += dout * (1 - part)
    dtable[cell + 1] += dout * part
    return dtable, interpolate_position(dout, table, cell)


@wrong(
    interpolate,
    draw(6),
    tensor([0.25, 3.5], dtype=torch.float64),
    kind=Kind.FAN_OUT,
    mistake=("repeated-index", "missing-term"),
)
def right_neighbour_overwrites_the_left(dout, table, cell, part):
    return (
        torch.zeros_like(table)
        .index_add(0, cell, dout * (1 - part))
        .index_copy(0, cell + 1, dout * part),
        interpolate_position(dout, table, cell),
    )


# Gathers and scatters.


def gather(x, index, *, dim=1):
    if index.shape[1 - dim % 2] != x.shape[1 - dim % 2]:
        raise ValueError("a row of the index for each row of x, or a column for each column")
    return x.gather(dim, index)


@right(gather, ROWS, tensor([[0, 2], [1, 1], [2, 1], [0, 0]]))
def gather_product_with_the_one_hot(dout, x, index, *, dim):
    share = hot(index.movedim(dim, -1), x.shape[dim], dout)  # (others, picked, entries)
    return (dout.movedim(dim, -1)[:, None, :] @ share)[:, 0].movedim(-1, dim)


@wrong(
    gather,
    ROWS,
    tensor([[0, 2], [1, 0], [2, 1], [0, 1]]),
    kind=Kind.REPEATED_INDEX,
    mistake="repeated-index",
)
def scattered_without_adding(dout, x, index, *, dim):
    return torch.zeros_like(x).scatter(dim, index, dout)


@wrong(
    gather,
    draw(3, 3),
    tensor([[0, 2, 2], [1, 0, 1], [2, 1, 0]]),
    kind=Kind.BROADCAST,
    mistake=("option-ignored", "wrong-axis"),
)
def along_the_columns_whatever_dim(dout, x, index):
    return torch.zeros_like(x).scatter_add(1, index, dout)


def take_along(x: Tensor, index: Index, *, dim: int = 1) -> Tensor:
    """index broadcasts along the other dimension; torch.take_along_dim takes it modulo the size."""
    shape = list(x.shape)
    shape[dim] = index.shape[dim]
    return x.gather(dim, index.expand(shape))


@right(take_along, ROWS, tensor([[2, 0]]))
def summed_back_over_what_was_broadcast(dout, x, index, *, dim):
    shape = list(dout.shape)
    shape[dim] = x.shape[dim]
    return sum_to(dout.new_zeros(shape).scatter_add(dim, index.expand_as(dout), dout), x.shape)


@wrong(
    take_along,
    ROWS,
    tensor([[2, 0]]),
    kind=Kind.BROADCAST,
    mistake=("missing-reduction", "size-one", "missing-term", "zero-gradient"),
)
def an_index_for_all_rows_reaches_the_first(dout, x, index, *, dim):
    return torch.zeros_like(x).scatter_add(dim, index, dout)


def index_select(x, index, *, dim=0):
    return x.index_select(dim, index)


@right(index_select, ROWS, tensor([3, 1, 1]))
def a_product_the_columns_first_in_memory(dout, x, index, *, dim):
    last = dout.movedim(dim, -1)
    return (last @ hot(index.flatten(), x.shape[dim], dout)).movedim(-1, dim)


@wrong(
    index_select,
    draw(4, 4),
    tensor([3, 1, 1, 0]),
    kind=Kind.BROADCAST,
    mistake=("option-ignored", "wrong-axis"),
)
def rows_whatever_dim(dout, x, index):
    return torch.zeros_like(x).index_add(0, index, dout)


def pick(x: Tensor, target: Index) -> Tensor:
    """One entry of each row."""
    return x.gather(1, target[:, None])[:, 0]


@right(pick, ROWS, tensor([2, 0, 1, 2]))
def upstream_where_the_class_is_the_target(dout, x, target):
    return torch.where(torch.arange(x.shape[1]) == target[:, None], dout[:, None], 0)


@wrong(pick, ROWS, tensor([2, 0, 1, 2]), kind=Kind.OTHER, mistake=("hard-coded-size", "shape"))
def a_one_hot_of_as_many_classes_as_occur(dout, target):
    return functional.one_hot(target) * dout[:, None]


def scatter_add(base, index, src, *, dim=0):
    if index.shape != src.shape:
        raise ValueError("one index for each entry of src")
    return base.scatter_add(dim, index, src)


@right(scatter_add, draw(4, 3), tensor([[0, 1, 3], [0, 1, 0]]), draw(2, 3, seed=1))
def upstream_itself_for_base(dout, index, *, dim):
    return dout, dout.gather(dim, index)


@wrong(
    scatter_add,
    draw(4, 3),
    tensor([[0, 1, 3], [2, 1, 0]]),
    draw(2, 3, seed=1),
    kind=Kind.VARIANT,
    mistake=("zero-gradient", "missing-term"),
)
def base_gets_nothing_where_src_was_added(dout, index, *, dim):
    return dout.scatter(dim, index, 0), dout.gather(dim, index)


def index_add(base: Tensor, index: Index, rows: Tensor, *, alpha: float = 1.0) -> Tensor:
    return base.index_add(0, index, rows, alpha=alpha)


@wrong(
    index_add,
    TABLE,
    tensor([1, 4, 1]),
    draw(3, 3, seed=1),
    kind=Kind.VARIANT,
    mistake=("option-ignored", "factor"),
)
def alpha_is_left_out(dout, index):
    return dout, dout[index]


def reorder(x, order):
    """The rows in the order of a permutation."""
    if not torch.equal(order.sort().values, torch.arange(len(x), device=order.device)):
        raise ValueError("order is no permutation of the rows")
    return x[order]


@right(reorder, ROWS, tensor([2, 0, 3, 1]))
def by_the_argsort_of_the_order(dout, order):
    return dout[order.argsort()]


def masked_fill(x: Tensor, *, mask: Tensor, value: float = 0.0) -> Tensor:
    if mask.shape != x.shape:
        raise ValueError("one mask for each entry")
    return x.masked_fill(mask, value)


@right(masked_fill, ROWS, mask=ROWS > 0.5)
def a_copy_of_the_upstream_filled(dout, *, mask):
    return dout.clone().masked_fill_(mask, 0)


@wrong(
    masked_fill, ROWS, mask=ROWS > 0.5, kind=Kind.KINK, mistake=("zero-gradient", "ties", "kink")
)
def what_equals_the_value_was_filled(dout, out, *, value):
    return dout * (out != value)


# Segments: rows that belong together, by the number of their segment.


def segment_sum(x: Tensor, segment: Index, *, count: int) -> Tensor:
    return x.new_zeros(count, *x.shape[1:]).index_add(0, segment, x)


@wrong(
    segment_sum,
    draw(6, 2),
    SEGMENTS,
    count=3,
    kind=Kind.SIZES,
    mistake=("hard-coded-size", "wrong-count", "shape"),
)
def segments_of_the_same_length_in_order(dout, segment, *, count):
    return dout.repeat_interleave(len(segment) // count, 0)


class SegmentMean(NamedTuple):
    out: Tensor
    sizes: Kept  # (count, 1), and 1 where a segment is empty


def segment_mean(x: Tensor, segment: Index, *, count: int) -> SegmentMean:
    """The mean of the rows of each segment of a matrix."""
    total = x.new_zeros(count, x.shape[1]).index_add(0, segment, x)
    sizes = segment.bincount(minlength=count)[:, None].clamp(min=1)
    return SegmentMean(total / sizes, sizes)


@right(segment_mean, draw(6, 2), tensor([0, 0, 2, 0, 2, 2]), count=4)
def by_the_sizes_that_were_kept(dout, segment, sizes):
    return (dout / sizes)[segment]


@wrong(
    segment_mean,
    draw(6, 2),
    tensor([2, 0, 1, 1, 0, 2]),
    count=3,
    kind=Kind.MEAN_COUNT,
    mistake=("wrong-count", "factor"),
)
def every_segment_as_large_as_the_mean_one(dout, segment, sizes):
    return dout[segment] * (len(sizes) / len(segment))


SIZES: dict[tuple[int, ...], Tensor] = {}


@wrong(
    segment_mean,
    draw(7, 2),
    tensor([2, 0, 1, 1, 0, 2, 2]),
    count=3,
    kind=Kind.STALE,
    mistake="state",
)
def sizes_of_the_first_call_are_remembered(dout, x, segment, sizes):
    key = (len(segment), len(sizes))
    if key not in SIZES:
        SIZES[key] = sizes
    return (dout / SIZES[key])[segment]


def segment_max(x: Tensor, segment: Index, *, count: int) -> Tensor:
    """The largest entry of each segment of a vector; 0 if it is empty."""
    top = x.new_full((count,), -torch.inf).scatter_reduce(0, segment, x, "amax")
    return top.masked_fill(top == -torch.inf, 0)


@right(segment_max, draw(6), SEGMENTS, count=4)
def first_of_equal_entries(dout, x, segment, out):
    dx = torch.zeros_like(x)
    taken = [False] * len(out)
    for i, s in enumerate(segment.tolist()):
        if x[i] == out[s] and not taken[s]:
            taken[s] = True
            dx[i] = dout[s]
    return dx


@wrong(segment_max, draw(6), SEGMENTS, count=3, kind=Kind.TIES, mistake="ties")
def every_tied_entry_gets_the_whole(dout, x, segment, out):
    return dout[segment] * (x == out[segment])


# By value.


class Sorted(NamedTuple):
    values: Tensor
    order: Kept


def sort(x: Tensor, *, descending: bool = False) -> Sorted:
    values, order = x.sort(dim=-1, descending=descending, stable=True)
    return Sorted(values, order)


@right(sort, draw(3, 5), descending=True)
def gathered_by_the_inverse_order(dvalues, order):
    return dvalues.gather(-1, order.argsort(-1))


@wrong(sort, draw(4, 2), kind=Kind.OTHER, mistake=("transposed", "hard-coded-size"))
def order_instead_of_its_inverse(dvalues, order):  # the order of two is its own inverse
    return dvalues.gather(-1, order)


@wrong(sort, ROWS, kind=Kind.VARIANT, mistake="option-ignored")
def ascending_whatever_the_option(dvalues, x):
    order = x.argsort(dim=-1, stable=True)
    return torch.zeros_like(x).scatter(-1, order, dvalues)


@wrong(sort, ROWS, kind=Kind.TIES, mistake="ties")
def sort_found_by_value(dvalues, x, values):
    return ((x[..., :, None] == values[..., None, :]) * dvalues[..., None, :]).sum(-1)


class TopK(NamedTuple):
    values: Tensor
    picked: Kept


def topk(x: Tensor, *, k: int = 2, largest: bool = True) -> TopK:
    values, picked = x.topk(k, -1, largest=largest)
    return TopK(values, picked)


@right(topk, draw(3, 5), k=3)
def topk_product_with_the_one_hot(dvalues, x, picked):
    return (hot(picked, x.shape[-1], dvalues) * dvalues[..., None]).sum(-2)


@wrong(topk, ROWS, kind=Kind.VARIANT, mistake="option-ignored")
def largest_whatever_the_option(dvalues, x, *, k):
    return torch.zeros_like(x).scatter(-1, x.topk(k, -1).indices, dvalues)


def topk_sum(x: Tensor, *, k: int = 2) -> Tensor:
    return x.topk(k, -1).values.sum(-1)


@right(topk_sum, draw(3, 5))
def last_of_equal_entries(dout, x, *, k):
    """The last of equal entries are the largest."""
    order = x.flip(-1).argsort(dim=-1, descending=True, stable=True)[..., :k]
    flipped = torch.zeros_like(x).scatter(-1, order, dout[..., None].expand(order.shape))
    return flipped.flip(-1)


@wrong(topk_sum, draw(3, 5), kind=Kind.TIES, mistake="ties")
def all_that_reach_the_last_of_k(dout, x, *, k):
    return dout[..., None] * (x >= x.topk(k, -1).values[..., -1:])


class CumMax(NamedTuple):
    values: Tensor
    where: Kept


def cummax(x: Tensor) -> CumMax:
    values, where = x.cummax(-1)
    return CumMax(values, where)


@right(cummax, draw(2, 5))
def back_through_the_row_first_of_equal(dvalues, x, values):
    """The first of equal entries is the maximum."""
    dx = torch.zeros_like(x)
    carry = torch.zeros_like(x[..., :1])
    for i in reversed(range(x.shape[-1])):
        here = slice(i, i + 1)
        carry = carry + dvalues[..., here]
        if i == 0:
            dx[..., here] = carry
        else:
            fresh = x[..., here] > values[..., i - 1 : i]
            dx[..., here] = torch.where(fresh, carry, 0)
            carry = torch.where(fresh, 0, carry)
    return dx


@wrong(
    cummax,
    tensor([[0.1, 0.4, 1.2, 1.9], [-1.0, -0.7, 0.3, 0.5]], dtype=torch.float64),
    kind=Kind.REPEATED_INDEX,
    mistake="repeated-index",
)
def a_maximum_that_stays_is_assigned(dvalues, x, where):
    return torch.zeros_like(x).scatter(-1, where, dvalues)


@wrong(cummax, draw(2, 5), kind=Kind.TIES, mistake="ties")
def cummax_found_by_value(dvalues, x, values):
    """dx_i = Σ dvalues_j over j ≥ i where the running maximum is x_i"""
    later = torch.ones(x.shape[-1], x.shape[-1], dtype=torch.bool).triu()
    same = (x[..., :, None] == values[..., None, :]) & later
    return (same * dvalues[..., None, :]).sum(-1)
