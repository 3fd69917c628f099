"""Pairs as operators of torch, which `torch.compile` and `torch.export` leave whole.

An operator takes less than a Python function: each parameter has one type. So a parameter that may
be a Tensor or a number is two parameters of the operator, of which one is None.
"""

from __future__ import annotations

import functools
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, ParamSpec, TypeVar, cast

import torch
from torch import Tensor

from backprop_ops._torch import apply_function, memory_of, transforms_active
from backprop_ops.autograd import differentiable, kept_in_a_loss
from backprop_ops.leaves import flattened, parts, regrouped, takes_gradient
from backprop_ops.pair import Pair, PairError, parameter_hints, record_of

P = ParamSpec("P")
R = TypeVar("R")


def custom_op(forward: Callable[P, R], backward: Callable[..., Any], name: str) -> CustomOp[P, R]:
    """``forward`` as an operator of torch; in a compiled loss its kept fields are constants.

    ``name`` is a namespace and a name, as ``"mylib::tanh"``. In eager mode a loss that uses a kept
    field is an error.

    It takes what ``forward`` takes and returns what it returns, in memory of its own.
    `torch.compile` and `torch.export` see one operator with all its sizes; on fake and meta tensors
    ``forward`` is run as it is. The backward is the operator ``<name>_backward``. It has no second
    order and no forward mode: torch says so where one is asked for.

    Raises PairError where the two are no pair, or a parameter has a type that no operator of torch
    takes; ValueError where ``name`` has no namespace.
    """
    if not isinstance(name, str) or not re.fullmatch(r"\w+::\w+", name):
        raise ValueError(f'name must be like "mylib::tanh", a namespace and a name, got {name!r}')
    _made[name] = CustomOp(forward, backward, name)
    return cast(CustomOp[P, R], _made[name])


_made: dict[str, CustomOp[..., Any]] = {}


def _made_before(
    forward: Callable[..., Any], backward: Callable[..., Any], name: str
) -> CustomOp[..., Any]:
    """The operator of a copy: registered anew, it would take the place of the first."""
    return _made[name] if name in _made else custom_op(forward, backward, name)


class CustomOp(Generic[P, R]):
    """What `custom_op` returns; ``pair`` is what it is made of, ``op`` torch's operator."""

    def __init__(self, forward: Callable[P, R], backward: Callable[..., Any], name: str) -> None:
        functools.update_wrapper(self, forward)
        self._record = record_of(forward)
        self.name = name
        self.pair = Pair.bind(forward, backward, self._record)
        self._transformed = differentiable(forward, backward)  # `torch.func` takes no operator
        self._slots = _slots(self.pair)
        fields = ("out",) if self._record is None else self._record._fields  # type: ignore[attr-defined]  # a NamedTuple has it
        Operators(self.pair, self._slots, fields, name)
        namespace, _, short = name.partition("::")
        self.op = getattr(getattr(torch.ops, namespace), short).default

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        if not torch.compiler.is_compiling() and transforms_active():
            return self._transformed(*args, **kwargs)
        arguments = self.pair.arguments(args, kwargs)
        returned = self.op(*self.operands(arguments))
        if self._record is not None:
            if not torch.compiler.is_compiling():
                returned = self._guarded(returned)
            returned = self._record(*returned)
        return cast(R, returned)

    def operands(self, arguments: Mapping[str, Any]) -> list[Any]:
        """What the operator is called with, for arguments as `Pair.arguments` gives them."""
        return _passed(self._slots, arguments)

    def _guarded(self, returned: Sequence[Tensor]) -> list[Tensor]:
        """The fields, of which the kept ones refuse to be used in a loss."""
        fields: tuple[str, ...] = self._record._fields  # type: ignore[union-attr]  # it has a record
        anchor = next((x for x in returned if x.requires_grad), None)
        return [
            apply_function(_Refusing, self.pair.name, field, anchor, x)
            if anchor is not None and field in self.pair.kept and x.is_floating_point()
            else x
            for field, x in zip(fields, returned, strict=True)
        ]

    def __reduce__(self) -> tuple[Any, ...]:
        return _made_before, (self.pair.forward, self.pair.backward, self.name)

    def __repr__(self) -> str:
        return f"<custom op {self.name}>"


class _Refusing(torch.autograd.Function):
    """A kept field as part of autograd's graph, where it has no way back."""

    @staticmethod
    def forward(ctx: Any, name: str, field: str, anchor: Tensor, kept: Tensor) -> Tensor:  # noqa: ARG004
        ctx.name, ctx.field = name, field
        return kept.view_as(kept)

    @staticmethod
    def backward(ctx: Any, *upstreams: Any) -> Any:  # noqa: ARG004
        raise kept_in_a_loss(ctx.name, ctx.field)


