"""`isolate=True`: native code that crashes or hangs is a failure, and the check goes on."""

from __future__ import annotations

import ctypes
import time
from typing import Any

import pytest
import torch
from torch import Tensor

from backprop_ops import check
from backprop_ops.checking import isolation

pytestmark = pytest.mark.usefixtures("unseen")

X = torch.tensor([[0.5, -1.25, 2.0], [1.5, 0.75, -0.5]])


def square(x):
    return x * x


def square_backward(dout, x):
    return 2 * x * dout


def reads_nowhere(dout, x):
    """As a kernel that takes another stride for granted."""
    if not dout.is_contiguous():
        ctypes.string_at(0)
    return 2 * x * dout


def waits_at_one_row(dout, x):
    if x.shape[0] == 1:
        time.sleep(60)
    return 2 * x * dout


def taken(x, index):
    """A forward that reads past its end."""
    if int(index.max()) >= len(x) or int(index.min()) < 0:
        ctypes.string_at(0)
    return x[index]


def taken_backward(dout, x, index):
    return torch.zeros_like(x).index_add(0, index, dout)


def test_a_right_backward() -> None:
    report = check(square, square_backward, (X,), isolate=True, seed=0)
    assert report, str(report)
    assert "isolate: what is kept from one case to the next is not seen" in report.notes
    assert [str(row) for row in report.comparisons] == [
        str(row) for row in check(square, square_backward, (X,), seed=0).comparisons
    ]


@pytest.mark.parametrize("name", ["sign", "value beyond"])
def test_a_wrong_backward_reads_as_without(name: str) -> None:
    def backward(dout: Tensor, x: Tensor) -> Tensor:
        return -2 * x * dout if name == "sign" else 2 * x.clamp(-50, 50) * dout

    apart, here = (check(square, backward, (X,), isolate=on, seed=0) for on in (True, False))
    assert str(apart.failures[0]) == str(here.failures[0])


def test_a_backward_that_crashes() -> None:
    report = check(square, reads_nowhere, (X,), isolate=True, seed=0)
    assert report.failures[0].property == "call"
    assert report.failures[0].message == "reads_nowhere crashes: SIGSEGV"
    assert report.verdict == "wrong on inputs like yours"
    assert report.failures[0].reproduce.endswith("dx = square_backward(dout, x)") or (
        report.failures[0].reproduce.endswith("square_backward(dout, x)")
    )
    assert report.comparisons[0].exact


def test_a_backward_that_crashes_on_the_sample() -> None:
    def backward(dout: Tensor) -> Any:
        return ctypes.string_at(0) and dout

    report = check(square, backward, (X,), isolate=True, seed=0)
    assert report.verdict == "wrong on your sample"
    assert report.failures[0].message == "backward crashes: SIGSEGV"


def test_a_backward_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "MOST_SECONDS", 1.0)
    report = check(square, waits_at_one_row, (X,), isolate=True, seed=0)
    assert report.failures[0].message == "waits_at_one_row does not come back in 1 s"
    assert report.failures[0].variation == "x.shape[0] is 1"


def test_a_forward_that_crashes_has_no_case_there() -> None:
    args = (torch.randn(5, 3), torch.tensor([1, 4, 0, 1]))
    report = check(taken, taken_backward, args, isolate=True, seed=0)
    assert report, str(report)


def test_a_forward_that_crashes_on_the_sample() -> None:
    args = (torch.randn(5, 3), torch.tensor([1, 5]))
    with pytest.raises(ValueError, match="taken, the forward, crashes: SIGSEGV on the sample"):
        check(taken, taken_backward, args, isolate=True)


def test_elsewhere_than_on_the_cpu() -> None:
    with pytest.raises(ValueError, match="isolate: works on the CPU alone, got a Tensor on meta"):
        check(square, square_backward, (X.to("meta"),), isolate=True)
