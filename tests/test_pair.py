"""Binding a backward to a forward by name: what is bound, and what is refused."""

from __future__ import annotations

import types
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, ones

from backprop_ops import Index, Kept, Pair, pairs
from backprop_ops.ops import pairs_of
from backprop_ops.pair import PairError


class Record(NamedTuple):
    out: Tensor
    total: Tensor
    scale: Kept


class KeptFirst(NamedTuple):
    scale: Kept
    out: Tensor


class Unmarked(NamedTuple):
    out: Tensor
    xhat: Tensor


def scaled(x: Tensor, y: Tensor | None, where: Index, *, factor: float = 2.0) -> Record:
    return Record(x * factor, x.sum(), ones(()))


def scaled_backward(dout, dtotal, x, y, scale, *, factor):
    return dout * factor + dtotal, None


def test_bound_by_name() -> None:
    pair = Pair.bind(scaled, scaled_backward)
    assert pair.name == "scaled"
    assert pair.inputs == ("x", "y", "where")
    assert pair.options == ("factor",)
    assert pair.outputs == ("out", "total")
    assert pair.kept == ("scale",)
    assert pair.saved == ("x", "y", "scale", "factor")
    assert len({pair, Pair.bind(scaled, scaled_backward)}) == 1


def test_called_by_name() -> None:
    pair = Pair.bind(scaled, scaled_backward)
    arguments = pair.arguments((ones(3), None, torch.tensor([0])), {})
    assert arguments["factor"] == 2.0
    upstreams = {"out": ones(3), "total": ones(())}
    gradients = pair.gradients(arguments, scaled(ones(3), None, torch.tensor([0])), upstreams)
    assert list(gradients) == ["x", "y"]
    assert gradients["x"].tolist() == [3, 3, 3]
    assert gradients["y"] is None


def test_sequence_of_tensors_has_one_slot() -> None:
    def join(parts: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(parts))

    def join_backward(dout: Tensor, parts: Sequence[Tensor]) -> tuple[tuple[Tensor, ...]]:
        dparts = dout.split([len(part) for part in parts])
        return (dparts,)

    pair = Pair.bind(join, join_backward)
    arguments = pair.arguments(((ones(2), ones(3)),), {})
    gradients = pair.gradients(arguments, join((ones(2), ones(3))), {"out": ones(5)})
    assert [len(gradient) for gradient in gradients["parts"]] == [2, 3]


def test_unannotated_from_outside() -> None:
    """Outputs are the fields whose upstream the backward takes; floating inputs have slots."""

    def norm(x, index, scale):
        return Unmarked(x * scale, x)

    def norm_backward(dout, scale):
        return dout * scale

    pair = Pair.bind(norm, norm_backward, Unmarked)
    assert pair.outputs == ("out",)
    assert pair.kept == ("xhat",)
    arguments = pair.arguments((ones(2), torch.tensor([1]), 3.0), {})
    assert pair.slots(arguments) == ("x",)
    result = norm(ones(2), None, 3.0)
    assert pair.gradients(arguments, result, {"out": ones(2)})["x"].tolist() == [3, 3]


def out_of(x: Tensor) -> Tensor:
    return x


def of_named(out: Tensor) -> Tensor:
    return out


def of_upstream(dout: Tensor) -> Tensor:
    return dout


def of_option(x: Tensor, *, out: int = 1) -> Tensor:
    return x


def varied(*tensors: Tensor) -> Tensor:
    return tensors[0]


def two(x: Tensor) -> tuple[Tensor, Tensor]:
    return x, x


def nothing(x: Tensor) -> None: ...


def kept_first(x: Tensor) -> KeptFirst:
    return KeptFirst(x, x)


def unmarked(x: Tensor) -> Unmarked:
    return Unmarked(x, x)


class Im(NamedTuple):
    im: Tensor
    dim: Kept


def upstream_called_field(x: Tensor) -> Im:
    return Im(x, x)


REFUSED = {
    "unknown parameter": (scaled, lambda dout, dtotal, scael: 0, "did you mean 'scale'?"),
    "unlike anything": (out_of, lambda dout, qqq: 0, "after out"),
    "upstream not taken": (scaled, lambda dout: 0, "does not take 'dtotal'"),
    "input like a field": (of_named, lambda dout: 0, "'out' names both a parameter"),
    "option like a field": (of_option, lambda dout: 0, "'out' names both a parameter"),
    "input like an upstream": (of_upstream, lambda dout: 0, "'dout' names both the upstream"),
    "field like an upstream": (upstream_called_field, lambda dim: 0, "'dim' names both"),
    "no fixed inputs": (varied, lambda dout: 0, "*tensors"),
    "no fixed parameters": (out_of, lambda *upstreams: 0, "*upstreams"),
    "tuple without names": (two, lambda dout: 0, "must return a Tensor or a NamedTuple"),
    "nothing returned": (nothing, lambda dout: 0, "must return a Tensor or a NamedTuple"),
    "field neither output nor kept": (unmarked, lambda dout, xhat: 0, "annotate 'xhat' as Kept"),
    "kept before outputs": (kept_first, lambda dout: 0, "outputs come first"),
    "no upstream at all": (scaled, lambda x: 0, "does not take 'dout'"),
    "not readable": (out_of, torch.Tensor.add_, "no signature"),
}


