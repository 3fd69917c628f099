"""`check`: is a hand-written backward right, on every input and not on one random one."""

from __future__ import annotations

import difflib
import os
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from backprop_ops import context
from backprop_ops.checking.binding import BUDGET, Domain, Question, question
from backprop_ops.checking.calling import Outside
from backprop_ops.checking.case import FAMILIES, REACHES, Case, Surrounded, described
from backprop_ops.checking.diagnosis import Elsewhere, diagnosed
from backprop_ops.checking.finding import PROPERTIES, Finding
from backprop_ops.checking.inspector import Inspector
from backprop_ops.checking.isolation import Crashed, forked, isolating
from backprop_ops.checking.report import BackwardError, Failure, Report
from backprop_ops.checking.reproduce import reproduction
from backprop_ops.checking.sample import (
    as_judged,
    comparisons,
    is_differentiated,
    judges_apart,
)
from backprop_ops.checking.shrinking import shrunk
from backprop_ops.checking.surroundings import calls
from backprop_ops.checking.variations import variations
from backprop_ops.checking.variations.layouts import layouts_of_the_upstream
from backprop_ops.checking.variations.maker import Maker
from backprop_ops.checking.variations.values import values_alike

MANY_OUTSIDE = 0.1  # of the cases, from where on a note counts them


def check(
    forward: Callable[..., Any],
    backward: Callable[..., Any] | None,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
    *,
    reference: Callable[..., Any] | None = None,
    gradient_of: Callable[..., Any] | None = None,
    domain: Domain | None = None,
    reach: str | None = None,
    dtypes: Iterable[str] | None = None,
    budget: float = BUDGET,
    seconds: float | None = None,
    isolate: bool = False,
    seed: int | None = None,
    skip: Iterable[str] = (),
) -> Report:
    """Check ``backward`` against ``forward`` on one ordinary sample and on harder ones made of it.

    ``backward``: by hand, or None for the one that autograd already has for ``forward``: that of a
    Function's ``apply``, of a custom op, of a compiled function; one made of a pair, as by
    `differentiable`, is judged beside the pair's forward. ``args``: the forward's positional
    arguments, ``kwargs`` its keyword-only ones; on any device, where everything derived stays.
    ``reference``: another forward that autograd can differentiate, for one that it cannot; without
    one, finite differences judge. ``gradient_of``: the function whose gradient ``backward`` is on
    purpose, as the surrogate of a step; it takes arguments of the forward, by name or in order, and
    its own outputs are not compared.

    ``domain``: where the forward has a meaning. A predicate of arguments of the forward, by name
    (``lambda lengthscale: (lengthscale > 0).all()``), or by the names of arguments functions that
    take any tensor into the domain (``{"matrix": lambda m: m @ m.mT + eye}``). ``reach``: how far
    from the sample to go. ``"sample"``: to the sample alone; ``"alike"``: to inputs as its users
    send them; ``"beyond"``, the default: all the way. ``dtypes``: the precisions to try beside the
    sample's, as ``("float32",)``; all four unless given. ``budget``: seconds of the processor,
    ``seconds``: of the clock, no limit by default; after either no further case is tried, and a
    note says so. ``isolate``: whether each case runs in a
    forked process with one thread, so that native code which crashes, or does not come back in 30
    seconds, is a failure with its input; on the CPU alone. ``seed``: of what is drawn; a fresh one
    unless given, and the report states it. ``skip``: what not to try, each listed in the notes:
    properties and families of variations by name, and single variations by their text in a report.
    An unknown name is a ValueError. An unknown text is not, since another sample may have that
    variation: a note says which one is like it.

    Raises PairError where the two are no pair, TypeError or ValueError where the sample is none.
    """
    with isolating(isolate), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of inputs that the caller does not send
        asked = question(
            forward,
            backward,
            args,
            kwargs,
            reference=reference,
            gradient_of=gradient_of,
            domain=domain,
            reach=reach,
            dtypes=dtypes,
            budget=budget,
            seconds=seconds,
            isolate=isolate,
            seed=seed,
            skip=skip,
        )
        report = _Check(asked).report()
    context.current.observe(report)
    return report


