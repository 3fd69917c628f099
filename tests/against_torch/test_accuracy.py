"""That no pair is less exact than torch's function: `accuracy`, on fewer draws."""

from __future__ import annotations

import pytest
import torch

from tests.against_torch.accuracy import DTYPES, SUBJECTS, Subject, measure

PLAIN = [(name, torch.float32) for name in ("softmax", "cross_entropy", "batchnorm")]


@pytest.mark.parametrize(
    ("of", "dtype"),
    [
        pytest.param(
            of,
            dtype,
            id=f"{of.label}-{str(dtype)[6:]}",
            marks=[] if (of.name, dtype) in PLAIN else pytest.mark.thorough,
        )
        for of in SUBJECTS
        for dtype in DTYPES
    ],
)
def test_no_less_exact_than_torch(of: Subject, dtype: torch.dtype) -> None:
    """Within one unit in the last place."""
    worst = measure(of, dtype, examples=15)
    assert worst.ours <= worst.torchs + 1
