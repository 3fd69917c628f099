"""Imports go one way: pair ← ops ← lecture, pair ← checking, and both ← homework and pages.

Every import counts: in a function, for type checkers alone, and by `import_module` too.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import backprop_ops

PACKAGE = Path(backprop_ops.__file__).parent
EXEMPT = {"__init__.py", "__main__.py", "cli.py", "pytest_plugin.py"}  # the doors, which see all
MAY_IMPORT = {
    "": set(),
    "ops": {"ops"},
    "lecture": {"ops", "lecture"},
    "checking": {"checking"},
    "homework": {"ops", "lecture", "checking", "homework"},
    "pages": {"ops", "lecture", "checking", "pages"},
}
MODULES = [
    str(path)
    for path in sorted(p.relative_to(PACKAGE) for p in PACKAGE.rglob("*.py"))
    if str(path) not in EXEMPT
]


def imports(path: str, source: str) -> Iterator[str]:
    """Every module that a source imports; names from a package may be its modules."""
    own = "backprop_ops." + path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=str(module), level=0, names=names):
                yield from (f"{module}.{alias.name}" for alias in names)
            case ast.ImportFrom():
                raise AssertionError(f"line {node.lineno}: a relative import")
            case ast.Call(func=ast.Name("import_module") | ast.Attribute(attr="import_module")):
                yield ast.unparse(node.args[0]).strip("f'\"").replace("{__name__}", own)


def against_the_arrows(path: str, source: str) -> list[str]:
    package = path.partition("/")[0] if "/" in path else ""
    parts = [name.split(".") for name in imports(path, source) if name.startswith("backprop_ops.")]
    return [
        ".".join(part)
        for part in parts
        if part[1] in MAY_IMPORT and part[1] not in MAY_IMPORT[package]
    ]


@pytest.mark.parametrize("path", MODULES)
def test_arrows(path: str) -> None:
    assert not against_the_arrows(path, (PACKAGE / path).read_text("utf-8"))


@pytest.mark.parametrize(
    "line",
    [
        "from backprop_ops.ops.loss import softmax",
        "from backprop_ops import ops",
        "import backprop_ops.lecture.network",
        "def f():\n    from backprop_ops.ops import find_pairs",
        "if TYPE_CHECKING:\n    from backprop_ops.ops.loss import CrossEntropy",
        "importlib.import_module('backprop_ops.ops')",
    ],
)
def test_every_kind_of_import_is_seen(line: str) -> None:
    assert against_the_arrows("checking/checker.py", line)
    assert not against_the_arrows("lecture/network.py", line.replace("lecture.network", "leaves"))


def test_no_module_at_the_root_hides_a_public_name() -> None:
    """The package looks names up on first use, and would hand out the module instead."""
    assert not {path.stem for path in PACKAGE.iterdir()} & set(dir(backprop_ops))
