"""The formulas of the pairs in exact arithmetic, on matrices as lists of rows.

A reference takes mpmath's context, the upstream gradient and what the pair takes, and returns the
output and the gradients. Its matrices hold mpmath's numbers; indices are lists of int.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

ROWS, COLUMNS = 4, 6

Matrix: TypeAlias = list[list[Any]]
Reference: TypeAlias = Callable[..., tuple[Matrix, ...]]

KINDS = {
    "x": (ROWS, COLUMNS),
    "positive": (ROWS, COLUMNS),
    "negative": (ROWS, COLUMNS),
    "probs": (ROWS, COLUMNS),
    "row": (1, COLUMNS),
    "square": (COLUMNS, COLUMNS),
    "target": (ROWS,),
}
"""The kinds of inputs that are drawn, with their shapes."""


@dataclass(frozen=True)
class Exact:
    """A reference, what it is called with, and the unit of the errors.

    ``inputs``: of which of the `KINDS` each is drawn. ``unit_of``: "entry" where each entry stands
    for itself. Entries that are sums may cancel to any small fraction of what is added: "terms" is
    the sum of the terms' sizes, and "largest", where they are not linear, the largest entry of the
    tensor; "upstream" is, for the gradients, also at least the sum of the upstream's sizes.
    """

    reference: Reference
    inputs: tuple[str, ...]
    unit_of: str
    options: dict[str, Any]


def exact(reference: Reference, *inputs: str, unit_of: str = "largest", **options: Any) -> Exact:
    return Exact(reference, inputs, unit_of, options)


def each(function: Callable[..., Any], *derivatives: Callable[..., Any]) -> Reference:
    """The reference of what happens to each entry alone."""

    def reference(mp: Any, dout: Matrix, *inputs: Matrix) -> tuple[Matrix, ...]:
        out = zipped(lambda *x: function(mp, *x), *inputs)
        gradients = [zipped(lambda d, *x, f=f: d * f(mp, *x), dout, *inputs) for f in derivatives]
        return out, *gradients

    return reference


def log_probabilities(mp: Any, x: Matrix) -> Matrix:
    """The logarithms of the softmax of each row."""
    rows = []
    for row in x:
        most = max(row)
        log_sum = most + mp.log(mp.fsum(mp.exp(entry - most) for entry in row))
        rows.append([entry - log_sum for entry in row])
    return rows


def zipped(function: Callable[..., Any], *matrices: Matrix) -> Matrix:
    """A function of the entries at the same place."""
    return [
        [function(*entries) for entries in zip(*rows, strict=True)]
        for rows in zip(*matrices, strict=True)
    ]


def turned(matrix: Matrix) -> Matrix:
    return [list(column) for column in zip(*matrix, strict=True)]
