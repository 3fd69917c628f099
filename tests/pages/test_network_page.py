"""The report on the lecture's network: every value is there, and a planted mistake stands out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from backprop_ops.cli import main
from backprop_ops.lecture.network import Nodes
from backprop_ops.pages import formulas, graph, source


def written(tmp_path: Path, *options: str) -> tuple[int, str]:
    file = tmp_path / "report.html"
    status = main(["report", "--out", str(file), *options])
    return status, file.read_text("utf-8")


def verdicts(page: str) -> dict[str, str]:
    return dict(re.findall(r'<details id="node-(\w+)" class="(\w+)">', page))


def test_every_value_is_on_the_page(tmp_path: Path) -> None:
    status, page = written(tmp_path)
    assert status == 0
    shown = verdicts(page)
    assert set(shown) == set(Nodes._fields)
    assert {name for name, verdict in shown.items() if verdict == "zero"} == {"b1", "logit_maxes"}
    assert not {"wrong", "follows"} & set(shown.values())
    assert len(page) < 5e6
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)  # nothing from elsewhere


def test_a_planted_mistake_stands_out(tmp_path: Path) -> None:
    status, page = written(tmp_path, "--break", "dhpreact")
    assert status == 1
    shown = verdicts(page)
    assert [name for name, verdict in shown.items() if verdict == "wrong"] == ["hpreact"]
    assert shown["W1"] == "follows"
    assert shown["W2"] == "exact"
    assert "wrong sign" in page


def test_a_value_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["report", "--out", str(tmp_path / "report.html"), "--break", "dx"])
    assert "argument --break: one of dC, " in capsys.readouterr().err


def test_the_drawing() -> None:
    inputs = source.inputs_of()
    at = graph.places(inputs)
    assert set(at) == set(Nodes._fields)
    assert len({place.y for place in at.values()}) == len(at)
    assert all(at[start].y < at[end].y for end, used in inputs.items() for start in used)


@pytest.mark.parametrize("formula", [*formulas.FORWARD.values(), *formulas.BACKWARD.values()])
def test_formulas_are_typeset(formula: str) -> None:
    assert "\\" not in formulas.typeset(formula)


def test_text_from_a_file_is_escaped_and_a_large_batch_stays_small(tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("<b>a\nx&y\n<i>z\nabba\n" * 20)
    _, page = written(tmp_path, "--names", str(names), "--batch-size", "1024", "--hidden", "200")
    assert "<th>&lt;</th>" in page
    assert "<th>&amp;</th>" in page
    assert "<th><" not in page
    assert len(page) < 5e6
