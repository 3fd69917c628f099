"""Settings for every run of pytest here: profiles, and which tests run."""

from __future__ import annotations

import os

import pytest
import torch
from hypothesis import settings

if "PYTEST_XDIST_WORKER" in os.environ:  # the workers share the cores
    torch.set_num_threads(1)

settings.register_profile("dev", deadline=None, max_examples=20)
settings.register_profile("ci", deadline=None, max_examples=20, derandomize=True)
settings.register_profile("deep", deadline=None, max_examples=500)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if "CI" in os.environ else "dev"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="where the pairs are tested: cuda, mps, xpu")


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> str:
    """The device of the run, where this machine has it."""
    name = str(request.config.getoption("--device"))
    try:
        torch.ones(1, device=name).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        pytest.skip(f"no device {name} here: {str(error).splitlines()[0]}")
    return name


def pytest_configure(config: pytest.Config) -> None:
    """A run in CI draws what the last one drew, as Hypothesis does under the profile `ci`."""
    if "CI" in os.environ and config.getoption("backward_seed") is None:
        config.option.backward_seed = 0


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """`pytest` runs no timing, and `pytest --benchmark-only` runs nothing else."""
    if config.getoption("benchmark_disable"):  # timings as tests, once each
        return
    only = config.getoption("benchmark_only")
    selected = [item for item in items if ("benchmark" in item.fixturenames) == only]
    config.hook.pytest_deselected(items=[item for item in items if item not in selected])
    items[:] = selected
