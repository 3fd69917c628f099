"""How samples are drawn, and how a forward refuses one."""

from __future__ import annotations

import torch
from torch import Tensor


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def draws(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    return tuple(draw(*shape, seed=seed, dtype=dtype) for seed, shape in enumerate(shapes))


def positive(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return draw(*shape, seed=seed, dtype=dtype).abs() + 0.5


def integers(below: int, *shape: int, seed: int = 0) -> Tensor:
    return torch.randint(below, shape, generator=torch.Generator().manual_seed(seed))


def require(fits: bool) -> None:
    """For forwards that would broadcast, or read a part, where they should refuse."""
    if not fits:
        raise ValueError("the shapes do not fit")
