"""What has to hold of a backward in one call, in the order in which a person would debug it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from backprop_ops._torch import compiled_for_other_mode, is_singular, lacks_precision
from backprop_ops.checking.acceptance import outputs_of
from backprop_ops.checking.allowances import ALLOWANCES
from backprop_ops.checking.calling import BackwardRaises, Call, Caller, Outside, type_name
from backprop_ops.checking.case import Case, Cast, condition
from backprop_ops.checking.differences import Differences
from backprop_ops.checking.finding import LATER, Finding
from backprop_ops.checking.global_state import (
    random_states,
    same_randomness,
    uninitialised_is_nan,
)
from backprop_ops.checking.judging import ALLOWED, Judge, Leaves, rounding_of_outputs
from backprop_ops.checking.numbers import number, told_apart, worst
from backprop_ops.checking.observed import Observed
from backprop_ops.checking.same import apart, changed, memory, same_bytes, same_shape
from backprop_ops.checking.variations.indices import holds_what_the_sample_lacks
from backprop_ops.leaves import copied, in_dtype, parts
from backprop_ops.pair import PairError

STRAIGHT = 0.99  # the cosine between two steps along one direction
_SLOTS = "each input has one place in what is returned, in the forward's order; a sequence a tuple"
_COPY = "whoever writes to the one changes the other: return a copy"


def findings_of(caller: Caller, case: Case) -> Iterator[Finding]:
    """All that does not hold of a case; Outside where it is none."""
    before = copied(case.arguments)
    try:
        call = caller.call(case)
        outputs = _reference_outputs(caller, call)
    except Exception as error:
        raise Outside from error
    for name in changed(call.arguments, before):
        message = f"{caller.pair.name} itself writes to {name}"
        yield Finding("purity", None, message, "mutates-input", kind="forward", of=name)
    yield from _agrees_with_reference(caller, call, *outputs)

    try:
        judge = caller.judge(call.arguments, call.upstreams)
    except Exception as error:  # the forward means nothing by it, as an index out of bounds
        raise Outside from error
    given = {**call.arguments, **call.fields}
    given |= {f"d{name}": upstream for name, upstream in call.upstreams.items()}
    before = copied(given)
    try:
        gradients = caller.gradients(call)
    except PairError as error:
        yield Finding("count", None, str(error), "wrong-count", _SLOTS, "count")
    except BackwardRaises as error:
        yield from _raised(caller, case, error)
    else:
        leaves = caller.pair.leaves(call.arguments)
        values = {n: gradients[n].clone() for n, x in leaves.items() if _fits(gradients.get(n), x)}
        seen = Observed(caller, case, call, judge, values, gradients, given, before)
        for asked in _IN_ORDER:
            yield from asked(seen)


def _raised(caller: Caller, case: Case, error: BackwardRaises) -> Iterator[Finding]:
    """Nobody overlooks a precision that is lacking, a singular matrix, or a number not sent."""
    cast = next((change for change in case.changes if isinstance(change, Cast)), None)
    singular = case.family == "values" and is_singular(error.__cause__)
    when, notes = condition(case.changes), caller.learned.notes
    if cast is not None and lacks_precision(error.__cause__):
        notes.setdefault(str(cast), f"not asked {cast}: {error}")
    elif singular or holds_what_the_sample_lacks(case):
        notes.setdefault("singular" if singular else "numbers", f"not asked {when}: {error}")
    else:
        yield Finding("call", None, str(error), kind=type_name(error.__cause__))


def _fits(gradient: Any, leaf: Tensor) -> bool:
    return (
        same_shape(gradient, leaf)
        and gradient.dtype == leaf.dtype
        and gradient.device == leaf.device
    )


def _reference_outputs(caller: Caller, call: Call) -> tuple[Leaves, Leaves]:
    """What the reference returns, in the call's precision and in float64; {} without one."""
    reference = caller.oracle.compared
    if reference is None:
        return {}, {}
    own = outputs_of(reference, call.arguments)
    try:
        return own, outputs_of(reference, in_dtype(call.arguments, torch.float64))
    except Exception:  # a reference that does not take float64
        return own, own


