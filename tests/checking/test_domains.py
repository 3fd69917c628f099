"""Forwards that refuse what lies outside of their domain: no exception of theirs gets out."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from backprop_ops import check

pytestmark = pytest.mark.usefixtures("unseen")

GENERATOR = torch.Generator().manual_seed(0)
V = torch.randn(4, 3, generator=GENERATOR)
ROTATION = torch.linalg.qr(torch.randn(3, 3, generator=GENERATOR)).Q
ROWS = torch.randn(4, 3, generator=GENERATOR).softmax(1)
COVARIANCE = torch.cov(torch.randn(3, 9, generator=GENERATOR)) + torch.eye(3)


def rotate(r, v, *, tol=1e-5):
    if not torch.allclose(r @ r.T, torch.eye(len(r)).to(r), atol=tol):
        raise ValueError("r must be a rotation matrix")
    return v @ r.T


def rotate_backward(dout, r, v):
    return dout.T @ v, dout @ r


def entropy(p):
    if (p < 0).any() or not torch.allclose(p.sum(1), torch.ones(len(p)).to(p), atol=1e-5):
        raise ValueError("the rows of p must be probabilities")
    return -(p * p.log()).sum(1)


def entropy_backward(dout, p):
    return -dout[:, None] * (p.log() + 1)


def whitened(cov, v):
    """LinAlgError where it is not positive definite."""
    if not torch.allclose(cov, cov.T):
        raise ValueError("cov must be symmetric")
    return v @ torch.linalg.cholesky(cov).mT


def whitened_backward(dout, cov, v):
    l = torch.linalg.cholesky(cov)  # noqa: E741  # as in the literature
    dl = (dout.mT @ v).tril()
    phi = (l.mT @ dl).tril()
    phi.diagonal().mul_(0.5)
    inverse = torch.linalg.inv(l)
    s = inverse.mT @ phi @ inverse
    return (s + s.mT) / 2, dout @ l


def scaled_axis(v, *, axis):
    if not math.isclose(float(axis.norm()), 1, abs_tol=1e-5):
        raise ValueError("axis must be a unit vector")
    return v * axis


def scaled_axis_backward(dout, *, axis):
    return dout * axis


def direction(axis, v):
    if not torch.allclose(axis.norm(), torch.ones(()).to(axis), atol=1e-5):
        raise ValueError("axis must be a unit vector")
    return v @ axis


def direction_backward(dout, axis, v):
    return dout @ v, dout[:, None] * axis


class Domain(NamedTuple):
    forward: Callable[..., Any]
    backward: Callable[..., Any]
    args: tuple[Tensor, ...]
    options: dict[str, Any]


AXIS = V[0] / V[0].norm()
DOMAINS = {
    "rotation": Domain(rotate, rotate_backward, (ROTATION, V), {}),
    "rotation, a loose one": Domain(rotate, rotate_backward, (ROTATION, V), {"tol": 1e-2}),
    "probabilities": Domain(entropy, entropy_backward, (ROWS,), {}),
    "covariance": Domain(whitened, whitened_backward, (COVARIANCE, V), {}),
    "unit vector": Domain(direction, direction_backward, (AXIS, V), {}),
    "unit vector, an option": Domain(scaled_axis, scaled_axis_backward, (V,), {"axis": AXIS}),
}


def blind(forward: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, which autograd cannot follow."""

    @functools.wraps(forward)
    def detaching(*args, **options):
        return forward(*(x.detach() for x in args), **options)

    return detaching


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", DOMAINS)
def test_a_right_backward(name: str, dtype: torch.dtype) -> None:
    forward, backward, args, options = DOMAINS[name]
    args = tuple(x.to(dtype) for x in args)
    report = check(forward, backward, args, options, seed=0)
    assert report, str(report)
    report = check(blind(forward), backward, args, options, reference=forward, seed=0)
    assert report, str(report)


@pytest.mark.parametrize("name", DOMAINS)
def test_judged_by_finite_differences(name: str) -> None:
    """A step that leaves the domain says nothing, and no exception gets out."""
    forward, backward, args, options = DOMAINS[name]
    report = check(blind(forward), backward, args, options, seed=0)
    assert not report.failures, str(report)
    assert not report.vacuous  # a short step stays within the tolerance of many small numbers


