"""The precision in which fused pairs compute."""

from __future__ import annotations

import torch
from torch import Tensor

_HALVES = (torch.bfloat16, torch.float16)


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """float32 at least: bfloat16 and float16 are for storing, not for adding up."""
    return torch.float32 if dtype in _HALVES else dtype


def wide(x: Tensor) -> Tensor:
    """``x`` in its `wide_dtype`."""
    return x.float() if x.dtype in _HALVES else x


def cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    """``x`` in ``dtype``. Asking first is cheaper: `Tensor.to` takes as long as a small sum."""
    return x if x.dtype == dtype else x.to(dtype)
