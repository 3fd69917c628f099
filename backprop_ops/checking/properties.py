"""What has to hold of a backward in one call, in the order in which a person would debug it."""

from __future__ import annotations

import itertools
import math
import random
import sys
import typing
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor

from backprop_ops._torch import (
    compiled_for_other_mode,
    is_singular,
    is_zero_tensor,
    lacks_precision,
    sparse_indices,
)
from backprop_ops.checking.acceptance import accepts, outputs_of
from backprop_ops.checking.allowances import ALLOWANCES, Off
from backprop_ops.checking.autograd_pair import AutogradPair
from backprop_ops.checking.case import Case, Cast, LaidOut, condition
from backprop_ops.checking.differences import Differences
from backprop_ops.checking.isolation import Crashed, forked
from backprop_ops.checking.judging import (
    ALLOWED,
    Autograd,
    Judge,
    Leaves,
    Undifferentiable,
    rounding_of_outputs,
)
from backprop_ops.checking.numbers import number, told_apart, worst
from backprop_ops.checking.structure import Structures
from backprop_ops.checking.variations.indices import holds_what_the_sample_lacks
from backprop_ops.leaves import Arguments, by_leaf, copied, in_dtype, parts
from backprop_ops.pair import Pair, PairError

STRAIGHT = 0.99  # the cosine between two steps along one direction
WAIVED = frozenset({"purity", "repeat", "alias"})  # skipped, a backward may write and free
LOST = 0.05  # of an output's largest entry, by which a forward is off that has lost its digits
LEARNED = ("notes", "judged", "differenced", "left_changed", "differentiated")  # of an Inspector
ALLOWED_APART = 64  # units of rounding by which two calls may differ, as atomics make them


T = TypeVar("T")

Property = Literal[
    "call",
    "count",
    "shape",
    "dtype",
    "purity",
    "alias",
    "zero",
    "linearity",
    "layout",
    "value",
    "repeat",
    "state",
]
"""What has to hold of a backward; that it can be bound is a condition of the check itself."""
PROPERTIES: tuple[str, ...] = typing.get_args(Property)


class Finding(NamedTuple):
    """Something that does not hold. ``mistake`` is what it is by itself, before any diagnosis.

    ``kind``: how it fails, of several ways; ``of``: what the message is about, beside the input.
    ``at``, ``got``, ``right``: the worst entry and its two numbers, ``source``: who says so.
    """

    property: Property
    input: str | None
    message: str
    mistake: str | None = None
    explanation: str = ""
    kind: str | None = None
    of: str | None = None
    at: tuple[int, ...] | None = None
    got: float = 0.0
    right: float = 0.0
    source: str = ""

    def fails_like(self, other: Finding) -> bool:
        """Whether the same property of the same gradient fails in the same way."""
        same = (self.property, self.input, self.kind) == (other.property, other.input, other.kind)
        return same and math.isnan(self.got) == math.isnan(other.got)


@dataclass(frozen=True)
class Oracle:
    """Who says what is right.

    ``differentiated``: the pair whose forward autograd differentiates; None where finite
    differences judge. ``differenced``: the pair whose forward they ask. ``compared``: the pair
    whose outputs the forward's have to equal. ``on_purpose``: whether the gradient is another
    function's, of which finite differences of the forward say nothing. ``structures``: those of
    the sample, which their steps keep.
    """

    differentiated: Pair | None
    differenced: Pair
    compared: Pair | None = None
    on_purpose: bool = False
    structures: Structures = field(default_factory=Structures)

    def differences(self, arguments: Arguments, upstreams: Mapping[str, Tensor]) -> Differences:
        tangents = self.structures.tangents(arguments)
        return Differences(self.differenced, arguments, upstreams, tangents)


class BackwardRaises(Exception):  # noqa: N818  # what it is, to be reported
    """The backward raises; the message says what."""


class Outside(Exception):  # noqa: N818  # as above
    """The forward, its reference or its derivative has no value here: the backward needs none."""


class Call(NamedTuple):
    """One call of the forward and, once it was made, of the backward."""

    arguments: dict[str, Any]
    result: Any
    fields: dict[str, Any]
    upstreams: dict[str, Tensor]


