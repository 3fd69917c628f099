"""The harder cases made of one sample: upstreams, layouts, shapes, values, options, precisions."""

from __future__ import annotations

import enum
import inspect
import itertools
import math
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from backprop_ops.checking.judging import autograd
from backprop_ops.leaves import Arguments, mapped, parts, replaced, takes_gradient, tensors
from backprop_ops.pair import Pair, parameter_hints

Change = Callable[[Tensor], Tensor]

Family = Literal[
    "upstreams",
    "layouts",
    "options",
    "indices",
    "values",
    "inputs",
    "sizes",
    "precisions",
    "calls",
]
"""What kind of variation a case is; `surroundings.calls` makes the last kind."""
FAMILIES: tuple[str, ...] = typing.get_args(Family)

BEYOND_BLOCKS = (129, 1025)  # where a kernel that works in blocks has a tail
MOST_ELEMENTS = 2**13  # of a sample that is made larger
MOST_VARIED = 2**12  # of one that is varied further
MOST_OUTPUTS = 2**16  # of what the forward makes of it
ENOUGH_ELEMENTS = 2**10  # of what the harder cases are made of; a larger sample is made smaller
_Place = tuple[str, int]
"""A dimension of a tensor: the name of the argument or leaf, and which dimension."""

# What textual options of torch's own functions may be, which a forward may pass on.
WORDS = (
    *("none", "mean", "sum", "batchmean", "reflect", "replicate", "circular", "constant"),
    *("relu", "tanh", "sigmoid", "gelu", "silu"),
)
IGNORED = -100  # torch's ignore_index where a forward names none
PRECISIONS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Case:
    """One call to judge.

    ``variation`` says how it differs from the caller's own sample, ``family`` what kind of
    variation it is. The upstreams are dense ones drawn by ``seed``, after ``change``; those in
    ``alone`` apart they are zero.
    """

    variation: str | None
    family: Family | Literal["sample", "contiguous"]
    arguments: Arguments
    seed: int
    change: Change | None = None
    alone: str | None = None

    def upstreams(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        upstreams = {}
        for i, (name, output) in enumerate(outputs.items()):
            upstream = drawn(output, self.seed + i)
            if self.alone is not None and name != self.alone:
                upstream = torch.zeros_like(upstream)
            upstreams[name] = self.change(upstream) if self.change else upstream
        return upstreams


def drawn(output: Tensor, seed: int) -> Tensor:
    """A dense upstream of short random numbers, none of them zero."""
    generator = torch.Generator().manual_seed(seed)
    hundredths = torch.randint(25, 200, output.shape, generator=generator)
    signs = torch.randint(0, 2, output.shape, generator=generator) * 2 - 1
    return ((hundredths * signs).double() / 100).to(output.device, output.dtype)


def outputs_of(pair: Pair, arguments: Arguments) -> dict[str, Tensor]:
    with torch.no_grad():
        fields = pair.fields(pair.call(arguments))
    return {output: fields[output] for output in pair.outputs}


def accepts(pair: Pair, arguments: Arguments) -> bool:
    """Whether the forward makes something finite of the arguments."""
    try:
        outputs = outputs_of(pair, arguments)
        return all(
            isinstance(output, Tensor)
            and output.is_floating_point()
            and bool(output.isfinite().all())
            for output in outputs.values()
        )
    except Exception:  # it does not take them: nothing to ask of the backward
        return False


def _outputs_fit(pair: Pair, arguments: Arguments) -> bool:
    """Whether sizes that were made larger do not multiply in what the forward makes of them."""
    return all(out.numel() <= MOST_OUTPUTS for out in outputs_of(pair, arguments).values())


def _only_smaller(pair: Pair, sample: Case, case: Case) -> bool:
    """Whether a smaller input means a smaller output, and no slice of another is left unread.

    Else it may be taken by broadcasting alone, or to be the start of something longer.
    """
    before, outputs = (outputs_of(pair, some.arguments) for some in (sample, case))
    if sum(x.numel() for x in outputs.values()) >= sum(x.numel() for x in before.values()):
        return False
    try:
        gradients = autograd(pair, case.arguments, case.upstreams(outputs))
    except Exception:  # autograd cannot say
        return False
    return all(
        bool(x.transpose(0, d).flatten(1).any(1).all()) if x.dim() > 1 else bool(x.all())
        for x in gradients.values()
        for d in range(x.dim())
    )


def _same_outputs(pair: Pair, arguments: Arguments, others: Arguments) -> bool:
    outputs, theirs = outputs_of(pair, arguments), outputs_of(pair, others)
    return all(
        output.shape == theirs[name].shape
        and torch.allclose(output.double(), theirs[name].double(), rtol=1e-3, atol=1e-6)
        for name, output in outputs.items()
    )


def variations(pair: Pair, sample: Case, generator: torch.Generator) -> Iterator[Case]:
    """The harder cases, in the order in which one would try them.

    Those on the values go on from other options and from a larger sample too, since some mistakes
    take both.
    """
    yield from _upstreams(pair, sample)
    yield from _layouts(pair, sample)
    options = [case for case in _options(pair, sample, generator) if accepts(pair, case.arguments)]
    yield from options
    yield from _accepted(pair, _two_options(sample, options))
    yield from _accepted(pair, _indices(pair, sample, generator))
    yield from _accepted(pair, _values(pair, sample, generator))
    yield from _accepted(pair, _at_bounds(pair, sample))
    yield from _expanded(pair, sample)
    sizes = list(_sizes(pair, sample, generator))
    yield from sizes
    # A stride need not divide every size, nor one head go with as many others as two do.
    counts = [case for case in options if _changes_a_count(sample, case)][:3]
    ones = [case for case in sizes if _grows_ones(sample, case)]
    for other in counts + ones:
        yield from _sizes(pair, other, generator, near=True)
    exact = in_precision(sample, torch.float64)
    others = [*([exact] * (exact is not sample)), *options, *_fitting(sizes)[-1:]]
    for other in others:
        yield from _accepted(pair, _values(pair, other, generator, few=True))
        yield from _accepted(pair, _indices(pair, other, generator))
    yield from _accepted(pair, _precisions(sample))
    yield from _accepted(pair, _large_halves(pair, sample))
    by_place = {str(case.variation).rpartition(" is ")[0]: case for case in _by_elements(sizes)}
    for other in by_place.values():
        yield from _accepted(pair, _long_sums(other))


def smaller(
    pair: Pair, sample: Case, group: Sequence[_Place] = (), size: int | None = None
) -> Case:
    """A sample of few elements: sizes are halved for as long as the forward takes them.

    Dimensions that are about to be of another ``size`` stay as they are, and count as that.
    """
    most = ENOUGH_ELEMENTS if size is None else MOST_ELEMENTS
    arguments = sample.arguments
    while elements(arguments, group, size) > most:
        others = [places for places in groups(arguments) if not set(places) & set(group)]
        places = max(others, key=lambda places: size_of(arguments, places[0]), default=None)
        if places is None or size_of(arguments, places[0]) <= 2:
            break
        n = size_of(arguments, places[0])
        half = (n + 1) // 2
        halved = cut(arguments, places, half)
        # Half of it may be taken by broadcasting alone; a size in between is not.
        between = any(accepts(pair, cut(arguments, places, other)) for other in (n + 1, 3 * half))
        if not between or not accepts(pair, halved):
            break
        arguments = halved
    return sample if arguments is sample.arguments else replace(sample, arguments=arguments)


def _accepted(pair: Pair, cases: Iterator[Case]) -> Iterator[Case]:
    return (case for case in cases if accepts(pair, case.arguments))


def _upstreams(pair: Pair, sample: Case) -> Iterator[Case]:
    def case(name: str, change: Change | None, family: Family = "upstreams") -> Case:
        return replace(sample, variation=f"the upstream is {name}", family=family, change=change)

    def one_hot(upstream: Tensor) -> Tensor:
        hot = torch.zeros_like(upstream, memory_format=torch.contiguous_format)
        hot.view(-1)[upstream.numel() // 2 :][:1] = 1
        return hot

    for name, lay_out in _LAYOUTS.items():
        yield case(name, lay_out, "layouts")
    yield case(
        "expanded from one number", lambda u: u.new_full((), 0.75).expand(u.shape), "layouts"
    )
    for d in range(max(u.dim() for u in outputs_of(pair, sample.arguments).values())):

        def expanded(u: Tensor, d: int = d) -> Tensor:
            return u.narrow(d, 0, 1).expand(u.shape) if 1 < u.dim() > d and u.shape[d] else u

        yield case(f"expanded along dimension {d}", expanded, "layouts")
    yield case("one-hot", one_hot)
    yield case("nowhere positive", lambda u: -u.abs())
    yield case("nowhere negative", torch.abs)
    yield case("all ones", torch.ones_like)
    yield case("negated", torch.neg)
    for exponent in (10, 40):
        yield case(f"very large (times 2^{exponent})", partial(_scaled, by=2.0**exponent))
        yield case(f"very small (times 2^-{exponent})", partial(_scaled, by=2.0**-exponent))
    if len(pair.outputs) > 1:
        for name in pair.outputs:
            variation = f"the upstream of {name} comes alone"
            yield replace(sample, variation=variation, family="upstreams", alone=name)


def _scaled(upstream: Tensor, by: float) -> Tensor:
    """A multiple of the upstream where the precision has it: infinity is nobody's upstream."""
    scaled = upstream * by
    return scaled if scaled.isfinite().all() else upstream


def _layouts(pair: Pair, sample: Case) -> Iterator[Case]:
    for layout, lay_out in _LAYOUTS.items():
        for name, leaf in pair.leaves(sample.arguments).items():
            laid_out = lay_out(leaf)
            if laid_out is not leaf:
                arguments = replaced(sample.arguments, {name: laid_out})
                # A forward that reads the memory itself, as as_strided does, means another thing.
                if accepts(pair, arguments) and _same_outputs(pair, sample.arguments, arguments):
                    variation = f"{name} is {layout}"
                    yield replace(
                        sample, variation=variation, family="layouts", arguments=arguments
                    )
    for one, other in itertools.combinations(pair.leaves(sample.arguments).items(), 2):
        if one[1].shape == other[1].shape and one[1].dtype == other[1].dtype:
            arguments = replaced(sample.arguments, {other[0]: one[1]})
            if accepts(pair, arguments):
                variation = f"{one[0]} and {other[0]} are the same tensor"
                yield replace(sample, variation=variation, family="inputs", arguments=arguments)


def _expanded(pair: Pair, sample: Case) -> Iterator[Case]:
    """Inputs that repeat their first elements, in memory too."""
    for name, leaf in pair.leaves(sample.arguments).items():
        for d in range(leaf.dim()):
            if leaf.shape[d] > 1:
                expanded = leaf.narrow(d, 0, 1).expand(leaf.shape)
                arguments = replaced(sample.arguments, {name: expanded})
                plain = replaced(sample.arguments, {name: expanded.contiguous()})
                # Some of torch's own forwards give something else of a memory that repeats.
                taken = accepts(pair, plain) and accepts(pair, arguments)
                if taken and _same_outputs(pair, plain, arguments):
                    variation = f"{name} is expanded along dimension {d}"
                    yield replace(
                        sample, variation=variation, family="layouts", arguments=arguments
                    )


def _precisions(sample: Case) -> Iterator[Case]:
    for dtype in PRECISIONS:
        case = in_precision(sample, dtype)
        if case is not sample:
            yield case


def in_precision(sample: Case, dtype: torch.dtype) -> Case:
    """The same numbers in another precision; the sample itself where it has that."""
    floating = {n: v for n, v in sample.arguments.items() if _all_floating(v)}
    if all(_first(value).dtype == dtype for value in floating.values()):
        return sample
    cast = {name: mapped(lambda x: x.to(dtype), value) for name, value in floating.items()}
    return _with(sample, "precisions", f"in {str(dtype).removeprefix('torch.')}", cast)


def _large_halves(pair: Pair, sample: Case) -> Iterator[Case]:
    """In float16, numbers whose squares it does not hold, of one leaf at a time."""
    case = in_precision(sample, torch.float16)
    for name, leaf in pair.leaves(case.arguments).items():
        arguments = replaced(case.arguments, {name: leaf * 2.0**9})
        yield _vary(case, "precisions", f"{name} times 2^9", arguments)


def _long_sums(case: Case) -> Iterator[Case]:
    """Sums of which each step is small against what was summed before, in half precision.

    Of a sample that is in it: who writes for it sums in a wider one.
    """
    floating = [_first(value) for value in case.arguments.values() if _all_floating(value)]
    if min(x.dtype.itemsize for x in floating) == 2:
        indices = {n: v.clamp(0, 0) for n, v in case.arguments.items() if _is_index(v)}
        zero = f", {' and '.join(indices)} zero" if indices else ""
        variation = f"{case.variation}{zero}, and the upstream is nowhere negative"
        arguments = {**case.arguments, **indices}
        yield replace(case, variation=variation, arguments=arguments, change=torch.abs)


def _options(pair: Pair, sample: Case, generator: torch.Generator) -> Iterator[Case]:
    def case(name: str, value: Any, what: str | None = None) -> Case:
        return _with(sample, "options", what or f"{name}={value!r}", {name: value})

    words = _words(pair.forward, pair.backward)
    hints = parameter_hints(pair.forward)
    signature = inspect.signature(pair.forward).parameters
    for name, value in sample.arguments.items():
        if isinstance(value, bool):
            yield case(name, not value)
        elif isinstance(value, enum.Enum):
            yield from (case(name, other) for other in type(value) if other is not value)
        elif isinstance(value, int):
            others: set[float] = {value - 1, value + 1, 0, 1, -1}
            yield from (case(name, other) for other in sorted(others - {value}))
        elif isinstance(value, float):
            others = {value * 1.5, 0.25, 0.0, 1.0, 2.0}
            yield from (case(name, other) for other in sorted(others - {value}))
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
            yield from (case(name, type(value)(other)) for other in _whole_numbers(list(value)))
        elif isinstance(value, Tensor) and value.dtype == torch.bool:
            yield case(name, torch.zeros_like(value), f"{name} is all false")
            yield case(name, torch.ones_like(value), f"{name} is all true")
            yield case(name, ~value, f"{name} is the other way round")
            every_other = _copied(torch.zeros_like(value))
            every_other.view(-1)[::2] = True
            yield case(name, every_other, f"{name} is true at every other place")
            coins = torch.randint(0, 2, value.shape, generator=generator).to(value.device) > 0
            yield case(name, coins, f"{name} is drawn")
        elif name in pair.options and takes_gradient(value) and value.numel():
            one_zero = _copied(value)
            one_zero.view(-1)[:1] = 0
            yield case(name, torch.zeros_like(value), f"{name} is zero")
            yield case(name, torch.ones_like(value), f"{name} is all ones")
            yield case(name, one_zero, f"one of {name} is zero")
            yield case(name, value * 1.5, f"{name} is half as large again")
        if value is not None and (
            signature[name].default is None or types.NoneType in typing.get_args(hints.get(name))
        ):
            yield case(name, None)
        if value is None and name in pair.options:
            yield from _in_place_of_none(pair, sample, name, generator)


def _in_place_of_none(
    pair: Pair, sample: Case, name: str, generator: torch.Generator
) -> Iterator[Case]:
    """What an option may be that the sample leaves at None, as far as it makes a difference."""
    given = list(tensors(sample.arguments).values())
    leaf = next(iter(pair.leaves(sample.arguments).values()))
    shapes = {x.shape: None for x in [*given, *outputs_of(pair, sample.arguments).values()]}
    matrices = [x for x in given if x.dim() > 1]
    for one, other in itertools.product(matrices, repeat=2):  # as scores are of queries and keys
        shapes[torch.Size((one.shape[-2], other.shape[-2]))] = None
    shapes |= {shape[d : d + 1]: None for shape in list(shapes) for d in range(len(shape))}
    hint = parameter_hints(pair.forward).get(name)
    kinds = typing.get_args(hint) if hint else (bool, int, float)
    if not hint and any(word in name for word in ("mask", "weight", "bias")):
        kinds = (Tensor,)
    numbers = [number for number in (0, 1, 0.5, 1.5, True) if type(number) in kinds]
    values: dict[str, Any] = {repr(number): number for number in numbers}
    for shape in shapes if Tensor in kinds else ():
        drawn_numbers = torch.rand(shape, generator=generator)
        values[f"a mask of shape {tuple(shape)}"] = (drawn_numbers < 0.7).to(leaf.device)
        positive = (drawn_numbers + 0.25).to(leaf.device, leaf.dtype)
        values[f"positive, of shape {tuple(shape)}"] = positive
    found: list[Arguments] = []
    for what, value in values.items():
        arguments = {**sample.arguments, name: value}
        if not accepts(pair, arguments):
            continue
        # Of several that make the same of it, as 1 and True, the first will do; a whole number may
        # also name what has no gradient.
        if type(value) is int or not any(
            _same_outputs(pair, known, arguments) for known in (sample.arguments, *found)
        ):
            found.append(arguments)
            yield _vary(sample, "options", f"{name} is {what}", arguments)


def _changes_a_count(sample: Case, case: Case) -> bool:
    """Whether what was changed is a whole number of 1 or more, as a stride or a block is."""
    changed = (v for n, v in case.arguments.items() if v is not sample.arguments[n])
    return any(type(value) is int and value > 0 for value in changed)


def _grows_ones(sample: Case, case: Case) -> bool:
    """Whether all that was changed is sizes of 1, which are 2 now."""
    before, after = tensors(sample.arguments), tensors(case.arguments)
    changed = [
        (n, m)
        for name in before.keys() & after.keys()
        for n, m in zip(before[name].shape, after[name].shape, strict=True)
        if n != m
    ]
    return bool(changed) and all(sizes == (1, 2) for sizes in changed)


def _two_options(sample: Case, options: list[Case]) -> Iterator[Case]:
    """Two options changed at once, each as it was accepted alone; the first two ways of each."""
    changes: dict[str, list[Case]] = {}
    for case in options:
        changed = [n for n, v in case.arguments.items() if v is not sample.arguments[n]]
        ways = changes.setdefault(changed[0], [])
        ways += [case] * (len(ways) < 2)
    for (_, some), (other, others) in itertools.combinations(changes.items(), 2):
        for first, second in itertools.product(some, others):
            arguments = {**first.arguments, other: second.arguments[other]}
            yield _vary(first, "options", str(second.variation), arguments)


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


def _indices(pair: Pair, sample: Case, generator: torch.Generator) -> Iterator[Case]:
    """Of every index: repeated, all the same, the last class, options among the targets."""
    arguments = sample.arguments
    sizes = {n for v in arguments.values() if isinstance(v, Tensor) for n in v.shape}
    numbers = {
        name: v for name, v in arguments.items() if type(v) is int and not isinstance(v, bool)
    }
    for name, index in arguments.items():
        if not _is_index(index):
            continue

        def case(what: str, values: Any, name: str = name, index: Tensor = index) -> Case:
            values = torch.as_tensor(values).to(index.device, index.dtype).expand(index.shape)
            return _with(sample, "indices", f"{name} {what}", {name: values.clone()})

        repeated = _copied(index).view(-1)
        repeated[1:2] = repeated[:1]
        yield case("has a repeated number", repeated.view(index.shape))
        # A size bounds the index where the forward refuses the size itself: another it may wrap.
        bounds = {n for n in sizes if n <= index.max() or not accepts(pair, case("", n).arguments)}
        for number in sorted({0, int(index.min()), int(index.max()), *(n - 1 for n in bounds)}):
            yield case(f"is {number} throughout", number)
        for size in sorted(bounds):
            drawn_numbers = torch.randint(0, max(size, 1), index.shape, generator=generator)
            yield case(f"is drawn from {size} numbers", drawn_numbers)
            in_turn = torch.arange(index.numel()).reshape(index.shape) % max(size, 1)
            yield case(f"goes through {size} numbers in turn", in_turn)
        # A table of a hundred rows has a row -100.
        unnamed = {"torch's ignore_index": IGNORED} if max(sizes) < -IGNORED else {}
        for option, number in {**numbers, **unnamed}.items():
            among = _copied(index)
            among.view(-1)[::2] = number
            yield case(f"holds {option} ({number})", among)
            yield case(f"is {option} ({number}) throughout", number)
            if option not in numbers:
                continue
            first = int(index.flatten()[0])
            what = f"{name} holds {option}, which is {first}"
            yield _with(sample, "indices", what, {option: first})


def _values(
    pair: Pair, sample: Case, generator: torch.Generator, few: bool = False
) -> Iterator[Case]:
    """Ties, zeros, kinks, and every magnitude: of one leaf at a time, then of all."""
    leaves = {n: x for n, x in pair.leaves(sample.arguments).items() if x.numel()}
    named = [] if few and len(leaves) > 1 else [(name, {name: x}) for name, x in leaves.items()]
    if len(leaves) > 1:
        named.append((" and ".join(leaves), leaves))
    for which, some in named:
        contents = [_contents(x, generator, few, len(some) > 1) for x in some.values()]
        for changed in zip(*contents, strict=True):
            values = {name: x for name, (_, x) in zip(some, changed, strict=True)}
            what = f"{which} {'is' if len(some) == 1 else 'are'} {changed[0][0]}"
            arguments = replaced(sample.arguments, values)
            yield _vary(sample, "values", what, arguments)


def _at_bounds(pair: Pair, sample: Case) -> Iterator[Case]:
    """Where a number among the options is a bound: of a leaf, or of what two differ by."""
    leaves = {n: x for n, x in pair.leaves(sample.arguments).items() if x.numel()}
    bounds = {n: v for n, v in sample.arguments.items() if type(v) is float and 1e-3 < abs(v) < 1e3}
    for (option, bound), (name, leaf) in itertools.product(bounds.items(), leaves.items()):
        around = torch.tensor((1.0, -1.0, 0.5, 2.0)).repeat(leaf.numel())[: leaf.numel()]
        values = (bound * around).to(leaf).reshape(leaf.shape)
        what = f"{name} is ±{option} and around"
        yield _vary(sample, "values", what, replaced(sample.arguments, {name: values}))
        others = {n: torch.zeros_like(x) for n, x in leaves.items() if n != name}
        if others:
            arguments = replaced(sample.arguments, {**others, name: values})
            yield _vary(sample, "values", f"{what}, and all else zero", arguments)


def _contents(
    x: Tensor, generator: torch.Generator, few: bool, joint: bool
) -> Iterator[tuple[str, Tensor]]:
    def whole(low: int, high: int) -> Tensor:
        numbers = torch.randint(low, high + 1, x.shape, generator=generator)
        return numbers.to(x.device, x.dtype)

    def uniform(low: float, high: float) -> Tensor:
        numbers = torch.rand(x.shape, generator=generator, dtype=torch.float64)
        return (low + (high - low) * numbers).to(x.device, x.dtype)

    def one(number: float) -> Tensor:
        changed = _copied(x)
        changed.view(-1)[x.numel() // 2] = number
        return changed

    def further() -> Iterator[tuple[str, Tensor]]:
        yield "of both signs of zero", whole(0, 1) * 0.0 * (whole(0, 1) * 2 - 1)
        yield "negative", -x.abs()
        yield "multiples of a half", whole(-6, 6) / 2
        yield "spread from -20 to 20", torch.linspace(-20, 20, x.numel()).to(x).reshape(x.shape)
        yield "small", 10 ** uniform(-3, -0.5) * (whole(0, 1) * 2 - 1)
        yield "nearly nothing", uniform(-1, 1) * 1e-15
        yield "between 0 and 1", uniform(0.02, 0.98)
        yield "between -1 and 1", uniform(-1, 1)
        for bound in ("3", "50", "1e4"):
            yield f"up to ±{bound}", uniform(-float(bound), float(bound))
            yield f"up to {bound} and positive", uniform(0, float(bound))
        yield "of every magnitude", 10 ** uniform(-8, 8) * (whole(0, 1) * 2 - 1)
        yield "of every magnitude and positive", 10 ** uniform(-8, 8)
        # As masked scores hold it: elsewhere a forward seldom means it.
        infinite = (float("-inf"),) if x.isneginf().any() else ()
        for number in (0.0, 90.0, -90.0, 1e4, *infinite):
            yield f"as it was, one element {number:g}", one(number)
        yield "nearly equal", 0.5 + uniform(-1, 1) * 2.0**-9
        yield "next to zero", uniform(-1, 1) * 2.0**-13
        yield "around 100", 100 + uniform(-2, 2)
        yield "around 1e4", 1e4 + uniform(-2, 2)

    yield "small integers, with ties and zeros", whole(-2, 2)
    yield "up to ±8", uniform(-8, 8)
    yield "up to 8 and positive", uniform(0.01, 8)
    yield "positive integers", whole(1, 3)
    yield "all equal", torch.full_like(x, 0.5)
    yield "zero", torch.zeros_like(x)
    if few:
        return
    yield "zeros and ones", whole(0, 1)
    if not joint:
        yield from further()
    yield "up to ±1e20", uniform(-1e20, 1e20)
    yield "subnormal", whole(1, 8) * torch.finfo(x.dtype).tiny / 16


def _sizes(
    pair: Pair, sample: Case, generator: torch.Generator, near: bool = False
) -> Iterator[Case]:
    """Each size one larger, one smaller, 1 and above one block, wherever it stands or in one place.

    ``near``: one larger, one smaller, and twice as large alone.

    Sizes that are equal have to move together in most forwards; where the forward also takes one of
    them alone, that is another case. A size of 1 is tried only where one larger is accepted too:
    elsewhere it is accepted as broadcasting alone, and means something else.
    """
    arguments = sample.arguments
    by_size, named = groups(arguments), tensors(arguments)
    for name, value in arguments.items():
        if isinstance(value, (tuple, list)) and value and isinstance(value[-1], Tensor):
            for some in ([*value, value[-1] * 2], list(value[:-1])):
                changed = {**arguments, name: type(value)(some)}
                if some and accepts(pair, changed):
                    yield _vary(sample, "sizes", f"{name} has {len(some)} tensors", changed)
    parts: list[list[_Place]] = [[place] for group in by_size for place in group if group[1:]]
    parts += [
        [one, other]
        for group in by_size
        if 2 < len(group) <= 6
        for one, other in itertools.combinations(group, 2)
        if one[0] != other[0]
    ]
    tried: list[set[_Place]] = []
    for group in [*by_size, *parts]:
        size = size_of(arguments, group[0])
        if size == 1:
            whole_group = next(some for some in by_size if group[0] in some)
            group = _tied(pair, arguments, whole_group, group, generator)
        if size == 0 or set(group) in tried:
            continue
        tried.append(set(group))

        def resized(other: int, group: list[_Place] = group, of: Arguments = arguments) -> Case:
            where = " and ".join(f"{name}.shape[{d}]" for name, d in group)
            changed = _resized(of, group, other, generator)
            return _vary(sample, "sizes", f"{where} is {other}", changed)

        def takes(*others: int, resized: Callable[[int], Case] = resized) -> bool:
            return all(accepts(pair, resized(other).arguments) for other in others)

        def runs(other: int, resized: Callable[[int], Case] = resized) -> bool:
            try:
                outputs_of(pair, resized(other).arguments)
            except Exception:  # of that size it is no input
                return False
            return True

        # One smaller too, of a size that stands for others also: an index may be shorter than what
        # it is taken from, and a forward that takes the larger then leaves the rest unread.
        whole = len(group) == sum(n == size for x in named.values() for n in x.shape)
        if takes(size + 1) and (whole or size == 1 or runs(size - 1)):
            others = {size + 1, size - 1, 1, 2 * size, 3 * size, *BEYOND_BLOCKS}
        elif not takes(size + 1) and takes(2 * size, 3 * size):  # as the heads of a group go
            others = {2 * size, 3 * size}
        elif not takes(size + 1) and size > 2 and not any(_is_index(named[n]) for n, _ in group):
            others = {size - 1}  # as queries, of which there may be fewer than keys
        else:
            continue
        if near:
            others &= {size - 1, size + 1, 2 * size}
        # 1 comes last: what fails there fails there alone.
        for other in sorted(others - {0, size}, key=lambda other: (other == 1, other)):
            fitting = smaller(pair, sample, group, other).arguments if other > size else arguments
            if other < size or elements(fitting, group, other) <= MOST_ELEMENTS:
                case = resized(other, of=fitting)
                if not accepts(pair, case.arguments) or not _outputs_fit(pair, case.arguments):
                    continue
                if others != {size - 1} or _only_smaller(pair, sample, case):
                    yield case


def _tied(
    pair: Pair,
    arguments: Arguments,
    ones: Sequence[_Place],
    part: list[_Place],
    generator: torch.Generator,
) -> list[_Place]:
    """Those of the dimensions of size 1 that go with a part of them, as a batch of one goes.

    Where it grows alone, they are taken by broadcasting; where they have grown together, it goes no
    further alone.
    """

    def takes(*steps: tuple[list[_Place], int]) -> bool:
        of = arguments
        for places, size in steps:
            of = _resized(of, places, size, generator)
        return accepts(pair, of)

    together = list(part)
    for place in [*ones, *ones]:  # twice, since some go along only where others do
        if place not in together and takes(([*together, place], 2)):
            together.append(place)
    independent = len(together) == len(part) or takes((together, 2), (part, 3))
    return part if independent else together


def groups(arguments: Arguments) -> list[list[_Place]]:
    """The dimensions of equal size, by size."""
    by_size: dict[int, list[_Place]] = {}
    for name, value in tensors(arguments).items():
        for d, size in enumerate(value.shape):
            by_size.setdefault(size, []).append((name, d))
    return [by_size[size] for size in sorted(by_size)]


def size_of(arguments: Arguments, place: _Place) -> int:
    return tensors(arguments)[place[0]].shape[place[1]]


def elements(arguments: Arguments, group: Sequence[_Place] = (), other: int | None = None) -> int:
    """The elements of the largest tensor, should some dimensions have another size."""
    return max(
        math.prod(other if (name, d) in group and other else n for d, n in enumerate(x.shape))
        for name, x in tensors(arguments).items()
    )


def cut(arguments: Arguments, group: list[_Place], size: int) -> Arguments:
    """The first elements along some dimensions, or all of them again and again."""
    changed = tensors(arguments)
    for name, d in group:
        x = changed[name]
        changed[name] = x.index_select(d, torch.arange(size, device=x.device) % x.shape[d])
    return replaced(arguments, changed)


def _resized(
    arguments: Arguments, group: list[_Place], size: int, generator: torch.Generator
) -> Arguments:
    """The sample with its elements repeated or left out; repeated floating ones are no ties."""
    resized = cut(arguments, group, size)
    changed = tensors(resized)
    for name in {name for name, _ in group}:
        x = changed[name]
        if x.is_floating_point():
            jitter = torch.rand(x.shape, generator=generator, dtype=torch.float64)
            changed[name] = x * (1 + jitter.to(x.device, x.dtype) / 4)
    return replaced(resized, changed)


def _by_elements(cases: list[Case]) -> list[Case]:
    return sorted(cases, key=lambda case: elements(case.arguments))


def _fitting(cases: list[Case]) -> list[Case]:
    return [case for case in _by_elements(cases) if elements(case.arguments) <= MOST_VARIED]


def _with(sample: Case, family: Family, what: str, changes: Arguments) -> Case:
    return _vary(sample, family, what, {**sample.arguments, **changes})


def _vary(sample: Case, family: Family, what: str, arguments: Arguments) -> Case:
    variation = what if sample.variation is None else f"{sample.variation}, and {what}"
    return replace(sample, variation=variation, family=family, arguments=arguments)


def holds_unnamed(case: Case) -> bool:
    """Whether an index holds torch's ignore_index, and no option says so."""
    values = case.arguments.values()
    named = any(type(value) is int and value == IGNORED for value in values)
    return not named and any(
        _is_index(value) and bool((value == IGNORED).any()) for value in values
    )


def _is_index(x: Any) -> bool:
    if not isinstance(x, Tensor) or not x.numel():
        return False
    return not x.is_floating_point() and not x.is_complex() and x.dtype != torch.bool


def _first(value: Any) -> Tensor:
    first: Tensor = value if isinstance(value, Tensor) else value[0]
    return first


def _all_floating(value: Any) -> bool:
    return bool(parts(value)) and all(map(takes_gradient, parts(value)))


def _copied(x: Tensor) -> Tensor:
    return x.detach().clone(memory_format=torch.contiguous_format)


def _transposed(x: Tensor) -> Tensor:
    """The same numbers with the strides of the reversed shape."""
    order = list(reversed(range(x.dim())))
    return x.permute(order).contiguous().permute(order) if x.dim() > 1 else x


def _sliced(x: Tensor) -> Tensor:
    """The same numbers as a slice of a wider buffer that is filled with others."""
    if x.dim() == 0:
        return x
    wider = x.new_full((*x.shape[:-1], 2 * x.shape[-1] + 1), 7)
    wider[..., 1::2] = x
    return wider[..., 1::2]


def _further_on(x: Tensor) -> Tensor:
    """The same numbers one after the other, but not from the beginning of their buffer."""
    longer = x.new_full((x.numel() + 3,), 7)
    longer[3:] = x.flatten()
    return longer[3:].view(x.shape)


def _channels_last(x: Tensor) -> Tensor:
    return x.movedim(1, -1).contiguous().movedim(-1, 1) if x.dim() > 2 else x


def _first_two_exchanged(x: Tensor) -> Tensor:
    return x.transpose(0, 1).contiguous().transpose(0, 1) if x.dim() > 2 else x


_LAYOUTS: dict[str, Change] = {
    "transposed": _transposed,
    "a slice of a wider buffer": _sliced,
    "a part of a longer buffer": _further_on,
    "laid out with dimension 1 last": _channels_last,
    "laid out with its first two dimensions exchanged": _first_two_exchanged,
}
"""The same numbers in another place or order in memory; the tensor itself where there is none."""
