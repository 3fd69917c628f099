"""Pairs as functions that autograd differentiates by their hand-written backwards.

`differentiable` makes one of a forward and its backward; every pair of the library is here ready
made, as ``backprop_ops.autograd.batchnorm``.
"""

from __future__ import annotations

import functools
import typing
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import Any, Generic, ParamSpec, TypeVar, cast

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

import backprop_ops
from backprop_ops._torch import any_autocast, apply_function, transforms_active, version
from backprop_ops.leaves import Lengths, flattened, in_dtype, parts, regrouped, takes_gradient
from backprop_ops.pair import Pair, record_of

P = ParamSpec("P")
R = TypeVar("R")


def differentiable(forward: Callable[P, R], backward: Callable[..., Any]) -> Differentiable[P, R]:
    """A function like ``forward`` that autograd differentiates by ``backward``.

    It takes what ``forward`` takes and returns what it returns. It saves what the backward names,
    until autograd releases it, and gives no gradient to an input that needs none; the backward
    computes it all the same.

    A kept field is for the backward alone: a loss that uses one raises RuntimeError in its backward
    pass, unless it is detached. The second order is autograd's through the backward, with the kept
    fields computed again from the inputs; where autograd cannot see a step of the two, or an input
    that the backward does not name is gone by then, it raises RuntimeError. Forward mode is not
    supported: the Hessian is ``jacrev(jacrev(f))``.

    Raises PairError where the two are no pair, and where the forward returns a record that neither
    its annotation nor its own code names.
    """
    return Differentiable(forward, backward)


class Differentiable(Generic[P, R]):
    """What `differentiable` returns; ``pair`` is what it is made of."""

    def __init__(self, forward: Callable[P, R], backward: Callable[..., Any]) -> None:
        functools.update_wrapper(self, forward)
        self._record = record_of(forward)
        self.pair = Pair.bind(forward, backward, self._record)
        fields = ("out",) if self._record is None else self._record._fields  # type: ignore[attr-defined]  # a NamedTuple has it
        self._function = _function(self.pair, fields)
        self._layouts = functools.cache(functools.partial(_Layout.of, self.pair, fields))

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        arguments = self.pair.arguments(args, kwargs)
        if any_autocast():
            arguments = _widest(arguments)
        lengths, values = flattened(arguments.values())
        # What is weakly held does not outlive a wrapper of `torch.func`.
        layout = self._layouts(lengths, transforms_active())
        returned = apply_function(self._function, layout, *values)
        if self._record is not None:
            returned = self._record(*returned)
        return cast(R, returned)

    def __reduce__(self) -> tuple[Any, ...]:
        return differentiable, (self.pair.forward, self.pair.backward)

    def __repr__(self) -> str:
        return f"<differentiable {self.pair.name}>"


@dataclass(frozen=True)
class Values:
    """Some of the values of a call, each by name, in the list that autograd takes."""

    names: tuple[str, ...]
    lengths: Lengths
    places: tuple[int, ...]

    def of(self, flat: Sequence[Any]) -> list[Any]:
        return [flat[place] for place in self.places]

    def by_name(self, flat: Iterable[Any]) -> dict[str, Any]:
        """What `flattened` took apart, put together."""
        values = regrouped(self.lengths, flat) if self.lengths else flat
        return dict(zip(self.names, values, strict=True))


@dataclass(frozen=True)
class _Layout:
    """Where the values of a call are, in the list of the arguments and then the fields.

    ``held``: what the second order needs besides what is ``saved``; empty where all is saved.
    """

    arguments: Values
    saved: Values
    held: Values

    @classmethod
    def of(cls, pair: Pair, fields: tuple[str, ...], lengths: Lengths, whole: bool) -> _Layout:
        parameters = (*pair.inputs, *pair.options)
        counts = dict.fromkeys((*parameters, *fields), 1)
        known = dict(zip(parameters, lengths, strict=True)) if lengths else {}
        counts.update((name, length[1]) for name, length in known.items() if length is not None)
        begins = dict(zip(counts, accumulate(counts.values(), initial=0), strict=False))

        def values(names: Iterable[str]) -> Values:
            names = tuple(names)
            places = (range(begins[name], begins[name] + counts[name]) for name in names)
            of_these = tuple(known.get(name) for name in names) if lengths else ()
            return Values(names, of_these, tuple(chain.from_iterable(places)))

        recomputes = bool(set(pair.saved) & set(pair.kept))
        unsaved = tuple(p for p in parameters if p not in pair.saved) if recomputes else ()
        if whole:
            return cls(values(parameters), values((*pair.saved, *unsaved)), values(()))
        return cls(values(parameters), values(pair.saved), values(unsaved))


