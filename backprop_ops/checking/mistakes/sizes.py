"""Shapes, sizes and dimensions that are taken for others."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from backprop_ops.broadcasting import sum_to
from backprop_ops.checking.acceptance import accepts
from backprop_ops.checking.calling import Call
from backprop_ops.checking.case import Resized, condition
from backprop_ops.checking.evidence import Evidence, Likely, ratio_of
from backprop_ops.checking.sizing import cut, groups


def of_the_shape(evidence: Evidence) -> Iterator[Likely]:
    given, expected, name = evidence.given, evidence.expected, evidence.name
    if given.numel() == expected.numel() and evidence.right(given.reshape(expected.shape)):
        yield "shape", f"{name} has the right numbers; reshape it to the shape of its input"
    extra = given.dim() - expected.dim()
    try:
        if evidence.right(sum_to(given, expected.shape)):
            ones = [d + extra for d, size in enumerate(expected.shape) if size == 1]
            summed = [*range(extra), *(d for d in ones if given.shape[d] > 1)]
            where = f"dimension{'s' * (len(summed) > 1)} {' and '.join(map(str, summed))}"
            yield (
                "missing-reduction",
                f"{name} agrees if you sum over {where}: the broadcast was not undone",
            )
    except (RuntimeError, ValueError):
        pass
    for i, j in itertools.combinations(range(given.dim()), 2):
        if evidence.right(given.transpose(i, j)):
            yield "transposed", f"{name} agrees if dimensions {i} and {j} are exchanged"
    for other, value in evidence.judge.expected.items():
        if other != evidence.leaf and value.shape == given.shape and torch.allclose(value, given):
            yield "swapped-inputs", f"what was returned for {name} is d{other}: two are exchanged"
    if given.dim() > expected.dim():
        yield "missing-reduction", f"{name} has more dimensions than its input: a sum is missing"
    elif given.dim() == expected.dim():
        for d, (got, right) in enumerate(zip(given.shape, expected.shape, strict=True)):
            if got != right:
                text = f"{name} has {got} along dimension {d}, and its input has {right}"
                yield "shape", text


def size(evidence: Evidence) -> Iterator[Likely]:
    if evidence.case.family != "sizes":
        return
    change, when = evidence.case.last, condition(evidence.case.changes)
    if isinstance(change, Resized) and change.size == 1:
        yield "size-one", f"{evidence.name} is wrong {when}"
    if isinstance(change, Resized) and change.was == 1:
        yield (
            "wrong-axis",
            f"{evidence.name} is right while that dimension has size 1, as in the sample: it "
            f"is summed over, or left out of a sum",
        )
    blocks = list(block(evidence))
    if blocks:
        yield from blocks
    yield (
        "hard-coded-size",
        f"{evidence.name} is right at the sample's sizes, and wrong {when}",
    )


def bessel(evidence: Evidence) -> Iterator[Likely]:
    """The residual halves, as n/(n - 1) - 1 does, when everything comes twice."""
    pair = evidence.inspector.pair
    arguments = evidence.call.arguments
    leaf = str(evidence.leaf)
    wholes = groups(arguments)
    for group in [*wholes, *([place] for whole in wholes for place in whole if whole[1:])]:
        dims = [d for name, d in group if name == leaf]
        if len(dims) != 1 or evidence.input.shape[dims[0]] < 2:
            continue
        n, d = evidence.input.shape[dims[0]], dims[0]
        twice = cut(arguments, group, 2 * n)
        if not accepts(pair, twice):
            continue
        fields = pair.fields(pair.call(twice))
        upstreams = {}
        for name, upstream in evidence.call.upstreams.items():
            repeats = [b // a for a, b in zip(upstream.shape, fields[name].shape, strict=True)]
            upstreams[name] = upstream.repeat(repeats)
        call = Call(dict(twice), pair.call(twice), fields, upstreams)
        given = evidence.inspector.gradients(call)[leaf].double()
        expected = evidence.inspector.judge(twice, upstreams).expected[leaf]
        if given.shape != expected.shape:
            continue
        residual = (given - expected).narrow(d, 0, n)
        ratio = ratio_of(residual, evidence.residual)
        # The right gradient has that factor too: then any mistake goes with it.
        right = ratio_of(expected.narrow(d, 0, n), evidence.expected)
        if ratio is not None and right is not None and math.isclose(ratio, right, rel_tol=1e-3):
            continue
        # Where the variance itself has n - 1 in it, all that it scales changes a little too.
        spread = math.sqrt((2 * n - 1) / (2 * n - 2))
        # The square of it makes that one half, as every 1/n does.
        expected_ratios = [(n - 1) / (2 * n - 1) * spread**power for power in (0, 1, 3)]
        if ratio is not None and any(math.isclose(ratio, r, rel_tol=1e-3) for r in expected_ratios):
            yield (
                "bessel",
                f"the error of {evidence.name} goes with 1/(n - 1), n = {n} being the size of "
                f"dimension {d}: n and n - 1 are exchanged in a term",
            )


def block(evidence: Evidence) -> Iterator[Likely]:
    """Wrong from some place on, which is a multiple of a block."""
    for d in range(evidence.given.dim()):
        n = evidence.given.shape[d]
        wrong = (evidence.residual.abs() > evidence.slack).movedim(d, 0).reshape(n, -1).any(1)
        places = wrong.nonzero().flatten().tolist()
        if places and places[0] >= 4 and n > 4 and _right_up_to(evidence, d, places[0]):
            yield (
                "hard-coded-size",
                f"{evidence.name} is wrong from place {places[0]} of dimension {d} on: a block's "
                f"size is taken for the dimension's",
            )


def _right_up_to(evidence: Evidence, d: int, size: int) -> bool:
    """Whether all is right where the dimension, and what goes with it, is no longer than that."""
    place = (str(evidence.leaf), d)
    arguments = evidence.case.arguments
    whole = next(group for group in groups(arguments) if place in group)
    return any(
        accepts(evidence.inspector.pair, shorter) and evidence.holds(evidence.case.of(shorter))
        for shorter in (cut(arguments, group, size) for group in (whole, [place]))
    )


def axis(evidence: Evidence) -> Iterator[Likely]:
    """As if two dimensions were exchanged, or a sum taken over the other one."""
    given, name = evidence.given, evidence.name
    for i, j in itertools.combinations(range(given.dim()), 2):
        model = _exchanged(evidence, i, j)
        if model is not None and evidence.like_given(model):
            yield "wrong-axis", f"{name} is worked out over dimension {j} in place of {i}"
    for d in range(given.dim()):
        model = _turned(evidence, partial(torch.flip, dims=[d]))
        if model is not None and evidence.like_given(model):
            yield "wrong-axis", f"{name} runs in the wrong direction along dimension {d}"
    for factor in _scales(evidence) if given.dim() > 1 else ():
        quotient = evidence.residual / factor
        if not quotient.isfinite().all() or quotient.shape != given.shape:
            continue
        rows, columns = quotient.mean(-1, keepdim=True), quotient.mean(-2, keepdim=True)
        both = quotient.mean((-1, -2), keepdim=True)
        scale = float(quotient.abs().amax())
        additive = (quotient - rows - columns + both).abs().amax() <= 1e-8 * scale
        if additive and min(given.shape[-2:]) > 2:
            apart = (quotient - rows).abs().amax(), (quotient - columns).abs().amax()
            if min(map(float, apart)) > 1e-6 * scale:
                yield "wrong-axis", f"{name} holds a sum over the wrong dimension"


def _exchanged(evidence: Evidence, i: int, j: int) -> Tensor | None:
    return _turned(evidence, lambda x: x.transpose(i, j).contiguous())


def _turned(evidence: Evidence, turn: Callable[[Tensor], Tensor]) -> Tensor | None:
    """The gradient as it would be if everything had been turned, and turned back."""

    def turned(value: Any) -> Any:
        fits = isinstance(value, Tensor) and value.dim() == evidence.given.dim()
        return turn(value) if fits else value

    arguments = {name: turned(value) for name, value in evidence.call.arguments.items()}
    upstreams = {name: turned(value) for name, value in evidence.call.upstreams.items()}
    try:
        judge = evidence.inspector.judge(arguments, upstreams)
        return turn(judge.expected[str(evidence.leaf)])
    except Exception:  # the forward does not take it
        return None


def _scales(evidence: Evidence) -> Iterator[Tensor]:
    """What a sum's term may be multiplied by: nothing, or an input or field of that shape."""
    yield torch.ones_like(evidence.given)
    for value in evidence.factors().values():
        if value.shape == evidence.given.shape and value.all():
            yield value
            yield value - value.mean(-1, keepdim=True)
            yield value - value.mean(0, keepdim=True)
