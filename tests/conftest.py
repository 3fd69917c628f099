"""The lists of names that the tests use, and checks that the run's table leaves out."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from backprop_ops import context
from backprop_ops.lecture.data import Dataset, build_dataset, read_names


@pytest.fixture(scope="session")
def lecture_file() -> Path:
    """The lecture's own list of names, which is not part of the project."""
    file = os.environ.get("BACKPROP_OPS_NAMES")
    if not file:
        pytest.skip("BACKPROP_OPS_NAMES does not name the lecture's list of names")
    return Path(file)


@pytest.fixture(scope="session")
def lecture(lecture_file: Path) -> Dataset:
    return build_dataset(read_names(lecture_file))


@pytest.fixture(scope="session")
def embedded() -> Dataset:
    return build_dataset(read_names())


@pytest.fixture(scope="session")
def few_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short list, for what does not depend on the data."""
    file = tmp_path_factory.mktemp("names") / "few.txt"
    file.write_text("\n".join(read_names()[:400]))
    return file


@pytest.fixture(scope="session")
def few(few_file: Path) -> Dataset:
    return build_dataset(read_names(few_file))


@pytest.fixture
def unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    """For checks of what is wrong on purpose, which does not belong into the run's table."""
    quiet = replace(context.current, observe=context.Context().observe)
    monkeypatch.setattr(context, "current", quiet)
