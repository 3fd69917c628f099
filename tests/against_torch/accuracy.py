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
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import mpmath
import torch
import torch.nn.functional as F  # noqa: N812  # torch's own name for it
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from backprop_ops import Pair, pairs

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
ROWS, COLUMNS = 4, 6
EXAMPLES = 100

mp = mpmath.mp.clone()
mp.prec = 200

Matrix = list[list[Any]]  # of mpmath's numbers
Reference = Callable[..., tuple[Matrix, ...]]  # upstream and inputs to output and gradients


@dataclass(frozen=True)
class Subject:
    """A pair with torch's function, both called with the same inputs, and the exact reference."""

    name: str
    torchs: Callable[..., Tensor]
    exact: Reference
    inputs: tuple[str, ...]  # what is drawn for each: see `_draw`
    options: dict[str, Any]
    torchs_options: dict[str, Any]
    unit_of: str = "largest"  # or entry, terms, upstream

    @property
    def label(self) -> str:
        exponent = self.options.get("exponent")
        return self.name if exponent is None else f"{self.name}({exponent})"


def each(
    function: Callable[..., Any], *derivatives: Callable[..., Any]
) -> Callable[..., tuple[Matrix, ...]]:
    """The reference of what happens to each entry alone."""

    def reference(dout: Matrix, *inputs: Matrix) -> tuple[Matrix, ...]:
        out = _zip(function, *inputs)
        return (out, *(_zip(lambda d, *x, f=f: d * f(*x), dout, *inputs) for f in derivatives))

    return reference


def one(*_: Any) -> int:
    return 1


def first(x: Any, _: Any) -> Any:
    return x


def second(_: Any, y: Any) -> Any:
    return y


def _zip(function: Callable[..., Any], *matrices: Matrix) -> Matrix:
    return [
        [function(*entries) for entries in zip(*rows, strict=True)]
        for rows in zip(*matrices, strict=True)
    ]


def _turn(matrix: Matrix) -> Matrix:
    return [list(column) for column in zip(*matrix, strict=True)]


def _product(x: Matrix, y: Matrix) -> Matrix:
    return [[mp.fdot(row, column) for column in _turn(y)] for row in x]


def total(dout: Matrix, x: Matrix) -> tuple[Matrix, ...]:
    return [[mp.fsum(row)] for row in x], [[d[0]] * len(x[0]) for d in dout]


def average(dout: Matrix, x: Matrix) -> tuple[Matrix, ...]:
    n = len(x[0])
    return [[mp.fsum(row) / n] for row in x], [[d[0] / n] * n for d in dout]


def product(dout: Matrix, x: Matrix, y: Matrix) -> tuple[Matrix, ...]:
    return _product(x, y), _product(dout, _turn(y)), _product(_turn(x), dout)


def affine(dout: Matrix, x: Matrix, weight: Matrix, bias: Matrix) -> tuple[Matrix, ...]:
    out, dx, dweight = product(dout, x, weight)
    sums = [[mp.fsum(column) for column in _turn(dout)]]
    return _zip(lambda o, b: o + b, out, bias * len(out)), dx, dweight, sums


def log_probabilities(x: Matrix) -> Matrix:
    rows = []
    for row in x:
        most = max(row)
        log_sum = most + mp.log(mp.fsum(mp.exp(entry - most) for entry in row))
        rows.append([entry - log_sum for entry in row])
    return rows


def probabilities(dout: Matrix, x: Matrix) -> tuple[Matrix, ...]:
    probs = _zip(mp.exp, log_probabilities(x))
    inner = [mp.fdot(p, d) for p, d in zip(probs, dout, strict=True)]
    return probs, [
        [p * (d - i) for p, d in zip(row, ds, strict=True)]
        for row, ds, i in zip(probs, dout, inner, strict=True)
    ]


def logarithms(dout: Matrix, x: Matrix) -> tuple[Matrix, ...]:
    logprobs = log_probabilities(x)
    return logprobs, [
        [d - mp.exp(entry) * mp.fsum(ds) for entry, d in zip(row, ds, strict=True)]
        for row, ds in zip(logprobs, dout, strict=True)
    ]


def likelihood(dout: Matrix, logprobs: Matrix, target: Sequence[int]) -> tuple[Matrix, ...]:
    n, d = len(logprobs), dout[0][0]
    loss = -mp.fsum(row[t] for row, t in zip(logprobs, target, strict=True)) / n
    hot = [[-d / n * (j == t) for j in range(len(logprobs[0]))] for t in target]
    return [[loss]], hot


