"""The matrix products: the data for the tests of every pair, and tests of their own."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F  # noqa: N812  # torch's own name for it
from torch import Tensor, ones

from backprop_ops import linear, linear_backward
from tests.support.counterpart import Arguments, Counterpart, Departure
from tests.support.exact import Matrix, exact, turned, zipped
from tests.support.samples import bad, real, sample

SAMPLES = {
    "matmul": [
        sample(real("n c"), real("c d")),
        sample(real("t n c"), real("c d")),
        sample(real("t 1 n c"), real("v c d")),
        sample(real("c"), real("c")),
        sample(real("c"), real("t c d")),
        sample(real("t n c"), real("c")),
    ],
    "linear": [
        sample(real("n c"), real("c d"), real("d")),
        sample(real("n c"), real("c d"), real("1 d")),
        sample(real("n c"), real("c d"), None),
        sample(real("n 0"), real("0 d"), real("d")),  # nothing but the bias
        sample(real("n c"), real("c 0"), None),
        sample(real("t n c"), real("c d"), real("d")),
        sample(real("c"), real("c d"), real("d")),
    ],
}

BAD_INPUTS = {
    "matmul": [
        bad(TypeError, "y must be a Tensor, got list", ones(2, 3), [1.0]),
        bad(TypeError, "y must have the dtype of x", ones(2, 3), ones(3, 2).double()),
        bad(ValueError, "y must have as many rows as x has columns, 3", ones(2, 3), ones(2, 3)),
        bad(ValueError, "x must be a vector or (a batch of) matrices", ones(()), ones(2)),
        bad(ValueError, "batch dimensions", ones(2, 4, 3), ones(5, 3, 4)),
    ],
    "linear": [
        bad(TypeError, "x must be a Tensor, got list", [1.0], ones(3, 4)),
        bad(TypeError, "weight must be a Tensor, got NoneType", ones(2, 3), None),
        bad(ValueError, "in = 3, the last size of x, got (5, 4)", ones(2, 3), ones(5, 4)),
        bad(ValueError, "pass weight.T", ones(2, 3), ones(4, 3)),
        bad(ValueError, "bias must be of shape (4,)", ones(2, 3), ones(3, 4), ones(3)),
        bad(TypeError, "bias must have the dtype", ones(2, 3), ones(3, 4), ones(4).double()),
    ],
}


def linear_call(x: Any, weight: Any, bias: Any = None) -> Arguments:
    if weight.dim() != 2:
        raise Departure("linear by a vector: matmul")
    return (x, weight.mT, bias), {}


def torchs_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.linear(x, weight.mT, None if bias is None else bias.flatten())


OPINFO = {
    "matmul": Counterpart("matmul"),
    "linear": Counterpart("nn.functional.linear", linear_call, torchs_linear),
}


def product(mp: Any, dout: Matrix, x: Matrix, y: Matrix) -> tuple[Matrix, ...]:
    def times(left: Matrix, right: Matrix) -> Matrix:
        return [[mp.fdot(row, column) for column in turned(right)] for row in left]

    return times(x, y), times(dout, turned(y)), times(turned(x), dout)


def affine(mp: Any, dout: Matrix, x: Matrix, weight: Matrix, bias: Matrix) -> tuple[Matrix, ...]:
    out, dx, dweight = product(mp, dout, x, weight)
    sums = [[mp.fsum(column) for column in turned(dout)]]
    return zipped(lambda o, b: o + b, out, bias * len(out)), dx, dweight, sums


EXACT = {
    "matmul": [exact(product, "x", "square", unit_of="terms")],
    "linear": [exact(affine, "x", "square", "row", unit_of="terms")],
}


def test_no_features() -> None:
    x, weight = ones(2, 0), ones(0, 3)
    dx, dweight, dbias = linear_backward(linear(x, weight), x, weight, None)
    assert dx.shape == (2, 0)
    assert dweight.shape == (0, 3)
    assert dbias is None


EQUIVALENT = {
    "linear": {
        "the two have the same size there": (
            "linear: n: x.shape → dout.shape",
            "linear: dweight: x.shape → dx.shape",
            "linear: dweight: dout.shape → weight.shape",
        ),
    },
    "matmul": {
        "a number, which the forward refuses": (
            "matmul: if: y.dim() == 1 → y.dim() <= 1",
            "matmul: if: x.dim() == 1 → x.dim() <= 1",
            "matmul: rows: x.dim() == 1 → x.dim() <= 1",
            "matmul: columns: y.dim() == 1 → y.dim() <= 1",
        ),
        "the same dimension, counted from the other end": ("matmul: columns: 1 → -1 (#2)",),
        "a vector's row of size 1 is summed away before it is reshaped away": (
            "matmul: dx: rows.shape → x.shape",
        ),
        "a product that needs no sum is the same where it is summed to its own shape": (
            "matmul: _summed_product.if: x.shape[:-2] == y.shape[:-2] == shape[:-2] → False",
            "matmul: _summed_product.if: x.shape[:-2] → x.shape",
            "matmul: _summed_product.if: x.shape → y.shape",
            "matmul: _summed_product.if: x.shape[:-2] → x.shape[:]",
            "matmul: _summed_product.if: -2 → 2",
            "matmul: _summed_product.if: 2 → 0",
            "matmul: _summed_product.if: 2 → 1",
            "matmul: _summed_product.if: 2 → 3",
            "matmul: _summed_product.if: y.shape[:-2] → y.shape",
            "matmul: _summed_product.if: y.shape → x.shape",
            "matmul: _summed_product.if: y.shape[:-2] → y.shape[:]",
            "matmul: _summed_product.if: -2 → 2 (#2)",
            "matmul: _summed_product.if: 2 → 0 (#2)",
            "matmul: _summed_product.if: 2 → 1 (#2)",
            "matmul: _summed_product.if: 2 → 3 (#2)",
            "matmul: _summed_product.if: shape[:-2] → shape",
            "matmul: _summed_product.if: shape[:-2] → shape[:]",
            "matmul: _summed_product.if: -2 → 2 (#3)",
            "matmul: _summed_product.if: 2 → 0 (#3)",
            "matmul: _summed_product.if: 2 → 1 (#3)",
            "matmul: _summed_product.if: 2 → 3 (#3)",
        ),
        "the two have the same dtype, which the forward refuses to do without": (
            "matmul: _summed_product.return: x.dtype → y.dtype",
        ),
    },
}
