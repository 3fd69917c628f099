"""From which size on memory, not arithmetic, sets the pace of a fused pair."""

from __future__ import annotations

import torch
from torch import Tensor

from backprop_ops._torch import transforms_active

CACHED = 2**17  # elements: half a MiB in float32, which the cache of one core holds


def in_cache(x: Tensor) -> bool:
    """Whether a step may have an array of its own: one as large as ``x`` stays in the cache.

    A compiler takes the steps together by itself, at every size. Under `torch.func`, where some
    in-place operations are missing and a tensor does not say that autograd records it, every step
    has its own array too.
    """
    return torch.compiler.is_compiling() or x.numel() <= CACHED or transforms_active()
