"""`differentiable` and `custom_op` beside an autograd.Function written by hand, and torch's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  # torch's own name for it
from torch import Tensor

import backprop_ops
from backprop_ops import autograd, custom_op, pairs
from benchmarks.turns import take_turns

SHAPE = (32, 64)


class Tanh(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        out = backprop_ops.tanh(x)
        ctx.save_for_backward(out)
        return out

    @staticmethod
    def backward(ctx: Any, *upstreams: Tensor) -> Tensor:
        (out,) = ctx.saved_tensors
        return backprop_ops.tanh_backward(*upstreams, out)


class BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
        result = backprop_ops.batchnorm(x, gain, bias)
        ctx.save_for_backward(gain, result.xhat, result.inv_std)
        return result.out

    @staticmethod
    def backward(ctx: Any, *upstreams: Tensor) -> tuple[Tensor, ...]:
        gain, xhat, inv_std = ctx.saved_tensors
        return backprop_ops.batchnorm_backward(*upstreams, gain, xhat, inv_std, correction=1)


def operator(name: str) -> Callable[..., Any]:
    return custom_op(pairs[name].forward, pairs[name].backward, f"backprop_ops_benchmarks::{name}")


BATCHNORM = operator("batchnorm")
PROVIDERS: dict[str, dict[str, Callable[..., Any]]] = {
    "tanh": {
        "by hand": Tanh.apply,
        "differentiable": autograd.tanh,
        "custom_op": operator("tanh"),
        "torch": torch.tanh,
    },
    "batchnorm": {
        "by hand": BatchNorm.apply,
        "differentiable": lambda *args: autograd.batchnorm(*args).out,
        "custom_op": lambda *args: BATCHNORM(*args).out,
        "torch": lambda x, gain, bias: F.batch_norm(x, None, None, gain, bias, training=True),
    },
}


@pytest.mark.parametrize(
    ("name", "provider"),
    [
        pytest.param(name, provider, id=f"{name}-{provider}")
        for name, providers in PROVIDERS.items()
        for provider in providers
    ],
)
def test_doors(benchmark: Any, name: str, provider: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(SHAPE, generator=generator).requires_grad_()
    gain, bias = torch.ones(SHAPE[1]).requires_grad_(), torch.zeros(SHAPE[1]).requires_grad_()
    inputs = (x,) if name == "tanh" else (x, gain, bias)
    upstream = torch.randn(SHAPE, generator=generator)

    def both_ways(function: Callable[..., Any]) -> Callable[[], Any]:
        return lambda: torch.autograd.grad(function(*inputs), inputs, upstream)

    by_hand, own = both_ways(PROVIDERS[name]["by hand"]), both_ways(PROVIDERS[name][provider])
    if provider != "torch":  # which normalizes with another variance
        torch.testing.assert_close(own(), by_hand())
    benchmark.group = f"{name} through autograd, {SHAPE[0]} × {SHAPE[1]}"
    benchmark.extra_info.update(table="autograd", provider=provider)
    take_turns(benchmark, own, by_hand)
