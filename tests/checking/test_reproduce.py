"""The code of a report: it fails when it is pasted, and holds once the backward is mended."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from backprop_ops import check
from backprop_ops.checking.reproduce import HERE_ALONE, literal
from tests.corpus import entries, newcomers
from tests.students.lecture import MISTAKES
from tests.support.mended import run

pytestmark = pytest.mark.usefixtures("unseen")

X = torch.tensor([[0.5, -1.25, 2.0], [1.5, 0.75, -0.5]])


def assert_reproduced(
    forward: Callable[..., Any], backward: Any, args: tuple[Any, ...], options: Any, **given: Any
) -> None:
    report = check(forward, backward, args, options, seed=0, **given)
    assert report.failures
    for failure in report.failures:
        assert HERE_ALONE not in failure.reproduce, failure.reproduce
        if "check again" in failure.reproduce:
            continue
        with pytest.raises(Exception):  # noqa: B017, PT011  # the assertion, or the backward's own
            run(failure.reproduce, forward, backward, mend=False)
        if failure.property != "call":
            run(failure.reproduce, forward, backward, mend=True)


@pytest.mark.filterwarnings("ignore")  # of a variance of one row
@pytest.mark.parametrize("name", MISTAKES)
def test_of_students(name: str) -> None:
    entry = MISTAKES[name]
    assert_reproduced(entry.forward, entry.backward, entry.args, entry.options)


@pytest.mark.exhaustive
@pytest.mark.filterwarnings("ignore")  # as above
@pytest.mark.parametrize("name", entries()[0])
def test_of_the_corpus(name: str) -> None:
    entry = entries()[0][name]
    assert_reproduced(entry.forward, entry.backward, entry.args, entry.kwargs)


def test_pasted_into_a_fresh_process(tmp_path: Path) -> None:
    report = check(newcomers.relu, newcomers.more_than_one_at_zero, (X,), seed=0)
    (tmp_path / "pasted.py").write_text(report.failures[0].reproduce)
    command = [sys.executable, str(tmp_path / "pasted.py")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("AssertionError: dx[0, 0] is 1.29999995")
    assert last.endswith("autograd says 0")


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (torch.tensor([0.1, -1.69, 2.0]), "torch.tensor([0.1, -1.69, 2.0])"),
        (torch.tensor(1 / 3), "torch.tensor(0.33333334)"),
        (torch.tensor([1 / 3]).bfloat16(), "torch.tensor([0.334], dtype=torch.bfloat16)"),
        (torch.tensor([[1.0, -torch.inf]]), 'torch.tensor([[1.0, float("-inf")]])'),
        (torch.zeros(0, 2), "torch.zeros((0, 2), dtype=torch.float32)"),
        (torch.tensor([1, 2]), "torch.tensor([1, 2])"),
    ],
)
def test_literals_have_the_fewest_digits(x: Tensor, text: str) -> None:
    assert literal(x) == text
    again = eval(text)
    assert torch.equal(again, x)
    assert again.dtype == x.dtype


@pytest.mark.parametrize("lay_out", [lambda x: x.mT, lambda x: x[:, :1].contiguous().expand(2, 3)])
def test_literals_have_the_layout(lay_out: Callable[[Tensor], Tensor]) -> None:
    x = lay_out(X)
    again = eval(literal(x))
    assert torch.equal(again, x)
    assert again.stride() == x.stride()


@pytest.mark.parametrize("value", [(), (1,), (1, 2), [], [0.5]])
def test_literals_of_sequences(value: Any) -> None:
    assert eval(literal(value)) == value


def test_a_difference_in_the_last_digits_is_shown() -> None:
    def noisy(dout, x):
        return dout * 2 * x * (1 + 1e-8 * torch.rand((), dtype=x.dtype))

    report = check(lambda x: x * x, noisy, (torch.tensor([[0.5]], dtype=torch.float64),), seed=0)
    assert HERE_ALONE not in report.failures[0].reproduce
    assert "first" in report.failures[0].reproduce


def test_a_lambda_has_a_name_in_the_code() -> None:
    report = check(lambda x: x * x, lambda dout, x: dout * x, (X,), seed=0)
    code = report.failures[0].reproduce
    assert "# put forward here, as you gave it to check" in code
    assert "result = forward(x)" in code
    assert HERE_ALONE not in code


@torch.library.custom_op("backprop_ops_tests::tripled", mutates_args=())
def tripled(x: Tensor) -> Tensor:
    return x * 3


tripled.register_autograd(lambda _, dout: dout * 2)


def test_a_custom_op_has_its_own_names() -> None:
    report = check(tripled, None, (X,), seed=0)
    assert report.name == "tripled_backward"
    assert "import tripled\n" in report.failures[0].reproduce
    assert report.failures[0].input == "dx"


def test_two_backwards_of_one_forward_have_two_names() -> None:
    reports = [
        check(newcomers.relu, backward, (X,), seed=0, reach="sample")
        for backward in (newcomers.more_than_one_at_zero, lambda dout, x: dout * (x > 0))
    ]
    assert [report.name for report in reports] == ["more_than_one_at_zero", "relu_backward"]
