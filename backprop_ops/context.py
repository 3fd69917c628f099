"""The context of a check: the pytest plugin sets it around each test, and `check` reads it.

A module of its own, without torch: it is set before anybody knows whether a test will check.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Context:
    """``seed``, ``reach``: those of a check that is given none.

    ``skips``: each as a check's own ``skip``. ``observe``: called with the report of each check.
    """

    seed: int | None = None
    reach: str | None = None
    skips: tuple[str | Iterable[str], ...] = ()
    observe: Callable[[Any], None] = lambda report: None  # noqa: ARG005


current = Context()