@pytest.mark.parametrize(("forward", "backward", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(forward: Callable[..., Any], backward: Callable[..., Any], message: str) -> None:
    with pytest.raises(PairError) as raised:
        Pair.bind(forward, backward)
    assert message in str(raised.value)


def test_no_output_is_taken() -> None:
    with pytest.raises(PairError, match="takes the upstream of none of them"):
        Pair.bind(lambda x: Unmarked(x, x), lambda x: 0, Unmarked)


def test_wrong_number_of_gradients() -> None:
    pair = Pair.bind(scaled, lambda dout, dtotal: dout)
    arguments = pair.arguments((ones(1), ones(1), torch.tensor([0])), {})
    result = scaled(ones(1), None, torch.tensor([0]))
    both = (
        r"return 2 gradient\(s\), one for each of x, y \(or for each of x, y, where, None .*got 1"
    )
    with pytest.raises(PairError, match=both):
        pair.gradients(arguments, result, {"out": ones(1), "total": ones(())})


X = "a tensor"


def affine(x, w, b=None):
    return x * w if b is None else x * w + b


def affine_annotated(x: Tensor, w: Tensor, axis: int, b: Tensor | None = None) -> Tensor:
    return affine(x, w, b)


def stack(xs, dim):
    return torch.stack(list(xs), dim)


@pytest.mark.parametrize(
    ("forward", "args", "returned", "gradients"),
    [
        (affine, (X, X), (1, 2), {"x": 1, "w": 2}),
        (affine, (X, X), (1, 2, None), {"x": 1, "w": 2}),
        (affine, (X, X, X), (1, 2, 3), {"x": 1, "w": 2, "b": 3}),
        (affine, (X, X, X), (1, 2, None), {"x": 1, "w": 2, "b": None}),
        (affine_annotated, (X, X, 0), (1, 2, None, None), {"x": 1, "w": 2, "b": None}),
        (affine_annotated, (X, X, 0), (1, 2, None), {"x": 1, "w": 2, "b": None}),
        (stack, ((X, X), 0), ((1, 2), None), {"xs": (1, 2)}),
        (stack, ((X, X), 0), (1, None), {"xs": (1, None)}),
        (stack, ((X, X), 0), (1, 2), {"xs": (1, 2)}),
    ],
)
def test_one_gradient_for_each_input(
    forward: Callable[..., Any],
    args: tuple[Any, ...],
    returned: tuple[Any, ...],
    gradients: dict[str, Any],
) -> None:
    """As an autograd.Function returns them; what they are makes no difference here."""

    def tensors(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(tensors, value))
        return ones(()) if value == X else value

    pair = Pair.bind(forward, lambda dout: returned)
    arguments = pair.arguments(tensors(args), {})
    assert pair.gradients(arguments, ones(()), {"out": ones(())}) == gradients


@pytest.mark.parametrize("returned", [(1, 2, 3), (1,), (1, None, None, None)])
def test_a_gradient_for_an_absent_input(returned: tuple[Any, ...]) -> None:
    pair = Pair.bind(affine, lambda dout: returned)
    arguments = pair.arguments((ones(2), ones(2)), {})
    with pytest.raises(PairError, match=rf"return 2 .*None where.*got {len(returned)}"):
        pair.gradients(arguments, ones(2), {"out": ones(2)})


def test_wrong_result() -> None:
    with pytest.raises(PairError, match=r"out_of must return a Tensor or a NamedTuple.*got float"):
        Pair.bind(out_of, lambda dout: dout).fields(1.0)


@pytest.mark.parametrize(("orphan", "message"), [
    ("tanh", "family: tanh has no backward tanh_backward"),
    ("tanh_backward", "family: tanh_backward has no forward tanh"),
])  # fmt: skip
def test_orphan(orphan: str, message: str) -> None:
    module = types.ModuleType("family")
    function = types.FunctionType(out_of.__code__, {"__name__": "family"}, orphan)
    setattr(module, orphan, function)
    with pytest.raises(PairError, match=message):
        pairs_of(module)


def test_every_pair_is_found() -> None:
    assert {"add", "tanh", "sum", "reshape", "linear", "embedding", "batchnorm"} <= set(pairs)
    assert all(name == pair.name for name, pair in pairs.items())


def test_partial_and_callable_object() -> None:
    class Scaled:
        def __call__(self, x: Tensor, y: Tensor | None, where: Index, *, factor: float) -> Record:
            return scaled(x, y, where, factor=factor)

    bound = Pair.bind(partial(scaled, factor=3.0), partial(scaled_backward, factor=3.0))
    assert bound.name == "scaled"
    assert bound.slotted == {"x": True, "y": True, "where": False}
    called = Pair.bind(Scaled(), scaled_backward)
    assert called.name == "Scaled"
    assert called.slotted == {"x": True, "y": True, "where": False}
