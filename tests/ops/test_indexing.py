"""The pairs that pick by index: the data for the tests of every pair, and tests of their own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, ones, tensor

from backprop_ops import embedding_backward
from tests.support.counterpart import Arguments, Counterpart, Departure
from tests.support.exact import Matrix, exact
from tests.support.samples import bad, index, real, sample

SAMPLES = {
    "embedding": [
        sample(index("n t", below="v"), real("v d")),
        sample(index("n", below="c"), real("c d")),
        sample(index("", below="v"), real("v d")),
        sample(index("n t", below="c"), real("c d"), least={"c": 2}, padding_idx=1),
        sample(index("n t", below="c"), real("c d"), padding_idx=-1, scale_grad_by_freq=True),
    ]
}

W = ones(3, 2)

BAD_INPUTS = {
    "embedding": [
        bad(TypeError, "index must be a Tensor, got list", [0], W),
        bad(TypeError, "index must be a Tensor of torch.int64, got torch.float32", ones(2), W),
        bad(TypeError, "weight must be a floating Tensor", tensor([0]), W.long()),
        bad(ValueError, "weight must be of shape (rows, width)", tensor([0]), ones(3)),
        bad(IndexError, "index must lie in [0, 2], the rows of weight", tensor([0, 3]), W),
        bad(IndexError, "got [-1, 0]", tensor([0, -1]), W),
        bad(IndexError, "got [7, 7]", tensor([7]), ones(3, 0)),
        bad(IndexError, "got [0, 0]", tensor([0]), ones(0, 2)),
        bad(IndexError, "padding_idx must lie in [-3, 2]", tensor([0]), W, padding_idx=3),
        bad(TypeError, "padding_idx must be an integer", tensor([0]), W, padding_idx=1.0),
    ]
}


def embedding_call(weight: Any, index: Any, **options: Any) -> Arguments:
    if options.pop("max_norm", None) is not None:
        raise Departure("max_norm: it writes the weight, and a pair is pure")
    if options.pop("sparse", False):
        raise Departure("sparse: gradients are dense here")
    if isinstance(index, Tensor) and index.dtype == torch.int32:
        raise Departure("int32: indices are of int64 here")
    return (index, weight), options


OPINFO = {"embedding": Counterpart("nn.functional.embedding", embedding_call)}


def picked(mp: Any, dout: Matrix, index: list[int], weight: Matrix) -> tuple[Matrix, ...]:
    """Entries of ``index`` that are equal take the same row, which gets both gradients."""
    rows = [[d for d, i in zip(dout, index, strict=True) if i == row] for row in range(len(weight))]
    sums = [[mp.fsum(d[j] for d in ds) for j in range(len(weight[0]))] for ds in rows]
    return [weight[i] for i in index], sums


EXACT = {"embedding": [exact(picked, "target", "x", unit_of="terms")]}


def test_repeated_index_adds_up() -> None:
    dweight = embedding_backward(tensor([[1.0, 2.0], [3.0, 4.0]]), tensor([1, 1]), W)
    assert dweight.tolist() == [[0, 0], [4, 6], [0, 0]]


EQUIVALENT = {
    "embedding": {
        "without wide() one more rounding, in bfloat16 and float16 alone": (
            "embedding: rows: wide(…) → dout.reshape(places.shape[0], weight.shape[1])",
        ),
        "the same dimension, counted from the other end": (
            "embedding: rows: places.shape[0] → places.shape[-1]",
            "embedding: rows: weight.shape[1] → weight.shape[-1]",
            "embedding: rows: 1 → -1",
        ),
        "-0 is zero": (
            "embedding: uses: none[:, :1] → (-none)[:, :1]",
            "embedding: dweight: none.index_add → (-none).index_add",
        ),
        "only the shape and the dtype are read": ("embedding: uses: rows[:, :1] → (-rows)[:, :1]",),
        "the two have the same size there": ("embedding: rows: weight.shape → none.shape",),
        "the two have the same dtype, which the forward refuses to do without": (
            "embedding: dweight: weight.dtype → dout.dtype",
        ),
    },
}