@dataclass
class Inspector:
    """Asks the properties of a pair of one case after the other, and keeps what it learned.

    ``notes``: on each leaf that was right only as a kink is, and on precisions that the backward
    does not take, by the leaf or variation. ``judged``: the leaves of which some case proved
    something. ``differenced``: those on which the two judges disagree on the sample, and the
    backward follows finite differences. ``earlier``: the arguments of the first case and of the
    last. ``left_changed``: what of torch's global state the backward did not leave as it found it.
    ``differentiated``: whether autograd has judged a case.
    """

    pair: Pair
    oracle: Oracle
    skip: frozenset[str] = frozenset()
    notes: dict[str, str] = field(default_factory=dict)
    judged: set[str] = field(default_factory=set)
    differenced: set[str] = field(default_factory=set)
    earlier: list[dict[str, Any]] = field(default_factory=list)
    left_changed: set[str] = field(default_factory=set)
    differentiated: bool = False

    @property
    def backward(self) -> str:
        return self.pair.backward_name

    def quiet(self) -> Inspector:
        """Another that judges alike, and whose cases leave nothing behind in this one."""
        return Inspector(
            self.pair,
            self.oracle,
            self.skip,
            differenced=self.differenced,
            differentiated=self.differentiated,
        )

    def findings(self, case: Case) -> list[Finding]:
        """The first property that does not hold, once for every gradient of which it does not.

        Raises Outside where a case is none.
        """
        try:
            found = self.learning(self._of_the_case, case)
        except Crashed as error:
            found = [self.crash(error)]
        self.earlier = [*self.earlier[:1], dict(case.arguments)]
        return found

    def learning(self, function: Callable[..., T], *arguments: Any) -> T:
        """What the function returns, which may run apart: what it learned comes back with it."""

        def learned() -> tuple[T, dict[str, Any]]:
            value = function(*arguments)
            return value, {name: getattr(self, name) for name in LEARNED}

        value, of_the_function = forked(learned)
        vars(self).update(of_the_function)
        return value

    def _of_the_case(self, case: Case) -> list[Finding]:
        found = self._first_failing(case)
        of_values = bool(found) and found[0].property in ("value", "linearity", "zero")
        if of_values and case.reach == "beyond" and self._is_lost(case):
            raise Outside
        laid_out = bool(found) and case.family == "layouts"
        if laid_out and not self.quiet()._first_failing(contiguous(case)):
            return [
                finding._replace(property="layout", mistake="upstream-layout", explanation=_LAYOUT)
                for finding in found
            ]
        return found

    def fails_there(self, case: Case, finding: Finding) -> Finding | None:
        """How another case fails, if it does so alike."""
        try:
            if accepts(self.pair, case.arguments):
                return next((f for f in self.findings(case) if f.fails_like(finding)), None)
        except Exception:  # made something that is no case at all
            pass
        return None

    def _is_lost(self, case: Case) -> bool:
        """Whether the forward itself has lost its digits here: of nothing a gradient is right."""
        call = self.call(case)
        try:
            exact = outputs_of(self.pair, in_dtype(call.arguments, torch.float64))
        except Exception:  # a forward that does not take float64
            return False
        return any(
            bool(((call.fields[name] - value).abs() > LOST * value.abs().amax()).any())
            for name, value in exact.items()
            if value.numel()
        )

    def _first_failing(self, case: Case) -> list[Finding]:
        found: list[Finding] = []
        try:
            for finding in self._findings(case):
                if finding.property in self.skip:
                    continue
                if found and finding.property != found[0].property:
                    break
                found.append(finding)
        except BackwardRaises as error:  # at a later call than the first
            if not found:
                found.append(Finding("call", None, f"{error}, at a later call", "state", LATER))
        return found

    def crash(self, error: Crashed) -> Finding:
        return Finding("call", None, f"{self.backward} {error}", kind="crash")

    def layout(self, case: Case) -> list[Finding]:
        """Whether the gradients are those of the same numbers laid out contiguously.

        For a sample on which these were judged, and that is too large to judge again.
        """
        try:
            return forked(lambda: list(self._layout(case)))
        except Crashed as error:
            return [self.crash(error)]

    def _layout(self, case: Case) -> Iterator[Finding]:
        call, plain = self.call(case), self.call(contiguous(case))
        expected = self.gradients(plain)
        try:
            gradients = self.gradients(call)
        except BackwardRaises as error:
            yield Finding("layout", None, str(error), "upstream-layout", _LAYOUT)
            return
        for name, value in expected.items():
            if apart(value, gradients[name]):
                message = f"d{name} is another than of the same numbers laid out contiguously"
                yield Finding("layout", name, message, "upstream-layout", _LAYOUT)

    def call(self, case: Case) -> Call:
        """The forward's call, on tensors of its own: the caller's are not to be spoiled."""
        arguments = copied(case.arguments)
        with torch.no_grad():
            result = self.pair.call(arguments)
        fields = self.pair.fields(result)
        outputs = {name: fields[name].detach() for name in self.pair.outputs}
        return Call(arguments, result, fields, case.upstreams(outputs))

    def gradients(
        self, call: Call, upstreams: Mapping[str, Tensor] | None = None
    ) -> dict[str, Any]:
        """The backward's gradients by the names of the leaves, and None where it returns none."""
        given = call.upstreams if upstreams is None else upstreams
        if self.skip & WAIVED:
            call, given = self._of_its_own(call, given)
        try:
            with global_state_kept(self.left_changed):
                returned = by_leaf(self.pair.gradients(call.arguments, call.result, given))
            gradients = {name: dense(gradient) for name, gradient in returned.items()}
        except PairError:
            raise
        except Exception as error:
            message = f"{self.backward} raises {type_name(error)}: {first_line(error)}"
            raise BackwardRaises(message) from error
        return gradients

    def _of_its_own(
        self, call: Call, upstreams: Mapping[str, Tensor]
    ) -> tuple[Call, Mapping[str, Tensor]]:
        """A call that a backward may write to: the next one gets another."""
        arguments, upstreams = copied(call.arguments), copied(upstreams)
        if isinstance(self.pair, AutogradPair):  # its graph may be freed
            return self.call_on(arguments, upstreams), upstreams
        fields = copied({**call.fields})
        result = (
            fields["out"] if isinstance(call.result, Tensor) else call.result._replace(**fields)
        )
        return Call(arguments, result, fields, dict(upstreams)), upstreams

    def call_on(self, arguments: dict[str, Any], upstreams: Mapping[str, Tensor]) -> Call:
        with torch.no_grad():
            result = self.pair.call(arguments)
        return Call(arguments, result, self.pair.fields(result), dict(upstreams))

    def judge(self, arguments: Mapping[str, Any], upstreams: Mapping[str, Tensor]) -> Judge:
        if self.oracle.differentiated is not None:
            judge = Autograd(
                self.oracle.differentiated,
                arguments,
                upstreams,
                graphless_is_zero=self.differentiated,
            )
            try:
                judge.expected  # noqa: B018  # whether autograd sees through this call
            except Undifferentiable:
                pass
            except Exception:
                if self.differentiated:  # so the case is the reason, not the forward
                    raise
            else:
                self.differentiated = True
                return judge
        return self.oracle.differences(arguments, upstreams)

    def _findings(self, case: Case) -> Iterator[Finding]:
        before = copied(case.arguments)
        try:
            call = self.call(case)
            outputs = self._reference_outputs(call)
        except Exception as error:
            raise Outside from error
        for name in _changed(call.arguments, before):
            message = f"{self.pair.name} itself writes to {name}"
            yield Finding("purity", None, message, "mutates-input", kind="forward", of=name)
        yield from self._agrees_with_reference(call, *outputs)

        try:
            judge = self.judge(call.arguments, call.upstreams)
        except Exception as error:  # the forward means nothing by it, as an index out of bounds
            raise Outside from error
        given = {**call.arguments, **call.fields}
        given |= {f"d{name}": upstream for name, upstream in call.upstreams.items()}
        before = copied(given)
        try:
            gradients = self.gradients(call)
        except PairError as error:
            yield Finding("count", None, str(error), "wrong-count", _SLOTS, "count")
            return
        except BackwardRaises as error:
            # Nobody overlooks a precision that is lacking, a singular matrix, or an index or a
            # number among the options that the sample does not have.
            cast = next((change for change in case.changes if isinstance(change, Cast)), None)
            lacking = cast is not None and lacks_precision(error.__cause__)
            singular = case.family == "values" and is_singular(error.__cause__)
            when = condition(case.changes)
            if lacking:
                self.notes.setdefault(str(cast), f"not asked {cast}: {error}")
            elif singular or holds_what_the_sample_lacks(case):
                kind = "singular" if singular else "numbers"
                self.notes.setdefault(kind, f"not asked {when}: {error}")
            else:
                raised = type_name(error.__cause__)
                yield Finding("call", None, str(error), kind=raised)
            return
        broken = list(self._contract(call, gradients))
        yield from broken
        yield from self._purity(call, given, before)
        yield from self._alias(call, given, gradients)
        unfit = {finding.input for finding in broken}
        values = {n: g for n, g in gradients.items() if isinstance(g, Tensor) and n not in unfit}
        copies = {name: value.clone() for name, value in values.items()}
        later = self.gradients(call)
        for name, copy in copies.items():
            if not _same_bytes(copy, values[name]):
                message = f"a later call overwrites d{name}"
                yield Finding("alias", name, message, "aliased", kind="overwritten")
            elif isinstance(later.get(name), Tensor) and copy.numel():
                again, owned = _memory(later[name]), {_memory(u) for u in call.upstreams.values()}
                if again and again == _memory(values[name]) and again not in owned:
                    message = f"d{name} shares its memory with that of an earlier call"
                    yield Finding("alias", name, message, "aliased", _COPY)
        values = copies
        # Of other values it is asked only where they are wrong, which takes half of the calls.
        if case.family != "values":
            yield from self._repeat(call, values)
        if not case.changes:
            yield from self._global_randomness(call)
        for what in sorted(self.left_changed):
            message = f"{self.backward} leaves {what} changed"
            explanation = "it holds for all that comes after: put it back as it was"
            yield Finding("state", None, message, "state", explanation, "left changed", what)
        yield from self._zero(call, judge, values)
        yield from self._linearity(case, call, judge, values)
        off = list(self._values(case, call, judge, values))
        if off and case.family == "values":
            yield from self._repeat(call, values)
        yield from off

    def _reference_outputs(self, call: Call) -> tuple[Leaves, Leaves]:
        """What the reference returns, in the call's precision and in float64; {} without one."""
        reference = self.oracle.compared
        if reference is None:
            return {}, {}
        own = outputs_of(reference, call.arguments)
        try:
            return own, outputs_of(reference, in_dtype(call.arguments, torch.float64))
        except Exception:  # a reference that does not take float64
            return own, own

    def _agrees_with_reference(self, call: Call, own: Leaves, exact: Leaves) -> Iterator[Finding]:
        """The outputs are compared first: of another function there is nothing to ask."""
        reference = self.oracle.compared
        if reference is None:
            return
        for name in own:
            output, expected = call.fields[name].double(), exact[name].double()
            if output.shape != expected.shape:
                message = (
                    f"{self.pair.name} and its reference differ, not the backward: {name} has "
                    f"shape {tuple(output.shape)}, the reference's {tuple(expected.shape)}"
                )
                yield Finding("value", None, message)
                continue
            eps = torch.finfo(call.fields[name].dtype).eps
            scale = torch.maximum(expected.abs(), expected.abs().mean())
            allowed = 1024 * eps * scale + 16 * (own[name].double() - expected).abs()
            error = (output - expected).abs()
            judged = expected.isfinite() & own[name].isfinite()
            off = torch.where(judged, (error - allowed).nan_to_num(torch.inf), -torch.inf)
            if off.numel() and off.amax() > 0:
                moved = rounding_of_outputs(reference, call.arguments)
                units = ALLOWED[call.fields[name].dtype.itemsize] * eps
                if name in moved:
                    off = torch.where(error <= units * moved[name], -torch.inf, off)
            if off.numel() and off.amax() > 0:
                at = worst(off)
                got, right = told_apart(output[at], expected[at])
                message = (
                    f"{self.pair.name} and its reference differ, not the backward: {name}"
                    f"{_index(at)} is {got}, the reference's {right}"
                )
                numbers = output[at].item(), expected[at].item()
                yield Finding(
                    "value",
                    None,
                    message,
                    None,
                    "",
                    "forward",
                    name,
                    at,
                    *numbers,
                    "the reference says",
                )

    def _contract(self, call: Call, gradients: Mapping[str, Any]) -> Iterator[Finding]:
        leaves = self.pair.leaves(call.arguments)
        for name, gradient in gradients.items():
            if name not in leaves and gradient is not None:
                message = f"d{name} must be None: {name} is no floating Tensor"
                yield Finding("count", name, message, "wrong-count", _SLOTS, "must be None")
        for name, leaf in leaves.items():
            if name not in gradients:
                message = f"d{name} is missing: a sequence's slot holds a tuple of its length"
                yield Finding("count", name, message, "wrong-count", _SLOTS)
                continue
            gradient = gradients[name]
            if gradient is None:
                if not self.judge(call.arguments, call.upstreams).expected[name].any():
                    self.judged.add(name)
                else:
                    message = f"d{name} is None, and the output depends on {name}"
                    yield Finding("count", name, message, "none-gradient")
            elif not isinstance(gradient, Tensor):
                message = f"d{name} must be a Tensor, got {type_name(gradient)}"
                yield Finding("count", name, message, "dtype", "numbers have to be tensors")
            elif gradient.shape != leaf.shape:
                message = (
                    f"d{name} has shape {tuple(gradient.shape)}, {name} has {tuple(leaf.shape)}"
                )
                yield Finding("shape", name, message, "shape")
            elif gradient.dtype != leaf.dtype:
                message = f"d{name} is {gradient.dtype}, {name} is {leaf.dtype}"
                explanation = f"d{name} has to be converted to {name}.dtype"
                yield Finding("dtype", name, message, "dtype", explanation)
            elif gradient.device != leaf.device:
                message = f"d{name} is on {gradient.device}, {name} on {leaf.device}"
                yield Finding("dtype", name, message)

    def _purity(
        self, call: Call, given: Mapping[str, Any], before: Mapping[str, Any]
    ) -> Iterator[Finding]:
        for name, leaf in self.pair.leaves(call.arguments).items():
            if leaf.requires_grad:
                message = f"{self.backward} makes {name} require a gradient"
                explanation = "detach a copy of it"
                yield Finding(
                    "purity", None, message, "mutates-input", explanation, "requires grad", name
                )
        for name in _changed(given, before):
            if name in call.arguments:
                role, explanation = "input", "write to a copy of it"
            elif name in call.fields:
                role, explanation = "kept", "it is needed again when backward is called twice"
            else:
                role = "upstream"
                explanation = "others who use the same upstream get a spoiled one: write to a copy"
            message = f"{self.backward} writes to {name}"
            mistake = f"mutates-{role}"
            yield Finding("purity", None, message, mistake, explanation, of=name)

    def _alias(
        self, call: Call, given: Mapping[str, Any], gradients: Mapping[str, Any]
    ) -> Iterator[Finding]:
        allowed = {_memory(upstream) for upstream in call.upstreams.values()}
        owners = {
            _memory(part): name
            for name, value in given.items()
            for part in parts(value)
            if isinstance(part, Tensor) and part.numel()
        }
        for name, gradient in gradients.items():
            if isinstance(gradient, Tensor) and gradient.numel():
                memory = _memory(gradient)
                if memory and memory in owners and memory not in allowed:
                    owner = owners[memory]
                    message = f"d{name} shares its memory with {owner}"
                    yield Finding("alias", name, message, "aliased", _COPY, "owned", owner)

    def _goes_with_the_upstream(self, call: Call, judge: Judge, factor: float) -> bool:
        """Whether the right gradient does: that of another function, as a clipped one, need not."""
        if not self.oracle.on_purpose:
            return True
        scaled = {name: u * factor for name, u in call.upstreams.items()}
        right = self.judge(call.arguments, scaled).expected
        return all(
            torch.allclose(right[name], factor * value, equal_nan=True)
            for name, value in judge.expected.items()
        )

    def _zero(self, call: Call, judge: Judge, values: Mapping[str, Tensor]) -> Iterator[Finding]:
        if not self._goes_with_the_upstream(call, judge, 0.0):
            return
        ups = call.upstreams.values()
        zeros = {name: torch.zeros_like(u) for name, u in call.upstreams.items()}
        for name, gradient in self.gradients(call, zeros).items():
            if name not in values:
                continue
            if not isinstance(gradient, Tensor):
                message = f"d{name} of a zero upstream is {type_name(gradient)}"
                yield Finding("zero", name, message, "none-gradient", f"d{name} has to be zeros")
                continue
            # Where the derivative is too large for the precision, zero times it is no number.
            finite = judge.expected[name].abs() < torch.finfo(gradient.dtype).max / 16
            left = torch.where(finite, gradient.double(), 0)
            if not left.any():
                continue
            message = f"d{name} of a zero upstream is not zero"
            usual, size = values[name].double().abs().nan_to_num(0).sum(), left.abs().sum()
            if size.isnan() and not values[name].isfinite().all():
                continue  # it is no number whatever the upstream, which the values say
            if size.isnan():
                explanation = f"d{name} divides by what is zero with the upstream"
                yield Finding("zero", name, message, "nan", explanation)
            elif not self.gradients(call, zeros)[name].any():
                yield Finding("zero", name, message, "state", "it is that of an earlier call")
            elif size < 1e-3 * usual:
                explanation = "something small was added to the upstream"
                yield Finding("zero", name, message, "eps", explanation)
            else:
                explanation = f"d{name} has to be proportional to the upstream"
                added = values[name].double() - gradient.double()
                if any(_same_shape(u, added) and torch.allclose(added, u.double()) for u in ups):
                    explanation = "the upstream is added to something: it has to be a factor of it"
                yield Finding("zero", name, message, "upstream-ignored", explanation)

    def _repeat(self, call: Call, values: Mapping[str, Tensor]) -> Iterator[Finding]:
        again = self.gradients(call)
        try:
            with _uninitialised_is_nan():
                poisoned = self.gradients(call)
        except BackwardRaises as error:
            if not compiled_for_other_mode(error.__cause__):
                raise
            poisoned = again
        for name, value in values.items():
            if _same_shape(poisoned.get(name), value) and bool(
                (poisoned[name].isnan() & ~value.isnan()).any()
            ):
                message = f"d{name} holds uninitialised memory"
                explanation = "a buffer made with torch.empty is not written to everywhere"
                yield Finding(
                    "state", name, message, "nondeterministic", explanation, "uninitialised"
                )
            elif apart(value, again.get(name)):
                message = f"d{name} is another at a second call on the same values"
                yield Finding("repeat", name, message, *self._why_not_repeated(call, name))
            elif apart(value, poisoned.get(name)):
                message = f"d{name} is another at a later call on the same values"
                yield Finding("repeat", name, message, "state", LATER)

    def _why_not_repeated(self, call: Call, name: str) -> tuple[str, str]:
        """The mistake and a sentence, for a gradient that differs between two equal calls."""
        values = []
        for seed in (0, 0, 0, 1):
            with _same_randomness(seed):
                values.append(self.gradients(call)[name].double())
        first, second, third, other_seed = values
        if apart(first, second):
            # A running sum or a counter moves every entry along one direction; a race does not.
            steps = (second - first).flatten(), (third - second).flatten()
            if torch.cosine_similarity(*steps, dim=0).abs() > STRAIGHT:
                return "state", LATER
            explanation = "no seed decides it: threads race, or it has a generator of its own"
            return "nondeterministic", explanation
        if apart(first, other_seed):
            explanation = "it draws random numbers; what was drawn forward has to be kept"
            return "nondeterministic", explanation
        return "state", LATER

    def _global_randomness(self, call: Call) -> Iterator[Finding]:
        """Drawing is no harm, as a sum in random order may, but seeding is: of all that follows."""
        states = []
        for seed in (2**31 - 1, 2**31 - 19):
            with _same_randomness(seed):
                self.gradients(call)
                states.append(_random_states())
        for (whose, one), other in zip(states[0].items(), states[1].values(), strict=True):
            if one == other:
                message = f"{self.backward} seeds {whose} global random generator"
                explanation = "what others draw is the same each time: use a generator of its own"
                yield Finding("state", None, message, "state", explanation, "seeds", whose)

    def _linearity(
        self, case: Case, call: Call, judge: Judge, values: Mapping[str, Tensor]
    ) -> Iterator[Finding]:
        """Where autograd sees linearity, so does the value; it shows here with its own name."""
        if case.family in ("values", "precisions"):  # where twice as much may be too much
            return
        if not self._goes_with_the_upstream(call, judge, 2.0):
            return
        doubled = {name: u * 2 for name, u in call.upstreams.items()}
        for name, twice in self.gradients(call, doubled).items():
            if name not in values or not isinstance(twice, Tensor):
                continue
            once, half, value = values[name].double(), twice.double() / 2, judge.expected[name]
            fits = value.abs() * 4 <= torch.finfo(values[name].dtype).max
            fits &= once.isfinite() & half.isfinite()
            apart = fits & ((half - once).abs() > 2e-2 * once.abs())
            if not apart.any():
                continue  # what is less, or not finite, shows in the values
            halved = torch.where(apart, twice / 2, values[name])
            if self._wrong(judge, name, values[name]) or self._wrong(judge, name, halved):
                message = f"d{name} of twice the upstream is not twice d{name}"
                same = torch.equal(twice, values[name]) and not case.changes
                explanation = (
                    "the upstream makes no difference to it"
                    if same
                    else f"d{name} has to be proportional to the upstream"
                )
                mistake = "upstream-ignored" if same else "upstream-collapsed"
                yield Finding("linearity", name, message, mistake, explanation)

    def _values(
        self, case: Case, call: Call, judge: Judge, values: Mapping[str, Tensor]
    ) -> Iterator[Finding]:
        verdicts, judges = judge.verdicts(values), dict.fromkeys(values, judge)
        for name in self.differenced & verdicts.keys():
            judges[name] = self.oracle.differences(call.arguments, call.upstreams)
            verdicts[name] = judges[name].verdicts({name: values[name]})[name]
        off = Off(self, case, call, judge, values)
        for allow, name in itertools.product(ALLOWANCES, verdicts):
            wrong = verdicts[name].wrong
            if wrong.any():
                verdicts[name] = verdicts[name]._replace(wrong=wrong & ~allow(off, name, wrong))
        agreeing = [f"d{name}" for name, verdict in verdicts.items() if not verdict.wrong.any()]
        for name, verdict in verdicts.items():
            judge = judges[name]
            value, gradient = judge.expected[name], values[name]
            if isinstance(judge, Differences):
                value = judge.completed(name, gradient.double())
            self._note(judge, name, gradient, verdict.kinks)
            if not verdict.wrong.any():
                continue
            error = (gradient.double() - value).abs().nan_to_num(torch.inf)
            at = worst(torch.where(verdict.wrong, error, -1))
            got, right = told_apart(gradient[at], value[at])
            known = not bool(value[at].isnan())
            message = f"d{name}{_index(at)} is {got}, "
            if value[at].isnan():
                message = f"d{name} along some direction is not what "
                message += f"{judge.source} say{'s' * (judge.source == 'autograd')}"
            else:
                says = "says" if judge.source == "autograd" else "say"
                message += f"{judge.source} {says} {right}"
            if agreeing:
                message += f"; {' and '.join(agreeing)} {'agree' if agreeing[1:] else 'agrees'}"
            yield Finding(
                "value",
                name,
                message,
                at=at if known else None,
                got=gradient[at].item(),
                right=value[at].item(),
                source=f"{judge.source} say{'s' * (judge.source == 'autograd')}",
            )

    def _note(self, judge: Judge, name: str, gradient: Tensor, kinks: Tensor) -> None:
        """Remember a kink, and that this leaf was judged: that zeros would have been wrong."""
        value = judge.expected[name]
        if kinks.any() and name not in self.notes:
            at = worst(kinks.double())
            least, most = (bound[at] for bound in judge.interval(name))
            self.notes[name] = (
                f"kink: d{name}{_index(at)} got {number(gradient[at])}, allowed "
                f"[{number(least)}, {number(most)}], {judge.source} "
                f"{'says' if judge.source == 'autograd' else 'say'} {number(value[at])}"
            )
        if name not in self.judged and judge.proves(name, gradient.dtype):
            self.judged.add(name)

    def _wrong(self, judge: Judge, name: str, gradient: Tensor) -> bool:
        return bool(judge.verdicts({name: gradient})[name].wrong.any())


