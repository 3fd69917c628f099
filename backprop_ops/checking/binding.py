"""What a check is asked: the pair, its sample, its oracle and its domain, or a refusal."""

from __future__ import annotations

import difflib
import functools
import inspect
import os
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from backprop_ops import context
from backprop_ops.checking.acceptance import OutsideDomain, outputs_of
from backprop_ops.checking.autograd_pair import AutogradPair, autograd_pair, own_forward, pair_of
from backprop_ops.checking.calling import Oracle
from backprop_ops.checking.case import FAMILIES, REACHES, Reach
from backprop_ops.checking.finding import PROPERTIES
from backprop_ops.checking.isolation import Crashed, forked
from backprop_ops.checking.judging import Undifferentiable, autograd
from backprop_ops.checking.structure import Structures
from backprop_ops.checking.variations.maker import PRECISIONS
from backprop_ops.leaves import Arguments, copied, tensors
from backprop_ops.pair import Pair, function_name, make_record

BUDGET = 180.0  # seconds of the processor, which a right backward seldom needs

Domain = Callable[..., Any] | Mapping[str, Callable[[Tensor], Tensor]]
"""A predicate of named arguments, or by their names what takes any tensor into the domain."""


@dataclass(frozen=True)
class Question:
    """One check.

    ``pair``: its forward raises where the domain's predicate says no. ``fixed``: the options that
    the reference, or the function whose gradient it is on purpose, does not take.
    """

    pair: Pair
    oracle: Oracle
    arguments: Arguments
    maps: Mapping[str, Callable[[Tensor], Tensor]]
    fixed: frozenset[str]
    reach: Reach
    dtypes: tuple[torch.dtype, ...]
    budget: float
    seconds: float | None
    isolate: bool
    skip: frozenset[str]
    seed: int


def question(
    forward: Callable[..., Any],
    backward: Callable[..., Any] | None,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None,
    *,
    reference: Callable[..., Any] | None,
    gradient_of: Callable[..., Any] | None,
    domain: Domain | None,
    reach: str | None,
    dtypes: Iterable[str] | None,
    budget: float,
    seconds: float | None,
    isolate: bool,
    seed: int | None,
    skip: Iterable[str],
) -> Question:
    """The arguments of `check`, validated and bound."""
    kwargs = {} if kwargs is None else kwargs
    name = function_name(forward)
    if not isinstance(args, tuple):
        raise TypeError(f"args must be a tuple of {name}'s arguments, got {_type(args)}")
    if not isinstance(kwargs, Mapping):
        raise TypeError(f"kwargs must be a dict of {name}'s options, got {_type(kwargs)}")
    if seed is not None and not isinstance(seed, int):
        raise TypeError(f"seed must be an integer, got {_type(seed)}")
    for role, function in (("reference", reference), ("gradient_of", gradient_of)):
        if function is not None and not callable(function):
            raise TypeError(f"{role} must be a function, got {_type(function)}")
    for name, limit in (("budget", budget), ("seconds", seconds)):
        limited = name == "budget" or limit is not None
        if limited and not (isinstance(limit, (int, float)) and limit > 0):
            raise ValueError(f"{name} must be a number of seconds above zero, got {limit!r}")
    if isolate:
        _can_isolate(forward, args, kwargs)
    skipped = _skipped(skip, *context.current.skips)
    reached, precisions = _reach(reach), _dtypes(dtypes)
    seed = context.current.seed if seed is None else seed
    seed = random.SystemRandom().getrandbits(32) if seed is None else seed

    pair, arguments = _bind(forward, backward, args, kwargs)
    made_of = pair_of(forward) if backward is None else None
    if reference is None and made_of is not None:
        reference = made_of.forward
    inside, maps = _domain(domain, pair, arguments)
    guarded = functools.partial(_guarded, inside=inside)
    oracle = _oracle(pair, arguments, reference, gradient_of, guarded)
    fixed = _fixed(pair, reference, gradient_of)
    return Question(
        guarded(pair),
        oracle,
        arguments,
        maps,
        fixed,
        reached,
        precisions,
        budget,
        seconds,
        isolate,
        skipped,
        seed,
    )


