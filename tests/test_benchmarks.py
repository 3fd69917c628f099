"""What the benchmarks measure and write, without timing anything."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import __main__ as command
from benchmarks.providers import NAMES
from benchmarks.tables import Result, tables
from benchmarks.turns import peak_memory


def result(table: str, case: str, provider: str, ratio: float, **more: Any) -> Result:
    return Result(
        table, case, provider, seconds=ratio / 1000, ratio=ratio, peak=4096, load=0.5, **more
    )


RESULTS = [
    result("batchnorm", "8 × 8", "fused", 1.0),
    result("batchnorm", "8 × 8", "atomic", 2.5),
    result("batchnorm", "16 × 8", "fused", 1.0),
    result("growth of batchnorm", "64 × 1024", "fused", 1.0, elements=2**16),
    result("growth of batchnorm", "128 × 1024", "fused", 1.0, elements=2**17),
]


def test_tables() -> None:
    made = tables(RESULTS, "github")

    def cells(title: str) -> list[list[str]]:
        rows = [line.split("|")[1:-1] for line in made[title].splitlines()]
        return [[cell.strip() for cell in row] for row in rows]

    time = cells("batchnorm: time, as a ratio")
    assert time[0] == ["", "fused", "atomic"]
    assert time[2:] == [["8 × 8", "1.00", "2.50"], ["16 × 8", "1.00", ""]]
    memory = cells("batchnorm: peak of extra memory")
    assert memory[2:] == [["8 × 8", "4 KiB", "4 KiB"], ["16 × 8", "4 KiB", ""]]


def test_tables_fit_a_terminal() -> None:
    case = "16384 × 1024, both ways"
    made = tables([result("batchnorm", case, name, 10.0) for name in NAMES], "simple")
    assert max(len(line) for text in made.values() for line in text.splitlines()) <= 100


def test_peak_memory() -> None:
    """The largest sum of what is held at once, what is freed in between left out."""
    kept = []

    def run() -> None:
        torch.ones(1000)
        kept.append(torch.ones(500) + torch.ones(250).sum())

    assert 4000 <= peak_memory(run) < 4500


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run.json"
    benchmarks = []
    for each in map(asdict, RESULTS):
        case = each.pop("case")
        benchmarks.append({"group": case, "extra_info": each})
    machine = {"cpu": {"brand_raw": "A Processor", "count": 2}}
    run.write_text(json.dumps({"machine_info": machine, "benchmarks": benchmarks}))
    out = tmp_path / "page.md"
    monkeypatch.setattr("sys.argv", ["benchmarks", "--json", str(run), "--out", str(out)])
    assert command.main() == 0
    page = out.read_text()
    assert "Measured on A Processor, 2 cores, torch " in page
    assert "load 0.5 to 0.5 on" in page
    assert "## batchnorm\n" in page
    assert "Time, as a ratio:" in page
    images = re.findall(r"\((images/.*?)\)", page)
    assert images == ["images/benchmarks-batchnorm.svg", "images/benchmarks-growth.svg"]
    for image in images:
        assert (tmp_path / image).read_text().rstrip().endswith("</svg>")
