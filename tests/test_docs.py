"""That the page of reports is what `check` says of the wrong pairs beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from backprop_ops.checking.userfile import check_file

pytestmark = pytest.mark.usefixtures("unseen")

DOCS = Path(__file__).parent.parent / "docs"


def test_page_of_reports() -> None:
    page = (DOCS / "reports.md").read_text()
    reports = list(check_file(str(DOCS / "wrong.py"), seed=0))
    assert len(reports) == 10
    for report in reports:
        assert not report
        section = page.partition(f"## {report.name.removesuffix('_backward')}\n")[2]
        section = section.partition("\n## ")[0]
        # The numbers may have another last digit on another machine.
        for failure in report.failures:
            assert failure.explanation.partition(":")[0] in section
            assert f"likely mistake ({failure.mistake})" in section
