"""Indices that repeat, are to be ignored, or are off by one."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from backprop_ops.checking.case import Indexed, condition
from backprop_ops.checking.evidence import Evidence, Likely, ratio_of
from backprop_ops.checking.mistakes.upstreams import upstream_off_by_one
from backprop_ops.checking.variations.indices import names_ignored

MOST_INDICES = 4096  # each is compared with each


def repeated(evidence: Evidence) -> Iterator[Likely]:
    """As if of equal numbers only the first, or the last, sent its upstream back."""
    call, name = evidence.call, evidence.name
    for option, index in call.arguments.items():
        if not isinstance(index, Tensor) or index.is_floating_point() or index.dtype == torch.bool:
            continue
        for kept in _first_and_last(index):
            upstreams = {
                output: torch.where(_reaching(kept, upstream), upstream, 0)
                for output, upstream in call.upstreams.items()
                if upstream.shape[: index.dim()] == index.shape
            }
            if not upstreams:
                continue
            judge = evidence.inspector.judge(call.arguments, {**call.upstreams, **upstreams})
            if evidence.like_given(judge.expected[str(evidence.leaf)]):
                yield (
                    "repeated-index",
                    f"{name} is right while no number in {option} comes twice: add, not assign",
                )


def _first_and_last(index: Tensor) -> Iterator[Tensor]:
    """Where each number comes last, and first: of all, and along each dimension, as for gather."""
    if index.numel() > MOST_INDICES:
        return
    for d in (None, *range(index.dim() if index.dim() > 1 else 0)):
        lines = index.flatten() if d is None else index.movedim(d, -1)
        equal = lines[..., :, None] == lines[..., None, :]
        places = torch.arange(lines.shape[-1], device=index.device)
        for others in (places > places[:, None], places < places[:, None]):
            kept = ~(equal & others).any(-1)
            if not kept.all():
                yield kept.reshape(index.shape) if d is None else kept.movedim(-1, d)


def _reaching(kept: Tensor, upstream: Tensor) -> Tensor:
    return kept.reshape(*kept.shape, *[1] * (upstream.dim() - kept.dim()))


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
