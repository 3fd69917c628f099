"""What `skip` names: properties, families and single variations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from backprop_ops import check
from backprop_ops.checking.case import FAMILIES
from backprop_ops.checking.finding import PROPERTIES

pytestmark = pytest.mark.usefixtures("unseen")

X = torch.tensor([[0.5, -1.25, 2.0], [1.5, 0.75, -0.5]], dtype=torch.float64)


def square(x):
    return x * x


def square_backward(dout, x):
    return 2 * x * dout


def never_called(x):
    raise AssertionError(x)


def without_gradient_mode(dout, x):
    return 2 * x * dout * (1 if torch.is_grad_enabled() else 2)


@pytest.mark.parametrize(
    ("skip", "message"),
    [
        ("valeus", r"'valeus' is no .*: did you mean 'values'\?"),
        (("layouts", "vlaue"), r"'vlaue' is no .*: did you mean 'value'\?"),
        ("xyz", "'xyz' is no property and no family of variations: the names are call, count, "),
        ("sample", "'sample' is no"),
        ("bind", "'bind' is no"),
        ("contiguous", "'contiguous' is no"),
    ],
)
def test_an_unknown_name_is_refused_before_anything_is_called(skip: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check(never_called, square_backward, (X,), skip=skip)


@pytest.mark.parametrize("skip", [None, 1, ("value", 1)])
def test_skip_is_a_name_or_several(skip: Any) -> None:
    with pytest.raises(TypeError, match="skip must be a name or several names, got "):
        check(never_called, square_backward, (X,), skip=skip)


def test_a_known_name_that_does_not_occur_is_no_news() -> None:
    """There is no index here, no option, and no precision but one where that alone is tried."""
    report = check(square, square_backward, (X,), skip=("indices", "options"), seed=0)
    assert report.ok
    assert not report.notes


@pytest.mark.parametrize("name", [*PROPERTIES, *FAMILIES])
def test_every_name(name: str) -> None:
    report = check(square, square_backward, (X,), skip=name, seed=0)
    absent = name in ("options", "indices", "inputs")
    vacuous = ("vacuous: nothing proves dx; its values are skipped",) * (name == "value")
    assert report.notes == (() if absent else (f"skipped: {name}", *vacuous))
    assert report.ok == (not vacuous)


def test_skipped_values_prove_nothing() -> None:
    assert not check(square, lambda dout, x: 3 * x * dout, (X,), seed=0, skip=("value",))


@pytest.mark.parametrize(
    ("backward", "text"),
    [
        (lambda dout, x: 2 * x * dout * (1 if x.any() else 2) + dout * ~x.any(), "x is zero"),
        (without_gradient_mode, "torch.no_grad() is on"),
    ],
)
def test_a_variation_by_its_text(backward: Callable[..., Any], text: str) -> None:
    (failure,) = check(square, backward, (X,), seed=0).failures
    assert failure.variation == text
    report = check(square, backward, (X,), seed=0, skip=text)
    assert f"skipped: {text}" in report.notes
    assert text not in [failure.variation for failure in report.failures]


def test_a_text_with_a_mistake() -> None:
    """It may be a variation of another sample: a note, whether or not that variation fails."""
    text = "the upstream is trasposed"
    note = f"nothing to skip: no variation is {text!r}: did you mean 'the upstream is transposed'?"
    for backward in (square_backward, lambda dout, x: 2 * x * dout.reshape(-1).view_as(x)):
        assert note in check(square, backward, (X,), seed=0, skip=text).notes
    (note,) = check(square, square_backward, (X,), seed=0, skip="gain=0.25").notes
    assert note == "nothing to skip: no variation is 'gain=0.25'"


def overwriting(dout, x):
    return dout.mul_(2 * x)


class Freeing(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.x = x.clone()
        return x * x

    @staticmethod
    def backward(ctx, dout):
        x, ctx.x = ctx.x, None
        return 2 * x * dout


class Kept(NamedTuple):
    out: Tensor
    twice: Tensor


def squared(x):
    return Kept(x * x, 2 * x)


def into_what_was_kept(dout, twice):
    return twice.mul_(dout)


ON_PURPOSE: dict[str, tuple[Callable[..., Any], Callable[..., Any] | None, tuple[str, ...]]] = {
    "the upstream is written to": (square, overwriting, ("purity", "layouts")),
    "what was saved is freed": (Freeing.apply, None, ("repeat",)),
    "what was saved is written to": (squared, into_what_was_kept, ("purity", "alias", "layouts")),
}


@pytest.mark.parametrize("name", ON_PURPOSE)
def test_what_is_done_on_purpose(name: str) -> None:
    """It is waived everywhere: in combined cases, and between other calls."""
    forward, backward, skip = ON_PURPOSE[name]
    assert not check(forward, backward, (X.float(),), seed=0)
    report = check(forward, backward, (X.float(),), seed=0, skip=skip)
    assert report, str(report)


def test_what_is_done_on_purpose_may_be_wrong_too() -> None:
    def wrong(dout, x):
        return dout.mul_(3 * x)

    (failure,) = check(square, wrong, (X,), seed=0, skip="purity").failures
    assert failure.property == "value"


def test_precisions() -> None:
    def in_float32_alone(dout, x):
        return 2 * x * dout if x.dtype == torch.float32 else 3 * x * dout

    assert not check(square, in_float32_alone, (X.float(),), seed=0)
    assert check(square, in_float32_alone, (X.float(),), seed=0, dtypes=("float32",))
    with pytest.raises(ValueError, match="dtypes: 'float8' is none of float64, float32, bfloat16"):
        check(square, in_float32_alone, (X.float(),), dtypes=("float8",))
    with pytest.raises(TypeError, match=r"dtypes must be several of .*, got 'float32'"):
        check(square, in_float32_alone, (X.float(),), dtypes="float32")
