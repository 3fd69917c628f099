"""Pairs that pick elements by an index."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812  # torch's own name for it
from torch import Tensor

from backprop_ops.ops import _refuse as refuse
from backprop_ops.ops._precision import wide
from backprop_ops.pair import Index

__all__ = [
    "embedding",
    "embedding_backward",
]


def embedding(
    index: Index,
    weight: Tensor,
    *,
    padding_idx: int | None = None,
    scale_grad_by_freq: bool = False,
) -> Tensor:
    """out = weight[index]

    index (…) of int64, weight (rows, width), out (…, width). The row padding_idx, counted from the
    end where it is negative, gets no gradient; with scale_grad_by_freq a row that was used k times
    gets the k-th part of its gradient. Neither changes the output. Raises IndexError where an index
    is no row of weight, a negative one included.
    """
    _refuse_embedding(index, weight, padding_idx)
    with refuse.out_of_range("index", index, weight.shape[0], "rows of weight"):
        return F.embedding(index, weight, padding_idx, scale_grad_by_freq=scale_grad_by_freq)


def embedding_backward(
    dout: Tensor,
    index: Index,
    weight: Tensor,
    *,
    padding_idx: int | None = None,
    scale_grad_by_freq: bool = False,
) -> Tensor:
    """dweight[i] = Σ dout over the places where index is i: a row that was used twice gets both

    The sum is kept in float32 for bfloat16 and float16.
    """
    places = index.reshape(-1)
    rows = wide(dout.reshape(places.shape[0], weight.shape[1]))
    none = torch.zeros_like(weight, dtype=rows.dtype)
    if scale_grad_by_freq:
        uses = none[:, :1].index_add(0, places, torch.ones_like(rows[:, :1]))
        rows = rows / uses[places]
    if padding_idx is not None:
        rows = rows.masked_fill((places == padding_idx % weight.shape[0]).unsqueeze(1), 0)
    dweight = none.index_add(0, places, rows).to(weight.dtype)
    return dweight


def _refuse_embedding(places: Tensor, weight: Tensor, padding_idx: int | None) -> None:
    """An index of any shape into weight (rows, width), and padding_idx None or one of the rows."""
    refuse.index("index", places)
    refuse.floating(weight=weight)
    refuse.matrix("weight", weight, "(rows, width)")
    if padding_idx is None:
        return
    refuse.integer(padding_idx=padding_idx)
    rows = weight.shape[0]
    if not -rows <= padding_idx < rows:
        raise IndexError(
            f"padding_idx must lie in [{-rows}, {rows - 1}], the rows of weight, got {padding_idx}"
        )
