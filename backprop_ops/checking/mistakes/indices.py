"""Indices that repeat, are to be ignored, or are off by one."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from backprop_ops.checking.case import Indexed, condition
from backprop_ops.checking.evidence import Evidence, Likely, ratio_of
from backprop_ops.checking.mistakes.upstreams import upstream_off_by_one
from backprop_ops.checking.sizing import cut, groups
from backprop_ops.checking.variations.indices import names_ignored
from backprop_ops.leaves import Arguments


def repeated(evidence: Evidence) -> Iterator[Likely]:
    """Right as soon as no index comes twice."""
    case, name = evidence.case, evidence.name
    for option, index in case.arguments.items():
        if not isinstance(index, Tensor) or index.is_floating_point() or index.dtype == torch.bool:
            continue
        if index.numel() < 2 or len(torch.unique(index)) == index.numel():
            continue
        # Two rows at least, since of one row every mean is right. There may be too few classes.
        fewer = [
            cut(case.arguments, group, 2)
            for group in groups(case.arguments)
            if (option, 0) in group and index.shape[0] > 2
        ]
        if (isinstance(case.last, Indexed) and case.last.repeats) or any(
            evidence.holds(case.of(_distinct(arguments, option)))
            for arguments in (case.arguments, *fewer)
        ):
            yield (
                "repeated-index",
                f"{name} is right while no number in {option} comes twice: add, not assign",
            )


def _distinct(arguments: Arguments, option: str) -> Arguments:
    index = arguments[option]
    distinct = torch.arange(index.numel(), device=index.device, dtype=index.dtype)
    return {**arguments, option: distinct.reshape(index.shape)}


def ignored_rows(evidence: Evidence) -> Iterator[Likely]:
    """Wrong as soon as an option's number is among the indices."""
    case, name = evidence.case, evidence.name
    numbers = {
        option: value
        for option, value in case.arguments.items()
        if type(value) is int and option in evidence.inspector.pair.options
        if names_ignored(option) or (isinstance(case.last, Indexed) and case.last.option == option)
    }
    for option, number in numbers.items():
        for index_name, index in case.arguments.items():
            if (
                not isinstance(index, Tensor)
                or index.is_floating_point()
                or index.dtype == torch.bool
            ):
                continue
            ignored = index == number
            if not ignored.any():
                continue
            rows = evidence.expected.shape[: index.dim()] == index.shape
            if rows and not ignored.all():
                hidden = evidence.given[~ignored]
                right = evidence.expected[~ignored]
                ratio = ratio_of(hidden, right)
                leaks = bool(evidence.given[ignored].any()) and not evidence.expected[ignored].any()
                if ratio is not None and abs(ratio - 1) > 1e-6 and not leaks:
                    yield (
                        "wrong-count",
                        f"{name} is {ratio:.6g} × what it should be: the mean counts the rows "
                        f"where {index_name} is {option} too",
                    )
            yield "ignored-rows", f"{name} is wrong where {index_name} holds {option} ({number})"
    if isinstance(case.last, Indexed) and case.last.option is not None:
        yield "ignored-rows", f"{name} is wrong {condition(case.changes)}"


def off_by_one(evidence: Evidence) -> Iterator[Likely]:
    given, expected, name = evidence.given, evidence.expected, evidence.name
    if evidence.case.family not in (None, "sizes", "upstreams"):
        return
    yield from upstream_off_by_one(evidence)
    for d in range(given.dim()):
        n = given.shape[d]
        if n < 3:
            continue
        for shift in (1, -1):
            inner = range(1, n) if shift == 1 else range(n - 1)
            at = torch.tensor(list(inner), device=given.device)
            mine, theirs = given.index_select(d, at), expected.index_select(d, at - shift)
            if theirs.any() and torch.allclose(mine, theirs, rtol=1e-6, atol=1e-12):
                yield "off-by-one", f"{name} is shifted by one along dimension {d}"
        wrong = (evidence.residual.abs() > evidence.slack).movedim(d, 0).reshape(n, -1).any(1)
        for place, what in ((0, "first"), (n - 1, "last")):
            others = torch.cat([wrong[:place], wrong[place + 1 :]])
            if wrong[place] and not others.any():
                yield "off-by-one", f"{name} is wrong in the {what} place of dimension {d} alone"
