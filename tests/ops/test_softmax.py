"""The class probabilities: the data for the tests of every pair, and tests of their own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import ones, tensor

from backprop_ops import log_softmax, log_softmax_backward, softmax, softmax_backward
from tests.support.counterpart import Counterpart, with_options
from tests.support.exact import Matrix, exact, log_probabilities, zipped
from tests.support.samples import bad, real, sample

SAMPLES = {
    "softmax": [sample(real("n c"), dim=1), sample(real("n c d"), dim=0), sample(real("n c"))],
    "log_softmax": [sample(real("n c"), dim=1), sample(real("n c d"), dim=0), sample(real("n c"))],
}

DIMENSIONS = [
    bad(TypeError, "x must be a Tensor, got list", [1.0], dim=0),
    bad(TypeError, "x must be a floating Tensor", ones(2, 3).long(), dim=0),
    bad(IndexError, "dim must lie in [-2, 1]", ones(2, 3), dim=2),
]

BAD_INPUTS = {"softmax": DIMENSIONS, "log_softmax": DIMENSIONS}

CONVERTED = {"with_dtype": "dtype: convert the input"}

OPINFO = {
    "softmax": Counterpart("softmax", with_options("dim"), alone=CONVERTED),
    "log_softmax": Counterpart("log_softmax", with_options("dim"), alone=CONVERTED),
}


def probabilities(mp: Any, dout: Matrix, x: Matrix) -> tuple[Matrix, ...]:
    probs = zipped(mp.exp, log_probabilities(mp, x))
    inner = [mp.fdot(p, d) for p, d in zip(probs, dout, strict=True)]
    return probs, [
        [p * (d - i) for p, d in zip(row, ds, strict=True)]
        for row, ds, i in zip(probs, dout, inner, strict=True)
    ]


def logarithms(mp: Any, dout: Matrix, x: Matrix) -> tuple[Matrix, ...]:
    logprobs = log_probabilities(mp, x)
    return logprobs, [
        [d - mp.exp(entry) * mp.fsum(ds) for entry, d in zip(row, ds, strict=True)]
        for row, ds in zip(logprobs, dout, strict=True)
    ]


EXACT = {
    "softmax": [exact(probabilities, "x", unit_of="upstream", dim=1)],
    "log_softmax": [exact(logarithms, "x", unit_of="upstream", dim=1)],
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_far_from_zero(dtype: torch.dtype) -> None:
    """Scores of ±1e4, whose exponentials overflow, and a score of -inf."""
    x = tensor([[1e4, -1e4, 0.0], [0.0, float("-inf"), 1.0]], dtype=dtype)
    probs, logprobs = softmax(x), log_softmax(x)
    assert probs.isfinite().all()
    assert softmax_backward(ones(2, 3, dtype=dtype), probs).isfinite().all()
    assert log_softmax_backward(ones(2, 3, dtype=dtype), logprobs).isfinite().all()


EQUIVALENT = {
    "softmax": {
        "wide() changes nothing, for the next step is with a float32 and computes in float32 anyway": (
            "softmax: probs, dprobs: wide(out) → out",
            "softmax: probs, dprobs: wide(dout) → dout",
            "softmax: dx: probs → out",
            "softmax: dx: dprobs → dout",
            "softmax: dx: probs → out (#2)",
            "softmax: dx: dprobs → dout (#2)",
        ),
        "the two have the same dtype, which the forward refuses to do without": (
            "softmax: dx: out.dtype → dout.dtype",
        ),
    },
    "log_softmax": {
        "without wide() one more rounding, in bfloat16 and float16 alone": (
            "log_softmax: logprobs, dlogprobs: wide(out) → out",
            "log_softmax: logprobs, dlogprobs: wide(dout) → dout",
            "log_softmax: dx: logprobs.exp → out.exp",
            "log_softmax: dx: dlogprobs.sum → dout.sum",
        ),
        "wide() changes nothing, for the next step is with a float32 and computes in float32 anyway": (
            "log_softmax: dx: dlogprobs → dout",
        ),
        "the two have the same dtype, which the forward refuses to do without": (
            "log_softmax: dx: out.dtype → dout.dtype",
        ),
    },
}
