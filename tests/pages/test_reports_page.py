"""The page of `check FILE.py --html`: each pair's report, escaped."""

from __future__ import annotations

from pathlib import Path

import pytest

from backprop_ops.cli import main

SOURCE = """
import torch

def double(x):
    return 2 * x

def double_backward(dout):
    assert dout.dim() < 9, "<b>too many</b>"
    return 3 * dout

def double_sample():
    return (torch.randn(4, 3),)

def lost(x):
    return x

def lost_backward(grad):
    return grad

def lost_sample():
    return (torch.randn(4, 3),)
"""


def test_every_report_is_on_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, page = tmp_path / "pairs.py", tmp_path / "<page>.html"
    file.write_text(SOURCE)
    assert main(["check", str(file), "--html", str(page), "--seed", "0"]) == 2
    shown = page.read_text("utf-8")
    said = capsys.readouterr()
    assert "double_backward: wrong on your sample" in said.out
    assert "double_backward: wrong on your sample" in shown
    assert "1.5 × what it should be" in shown
    assert "rename grad to dout" in shown
    assert "<b>" not in shown


def test_not_for_the_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["check", "--html", str(tmp_path / "page.html")])
    assert "backprop-ops report" in capsys.readouterr().err
