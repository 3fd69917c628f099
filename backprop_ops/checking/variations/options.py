"""Options of other values: flags, numbers, words, masks, weights, and None."""

from __future__ import annotations

import enum
import inspect
import itertools
import math
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from backprop_ops.checking.acceptance import accepts, outputs_of, same_outputs
from backprop_ops.checking.case import Case, OptionSet, Reach
from backprop_ops.checking.structure import alike
from backprop_ops.checking.variations.maker import Maker
from backprop_ops.leaves import Arguments, takes_gradient, tensors
from backprop_ops.pair import parameter_hints

# What textual options of torch's own functions may be, which a forward may pass on.
WORDS = (
    *("none", "mean", "sum", "batchmean", "reflect", "replicate", "circular", "constant"),
    *("relu", "tanh", "sigmoid", "gelu", "silu"),
)

TENSORS = ("mask", "weight", "bias", "length", "offset", "pos")  # what such a name may hold


def options(maker: Maker, sample: Case) -> Iterator[Case]:
    pair, generator = maker.pair, maker.generator

    def case(name: str, value: Any, how: str | None = None, reach: Reach = "alike") -> Case:
        change = OptionSet(name, value, how, reach=reach)
        return maker.vary(sample, change, {**sample.arguments, name: value})

    words = _words(pair.forward, pair.backward)
    hints = parameter_hints(pair.forward)
    signature = inspect.signature(pair.forward).parameters
    for name, value in sample.arguments.items():
        if name in maker.fixed:
            continue
        if isinstance(value, bool):
            yield case(name, not value)
        elif isinstance(value, enum.Enum):
            yield from (case(name, other) for other in type(value) if other is not value)
        elif isinstance(value, (int, float)):
            yield from (case(name, n, reach=reach) for n, reach in _numbers(value).items())
        elif isinstance(value, str):
            literal = typing.get_origin(hints.get(name)) is typing.Literal
            known = typing.get_args(hints[name]) if literal else words
            yield from (case(name, other) for other in known if other != value)
        elif isinstance(value, (tuple, list)) and value and all(type(v) is float for v in value):
            for i in range(len(value)):
                yield case(
                    name, type(value)(v * (1.5 if j == i else 1) for j, v in enumerate(value))
                )
        elif isinstance(value, (tuple, list)) and value and all(type(v) is int for v in value):
            for i, other in enumerate(_whole_numbers(list(value))):
                yield case(name, type(value)(other), reach="beyond" if i else "alike")
        elif isinstance(value, Tensor) and value.dtype == torch.bool:
            every_other = _copied(torch.zeros_like(value))
            every_other.view(-1)[::2] = True
            coins = torch.randint(0, 2, value.shape, generator=generator).to(value.device) > 0
            yield case(name, coins, "is drawn")
            yield case(name, torch.ones_like(value), "is all true")
            yield case(name, ~value, "is the other way round")
            yield case(name, every_other, "is true at every other place")
            yield case(name, torch.zeros_like(value), "is all false", "beyond")
        elif name in pair.options and takes_gradient(value) and value.numel():
            one_zero = _copied(value)
            one_zero.view(-1)[:1] = 0
            yield case(name, alike(value, generator), "is drawn anew")
            yield case(name, torch.ones_like(value), "is all ones")
            yield case(name, value * 1.5, "is half as large again")
            yield case(name, torch.zeros_like(value), "is zero", "beyond")
            yield case(name, one_zero, "holds a zero", "beyond")
        if value is not None and (
            signature[name].default is None or types.NoneType in typing.get_args(hints.get(name))
        ):
            yield case(name, None)
        if value is None:
            yield from _in_place_of_none(maker, sample, name)


