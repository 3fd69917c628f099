"""Other numbers: like the sample's own; then ties, zeros, kinks and every magnitude."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from backprop_ops.checking.case import Case, Filled
from backprop_ops.checking.structure import alike
from backprop_ops.checking.variations.maker import Maker
from backprop_ops.leaves import replaced

SCALES = {"drawn anew": 1.0, "drawn anew, half as large": 0.5, "drawn anew, twice as large": 2.0}


class Content(NamedTuple):
    """``cancels``: whether nearly equal or very large numbers are among the values."""

    how: str
    values: Tensor
    cancels: bool = False


def values_alike(maker: Maker, sample: Case) -> Iterator[Case]:
    """Values of the sample's signs, ¼ to 4 times its scale: one leaf at a time, then all."""
    leaves = {n: x for n, x in maker.pair.leaves(sample.arguments).items() if x.numel()}
    for some in _one_by_one_and_all(leaves):
        for how, by in SCALES.items():
            values = {name: alike(x, maker.generator, by) for name, x in some.items()}
            change = Filled(tuple(some), how)
            yield maker.vary(sample, change, replaced(sample.arguments, values))


def values(maker: Maker, sample: Case, few: bool = False) -> Iterator[Case]:
    """Values beyond those of the sample: of one leaf at a time, then of all."""
    leaves = {n: x for n, x in maker.pair.leaves(sample.arguments).items() if x.numel()}
    for some in _one_by_one_and_all(leaves, only_all=few):
        contents = [_contents(x, maker.generator, few, len(some) > 1) for x in some.values()]
        for filled in zip(*contents, strict=True):
            values = {name: x.values for name, x in zip(some, filled, strict=True)}
            if not all(as_finite(values[name], x) for name, x in some.items()):
                continue
            change = Filled(tuple(some), filled[0].how, filled[0].cancels, reach="beyond")
            yield maker.vary(sample, change, replaced(sample.arguments, values))


def as_finite(values: Tensor, x: Tensor) -> bool:
    """Whether values are finite where the sample is: the precision may not hold them."""
    return bool(values.isfinite().all()) or not bool(x.isfinite().all())


def _one_by_one_and_all(
    leaves: dict[str, Tensor], only_all: bool = False
) -> Iterator[dict[str, Tensor]]:
    if len(leaves) > 1 and not only_all:
        yield from ({name: x} for name, x in leaves.items())
    yield from [leaves] * bool(leaves)


def values_in_common(maker: Maker, sample: Case) -> Iterator[Case]:
    """Values that two leaves share: a row of one is a row of the other, a matrix is the identity.

    A distance is zero there, and eigenvalues are equal.
    """
    leaves = {n: x for n, x in maker.pair.leaves(sample.arguments).items() if x.dim() > 0}
    for (one, x), (other, y) in itertools.combinations(leaves.items(), 2):
        rows = min(x.dim(), y.dim()) > 1 and x.numel() and y.numel()
        if rows and x.shape[1:] == y.shape[1:] and x.dtype == y.dtype:
            shared = y.detach().clone(memory_format=torch.contiguous_format)
            shared[-1] = x[0]
            change = Filled((other,), f"as it was, its last row {one}'s first", reach="beyond")
            yield maker.vary(sample, change, replaced(sample.arguments, {other: shared}))
    for name, x in leaves.items():
        if x.dim() > 1 and x.shape[-1] == x.shape[-2] > 1:
            identity = 0.5 * torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
            change = Filled((name,), "half the identity", reach="beyond")
            arguments = {name: identity.expand(x.shape).clone()}
            yield maker.vary(sample, change, replaced(sample.arguments, arguments))


