"""The command line, as a user runs it: in a process of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import backprop_ops
from backprop_ops import check, context
from backprop_ops.cli import main
from backprop_ops.lecture import network
from backprop_ops.lecture.checkpoint import load, save
from backprop_ops.lecture.data import Dataset
from backprop_ops.lecture.network import LECTURE_ROWS
from backprop_ops.lecture.training import Options, Training

ROW = re.compile(
    r"^(\w+) +\| exact: (True|False) *\| approximate: (True|False) *\| maxdiff: (\S+)$"
)


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "backprop_ops", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=300,
    )


def rows(output: str) -> list[tuple[str, ...]]:
    return [match.groups() for line in output.splitlines() if (match := ROW.match(line))]


def assert_refused(
    capsys: pytest.CaptureFixture[str], arguments: tuple[object, ...], message: str
) -> None:
    """In one line and with exit status 2, in this process: it is over before the work begins."""
    try:
        status = main([*map(str, arguments)])
    except SystemExit as exit_:
        status = exit_.code
    stdout, stderr = capsys.readouterr()
    assert status == 2
    assert stdout == ""
    assert len(stderr.splitlines()) == 1
    assert message in stderr


@pytest.mark.parametrize("capability", ["default", "avx2", "avx512"])
def test_26_rows_are_exact(capability: str) -> None:
    order = ["DEFAULT", "AVX2", "AVX512"]
    fastest = torch.backends.cpu.get_cpu_capability()
    if capability.upper() in order and fastest in order:
        if order.index(capability.upper()) > order.index(fastest):
            pytest.skip(f"this processor has no {capability}")
    else:
        pytest.skip(f"{capability} is not a capability of this kind of processor, {fastest}")
    result = run("check", ATEN_CPU_CAPABILITY=capability)
    assert result.returncode == 0
    found = rows(result.stdout)
    assert found[:26] == [(name, "True", "True", "0.0") for name in LECTURE_ROWS]
    assert [row[0] for row in found[26:]] == ["logits", "hprebn"]
    assert result.stdout.splitlines()[-1] == "correct: 26 of 26 rows exact, all 28 approximate"


def test_check_of_the_lectures_names(lecture_file: Path) -> None:
    result = run("check", "--names", lecture_file)
    assert result.returncode == 0
    assert "torch.Size([182625, 3]) torch.Size([182625])" in result.stdout
    assert "\n4137 parameters\n" in result.stdout
    assert [row[1:] for row in rows(result.stdout)[:26]] == [("True", "True", "0.0")] * 26


def test_check_with_options(few_file: Path) -> None:
    result = run(
        *("check", "--names", few_file, "--hidden", 20, "--batch-size", 9, "--seed", 1),
        *("--dtype", "float64"),
    )
    assert result.returncode == 0
    assert [row[1] for row in rows(result.stdout)[:26]] == ["True"] * 26


def test_a_wrong_row_is_exit_status_1(few_file: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(
        "import sys, backprop_ops.lecture.network as network\n"
        "from backprop_ops.cli import main\n"
        "network.tanh_backward = lambda dout, out: dout * (1 - out)\n"
        "sys.exit(main())\n"
    )
    result = subprocess.run(
        [sys.executable, tmp_path / "broken.py", "check", "--names", few_file],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    assert "wrong: not approximate: hpreact, bngain" in result.stdout


def test_train_save_resume_sample(few_file: Path, tmp_path: Path) -> None:
    whole, part = tmp_path / "whole.pt", tmp_path / "part.pt"
    options = ("--names", few_file, "--hidden", 20)
    first = run("train", *options, "--steps", 300, "--save", whole, "--check-gradients", 3)
    assert first.returncode == 0, first.stderr
    assert first.stderr == ""
    assert [row[0] for row in rows(first.stdout)] == [
        "C",
        "W1",
        "b1",
        "W2",
        "b2",
        "bngain",
        "bnbias",
    ]
    assert all(row[2] == "True" for row in rows(first.stdout))
    lines = first.stdout.splitlines()[8:]
    assert re.fullmatch(r"      0/    300: \d\.\d{4}", lines[0])
    for name, line in zip(("train", "val", "test"), lines[1:4], strict=True):
        assert re.fullmatch(rf"{name} \d\.\d{{4}}", line)
    assert len(lines) == 4 + 20 + 1
    assert re.fullmatch(r"300 steps in \d+\.\d s, [\d,]+ steps/s, plain", lines[-1])

    assert run("train", *options, "--steps", 100, "--save", part).returncode == 0
    second = run("train", "--names", few_file, "--steps", 300, "--resume", part, "--save", part)
    assert second.returncode == 0, second.stderr
    assert second.stdout.splitlines()[:-1] == lines[1:-1]
    for a, b in zip(load(whole).parameters, load(part).parameters, strict=True):
        assert torch.equal(a, b)

    sample = run("sample", "--from", whole, "--count", 20)
    assert sample.stdout.splitlines() == lines[4:-1]
    other = run("sample", "--from", whole, "--count", 5, "--seed", 1)
    assert len(other.stdout.splitlines()) == 5


def test_interrupted_run_goes_on_with_the_same_bits(few_file: Path, tmp_path: Path) -> None:
    whole, part = tmp_path / "whole.pt", tmp_path / "part.pt"
    arguments = ("train", "--names", few_file, "--hidden", 20, "--steps", 4000)
    process = subprocess.Popen(
        [sys.executable, "-m", "backprop_ops", *map(str, arguments), "--save", str(part)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline().startswith("      0/   4000: ")
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    step = load(part).step
    kept = f"{step} are kept: go on with --resume {part}"
    assert stderr == f"interrupted after {step} steps; {kept}\n"
    assert 0 < step < 4000

    assert run(*arguments, "--save", whole).returncode == 0
    assert run(*arguments, "--resume", part, "--save", part).returncode == 0
    for a, b in zip(load(whole).parameters, load(part).parameters, strict=True):
        assert torch.equal(a, b)


def test_interrupted_run_says_that_nothing_was_kept(
    few_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the training, and in the evaluation after it."""
    arguments = ["train", "--names", str(few_file), "--hidden", "20", "--steps", "30"]
    advance = Training.advance

    def interrupted(run: Training) -> object:
        if run.step == 12:
            signal.raise_signal(signal.SIGINT)
        return advance(run)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "advance", interrupted)
        assert main(arguments) == 130
    message = "interrupted after {} steps; nothing was kept; give --save FILE to keep a run\n"
    assert capsys.readouterr().err == message.format(13)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(network, "calibrate", interrupt)
    assert main(arguments) == 130
    assert capsys.readouterr().err == message.format(30)


