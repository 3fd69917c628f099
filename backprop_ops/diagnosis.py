"""The likely mistake behind a wrong gradient: the one that explains the whole residual."""

from __future__ import annotations

import torch
from torch import Tensor

from backprop_ops.judging import Judge


def likely_mistake(judge: Judge, name: str, gradient: Tensor) -> str | None:
    """The key of the known mistake that, undone, makes every entry right; None where none does."""
    value, given = judge.expected[name], gradient.double()

    def explains(mended: Tensor) -> bool:
        return not judge.wrong(name, mended.to(gradient.dtype)).any()

    if (given.isfinite() != value.isfinite()).any():
        return "nan" if given.isnan().any() else "overflow"
    if not given.any():
        return "zero-gradient"
    if explains(-given):
        return "sign"
    if value.dim() == 2 and value.shape[0] == value.shape[1] and explains(given.mT):
        return "transposed"
    at = torch.unravel_index(value.abs().argmax(), value.shape)
    if given[at] != 0 and explains(given * (value[at] / given[at])):
        return "factor"
    return None
