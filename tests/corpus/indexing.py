"""Tables, gathers and scatters, segments, and what sorts or selects by value."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, tensor
from torch.nn import functional

from backprop_ops import Index, Kept, sum_to
from tests.corpus import Right, Wrong

Mode = Literal["mean", "sum"]


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def integers(below: int, *shape: int, seed: int = 0) -> Tensor:
    return torch.randint(below, shape, generator=torch.Generator().manual_seed(seed))


# The forwards: tables.


def embedding(weight: Tensor, index: Index, *, padding_idx: int | None = None) -> Tensor:
    """The rows of weight; the one at padding_idx does not learn."""
    return functional.embedding(index, weight, padding_idx=padding_idx)


def one_hot_embedding(weight, index):
    hot = functional.one_hot(index, len(weight))
    return hot.to(weight.dtype) @ weight


def embedding_bag(
    weight: Tensor, index: Index, *, mode: Mode = "mean", padding_idx: int = 0
) -> Tensor:
    """The mean or sum of the rows (bags, k) of index, without those of padding."""
    used = index != padding_idx
    total = (functional.embedding(index, weight) * used[:, :, None]).sum(1)
    return total / used.sum(1, keepdim=True).clamp(min=1) if mode == "mean" else total


def take_rows(x, index):
    """An index may count from the end."""
    return x[index]


def lookup(table: Tensor, row: Index, column: Index) -> Tensor:
    if table.dim() != 2:
        raise ValueError("a table has rows and columns")
    return table[row, column]


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


# Gathers and scatters.


def gather(x, index, *, dim=1):
    if index.shape[1 - dim % 2] != x.shape[1 - dim % 2]:
        raise ValueError("a row of the index for each row of x, or a column for each column")
    return x.gather(dim, index)


def take_along(x: Tensor, index: Index, *, dim: int = 1) -> Tensor:
    """index broadcasts along the other dimension; torch.take_along_dim takes it modulo the size."""
    shape = list(x.shape)
    shape[dim] = index.shape[dim]
    return x.gather(dim, index.expand(shape))


def index_select(x, index, *, dim=0):
    return x.index_select(dim, index)


def pick(x: Tensor, target: Index) -> Tensor:
    """One entry of each row."""
    return x.gather(1, target[:, None])[:, 0]


def scatter_add(base, index, src, *, dim=0):
    if index.shape != src.shape:
        raise ValueError("one index for each entry of src")
    return base.scatter_add(dim, index, src)


def index_add(base: Tensor, index: Index, rows: Tensor, *, alpha: float = 1.0) -> Tensor:
    return base.index_add(0, index, rows, alpha=alpha)


def reorder(x, order):
    """The rows in the order of a permutation."""
    if not torch.equal(order.sort().values, torch.arange(len(x), device=order.device)):
        raise ValueError("order is no permutation of the rows")
    return x[order]


def masked_fill(x: Tensor, *, mask: Tensor, value: float = 0.0) -> Tensor:
    if mask.shape != x.shape:
        raise ValueError("one mask for each entry")
    return x.masked_fill(mask, value)


# Segments: rows that belong together, by the number of their segment.


def segment_sum(x: Tensor, segment: Index, *, count: int) -> Tensor:
    return x.new_zeros(count, *x.shape[1:]).index_add(0, segment, x)


class SegmentMean(NamedTuple):
    out: Tensor
    sizes: Kept  # (count, 1), and 1 where a segment is empty


def segment_mean(x: Tensor, segment: Index, *, count: int) -> SegmentMean:
    """Of the rows of a matrix."""
    total = x.new_zeros(count, x.shape[1]).index_add(0, segment, x)
    sizes = segment.bincount(minlength=count)[:, None].clamp(min=1)
    return SegmentMean(total / sizes, sizes)


def segment_max(x: Tensor, segment: Index, *, count: int) -> Tensor:
    """Of the entries of a vector; 0 where a segment is empty."""
    top = x.new_full((count,), -torch.inf).scatter_reduce(0, segment, x, "amax")
    return top.masked_fill(top == -torch.inf, 0)


# By value.


class Sorted(NamedTuple):
    values: Tensor
    order: Kept


def sort(x: Tensor, *, descending: bool = False) -> Sorted:
    values, order = x.sort(dim=-1, descending=descending, stable=True)
    return Sorted(values, order)


class TopK(NamedTuple):
    values: Tensor
    picked: Kept


def topk(x: Tensor, *, k: int = 2, largest: bool = True) -> TopK:
    values, picked = x.topk(k, -1, largest=largest)
    return TopK(values, picked)


def topk_sum(x: Tensor, *, k: int = 2) -> Tensor:
    return x.topk(k, -1).values.sum(-1)


class CumMax(NamedTuple):
    values: Tensor
    where: Kept


def cummax(x: Tensor) -> CumMax:
    values, where = x.cummax(-1)
    return CumMax(values, where)


# What several backwards share.


def rows_added(dout: Tensor, index: Tensor, rows: int) -> Tensor:
    """Σ dout over the places where index is the row."""
    flat = dout.reshape(index.numel(), dout.shape[-1])
    return flat.new_zeros(rows, dout.shape[-1]).index_add(0, index.reshape(-1), flat)


def pads(padding_idx: int | None, rows: int) -> int | None:
    """The row of padding; -1 is the last."""
    return None if padding_idx is None else padding_idx % rows


def hot(index: Tensor, classes: int, like: Tensor) -> Tensor:
    return functional.one_hot(index, classes).to(like.dtype)


def interpolate_position(dout: Tensor, table: Tensor, cell: Tensor) -> Tensor:
    return dout * (table[cell + 1] - table[cell])


# Wrong ones that take some lines.


def embedding_assigned(dout, weight, index, *, padding_idx):
    dweight = torch.zeros_like(weight)
    dweight[index] = dout
    if padding_idx is not None:
        dweight[padding_idx] = 0
    return dweight


def embedding_if_padding(dout, weight, index, *, padding_idx):
    dweight = rows_added(dout, index, len(weight))
    if padding_idx:
        dweight[padding_idx] = 0
    return dweight


def embedding_by_frequency(dout, weight, index, *, padding_idx):
    uses = index.flatten().bincount(minlength=len(weight)).clamp(min=1)[:, None]
    return embedding_in_a_loop(dout, weight, index, padding_idx=padding_idx) / uses


def embedding_by_view(dout, weight, index, *, padding_idx):
    flat = dout.view(-1, weight.shape[1])
    return embedding_in_a_loop(flat.reshape(dout.shape), weight, index, padding_idx=padding_idx)


def embedding_unfilled(dout, weight, index, *, padding_idx):
    dweight = torch.empty_like(weight)
    dweight[index] = 0
    dweight.index_add_(0, index.flatten(), dout.reshape(-1, weight.shape[1]))
    if padding_idx is not None:
        dweight[padding_idx] = 0
    return dweight


def embedding_in_float32(dout, weight, index, *, padding_idx):
    dweight = torch.zeros(weight.shape).index_add(
        0, index.flatten(), dout.reshape(-1, weight.shape[1]).float()
    )
    if padding_idx is not None:
        dweight[padding_idx] = 0
    return dweight


def embedding_of_two_precisions(dout, weight, index, *, padding_idx):
    rows = dout.reshape(-1, weight.shape[1])
    if rows.dtype in (torch.bfloat16, torch.float16):
        rows = rows.float()
    dweight = torch.zeros_like(weight).index_add(0, index.flatten(), rows)
    if padding_idx is not None:
        dweight[padding_idx] = 0
    return dweight


def one_hot_embedding_in_place(dout, weight, index):
    """One row after the other added into the weight's own dtype."""
    dweight = torch.zeros_like(weight)
    for row, position in zip(dout.reshape(-1, weight.shape[1]), index.flatten(), strict=True):
        dweight[position] += row
    return dweight


