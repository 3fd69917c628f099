"""How the pairs stand beside torch's own functions: what was compared, and what was measured."""

from __future__ import annotations

from collections import Counter
from functools import cache

import torch

from docs.pairs import table
from tests.against_torch import accuracy
from tests.against_torch.parity import DTYPES, Result, compare, counterparts, dtypes_of, errors_of
from tests.support.families import beside_the_ops


@cache
def _results() -> dict[str, dict[torch.dtype, Result]]:
    """Each pair on all samples of its counterpart, in each precision."""
    return {
        pair.name: {dtype: compare(pair, counterpart, dtype) for dtype in dtypes_of(counterpart)}
        for pair, counterpart in counterparts()
    }


def samples() -> str:
    """How many samples were tried in each precision, and how many bad inputs there are."""
    bad = {pair.name: len(errors_of(counterpart)) for pair, counterpart in counterparts()}
    rows = [
        (name, *(str(results[d].tried) if d in results else "" for d in DTYPES), str(bad[name]))
        for name, results in _results().items()
    ]
    return table(("pair", *(str(d)[6:] for d in DTYPES), "bad inputs"), rows, "---:")


def departures() -> str:
    """The samples left out, and why."""
    lines = [
        f"{number:6}  {name}, {why}"
        for name, results in _results().items()
        for why, number in sum((r.departures for r in results.values()), Counter()).items()
    ]
    for pair, counterpart in counterparts():
        lines += [f"   all  {pair.name}, {v}: {why}" for v, why in counterpart.alone.items()]
    lines += [
        f"   all  {p.name}: {why}" for p, why in beside_the_ops("OPINFO") if isinstance(why, str)
    ]
    return "\n".join(["```", *lines, "```"])


def exactness() -> str:
    """The worst errors, and which pairs were not measured."""
    reasons = [f"- `{p.name}`: {why}" for p, why in beside_the_ops("EXACT") if isinstance(why, str)]
    return "\n".join([*accuracy.table(accuracy.EXAMPLES), "", "Not measured:", "", *reasons])
