"""The verdict of `check` alone: most of its time goes into the explanation."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any
from unittest.mock import patch

from backprop_ops.checking import checker


def unexplained() -> AbstractContextManager[Any]:
    """Reports whose failures have no mistake and no code, at the input that failed first."""
    return patch.multiple(
        checker,
        diagnosed=lambda *_: None,
        shrunk=lambda _inspector, _maker, *found_and_known: found_and_known[:3],
        reproduction=lambda *_: "",
    )
