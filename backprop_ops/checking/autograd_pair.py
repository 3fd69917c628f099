"""The backward that autograd already has for a function, as a pair: a Function's, a compiled one's.

The forward keeps autograd's graph between the two calls, and the backward sends the upstreams
through it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx

from backprop_ops._torch import as_written
from backprop_ops.leaves import mapped, parts, replaced, takes_gradient
from backprop_ops.pair import Pair, function_name, make_record

_LEAVES = "attached_leaves"


@dataclass(frozen=True)
class AutogradPair(Pair):
    """The pair of ``function`` and the backward that autograd has for it."""

    function: Callable[..., Any]

    def gradient_alone(
        self, arguments: Mapping[str, Any], leaf: str, upstreams: Mapping[str, Tensor]
    ) -> Tensor | None:
        """The gradient of a leaf where no other asks for one."""
        x = self.leaves(arguments)[leaf].detach().requires_grad_()
        given = replaced(arguments, {leaf: x})
        with torch.enable_grad():
            inputs = [given[name] for name in self.inputs]
            options = {name: given[name] for name in self.options}
            fields = _named(self.name, self.function(*inputs, **options))
        flowing = [output for output in self.outputs if fields[output].requires_grad]
        if not flowing:
            return None
        results, sent = [fields[o] for o in flowing], [upstreams[o] for o in flowing]
        return torch.autograd.grad(results, x, sent, allow_unused=True)[0]


def autograd_pair(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any
) -> AutogradPair:
    """The pair of ``function`` and its own backward; ``result`` is what it makes of the sample."""
    name, inputs = _name(function), _inputs(function, len(args))
    named = _named(name, result)
    made_of = pair_of(function)
    kept = () if made_of is None else made_of.kept
    outputs = tuple(o for o, v in named.items() if takes_gradient(v) and o not in kept)
    if not outputs:
        raise TypeError(f"{name} must return a Tensor or a tuple of Tensors, got {type(result)}")
    record: Any = make_record("Attached", (*outputs, _LEAVES))

    def forward(*inputs: Any, **options: Any) -> Any:
        with torch.enable_grad():
            attached_inputs = tuple(mapped(_attach, value) for value in inputs)
            fields = _named(name, function(*attached_inputs, **options))
        leaves = tuple(v for value in attached_inputs for v in parts(value) if takes_gradient(v))
        return record(*(fields[output] for output in outputs), leaves)

    def backward(*values: Any) -> tuple[Any, ...]:
        upstreams, results = values[: len(outputs)], values[len(outputs) : 2 * len(outputs)]
        leaves = values[2 * len(outputs)]
        flowing = [(r, u) for r, u in zip(results, upstreams, strict=True) if r.requires_grad]
        # An output that nothing comes back through sends no zeros, but nothing.
        flowing = [(r, u) for r, u in flowing if u.any()] or flowing
        if not flowing:
            return (None,) * len(leaves)
        gradients = torch.autograd.grad(
            [r for r, _ in flowing],
            leaves,
            [u for _, u in flowing],
            retain_graph=True,
            allow_unused=True,
        )
        remaining = iter(gradients)
        return tuple(
            tuple(next(remaining) for _ in args[i])
            if isinstance(args[i], (tuple, list))
            else next(remaining)
            for i in slots
        )

    slots = [i for i, value in enumerate(args) if any(map(takes_gradient, parts(value)))]
    asked = (*(f"d{output}" for output in outputs), *outputs, _LEAVES)
    forward.__signature__ = _signature(inputs, kwargs)  # type: ignore[attr-defined]
    backward.__signature__ = _signature(asked, {})  # type: ignore[attr-defined]
    forward.__name__, backward.__name__ = name, f"{name}_backward"
    slotted = {name: i in slots for i, name in enumerate(inputs)}
    options = tuple(kwargs)
    saved = (*outputs, _LEAVES)
    return AutogradPair(
        name, forward, backward, inputs, options, outputs, (_LEAVES,), saved, slotted, function
    )


def own_forward(pair: AutogradPair) -> Pair | None:
    """The pair with a Function's forward as it is written, which autograd may see through."""
    owner = getattr(pair.function, "__self__", None)
    if not (isinstance(owner, type) and issubclass(owner, Function)):
        return None
    record: Any = make_record("Outputs", pair.outputs)

    def forward(*inputs: Any) -> Any:
        context = FunctionCtx()
        context.needs_input_grad = tuple(map(takes_gradient, inputs))  # type: ignore[attr-defined]
        takes_context = owner.setup_context is Function.setup_context
        result = owner.forward(*([context] if takes_context else []), *inputs)
        fields = _named(pair.name, result)
        return record(*(fields[output] for output in pair.outputs))

    return replace(pair, forward=forward)


def pair_of(function: Callable[..., Any]) -> Pair | None:
    """The pair that a function is made of, as `differentiable` and `custom_op` make one."""
    pair = getattr(function, "pair", None)
    return pair if isinstance(pair, Pair) else None


def _name(function: Callable[..., Any]) -> str:
    owner = getattr(function, "__self__", None)
    if isinstance(owner, type) and issubclass(owner, Function):
        return owner.__name__
    return function_name(as_written(function))


def _inputs(function: Callable[..., Any], count: int) -> tuple[str, ...]:
    """The names of the arguments: the function's own, or those of a Function's ``forward``."""
    owner = getattr(function, "__self__", None)
    if isinstance(owner, type) and issubclass(owner, Function):
        names = list(inspect.signature(owner.forward).parameters)
        if owner.setup_context is Function.setup_context:
            del names[:1]  # ctx
        names = names[:count]  # others have defaults
    else:
        try:
            parameters = inspect.signature(as_written(function)).parameters.values()
        except ValueError:  # most of what is written in C
            parameters = {}.values()
        positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        names = [p.name for p in parameters if p.kind in positional][:count]
    return tuple(names) if len(names) == count else tuple(f"arg{i}" for i in range(count))


def _named(name: str, result: Any) -> dict[str, Any]:
    if isinstance(result, Tensor):
        return {"out": result}
    if isinstance(result, tuple) and hasattr(result, "_fields"):
        return dict(zip(result._fields, result, strict=True))
    if isinstance(result, (tuple, list)):
        return {f"out{i}": value for i, value in enumerate(result)}
    raise TypeError(f"{name} must return a Tensor or a tuple of Tensors, got {type(result)}")


def _attach(x: Tensor) -> Tensor:
    return x.detach().requires_grad_() if takes_gradient(x) else x


def _signature(positional: tuple[str, ...], keyword: Mapping[str, Any]) -> inspect.Signature:
    parameter = inspect.Parameter
    return inspect.Signature(
        [
            *(parameter(name, parameter.POSITIONAL_OR_KEYWORD) for name in positional),
            *(parameter(name, parameter.KEYWORD_ONLY) for name in keyword),
        ]
    )
