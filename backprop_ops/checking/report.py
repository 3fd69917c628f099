"""The result of `check`, and its text."""

from __future__ import annotations

from dataclasses import dataclass

from backprop_ops.comparison import Comparison


@dataclass(frozen=True)
class Failure:
    """One thing that is wrong with a backward.

    ``property``: what does not hold. ``variation``: how the case differs from the caller's own
    sample, None where it is the sample. ``input``: the gradient's name, None where it is of no one
    gradient. ``mistake``: the key of the likely mistake, or None, and ``explanation`` a sentence on
    it. ``reproduce``: code that shows it at the smallest input found.
    """

    property: str
    variation: str | None
    input: str | None
    message: str
    mistake: str | None
    explanation: str
    reproduce: str

    def __str__(self) -> str:
        lines = [f"{self.property}: {self.message}"]
        if self.variation is not None:
            when = "" if self.variation.startswith("in ") else "when "
            lines.append(f"holds on your sample; fails {when}{self.variation}")
        if self.mistake is not None:
            lines.append(f"likely mistake ({self.mistake}): {self.explanation}")
        indented = "\n".join(f"    {line}" for line in self.reproduce.splitlines())
        return "\n".join([*lines, "reproduce:", indented])


@dataclass(frozen=True)
class Report:
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
    def proves_nothing(self) -> bool:
        return bool(self.comparisons) and len(self.vacuous) == len(self.comparisons)

    @property
    def verdict(self) -> str:
        """``correct``, ``correct, but nothing proves db``, ``vacuous`` or ``wrong``."""
        if self.failures:
            return "wrong"
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

    def __str__(self) -> str:
        head = f"{self.name}: {self.verdict}"
        table = [f"  {line}" for line in self.table]
        notes = [*self.notes, f"seed {self.seed}"]
        return "\n".join([head, *table, *map(str, self.failures), *map("note: {}".format, notes)])

    def __repr__(self) -> str:
        """As `str`: this is what a notebook and a failing ``assert check(...)`` show."""
        return str(self)


class BackwardError(AssertionError):
    """A backward that `assert_backward` found wrong; ``report`` says how."""

    def __init__(self, report: Report) -> None:
        super().__init__(str(report))
        self.report = report
