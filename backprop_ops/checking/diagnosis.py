"""The likely mistake behind a failure: the one that explains the whole residual.

Each known mistake is tried on the right gradient, or undone on the wrong one; it is named where
every entry then agrees. Mistakes that only some inputs show are told by what the input has that the
caller's sample lacks.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from backprop_ops.checking.case import condition
from backprop_ops.checking.evidence import Evidence, Likely
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
from backprop_ops.checking.properties import Finding

MOST_SECONDS = 10.0  # of the processor, for the name of one mistake
MAKES_TIES = ("values", "inputs", "layouts")  # the families that do


def likely_mistake(evidence: Evidence, finding: Finding) -> Likely | None:
    """The known mistake that explains a finding; None where none does."""
    if finding.input is None or finding.property == "call":
        return next(calls.of_a_call(evidence, finding), None)
    try:
        return next(_likely(evidence, finding), None)
    except Exception:  # a backward that does not come twice to the same
        return None


def _likely(evidence: Evidence, finding: Finding) -> Iterator[Likely]:
    if finding.property == "shape":
        if evidence.case.family == "options":
            when = condition(evidence.case.changes)
            yield "option-ignored", f"{evidence.name} has the wrong shape {when}"
        yield from sizes.of_the_shape(evidence)
        return
    if finding.property == "layout":
        return
    if finding.property in ("zero", "linearity"):
        return
    judged = evidence.expected.isfinite()
    if not evidence.given[judged].isfinite().all():
        yield from values.not_finite(evidence)
        return
    tests = (
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
    started = time.process_time()
    for test in tests:
        if time.process_time() - started > MOST_SECONDS:
            return
        try:
            yield from test(evidence)
        except Exception:  # an experiment that cannot be made on these inputs
            continue
