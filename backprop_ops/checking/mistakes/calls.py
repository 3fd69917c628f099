"""Calls that raise, and what is kept from one to the next."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from backprop_ops.checking.case import Resized, condition
from backprop_ops.checking.evidence import Evidence, Likely


def of_a_call(evidence: Evidence) -> Iterator[Likely]:
    case = evidence.case
    if isinstance(case.last, Resized) and case.last.size == 1:
        yield "size-one", "a dimension of size 1 is taken for one that is not there"
    elif case.family == "sizes":
        yield "hard-coded-size", "a size is written into the backward as a number"
    elif case.family == "options":
        yield "option-ignored", f"the backward fails {condition(case.changes)}"
    elif case.family == "precisions":
        when = condition(case.changes)
        yield "dtype", f"the backward fails {when}: two precisions meet in one operation"


def state(evidence: Evidence) -> Iterator[Likely]:
    """As if the inputs were those of an earlier call."""
    if not evidence.case.changes:
        return
    for arguments in evidence.inspector.earlier:
        if not _differ_in_general(arguments, evidence.case.arguments):
            continue
        model = evidence.expected_of(evidence.case.of(arguments))
        if model is not None and model.any() and evidence.like_given(model):
            yield (
                "state",
                f"{evidence.name} is that of an earlier call: something is kept between calls",
            )


def _differ_in_general(some: dict[str, Any], others: Any) -> bool:
    """Whether some tensor is another one, and not one of equal numbers, which proves nothing."""
    differing = [
        value
        for name, value in some.items()
        if isinstance(value, Tensor) and not torch.equal(value, others[name])
    ]
    return bool(differing) and all(len(torch.unique(value)) > 1 for value in differing)
