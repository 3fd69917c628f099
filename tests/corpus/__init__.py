"""Wrong backwards that `check` has to find, and right but unusual ones that it must not refuse.

One file a family: a forward, its right backwards, its wrong ones. An entry is a function under
``@right`` or ``@wrong``, with one ordinary sample of the forward, as a person would try it:

    @wrong(cross_entropy, LOGITS, TARGET, kind=Kind.IGNORED_ROWS, mistake="ignored-rows")
    def divides_by_all_rows(dout, logits, target, *, ignore_index): ...

Its id is ``cross_entropy: divides by all rows``. Where two functions of a file would have one name,
the forward's goes in front, which the id leaves out.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

from tests.corpus.kinds import Kind

Backward = TypeVar("Backward", bound=Callable[..., Any])


class Wrong(NamedTuple):
    """A backward with a mistake in it.

    ``mistake``: the key that names it, or several where more than one is a fair name; none where
    `check` need not name it. ``property``: the one that has to fail first, where only one may.
    """

    forward: Callable[..., Any]
    backward: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    kind: Kind
    mistake: tuple[str, ...]
    property: str | None


class Right(NamedTuple):
    """A backward that is right, and unusual in how it gets there."""

    forward: Callable[..., Any]
    backward: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


FAMILIES = [
    f"{__name__}.{module.name}"
    for module in pkgutil.iter_modules(__path__)
    if not module.name.startswith("test_")
]

_wrong: dict[str, Wrong] = {}
_right: dict[str, Right] = {}


def wrong(
    forward: Callable[..., Any],
    /,
    *args: Any,
    kind: Kind,
    mistake: str | tuple[str, ...] = (),
    property: str | None = None,  # noqa: A002
    **options: Any,
) -> Callable[[Backward], Backward]:
    keys = (mistake,) if isinstance(mistake, str) else mistake

    def enter(backward: Backward) -> Backward:
        entry = Wrong(forward, backward, args, options, kind, keys, property)
        _wrong[_new_id(forward, backward)] = entry
        return backward

    return enter


def right(
    forward: Callable[..., Any], /, *args: Any, **options: Any
) -> Callable[[Backward], Backward]:
    def enter(backward: Backward) -> Backward:
        _right[_new_id(forward, backward)] = Right(forward, backward, args, options)
        return backward

    return enter


def _new_id(forward: Callable[..., Any], backward: Callable[..., Any]) -> str:
    name = backward.__name__.removeprefix(f"{forward.__name__}_")
    found = f"{forward.__name__}: {name.replace('_', ' ')}"
    if found in _wrong or found in _right:
        raise ValueError(f"two entries are called {found!r}")
    return found


def entries() -> tuple[dict[str, Wrong], dict[str, Right]]:
    """The wrong and the right ones of all families, by id."""
    for family in FAMILIES:
        importlib.import_module(family)
    return _wrong, _right
