"""A term that is missing, too much, or multiplied."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from backprop_ops._torch import operation_name
from backprop_ops.broadcasting import sum_to
from backprop_ops.checking.evidence import Evidence, Likely, counts, ratio_of
from backprop_ops.checking.judging import Autograd
from backprop_ops.leaves import in_dtype, replaced

MOST_NODES = 100  # of a forward's graph that are cut one by one


def flow(evidence: Evidence) -> Iterator[Likely]:
    """What comes back along one edge of the forward's graph is missing, or multiplied."""
    if evidence.case.family in ("sizes", "options") or not isinstance(evidence.judge, Autograd):
        return
    if evidence.residual.count_nonzero() < 2:
        return
    found: dict[str, Likely] = {}
    for operations, contribution in _contributions(evidence):
        ratio = ratio_of(evidence.residual, contribution)
        if ratio is None or not evidence.like_given(evidence.expected + ratio * contribution):
            continue
        name, times = evidence.name, 1 + ratio
        through = f"through the forward's {operations[-1]}"
        if math.isclose(ratio, -1, rel_tol=1e-6):
            mean = {"mean", "var", "std"} & set(operations)
            key = "missing-mean-term" if mean else "missing-term"
            found.setdefault("missing", (key, f"{name} lacks what comes back {through}"))
        elif math.isclose(ratio, -2, rel_tol=1e-6):
            found.setdefault("sign", ("sign", f"{name} subtracts what comes back {through}"))
        else:
            for n, what in counts(evidence).items():
                if n > 2 and any(
                    math.isclose(times, r, rel_tol=1e-6) for r in (n / (n - 1), 1 - 1 / n)
                ):
                    found.setdefault(
                        "bessel",
                        (
                            "bessel",
                            f"what comes back {through} is {times:.6g} × what it should be in "
                            f"{name}: n = {n}, {what}, and n - 1 are exchanged",
                        ),
                    )
                elif any(math.isclose(times, r, rel_tol=1e-6) for r in (n, 1 / n)):
                    found.setdefault(
                        "count",
                        (
                            "wrong-count",
                            f"what comes back {through} is {times:.6g} × what it should be in "
                            f"{name}, and {n} is {what}",
                        ),
                    )
            found.setdefault(
                "factor",
                (
                    "factor",
                    f"what comes back {through} is {times:.6g} × what it should be in {name}",
                ),
            )
    for which in ("missing", "sign", "bessel", "count", "factor"):
        if which in found:
            yield found[which]


def _contributions(evidence: Evidence) -> Iterator[tuple[list[str], Tensor]]:
    """Of each edge of the forward's graph the operations at its ends, and what comes along it."""
    pair = evidence.inspector.oracle.differentiated or evidence.inspector.pair
    arguments = in_dtype(evidence.call.arguments, torch.float64)
    leaves = {n: x.detach().requires_grad_() for n, x in pair.leaves(arguments).items()}
    with torch.enable_grad():
        fields = pair.fields(pair.call(replaced(arguments, leaves)))
    flowing = [name for name in pair.outputs if fields[name].requires_grad]
    nodes: list[Any] = []
    waiting = [fields[name].grad_fn for name in flowing]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in nodes and len(nodes) < MOST_NODES:
            nodes.append(node)
            waiting += [following for following, _ in node.next_functions]

    def without(node: Any, places: Sequence[int]) -> Tensor:
        def cut_off(gradients: Any, _: Any) -> Any:
            return tuple(
                torch.zeros_like(g) if g is not None and i in places else g
                for i, g in enumerate(gradients)
            )

        handle = node.register_hook(cut_off)
        try:
            (gradient,) = torch.autograd.grad(
                [fields[name] for name in flowing],
                [leaves[str(evidence.leaf)]],
                [evidence.call.upstreams[name].to(fields[name].dtype) for name in flowing],
                retain_graph=True,
                allow_unused=True,
            )
        finally:
            handle.remove()
        return torch.zeros_like(evidence.expected) if gradient is None else gradient

    for node in nodes:
        ends = [following for following, _ in node.next_functions]
        edges = [[i] for i, end in enumerate(ends) if end is not None]
        for places in [*edges, *([[p for (p,) in edges]] if edges[1:] else [])]:
            beyond = [operation_name(ends[p]) for p in places if ends[p].next_functions]
            operations = [operation_name(node), *beyond]
            contribution = evidence.expected - without(node, places)
            if contribution.any():
                yield operations, contribution


