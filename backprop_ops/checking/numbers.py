"""The worst entry of an error, numbers as text, and random signs."""

from __future__ import annotations

import torch
from torch import Tensor


def worst(error: Tensor) -> tuple[int, ...]:
    return tuple(int(i) for i in torch.unravel_index(error.argmax(), error.shape))


def told_apart(x: Tensor, y: Tensor) -> tuple[str, str]:
    """Two numbers with as many digits as it takes to tell them apart."""
    pairs = ((f"{x.item():.{digits}g}", f"{y.item():.{digits}g}") for digits in range(6, 18))
    return next((pair for pair in pairs if pair[0] != pair[1]), (number(x), number(y)))


def number(x: Tensor) -> str:
    return f"{x.item():.6g}"


def signs(x: Tensor, generator: torch.Generator) -> Tensor:
    return (torch.randint(0, 2, x.shape, generator=generator) * 2.0 - 1).to(x.device, x.dtype)
