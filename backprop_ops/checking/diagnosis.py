"""The likely mistake behind a failure: the one that explains the whole residual.

Each known mistake is tried on the right gradient, or undone on the wrong one; it is named where
every entry then agrees, among other upstreams, values and sizes too. Mistakes that only some inputs
show are told by what the input has that the caller's sample lacks. The name has to be true of the
input shown: it is made smaller only as far as the test that gave the name gives it still.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property
from typing import NamedTuple

import torch

from backprop_ops.checking.case import Case
from backprop_ops.checking.evidence import Evidence, Likely
from backprop_ops.checking.finding import Finding
from backprop_ops.checking.inspector import Inspector
from backprop_ops.checking.isolation import Crashed, forked
from backprop_ops.checking.mistakes import (
    calls,
    factors,
    formulas,
    indices,
    options,
    sizes,
    terms,
    upstreams,
    values,
)
from backprop_ops.checking.sizing import groups, resized, size_of
from backprop_ops.checking.variations.precisions import in_precision
from backprop_ops.leaves import replaced

MOST_SECONDS = 5.0  # of the processor, for the name of one mistake
MOST_SECONDS_ELSEWHERE = 2.0  # of it, for the cases on which it is confirmed
MAKES_TIES = ("values", "inputs", "layouts")  # the families that do
OTHER_VALUES, OTHER_SIZES = 2, 2  # with which a name is confirmed

Test = Callable[[Evidence], Iterator[Likely]]
"""Yields the names of the mistakes, of those that it is for, that explain the evidence."""


class Diagnosis(NamedTuple):
    """A mistake's key, a sentence on it, and the test that gave the two."""

    mistake: str
    explanation: str
    test: Test

    def again(self, inspector: Inspector, case: Case, finding: Finding) -> Diagnosis | None:
        """What the same test says of another case that fails alike, if the name is the same."""
        try:
            return forked(self._again, inspector, case, finding)
        except Crashed:
            return None

    def _again(self, inspector: Inspector, case: Case, finding: Finding) -> Diagnosis | None:
        try:
            for mistake, explanation in self.test(_evidence(inspector, case, finding)):
                if mistake == self.mistake:
                    return Diagnosis(mistake, explanation, self.test)
        except Exception:  # the experiment cannot be made there
            pass
        return None


def diagnosed(
    inspector: Inspector, case: Case, finding: Finding, elsewhere: Elsewhere
) -> Diagnosis | None:
    """The known mistake that explains a finding of a case; None where none does."""
    if finding.mistake is not None and finding.property in ("call", "count"):
        return None
    evidence = _evidence(inspector, case, finding)
    started = time.process_time()
    for test in _tests(evidence, finding):
        try:
            for mistake, explanation in test(evidence):
                likely = Diagnosis(mistake, explanation, test)
                if all(likely.again(inspector, *other) for other in elsewhere.alike(finding)):
                    return likely
        except Exception:  # an experiment that cannot be made on these inputs
            continue
        if time.process_time() - started > MOST_SECONDS:
            return None
    return None


def _evidence(inspector: Inspector, case: Case, finding: Finding) -> Evidence:
    """In float64 where it fails there too, which shows why."""
    in_float64 = case.of(in_precision(case, torch.float64).arguments)
    exact = Evidence(inspector, in_float64, finding.input)
    return exact if _fails_alike(exact, finding) else Evidence(inspector, case, finding.input)


def _fails_alike(evidence: Evidence, finding: Finding) -> bool:
    if finding.property != "value" or finding.input is None:
        return evidence.inspector.fails_there(evidence.case, finding) is not None
    try:  # its own call is asked, which the tests ask again
        is_nan = bool(evidence.given.isnan().any())
        return is_nan == math.isnan(finding.got) and bool(evidence.wrong(evidence.given).any())
    except Exception:  # not in float64
        return False


class Elsewhere:
    """What fails on a case with other upstreams, values and sizes; asked once for all findings."""

    def __init__(self, inspector: Inspector, case: Case) -> None:
        self._quiet = inspector.quiet()
        self._case = case

    def alike(self, finding: Finding) -> Iterator[tuple[Case, Finding]]:
        """The cases that fail like a finding, and how."""
        for case, findings in self._found:
            there = finding.among(findings)
            if there is not None:
                yield case, there

    @cached_property
    def _found(self) -> list[tuple[Case, list[Finding]]]:
        found, started = [], time.process_time()
        for case in _others(self._quiet, self._case):
            found.append((case, self._quiet.all_there(case)))
            if time.process_time() - started > MOST_SECONDS_ELSEWHERE:
                break
        return found


def _others(quiet: Inspector, case: Case) -> list[Case]:
    """The case with other upstreams, values and sizes."""
    cases = [replace(case, seed=case.seed + 1000)]
    for seed in range(OTHER_VALUES):
        generator = torch.Generator().manual_seed(seed)
        leaves = quiet.pair.leaves(case.arguments)
        moved = {
            name: x * (1 + 0.5 * torch.rand(x.shape, generator=generator).to(x.device, x.dtype))
            for name, x in leaves.items()
        }
        cases.append(cases[0].of(replaced(case.arguments, moved)))
    for group in groups(case.arguments)[:OTHER_SIZES]:
        size = size_of(case.arguments, group[0]) + 1
        cases.append(case.of(resized(case.arguments, group, size, generator)))
    return cases


def _tests(evidence: Evidence, finding: Finding) -> tuple[Test, ...]:
    """The tests that a failure calls for, the surest first."""
    if finding.property == "call" and finding.mistake is None:
        return (calls.of_a_call,)
    if finding.property == "shape":
        return (options.of_the_shape, sizes.of_the_shape)
    if finding.property != "value" or finding.input is None:
        return ()
    judged = evidence.expected.isfinite()
    if not evidence.given[judged].isfinite().all():
        return (values.not_finite,)
    return (
        *((values.ties,) if evidence.case.family in MAKES_TIES else ()),
        factors.zero,
        factors.sign,
        upstreams.broadcast,
        upstreams.upstream,
        options.option,
        calls.state,
        indices.ignored_rows,
        indices.repeated,
        factors.factor,
        *((options.sample_option,) if options.is_plain_option(evidence.case) else ()),
        factors.swapped,
        factors.transposed,
        values.eps,
        terms.flow,
        sizes.size,
        values.ties,
        values.guard,
        sizes.bessel,
        indices.off_by_one,
        sizes.block,
        values.precision,
        terms.mean_term,
        terms.forgotten,
        sizes.axis,
        formulas.value,
        formulas.step,
        terms.term,
        terms.jacobian,
        values.coarse,
        values.large_numbers,
        options.sample_option,
    )