def test_table_of_dlogits(few_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """For each character of the first row: softmax minus one-hot is n times dlogits."""
    assert main(["check", "--names", str(few_file), "--dtype", "float64"]) == 0
    page = capsys.readouterr().out
    softmax, one_hot, difference = (
        [float(number) for line in re.findall(rf"^{label} +(.*)$", page, re.MULTILINE)
         for number in line.split()]
        for label in ("softmax", "one-hot", "difference")
    )  # fmt: skip
    characters = " ".join(re.findall(r"^character +(.*)$", page, re.MULTILINE)).split()
    assert len(characters) == len(softmax) == len(one_hot) == len(difference)
    assert characters[:2] == [".", "a"]
    assert sum(one_hot) == 1
    for p, target, d in zip(softmax, one_hot, difference, strict=True):
        assert d == pytest.approx(p - target, abs=1e-4)


def test_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    """Help, with the commands and something to try; not 0, since nothing was checked."""
    assert main([]) == 2
    stdout, stderr = capsys.readouterr()
    assert stderr == ""
    assert "check every gradient of the lecture's network" in stdout
    assert "backprop-ops check FILE.py" in stdout


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    expected = f"backprop-ops {backprop_ops.__version__}, torch {torch.__version__}, Python 3."
    assert capsys.readouterr().out.startswith(expected)


BAD_ARGUMENTS = {
    "unknown command": (("chek",), "invalid choice: 'chek'"),
    "unknown option": (("check", "--hiden", 3), "unrecognized arguments: --hiden"),
    "batch of one": (("check", "--batch-size", 1), "variance divides by n - 1"),
    "training batch of one": (("train", "--batch-size", 1), "variance divides by n - 1"),
    "no hidden units": (("check", "--hidden", 0), "--hidden: '0' is no integer of 1 or more"),
    "text for a number": (("train", "--steps", "many"), "--steps: 'many' is no integer"),
    "negative seed": (("check", "--seed", -1), "--seed: '-1' is no integer of 0 or more"),
    "infinite rate": (("train", "--lr", "inf"), "--lr: 'inf' is no finite number above 0"),
    "unknown precision": (("check", "--dtype", "float8"), "invalid choice: 'float8'"),
    "missing names": (("check", "--names", "none.txt"), "none.txt: No such file or directory"),
    "folder of names": (("train", "--names", "."), ".: Is a directory"),
    "nowhere to save": (("train", "--save", "none/run.pt"), "none/run.pt: No such file"),
    "folder to save": (("train", "--save", "."), "--save: .: Is a directory"),
    "no checkpoint": (("train", "--resume", "none.pt"), "none.pt: No such file or directory"),
    "no network": (("sample", "--from", "none.pt"), "none.pt: No such file or directory"),
    "sample of what": (("sample",), "required: --from"),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), BAD_ARGUMENTS.values(), ids=BAD_ARGUMENTS)
