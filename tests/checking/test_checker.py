"""`check` itself; the backwards that it must find, and must not refuse, are in `tests/corpus`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from backprop_ops import BackwardError, assert_backward, check, pairs
from backprop_ops.pair import PairError
from tests.corpus import newcomers
from tests.corpus.textbook import (
    INDEX,
    W,
    X,
    add_row,
    input_overwritten,
    matmul,
    norm,
    norm_backward,
    relu,
    square,
    upstream_collapsed,
    upstream_read_as_contiguous,
)

pytestmark = pytest.mark.usefixtures("unseen")


def quotient(x, y):
    return x / y


def test_twice_the_upstream_may_overflow() -> None:
    """In float16, with others next to underflow, where twice as much rounds otherwise."""
    x = torch.cat([torch.linspace(-18, -8, 8), torch.full((8,), 10.25)]).half()
    report = check(lambda x: x.exp(), lambda dout, out: dout * out, (x,), seed=0)
    assert not any(failure.property == "linearity" for failure in report.failures), str(report)
    assert report, str(report)


def test_a_quotient_in_either_order() -> None:
    """Each overflows on its way to some number just below the largest, and neither is wrong."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(4, 1, generator=generator), torch.randn(4, 6, generator=generator)

    def upstream_first(dout: Tensor, x: Tensor, y: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
        dx = dout / y
        return dx.sum(1, keepdim=True), -dx * out

    report = check(quotient, upstream_first, (x, y), seed=0)
    assert report, str(report)
    inverse = check(lambda y: 3 / y, lambda dout, y, out: -dout * (out / y), (y.half(),), seed=0)
    assert inverse, str(inverse)


def test_a_slight_bessel_correction() -> None:
    x = torch.randn(1, 4096, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert not check(norm, lambda dout, x: norm_backward(dout, x, 1), (x,))


def test_assert_backward_raises_with_the_report() -> None:
    assert_backward(square, lambda dout, x: 2 * x * dout, (X,))
    with pytest.raises(BackwardError, match=r"likely mistake \(sign\)") as raised:
        assert_backward(square, lambda dout, x: -2 * x * dout, (X,))
    assert not raised.value.report.ok


def test_report() -> None:
    report = check(add_row, lambda dout, x, y: (dout, -dout), (X, X.clone()), seed=3)
    assert report.seed == 3
    assert [row.name for row in report.comparisons] == ["dx", "dy"]
    text = str(report)
    assert "  dx              | exact: True  | approximate: True  | maxdiff: 0.0" in text
    assert "value: dy[" in text
    assert "dx agree" in text
    assert "dx, dy = add_row_backward(dout, x, y)" in text


def test_found_elsewhere_than_on_the_sample() -> None:
    report = check(square, upstream_read_as_contiguous, (X,))
    assert "holds on your sample; fails when the upstream is transposed" in str(report)


def test_the_same_seed_says_the_same() -> None:
    once, again = (check(square, upstream_collapsed, (X,), seed=1) for _ in range(2))
    assert str(once) == str(again)


def test_skip() -> None:
    skip = ("the upstream is transposed", "the upstream is a slice of a wider buffer")
    report = check(square, lambda dout, x: dout.clone() * 2 * x, (X,), skip=skip)
    assert set(report.notes) == {f"skipped: {variation}" for variation in skip}


def test_skip_is_in_the_notes() -> None:
    report = check(square, lambda dout, x: 2 * x * dout, (X,), skip=("alias", "values"))
    assert set(report.notes) == {"skipped: alias", "skipped: values"}


def test_the_callers_sample_is_left_alone() -> None:
    x = X.clone()
    check(square, input_overwritten, (x,))
    assert torch.equal(x, X)


BAD_CALLS: dict[str, tuple[Any, Any, Any, dict[str, Any], type[Exception], str]] = {
    "args no tuple": (square, square, X, {}, TypeError, "args must be a tuple of square's"),
    "forward raises": (
        matmul,
        matmul,
        (X, X),
        {},
        ValueError,
        "matmul, the forward, raises RuntimeError on",
    ),
    "unknown option": (square, square, (X,), {"p": 1}, ValueError, "unexpected keyword"),
    "integers": (square, lambda dout: 0, (X.long(),), {}, ValueError, "must be a floating Tensor"),
    "infinite": (square, lambda dout: 0, (X / 0,), {}, ValueError, "is inf or nan on the sample"),
    "no tensor": (lambda x: torch.ones(x), lambda dout: 0, (3,), {}, ValueError, "no floating"),
    "signature": (square, lambda grad: grad, (X,), {}, PairError, "rename grad to dout"),
    "nothing returned": (
        lambda x: None,
        lambda dout: 0,
        (X,),
        {},
        TypeError,
        "must return a Tensor",
    ),
}


@pytest.mark.parametrize(
    ("forward", "backward", "args", "options", "error", "message"),
    BAD_CALLS.values(),
    ids=BAD_CALLS,
)
def test_bad_call(
    forward: Any, backward: Any, args: Any, options: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        check(forward, backward, args, options)


@pytest.mark.parametrize(
    ("keywords", "error", "message"),
    [
        ({"seed": "a"}, TypeError, "seed must be an integer, got str"),
        ({"reference": 3}, TypeError, "reference must be a function, got int"),
        ({"reference": lambda x: x @ X}, ValueError, "the reference, raises RuntimeError on"),
    ],
)
def test_bad_keyword(keywords: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        check(square, lambda dout, x: 2 * dout * x, (X,), **keywords)


def test_a_list_is_no_gradient() -> None:
    report = check(square, lambda dout, x: [2 * dout * x], (X,), seed=0)
    assert report.failures[0].property == "count"
    assert "must return a Tensor or a tuple of them, got list" in report.failures[0].message


@pytest.mark.parametrize("name", ["tanh", "max", "cross_entropy", "embedding", "pow"])
def test_pairs_of_the_library(name: str) -> None:
    samples: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
        "max": ((X,), {"dim": 1}),
        "cross_entropy": ((X, torch.tensor([2, 0])), {}),
        "embedding": ((INDEX, W), {}),
        "pow": ((X.abs(),), {"exponent": 2.5}),
    }
    args, options = samples.get(name, ((X,), {}))
    report = check(pairs[name].forward, pairs[name].backward, args, options)
    assert report.ok, str(report)


def test_reproduce_can_be_pasted() -> None:
    """Under the pair's name too where the backward has another one."""
    report = check(newcomers.relu, newcomers.more_than_one_at_zero, (X.float(),), seed=0)
    code = report.failures[0].reproduce
    assert "import relu, more_than_one_at_zero as relu_backward" in code
    with pytest.raises(AssertionError, match=r"is 1\.29999995, autograd says 0"):
        exec(code, {})


def test_numbers_have_the_digits_that_differ() -> None:
    report = check(square, lambda dout, x: 2.000000001 * dout * x, (X,), seed=0)
    message = report.failures[0].message
    got, said = message.partition("is ")[2].split(", autograd says ")
    assert got != said


def test_kink_is_noted() -> None:
    report = check(relu, lambda dout, x: dout * (x >= 0), (X,), seed=0)
    assert report
    (note,) = [note for note in report.notes if note.startswith("kink")]
    assert "allowed [" in note
    assert note.endswith("autograd says 0")


def test_reference_that_differs_names_the_forward() -> None:
    report = check(
        lambda x: x.detach().exp(), lambda dout, x: dout * x.exp(), (X,), reference=torch.exp2
    )
    assert "differ, not the backward" in report.failures[0].message


def test_forward_without_autograd_is_judged_by_differences() -> None:
    def opaque(x):
        return torch.from_numpy(x.numpy() ** 3)

    assert check(opaque, lambda dout, x: 3 * x**2 * dout, (X,), seed=0)
    wrong = check(opaque, lambda dout, x: 2 * x**2 * dout, (X,), seed=0)
    assert "finite differences say" in wrong.failures[0].message


def test_global_state_is_put_back() -> None:
    def turns_gradients_off(dout, x):
        torch.set_grad_enabled(False)
        return 2 * x * dout

    assert not check(square, turns_gradients_off, (X,), seed=0)
    assert torch.is_grad_enabled()


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore")  # of torch's compiler
def test_compiled_function() -> None:
    compiled = torch.compile(lambda x: x * x.sigmoid())
    assert check(compiled, None, (X.float(),), seed=0)
