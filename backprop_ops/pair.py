"""The pair: a forward and its hand-written backward, bound by the names of their parameters.

A forward is a plain function. Its positional parameters are its inputs, its keyword-only parameters
are constants. It returns a Tensor, the output ``out``, or a NamedTuple: outputs first, then what is
kept for the backward, annotated `Kept`. The backward, ``<forward>_backward``, asks by name for what
it needs: ``d<output>`` is an upstream gradient, every other parameter is one of the forward's
parameters or a field of its result. It returns one gradient per slot, in the forward's order, or
one per input, with None for those that have no slot, as an ``autograd.Function`` does.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import types
import typing
from collections import namedtuple
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, TypeAlias, TypeGuard

from torch import Tensor

from backprop_ops.leaves import by_leaf, parts, takes_gradient

Kept: TypeAlias = Annotated[Tensor, "kept for the backward"]
"""A field of a forward's result that is no output: kept for the backward, without a gradient."""

Index: TypeAlias = Annotated[Tensor, "index: takes no gradient"]
"""An input that has no gradient slot: indices, targets."""

Gradient: TypeAlias = Tensor | Any
"""A gradient that is None where its input was None or a number, without a check at each use."""

_KEPT, _INDEX = typing.get_args(Kept)[1], typing.get_args(Index)[1]

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class PairError(TypeError):
    """A forward and a backward that are no pair; the message names the two and what to change."""


