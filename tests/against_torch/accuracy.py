"""How exact the pairs are, beside torch's own functions on the same inputs.

    python -m tests.against_torch.accuracy

draws inputs of every magnitude and gives, for each pair and precision, the worst error of ours and
of torch's in units in the last place, against the same formulas in arithmetic of 200 bits (mpmath).
The unit is that of the entry where each entry stands for itself. Entries that are sums may cancel
to any small fraction of what is added: there it is that of the sum of the terms' sizes or, where
they are not linear, of the largest entry of the tensor (for the gradients of softmax and
log_softmax also of the sum of the upstream's sizes).
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import mpmath
import torch
from torch import Tensor

from backprop_ops import Pair
from tests.support.counterpart import Counterpart
from tests.support.exact import KINDS, ROWS, Exact, Matrix, zipped
from tests.support.families import beside, beside_the_ops

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
OFFSETS = (0, 1, 30, 1000)  # of the drawn numbers from zero, in their spread
EXAMPLES = 100

mp = mpmath.mp.clone()
mp.prec = 200


def subjects() -> list[tuple[str, Pair, Exact]]:
    """Every pair with its exact references, and what each is called."""
    return [
        (_label(pair, exact), pair, exact)
        for pair, entry in beside_the_ops("EXACT")
        if not isinstance(entry, str)
        for exact in entry
    ]


def _label(pair: Pair, exact: Exact) -> str:
    exponent = exact.options.get("exponent")
    return pair.name if exponent is None else f"{pair.name}({exponent})"


@dataclass
class Worst:
    """The largest errors of all draws, in units in the last place."""

    ours: float = 0.0
    torchs: float = 0.0
    beyond: float = 0.0  # ours less torch's on the same inputs

    def add(self, ours: float, torchs: float) -> None:
        self.ours, self.torchs = max(self.ours, ours), max(self.torchs, torchs)
        self.beyond = max(self.beyond, ours - torchs)


def measure(pair: Pair, of: Exact, dtype: torch.dtype, examples: int = EXAMPLES) -> Worst:
    """The worst errors of one pair in one precision, over drawn inputs."""
    worst, torchs = Worst(), _torchs(pair)
    generator = torch.Generator().manual_seed(0)
    widest = 8 if dtype == torch.float16 else 30
    for _ in range(examples):
        scale = 2.0 ** int(torch.randint(-widest, widest + 1, (), generator=generator))
        offset = OFFSETS[int(torch.randint(len(OFFSETS), (), generator=generator))]
        inputs = [_draw(kind, generator, scale, offset, dtype) for kind in of.inputs]
        for ours, theirs, exact, size in _results(pair, torchs, of, inputs, generator):
            error, torchs_error = _error(ours, exact, size), _error(theirs, exact, size)
            if not math.isinf(torchs_error):
                worst.add(error, torchs_error)
    return worst


def _torchs(pair: Pair) -> Callable[..., Tensor]:
    """Torch's function; for a pair that torch has none for, its forward as autograd takes it."""
    counterpart = beside(pair, "OPINFO")
    if isinstance(counterpart, Counterpart):
        return counterpart.torchs
    return lambda *args, **options: pair.fields(pair.forward(*args, **options))[pair.outputs[0]]


def _draw(
    kind: str, generator: torch.Generator, scale: float, offset: int, dtype: torch.dtype
) -> Tensor:
    if kind == "target":
        return torch.randint(ROWS, (ROWS,), generator=generator)
    normal = torch.randn(KINDS[kind], generator=generator, dtype=torch.float64)
    if kind == "probs":
        return normal.softmax(1).to(dtype)
    if kind in ("row", "square"):
        return normal.to(dtype)
    if kind == "positive":
        normal = normal.abs() + 2.0**-6
    if kind == "negative":
        normal, offset = -normal.abs(), -offset
    return ((normal + offset) * scale).to(dtype)


def _results(
    pair: Pair,
    torchs: Callable[..., Tensor],
    of: Exact,
    inputs: list[Tensor],
    generator: torch.Generator,
) -> Iterator[tuple[Tensor, Tensor, list[Any], list[Any]]]:
    """Of the output and each gradient: ours, torch's, the exact one, and of what the unit is."""
    leaves = [x.clone().requires_grad_(x.is_floating_point()) for x in inputs]
    expected = torchs(*leaves, **of.options)
    result = pair.forward(*inputs, **of.options)
    out = pair.fields(result)[pair.outputs[0]]
    upstream = torch.randn(out.shape, generator=generator, dtype=torch.float64).to(out.dtype)
    gradients = pair.gradients(
        pair.arguments(tuple(inputs), of.options), result, {pair.outputs[0]: upstream}
    )
    wanted = [leaf for leaf in leaves if leaf.requires_grad]
    theirs = torch.autograd.grad(expected, wanted, upstream)
    numbers = [_numbers(x) for x in (upstream, *inputs)]
    exact = sizes = of.reference(mp, *numbers)
    if of.unit_of == "terms":
        sizes = of.reference(mp, *map(_absolute, numbers))
    added = max(mp.fsum(map(abs, row)) for row in _numbers(upstream))
    for n, (mine, other, right, size) in enumerate(
        zip((out, *gradients.values()), (expected.detach(), *theirs), exact, sizes, strict=True)
    ):
        scale = _flat(size)
        if of.unit_of in ("largest", "upstream"):
            largest = max(map(abs, scale))
            scale = [max(largest, added) if of.unit_of == "upstream" and n else largest] * len(
                scale
            )
        yield mine, other, _flat(right), scale


def _flat(matrix: Matrix) -> list[Any]:
    return [entry for row in matrix for entry in row]


def _absolute(numbers: Any) -> Any:
    return numbers if isinstance(numbers[0], int) else zipped(abs, numbers)


def _numbers(x: Tensor) -> Any:
    if not x.is_floating_point():
        return x.tolist()
    matrix = x if x.dim() == 2 else x.reshape(1, -1)
    return [[mp.mpf(entry) for entry in row] for row in matrix.double().tolist()]


def _error(given: Tensor, exact: list[Any], scale: list[Any]) -> float:
    """The largest error in units in the last place of the scale; infinite for what is no number."""
    finfo = torch.finfo(given.dtype)
    worst = 0.0
    for value, entry, size in zip(given.double().flatten().tolist(), exact, scale, strict=True):
        if not math.isfinite(value) or abs(entry) > finfo.max:
            return math.inf
        power = mp.floor(mp.log(max(abs(size), mp.mpf(finfo.tiny)), 2))
        worst = max(worst, float(abs(mp.mpf(value) - entry) / (finfo.eps * mp.mpf(2) ** power)))
    return worst


def table(examples: int, only: str = "") -> Iterator[str]:
    yield "| pair | dtype | ours | torch's | ours less torch's, same inputs |"
    yield "|---|---|---:|---:|---:|"
    for label, pair, exact in subjects():
        if only not in label:
            continue
        for dtype in DTYPES:
            worst = measure(pair, exact, dtype, examples)
            yield (
                f"| {label} | {str(dtype)[6:]} | {worst.ours:.3g} | {worst.torchs:.3g} "
                f"| {worst.beyond:.2f} |"
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.against_torch.accuracy", description=__doc__
    )
    parser.add_argument("--examples", type=int, default=EXAMPLES)
    parser.add_argument("--only", metavar="NAME", default="")
    options = parser.parse_args()
    for line in table(options.examples, options.only):
        print(line, flush=True)


if __name__ == "__main__":
    main()
