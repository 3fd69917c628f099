"""The harder cases made of one sample: upstreams, layouts, shapes, values, options, precisions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from backprop_ops.judging import call_forward
from backprop_ops.pair import Pair, takes_gradient

Arguments = Mapping[str, Any]
Upstreams = dict[str, Tensor]

BEYOND_ONE_BLOCK = 129  # where a kernel that works in blocks has a tail
MOST_ELEMENTS = 2**16  # of a sample that is made larger

PRECISIONS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


class Case(NamedTuple):
    """One call to judge. ``variation`` says how it differs from the caller's own sample."""

    variation: str | None
    arguments: Arguments
    upstreams: Upstreams
    same_values: bool = False  # as the sample's, in another layout


def sample_case(pair: Pair, arguments: Arguments, generator: torch.Generator) -> Case:
    return Case(None, arguments, drawn(outputs_of(pair, arguments), generator))


def outputs_of(pair: Pair, arguments: Arguments) -> dict[str, Tensor]:
    with torch.no_grad():
        fields = pair.fields(call_forward(pair, arguments))
    return {output: fields[output] for output in pair.outputs}


def drawn(outputs: Mapping[str, Tensor], generator: torch.Generator) -> Upstreams:
    """A dense upstream of short random numbers, none of them zero."""
    upstreams = {}
    for name, output in outputs.items():
        hundredths = torch.randint(25, 200, output.shape, generator=generator)
        signs = torch.randint(0, 2, output.shape, generator=generator) * 2 - 1
        upstreams[name] = (hundredths * signs / 100).to(output.device, output.dtype)
    return upstreams


def variations(pair: Pair, sample: Case, generator: torch.Generator) -> Iterator[Case]:
    """Every harder case of which the forward makes something finite."""
    yield from _upstreams(sample, generator)
    yield from _layouts(pair, sample)
    for name, arguments in (
        *_arguments(pair, sample.arguments, generator),
        *_shapes(pair, sample.arguments, generator),
    ):
        outputs = _accepted(pair, arguments)
        if outputs is not None:
            yield Case(name, arguments, drawn(outputs, generator))


def _accepted(pair: Pair, arguments: Arguments) -> dict[str, Tensor] | None:
    """The outputs, where the forward makes something finite of the arguments."""
    try:
        outputs = outputs_of(pair, arguments)
    except Exception:  # it does not take them: nothing to ask of the backward
        return None
    finite = all(bool(output.isfinite().all()) for output in outputs.values())
    return outputs if finite else None


def _upstreams(sample: Case, generator: torch.Generator) -> Iterator[Case]:
    def case(name: str, change: Any, same_values: bool = False) -> Case:
        upstreams = {output: change(u) for output, u in sample.upstreams.items()}
        return Case(f"the upstream is {name}", sample.arguments, upstreams, same_values)

    def one_hot(u: Tensor) -> Tensor:
        hot = torch.zeros_like(u)
        if u.numel():
            hot.view(-1)[torch.randint(u.numel(), (), generator=generator)] = 1
        return hot

    yield case("transposed", _transposed, same_values=True)
    yield case("a slice of a wider buffer", _strided, same_values=True)
    yield case("expanded from one number", lambda u: u.new_full((), 0.75).expand(u.shape))
    yield case("one-hot", one_hot)
    yield case("all ones", torch.ones_like)
    yield case("negated", torch.neg)
    yield case("very large", lambda u: u * 2.0**10)
    yield case("very small", lambda u: u * 2.0**-10)
    if len(sample.upstreams) > 1:
        for alone in sample.upstreams:
            upstreams = {
                name: u if name == alone else torch.zeros_like(u)
                for name, u in sample.upstreams.items()
            }
            yield Case(f"the upstream of {alone} comes alone", sample.arguments, upstreams)


def _layouts(pair: Pair, sample: Case) -> Iterator[Case]:
    for layout, lay_out in (("transposed", _transposed), ("strided", _strided)):
        for name in pair.slots(sample.arguments):
            value = sample.arguments[name]
            if isinstance(value, Tensor) and value.dim():
                arguments = {**sample.arguments, name: lay_out(value)}
                if _accepted(pair, arguments) is None:
                    continue
                yield Case(f"{name} is {layout}", arguments, sample.upstreams, same_values=True)


def _arguments(
    pair: Pair, arguments: Arguments, generator: torch.Generator
) -> Iterator[tuple[str, Arguments]]:
    floating = [name for name, value in arguments.items() if takes_gradient(value)]
    yield from _values(pair, arguments, generator)
    for dtype in PRECISIONS:
        if any(arguments[name].dtype != dtype for name in floating):
            cast = {name: arguments[name].to(dtype) for name in floating}
            yield f"in {str(dtype).removeprefix('torch.')}", {**arguments, **cast}
    for name, value in arguments.items():
        if isinstance(value, bool):
            yield f"{name}={not value}", {**arguments, name: not value}
        elif isinstance(value, int) and name in pair.options:
            for other in (value - 1, value + 1):
                yield f"{name}={other}", {**arguments, name: other}
        elif isinstance(value, Tensor) and value.dtype == torch.bool:
            for filling in (False, True):
                filled = torch.full_like(value, filling)
                yield f"{name} is all {filling}", {**arguments, name: filled}
        elif isinstance(value, Tensor) and not value.is_floating_point() and value.numel():
            for what, number in (("smallest", value.min()), ("largest", value.max())):
                filled = torch.full_like(value, int(number))
                yield f"{name} is its {what} number throughout", {**arguments, name: filled}


