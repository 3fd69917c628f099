"""The ways to the same gradients: a provider is a forward and a backward, on one set of arguments.

What a forward returns is what its backward is called with, besides the upstream gradient. Timing,
memory and comparison take all of them from here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  # torch's own name for it
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
    nll_loss,
    nll_loss_backward,
    pow,
    pow_backward,
    sub,
    sub_backward,
    sum,
    sum_backward,
)

EPS = 1e-5
LIMIT = "clone (the limit)"


@dataclass(frozen=True)
class Provider:
    """``forward(*inputs)`` returns what is kept, ``backward(dout, *kept)`` the gradients."""

    forward: Callable[..., tuple[Any, ...]]
    backward: Callable[..., Any]


@dataclass(frozen=True)
class Problem:
    """A pair at one size: the inputs, an upstream gradient, and the providers."""

    name: str
    shape: tuple[int, int]
    inputs: tuple[Tensor, ...]
    dout: Tensor
    providers: Mapping[str, Provider]

    def runner(self, provider: str, stage: str) -> Callable[[], Any]:
        """The function to time; ``stage`` is "backward" or "both ways"."""
        if provider == LIMIT:  # the result written once, and before it what is kept
            x, arrays = self.inputs[0], 1 if stage == "backward" else 2
            return lambda: [x.clone() for _ in range(arrays)]
        form = self.providers[provider.removesuffix(" compiled")]
        backward, both = form.backward, _both(form)
        if provider.endswith(" compiled"):
            torch.compiler.reset()  # of each function only a few sizes are compiled
            backward, both = (
                torch.compile(function, fullgraph=True, dynamic=False)
                for function in (backward, both)
            )
        inputs, dout = self.inputs, self.dout
        if provider == "autograd":
            inputs = tuple(_leaf(tensor) for tensor in inputs)
        if stage == "both ways":
            return lambda: both(dout, *inputs)
        kept = form.forward(*inputs)
        return lambda: backward(dout, *kept)


def _both(form: Provider) -> Callable[..., Any]:
    def both(dout: Tensor, *inputs: Tensor) -> Any:
        return form.backward(dout, *form.forward(*inputs))

    return both


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.clone().requires_grad_() if tensor.is_floating_point() else tensor


def _cross_entropy_atomic(logits: Tensor, target: Tensor) -> tuple[Any, ...]:
    """The lecture's eight steps."""
    logit_maxes = max(logits, dim=1, keepdim=True)
    counts = exp(sub(logits, logit_maxes))
    counts_sum = sum(counts, dim=1, keepdim=True)
    counts_sum_inv = pow(counts_sum, exponent=-1)
    probs = mul(counts, counts_sum_inv)
    logprobs = log(probs)
    nll_loss(logprobs, target)
    return logits, target, logit_maxes, counts, counts_sum, counts_sum_inv, probs, logprobs


def _cross_entropy_atomic_backward(
    dout: Tensor,
    logits: Tensor,
    target: Tensor,
    logit_maxes: Tensor,
    counts: Tensor,
    counts_sum: Tensor,
    counts_sum_inv: Tensor,
    probs: Tensor,
    logprobs: Tensor,
) -> Tensor:
    dlogprobs = nll_loss_backward(dout, logprobs, target)
    dprobs = log_backward(dlogprobs, probs)
    dcounts_1, dcounts_sum_inv = mul_backward(dprobs, counts, counts_sum_inv)
    dcounts_sum = pow_backward(dcounts_sum_inv, counts_sum, exponent=-1)
    dcounts_2 = sum_backward(dcounts_sum, counts, dim=1, keepdim=True)
    dnorm_logits = exp_backward(dcounts_1 + dcounts_2, counts)
    dlogits_1, dlogit_maxes = sub_backward(dnorm_logits, logits, logit_maxes)
    return dlogits_1 + max_backward(dlogit_maxes, logits, dim=1)


def _cross_entropy_fused(logits: Tensor, target: Tensor) -> tuple[Any, ...]:
    loss = cross_entropy(logits, target)
    return target, loss.probs, loss.divisor


def _cross_entropy_autograd(logits: Tensor, target: Tensor) -> tuple[Any, ...]:
    return F.cross_entropy(logits, target), logits


def _autograd(dout: Tensor, out: Tensor, *leaves: Tensor) -> Any:
    gradients = torch.autograd.grad(out, leaves, dout, retain_graph=True)
    return gradients if len(gradients) > 1 else gradients[0]


def _cross_entropy_aten(logits: Tensor, target: Tensor) -> tuple[Any, ...]:
    logprobs = torch.ops.aten._log_softmax(logits, 1, False)
    _, total = torch.ops.aten.nll_loss_forward(logprobs, target, None, 1, -100)
    return target, logprobs, total


def _cross_entropy_aten_backward(
    dout: Tensor, target: Tensor, logprobs: Tensor, total: Tensor
) -> Tensor:
    dlogprobs = torch.ops.aten.nll_loss_backward(dout, logprobs, target, None, 1, -100, total)
    return torch.ops.aten._log_softmax_backward_data(dlogprobs, logprobs, 1, logprobs.dtype)


CROSS_ENTROPY = {
    "atomic": Provider(_cross_entropy_atomic, _cross_entropy_atomic_backward),
    "fused": Provider(_cross_entropy_fused, cross_entropy_backward),
    "autograd": Provider(_cross_entropy_autograd, _autograd),
    "ATen kernel": Provider(_cross_entropy_aten, _cross_entropy_aten_backward),
}


SMOOTHING = 0.1


def _smoothed_fused(logits: Tensor, target: Tensor) -> tuple[Any, ...]:
    loss = cross_entropy(logits, target, label_smoothing=SMOOTHING)
    return target, loss.probs, loss.divisor


