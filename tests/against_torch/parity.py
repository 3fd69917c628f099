"""The pairs on the samples of torch's own tests of the functions that they stand for.

    python -m tests.against_torch.parity

takes each sample and each bad input of the function's OpInfo, in each precision that both know,
and compares the output and every gradient. Two results agree where ours is no further from float64
than torch's is, four times, or than four units in the last place of the largest entry of the result
or of the upstream gradient (float64 is judged by itself).
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from hypothesis import settings
from torch import Tensor

from backprop_ops import Pair
from tests.support.counterpart import Counterpart, Departure
from tests.support.families import beside_the_ops

PROFILE = settings.get_current_profile_name()
from torch.testing._internal.common_methods_invocations import op_db  # noqa: E402  # see below

settings.load_profile(PROFILE)  # torch's test utilities load one of their own

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
UNITS = 4


@dataclass
class Result:
    """How one pair and torch's function compare in one precision.

    ``departures``: the reasons why samples were left out, each with their number.
    """

    tried: int = 0
    differences: list[str] = field(default_factory=list)
    departures: Counter[str] = field(default_factory=Counter)


def counterparts() -> list[tuple[Pair, Counterpart]]:
    """Every pair that stands for a function of torch, with that function."""
    found = beside_the_ops("OPINFO")
    return [(pair, entry) for pair, entry in found if isinstance(entry, Counterpart)]


def info_of(counterpart: Counterpart) -> Any:
    """Torch's OpInfo, which draws the samples."""
    names = (counterpart.name, counterpart.variant)
    (info,) = (info for info in op_db if (info.name, info.variant_test_name) == names)
    return info


def compare(
    pair: Pair, counterpart: Counterpart, dtype: torch.dtype, device: str = "cpu"
) -> Result:
    """All samples of one pair in one precision, forward and backward."""
    result = Result()
    for sample in info_of(counterpart).sample_inputs(device, dtype, requires_grad=False):
        try:
            args, options = counterpart.call(sample.input, *sample.args, **sample.kwargs)
            mixed = {t.dtype for t in args if isinstance(t, Tensor) and t.is_floating_point()}
            if mixed != {dtype}:
                raise Departure("mixed precisions: convert first")
            differences = list(_differences(pair, counterpart, args, options))
        except Departure as departure:
            result.departures[str(departure)] += 1
            continue
        except NotImplementedError:
            result.departures[f"torch lacks its backward in {dtype}"] += 1
            continue
        result.tried += 1
        result.differences += [f"{sample.summary()}: {difference}" for difference in differences]
    return result


def _differences(
    pair: Pair, counterpart: Counterpart, args: tuple[Any, ...], options: dict[str, Any]
) -> Iterator[str]:
    leaves = [_leaf(value) for value in args]
    expected = counterpart.torchs(*leaves, **options)
    result = pair.forward(*args, **options)
    out = pair.fields(result)[pair.outputs[0]]
    exact = [_leaf(_double(value)) for value in args]
    exact_out = counterpart.torchs(*exact, **{n: _double(value) for n, value in options.items()})
    yield from _apart("out", out, expected, exact_out, 0.0)
    generator = torch.Generator(out.device).manual_seed(0)
    upstream = torch.randn(out.shape, dtype=torch.float64, generator=generator).to(out)
    gradients = pair.gradients(pair.arguments(args, options), result, {pair.outputs[0]: upstream})
    inputs = [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.requires_grad]
    theirs = torch.autograd.grad(expected, inputs, upstream)
    doubles = [leaf for leaf in exact if isinstance(leaf, Tensor) and leaf.requires_grad]
    truth = torch.autograd.grad(exact_out, doubles, upstream.double())
    ours = {f"d{name}": gradient for name, gradient in gradients.items() if gradient is not None}
    scale = upstream.double().abs().max() if upstream.numel() else 0.0
    for name, *each in zip(ours, ours.values(), theirs, truth, strict=True):
        yield from _apart(name, *each, scale)


def _apart(
    name: str, ours: Tensor, theirs: Tensor, exact: Tensor, scale: Tensor | float
) -> Iterator[str]:
    if (ours.shape, ours.dtype) != (theirs.shape, theirs.dtype):
        yield f"{name} is {ours.dtype} {ours.shape}, torch's {theirs.dtype} {theirs.shape}"
        return
    finite = theirs.isfinite() & exact.isfinite()
    if not torch.equal(ours[~finite].nan_to_num(), theirs[~finite].nan_to_num()):
        yield f"{name} is {ours[~finite].tolist()}, torch's {theirs[~finite].tolist()}"
    if not finite.any():
        return
    error = (ours.double() - exact)[finite].abs().max()
    own = (theirs.double() - exact)[finite].abs().max()
    unit = torch.finfo(ours.dtype).eps * max(exact[finite].abs().max(), scale)
    if not error <= 4 * own + UNITS * unit:
        yield f"{name} is off by {error:.3g}, torch's by {own:.3g}, with {unit:.3g} the last place"


def _leaf(value: Any) -> Any:
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.detach().clone().requires_grad_()
    return value


def _double(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


def accepted(pair: Pair, counterpart: Counterpart, device: str = "cpu") -> list[str]:
    """The bad inputs of torch's function that the pair takes all the same."""
    taken = []
    for error in errors_of(counterpart, device):
        sample = error.sample_input
        try:
            args, options = counterpart.call(sample.input, *sample.args, **sample.kwargs)
            pair.forward(*args, **options)
        except (TypeError, ValueError, IndexError):
            continue
        taken.append(sample.summary())
    return taken


def errors_of(counterpart: Counterpart, device: str = "cpu") -> list[Any]:
    info = info_of(counterpart)
    return [] if info.error_inputs_func is None else list(info.error_inputs(device))


def dtypes_of(counterpart: Counterpart) -> list[torch.dtype]:
    return [d for d in DTYPES if d in info_of(counterpart).supported_dtypes("cpu")]


def main() -> int:
    failed = 0
    print(f"{'pair':20} {'dtype':9} {'tried':>5}  {'other':>5}  left out")
    for pair, counterpart in counterparts():
        for dtype in dtypes_of(counterpart):
            result = compare(pair, counterpart, dtype)
            print(
                f"{pair.name:20} {str(dtype)[6:]:9} {result.tried:5}  "
                f"{len(result.differences):5}  {result.departures.total():8}"
            )
            for difference in result.differences:
                print(f"    {difference}")
            failed += len(result.differences)
        for summary in accepted(pair, counterpart):
            print(f"    a bad input that {pair.name} takes: {summary}")
            failed += 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
