"""The reference, from the signatures and the docstrings."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import backprop_ops
from docs.pairs import by_family


def checking() -> str:
    """The public names of which the pairs know nothing."""
    return "\n\n".join(_entry(x) for x in _public() if ".ops." not in x.__module__)


def reference() -> str:
    """Forward and backward of every pair by family, then the records that forwards return."""
    families = [
        (name, [f for pair in of for f in (pair.forward, pair.backward)])
        for name, of in by_family()
    ]
    records = [x for x in _public() if ".ops." in x.__module__ and isinstance(x, type)]
    return "\n\n".join(
        f"### {name}\n\n" + "\n\n".join(map(_entry, of))
        for name, of in [*families, ("records", records)]
    )


def _public() -> Iterator[object]:
    for name in dir(backprop_ops):
        x = getattr(backprop_ops, name)
        if inspect.isclass(x) or inspect.isfunction(x):
            yield x


class _Written(str):
    """An annotation as it stands in the source, without quotes."""

    __slots__ = ()
    __repr__ = str.__str__


def _signature(function: object) -> inspect.Signature:
    signature = inspect.signature(function)  # type: ignore[arg-type]  # a function
    parameters = [
        p.replace(annotation=_Written(p.annotation)) for p in signature.parameters.values()
    ]
    written = _Written(signature.return_annotation)
    return signature.replace(parameters=parameters, return_annotation=written)


def _entry(x: object) -> str:
    name = x.__name__  # type: ignore[attr-defined]  # a function or a class
    head = name if isinstance(x, type) else f"{name}{_signature(x)}"
    text = inspect.getdoc(x) or ""
    indented = "\n".join(f"    {line}".rstrip() for line in text.splitlines())
    return f"#### {name}\n\n```\n{head}\n\n{indented}\n```"
