"""The losses: the data for the tests of every pair, and tests of their own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  # torch's own name for it
from torch import Tensor, ones, tensor

from backprop_ops import (
    cross_entropy,
    cross_entropy_backward,
    log_softmax,
    log_softmax_backward,
    nll_loss,
    nll_loss_backward,
    pairs,
)
from backprop_ops.ops import _large
from tests.support.counterpart import Arguments, Counterpart, Departure
from tests.support.exact import Matrix, exact, log_probabilities, zipped
from tests.support.samples import bad, index, positive, real, sample

ROWS, EACH = index("n", below="c"), index("n d", below="c")
WEIGHTS = positive("c")

SAMPLES = {
    "nll_loss": [
        sample(real("n c"), ROWS),
        sample(real("n c d"), EACH, weight=WEIGHTS, ignore_index=1),
        sample(real("n c d"), EACH, weight=WEIGHTS, reduction="sum"),
        sample(real("n c d"), EACH, ignore_index=0, reduction="none"),
        sample(real("n c"), ROWS, ignore_index=255),
        sample(real("c"), index("", below="c"), weight=WEIGHTS),
    ],
    "cross_entropy": [
        sample(real("n c"), ROWS),
        sample(real("n c"), ROWS, weight=WEIGHTS, ignore_index=1, label_smoothing=0.1),
        sample(real("n c d"), EACH, weight=WEIGHTS, reduction="sum", label_smoothing=0.1),
        sample(real("n c d"), EACH, ignore_index=0, reduction="none", label_smoothing=0.25),
        sample(real("n c d"), EACH, weight=WEIGHTS, ignore_index=1),
        sample(real("n c"), ROWS, ignore_index=255),
        sample(real("c"), index("", below="c"), label_smoothing=0.5),
    ],
    "soft_cross_entropy": [
        sample(real("n c"), positive("n c")),
        sample(real("n c d"), positive("n c d"), weight=WEIGHTS, label_smoothing=0.1),
        sample(real("n c"), positive("n c"), weight=WEIGHTS, reduction="sum"),
        sample(real("n c d"), positive("n c d"), reduction="none", label_smoothing=0.25),
        sample(real("c"), positive("c")),
    ],
}


def classes(name: str) -> list:
    scores, whole, target = ones(2, 3), ones(2, 3).long(), tensor([0, 2])
    floats, beyond, below = ones(2), tensor([0, 3]), tensor([0, -1])
    return [
        bad(TypeError, f"{name} must be a Tensor, got list", [1.0], target),
        bad(TypeError, f"{name} must be a floating Tensor, got torch.int64", whole, target),
        bad(TypeError, "target must be a Tensor, got list", scores, [0, 2]),
        bad(TypeError, "target must be a Tensor of torch.int64, got torch.float", scores, floats),
        bad(ValueError, "target must be of shape (2,)", scores, tensor([0, 1, 2])),
        bad(ValueError, "target must be of shape (2,)", scores, tensor([[0], [1]])),
        bad(ValueError, "target must be of shape ()", ones(3), target),
        bad(ValueError, "target must be of shape (2, 4)", ones(2, 3, 4), target),
        bad(ValueError, f"{name} must have at least one row", ones(0, 3), target[:0]),
        bad(IndexError, f"in [0, 2], the classes of {name}, got [0, 3]", scores, beyond),
        bad(IndexError, "got [-1, 0]", scores, below),
        bad(ValueError, f"{name} must have at least one class", ones(2, 0), target),
        bad(TypeError, "ignore_index must be an integer", scores, target, ignore_index=0.5),
        *options(name, scores, target),
    ]


def options(name: str, scores: torch.Tensor, target: torch.Tensor) -> list:
    """The refusals that all three losses share."""
    return [
        bad(ValueError, f"{name} must be of shape (classes) or (n, c", ones(()), target),
        bad(TypeError, "weight must be a Tensor, got list", scores, target, weight=[1.0]),
        bad(TypeError, f"dtype of {name}", scores, target, weight=ones(3).double()),
        bad(ValueError, "weight must be of shape (3,)", scores, target, weight=ones(2)),
        bad(ValueError, "none, mean or sum, got str 'max'", scores, target, reduction="max"),
    ]


SMOOTHING = [
    bad(ValueError, "label_smoothing must lie in [0, 1]", ones(3), tensor(1), label_smoothing=2),
    bad(TypeError, "label_smoothing must be a num", ones(3), tensor(1), label_smoothing=None),
]

BAD_INPUTS = {
    "nll_loss": classes("logprobs"),
    "cross_entropy": [*classes("logits"), *SMOOTHING],
    "soft_cross_entropy": [
        bad(TypeError, "logits must be a Tensor, got list", [1.0], ones(1)),
        bad(TypeError, "target must be a floating Tensor", ones(2, 3), tensor([0, 2])),
        bad(TypeError, "target must have the dtype of logits", ones(2, 3), ones(2, 3).double()),
        bad(ValueError, "shape of logits, (2, 3), got (2,)", ones(2, 3), ones(2)),
        bad(ValueError, "logits must have at least one row", ones(0, 3), ones(0, 3)),
        bad(ValueError, "label_smoothing must lie in", ones(3), ones(3), label_smoothing=-0.5),
        *options("logits", ones(2, 3), ones(2, 3)),
    ],
}


def nll_call(logprobs: Any, target: Any, **options: Any) -> Arguments:
    no_mean_of_nothing(logprobs, options)
    return (logprobs, target), options


def cross_entropy_call(logits: Any, target: Any, **options: Any) -> Arguments:
    if target.is_floating_point():
        raise Departure("the target holds probabilities: soft_cross_entropy")
    no_mean_of_nothing(logits, options)
    return (logits, target), options


def soft_cross_entropy_call(logits: Any, target: Any, **options: Any) -> Arguments:
    if not target.is_floating_point():
        raise Departure("the target holds classes: cross_entropy")
    no_mean_of_nothing(logits, options)
    options.pop("ignore_index", None)  # it has no meaning there
    return (logits, target), options


def no_mean_of_nothing(scores: Tensor, options: dict[str, Any]) -> None:
    if scores.numel() == 0 and options.get("reduction", "mean") == "mean":
        raise Departure("the mean of no rows: refused here, nan in torch")


OPINFO = {
    "nll_loss": Counterpart("nn.functional.nll_loss", nll_call),
    "cross_entropy": Counterpart("nn.functional.cross_entropy", cross_entropy_call),
    "soft_cross_entropy": Counterpart("nn.functional.cross_entropy", soft_cross_entropy_call),
}


def likelihood(mp: Any, dout: Matrix, logprobs: Matrix, target: list[int]) -> tuple[Matrix, ...]:
    n, d = len(logprobs), dout[0][0]
    loss = -mp.fsum(row[t] for row, t in zip(logprobs, target, strict=True)) / n
    hot = [[-d / n * (j == t) for j in range(len(logprobs[0]))] for t in target]
    return [[loss]], hot


def entropy(mp: Any, dout: Matrix, logits: Matrix, target: list[int]) -> tuple[Matrix, ...]:
    logprobs, n, d = log_probabilities(mp, logits), len(logits), dout[0][0]
    loss, _ = likelihood(mp, dout, logprobs, target)
    return loss, [
        [d / n * (mp.exp(entry) - (j == t)) for j, entry in enumerate(row)]
        for row, t in zip(logprobs, target, strict=True)
    ]


def soft_entropy(mp: Any, dout: Matrix, logits: Matrix, target: Matrix) -> tuple[Matrix, ...]:
    logprobs, n, d = log_probabilities(mp, logits), len(logits), dout[0][0]
    loss = -mp.fsum(mp.fdot(t, row) for t, row in zip(target, logprobs, strict=True)) / n
    dlogits = [
        [d / n * (mp.exp(entry) * mp.fsum(ts) - t) for entry, t in zip(row, ts, strict=True)]
        for row, ts in zip(logprobs, target, strict=True)
    ]
    return [[loss]], dlogits, zipped(lambda entry: -d / n * entry, logprobs)


EXACT = {
    "nll_loss": [exact(likelihood, "negative", "target")],
    "cross_entropy": [exact(entropy, "x", "target")],
    "soft_cross_entropy": [exact(soft_entropy, "x", "probs")],
}


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(32, 27, generator=generator)
    return logits, torch.randint(27, (32,), generator=generator)


def test_cross_entropy_is_torchs(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    """To the numbers of the lecture: the loss to about 5e-7, the gradient to about 7e-9."""
    logits, target = batch
    leaf = logits.clone().requires_grad_()
    expected = F.cross_entropy(leaf, target)
    expected.backward()
    loss = cross_entropy(logits, target)
    assert abs((loss.out - expected).item()) <= 5e-7
    dlogits = cross_entropy_backward(ones(()), target, loss.probs, loss.divisor)
    assert (dlogits - leaf.grad).abs().max() <= 7e-9


def test_cross_entropy_is_its_atomic_steps(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, target = (batch[0].double(), batch[1])
    logprobs = log_softmax(logits, dim=1)
    loss = cross_entropy(logits, target)
    torch.testing.assert_close(loss.out, nll_loss(logprobs, target))
    dout = tensor(0.7, dtype=torch.float64)
    dlogprobs = nll_loss_backward(dout, logprobs, target)
    torch.testing.assert_close(
        cross_entropy_backward(dout, target, loss.probs, loss.divisor),
        log_softmax_backward(dlogprobs, logprobs, dim=1),
    )


@pytest.mark.parametrize("shape", [(6,), (5, 6), (5, 6, 2)], ids=str)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.3])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("cached", [_large.CACHED, 2])
def test_every_option_is_torchs(
    shape: tuple[int, ...],
    reduction: str,
    label_smoothing: float,
    weighted: bool,
    cached: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All combinations, with class numbers (one of them ignored) and with probabilities."""
    monkeypatch.setattr(_large, "CACHED", cached)
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
    rows = shape[:1] + shape[2:] if len(shape) > 1 else ()
    classes = torch.randint(6, rows, generator=generator)
    weight = torch.rand(6, generator=generator, dtype=torch.float64) if weighted else None
    options = {"reduction": reduction, "label_smoothing": label_smoothing, "weight": weight}
    soft = torch.rand(shape, generator=generator, dtype=torch.float64, requires_grad=True)
    for name, target, more in (
        ("cross_entropy", classes, {}),
        ("cross_entropy", classes, {"ignore_index": int(classes.flatten()[0])}),
        ("soft_cross_entropy", soft, {}),
    ):
        expected = F.cross_entropy(logits, target, **options, **more)
        leaves = [logits, target] if target.is_floating_point() else [logits]
        upstream = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
        gradients = torch.autograd.grad(expected, leaves, upstream, retain_graph=True)
        pair = pairs[name]
        args = (logits.detach(), target.detach())
        result = pair.forward(*args, **options, **more)
        torch.testing.assert_close(result.out, expected.detach(), equal_nan=True)
        arguments = pair.arguments(args, {**options, **more})
        ours = pair.gradients(arguments, result, {"out": upstream})
        for gradient, torchs in zip(ours.values(), gradients, strict=True):
            torch.testing.assert_close(gradient, torchs)


