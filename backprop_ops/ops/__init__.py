"""The pairs, by family.

A module's ``__all__`` lists its pairs, their records, and ``NOT_PAIRS``: public functions that have
no backward. A module whose name begins with ``_`` serves the others.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import types
from collections.abc import Mapping
from functools import cache

from backprop_ops.pair import Pair, PairError

__all__ = ["find_pairs"]


@cache
def find_pairs() -> Mapping[str, Pair]:
    """Every pair of the library by name, found as ``NAME`` and ``NAME_backward`` in a module here.

    Raises PairError where a name is defined twice, or a function lacks its other half.
    """
    families = sorted(name for _, name, _ in pkgutil.iter_modules(__path__) if name[0] != "_")
    found: dict[str, Pair] = {}
    for family in families:
        for pair in pairs_of(importlib.import_module(f"{__name__}.{family}")):
            if pair.name in found:
                raise PairError(f"{pair.name} is defined in {family}.py and once before")
            found[pair.name] = pair
    return types.MappingProxyType(found)


def pairs_of(module: types.ModuleType) -> list[Pair]:
    """The pairs that a module defines; a public function without its other half is an error."""
    functions = {
        name: function
        for name, function in vars(module).items()
        if inspect.isfunction(function)
        and function.__module__ == module.__name__
        and not name.startswith("_")
    }
    pairs = []
    for name, function in functions.items():
        if name.endswith("_backward"):
            forward = name.removesuffix("_backward")
            if forward not in functions:
                raise PairError(f"{module.__name__}: {name} has no forward {forward}")
        elif f"{name}_backward" in functions:
            pairs.append(Pair.bind(function, functions[f"{name}_backward"]))
        elif name not in getattr(module, "NOT_PAIRS", ()):
            raise PairError(
                f"{module.__name__}: {name} has no backward {name}_backward; write it, or list "
                f"{name} in NOT_PAIRS"
            )
    return pairs