@dataclass(frozen=True)
class Pair:
    """A forward and its backward, bound by name.

    ``inputs``, ``options``: the forward's positional and keyword-only parameters.
    ``outputs``, ``kept``: the fields of its result. ``saved``: what the backward asks for besides
    the upstreams, which is what has to be kept in memory between the two.
    """

    name: str
    forward: Callable[..., Any]
    backward: Callable[..., Any]
    inputs: tuple[str, ...]
    options: tuple[str, ...]
    outputs: tuple[str, ...]
    kept: tuple[str, ...]
    saved: tuple[str, ...]
    slotted: Mapping[str, bool | None] = dataclasses.field(compare=False)
    """Whether an input has a gradient slot; None where no annotation says so: the call decides."""

    _defaults: dict[str, Any] = dataclasses.field(init=False, repr=False, compare=False)
    """Every parameter of the forward in order, None for one without a default."""
    _required: set[str] = dataclasses.field(init=False, repr=False, compare=False)
    _positional: tuple[str, ...] = dataclasses.field(init=False, repr=False, compare=False)
    """The backward's parameters by position, and by keyword alone."""
    _keyword: tuple[str, ...] = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Read both signatures once, since a call would take longer to read them than to run."""
        parameters = inspect.signature(self.forward).parameters.values()
        asked = inspect.signature(self.backward).parameters.values()
        read = {
            "_defaults": {p.name: None if p.default is p.empty else p.default for p in parameters},
            "_required": {p.name for p in parameters if p.default is p.empty},
            "_positional": tuple(p.name for p in asked if p.kind in _POSITIONAL),
            "_keyword": tuple(p.name for p in asked if p.kind not in _POSITIONAL),
        }
        for name, value in read.items():
            object.__setattr__(self, name, value)  # the class is frozen

    @classmethod
    def bind(
        cls,
        forward: Callable[..., Any],
        backward: Callable[..., Any],
        record: type[tuple[Any, ...]] | None = None,
    ) -> Pair:
        """Bind ``backward`` to ``forward``, or raise a PairError that says what keeps them apart.

        ``record`` is the NamedTuple that ``forward`` returns, for one whose return annotation does
        not say so.
        """
        name, name_backward = function_name(forward), function_name(backward)
        inputs, options = _parameters(forward)
        hints = parameter_hints(forward)
        slotted = {p: _has_slot(hints[p]) if p in hints else None for p in inputs}
        fields, kept = _fields(name, hints, record)

        for field in fields:
            if field in inputs or field in options:
                raise PairError(
                    f"{name}: {field!r} names both a parameter of {name} and a field of its "
                    f"result; rename one of the two"
                )
        asked = list(_signature(backward).parameters)
        if kept is None:  # not annotated: the outputs are the fields whose upstream is taken
            outputs = tuple(f for f in fields if f"d{f}" in asked)
            kept = tuple(f for f in fields if f not in outputs)
        else:
            outputs = tuple(f for f in fields if f not in kept)
        if not outputs:
            raise PairError(
                f"{name}: no output; {name} returns {_listed(fields)}, and {name_backward} takes "
                f"the upstream of none of them"
            )
        upstreams = {f"d{output}" for output in outputs}
        known = {*inputs, *options, *fields}
        for parameter in (*inputs, *options, *fields):
            if parameter in upstreams:
                raise PairError(
                    f"{name}: {parameter!r} names both the upstream gradient of "
                    f"{parameter[1:]!r} and a parameter or field of {name}; rename one of the two"
                )
        for parameter in asked:
            if parameter not in known | upstreams:
                near = difflib.get_close_matches(parameter, [*upstreams, *known], n=1)
                missing = sorted(upstreams.difference(asked))
                if near:
                    remedy = f"did you mean {near[0]!r}?"
                elif missing:
                    remedy = f"rename {parameter} to {missing[0]}"
                else:
                    remedy = f"return {parameter} in the record of {name}, after {fields[-1]}"
                raise PairError(
                    f"{name_backward} asks for {parameter!r}; {name} offers "
                    f"{_listed((*inputs, *options))} and returns {_listed(fields)}, and the "
                    f"upstreams are {_listed(sorted(upstreams))}: {remedy}"
                )
        for output in outputs:
            if f"d{output}" not in asked:
                raise PairError(
                    f"{name_backward} does not take {f'd{output}'!r}, the upstream gradient of "
                    f"{name}'s output {output!r}; take it, or annotate {output!r} as Kept"
                )
        saved = tuple(p for p in asked if p not in upstreams)
        return cls(name, forward, backward, inputs, options, outputs, kept, saved, slotted)

    def arguments(self, args: Sequence[Any], options: Mapping[str, Any]) -> dict[str, Any]:
        """Every parameter of the forward by name, options left at their defaults included."""
        given = dict(zip(self.inputs, args, strict=False))
        given.update(options)
        arguments = {**self._defaults, **given}
        once = len(given) == len(args) + len(options) and len(args) <= len(self.inputs)
        if not (once and len(arguments) == len(self._defaults) and self._required <= given.keys()):
            inspect.signature(self.forward).bind(*args, **options)  # raises the TypeError
        return arguments

    def fields(self, result: Any) -> dict[str, Any]:
        """The fields of the forward's result by name; a bare Tensor is the field ``out``."""
        if isinstance(result, Tensor):
            return {"out": result}
        if isinstance(result, tuple) and hasattr(result, "_fields"):
            return dict(zip(result._fields, result, strict=True))
        raise PairError(
            f"{self.name} must return a Tensor or a NamedTuple of Tensors, "
            f"got {type(result).__name__}"
        )

    def slots(self, arguments: Mapping[str, Any]) -> tuple[str, ...]:
        """The inputs that have a place in the returned gradients, in the forward's order."""
        return tuple(
            name
            for name, slotted in self.slotted.items()
            if slotted or (slotted is None and any(map(takes_gradient, parts(arguments[name]))))
        )

    def call(self, arguments: Mapping[str, Any]) -> Any:
        """The forward's result, of arguments as `arguments` gives them."""
        inputs = [arguments[name] for name in self.inputs]
        return self.forward(*inputs, **{name: arguments[name] for name in self.options})

    @property
    def backward_name(self) -> str:
        """The backward's own name, or one made of the forward's for a lambda."""
        own = function_name(self.backward)
        return own if own.isidentifier() else f"{self.name}_backward"

    def leaves(self, arguments: Mapping[str, Any]) -> dict[str, Tensor]:
        """Every tensor that has a gradient, by name: ``x``, and ``xs[0]`` in a sequence ``xs``."""
        slots = by_leaf({name: arguments[name] for name in self.slots(arguments)})
        return {leaf: value for leaf, value in slots.items() if takes_gradient(value)}

    def gradients(
        self, arguments: Mapping[str, Any], result: Any, upstreams: Mapping[str, Tensor]
    ) -> dict[str, Any]:
        """Call the backward and name what it returns: a gradient, or None, per slot.

        ``arguments`` as `arguments` gives them, ``result`` as the forward gave it, ``upstreams``
        by the names of the outputs.
        """
        values = {**arguments, **self.fields(result)}
        values.update((f"d{output}", upstream) for output, upstream in upstreams.items())
        slots = self.slots(arguments)
        return self.call_backward(values, slots, self.alone_a_sequence(arguments, slots))

    def alone_a_sequence(self, arguments: Mapping[str, Any], slots: tuple[str, ...]) -> bool:
        """Whether there is one slot, and it holds a sequence, which may be returned as it is."""
        return len(slots) == 1 and isinstance(arguments[slots[0]], (tuple, list))

    def call_backward(
        self, values: Mapping[str, Any], slots: tuple[str, ...], alone_a_sequence: bool
    ) -> dict[str, Any]:
        """As `gradients`, of everything that the backward asks for, by name."""
        returned = self.backward(
            *[values[name] for name in self._positional],
            **{name: values[name] for name in self._keyword},
        )
        return self._by_slot(returned, slots, alone_a_sequence)

    def _by_slot(self, returned: Any, slots: tuple[str, ...], sequence: bool) -> dict[str, Any]:
        gradients = returned if isinstance(returned, tuple) else (returned,)
        plain = isinstance(returned, (Tensor, tuple)) and not sequence
        if plain and len(gradients) == len(slots):
            return dict(zip(slots, gradients, strict=True))
        if len(slots) < len(self.inputs) == len(gradients):  # as an autograd.Function returns them
            by_input = dict(zip(self.inputs, gradients, strict=True))
            rest_is_none = all(by_input[name] is None for name in self.inputs if name not in slots)
            if rest_is_none and (not sequence or isinstance(by_input[slots[0]], (tuple, list))):
                return {name: by_input[name] for name in slots}
        if sequence and not (len(gradients) == 1 and isinstance(gradients[0], (tuple, list))):
            gradients = (gradients,)  # what a single slot holds may come as it is
        elif isinstance(returned, (list, dict, str)):
            raise PairError(
                f"{function_name(self.backward)} must return a Tensor or a tuple of them, "
                f"got {type(returned).__name__}"
            )
        if len(gradients) != len(slots):
            or_inputs = (
                f" (or for each of {_listed(self.inputs)}, None where there is no gradient)"
                if slots != self.inputs
                else ""
            )
            raise PairError(
                f"{self.name}_backward must return {len(slots)} gradient(s), "
                f"one for each of {_listed(slots)}{or_inputs}, got {len(gradients)}"
            )
        return dict(zip(slots, gradients, strict=True))


