"""What else a gradient may be off by, where it is off by more than the judge allows.

The judge knows the rounding of its own formula. `ALLOWANCES` are asked in order about what is left,
each with the entry of tests/checking/test_findings.py that needs it, where one is known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from backprop_ops.checking.autograd_pair import AutogradPair
from backprop_ops.checking.case import Case, Cast
from backprop_ops.checking.differences import Differences
from backprop_ops.checking.judging import Autograd, Judge, Leaves
from backprop_ops.checking.numbers import signs, told_apart, worst
from backprop_ops.leaves import in_dtype, replaced, takes_gradient

if TYPE_CHECKING:
    from backprop_ops.checking.properties import Call, Inspector

KEPT_ROUNDINGS = 16  # of kept values
INPUT_ROUNDINGS = 4  # of the inputs
DRAWS = 4  # of what is moved by a rounding
SMALL = 2.0**-30  # a relative disturbance in float64


@dataclass(frozen=True)
class Off:
    """A call of which some gradients are off."""

    inspector: Inspector
    case: Case
    call: Call
    judge: Judge
    values: Mapping[str, Tensor]

    def error(self, name: str) -> Tensor:
        return (self.values[name].double() - self.judge.expected[name]).abs()

    @cached_property
    def moved_by_kept(self) -> Leaves:
        """How far each entry moves, per eps, as the kept values do, all worked out in float64."""
        pair, call = self.inspector.pair, self.call
        kept = [f for f in call.fields if f in pair.saved and takes_gradient(call.fields[f])]
        if not kept or isinstance(pair, AutogradPair):
            return {}
        generator = torch.Generator().manual_seed(0)
        moved: Leaves = {}
        try:
            arguments = in_dtype(call.arguments, torch.float64)
            upstreams = {name: u.double() for name, u in call.upstreams.items()}
            exact = self.inspector.call_on(arguments, upstreams)
            here = self.inspector.gradients(exact)
            for _ in range(DRAWS):
                noisy: dict[str, Any] = {
                    f: exact.fields[f] * (1 + SMALL * signs(exact.fields[f], generator))
                    for f in kept
                }
                bare = isinstance(exact.result, Tensor)
                again = noisy["out"] if bare else exact.result._replace(**noisy)
                there = self.inspector.gradients(exact._replace(result=again))
                for name, gradient in there.items():
                    by = ((gradient - here[name]).abs() / SMALL).double().nan_to_num(0)
                    moved[name] = torch.maximum(moved.get(name, by), by)
        except Exception:  # not in float64, or None for a gradient
            return {}
        return moved

    @cached_property
    def moved_by_inputs(self) -> Leaves:
        """How far each entry moves as the inputs do by one rounding."""
        generator = torch.Generator().manual_seed(0)
        leaves = self.inspector.pair.leaves(self.call.arguments)
        moved: Leaves = {name: torch.zeros_like(value) for name, value in self.values.items()}
        try:
            for _ in range(DRAWS):
                apart = {
                    name: x * (1 + torch.finfo(x.dtype).eps * signs(x, generator))
                    for name, x in leaves.items()
                }
                arguments = replaced(self.call.arguments, apart)
                near = self.inspector.call_on(arguments, self.call.upstreams)
                for name, gradient in self.inspector.gradients(near).items():
                    moved[name] = torch.maximum(moved[name], (gradient - self.values[name]).abs())
        except Exception:  # at the edge of the domain
            return {}
        return moved


Allowance = Callable[[Off, str, Tensor], Tensor]
"""Of a gradient, by name, and where it is off: what of that is right all the same."""


def rounding_of_what_was_kept(off: Off, name: str, wrong: Tensor) -> Tensor:
    """It was rounded before the backward got it, which no formula can undo.

    No entry that was tried needs it by itself.
    """
    if name not in off.moved_by_kept:
        return torch.zeros_like(wrong)
    eps = torch.finfo(off.values[name].dtype).eps
    return off.error(name) <= KEPT_ROUNDINGS * eps * off.moved_by_kept[name]


def digits_of_float32(off: Off, name: str, wrong: Tensor) -> Tensor:
    """In float64, errors that are below the rounding of float32.

    A sample of another precision has no user in float64: constants of eight digits are a note.
    Else autograd's own constants may be the short ones, and finite differences decide.
    `A4 softplus beyond torch's threshold` and `A6 a constant of eight digits` need it.
    """
    gradient, expected = off.values[name], off.judge.expected[name]
    error, right = off.error(name), False
    if gradient.dtype == torch.float64 and bool(
        (error <= off.judge.allowed(name, torch.float32))[wrong].all()
    ):
        inspector = off.inspector
        if any(isinstance(change, Cast) for change in off.case.changes):
            right = True
            at = worst(torch.where(wrong, error, -1))
            got, said = told_apart(gradient[at], expected[at])
            inspector.notes.setdefault(
                f"digits {name}",
                f"d{name} has the digits of float32 in float64 too: {got}, {off.judge.source} "
                f"says {said}",
            )
        elif isinstance(off.judge, Autograd) and not inspector.oracle.on_purpose:
            call = off.call
            other = inspector.oracle.differences(call.arguments, call.upstreams)
            right = not bool(other.verdicts({name: gradient})[name].wrong.any())
    return torch.full_like(wrong, right)


def rounding_of_the_inputs(off: Off, name: str, wrong: Tensor) -> Tensor:
    """Beyond the sample, where finite differences judge: they do not know the sizes of the terms.

    `A12 a root by bisection` needs it.
    """
    asked = isinstance(off.judge, Differences) and off.case.reach == "beyond"
    if not asked or name not in off.moved_by_inputs:
        return torch.zeros_like(wrong)
    return off.error(name) <= INPUT_ROUNDINGS * off.moved_by_inputs[name]


ALLOWANCES: tuple[Allowance, ...] = (
    rounding_of_what_was_kept,
    digits_of_float32,
    rounding_of_the_inputs,
)
