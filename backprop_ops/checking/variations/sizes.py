"""Other sizes: one larger, one smaller, 1, and above one block."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from backprop_ops.checking.acceptance import outputs_of
from backprop_ops.checking.case import Case, Lengthened, Place, Reach, Resized
from backprop_ops.checking.judging import autograd
from backprop_ops.checking.sizing import elements, groups, resized, size_of
from backprop_ops.checking.variations.indices import is_index
from backprop_ops.checking.variations.maker import MOST_ELEMENTS, Maker
from backprop_ops.leaves import Arguments, tensors
from backprop_ops.pair import Pair

BEYOND_BLOCKS = (129, 1025)  # where a kernel that works in blocks has a tail
LONG = 2049  # columns, from which some kernels take another way
ALL_LARGER = 33  # by which all sizes grow at once

Wanted = Callable[[int], set[int]]
"""Of a size, the other ones to try."""


def near(size: int) -> set[int]:
    return {size - 1, size + 1, 2 * size}


def larger(size: int) -> set[int]:
    return {size + 1, BEYOND_BLOCKS[0]}


def sizes(maker: Maker, sample: Case, wanted: Wanted | None = None) -> Iterator[Case]:
    """Each size one larger, one smaller, 1 and above one block, wherever it stands or in one place.

    Sizes that are equal have to move together in most forwards; where the forward also takes one of
    them alone, that is another case. A size of 1 is tried only where one larger is accepted too:
    elsewhere it is accepted as broadcasting alone, and means something else.
    """
    yield from _lengths(maker, sample)
    by_size = groups(sample.arguments)
    parts: list[list[Place]] = [[place] for group in by_size for place in group if group[1:]]
    parts += [
        [one, other]
        for group in by_size
        if 2 < len(group) <= 6
        for one, other in itertools.combinations(group, 2)
        if one[0] != other[0]
    ]
    tried: list[set[Place]] = []
    for group in [*by_size, *parts]:
        size = size_of(sample.arguments, group[0])
        if size == 1:
            whole = next(some for some in by_size if group[0] in some)
            group = _tied(maker, sample.arguments, whole, group)
        if size == 0 or set(group) in tried:
            continue
        tried.append(set(group))
        yield from _Sizes(maker, sample, tuple(group), size).cases(wanted)
    yield from _by_a_factor(maker, sample, by_size)


@dataclass(frozen=True)
class _Sizes:
    """Other sizes of some dimensions, all of one size."""

    maker: Maker
    sample: Case
    group: tuple[Place, ...]
    size: int

    def cases(self, wanted: Wanted | None) -> Iterator[Case]:
        reaches = self._reaches()
        if wanted is not None:
            reaches = {n: reach for n, reach in reaches.items() if n in wanted(self.size)}
        # 1 comes last: a failure there is one of size 1.
        for other in sorted(reaches, key=lambda n: (n == 1, n)):
            fitting = self.sample
            if other > self.size:
                fitting = self.maker.smaller(self.sample, self.group, other)
                if elements(fitting.arguments, self.group, other) > MOST_ELEMENTS:
                    continue
            for near in self._nearest(other):
                case = self._of_size(near, fitting, reaches[other])
                if self.maker.accepts(case.arguments) and self.maker.outputs_fit(case):
                    yield case
                    break

    def _reaches(self) -> dict[int, Reach]:
        """The sizes that the forward may take, and how far each is from the sample."""
        size, judged, sample = self.size, self.maker.judged, self.sample
        named = tensors(sample.arguments)
        others = {size + 1, size - 1, 1, 2 * size, 3 * size, *BEYOND_BLOCKS} - {0, size}
        if self._takes(size + 1):
            whole = len(self.group) == sum(n == size for x in named.values() for n in x.shape)
            if not (whole or size == 1 or self._runs(size - 1)):
                # The rest may be unread; of what an index is shorter than, it is meant to be.
                indexed = any(is_index(x) and size in x.shape for x in named.values())
                return {} if indexed else {size + 1: "beyond"}
            unread = _leaves_unread(judged, self._of_size(size + 1), self.group, size)
            grown_alone = size == 1 and len(self.group) == 1
            far = {n for n in others if n > size and (unread or grown_alone)} | {0, LONG}
            return {n: "beyond" if n in far else "alike" for n in others | {0, LONG}}
        if self._takes(2 * size):  # as the heads of a group go, or powers of two
            return dict.fromkeys((2 * size, 3 * size, 4 * size), "alike")
        if self._takes(size + 2) and self._takes(size + 4):  # even ones, and none by chance
            return dict.fromkeys({size + 2, *BEYOND_BLOCKS}, "alike")
        indexed = any(is_index(named[name]) for name, _ in self.group)
        if not indexed:
            self.maker.takes(self._of_size(size + 1))  # so that the refusal is counted
        if size <= 2 or indexed:
            return {}
        # As queries, of which there may be fewer than keys.
        fewer = self._of_size(size - 1)
        taken = self.maker.accepts(fewer.arguments) and _only_smaller(judged, sample, fewer)
        return {size - 1: "alike"} if taken else {}

    def _nearest(self, size: int) -> Iterable[int]:
        """The size, or beyond a block others next to it, as multiples."""
        if size not in (*BEYOND_BLOCKS, LONG):
            return (size,)
        return dict.fromkeys((size, size + 1, size - 1, size + 3, size + -size % self.size))

    def _of_size(self, other: int, of: Case | None = None, reach: Reach = "alike") -> Case:
        change = Resized(self.group, self.size, other, reach=reach)
        return self.maker.resized(self.sample if of is None else of, change)

    def _takes(self, other: int) -> bool:
        return self.maker.accepts(self._of_size(other).arguments)

    def _runs(self, other: int) -> bool:
        try:
            outputs_of(self.maker.pair, self._of_size(other).arguments)
        except Exception:  # of that size it is no input
            return False
        return True


def _lengths(maker: Maker, sample: Case) -> Iterator[Case]:
    """Sequences of one tensor more and one less."""
    for name, value in sample.arguments.items():
        if isinstance(value, (tuple, list)) and value and isinstance(value[-1], Tensor):
            for some in ([*value, value[-1] * 2], list(value[:-1])):
                changed = {**sample.arguments, name: type(value)(some)}
                if some and maker.accepts(changed):
                    yield sample.but(Lengthened(name, len(some)), changed)


def _by_a_factor(maker: Maker, sample: Case, by_size: list[list[Place]]) -> Iterator[Case]:
    """Sizes that go together by a factor, as a recurrent cell's hidden size and its gates'."""
    for one, other in itertools.combinations(by_size, 2):
        size, multiple = (size_of(sample.arguments, group[0]) for group in (one, other))
        if size < 2 or multiple % size:
            continue
        for n in (size + 1, 2 * size):
            first = maker.resized(sample, Resized(tuple(one), size, n))
            second = Resized(tuple(other), multiple, multiple // size * n)
            if maker.accepts(first.arguments):
                break  # it goes alone
            case = maker.resized(first, second)
            if maker.accepts(case.arguments) and maker.outputs_fit(case):
                yield case


def all_larger(maker: Maker, sample: Case) -> Iterator[Case]:
    """Every size larger at once, of a sample without structure among its sizes."""
    case = sample
    grown = {size_of(sample.arguments, group[0]): group for group in groups(sample.arguments)}
    grown = {size: group for size, group in grown.items() if size > 1}
    for size, group in grown.items():
        case = maker.resized(case, Resized(tuple(group), size, size + ALL_LARGER))
    small = elements(case.arguments) <= MOST_ELEMENTS
    if small and maker.accepts(case.arguments) and maker.outputs_fit(case):
        if any(_leaves_unread(maker.judged, case, group, size) for size, group in grown.items()):
            case = replace(case, changes=tuple(replace(c, reach="beyond") for c in case.changes))
        yield case


def _tied(
    maker: Maker, arguments: Arguments, ones: Sequence[Place], part: list[Place]
) -> list[Place]:
    """Those of the dimensions of size 1 that go with a part of them, as a batch of one goes.

    Where it grows alone, they are taken by broadcasting; where they have grown together, it goes no
    further alone.
    """

    def takes(*steps: tuple[list[Place], int]) -> bool:
        of = arguments
        for places, size in steps:
            of = resized(of, places, size, maker.generator)
        return maker.accepts(of)

    together = list(part)
    for place in [*ones, *ones]:  # twice, since some go along only where others do
        if place not in together and takes(([*together, place], 2)):
            together.append(place)
    independent = len(together) == len(part) or takes((together, 2), (part, 3))
    return part if independent else together


def _leaves_unread(pair: Pair, larger: Case, group: Sequence[Place], size: int) -> bool:
    """Whether the forward reads the first ``size`` alone, as the two parts of a complex number."""
    try:
        outputs = outputs_of(pair, larger.arguments)
        gradients = autograd(pair, larger.arguments, larger.upstreams(outputs))
    except Exception:  # autograd cannot say
        return False
    further = [
        gradients[name].narrow(d, size, gradients[name].shape[d] - size)
        for name, d in group
        if name in gradients
    ]
    return bool(further) and not any(bool(x.any()) for x in further)


def _only_smaller(pair: Pair, sample: Case, case: Case) -> bool:
    """Whether a smaller input means a smaller output, and no slice of another is left unread.

    Else it may be taken by broadcasting alone, or to be the start of something longer.
    """
    before, outputs = (outputs_of(pair, some.arguments) for some in (sample, case))
    if sum(x.numel() for x in outputs.values()) >= sum(x.numel() for x in before.values()):
        return False
    try:
        gradients = autograd(pair, case.arguments, case.upstreams(outputs))
    except Exception:  # autograd cannot say
        return False
    return all(
        bool(x.transpose(0, d).flatten(1).any(1).all()) if x.dim() > 1 else bool(x.all())
        for x in gradients.values()
        for d in range(x.dim())
    )


def grows_ones(case: Case) -> bool:
    """Whether all that was changed is sizes of 1, which are 2 now."""
    return isinstance(case.last, Resized) and case.last.size == 2 and case.last.was == 1
