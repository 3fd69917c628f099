"""How the samples of torch's own tests of a function become calls of the pair that stands for it.

A translation takes a sample's arguments and returns the pair's, positional ones and options, or
raises a `Departure`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch

Arguments: TypeAlias = tuple[tuple[Any, ...], dict[str, Any]]


class Departure(Exception):  # noqa: N818  # it is none: what differs on purpose
    """The reason why a sample has no counterpart here."""


def as_it_is(*args: Any, **options: Any) -> Arguments:
    """The pair's arguments are torch's."""
    return args, options


def with_options(*names: str) -> Callable[..., Arguments]:
    """The pair has one input, and torch takes its options by position too."""

    def call(x: Any, *given: Any, **options: Any) -> Arguments:
        options |= dict(zip(names, given, strict=False))
        dim = options.get("dim")
        if isinstance(dim, list):
            options["dim"] = tuple(dim)
        return (x,), options

    return call


def no_alpha(x: Any, y: Any, *, alpha: Any = None) -> Arguments:
    if alpha is not None:
        raise Departure("alpha: a product of its own, mul")
    return (x, y), {}


@dataclass(frozen=True)
class Counterpart:
    """The function of torch that a pair stands for, by the name of its OpInfo.

    ``function`` is torch's, called with the pair's arguments: by default the one of that name.
    ``alone``: the OpInfo's other variants, which no pair stands for, and why.
    """

    name: str
    call: Callable[..., Arguments] = as_it_is
    function: Callable[..., Any] | None = None
    variant: str = ""
    alone: Mapping[str, str] = field(default_factory=dict)

    def torchs(self, *args: Any, **options: Any) -> torch.Tensor:
        """The output of torch's function, the first of several."""
        result = (self.function or operator.attrgetter(self.name)(torch))(*args, **options)
        return result if isinstance(result, torch.Tensor) else result[0]
