"""The network's code as data: the line of each value, what it is made of, and a planted mistake."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor

from backprop_ops.lecture import network
from backprop_ops.lecture.network import Nodes


def forward_lines() -> dict[str, str]:
    """The line of Python that makes each value; parameters have none."""
    return {name: ast.unparse(line) for name, line in _values().items()}


def inputs_of() -> dict[str, list[str]]:
    """The values that each value is made of: the arrows of the forward pass."""
    return {
        name: [
            used.id
            for used in ast.walk(line.value)
            if isinstance(used, ast.Name) and used.id in Nodes._fields
        ]
        for name, line in _values().items()
    }


def backward_lines() -> dict[str, str]:
    """The lines of Python that make the gradient of each value: its terms, then their sum."""
    lines = _assignments(network.backward)
    return {
        name: "\n".join(
            ast.unparse(line)
            for line in lines
            if {f"d{name}", f"d{name}_1", f"d{name}_2"} & {*_targets(line)}
        )
        for name in Nodes._fields
    }


def with_wrong_sign(name: str) -> Callable[[Nodes, Tensor, Tensor], Nodes]:
    """The network's backward with a wrong sign in the gradient of one value."""
    tree = ast.parse(inspect.getsource(network.backward))
    body = tree.body[0].body  # type: ignore[attr-defined]  # a function
    line = next(
        number
        for number, line in enumerate(body)
        if isinstance(line, ast.Assign) and f"d{name}" in _targets(line)
    )
    body.insert(line + 1, ast.parse(f"d{name} = -d{name}").body[0])
    namespace: dict[str, Any] = {}
    exec(compile(tree, "<backward with a mistake>", "exec"), vars(network) | {}, namespace)
    wrong: Callable[[Nodes, Tensor, Tensor], Nodes] = namespace["backward"]
    return wrong


def _values() -> dict[str, ast.Assign]:
    return {
        name: line
        for line in _assignments(network.forward)
        for name in _targets(line)
        if len(_targets(line)) == 1 and name in Nodes._fields
    }


def _assignments(function: Callable[..., Any]) -> list[ast.Assign]:
    tree = ast.parse(inspect.getsource(function))
    return [line for line in ast.walk(tree) if isinstance(line, ast.Assign)]


def _targets(line: ast.Assign) -> list[str]:
    return [name.id for name in ast.walk(line.targets[0]) if isinstance(name, ast.Name)]