def _oracle(
    pair: Pair,
    arguments: Arguments,
    reference: Callable[..., Any] | None,
    gradient_of: Callable[..., Any] | None,
    guarded: Callable[[Pair], Pair],
) -> Oracle:
    compared, structures = None, Structures.shown_by(arguments)
    if reference is not None:
        with _on_the_sample(reference, "reference"):
            compared = _in_its_mode(_with_forward(pair, reference), arguments)
        if reference is pair.forward:
            compared = None
    if gradient_of is not None:
        with _on_the_sample(gradient_of, "gradient_of"):
            smooth = _in_its_mode(_with_forward(pair, gradient_of), arguments)
            outputs = outputs_of(smooth, arguments)
        try:
            autograd(smooth, arguments, {n: torch.ones_like(u) for n, u in outputs.items()})
        except Undifferentiable:
            raise ValueError(
                f"gradient_of must be a function that autograd differentiates; of "
                f"{function_name(gradient_of)} it makes no graph"
            ) from None
        return Oracle(smooth, smooth, compared, on_purpose=True, structures=structures)
    if compared is not None:
        return Oracle(compared, guarded(compared), compared, structures=structures)
    if isinstance(pair, AutogradPair):
        written = _differentiated(own_forward(pair), arguments)
        return Oracle(written, guarded(pair), confirmed=True, structures=structures)
    return Oracle(pair, guarded(pair), structures=structures)


def _differentiated(pair: Pair | None, arguments: Arguments) -> Pair | None:
    """The pair, if autograd sees through its forward on the sample."""
    if pair is None:
        return None
    try:
        own = copied(arguments)
        autograd(pair, own, outputs_of(pair, own))
    except Exception:  # as of a kernel, or of what a Function alone may do
        return None
    return pair


