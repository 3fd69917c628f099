"""Torch's global state, the random generators and uninitialised memory, held still for a call."""

from __future__ import annotations

import random
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

_SURROUNDINGS: Mapping[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "the default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "the gradient mode": (torch.is_grad_enabled, torch.set_grad_enabled),
    "the number of threads": (torch.get_num_threads, torch.set_num_threads),
    "the deterministic mode": (
        torch.get_deterministic_debug_mode,
        torch.set_deterministic_debug_mode,
    ),
}
"""Global state, and how it is read and set."""


@contextmanager
def global_state_kept(changed: set[str] | None = None) -> Iterator[None]:
    """Put torch's global state back; ``changed`` gets the names of what was not as before."""
    before = [get() for get, _ in _SURROUNDINGS.values()]
    try:
        yield
    finally:
        for (what, (get, set_)), was in zip(_SURROUNDINGS.items(), before, strict=True):
            if get() != was:
                set_(was)
                if changed is not None:
                    changed.add(what)


@contextmanager
def uninitialised_is_nan() -> Iterator[None]:
    """``torch.empty`` and its like give nan, so that what reads them shows."""
    # torch.use_deterministic_algorithms would import the compiler, which takes two seconds.
    was = torch.get_deterministic_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.set_deterministic_debug_mode("warn")
        try:
            yield
        finally:
            torch.set_deterministic_debug_mode(was)


@contextmanager
def same_randomness(seed: int = 0) -> Iterator[None]:
    """The same random numbers each time, and the caller's stream left as it was."""
    numpy = sys.modules.get("numpy")
    python, of_numpy = random.getstate(), numpy and numpy.random.get_state()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        random.seed(seed)
        if numpy:
            numpy.random.seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            if numpy:
                numpy.random.set_state(of_numpy)


def random_states() -> dict[str, Any]:
    numpy = sys.modules.get("numpy")
    states = {"torch's": torch.get_rng_state().tolist(), "Python's": random.getstate()}
    return states | ({"numpy's": str(numpy.random.get_state())} if numpy else {})
