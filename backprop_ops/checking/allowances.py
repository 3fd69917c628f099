"""What else a gradient may be off by, where it is off by more than the judge allows.

The judge knows the rounding of its own formula. `ALLOWANCES` are asked in order about what is left,
each with the entry of tests/checking/test_findings.py that needs it, where one is known.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from backprop_ops.checking.case import Cast, condition
from backprop_ops.checking.differences import Differences
from backprop_ops.checking.judging import Autograd
from backprop_ops.checking.numbers import told_apart, worst
from backprop_ops.checking.observed import Observed
from backprop_ops.leaves import in_dtype

KEPT_ROUNDINGS = 16  # of kept values
INPUT_ROUNDINGS = 4  # of the inputs
ROUNDED = 2.0**-6  # of the upstream times the other inputs, as far as rounding may be off
SHRINKING = 1024  # by which an error is rounding's, from a precision to float64


Allowance = Callable[[Observed, str, Tensor], Tensor]
"""Of a gradient, by name, and where it is off: what of that is right all the same."""


def rounding_of_what_was_kept(seen: Observed, name: str, wrong: Tensor) -> Tensor:
    """It was rounded before the backward got it, which no formula can undo.

    No entry that was tried needs it by itself.
    """
    if name not in seen.moved_by_kept:
        return torch.zeros_like(wrong)
    eps = torch.finfo(seen.values[name].dtype).eps
    return seen.error(name) <= KEPT_ROUNDINGS * eps * seen.moved_by_kept[name]


def digits_of_float32(seen: Observed, name: str, wrong: Tensor) -> Tensor:
    """In float64, errors that are below the rounding of float32.

    A sample of another precision has no user in float64: constants of eight digits are a note.
    Else autograd's own constants may be the short ones, and finite differences decide.
    `A4 softplus beyond torch's threshold` and `A6 a constant of eight digits` need it.
    """
    gradient, expected = seen.values[name], seen.judge.expected[name]
    error, right = seen.error(name), False
    if gradient.dtype == torch.float64 and bool(
        (error <= seen.judge.allowed(name, torch.float32))[wrong].all()
    ):
        caller = seen.caller
        if any(isinstance(change, Cast) for change in seen.case.changes):
            right = True
            at = worst(torch.where(wrong, error, -1))
            got, said = told_apart(gradient[at], expected[at])
            caller.learned.notes.setdefault(
                f"digits {name}",
                f"d{name} has the digits of float32 in float64 too: {got}, "
                f"{seen.judge.says} {said}",
            )
        elif isinstance(seen.judge, Autograd) and not caller.oracle.on_purpose:
            call = seen.call
            other = caller.oracle.differences(call.arguments, call.upstreams)
            right = not bool(other.verdicts({name: gradient})[name].wrong.any())
    return torch.full_like(wrong, right)


def rounding_of_the_inputs(seen: Observed, name: str, wrong: Tensor) -> Tensor:
    """Beyond the sample, where finite differences judge: they do not know the sizes of the terms.

    `A12 a root by bisection` needed it before `rounding_inside`, which makes a note of it.
    """
    if not _differenced_beyond(seen) or name not in seen.moved_by_inputs:
        return torch.zeros_like(wrong)
    return seen.error(name) <= INPUT_ROUNDINGS * seen.moved_by_inputs[name]


def rounding_inside(seen: Observed, name: str, wrong: Tensor) -> Tensor:
    """As above: a small error that is a thousandth of that on the same numbers in float64.

    Of 1 - h² next to zero h's rounding is left, and an input of 1e4 may have it as a factor. It is
    a note. `saturated by an input of 1e4` needs it.
    """
    nothing, call, caller = torch.zeros_like(wrong), seen.call, seen.caller
    if not _differenced_beyond(seen) or seen.values[name].dtype == torch.float64:
        return nothing
    arguments = in_dtype(call.arguments, torch.float64)
    upstreams = {output: upstream.double() for output, upstream in call.upstreams.items()}
    try:
        exact = caller.gradients(caller.call_on(arguments, upstreams))[name]
        judge = caller.oracle.differences(arguments, upstreams)
        right = ~judge.verdicts({name: exact})[name].wrong
    except Exception:  # not in float64
        return nothing
    error = seen.error(name)
    right |= (exact - judge.expected[name]).abs() <= error / SHRINKING
    right &= seen.values[name].isfinite()
    largest = _largest(seen.judge.expected[name]), *map(_largest, call.upstreams.values())
    others = [x for n, x in caller.pair.leaves(call.arguments).items() if n != name]
    scale = max(largest) * max([1.0, *map(_largest, others)])
    if not bool((right & ~(error > ROUNDED * scale))[wrong].all()):
        return nothing
    at = worst(torch.where(wrong, error.nan_to_num(0), -1))
    got, said = told_apart(seen.values[name][at], exact[at])
    when = condition(seen.case.changes)
    note = f"d{name} rounds to {got} {when}; in float64 it is {said}"
    caller.learned.notes.setdefault(f"rounding {name}", note)
    return wrong


def _largest(x: Tensor) -> float:
    return float(x.abs().nan_to_num(0).amax()) if x.numel() else 0.0


def _differenced_beyond(seen: Observed) -> bool:
    return isinstance(seen.judge, Differences) and seen.case.reach == "beyond"


ALLOWANCES: tuple[Allowance, ...] = (
    rounding_of_what_was_kept,
    digits_of_float32,
    rounding_of_the_inputs,
    rounding_inside,
)
