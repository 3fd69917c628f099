"""Formulas on large arrays: a block of rows at a time, so that all steps but one stay in the cache.

An array beyond the cache is read and written at the pace of memory, as often as a formula has
steps. Taken in blocks, it is read once and written once. This file alone decides which arrays are
large; `by_rows` and `column_sums` give the others to the same functions in one piece.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from backprop_ops._torch import transforms_active
from backprop_ops.ops._precision import cast, wide, wide_dtype

CACHED = 2**18  # elements: a MiB in float32, which the caches of two cores hold

Term = Tensor | tuple[Tensor, Tensor]
"""An array to be added up, or two whose product is."""


def in_one_piece(*arrays: Tensor) -> bool:
    """Whether arrays are small or one-dimensional, or an observer needs each step as an array.

    Autograd and `torch.func` keep the steps; a compiler takes them together by itself.
    """
    return (
        arrays[0].numel() <= CACHED
        or arrays[0].dim() < 2
        or torch.compiler.is_compiling()
        or transforms_active()
        or (torch.is_grad_enabled() and any(array.requires_grad for array in arrays))
    )


def by_rows(formula: Callable[..., Tensor], *arrays: Tensor, dtype: torch.dtype) -> Tensor:
    """``formula(*arrays)`` in ``dtype``, in the shape of the first array.

    A row of the result depends on the same row of the arrays alone. The steps of the formula write
    into its argument ``out``, rows of the result; where that is None, each makes an array.
    """
    (result,) = several_by_rows(
        lambda *blocks, out: (formula(*blocks, out=out[0]),), *arrays, dtypes=(dtype,)
    )
    return result


def several_by_rows(
    formula: Callable[..., tuple[Tensor, ...]], *arrays: Tensor, dtypes: tuple[torch.dtype, ...]
) -> list[Tensor]:
    """As `by_rows`, of a formula with several results: one dtype and one ``out`` for each."""
    if in_one_piece(*arrays):
        made = formula(*arrays, out=(None,) * len(dtypes))
        return [cast(result, dtype) for result, dtype in zip(made, dtypes, strict=True)]
    results = [torch.empty_like(arrays[0], dtype=dtype) for dtype in dtypes]
    for blocks in _blocks(*results, *arrays):
        rows = blocks[: len(results)]
        # Not every operation writes into a narrower precision than it computes in.
        out = tuple(block if block.dtype == wide_dtype(block.dtype) else None for block in rows)
        made = formula(*blocks[len(results) :], out=out)
        for block, written, result in zip(rows, out, made, strict=True):
            if written is None:
                block.copy_(result)
    return results


def leading_rows(array: Tensor) -> Tensor:
    """As many of the first rows as the cache holds: all of a small array."""
    return array if in_one_piece(array) else next(_blocks(array))[0]


def column_sums(
    terms: Callable[..., tuple[Term, ...]], *arrays: Tensor, keepdim: bool = True
) -> list[Tensor]:
    """The sum of each of ``terms(*arrays)`` over all dimensions but the second.

    (1, c, 1…), or (c) for a matrix without ``keepdim``; in float32 for bfloat16 and float16. Blocks
    are added up in an array of one block, so that no product is written to memory.
    """
    if in_one_piece(*arrays):
        totals = [_array(term) for term in terms(*arrays)]
    else:
        first, *others = _blocks(*arrays)
        totals = [_array(term).clone() for term in terms(*first)]
        for blocks in others:
            for total, term in zip(totals, terms(*blocks), strict=True):
                if isinstance(term, Tensor):
                    total[: len(term)].add_(term)
                else:
                    total[: len(term[0])].addcmul_(*term)
    rank = arrays[0].dim()
    dims = 0 if rank == 2 else (0, *range(2, rank))
    return [total.sum(dims, keepdim=keepdim) for total in totals]


def log_sum_exp(scores: Tensor, probs: Tensor, dim: int) -> Tensor:
    """ln Σ e^scores over ``dim``, kept as size 1, for probs = softmax(scores).

    A second exponential costs more than two reads of a large array. There the sum is the largest
    score less the logarithm of its probability, which is 1 / classes at least. Autograd needs
    torch's: it would find two largest probabilities where two are equal by rounding.
    """
    if in_one_piece(scores, probs):
        return scores.logsumexp(dim, keepdim=True)
    return scores.amax(dim, keepdim=True) - probs.amax(dim, keepdim=True).log()


def _array(term: Term) -> Tensor:
    return wide(term) if isinstance(term, Tensor) else torch.mul(*term)


def _blocks(*arrays: Tensor) -> Iterator[tuple[Tensor, ...]]:
    count = math.ceil(arrays[0].numel() / CACHED)
    return zip(*[array.chunk(count) for array in arrays], strict=True)
