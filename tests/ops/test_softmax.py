"""Samples and bad inputs of the class probabilities."""

from __future__ import annotations

import pytest
import torch
from torch import ones, tensor

from backprop_ops import log_softmax, log_softmax_backward, softmax, softmax_backward
from tests.support.samples import bad, real, sample

SAMPLES = {
    "softmax": [sample(real("n c"), dim=1), sample(real("n c d"), dim=0), sample(real("n c"))],
    "log_softmax": [sample(real("n c"), dim=1), sample(real("n c d"), dim=0), sample(real("n c"))],
}

DIMENSIONS = [
    bad(TypeError, "x must be a Tensor, came list", [1.0], dim=0),
    bad(TypeError, "x must be a floating Tensor", ones(2, 3).long(), dim=0),
    bad(IndexError, "dim must lie in [-2, 1]", ones(2, 3), dim=2),
]

BAD_INPUTS = {"softmax": DIMENSIONS, "log_softmax": DIMENSIONS}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_far_from_zero(dtype: torch.dtype) -> None:
    """Scores of ±1e4, whose exponentials overflow, and a score of -inf."""
    x = tensor([[1e4, -1e4, 0.0], [0.0, float("-inf"), 1.0]], dtype=dtype)
    probs, logprobs = softmax(x), log_softmax(x)
    assert probs.isfinite().all()
    assert softmax_backward(ones(2, 3, dtype=dtype), probs).isfinite().all()
    assert log_softmax_backward(ones(2, 3, dtype=dtype), logprobs).isfinite().all()
