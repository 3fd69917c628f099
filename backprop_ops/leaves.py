"""The tensors of a call by name: ``x``, and ``xs[0]`` in a sequence ``xs``.

A leaf is a tensor that has a gradient. Arguments are a mapping from a forward's parameters to their
values, as `Pair.arguments` makes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Any, TypeGuard

import torch
from torch import Tensor

Arguments = Mapping[str, Any]


def takes_gradient(value: object) -> TypeGuard[Tensor]:
    """Whether the value of an input has a gradient: a floating Tensor has, a number has not."""
    return isinstance(value, Tensor) and value.is_floating_point()


def parts(value: Any) -> tuple[Any, ...]:
    """The values in a sequence, or the value alone."""
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


def by_leaf(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values or gradients of inputs, with every sequence taken apart: ``xs`` as ``xs[0]``, …"""
    named: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, (tuple, list)):
            named.update((f"{name}[{i}]", part) for i, part in enumerate(value))
        else:
            named[name] = value
    return named


def tensors(arguments: Arguments) -> dict[str, Tensor]:
    """Every tensor of a call, indices and masks too."""
    return {name: v for name, v in by_leaf(arguments).items() if isinstance(v, Tensor)}


Lengths = tuple[tuple[type, int] | None, ...]
"""Of each value: the type and length of a sequence, None for any other; () for no sequence."""


def flattened(values: Iterable[Any]) -> tuple[Lengths, list[Any]]:
    """The values with every sequence taken apart, since autograd finds no tensor inside one."""
    values = list(values)
    sequences = [isinstance(value, (tuple, list)) for value in values]
    if True not in sequences:
        return (), values
    lengths = tuple(
        (type(value), len(value)) if sequence else None
        for value, sequence in zip(values, sequences, strict=True)
    )
    return lengths, [part for value in values for part in parts(value)]


def regrouped(lengths: Lengths, flat: Iterable[Any]) -> list[Any]:
    """What `flattened` took apart, put together."""
    if not lengths:
        return list(flat)
    rest = iter(flat)
    return [
        next(rest) if length is None else length[0](islice(rest, length[1])) for length in lengths
    ]


def replaced(arguments: Arguments, leaves: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments with other leaves."""
    result = {}
    for name, value in arguments.items():
        inside = by_leaf({name: value})
        if name not in inside and inside.keys() & leaves.keys():
            value = type(value)([leaves.get(leaf, part) for leaf, part in inside.items()])
        result[name] = leaves.get(name, value)
    return result


def in_dtype(arguments: Arguments, dtype: torch.dtype) -> dict[str, Any]:
    """The arguments with every floating tensor in another precision."""
    return {
        name: mapped(lambda x: x.to(dtype) if x.is_floating_point() else x, value)
        for name, value in arguments.items()
    }


def copied(arguments: Arguments) -> dict[str, Any]:
    """Copies of the tensors in the same layouts; one tensor in two places is one copy in both."""
    copies: dict[int, Tensor] = {}

    def copy(x: Tensor) -> Tensor:
        if id(x) not in copies:
            copies[id(x)] = _copied(x.detach())
        return copies[id(x)]

    return {name: mapped(copy, value) for name, value in arguments.items()}


def mapped(function: Callable[[Tensor], Any], value: Any) -> Any:
    """A value with ``function`` of every tensor in it, in sequences and dicts too."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, dict):
        return {key: mapped(function, part) for key, part in value.items()}
    if not isinstance(value, (tuple, list)):
        return value
    results = [mapped(function, part) for part in value]
    if hasattr(value, "_fields"):
        return type(value)(*results)
    # Only a list can be written to, so a tuple without tensors stays itself, whatever its type.
    same = all(result is part for result, part in zip(results, value, strict=True))
    return value if same and isinstance(value, tuple) else type(value)(results)


def _copied(x: Tensor) -> Tensor:
    """A copy with the strides and the offset of ``x``, in a buffer that holds other numbers."""
    if x.layout != torch.strided:
        return x.clone()
    if 0 in x.stride() and x.numel():  # an expanded tensor repeats its elements: so does the copy
        once = x[tuple(slice(1) if stride == 0 else slice(None) for stride in x.stride())]
        return torch.empty(once.shape, dtype=x.dtype, device=x.device).copy_(once).expand(x.shape)
    offset = x.storage_offset()
    span = sum((n - 1) * step for n, step in zip(x.shape, x.stride(), strict=True))
    buffer = x.new_full((offset + span + 1 if x.numel() else offset,), 7)
    return buffer.as_strided(x.shape, x.stride(), offset).copy_(x)