def _smoothed_fused_backward(
    dout: Tensor, target: Tensor, probs: Tensor, divisor: Tensor
) -> Tensor:
    return cross_entropy_backward(dout, target, probs, divisor, label_smoothing=SMOOTHING)


def _smoothed_autograd(logits: Tensor, target: Tensor) -> tuple[Any, ...]:
    return F.cross_entropy(logits, target, label_smoothing=SMOOTHING), logits


SMOOTHED_CROSS_ENTROPY = {
    "fused": Provider(_smoothed_fused, _smoothed_fused_backward),
    "autograd": Provider(_smoothed_autograd, _autograd),
}


def _batchnorm_atomic(x: Tensor, gain: Tensor, bias: Tensor) -> tuple[Any, ...]:
    """The lecture's eight steps, with the variance that torch normalizes with."""
    bnmean = mean(x, dim=0, keepdim=True)
    bndiff = sub(x, bnmean)
    bndiff2 = pow(bndiff, exponent=2)
    bnsum = sum(bndiff2, dim=0, keepdim=True)
    bnvar_eps = add(mul(1 / len(x), bnsum), EPS)
    bnvar_inv = pow(bnvar_eps, exponent=-0.5)
    bnraw = mul(bndiff, bnvar_inv)
    bnscaled = mul(gain, bnraw)
    add(bnscaled, bias)
    return x, gain, bias, bnmean, bndiff, bndiff2, bnsum, bnvar_eps, bnvar_inv, bnraw, bnscaled


def _batchnorm_atomic_backward(
    dout: Tensor,
    x: Tensor,
    gain: Tensor,
    bias: Tensor,
    bnmean: Tensor,
    bndiff: Tensor,
    bndiff2: Tensor,
    bnsum: Tensor,
    bnvar_eps: Tensor,
    bnvar_inv: Tensor,
    bnraw: Tensor,
    bnscaled: Tensor,
) -> tuple[Tensor, ...]:
    dbnscaled, dbias = add_backward(dout, bnscaled, bias)
    dgain, dbnraw = mul_backward(dbnscaled, gain, bnraw)
    dbndiff_1, dbnvar_inv = mul_backward(dbnraw, bndiff, bnvar_inv)
    dbnvar = pow_backward(dbnvar_inv, bnvar_eps, exponent=-0.5)
    _, dbnsum = mul_backward(dbnvar, 1 / len(x), bnsum)
    dbndiff2 = sum_backward(dbnsum, bndiff2, dim=0, keepdim=True)
    dbndiff = dbndiff_1 + pow_backward(dbndiff2, bndiff, exponent=2)
    dx, dbnmean = sub_backward(dbndiff, x, bnmean)
    return dx + mean_backward(dbnmean, x, dim=0, keepdim=True), dgain, dbias


def _batchnorm_fused(x: Tensor, gain: Tensor, bias: Tensor) -> tuple[Any, ...]:
    kept = batchnorm(x, gain, bias, eps=EPS, correction=0)
    return gain, kept.xhat, kept.inv_std


def _batchnorm_fused_backward(
    dout: Tensor, gain: Tensor, xhat: Tensor, inv_std: Tensor
) -> tuple[Tensor, ...]:
    return batchnorm_backward(dout, gain, xhat, inv_std, correction=0)


def _batchnorm_autograd(x: Tensor, gain: Tensor, bias: Tensor) -> tuple[Any, ...]:
    out = F.batch_norm(x, None, None, gain, bias, training=True, eps=EPS)
    return out, x, gain, bias


def _batchnorm_aten(x: Tensor, gain: Tensor, bias: Tensor) -> tuple[Any, ...]:
    forward = torch.ops.aten.native_batch_norm
    _, mean, inv_std = forward(x, gain, bias, None, None, True, 0.1, EPS)
    return x, gain, mean, inv_std


def _batchnorm_aten_backward(
    dout: Tensor, x: Tensor, gain: Tensor, mean: Tensor, inv_std: Tensor
) -> tuple[Tensor, ...]:
    backward = torch.ops.aten.native_batch_norm_backward
    return backward(dout, x, gain, None, None, mean, inv_std, True, EPS, [True, True, True])


BATCHNORM = {
    "atomic": Provider(_batchnorm_atomic, _batchnorm_atomic_backward),
    "fused": Provider(_batchnorm_fused, _batchnorm_fused_backward),
    "autograd": Provider(_batchnorm_autograd, _autograd),
    "ATen kernel": Provider(_batchnorm_aten, _batchnorm_aten_backward),
}

PROVIDERS = {
    "cross_entropy": CROSS_ENTROPY,
    f"cross_entropy, label_smoothing={SMOOTHING}": SMOOTHED_CROSS_ENTROPY,
    "batchnorm": BATCHNORM,
}
NAMES = ("atomic", "fused", "fused compiled", "atomic compiled", "autograd", "ATen kernel", LIMIT)


def names(of: str) -> list[str]:
    """The timed forms of a problem: its providers, compiled ones too, and the limit."""
    return [name for name in NAMES if name.removesuffix(" compiled") in (*PROVIDERS[of], LIMIT)]


def problem(name: str, shape: tuple[int, int]) -> Problem:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator)
    if name != "batchnorm":
        target = torch.randint(shape[1], shape[:1], generator=generator)
        return Problem(name, shape, (x, target), torch.tensor(1.0), PROVIDERS[name])
    gain, bias = torch.randn(2, shape[1], generator=generator)
    dout = torch.randn(shape, generator=generator) / shape[0]
    return Problem(name, shape, (x, gain, bias), dout, PROVIDERS[name])
