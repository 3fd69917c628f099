"""Run the benchmarks and write them as a Markdown page, docs/benchmarks.md, and plots.

    python -m benchmarks [--out FILE] [--json FILE]

With a file that ``pytest --benchmark-json`` has written, that run is shown and nothing is timed.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest
import torch
from matplotlib import pyplot as plt

from benchmarks.tables import Result, conditions, tables

mpl.use("Agg")
FOLDER = Path(__file__).parent
HEAD = """# Benchmarks

The time of a form is a multiple of that beside which it was timed: the fused pair, for training
autograd's step, for the checkers `check`, and for the doors to autograd the Function by hand. The
two take turns, and a low quantile of the rounds is compared. The peak of memory is that beyond what
was held before.

`pytest --benchmark-only -k batchnorm` measures a part, and `python -m benchmarks` measures all and
writes this page.
"""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks.md"), metavar="FILE")
    parser.add_argument("--json", type=Path, metavar="FILE", help="a run's results, not run again")
    arguments = parser.parse_args()
    if arguments.json is None:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "results.json"
            status = pytest.main([str(FOLDER), "--benchmark-only", f"--benchmark-json={file}"])
            if status:
                return int(status)
            run = json.loads(file.read_text())
    else:
        run = json.loads(arguments.json.read_text())
    images = arguments.out.parent / "images"
    images.mkdir(parents=True, exist_ok=True)
    results = [_result(benchmark) for benchmark in run["benchmarks"]]
    page = [HEAD, f"Measured on {_machine(run)}; {conditions(results)}.", ""]
    made, growth = tables(results, "github"), [r for r in results if r.table.startswith("growth")]
    for name in dict.fromkeys(r.table for r in results if r not in growth):
        file = images / f"benchmarks-{re.sub(r'[^a-z0-9_]+', '-', name)}.svg"
        _bars([r for r in results if r.table == name], file)
        page += [f"## {name}", "", f"![{name}](images/{file.name})", ""]
        for title, text in made.items():
            if title.startswith(f"{name}: "):
                page += [f"{title.removeprefix(f'{name}: ').capitalize()}:", "", text, ""]
    if growth:
        _growth(growth, images / "benchmarks-growth.svg")
        page += ["## Time against size", "", "![growth](images/benchmarks-growth.svg)", ""]
    arguments.out.write_text("\n".join(page))
    print(f"written: {arguments.out}, and its plots in {images}")
    return 0


def _result(benchmark: dict[str, Any]) -> Result:
    return Result(case=benchmark["group"], **benchmark["extra_info"])


def _machine(run: dict[str, Any]) -> str:
    cpu = run["machine_info"]["cpu"]
    name = f"{cpu['brand_raw']}, {cpu['count']} cores"
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{name}, torch {torch.__version__} ({capability})"


def _bars(results: list[Result], file: Path) -> None:
    """The ratios of each case, on a logarithmic axis around 1."""
    cases = list(dict.fromkeys(r.case for r in results))
    providers = list(dict.fromkeys(r.provider for r in results))
    figure, axes = plt.subplots(figsize=(9, 0.9 * len(cases) + 1), layout="constrained")
    height = 0.8 / len(providers)
    for i, provider in enumerate(providers):
        ratios = {r.case: r.ratio for r in results if r.provider == provider}
        places = [cases.index(case) + i * height for case in ratios]
        widths = [ratio - 1 for ratio in ratios.values()]
        axes.barh(places, widths, height, left=1, label=provider)
    axes.set_xscale("log")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks([place + 0.4 for place in range(len(cases))], cases)
    axes.invert_yaxis()
    axes.set_xlabel("time, as a multiple")
    axes.legend()
    figure.savefig(file)
    plt.close(figure)


def _growth(results: list[Result], file: Path) -> None:
    """Time against size, both logarithmic, with a line of slope one."""
    names = list(dict.fromkeys(r.table for r in results))
    figure, plots = plt.subplots(
        1, len(names), figsize=(9, 4), sharey=True, squeeze=False, layout="constrained"
    )
    for axes, name in zip(plots[0], names, strict=True):
        of_name = [r for r in results if r.table == name]
        for provider in dict.fromkeys(r.provider for r in of_name):
            line = [r for r in of_name if r.provider == provider]
            times = [r.seconds for r in line]
            axes.loglog([r.elements for r in line], times, marker="o", label=provider)
        largest = max((r for r in of_name if r.provider == "fused"), key=lambda r: r.elements)
        sizes = sorted({r.elements for r in of_name})
        straight = [largest.seconds * size / largest.elements for size in sizes]
        axes.loglog(sizes, straight, ":", color="gray", label="linear")
        axes.set(title=name, xlabel="elements")
    plots[0][0].set_ylabel("seconds")
    plots[0][0].legend()
    figure.savefig(file)
    plt.close(figure)


if __name__ == "__main__":
    sys.exit(main())
