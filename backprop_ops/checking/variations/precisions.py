"""The same numbers in other precisions, and what half of one does not hold."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from backprop_ops.checking.case import Case, Cast, Indexed, Scaled, UpstreamMade
from backprop_ops.checking.variations.indices import is_index
from backprop_ops.checking.variations.maker import Maker
from backprop_ops.checking.variations.values import as_finite
from backprop_ops.leaves import mapped, parts, replaced, takes_gradient


def precisions(maker: Maker, sample: Case) -> Iterator[Case]:
    for dtype in maker.dtypes:
        yield from cast(maker, sample, dtype)


def cast(maker: Maker, sample: Case, dtype: torch.dtype) -> Iterator[Case]:
    """The sample in another precision, if it has another one and this one is to be tried."""
    case = in_precision(sample, dtype)
    before, leaves = (maker.pair.leaves(some.arguments) for some in (sample, case))
    finite = all(as_finite(leaves[name], x) for name, x in before.items())
    if case is not sample and dtype in maker.dtypes and finite:
        yield from maker.accepted(iter((case,)))


def in_precision(sample: Case, dtype: torch.dtype) -> Case:
    """The same numbers in another precision; the sample itself where it has that."""
    floating = {n: v for n, v in sample.arguments.items() if _all_floating(v)}
    if all(_first(value).dtype == dtype for value in floating.values()):
        return sample
    cast = {name: mapped(lambda x: x.to(dtype), value) for name, value in floating.items()}
    return sample.but(Cast(dtype, reach="beyond"), {**sample.arguments, **cast})


def large_halves(maker: Maker, sample: Case) -> Iterator[Case]:
    """In float16, numbers whose squares it does not hold, of one leaf at a time."""
    case = in_precision(sample, torch.float16)
    if torch.float16 not in maker.dtypes:
        return
    for name, leaf in maker.pair.leaves(case.arguments).items():
        arguments = replaced(case.arguments, {name: leaf * 2.0**9})
        if not as_finite(leaf * 2.0**9, leaf):
            continue
        yield maker.vary(case, Scaled(name, 9, reach="beyond"), arguments)


def long_sums(case: Case) -> Iterator[Case]:
    """Sums of which each step is small against what was summed before, in half precision.

    Of a sample that is in it: who writes for it sums in a wider one.
    """
    floating = [_first(value) for value in case.arguments.values() if _all_floating(value)]
    if min(x.dtype.itemsize for x in floating) == 2:
        for name, index in case.arguments.items():
            if is_index(index):
                zero = {**case.arguments, name: index.clamp(0, 0)}
                case = case.but(Indexed(name, "is zero", reach="beyond"), zero)
        yield case.but(UpstreamMade("nowhere negative", torch.abs, reach="beyond"))


def _first(value: Tensor | list[Tensor] | tuple[Tensor, ...]) -> Tensor:
    return value if isinstance(value, Tensor) else value[0]


def _all_floating(value: object) -> bool:
    return bool(parts(value)) and all(map(takes_gradient, parts(value)))
