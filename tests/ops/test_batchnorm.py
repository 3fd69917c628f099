"""Batch normalization: the data for the tests of every pair, and tests of its own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  # torch's own name for it
from torch import Tensor, ones

from backprop_ops import (
    batchnorm,
    batchnorm_backward,
    batchnorm_inference,
    batchnorm_inference_backward,
    update_running_statistics,
)
from tests.support.counterpart import Arguments, Counterpart, Departure
from tests.support.exact import Matrix, exact, turned
from tests.support.samples import bad, positive, real, sample

ROWS = {"n": 3}

SAMPLES = {
    "batchnorm": [
        sample(real("n c"), real("1 c"), real("1 c"), least=ROWS),
        sample(real("n c"), real("c"), real("c"), correction=0, least=ROWS),
        sample(real("n c"), real("c"), real("c"), eps=0.1, least=ROWS),
        sample(real("n c"), None, None, least=ROWS),
        sample(real("n c d"), real("c"), real("c"), least=ROWS),
        sample(real("n c d t"), real("1 c"), real("1 c"), correction=0, least=ROWS),
    ],
    "batchnorm_inference": [
        sample(real("n c"), real("1 c"), real("1 c"), mean=real("1 c"), var=positive("1 c")),
        sample(real("n c"), real("c"), real("c"), mean=real("c"), var=positive("c"), eps=0.1),
        sample(real("n c"), real("1 c"), real("1 c"), mean=real("c"), var=positive("c")),
        sample(real("n c"), real("c"), real("c"), mean=real("1 c"), var=positive("1 c")),
        sample(real("n c d"), None, None, mean=real("c"), var=positive("c")),
        sample(real("n c d t"), real("c"), real("c"), mean=real("c"), var=positive("c")),
    ],
}

X, C = ones(4, 3), ones(3)

BOTH = [
    (TypeError, "x must be a Tensor, got list", ([1.0], C, C), {}),
    (TypeError, "x must be a floating Tensor", (X.long(), C, C), {}),
    (TypeError, "gain must have the dtype of x", (X, C.double(), C), {}),
    (ValueError, "x must be of shape (n, c) or (n, c, …), got (4,)", (ones(4), C, C), {}),
    (ValueError, "gain must be of shape (3,) or (1, 3), got (4,)", (X, ones(4), ones(4)), {}),
    (ValueError, "bias must have the shape of gain, (3,), got (1, 3)", (X, C, ones(1, 3)), {}),
    (ValueError, "eps must be a finite number of 0 or more, got -1", (X, C, C), {"eps": -1}),
    (TypeError, "eps must be a number, got str", (X, C, C), {"eps": "1"}),
]

BAD_INPUTS = {
    "batchnorm": [
        *(bad(error, message, *args, **options) for error, message, args, options in BOTH),
        bad(ValueError, "x must have more than 1 row(s), got 1", X[:1], C, C),
        bad(ValueError, "x must have more than 1 row(s), got 1", X[:1], C, C, correction=0),
        bad(ValueError, "x must have more than 4 row(s), got 4", X, C, C, correction=4),
        bad(ValueError, "eps must be above 0, got 0", X, C, C, eps=0),
        bad(ValueError, "eps must be above 0, got 1e-50", X, C, C, eps=1e-50),
        bad(TypeError, "must both be given or both be None, got bias alone", X, None, C),
        bad(TypeError, "must both be given or both be None, got gain alone", X, C, None),
        bad(ValueError, "correction must be 0 or more, got -1", X, C, C, correction=-1),
        bad(TypeError, "correction must be an integer, got float 1.0", X, C, C, correction=1.0),
    ],
    "batchnorm_inference": [
        *(
            bad(error, message, *args, mean=C, var=C, **options)
            for error, message, args, options in BOTH
        ),
        bad(ValueError, "mean must be of shape (3,) or (1, 3)", X, C, C, mean=ones(4), var=C),
        bad(TypeError, "var must be a Tensor, got list", X, C, C, mean=C, var=[1.0]),
        bad(TypeError, "var must have the dtype of x", X, C, C, mean=C, var=C.double()),
    ],
}


def batchnorm_call(
    x: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    *,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Arguments:
    if not training:
        raise Departure("not training: batchnorm_inference")
    both_and_rows(x, weight, bias)
    if running_mean is not None:
        same_statistics(x, running_mean, running_var, momentum, eps)
    return (x, weight, bias), {"eps": eps, "correction": 0}


def inference_call(
    x: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    *,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Arguments:
    if training:
        raise Departure("training: batchnorm")
    both_and_rows(x, weight, bias)
    return (x, weight, bias), {"mean": running_mean, "var": running_var, "eps": eps}


def both_and_rows(x: Any, weight: Any, bias: Any) -> None:
    if (weight is None) != (bias is None):
        raise Departure("gain without bias, or bias without gain: both or neither here")
    if x.numel() == 0:
        raise Departure("the mean of no rows: refused here, nan in torch")


def same_statistics(x: Tensor, mean: Tensor, var: Tensor, momentum: float, eps: float) -> None:
    """The running statistics are those that torch writes."""
    theirs = (mean.clone(), var.clone())
    F.batch_norm(x, *theirs, training=True, momentum=momentum, eps=eps)
    batch = batchnorm(x, None, None, eps=eps, correction=0)
    ours = update_running_statistics(mean, var, batch, momentum=momentum, correction=0)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


def torchs_training(x: Tensor, gain: Any, bias: Any, *, eps: float, correction: int) -> Tensor:
    assert correction == 0
    return F.batch_norm(x, None, None, *flat(gain, bias), training=True, eps=eps)


def torchs_inference(
    x: Tensor, gain: Any, bias: Any, *, mean: Tensor, var: Tensor, eps: float
) -> Tensor:
    return F.batch_norm(x, *flat(mean, var, gain, bias), eps=eps)


def flat(*rows: Tensor | None) -> list[Tensor | None]:
    return [None if row is None else row.flatten() for row in rows]


OPINFO = {
    "batchnorm": Counterpart(
        "nn.functional.batch_norm",
        batchnorm_call,
        torchs_training,
        alone={"without_cudnn": "the same samples again"},
    ),
    "batchnorm_inference": Counterpart(
        "nn.functional.batch_norm", inference_call, torchs_inference
    ),
}

EPS = 1e-5


def normalized(mp: Any, dout: Matrix, x: Matrix, gain: Matrix, bias: Matrix) -> tuple[Matrix, ...]:
    """With the variance that torch normalizes with."""
    out, dx, dgain, dbias = [], [], [], []
    for column, ds, g, b in zip(turned(x), turned(dout), gain[0], bias[0], strict=True):
        n = len(column)
        mean = mp.fsum(column) / n
        std = mp.sqrt(mp.fsum((entry - mean) ** 2 for entry in column) / n + mp.mpf(EPS))
        xhat = [(entry - mean) / std for entry in column]
        dgain.append([mp.fdot(ds, xhat)])
        dbias.append([mp.fsum(ds)])
        out.append([g * h + b for h in xhat])
        through = [dbias[-1][0] / n + h * dgain[-1][0] / n for h in xhat]
        dx.append([g / std * (d - t) for d, t in zip(ds, through, strict=True)])
    return tuple(turned(matrix) for matrix in (out, dx, dgain, dbias))


EXACT = {
    "batchnorm": [exact(normalized, "x", "row", "row", eps=EPS, correction=0)],
    "batchnorm_inference": "batchnorm without its sums: each entry is scaled and shifted",
}


@pytest.fixture
def batch() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, dout = torch.randn(2, 32, 64, generator=generator)
    gain, bias = torch.randn(2, 64, generator=generator)
    return x, gain, bias, dout / 32


def test_paper_variance_is_torchs(batch: tuple[Tensor, ...]) -> None:
    x, gain, bias, dout = batch
    leaves = [tensor.clone().requires_grad_() for tensor in (x, gain, bias)]
    expected = F.batch_norm(leaves[0], None, None, leaves[1], leaves[2], training=True)
    result = batchnorm(x, gain, bias, correction=0)
    torch.testing.assert_close(result.out, expected)
    gradients = batchnorm_backward(dout, gain, result.xhat, result.inv_std, correction=0)
    for gradient, reference in zip(
        gradients, torch.autograd.grad(expected, leaves, dout), strict=True
    ):
        torch.testing.assert_close(gradient, reference)


def test_corrected_variance_is_the_lectures(batch: tuple[Tensor, ...]) -> None:
    """To the numbers of the lecture: the gradient to about 9e-10."""
    x, gain, bias, dout = batch
    leaf = x.clone().requires_grad_()
    hpreact = gain * (leaf - leaf.mean(0)) / torch.sqrt(leaf.var(0) + 1e-5) + bias
    (expected,) = torch.autograd.grad(hpreact, leaf, dout / 10)
    result = batchnorm(x, gain, bias)
    dx, _, _ = batchnorm_backward(dout / 10, gain, result.xhat, result.inv_std, correction=1)
    assert (result.out - hpreact).abs().max() <= 2e-6
    assert (dx - expected).abs().max() <= 4e-9


def test_inference_is_torchs(batch: tuple[Tensor, ...]) -> None:
    x, gain, bias, dout = batch
    mean, var = x.mean(0), x.var(0)
    leaves = [tensor.clone().requires_grad_() for tensor in (x, gain, bias)]
    expected = F.batch_norm(leaves[0], mean, var, leaves[1], leaves[2])
    torch.testing.assert_close(batchnorm_inference(x, gain, bias, mean=mean, var=var), expected)
    gradients = batchnorm_inference_backward(dout, x, gain, mean=mean, var=var)
    for gradient, reference in zip(
        gradients, torch.autograd.grad(expected, leaves, dout), strict=True
    ):
        torch.testing.assert_close(gradient, reference)


@pytest.mark.parametrize("correction", [0, 1])
def test_statistics_are_those_of_the_batch(batch: tuple[Tensor, ...], correction: int) -> None:
    x, gain, bias, _ = batch
    result = batchnorm(x, gain, bias, correction=correction)
    torch.testing.assert_close(result.mean, x.mean(0, keepdim=True))
    torch.testing.assert_close(result.var, x.var(0, correction=correction, keepdim=True))


def test_squares_that_overflow_float16() -> None:
    x = torch.tensor([[-300.0], [0.0], [300.0]], dtype=torch.float16)
    one = ones(1, dtype=torch.float16)
    assert batchnorm(x, one, one).out.isfinite().all()


@pytest.mark.parametrize("shape", [(8, 3), (8, 3, 4), (2, 3, 4, 5)], ids=str)
@pytest.mark.parametrize("correction", [0, 1])
def test_running_statistics_are_torchs(shape: tuple[int, ...], correction: int) -> None:
    """Bessel's variance runs, whichever one normalized the batch; and nothing is written."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator)
    mean, var = torch.randn(3, generator=generator), torch.rand(3, generator=generator)
    theirs = mean.clone(), var.clone()
    F.batch_norm(x, *theirs, training=True, momentum=0.3)
    batch = batchnorm(x, None, None, correction=correction)
    ours = update_running_statistics(mean, var, batch, momentum=0.3, correction=correction)
    for given, updated, expected in zip((mean, var), ours, theirs, strict=True):
        torch.testing.assert_close(updated, expected)
        assert not torch.equal(given, updated)


