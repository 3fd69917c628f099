"""Every pair of the library on its samples, by `check`.

The samples stand beside the op's name in ``tests/ops/test_<family>.py``.
"""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from backprop_ops import Pair, check, pairs
from backprop_ops.ops import _large
from tests.support import families
from tests.support.families import EXAMPLES, beside_the_ops
from tests.support.samples import Bad, Drawing, Sample, drawings


def cases(kind: str) -> list[Any]:
    """The entries of every ``tests/ops/test_<family>.py``, as parameters with the pair's name."""
    return [
        pytest.param(pair, entry, id=f"{pair.name}-{i}" if i else pair.name)
        for pair, entries in beside_the_ops(kind)
        for i, entry in enumerate(entries)
    ]


SAMPLES = cases("SAMPLES")
BAD_INPUTS = cases("BAD_INPUTS")
ROOT = Path(__file__).parents[2]
THOROUGH = pytest.mark.thorough


@pytest.mark.parametrize("kind", EXAMPLES)
@pytest.mark.parametrize("family", ["elementwise", "gates"])  # one that exists, and a new one
def test_a_pair_without_data(family: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the file and an entry that could be written there."""

    def silu(x: Tensor) -> Tensor:
        return x * x.sigmoid()

    def silu_backward(dout: Tensor, x: Tensor) -> Tensor:
        return dout * x.sigmoid() * (1 + x * (1 - x.sigmoid()))

    silu.__module__ = f"backprop_ops.ops.{family}"
    monkeypatch.setattr(families, "pairs", {**pairs, "silu": Pair.bind(silu, silu_backward)})
    with pytest.raises(LookupError) as raised:
        beside_the_ops(kind)
    first, entry, *_ = str(raised.value).splitlines()
    assert first.startswith(f"tests/ops/test_{family}.py: {kind} has nothing for 'silu'")
    assert entry.startswith('    "silu": ')
    ast.parse(f"{{{entry}}}")


@pytest.mark.parametrize("kind", [*EXAMPLES, "EQUIVALENT"])
def test_no_data_is_left_over(kind: str) -> None:
    """A pair that was renamed leaves none under its old name."""
    for module in {families.data(pair) for pair in pairs.values()}:
        names = {pair.name for pair in pairs.values() if families.data(pair) is module}
        assert not getattr(module, kind, {}).keys() - names


def test_data_is_read_without_torchs_tables_and_mpmath() -> None:
    """They take seconds to import, and torch's replace the profile of Hypothesis."""
    code = """
import sys
from tests.support.families import EXAMPLES, beside_the_ops

for kind in EXAMPLES:
    beside_the_ops(kind)
assert not [m for m in sys.modules if m.startswith(("mpmath", "torch.testing._internal.common_m"))]
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


# The first of each pair in a plain run, since `check` makes many cases of each.
FIRST_PLAIN = [
    s if s.id in pairs else pytest.param(*s.values, id=s.id, marks=THOROUGH) for s in SAMPLES
]


def proves_something(pair: Pair, args: tuple[Any, ...], options: dict[str, Any]) -> bool:
    """A sample with an empty output does not."""
    fields = pair.fields(pair.forward(*args, **options))
    return any(bool(fields[output].numel()) for output in pair.outputs)


@pytest.mark.parametrize(("pair", "sample"), FIRST_PLAIN)
def test_sample(pair: Pair, sample: Sample, device: str) -> None:
    """In float32, with the lecture's rows; `check` goes on to float64 and the halves by itself."""
    args, options = Drawing(torch.float32, device=device).call(sample)
    report = check(pair.forward, pair.backward, args, options, seed=0)
    assert report.ok == proves_something(pair, args, options), str(report)
    assert not report.failures, str(report)
    assert all(row.approximate for row in report.comparisons), str(report)


@pytest.mark.parametrize(("pair", "sample"), FIRST_PLAIN)
def test_beyond_the_cache(
    pair: Pair, sample: Sample, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    """With a cache of two elements every array is large."""
    monkeypatch.setattr(_large, "CACHED", 2)
    args, options = Drawing(torch.float32, device=device).call(sample)
    report = check(pair.forward, pair.backward, args, options, seed=0)
    assert report.ok == proves_something(pair, args, options), str(report)
    assert not report.failures, str(report)


# torch 2.4 has no batching rule for scatter_add_, and loops over it.
@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
@pytest.mark.parametrize("cached", [_large.CACHED, 2])
@pytest.mark.parametrize(("pair", "sample"), SAMPLES)
def test_vmap(pair: Pair, sample: Sample, cached: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With three of one argument, or of the upstream, and one of all others, as in a loop."""
    monkeypatch.setattr(_large, "CACHED", cached)
    args, options = Drawing(torch.float64).call(sample)
    fields = pair.fields(pair.forward(*args, **options))
    upstreams = {name: torch.randn_like(fields[name]) for name in pair.outputs}
    arguments = [*args, *upstreams.values()]

    def gradients(*arguments: Any) -> tuple[Tensor, ...]:
        inputs, douts = arguments[: len(args)], arguments[len(args) :]
        result = pair.forward(*inputs, **options)
        named = dict(zip(upstreams, douts, strict=True))
        made = pair.gradients(pair.arguments(inputs, options), result, named)
        return tuple(g for g in made.values() if g is not None)

    for place, argument in enumerate(arguments):
        if not isinstance(argument, Tensor):
            continue
        three = torch.stack([argument, argument.flip(0) if argument.dim() else argument, argument])
        in_dims = [0 if i == place else None for i in range(len(arguments))]
        batched = torch.func.vmap(gradients, tuple(in_dims))(
            *arguments[:place], three, *arguments[place + 1 :]
        )
        looped = [gradients(*arguments[:place], a, *arguments[place + 1 :]) for a in three]
        torch.testing.assert_close(batched, tuple(map(torch.stack, zip(*looped, strict=True))))


@pytest.mark.parametrize("cached", [_large.CACHED, 2])
@pytest.mark.parametrize("name", ["batchnorm", "cross_entropy"])
def test_autograd_of_the_forward_under_vmap(
    name: str, cached: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Autograd finds what one call at a time does: nothing that it needs was written over.

    In the first row of logits the probabilities of the two largest are equal by rounding.
    """
    monkeypatch.setattr(_large, "CACHED", cached)
    pair = pairs[name]
    several = torch.randn(3, 4, 3, dtype=torch.float64)
    several[0, 0] = torch.tensor([0.0, 1e-17, 1e-18])
    others = {
        "batchnorm": torch.randn(2, 3).double(),
        "cross_entropy": [torch.tensor([0, 1, 2, 1])],
    }

    def loss(x: Tensor) -> Tensor:
        return pair.forward(x, *others[name]).out.pow(3).sum()

    expected = torch.stack([torch.func.grad(loss)(x) for x in several])
    found = torch.func.grad(lambda x: torch.func.vmap(loss)(x).sum())(several)
    torch.testing.assert_close(found, expected)
    leaf = several[0].clone().requires_grad_()
    torch.testing.assert_close(torch.autograd.grad(loss(leaf), leaf)[0], expected[0])


@pytest.mark.thorough
@pytest.mark.parametrize(("pair", "sample"), SAMPLES)
@settings(max_examples=5)
@given(data=st.data())
def test_drawn(pair: Pair, sample: Sample, data: st.DataObject) -> None:
    """Other shapes, broadcasting ones too, other values, layouts and precisions."""
    dtypes = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
    args, options = data.draw(drawings(sample, dtypes)).call(sample)
    fields = pair.fields(pair.forward(*args, **options))
    assume(all(fields[output].isfinite().all() for output in pair.outputs))
    report = check(pair.forward, pair.backward, args, options, seed=0)
    assert not report.failures, str(report)


@pytest.mark.parametrize(("pair", "sample"), SAMPLES)
def test_stays_on_the_device(pair: Pair, sample: Sample) -> None:
    """All is made where the arguments are: on `meta`, which every machine has."""
    args, options = Drawing(torch.float32, device="meta").call(sample)
    result = pair.forward(*args, **options)
    fields = pair.fields(result)
    upstreams = {name: torch.empty_like(fields[name]) for name in pair.outputs}
    gradients = pair.gradients(pair.arguments(args, options), result, upstreams)
    made = [*fields.values(), *(g for g in gradients.values() if g is not None)]
    assert {tensor.device.type for tensor in made} == {"meta"}


@pytest.mark.parametrize(("pair", "entry"), BAD_INPUTS)
def test_bad_input(pair: Pair, entry: Bad) -> None:
    with pytest.raises(entry.error) as raised:
        pair.forward(*entry.args, **entry.options)
    assert entry.message in str(raised.value)
    assert type(raised.value) is entry.error


@pytest.mark.parametrize("pair", [pytest.param(pair, id=name) for name, pair in pairs.items()])
def test_conventions(pair: Pair) -> None:
    """The order of the backward's parameters and of what it returns, read from its source."""
    parameters = list(inspect.signature(pair.backward).parameters)
    fields = (*pair.outputs, *pair.kept)
    order = [*(f"d{output}" for output in pair.outputs), *pair.inputs, *fields, *pair.options]
    assert parameters == [name for name in order if name in parameters]

    (function,) = ast.parse(inspect.getsource(pair.backward)).body
    assert isinstance(function, ast.FunctionDef)
    last = function.body[-1]
    assert isinstance(last, ast.Return)
    names = last.value.elts if isinstance(last.value, ast.Tuple) else [last.value]
    slots = [f"d{name}" for name, slotted in pair.slotted.items() if slotted]
    assert [name.id for name in names if isinstance(name, ast.Name)] == slots

    assert pair.forward.__doc__
    assert pair.backward.__doc__
