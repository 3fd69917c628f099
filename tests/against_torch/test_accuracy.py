"""That no pair is less exact than torch's function: `accuracy`, on fewer draws."""

from __future__ import annotations

import pytest
import torch

from backprop_ops import Pair, pairs
from tests.against_torch.accuracy import DTYPES, measure, subjects
from tests.support.exact import Exact
from tests.support.families import beside, data

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


def test_a_pair_that_torch_has_no_function_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Autograd takes the pair's own forward."""
    pair = pairs["tanh"]
    before = measure(pair, beside(pair, "EXACT")[0], torch.float32, examples=3)
    monkeypatch.setitem(data(pair).OPINFO, "tanh", "none")
    assert measure(pair, beside(pair, "EXACT")[0], torch.float32, examples=3) == before