def assert_backward(
    forward: Callable[..., Any],
    backward: Callable[..., Any] | None,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
    *,
    reference: Callable[..., Any] | None = None,
    gradient_of: Callable[..., Any] | None = None,
    domain: Domain | None = None,
    reach: str | None = None,
    dtypes: Iterable[str] | None = None,
    budget: float = BUDGET,
    seconds: float | None = None,
    isolate: bool = False,
    seed: int | None = None,
    skip: Iterable[str] = (),
) -> None:
    """Raise BackwardError where `check`, with the same arguments, finds something wrong."""
    __tracebackhide__ = True  # pytest shows the line that calls this one
    report = check(
        forward,
        backward,
        args,
        kwargs,
        reference=reference,
        gradient_of=gradient_of,
        domain=domain,
        reach=reach,
        dtypes=dtypes,
        budget=budget,
        seconds=seconds,
        isolate=isolate,
        seed=seed,
        skip=skip,
    )
    if not report:
        raise BackwardError(report)


class _Check:
    """One check on its way to the report."""

    def __init__(self, asked: Question) -> None:
        self.asked = asked
        self.pair = asked.pair
        self.sample = Case(asked.arguments, asked.seed % 2**62)
        self.inspector = Inspector(asked.pair, asked.oracle, asked.skip)
        self.maker = Maker(
            asked.pair,
            asked.oracle.structures,
            torch.Generator().manual_seed(asked.seed % 2**62),
            asked.maps,
            asked.fixed,
            sentinels=is_differentiated(self.inspector, self.sample),
            reference=asked.oracle.compared,
            dtypes=asked.dtypes,
        )
        self.skipped: set[str] = set()
        self.tried: dict[str, None] = {}  # variations by their text, those that were skipped too
        self.asked_of: Counter[str | None] = Counter()  # cases, by family
        self.outside: Counter[str] = Counter()  # those among them, by the reason
        self.failures: list[Failure] = []
        self.notes: dict[str, None] = {}
        self.processor, self.clock = _of_the_processor(), time.monotonic()

    def report(self) -> Report:
        asked, sample = self.asked, self.sample
        try:
            rows = forked(comparisons, self.inspector, sample)
        except Crashed:  # reported as a failure of `call`
            rows = ()
        self._note_kept()
        if not asked.oracle.on_purpose:
            small = self.maker.smaller(sample)
            with suppress(Crashed):  # reported as a failure of `call`
                said = self.inspector.learning(judges_apart, self.inspector, small, asked.seed)
                self.notes |= dict.fromkeys(said)
        if asked.isolate:
            self.notes["isolate: what is kept from one case to the next is not seen"] = None
        self._ask(sample)
        if not self.failures:  # what fails on the sample itself fails on most variations of it too
            self._ask_variations(sample)
        if not self.failures:
            self._note_outside()
        for name in sorted(self.skipped | asked.skip.intersection(PROPERTIES)):
            self.notes[f"skipped: {name}"] = None
        for name in sorted(asked.skip.difference(self.skipped, PROPERTIES, FAMILIES)):
            near = difflib.get_close_matches(name, self.tried, n=1, cutoff=0.8)
            hint = f": did you mean {near[0]!r}?" if near else ""
            self.notes[f"nothing to skip: no variation is {name!r}{hint}"] = None
        leaves = tuple(self.pair.leaves(asked.arguments))
        proved = set() if "value" in asked.skip else self.inspector.learned.judged
        vacuous = tuple(f"d{name}" for name in leaves if name not in proved)
        if self.failures:
            vacuous = ()
        why = "in every case tried it is zero to rounding, or empty"
        if "value" in asked.skip:
            why = "its values are skipped"
        for name in vacuous:
            self.notes[f"vacuous: nothing proves {name}; {why}"] = None
        notes = (*self.notes, *self.inspector.learned.notes.values())
        name = self.pair.backward_name
        rows = tuple(as_judged(row, self.failures) for row in rows)
        return Report(name, rows, tuple(self.failures), notes, asked.seed, vacuous)

    def _note_kept(self) -> None:
        """A field without annotation that is neither an output nor asked for."""
        fields = self.pair.fields(self.pair.call(self.asked.arguments))
        for name, value in fields.items():
            unasked = name not in self.pair.outputs and name not in self.pair.saved
            if unasked and isinstance(value, Tensor) and value.is_floating_point():
                self.notes[f"{name}: taken as kept, since the backward has no d{name}"] = None

    def _ask_variations(self, sample: Case) -> None:
        """The nearer cases first, so that a failure is found as near to the sample as it is."""
        base = self.maker.smaller(sample)
        if base is not sample:
            for case in self._within(layouts_of_the_upstream(self.pair, sample)):
                if self._is_spent(0):
                    return
                self._add(self.inspector.layout(case), case)
                if self.failures:
                    return
            self._ask(base)
        farther: list[Case] = []
        other = base
        for case in self._within(variations(self.maker, base)):
            if self.failures:  # the others would say much the same
                return
            if self._is_spent(len(farther)):
                break
            if case.reach == "beyond":
                farther.append(case)
                continue
            if case.family == "sizes" and other is base:
                other = case
            self._ask(case)
        self._ask_in_other_surroundings(base, other)
        for i, case in enumerate(farther):
            if self.failures or self._is_spent(len(farther) - i):
                return
            self._ask(case)

    def _note_outside(self) -> None:
        """How many cases lie outside of what the forward and its judge take, and what of them."""
        refused = self.maker.refused
        reasons = self.outside + Counter()
        for (_, why), count in refused.items():
            reasons[f"the forward {why}"] += count
        cases = self.asked_of.total() + refused.total()
        if reasons.total() > MANY_OUTSIDE * cases:
            why = ", ".join(f"{why} ({count})" for why, count in reasons.most_common(2))
            self.notes[f"outside: {reasons.total()} of {cases} cases; {why}"] = None
        untried = (family for family, _ in refused if not self.asked_of[family])
        families = dict.fromkeys(f for f in untried if f not in self.skipped)
        if families:  # of which nothing at all was tried
            self.notes[f"not tried: {', '.join(map(str, families))}; none is accepted"] = None

    def _is_spent(self, left: int) -> bool:
        budget, seconds = self.asked.budget, self.asked.seconds
        if seconds is not None and time.monotonic() - self.clock > seconds:
            spent = f"seconds: {seconds:g} s are over"
        elif _of_the_processor() - self.processor > budget:
            spent = f"budget: {budget:g} s of the processor are spent"
        else:
            return False
        self.notes[f"{spent}; {left} cases or more were not tried"] = None
        return True

    def _ask_in_other_surroundings(self, base: Case, other: Case) -> None:
        self.skipped |= {"calls"} & self.asked.skip
        if self.failures or self.asked.reach == "sample" or {"calls", "state"} & self.asked.skip:
            return
        of_other_values = next(self.maker.accepted(values_alike(self.maker, base)), base)
        try:
            changed = forked(lambda: list(calls(self.inspector, base, other, of_other_values)))
        except Crashed as error:
            between = Surrounded("between", "other calls are made around it")
            changed = [(between, self.inspector.crash(error))]
        for change, finding in changed:
            case = base.but(change)
            if not self._skips(case):
                self._add([finding], case)
                return

    def _within(self, cases: Iterator[Case]) -> Iterator[Case]:
        """The cases in the reach that was asked, and not to be skipped."""
        farthest = REACHES.index(self.asked.reach)
        if farthest:  # else it is the sample alone
            for case in cases:
                if REACHES.index(case.reach) <= farthest and not self._skips(case):
                    yield case

    def _skips(self, case: Case) -> bool:
        text = str(described(case.changes))
        self.tried[text] = None
        names = {str(case.family), text}
        if case.family == "layouts":
            names.add("layout")
        skipped = names & self.asked.skip
        self.skipped |= skipped
        return bool(skipped)

    def _ask(self, case: Case) -> None:
        self.asked_of[case.family] += 1
        try:
            findings = self.inspector.findings(case)
        except Outside as error:
            why = type(error.__cause__).__name__ if error.__cause__ else "lost digits"
            self.outside[f"its gradient raises {why}"] += 1
            return
        self._add(findings, case)

    def _add(self, findings: Sequence[Finding], case: Case) -> None:
        if not findings:
            return
        # Where fewer elements show the same, they show it sooner, and as code.
        smaller = self.maker.smaller(case)
        at_smaller = [] if smaller is case else self.inspector.all_there(smaller)
        others, others_of_smaller = (Elsewhere(self.inspector, c) for c in (case, smaller))
        known: list[Case] = []
        for finding in findings:
            of, elsewhere = case, others
            at_fewer = finding.among(at_smaller)
            if at_fewer is not None:
                of, finding, elsewhere = smaller, at_fewer, others_of_smaller
            likely = diagnosed(self.inspector, of, finding, elsewhere)
            small, at_small, likely = shrunk(self.inspector, self.maker, of, finding, likely, known)
            known.append(small)
            self.failures.append(
                Failure(
                    finding.property,
                    of.changes,
                    finding.input and f"d{finding.input}",
                    at_small.message,
                    likely.mistake if likely else finding.mistake,
                    likely.explanation if likely else finding.explanation,
                    reproduction(self.inspector, small, at_small),
                    self.maker.structures.left(of.arguments) if of.reach == "beyond" else (),
                )
            )


def _of_the_processor() -> float:
    """Seconds, those of forked processes too."""
    return sum(os.times()[:4])
