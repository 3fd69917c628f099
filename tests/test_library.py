"""`custom_op`: pairs as operators of torch."""

from __future__ import annotations

import copy
import itertools
import pickle
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.func import grad, jacrev, vmap

import backprop_ops
from backprop_ops import Kept, Pair, PairError, check, custom_op, pairs
from backprop_ops.library import CustomOp
from tests.support.samples import Drawing, Sample
from tests.test_autograd import (
    FIRST,
    SAMPLES,
    Call,
    affine,
    affine_backward,
    joined,
    joined_backward,
    real,
    unit,
    unit_backward,
)

numbers = itertools.count()

# torch's own steps for a single row read the target, which a dynamic size does not allow.
READS_THE_TARGET = {"nll_loss-5"}


def made(forward: Callable[..., Any], backward: Callable[..., Any]) -> CustomOp[..., Any]:
    return custom_op(forward, backward, f"backprop_ops_tests::op{next(numbers)}")


OPS = {pair.name: made(pair.forward, pair.backward) for pair in pairs.values()}


def operands(pair: Pair, sample: Sample, *, requires_grad: bool) -> tuple[Any, ...]:
    """What the operator itself is called with."""
    call = Call(pair, sample, OPS[pair.name])
    args = list(call.args)
    if requires_grad:
        for i, x in zip(call.at, call.leaves(), strict=True):
            args[i] = x
    return tuple(OPS[pair.name].operands(pair.arguments(args, call.options)))


@pytest.mark.parametrize(("pair", "sample"), SAMPLES)
def test_opcheck(pair: Pair, sample: Sample, request: pytest.FixtureRequest) -> None:
    tests = ["test_schema", "test_autograd_registration", "test_faketensor"]
    if request.node.callspec.id not in READS_THE_TARGET:
        tests.append("test_aot_dispatch_dynamic")
    given = operands(pair, sample, requires_grad=True)
    torch.library.opcheck(OPS[pair.name].op, given, test_utils=tests)


@pytest.mark.parametrize(("pair", "sample"), SAMPLES)
def test_values_and_gradients(pair: Pair, sample: Sample) -> None:
    ours, plain = (Call(pair, sample, f) for f in (OPS[pair.name], pair.forward))
    assert torch.equal(ours(*ours.inputs), plain(*ours.inputs))
    assert torch.autograd.gradcheck(ours, ours.leaves())


@pytest.mark.parametrize(("pair", "sample"), FIRST)
def test_under_torch_func(pair: Pair, sample: Sample) -> None:
    ours, plain = (Call(pair, sample, f) for f in (OPS[pair.name], pair.forward))
    torch.testing.assert_close(
        jacrev(ours, ours.each)(*ours.inputs), jacrev(plain, ours.each)(*ours.inputs)
    )
    batch = [torch.stack([x, x * 2]) for x in ours.inputs]
    torch.testing.assert_close(vmap(ours)(*batch), vmap(plain)(*batch))
    of_each = [vmap(grad(lambda *x, f=f: f(*x).sum(), ours.each))(*batch) for f in (ours, plain)]
    torch.testing.assert_close(*of_each)


def resized(pair: Pair, sample: Sample) -> tuple[Call, Call]:
    """The call, and the same with other sizes."""
    first, second = (Call(pair, sample, OPS[pair.name]) for _ in range(2))
    sizes = {"n": 9, "c": 4, "d": 6, "t": 3, "v": 8}
    drawing = Drawing(seed=4, sizes=sizes, shapes=((7, 2), (7, 2)))
    second.args, second.options = drawing.call(sample)
    second.inputs = tuple(second.args[i] for i in second.at)
    return first, second


