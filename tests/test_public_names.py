"""The names that `import backprop_ops` gives."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import mypy.api
import pytest

import backprop_ops
from backprop_ops import pairs
from backprop_ops.ops import pairs_of


def test_every_pair_is_public() -> None:
    for name, pair in backprop_ops.pairs.items():
        assert getattr(backprop_ops, name) is pair.forward
        assert getattr(backprop_ops, f"{name}_backward") is pair.backward


FIXED = """assert_backward BackwardError check cmp compare compare_nodes Comparison custom_op
    differentiable Failure Index Kept Pair pairs PairError Report sum_to
    update_running_statistics BatchNorm CrossEntropy""".split()  # noqa: SIM905


@pytest.mark.parametrize("name", FIXED)
def test_public_name(name: str) -> None:
    assert name in dir(backprop_ops)
    assert getattr(backprop_ops, name) is not None


def test_type_checkers_see_what_can_be_imported() -> None:
    """The names under TYPE_CHECKING, a star's by the ``__all__`` of its module, are `dir`'s."""
    body = ast.parse(inspect.getsource(backprop_ops)).body
    (block,) = (node for node in body if isinstance(node, ast.If))
    seen = set()
    for node in block.body:
        match node:
            case ast.ImportFrom(module=str(module), names=[ast.alias(name="*")]):
                seen |= set(importlib.import_module(module).__all__)
            case ast.ImportFrom(names=names):
                seen |= {alias.asname for alias in names if not alias.asname.startswith("_")}
            case ast.AnnAssign(target=ast.Name(id=name)):
                seen.add(name)
    assert seen == set(dir(backprop_ops))
    star: dict[str, object] = {}
    exec("from backprop_ops import *", star)
    assert seen <= star.keys()


@pytest.mark.parametrize("module", sorted({p.forward.__module__ for p in pairs.values()}))
def test_all_is_what_discovery_finds(module: str) -> None:
    """Pairs, records and ``NOT_PAIRS``, in a literal list that type checkers can read."""
    loaded = importlib.import_module(module)
    own = [v for v in vars(loaded).values() if getattr(v, "__module__", None) == module]
    functions = {f for pair in pairs_of(loaded) for f in (pair.forward, pair.backward)}
    records = {v for v in own if isinstance(v, type) and not v.__name__.startswith("_")}
    expected = {v.__name__ for v in functions | records} | set(getattr(loaded, "NOT_PAIRS", ()))
    named = set(loaded.__all__)
    assert named == expected, f"__all__ lacks {expected - named}, has too many: {named - expected}"
    assert f"from {module} import *" in inspect.getsource(backprop_ops)


def test_a_misspelt_name_is_an_error_to_type_checkers(tmp_path: Path) -> None:
    file = tmp_path / "importer.py"
    file.write_text("from backprop_ops import batchnorm, wide\nfrom backprop_ops import bachnorm\n")
    out, _, status = mypy.api.run(["--follow-imports=silent", str(file)])
    assert status == 1
    assert 'Module "backprop_ops" has no attribute "bachnorm"' in out
    assert 'Module "backprop_ops" has no attribute "wide"' in out
    assert out.count("error:") == 2


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
