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
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  # torch's own name for it
from hypothesis import settings
from torch import Tensor

from backprop_ops import batchnorm, pairs, update_running_statistics

PROFILE = settings.get_current_profile_name()
from torch.testing._internal.common_methods_invocations import op_db  # noqa: E402  # see below

settings.load_profile(PROFILE)  # torch's test utilities load one of their own

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
UNITS = 4


@dataclass(frozen=True)
class Call:
    """One sample as a call of a pair, and of torch's function with the same arguments."""

    pair: str
    args: tuple[Any, ...]
    torchs: Callable[..., Tensor]
    options: dict[str, Any] = field(default_factory=dict)


class Departure(Exception):  # noqa: N818  # it is none: what differs on purpose
    """The reason why a sample has no counterpart here."""


def as_it_is(name: str, function: Callable[..., Any]) -> Callable[..., Call]:
    """Of a pair whose arguments, in their order, are torch's."""
    return lambda *args: Call(name, args, function)


def with_options(name: str, function: Callable[..., Any], *names: str) -> Callable[..., Call]:
    """Of a pair whose options torch also takes by position."""

    def call(x: Any, *given: Any, **options: Any) -> Call:
        options |= dict(zip(names, given, strict=False))
        dim = options.get("dim")
        if isinstance(dim, list):
            options["dim"] = tuple(dim)
        return Call(name, (x,), function, options)

    return call


def no_alpha(name: str, function: Callable[..., Any]) -> Callable[..., Call]:
    def call(x: Any, y: Any, *, alpha: Any = None) -> Call:
        if alpha is not None:
            raise Departure("alpha: a product of its own, mul")
        return Call(name, (x, y), function)

    return call


def pow_call(x: Any, exponent: Any) -> Call:
    if isinstance(exponent, Tensor):  # a constant here: one of them for all
        exponent = float(exponent.flatten()[0]) if exponent.numel() else 2.0
    return Call("pow", (x,), torch.pow, {"exponent": exponent})


def reshape_call(x: Any, shape: Any) -> Call:
    return Call("reshape", (x,), torch.reshape, {"shape": shape})


def linear_call(x: Any, weight: Any, bias: Any = None) -> Call:
    if weight.dim() != 2:
        raise Departure("linear by a vector: matmul")
    return Call(
        "linear", (x, weight.mT, bias), lambda x, weight, bias: F.linear(x, weight.mT, bias)
    )


def embedding_call(weight: Any, index: Any, **options: Any) -> Call:
    if options.get("max_norm") is not None:
        raise Departure("max_norm: it writes the weight, and a pair is pure")
    if options.pop("sparse", False):
        raise Departure("sparse: gradients are dense here")
    options.pop("max_norm", None)
    if isinstance(index, Tensor) and index.dtype == torch.int32:
        raise Departure("int32: indices are of int64 here")
    return Call("embedding", (index, weight), F.embedding, options)


def nll_call(logprobs: Any, target: Any, **options: Any) -> Call:
    _no_mean_of_nothing(logprobs, options)
    return Call("nll_loss", (logprobs, target), F.nll_loss, options)


def cross_entropy_call(logits: Any, target: Any, **options: Any) -> Call:
    _no_mean_of_nothing(logits, options)
    name = "soft_cross_entropy" if target.is_floating_point() else "cross_entropy"
    if name == "soft_cross_entropy":
        options.pop("ignore_index", None)  # it has no meaning there
    return Call(name, (logits, target), F.cross_entropy, options)


def _no_mean_of_nothing(scores: Tensor, options: dict[str, Any]) -> None:
    if scores.numel() == 0 and options.get("reduction", "mean") == "mean":
        raise Departure("the mean of no rows: refused here, nan in torch")


