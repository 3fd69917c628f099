"""An option that is not looked at, or taken for another value."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from backprop_ops.checking.case import Case, OptionSet, condition
from backprop_ops.checking.evidence import Evidence, Likely
from backprop_ops.checking.variations.indices import names_ignored


def option(evidence: Evidence) -> Iterator[Likely]:
    """As if an option had another value."""
    pair, case, name = evidence.inspector.pair, evidence.case, evidence.name
    for option in pair.options:
        value = case.arguments[option]
        if names_ignored(option):  # which index is ignored shows in the rows
            continue
        others: list[Any] = []
        if isinstance(value, bool):
            others = [not value]
        elif isinstance(value, int):
            others = [-value, value - 1, value + 1, 0, 1]
        elif isinstance(value, float):
            others = [0.0, 1.0, 1 - value, value * 1.5, value / 2, value / 1.5, value * 2]
        elif isinstance(value, str):
            others = ["mean", "sum"]
        elif isinstance(value, Tensor):
            others = [torch.ones_like(value), torch.zeros_like(value)]
        elif value is None:
            continue
        for other in others:
            if isinstance(other, (int, float, str)) and other == value:
                continue
            arguments = {**case.arguments, option: other}
            model = evidence.expected_of(case.of(arguments))
            if model is not None and model.any() and evidence.like_given(model):
                if "eps" in option:
                    yield "eps", f"{name} is what {option}={other!r} would give"
                if option in ("correction", "unbiased", "ddof"):
                    yield "bessel", f"{name} is what {option}={other!r} would give"
                if type(value) is int and other == -value < 0:  # -1 may be the last dimension
                    yield "sign", f"{name} is what {option}={other!r} would give"
                shown = other if not isinstance(other, Tensor) else f"{other.flatten()[0]:g}"
                yield "option-ignored", f"{name} is what {option}={shown} would give"


def of_the_shape(evidence: Evidence) -> Iterator[Likely]:
    """The shape of the sample's option, which the backward does not ask for."""
    change = evidence.case.last
    if isinstance(change, OptionSet) and change.option not in evidence.inspector.pair.saved:
        when = condition(evidence.case.changes)
        yield "option-ignored", f"{evidence.name} has the wrong shape {when}"


def sample_option(evidence: Evidence) -> Iterator[Likely]:
    """Right for the options of the sample alone."""
    case, name = evidence.case, evidence.name
    if isinstance(case.last, OptionSet):
        option = case.last.option
        if "eps" in option:
            yield "eps", f"{name} is right for the sample's {option} alone"
        elif option in ("correction", "unbiased", "ddof"):
            yield "bessel", f"{name} is right for the sample's {option} alone"
        else:
            yield (
                "option-ignored",
                f"{name} is right on the sample, and wrong {condition(case.changes)}",
            )


def is_plain_option(case: Case) -> bool:
    """Whether it is an option's value that makes the case, and not what a tensor holds."""
    return isinstance(case.last, OptionSet) and case.last.how is None
