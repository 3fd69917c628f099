"""Every pair of the library on its samples, against autograd: one severe function for all.

The samples stand beside the op's name in ``tests/ops/test_<family>.py``.
"""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from backprop_ops import Comparison, Pair, check, pairs
from tests.samples import Bad, Drawing, Sample, drawings


def beside_the_ops(attribute: str) -> list[Any]:
    """The entries of every ``tests/ops/test_<family>.py``, as parameters with the pair's name."""
    parameters = []
    for name, pair in pairs.items():
        family = pair.forward.__module__.rpartition(".")[2]
        entries = getattr(importlib.import_module(f"tests.ops.test_{family}"), attribute)
        if not entries.get(name):
            raise LookupError(f"tests/ops/test_{family}.py: {attribute} has nothing for {name!r}")
        parameters += [
            pytest.param(pair, entry, id=f"{name}-{i}" if i else name)
            for i, entry in enumerate(entries[name])
        ]
    return parameters


SAMPLES = beside_the_ops("SAMPLES")
BAD_INPUTS = beside_the_ops("BAD_INPUTS")


def autograd(
    pair: Pair, args: tuple[Any, ...], options: dict[str, Any], upstreams: dict[str, Tensor]
) -> dict[str, Tensor]:
    """What autograd says of the forward, by the names of the inputs that have a gradient."""
    leaves = tuple(
        arg.detach().requires_grad_()
        if isinstance(arg, Tensor) and arg.is_floating_point()
        else arg
        for arg in args
    )
    named = {
        name: leaf
        for name, leaf in zip(pair.inputs, leaves, strict=False)
        if isinstance(leaf, Tensor) and leaf.requires_grad
    }
    fields = pair.fields(pair.forward(*leaves, **options))
    gradients = torch.autograd.grad(
        [fields[output] for output in pair.outputs],
        list(named.values()),
        [upstreams[output] for output in pair.outputs],
    )
    return dict(zip(named, gradients, strict=True))


class Judged(NamedTuple):
    """A gradient by hand, autograd's in the same precision, in float64, and in float32."""

    gradient: Tensor
    autograd: Tensor
    expected: Tensor
    rough: Tensor


def examine(pair: Pair, sample: Sample, drawing: Drawing) -> dict[str, Judged]:
    """Judge all but the values, and return those by the names of the inputs."""
    args, options = drawing.call(sample)
    arguments = pair.arguments(args, options)
    result = pair.forward(*args, **options)
    fields = pair.fields(result)
    upstreams = {output: drawing.upstream(fields[output]) for output in pair.outputs}

    given = (*arguments.values(), *fields.values(), *upstreams.values())
    tensors = [value for value in given if isinstance(value, Tensor)]
    before = [tensor.clone() for tensor in tensors]
    gradients = pair.gradients(arguments, result, upstreams)
    again = pair.gradients(arguments, result, upstreams)
    for tensor, copy in zip(tensors, before, strict=True):
        assert torch.equal(tensor, copy), f"{pair.name}_backward writes to what it was given"
    zeros = {output: torch.zeros_like(upstream) for output, upstream in upstreams.items()}
    of_zero = pair.gradients(arguments, result, zeros)

    own = autograd(pair, args, options, upstreams)
    expected = autograd(pair, *(_to(torch.float64, v) for v in (args, options, upstreams)))
    rough = autograd(pair, *(_to(torch.float32, v) for v in (args, options, upstreams)))
    judged = {}
    for name in pair.slots(arguments):
        gradient, label = gradients[name], f"{pair.name}: d{name}"
        if name not in expected:
            assert gradient is None, f"{label}: {name} has no gradient"
            continue
        assert isinstance(gradient, Tensor), f"{label} is {gradient}"
        assert gradient.shape == arguments[name].shape, f"{label} has the wrong shape"
        assert gradient.dtype == arguments[name].dtype, f"{label} has the wrong dtype"
        assert torch.equal(gradient, again[name]), f"{label} differs the second time"
        assert not of_zero[name].any(), f"{label} of a zero upstream is not zero"
        judged[name] = Judged(gradient, own[name], expected[name], rough[name])
    return judged


def _to(dtype: torch.dtype, values: Any) -> Any:
    """Every floating tensor of a tuple or a dict in another precision."""
    if isinstance(values, dict):
        return {name: _to(dtype, value) for name, value in values.items()}
    if isinstance(values, tuple):
        return tuple(_to(dtype, value) for value in values)
    floating = isinstance(values, Tensor) and values.is_floating_point()
    return values.to(dtype) if floating else values


def assert_close(pair: Pair, name: str, judged: Judged) -> None:
    """As close to float64 as autograd is in the same precision, within a few units of rounding.

    What autograd loses in float32 to cancellation is allowed in float64 at float64's scale.
    """
    gradient, own, expected, rough = (tensor.double() for tensor in judged)
    if not expected.numel():
        return
    eps = torch.finfo(judged.gradient.dtype).eps
    lost = (rough - expected).abs().max() * min(1, eps / torch.finfo(torch.float32).eps)
    tolerance = 16 * eps * expected.abs().max() + 4 * ((own - expected).abs().max() + lost)
    difference = (gradient - expected).abs()
    if not difference.max() <= tolerance:
        at = tuple(int(i) for i in torch.unravel_index(difference.argmax(), expected.shape))
        pytest.fail(
            f"{pair.name}: d{name}{list(at)} is {gradient[at].item()}, "
            f"autograd says {expected[at].item()} (allowed: {tolerance:.1e})"
        )


@pytest.mark.parametrize(("pair", "sample"), SAMPLES)
def test_gradients(pair: Pair, sample: Sample, record_property: Callable[..., None]) -> None:
    """In float64 to rounding, in float32 with the lecture's rows."""
    for name, judged in examine(pair, sample, Drawing(torch.float64)).items():
        assert_close(pair, name, judged)
    for name, judged in examine(pair, sample, Drawing(torch.float32)).items():
        row = Comparison.of(f"{pair.name} d{name}", judged.gradient, judged.autograd)
        record_property("comparison", str(row))
        assert row.approximate, str(row)


@pytest.mark.parametrize(("pair", "sample"), SAMPLES)
@given(data=st.data())
def test_drawn(pair: Pair, sample: Sample, data: st.DataObject) -> None:
    """Other shapes, broadcasting ones too, other values, layouts and precisions."""
    dtypes = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
    drawing = data.draw(drawings(sample, dtypes))
    args, options = drawing.call(sample)
    fields = pair.fields(pair.forward(*args, **options))
    assume(all(fields[output].isfinite().all() for output in pair.outputs))
    for name, judged in examine(pair, sample, drawing).items():
        assert_close(pair, name, judged)


# One sample of each, since `check` makes the others of it, in a fifth of a second or more.
@pytest.mark.parametrize(("pair", "sample"), [s for s in SAMPLES if s.id in pairs])
def test_check(pair: Pair, sample: Sample) -> None:
    """By `check`, which also tries hostile values, layouts of the upstream, and sizes."""
    args, options = Drawing(torch.float64).call(sample)
    report = check(pair.forward, pair.backward, args, options, seed=0)
    assert report, str(report)


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