_SURROUNDINGS: Mapping[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "the default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "the gradient mode": (torch.is_grad_enabled, torch.set_grad_enabled),
    "the number of threads": (torch.get_num_threads, torch.set_num_threads),
    "the deterministic mode": (
        torch.get_deterministic_debug_mode,
        torch.set_deterministic_debug_mode,
    ),
}
"""Global state, and how it is read and set."""
_SLOTS = "each input has one place in what is returned, in the forward's order; a sequence a tuple"
LATER = "something is kept between calls"
OTHERS = "it depends on something else than its arguments"
_COPY = "whoever writes to the one changes the other: return a copy"
_LAYOUT = "the numbers are right where the memory is contiguous: read them through their strides"


@contextmanager
def global_state_kept(changed: set[str] | None = None) -> Iterator[None]:
    """Put torch's global state back; ``changed`` gets the names of what was not as before."""
    before = [get() for get, _ in _SURROUNDINGS.values()]
    try:
        yield
    finally:
        for (what, (get, set_)), was in zip(_SURROUNDINGS.items(), before, strict=True):
            if get() != was:
                set_(was)
                if changed is not None:
                    changed.add(what)


def apart(one: Any, other: Any) -> bool:
    """Whether two gradients of the same call differ by more than the order of summation."""
    if not isinstance(one, Tensor) or not isinstance(other, Tensor):
        return one is not other
    if _same_bytes(one, other):
        return False
    finite = one.isfinite()
    if one.shape != other.shape or not torch.equal(finite, other.isfinite()):
        return True
    difference = (one.double() - other.double())[finite].abs()
    allowed = ALLOWED_APART * torch.finfo(one.dtype).eps * one.double()[finite].abs()
    return bool((difference > allowed.amax()).any()) if difference.numel() else False


