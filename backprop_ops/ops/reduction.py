"""Reductions over one dimension, several, or all: x of any shape, out without those dimensions.

With keepdim they stay, of size 1. A dimension that x lacks is an IndexError.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from backprop_ops.ops import _refuse as refuse

__all__ = [
    "max",
    "max_backward",
    "mean",
    "mean_backward",
    "sum",
    "sum_backward",
]


def sum(x: Tensor, *, dim: int | tuple[int, ...] | None = None, keepdim: bool = False) -> Tensor:
    """out = Σ x over ``dim`` (None: over all)"""
    refuse.floating(x=x)
    refuse.dimensions(x, dim)
    return x.sum(dim, keepdim=keepdim)


def sum_backward(
    dout: Tensor, x: Tensor, *, dim: int | tuple[int, ...] | None = None, keepdim: bool = False
) -> Tensor:
    """dx = dout, repeated over ``dim``; a view of dout, which takes no memory"""
    dx = _unreduced(dout, x, dim, keepdim).expand(x.shape)
    return dx


def mean(x: Tensor, *, dim: int | tuple[int, ...] | None = None, keepdim: bool = False) -> Tensor:
    """out = 1/n Σ x over ``dim`` (None: over all), n the number of elements summed

    Raises ValueError where n is 0: torch gives nan.
    """
    refuse.floating(x=x)
    refuse.dimensions(x, dim)
    refuse.not_empty(x, dim, "a mean of no elements is not a number")
    return x.mean(dim, keepdim=keepdim)


def mean_backward(
    dout: Tensor, x: Tensor, *, dim: int | tuple[int, ...] | None = None, keepdim: bool = False
) -> Tensor:
    """dx = dout / n, repeated over ``dim``; a view, stride 0 along ``dim``"""
    n = math.prod([x.shape[d] for d in _reduced(x, dim)])
    dx = _unreduced(dout / n, x, dim, keepdim).expand(x.shape)
    return dx


def max(x: Tensor, *, dim: int, keepdim: bool = False) -> Tensor:
    """out = max x over ``dim``"""
    refuse.floating(x=x)
    refuse.dimension(x, dim)
    refuse.not_empty(x, dim, "there is no largest of no elements")
    return x.max(dim, keepdim=keepdim).values


def max_backward(dout: Tensor, x: Tensor, *, dim: int) -> Tensor:
    """dx = dout where x is the largest over ``dim``, else 0

    If several are the largest, the one that torch.max names takes the whole gradient.
    """
    largest = x.max(dim, keepdim=True).indices
    dx = torch.zeros_like(x).scatter(dim, largest, dout.reshape(largest.shape))
    return dx


def _reduced(x: Tensor, dim: int | tuple[int, ...] | None) -> set[int]:
    """The dimensions that ``dim`` names, counted from 0; none named means all, as in torch."""
    dims = () if dim is None else dim if isinstance(dim, (tuple, list)) else (dim,)
    return {int(d) % x.dim() for d in dims if x.dim()} or set(range(x.dim()))


def _unreduced(dout: Tensor, x: Tensor, dim: int | tuple[int, ...] | None, keepdim: bool) -> Tensor:
    """The upstream of a reduction with size 1 along the dimensions that were reduced."""
    if keepdim:
        return dout
    reduced = _reduced(x, dim)
    return dout.reshape([1 if d in reduced else size for d, size in enumerate(x.shape)])