def _function(pair: Pair, fields: tuple[str, ...]) -> type[torch.autograd.Function]:
    """The Function of a pair. Its arguments: the layout, and the values."""
    kept_at = tuple(i for i, name in enumerate(fields) if name in pair.kept)
    output_at = tuple(i for i, name in enumerate(fields) if name in pair.outputs)
    annotated = None if None in pair.slotted.values() else pair.slots({})

    class PairFunction(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(layout: _Layout, *values: Any) -> Any:
            result = pair.call(layout.arguments.by_name(values))
            if fields == ("out",) and isinstance(result, Tensor):
                return result
            if getattr(result, "_fields", None) != fields:
                raise TypeError(
                    f"{pair.name} must return {', '.join(fields)}, got {type(result).__name__}; "
                    f"annotate what it returns"
                )
            return _distinct(result)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            layout, *values = inputs
            ctx.set_materialize_grads(False)
            returned = output if isinstance(output, tuple) else (output,)
            flat = (*values, *returned)
            saved, held = layout.saved.of(flat), layout.held.of(flat)
            ctx.layout, ctx.slots, ctx.alone_a_sequence = layout, annotated, False
            if layout.arguments.lengths or annotated is None:
                given = layout.arguments.by_name(values)
                ctx.slots = pair.slots(given)
                ctx.alone_a_sequence = pair.alone_a_sequence(given, ctx.slots)
            ctx.save_for_backward(*[v if isinstance(v, Tensor) else None for v in saved])
            ctx.others = [None if isinstance(v, Tensor) else v for v in saved]
            ctx.held = [_Held(v) if isinstance(v, Tensor) else v for v in held]
            outputs = [returned[i] for i in output_at]
            if len(outputs) > 1:
                ctx.like = [(x.shape, x.dtype, x.device) for x in outputs]
            ctx.autocast = _autocast(outputs[0].device.type) if any_autocast() else None

        @staticmethod
        def backward(ctx: Any, *upstreams: Any) -> tuple[Any, ...]:
            for i in kept_at:
                if upstreams[i] is not None:
                    raise kept_in_a_loss(pair.name, fields[i])
            sent = [upstreams[i] for i in output_at]
            missing = [u is None for u in sent]
            if all(missing):
                return (None,) * len(ctx.needs_input_grad)
            if any(missing):
                sent = [
                    torch.zeros(shape, dtype=dtype, device=device) if u is None else u
                    for u, (shape, dtype, device) in zip(sent, ctx.like, strict=True)
                ]
            tensors = zip(ctx.saved_tensors, ctx.others, strict=True)
            saved = [other if tensor is None else tensor for tensor, other in tensors]
            known = ctx.layout.saved.by_name(saved)
            called = second_order if torch.is_grad_enabled() else first_order
            if ctx.autocast is None and not any_autocast():
                gradients = called(ctx, known, sent)
            else:  # as in the forward, whatever there is around the backward pass
                with torch.autocast(
                    sent[0].device.type, ctx.autocast, enabled=ctx.autocast is not None
                ):
                    gradients = called(ctx, known, sent)
            arguments = ctx.layout.arguments
            returned = [gradients.get(name) for name in arguments.names]
            if arguments.lengths:
                lengths = zip(returned, arguments.lengths, strict=True)
                returned = [
                    part
                    for gradient, length in lengths
                    for part in (
                        parts(gradient) if length is None or gradient else [None] * length[1]
                    )
                ]
            return None, *[
                gradient if needed else None
                for gradient, needed in zip(returned, ctx.needs_input_grad[1:], strict=True)
            ]

        @staticmethod
        def jvp(*_: Any) -> Any:
            raise NotImplementedError(
                f"{pair.name}: forward mode is not supported; the Hessian is jacrev(jacrev(f))"
            )

    upstream_names = tuple(f"d{fields[i]}" for i in output_at)

    def first_order(ctx: Any, known: dict[str, Any], sent: list[Tensor]) -> dict[str, Any]:
        known.update(zip(upstream_names, sent, strict=True))
        return pair.call_backward(known, ctx.slots, ctx.alone_a_sequence)

    def second_order(ctx: Any, known: dict[str, Any], sent: list[Tensor]) -> dict[str, Any]:
        """The gradients, as autograd can differentiate them once more."""
        eager = not transforms_active()
        if eager:
            # Each gradient is linear in them: one that does not require grad has left the graph.
            sent = [u if u.requires_grad else u.detach().requires_grad_() for u in sent]
        with _Followed(pair.name) if eager else nullcontext():
            if any(name in known for name in pair.kept):
                held = [v.tensor(pair.name) if isinstance(v, _Held) else v for v in ctx.held]
                known.update(ctx.layout.held.by_name(held))
                again = pair.fields(pair.call(known))
                known.update((name, again[name]) for name in pair.kept)
            gradients = first_order(ctx, known, sent)
        if eager:
            for x in (x for gradient in gradients.values() for x in parts(gradient)):
                if isinstance(x, Tensor) and not x.requires_grad and x.any():
                    raise _not_followed(pair.name, "its backward")
        return gradients

    PairFunction.__name__ = PairFunction.__qualname__ = pair.name
    return PairFunction


def kept_in_a_loss(name: str, field: str) -> RuntimeError:
    return RuntimeError(
        f"{name}: a loss uses {field!r}, which is kept for the backward and has no gradient; use "
        f"{field}.detach(), or compute it from the inputs"
    )


def _distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Each tensor once, since autograd takes one that is there twice for one output."""
    once = {id(value): i for i, value in reversed(list(enumerate(values)))}
    if len(once) == len(values):
        return tuple(values)
    return tuple(
        value.detach() if isinstance(value, Tensor) and once[id(value)] != i else value
        for i, value in enumerate(values)
    )


class _Held:
    """A tensor for the second order, which does not stay alive for it."""

    def __init__(self, x: Tensor) -> None:
        self.reference = weakref.ref(x)
        self.version = version(x)

    def tensor(self, name: str) -> Tensor:
        x = self.reference()
        if x is None:
            raise RuntimeError(
                f"{name}: the second order needs an input that its backward does not name, and "
                f"that is gone; keep a reference to each input until then"
            )
        if version(x) != self.version:
            raise RuntimeError(
                f"{name}: an input has been written to, and the second order needs it"
            )
        return x


# They give out numbers, or the address of them.
_OUT_OF_TORCH = {"data_ptr", "tolist", "item"}
# They take the shape of a tensor alone.
_BY_SHAPE = {
    f"{kind}_like" for kind in ("zeros", "ones", "empty", "full", "rand", "randn", "randint")
} | {f"new_{kind}" for kind in ("zeros", "ones", "empty", "full")}
# They take the shape or the dtype of the second alone.
_LIKE = {"to", "type_as", "expand_as", "view_as", "reshape_as", "broadcast_to"}


class _Followed(TorchFunctionMode):
    """Refuses each step that takes a number out of the graph: its second order would be wrong."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name == "__get__":
            name = getattr(getattr(func, "__self__", None), "__name__", name)
        if name in _BY_SHAPE:
            return result
        given = args[:1] if name in _LIKE else (*args, *(kwargs or {}).values())
        attached = any(
            takes_gradient(x) and x.requires_grad for value in given for x in parts(value)
        )
        if attached and (name in _OUT_OF_TORCH or _left(result)):
            raise _not_followed(self.name, name)
        return result


def _left(result: Any) -> bool:
    """Whether a result of attached tensors has numbers, and no graph."""
    found = [x for x in parts(result) if takes_gradient(x)]
    return bool(found) and not any(x.requires_grad for x in found)


def _not_followed(name: str, step: str) -> RuntimeError:
    return RuntimeError(
        f"{name}: autograd cannot follow {step}, so that the second order would be wrong; without "
        f"create_graph=True the first order needs no graph"
    )


def _widest(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments in the widest of their precisions: under autocast they come in several."""
    dtypes = {x.dtype for v in arguments.values() for x in parts(v) if takes_gradient(x)}
    if len(dtypes) < 2:
        return dict(arguments)
    return in_dtype(arguments, functools.reduce(torch.promote_types, dtypes))


def _autocast(device: str) -> torch.dtype | None:
    """The precision that is computed in, if it is another than the inputs'."""
    enabled = torch.is_autocast_enabled(device)
    return torch.get_autocast_dtype(device) if enabled else None


if typing.TYPE_CHECKING:  # a ready-made pair has the type of its forward
    from backprop_ops import *
else:

    def __getattr__(name):
        if name.startswith("_") or name not in backprop_ops.pairs:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        pair = backprop_ops.pairs[name]
        made = globals()[name] = differentiable(pair.forward, pair.backward)
        return made


def __dir__() -> list[str]:
    return sorted({"differentiable", *backprop_ops.pairs})
