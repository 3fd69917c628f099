"""How a case is made of another: inside of the domain, and near the sample with its structure."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from backprop_ops.checking.acceptance import accepts, outputs_of, refusal
from backprop_ops.checking.case import Case, Change, Family, Place, Resized
from backprop_ops.checking.sizing import cut, elements, groups, resized, size_of
from backprop_ops.checking.structure import Structures
from backprop_ops.leaves import Arguments, mapped, tensors
from backprop_ops.pair import Pair

PRECISIONS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
NOWHERE = object()  # an argument that no forward takes
MOST_ELEMENTS = 2**13  # of a sample that is made larger
MOST_OUTPUTS = 2**16  # of what the forward makes of it
ENOUGH_ELEMENTS = 2**10  # of what the harder cases are made of; a larger sample is made smaller


@dataclass(frozen=True)
class Maker:
    """Makes cases of one pair's sample.

    ``pair``: its forward refuses what lies outside of the domain. ``maps``: of some arguments, what
    takes any tensor into the domain. ``fixed``: the options that stay as they are, since the
    reference does not take them. ``sentinels``: whether indices out of bounds may be tried, which a
    native kernel would read at. ``reference``: another forward, which has to take a case too.
    ``dtypes``: the precisions to try beside the sample's. ``refused``:
    how often the forward took no case of a family, by the family and the reason.
    """

    pair: Pair
    structures: Structures
    generator: torch.Generator
    maps: Mapping[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)
    fixed: frozenset[str] = frozenset()
    sentinels: bool = True
    reference: Pair | None = None
    dtypes: tuple[torch.dtype, ...] = PRECISIONS
    refused: Counter[tuple[Family | None, str]] = field(default_factory=Counter)

    def vary(self, case: Case, change: Change, arguments: Arguments) -> Case:
        """The case with other arguments: in the domain, and near it with the sample's structure.

        Where there is no member of the structure, the case is beyond.
        """
        before = tensors(case.arguments)
        given = self._mapped(case.arguments, arguments)
        if change.reach != "beyond":
            changed = [name for name, x in tensors(given).items() if x is not before.get(name)]
            kept = self.structures.kept(given, changed, self.generator)
            if kept is None:
                change = dataclasses.replace(change, reach="beyond")
            else:
                given = self._mapped(given, kept)
        return case.but(change, given)

    def like(self, case: Case, cases: Iterator[Case]) -> Iterator[Case]:
        """Those of the cases that are in the domain and have the structures of the first one."""
        lost = self.structures.left(case.arguments)
        for other in cases:
            given = self._mapped(case.arguments, other.arguments)
            unlike = any(not _same(given[name], other.arguments[name]) for name in self.maps)
            # A map may take a member to another one, which is simpler only where it is smaller.
            if unlike and elements(given) >= elements(case.arguments):
                continue
            if self.structures.left(given) == lost:
                yield case.of(given) if unlike else other

    def _mapped(self, before: Arguments, arguments: Arguments) -> Arguments:
        changed = {
            name: self._into(name, arguments[name])
            for name in self.maps
            if arguments[name] is not before[name]
        }
        return {**arguments, **changed} if changed else arguments

    def _into(self, name: str, value: Any) -> Any:
        try:
            return mapped(self.maps[name], value)
        except Exception:  # as of a matrix that is not square: the domain has nothing like it
            return NOWHERE

    def accepted(self, cases: Iterator[Case]) -> Iterator[Case]:
        return (case for case in cases if self.takes(case))

    def takes(self, case: Case) -> bool:
        """As `accepts`, and a refusal is counted."""
        why = refusal(self.pair, case.arguments)
        if why is None and self.reference is not None:
            why = refusal(self.reference, case.arguments)
        self.refused.update(() if why is None else ((case.family, why),))
        return why is None

    def accepts(self, arguments: Arguments) -> bool:
        """Whether the forward takes the arguments, and its reference where there is one."""
        return all(accepts(pair, arguments) for pair in (self.pair, self.reference) if pair)

    @property
    def judged(self) -> Pair:
        """The pair whose forward autograd may differentiate."""
        return self.reference or self.pair

    def resized(self, case: Case, change: Resized) -> Case:
        other = resized(case.arguments, change.places, change.size, self.generator)
        return self.vary(case, change, other)

    def outputs_fit(self, case: Case) -> bool:
        """Whether sizes that were made larger do not multiply in what the forward makes of them."""
        outputs = outputs_of(self.pair, case.arguments).values()
        return all(0 < out.numel() <= MOST_OUTPUTS for out in outputs)

    def smaller(self, case: Case, group: Sequence[Place] = (), size: int | None = None) -> Case:
        """A case of few elements: sizes are halved for as long as the forward takes them.

        Dimensions that are about to be of another ``size`` stay as they are, and count as that.
        """
        most = ENOUGH_ELEMENTS if size is None else MOST_ELEMENTS
        arguments = case.arguments
        while elements(arguments, group, size) > most:
            others = [places for places in groups(arguments) if not set(places) & set(group)]
            places = max(others, key=lambda places: size_of(arguments, places[0]), default=None)
            if places is None or size_of(arguments, places[0]) <= 2:
                break
            n = size_of(arguments, places[0])
            halved = self._cut(arguments, places, (n + 1) // 2)
            # A half of size 1 may be accepted only because it broadcasts; a size in between cannot.
            between = any(
                other is not None and accepts(self.pair, other)
                for other in (self._cut(arguments, places, m) for m in (n + 1, 3 * ((n + 1) // 2)))
            )
            if halved is None or not between or not accepts(self.pair, halved):
                break
            arguments = halved
        return case if arguments is case.arguments else case.of(arguments)

    def _cut(self, arguments: Arguments, group: Sequence[Place], size: int) -> Arguments | None:
        """As `cut`, with the structure that the sample has; None where it cannot have it."""
        names = dict.fromkeys(name for name, _ in group)
        changed = self._mapped(arguments, cut(arguments, group, size))
        kept = self.structures.kept(changed, names, self.generator)
        return None if kept is None else self._mapped(changed, kept)


def _same(one: Any, other: Any) -> bool:
    return one is other or (isinstance(one, Tensor) and torch.equal(one, other))
