"""`check` itself: wrong backwards that it must find, and right ones that it must not refuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from backprop_ops import BackwardError, Kept, assert_backward, check, pairs
from backprop_ops.pair import PairError
from tests.corpus import newcomers

pytestmark = pytest.mark.usefixtures("unseen")

X = torch.tensor([[0.5, -1.25, 2.0], [1.5, 0.75, -0.5]], dtype=torch.float64)
W = torch.tensor([[1.0, -0.5], [0.25, 2.0], [-1.5, 0.75]], dtype=torch.float64)


def square(x):
    return x * x


def quotient(x, y):
    return x / y


def softmax(x):
    return x.softmax(1)


def relu(x):
    return x.relu()


def clamp(x):
    return x.clamp(-1, 1)


def row_max(x):
    return x.amax(1)


def add_row(x, y):
    return x + y


def matmul(x, y):
    return x @ y


def mean(x):
    return x.mean()


def tanh(x):
    return x.tanh()


def rows(weight, index):
    return weight[index]


def scaled(x, *, halve=False):
    return x / 2 if halve else x * 3


def norm(x):
    centered = x - x.mean(1, keepdim=True)
    return centered / (centered.square().mean(1, keepdim=True) + 1e-5).sqrt()


class Two(NamedTuple):
    low: Tensor
    high: Tensor


def both(x: Tensor) -> Two:
    return Two(x - 1, x * x)


class Kept3(NamedTuple):
    out: Tensor
    cube: Kept


def keeps(x: Tensor) -> Kept3:
    return Kept3(x**4, x**3)


def norm_backward(dout, x, correction=0, eps=1e-5, root=False, mean_term=True, var_term=True):
    n = x.shape[1]
    centered = x - x.mean(1, keepdim=True)
    var = centered.square().mean(1, keepdim=True)
    inv_std = 1 / (var.sqrt() + eps) if root else (var + eps).rsqrt()
    xhat = centered * inv_std
    through_mean = dout.mean(1, keepdim=True) if mean_term else 0
    through_var = xhat * (dout * xhat).sum(1, keepdim=True) / (n - correction) if var_term else 0
    return inv_std * (dout - through_mean - through_var)


def one_of_the_largest(dout, x):
    return torch.zeros_like(x).scatter(1, x.argmax(1, keepdim=True), dout.unsqueeze(1))


def shared_by_the_largest(dout, x):
    largest = (x == x.amax(1, keepdim=True)).to(x.dtype)
    return dout.unsqueeze(1) * largest / largest.sum(1, keepdim=True)


def each_of_the_largest(dout, x):
    return dout.unsqueeze(1) * (x == x.amax(1, keepdim=True))


def overwritten_upstream(dout, x):
    return dout.mul_(2 * x)


def overwritten_input(dout, x):
    return x.mul_(2).mul_(dout)


def upstream_read_as_contiguous(dout, x):
    return dout.as_strided(x.shape, (x.shape[1], 1)) * 2 * x


CALLS = {"n": 0}


def counting(dout, x):
    CALLS["n"] += 1
    return dout * 2 * x * (1 + 0.01 * (CALLS["n"] % 2))


BUFFER: dict[Any, Tensor] = {}


def reused_buffer(dout, x):
    buffer = BUFFER.setdefault((x.shape, x.dtype), torch.empty_like(x))
    return torch.mul(dout, 2 * x, out=buffer)


def overwritten_kept(dout, cube):
    return dout * cube.mul_(4)


INDEX = torch.tensor([0, 2, 1])

# name: forward, backward, sample, options, the property that fails, the likely mistake
WRONG: dict[str, tuple[Any, Any, tuple[Any, ...], dict[str, Any], str, str | None]] = {
    "sign": (square, lambda dout, x: -2 * x * dout, (X,), {}, "value", "sign"),
    "factor": (square, lambda dout, x: 7 * x * dout, (X,), {}, "value", "factor"),
    "slight factor": (square, lambda dout, x: 2.0004 * x * dout, (X,), {}, "value", "factor"),
    "slight factor in float32": (
        *(square, lambda dout, x: 2.0004 * x * dout, (X.float(),), {}, "value", "factor"),
    ),
    "zero": (square, lambda dout, x: 0 * x * dout, (X,), {}, "value", "zero-gradient"),
    "upstream ignored": (square, lambda dout, x: 2 * x, (X,), {}, "zero", "upstream-ignored"),
    "upstream squared": (square, lambda dout, x: 2 * x * dout**2, (X,), {}, "linearity", None),
    "upstream collapsed": (square, lambda dout, x: 2 * x * dout.mean(), (X,), {}, "value", None),
    "softmax without its sum": (*(softmax, lambda dout, out: out * dout, (X,), {}, "value", None),),
    "softmax over the other axis": (
        softmax,
        lambda dout, out: out * (dout - (out * dout).sum(0)),
        (X,),
        {},
        "value",
        None,
    ),
    "not summed": (
        add_row,
        lambda dout, x, y: (dout, dout),
        (X, X[0]),
        {},
        "shape",
        "missing-reduction",
    ),
    "averaged": (
        add_row,
        lambda dout, x, y: (dout, dout.mean(0)),
        (X, X[0]),
        {},
        "value",
        "wrong-count",
    ),
    "swapped": (matmul, lambda dout, x, y: (x.mT @ dout, dout @ y.mT), (X, W), {}, "shape", None),
    "not transposed": (
        matmul,
        lambda dout, x, y: (dout @ y, x @ dout),
        (W[:2] @ X[:, :2], X[:, :2]),
        {},
        "value",
        None,
    ),
    "mean without 1/n": (mean, lambda dout, x: dout.expand(x.shape), (X,), {}, "value", "factor"),
    "square of what was rounded": (
        tanh,
        lambda dout, x: dout * (1 - x**2),
        (X,),
        {},
        "value",
        None,
    ),
    "every largest gets all": (row_max, each_of_the_largest, (X,), {}, "value", None),
    "double at the corner": (
        relu,
        lambda dout, x: dout * ((x > 0) + 2.0 * (x == 0)),
        (X,),
        {},
        "value",
        None,
    ),
    "clamp on one side": (clamp, lambda dout, x: dout * (x <= 1), (X,), {}, "value", None),
    "repeated index": (
        rows,
        lambda dout, weight, index: torch.zeros_like(weight).index_copy(0, index, dout),
        (W, INDEX),
        {},
        "value",
        None,
    ),
    "option ignored": (scaled, lambda dout: dout * 3, (X,), {}, "value", "option-ignored"),
    "upstream overwritten": (square, overwritten_upstream, (X,), {}, "purity", "mutates-upstream"),
    "input overwritten": (square, overwritten_input, (X,), {}, "purity", "mutates-input"),
    "kept overwritten": (keeps, overwritten_kept, (X,), {}, "purity", "mutates-kept"),
    "upstream read as contiguous": (
        *(square, upstream_read_as_contiguous, (X,), {}, "layout", "upstream-layout"),
    ),
    "another each time": (square, counting, (X,), {}, "repeat", "state"),
    "returned buffer": (square, reused_buffer, (X,), {}, "alias", "aliased"),
    "returned input": (scaled, lambda dout, x: x, (X,), {}, "alias", "aliased"),
    "float32 inside": (
        square,
        lambda dout, x: (dout.float() * 2 * x.float()).double(),
        (X,),
        {},
        "value",
        None,
    ),
    "float32 returned": (
        *(square, lambda dout, x: (dout * 2 * x).float(), (X,), {}, "dtype", "dtype"),
    ),
    "none": (square, lambda dout, x: None, (X,), {}, "count", "none-gradient"),
    "too many": (square, lambda dout, x: (dout * 2 * x, dout), (X,), {}, "count", "wrong-count"),
    "raises": (square, lambda dout, x: dout @ x, (X,), {}, "call", None),
    "second upstream ignored": (
        *(both, lambda dlow, dhigh, x: dlow + 2 * x, (X,), {}, "zero", "upstream-ignored"),
    ),
    "hard-coded size": (
        mean,
        lambda dout, x: (dout / 6).expand(x.shape),
        (X,),
        {},
        "value",
        "hard-coded-size",
    ),
    "tail left out": (
        square,
        lambda dout, x: 2 * x * dout * (torch.arange(x.shape[1]) < 128),
        (X,),
        {},
        "value",
        None,
    ),
    "size one left out": (
        matmul,
        lambda dout, x, y: (dout.squeeze() @ y.mT, x.mT @ dout),
        (X, W),
        {},
        "call",
        None,
    ),
    "bessel": (norm, lambda dout, x: norm_backward(dout, x, 1), (X,), {}, "value", None),
    "eps outside": (
        *(norm, lambda dout, x: norm_backward(dout, x, root=True), (X,), {}, "value", None),
    ),
    "no mean term": (
        *(norm, lambda dout, x: norm_backward(dout, x, mean_term=False), (X,), {}, "value", None),
    ),
    "no variance term": (
        *(norm, lambda dout, x: norm_backward(dout, x, var_term=False), (X,), {}, "value", None),
    ),
}


@pytest.mark.parametrize(
    ("forward", "backward", "args", "options", "property_", "mistake"), WRONG.values(), ids=WRONG
)
def test_wrong(
    forward: Callable[..., Any],
    backward: Callable[..., Any],
    args: tuple[Any, ...],
    options: dict[str, Any],
    property_: str,
    mistake: str | None,
) -> None:
    report = check(forward, backward, tuple(a.clone() for a in args), options)
    assert not report.ok
    assert report.failures[0].property == property_
    if mistake is not None:
        assert report.failures[0].mistake == mistake
    assert "wrong" in str(report)


RIGHT: dict[str, tuple[Any, Any, tuple[Any, ...]]] = {
    "square": (square, lambda dout, x: 2 * x * dout, (X,)),
    "in float32": (square, lambda dout, x: 2 * x * dout, (X.float(),)),
    "in bfloat16": (square, lambda dout, x: 2 * x * dout, (X.bfloat16(),)),
    "other algebra": (tanh, lambda dout, out: dout * (1 - out) * (1 + out), (X,)),
    "softmax": (softmax, lambda dout, out: out * (dout - (out * dout).sum(1, True)), (X,)),
    "upstream itself": (add_row, lambda dout, x, y: (dout, dout), (X, X.clone())),
    "view of the upstream": (mean, lambda dout, x: (dout / x.numel()).expand(x.shape), (X,)),
    "one of the largest": (row_max, one_of_the_largest, (X,)),
    "shared by the largest": (row_max, shared_by_the_largest, (X,)),
    "zero at the corner": (relu, lambda dout, x: dout * (x > 0), (X,)),
    "one at the corner": (relu, lambda dout, x: dout * (x >= 0), (X,)),
    "half at the corner": (relu, lambda dout, x: dout * (x.sign() + 1) / 2, (X,)),
    "clamp, bounds inside": (clamp, lambda dout, x: dout * (x.abs() <= 1), (X,)),
    "clamp, bounds outside": (clamp, lambda dout, x: dout * (x.abs() < 1), (X,)),
    "recomputed": (norm, lambda dout, x: norm_backward(dout, x), (X,)),
    "kept": (keeps, lambda dout, cube: dout * 4 * cube, (X,)),
    "two outputs": (both, lambda dlow, dhigh, x: dlow + 2 * x * dhigh, (X,)),
    "in place on its own": (square, lambda dout, x: dout.mul(x).mul_(2), (X,)),
    "index added": (
        rows,
        lambda dout, weight, index: torch.zeros_like(weight).index_add(0, index, dout),
        (W, INDEX),
    ),
    "option": (scaled, lambda dout, halve: dout / 2 if halve else dout * 3, (X,)),
    "matmul": (matmul, lambda dout, x, y: (dout @ y.mT, x.mT @ dout), (X, W)),
}


@pytest.mark.parametrize(("forward", "backward", "args"), RIGHT.values(), ids=RIGHT)
def test_right(
    forward: Callable[..., Any], backward: Callable[..., Any], args: tuple[Any, ...]
) -> None:
    report = check(forward, backward, args)
    assert report.ok, str(report)
    assert all(row.approximate for row in report.comparisons)


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
    assert "print(add_row_backward(dout, x, y))" in text


def test_found_elsewhere_than_on_the_sample() -> None:
    report = check(square, upstream_read_as_contiguous, (X,))
    assert "holds on your sample; fails when the upstream is transposed" in str(report)


def test_the_same_seed_says_the_same() -> None:
    backward = WRONG["upstream collapsed"][1]
    assert str(check(square, backward, (X,), seed=1)) == str(check(square, backward, (X,), seed=1))


def test_skip() -> None:
    skip = ("the upstream is transposed", "the upstream is a slice of a wider buffer")
    report = check(square, lambda dout, x: dout.clone() * 2 * x, (X,), skip=skip)
    assert set(report.notes) == {f"skipped: {variation}" for variation in skip}


def test_skip_is_in_the_notes() -> None:
    report = check(square, lambda dout, x: 2 * x * dout, (X,), skip=("alias", "values"))
    assert set(report.notes) == {"skipped: alias", "skipped: values"}


def test_the_callers_sample_is_left_alone() -> None:
    x = X.clone()
    check(square, overwritten_input, (x,))
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
    "signature": (square, lambda grad: grad, (X,), {}, PairError, "asks for 'grad'"),
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
        ({"seed": "a"}, TypeError, "seed must be an integer, came str"),
        ({"reference": 3}, TypeError, "reference must be a function, came int"),
        ({"reference": lambda x: x @ X}, ValueError, "the reference, raises RuntimeError on"),
    ],
)
def test_bad_keyword(keywords: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        check(square, lambda dout, x: 2 * dout * x, (X,), **keywords)


def test_a_list_is_no_gradient() -> None:
    report = check(square, lambda dout, x: [2 * dout * x], (X,), seed=0)
    assert report.failures[0].property == "count"
    assert "must return a Tensor or a tuple of them, came list" in report.failures[0].message


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


def test_reproduce_can_be_pasted(capsys: pytest.CaptureFixture[str]) -> None:
    """Under the pair's name too where the backward has another one."""
    report = check(newcomers.relu, newcomers.relu_more_at_zero, (X.float(),), seed=0)
    code = report.failures[0].reproduce
    assert "import relu, relu_more_at_zero as relu_backward" in code
    exec(code, {})
    by_hand, by_autograd = capsys.readouterr().out.splitlines()
    assert "1.3" in by_hand
    assert "1.3" not in by_autograd


def test_numbers_have_the_digits_that_differ() -> None:
    report = check(square, lambda dout, x: 2.000000001 * dout * x, (X,), seed=0)
    message = report.failures[0].message
    came, said = message.partition("is ")[2].split(", autograd says ")
    assert came != said


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