def contiguous(case: Case) -> Case:
    """The same numbers laid out contiguously."""
    arguments = {
        name: value.contiguous() if isinstance(value, Tensor) else value
        for name, value in case.arguments.items()
    }
    return case.but(LaidOut(None, "contiguous", Tensor.contiguous), arguments)


def _changed(given: Mapping[str, Any], before: Mapping[str, Any]) -> list[str]:
    return [name for name, value in given.items() if not _unchanged(value, before[name])]


def _unchanged(value: Any, before: Any) -> bool:
    if isinstance(value, Tensor):
        return _same_bytes(value, before)
    if isinstance(value, (tuple, list)):
        return len(value) == len(before) and all(map(_unchanged, value, before))
    return value is before


def _same_shape(x: Any, y: Tensor) -> bool:
    return isinstance(x, Tensor) and x.shape == y.shape


def _same_bytes(x: Tensor, y: Tensor) -> bool:
    """Equal in every bit, nan and the sign of zero included."""
    if x.shape != y.shape or x.dtype != y.dtype:
        return False
    return torch.equal(_bits(x), _bits(y))


def _bits(x: Tensor) -> Tensor:
    x = torch.view_as_real(x) if x.is_complex() else x
    return x.view(_INTEGERS[x.dtype.itemsize]) if x.is_floating_point() else x


