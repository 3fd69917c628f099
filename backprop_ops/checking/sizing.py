"""The dimensions of a call's tensors, and calls with other sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from backprop_ops.checking.case import Place
from backprop_ops.leaves import Arguments, replaced, tensors


def groups(arguments: Arguments) -> list[list[Place]]:
    """The dimensions of equal size, by size."""
    by_size: dict[int, list[Place]] = {}
    for name, value in tensors(arguments).items():
        for d, size in enumerate(value.shape):
            by_size.setdefault(size, []).append((name, d))
    return [by_size[size] for size in sorted(by_size)]


def size_of(arguments: Arguments, place: Place) -> int:
    return tensors(arguments)[place[0]].shape[place[1]]


def elements(arguments: Arguments, group: Sequence[Place] = (), other: int | None = None) -> int:
    """The elements of the largest tensor, should some dimensions have another size."""
    return max(
        (
            math.prod(other if (name, d) in group and other else n for d, n in enumerate(x.shape))
            for name, x in tensors(arguments).items()
        ),
        default=0,
    )


def cut(arguments: Arguments, group: Sequence[Place], size: int) -> Arguments:
    """The first elements along some dimensions, or all of them again and again."""
    changed = tensors(arguments)
    for name, d in group:
        x = changed[name]
        changed[name] = x.index_select(d, torch.arange(size, device=x.device) % x.shape[d])
    return replaced(arguments, changed)


def resized(
    arguments: Arguments, group: Sequence[Place], size: int, generator: torch.Generator
) -> Arguments:
    """The arguments with elements repeated or left out; repeated floating ones are no ties."""
    shorter = cut(arguments, group, size)
    changed = tensors(shorter)
    for name in dict.fromkeys(name for name, _ in group):
        x = changed[name]
        if x.is_floating_point():
            jitter = torch.rand(x.shape, generator=generator, dtype=torch.float64)
            changed[name] = x * (1 + jitter.to(x.device, x.dtype) / 4)
    return replaced(shorter, changed)
