"""Batch normalization, in training and with given statistics."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from backprop_ops import validate
from backprop_ops.pair import Kept
from backprop_ops.precision import wide


class BatchNorm(NamedTuple):
    """What `batchnorm` returns. The statistics are in float32 for bfloat16 and float16."""

    out: Tensor
    mean: Kept  # (1, c), for running statistics
    var: Kept  # (1, c), for running statistics
    xhat: Kept  # (n, c)
    inv_std: Kept  # (1, c)


def batchnorm(
    x: Tensor, gain: Tensor, bias: Tensor, *, eps: float = 1e-5, correction: int = 1
) -> BatchNorm:
    """out = gain · x̂ + bias, x̂ = (x - mean) / √(var + eps), var = Σ (x - mean)² / (n - correction)

    x (n, c); gain and bias (c) or (1, c), both the same; out (n, c). correction=1 is the lecture's
    variance (Bessel's correction), correction=0 the paper's and the one PyTorch normalizes with.
    The formula is from Ioffe and Szegedy, "Batch Normalization", 2015, algorithm 1.
    """
    validate.batchnorm(x, gain, bias, eps, correction)
    rows = wide(x)
    mean = rows.mean(0, keepdim=True)
    centered = rows - mean
    var = (centered * centered).sum(0, keepdim=True) / (x.shape[0] - correction)
    inv_std = (var + eps).rsqrt()
    xhat = centered * inv_std
    out = torch.addcmul(wide(bias), wide(gain), xhat)
    return BatchNorm(out.to(x.dtype), mean, var, xhat, inv_std)


def batchnorm_backward(
    dout: Tensor, gain: Tensor, xhat: Tensor, inv_std: Tensor, *, correction: int = 1
) -> tuple[Tensor, Tensor, Tensor]:
    """dx = gain / √(var + eps) · (dout - dbias / n - x̂ · dgain / (n - correction))

    with dgain = Σ dout · x̂ and dbias = Σ dout. x reaches the output directly, through the mean
    (second term) and through the variance (third term).
    """
    n = xhat.shape[0]
    upstream = wide(dout)
    sum_d = upstream.sum(0, keepdim=True)  # (1, c)
    sum_dxhat = (upstream * xhat).sum(0, keepdim=True)  # (1, c)
    through_mean = sum_d / n
    through_var = xhat * (sum_dxhat / (n - correction))
    dx = (wide(gain) * inv_std * (upstream - through_mean - through_var)).to(dout.dtype)
    dgain = sum_dxhat.reshape(gain.shape).to(gain.dtype)
    dbias = sum_d.reshape(gain.shape).to(gain.dtype)
    return dx, dgain, dbias


def batchnorm_inference(
    x: Tensor, gain: Tensor, bias: Tensor, *, mean: Tensor, var: Tensor, eps: float = 1e-5
) -> Tensor:
    """out = gain · x̂ + bias, x̂ = (x - mean) / √(var + eps), mean and var given

    x (n, c); gain and bias (c) or (1, c), both the same; mean and var (c) or (1, c), calibrated or
    running statistics, constants.
    """
    validate.batchnorm_inference(x, gain, bias, mean, var, eps)
    xhat = (wide(x) - wide(mean)) * (wide(var) + eps).rsqrt()
    return torch.addcmul(wide(bias), wide(gain), xhat).to(x.dtype)


def batchnorm_inference_backward(
    dout: Tensor, x: Tensor, gain: Tensor, *, mean: Tensor, var: Tensor, eps: float = 1e-5
) -> tuple[Tensor, Tensor, Tensor]:
    """dx = dout · gain / √(var + eps), dgain = Σ dout · x̂, dbias = Σ dout"""
    upstream = wide(dout)
    inv_std = (wide(var) + eps).rsqrt()
    xhat = (wide(x) - wide(mean)) * inv_std
    dx = (upstream * wide(gain) * inv_std).to(x.dtype)
    dgain = (upstream * xhat).sum(0).reshape(gain.shape).to(gain.dtype)
    dbias = upstream.sum(0).reshape(gain.shape).to(gain.dtype)
    return dx, dgain, dbias
