"""The tables of the pairs, from their docstrings and the data of their tests."""

from __future__ import annotations

import inspect
import itertools
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from backprop_ops import Pair
from backprop_ops import pairs as all_pairs
from tests.support.counterpart import Counterpart
from tests.support.families import beside, family
from tests.support.samples import Drawing


def table(head: Sequence[str], rows: Sequence[Sequence[str]], align: str = "---") -> str:
    """A table in Markdown, the columns after the first aligned as ``align`` says."""
    lines = [head, ["---", *[align] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def families() -> str:
    """The names of the pairs by family."""
    rows = [(name, ", ".join(f"`{p.name}`" for p in pairs)) for name, pairs in by_family()]
    return table(("family", "pairs"), rows)


def formulas() -> str:
    """A table for each family: the formulas, what the backward asks for, torch's function."""
    head = ("pair", "forward", "backward", "takes, besides the upstream", "torch's function")
    return "\n\n".join(
        f"### {name}\n\n{_opening(sys.modules[pairs[0].forward.__module__])}\n\n"
        f"{table(head, [_row(pair) for pair in pairs])}"
        for name, pairs in by_family()
    )


def forgotten() -> str:
    """The options whose default gives another gradient where a call does not pass them on."""
    found = [(pair.name, list(_forgotten(pair))) for pair in all_pairs.values()]
    return "\n".join(
        f"- `{name}_backward`: {', '.join(f'`{option}`' for option in options)}"
        for name, options in found
        if options
    )


def by_family() -> list[tuple[str, list[Pair]]]:
    return [(name, list(of)) for name, of in itertools.groupby(all_pairs.values(), family)]


def _row(pair: Pair) -> tuple[str, ...]:
    counterpart = beside(pair, "OPINFO")
    known = isinstance(counterpart, Counterpart)
    return (
        f"`{pair.name}`",
        _opening(pair.forward),
        _opening(pair.backward),
        ", ".join(f"`{name}`" for name in pair.saved),
        f"`torch.{counterpart.name}`" if known else f"none: {counterpart}",
    )


def _opening(documented: Any) -> str:
    """The first paragraph of a docstring, and the next one where it ends in a comma."""
    first, *others = inspect.getdoc(documented).split("\n\n")
    while first.endswith(",") and others:
        first = f"{first} {others.pop(0)}"
    return " ".join(first.replace("`", "").replace("|", r"\|").split())


def _forgotten(pair: Pair) -> Iterator[str]:
    """As ``name=default``. A LookupError names an option with a default that no sample sets."""
    for name, parameter in inspect.signature(pair.backward).parameters.items():
        default = parameter.default
        if default is parameter.empty:
            continue
        calls = [Drawing().call(sample) for sample in beside(pair, "SAMPLES")]
        setting = [(args, options) for args, options in calls if name in options]
        if not setting:
            raise LookupError(
                f"tests/ops/test_{family(pair)}.py: no sample of {pair.name} sets {name}"
            )
        if any(_another_gradient(pair, *call, {name: default}) for call in setting):
            yield f"{name}={default!r}"


def _another_gradient(
    pair: Pair, args: tuple[Any, ...], options: dict[str, Any], defaults: dict[str, Any]
) -> bool:
    """Whether the backward returns another gradient with the defaults, and raises no error."""
    arguments = pair.arguments(args, options)
    result = pair.call(arguments)
    fields = pair.fields(result)
    generator = torch.Generator().manual_seed(0)
    upstreams = {
        name: torch.randn(fields[name].shape, generator=generator, dtype=torch.float64)
        for name in pair.outputs
    }
    right = pair.gradients(arguments, result, upstreams)
    try:
        others = pair.gradients(arguments | defaults, result, upstreams)
    except (RuntimeError, IndexError, TypeError, ValueError):
        return False
    return not all(map(_same, right.values(), others.values()))


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return one.shape == other.shape and torch.allclose(one, other)
