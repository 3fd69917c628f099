"""One call of a backward, and how far its gradients move with what it was given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from backprop_ops.checking.autograd_pair import AutogradPair
from backprop_ops.checking.calling import Call, Caller
from backprop_ops.checking.case import Case
from backprop_ops.checking.judging import Judge, Leaves
from backprop_ops.checking.numbers import signs
from backprop_ops.leaves import Arguments, in_dtype, replaced, takes_gradient

DRAWS = 4  # of what is moved by a rounding
SMALL = 2.0**-30  # a relative disturbance in float64


@dataclass(frozen=True)
class Observed:
    """One call of a backward, as the properties look at it.

    ``values``: copies of the gradients that keep the contract; ``gradients``: all that it returned.
    ``given``: what it was given, by name, and ``before``: copies of that from before the call.
    """

    caller: Caller
    case: Case
    call: Call
    judge: Judge
    values: Mapping[str, Tensor]
    gradients: Mapping[str, Any]
    given: Arguments
    before: Arguments

    def error(self, name: str) -> Tensor:
        return (self.values[name].double() - self.judge.expected[name]).abs()

    @cached_property
    def moved_by_kept(self) -> Leaves:
        """How far each entry moves, per eps, as the kept values do, all worked out in float64."""
        pair, call = self.caller.pair, self.call
        kept = [f for f in call.fields if f in pair.saved and takes_gradient(call.fields[f])]
        if not kept or isinstance(pair, AutogradPair):
            return {}
        generator = torch.Generator().manual_seed(0)
        moved: Leaves = {}
        try:
            arguments = in_dtype(call.arguments, torch.float64)
            upstreams = {name: u.double() for name, u in call.upstreams.items()}
            exact = self.caller.call_on(arguments, upstreams)
            here = self.caller.gradients(exact)
            for _ in range(DRAWS):
                noisy: dict[str, Any] = {
                    f: exact.fields[f] * (1 + SMALL * signs(exact.fields[f], generator))
                    for f in kept
                }
                bare = isinstance(exact.result, Tensor)
                again = noisy["out"] if bare else exact.result._replace(**noisy)
                there = self.caller.gradients(exact._replace(result=again))
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
        leaves = self.caller.pair.leaves(self.call.arguments)
        moved: Leaves = {name: torch.zeros_like(value) for name, value in self.values.items()}
        try:
            for _ in range(DRAWS):
                apart = {
                    name: x * (1 + torch.finfo(x.dtype).eps * signs(x, generator))
                    for name, x in leaves.items()
                }
                arguments = replaced(self.call.arguments, apart)
                near = self.caller.call_on(arguments, self.call.upstreams)
                for name, gradient in self.caller.gradients(near).items():
                    moved[name] = torch.maximum(moved[name], (gradient - self.values[name]).abs())
        except Exception:  # at the edge of the domain
            return {}
        return moved
