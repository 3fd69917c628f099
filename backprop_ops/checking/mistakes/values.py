"""Numbers at which it fails: ties, kinks, overflow, cancellation, a misplaced eps."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from backprop_ops.checking.case import Filled, condition
from backprop_ops.checking.evidence import Evidence, Likely, relative
from backprop_ops.checking.judging import ALLOWED, Autograd
from backprop_ops.leaves import replaced

ROUGH = 0.2  # of an error, that moves with inputs one per cent apart: so a formula's does not


def not_finite(evidence: Evidence) -> Iterator[Likely]:
    given, name = evidence.given, evidence.name
    inputs = evidence.inspector.pair.leaves(evidence.call.arguments).values()
    sizes = [x.double().abs().nan_to_num(0) for x in inputs if x.numel()]
    largest = max((size.amax().item() for size in sizes), default=0)
    tiny = any(bool(((size > 0) & (size < 1e-30)).any()) for size in sizes)
    what = "nan" if given.isnan().any() else "inf"
    if largest > 20 or tiny or evidence.case.family == "precisions":
        yield (
            "overflow",
            f"{name} is {what} where the forward is finite: an intermediate result is too large, "
            f"or too small",
        )
    yield (
        "nan",
        f"{name} is {what} where autograd's is finite: a division by zero, or 0 times inf",
    )


def guard(evidence: Evidence) -> Iterator[Likely]:
    """As if something small had been added to the input, against a division by zero."""
    if not evidence.input.numel():
        return
    for exponent in range(-14, -2):
        for sign in (1, -1):
            moved = evidence.input + sign * 10.0**exponent
            arguments = replaced(evidence.case.arguments, {str(evidence.leaf): moved})
            model = evidence.expected_of(evidence.case.of(arguments))
            if model is not None and evidence.like_given(model):
                yield (
                    "eps",
                    f"{evidence.name} is that of inputs 1e{exponent} away: an eps that the forward "
                    f"has not",
                )


def ties(evidence: Evidence) -> Iterator[Likely]:
    """Wrong at ties or kinks alone."""
    least, most = evidence.judge.interval(str(evidence.leaf))
    jumps = (most - least) > 1e-6 * (most.abs() + least.abs())
    wrong = evidence.wrong(evidence.given)
    if not jumps.any() or (wrong & ~jumps).any():
        return
    moved = evidence.input
    tied = moved.numel() > len(torch.unique(moved))
    spread = replaced(
        evidence.case.arguments,
        {str(evidence.leaf): moved + _spread(moved)},
    )
    other_leaves = [
        x
        for n, x in evidence.inspector.pair.leaves(evidence.case.arguments).items()
        if n != evidence.leaf
    ]
    tied |= any(torch.isin(moved, x).any() for x in other_leaves)
    if not evidence.holds(evidence.case.of(spread)):
        return
    if tied and evidence.inspector.pair and _is_tie(evidence, jumps):
        yield (
            "ties",
            f"{evidence.name} is wrong where several are the largest or equal: the upstream has to "
            f"be shared among them, or to go to one of them",
        )
    at = moved[wrong].flatten()[0].item()
    yield (
        "kink",
        f"{evidence.name} is outside of the one-sided slopes where the forward has a kink, as at "
        f"{at:g}",
    )


def _is_tie(evidence: Evidence, jumps: Tensor) -> bool:
    """Whether the jump goes away as all inputs move by the same amount."""
    arguments = replaced(
        evidence.call.arguments,
        {n: x + 0.37 for n, x in evidence.inspector.pair.leaves(evidence.call.arguments).items()},
    )
    judge = evidence.inspector.judge(arguments, evidence.call.upstreams)
    least, most = judge.interval(str(evidence.leaf))
    still = (most - least) > 1e-6 * (most.abs() + least.abs())
    return bool((still & jumps).any())


def _spread(x: Tensor) -> Tensor:
    places = torch.arange(x.numel(), device=x.device, dtype=torch.float64).reshape(x.shape)
    return ((places * 0.6180339887) % 1 * 0.25 + 0.125).to(x.dtype)


def eps(evidence: Evidence) -> Iterator[Likely]:
    """An error that is small, and gone as soon as the inputs are a thousand times larger."""
    leaf = str(evidence.leaf)
    size = relative(evidence.residual, evidence.expected)
    if not _adds_something_small(evidence):
        return
    if not 0 < size < 0.02 and evidence.case.family != "values":
        return
    leaves = evidence.inspector.pair.leaves(evidence.case.arguments)
    scaled = replaced(evidence.case.arguments, {leaf: leaves[leaf] * 1000})
    other = evidence.error_of(evidence.case.of(scaled))
    if other is not None and relative(*other) < size / 100:
        yield (
            "eps",
            f"{evidence.name} is right where the spread is large: eps is in the wrong place",
        )


def _adds_something_small(evidence: Evidence) -> bool:
    """Whether there is anything in the forward that could be an eps."""
    code = getattr(evidence.inspector.pair.forward, "__code__", None)
    if code is None or any("norm" in name for name in code.co_names):
        return True
    numbers = [*evidence.case.arguments.values(), *code.co_consts]
    return any(isinstance(number, float) and 0 < abs(number) <= 1e-2 for number in numbers)


def precision(evidence: Evidence) -> Iterator[Likely]:
    if evidence.case.family == "precisions":
        when = condition(evidence.case.changes)
        yield (
            "cancellation",
            f"{evidence.name} loses its digits {when}: sum in a wider precision, or by a formula "
            f"that does not subtract what is nearly equal",
        )


def coarse(evidence: Evidence) -> Iterator[Likely]:
    """Right to a coarser precision, and no further, in every entry."""
    if not isinstance(evidence.judge, Autograd):
        return
    error = evidence.residual.abs()
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        eps = torch.finfo(dtype).eps
        if eps <= torch.finfo(evidence.dtype).eps:
            continue
        units = evidence.judge.allowed(str(evidence.leaf), dtype) / ALLOWED[dtype.itemsize]
        if relative(evidence.residual, evidence.expected) > 8 * eps:
            continue
        near = error <= 4 * units + 64 * torch.finfo(dtype).tiny
        if near.all() and _is_rounding(evidence):
            what = str(dtype).removeprefix("torch.")
            yield "dtype", f"{evidence.name} has the digits of {what}: it is worked out in {what}"


def _is_rounding(evidence: Evidence) -> bool:
    """Whether the error is another one at inputs a little apart, as that of a formula is not."""
    leaves = evidence.inspector.pair.leaves(evidence.case.arguments)
    generator = torch.Generator().manual_seed(0)
    apart = {
        name: x * (1 + 0.01 * torch.rand(x.shape, generator=generator).to(x.device, x.dtype))
        for name, x in leaves.items()
    }
    other = evidence.error_of(evidence.case.of(replaced(evidence.case.arguments, apart)))
    if other is None:
        return False
    moved = (other[0] - evidence.residual).abs().nan_to_num(0).sum()
    return bool(moved > ROUGH * evidence.residual.abs().sum())


def large_numbers(evidence: Evidence) -> Iterator[Likely]:
    """Digits lost on numbers of a size that the sample does not have."""
    change = evidence.case.last
    size = relative(evidence.residual, evidence.expected)
    if size < 1e-3 and isinstance(change, Filled) and change.cancels:
        yield (
            "cancellation",
            f"{evidence.name} loses its digits {condition(evidence.case.changes)}: nearly equal "
            f"numbers are subtracted",
        )
