"""`check`: is a hand-written backward right, on every input and not on one random one."""

from __future__ import annotations

import difflib
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from backprop_ops import context
from backprop_ops.checking.autograd_pair import autograd_pair, pair_of
from backprop_ops.checking.diagnosis import likely_mistake
from backprop_ops.checking.differences import Differences
from backprop_ops.checking.evidence import Evidence
from backprop_ops.checking.judging import Undifferentiable, autograd
from backprop_ops.checking.properties import PROPERTIES, Finding, Inspector, Outside
from backprop_ops.checking.report import BackwardError, Failure, Report
from backprop_ops.checking.shrinking import code, shrunk
from backprop_ops.checking.surroundings import calls
from backprop_ops.checking.variations import (
    FAMILIES,
    Case,
    in_precision,
    outputs_of,
    smaller,
    variations,
)
from backprop_ops.comparison import Comparison
from backprop_ops.leaves import copied
from backprop_ops.pair import Pair, function_name, make_record


def check(
    forward: Callable[..., Any],
    backward: Callable[..., Any] | None,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
    *,
    reference: Callable[..., Any] | None = None,
    seed: int | None = None,
    skip: Iterable[str] = (),
) -> Report:
    """Check ``backward`` against ``forward`` on one ordinary sample and on harder ones made of it.

    ``backward``: by hand, or None for the one that autograd already has for ``forward``: that of a
    Function's ``apply``, of a custom op, of a compiled function; one made of a pair, as by
    `differentiable`, is judged beside the pair's forward. ``args``: the forward's positional
    arguments, ``kwargs`` its keyword-only ones; on any device, where everything derived stays.
    ``reference``: another forward that autograd can differentiate, for one that it cannot; without
    one, finite differences judge. ``seed``: of what is drawn; a fresh one unless given, and the
    report states it. ``skip``: what not to try, each listed in the notes: properties and families
    of variations by name, and single variations by their text in a report. An unknown name is a
    ValueError. An unknown text is not, since another sample may have that variation: a note says
    which one is like it.

    Raises PairError where the two are no pair, TypeError or ValueError where the sample is none.
    """
    if not isinstance(args, tuple):
        raise TypeError(
            f"args must be a tuple of {function_name(forward)}'s arguments, got {_type(args)}"
        )
    kwargs = {} if kwargs is None else kwargs
    if not isinstance(kwargs, Mapping):
        raise TypeError(
            f"kwargs must be a dict of {function_name(forward)}'s options, got {_type(kwargs)}"
        )
    if seed is not None and not isinstance(seed, int):
        raise TypeError(f"seed must be an integer, got {_type(seed)}")
    if reference is not None and not callable(reference):
        raise TypeError(f"reference must be a function, got {_type(reference)}")
    skipped = _skipped(skip, *context.current.skips)
    seed = context.current.seed if seed is None else seed
    seed = random.SystemRandom().getrandbits(32) if seed is None else seed
    pair, arguments = _bind(forward, backward, args, kwargs)
    judged_by = pair if backward is not None else None
    made_of = pair_of(forward) if backward is None else None
    if reference is None and made_of is not None:
        reference = made_of.forward
    if reference is not None:
        with _on_the_sample(reference, "reference"):
            judged_by = _in_its_mode(_referring(pair, reference), arguments)
    report = _Check(pair, Inspector(pair, judged_by, skipped), skipped, seed).report(arguments)
    context.current.observe(report)
    return report


def assert_backward(
    forward: Callable[..., Any],
    backward: Callable[..., Any] | None,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
    *,
    reference: Callable[..., Any] | None = None,
    seed: int | None = None,
    skip: Iterable[str] = (),
) -> None:
    """Raise BackwardError where `check`, with the same arguments, finds something wrong."""
    __tracebackhide__ = True  # pytest shows the line that calls this one
    report = check(forward, backward, args, kwargs, reference=reference, seed=seed, skip=skip)
    if not report:
        raise BackwardError(report)