def test_bad_running_statistics() -> None:
    batch = batchnorm(X, C, C)
    with pytest.raises(ValueError, match=r"running_mean must be of shape \(3,\) or \(1, 3\)"):
        update_running_statistics(ones(4), C, batch, correction=1)
    with pytest.raises(TypeError, match="running_var must be a floating Tensor"):
        update_running_statistics(C, C.long(), batch, correction=1)
    with pytest.raises(TypeError, match="momentum must be a number, got NoneType"):
        update_running_statistics(C, C, batch, momentum=None, correction=1)
    with pytest.raises(TypeError, match="batch must be the result of batchnorm, got Tensor"):
        update_running_statistics(C, C, X, correction=1)


def test_a_large_mean_costs_no_digits() -> None:
    """The spread is a ten-thousandth of the mean here, and a mean rounded once would cost digits."""
    generator = torch.Generator().manual_seed(0)
    x = 1e4 + torch.randn(64, 3, generator=generator)
    result = batchnorm(x, None, None, correction=0)
    exact = batchnorm(x.double(), None, None, correction=0)
    torch.testing.assert_close(result.out.double(), exact.out, rtol=1e-6, atol=1e-6)


EQUIVALENT = {
    "batchnorm": {
        "the two have the same size there": (
            "batchnorm: n: xhat → dout",
            "batchnorm: scale: xhat.dim → dout.dim",
            "batchnorm: scale: xhat.dim → inv_std.dim",
            "batchnorm: sum_d, sum_dxhat: xhat.dim → dout.dim",
            "batchnorm: sum_d, sum_dxhat: xhat.dim → inv_std.dim",
            "batchnorm: sum_d, sum_dxhat: xhat.dim → scale.dim",
        ),
        "only the shape and the dtype are read": (
            "batchnorm: n: xhat → -xhat",
            "batchnorm: _as_gain.return: gain → -gain",
        ),
        "the sums have a first dimension or none, and gain's shape afterwards": (
            "batchnorm: sum_d, sum_dxhat: column_sums(…, dout, xhat, keepdim=xhat.dim() > 2) → column_sums(…, dout, xhat)",
            "batchnorm: sum_d, sum_dxhat: xhat.dim() > 2 → xhat.dim() != 2",
            "batchnorm: sum_d, sum_dxhat: xhat.dim() > 2 → xhat.dim() >= 2",
            "batchnorm: sum_d, sum_dxhat: 2 → 0",
            "batchnorm: sum_d, sum_dxhat: 2 → 1",
            "batchnorm: sum_d, sum_dxhat: 2 → -2",
        ),
        "the factors of a product": (
            "batchnorm: bracket.return: torch.mul(scale, …, out=out) → torch.mul(…, scale, out=out)",
            "batchnorm: bracket.without_var: torch.addcmul(dout, xhat, sum_dxhat, value=-1 / (n - correction), out=out) → torch.addcmul(dout, sum_dxhat, xhat, value=-1 / (n - correction), out=out)",
        ),
        "the step makes an array of its own, and the last one writes into out": (
            "batchnorm: bracket.without_var: torch.addcmul(dout, xhat, sum_dxhat, value=-1 / (n - correction), out=out) → torch.addcmul(dout, xhat, sum_dxhat, value=-1 / (n - correction))",
        ),
        "a reshape that is not needed changes nothing": (
            "batchnorm: _as_gain.return: sums.shape == gain.shape → False",
            "batchnorm: _per_channel.return: rank == 2 → False",
            "batchnorm: _per_channel.return: rank == 2 → rank < 2",
            "batchnorm: _per_channel.return: rank == 2 → rank <= 2",
            "batchnorm: _per_channel.return: rank → -1",
            "batchnorm: _per_channel.return: rank → -rank",
            "batchnorm: _per_channel.return: rank → 0",
            "batchnorm: _per_channel.return: rank → 1",
            "batchnorm: _per_channel.return: rank → rank + 1",
            "batchnorm: _per_channel.return: 2 → -2",
            "batchnorm: _per_channel.return: 2 → 0",
            "batchnorm: _per_channel.return: 2 → 1",
        ),
        "wide() changes nothing, for the next step is with a float32 and computes in float32 anyway": (
            "batchnorm: _per_channel.return: wide(numbers) → numbers",
            "batchnorm: _per_channel.return: wide(numbers) → numbers (#2)",
        ),
        "the last step may write into the array of the step before, which is its own": (
            "batchnorm: bracket.return: out=out → out=without_var",
        ),
    },
    "batchnorm_inference": {
        "the two have the same size there": ("batchnorm_inference: rank: x.dim → dout.dim",),
        "the two have the same dtype, which the forward refuses to do without": (
            "batchnorm_inference: dx: x.dtype → dout.dtype",
        ),
        "the same dtype, unless statistics are in float32 beside an x that is not: no sample is so": (
            "batchnorm_inference: dx: x.dtype → mean.dtype",
            "batchnorm_inference: dx: x.dtype → var.dtype",
        ),
        "a reshape that is not needed changes nothing": (
            "batchnorm_inference: _as_gain.return: sums.shape == gain.shape → False",
            "batchnorm_inference: _per_channel.return: rank == 2 → rank < 2",
            "batchnorm_inference: _per_channel.return: rank == 2 → rank <= 2",
            "batchnorm_inference: _per_channel.return: rank == 2 → False",
            "batchnorm_inference: _per_channel.return: rank → 0",
            "batchnorm_inference: _per_channel.return: rank → 1",
            "batchnorm_inference: _per_channel.return: rank → -1",
            "batchnorm_inference: _per_channel.return: rank → -rank",
            "batchnorm_inference: _per_channel.return: rank → rank + 1",
            "batchnorm_inference: _per_channel.return: 2 → 0",
            "batchnorm_inference: _per_channel.return: 2 → 1",
            "batchnorm_inference: _per_channel.return: 2 → -2",
        ),
        "only the shape and the dtype are read": (
            "batchnorm_inference: _as_gain.return: gain → -gain",
        ),
        "wide() changes nothing, for the next step is with a float32 and computes in float32 anyway": (
            "batchnorm_inference: _per_channel.return: wide(numbers) → numbers",
            "batchnorm_inference: _per_channel.return: wide(numbers) → numbers (#2)",
        ),
    },
}
