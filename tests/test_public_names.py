"""What `import backprop_ops` gives."""

from __future__ import annotations

import subprocess
import sys

import pytest

import backprop_ops


def test_every_pair_is_public() -> None:
    for name, pair in backprop_ops.pairs.items():
        assert getattr(backprop_ops, name) is pair.forward
        assert getattr(backprop_ops, f"{name}_backward") is pair.backward


@pytest.mark.parametrize(
    "name",
    [
        "check",
        "assert_backward",
        "Report",
        "Failure",
        "BackwardError",
        "cmp",
        "compare",
        "Comparison",
        "Kept",
        "Index",
        "Pair",
        "sum_to",
        "update_running_statistics",
        "pairs",
    ],
)
def test_public_name(name: str) -> None:
    assert name in dir(backprop_ops)
    assert getattr(backprop_ops, name) is not None


@pytest.mark.parametrize("name", ["tanhh", "tanh_backwards", "_private", "backward"])
def test_unknown_name(name: str) -> None:
    with pytest.raises(AttributeError, match=f"has no attribute '{name}'"):
        getattr(backprop_ops, name)


@pytest.mark.parametrize(
    "first",
    [
        "backprop_ops.ops.elementwise",
        "backprop_ops.lecture.network",
        "backprop_ops.lecture.training",
    ],
)
def test_any_module_may_be_imported_first(first: str) -> None:
    """A pair that is looked for while its module is being imported would not be found."""
    code = f"import {first}; from backprop_ops import pairs; assert len(pairs) == {{}}"
    code = code.format(len(backprop_ops.pairs))
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import sys, backprop_ops; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