def entropy(dout: Matrix, logits: Matrix, target: Sequence[int]) -> tuple[Matrix, ...]:
    logprobs, n, d = log_probabilities(logits), len(logits), dout[0][0]
    loss, _ = likelihood(dout, logprobs, target)
    return loss, [
        [d / n * (mp.exp(entry) - (j == t)) for j, entry in enumerate(row)]
        for row, t in zip(logprobs, target, strict=True)
    ]


def soft_entropy(dout: Matrix, logits: Matrix, target: Matrix) -> tuple[Matrix, ...]:
    logprobs, n, d = log_probabilities(logits), len(logits), dout[0][0]
    loss = -mp.fsum(mp.fdot(t, row) for t, row in zip(target, logprobs, strict=True)) / n
    dlogits = [
        [d / n * (mp.exp(entry) * mp.fsum(ts) - t) for entry, t in zip(row, ts, strict=True)]
        for row, ts in zip(logprobs, target, strict=True)
    ]
    return [[loss]], dlogits, _zip(lambda entry: -d / n * entry, logprobs)


EPS = 1e-5


def normalized(dout: Matrix, x: Matrix, gain: Matrix, bias: Matrix) -> tuple[Matrix, ...]:
    """Of columns, with the variance that torch normalizes with."""
    out, dx, dgain, dbias = [], [], [], []
    for column, ds, (g,), (b,) in zip(_turn(x), _turn(dout), _turn(gain), _turn(bias), strict=True):
        n = len(column)
        mean = mp.fsum(column) / n
        std = mp.sqrt(mp.fsum((entry - mean) ** 2 for entry in column) / n + mp.mpf(EPS))
        xhat = [(entry - mean) / std for entry in column]
        dgain.append([mp.fdot(ds, xhat)])
        dbias.append([mp.fsum(ds)])
        out.append([g * h + b for h in xhat])
        through = [dbias[-1][0] / n + h * dgain[-1][0] / n for h in xhat]
        dx.append([g / std * (d - t) for d, t in zip(ds, through, strict=True)])
    return tuple(_turn(matrix) for matrix in (out, dx, dgain, dbias))


def picked(dout: Matrix, index: Sequence[int], weight: Matrix) -> tuple[Matrix, ...]:
    """Entries of ``index`` that are equal take the same row, which gets both gradients."""
    sums = [
        [
            mp.fsum(d[j] for d, i in zip(dout, index, strict=True) if i == row)
            for j in range(COLUMNS)
        ]
        for row in range(len(weight))
    ]
    return [weight[i] for i in index], sums


def _batch_norm(x: Tensor, gain: Tensor, bias: Tensor, *, eps: float) -> Tensor:
    return F.batch_norm(x, None, None, gain[0], bias[0], training=True, eps=eps)


def subject(
    name: str,
    torchs: Callable[..., Tensor],
    exact: Reference,
    *inputs: str,
    unit_of: str = "largest",
    torchs_options: dict[str, Any] | None = None,
    **options: Any,
) -> Subject:
    theirs = options if torchs_options is None else torchs_options
    return Subject(name, torchs, exact, inputs, options, theirs, unit_of)


def _power(exponent: float) -> Subject:
    k = mp.mpf(exponent)
    reference = each(lambda x: x**k, lambda x: k * x ** (k - 1))
    return subject("pow", torch.pow, reference, "positive", unit_of="entry", exponent=exponent)


