"""The code of a report, run with the backward or with autograd's gradient in its place."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from backprop_ops.leaves import replaced
from backprop_ops.pair import Pair


@torch.enable_grad()  # also of the next code: the backward may leave it off
def run(code: str, forward: Callable[..., Any], backward: Callable[..., Any], mend: bool) -> None:
    """Run pasted code; with ``mend`` its backward is what autograd makes of the forward."""
    lines = [line for line in code.splitlines() if not line.startswith("from ")]
    result = next(line for line in lines if line.startswith("result = "))
    name = result.removeprefix("result = ").partition("(")[0]
    names: dict[str, Any] = {name: forward}
    in_a_tuple = f", = {name}_backward(" in code
    mended = _by_autograd(forward, backward, names, in_a_tuple) if mend else backward
    names[f"{name}_backward"] = mended
    exec("\n".join(lines), names)


def _by_autograd(
    forward: Callable[..., Any],
    backward: Callable[..., Any],
    names: dict[str, Any],
    in_a_tuple: bool,
) -> Callable[..., Any]:
    """A backward with the same parameters; the inputs are those of the code that calls it."""

    @torch.enable_grad()
    def mended(*args: Any, **kwargs: Any) -> Any:
        given = inspect.signature(backward).bind(*args, **kwargs).arguments
        first = names["result"]
        record = type(first) if hasattr(first, "_fields") else None
        pair = Pair.bind(forward, backward, record)
        arguments = {name: names[name] for name in (*pair.inputs, *pair.options)}
        leaves = {n: x.detach().clone().requires_grad_() for n, x in pair.leaves(arguments).items()}
        fields = pair.fields(pair.call(replaced(arguments, leaves)))
        gradients = torch.autograd.grad(
            [fields[output] for output in pair.outputs],
            list(leaves.values()),
            [given[f"d{output}"] for output in pair.outputs],
            allow_unused=True,
        )
        found = {
            name: torch.zeros_like(leaf) if gradient is None else gradient
            for (name, leaf), gradient in zip(leaves.items(), gradients, strict=True)
        }
        slots = tuple(_slot(name, arguments[name], found) for name in pair.slots(arguments))
        return slots if len(slots) > 1 or in_a_tuple else slots[0]

    return mended


def _slot(name: str, value: Any, gradients: dict[str, Tensor]) -> Any:
    if not isinstance(value, (tuple, list)):
        return gradients.get(name)
    return tuple(gradients.get(f"{name}[{i}]") for i in range(len(value)))
