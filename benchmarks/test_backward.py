"""Cross-entropy and batch normalization backwards: atomic against fused.

``pytest --benchmark-only`` runs these and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from backprop_ops import (
    add,
    add_backward,
    batchnorm,
    batchnorm_backward,
    cross_entropy,
    cross_entropy_backward,
    exp,
    exp_backward,
    log,
    log_backward,
    max,
    max_backward,
    mean,
    mean_backward,
    mul,
    mul_backward,
    nll_loss_backward,
    pow,
    pow_backward,
    sub,
    sub_backward,
    sum,
    sum_backward,
)

Backward = Callable[[], Any]


def cross_entropy_atomic(logits: Tensor, target: Tensor, dout: Tensor) -> Backward:
    """The lecture's eight steps."""
    logit_maxes = max(logits, dim=1, keepdim=True)
    counts = exp(sub(logits, logit_maxes))
    counts_sum = sum(counts, dim=1, keepdim=True)
    counts_sum_inv = pow(counts_sum, exponent=-1)
    probs = mul(counts, counts_sum_inv)
    logprobs = log(probs)

    def backward() -> Tensor:
        dlogprobs = nll_loss_backward(dout, logprobs, target)
        dprobs = log_backward(dlogprobs, probs)
        dcounts_1, dcounts_sum_inv = mul_backward(dprobs, counts, counts_sum_inv)
        dcounts_sum = pow_backward(dcounts_sum_inv, counts_sum, exponent=-1)
        dcounts_2 = sum_backward(dcounts_sum, counts, dim=1, keepdim=True)
        dnorm_logits = exp_backward(dcounts_1 + dcounts_2, counts)
        dlogits_1, dlogit_maxes = sub_backward(dnorm_logits, logits, logit_maxes)
        return dlogits_1 + max_backward(dlogit_maxes, logits, dim=1, keepdim=True)

    return backward


def cross_entropy_fused(logits: Tensor, target: Tensor, dout: Tensor) -> Backward:
    kept = cross_entropy(logits, target)
    return lambda: cross_entropy_backward(dout, target, kept.probs, kept.divisor)


def batchnorm_atomic(x: Tensor, gain: Tensor, bias: Tensor, dout: Tensor) -> Backward:
    """The lecture's eight steps."""
    n = len(x)
    bnmean = mean(x, dim=0, keepdim=True)
    bndiff = sub(x, bnmean)
    bndiff2 = pow(bndiff, exponent=2)
    bnsum = sum(bndiff2, dim=0, keepdim=True)
    bnvar_eps = add(mul(1 / (n - 1), bnsum), 1e-5)
    bnvar_inv = pow(bnvar_eps, exponent=-0.5)
    bnraw = mul(bndiff, bnvar_inv)
    bnscaled = mul(gain, bnraw)

    def backward() -> tuple[Tensor, Tensor, Tensor]:
        dbnscaled, dbias = add_backward(dout, bnscaled, bias)
        dgain, dbnraw = mul_backward(dbnscaled, gain, bnraw)
        dbndiff_1, dbnvar_inv = mul_backward(dbnraw, bndiff, bnvar_inv)
        dbnvar = pow_backward(dbnvar_inv, bnvar_eps, exponent=-0.5)
        _, dbnsum = mul_backward(dbnvar, 1 / (n - 1), bnsum)
        dbndiff2 = sum_backward(dbnsum, bndiff2, dim=0, keepdim=True)
        dbndiff = dbndiff_1 + pow_backward(dbndiff2, bndiff, exponent=2)
        dx, dbnmean = sub_backward(dbndiff, x, bnmean)
        return dx + mean_backward(dbnmean, x, dim=0, keepdim=True), dgain, dbias

    return backward


def batchnorm_fused(x: Tensor, gain: Tensor, bias: Tensor, dout: Tensor) -> Backward:
    kept = batchnorm(x, gain, bias)
    return lambda: batchnorm_backward(dout, gain, kept.xhat, kept.inv_std)


def cross_entropy_setup(n: int, c: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(n, c, generator=generator)
    return logits, torch.randint(c, (n,), generator=generator), torch.tensor(1.0)


def batchnorm_setup(n: int, c: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    x, dout = torch.randn(2, n, c, generator=generator)
    gain, bias = torch.randn(2, 1, c, generator=generator)
    return x, gain, bias, dout / n


PROVIDERS = {
    "cross_entropy": (
        cross_entropy_setup,
        {"atomic": cross_entropy_atomic, "fused": cross_entropy_fused},
    ),
    "batchnorm": (batchnorm_setup, {"atomic": batchnorm_atomic, "fused": batchnorm_fused}),
}

CASES = [
    *(("cross_entropy", shape) for shape in ((32, 27), (256, 1000))),
    *(("batchnorm", shape) for shape in ((32, 64), (32, 200), (1024, 1024))),
]


@pytest.mark.parametrize("provider", ["atomic", "fused"])
@pytest.mark.parametrize(
    ("pair", "shape"), [pytest.param(*case, id=f"{case[0]}-{case[1]}") for case in CASES]
)
def test_backward(benchmark: Any, pair: str, shape: tuple[int, int], provider: str) -> None:
    setup, providers = PROVIDERS[pair]
    benchmark.group = f"{pair} backward, {shape[0]} × {shape[1]}"
    arguments = setup(*shape)
    with torch.no_grad():
        # Nothing wrong is timed.
        torch.testing.assert_close(
            providers[provider](*arguments)(), providers["fused"](*arguments)()
        )
        benchmark(providers[provider](*arguments))