def bag_counts_padding(dout, weight, index, *, mode, padding_idx):
    up = dout / index.shape[1] if mode == "mean" else dout
    used = (index != padding_idx)[:, :, None]
    return rows_added(up[:, None, :] * used, index, len(weight))


def lookup_by_rows(dout, table, row, column):
    flat = torch.zeros_like(table).flatten()
    return flat.index_add(0, row * len(table) + column, dout).reshape(table.shape)


def interpolate_assigned(dout, table, cell, part):
    dtable = torch.zeros_like(table)
    dtable[cell] += dout * (1 - part)
    dtable[cell + 1] += dout * part
    return dtable, interpolate_position(dout, table, cell)


def scatter_add_as_scatter(dout, index, *, dim):
    return dout.scatter(dim, index, 0), dout.gather(dim, index)


def take_along_unbroadcast(dout, x, index, *, dim):
    return torch.zeros_like(x).scatter_add(dim, index, dout)


SIZES: dict[tuple[int, ...], Tensor] = {}


def segment_mean_remembers(dout, x, segment, sizes):
    key = (len(segment), len(sizes))
    if key not in SIZES:
        SIZES[key] = sizes
    return (dout / SIZES[key])[segment]


def sort_by_value(dvalues, x, values):
    return ((x[..., :, None] == values[..., None, :]) * dvalues[..., None, :]).sum(-1)


