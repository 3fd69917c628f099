"""One value in the formula taken for another, squared or not, or a step's derivative left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from backprop_ops._torch import operation_name
from backprop_ops.checking.evidence import Evidence, Likely
from backprop_ops.leaves import in_dtype, replaced, takes_gradient

MOST_NODES = 40  # of a forward's graph whose derivative is left out, one by one

MADE: dict[str, Callable[[Tensor], Tensor]] = {
    "squared": torch.square,
    "not squared": lambda x: x.abs().sqrt(),
    "inverted": torch.reciprocal,
    "transposed": lambda x: x.mT.contiguous() if x.dim() > 1 else x,
}


def value(evidence: Evidence) -> Iterator[Likely]:
    """As if the backward had taken another value: it is right with that one in its place."""
    pair, call = evidence.inspector.pair, evidence.call
    values = {n: v for n, v in {**call.arguments, **call.fields}.items() if takes_gradient(v)}
    for name in pair.saved:
        mine = values.get(name)
        if mine is None or not mine.numel():
            continue
        for other, theirs in values.items():
            fits = theirs.shape == mine.shape and not torch.equal(theirs, mine)
            if other != name and fits and _right_with(evidence, name, theirs):
                yield "swapped-inputs", f"{evidence.name} agrees with {other} in place of {name}"
        for what, make in MADE.items():
            made = make(mine)
            if not torch.equal(made, mine) and _right_with(evidence, name, made):
                key = "transposed" if what == "transposed" else "factor"
                yield key, f"{evidence.name} agrees if {name} is {what} in its formula"


def _right_with(evidence: Evidence, name: str, value: Tensor) -> bool:
    """Whether the backward would be right with another value under a name."""
    call, result = evidence.call, evidence.call.result
    if name in call.arguments:
        call = call._replace(arguments={**call.arguments, name: value})
    elif isinstance(result, Tensor):
        call = call._replace(result=value)
    else:  # a NamedTuple
        call = call._replace(result=result._replace(**{name: value}))
    gradient = evidence.inspector.quiet().gradients(call).get(str(evidence.leaf))
    return isinstance(gradient, Tensor) and evidence.right(gradient.double())


def step(evidence: Evidence) -> Iterator[Likely]:
    """As if one step of the forward had a derivative of one."""
    pair = evidence.inspector.oracle.differentiated
    if pair is None or not evidence.call.upstreams:
        return
    arguments = in_dtype(evidence.call.arguments, torch.float64)
    leaves = {n: x.detach().requires_grad_() for n, x in pair.leaves(arguments).items()}
    with torch.enable_grad():
        fields = pair.fields(pair.call(replaced(arguments, leaves)))
    flowing = [name for name in pair.outputs if fields[name].requires_grad]
    upstreams = [evidence.call.upstreams[name].double() for name in flowing]
    for node in _nodes([fields[name].grad_fn for name in flowing])[:MOST_NODES]:
        left_out: list[bool] = []

        def hand_on(
            grad_inputs: tuple[Tensor | None, ...],
            grad_outputs: tuple[Tensor | None, ...],
            left_out: list[bool] = left_out,
        ) -> tuple[Tensor | None, ...] | None:
            out = grad_outputs[0]
            alone = [g for g in grad_inputs if g is not None]
            if out is None or len(alone) != 1 or alone[0].shape != out.shape:
                return None
            left_out.append(True)
            return tuple(None if g is None else out for g in grad_inputs)

        handle = node.register_hook(hand_on)
        model = torch.autograd.grad(
            [fields[name] for name in flowing],
            leaves[str(evidence.leaf)],
            upstreams,
            retain_graph=True,
            allow_unused=True,
        )[0]
        handle.remove()
        if left_out and model is not None and evidence.like_given(model):
            operation = operation_name(node)
            yield "missing-term", f"{evidence.name} leaves out the derivative of {operation}"


def _nodes(roots: list[Any]) -> list[Any]:
    """The nodes of a graph, those next to the outputs first."""
    found: dict[Any, None] = {}
    waiting = [root for root in roots if root is not None]
    while waiting:
        node = waiting.pop(0)
        if node not in found:
            found[node] = None
            waiting += [following for following, _ in node.next_functions if following is not None]
    return list(found)
