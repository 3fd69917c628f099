"""Batch normalization, in training and with given statistics."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from backprop_ops import validate
from backprop_ops.pair import Gradient, Kept
from backprop_ops.precision import wide


class BatchNorm(NamedTuple):
    """What `batchnorm` returns. What it keeps is in float32 for bfloat16 and float16."""

    out: Tensor
    mean: Kept  # (1, c, 1…), for running statistics
    var: Kept  # (1, c, 1…), for running statistics
    xhat: Kept  # as x
    inv_std: Kept  # (1, c, 1…)


def batchnorm(
    x: Tensor,
    gain: Tensor | None,
    bias: Tensor | None,
    *,
    eps: float = 1e-5,
    correction: int = 1,
) -> BatchNorm:
    """out = gain · x̂ + bias, x̂ = (x - mean) / √(var + eps), var = Σ (x - mean)² / (n - correction)

    x (n, c) or (n, c, …), normalized over all dimensions but the second, whose sizes make n here;
    gain and bias (c) or (1, c), both the same, or None, both; out as x. correction=1 is the
    lecture's variance (Bessel's correction), correction=0 the paper's. PyTorch normalizes with the
    one and keeps the other for its running variance: see `update_running_statistics`.
    The formula is from Ioffe and Szegedy, "Batch Normalization", 2015, algorithm 1. The variance
    is taken of x - mean, since E[x²] - E[x]² loses all digits where the mean is large, and so that
    x̂ keeps its own there, the mean is taken twice.
    """
    validate.batchnorm(x, gain, bias, eps, correction)
    dims = _all_but_channels(x.dim())
    rows = wide(x)
    rounded = rows.mean(dims, keepdim=True)
    centered = rows - rounded
    left = centered.mean(dims, keepdim=True)  # what rounding left of the mean
    mean, centered = rounded + left, centered - left
    var = (centered * centered).sum(dims, keepdim=True) / (_count(x) - correction)
    inv_std = (var + eps).rsqrt()
    xhat = centered * inv_std
    return BatchNorm(_affine(xhat, gain, bias).to(x.dtype), mean, var, xhat, inv_std)


def batchnorm_backward(
    dout: Tensor, gain: Tensor | None, xhat: Tensor, inv_std: Tensor, *, correction: int = 1
) -> tuple[Tensor, Gradient, Gradient]:
    """dx = gain / √(var + eps) · (dout - dbias / n - x̂ · dgain / (n - correction))

    with dgain = Σ dout · x̂ and dbias = Σ dout. x reaches the output directly, through the mean
    (second term) and through the variance (third term).
    """
    n, rank = _count(xhat), xhat.dim()
    dims = _all_but_channels(rank)
    sum_d = wide(dout).sum(dims, keepdim=True)  # (1, c, 1…)
    sum_dxhat = (dout * xhat).sum(dims, keepdim=True)  # (1, c, 1…)
    through_mean = sum_d / n
    through_var = xhat * (sum_dxhat / (n - correction))
    scale = inv_std if gain is None else _per_channel(gain, rank) * inv_std
    dx = (scale * (dout - through_mean - through_var)).to(dout.dtype)
    dgain = None if gain is None else sum_dxhat.reshape(gain.shape).to(gain.dtype)
    dbias = None if gain is None else sum_d.reshape(gain.shape).to(gain.dtype)
    return dx, dgain, dbias


def batchnorm_inference(
    x: Tensor,
    gain: Tensor | None,
    bias: Tensor | None,
    *,
    mean: Tensor,
    var: Tensor,
    eps: float = 1e-5,
) -> Tensor:
    """out = gain · x̂ + bias, x̂ = (x - mean) / √(var + eps), mean and var given

    x, gain and bias as in `batchnorm`; mean and var (c) or (1, c), calibrated or running
    statistics, constants.
    """
    validate.batchnorm_inference(x, gain, bias, mean, var, eps)
    rank = x.dim()
    xhat = (x - _per_channel(mean, rank)) * (_per_channel(var, rank) + eps).rsqrt()
    return _affine(xhat, gain, bias).to(x.dtype)


def batchnorm_inference_backward(
    dout: Tensor,
    x: Tensor,
    gain: Tensor | None,
    *,
    mean: Tensor,
    var: Tensor,
    eps: float = 1e-5,
) -> tuple[Tensor, Gradient, Gradient]:
    """dx = dout · gain / √(var + eps), dgain = Σ dout · x̂, dbias = Σ dout"""
    rank = x.dim()
    dims = _all_but_channels(rank)
    inv_std = (_per_channel(var, rank) + eps).rsqrt()
    xhat = (x - _per_channel(mean, rank)) * inv_std
    scale = inv_std if gain is None else _per_channel(gain, rank) * inv_std
    dx = (dout * scale).to(x.dtype)
    dgain = None if gain is None else (dout * xhat).sum(dims).reshape(gain.shape).to(gain.dtype)
    dbias = None if gain is None else dout.sum(dims).reshape(gain.shape)
    return dx, dgain, dbias


def _all_but_channels(rank: int) -> list[int]:
    return [d for d in range(rank) if d != 1]


def _count(x: Tensor) -> int:
    """How many numbers are normalized together."""
    return x.shape[:1].numel() * x.shape[2:].numel()


def _per_channel(numbers: Tensor, rank: int) -> Tensor:
    """(c) or (1, c) as (1, c, 1…), which broadcasts along the channels."""
    return wide(numbers).reshape([1, -1, *[1] * (rank - 2)])


def _affine(xhat: Tensor, gain: Tensor | None, bias: Tensor | None) -> Tensor:
    if gain is None or bias is None:
        return xhat
    rank = xhat.dim()
    return torch.addcmul(_per_channel(bias, rank), _per_channel(gain, rank), xhat)