_INTEGERS = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.int8}
"""By the bytes of a number."""


def _memory(x: Tensor) -> int:
    """Where a tensor's numbers are; 0 for one that has none of its own, as autograd's zeros."""
    if x.layout != torch.strided or is_zero_tensor(x):
        return 0
    return x.untyped_storage().data_ptr()


@contextmanager
def _uninitialised_is_nan() -> Iterator[None]:
    """``torch.empty`` and its like give nan, so that what reads them shows."""
    # torch.use_deterministic_algorithms would import the compiler, which takes two seconds.
    was = torch.get_deterministic_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.set_deterministic_debug_mode("warn")
        try:
            yield
        finally:
            torch.set_deterministic_debug_mode(was)


@contextmanager
def _same_randomness(seed: int = 0) -> Iterator[None]:
    """The same random numbers each time, and the caller's stream left as it was."""
    numpy = sys.modules.get("numpy")
    python, of_numpy = random.getstate(), numpy and numpy.random.get_state()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        random.seed(seed)
        if numpy:
            numpy.random.seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            if numpy:
                numpy.random.set_state(of_numpy)


def _random_states() -> dict[str, Any]:
    numpy = sys.modules.get("numpy")
    states = {"torch's": torch.get_rng_state().tolist(), "Python's": random.getstate()}
    return states | ({"numpy's": str(numpy.random.get_state())} if numpy else {})


def dense(gradient: Any) -> Any:
    if not isinstance(gradient, Tensor) or gradient.layout == torch.strided:
        return gradient
    if gradient.layout == torch.sparse_coo:
        indices = sparse_indices(gradient)
        sizes = torch.tensor(gradient.shape[: len(indices)], device=indices.device)[:, None]
        if ((indices < 0) | (indices >= sizes)).any():  # torch would write there
            raise IndexError("an index of a sparse gradient is out of bounds")
    return gradient.to_dense()


def _index(at: tuple[int, ...]) -> str:
    return str(list(at)) if at else ""


def type_name(value: object) -> str:
    return type(value).__name__


def first_line(error: Exception) -> str:
    return (str(error).strip() or "no message").splitlines()[0]
