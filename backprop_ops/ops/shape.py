"""Pairs that move elements and leave their values as they are."""

from __future__ import annotations

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
    refuse.shape(x, shape)
    return x.reshape(shape)


def reshape_backward(dout: Tensor, x: Tensor) -> Tensor:
    """dx = dout in the shape of x"""
    dx = dout.reshape(x.shape)
    return dx