def make_record(name: str, fields: Sequence[str]) -> Any:
    """A NamedTuple whose fields are known only now."""
    return namedtuple(name, fields)


def record_of(forward: Callable[..., Any]) -> type[tuple[Any, ...]] | None:
    """The NamedTuple that a forward returns: its annotation, or the only one its code names."""
    hints = parameter_hints(forward)
    if "return" in hints:
        returns = hints["return"]
        return returns if _is_record(returns) else None
    function = inspect.unwrap(_whole(forward))
    code = getattr(function, "__code__", None)
    if code is None:
        return None
    names = inspect.getclosurevars(function)
    seen = {**names.globals, **names.nonlocals}
    records = {value for value in seen.values() if _is_record(value)}
    return records.pop() if len(records) == 1 else None


def _is_record(value: Any) -> TypeGuard[type[tuple[Any, ...]]]:
    return isinstance(value, type) and issubclass(value, tuple) and hasattr(value, "_fields")


def function_name(function: Callable[..., Any]) -> str:
    function = _whole(function)
    return getattr(function, "__name__", type(function).__name__)


def _whole(function: Any) -> Any:
    """The function that a partial calls."""
    while isinstance(function, partial):
        function = function.func
    return function


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "nothing"


def _signature(function: Callable[..., Any]) -> inspect.Signature:
    try:
        signature = inspect.signature(function)
    except ValueError:  # most of what is written in C
        raise PairError(
            f"{function_name(function)} has no signature to bind by name; wrap it in a function"
        ) from None
    for parameter in signature.parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise PairError(
                f"{function_name(function)}: {parameter} cannot be bound by name; write each "
                f"parameter out"
            )
    return signature


