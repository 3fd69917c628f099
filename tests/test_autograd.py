"""`differentiable`: pairs as functions that autograd differentiates by their own backwards."""

from __future__ import annotations

import copy
import ctypes
import gc
import inspect
import pickle
import socket
import weakref
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import grad, jacrev, vmap
from torch.utils.checkpoint import checkpoint

import backprop_ops
from backprop_ops import Kept, Pair, PairError, check, differentiable, pairs
from backprop_ops.autograd import Differentiable, batchnorm, cross_entropy, linear, tanh
from tests.support.families import beside_the_ops
from tests.support.samples import Drawing, Sample

# Its options choose another gradient than the derivative.
ON_PURPOSE = {"padding_idx", "scale_grad_by_freq"}

SAMPLES = [
    pytest.param(pair, sample, id=f"{pair.name}-{i}")
    for pair, samples in beside_the_ops("SAMPLES")
    for i, sample in enumerate(samples)
    if not ON_PURPOSE & sample.options.keys()
]
FIRST = [parameter for parameter in SAMPLES if str(parameter.id).endswith("-0")]


def real(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_()


class Call:
    """A pair's function on one sample, as a function of its floating inputs."""

    def __init__(self, pair: Pair, sample: Sample, function: Callable[..., Any]) -> None:
        self.pair, self.function = pair, function
        self.args, self.options = Drawing(seed=3).call(sample)
        given = pair.arguments(self.args, self.options)
        self.at = [pair.inputs.index(name) for name in pair.leaves(given)]
        self.inputs = tuple(self.args[i] for i in self.at)

    def __call__(self, *inputs: Tensor) -> Tensor:
        args = list(self.args)
        for i, x in zip(self.at, inputs, strict=True):
            args[i] = x
        fields = self.pair.fields(self.function(*args, **self.options))
        return fields[self.pair.outputs[0]]

    def leaves(self) -> tuple[Tensor, ...]:
        return tuple(x.detach().clone().requires_grad_() for x in self.inputs)

    @property
    def each(self) -> tuple[int, ...]:
        return tuple(range(len(self.inputs)))


def ready_made(pair: Pair) -> Differentiable[..., Any]:
    made = getattr(backprop_ops.autograd, pair.name)
    assert isinstance(made, Differentiable)
    return made


@pytest.mark.parametrize(("pair", "sample"), SAMPLES)
def test_first_and_second_order(pair: Pair, sample: Sample) -> None:
    call = Call(pair, sample, ready_made(pair))
    assert torch.autograd.gradcheck(call, call.leaves())
    assert torch.autograd.gradgradcheck(call, call.leaves())


@pytest.mark.parametrize(("pair", "sample"), SAMPLES)
def test_under_torch_func(pair: Pair, sample: Sample) -> None:
    """Also where both are nested: the Hessian, and gradients of a batch in either order."""
    ours, plain = (Call(pair, sample, f) for f in (ready_made(pair), pair.forward))
    torch.testing.assert_close(
        jacrev(ours, ours.each)(*ours.inputs), jacrev(plain, ours.each)(*ours.inputs)
    )
    hessians = [
        jacrev(jacrev(lambda *x, f=f: f(*x).sin().sum(), ours.each), ours.each)(*ours.inputs)
        for f in (ours, plain)
    ]
    torch.testing.assert_close(*hessians)
    batch = [torch.stack([x, x + 0.1, x * 2]) for x in ours.inputs]
    torch.testing.assert_close(vmap(ours)(*batch), vmap(plain)(*batch))
    for order in (
        lambda f: vmap(grad(lambda *x: f(*x).sum(), ours.each)),
        lambda f: grad(lambda *b: vmap(f)(*b).sum(), ours.each),
    ):
        torch.testing.assert_close(order(ours)(*batch), order(plain)(*batch))


@pytest.mark.parametrize(("pair", "sample"), FIRST)
def test_checked_as_autograds_own(pair: Pair, sample: Sample) -> None:
    args, options = Drawing(seed=3).call(sample)
    assert check(ready_made(pair), None, args, options)


@pytest.mark.usefixtures("unseen")
def test_a_wrong_pair_is_found() -> None:
    def halved_backward(dout: Tensor, out: Tensor) -> Tensor:
        return (1 - out * out) * dout / 2

    report = check(differentiable(backprop_ops.tanh, halved_backward), None, (real(3),))
    assert report.failures[0].mistake == "factor"


@pytest.mark.parametrize("pair", pairs.values(), ids=lambda pair: pair.name)
def test_looks_like_the_forward(pair: Pair) -> None:
    made = ready_made(pair)
    assert inspect.signature(made) == inspect.signature(pair.forward)
    assert (made.__name__, made.__doc__) == (pair.name, pair.forward.__doc__)
    assert pair.name in dir(backprop_ops.autograd)


def test_an_unknown_pair() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'tahn'"):
        _ = backprop_ops.autograd.tahn


def test_arguments_as_the_forward_takes_them() -> None:
    x = real(4, 3)
    assert batchnorm(x=x, gain=None, bias=None, eps=1e-3).out.shape == (4, 3)
    for args, options in (((x,), {}), ((x, None, None), {"epss": 1}), ((x, None, None, 1), {})):
        with pytest.raises(TypeError, match="argument"):
            batchnorm(*args, **options)
    with pytest.raises(TypeError, match="multiple values for argument 'x'"):
        batchnorm(x, None, None, x=x)


def packed(run: Callable[[], Any]) -> list[tuple[int, ...]]:
    """The shapes of what autograd saves."""
    shapes: list[tuple[int, ...]] = []

    def pack(x: Tensor) -> Tensor:
        shapes.append(tuple(x.shape))
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        run()
    return shapes


def test_saves_what_the_backward_names() -> None:
    x, gain = real(5, 4), real(1, 4, seed=1)
    assert packed(lambda: tanh(x)) == [(5, 4)]
    assert packed(lambda: batchnorm(x, gain, gain)) == [(1, 4), (5, 4), (1, 4)]
    with torch.no_grad():
        assert packed(lambda: tanh(x)) == []


def test_an_input_outlives_nothing() -> None:
    """x is not saved by batchnorm, and what is saved goes with the backward pass."""
    x, gain = real(5, 4), real(1, 4, seed=1)
    scaled = x * 2
    result = batchnorm(scaled, gain, gain)
    kept, gone = weakref.ref(result.xhat), weakref.ref(scaled)
    out = result.out
    del scaled, result
    gc.collect()
    assert gone() is None
    out.sum().backward()
    del out
    gc.collect()
    assert kept() is None


def test_no_gradient_where_none_is_needed() -> None:
    x, w = real(5, 4), real(4, 3, seed=1).detach()
    linear(x, w).sum().backward()
    assert w.grad is None
    assert x.grad is not None


def test_a_kept_field_in_a_loss() -> None:
    x = real(5, 4)
    result = batchnorm(x, None, None)
    with pytest.raises(RuntimeError, match=r"batchnorm: a loss uses 'xhat'.*xhat\.detach\(\)"):
        (result.out.sum() + result.xhat.sum()).backward()
    with pytest.raises(RuntimeError, match="a loss uses 'inv_std'"):
        grad(lambda x: batchnorm(x, None, None).inv_std.sum())(x.detach())
    result = batchnorm(x, None, None)
    (result.out * result.xhat.detach()).sum().backward()
    assert x.grad is not None


class TestSecondOrder:
    def penalty(self, layer: Callable[[Tensor], Tensor]) -> tuple[Tensor, ...]:
        """The gradient of a gradient's size, through a layer whose input nobody holds."""
        x, w = real(5, 4), real(4, 4, seed=1)
        (g,) = torch.autograd.grad(layer(x @ w).sum(), x, create_graph=True)
        return torch.autograd.grad(g.pow(2).sum(), (x, w))

    def test_in_a_chain(self) -> None:
        torch.testing.assert_close(self.penalty(tanh), self.penalty(torch.tanh))

    def test_of_an_input_that_is_gone(self) -> None:
        with pytest.raises(RuntimeError, match="batchnorm: the second order needs an input"):
            self.penalty(lambda x: batchnorm(x, None, None).out)

    def test_of_an_input_that_was_written_to(self) -> None:
        x = real(5, 4)
        y = x * 1
        out = batchnorm(y, None, None).out
        with torch.no_grad():
            y.mul_(2)
        with pytest.raises(RuntimeError, match="an input has been written to"):
            torch.autograd.grad(out.square().sum(), x, create_graph=True)

    @staticmethod
    def unseen_steps() -> Iterator[Any]:
        class Scaled(NamedTuple):
            out: Tensor
            size: Kept

        def scaled(x: Tensor) -> Scaled:
            with torch.no_grad():
                size = x.norm()
            return Scaled(x * size, size)

        def scaled_backward(dout: Tensor, x: Tensor, size: Tensor) -> Tensor:
            return dout * size + (dout * x).sum() * x / size

        yield pytest.param(scaled, scaled_backward, "norm", id="kept without a graph")

        def square(x: Tensor) -> Tensor:
            return x * x

        def detached_backward(dout: Tensor, x: Tensor) -> Tensor:
            return 2 * x.detach() * dout

        yield pytest.param(square, detached_backward, "detach", id="detached")

        def data_backward(dout: Tensor, x: Tensor) -> Tensor:
            return 2 * x.data * dout

        yield pytest.param(square, data_backward, "data", id="data")

        def number_backward(dout: Tensor, x: Tensor) -> Tensor:
            return 2 * x * dout * (x.sum().item() / x.sum().item())

        yield pytest.param(square, number_backward, "item", id="a number")

        def loop_backward(dout: Tensor, x: Tensor) -> Tensor:
            rows = [[2 * number for number in row] for row in x.reshape(1, -1).tolist()]
            return torch.tensor(rows, dtype=x.dtype).reshape(x.shape) * dout

        yield pytest.param(square, loop_backward, "tolist", id="a loop")

        def kernel_backward(dout: Tensor, x: Tensor) -> Tensor:
            memory = (ctypes.c_double * x.numel()).from_address(x.data_ptr())
            return 2 * torch.tensor(list(memory), dtype=x.dtype) * dout

        yield pytest.param(square, kernel_backward, "data_ptr", id="a kernel")

        def extension_backward(dout: Tensor, x: Tensor) -> Tensor:
            with torch._C.DisableTorchFunction():  # as what a module of C++ does is out of sight
                return (2 * x * dout).detach()

        yield pytest.param(square, extension_backward, "its backward", id="an extension")

    @pytest.mark.parametrize(("forward", "backward", "step"), list(unseen_steps()))
    def test_of_what_autograd_cannot_see(
        self, forward: Callable[..., Any], backward: Callable[..., Any], step: str
    ) -> None:
        """The first order is right; the second would be wrong without a word."""
        x = real(3)
        made = differentiable(forward, backward)
        result = made(x)
        out = result if isinstance(result, Tensor) else result[0]
        expected = forward(x)
        expected = expected if isinstance(expected, Tensor) else None
        (first,) = torch.autograd.grad(out.sum(), x)
        if expected is not None:
            torch.testing.assert_close(first, torch.autograd.grad(expected.sum(), x)[0])
        result = made(x)
        out = result if isinstance(result, Tensor) else result[0]
        with pytest.raises(RuntimeError, match=f"autograd cannot follow {step}"):
            torch.autograd.grad(out.sum(), x, create_graph=True)

    def test_of_a_mask(self) -> None:
        """Zero almost everywhere is no step out of the graph."""

        class Relu(NamedTuple):
            out: Tensor
            mask: Kept

        def relu(x: Tensor) -> Relu:
            mask = (x > 0).to(x.dtype)
            return Relu(x * mask, mask)

        def relu_backward(dout: Tensor, mask: Tensor) -> Tensor:
            return dout * mask

        made = differentiable(relu, relu_backward)
        assert torch.autograd.gradgradcheck(lambda x: made(x).out ** 3, (real(6),))


def test_forward_mode() -> None:
    x = real(3).detach()
    with (
        forward_ad.dual_level(),
        pytest.raises(NotImplementedError, match=r"forward mode.*jacrev\(jacrev\(f\)\)"),
    ):
        tanh(forward_ad.make_dual(x, x))


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoint(reentrant: bool) -> None:
    x, w = real(5, 4), real(4, 4, seed=1)

    def block(x: Tensor) -> Tensor:
        return tanh(batchnorm(linear(x, w), None, None).out)

    once = torch.autograd.grad(block(x).sum(), (x, w))
    checkpoint(block, x, use_reentrant=reentrant).sum().backward()
    torch.testing.assert_close((x.grad, w.grad), once)


def test_autocast() -> None:
    """As torch's own: products in bfloat16, a loss in float32, gradients in the inputs' dtype."""
    x, w = real(6, 4).detach().float().requires_grad_(), real(4, 3).detach().float()
    w.requires_grad_()
    target = torch.tensor([0, 1, 2, 0, 1, 2])
    with torch.autocast("cpu", torch.bfloat16):
        hidden = linear(x, w)
        normalized = batchnorm(hidden, torch.ones(3), torch.zeros(3)).out
        loss = cross_entropy(normalized, target).out
    assert hidden.dtype == torch.bfloat16
    loss.backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.float32
    expected = torch.autograd.grad(
        cross_entropy(batchnorm(linear(x, w), torch.ones(3), torch.zeros(3)).out, target).out, x
    )[0]
    torch.testing.assert_close(x.grad, expected, rtol=0.1, atol=0.02)


def test_a_backward_pass_within_autocast() -> None:
    """The backward computes as the forward did, wherever it is called."""
    x, w = real(6, 4).detach().float().requires_grad_(), torch.randn(4, 3)
    out = linear(x, w)
    with torch.autocast("cpu", torch.bfloat16):
        (within,) = torch.autograd.grad(out.sum(), x)
    assert torch.equal(within, torch.autograd.grad(linear(x, w).sum(), x)[0])


class Normalized(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = torch.nn.Linear(4, 3, dtype=torch.float64)
        self.function = tanh

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.linear(x))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_inside_a_module(copied: Callable[[Any], Any]) -> None:
    module, x = Normalized(), real(5, 4)
    again = copied(module)
    for one in (module, again):
        one(x).sum().backward()
    torch.testing.assert_close(module.linear.weight.grad, again.linear.weight.grad)


def _one_of_two(rank: int, port: int, queue: Any) -> None:
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    model = torch.nn.parallel.DistributedDataParallel(Normalized())
    x = real(6, 4).detach()[3 * rank : 3 * rank + 3]
    model(x).mean().backward()
    if rank == 0:
        queue.put(model.module.linear.weight.grad.tolist())
    dist.destroy_process_group()


@pytest.mark.thorough
def test_distributed() -> None:
    """The averaged gradients of two processes are those of one on the whole batch."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = torch.multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    processes = [context.Process(target=_one_of_two, args=(rank, port, queue)) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    alone = Normalized()
    alone(real(6, 4).detach()).mean().backward()
    torch.testing.assert_close(
        torch.tensor(queue.get(), dtype=torch.float64), alone.linear.weight.grad
    )


# A stranger's pairs, with nothing annotated.


class Sized(NamedTuple):
    out: Any
    size: Any


def unit(x):
    size = x.norm()
    return Sized(x / size, size)


def unit_backward(dout, out, size):
    return (dout - out * (dout * out).sum()) / size


def joined(xs, *, dim=0):
    return torch.cat(xs, dim)


def joined_backward(dout, xs, *, dim):
    return tuple(dout.split([x.shape[dim] for x in xs], dim))


def affine(x, w, b, *, scale=1.0):
    return scale * x * w if b is None else scale * x * w + b


def affine_backward(dout, x, w, b, *, scale):
    return scale * w * dout, scale * x * dout, None if b is None else dout


class TestAStrangersPair:
    def test_with_a_record(self) -> None:
        made = differentiable(unit, unit_backward)
        result = made(real(4))
        assert isinstance(result, Sized)
        assert torch.autograd.gradcheck(lambda x: made(x).out, real(4))
        assert torch.autograd.gradgradcheck(lambda x: made(x).out, real(4))
        with pytest.raises(RuntimeError, match="a loss uses 'size'"):
            result.size.backward()

    @pytest.mark.parametrize("sequence", [list, tuple])
    def test_with_a_sequence(self, sequence: Callable[..., Any]) -> None:
        made = differentiable(joined, joined_backward)
        given = (real(2, 3), real(2, 2, seed=1))
        call = lambda *xs: made(sequence(xs), dim=1) ** 2  # noqa: E731
        assert torch.autograd.gradcheck(call, given)
        assert torch.autograd.gradgradcheck(call, given)
        batch = [torch.stack([x, 2 * x]).detach() for x in given]
        torch.testing.assert_close(vmap(call)(*batch), torch.cat(batch, 2) ** 2)
        assert (
            torch.autograd.grad(made(sequence([given[0], given[0]])).sum(), given[0])[0].eq(2).all()
        )

    def test_with_none_and_options(self) -> None:
        made = differentiable(affine, affine_backward)
        x, w, b = (real(3, seed=i) for i in range(3))
        assert torch.autograd.gradcheck(lambda x, w, b: made(x, w, b, scale=3.0), (x, w, b))
        assert torch.autograd.gradgradcheck(lambda x, w: made(x, w, None, scale=3.0), (x, w))

    def test_with_two_outputs(self) -> None:
        class Both(NamedTuple):
            sine: Tensor
            cosine: Tensor

        def both(x: Tensor) -> Both:
            return Both(x.sin(), x.cos())

        def both_backward(dsine: Tensor, dcosine: Tensor, sine: Tensor, cosine: Tensor) -> Tensor:
            return dsine * cosine - dcosine * sine

        made = differentiable(both, both_backward)
        x = real(4)
        assert torch.autograd.gradcheck(made, (x,))
        assert torch.autograd.gradgradcheck(made, (x,))
        torch.testing.assert_close(torch.autograd.grad(made(x).cosine.sum(), x)[0], -x.sin())

    def test_refused_where_it_is_made(self) -> None:
        with pytest.raises(PairError, match="asks for 'y'; tanh offers x"):
            differentiable(backprop_ops.tanh, lambda dout, y: dout * y)

        def made_elsewhere(x):
            return unit(x)

        with pytest.raises(PairError, match="asks for 'size'"):
            differentiable(made_elsewhere, unit_backward)

    def test_a_record_that_nothing_tells_of(self) -> None:
        def made_elsewhere(x):
            return unit(x)

        made = differentiable(made_elsewhere, lambda dout: dout)
        with pytest.raises(TypeError, match="must return out, got Sized; annotate"):
            made(real(3))
