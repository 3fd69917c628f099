"""A failing case, and what a known mistake is compared with and tried on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from backprop_ops.checking.calling import Call
from backprop_ops.checking.case import Case
from backprop_ops.checking.inspector import Inspector
from backprop_ops.checking.judging import ALLOWED, Judge

LIKE = 1e-2  # of the largest entry, by which a gradient may differ from a mistake's

Likely = tuple[str, str]
"""The key of a mistake and a sentence about it."""


@dataclass
class Evidence:
    """A failing case: the wrong gradient of ``leaf``, and what is needed to experiment on it."""

    inspector: Inspector
    case: Case
    leaf: str | None

    @cached_property
    def call(self) -> Call:
        return self.inspector.call(self.case)

    @cached_property
    def gradients(self) -> dict[str, Any]:
        return self.inspector.gradients(self.call)

    @cached_property
    def judge(self) -> Judge:
        return self.inspector.judge(self.call.arguments, self.call.upstreams)

    @property
    def name(self) -> str:
        return f"d{self.leaf}"

    @property
    def given(self) -> Tensor:
        gradient: Tensor = self.gradients[str(self.leaf)]
        return gradient.double()

    @property
    def expected(self) -> Tensor:
        return self.judge.expected[str(self.leaf)]

    @property
    def dtype(self) -> torch.dtype:
        return self.input.dtype

    @property
    def input(self) -> Tensor:
        return self.inspector.pair.leaves(self.call.arguments)[str(self.leaf)]

    @cached_property
    def residual(self) -> Tensor:
        return (self.given - self.expected).nan_to_num(0)

    @cached_property
    def slack(self) -> Tensor:
        """How far rounding may take each entry of the gradient."""
        allowed = self.judge.allowed(str(self.leaf), self.dtype)
        largest = self.expected.abs().nan_to_num(0).amax() if self.expected.numel() else 0
        return allowed + ALLOWED[self.dtype.itemsize] * torch.finfo(self.dtype).eps * largest

    def right(self, mended: Tensor) -> bool:
        """Whether a gradient would be right."""
        if mended.shape != self.expected.shape:
            return False
        return not self.wrong(mended).any()

    def wrong(self, gradient: Tensor) -> Tensor:
        """Where a gradient is wrong, the others as they were returned."""
        leaf = str(self.leaf)
        others = {n: g for n, g in self.gradients.items() if isinstance(g, Tensor)}
        return self.judge.verdicts({**others, leaf: gradient.to(self.dtype)})[leaf].wrong

    def like_given(self, model: Tensor) -> bool:
        """Whether a mistake's gradient equals the one returned, and differs from the right one."""
        if model.shape != self.given.shape:
            return False
        judged = self.expected.isfinite()
        slack = (
            self.slack + ALLOWED[self.dtype.itemsize] * torch.finfo(self.dtype).eps * model.abs()
        )[judged]
        differs = ((model - self.expected)[judged].abs() > slack).any()
        # Where the right gradient is huge, its rounding must not swallow the one returned.
        given = self.given[judged]
        largest = given.abs().nan_to_num(0).amax() if given.numel() else 0
        near = slack.clamp(max=float(LIKE * largest))
        return bool(differs and ((given - model[judged]).abs() <= near).all())

    def expected_of(self, case: Case) -> Tensor | None:
        """The right gradient of another case; None where there is none."""
        try:
            call = self.inspector.call(case)
            return self.inspector.judge(call.arguments, call.upstreams).expected[str(self.leaf)]
        except Exception:  # the forward does not take it
            return None

    def error_of(self, case: Case) -> tuple[Tensor, Tensor] | None:
        """The residual of another case and its right gradient; None where there is none."""
        try:
            call = self.inspector.call(case)
            given = self.inspector.gradients(call)[str(self.leaf)].double()
            right = self.inspector.judge(call.arguments, call.upstreams).expected[str(self.leaf)]
            return given - right, right
        except Exception:  # the forward does not take it
            return None

    def holds(self, case: Case) -> bool:
        """Whether nothing fails on another case."""
        try:
            return not self.inspector.quiet().findings(case)
        except Exception:  # the forward does not take it
            return False

    def factors(self) -> dict[str, Tensor]:
        """What a term may be made of: inputs and fields, as float64."""
        values = {**self.call.arguments, **self.call.fields}
        return {
            name: value.double()
            for name, value in values.items()
            if isinstance(value, Tensor) and value.is_floating_point()
        }


def ratio_of(given: Tensor, expected: Tensor) -> float | None:
    """The factor between two gradients where it is one; the entries are compared one by one."""
    finite = expected.isfinite() & given.isfinite()
    given, expected = given[finite], expected[finite]
    if not expected.numel() or not expected.any():
        return None
    at = expected.abs().argmax()
    ratio = (given[at] / expected[at]).item()
    if ratio == 0 or not math.isfinite(ratio):
        return None
    largest = expected.abs().amax()
    return (
        ratio
        if torch.allclose(given, ratio * expected, rtol=1e-5, atol=1e-9 * float(largest))
        else None
    )


def counts(evidence: Evidence) -> dict[int, str]:
    """The numbers of elements and sizes that a mean may be over."""
    counts: dict[int, str] = {}
    values = {**evidence.call.arguments, **evidence.call.fields}
    for name, value in values.items():
        if isinstance(value, Tensor):
            for d, size in enumerate(value.shape):
                counts.setdefault(size, f"the size of {name}'s dimension {d}")
            counts.setdefault(value.numel(), f"the number of {name}'s elements")
            if value.dtype == torch.bool:
                counts.setdefault(int(value.sum()), f"how often {name} is true")
    return {n: what for n, what in counts.items() if n > 1}


def relative(residual: Tensor, expected: Tensor) -> float:
    finite = expected.isfinite() & residual.isfinite()
    scale = expected[finite].abs().sum()
    return float(residual[finite].abs().sum() / scale) if scale > 0 else math.inf
