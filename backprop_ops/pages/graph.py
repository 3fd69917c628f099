"""Where each value of the network stands in the drawing, and its arrows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

ROW, COLUMN = 46, 150  # pixels from one node to the next, down and across
WIDTH, HEIGHT = 124, 28  # of a node
PARAMETERS, TRUNK, BRANCH = 0, 1, 2  # the columns


class Place(NamedTuple):
    x: int  # of the left upper corner
    y: int


class Arrow(NamedTuple):
    """An edge: the value goes down from ``start`` to ``end``, and the gradient back up."""

    start: str
    end: str
    forward: str  # SVG paths
    backward: str


def places(inputs: Mapping[str, list[str]]) -> dict[str, Place]:
    """Each value a row lower than its inputs: parameters left, the trunk, and what branches off.

    The trunk is what every way from the first value to the last passes through.
    """
    *_, last = inputs
    order: list[str] = []
    for name, used in inputs.items():
        order += [each for each in used if each not in inputs and each not in order]
        order.append(name)
    return {
        name: Place(8 + COLUMN * _column(name, last, inputs), 8 + ROW * row)
        for row, name in enumerate(order)
    }


def _column(name: str, last: str, inputs: Mapping[str, list[str]]) -> int:
    if name not in inputs:
        return PARAMETERS
    first = next(iter(inputs))
    return TRUNK if name in (first, last) or not _joined(last, first, name, inputs) else BRANCH


def _joined(end: str, start: str, without: str, inputs: Mapping[str, list[str]]) -> bool:
    """Whether a way leads from one value to another past a third."""
    return end == start or any(
        _joined(each, start, without, inputs) for each in inputs.get(end, ()) if each != without
    )


def arrows(inputs: Mapping[str, list[str]], at: Mapping[str, Place]) -> list[Arrow]:
    return [
        Arrow(start, end, _path(at[start], at[end], 0), _path(at[start], at[end], 9, up=True))
        for end, used in inputs.items()
        for start in used
    ]


def consumers(inputs: Mapping[str, list[str]], names: Iterable[str]) -> dict[str, list[str]]:
    """What uses each value: where there are two, its gradient is the sum of theirs."""
    return {name: [end for end, used in inputs.items() if name in used] for name in names}


def _path(start: Place, end: Place, aside: int, *, up: bool = False) -> str:
    """From the lower edge of a node to the upper edge of another, or back; long ways bend out."""
    middle = WIDTH // 2 - 5 + aside
    a, b = (start.x + middle, start.y + HEIGHT), (end.x + middle, end.y)
    if start.x == end.x and end.y - start.y > ROW:  # past the nodes between them
        side = start.x + WIDTH
        a, b = (side, start.y + HEIGHT // 2 + aside - 5), (side, end.y + HEIGHT // 2 + aside - 5)
        bend = side + 22 + aside
        if up:
            a, b = b, a
        return f"M{a[0]},{a[1]} C{bend},{a[1]} {bend},{b[1]} {b[0]},{b[1]}"
    half = (a[1] + b[1]) / 2
    if up:
        a, b = b, a
    return f"M{a[0]},{a[1]} C{a[0]},{half} {b[0]},{half} {b[0]},{b[1]}"
