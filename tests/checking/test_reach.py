"""How far from its sample a check goes, and what `domain` and `gradient_of` take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from backprop_ops import check
from backprop_ops.checking.structure import STRUCTURES, Structures, alike

pytestmark = pytest.mark.usefixtures("unseen")

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(4, 3, generator=GENERATOR)


def square(x):
    return x * x


def where(wrong: Callable[[Tensor], Tensor | bool]) -> Callable[..., Tensor]:
    """The backward of `square`, with a mistake where a condition on the input holds."""
    return lambda dout, x: 2 * x * dout * (1.1 if bool(wrong(x)) else 1)


FARTHER: dict[str, tuple[Callable[..., Any], str, str]] = {
    "everywhere": (where(lambda _: True), "sample", "wrong on your sample"),
    "other sizes": (where(lambda x: x.shape[0] != 4), "alike", "wrong on inputs like yours"),
    "large": (
        where(lambda x: x.abs().amax() > 1e3),
        "beyond",
        "wrong beyond: when x is up to ±1e4",
    ),
    "in float64": (where(lambda x: x.dtype == torch.float64), "beyond", "wrong beyond: in float64"),
    "when zero": (where(lambda x: not x.any()), "beyond", "wrong beyond: when x is "),
}


@pytest.mark.parametrize("name", FARTHER)
def test_the_report_says_how_far_it_had_to_go(name: str) -> None:
    backward, reach, verdict = FARTHER[name]
    if name == "when zero":
        backward = lambda dout, x: 2 * x * dout + (0 if x.any() else dout)  # noqa: E731
    report = check(square, backward, (X,), seed=0)
    assert report.reach == reach == report.failures[0].reach
    assert str(report).splitlines()[0].startswith(f"square_backward: {verdict}")
    nearer = {"sample": None, "alike": "sample", "beyond": "alike"}[reach]
    if nearer is not None:
        assert check(square, backward, (X,), seed=0, reach=nearer).ok
    assert check(square, backward, (X,), seed=0, reach=reach).reach == reach


def test_a_right_one_has_no_reach() -> None:
    assert check(square, where(lambda _: False), (X,), seed=0).reach is None


BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "reach": (
        {"reach": "near"},
        ValueError,
        "reach must be one of 'sample', 'alike', 'beyond', got",
    ),
    "domain": (
        {"domain": 3},
        TypeError,
        "domain must be a predicate or a dict of functions, got int",
    ),
    "domain of another name": (
        {"domain": lambda y: True},  # noqa: ARG005
        ValueError,
        "domain: 'y' is no argument of square, which takes x",
    ),
    "map of another name": ({"domain": {"xs": abs}}, ValueError, "domain: .* did you mean 'x'"),
    "map that is none": (
        {"domain": {"x": 3}},
        TypeError,
        "domain: 'x' must have a function, got int",
    ),
    "domain without the sample": (
        {"domain": lambda x: (x > 0).all()},
        ValueError,
        "domain: the predicate is false on square's sample",
    ),
    "gradient_of": ({"gradient_of": 3}, TypeError, "gradient_of must be a function, got int"),
    "gradient_of raises": (
        {"gradient_of": lambda x: x @ X},
        ValueError,
        "the gradient_of, raises RuntimeError on the sample",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_keyword(name: str) -> None:
    keywords, error, message = BAD[name]
    with pytest.raises(error, match=message):
        check(square, where(lambda _: False), (X,), **keywords)


def seen(domain: Any, x: Tensor) -> list[Tensor]:
    """All inputs that the backward got in a check with a domain."""
    inputs: list[Tensor] = []

    def backward(dout, x):
        inputs.append(x.detach().clone())
        return 2 * x * dout

    assert check(square, backward, (x,), seed=0, domain=domain)
    return inputs


def test_nothing_outside_of_a_domain() -> None:
    inputs = seen(lambda x: (x > 0).all(), X.abs() + 0.1)
    assert len(inputs) > 50
    assert all((x > 0).all() for x in inputs)
    assert max(x.amax().item() for x in inputs) > 1e3  # as hard as elsewhere


def test_maps_into_a_domain() -> None:
    matrix = X[:3] @ X[:3].mT + torch.eye(3)
    inputs = seen({"x": lambda m: m @ m.mT + torch.eye(len(m), dtype=m.dtype)}, matrix)
    finite = [x.double() for x in inputs if x.isfinite().all() and x.dtype == torch.float32]
    assert any(x.shape != matrix.shape for x in finite)
    assert all(torch.allclose(x, x.mT, rtol=1e-3) for x in finite)


MEMBERS: dict[str, Tensor] = {
    "orthogonal": torch.linalg.qr(torch.randn(4, 4, generator=GENERATOR)).Q,
    "symmetric": X[:3] + X[:3].mT,
    "positive-definite": X @ X.mT + torch.eye(4),
    "lower triangular": X[:3].tril(),
    "upper triangular": X[:3].triu(),
    "diagonal": torch.diag(torch.tensor([1.5, -2.0, 0.3])),
    "made of rows that sum to one": X.softmax(1),
    "made of columns that sum to one": X.softmax(0),
    "made of unit rows": X / X.norm(dim=1, keepdim=True),
    "made of one-hot rows": torch.eye(3)[[2, 0, 1, 1]],
    "a permutation": torch.tensor([3, 0, 6, 2, 7, 1, 5, 4]),
    "made of whole numbers": torch.tensor([3.0, -1, 0, 2, 2, 5, -4, 1]),
    "nowhere negative": X.abs(),
    "nowhere positive": -X.abs(),
}


@pytest.mark.parametrize("adjective", MEMBERS)
def test_another_member_of_a_structure(adjective: str) -> None:
    sample = MEMBERS[adjective]
    shown = Structures.shown_by({"x": sample})
    assert adjective in [structure.name for structure in shown.of["x"]]
    other = torch.randn(sample.shape, generator=GENERATOR).to(sample.dtype)
    assert shown.left({"x": other})
    kept = shown.kept({"x": other}, ["x"], torch.Generator().manual_seed(1))
    assert kept is not None
    assert not shown.left(kept)
    assert not torch.equal(kept["x"], sample)


@pytest.mark.parametrize(
    "sorted_values", [X.flatten().sort().values, torch.tensor([0, 2, 6, 7, 9, 9, 12])]
)
def test_sorted_values(sorted_values: Tensor) -> None:
    shown = Structures.shown_by({"x": sorted_values})
    assert "x is not sorted, which your sample is" in shown.left({"x": sorted_values.flip(0)})
    kept = shown.kept({"x": sorted_values.flip(0)}, ["x"], torch.Generator().manual_seed(1))
    assert kept is not None
    assert (kept["x"].diff() >= 0).all()


@pytest.mark.parametrize(
    "x",
    [torch.ones(4, 4), torch.zeros(3), torch.eye(4), 2 * torch.eye(3), X, torch.tensor([1, 0, 2])],
)
def test_what_is_no_structure(x: Tensor) -> None:
    """An initialisation, and what chance may have."""
    assert not Structures.shown_by({"x": x}).of


def test_two_indices_that_undo_each_other() -> None:
    order = MEMBERS["a permutation"]
    shown = Structures.shown_by({"order": order, "inverse": order.argsort()})
    changed = {"order": order.flip(0), "inverse": order.argsort()}
    (left,) = shown.left(changed)
    assert left.startswith("order and inverse do not undo each other")
    kept = shown.kept(changed, ["order"], torch.Generator().manual_seed(1))
    assert kept is not None
    assert torch.equal(kept["order"][kept["inverse"]], torch.arange(8))


def test_values_like_the_samples() -> None:
    x = torch.tensor([0.0, 2.0, 2.0, -3.0, -torch.inf, 1.0])
    other = alike(x, torch.Generator().manual_seed(0))
    assert other[0] == 0
    assert other[1] == other[2] != 2
    assert other[4] == -torch.inf
    ordinary = other[[1, 3, 5]].abs() / x[[1, 3, 5]].square().mean().sqrt()
    assert ((ordinary > 0.2) & (ordinary < 5)).all()
    assert (alike(X.abs(), GENERATOR) > 0).all()
    assert len(alike(torch.ones(5), GENERATOR).unique()) == 5  # of an initialisation no ties


def test_every_structure_has_a_member_here() -> None:
    tried = {*MEMBERS, "sorted", "made of unit columns", "made of one-hot columns"}
    assert {structure.name for structure in STRUCTURES} <= tried


def test_a_budget() -> None:
    """What it does not reach is a note, and found with more of it."""
    backward = where(lambda x: x.abs().amax() > 1e3)
    report = check(square, backward, (X,), seed=0, budget=1e-9)
    assert report.ok
    (note,) = report.notes
    assert note.startswith("budget: 1e-09 s of the processor are spent")
    assert not check(square, backward, (X,), seed=0)
    for budget in (0, -1, "a"):
        with pytest.raises(ValueError, match="budget must be a number of seconds above zero, got"):
            check(square, backward, (X,), budget=budget)


def test_seconds() -> None:
    """Of the clock; none unless asked."""
    backward = where(lambda x: x.abs().amax() > 1e3)
    report = check(square, backward, (X,), seed=0, seconds=1e-9)
    assert report.ok
    (note,) = report.notes
    assert note.startswith("seconds: 1e-09 s are over")
    for seconds in (0, -1, "a"):
        with pytest.raises(ValueError, match="seconds must be a number of seconds above zero, got"):
            check(square, backward, (X,), seconds=seconds)