class _Check:
    """One check on its way to the report."""

    def __init__(self, pair: Pair, inspector: Inspector, skip: frozenset[str], seed: int) -> None:
        self.pair = pair
        self.inspector = inspector
        self.skip = skip
        self.seed = seed
        self.skipped: set[str] = set()
        self.tried: dict[str, None] = {}  # variations by their text, those that were skipped too
        self.failures: list[Failure] = []
        self.notes: dict[str, None] = {}

    def report(self, arguments: Mapping[str, Any]) -> Report:
        sample = Case(None, "sample", arguments, self.seed % 2**62)
        comparisons = self._comparisons(sample)
        self._note_kept(arguments)
        self._judges(sample)
        self._ask(sample)
        if not self.failures:  # what fails on the sample itself fails on most variations of it too
            self._ask_variations(sample)
        for name in sorted(self.skipped | self.skip.intersection(PROPERTIES)):
            self.notes[f"skipped: {name}"] = None
        for name in sorted(self.skip.difference(self.skipped, PROPERTIES, FAMILIES)):
            near = difflib.get_close_matches(name, self.tried, n=1, cutoff=0.8)
            hint = f": did you mean {near[0]!r}?" if near else ""
            self.notes[f"nothing to skip: no variation is {name!r}{hint}"] = None
        leaves = tuple(self.pair.leaves(arguments))
        proved = set() if "value" in self.skip else self.inspector.judged
        vacuous = tuple(f"d{name}" for name in leaves if name not in proved)
        if self.failures:
            vacuous = ()
        why = "in every case tried it is zero to rounding, or empty"
        if "value" in self.skip:
            why = "its values are skipped"
        for name in vacuous:
            self.notes[f"vacuous: nothing proves {name}; {why}"] = None
        notes = (*self.notes, *self.inspector.notes.values())
        name = f"{self.pair.name}_backward"
        return Report(name, comparisons, tuple(self.failures), notes, self.seed, vacuous)

    def _comparisons(self, sample: Case) -> tuple[Comparison, ...]:
        """The rows: each gradient against the judge's, on the sample in its own precision."""
        call = self.inspector.call(sample)
        expected: dict[str, Tensor]
        try:
            if self.inspector.reference is None:
                raise Undifferentiable
            expected = autograd(self.inspector.reference, call.arguments, call.upstreams)
        except Exception:  # no autograd, or none in this precision
            expected = dict(self.inspector.judge(call.arguments, call.upstreams).expected)
        try:
            gradients = self.inspector.gradients(call)
        except Exception:  # reported as a failure of `call` or `count`
            return ()
        leaves = self.pair.leaves(call.arguments)
        return tuple(
            Comparison.of(f"d{name}", gradients[name], value.to(leaves[name].dtype))
            for name, value in expected.items()
            if isinstance(gradients.get(name), Tensor)
        )

    def _note_kept(self, arguments: Mapping[str, Any]) -> None:
        """A field without annotation that is neither an output nor asked for."""
        fields = self.pair.fields(self.pair.call(arguments))
        for name, value in fields.items():
            unasked = name not in self.pair.outputs and name not in self.pair.saved
            if unasked and isinstance(value, Tensor) and value.is_floating_point():
                self.notes[f"{name}: taken as kept, since the backward has no d{name}"] = None

    def _judges(self, sample: Case) -> None:
        """Whether the two judges agree, and what the backward agrees with where they do not."""
        pair = self.inspector.reference
        if pair is None:
            return
        small = smaller(self.pair, sample)
        call = self.inspector.call(small)
        judge = self.inspector.judge(call.arguments, call.upstreams)
        if isinstance(judge, Differences):
            self.notes[
                "autograd cannot differentiate the forward: finite differences of it are the judge"
            ] = None
            return
        differences = Differences(pair, call.arguments, call.upstreams)
        for name, value in judge.expected.items():
            if not value.numel() or not value.isfinite().all():
                continue
            generator = torch.Generator().manual_seed(self.seed % 2**62)
            direction = torch.randn(value.shape, generator=generator, dtype=torch.float64)
            direction = direction.to(value.device)
            slope = differences.along(name, direction)
            said = (value * direction).sum().item()
            allowed = 100 * slope.error + 1e-6 * (value * direction).abs().sum().item()
            if not slope.least - allowed <= said <= slope.most + allowed and slope.error < abs(
                said
            ) + abs(slope.value):
                self.notes[
                    f"the judges disagree on d{name}: along a drawn direction autograd says "
                    f"{said:.6g}, finite differences say {slope.value:.6g}; the forward detaches "
                    f"something, or a part of it has another backward"
                ] = None
                self.inspector.disputed.add(name)

    def _ask_variations(self, sample: Case) -> None:
        generator = torch.Generator().manual_seed(self.seed % 2**62)
        base = smaller(self.pair, sample)
        for case in self._full_size(sample, base):
            for finding in self.inspector.layout(case):
                self._add(finding, case)
            if self.failures:
                return
        other = base
        for case in (*([base] * (base is not sample)), *self._variations(base, generator)):
            if case.family == "sizes" and other is base:
                other = case
            self._ask(case)
            if self.failures:  # the others would say much the same
                return
        self.skipped |= {"calls"} & self.skip
        if not {"calls", "state"} & self.skip:
            for variation, finding in calls(self.inspector, base, other):
                case = Case(variation, "calls", base.arguments, base.seed)
                if not self._skips(case):
                    self._add(finding, case)
                    return

    def _variations(self, base: Case, generator: torch.Generator) -> Iterator[Case]:
        for case in variations(self.pair, base, generator):
            if not self._skips(case):
                yield case

    def _skips(self, case: Case) -> bool:
        self.tried[str(case.variation)] = None
        names = {case.family, str(case.variation)}
        if case.family == "layouts":
            names.add("layout")
        skipped = names & self.skip
        self.skipped |= skipped
        return bool(skipped)

    def _full_size(self, sample: Case, base: Case) -> Iterator[Case]:
        """Layouts of a large sample itself; all else is asked of a smaller one made of it."""
        if base.arguments is not sample.arguments:
            for case in variations(self.pair, sample, torch.Generator()):
                if case.family != "layouts" or "the upstream" not in str(case.variation):
                    return
                if not self._skips(case):
                    yield case

    def _ask(self, case: Case) -> None:
        try:
            findings = self.inspector.findings(case)
        except Outside:
            return
        for finding in findings:
            self._add(finding, case)

    def _add(self, finding: Finding, case: Case) -> None:
        # Where fewer elements show the same, they show it sooner, and as code; float64 shows why.
        case, finding = self._same(smaller(self.pair, case), finding) or (case, finding)
        mistake, explanation = finding.mistake, finding.explanation
        if finding.property in ("value", "shape", "layout", "linearity", "call", "zero"):
            exact = replace(in_precision(case, torch.float64), family=case.family)
            shown, there = self._same(exact, finding) or (case, finding)
            likely = likely_mistake(Evidence(self.inspector, shown, finding.input), there)
            if likely is not None:
                mistake, explanation = likely
        small, at_small = shrunk(self.inspector, case, finding)
        self.failures.append(
            Failure(
                finding.property,
                case.variation,
                finding.input and f"d{finding.input}",
                at_small.message,
                mistake,
                explanation,
                code(self.inspector, small, at_small),
            )
        )

    def _same(self, case: Case, finding: Finding) -> tuple[Case, Finding] | None:
        """Another case with its finding, if the same property of the same gradient fails there."""
        try:
            for found in self.inspector.findings(case):
                if (found.property, found.input) == (finding.property, finding.input):
                    return case, found
        except Exception:  # the forward does not take it
            pass
        return None


