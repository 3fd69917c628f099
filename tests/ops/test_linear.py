"""Samples and bad inputs of the matrix products."""

from __future__ import annotations

from torch import ones

from backprop_ops import linear, linear_backward
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
        bad(TypeError, "y must be a Tensor, came list", ones(2, 3), [1.0]),
        bad(TypeError, "y must have the dtype of x", ones(2, 3), ones(3, 2).double()),
        bad(ValueError, "y must have as many rows as x has columns, 3", ones(2, 3), ones(2, 3)),
        bad(ValueError, "x must be a vector or (a batch of) matrices", ones(()), ones(2)),
        bad(ValueError, "batch dimensions", ones(2, 4, 3), ones(5, 3, 4)),
    ],
    "linear": [
        bad(TypeError, "x must be a Tensor, came list", [1.0], ones(3, 4)),
        bad(TypeError, "weight must be a Tensor, came NoneType", ones(2, 3), None),
        bad(ValueError, "in = 3, the last size of x, came (5, 4)", ones(2, 3), ones(5, 4)),
        bad(ValueError, "pass weight.T", ones(2, 3), ones(4, 3)),
        bad(ValueError, "bias must be of shape (4,)", ones(2, 3), ones(3, 4), ones(3)),
        bad(TypeError, "bias must have the dtype", ones(2, 3), ones(3, 4), ones(4).double()),
    ],
}


def test_no_features() -> None:
    x, weight = ones(2, 0), ones(0, 3)
    dx, dweight, dbias = linear_backward(linear(x, weight), x, weight, None)
    assert dx.shape == (2, 0)
    assert dweight.shape == (0, 3)
    assert dbias is None
