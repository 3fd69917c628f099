"""The plots of a training: with its history at its end, without one of a checkpoint."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from backprop_ops.cli import main
from backprop_ops.lecture.data import Dataset
from backprop_ops.lecture.training import Options, Training
from backprop_ops.pages.plots import History


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    names, saved = tmp_path / "names.txt", tmp_path / "run.pt"
    names.write_text("\n".join(["emma", "olivia", "ava", "isabella", "sophia", "mia"] * 5))
    run = ["train", "--steps", "40", "--hidden", "16", "--names", str(names), "--save", str(saved)]
    assert main([*run, "--plot", str(tmp_path / "run.svg")]) == 0
    return tmp_path


def comments(svg: Path) -> str:
    """The texts of a plot, which matplotlib draws as shapes and names in comments."""
    return " ".join(re.findall("<!-- (.*?) -->", svg.read_text("utf-8")))


def test_plots(trained: Path) -> None:
    shown = comments(trained / "run.svg")
    for title in ("training loss, log10", "update to data", "gradients by layer", "saturated"):
        assert title in shown
    out = trained / "checkpoint.svg"
    asked = ["--names", str(trained / "names.txt"), "--out", str(out)]
    assert main(["plot", "--from", str(trained / "run.pt"), *asked]) == 0
    assert "dlogits" in comments(out)
    assert "training loss" not in comments(out)


def test_history_changes_no_bit_of_the_run(embedded: Dataset) -> None:
    watched, alone = (Training.start(Options(hidden=16), embedded) for _ in range(2))
    history = History(watched, 30)
    watched.run(30, history.add)
    alone.run(30, lambda _: None)
    assert all(map(torch.equal, watched.parameters, alone.parameters))
    assert len(history.losses) == 30
    assert len(history.ratios) == 30


def test_another_kind_of_file(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["train", "--plot", "run.gif"])
    assert "'run.gif' is no name of a .png or .svg" in capsys.readouterr().err
