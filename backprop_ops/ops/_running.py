"""Running statistics: what batch normalization in training leaves for evaluation."""

from __future__ import annotations

from torch import Tensor

from backprop_ops.ops import _refuse as refuse
from backprop_ops.ops.batchnorm import BatchNorm


def update_running_statistics(
    running_mean: Tensor,
    running_var: Tensor,
    batch: BatchNorm,
    *,
    momentum: float = 0.1,
    correction: int = 1,
) -> tuple[Tensor, Tensor]:
    """running = (1 - momentum) · running + momentum · batch, of the mean and of the variance

    running_mean and running_var (c) or (1, c); ``batch`` is what `batchnorm` returned with
    ``correction``. Returned, not written. Whatever variance normalized the batch, the running one
    is Bessel's, divided by n - 1, as PyTorch keeps it: training and evaluation differ by
    n / (n - 1) there, which the lecture calls a bug of the paper. With correction=1 they agree.
    """
    refuse.running_statistics(running_mean, running_var, batch.mean, momentum)
    n = batch.xhat.numel() / batch.mean.numel()
    mean = batch.mean.reshape(running_mean.shape)
    var = batch.var.reshape(running_var.shape) * ((n - correction) / (n - 1))
    return (
        ((1 - momentum) * running_mean + momentum * mean).to(running_mean.dtype),
        ((1 - momentum) * running_var + momentum * var).to(running_var.dtype),
    )
