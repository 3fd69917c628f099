"""The pairs against torch's own functions, on the samples of torch's tests: `parity`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import settings

from tests.against_torch.parity import (
    ALONE,
    COUNTERPARTS,
    accepted,
    compare,
    dtypes_of,
    errors_of,
    infos,
    op_db,
)

PLAIN = (torch.float32, torch.bfloat16)
INFOS = [(key, info) for key, info in infos()]


@pytest.mark.parametrize(
    ("key", "info", "dtype"),
    [
        pytest.param(
            key,
            info,
            dtype,
            id=f"{key[0]}-{str(dtype)[6:]}",
            marks=[] if dtype in PLAIN else pytest.mark.thorough,
        )
        for key, info in INFOS
        for dtype in dtypes_of(info)
    ],
)
def test_samples(key: tuple[str, str], info: Any, dtype: torch.dtype, device: str) -> None:
    result = compare(key, info, dtype, device)
    assert not result.differences, "\n".join(result.differences)
    assert result.tried.total()


@pytest.mark.parametrize(
    ("key", "info"),
    [pytest.param(key, info, id=key[0]) for key, info in INFOS if errors_of(info)],
)
def test_bad_inputs(key: tuple[str, str], info: Any, device: str) -> None:
    assert not accepted(key, info, device)


def test_every_variant_is_named() -> None:
    """That a new release of torch with a further variant is noticed."""
    names = {name for name, _ in COUNTERPARTS}
    found = {(i.name, i.variant_test_name) for i in op_db if i.name in names}
    assert found == COUNTERPARTS.keys() | ALONE.keys()


def test_the_profile_of_this_run_stays() -> None:
    """Torch's test utilities replace it when they are imported."""
    assert settings.get_current_profile_name() in ("ci", "dev", "deep")
