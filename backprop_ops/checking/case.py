"""A case: one call to judge, and how it differs from the caller's own sample.

A difference is data. Code reads its fields; its text, made here and nowhere else, is for people.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from backprop_ops.leaves import Arguments

Reach = Literal["sample", "alike", "beyond"]
"""How far from the caller's sample a case is."""
REACHES: tuple[Reach, ...] = typing.get_args(Reach)

Family = Literal[
    "upstreams",
    "layouts",
    "options",
    "indices",
    "values",
    "inputs",
    "sizes",
    "precisions",
    "calls",
]
"""What kind of change a case has."""
FAMILIES: tuple[str, ...] = typing.get_args(Family)

Place = tuple[str, int]
"""A dimension of a tensor: the name of the argument or leaf, and which dimension."""
Make = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Change:
    """One difference from the sample, and how far it goes."""

    family: ClassVar[Family]
    reach: Reach = "alike"

    @property
    def makes_upstreams(self) -> bool:
        return False

    def upstream(self, output: str, upstream: Tensor) -> Tensor:  # noqa: ARG002  # for those below
        """What becomes of an output's upstream gradient."""
        return upstream


@dataclass(frozen=True)
class UpstreamMade(Change):
    """Upstreams of other numbers; those of all outputs but ``alone`` are zero."""

    family = "upstreams"
    how: str
    make: Make | None = None
    alone: str | None = None

    @property
    def makes_upstreams(self) -> bool:
        return True

    def upstream(self, output: str, upstream: Tensor) -> Tensor:
        if self.alone not in (None, output):
            return torch.zeros_like(upstream)
        return upstream if self.make is None else self.make(upstream)

    def __str__(self) -> str:
        if self.alone is not None:
            return f"the upstream of {self.alone} comes alone"
        return f"the upstream is {self.how}"


@dataclass(frozen=True)
class LaidOut(Change):
    """A leaf, or with ``make`` the upstreams, in another place or order in memory."""

    family = "layouts"
    leaf: str | None
    how: str
    make: Make | None = None

    @property
    def makes_upstreams(self) -> bool:
        return self.make is not None

    def upstream(self, output: str, upstream: Tensor) -> Tensor:  # noqa: ARG002  # as above
        return upstream if self.make is None else self.make(upstream)

    def __str__(self) -> str:
        return f"{self.leaf or 'the upstream'} is {self.how}"


@dataclass(frozen=True)
class Shared(Change):
    """One tensor in the place of two."""

    family = "inputs"
    one: str
    other: str

    def __str__(self) -> str:
        return f"{self.one} and {self.other} are the same tensor"


@dataclass(frozen=True)
class OptionSet(Change):
    """An option with another value; ``how`` describes a tensor, which has no short text."""

    family = "options"
    option: str
    value: Any
    how: str | None = None

    def __str__(self) -> str:
        return f"{self.option}={self.value!r}" if self.how is None else f"{self.option} {self.how}"


@dataclass(frozen=True)
class Indexed(Change):
    """An index of other numbers; of ``option``'s own number, where it holds that."""

    family = "indices"
    index: str
    how: str
    option: str | None = None
    repeats: bool = False

    def __str__(self) -> str:
        return f"{self.index} {self.how}"


@dataclass(frozen=True)
class Filled(Change):
    """Leaves with other values; ``cancels``: nearly equal or very large ones are among them."""

    family = "values"
    leaves: tuple[str, ...]
    how: str
    cancels: bool = False

    def __str__(self) -> str:
        verb = "is" if len(self.leaves) == 1 else "are"
        return f"{' and '.join(self.leaves)} {verb} {self.how}"


@dataclass(frozen=True)
class Resized(Change):
    """Dimensions of another size, which was ``was``."""

    family = "sizes"
    places: tuple[Place, ...]
    was: int
    size: int

    def __str__(self) -> str:
        return f"{' and '.join(f'{name}.shape[{d}]' for name, d in self.places)} is {self.size}"


@dataclass(frozen=True)
class Lengthened(Change):
    """A sequence of another number of tensors."""

    family = "sizes"
    sequence: str
    count: int

    def __str__(self) -> str:
        return f"{self.sequence} has {self.count} tensors"


@dataclass(frozen=True)
class Cast(Change):
    """All floating tensors in another precision."""

    family = "precisions"
    dtype: torch.dtype

    def __str__(self) -> str:
        return f"in {str(self.dtype).removeprefix('torch.')}"


@dataclass(frozen=True)
class Scaled(Change):
    """One leaf times a power of two."""

    family = "precisions"
    leaf: str
    exponent: int

    def __str__(self) -> str:
        return f"{self.leaf} is 2^{self.exponent} times as large"


@dataclass(frozen=True)
class Surrounded(Change):
    """The same call in other surroundings; ``other``: the arguments of a call in between."""

    family = "calls"
    kind: Literal["no_grad", "requiring", "alone", "between", "written", "updated"]
    how: str
    other: Arguments | None = None

    def __str__(self) -> str:
        return self.how


@dataclass(frozen=True)
class Case:
    """One call to judge: dense upstreams are drawn by ``seed`` and go through the changes."""

    arguments: Arguments
    seed: int
    changes: tuple[Change, ...] = ()

    @property
    def last(self) -> Change | None:
        return self.changes[-1] if self.changes else None

    @property
    def family(self) -> Family | None:
        return self.last.family if self.last else None

    @property
    def reach(self) -> Reach:
        """That of the farthest change."""
        return farthest(change.reach for change in self.changes)

    def but(self, change: Change, arguments: Arguments | None = None) -> Case:
        """The case with one more change, and the arguments that it makes."""
        arguments = self.arguments if arguments is None else arguments
        return replace(self, arguments=arguments, changes=(*self.changes, change))

    def of(self, arguments: Arguments) -> Case:
        """The same changes of the upstreams, of other arguments."""
        return replace(self, arguments=arguments)

    def upstreams(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        upstreams = {}
        for i, (name, output) in enumerate(outputs.items()):
            upstream = drawn(output, self.seed + i)
            for change in self.changes:
                upstream = change.upstream(name, upstream)
            upstreams[name] = upstream
        return upstreams


def farthest(reaches: typing.Iterable[Reach]) -> Reach:
    return max(reaches, key=REACHES.index, default="sample")


def described(changes: tuple[Change, ...]) -> str | None:
    """The text of a case's changes, by which it can be skipped; None of the sample."""
    return ", and ".join(map(str, changes)) or None


def condition(changes: tuple[Change, ...]) -> str:
    """The text of a case's changes as the end of a sentence: ``in float64, when x is zero``."""
    casts = " ".join(str(change) for change in changes if isinstance(change, Cast))
    others = described(tuple(change for change in changes if not isinstance(change, Cast)))
    return " ".join(part for part in (casts, others and f"when {others}") if part)


def drawn(output: Tensor, seed: int) -> Tensor:
    """A dense upstream of short random numbers, none of them zero."""
    generator = torch.Generator().manual_seed(seed)
    hundredths = torch.randint(25, 200, output.shape, generator=generator)
    signs = torch.randint(0, 2, output.shape, generator=generator) * 2 - 1
    return ((hundredths * signs).double() / 100).to(output.device, output.dtype)
