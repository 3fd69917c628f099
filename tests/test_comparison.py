"""The lecture's ``cmp``."""

from __future__ import annotations

import math
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, ones, tensor

from backprop_ops import cmp, compare


def with_grad(grad: Tensor) -> Tensor:
    value = torch.zeros(grad.shape, dtype=grad.dtype, requires_grad=True)
    value.grad = grad
    return value


def test_prints_the_lectures_line(capsys: pytest.CaptureFixture[str]) -> None:
    comparison = cmp("logits", tensor([1.0, 2.0]), with_grad(tensor([1.0, 2.0])))
    line = "logits          | exact: True  | approximate: True  | maxdiff: 0.0"
    assert capsys.readouterr().out == line + "\n"
    assert str(comparison) == line
    assert comparison


def test_compare_does_not_print(capsys: pytest.CaptureFixture[str]) -> None:
    compare("x", ones(2), with_grad(ones(2)))
    assert capsys.readouterr().out == ""


def test_a_notebook_shows_a_line_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a later cell shows what an earlier one compared."""
    shell = SimpleNamespace(execution_count=3)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    printed, quiet = (
        cmp("x", ones(2), with_grad(ones(2))),
        compare("x", ones(2), with_grad(ones(2))),
    )
    assert printed == quiet
    assert capsys.readouterr().out == f"{printed}\n"
    printed._ipython_display_()
    assert capsys.readouterr().out == ""
    quiet._ipython_display_()
    shell.execution_count = 4
    printed._ipython_display_()
    assert capsys.readouterr().out == f"{quiet}\n{printed}\n"


def test_approximate_as_allclose() -> None:
    near = compare("x", tensor([1.0 + 1e-6]), with_grad(ones(1)))
    assert not near.exact
    assert near.approximate
    assert 0 < near.maxdiff < 2e-6
    far = compare("x", tensor([1.5]), with_grad(ones(1)))
    assert not far.approximate
    assert not far
    assert far.maxdiff == 0.5


@pytest.mark.parametrize(("grad", "reason"), [
    (ones(64), "shape (64,), expected (1, 64)"),
    (ones(1, 64).double(), "dtype torch.float64, expected torch.float32"),
])  # fmt: skip
def test_wrong_shape_or_dtype_is_never_approximate(grad: Tensor, reason: str) -> None:
    comparison = compare("bnmeani", grad, with_grad(ones(1, 64)))
    assert not comparison.exact
    assert not comparison.approximate
    assert str(comparison).endswith(reason)


def test_intermediate_with_retained_gradient() -> None:
    x = ones(3, requires_grad=True)
    h = x * 2
    h.retain_grad()
    h.sum().backward()
    assert cmp("h", ones(3), h).exact


@pytest.mark.parametrize("retained", [True, False])
def test_no_gradient_to_compare_with(retained: bool) -> None:
    """Neither a bare AttributeError nor torch's warning, which would be an error here."""
    h = ones(3, requires_grad=True) * 2
    if retained:
        h.retain_grad()
    with pytest.raises(ValueError, match=r"h: tensor has no .grad to compare with"):
        cmp("h", ones(3), h)


def test_what_is_no_tensor() -> None:
    with pytest.raises(TypeError, match="x: grad must be a Tensor, got list"):
        cmp("x", [1.0], with_grad(ones(1)))
    with pytest.raises(TypeError, match="x: tensor must be a Tensor, got NoneType"):
        cmp("x", ones(1), None)


def test_nan_and_infinity() -> None:
    nan = compare("x", tensor([math.nan]), with_grad(tensor([math.nan])))
    assert not nan.approximate
    assert math.isnan(nan.maxdiff)
    infinite = compare("x", tensor([math.inf]), with_grad(tensor([math.inf])))
    assert infinite.exact
    assert infinite.maxdiff == 0


def test_empty() -> None:
    assert compare("x", ones(0, 3), with_grad(ones(0, 3))).exact


def test_sparse_gradient() -> None:
    embedding = torch.nn.Embedding(5, 3, sparse=True)
    embedding(tensor([1, 1, 2])).sum().backward()
    expected = tensor([0.0, 2.0, 1.0, 0.0, 0.0]).unsqueeze(1).expand(5, 3)
    assert compare("weight", expected, embedding.weight).exact