def sort_ascending(dvalues, x):
    order = x.argsort(dim=-1, stable=True)
    return torch.zeros_like(x).scatter(-1, order, dvalues)


def cummax_by_value(dvalues, x, values):
    """dx_i = Σ dvalues_j over j ≥ i where the running maximum is x_i"""
    later = torch.ones(x.shape[-1], x.shape[-1], dtype=torch.bool).triu()
    same = (x[..., :, None] == values[..., None, :]) & later
    return (same * dvalues[..., None, :]).sum(-1)


# Right ones that take some lines.


def embedding_in_a_loop(dout, weight, index, *, padding_idx):
    padding = pads(padding_idx, len(weight))
    dweight = torch.zeros_like(weight, dtype=torch.float64)
    rows = dout.reshape(index.numel(), weight.shape[1])
    for row, position in enumerate(index.flatten().tolist()):
        if position != padding:
            dweight[position] += rows[row]
    return dweight.to(weight.dtype)


def embedding_by_runs(dout, weight, index, *, padding_idx):
    """Each run of the sorted index is summed; the rows come out in the order of the sort."""
    flat, order = index.flatten().sort(stable=True)
    rows = dout.reshape(index.numel(), weight.shape[1])[order]
    used, sizes = flat.unique_consecutive(return_counts=True)
    padding = pads(padding_idx, len(weight))
    dweight = torch.zeros_like(weight)
    for position, run in zip(used.tolist(), rows.split(sizes.tolist()), strict=True):
        if position != padding:
            dweight[position] = run.sum(0)
    return dweight


def embedding_with_a_row_more(dout, weight, index, *, padding_idx):
    """What is padding goes to a row behind the last, which is cut off."""
    rows = index.flatten()
    if padding_idx is not None:
        rows = rows.masked_fill(rows == pads(padding_idx, len(weight)), len(weight))
    return rows_added(dout, rows, len(weight) + 1)[: len(weight)]


def bag_as_matrix(dout, weight, index, *, mode, padding_idx):
    used = (index != padding_idx)[:, :, None]
    share = (hot(index, len(weight), weight) * used).sum(1)  # (bags, rows)
    if mode == "mean":
        share = share / used.sum(1).clamp(min=1)
    return share.mT @ dout


def take_rows_put(dout, x, index):
    return torch.zeros_like(x).index_put((index,), dout, accumulate=True)


