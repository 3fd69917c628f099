"""Samples and bad inputs of the pairs that pick by index."""

from __future__ import annotations

from torch import ones, tensor

from backprop_ops import embedding_backward
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
        bad(TypeError, "index must be a Tensor, came list", [0], W),
        bad(TypeError, "index must be a Tensor of torch.int64, came torch.float32", ones(2), W),
        bad(TypeError, "weight must be a floating Tensor", tensor([0]), W.long()),
        bad(ValueError, "weight must be of shape (rows, width)", tensor([0]), ones(3)),
        bad(IndexError, "index must lie in [0, 2], the rows of weight", tensor([0, 3]), W),
        bad(IndexError, "came [-1, 0]", tensor([0, -1]), W),
        bad(IndexError, "came [7, 7]", tensor([7]), ones(3, 0)),
        bad(IndexError, "came [0, 0]", tensor([0]), ones(0, 2)),
        bad(IndexError, "padding_idx must lie in [-3, 2]", tensor([0]), W, padding_idx=3),
        bad(TypeError, "padding_idx must be an integer", tensor([0]), W, padding_idx=1.0),
    ]
}


def test_repeated_index_adds_up() -> None:
    dweight = embedding_backward(tensor([[1.0, 2.0], [3.0, 4.0]]), tensor([1, 1]), W)
    assert dweight.tolist() == [[0, 0], [4, 6], [0, 0]]