def _bind(
    forward: Callable[..., Any],
    backward: Callable[..., Any] | None,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> tuple[Pair, dict[str, Any]]:
    """The pair and the sample, every argument by name; refused where one is unfit."""
    name = function_name(forward)
    for role, function in (("forward", forward), ("backward", backward)):
        if not callable(function) and not (role == "backward" and function is None):
            raise TypeError(f"{role} must be a function, got {_type(function)}")
    with _on_the_sample(forward, "forward"):
        result = forward(*args, **kwargs)
    if backward is None:
        pair: Pair = autograd_pair(forward, args, kwargs, result)
    else:
        record = type(result) if isinstance(result, tuple) and hasattr(result, "_fields") else None
        pair = Pair.bind(forward, backward, record)
    arguments = pair.arguments(args, kwargs)
    if backward is None:
        with _on_the_sample(forward, "forward"):
            result = pair.call(arguments)
    fields = pair.fields(result)
    for output in pair.outputs:
        value = fields[output]
        if not isinstance(value, Tensor) or not value.is_floating_point():
            got = value.dtype if isinstance(value, Tensor) else _type(value)
            raise ValueError(f"{name}'s output {output!r} must be a floating Tensor, got {got}")
        if not value.isfinite().all():
            raise ValueError(
                f"{name}'s output {output!r} is inf or nan on the sample: give a sample of which "
                f"the forward makes something finite"
            )
    if any(isinstance(value, Tensor) and value.is_complex() for value in arguments.values()):
        raise ValueError(f"{name}: complex inputs are not supported")
    if not pair.leaves(arguments):
        raise ValueError(f"{name}: the sample has no floating Tensor to take a gradient of")
    with _on_the_sample(forward, "forward"):
        return _in_its_mode(pair, arguments), arguments


@contextmanager
def _on_the_sample(function: Callable[..., Any], role: str) -> Iterator[None]:
    """Whatever the function raises here refuses the sample; later it has no case."""
    try:
        yield
    except Exception as error:
        raise ValueError(
            f"{function_name(function)}, the {role}, raises {_type(error)} on the sample: {error}"
        ) from error


def _in_its_mode(pair: Pair, arguments: Mapping[str, Any]) -> Pair:
    """The pair, whose forward turns the gradient mode on if it raises without it."""
    copies = copied(arguments)
    try:
        outputs_of(pair, copies)
    except Exception:
        pair = replace(pair, forward=torch.enable_grad()(pair.forward))
        outputs_of(pair, copies)
    return pair


def _referring(pair: Pair, reference: Callable[..., Any]) -> Pair:
    """The pair with another forward, of whose result the outputs are taken, by name or in order."""
    record = make_record("Outputs", pair.outputs)

    def forward(*inputs: Any, **options: Any) -> Any:
        result = reference(*inputs, **options)
        if isinstance(result, Tensor):
            return record(result)
        if set(pair.outputs) <= set(getattr(result, "_fields", ())):
            return record(*(getattr(result, name) for name in pair.outputs))
        return record(*result[: len(pair.outputs)])

    return replace(pair, forward=forward)


def _skipped(*skips: str | Iterable[str]) -> frozenset[str]:
    """All that is not to be tried; refused where a word is neither a property nor a family."""
    names: set[str] = set()
    for skip in skips:
        several = isinstance(skip, Iterable) and not isinstance(skip, str)
        some: tuple[Any, ...] = tuple(skip) if several else (skip,)
        if not all(isinstance(name, str) for name in some):
            raise TypeError(f"skip must be a name or several names, got {skip!r}")
        names.update(some)
    known = (*PROPERTIES, *FAMILIES)
    for name in sorted(names.difference(known)):
        if " " not in name and "=" not in name:  # as the text of every variation has
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"the names are {', '.join(known)}"
            raise ValueError(f"skip: {name!r} is no property and no family of variations: {hint}")
    return frozenset(names)


def _type(value: object) -> str:
    return type(value).__name__
