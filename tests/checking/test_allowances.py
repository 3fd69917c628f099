"""Each allowance is needed: without it a right backward is refused."""

from __future__ import annotations

import pytest

from backprop_ops.checking import allowances, properties
from backprop_ops.checking.allowances import ALLOWANCES, Allowance
from tests.checking.test_findings import RIGHT

pytestmark = pytest.mark.usefixtures("unseen")


NEEDED = {
    allowances.digits_of_float32: "A4 softplus beyond torch's threshold",
    allowances.rounding_inside: "saturated by an input of 1e4",
}


@pytest.mark.thorough  # each is two checks
@pytest.mark.parametrize("allowance", NEEDED, ids=lambda allowance: allowance.__name__)
def test_an_entry_needs_it(allowance: Allowance, monkeypatch: pytest.MonkeyPatch) -> None:
    report = RIGHT[NEEDED[allowance]].report
    assert report()
    others = tuple(other for other in ALLOWANCES if other is not allowance)
    monkeypatch.setattr(properties, "ALLOWANCES", others)
    assert not report()
