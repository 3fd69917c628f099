"""Wrong backwards that `check` has to find, and right but unusual ones that it must not refuse.

One file a family, each with ``WRONG`` and ``RIGHT``: entries by a name that says what is done.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Wrong(NamedTuple):
    """A backward with a mistake in it.

    ``args``, ``kwargs``: one ordinary sample, as a person would try it. ``kind``: which of the 25
    most common wrong backwards it is, 0 for another. ``mistake``: the key that names it, or several
    where more than one is a fair name.
    """

    forward: Callable[..., Any]
    backward: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    kind: int
    mistake: str | tuple[str, ...]


class Right(NamedTuple):
    """A backward that is right, and unusual in how it gets there."""

    forward: Callable[..., Any]
    backward: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
