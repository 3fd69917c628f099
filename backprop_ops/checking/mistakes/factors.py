"""The whole gradient times something, or another's in its place."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from backprop_ops.checking.case import condition
from backprop_ops.checking.evidence import Evidence, Likely, counts, ratio_of
from backprop_ops.leaves import replaced


def zero(evidence: Evidence) -> Iterator[Likely]:
    if not evidence.given.any() and evidence.case.family == "precisions":
        yield "overflow", f"{evidence.name} is zero: an intermediate result is too large or small"
    if not evidence.given.any():
        yield "zero-gradient", f"{evidence.name} is zero everywhere"


def sign(evidence: Evidence) -> Iterator[Likely]:
    if evidence.right(-evidence.given):
        yield "sign", f"{evidence.name} has the wrong sign in every entry"
    given, expected = evidence.given, evidence.expected
    if evidence.right(torch.where(given * expected < 0, -given, given)):
        turned = evidence.input[given * expected < 0]
        where = (
            "" if (turned > 0).any() or not (turned < 0).any() else ": where the input is negative"
        )
        yield (
            "sign",
            f"{evidence.name} has the right size everywhere and in places the wrong sign{where}",
        )


def factor(evidence: Evidence) -> Iterator[Likely]:
    given, expected, name = evidence.given, evidence.expected, evidence.name
    ratio = ratio_of(given, expected)
    if (
        ratio is None
        or math.isclose(ratio, 1, rel_tol=1e-7)
        or not evidence.like_given(ratio * expected)
        or expected.numel() < 2
    ):
        return
    numbers = counts(evidence)
    for n, what in numbers.items():
        bessels = ((n / (n - 1), "n/(n - 1)"), ((n - 1) / n, "(n - 1)/n"))
        for other, name_of in bessels if n > 2 and not evidence.case.changes else ():
            if math.isclose(ratio, other, rel_tol=1e-7):
                yield (
                    "bessel",
                    f"{name} is {name_of} × what it should be with n = {n}, {what}: n and n - 1 "
                    f"are exchanged",
                )
    for n, what in numbers.items():
        if math.isclose(ratio, n, rel_tol=1e-6):
            yield (
                "wrong-count" if evidence.case.family == "sizes" else "factor",
                f"{name} is {n} × what it should be in every entry, which is {what}: a mean's 1/n "
                f"is missing",
            )
        if math.isclose(ratio * n, 1, rel_tol=1e-6):
            yield (
                "wrong-count",
                f"{name} is 1/{n} of what it should be in every entry, and {n} is {what}: it is "
                f"divided by too much, or averaged where it has to be summed",
            )
    for (n, what), (m, counted) in itertools.permutations(numbers.items(), 2):
        if math.isclose(ratio, n / m, rel_tol=1e-6):
            yield (
                "wrong-count",
                f"{name} is {n}/{m} × what it should be: {what} is taken for {counted}",
            )
    if evidence.case.family == "sizes":
        yield (
            "hard-coded-size",
            f"{name} is {ratio:.6g} × what it should be {condition(evidence.case.changes)}: a size "
            f"is written into the backward as a number",
        )
    yield "factor", f"{name} is {ratio:.6g} × what it should be in every entry"


def swapped(evidence: Evidence) -> Iterator[Likely]:
    for other, value in evidence.judge.expected.items():
        if other != evidence.leaf and value.shape == evidence.given.shape:
            mine = evidence.gradients.get(other)
            if evidence.like_given(value) and isinstance(mine, Tensor):
                yield (
                    "swapped-inputs",
                    f"what was returned for {evidence.name} is d{other}: two are exchanged",
                )
    leaves = evidence.inspector.pair.leaves(evidence.case.arguments)
    for (one, x), (other, y) in itertools.combinations(leaves.items(), 2):
        if x.shape == y.shape:
            exchanged = replaced(evidence.case.arguments, {one: y, other: x})
            model = evidence.expected_of(evidence.case.of(exchanged))
            if model is not None and evidence.like_given(model):
                yield (
                    "swapped-inputs",
                    f"{evidence.name} is what it would be with {one} and {other} exchanged",
                )


def transposed(evidence: Evidence) -> Iterator[Likely]:
    for name, x in evidence.inspector.pair.leaves(evidence.case.arguments).items():
        if x.dim() > 1 and x.shape[-1] == x.shape[-2] > 1:
            turned = replaced(evidence.case.arguments, {name: x.mT.contiguous()})
            model = evidence.expected_of(evidence.case.of(turned))
            if model is not None and evidence.like_given(model):
                yield "transposed", f"{evidence.name} is what it would be with {name} transposed"
    given = evidence.given
    for i, j in itertools.combinations(range(given.dim()), 2):
        if given.shape[i] == given.shape[j] and evidence.right(given.transpose(i, j)):
            yield "transposed", f"{evidence.name} agrees if dimensions {i} and {j} are exchanged"
