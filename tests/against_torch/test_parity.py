"""The pairs against torch's own functions, on the samples of torch's tests: `parity`."""

from __future__ import annotations

import pytest
import torch
from hypothesis import settings

from backprop_ops import Pair
from tests.against_torch.parity import (
    accepted,
    compare,
    counterparts,
    dtypes_of,
    errors_of,
    op_db,
)
from tests.support.counterpart import Counterpart

PLAIN = (torch.float32, torch.bfloat16)


@pytest.mark.parametrize(
    ("pair", "counterpart", "dtype"),
    [
        pytest.param(
            pair,
            counterpart,
            dtype,
            id=f"{pair.name}-{str(dtype)[6:]}",
            marks=[] if dtype in PLAIN else pytest.mark.thorough,
        )
        for pair, counterpart in counterparts()
        for dtype in dtypes_of(counterpart)
    ],
)
def test_samples(pair: Pair, counterpart: Counterpart, dtype: torch.dtype, device: str) -> None:
    result = compare(pair, counterpart, dtype, device)
    assert not result.differences, "\n".join(result.differences)
    assert result.tried


@pytest.mark.parametrize(
    ("pair", "counterpart"),
    [
        pytest.param(pair, counterpart, id=pair.name)
        for pair, counterpart in counterparts()
        if errors_of(counterpart)
    ],
)
def test_bad_inputs(pair: Pair, counterpart: Counterpart, device: str) -> None:
    assert not accepted(pair, counterpart, device)


def test_every_variant_is_named() -> None:
    """A further variant in a new release of torch is noticed."""
    named = {(c.name, variant) for _, c in counterparts() for variant in (c.variant, *c.alone)}
    names = {name for name, _ in named}
    assert named == {(i.name, i.variant_test_name) for i in op_db if i.name in names}


def test_the_profile_of_this_run_stays() -> None:
    """Torch's test utilities replace it when they are imported."""
    assert settings.get_current_profile_name() in ("ci", "dev", "deep")
