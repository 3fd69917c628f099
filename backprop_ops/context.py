"""What surrounds a check: set around each test by the pytest plugin, and read by `check`.

A module of its own, without torch: it is set before anybody knows whether a test will check.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from backprop_ops.checking.checker import Report


@dataclass(frozen=True)
class Ambient:
    """``seed``: of a check that is given none. ``skips``: each as a check's own ``skip``.

    ``observe``: called with the report of each check.
    """

    seed: int | None = None
    skips: tuple[str | Iterable[str], ...] = ()
    observe: Callable[[Report], None] = lambda report: None  # noqa: ARG005


current = Ambient()