def _is_list_of(*types: type) -> Callable[[Any], bool]:
    return lambda value: (
        isinstance(value, (list, tuple)) and all(isinstance(part, types) for part in value)
    )


# The types of an operator's parameters, and which values each takes, in the order of asking.
TAKEN: dict[str, Callable[[Any], bool]] = {
    "Tensor": lambda value: isinstance(value, Tensor),
    "bool": lambda value: isinstance(value, bool),
    "SymInt": lambda value: isinstance(value, (int, torch.SymInt)),
    "Scalar": lambda value: isinstance(value, (int, float, torch.SymInt, torch.SymFloat)),
    "str": lambda value: isinstance(value, str),
    "ScalarType": lambda value: isinstance(value, torch.dtype),
    "Device": lambda value: isinstance(value, torch.device),
    "SymInt[]": _is_list_of(int, torch.SymInt),
    "Tensor[]": _is_list_of(Tensor),
    "float[]": _is_list_of(int, float),
}
OF_HINT = {
    bool: "bool",
    int: "SymInt",
    float: "Scalar",
    str: "str",
    torch.dtype: "ScalarType",
    torch.device: "Device",
    torch.Size: "SymInt[]",
}
LISTS = {"SymInt": "SymInt[]", "Tensor": "Tensor[]", "Scalar": "float[]"}


@dataclass(frozen=True)
class Slot:
    """A parameter of the operator: a value of ``name``, where it is of this type."""

    name: str
    type: str
    alone: bool
    optional: bool
    default: Any

    @property
    def label(self) -> str:
        kind = self.type.replace("[]", "s").lower()
        return self.name if self.alone else f"{self.name}_{kind}"

    @property
    def nothing(self) -> list[Any] | None:
        """What stands for no value; torch has no list of Tensors that is None."""
        return [] if self.type == "Tensor[]" else None

    @property
    def written_default(self) -> str | None:
        """The default in the schema's words; None where it has none for it."""
        default = list(self.default) if isinstance(self.default, tuple) else self.default
        if isinstance(default, str):
            return f'"{default}"'
        known = default is None or isinstance(default, (bool, int, float, list))
        return str(default) if known and self.type != "Tensor[]" else None

    def declared(self, *, with_default: bool) -> str:
        mark = "?" if self.optional and self.nothing is None else ""
        default = f"={self.written_default}" if with_default else ""
        return f"{self.type}{mark} {self.label}{default}"

    def takes(self, value: Any) -> bool:
        return TAKEN[self.type](value)


def _slots(pair: Pair) -> tuple[Slot, ...]:
    """The parameters of the operator, in the order of the forward's."""
    hints = parameter_hints(pair.forward)
    parameters = inspect.signature(pair.forward).parameters
    slots: list[Slot] = []
    for name in (*pair.inputs, *pair.options):
        hint = hints.get(name, Any)
        kinds = list(dict.fromkeys(_kinds(hint)))
        wrong = [kind for kind in kinds if kind not in TAKEN and kind != "None"]
        if wrong:
            raise PairError(
                f"{pair.name}: {name} cannot be passed to an operator of torch: it takes Tensors, "
                f"numbers, strings, dtypes, devices and lists of numbers or Tensors, and the "
                f"annotation says {wrong[0]}"
            )
        default = parameters[name].default
        optional = "None" in kinds or len(kinds) > 1 or hint is Any or default is None
        of_none = [kind for kind in kinds if kind != "None"]
        chosen = next((kind for kind in of_none if TAKEN[kind](default)), None)
        for kind in of_none:
            given = default if kind == chosen else None
            given = inspect.Parameter.empty if default is inspect.Parameter.empty else given
            slots.append(Slot(name, kind, len(of_none) == 1, optional, given))
    return tuple(slots)


