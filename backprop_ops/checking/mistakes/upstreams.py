"""The upstream made one number, taken from another place, or not summed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from backprop_ops.checking.case import Case, UpstreamMade
from backprop_ops.checking.evidence import Evidence, Likely
from backprop_ops.leaves import replaced


def broadcast(evidence: Evidence) -> Iterator[Likely]:
    """A broadcast undone wrongly: summed over other dimensions, averaged, or one row taken."""
    name, shape = evidence.name, evidence.expected.shape
    outputs = evidence.call.upstreams.values()
    for wide in {upstream.shape for upstream in outputs if upstream.numel() > math.prod(shape)}:
        try:
            expanded = evidence.input.expand(wide).contiguous()
        except RuntimeError:
            continue
        arguments = replaced(evidence.case.arguments, {str(evidence.leaf): expanded})
        full = evidence.expected_of(evidence.case.of(arguments))
        if full is None or full.shape != wide:
            continue
        dims = range(len(wide))
        for count in range(1, len(wide) + 1):
            for over in itertools.combinations(dims, count):
                rest = [wide[d] for d in dims if d not in over]
                if math.prod(rest) != math.prod(shape):
                    continue
                where = " and ".join(map(str, over))
                if evidence.like_given(full.sum(over).reshape(shape)):
                    yield "wrong-axis", f"{name} is summed over dimension {where}, the wrong one"
                if evidence.like_given(full.mean(over).reshape(shape)):
                    yield (
                        "wrong-count",
                        f"{name} is averaged over dimension {where}, where it has to be summed",
                    )
                for place, what in ((0, "first"), (-1, "last")):
                    one = full
                    for d in reversed(over):
                        one = one.select(d, place)
                    if evidence.like_given(one.reshape(shape)):
                        yield (
                            "missing-reduction",
                            f"{name} is that of the {what} along dimension {where} alone, where "
                            f"it has to be summed",
                        )


def upstream(evidence: Evidence) -> Iterator[Likely]:
    """Made with another upstream: one number in place of all, or that of another output."""
    case, name = evidence.case, evidence.name
    many = any(upstream.numel() > 1 for upstream in evidence.call.upstreams.values())
    collapsing: dict[str, Callable[[Tensor], Tensor]] = {
        "its mean": lambda u: u.mean().expand(u.shape),
        "its sum": lambda u: u.sum().expand(u.shape),
        "its first entry": lambda u: u.flatten()[0].expand(u.shape),
        "its last entry": lambda u: u.flatten()[-1].expand(u.shape),
        "its largest entry": lambda u: u.amax().expand(u.shape),
    }
    for what, collapse in collapsing.items() if many else ():
        model = evidence.expected_of(_changed_upstream(case, collapse))
        if model is not None and model.any() and evidence.like_given(model):
            yield (
                "upstream-collapsed",
                f"{name} is made with one number, {what}, in place of the whole upstream",
            )
    for d in range(2) if many else ():

        def along(u: Tensor, d: int = d) -> Tensor:
            return u.mean(d, keepdim=True).expand(u.shape) if u.dim() > d else u

        model = evidence.expected_of(_changed_upstream(case, along))
        if model is not None and model.any() and evidence.like_given(model):
            yield (
                "upstream-collapsed",
                f"{name} is made with the upstream's mean over dimension {d} in place of it",
            )
    model = evidence.expected_of(_changed_upstream(case, torch.ones_like))
    if many and model is not None and model.any() and evidence.like_given(model):
        yield "upstream-ignored", f"{name} is what an upstream of ones would give"
    alone = any(isinstance(c, UpstreamMade) and c.alone is not None for c in case.changes)
    if not alone and len(evidence.inspector.pair.outputs) > 1:
        for output in evidence.inspector.pair.outputs:
            model = evidence.expected_of(case.but(UpstreamMade("alone", alone=output)))
            if model is not None and evidence.like_given(model):
                others = [o for o in evidence.inspector.pair.outputs if o != output]
                missing = " and ".join(f"d{o}" for o in others)
                yield "upstream-ignored", f"{name} leaves out what comes through {missing}"


def _changed_upstream(case: Case, change: Callable[[Tensor], Tensor]) -> Case:
    return case.but(UpstreamMade("another", change))


def upstream_off_by_one(evidence: Evidence) -> Iterator[Likely]:
    dims = max((u.dim() for u in evidence.call.upstreams.values()), default=0)

    def without(place: int, d: int) -> Callable[[Tensor], Tensor]:
        def change(upstream: Tensor) -> Tensor:
            upstream = upstream.clone()
            if d < upstream.dim() and upstream.shape[d] > 1:
                upstream.select(d, place).zero_()
            return upstream

        return change

    def shifted(by: int, d: int) -> Callable[[Tensor], Tensor]:
        return lambda upstream: upstream.roll(by, d) if d < upstream.dim() else upstream

    for d in range(dims):
        changes = {
            f"leaves out the last of the upstream along dimension {d}": without(-1, d),
            f"leaves out the first of the upstream along dimension {d}": without(0, d),
            f"takes the upstream's neighbour along dimension {d}": shifted(1, d),
            f"takes the upstream's other neighbour along dimension {d}": shifted(-1, d),
        }
        for what, change in changes.items():
            model = evidence.expected_of(_changed_upstream(evidence.case, change))
            if model is not None and evidence.like_given(model):
                yield "off-by-one", f"{evidence.name} {what}"
