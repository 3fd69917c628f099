"""Cross-entropy and batch normalization: the fused pairs beside all others.

``pytest --benchmark-only`` runs the benchmarks and nothing else.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pytest
import torch

from benchmarks.providers import LIMIT, PROVIDERS, Problem, names, problem
from benchmarks.turns import take_turns

LOGITS = ((32, 27), (256, 1000), (2048, 8192))
ACTIVATIONS = ((32, 64), (32, 200), (1024, 1024), (16384, 1024))
SIZES = {name: ACTIVATIONS if name == "batchnorm" else LOGITS for name in PROVIDERS}
STAGES = ("backward", "both ways")
CASES = [
    (name, shape, stage, provider)
    for name, shapes in SIZES.items()
    for shape in shapes
    for stage in STAGES
    for provider in names(name)
]
ELEMENTS = [2**power for power in range(16, 25)]
GROWTH = [
    (name, elements, provider)
    for name in ("cross_entropy", "batchnorm")
    for elements in ELEMENTS
    for provider in ("fused", "ATen kernel", LIMIT)
]


@lru_cache(1)  # the cases of one problem follow each other
def _problem(name: str, shape: tuple[int, int]) -> Problem:
    return problem(name, shape)


def measure(benchmark: Any, table: str, solved: Problem, stage: str, provider: str) -> None:
    if provider.endswith("compiled") and benchmark.disabled:
        pytest.skip("compiled for a measurement alone, which takes minutes")
    run, reference = solved.runner(provider, stage), solved.runner("fused", stage)
    if provider != LIMIT:  # nothing wrong is timed
        torch.testing.assert_close(run(), reference())
    n, c = solved.shape
    benchmark.group = f"{n} × {c}, {stage}"
    benchmark.extra_info.update(table=table, provider=provider, elements=n * c)
    take_turns(benchmark, run, reference)


@pytest.mark.parametrize(
    ("name", "shape", "stage", "provider"),
    [pytest.param(*c, id=f"{c[0]}-{c[1][0]}x{c[1][1]}-{c[2]}-{c[3]}") for c in CASES],
)
def test_fused(
    benchmark: Any, name: str, shape: tuple[int, int], stage: str, provider: str
) -> None:
    measure(benchmark, name, _problem(name, shape), stage, provider)


@pytest.mark.parametrize(
    ("name", "elements", "provider"),
    [pytest.param(*c, id=f"{c[0]}-{c[1]}-{c[2]}") for c in GROWTH],
)
def test_growth(benchmark: Any, name: str, elements: int, provider: str) -> None:
    """The backward from 2^16 to 2^24 elements, in rows of 1024."""
    shape = (elements // 1024, 1024)
    measure(benchmark, f"growth of {name}", _problem(name, shape), "backward", provider)