def _agrees_with_reference(
    caller: Caller, call: Call, own: Leaves, exact: Leaves
) -> Iterator[Finding]:
    """The outputs are compared first: of another function there is nothing to ask."""
    reference = caller.oracle.compared
    if reference is None:
        return
    for name in own:
        output, expected = call.fields[name].double(), exact[name].double()
        if output.shape != expected.shape:
            message = (
                f"{caller.pair.name} and its reference differ, not the backward: {name} has "
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
                f"{caller.pair.name} and its reference differ, not the backward: {name}"
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


def _contract(seen: Observed) -> Iterator[Finding]:
    leaves = seen.caller.pair.leaves(seen.call.arguments)
    for name, gradient in seen.gradients.items():
        if name not in leaves and gradient is not None:
            message = f"d{name} must be None: {name} is no floating Tensor"
            yield Finding("count", name, message, "wrong-count", _SLOTS, "must be None")
    for name, leaf in leaves.items():
        if name not in seen.gradients:
            message = f"d{name} is missing: a sequence's slot holds a tuple of its length"
            yield Finding("count", name, message, "wrong-count", _SLOTS)
            continue
        gradient = seen.gradients[name]
        if gradient is None:
            if not seen.caller.judge(seen.call.arguments, seen.call.upstreams).expected[name].any():
                seen.caller.learned.judged.add(name)
            else:
                message = f"d{name} is None, and the output depends on {name}"
                yield Finding("count", name, message, "none-gradient")
        elif not isinstance(gradient, Tensor):
            message = f"d{name} must be a Tensor, got {type_name(gradient)}"
            yield Finding("count", name, message, "dtype", "numbers have to be tensors")
        elif gradient.shape != leaf.shape:
            message = f"d{name} has shape {tuple(gradient.shape)}, {name} has {tuple(leaf.shape)}"
            yield Finding("shape", name, message, "shape")
        elif gradient.dtype != leaf.dtype:
            message = f"d{name} is {gradient.dtype}, {name} is {leaf.dtype}"
            explanation = f"d{name} has to be converted to {name}.dtype"
            yield Finding("dtype", name, message, "dtype", explanation)
        elif gradient.device != leaf.device:
            message = f"d{name} is on {gradient.device}, {name} on {leaf.device}"
            yield Finding("dtype", name, message)


def _purity(seen: Observed) -> Iterator[Finding]:
    for name, leaf in seen.caller.pair.leaves(seen.call.arguments).items():
        if leaf.requires_grad:
            message = f"{seen.caller.backward} makes {name} require a gradient"
            explanation = "detach a copy of it"
            yield Finding(
                "purity", None, message, "mutates-input", explanation, "requires grad", name
            )
    for name in changed(seen.given, seen.before):
        if name in seen.call.arguments:
            role, explanation = "input", "write to a copy of it"
        elif name in seen.call.fields:
            role, explanation = "kept", "it is needed again when backward is called twice"
        else:
            role = "upstream"
            explanation = "others who use the same upstream get a spoiled one: write to a copy"
        message = f"{seen.caller.backward} writes to {name}"
        mistake = f"mutates-{role}"
        yield Finding("purity", None, message, mistake, explanation, of=name)


def _alias(seen: Observed) -> Iterator[Finding]:
    allowed = {memory(upstream) for upstream in seen.call.upstreams.values()}
    owners = {
        memory(part): name
        for name, value in seen.given.items()
        for part in parts(value)
        if isinstance(part, Tensor) and part.numel()
    }
    for name, gradient in seen.gradients.items():
        if isinstance(gradient, Tensor) and gradient.numel():
            where = memory(gradient)
            if where and where in owners and where not in allowed:
                owner = owners[where]
                message = f"d{name} shares its memory with {owner}"
                yield Finding("alias", name, message, "aliased", _COPY, "owned", owner)


def _overwritten(seen: Observed) -> Iterator[Finding]:
    later = seen.caller.gradients(seen.call)
    owned = {memory(upstream) for upstream in seen.call.upstreams.values()}
    for name, value in seen.values.items():
        gradient, again = seen.gradients[name], later.get(name)
        if not same_bytes(value, gradient):
            message = f"a later call overwrites d{name}"
            yield Finding("alias", name, message, "aliased", kind="overwritten")
        elif isinstance(again, Tensor) and value.numel():
            where = memory(again)
            if where and where == memory(gradient) and where not in owned:
                message = f"d{name} shares its memory with that of an earlier call"
                yield Finding("alias", name, message, "aliased", _COPY)


def _repeats(seen: Observed) -> Iterator[Finding]:
    """Of other values it is asked only where they are wrong, since it takes half of the calls."""
    if seen.case.family != "values":
        yield from _repeat(seen)


def _repeat(seen: Observed) -> Iterator[Finding]:
    again = seen.caller.gradients(seen.call)
    try:
        with uninitialised_is_nan():
            poisoned = seen.caller.gradients(seen.call)
    except BackwardRaises as error:
        if not compiled_for_other_mode(error.__cause__):
            raise
        poisoned = again
    for name, value in seen.values.items():
        if same_shape(poisoned.get(name), value) and bool(
            (poisoned[name].isnan() & ~value.isnan()).any()
        ):
            message = f"d{name} holds uninitialised memory"
            explanation = "a buffer made with torch.empty is not written to everywhere"
            yield Finding("state", name, message, "nondeterministic", explanation, "uninitialised")
        elif apart(value, again.get(name)):
            message = f"d{name} is another at a second call on the same values"
            yield Finding("repeat", name, message, *_why_not_repeated(seen.caller, seen.call, name))
        elif apart(value, poisoned.get(name)):
            message = f"d{name} is another at a later call on the same values"
            yield Finding("repeat", name, message, "state", LATER)


def _why_not_repeated(caller: Caller, call: Call, name: str) -> tuple[str, str]:
    """The mistake and a sentence, for a gradient that differs between two equal calls."""
    values = []
    for seed in (0, 0, 0, 1):
        with same_randomness(seed):
            values.append(caller.gradients(call)[name].double())
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


def _global_randomness(seen: Observed) -> Iterator[Finding]:
    """Drawing is no harm, as a sum in random order may, but seeding is: of all that follows."""
    if seen.case.changes:  # asked of the sample alone
        return
    states = []
    for seed in (2**31 - 1, 2**31 - 19):
        with same_randomness(seed):
            seen.caller.gradients(seen.call)
            states.append(random_states())
    for (whose, one), other in zip(states[0].items(), states[1].values(), strict=True):
        if one == other:
            message = f"{seen.caller.backward} seeds {whose} global random generator"
            explanation = "what others draw is the same each time: use a generator of its own"
            yield Finding("state", None, message, "state", explanation, "seeds", whose)


def _left_changed(seen: Observed) -> Iterator[Finding]:
    for what in sorted(seen.caller.learned.left_changed):
        message = f"{seen.caller.backward} leaves {what} changed"
        explanation = "it holds for all that comes after: put it back as it was"
        yield Finding("state", None, message, "state", explanation, "left changed", what)


def _goes_with_the_upstream(seen: Observed, factor: float) -> bool:
    """Whether the right gradient does: that of another function, as a clipped one, need not."""
    if not seen.caller.oracle.on_purpose:
        return True
    scaled = {name: u * factor for name, u in seen.call.upstreams.items()}
    right = seen.caller.judge(seen.call.arguments, scaled).expected
    return all(
        torch.allclose(right[name], factor * value, equal_nan=True)
        for name, value in seen.judge.expected.items()
    )


def _zero(seen: Observed) -> Iterator[Finding]:
    if not _goes_with_the_upstream(seen, 0.0):
        return
    ups = seen.call.upstreams.values()
    zeros = {name: torch.zeros_like(u) for name, u in seen.call.upstreams.items()}
    for name, gradient in seen.caller.gradients(seen.call, zeros).items():
        if name not in seen.values:
            continue
        if not isinstance(gradient, Tensor):
            message = f"d{name} of a zero upstream is {type_name(gradient)}"
            yield Finding("zero", name, message, "none-gradient", f"d{name} has to be zeros")
            continue
        if not gradient.any():
            continue
        # Where the derivative is too large for the precision, zero times it is no number.
        finite = seen.judge.expected[name].abs() < torch.finfo(gradient.dtype).max / 16
        left = torch.where(finite, gradient.double(), 0)
        if not left.any():
            continue
        message = f"d{name} of a zero upstream is not zero"
        usual, size = seen.values[name].double().abs().nan_to_num(0).sum(), left.abs().sum()
        if size.isnan() and not seen.values[name].isfinite().all():
            continue  # it is no number whatever the upstream, which the values say
        if size.isnan():
            explanation = f"d{name} divides by what is zero with the upstream"
            yield Finding("zero", name, message, "nan", explanation)
        elif not seen.caller.gradients(seen.call, zeros)[name].any():
            yield Finding("zero", name, message, "state", "it is that of an earlier call")
        elif size < 1e-3 * usual:
            explanation = "something small was added to the upstream"
            yield Finding("zero", name, message, "eps", explanation)
        else:
            explanation = f"d{name} has to be proportional to the upstream"
            added = seen.values[name].double() - gradient.double()
            if any(same_shape(u, added) and torch.allclose(added, u.double()) for u in ups):
                explanation = "the upstream is added to something: it has to be a factor of it"
            yield Finding("zero", name, message, "upstream-ignored", explanation)


def _linearity(seen: Observed) -> Iterator[Finding]:
    """Where autograd sees linearity, so does the value; it shows here with its own name."""
    if seen.case.family in ("values", "precisions"):  # where twice as much may be too much
        return
    if not _goes_with_the_upstream(seen, 2.0):
        return
    doubled = {name: u * 2 for name, u in seen.call.upstreams.items()}
    for name, twice in seen.caller.gradients(seen.call, doubled).items():
        if name not in seen.values or not isinstance(twice, Tensor):
            continue
        once, half = seen.values[name].double(), twice.double() / 2
        apart = once.isfinite() & half.isfinite() & ((half - once).abs() > 2e-2 * once.abs())
        if not apart.any():
            continue  # what is less, or not finite, shows in the values
        apart &= seen.judge.expected[name].abs() * 4 <= torch.finfo(seen.values[name].dtype).max
        if not apart.any():
            continue
        halved = torch.where(apart, twice / 2, seen.values[name])
        if _wrong(seen.judge, name, seen.values[name]) or _wrong(seen.judge, name, halved):
            message = f"d{name} of twice the upstream is not twice d{name}"
            same = torch.equal(twice, seen.values[name]) and not seen.case.changes
            explanation = (
                "the upstream makes no difference to it"
                if same
                else f"d{name} has to be proportional to the upstream"
            )
            mistake = "upstream-ignored" if same else "upstream-collapsed"
            yield Finding("linearity", name, message, mistake, explanation)


def _values(seen: Observed) -> Iterator[Finding]:
    caller, call, values = seen.caller, seen.call, seen.values
    verdicts, judges = seen.judge.verdicts(values), dict.fromkeys(values, seen.judge)
    to_confirm = caller.oracle.confirmed and not isinstance(seen.judge, Differences)
    if to_confirm and any(verdict.wrong.any() for verdict in verdicts.values()):
        differences = caller.oracle.differences(call.arguments, call.upstreams)
        yield from _values(replace(seen, judge=differences))
        return
    for name in caller.learned.differenced & verdicts.keys():
        judges[name] = caller.oracle.differences(call.arguments, call.upstreams)
        verdicts[name] = judges[name].verdicts({name: values[name]})[name]
    for allow, name in itertools.product(ALLOWANCES, verdicts):
        wrong = verdicts[name].wrong
        if wrong.any():
            verdicts[name] = verdicts[name]._replace(wrong=wrong & ~allow(seen, name, wrong))
    if seen.case.family == "values" and any(verdict.wrong.any() for verdict in verdicts.values()):
        yield from _repeat(seen)
    agreeing = [f"d{name}" for name, verdict in verdicts.items() if not verdict.wrong.any()]
    for name, verdict in verdicts.items():
        judge, gradient = judges[name], values[name]
        _note(caller, judge, name, gradient, verdict.kinks)
        if not verdict.wrong.any():
            continue
        value = judge.expected[name]
        if isinstance(judge, Differences):
            value = judge.completed(name, gradient.double())
        error = (gradient.double() - value).abs().nan_to_num(torch.inf)
        at = worst(torch.where(verdict.wrong, error, -1))
        got, right = told_apart(gradient[at], value[at])
        known = not bool(value[at].isnan())
        message = f"d{name} along some direction is not what {judge.says}"
        if known:
            message = f"d{name}{_index(at)} is {got}, {judge.says} {right}"
        if agreeing:
            message += f"; {' and '.join(agreeing)} {'agree' if agreeing[1:] else 'agrees'}"
        yield Finding(
            "value",
            name,
            message,
            at=at if known else None,
            got=gradient[at].item(),
            right=value[at].item(),
            source=judge.says,
        )


def _note(caller: Caller, judge: Judge, name: str, gradient: Tensor, kinks: Tensor) -> None:
    """Remember a kink, and that this leaf was judged: that zeros would have been wrong."""
    if kinks.any() and name not in caller.learned.notes:
        value, at = judge.expected[name], worst(kinks.double())
        least, most = (bound[at] for bound in judge.interval(name))
        caller.learned.notes[name] = (
            f"kink: d{name}{_index(at)} got {number(gradient[at])}, allowed "
            f"[{number(least)}, {number(most)}], {judge.says} {number(value[at])}"
        )
    if name not in caller.learned.judged and judge.proves(name, gradient.dtype):
        caller.learned.judged.add(name)


def _wrong(judge: Judge, name: str, gradient: Tensor) -> bool:
    return bool(judge.verdicts({name: gradient})[name].wrong.any())


def _index(at: tuple[int, ...]) -> str:
    return str(list(at)) if at else ""


_IN_ORDER = (
    _contract,
    _purity,
    _alias,
    _overwritten,
    _repeats,
    _global_randomness,
    _left_changed,
    _zero,
    _linearity,
    _values,
)
