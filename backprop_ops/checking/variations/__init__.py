"""The harder cases made of one sample: upstreams, layouts, sizes, values, options, precisions."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from backprop_ops.checking.case import Case, Resized
from backprop_ops.checking.sizing import elements
from backprop_ops.checking.variations.indices import indices
from backprop_ops.checking.variations.layouts import (
    expanded,
    few_layouts_of_the_upstream,
    inputs,
    layouts,
    layouts_of_the_upstream,
)
from backprop_ops.checking.variations.maker import Maker
from backprop_ops.checking.variations.options import (
    changes_a_count,
    masks,
    options,
    sets_a_number,
    two_options,
)
from backprop_ops.checking.variations.precisions import (
    cast,
    large_halves,
    long_sums,
    precisions,
)
from backprop_ops.checking.variations.sizes import all_larger, grows_ones, larger, near, sizes
from backprop_ops.checking.variations.upstreams import upstreams
from backprop_ops.checking.variations.values import (
    values,
    values_alike,
    values_at_bounds,
    values_in_common,
)

MOST_VARIED = 2**12  # elements of a sample that is varied further


def variations(maker: Maker, sample: Case) -> Iterator[Case]:
    """The harder cases, in the order in which one would try them."""
    pair = maker.pair
    yield from layouts_of_the_upstream(pair, sample)
    yield from upstreams(pair, sample)
    yield from layouts(maker, sample)
    yield from inputs(maker, sample)
    yield from maker.accepted(values_alike(maker, sample))
    with_options = list(maker.accepted(options(maker, sample)))
    yield from with_options
    yield from maker.accepted(two_options(with_options))
    yield from maker.accepted(indices(maker, sample))
    yield from maker.accepted(values(maker, sample))
    yield from maker.accepted(values_at_bounds(maker, sample))
    yield from maker.accepted(values_in_common(maker, sample))
    yield from expanded(maker, sample)
    resized = list(sizes(maker, sample))
    yield from resized
    in_others = list(precisions(maker, sample))
    yield from in_others
    yield from maker.accepted(large_halves(maker, sample))
    yield from _second_round(maker, sample, with_options, resized, in_others)


def _second_round(
    maker: Maker, sample: Case, with_options: list[Case], resized: list[Case], in_others: list[Case]
) -> Iterator[Case]:
    """Two kinds of change at once, since some mistakes take both."""
    pair = maker.pair
    # Another stride or number of heads may accept other sizes.
    counts = [case for case in with_options if changes_a_count(case)][:3]
    ones = [case for case in resized if grows_ones(case)]
    for case in counts + ones:
        yield from sizes(maker, case, near)
    for case in with_options:
        yield from maker.accepted(values(maker, case, few=True))
        yield from maker.accepted(indices(maker, case))
        if case.reach == "alike" or not sets_a_number(case):
            yield from _after_an_option(maker, case)
    by_elements = sorted(resized, key=lambda case: elements(case.arguments))
    fitting = [case for case in by_elements if elements(case.arguments) <= MOST_VARIED]
    for case in (*cast(maker, sample, torch.float64), *fitting[-1:]):
        yield from maker.accepted(values(maker, case, few=True))
        yield from maker.accepted(indices(maker, case))
    for case in in_others:
        yield from few_layouts_of_the_upstream(pair, case)
        yield from maker.accepted(masks(maker, case))
    by_place = {
        change.places: case for case in by_elements if isinstance(change := case.last, Resized)
    }
    for case in by_place.values():
        yield from few_layouts_of_the_upstream(pair, case)
        yield from maker.accepted(masks(maker, case))
        yield from cast(maker, case, torch.bfloat16)
        yield from maker.accepted(long_sums(case))
    yield from all_larger(maker, sample)


def _after_an_option(maker: Maker, case: Case) -> Iterator[Case]:
    yield from few_layouts_of_the_upstream(maker.pair, case)
    for half in cast(maker, case, torch.bfloat16):
        yield half
        yield from few_layouts_of_the_upstream(maker.pair, half)
    yield from sizes(maker, case, larger)