def test_bad_arguments(
    capsys: pytest.CaptureFixture[str], arguments: tuple[object, ...], message: str
) -> None:
    assert_refused(capsys, arguments, message)


def test_refused_as_a_process(tmp_path: Path) -> None:
    result = run("check", "--names", tmp_path)
    assert result.returncode == 2
    expected = f"backprop-ops check: error: argument --names: {tmp_path}: Is a directory\n"
    assert result.stderr == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--hidden", 21), "--hidden: {} was trained with 20, got 21"),
        (("--steps", 5), "--steps: {} has done 10 steps, got 5 in all"),
    ],
)
def test_resumed_with_other_options(
    capsys: pytest.CaptureFixture[str],
    few: Dataset,
    few_file: Path,
    tmp_path: Path,
    options: tuple[object, ...],
    message: str,
) -> None:
    file = tmp_path / "run.pt"
    training = Training.start(Options(hidden=20), few)
    training.step = 10
    save(training, file)
    arguments = ("train", "--names", few_file, "--resume", file, *options)
    assert_refused(capsys, arguments, message.format(file))


PAIRS = """\
import torch
from typing import NamedTuple

from backprop_ops import Kept
from factors import TWO

def scaled(x, *, by=1.0):
    return x * x * by

def scaled_backward(dout, x, *, by):
    return -dout * 2 * x * by

def scaled_sample():
    return (torch.randn(2, 3),), {"by": 2.0}

class Square(NamedTuple):
    out: "torch.Tensor"
    double: "Kept"

def square(x: torch.Tensor) -> Square:
    return Square(x * x, TWO * x)

assert square.__annotations__["x"] is torch.Tensor  # unless the file says otherwise itself

def square_backward(dout, double):
    return double * dout

def square_sample():
    return (torch.randn(2, 3),)

def unsampled(x):
    return x

def unsampled_backward(dout):
    return dout

if __name__ == "__main__":
    raise SystemExit("not as a script")
"""


@pytest.fixture
def pairs_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file of pairs, which may also be checked in this process."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(context, "current", context.Context())  # for no table of this run
    file = tmp_path / "my_pairs.py"
    file.write_text(PAIRS)
    (tmp_path / "factors.py").write_text("TWO = 2\n")
    yield file
    for module in ("my_pairs", "my_pairs_py", "factors"):
        sys.modules.pop(module, None)


