"""The examples, each run as a stranger runs it: from an empty folder."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(folder: Path, *command: str) -> str:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_digits(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="the digits are scikit-learn's")
    out = run(tmp_path, str(EXAMPLES / "digits.py"))
    curves = re.findall(r"^ +\d+ +(\S+) +(\S+)$", out, re.MULTILINE)
    assert len(curves) == 6
    assert all(theirs == ours for theirs, ours in curves)
    accuracies = re.findall(r"0\.\d+", out.splitlines()[-1])
    assert len(accuracies) == 2
    assert all(float(accuracy) > 0.9 for accuracy in accuracies)


@pytest.mark.skipif(shutil.which("cc") is None, reason="torch.compile needs a C compiler")
def test_language_model(tmp_path: Path) -> None:
    out = run(tmp_path, str(EXAMPLES / "language_model.py"))
    losses = [float(loss) for loss in re.findall(r"loss (\S+)", out)]
    assert len(losses) == 5
    assert losses[0] > 3
    assert losses[-1] < 2.7


def test_swish(tmp_path: Path) -> None:
    shutil.copy(EXAMPLES / "test_swish.py", tmp_path)
    out = run(tmp_path, "-m", "pytest", "-q", "test_swish.py")
    assert "4 passed" in out
    assert "swish_backward: correct in 3 of 3 checks" in out
    assert "forgetful_backward: wrong on your sample" in out


def test_lecture_notebook(tmp_path: Path) -> None:
    """It runs top to bottom, and each cell says of each row what it says in the repository."""
    shown = json.loads((EXAMPLES / "lecture.ipynb").read_text("utf-8"))
    out = tmp_path / "run.ipynb"
    run(tmp_path, "-m", "jupyter", "execute", str(EXAMPLES / "lecture.ipynb"), "--output", str(out))
    rows = printed(json.loads(out.read_text("utf-8")))
    assert [row.split("|")[2] for row in rows] == [row.split("|")[2] for row in printed(shown)]
    assert sum("approximate: True " in row for row in rows) == 30
    assert [row.split(" | ")[-1].split(":")[0] for row in rows[-2:]] == ["sign", "factor"]


def printed(notebook: dict[str, Any]) -> list[str]:
    """The lines of cmp that the cells of a notebook print."""
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", ())]
    text = "".join("".join(output.get("text", ())) for output in outputs)
    return [line for line in text.splitlines() if "approximate:" in line]


@pytest.mark.skipif(shutil.which("cc") is None, reason="the kernel is compiled by a C compiler")
def test_c_kernel(tmp_path: Path) -> None:
    right, wrong = run(tmp_path, str(EXAMPLES / "c_kernel.py")).split("note: seed 0")[:2]
    assert "swish_backward: correct" in right
    assert "swish_backward: wrong" in wrong
    assert "likely mistake (missing-term)" in wrong


def test_the_readme_names_every_example() -> None:
    text = (EXAMPLES.parent / "README.md").read_text("utf-8")
    files = {path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".ipynb")}
    named = re.findall(r"\]\(examples/([^)]+\.(?:py|ipynb))\)", text)
    assert set(named) == files
