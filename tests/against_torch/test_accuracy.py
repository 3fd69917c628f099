"""That no pair is less exact than torch's function: `accuracy`, on fewer draws."""

from __future__ import annotations

import pytest
import torch

from backprop_ops import Pair
from tests.against_torch.accuracy import DTYPES, measure, subjects
from tests.support.exact import Exact

PLAIN = [(name, torch.float32) for name in ("softmax", "cross_entropy", "batchnorm")]


@pytest.mark.parametrize(
    ("pair", "exact", "dtype"),
    [
        pytest.param(
            pair,
            exact,
            dtype,
            id=f"{label}-{str(dtype)[6:]}",
            marks=[] if (label, dtype) in PLAIN else pytest.mark.thorough,
        )
        for label, pair, exact in subjects()
        for dtype in DTYPES
    ],
)
def test_no_less_exact_than_torch(pair: Pair, exact: Exact, dtype: torch.dtype) -> None:
    """Within one unit in the last place."""
    worst = measure(pair, exact, dtype, examples=15)
    assert worst.ours <= worst.torchs + 1
