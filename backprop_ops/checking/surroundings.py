"""The same call in other surroundings: other modes, other calls, inputs updated in place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from backprop_ops._torch import autograd_refuses
from backprop_ops.checking.acceptance import accepts
from backprop_ops.checking.autograd_pair import AutogradPair
from backprop_ops.checking.calling import (
    WAIVED,
    BackwardRaises,
    Call,
    dense,
    first_line,
    type_name,
)
from backprop_ops.checking.case import Case, Surrounded
from backprop_ops.checking.finding import LATER, OTHERS, Finding
from backprop_ops.checking.inspector import Inspector
from backprop_ops.checking.same import apart
from backprop_ops.leaves import replaced


def calls(
    inspector: Inspector, sample: Case, other: Case, of_other_values: Case
) -> Iterator[tuple[Surrounded, Finding]]:
    """The sample's call made in other surroundings, each with how it was made.

    ``other``: a case of other sizes, ``of_other_values``: one of the same sizes.
    """
    call = inspector.call(sample)
    plain = {n: g.clone() for n, g in inspector.gradients(call).items() if isinstance(g, Tensor)}

    def differing(gradients: Mapping[str, Any], what: str) -> Iterator[Finding]:
        for name, value in plain.items():
            if apart(value, gradients.get(name)):
                message = f"d{name} is another {what}"
                yield Finding("state", name, message, "state", OTHERS)

    with torch.no_grad():
        try:
            gradients = inspector.gradients(call)
        except BackwardRaises as error:
            explanation = "it needs the gradient mode to be on: turn it on where it is needed"
            finding = Finding("state", None, str(error), "state", explanation)
            yield Surrounded("no_grad", "torch.no_grad() is on"), finding
            return
        for finding in differing(gradients, "under torch.no_grad()"):
            yield Surrounded("no_grad", "torch.no_grad() is on"), finding
    needing, requiring = (
        _needing_gradients(inspector, call),
        Surrounded("requiring", "the inputs require gradients"),
    )
    if needing is not None:
        with torch.enable_grad():
            try:
                gradients = inspector.gradients(needing)
            except BackwardRaises as error:
                if not autograd_refuses(error.__cause__):
                    finding = Finding("state", None, str(error), "state", OTHERS)
                    yield requiring, finding
            else:
                for finding in differing(gradients, "where the inputs require gradients"):
                    yield requiring, finding
                for name, leaf in inspector.pair.leaves(needing.arguments).items():
                    if leaf.grad is not None:
                        message = f"{inspector.backward} writes to the .grad of {name}"
                        explanation = "whoever calls it adds up: return the gradient"
                        finding = Finding("state", name, message, "mutates-input", explanation)
                        yield requiring, finding
    if len(plain) > 1 and isinstance(inspector.pair, AutogradPair):
        yield from _each_alone(inspector, inspector.pair, call, plain)
    for between in (other, of_other_values):
        yield from _after_another_call(inspector, call, between, differing)
    if isinstance(inspector.pair, AutogradPair) and not inspector.skip & WAIVED:
        yield from _written_in_between(inspector, sample, differing)
    yield from _updated_in_place(inspector, sample)


def _each_alone(
    inspector: Inspector, pair: AutogradPair, call: Call, plain: Mapping[str, Tensor]
) -> Iterator[tuple[Surrounded, Finding]]:
    """As where all other inputs are frozen."""
    for name, value in plain.items():
        variation = Surrounded("alone", f"{name} alone requires a gradient")
        try:
            alone = pair.gradient_alone(call.arguments, name, call.upstreams)
        except Exception as error:
            message = f"{inspector.backward} raises {type_name(error)}: {first_line(error)}"
            yield variation, Finding("state", name, message, "state", OTHERS)
            continue
        if apart(value, dense(alone)):
            missing = "none-gradient" if alone is None else "state"
            message = f"d{name} is another where no other input requires one"
            yield variation, Finding("state", name, message, missing, OTHERS)


def _after_another_call(
    inspector: Inspector, call: Call, other: Case, differing: Callable[..., Iterator[Finding]]
) -> Iterator[tuple[Surrounded, Finding]]:
    variation = Surrounded(
        "between", "another call came between forward and backward", other.arguments
    )
    between = inspector.call(other)
    try:
        inspector.gradients(between)
        gradients = inspector.gradients(call)
    except BackwardRaises as error:
        yield variation, Finding("state", None, str(error), "state", LATER)
        return
    for finding in differing(gradients, "after a call on other values and sizes"):
        yield variation, finding


def _written_in_between(
    inspector: Inspector, sample: Case, differing: Callable[..., Iterator[Finding]]
) -> Iterator[tuple[Surrounded, Finding]]:
    """Inputs written to between forward and backward: autograd raises, if what it saved changed."""
    call = inspector.call(sample)
    with torch.no_grad():
        for leaf in inspector.pair.leaves(call.arguments).values():
            if 0 not in leaf.stride():
                leaf.mul_(0.75)
    try:
        gradients = inspector.gradients(call)
    except BackwardRaises:  # as it should
        return
    for finding in differing(gradients, "after its inputs were written to"):
        explanation = "save_for_backward would have raised an error"
        told = finding._replace(explanation=explanation)
        yield Surrounded("written", "the inputs were written to between forward and backward"), told


def _updated_in_place(inspector: Inspector, sample: Case) -> Iterator[tuple[Surrounded, Finding]]:
    """As an optimizer does: the same tensors with other numbers in them, and called again."""
    used = inspector.call(sample)
    inspector.gradients(used)
    for leaf in inspector.pair.leaves(used.arguments).values():
        if 0 not in leaf.stride():
            leaf.mul_(0.75)
    if not accepts(inspector.pair, used.arguments):
        return
    result = inspector.pair.call(used.arguments)
    fresh = inspector.call(sample.of(used.arguments))
    updated = Call(used.arguments, result, inspector.pair.fields(result), fresh.upstreams)
    try:
        gradients, expected = inspector.gradients(updated), inspector.gradients(fresh)
    except BackwardRaises:
        return
    for name, value in expected.items():
        if isinstance(value, Tensor) and apart(value, gradients.get(name)):
            message = f"d{name} is that of the numbers that the inputs held before"
            finding = Finding("state", name, message, "state", LATER)
            yield (
                Surrounded("updated", "the inputs were updated in place since an earlier call"),
                finding,
            )


def _needing_gradients(inspector: Inspector, call: Call) -> Call | None:
    leaves = inspector.pair.leaves(call.arguments)
    needing = {name: x.detach().clone().requires_grad_() for name, x in leaves.items()}
    arguments = replaced(call.arguments, needing)
    try:
        with torch.enable_grad():
            result = inspector.pair.call(arguments)
    except Exception:  # a forward that autograd cannot follow
        return None
    return Call(arguments, result, inspector.pair.fields(result), call.upstreams)
