"""The data beside the ops: what ``tests/ops/test_<family>.py`` says about each pair of its family.

SAMPLES and BAD_INPUTS: calls that are right and calls that are refused, as `samples` describes.
OPINFO: torch's own function and its samples (`counterpart`), or the reason why there is none.
EXACT: the reference in exact arithmetic (`exact`), or the reason why there is none.
EQUIVALENT: the mutants of the backward that are the same function, by reason; may lack a pair.
"""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType
from typing import Any

from backprop_ops import Pair, pairs

EXAMPLES = {
    "SAMPLES": '[sample(real("n c"))]',
    "BAD_INPUTS": '[bad(TypeError, "x must be a Tensor, got list", [1.0])]',
    "OPINFO": 'Counterpart("{name}")',
    "EXACT": '[exact(each(lambda mp, x: mp.exp(x), lambda mp, x: mp.exp(x)), "x")]',
}
"""An entry of each kind that every pair has."""


def family(pair: Pair) -> str:
    return pair.forward.__module__.rpartition(".")[2]


def data(pair: Pair) -> ModuleType | None:
    """The family's file, None where it is not written yet."""
    name = f"tests.ops.test_{family(pair)}"
    return importlib.import_module(name) if importlib.util.find_spec(name) else None


def beside(pair: Pair, kind: str) -> Any:
    """The pair's entry of a kind. A LookupError names the file that lacks it, and what to write."""
    entry = getattr(data(pair), kind, {}).get(pair.name)
    if not entry:
        example = EXAMPLES[kind].format(name=pair.name)
        reason = "" if kind in ("SAMPLES", "BAD_INPUTS") else "\nor the reason why there is none"
        raise LookupError(
            f"tests/ops/test_{family(pair)}.py: {kind} has nothing for {pair.name!r}; write, for "
            f'example,\n    "{pair.name}": {example},{reason}'
        )
    return entry


def beside_the_ops(kind: str) -> list[tuple[Pair, Any]]:
    """Each pair of the library with its entry of a kind."""
    return [(pair, beside(pair, kind)) for pair in pairs.values()]


def equivalent(pair: Pair) -> list[str]:
    """The names of the pair's mutants that are the same function."""
    reasons = getattr(data(pair), "EQUIVALENT", {}).get(pair.name, {})
    return [name for names in reasons.values() for name in names]