@pytest.mark.parametrize("cached", [_large.CACHED, 2])
def test_ignored_rows_alone(cached: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mean of nothing is nan, as in torch, and no row learns from it."""
    monkeypatch.setattr(_large, "CACHED", cached)
    logits, target = ones(2, 3), tensor([-100, -100])
    loss = cross_entropy(logits, target)
    assert loss.out.isnan()
    assert not cross_entropy_backward(ones(()), target, loss.probs, loss.divisor).any()
    assert nll_loss(logits, target).isnan()
    assert not nll_loss_backward(ones(()), logits, target).any()
    assert cross_entropy(logits, target, reduction="sum").out == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("cached", [_large.CACHED, 2])
def test_far_from_zero(dtype: torch.dtype, cached: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits of ±1e4, whose exponentials overflow, and a logit of -inf."""
    monkeypatch.setattr(_large, "CACHED", cached)
    logits, target = (
        tensor([[1e4, -1e4, 0.0], [0.0, float("-inf"), 1.0]], dtype=dtype),
        tensor([1, 2]),
    )
    loss = cross_entropy(logits, target)
    assert loss.out.isfinite()
    dout = torch.ones_like(loss.out)
    assert cross_entropy_backward(dout, target, loss.probs, loss.divisor).isfinite().all()


@pytest.mark.parametrize("cached", [_large.CACHED, 2])
def test_a_target_out_of_range_is_named(cached: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_large, "CACHED", cached)
    for weight in (None, ones(3)):
        for wrong in (3, -1):
            with pytest.raises(IndexError, match=r"target must lie in \[0, 2\], the classes"):
                cross_entropy(ones(2, 3), tensor([0, wrong]), weight=weight)


def test_probability_near_one_in_bfloat16() -> None:
    """The target's probability rounds to one in bfloat16; its gradient is not zero for that."""
    logits = tensor([[8.0, 0.0]], dtype=torch.bfloat16)
    target = tensor([0])
    loss = cross_entropy(logits, target)
    dlogits = cross_entropy_backward(torch.ones_like(loss.out), target, loss.probs, loss.divisor)
    assert dlogits[0, 0].item() == pytest.approx(-3.35e-4, rel=1e-2)


EQUIVALENT = {
    "nll_loss": {
        "only the shape and the dtype are read": (
            "nll_loss: dim: logprobs → -logprobs",
            "nll_loss: _, divisor: logprobs → -logprobs",
            "nll_loss: classes: logprobs → -logprobs",
            "nll_loss: _divisors.counted: scores → -scores",
            "nll_loss: _divisors.total: scores → -scores",
            "nll_loss: _classes.dim: scores → -scores",
        ),
        "without wide() one more rounding, in bfloat16 and float16 alone": (
            "nll_loss: _, divisor: wide(logprobs) → logprobs",
            "nll_loss: _divisors.total: wide(weight) → weight",
            "nll_loss: _weighted.return: wide(weight) → weight",
        ),
        "each place is named once, and was zero": (
            "nll_loss: dlogprobs: ….scatter → ….scatter_add",
        ),
        "the two have the same dtype, which the forward refuses to do without": (
            "nll_loss: dlogprobs: logprobs.dtype → dout.dtype",
        ),
        "a number, which the forward refuses": (
            "nll_loss: _class_dimension.return: scores.dim() == 1 → scores.dim() <= 1",
        ),
        "the same dimension, counted from the other end": (
            "nll_loss: _class_dimension.return: 0 → -1",
        ),
        "of the three reductions the mean is the first in the alphabet": (
            "nll_loss: _divisors.if: reduction != 'mean' → reduction > 'mean'",
        ),
        "the total is of use to the forward alone": (
            "nll_loss: _divisors.return: (total, …) → (None, …)",
            "nll_loss: _divisors.return: (total, …) → (0 * total, …)",
            "nll_loss: _divisors.return: total → scores",
            "nll_loss: _divisors.return: total → weight",
            "nll_loss: _divisors.return: total → -total",
        ),
    },
    "cross_entropy": {
        "the two have the same size there": ("cross_entropy: dim: probs → divisor",),
        "only the shape and the dtype are read": (
            "cross_entropy: dim: probs → -probs",
            "cross_entropy: classes: probs → -probs",
            "cross_entropy: share, shares: probs → -probs",
            "cross_entropy: _classes.dim: scores → -scores",
            "cross_entropy: _shares.share: scores → -scores",
            "cross_entropy: _shares.weighted: scores → -scores",
        ),
        "without smoothing the smoothed formula is the other one": (
            "cross_entropy: if: label_smoothing → 1",
            "cross_entropy: if: label_smoothing → -1",
            "cross_entropy: if: label_smoothing → -label_smoothing",
            "cross_entropy: if: label_smoothing → label_smoothing + 1",
            "cross_entropy: if: label_smoothing → label_smoothing - 1",
            "cross_entropy: if: label_smoothing → True",
        ),
        "a number, which the forward refuses": (
            "cross_entropy: _class_dimension.return: scores.dim() == 1 → scores.dim() <= 1",
        ),
        "the same dimension, counted from the other end": (
            "cross_entropy: _class_dimension.return: 0 → -1",
        ),
        "without wide() one more rounding, in bfloat16 and float16 alone": (
            "cross_entropy: _weighted.return: wide(weight) → weight",
            "cross_entropy: _along_classes.return: wide(weight) → weight",
        ),
    },
    "soft_cross_entropy": {
        "the two have the same size there": (
            "soft_cross_entropy: dim: logprobs → target",
            "soft_cross_entropy: n: logprobs.select → target.select",
            "soft_cross_entropy: n: 0 → -1",
            "soft_cross_entropy: _smoothed.classes: target.shape → probs.shape",
            "soft_cross_entropy: _smoothed.classes: target → probs",
        ),
        "only the shape and the dtype are read": (
            "soft_cross_entropy: dim: logprobs → -logprobs",
            "soft_cross_entropy: n: logprobs.select → (-logprobs).select",
            "soft_cross_entropy: dq: dq → target (#2)",
            "soft_cross_entropy: dq: dq → logprobs (#2)",
            "soft_cross_entropy: dq: dq → q (#2)",
            "soft_cross_entropy: dq: dq → dlogits (#2)",
            "soft_cross_entropy: dq: dq → -dq (#2)",
            "soft_cross_entropy: _smoothed.classes: target → -target",
            "soft_cross_entropy: _smoothed.return: probs → target (#3)",
            "soft_cross_entropy: _smoothed.return: probs → -probs (#3)",
        ),
        "of the three reductions the mean is the first in the alphabet": (
            "soft_cross_entropy: n: reduction == 'mean' → reduction <= 'mean'",
        ),
        "without wide() one more rounding, in bfloat16 and float16 alone": (
            "soft_cross_entropy: dlosses: wide(upstream) → upstream",
            "soft_cross_entropy: _smoothed.probs: wide(target) → target",
            "soft_cross_entropy: _smoothed.probs: probs → target",
            "soft_cross_entropy: _along_classes.return: wide(weight) → weight",
        ),
        "the two have the same dtype, which the forward refuses to do without": (
            "soft_cross_entropy: dlogits: target.dtype → dout.dtype",
            "soft_cross_entropy: dlogits: target.dtype → upstream.dtype",
            "soft_cross_entropy: dtarget: target.dtype → dout.dtype",
            "soft_cross_entropy: dtarget: target.dtype → upstream.dtype",
            "soft_cross_entropy: dtarget: target.dtype → dlogits.dtype",
        ),
        "a number, which the forward refuses": (
            "soft_cross_entropy: _class_dimension.return: scores.dim() == 1 → scores.dim() <= 1",
        ),
        "the same dimension, counted from the other end": (
            "soft_cross_entropy: _class_dimension.return: 0 → -1",
        ),
        "without smoothing the smoothed formula is the other one": (
            "soft_cross_entropy: _smoothed.if: label_smoothing → 1",
            "soft_cross_entropy: _smoothed.if: label_smoothing → -1",
            "soft_cross_entropy: _smoothed.if: label_smoothing → -label_smoothing",
            "soft_cross_entropy: _smoothed.if: label_smoothing → label_smoothing + 1",
            "soft_cross_entropy: _smoothed.if: label_smoothing → label_smoothing - 1",
            "soft_cross_entropy: _smoothed.if: label_smoothing → True",
        ),
    },
}