def _parameters(forward: Callable[..., Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    parameters = _signature(forward).parameters.values()
    inputs = tuple(p.name for p in parameters if p.kind in _POSITIONAL)
    return inputs, tuple(p.name for p in parameters if p.kind not in _POSITIONAL)


def parameter_hints(annotated: Any) -> dict[str, Any]:
    """The annotations that can be resolved; one that cannot counts as not written.

    A record defined inside a function is out of reach under ``from __future__ import annotations``.
    """
    annotated = _whole(annotated)
    if not hasattr(annotated, "__annotations__"):  # an object that can be called
        annotated = type(annotated).__call__
    try:
        return typing.get_type_hints(annotated, include_extras=True)
    except Exception:  # whatever the text of an annotation evaluates to
        hints = {}
        for name, annotation in getattr(annotated, "__annotations__", {}).items():
            lone = types.SimpleNamespace(__annotations__={name: annotation})
            try:
                hints.update(
                    typing.get_type_hints(
                        lone, getattr(annotated, "__globals__", None), include_extras=True
                    )
                )
            except Exception:  # as above
                continue
        return hints


def _has_slot(hint: Any) -> bool | None:
    """Whether an annotation is Tensor, or a union with or sequence of it; not where it is Index."""
    if typing.get_origin(hint) is Annotated:
        base, *marks = typing.get_args(hint)
        return False if _INDEX in marks else _has_slot(base)
    if isinstance(hint, type) and typing.get_origin(hint) is None:
        return issubclass(hint, Tensor) or None
    return any(_has_slot(part) for part in typing.get_args(hint)) or None


def _fields(
    name: str, hints: Mapping[str, Any], record: type[tuple[Any, ...]] | None
) -> tuple[tuple[str, ...], tuple[str, ...] | None]:
    """The fields of a forward's result, and the kept ones.

    None for those where neither the forward nor its record is annotated: the backward tells.
    """
    returns = hints.get("return", Tensor)
    if _is_record(returns):
        record = returns
    if record is None:
        if (typing.get_origin(returns) or returns) in (tuple, list, dict, types.NoneType):
            raise PairError(
                f"{name} must return a Tensor or a NamedTuple of Tensors; its annotation says "
                f"{getattr(returns, '__name__', returns)}"
            )
        return ("out",), ()
    fields: tuple[str, ...] = record._fields  # type: ignore[attr-defined]  # a NamedTuple has it
    field_hints = parameter_hints(record)
    kept = tuple(f for f in fields if _is_kept(field_hints.get(f)))
    if not kept and not hints:
        return fields, None
    outputs = tuple(f for f in fields if f not in kept)
    if fields != outputs + kept:
        raise PairError(
            f"{record.__name__}: outputs come first, then kept fields; its order is "
            f"{_listed(fields)}"
        )
    return fields, kept


def _is_kept(hint: Any) -> bool:
    return typing.get_origin(hint) is Annotated and _KEPT in typing.get_args(hint)[1:]
