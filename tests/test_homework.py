"""The exercises as homework: what is written, and what a learner is told of an answer."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from backprop_ops.checking.userfile import FileError
from backprop_ops.cli import main
from backprop_ops.homework import answers
from backprop_ops.homework.answers import UnfinishedError, judge, template

PICKED = "torch.zeros_like(logprobs).index_put((torch.arange(n), Yb), {} * torch.ones_like(loss))"

pytestmark = pytest.mark.usefixtures("unseen")

OUTPUT = {
    "dh": "dlogits @ W2.T",
    "dW2": "h.T @ dlogits",
    "db2": "dlogits.sum(0)",
    "dhpreact": "(1 - h**2) * dh",
    "dbngain": "(bnraw * dhpreact).sum(0, keepdim=True)",
    "dbnbias": "dhpreact.sum(0, keepdim=True)",
}
INPUT = {
    "dembcat": "dhprebn @ W1.T",
    "dW1": "embcat.T @ dhprebn",
    "db1": "dhprebn.sum(0)",
    "demb": "dembcat.view(emb.shape)",
    "dC": "torch.zeros_like(C).index_add(0, Xb.flatten(), demb.view(-1, C.shape[1]))",
}
ANSWERS = {
    1: {
        "dlogprobs": PICKED.format("-1 / n"),
        "dprobs": "dlogprobs / probs",
        "dcounts_sum_inv": "(counts * dprobs).sum(1, keepdim=True)",
        "dcounts_sum": "-(counts_sum**-2) * dcounts_sum_inv",
        "dcounts": "counts_sum_inv * dprobs + torch.ones_like(counts) * dcounts_sum",
        "dnorm_logits": "counts * dcounts",
        "dlogit_maxes": "-dnorm_logits.sum(1, keepdim=True)",
        "dlogits": "dnorm_logits.scatter_add(1, logits.argmax(1, keepdim=True), dlogit_maxes)",
        **OUTPUT,
        "dbnraw": "bngain * dhpreact",
        "dbnvar_inv": "(bndiff * dbnraw).sum(0, keepdim=True)",
        "dbnvar": "-0.5 * (bnvar + 1e-5) ** -1.5 * dbnvar_inv",
        "dbndiff2": "1 / (n - 1) * torch.ones_like(bndiff2) * dbnvar",
        "dbndiff": "bnvar_inv * dbnraw + 2 * bndiff * dbndiff2",
        "dbnmeani": "-dbndiff.sum(0, keepdim=True)",
        "dhprebn": "dbndiff + 1 / n * torch.ones_like(hprebn) * dbnmeani",
        **INPUT,
    },
    2: {"dlogits": "(F.softmax(logits, 1) - F.one_hot(Yb, logits.shape[1])) / len(Yb)"},
    3: {
        "dhprebn": "bngain * bnvar_inv / n * (n * dhpreact - dhpreact.sum(0)"
        " - n / (n - 1) * bnraw * (dhpreact * bnraw).sum(0))"
    },
    4: {
        "dlogits": "(F.softmax(logits, 1) - F.one_hot(Yb, logits.shape[1])) / n",
        **OUTPUT,
        "dhprebn": "bngain * bnvar_inv / n * (n * dhpreact - dhpreact.sum(0)"
        " - n / (n - 1) * bnraw * (dhpreact * bnraw).sum(0))",
        **INPUT,
    },
}  # fmt: skip


def answered(folder: Path, number: int, **lines: str | None) -> Path:
    """The file of an exercise with the right answers, but for ``lines``; None is left empty."""
    file = folder / f"exercise_{number}.py"
    text = template(number, file)
    for name, line in {**ANSWERS[number], **lines}.items():
        text = text.replace(f"    {name} = None\n", f"    {name} = {line}\n")
    file.write_text(text)
    return file


@pytest.mark.parametrize("number", ANSWERS)
def test_right_answers(number: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert judge(number, answered(tmp_path, number))
    page = capsys.readouterr().out
    assert "correct" in page
    if number == 4:
        early, late = re.findall(r"went from (\S+) to (\S+)", page)[0]
        assert float(late) < float(early) - 0.3


WRONG = {
    "the loss is a mean of minus": (
        1,
        {"dlogprobs": PICKED.format("1 / n")},
        "logprobs .*sign: minus the right one",
    ),
    "the mean forgotten": (
        1,
        {"dlogprobs": PICKED.format("-1")},
        "logprobs .*factor: 32 × the right one",
    ),
    "a sum where counts_sum_inv was broadcast": (
        1, {"dcounts_sum_inv": "counts * dprobs"}, r"counts_sum_inv .*shape .*\(32, 27\)",
    ),
    "the second use of counts": (
        1, {"dcounts": "counts_sum_inv * dprobs"}, "^counts .*term",
    ),
    "the input of tanh for its output": (
        1, {"dhpreact": "(1 - hpreact**2) * dh"}, "^dhpreact: .*tanh is 1 minus its output squared",
    ),
    "W2 not transposed": (1, {"dW2": "dlogits.T @ h"}, "^W2 .*transposed"),
    "n for Bessel's n - 1": (
        1,
        {"dbndiff2": "1 / n * torch.ones_like(bndiff2) * dbnvar"},
        "^bndiff2 .*n and n - 1 are exchanged",
    ),
    "a character that occurs twice": (
        1,
        {"dC": "torch.zeros_like(C).index_put((Xb.flatten(),), demb.view(-1, C.shape[1]))"},
        "^dC: .*looked up more than once gets the sum",
    ),
    "one formula without its mean": (
        2,
        {"dlogits": "F.softmax(logits, 1) - F.one_hot(Yb, logits.shape[1])"},
        "mean's 1/n is missing",
    ),
    "one formula with the sign turned": (
        2,
        {"dlogits": "(F.one_hot(Yb, logits.shape[1]) - F.softmax(logits, 1)) / len(Yb)"},
        r"likely mistake \(sign\)",
    ),
    "the paper's n in one formula": (
        3,
        {"dhprebn": ANSWERS[3]["dhprebn"].replace("n / (n - 1) * bnraw", "bnraw")},
        "likely mistake .*n - 1",
    ),
    "the gain forgotten": (
        4,
        {"dhprebn": ANSWERS[4]["dhprebn"].replace("bngain * ", "")},
        "^dhprebn: hprebn is used in",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_hints(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    number, lines, hint = WRONG[name]
    assert not judge(number, answered(tmp_path, number, **lines))
    page = capsys.readouterr().out
    assert re.search(hint, page, re.MULTILINE), page
    assert "wrong" in page


def test_an_answer_in_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    below = dict.fromkeys(list(ANSWERS[1])[3:])
    assert not judge(1, answered(tmp_path, 1, **below))
    page = capsys.readouterr().out
    assert "correct: " in page
    assert "still empty: dcounts_sum, dcounts, dnorm_logits, " in page


@pytest.mark.parametrize("number", ANSWERS)
def test_an_empty_answer(number: int, tmp_path: Path) -> None:
    file = answered(tmp_path, number, **dict.fromkeys(ANSWERS[number]))
    with pytest.raises(UnfinishedError, match="backward is empty"):
        judge(number, file)


def test_an_answer_that_returns_nothing(tmp_path: Path) -> None:
    file = answered(tmp_path, 1)
    lines = file.read_text().splitlines()
    file.write_text("\n".join(lines[:-1]))
    with pytest.raises(UnfinishedError, match="backward must end in `return locals"):
        judge(1, file)


def test_an_error_names_its_line(tmp_path: Path) -> None:
    file = answered(tmp_path, 1, dh="dlogits @ W2")
    line = file.read_text().splitlines().index("    dh = dlogits @ W2") + 1
    with pytest.raises(FileError, match=f"exercise_1.py, line {line}: RuntimeError: mat1 and mat2"):
        judge(1, file)


def test_a_process_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Which may not end, and may end itself."""
    file = tmp_path / "answer.py"
    assert main(["exercise", "2", "--out", str(file)]) == 0
    with pytest.raises(SystemExit, match="2"):
        main(["exercise", "2", "--out", str(file)])
    assert main(["exercise", "2", "--check", str(file)]) == 1
    assert "backward is empty" in capfd.readouterr().out
    file.write_text("while True:\n    pass\n")
    monkeypatch.setattr(answers, "MOST_SECONDS", 5.0)
    assert main(["exercise", "2", "--check", str(file)]) == 2
    assert "does not end within 5 s" in capfd.readouterr().err
