"""What is asked of the sample alone: its rows, and whether its two judges agree."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from backprop_ops.checking.acceptance import outputs_of
from backprop_ops.checking.calling import Call
from backprop_ops.checking.case import Case
from backprop_ops.checking.differences import Differences
from backprop_ops.checking.inspector import Inspector
from backprop_ops.checking.judging import Judge, Undifferentiable, autograd
from backprop_ops.checking.report import Failure
from backprop_ops.comparison import Comparison
from backprop_ops.leaves import copied


def is_differentiated(inspector: Inspector, sample: Case) -> bool:
    """Whether autograd sees through the forward itself, which is no native kernel then."""
    arguments = copied(sample.arguments)
    try:
        outputs = outputs_of(inspector.pair, arguments)
        autograd(inspector.pair, arguments, outputs)
    except Exception:  # it does not
        return False
    return inspector.oracle.differentiated is not None


def comparisons(inspector: Inspector, sample: Case) -> tuple[Comparison, ...]:
    """The rows: each gradient against the judge's, on the sample in its own precision."""
    call = inspector.call(sample)
    leaves = inspector.pair.leaves(call.arguments)
    differences: Differences | None = None
    try:
        if inspector.oracle.differentiated is None:
            raise Undifferentiable
        expected = autograd(inspector.oracle.differentiated, call.arguments, call.upstreams)
    except Exception:  # no autograd, or none in this precision
        judge = inspector.judge(call.arguments, call.upstreams)
        expected = dict(judge.expected)
        differences = judge if isinstance(judge, Differences) else None
    try:
        gradients = inspector.gradients(call)  # comes last: it may write to all of it
    except Exception:  # reported as a failure of `call` or `count`
        return ()
    if differences is not None:
        for name, value in expected.items():
            if getattr(gradients.get(name), "shape", None) == value.shape:
                value = differences.completed(name, gradients[name])
                expected[name] = torch.where(value.isnan(), gradients[name], value)
    return tuple(
        Comparison.of(f"d{name}", gradients[name], value.to(leaves[name].dtype))
        for name, value in expected.items()
        if isinstance(gradients.get(name), Tensor)
    )


def as_judged(row: Comparison, failures: Iterable[Failure]) -> Comparison:
    """The row, approximate where the sample's verdict on the gradient says so."""
    on_the_sample = [f for f in failures if not f.changes]
    if row.reason or any(f.input is None or f.property != "value" for f in on_the_sample):
        return row  # the values were not asked
    return replace(row, approximate=row.name not in {f.input for f in on_the_sample})


def judges_apart(inspector: Inspector, small: Case, seed: int) -> list[str]:
    """Whether the two judges agree, and what the backward agrees with where they do not."""
    if inspector.oracle.differentiated is None or inspector.oracle.confirmed:
        return []
    call = inspector.call(small)
    judge = inspector.judge(call.arguments, call.upstreams)
    if isinstance(judge, Differences):
        return ["autograd cannot differentiate the forward: finite differences of it are the judge"]
    notes = []
    differences = inspector.oracle.differences(call.arguments, call.upstreams)
    for name, value in judge.expected.items():
        if not value.numel() or not value.isfinite().all():
            continue
        generator = torch.Generator().manual_seed(seed % 2**62)
        direction = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        direction = direction.to(value.device)
        slope = differences.along(name, direction)
        said = (value * direction).sum().item()
        # A forward may compute in the sample's precision whatever it gets.
        eps = max(torch.finfo(x.dtype).eps for x in inspector.pair.leaves(call.arguments).values())
        allowed = 100 * slope.error + 64 * eps * (value * direction).abs().sum().item()
        if not slope.least - allowed <= said <= slope.most + allowed and slope.error < abs(
            said
        ) + abs(slope.value):
            notes.append(
                f"the judges disagree on d{name}: along a drawn direction autograd says "
                f"{said:.6g}, finite differences say {slope.value:.6g}; the forward detaches "
                f"something, or a part of it has another backward"
            )
            if _sides_with_differences(inspector, call, judge, differences, name):
                inspector.learned.differenced.add(name)
    return notes


def _sides_with_differences(
    inspector: Inspector, call: Call, judge: Judge, differences: Differences, name: str
) -> bool:
    """Whether the backward follows them where the two disagree: it does so in all cases."""
    try:
        gradient = inspector.gradients(call)[name]
        wrong = [bool(j.verdicts({name: gradient})[name].wrong.any()) for j in (judge, differences)]
    except Exception:  # reported as a failure of another property
        return False
    return wrong == [True, False]