SUBJECTS = [
    subject("add", torch.add, each(operator.add, one, one), "x", "x", unit_of="entry"),
    subject("sub", torch.sub, each(operator.sub, one, lambda *_: -1), "x", "x", unit_of="entry"),
    subject("mul", torch.mul, each(operator.mul, second, first), "x", "x", unit_of="entry"),
    subject(
        "div",
        torch.div,
        each(operator.truediv, lambda _, y: 1 / y, lambda x, y: -x / y / y),
        "x",
        "positive",
        unit_of="entry",
    ),
    _power(2),
    _power(3),
    _power(-0.5),
    subject(
        "reciprocal",
        torch.reciprocal,
        each(lambda x: 1 / x, lambda x: -1 / x / x),
        "positive",
        unit_of="entry",
    ),
    subject("exp", torch.exp, each(mp.exp, mp.exp), "x", unit_of="entry"),
    subject("log", torch.log, each(mp.log, lambda x: 1 / x), "positive", unit_of="entry"),
    subject("tanh", torch.tanh, each(mp.tanh, lambda x: mp.sech(x) ** 2), "x", unit_of="entry"),
    subject("sum", torch.sum, total, "x", unit_of="terms", dim=1, keepdim=True),
    subject("mean", torch.mean, average, "x", unit_of="terms", dim=1, keepdim=True),
    subject("softmax", torch.softmax, probabilities, "x", unit_of="upstream", dim=1),
    subject("log_softmax", torch.log_softmax, logarithms, "x", unit_of="upstream", dim=1),
    subject("nll_loss", F.nll_loss, likelihood, "negative", "target"),
    subject("cross_entropy", F.cross_entropy, entropy, "x", "target"),
    subject("soft_cross_entropy", F.cross_entropy, soft_entropy, "x", "probs"),
    subject(
        "batchnorm",
        _batch_norm,
        normalized,
        "x",
        "row",
        "row",
        torchs_options={"eps": EPS},
        eps=EPS,
        correction=0,
    ),
    subject("matmul", torch.matmul, product, "x", "square", unit_of="terms"),
    subject(
        "linear",
        lambda x, w, b: F.linear(x, w.mT, b[0]),
        affine,
        "x",
        "square",
        "row",
        unit_of="terms",
    ),
    subject("embedding", F.embedding, picked, "target", "table", unit_of="terms"),
]


@dataclass
class Worst:
    """The largest errors of all draws, in units in the last place."""

    ours: float = 0.0
    torchs: float = 0.0
    beyond: float = 0.0  # ours less torch's on the same inputs

    def add(self, ours: float, torchs: float) -> None:
        self.ours, self.torchs = max(self.ours, ours), max(self.torchs, torchs)
        self.beyond = max(self.beyond, ours - torchs)


def measure(of: Subject, dtype: torch.dtype, examples: int = EXAMPLES) -> Worst:
    """The worst errors of one pair in one precision, over drawn inputs."""
    worst, pair = Worst(), pairs[of.name]
    widest = 8 if dtype == torch.float16 else 30

    @settings(max_examples=examples, derandomize=True, database=None, deadline=None)
    @given(st.integers(0, 2**32), st.integers(-widest, widest), st.sampled_from([0, 1, 30, 1000]))
    def run(seed: int, exponent: int, offset: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        inputs = [_draw(kind, generator, 2.0**exponent, offset, dtype) for kind in of.inputs]
        for ours, theirs, exact, scale in _results(of, pair, inputs, generator):
            error, torchs = _error(ours, exact, scale), _error(theirs, exact, scale)
            if not math.isinf(torchs):
                worst.add(error, torchs)

    run()
    return worst


def _draw(
    kind: str, generator: torch.Generator, scale: float, offset: int, dtype: torch.dtype
) -> Tensor:
    if kind == "target":
        return torch.randint(ROWS, (ROWS,), generator=generator)
    shape = {"row": (1, COLUMNS), "square": (COLUMNS, COLUMNS)}.get(kind, (ROWS, COLUMNS))
    normal = torch.randn(shape, generator=generator, dtype=torch.float64)
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
    of: Subject, pair: Pair, inputs: list[Tensor], generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor, list[Any], list[Any]]]:
    """Of the output and each gradient: ours, torch's, the exact one, and of what the unit is."""
    leaves = [x.clone().requires_grad_(x.is_floating_point()) for x in inputs]
    expected = of.torchs(*leaves, **of.torchs_options)
    result = pair.forward(*inputs, **of.options)
    out = pair.fields(result)[pair.outputs[0]]
    upstream = torch.randn(out.shape, generator=generator, dtype=torch.float64).to(out.dtype)
    gradients = pair.gradients(
        pair.arguments(tuple(inputs), of.options), result, {pair.outputs[0]: upstream}
    )
    wanted = [leaf for leaf in leaves if leaf.requires_grad]
    theirs = torch.autograd.grad(expected, wanted, upstream)
    exact = of.exact(_numbers(upstream), *map(_numbers, inputs))
    sizes = exact
    if of.unit_of == "terms":
        sizes = of.exact(_absolute(_numbers(upstream)), *map(_absolute, map(_numbers, inputs)))
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
    return numbers if isinstance(numbers[0], int) else _zip(abs, numbers)


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
    for of in SUBJECTS:
        if only not in of.name:
            continue
        for dtype in DTYPES:
            worst = measure(of, dtype, examples)
            yield (
                f"| {of.label} | {str(dtype)[6:]} | {worst.ours:.3g} | {worst.torchs:.3g} "
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
