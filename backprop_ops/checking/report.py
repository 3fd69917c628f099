"""The result of `check`, and its text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property  # `property` is a field's name here
from typing import TYPE_CHECKING, Any

from backprop_ops.checking.case import REACHES, Change, Reach, condition, described, farthest
from backprop_ops.comparison import Comparison
from backprop_ops.styled import ASIDE, DOUBT, RIGHT, WRONG, Line, Styled

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Failure(Styled):
    """One thing that is wrong with a backward.

    ``property``: what does not hold. ``changes``: how the case differs from the caller's own
    sample. ``input``: the gradient's name, None where it is of no one gradient. ``mistake``: the
    key of the likely mistake, or None, and ``explanation`` a sentence on it. ``reproduce``: code
    that shows it at the smallest input found. ``left``: what the whole sample is and this case is
    not, as ``a is not symmetric, which your sample is``.
    """

    property: str
    changes: tuple[Change, ...]
    input: str | None
    message: str
    mistake: str | None
    explanation: str
    reproduce: str
    left: tuple[str, ...] = ()

    @cached_property
    def variation(self) -> str | None:
        """The text of the changes, by which the variation can be skipped; None of the sample."""
        return described(self.changes)

    @cached_property
    def reach(self) -> Reach:
        """How far from the sample it fails."""
        return farthest(change.reach for change in self.changes)

    @cached_property
    def verdict(self) -> str:
        """``wrong on your sample``, ``wrong on inputs like yours`` or ``wrong beyond: …``."""
        if self.reach == "sample":
            return "wrong on your sample"
        if self.reach == "alike":
            return "wrong on inputs like yours"
        if self.left:
            return f"wrong beyond: when {' and '.join(self.left)}"
        return f"wrong beyond: {condition(self.changes)}"

    def lines(self) -> Iterator[Line]:
        yield WRONG, f"{self.property}: {self.message}"
        if self.changes:
            yield "", f"holds on your sample; fails {condition(self.changes)}"
        if self.mistake is not None and self.explanation:
            yield DOUBT, f"likely mistake ({self.mistake}): {self.explanation}"
        yield "", "reproduce:"
        yield from (("", f"    {line}") for line in self.reproduce.splitlines())

    def as_dict(self) -> dict[str, Any]:
        """In values that JSON has."""
        return {
            "property": self.property,
            "reach": self.reach,
            "variation": self.variation,
            "gradient": self.input,
            "message": self.message,
            "mistake": self.mistake,
            "explanation": self.explanation,
            "reproduce": self.reproduce,
            "left": [*self.left],
        }


@dataclass(frozen=True)
class Report(Styled):
    """The result of `check`; true if nothing is wrong and some gradient was proved.

    ``comparisons``: each gradient against the judge's, on the caller's own sample in its own
    precision. ``vacuous``: the gradients of which no case could prove anything.
    """

    name: str
    comparisons: tuple[Comparison, ...]
    failures: tuple[Failure, ...]
    notes: tuple[str, ...]
    seed: int
    vacuous: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.failures and not self.proves_nothing

    @property
    def reach(self) -> Reach | None:
        """The least reach at which something fails; None where nothing does."""
        reaches = (failure.reach for failure in self.failures)
        return min(reaches, key=REACHES.index, default=None)

    @property
    def proves_nothing(self) -> bool:
        return bool(self.comparisons) and len(self.vacuous) == len(self.comparisons)

    @property
    def verdict(self) -> str:
        """``correct``, ``correct, but nothing proves db``, ``vacuous``, or that of a failure."""
        if self.failures:
            return min(self.failures, key=lambda f: REACHES.index(f.reach)).verdict
        if self.proves_nothing:
            return "vacuous"
        unproved = " and ".join(self.vacuous)
        return f"correct, but nothing proves {unproved}" if unproved else "correct"

    @property
    def table(self) -> list[str]:
        """The lecture's line of each gradient, with a word after it where nothing proves it."""
        return [
            f"{row} | vacuous" if row.name in self.vacuous else f"{row}" for row in self.comparisons
        ]

    def __bool__(self) -> bool:
        return self.ok

    def lines(self) -> Iterator[Line]:
        verdict = RIGHT if self.verdict == "correct" else DOUBT
        yield WRONG if self.failures else verdict, f"{self.name}: {self.verdict}"
        for row, line in zip(self.comparisons, self.table, strict=True):
            yield "" if row.approximate else WRONG, f"  {line}"
        for failure in self.failures:
            yield from failure.lines()
        yield from ((ASIDE, f"note: {note}") for note in (*self.notes, f"seed {self.seed}"))

    def as_dict(self) -> dict[str, Any]:
        """In values that JSON has; a maxdiff that is not finite is None."""
        return {
            "name": self.name,
            "ok": self.ok,
            "verdict": self.verdict,
            "reach": self.reach,
            "gradients": [
                {**row.as_dict(), "vacuous": row.name in self.vacuous} for row in self.comparisons
            ],
            "failures": [failure.as_dict() for failure in self.failures],
            "notes": [*self.notes],
            "seed": self.seed,
        }

    def __repr__(self) -> str:
        """As `str`: this is what a notebook and a failing ``assert check(...)`` show."""
        return str(self)


class BackwardError(AssertionError):
    """A backward that `assert_backward` found wrong; ``report`` says how."""

    def __init__(self, report: Report) -> None:
        super().__init__(str(report))
        self.report = report