def _kinds(hint: Any) -> Iterator[str]:
    """The types of an operator that an annotation comes to; the annotation itself for no type."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        yield from TAKEN
    elif hint is types.NoneType or hint is None:
        yield "None"
    elif origin is typing.Annotated:
        yield from _kinds(arguments[0])
    elif origin in (typing.Union, types.UnionType):
        yield from (kind for argument in arguments for kind in _kinds(argument))
    elif origin is Literal:
        yield from (kind for argument in arguments for kind in _kinds(type(argument)))
    elif isinstance(origin, type) and issubclass(origin, Sequence):
        inside = {kind for part in arguments if part is not ... for kind in _kinds(part)}
        kind = inside.pop() if len(inside) == 1 else ""
        yield LISTS.get(kind, str(hint))
    elif isinstance(hint, type) and issubclass(hint, Tensor):
        yield "Tensor"
    elif isinstance(hint, type) and hint in OF_HINT:
        yield OF_HINT[hint]
    else:
        yield str(hint)


def _passed(slots: Iterable[Slot], values: Mapping[str, Any]) -> list[Any]:
    """The arguments of the operator. A value goes to the first slot that takes it."""
    passed: list[Any] = []
    waiting = {name: value for name, value in values.items() if value is not None}
    for slot in slots:
        value = waiting.get(slot.name)
        if value is not None and slot.takes(value):
            del waiting[slot.name]
            passed.append(list(value) if isinstance(value, tuple) else value)
        else:
            passed.append(slot.nothing)
    for name, value in waiting.items():
        if any(slot.name == name for slot in slots):
            types = " or ".join(slot.type for slot in slots if slot.name == name)
            raise TypeError(f"{name} must be {types}, got {type(value).__name__}")
    return passed


def _received(slots: Sequence[Slot], passed: Sequence[Any]) -> dict[str, Any]:
    """What `_passed` passed, by name; torch leaves out the last ones that are at their defaults."""
    values: dict[str, Any] = dict.fromkeys(slot.name for slot in slots)
    defaults = [slot.default for slot in slots[len(passed) :]]
    for slot, value in zip(slots, (*passed, *defaults), strict=True):
        empty = isinstance(value, list) and value == slot.nothing
        if values[slot.name] is None and not empty:
            values[slot.name] = tuple(value) if isinstance(value, list) else value
    return values


def _schema(slots: Sequence[Slot], first: Sequence[str], returns: str) -> str:
    """Defaults for the last slots alone, as torch demands; beside a list of Tensors for none.

    torch leaves out arguments at their defaults, and then counts the gradients of a list wrongly.
    """
    plain = [slot.written_default is None for slot in slots]
    lists = any(slot.type == "Tensor[]" for slot in slots)
    begin = len(plain) if lists or first else len(plain) - [*plain[::-1], True].index(True)
    declared = [slot.declared(with_default=place >= begin) for place, slot in enumerate(slots)]
    return f"({', '.join((*first, *declared))}) -> {returns}"


SHAPES = ("SymInt[] sizes", "int[] ranks", "ScalarType[] dtypes", "int[] counts")
"""Of the gradients, for the backward of fake tensors: the sizes of all in one list, how many are
whose, the dtypes, and how many gradients each input has: -1 for one that is no sequence.
"""


class Operators:
    """The operator of a pair and that of its backward, which torch calls with a list of values."""

    def __init__(
        self, pair: Pair, slots: tuple[Slot, ...], fields: tuple[str, ...], name: str
    ) -> None:
        self.pair, self.slots, self.fields, self.name = pair, slots, fields, name
        self.upstreams = tuple(f"d{output}" for output in pair.outputs)
        self.taking = tuple(p for p in pair.inputs if pair.slotted[p] is not False)
        empty = inspect.Parameter.empty
        self.saved = tuple(
            slot
            for p in pair.saved
            for slot in (
                [Slot(p, "Tensor", alone=True, optional=False, default=empty)]
                if p in fields
                else [slot for slot in slots if slot.name == p]
            )
        )
        self.bare = fields == ("out",)
        returns = "Tensor" if self.bare else f"({', '.join(['Tensor'] * len(fields))})"
        self.forward = torch.library.custom_op(
            name, self.run, mutates_args=(), schema=_schema(slots, (), returns)
        )
        self.forward.register_fake(self.run)
        self.forward.register_autograd(self.differentiate, setup_context=self.save)
        first = (*(f"Tensor {upstream}" for upstream in self.upstreams), *SHAPES)
        self.backward = torch.library.custom_op(
            f"{name}_backward",
            self.run_backward,
            mutates_args=(),
            schema=_schema(self.saved, first, "Tensor[]"),
        )
        self.backward.register_fake(self.empty_gradients)

    def run(self, *passed: Any) -> Any:
        values = _received(self.slots, passed)
        result = self.pair.fields(self.pair.call(values))
        if tuple(result) != self.fields or not all(isinstance(x, Tensor) for x in result.values()):
            found = ", ".join(f"{n}: {type(x).__name__}" for n, x in result.items())
            raise TypeError(
                f"{self.name}: {self.pair.name} must return the Tensors {', '.join(self.fields)}, "
                f"got {found}"
            )
        own = _own(result.values(), given=values.values())
        return own[0] if self.bare else tuple(own)

    def run_backward(self, *passed: Any) -> list[Tensor]:
        count = len(self.upstreams)
        counts = dict(zip(self.taking, passed[count + 3], strict=True))
        values = _received(self.saved, passed[count + len(SHAPES) :])
        values.update(zip(self.upstreams, passed[:count], strict=True))
        slots = tuple(name for name, n in counts.items() if self.pair.slotted[name] or n)
        alone_a_sequence = len(slots) == 1 and counts[slots[0]] > 0
        gradients = self.pair.call_backward(values, slots, alone_a_sequence)
        flat: list[tuple[str, Tensor | None]] = []
        for name, n in counts.items():
            given = gradients.get(name)
            flat += [(name, x) for x in (parts(given) if given is not None else [None] * abs(n))][
                : abs(n)
            ]
        whole = [
            self.fitted(name, given, empty)
            for (name, given), empty in zip(flat, self.empty_gradients(*passed), strict=True)
        ]
        return _own(whole, given=passed)

    def fitted(self, name: str, gradient: Tensor | None, empty: Tensor) -> Tensor:
        """A gradient as `empty_gradients` announces it: torch checks no shape in here."""
        if gradient is None:
            return empty.zero_()
        if gradient.shape != empty.shape:
            raise RuntimeError(
                f"{self.pair.name}_backward: d{name} must be of {name}'s shape "
                f"{tuple(empty.shape)}, got {tuple(gradient.shape)}"
            )
        return gradient.to(empty.dtype).contiguous()

    def empty_gradients(self, *passed: Any) -> list[Tensor]:
        sizes, ranks, dtypes = passed[len(self.upstreams) :][:3]
        rest = iter(sizes)
        return [
            passed[0].new_empty([next(rest) for _ in range(rank)], dtype=dtype)
            for rank, dtype in zip(ranks, dtypes, strict=True)
        ]

    def save(self, ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.set_materialize_grads(False)
        values = _received(self.slots, inputs)
        returned = dict(zip(self.fields, (output,) if self.bare else output, strict=True))
        kept = [returned[field] for field in self.pair.kept]
        if kept:  # an empty call is what a compiler cannot follow
            ctx.mark_non_differentiable(*kept)
        leaves = [x for p in self.taking for x in parts(values[p]) if takes_gradient(x)]
        ctx.shapes = (
            [size for x in leaves for size in x.shape],
            [x.dim() for x in leaves],
            [x.dtype for x in leaves],
            [_count(values[p]) for p in self.taking],
        )
        ctx.outputs = [(returned[o].shape, returned[o].dtype) for o in self.pair.outputs]
        # Which values of the call take a gradient; a list for a list of Tensors, as torch asks.
        ctx.taking = [
            [slot.name in self.taking and takes_gradient(x) for x in value]
            if slot.type == "Tensor[]"
            else slot.name in self.taking and takes_gradient(value)
            for slot, value in zip(self.slots, inputs, strict=False)
        ]
        ctx.lengths, flat = flattened(_passed(self.saved, {**values, **returned}))
        ctx.save_for_backward(*[x if isinstance(x, Tensor) else None for x in flat])
        ctx.others = [None if isinstance(x, Tensor) else x for x in flat]

    def differentiate(self, ctx: Any, *sent: Any) -> tuple[Any, ...]:
        given = dict(zip(self.fields, sent, strict=True))
        flowing = [given[output] for output in self.pair.outputs]
        some = next((u for u in flowing if u is not None), None)
        if some is None:
            return tuple([None] * len(t) if isinstance(t, list) else None for t in ctx.taking)
        full = [
            some.new_zeros(shape, dtype=dtype) if u is None else u
            for u, (shape, dtype) in zip(flowing, ctx.outputs, strict=True)
        ]
        tensors = zip(ctx.saved_tensors, ctx.others, strict=True)
        flat = [other if x is None else x for x, other in tensors]
        gradients = iter(self.backward(*full, *ctx.shapes, *regrouped(ctx.lengths, flat)))
        return tuple(
            [next(gradients) if leaf else None for leaf in taking]
            if isinstance(taking, list)
            else next(gradients)
            if taking
            else None
            for taking in ctx.taking
        )


def _count(value: Any) -> int:
    if isinstance(value, (tuple, list)):
        return len(value) if any(map(takes_gradient, value)) else 0
    return -int(takes_gradient(value))


def _own(results: Iterable[Tensor], given: Iterable[Any]) -> list[Tensor]:
    """The results, each in memory that neither an argument nor another result has."""
    taken = {memory_of(x) for value in given for x in parts(value) if isinstance(x, Tensor)}
    own = []
    for result in results:
        own.append(result.clone() if memory_of(result) in taken else result)
        taken.add(memory_of(own[-1]))
    return own
