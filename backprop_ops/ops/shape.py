"""Pairs that move elements and leave their values as they are."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from backprop_ops.ops import _refuse as refuse

__all__ = [
    "reshape",
    "reshape_backward",
]


def reshape(x: Tensor, *, shape: Sequence[int]) -> Tensor:
    """out = the elements of x in the same order, in another shape; one size may be -1"""
    refuse.floating(x=x)
    _refuse_shape(x, shape)
    return x.reshape(shape)


def reshape_backward(dout: Tensor, x: Tensor) -> Tensor:
    """dx = dout in the shape of x"""
    dx = dout.reshape(x.shape)
    return dx


def _refuse_shape(x: Tensor, shape: Sequence[int]) -> None:
    """``shape`` has as many elements as ``x``, with one size left as -1 at most."""
    if not isinstance(shape, (tuple, list)) or not all(
        isinstance(size, refuse.INTEGERS) for size in shape
    ):
        raise TypeError(f"shape must be a tuple of integers, got {refuse.described(shape)}")
    known = math.prod([size for size in shape if size != -1])
    free = len(shape) - sum(size != -1 for size in shape)
    fits = x.numel() == known if free == 0 else known and x.numel() % known == 0
    if free > 1 or any(size < -1 for size in shape) or not fits:
        raise ValueError(
            f"shape must hold the {x.numel()} elements of x, of shape {tuple(x.shape)}, "
            f"got {tuple(shape)}"
        )
