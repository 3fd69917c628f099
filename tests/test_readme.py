"""What the README says can be run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from backprop_ops import assert_backward

README = Path(__file__).parent.parent / "README.md"
SNIPPETS = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
WHOLE = [snippet for snippet in SNIPPETS if snippet.startswith("import torch\n")]


def test_there_are_snippets() -> None:
    assert len(WHOLE) >= 5


@pytest.mark.parametrize("snippet", WHOLE)
def test_snippet(snippet: str, capsys: pytest.CaptureFixture[str]) -> None:
    names = {"__name__": "readme"}
    exec(compile(snippet, str(README), "exec"), names)
    for name, test in names.items():
        if name.startswith("test_"):
            test(assert_backward)  # type: ignore[operator]
    assert "wrong" not in capsys.readouterr().out


def test_first_two_installing_lines() -> None:
    """Set-up, then the main job; set-up, then the tests."""
    job, tests = [line for line in README.read_text("utf-8").splitlines() if "pip install" in line][
        :2
    ]
    assert job.endswith("backprop-ops check")
    assert tests.endswith("pytest")
