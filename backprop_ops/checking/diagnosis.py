"""The likely mistake behind a failure: the one that explains the whole residual.

Each known mistake is tried on the right gradient, or undone on the wrong one; it is named where
every entry then agrees. Mistakes that only some inputs show are told by what the input has that the
caller's sample lacks.
"""

from __future__ import annotations

from collections.abc import Iterator

from backprop_ops.checking.evidence import Evidence, Likely
from backprop_ops.checking.mistakes import (
    calls,
    factors,
    indices,
    options,
    sizes,
    terms,
    upstreams,
    values,
)
from backprop_ops.checking.properties import Finding


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
            variation = evidence.case.variation
            yield "option-ignored", f"{evidence.name} has the wrong shape when {variation}"
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
        *((values.ties,) if evidence.case.family in ("values", "inputs") else ()),
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
        terms.term,
        terms.jacobian,
        values.coarse,
        values.large_numbers,
        options.sample_option,
    )
    for test in tests:
        try:
            yield from test(evidence)
        except Exception:  # an experiment that cannot be made on these inputs
            continue
