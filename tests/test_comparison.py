"""The lecture's ``cmp``."""

from __future__ import annotations

import math
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, ones, tensor

from backprop_ops import cmp, compare
from tests.support.notebook import notebook


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
    monkeypatch.setitem(sys.modules, "IPython", notebook(shell))
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


E = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
SQUARE = E[:4]
RIGHT = "of the right one, and"


@pytest.mark.parametrize(("grad", "expected", "mistake", "explanation"), [
    (-E, E, "sign", "minus the right one"),
    (-E[0, 0], E[0, 0], "sign", "minus the right one"),
    (0 * E, E, "zero-gradient", "zero everywhere"),
    (2.5 * E, E, "factor", "2.5 × the right one"),
    (-6 * E, E, "factor", "-6 × the right one"),
    (6 * E, E, "factor",
     "6 × the right one, and 6 is the size of dimension 0: a mean's 1/n is missing"),
    (E / 4, E, "factor", f"1/4 {RIGHT} 4 is the size of dimension 1: a 1/n is too much"),
    (E / 24, E, "factor", f"1/24 {RIGHT} 24 is the number of entries: a 1/n is too much"),
    (E * 5 / 6, E, "bessel",
     f"5/6 {RIGHT} 6 is the size of dimension 0: n and n - 1 are exchanged"),
    (E * 6 / 5, E, "bessel",
     f"6/5 {RIGHT} 6 is the size of dimension 0: n and n - 1 are exchanged"),
    (2 * E[:, :2], E[:, :2], "factor", "2 × the right one"),
    (SQUARE.mT, SQUARE, "transposed", "right if dimensions 0 and 1 are exchanged"),
    (E.mT, E, "transposed", "right if dimensions 0 and 1 are exchanged"),
    (E.view(3, 2, 4).permute(0, 2, 1), E.view(3, 2, 4), "transposed",
     "right if dimensions 1 and 2 are exchanged"),
    (E, E.sum(0), "missing-reduction", "right if summed over dimension 0"),
    (E, E.sum(1, keepdim=True), "missing-reduction", "right if summed over dimension 1"),
    (E, E.mean(0, keepdim=True), "missing-reduction", "right if averaged over dimension 0"),
    (E, E.sum(), "missing-reduction", "right if summed over dimensions (0, 1)"),
    (E[0], E[:1], "shape", "right if reshaped"),
    (E.flatten(), E, "shape", "right if reshaped"),
    (E[:, None], E, "shape", "right if reshaped"),
])  # fmt: skip
def test_likely_mistake(grad: Tensor, expected: Tensor, mistake: str, explanation: str) -> None:
    comparison = compare("x", grad, with_grad(expected))
    assert (comparison.mistake, comparison.explanation) == (mistake, explanation)
    assert f"{comparison.maxdiff} | {mistake}: {explanation}" in str(comparison)
    also = compare("x", grad.double(), with_grad(expected.double()))
    assert (also.mistake, also.explanation) == (mistake, explanation)


def test_an_entry_where_terms_cancel() -> None:
    """It is rounded as the largest is, so that it is no multiple of the right one."""
    grad, expected = -E, E.clone()
    expected[0, 0], grad[0, 0] = 1e-9, 2e-7
    assert compare("x", grad, with_grad(expected)).mistake == "sign"


def but_for_one_entry(grad: Tensor) -> Tensor:
    grad = grad.clone()
    grad[2, 1] += 0.01
    return grad


@pytest.mark.parametrize(("grad", "expected"), [
    *[(but_for_one_entry(grad), E) for grad in (E, -E, 2.5 * E, 0 * E, 6 * E)],
    (but_for_one_entry(SQUARE).mT, SQUARE),
    (but_for_one_entry(E), E.sum(0)),
    (but_for_one_entry(E)[None], E),
    (E, ones(5)),
    (E, 0 * E),
    (2.5 * E[0, :1], E[0, :1]),  # one entry is a multiple of any other
    (E[0, :1], 0 * E[0, :1]),
    (E.double(), E),  # the reason says it all
    (E * 1j, E * (1 + 1j)),
    (E * math.nan, E),
    (E, E * math.inf),
    (E[:0], E),
    (E, E[:0]),
    (E[:0], E[:0].mT),
    (0 * E.double(), 0 * E),
])  # fmt: skip
def test_no_mistake_explains_every_entry(grad: Tensor, expected: Tensor) -> None:
    comparison = compare("x", grad, with_grad(expected))
    assert not comparison
    assert comparison.mistake is None
    assert str(comparison).count("|") == (4 if comparison.reason else 3)


def test_an_approximate_line_is_the_lectures() -> None:
    tiny = compare("x", tensor([1e-9, 2e-9]), with_grad(tensor([-1e-9, -2e-9])))
    assert tiny
    assert str(tiny).endswith(f"| maxdiff: {tiny.maxdiff}")


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