def lookup_flat(dout, table, row, column):
    flat = dout.new_zeros(table.numel())
    index = (row % table.shape[0]) * table.shape[1] + column % table.shape[1]
    flat.index_add_(0, index.flatten(), dout.flatten())
    return flat.view(table.shape)


def interpolate_by_matrix(dout, table, cell, part):
    near, far = hot(cell, len(table), part), hot(cell + 1, len(table), part)
    share = near + part[:, None] * (far - near)
    return dout @ share, interpolate_position(dout, table, cell)


def gather_by_product(dout, x, index, *, dim):
    share = hot(index.movedim(dim, -1), x.shape[dim], dout)  # (others, picked, entries)
    return (dout.movedim(dim, -1)[:, None, :] @ share)[:, 0].movedim(-1, dim)


def index_select_transposed(dout, x, index, *, dim):
    last = dout.movedim(dim, -1)
    return (last @ hot(index.flatten(), x.shape[dim], dout)).movedim(-1, dim)


def take_along_broadcast(dout, x, index, *, dim):
    shape = list(dout.shape)
    shape[dim] = x.shape[dim]
    return sum_to(dout.new_zeros(shape).scatter_add(dim, index.expand_as(dout), dout), x.shape)


def segment_max_first(dout, x, segment, out):
    dx = torch.zeros_like(x)
    taken = [False] * len(out)
    for i, s in enumerate(segment.tolist()):
        if x[i] == out[s] and not taken[s]:
            taken[s] = True
            dx[i] = dout[s]
    return dx


def topk_sum_last(dout, x, *, k):
    """Of equal entries the last are the largest."""
    order = x.flip(-1).argsort(dim=-1, descending=True, stable=True)[..., :k]
    flipped = torch.zeros_like(x).scatter(-1, order, dout[..., None].expand(order.shape))
    return flipped.flip(-1)


def cummax_first(dvalues, x, values):
    """Back through the row; of equal entries the first is the maximum."""
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


# The samples.

TABLE = draw(5, 3)
ROWS = draw(4, 3, seed=1)
ONCE = tensor([3, 0, 4])  # no row twice
SEGMENTS = tensor([0, 0, 1, 1, 2, 2])