def _bind(
    forward: Callable[..., Any],
    backward: Callable[..., Any] | None,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> tuple[Pair, dict[str, Any]]:
    """The pair and the sample, every argument by name; refused where one is unfit."""
    name = function_name(forward)
    for role, function in (("forward", forward), ("backward", backward)):
        if not callable(function) and not (role == "backward" and function is None):
            raise TypeError(f"{role} must be a function, got {_type(function)}")
    with _on_the_sample(forward, "forward"):
        result = forward(*args, **kwargs)
    if backward is None:
        pair: Pair = autograd_pair(forward, args, kwargs, result)
    else:
        record = type(result) if isinstance(result, tuple) and hasattr(result, "_fields") else None
        pair = Pair.bind(forward, backward, record)
    arguments = pair.arguments(args, kwargs)
    if backward is None:
        with _on_the_sample(forward, "forward"):
            result = pair.call(arguments)
    fields = pair.fields(result)
    for output in pair.outputs:
        value = fields[output]
        if not isinstance(value, Tensor) or not value.is_floating_point():
            got = value.dtype if isinstance(value, Tensor) else _type(value)
            raise ValueError(f"{name}'s output {output!r} must be a floating Tensor, got {got}")
        if not value.isfinite().all():
            raise ValueError(
                f"{name}'s output {output!r} is inf or nan on the sample: give a sample of which "
                f"the forward makes something finite"
            )
    if any(isinstance(value, Tensor) and value.is_complex() for value in arguments.values()):
        raise ValueError(f"{name}: complex inputs are not supported")
    if not pair.leaves(arguments):
        raise ValueError(f"{name}: the sample has no floating Tensor to take a gradient of")
    with _on_the_sample(forward, "forward"):
        return _in_its_mode(pair, arguments), arguments


def _can_isolate(
    forward: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> None:
    """Refuse what cannot run in a forked process, and a forward that crashes on the sample."""
    if not hasattr(os, "fork"):
        raise ValueError("isolate: this system cannot fork a process")
    for i, value in enumerate([*args, *kwargs.values()]):
        for x in tensors({str(i): value}).values():
            if x.device.type != "cpu":
                raise ValueError(f"isolate: works on the CPU alone, got a Tensor on {x.device}")

    def rehearsal() -> None:
        with suppress(Exception):  # to be refused where it is called in earnest
            forward(*args, **kwargs)

    try:
        forked(rehearsal)
    except Crashed as error:
        raise ValueError(f"{function_name(forward)}, the forward, {error} on the sample") from error


@contextmanager
def _on_the_sample(function: Callable[..., Any], role: str) -> Iterator[None]:
    """Whatever the function raises here refuses the sample; later it has no case."""
    try:
        yield
    except Exception as error:
        raise ValueError(
            f"{function_name(function)}, the {role}, raises {_type(error)} on the sample: {error}"
        ) from error


def _in_its_mode(pair: Pair, arguments: Arguments) -> Pair:
    """The pair, whose forward turns the gradient mode on if it raises without it."""
    copies = copied(arguments)
    try:
        outputs_of(pair, copies)
    except Exception:
        pair = replace(pair, forward=torch.enable_grad()(pair.forward))
        outputs_of(pair, copies)
    return pair


def _with_forward(pair: Pair, function: Callable[..., Any]) -> Pair:
    """The pair with another forward, of whose result the outputs are taken, by name or in order."""
    record = make_record("Outputs", pair.outputs)
    asked = _asked_by_name(function, (*pair.inputs, *pair.options))

    def forward(*inputs: Any, **options: Any) -> Any:
        if asked is None:
            result = function(*inputs, **options)
        else:
            given = {**dict(zip(pair.inputs, inputs, strict=True)), **options}
            result = function(**{name: given[name] for name in asked})
        if isinstance(result, Tensor):
            return record(result)
        if set(pair.outputs) <= set(getattr(result, "_fields", ())):
            return record(*(getattr(result, name) for name in pair.outputs))
        return record(*result[: len(pair.outputs)])

    return replace(pair, forward=forward)


def _fixed(pair: Pair, *functions: Callable[..., Any] | None) -> frozenset[str]:
    fixed: set[str] = set()
    for function in functions:
        asked = function and _asked_by_name(function, (*pair.inputs, *pair.options))
        fixed |= set(pair.options).difference(asked or pair.options)
    return frozenset(fixed)


def _asked_by_name(function: Callable[..., Any], known: Iterable[str]) -> tuple[str, ...] | None:
    """The arguments that a function takes, if all have names that the forward's have too."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # most of what is written in C
        return None
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    names = tuple(p.name for p in parameters if p.name in known or p.default is p.empty)
    fits = all(p.kind in named for p in parameters) and set(names) <= set(known)
    return names if fits and names else None


def _guarded(pair: Pair, inside: Callable[[Arguments], bool] | None) -> Pair:
    """The pair, whose forward raises outside of the domain."""
    if inside is None:
        return pair
    plain = pair.forward

    @functools.wraps(plain)
    def forward(*inputs: Any, **options: Any) -> Any:
        if not inside({**dict(zip(pair.inputs, inputs, strict=True)), **options}):
            raise OutsideDomain
        return plain(*inputs, **options)

    return replace(pair, forward=forward)


def _domain(
    domain: Domain | None, pair: Pair, arguments: Arguments
) -> tuple[Callable[[Arguments], bool] | None, Mapping[str, Callable[[Tensor], Tensor]]]:
    """The domain as a predicate of all arguments, and the maps into it."""
    known = (*pair.inputs, *pair.options)
    if domain is None:
        return None, {}
    if isinstance(domain, Mapping):
        _all_known("domain", domain, known, pair)
        for name, into in domain.items():
            if not callable(into):
                raise TypeError(f"domain: {name!r} must have a function, got {_type(into)}")
        return None, domain
    if not callable(domain):
        raise TypeError(f"domain must be a predicate or a dict of functions, got {_type(domain)}")
    asked = tuple(inspect.signature(domain).parameters)
    _all_known("domain", asked, known, pair)
    predicate = domain

    def inside(arguments: Arguments) -> bool:
        try:
            return bool(predicate(*(arguments[name] for name in asked)))
        except Exception:  # what cannot be asked is no member
            return False

    if not inside(arguments):
        raise ValueError(f"domain: the predicate is false on {pair.name}'s sample")
    return inside, {}


def _all_known(role: str, names: Iterable[str], known: Iterable[str], pair: Pair) -> None:
    known = tuple(known)
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f": did you mean {near[0]!r}?" if near else f", which takes {', '.join(known)}"
            raise ValueError(f"{role}: {name!r} is no argument of {pair.name}{hint}")


def _reach(reach: str | None) -> Reach:
    asked = context.current.reach if reach is None else reach
    if asked is None:
        return "beyond"
    for known in REACHES:
        if asked == known:
            return known
    raise ValueError(f"reach must be one of {', '.join(map(repr, REACHES))}, got {asked!r}")


def _dtypes(names: Iterable[str] | None) -> tuple[torch.dtype, ...]:
    known = {str(dtype).removeprefix("torch."): dtype for dtype in PRECISIONS}
    if names is None:
        return PRECISIONS
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise TypeError(f"dtypes must be several of {', '.join(known)}, got {names!r}")
    for name in (names := tuple(names)):
        if name not in known:
            raise ValueError(f"dtypes: {name!r} is none of {', '.join(known)}")
    return tuple(known[name] for name in names)


def _skipped(*skips: str | Iterable[str]) -> frozenset[str]:
    """All that is not to be tried; refused where a word is neither a property nor a family."""
    names: set[str] = set()
    for skip in skips:
        several = isinstance(skip, Iterable) and not isinstance(skip, str)
        some: tuple[Any, ...] = tuple(skip) if several else (skip,)
        if not all(isinstance(name, str) for name in some):
            raise TypeError(f"skip must be a name or several names, got {skip!r}")
        names.update(some)
    known = (*PROPERTIES, *FAMILIES)
    for name in sorted(names.difference(known)):
        if " " not in name and "=" not in name:  # as the text of every variation has
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"the names are {', '.join(known)}"
            raise ValueError(f"skip: {name!r} is no property and no family of variations: {hint}")
    return frozenset(names)


def _type(value: object) -> str:
    return type(value).__name__