def values_at_bounds(maker: Maker, sample: Case) -> Iterator[Case]:
    """Where a number among the options is a bound: of a leaf, or of what two differ by."""
    leaves = {n: x for n, x in maker.pair.leaves(sample.arguments).items() if x.numel()}
    bounds = {n: v for n, v in sample.arguments.items() if type(v) is float and 1e-3 < abs(v) < 1e3}
    for (option, bound), (name, leaf) in itertools.product(bounds.items(), leaves.items()):
        around = torch.tensor((1.0, -1.0, 0.5, 2.0)).repeat(leaf.numel())[: leaf.numel()]
        values = (bound * around).to(leaf).reshape(leaf.shape)
        change = Filled((name,), f"±{option} and around", reach="beyond")
        case = maker.vary(sample, change, replaced(sample.arguments, {name: values}))
        yield case
        others = {n: torch.zeros_like(x) for n, x in leaves.items() if n != name}
        if others:
            change = Filled((name,), f"±{option} and around, and all else zero", reach="beyond")
            yield maker.vary(sample, change, replaced(case.arguments, others))


def _contents(x: Tensor, generator: torch.Generator, few: bool, joint: bool) -> Iterator[Content]:
    def whole(low: int, high: int) -> Tensor:
        numbers = torch.randint(low, high + 1, x.shape, generator=generator)
        return numbers.to(x.device, x.dtype)

    def uniform(low: float, high: float) -> Tensor:
        numbers = torch.rand(x.shape, generator=generator, dtype=torch.float64)
        return (low + (high - low) * numbers).to(x.device, x.dtype)

    def one(number: float) -> Tensor:
        changed = x.detach().clone(memory_format=torch.contiguous_format)
        changed.view(-1)[x.numel() // 2] = number
        return changed

    def further() -> Iterator[Content]:
        yield Content("of both signs of zero", whole(0, 1) * 0.0 * (whole(0, 1) * 2 - 1))
        yield Content("negative", -x.abs())
        yield Content("multiples of a half", whole(-6, 6) / 2)
        spread = torch.linspace(-20, 20, x.numel()).to(x).reshape(x.shape)
        yield Content("spread from -20 to 20", spread)
        yield Content("small", 10 ** uniform(-3, -0.5) * (whole(0, 1) * 2 - 1))
        yield Content("nearly nothing", uniform(-1, 1) * 1e-15)
        yield Content("between 0 and 1", uniform(0.02, 0.98))
        yield Content("between -1 and 1", uniform(-1, 1))
        for bound in ("3", "50", "1e4"):
            large = bound == "1e4"
            yield Content(f"up to ±{bound}", uniform(-float(bound), float(bound)), large)
            yield Content(f"up to {bound} and positive", uniform(0, float(bound)), large)
        every = 10 ** uniform(-8, 8) * (whole(0, 1) * 2 - 1)
        yield Content("of every magnitude", every, cancels=True)
        yield Content("of every magnitude and positive", 10 ** uniform(-8, 8), cancels=True)
        # As masked scores hold it: elsewhere a forward seldom means it.
        infinite = (float("-inf"),) if x.isneginf().any() else ()
        for number in (0.0, 90.0, -90.0, 1e4, *infinite):
            yield Content(f"as it was, one element {number:g}", one(number))
        yield Content("nearly equal", 0.5 + uniform(-1, 1) * 2.0**-9, cancels=True)
        yield Content("next to zero", uniform(-1, 1) * 2.0**-13)
        yield Content("around 100", 100 + uniform(-2, 2), cancels=True)
        yield Content("around 1e4", 1e4 + uniform(-2, 2), cancels=True)

    yield Content("small integers, with ties and zeros", whole(-2, 2))
    yield Content("up to ±8", uniform(-8, 8))
    yield Content("zero", torch.zeros_like(x))
    if few:
        yield Content("up to ±50", uniform(-50, 50))
        yield Content("up to ±1e4", uniform(-1e4, 1e4), cancels=True)
        return
    yield Content("up to 8 and positive", uniform(0.01, 8))
    yield Content("positive integers", whole(1, 3))
    yield Content("all equal", torch.full_like(x, 0.5))
    yield Content("zeros and ones", whole(0, 1))
    if not joint:
        yield from further()
    yield Content("up to ±1e20", uniform(-1e20, 1e20), cancels=True)
    yield Content("subnormal", whole(1, 8) * torch.finfo(x.dtype).tiny / 16)