WRONG: dict[str, Wrong] = {
    "embedding: a repeated row is assigned": Wrong(
        embedding, embedding_assigned, (TABLE, ONCE), {}, 7, "repeated-index"
    ),
    "embedding: the padding row learns": Wrong(
        embedding,
        lambda dout, weight, index: rows_added(dout, index, len(weight)),
        (TABLE, tensor([[3, 0], [1, 3]])),
        {"padding_idx": 4},
        12,
        ("option-ignored", "ignored-rows"),
    ),
    "embedding: row 0 as padding is taken for none": Wrong(
        embedding,
        embedding_if_padding,
        (TABLE, tensor([3, 0, 2, 3])),
        {"padding_idx": 1},
        12,
        ("option-ignored", "ignored-rows"),
    ),
    "one-hot embedding: as many rows as the largest index": Wrong(
        one_hot_embedding,
        lambda dout, index: rows_added(dout, index, int(index.max()) + 1),
        (TABLE, tensor([4, 0, 2, 4])),
        {},
        0,
        ("hard-coded-size", "shape"),
    ),
    "embedding: divided by how often a row is used": Wrong(
        embedding,
        embedding_by_frequency,
        (TABLE, ONCE),
        {},
        7,
        ("repeated-index", "wrong-count", "factor"),
    ),
    "embedding: views the upstream flat": Wrong(
        embedding,
        embedding_by_view,
        (TABLE, tensor([[3, 0], [1, 3]])),
        {},
        3,
        "upstream-layout",
    ),
    "embedding: rows that nothing uses are not filled": Wrong(
        embedding,
        embedding_unfilled,
        (draw(3, 2), tensor([2, 0, 1, 2])),
        {},
        24,
        ("nondeterministic", "nan", "zero-gradient"),
    ),
    "embedding: a float32 buffer is returned": Wrong(
        embedding, embedding_in_float32, (TABLE.float(), tensor([4, 0, 2, 4])), {}, 15, "dtype"
    ),
    "embedding: float32 rows into a buffer of half precision": Wrong(
        embedding,
        embedding_of_two_precisions,
        (TABLE.float(), tensor([4, 0, 2, 4])),
        {},
        15,
        "dtype",
    ),
    "one-hot embedding: summed in bfloat16": Wrong(
        one_hot_embedding,  # autograd's matrix product sums in float32
        one_hot_embedding_in_place,
        (draw(3, 2, dtype=torch.bfloat16), integers(3, 900)),
        {},
        15,
        ("dtype", "cancellation"),
    ),
    "embedding bag: padding is counted": Wrong(
        embedding_bag,
        bag_counts_padding,
        (TABLE, tensor([[1, 3], [4, 2], [3, 3]])),
        {},
        1,
        ("wrong-count", "ignored-rows"),
    ),
    "lookup: the flat index by rows for columns": Wrong(
        lookup,
        lookup_by_rows,
        (draw(4, 4), tensor([1, 3, 1]), tensor([0, 2, 0])),
        {},
        17,
        ("hard-coded-size", "wrong-axis", "transposed"),
    ),
    "interpolate: a cell that is used twice is assigned": Wrong(
        interpolate,
        interpolate_assigned,
        (draw(6), tensor([0.25, 2.5, 4.75], dtype=torch.float64)),
        {},
        7,
        "repeated-index",
    ),
    "interpolate: the right neighbour overwrites the left": Wrong(
        interpolate,
        lambda dout, table, cell, part: (
            torch.zeros_like(table)
            .index_add(0, cell, dout * (1 - part))
            .index_copy(0, cell + 1, dout * part),
            interpolate_position(dout, table, cell),
        ),
        (draw(6), tensor([0.25, 3.5], dtype=torch.float64)),
        {},
        25,
        ("repeated-index", "missing-term"),
    ),
    "gather: scattered without adding": Wrong(
        gather,
        lambda dout, x, index, *, dim: torch.zeros_like(x).scatter(dim, index, dout),
        (ROWS, tensor([[0, 2], [1, 0], [2, 1], [0, 1]])),
        {},
        7,
        "repeated-index",
    ),
    "gather: along the columns, whatever dim": Wrong(
        gather,
        lambda dout, x, index: torch.zeros_like(x).scatter_add(1, index, dout),
        (draw(3, 3), tensor([[0, 2, 2], [1, 0, 1], [2, 1, 0]])),
        {},
        5,
        ("option-ignored", "wrong-axis"),
    ),
    "take along: an index for all rows reaches the first": Wrong(
        take_along,
        take_along_unbroadcast,
        (ROWS, tensor([[2, 0]])),
        {},
        5,
        ("missing-reduction", "size-one", "missing-term", "zero-gradient"),
    ),
    "index_select: rows, whatever dim": Wrong(
        index_select,
        lambda dout, x, index: torch.zeros_like(x).index_add(0, index, dout),
        (draw(4, 4), tensor([3, 1, 1, 0])),
        {},
        5,
        ("option-ignored", "wrong-axis"),
    ),
    "pick: a one-hot of as many classes as occur": Wrong(
        pick,
        lambda dout, target: functional.one_hot(target) * dout[:, None],
        (ROWS, tensor([2, 0, 1, 2])),
        {},
        0,
        ("hard-coded-size", "shape"),
    ),
    "scatter_add: base gets nothing where src was added": Wrong(
        scatter_add,
        scatter_add_as_scatter,
        (draw(4, 3), tensor([[0, 1, 3], [2, 1, 0]]), draw(2, 3, seed=1)),
        {},
        20,
        ("zero-gradient", "missing-term"),
    ),
    "index_add: alpha is left out": Wrong(
        index_add,
        lambda dout, index: (dout, dout[index]),
        (TABLE, tensor([1, 4, 1]), draw(3, 3, seed=1)),
        {},
        20,
        ("option-ignored", "factor"),
    ),
    "take rows: by the permutation instead of its inverse": Wrong(
        take_rows,  # two swaps, which are their own inverse
        lambda dout, index: dout[index],
        (ROWS, tensor([1, 0, 3, 2])),
        {},
        0,
        ("transposed", "repeated-index"),
    ),
    "masked fill: what equals the value was filled": Wrong(
        masked_fill,
        lambda dout, out, *, value: dout * (out != value),
        (ROWS,),
        {"mask": ROWS > 0.5},
        21,
        ("zero-gradient", "ties", "kink"),
    ),
    "segment sum: segments of the same length, in order": Wrong(
        segment_sum,
        lambda dout, segment, *, count: dout.repeat_interleave(len(segment) // count, 0),
        (draw(6, 2), SEGMENTS),
        {"count": 3},
        17,
        ("hard-coded-size", "wrong-count", "shape"),
    ),
    "segment mean: every segment as large as the mean one": Wrong(
        segment_mean,
        lambda dout, segment, sizes: dout[segment] * (len(sizes) / len(segment)),
        (draw(6, 2), tensor([2, 0, 1, 1, 0, 2])),
        {"count": 3},
        1,
        ("wrong-count", "factor"),
    ),
    "segment mean: the sizes of the first call are remembered": Wrong(
        segment_mean,
        segment_mean_remembers,
        (draw(7, 2), tensor([2, 0, 1, 1, 0, 2, 2])),
        {"count": 3},
        24,
        "state",
    ),
    "segment max: every tied entry gets the whole": Wrong(
        segment_max,
        lambda dout, x, segment, out: dout[segment] * (x == out[segment]),
        (draw(6), SEGMENTS),
        {"count": 3},
        6,
        "ties",
    ),
    "sort: the order instead of its inverse": Wrong(
        sort,  # the order of two is its own inverse
        lambda dvalues, order: dvalues.gather(-1, order),
        (draw(4, 2),),
        {},
        0,
        ("transposed", "hard-coded-size"),
    ),
    "sort: ascending, whatever the option": Wrong(
        sort, sort_ascending, (ROWS,), {}, 20, "option-ignored"
    ),
    "sort: found by value": Wrong(sort, sort_by_value, (ROWS,), {}, 6, "ties"),
    "topk: the largest, whatever the option": Wrong(
        topk,
        lambda dvalues, x, *, k: torch.zeros_like(x).scatter(-1, x.topk(k, -1).indices, dvalues),
        (ROWS,),
        {},
        20,
        "option-ignored",
    ),
    "topk sum: all that reach the last of the k": Wrong(
        topk_sum,
        lambda dout, x, *, k: dout[..., None] * (x >= x.topk(k, -1).values[..., -1:]),
        (draw(3, 5),),
        {},
        6,
        "ties",
    ),
    "cummax: a maximum that stays is assigned": Wrong(
        cummax,
        lambda dvalues, x, where: torch.zeros_like(x).scatter(-1, where, dvalues),
        (tensor([[0.1, 0.4, 1.2, 1.9], [-1.0, -0.7, 0.3, 0.5]], dtype=torch.float64),),
        {},
        7,
        "repeated-index",
    ),
    "cummax: found by value": Wrong(cummax, cummax_by_value, (draw(2, 5),), {}, 6, "ties"),
}

RIGHT: dict[str, Right] = {
    "embedding: one row after the other, in float64": Right(
        embedding, embedding_in_a_loop, (TABLE.float(), tensor([[3, 0], [1, 3]])), {}
    ),
    "embedding: the runs of the sorted index": Right(
        embedding,
        embedding_by_runs,
        (TABLE, tensor([[3, 0, 1], [1, 3, 3]])),
        {"padding_idx": 1},
    ),
    "embedding: padding in a row that is cut off": Right(
        embedding, embedding_with_a_row_more, (TABLE, tensor([3, 0, 2, 3])), {"padding_idx": 2}
    ),
    "one-hot embedding: a product with the one-hot": Right(
        one_hot_embedding,
        lambda dout, weight, index: (
            hot(index.flatten(), len(weight), dout).mT
            @ dout.reshape(index.numel(), weight.shape[1])
        ),
        (draw(7, 2), integers(7, 60)),
        {},
    ),
    "embedding bag: the shares as a matrix": Right(
        embedding_bag, bag_as_matrix, (TABLE, tensor([[1, 0], [4, 2], [3, 3]])), {}
    ),
    "take rows: put, accumulating, from the end as well": Right(
        take_rows, take_rows_put, (TABLE, tensor([-1, 0, 3, 4])), {}
    ),
    "lookup: the flat index into a buffer of its own": Right(
        lookup, lookup_flat, (draw(4, 3), tensor([1, 3, 1]), tensor([0, 2, 0])), {}
    ),
    "interpolate: the shares as a matrix": Right(
        interpolate,
        interpolate_by_matrix,
        (draw(5), tensor([0.25, 2.5, 2.75, -0.5], dtype=torch.float64)),
        {},
    ),
    "gather: a product with the one-hot": Right(
        gather, gather_by_product, (ROWS, tensor([[0, 2], [1, 1], [2, 1], [0, 0]])), {}
    ),
    "take along: summed back over what was broadcast": Right(
        take_along, take_along_broadcast, (ROWS, tensor([[2, 0]])), {}
    ),
    "index_select: a product, the columns first in memory": Right(
        index_select, index_select_transposed, (ROWS, tensor([3, 1, 1])), {}
    ),
    "pick: the upstream where the class is the target": Right(
        pick,
        lambda dout, x, target: torch.where(
            torch.arange(x.shape[1]) == target[:, None], dout[:, None], 0
        ),
        (ROWS, tensor([2, 0, 1, 2])),
        {},
    ),
    "scatter_add: the upstream itself for base": Right(
        scatter_add,
        lambda dout, index, *, dim: (dout, dout.gather(dim, index)),
        (draw(4, 3), tensor([[0, 1, 3], [0, 1, 0]]), draw(2, 3, seed=1)),
        {},
    ),
    "reorder: by the argsort of the order": Right(
        reorder, lambda dout, order: dout[order.argsort()], (ROWS, tensor([2, 0, 3, 1])), {}
    ),
    "masked fill: a copy of the upstream, filled": Right(
        masked_fill,
        lambda dout, *, mask: dout.clone().masked_fill_(mask, 0),
        (ROWS,),
        {"mask": ROWS > 0.5},
    ),
    "segment mean: by the sizes that were kept": Right(
        segment_mean,
        lambda dout, segment, sizes: (dout / sizes)[segment],
        (draw(6, 2), tensor([0, 0, 2, 0, 2, 2])),
        {"count": 4},
    ),
    "segment max: the first of equal entries": Right(
        segment_max, segment_max_first, (draw(6), SEGMENTS), {"count": 4}
    ),
    "sort: gathered by the inverse order": Right(
        sort,
        lambda dvalues, order: dvalues.gather(-1, order.argsort(-1)),
        (draw(3, 5),),
        {"descending": True},
    ),
    "topk: a product with the one-hot": Right(
        topk,
        lambda dvalues, x, picked: (hot(picked, x.shape[-1], dvalues) * dvalues[..., None]).sum(-2),
        (draw(3, 5),),
        {"k": 3},
    ),
    "topk sum: the last of equal entries": Right(topk_sum, topk_sum_last, (draw(3, 5),), {}),
    "cummax: back through the row, the first of equal entries": Right(
        cummax, cummax_first, (draw(2, 5),), {}
    ),
}