@pytest.mark.parametrize(
    ("pair", "sample"),
    [
        pytest.param(*p.values, id=p.id, marks=[] if p in FIRST else pytest.mark.thorough)
        for p in SAMPLES
        if p.id not in READS_THE_TARGET
    ],
)
def test_compiled(pair: Pair, sample: Sample) -> None:
    """One graph for all sizes, without a break, with the operator and its backward whole."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    op = OPS[pair.name]

    first, second = resized(pair, sample)
    constants = {k: v for k, v in first.options.items() if not isinstance(v, Tensor)}

    @torch.compile(fullgraph=True, dynamic=True, backend=counter)
    def compiled(args: Any, tensors: Any) -> Tensor:
        if pair.name == "reshape":  # a shape is one of the sizes
            constants["shape"] = (-1, args[0].shape[-1])
        return pair.fields(op(*args, **constants, **tensors))[pair.outputs[0]]

    for call in (first, second):
        if pair.name == "reshape":
            call.options["shape"] = (-1, call.inputs[0].shape[-1])
        leaves = call.leaves()
        args = list(call.args)
        for i, x in zip(call.at, leaves, strict=True):
            args[i] = x
        out = compiled(args, {k: v for k, v in call.options.items() if k not in constants})
        torch.testing.assert_close(out, call(*call.inputs))
        torch.testing.assert_close(
            torch.autograd.grad(out.sum(), leaves, allow_unused=True),
            torch.autograd.grad(call(*leaves).sum(), leaves, allow_unused=True),
        )
        if call is first:
            graphs = counter.frame_count
    assert counter.frame_count == graphs
    assert op.op in [node.target for graph in counter.graphs for node in graph.graph.nodes]


@pytest.mark.parametrize(("pair", "sample"), SAMPLES)
def test_exported_and_on_meta(pair: Pair, sample: Sample) -> None:
    call = Call(pair, sample, OPS[pair.name])

    class Module(torch.nn.Module):
        def forward(self, *inputs: Tensor) -> Tensor:
            return call(*inputs)

    exported = torch.export.export(Module(), call.inputs)
    assert OPS[pair.name].name.partition("::")[2] in str(exported.graph)
    assert torch.equal(exported.module()(*call.inputs), call(*call.inputs))
    args, options = (
        {k: v.to("meta") if isinstance(v, Tensor) else v for k, v in given.items()}
        for given in (dict(enumerate(call.args)), call.options)
    )
    fields = pair.fields(OPS[pair.name](*args.values(), **options))
    out = fields[pair.outputs[0]]
    assert (out.device.type, out.shape) == ("meta", call(*call.inputs).shape)


@pytest.mark.parametrize(("pair", "sample"), FIRST)
def test_checked_as_autograds_own(pair: Pair, sample: Sample) -> None:
    args, options = Drawing(seed=3).call(sample)
    assert check(OPS[pair.name], None, args, options)


def test_mutates_nothing_and_shares_nothing() -> None:
    x = real(4, 3).detach()
    out = OPS["reshape"](x, shape=(12,))
    out.fill_(7)
    assert not x.eq(7).any()


def test_a_kept_field_in_a_loss() -> None:
    x = real(5, 4)
    result = OPS["batchnorm"](x, None, None)
    with pytest.raises(RuntimeError, match="a loss uses 'xhat', which is kept"):
        (result.out.sum() + result.xhat.sum()).backward()
    (result.out * result.xhat.detach()).sum().backward()


def test_second_order_is_refused() -> None:
    x = real(4)
    (g,) = torch.autograd.grad(OPS["tanh"](x).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd formula was registered"):
        g.sum().backward()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda op: pickle.loads(pickle.dumps(op))])
def test_copies_share_the_operator(copied: Callable[[Any], Any]) -> None:
    again = copied(OPS["tanh"])
    x = real(3).detach()
    assert torch.equal(again(x), OPS["tanh"](x))
    assert again.op is OPS["tanh"].op


@pytest.mark.parametrize("name", ["tanh", "a::b::c", "", 3, "my lib::x"])
def test_a_name_without_a_namespace(name: Any) -> None:
    with pytest.raises(ValueError, match="name must be like"):
        custom_op(backprop_ops.tanh, backprop_ops.tanh_backward, name)


class TestAStrangersPair:
    def test_with_a_record(self) -> None:
        op = made(unit, unit_backward)
        assert type(op(real(4))).__name__ == "Sized"
        assert torch.autograd.gradcheck(lambda x: op(x).out, real(4))
        torch.library.opcheck(op.op, tuple(op.operands({"x": real(4)})))

    @pytest.mark.parametrize("sequence", [list, tuple])
    def test_with_a_sequence(self, sequence: Callable[..., Any]) -> None:
        op = made(joined, joined_backward)
        given = (real(2, 3), real(2, 2, seed=1))
        assert torch.autograd.gradcheck(lambda *xs: op(sequence(xs), dim=1), given)
        torch.library.opcheck(op.op, tuple(op.operands({"xs": sequence(given), "dim": 1})))

    def test_with_none_and_options(self) -> None:
        op = made(affine, affine_backward)
        x, w, b = (real(3, seed=i) for i in range(3))
        for bias in (b, None):
            given = {"x": x, "w": w, "b": bias, "scale": 3.0}
            torch.library.opcheck(op.op, tuple(op.operands(given)))
            assert torch.autograd.gradcheck(lambda x, w, b=bias: op(x, w, b, scale=3.0), (x, w))

    def test_with_a_number_or_a_tensor(self) -> None:
        op = OPS["mul"]
        x = real(3)
        assert torch.equal(op(x, 2.5), x * 2.5)
        assert torch.equal(op(2, x), x * 2)
        compiled = torch.compile(lambda x: op(op(x, 2.5), x), fullgraph=True, backend="aot_eager")
        assert torch.equal(compiled(x), x * 2.5 * x)

    def test_with_every_kind_of_option(self) -> None:
        def many(
            x: Tensor,
            *,
            mode: Literal["a", "b"] = "a",
            dims: Sequence[int] = (0,),
            flag: bool = False,
            dtype: torch.dtype = torch.float32,
            scale: float | None = None,
        ) -> Tensor:
            assert (mode, tuple(dims), flag, dtype) == ("b", (0, 1), True, torch.float64)
            return x * (1.0 if scale is None else scale)

        def many_backward(dout: Tensor, *, scale: float | None) -> Tensor:
            return dout * (1.0 if scale is None else scale)

        op = made(many, many_backward)
        x = real(2, 3)
        options = {"mode": "b", "dims": (0, 1), "flag": True, "dtype": torch.float64}
        for scale in (None, 2, 0.5):
            out = op(x, **options, scale=scale)
            assert torch.equal(out, x * (1 if scale is None else scale))
            assert torch.autograd.grad(out.sum(), x)[0].eq(scale or 1).all()

    def test_what_no_operator_takes(self) -> None:
        def keyed(x: Tensor, *, table: dict[str, int]) -> Tensor:
            return x * table["factor"]

        with pytest.raises(PairError, match=r"keyed: table cannot be passed.*dict\[str, int\]"):
            made(keyed, lambda dout, table: dout * table["factor"])

    def test_a_value_that_no_operator_takes(self) -> None:
        with pytest.raises(TypeError, match=r"x must be Tensor, got float"):
            OPS["tanh"](1.5)
        with pytest.raises(TypeError, match=r"y must be Tensor or Scalar, got str"):
            OPS["mul"](real(3), "2")
        with pytest.raises(TypeError, match=r"xs must be Tensor or .*Tensor\[\].*, got list"):
            made(joined, joined_backward)([real(3), None])

    def test_a_field_that_is_no_tensor(self) -> None:
        class Counted(NamedTuple):
            out: Tensor
            count: Kept

        def counted(x: Tensor) -> Counted:
            return Counted(x * 2, x.numel())

        op = made(counted, lambda dout: dout * 2)
        with pytest.raises(
            TypeError, match=r"must return the Tensors out, count, got .*count: int"
        ):
            op(real(3))

    def test_a_gradient_of_a_wrong_shape(self) -> None:
        op = made(backprop_ops.tanh, lambda dout, out: (dout * (1 - out * out)).sum(0))
        x = real(2, 3)
        with pytest.raises(RuntimeError, match=r"dx must be of x's shape \(2, 3\), got \(3,\)"):
            op(x).sum().backward()
