"""Undoing what broadcasting did."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def sum_to(grad: Tensor, shape: Sequence[int]) -> Tensor:
    """Sum ``grad`` to ``shape``, over the dimensions along which ``shape`` was broadcast to it.

    An input that broadcasting repeated reaches the output once per repetition, and its gradient is
    the sum over them. Raises ValueError where ``shape`` does not broadcast to ``grad``'s.
    """
    if grad.shape == shape:
        return grad
    added = grad.dim() - len(shape)
    stretched = [
        added + d for d, size in enumerate(shape) if added >= 0 and size != grad.shape[added + d]
    ]
    if added < 0 or any(shape[d - added] != 1 for d in stretched):
        raise ValueError(f"shape {tuple(shape)} does not broadcast to {tuple(grad.shape)}")
    if stretched:
        grad = grad.sum(stretched, keepdim=True)
    return grad.sum(list(range(added))) if added else grad