def forgotten(evidence: Evidence) -> Iterator[Likely]:
    """As if another input were all ones, or zero."""
    for leaf, value in evidence.inspector.pair.leaves(evidence.case.arguments).items():
        for number in (1.0, 0.0) if leaf != evidence.leaf else ():
            changed = replaced(evidence.case.arguments, {leaf: torch.full_like(value, number)})
            model = evidence.expected_of(replace(evidence.case, arguments=changed))
            if model is not None and evidence.like_given(model):
                yield "missing-term", f"{evidence.name} leaves {leaf} out"


def jacobian(evidence: Evidence) -> Iterator[Likely]:
    """As if every output depended on the input in its own place alone."""
    call, leaf = evidence.call, str(evidence.leaf)
    (name, upstream), *others = call.upstreams.items()
    if others or upstream.shape != evidence.input.shape or upstream.numel() > 64:
        return
    diagonal = torch.zeros_like(evidence.expected)
    for i in range(upstream.numel()):
        hot = torch.zeros_like(upstream, memory_format=torch.contiguous_format)
        hot.view(-1)[i] = upstream.reshape(-1)[i]
        row = evidence.inspector.judge(call.arguments, {name: hot}).expected[leaf]
        diagonal.view(-1)[i] = row.reshape(-1)[i]
    if evidence.like_given(diagonal):
        yield (
            "missing-term",
            f"{evidence.name} holds what each output owes to the input in its own place alone; "
            f"what it owes to the others is missing",
        )


def mean_term(evidence: Evidence) -> Iterator[Likely]:
    """The residual is one number along a dimension: a mean, or a sum, that was left out."""
    residual = evidence.residual
    for d in range(residual.dim()):
        if residual.shape[d] > 1 and _constant(residual, d, evidence.slack):
            yield (
                "missing-mean-term",
                f"{evidence.name} is off by one number along dimension {d}: the term that comes "
                f"through the mean is missing or wrong",
            )
    if residual.numel() > 2 and _constant(residual.flatten(), 0, evidence.slack.flatten()):
        yield (
            "missing-mean-term",
            f"{evidence.name} is off by the same number everywhere: the term that comes through "
            f"the mean is missing or wrong",
        )


def _constant(values: Tensor, d: int, slack: Tensor) -> bool:
    apart = (values - values.mean(d, keepdim=True)).abs()
    return bool((apart <= 2 * slack + 1e-9 * values.abs().amax()).all())


def term(evidence: Evidence) -> Iterator[Likely]:
    """The residual is a product of what there is: a term that was left out, or is too much."""
    residual, name = evidence.residual, evidence.name
    factors = evidence.factors()
    for label, factor in factors.items():
        candidates = {label: factor}
        for d in range(factor.dim()):
            candidates[f"{label} less its mean"] = factor - factor.mean(d, keepdim=True)
        for what, value in candidates.items():
            if value.shape != residual.shape or not value.any():
                continue
            for d in range(residual.dim()):
                coefficient = (residual * value).sum(d, keepdim=True) / (value * value).sum(
                    d, keepdim=True
                )
                rest = (residual - coefficient * value).abs()
                if residual.shape[d] > 2 and bool(
                    (rest <= 2 * evidence.slack + 1e-9 * residual.abs().amax()).all()
                ):
                    yield (
                        "missing-term",
                        f"{name} is off by a multiple of {what}: a term with it is missing, or "
                        f"wrong",
                    )
                if residual.shape[d] > 3 and _in_span(residual, value, d):
                    yield (
                        "missing-mean-term",
                        f"{name} is off by a constant and a multiple of {what} along dimension "
                        f"{d}: the terms through the mean and the spread are missing or wrong",
                    )
    for output, upstream in evidence.call.upstreams.items():
        options = {"": torch.ones((), dtype=torch.float64), **factors}
        for label, factor in options.items():
            try:
                term = sum_to(upstream.double() * factor, residual.shape)
            except (RuntimeError, ValueError):
                continue
            ratio = ratio_of(residual, term) if term.shape == residual.shape else None
            if ratio is not None and residual.numel() > 1:
                what = f"{label} × " if label else ""
                yield (
                    "missing-term",
                    f"{name} is off by {ratio:.4g} × {what}d{output} in every entry: a term is "
                    f"missing or too much",
                )


def _in_span(residual: Tensor, value: Tensor, d: int) -> bool:
    """Whether the residual is a constant and a multiple of a value along a dimension."""
    centred, spread = (x - x.mean(d, keepdim=True) for x in (residual, value))
    slope = (centred * spread).sum(d, keepdim=True) / (spread * spread).sum(d, keepdim=True)
    rest = (centred - slope.nan_to_num(0) * spread).abs()
    return bool(rest.amax() <= 1e-8 * residual.abs().amax())
