"""The other judges: `torch.autograd.gradcheck`, and `torch.allclose` in float32 against autograd.

As they are used: on one sample, with torch's own tolerances. Each is true for a backward that it
takes for right, and raises what the backward raises.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from backprop_ops.leaves import by_leaf, replaced
from backprop_ops.pair import Pair


def gradcheck(
    forward: Callable[..., Any],
    backward: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    fast_mode: bool,
) -> bool:
    """Finite differences in float64, of the two as an autograd function."""
    pair, arguments = _bound(forward, backward, args, kwargs, torch.float64)
    leaves = pair.leaves(arguments)

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *values: Tensor) -> Any:
            ctx.arguments = replaced(arguments, dict(zip(leaves, values, strict=True)))
            ctx.result = pair.call(ctx.arguments)
            fields = pair.fields(ctx.result)
            # Clones, for what autograd returns it changes: the kept ones stay as they are.
            outputs = tuple(fields[output].clone() for output in pair.outputs)
            return outputs if len(outputs) > 1 else outputs[0]

        @staticmethod
        def backward(ctx: Any, *upstreams: Tensor) -> Any:
            named = dict(zip(pair.outputs, upstreams, strict=True))
            gradients = by_leaf(pair.gradients(ctx.arguments, ctx.result, named))
            return tuple(gradients[leaf] for leaf in leaves)

    inputs = tuple(leaf.detach().clone().requires_grad_() for leaf in leaves.values())
    return torch.autograd.gradcheck(Function.apply, inputs, fast_mode=fast_mode)


def allclose(
    forward: Callable[..., Any],
    backward: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> bool:
    """Each gradient of a drawn upstream in float32, with the lecture's comparison."""
    pair, arguments = _bound(forward, backward, args, kwargs, torch.float32)
    leaves = {name: leaf.detach() for name, leaf in pair.leaves(arguments).items()}
    result = pair.call(replaced(arguments, {n: x.requires_grad_() for n, x in leaves.items()}))
    outputs = {output: pair.fields(result)[output] for output in pair.outputs}
    generator = torch.Generator().manual_seed(0)
    upstreams = {
        name: torch.randn(output.shape, generator=generator, dtype=output.dtype)
        for name, output in outputs.items()
    }
    flowing = [name for name, output in outputs.items() if output.requires_grad]
    expected = torch.autograd.grad(
        [outputs[name] for name in flowing],
        list(leaves.values()),
        [upstreams[name] for name in flowing],
        allow_unused=True,
        materialize_grads=True,
    )
    gradients = by_leaf(pair.gradients(arguments, pair.call(arguments), upstreams))
    return all(
        torch.allclose(torch.zeros_like(value) if gradient is None else gradient, value)
        for gradient, value in zip(map(gradients.get, leaves), expected, strict=True)
    )


def _bound(
    forward: Callable[..., Any],
    backward: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    dtype: torch.dtype,
) -> tuple[Pair, dict[str, Any]]:
    """The pair and its arguments by name, what is floating in another precision."""
    args, kwargs = _to(dtype, tuple(args)), _to(dtype, dict(kwargs))
    result = forward(*args, **kwargs)
    record = type(result) if hasattr(result, "_fields") else None
    pair = Pair.bind(forward, backward, record)
    return pair, pair.arguments(args, kwargs)


def _to(dtype: torch.dtype, value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _to(dtype, part) for name, part in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(_to(dtype, part) for part in value)
    floating = isinstance(value, Tensor) and value.is_floating_point()
    return value.detach().to(dtype, copy=True) if floating else value