def batchnorm_call(
    x: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    *,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Call:
    if (weight is None) != (bias is None):
        raise Departure("gain without bias, or bias without gain: both or neither here")
    if x.numel() == 0:
        raise Departure("the mean of no rows: refused here, nan in torch")
    if not training:
        options = {"mean": running_mean, "var": running_var, "eps": eps}
        return Call("batchnorm_inference", (x, weight, bias), _torchs_inference, options)
    if running_mean is not None:
        _same_statistics(x, running_mean, running_var, momentum, eps)
    options = {"eps": eps, "correction": 0}
    return Call("batchnorm", (x, weight, bias), _torchs_training, options)


def _torchs_inference(
    x: Tensor, gain: Any, bias: Any, *, mean: Tensor, var: Tensor, eps: float
) -> Tensor:
    return F.batch_norm(x, mean, var, gain, bias, eps=eps)


def _torchs_training(x: Tensor, gain: Any, bias: Any, *, eps: float, correction: int) -> Tensor:
    assert correction == 0
    return F.batch_norm(x, None, None, gain, bias, training=True, eps=eps)


def _same_statistics(x: Tensor, mean: Tensor, var: Tensor, momentum: float, eps: float) -> None:
    theirs = (mean.clone(), var.clone())
    F.batch_norm(x, *theirs, training=True, momentum=momentum, eps=eps)
    ours = update_running_statistics(
        mean, var, batchnorm(x, None, None, eps=eps, correction=0), momentum=momentum, correction=0
    )
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


def _max(x: Tensor, **options: Any) -> Tensor:
    return torch.max(x, **options).values


COUNTERPARTS: dict[tuple[str, str], Callable[..., Call]] = {
    ("add", ""): no_alpha("add", torch.add),
    ("sub", ""): no_alpha("sub", torch.sub),
    ("mul", ""): as_it_is("mul", torch.mul),
    ("div", "no_rounding_mode"): as_it_is("div", torch.div),
    ("pow", ""): pow_call,
    ("reciprocal", ""): as_it_is("reciprocal", torch.reciprocal),
    ("exp", ""): as_it_is("exp", torch.exp),
    ("log", ""): as_it_is("log", torch.log),
    ("tanh", ""): as_it_is("tanh", torch.tanh),
    ("sum", ""): with_options("sum", torch.sum, "dim", "keepdim"),
    ("mean", ""): with_options("mean", torch.mean, "dim", "keepdim"),
    ("max", "reduction_with_dim"): with_options("max", _max, "dim", "keepdim"),
    ("softmax", ""): with_options("softmax", torch.softmax, "dim"),
    ("log_softmax", ""): with_options("log_softmax", torch.log_softmax, "dim"),
    ("matmul", ""): as_it_is("matmul", torch.matmul),
    ("reshape", ""): reshape_call,
    ("nn.functional.linear", ""): linear_call,
    ("nn.functional.embedding", ""): embedding_call,
    ("nn.functional.nll_loss", ""): nll_call,
    ("nn.functional.cross_entropy", ""): cross_entropy_call,
    ("nn.functional.batch_norm", ""): batchnorm_call,
}
"""Of each OpInfo, its name and its variant's, how a sample becomes a call of a pair."""

ALONE = {
    ("div", "trunc_rounding"): "rounding_mode: steps, whose gradient is zero",
    ("div", "floor_rounding"): "rounding_mode: steps, whose gradient is zero",
    ("max", "reduction_no_dim"): "max over all: reshape first",
    ("max", "binary"): "max of two tensors",
    ("softmax", "with_dtype"): "dtype: convert the input",
    ("log_softmax", "with_dtype"): "dtype: convert the input",
    ("nn.functional.batch_norm", "without_cudnn"): "the same samples again",
}
"""Variants of the same functions that no pair stands for, and why."""


@dataclass
class Result:
    """What came of one OpInfo in one precision."""

    tried: Counter[str] = field(default_factory=Counter)  # by pair
    differences: list[str] = field(default_factory=list)
    departures: Counter[str] = field(default_factory=Counter)


def infos() -> Iterator[tuple[tuple[str, str], Any]]:
    for info in op_db:
        key = (info.name, info.variant_test_name)
        if key in COUNTERPARTS:
            yield key, info


def compare(key: tuple[str, str], info: Any, dtype: torch.dtype, device: str = "cpu") -> Result:
    """All samples of one OpInfo in one precision, forward and backward."""
    result = Result()
    for sample in info.sample_inputs(device, dtype, requires_grad=False):
        try:
            call = COUNTERPARTS[key](sample.input, *sample.args, **sample.kwargs)
            mixed = {t.dtype for t in call.args if isinstance(t, Tensor) and t.is_floating_point()}
            if mixed != {dtype}:
                raise Departure("mixed precisions: convert first")
            differences = list(_differences(call))
        except Departure as departure:
            result.departures[str(departure)] += 1
            continue
        except NotImplementedError:
            result.departures[f"torch lacks its backward in {dtype}"] += 1
            continue
        result.tried[call.pair] += 1
        result.differences += [f"{sample.summary()}: {difference}" for difference in differences]
    return result


def _differences(call: Call) -> Iterator[str]:
    pair = pairs[call.pair]
    leaves = [_leaf(value) for value in call.args]
    expected = call.torchs(*leaves, **call.options)
    result = pair.forward(*call.args, **call.options)
    out = result if isinstance(result, Tensor) else result[0]
    exact = [_leaf(_double(value)) for value in call.args]
    exact_out = call.torchs(*exact, **{n: _double(value) for n, value in call.options.items()})
    yield from _apart("out", out, expected, exact_out, 0.0)
    generator = torch.Generator(out.device).manual_seed(0)
    upstream = torch.randn(out.shape, dtype=torch.float64, generator=generator).to(out)
    gradients = pair.gradients(
        pair.arguments(call.args, call.options), result, {pair.outputs[0]: upstream}
    )
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


def accepted(key: tuple[str, str], info: Any, device: str = "cpu") -> list[str]:
    """The bad inputs of one OpInfo that the pair takes all the same, and how many there were."""
    taken = []
    for error in errors_of(info, device):
        sample = error.sample_input
        try:
            call = COUNTERPARTS[key](sample.input, *sample.args, **sample.kwargs)
            pairs[call.pair].forward(*call.args, **call.options)
        except (TypeError, ValueError, IndexError):
            continue
        taken.append(sample.summary())
    return taken


def errors_of(info: Any, device: str = "cpu") -> list[Any]:
    return [] if info.error_inputs_func is None else list(info.error_inputs(device))


def dtypes_of(info: Any) -> list[torch.dtype]:
    return [dtype for dtype in DTYPES if dtype in info.supported_dtypes("cpu")]


def main() -> int:
    print(f"{'pair':20} {'dtype':9} {'tried':>5}  {'other':>5}")
    departures: Counter[str] = Counter()
    failed = 0
    for key, info in infos():
        for dtype in dtypes_of(info):
            result = compare(key, info, dtype)
            for pair, tried in sorted(result.tried.items()):
                differs = len(result.differences)
                print(f"{pair:20} {str(dtype)[6:]:9} {tried:5}  {differs:5}")
            for difference in result.differences:
                print(f"    {difference}")
            failed += len(result.differences)
            departures.update({f"{key[0]}, {why}": n for why, n in result.departures.items()})
        taken = accepted(key, info)
        print(
            f"    bad inputs of {key[0]}: {len(errors_of(info))}, taken all the same: {len(taken)}"
        )
        for summary in taken:
            print(f"        {summary}")
        failed += len(taken)
    print("\nleft out, with the reason:")
    for why, n in departures.items():
        print(f"  {n:4}  {why}")
    for (name, variant), why in ALONE.items():
        print(f"   all  {name}, {variant}: {why}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
