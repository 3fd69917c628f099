"""Matrix products."""

from __future__ import annotations

import math

from torch import Tensor

from backprop_ops.broadcasting import sum_to
from backprop_ops.ops import _refuse as refuse
from backprop_ops.ops._precision import wide
from backprop_ops.pair import Gradient

__all__ = [
    "linear",
    "linear_backward",
    "matmul",
    "matmul_backward",
]


def matmul(x: Tensor, y: Tensor) -> Tensor:
    """out = x @ y

    x (…, n, k), y (…, k, m), out (…, n, m); batches broadcast, and a vector is a row on the left
    and a column on the right, as in torch.
    """
    _refuse_matmul(x, y)
    return x @ y


def matmul_backward(dout: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """dx = dout @ yᵀ, dy = xᵀ @ dout, each summed over the batches that it was broadcast to

    The sums over batches are kept in float32 for bfloat16 and float16.
    """
    if y.dim() == 1:
        dout = dout.unsqueeze(-1)  # (…, n, 1)
    if x.dim() == 1:
        dout = dout.unsqueeze(-2)  # (…, 1, m)
    rows = x.unsqueeze(0) if x.dim() == 1 else x  # (…, n, k)
    columns = y.unsqueeze(1) if y.dim() == 1 else y  # (…, k, m)
    dx = _summed_product(dout, columns.mT, rows.shape).reshape(x.shape)
    dy = _summed_product(rows.mT, dout, columns.shape).reshape(y.shape)
    return dx, dy


def _summed_product(x: Tensor, y: Tensor, shape: tuple[int, ...]) -> Tensor:
    """x @ y, summed to a shape that was broadcast to the product's."""
    if x.shape[:-2] == y.shape[:-2] == shape[:-2]:
        return x @ y
    return sum_to(wide(x) @ wide(y), shape).to(x.dtype)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """out = x @ weight + bias

    x (…, in), weight (in, out), bias (out) or (1, out), out (…, out). The weight is the lecture's;
    torch.nn.functional.linear takes the transposed one.
    """
    _refuse_linear(x, weight, bias)
    out = x @ weight
    return out if bias is None else out + bias


def linear_backward(
    dout: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor, Gradient]:
    """dx = dout @ weightᵀ, dweight = xᵀ @ dout, dbias = Σ dout, the sums over all rows"""
    n = math.prod(x.shape[:-1])
    dx = dout @ weight.mT
    dweight = x.reshape(n, x.shape[-1]).mT @ dout.reshape(n, dout.shape[-1])
    dbias = None if bias is None else sum_to(dout, bias.shape)
    return dx, dweight, dbias


def _refuse_matmul(x: Tensor, y: Tensor) -> None:
    """Floating Tensors, vectors or (batches of) matrices, that can be multiplied."""
    refuse.floating(x=x, y=y)
    for name, tensor in (("x", x), ("y", y)):
        if tensor.dim() == 0:
            raise ValueError(f"{name} must be a vector or (a batch of) matrices, got a scalar")
    rows = y.shape[-2] if y.dim() > 1 else y.shape[0]
    if x.shape[-1] != rows:
        raise ValueError(
            f"y must have as many rows as x has columns, {x.shape[-1]}, "
            f"got y of shape {tuple(y.shape)} for x of shape {tuple(x.shape)}"
        )
    refuse.shapes_that_broadcast("batch dimensions", x=x.shape[:-2], y=y.shape[:-2])


def _refuse_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """x (…, in), weight (in, out), bias (out) or (1, out) or None, of one floating dtype."""
    refuse.floating(x=x, weight=weight, **({} if bias is None else {"bias": bias}))
    if x.dim() == 0:
        raise ValueError("x must have a last dimension of features, got a scalar")
    if weight.dim() != 2 or weight.shape[0] != x.shape[-1]:
        hint = " (torch.nn.functional.linear keeps the transposed one: pass weight.T)"
        transposed = weight.dim() == 2 and weight.shape[1] == x.shape[-1]
        raise ValueError(
            f"weight must be of shape (in, out) with in = {x.shape[-1]}, the last size of x, "
            f"got {tuple(weight.shape)}{hint if transposed else ''}"
        )
    if bias is not None:
        refuse.per_column("bias", bias, weight.shape[1])
