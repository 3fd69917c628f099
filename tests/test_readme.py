"""The README and the pages of docs: their snippets run, and what they name exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import backprop_ops
from backprop_ops import assert_backward, check
from backprop_ops.checking.userfile import check_file
from backprop_ops.lecture.data import Dataset
from backprop_ops.lecture.exercises import run_exercises

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]
SNIPPETS = [
    pytest.param(page, snippet, id=f"{page.name}-{number}")
    for page in PAGES
    for number, snippet in enumerate(
        re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    )
    if re.match(r"(import|from) ", snippet)  # whole: it imports its names
]


def test_there_are_snippets() -> None:
    whole = [snippet.values[0].name for snippet in SNIPPETS]
    assert {"README.md", "checking.md", "lecture.md", "pair.md", "torch.md"} <= set(whole)
    assert len(whole) >= 9


@pytest.mark.parametrize(("page", "snippet"), SNIPPETS)
@pytest.mark.usefixtures("unseen")
def test_snippet(page: Path, snippet: str, capsys: pytest.CaptureFixture[str]) -> None:
    names = {"__name__": "snippet"}
    exec(compile(snippet, str(page), "exec"), names)
    for name, test in names.items():
        if name.startswith("test_"):
            test(assert_backward)  # type: ignore[operator]
    assert "wrong" not in capsys.readouterr().out


@pytest.mark.usefixtures("unseen")
def test_report_of_the_readme(tmp_path: Path) -> None:
    """The file in the README gets the report below it, but for a last digit."""
    source = next(s.values[1] for s in SNIPPETS if "def centre_sample" in s.values[1])
    (tmp_path / "centre.py").write_text(source)
    ((_, report),) = check_file(str(tmp_path / "centre.py"), seed=0)
    page, found = (
        re.sub(r"maxdiff: \S+", "maxdiff", text)
        for text in (README.read_text("utf-8"), f"```\n{report}\n```")
    )
    assert found in page


def without_numbers(text: str) -> str:
    return re.sub(r"-?\d+(\.\d+)?(e-?\d+)?", "0", re.sub(r"exact: \w+ *", "", text))


def test_page_of_the_exercises(embedded: Dataset) -> None:
    """The lecture's page has what `check` prints, and the README some of its lines."""
    page = (ROOT / "docs" / "lecture.md").read_text("utf-8")
    assert f"```\n{without_numbers(str(run_exercises(embedded)))}\n```" in without_numbers(page)
    (block,) = re.findall(r"```\n(4137 parameters\n.*?)```", README.read_text("utf-8"), re.DOTALL)
    assert set(block.splitlines()) - {"..."} <= set(page.splitlines())


@pytest.mark.usefixtures("unseen")
def test_pair_of_the_ten_rules() -> None:
    """The example is a right pair."""
    (snippet,) = [s.values[1] for s in SNIPPETS if "class Scaled" in s.values[1]]
    names: dict[str, object] = {"__name__": "snippet"}
    exec(compile(snippet, "pair.md", "exec", dont_inherit=True), names)
    assert check(names["scale"], names["scale_backward"], (torch.randn(4, 3),), seed=0)


def test_first_two_installing_lines() -> None:
    """Set-up, then the main job; set-up, then the tests. CI and CONTRIBUTING take the second."""
    lines = [line for line in README.read_text("utf-8").splitlines() if "pip install" in line]
    job, tests = lines[:2]
    assert job.endswith("backprop-ops check")
    assert tests.endswith("pytest -n 2")
    assert tests in (ROOT / "CONTRIBUTING.md").read_text("utf-8").splitlines()


def test_contributing_says_what_ci_runs() -> None:
    runs = (ROOT / ".ci" / "run").read_text("utf-8").partition("set -x\n")[2].splitlines()
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    block = text[text.index("```\nruff") :].split("```")[1]
    said = [command for line in block.split("\n") for command in line.split(" && ") if command]
    assert said == [command.removesuffix(" -q") for command in runs]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text("utf-8")):
        assert (page.parent / link).exists(), link


def tree(text: str) -> set[str]:
    """The files and folders in a page's tree, each as a path; an indent of two is a folder down."""
    found, folders = set(), []
    for line in text.splitlines():
        indent, name = re.match(r"( *)(\S+)", line).groups()
        folders = [*folders[: len(indent) // 2], name]
        found.add("".join(folders))
    return found


def test_tree_of_the_architecture() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    found = tree(page.split("```\n")[1])
    package = Path(backprop_ops.__file__).parent
    modules = {path.relative_to(package.parent).as_posix() for path in package.rglob("*.py")}
    assert {path for path in found if path.endswith(".py")} == modules
    folders = {path for path in found if path.endswith("/")}
    assert all((ROOT / folder).is_dir() for folder in folders)
    packages = {
        f"tests/{path.name}/" for path in (ROOT / "tests").iterdir() if any(path.glob("*.py"))
    }
    assert packages <= folders


def test_files_that_the_pages_name() -> None:
    """In `code`, where it reads as a path of the repository or of the package."""
    for page in PAGES:
        for name in re.findall(r"`((?:\w+/)+(?:\w+\.(?:py|md|txt))?)`", page.read_text("utf-8")):
            homes = (ROOT, ROOT / "backprop_ops", page.parent)
            assert any((home / name).exists() for home in homes), f"{page.name}: {name}"