def masks(maker: Maker, case: Case) -> Iterator[Case]:
    """Masks of which all is false, or the first half, or the last."""
    for name, value in case.arguments.items():
        if isinstance(value, Tensor) and value.dtype == torch.bool and name not in maker.fixed:
            first, last = torch.ones_like(value), torch.ones_like(value)
            first[..., : value.shape[-1] // 2 if value.dim() else 0] = False
            last[..., value.shape[-1] // 2 if value.dim() else 0 :] = False
            for how, mask in (
                ("is all false", torch.zeros_like(value)),
                ("is false in its first half", first),
                ("is false in its last half", last),
            ):
                change = OptionSet(name, mask, how, reach="beyond")
                yield maker.vary(case, change, {**case.arguments, name: mask})


def _numbers(value: float) -> Mapping[float, Reach]:
    """Other numbers, and how far each goes."""
    if isinstance(value, int):
        others: dict[float, Reach] = {value + 1: "alike"}
        others |= dict.fromkeys({value - 2, value - 1, value + 2, 0, 1, -1} - {value + 1}, "beyond")
    else:
        others = {value * 1.5: "alike"}
        others |= dict.fromkeys({0.25, 0.0, 1.0, 2.0, math.inf} - others.keys(), "beyond")
    others.pop(value, None)
    return dict(sorted(others.items()))


def _in_place_of_none(maker: Maker, sample: Case, name: str) -> Iterator[Case]:
    """What an option may be that the sample leaves at None, as far as it makes a difference."""
    pair, generator = maker.pair, maker.generator
    given = list(tensors(sample.arguments).values())
    leaf = next(iter(pair.leaves(sample.arguments).values()))
    shapes = {x.shape: None for x in [*given, *outputs_of(pair, sample.arguments).values()]}
    matrices = [x for x in given if x.dim() > 1]
    for one, other in itertools.product(matrices, repeat=2):  # as scores are of queries and keys
        shapes[torch.Size((one.shape[-2], other.shape[-2]))] = None
    shapes |= {shape[d : d + 1]: None for shape in list(shapes) for d in range(len(shape))}
    sizes = sorted({n for x in given for n in x.shape if n > 1})
    shapes |= {torch.Size(two): None for two in itertools.product(sizes, repeat=2)}
    hint = parameter_hints(pair.forward).get(name)
    kinds = typing.get_args(hint) if hint else (bool, int, float)
    if name in pair.inputs or (not hint and any(word in name for word in TENSORS)):
        kinds = (Tensor,)
    numbers = [number for number in (0, 1, 0.5, 1.5, True) if type(number) in kinds]
    values: dict[str, Any] = {repr(number): number for number in numbers}
    for shape in shapes if Tensor in kinds else ():
        if not shape.numel() or (name in pair.inputs and len(shape) != 1):
            continue  # an input is as a bias: more would be broadcasting
        drawn_numbers = torch.rand(shape, generator=generator)
        if name in pair.options:
            # Each row holds both truths: a softmax of nothing is nan.
            low, high = drawn_numbers.amin(-1, True), drawn_numbers.amax(-1, True)
            mask = (drawn_numbers < 0.7) & (drawn_numbers < high) | (drawn_numbers == low)
            values[f"a mask of shape {tuple(shape)}"] = mask.to(leaf.device)
        positive = (drawn_numbers + 0.25).to(leaf.device, leaf.dtype)
        values[f"positive, of shape {tuple(shape)}"] = positive
    for n in sizes if Tensor in kinds and name in pair.options else ():  # as many as a batch has
        for most in sizes:
            lengths = 1 + torch.arange(n, device=leaf.device) % most
            values[f"lengths up to {most}, of shape {(n,)}"] = lengths
    found: list[Arguments] = []
    for how, value in values.items():
        arguments = {**sample.arguments, name: value}
        if not accepts(pair, arguments):
            continue
        # Of several that make the same of it, as 1 and True, the first will do; a whole number may
        # also name what has no gradient.
        if type(value) is int or not any(
            same_outputs(pair, known, arguments) for known in (sample.arguments, *found)
        ):
            found.append(arguments)
            yield sample.but(OptionSet(name, value, f"is {how}", reach="beyond"), arguments)


def changes_a_count(case: Case) -> bool:
    """Whether what was changed is a whole number of 1 or more, as a stride or a block is."""
    values = (change.value for change in case.changes if isinstance(change, OptionSet))
    return any(type(value) is int and value > 0 for value in values)


def sets_a_number(case: Case) -> bool:
    """Whether what was changed is a number, of which one way stands for the others."""
    values = [change.value for change in case.changes if isinstance(change, OptionSet)]
    return any(type(value) in (int, float) for value in values)


def two_options(options: list[Case]) -> Iterator[Case]:
    """Two options changed at once, each as it was accepted alone; the first two ways of each."""
    ways: dict[str, list[tuple[Case, OptionSet]]] = {}
    for case in options:
        if isinstance(case.last, OptionSet):
            of_option = ways.setdefault(case.last.option, [])
            of_option += [(case, case.last)] * (len(of_option) < 2)
    for some, others in itertools.combinations(ways.values(), 2):
        for (one, _), (other, change) in itertools.product(some, others):
            arguments = {**one.arguments, change.option: other.arguments[change.option]}
            yield one.but(replace(change, reach="beyond"), arguments)


def _whole_numbers(value: list[int]) -> Iterator[list[int]]:
    """Other sizes or dimensions: each one more or less, one moved to the next, other lengths."""
    yield [v + 1 for v in value]
    for i in range(len(value)):
        for step in (1, -1):
            yield [v + step * (j == i) for j, v in enumerate(value)]
        if i:
            yield [v + (j == i) - (j == i - 1) for j, v in enumerate(value)]
    yield value[:-1]
    yield [*value, value[-1] - 1]


def _words(*functions: Any) -> list[str]:
    """The strings in the functions' code, which are what textual options may be."""
    words = set(WORDS)
    for function in map(inspect.unwrap, functions):
        constants = getattr(getattr(function, "__code__", None), "co_consts", ())
        nested = [c if isinstance(c, (tuple, frozenset)) else (c,) for c in constants[1:]]
        words |= {c for part in nested for c in part if isinstance(c, str) and c.isidentifier()}
    return sorted(words)


def _copied(x: Tensor) -> Tensor:
    return x.detach().clone(memory_format=torch.contiguous_format)
