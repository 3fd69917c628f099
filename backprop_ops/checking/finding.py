"""Something that does not hold of a backward, and what may not hold."""

from __future__ import annotations

import math
import typing
from collections.abc import Iterable
from typing import Literal, NamedTuple

Property = Literal[
    "call",
    "count",
    "shape",
    "dtype",
    "purity",
    "alias",
    "zero",
    "linearity",
    "layout",
    "value",
    "repeat",
    "state",
]
"""What has to hold of a backward; that it can be bound is a condition of the check itself."""
PROPERTIES: tuple[str, ...] = typing.get_args(Property)


class Finding(NamedTuple):
    """Something that does not hold. ``mistake`` is what it is by itself, before any diagnosis.

    ``kind``: how it fails, of several ways; ``of``: what the message is about, beside the input.
    ``at``, ``got``, ``right``: the worst entry and its two numbers, ``source``: who says so.
    """

    property: Property
    input: str | None
    message: str
    mistake: str | None = None
    explanation: str = ""
    kind: str | None = None
    of: str | None = None
    at: tuple[int, ...] | None = None
    got: float = 0.0
    right: float = 0.0
    source: str = ""

    def fails_like(self, other: Finding) -> bool:
        """Whether the same property of the same gradient fails in the same way."""
        same = (self.property, self.input, self.kind) == (other.property, other.input, other.kind)
        return same and math.isnan(self.got) == math.isnan(other.got)

    def among(self, others: Iterable[Finding]) -> Finding | None:
        """The first of others that fails like this one."""
        return next((other for other in others if other.fails_like(self)), None)


LATER = "something is kept between calls"
OTHERS = "it depends on something else than its arguments"
