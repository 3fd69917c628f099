"""Whether tensors are the same: in their bits, in their memory, or up to the order of a sum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from backprop_ops._torch import is_zero_tensor

ALLOWED_APART = 64  # units of rounding by which two calls may differ, as atomics make them


def apart(one: Any, other: Any) -> bool:
    """Whether two gradients of the same call differ by more than the order of summation."""
    if not isinstance(one, Tensor) or not isinstance(other, Tensor):
        return one is not other
    if same_bytes(one, other):
        return False
    finite = one.isfinite()
    if one.shape != other.shape or not torch.equal(finite, other.isfinite()):
        return True
    difference = (one.double() - other.double())[finite].abs()
    allowed = ALLOWED_APART * torch.finfo(one.dtype).eps * one.double()[finite].abs()
    return bool((difference > allowed.amax()).any()) if difference.numel() else False


def changed(given: Mapping[str, Any], before: Mapping[str, Any]) -> list[str]:
    return [name for name, value in given.items() if not _unchanged(value, before[name])]


def _unchanged(value: Any, before: Any) -> bool:
    if isinstance(value, Tensor):
        return same_bytes(value, before)
    if isinstance(value, (tuple, list)):
        return len(value) == len(before) and all(map(_unchanged, value, before))
    return value is before


def same_shape(x: Any, y: Tensor) -> bool:
    return isinstance(x, Tensor) and x.shape == y.shape


def same_bytes(x: Tensor, y: Tensor) -> bool:
    """Equal in every bit, nan and the sign of zero included."""
    if x.shape != y.shape or x.dtype != y.dtype:
        return False
    return torch.equal(_bits(x), _bits(y))


def _bits(x: Tensor) -> Tensor:
    x = torch.view_as_real(x) if x.is_complex() else x
    return x.view(_INTEGERS[x.dtype.itemsize]) if x.is_floating_point() else x


_INTEGERS = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.int8}
"""By the bytes of a number."""


def memory(x: Tensor) -> int:
    """Where a tensor's numbers are; 0 for one that has none of its own, as autograd's zeros."""
    if x.layout != torch.strided or is_zero_tensor(x):
        return 0
    return x.untyped_storage().data_ptr()