def test_check_of_a_right_pair(pairs_file: Path) -> None:
    result = run("check", f"{pairs_file}::square")
    assert result.returncode == 0, result.stderr
    verdict, row = result.stdout.splitlines()[:2]
    assert verdict == "square_backward: correct"
    assert rows(row.strip()) == [("dx", "True", "True", "0.0")]


def test_check_of_a_wrong_pair(pairs_file: Path) -> None:
    result = run("check", f"{pairs_file}::scaled", "--seed", 3)
    assert result.returncode == 1, result.stderr
    assert result.stdout.startswith("scaled_backward: wrong on your sample\n")
    assert "likely mistake (sign)" in result.stdout
    assert "from my_pairs import scaled, scaled_backward\n" in result.stdout
    assert "by = 2.0\n" in result.stdout
    assert "seed 3" in result.stdout
    assert run("check", f"{pairs_file}::scaled", "--seed", 3).stdout == result.stdout


def test_check_of_every_pair_of_a_file(
    pairs_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(pairs_file)]) == 1
    stdout, stderr = capsys.readouterr()
    assert re.findall(r"^(\w+_backward): ([\w ]+)$", stdout, re.MULTILINE) == [
        ("scaled_backward", "wrong on your sample"),
        ("square_backward", "correct"),
    ]
    assert "\n\nsquare_backward: correct\n" in stdout
    assert stdout.splitlines()[-2:] == ["", "1 of 2 pairs correct; wrong: scaled"]
    assert stderr == ""


