"""Pairs that pick elements by an index."""

from __future__ import annotations

import torch
from torch import Tensor

from backprop_ops import validate
from backprop_ops.pair import Index
from backprop_ops.precision import wide


def embedding(index: Index, weight: Tensor) -> Tensor:
    """out = weight[index]

    index (…) of int64, weight (rows, width), out (…, width). Raises IndexError where an index is
    no row of weight, a negative one included.
    """
    validate.index("index", index)
    validate.floating(weight=weight)
    validate.matrix("weight", weight, "(rows, width)")
    with validate.index_range("index", index, weight.shape[0], "rows of weight"):
        rows = weight.index_select(0, index.reshape(-1))
    return rows.reshape(*index.shape, weight.shape[1])


def embedding_backward(dout: Tensor, index: Index, weight: Tensor) -> Tensor:
    """dweight[i] = Σ dout over the places where index is i: a row that was used twice gets both

    The sum is kept in float32 for bfloat16 and float16.
    """
    rows = wide(dout.reshape(index.numel(), weight.shape[1]))
    none = torch.zeros_like(weight, dtype=rows.dtype)
    dweight = none.index_add(0, index.reshape(-1), rows).to(weight.dtype)
    return dweight
