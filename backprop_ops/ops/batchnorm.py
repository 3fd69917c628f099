"""Batch normalization, in training and with given statistics."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from backprop_ops.ops import _refuse as refuse
from backprop_ops.ops._large import by_rows, column_sums, leading_rows, several_by_rows
from backprop_ops.ops._precision import cast, wide, wide_dtype
from backprop_ops.pair import Gradient, Kept

__all__ = [
    "BatchNorm",
    "batchnorm",
    "batchnorm_backward",
    "batchnorm_inference",
    "batchnorm_inference_backward",
    "update_running_statistics",
]


NOT_PAIRS = ("update_running_statistics",)


class BatchNorm(NamedTuple):
    """The result of `batchnorm`. The kept fields are in float32 for bfloat16 and float16."""

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

    x (n, c) or (n, c, …), normalized over all dimensions but the second; n is the product of their
    sizes. gain and bias (c) or (1, c), of one shape, or both None; out as x. correction=1 gives the
    lecture's variance (Bessel's correction), correction=0 the paper's. torch normalizes with
    correction=0 and keeps the other variance to run: see `update_running_statistics`.
    Raises TypeError or ValueError for wrong arguments.

    The formula is from Ioffe and Szegedy, "Batch Normalization", 2015, algorithm 1. The deviations
    are taken from the mean of the leading rows, and from what is left of it: else x̂ loses its
    digits where the mean is large. So would the variance as E[x²] - E[x]².
    """
    _refuse_batchnorm(x, gain, bias, eps, correction)
    n, dims = _count(x), (0, *range(2, x.dim()))
    pivot = leading_rows(x).mean(dims, keepdim=True, dtype=wide_dtype(x.dtype))

    def deviations(x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        deviation = x - pivot
        return deviation, (deviation, deviation)

    left, squares = column_sums(deviations, x)
    mean = torch.add(pivot, left, alpha=1 / n)
    var = torch.addcmul(squares, left, left, value=-1 / n).div_(n - correction)
    inv_std = (var + eps).rsqrt_()
    shift = left * inv_std * (-1 / n)

    def normalized(x: Tensor, out: tuple[Tensor | None, ...]) -> tuple[Tensor, ...]:
        deviation = torch.sub(x, pivot, out=out[0])
        xhat = torch.addcmul(shift, deviation, inv_std, out=out[0])
        if gain is None or bias is None:
            return (xhat,)
        return xhat, _affine(xhat, gain, bias, out=out[1])

    dtypes = (inv_std.dtype,) if gain is None else (inv_std.dtype, x.dtype)
    xhat, *affine = several_by_rows(normalized, x, dtypes=dtypes)
    out = affine[0] if affine else cast(xhat, x.dtype)
    return BatchNorm(out, mean, var, xhat, inv_std)


def batchnorm_backward(
    dout: Tensor, gain: Tensor | None, xhat: Tensor, inv_std: Tensor, *, correction: int
) -> tuple[Tensor, Gradient, Gradient]:
    """dx = gain / √(var + eps) · (dout - dbias / n - x̂ · dgain / (n - correction))

    with dgain = Σ dout · x̂ and dbias = Σ dout. x reaches the output directly, through the mean
    (second term) and through the variance (third term).
    """
    n = _count(xhat)
    scale = inv_std if gain is None else _per_channel(gain, xhat.dim()) * inv_std
    # The sums of a matrix are (c): with one dimension fewer they broadcast faster.
    sum_d, sum_dxhat = column_sums(
        lambda dout, xhat: (dout, (dout, xhat)), dout, xhat, keepdim=xhat.dim() > 2
    )

    def bracket(dout: Tensor, xhat: Tensor, out: Tensor | None) -> Tensor:
        without_var = torch.addcmul(dout, xhat, sum_dxhat, value=-1 / (n - correction), out=out)
        return torch.mul(scale, without_var.sub_(sum_d, alpha=1 / n), out=out)

    dx = by_rows(bracket, dout, xhat, dtype=dout.dtype)
    dgain, dbias = _as_gain(gain, sum_dxhat), _as_gain(gain, sum_d)
    return dx, dgain, dbias


def update_running_statistics(
    running_mean: Tensor,
    running_var: Tensor,
    batch: BatchNorm,
    *,
    momentum: float = 0.1,
    correction: int,
) -> tuple[Tensor, Tensor]:
    """running = (1 - momentum) · running + momentum · batch, of the mean and of the variance

    running_mean and running_var (c) or (1, c); ``batch`` is what `batchnorm` returned with
    ``correction``. Returned, not written. Whatever variance normalized the batch, the running one
    is Bessel's, divided by n - 1, as PyTorch keeps it: training and evaluation differ by
    n / (n - 1) there, which the lecture calls a bug of the paper. With correction=1 they agree.
    """
    _refuse_running_statistics(running_mean, running_var, batch, momentum, correction)
    n = batch.xhat.numel() / batch.mean.numel()
    mean = batch.mean.reshape(running_mean.shape)
    var = batch.var.reshape(running_var.shape) * ((n - correction) / (n - 1))
    return (
        ((1 - momentum) * running_mean + momentum * mean).to(running_mean.dtype),
        ((1 - momentum) * running_var + momentum * var).to(running_var.dtype),
    )


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
    _refuse_batchnorm_inference(x, gain, bias, mean, var, eps)
    rank = x.dim()
    xhat = (x - _per_channel(mean, rank)) * (_per_channel(var, rank) + eps).rsqrt()
    return cast(xhat if gain is None or bias is None else _affine(xhat, gain, bias), x.dtype)


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
    inv_std = (_per_channel(var, rank) + eps).rsqrt()
    xhat = (x - _per_channel(mean, rank)) * inv_std
    scale = inv_std if gain is None else _per_channel(gain, rank) * inv_std
    dx = cast(dout * scale, x.dtype)
    sum_d, sum_dxhat = column_sums(lambda dout, xhat: (dout, (dout, xhat)), dout, xhat)
    dgain, dbias = _as_gain(gain, sum_dxhat), _as_gain(gain, sum_d)
    return dx, dgain, dbias


def _count(x: Tensor) -> int:
    """How many numbers are normalized together."""
    return x.shape[0] * math.prod(x.shape[2:])


def _per_channel(numbers: Tensor, rank: int) -> Tensor:
    """(c) or (1, c) as (1, c, 1…), which broadcasts along the channels."""
    return wide(numbers) if rank == 2 else wide(numbers).reshape([1, -1, *[1] * (rank - 2)])


def _as_gain(gain: Tensor | None, sums: Tensor) -> Gradient:
    """``sums`` (1, c, 1…) as the gradient of gain or bias, None without them."""
    if gain is None:
        return None
    return cast(sums if sums.shape == gain.shape else sums.view_as(gain), gain.dtype)


def _affine(xhat: Tensor, gain: Tensor, bias: Tensor, out: Tensor | None = None) -> Tensor:
    """gain · x̂ + bias"""
    rank = xhat.dim()
    return torch.addcmul(_per_channel(bias, rank), _per_channel(gain, rank), xhat, out=out)


def _refuse_batchnorm(
    x: Tensor, gain: Tensor | None, bias: Tensor | None, eps: float, correction: int
) -> None:
    """x (n, c, …), gain and bias of one shape, (c) or (1, c), and n greater than correction."""
    _refuse_normalization(x, gain, bias, eps)
    if eps < torch.finfo(wide_dtype(x.dtype)).tiny:
        raise ValueError(f"eps must be above 0, got {eps}: equal rows have no deviation")
    refuse.integer(correction=correction)
    if correction < 0:
        raise ValueError(f"correction must be 0 or more, got {correction}")
    n, least = _count(x), max(correction, 1)
    if n <= least:
        raise ValueError(
            f"x must have more than {least} row(s), got {n}: one has no deviation, and the "
            f"variance divides by n - correction, with correction={correction}"
        )


def _refuse_batchnorm_inference(
    x: Tensor,
    gain: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    var: Tensor,
    eps: float,
) -> None:
    """x, gain and bias as for `batchnorm`; mean and var (c) or (1, c), of x's dtype or float32."""
    _refuse_normalization(x, gain, bias, eps)
    for name, statistic in (("mean", mean), ("var", var)):
        refuse.floating(**{name: statistic})
        if statistic.dtype not in (x.dtype, wide_dtype(x.dtype)):
            raise TypeError(f"{name} must have the dtype of x, {x.dtype}, got {statistic.dtype}")
        refuse.per_column(name, statistic, x.shape[1])


def _refuse_running_statistics(
    mean: Tensor, var: Tensor, batch: BatchNorm, momentum: float, correction: int
) -> None:
    """mean and var (c) or (1, c), as many as the batch has channels."""
    if not isinstance(batch, BatchNorm):
        raise TypeError(f"batch must be the result of batchnorm, got {refuse.described(batch)}")
    for name, statistic in (("running_mean", mean), ("running_var", var)):
        refuse.floating(**{name: statistic})
        refuse.per_column(name, statistic, batch.mean.shape[1])
    refuse.number(momentum=momentum)
    refuse.integer(correction=correction)


def _refuse_normalization(x: Tensor, gain: Tensor | None, bias: Tensor | None, eps: float) -> None:
    parameters = {} if gain is None or bias is None else {"gain": gain, "bias": bias}
    refuse.floating(x=x, **parameters)
    if x.dim() < 2:
        raise ValueError(f"x must be of shape (n, c) or (n, c, …), got {tuple(x.shape)}")
    if (gain is None) != (bias is None):
        given = "bias" if gain is None else "gain"
        raise TypeError(f"gain and bias must both be given or both be None, got {given} alone")
    if gain is not None and bias is not None:
        refuse.per_column("gain", gain, x.shape[1])
        if bias.shape != gain.shape:
            raise ValueError(
                f"bias must have the shape of gain, {tuple(gain.shape)}, got {tuple(bias.shape)}"
            )
    refuse.number(eps=eps)
    if not 0 <= eps < math.inf:
        raise ValueError(f"eps must be a finite number of 0 or more, got {eps}")
