"""Indices of other numbers: repeated, all the same, the last class, options among the targets."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from backprop_ops.checking.acceptance import accepts
from backprop_ops.checking.case import Case, Indexed, OptionSet, Reach
from backprop_ops.checking.variations.maker import Maker

IGNORED = -100  # torch's ignore_index where a forward names none
RARE = 1e-3  # what chance has less often than that is no chance


def indices(maker: Maker, sample: Case) -> Iterator[Case]:
    arguments, generator = sample.arguments, maker.generator
    sizes = {n for v in arguments.values() if isinstance(v, Tensor) for n in v.shape}
    numbers = {
        name: v for name, v in arguments.items() if type(v) is int and not isinstance(v, bool)
    }
    for name, index in arguments.items():
        if not is_index(index):
            continue
        low, high = int(index.min()), int(index.max())

        def case(
            how: str,
            values: Any,
            option: str | None = None,
            reach: Reach = "beyond",
            name: str = name,
            index: Tensor = index,
        ) -> Case:
            values = torch.as_tensor(values).to(index.device, index.dtype).expand(index.shape)
            change = Indexed(name, how, option, reach=reach)
            return maker.vary(sample, change, {**arguments, name: values.clone()})

        repeated = _copied(index).view(-1)
        repeated[1:2] = repeated[:1]
        reach: Reach = "beyond" if _is_unique(index) else "alike"
        change = Indexed(name, "has a repeated number", repeats=True, reach=reach)
        yield maker.vary(sample, change, {**arguments, name: repeated.view(index.shape)})
        # A size bounds the index where the forward refuses the size itself: another it may wrap.
        bounds = {n for n in sizes if n <= high or not accepts(maker.pair, case("", n).arguments)}
        if not maker.structures.of.get(name) and not _is_unique(index):
            within = torch.randint(low, high + 1, index.shape, generator=generator)
            yield case(f"is drawn from {low} to {high}", within, reach="alike")
        if maker.sentinels:  # a native kernel may read there
            among = _copied(index)
            among.view(-1)[::2] = -1
            yield case("holds -1", among)
            change = Indexed(name, "is an int32", reach="beyond")
            yield maker.vary(sample, change, {**arguments, name: index.to(torch.int32)})
        for number in sorted({0, low, high, *(n - 1 for n in bounds)}):
            yield case(f"is {number} throughout", number)
        for size in sorted(bounds):
            drawn_numbers = torch.randint(0, max(size, 1), index.shape, generator=generator)
            yield case(f"is drawn from {size} numbers", drawn_numbers)
            in_turn = torch.arange(index.numel()).reshape(index.shape) % max(size, 1)
            yield case(f"goes through {size} numbers in turn", in_turn)
        # A table of a hundred rows has a row -100.
        held = bool((index == IGNORED).any())
        wanted = max(sizes) < -IGNORED and (maker.sentinels or held)
        unnamed = {"torch's ignore_index": IGNORED} if wanted else {}
        for option, number in {**numbers, **unnamed}.items():
            named = option in numbers and names_ignored(option)
            near: Reach = "alike" if named or bool((index == number).any()) else "beyond"
            among = _copied(index)
            among.view(-1)[::2] = number
            yield case(f"holds {option} ({number})", among, option, near)
            yield case(f"is {option} ({number}) throughout", number, option)
            if option not in numbers:
                continue
            first = int(index.flatten()[0])
            change = Indexed(name, f"holds {option}, which is {first}", option, reach=near)
            yield maker.vary(sample, change, {**arguments, option: first})


def names_ignored(option: str) -> bool:
    """Whether an option's number marks the indices that are to be left out."""
    return any(word in option for word in ("ignore", "pad", "blank", "skip"))


def holds_what_the_sample_lacks(case: Case) -> bool:
    """Whether an index, or a number among the options, is far from those of the sample."""
    return any(
        change.reach == "beyond"
        and (
            isinstance(change, Indexed)
            or (isinstance(change, OptionSet) and type(change.value) in (int, float))
        )
        for change in case.changes
    )


def is_index(x: Any) -> bool:
    if not isinstance(x, Tensor) or not x.numel():
        return False
    return not x.is_floating_point() and not x.is_complex() and x.dtype != torch.bool


def _is_unique(index: Tensor) -> bool:
    """Whether no number comes twice, where numbers drawn from its range would have some."""
    count, spread = index.numel(), int(index.max()) - int(index.min()) + 1
    if len(torch.unique(index)) < count:
        return False
    return math.prod(1 - i / spread for i in range(count)) < RARE


def _copied(x: Tensor) -> Tensor:
    return x.detach().clone(memory_format=torch.contiguous_format)