def _values(
    pair: Pair, arguments: Arguments, generator: torch.Generator
) -> Iterator[tuple[str, Arguments]]:
    for name in pair.slots(arguments):
        x = arguments[name]
        if not (isinstance(x, Tensor) and x.numel()):
            continue

        def whole(low: int, high: int, x: Tensor = x) -> Tensor:
            numbers = torch.randint(low, high + 1, x.shape, generator=generator)
            return numbers.to(x.device, x.dtype)

        noise = torch.randn(x.shape, generator=generator).to(x.device, x.dtype)
        for what, values in (
            ("small integers, with ties and zeros", whole(-2, 2)),
            ("positive integers", whole(1, 3)),
            ("all equal", torch.full_like(x, 0.5)),
            ("zero", torch.zeros_like(x)),
            ("of both signs of zero", whole(0, 1) * 0.0 * (whole(0, 1) * 2 - 1)),
            ("negative", -x.abs()),
            ("up to ±8", noise * 4),
            ("up to ±50", noise * 25),
            ("up to ±1e4", noise * 5e3),
            ("nearly equal", 0.5 + noise * 2.0**-9),
            ("around 100", 100 + noise),
        ):
            yield f"{name} is {what}", {**arguments, name: values}


def _shapes(
    pair: Pair, arguments: Arguments, generator: torch.Generator
) -> Iterator[tuple[str, Arguments]]:
    """Each size one larger, one smaller, 1 and above one block, wherever it stands or in one place.

    Sizes that are equal have to move together in most forwards; where the forward also takes one of
    them alone, that is another case. A size of 1 is tried only where one larger is accepted too:
    elsewhere it is accepted as broadcasting alone, and means something else.
    """
    places = [
        (name, d)
        for name, value in arguments.items()
        if name in pair.inputs and isinstance(value, Tensor)
        for d in range(value.dim())
    ]
    sizes = {place: arguments[place[0]].shape[place[1]] for place in places}
    together = [[p for p in places if sizes[p] == size] for size in sorted(set(sizes.values()))]
    alone = [[place] for place in places if [place] not in together]
    for group in [*together, *alone]:
        size = sizes[group[0]]
        if size == 0:
            continue
        where = " and ".join(f"{name}.shape[{d}]" for name, d in group)
        larger = _resized(arguments, group, size + 1, generator)
        if _accepted(pair, larger) is None:
            continue
        yield f"{where} is {size + 1}", larger
        for other in {size - 1, 1, BEYOND_ONE_BLOCK} - {0, size, size + 1}:
            if other != BEYOND_ONE_BLOCK or _elements(arguments, group, other) <= MOST_ELEMENTS:
                yield f"{where} is {other}", _resized(arguments, group, other, generator)


def _elements(arguments: Arguments, group: list[tuple[str, int]], size: int) -> int:
    """The elements of the largest tensor, should a group of dimensions have another size."""
    elements: dict[str, int] = {name: arguments[name].numel() for name, _ in group}
    for name, d in group:
        elements[name] = elements[name] // arguments[name].shape[d] * size
    return max(elements.values())


def _resized(
    arguments: Arguments, group: list[tuple[str, int]], size: int, generator: torch.Generator
) -> Arguments:
    """The sample with its elements repeated or left out; repeated floating ones are no ties."""
    resized = dict(arguments)
    for name, d in group:
        x = resized[name]
        rows = torch.arange(size, device=x.device) % x.shape[d]
        resized[name] = x.index_select(d, rows)
    for name in {name for name, _ in group}:
        x = resized[name]
        if x.is_floating_point():
            jitter = torch.rand(x.shape, generator=generator).to(x.device, x.dtype)
            resized[name] = x * (1 + jitter / 4)
    return resized


def _transposed(x: Tensor) -> Tensor:
    """The same numbers with the strides of the reversed shape."""
    order = list(reversed(range(x.dim())))
    return x.permute(order).contiguous().permute(order) if x.dim() > 1 else _strided(x)


def _strided(x: Tensor) -> Tensor:
    """The same numbers as a slice of a wider buffer that is filled with others."""
    if x.dim() == 0:
        return x
    wider = x.new_full((*x.shape[:-1], 2 * x.shape[-1] + 1), 7)
    wider[..., 1::2] = x
    return wider[..., 1::2]