def test_a_short_step_stays_in_a_wide_domain() -> None:
    def wrong(dout, r, v):
        dr, dv = rotate_backward(dout, r, v)
        return 1.01 * dr, dv

    report = check(blind(rotate), wrong, (ROTATION, V), {"tol": 1e-2}, seed=0)
    assert report.failures[0].input == "dr"


def test_a_wrong_backward_inside_of_the_domain() -> None:
    report = check(entropy, lambda dout, p: -dout[:, None] * p.log(), (ROWS,), seed=0)
    assert report.failures[0].property == "value"


def cube(x):
    return x * x * x


def cube_backward(dout, x):
    return 3 * x * x * dout


def only(demand: Callable[[Tensor], bool]) -> Callable[..., Any]:
    """`cube`, raising wherever the demand is not met."""

    def forward(x):
        if not demand(x):
            raise RuntimeError("not for this")
        return cube(x)

    return forward


DEMANDS: dict[str, Callable[[Tensor], bool]] = {
    "not in float64": lambda x: x.dtype != torch.float64,
    "in float32 alone": lambda x: x.dtype == torch.float32,
    "with the gradient mode on": lambda _: torch.is_grad_enabled(),
    "with the gradient mode off": lambda x: not x.requires_grad,
    "of that size": lambda x: x.shape == (4, 3),
    "where something is negative": lambda x: bool((x < 0).any()),
    "contiguous": lambda x: x.is_contiguous(),
}


@pytest.mark.parametrize("demand", DEMANDS.values(), ids=DEMANDS)
@pytest.mark.parametrize("wrong", [False, True])
def test_demands(demand: Callable[[Tensor], bool], wrong: bool) -> None:
    """Of the forward, of the reference, and of both."""
    backward = cube_backward if not wrong else lambda dout, x: 2 * x * x * dout
    forward = only(demand)
    for function, reference in ((forward, None), (blind(cube), forward), (forward, forward)):
        report = check(function, backward, (V,), reference=reference, seed=0)
        assert report.ok is not wrong, str(report)


def test_a_forward_of_which_autograd_raises() -> None:
    """It writes over what autograd keeps: finite differences judge."""

    def forward(x):
        y = x.exp()
        z = y * y
        y.mul_(2)
        return z

    report = check(forward, lambda dout, out: 2 * out * dout, (V,), seed=0)
    assert report, str(report)
    assert not check(forward, lambda dout, out: out * dout, (V,), seed=0)


def test_a_sample_that_is_refused() -> None:
    with pytest.raises(ValueError, match="rotate, the forward, raises ValueError on the sample"):
        check(rotate, rotate_backward, (V[:3], V))
    message = "rotate, the reference, raises ValueError on the sample: r must be a rotation"
    with pytest.raises(ValueError, match=message):
        check(lambda r, v: v @ r.T, rotate_backward, (ROTATION + 1e-3, V), reference=rotate, seed=0)


def product(x, w):
    return x @ w


def product_of_its_own(x, w):
    with torch.no_grad():
        return x @ w


@pytest.mark.parametrize("forward", [product, product_of_its_own])
def test_a_sample_without_rows_proves_nothing(forward: Callable[..., Tensor]) -> None:
    """Its output is empty, so that no upstream reaches the weight."""
    sample = (torch.zeros(0, 3), torch.randn(3, 4))
    report = check(forward, lambda dout, x, w: (dout @ w.mT, x.mT @ dout), sample, seed=0)
    assert not report.failures
    assert report.vacuous[:1] == ("dx",)


def test_a_forward_that_takes_some_draws_alone() -> None:
    """A target of 1 is drawn anew at each size, and may lie above it."""
    target = torch.tensor([[1.0, 0.5], [0.9, 1.0], [0.2, 0.95]])
    p = torch.tensor([[0.3, 0.6], [0.7, 0.2], [0.5, 0.9]])

    def loss(p, *, target):
        return torch.nn.functional.binary_cross_entropy(p, target, reduction="sum")

    def loss_backward(dout, p, *, target):
        return dout * (p - target) / (p * (1 - p)).clamp(min=1e-12)

    for seed in range(8):
        check(loss, loss_backward, (p,), {"target": target}, seed=seed)
