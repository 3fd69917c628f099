"""The smallest input that still fails."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from backprop_ops.checking.case import Case, UpstreamMade
from backprop_ops.checking.diagnosis import Diagnosis
from backprop_ops.checking.finding import Finding
from backprop_ops.checking.inspector import Inspector
from backprop_ops.checking.sizing import cut, elements, groups, size_of
from backprop_ops.checking.variations.maker import Maker
from backprop_ops.leaves import replaced
from backprop_ops.pair import Pair

MOST_TRIES = 120
MOST_SECONDS = 2.5  # of the processor
MOST_ELEMENTS = 2**14  # of a case that is tried so often


def shrunk(
    inspector: Inspector,
    maker: Maker,
    case: Case,
    finding: Finding,
    likely: Diagnosis | None,
    known: Iterable[Case],
) -> tuple[Case, Finding, Diagnosis | None]:
    """The case made smaller for as long as it fails alike and by the same mistake.

    ``known``: what it was made for other findings, which will do where it fails alike.
    It stays in the domain, and keeps the structures of the sample that the case has.
    Greedy: sizes down, values towards small integers, the upstream towards one-hot.
    """
    quiet = inspector.quiet()
    tries, started = 0, time.process_time()
    if finding.property == "state" or elements(case.arguments) > MOST_ELEMENTS:
        return case, finding, likely

    def fails(candidate: Case) -> tuple[Case, Finding, Diagnosis | None] | None:
        found = quiet.fails_there(candidate, finding)
        if found is None or likely is None:
            return found and (candidate, found, None)
        named = likely.again(inspector, candidate, found)
        return named and (candidate, found, named)

    for candidate in known:
        if shown := fails(candidate):
            return shown
    improved = True
    while improved:
        improved = False
        for candidate in maker.like(case, _candidates(inspector.pair, case)):
            tries += 1
            if tries > MOST_TRIES or time.process_time() - started > MOST_SECONDS:
                return case, finding, likely
            if shown := fails(candidate):
                (case, finding, likely), improved = shown, True
                break
    return case, finding, likely


def _candidates(pair: Pair, case: Case) -> Iterator[Case]:
    """Cases that are simpler by one step, the largest steps first."""
    arguments = case.arguments
    for group in groups(arguments):
        size = size_of(arguments, group[0])
        for part in [group, *([place] for place in group if group[1:])]:
            for other in sorted({1, 2, size // 2, size - 1}):
                if 0 < other < size:
                    yield case.of(cut(arguments, part, other))
    made = [change for change in case.changes if change.makes_upstreams]
    for change in made:
        is_simple = isinstance(change, UpstreamMade) and change.make in SIMPLER
        if change is not case.last and not is_simple:
            yield replace(case, changes=tuple(c for c in case.changes if c is not change))
    for make in SIMPLER if not made else ():
        yield replace(case, changes=(UpstreamMade("simpler", make), *case.changes))
    for name, leaf in pair.leaves(arguments).items():
        simpler = [torch.zeros_like(leaf), torch.ones_like(leaf), leaf.round() + 0]  # no -0
        simpler += [(leaf * 10).round() / 10]
        for i in range(leaf.numel() if leaf.numel() <= 8 else 0):
            for number in (0.0, 1.0):
                changed = leaf.detach().clone(memory_format=torch.contiguous_format)
                changed.view(-1)[i] = number
                simpler.append(changed)
        for values in simpler:
            if _complexity(values) < _complexity(leaf) and leaf.is_contiguous():
                yield case.of(replaced(arguments, {name: values}))


def _complexity(x: Tensor) -> float:
    """Less for numbers that are easier to read: digits after the point, then size, zero least."""
    x = x.detach().double()
    digits = sum((torch.where((x * 10**d).round() == x * 10**d, 0.0, 1.0)).sum() for d in (0, 1, 6))
    return float(10 * digits + (x != 0).sum() + (x.abs() > 1).sum())


def _first_hot(upstream: Tensor) -> Tensor:
    hot = torch.zeros_like(upstream, memory_format=torch.contiguous_format)
    hot.view(-1)[:1] = 1
    return hot


SIMPLER = (_first_hot, torch.ones_like)  # upstreams