def test_check_goes_on_after_a_pair_that_cannot_be_checked(
    pairs_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs_file.write_text(
        PAIRS.replace("def scaled_backward(dout, x", "def scaled_backward(dout, z")
    )
    assert main(["check", str(pairs_file)]) == 2
    stdout, stderr = capsys.readouterr()
    assert "square_backward: correct\n" in stdout
    assert len(stderr.splitlines()) == 1
    assert stderr.startswith(
        f"backprop-ops check: error: {pairs_file}: scaled_backward asks for 'z'"
    )


def test_check_in_json(pairs_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An object a line, those that cannot be checked too; the lecture's network is one."""
    pairs_file.write_text(f"{PAIRS}def alone(x): return x\ndef alone_sample(): return (1,)\n")
    assert main(["check", str(pairs_file), "--json", "--seed", "3"]) == 2
    stdout, _ = capsys.readouterr()
    scaled, square, alone = map(json.loads, stdout.splitlines())
    assert (scaled["reach"], scaled["seed"]) == ("sample", 3)
    assert scaled["failures"][0]["mistake"] == "sign"
    assert square["ok"]
    assert square["gradients"][0]["exact"]
    assert alone["error"].endswith("has no function 'alone_backward'")
    assert main(["check", "--json", "--hidden", "8"]) == 0
    network = json.loads(capsys.readouterr().out)
    assert network["ok"]
    assert [row["name"] for row in network["rows"]] == list(LECTURE_ROWS)


def test_check_in_colour(pairs_file: Path) -> None:
    coloured = run("check", f"{pairs_file}::square", FORCE_COLOR="1").stdout
    assert coloured.startswith("\x1b[1;32msquare_backward: correct\x1b[0m\n")
    assert "\x1b" not in run("check", f"{pairs_file}::square").stdout
    report = check(lambda x: x * 2, lambda dout: dout * 2, (torch.ones(2),), seed=0)
    assert report.__rich__().plain == str(report)


def test_check_of_a_file_twice_in_a_second(
    pairs_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Python would take the bytecode of the first for that of the second."""
    assert main(["check", f"{pairs_file}::scaled"]) == 1
    times = pairs_file.stat()
    pairs_file.write_text(PAIRS.replace("-dout *", "+dout *"))
    os.utime(pairs_file, (times.st_atime, times.st_mtime))
    assert main(["check", f"{pairs_file}::scaled"]) == 0
    assert "scaled_backward: correct" in capsys.readouterr().out


BAD_FILES = {
    "missing file": ("none.py::square", "", "none.py: No such file or directory"),
    "folder": (".::square", "", ".: Is a directory"),
    "no such function": (
        "my_pairs.py::sqare",
        "",
        "my_pairs.py has no function 'sqare': did you mean 'square'?",
    ),
    "no function": ("my_pairs.py::TWO", "", "has no function 'TWO'"),
    "no name": ("my_pairs.py::", "", "has no function ''"),
    "no backward": (
        "my_pairs.py::alone",
        "def alone(x): return x",
        "no function 'alone_backward'\n",
    ),
    "no sample": ("my_pairs.py::unsampled", "", "has no function 'unsampled_sample'\n"),
    "no sample at all": (
        "my_pairs.py",
        "del square_sample, scaled_sample",
        "my_pairs.py has no NAME with a NAME_sample",
    ),
    "sample is no tuple": (
        "my_pairs.py::square",
        "def square_sample(): return torch.ones(2)",
        "square_sample must return a tuple of arguments, got Tensor",
    ),
    "sample raises": (
        "my_pairs.py::square",
        "def square_sample():\n    return torch.ones(2) @ torch.ones(3)",
        "my_pairs.py, line 40: RuntimeError: ",
    ),
    "sample raises in two lines": (
        "my_pairs.py::square",
        "def square_sample(): raise ValueError('one\\ntwo')",
        "line 39: ValueError: one two\n",
    ),
    "import fails": (
        "my_pairs.py::square",
        "here = missing",
        "my_pairs.py, line 39: NameError: name 'missing' is not defined",
    ),
    "import exits": ("my_pairs.py::square", "raise SystemExit(3)", "line 39: SystemExit: 3"),
    "syntax": ("my_pairs.py::square", "def f(:", "my_pairs.py, line 39: SyntaxError: invalid"),
    "syntax of what it imports": (
        "my_pairs.py::square",
        "from pathlib import Path; Path('bad.py').write_text('f(')\nimport bad",
        "my_pairs.py, line 40: SyntaxError: '(' was never closed (bad.py, line 1)",
    ),
    "forward that refuses its sample": (
        "my_pairs.py::square",
        "def square_sample(): return (torch.ones(2), 1)",
        "raises TypeError on the sample: square() takes 1 positional",
    ),
    "no pair": (
        "my_pairs.py::square",
        "def square_backward(dout, doubel): return doubel * dout",
        "my_pairs.py: square_backward asks for 'doubel'",
    ),
    "option of the network": (
        "my_pairs.py::square --batch-size 9",
        "",
        "argument --batch-size: is for the lecture's network, not for my_pairs.py::square",
    ),
}


@pytest.mark.parametrize(("command", "source", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_file_that_cannot_be_checked(
    pairs_file: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    source: str,
    message: str,
) -> None:
    monkeypatch.chdir(pairs_file.parent)
    pairs_file.write_text(f"{PAIRS}{source}\n")
    assert_refused(capsys, ("check", *command.split()), message)


def test_file_that_cannot_be_checked_as_a_process(pairs_file: Path) -> None:
    pairs_file.write_text("import torch\n\n1 / 0\n")
    result = run("check", pairs_file)
    assert result.returncode == 2
    expected = f"{pairs_file}, line 3: ZeroDivisionError: division by zero\n"
    assert result.stderr == f"backprop-ops check: error: {expected}"


def test_reader_that_has_seen_enough(few_file: Path) -> None:
    command = [sys.executable, "-m", "backprop_ops", "check", "--names", str(few_file)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout
    assert process.stderr
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(timeout=60) == 1


def test_help_needs_no_torch() -> None:
    code = "import sys; from backprop_ops.cli import main\ntry: main(['--help'])\n"
    code += "except SystemExit: assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
