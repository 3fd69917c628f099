"""Many steps of training in one call: the same pairs, in a loop that torch.compile turns into C++.

A graph of one step costs as much to enter as to run. Here the loop is part of the graph.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from backprop_ops._torch import while_loop
from backprop_ops.lecture.network import Parameters, fused_backward, fused_forward

if TYPE_CHECKING:
    from backprop_ops.lecture.data import Split

BLOCK = 100  # steps at most in one call

Block = Callable[[Parameters, "Split", Tensor, Tensor], tuple[Parameters, Tensor]]
"""Of parameters, training set, rows (steps, batch) and learning rates (steps): the parameters after
all steps, and the losses (steps)."""


class NoCompilerError(RuntimeError):
    """torch.compile cannot build the loop here; the message says why, in a line."""


def compiled(parameters: Parameters, train: Split, batch_size: int) -> Block:
    """The block for parameters and batches of these sizes. Raises NoCompilerError.

    The first call in a process takes some seconds, the first on a machine some more.
    """
    try:
        run = functools.partial(_block, _graph())
        rows = torch.zeros((1, batch_size), dtype=torch.int64)
        run(parameters, train, rows, torch.zeros(1))
    except Exception as error:  # of the compiler, of its absence, of a cache without write access
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise NoCompilerError(reason) from error
    return run


def _block(
    graph: Callable[..., Any], parameters: Parameters, train: Split, rows: Tensor, rates: Tensor
) -> tuple[Parameters, Tensor]:
    steps = len(rates)
    # One size for the graph, whatever the number of steps.
    rows = torch.nn.functional.pad(rows, (0, 0, 0, BLOCK - steps))
    rates = torch.nn.functional.pad(rates, (0, BLOCK - steps))
    losses, *after = graph(*parameters, *train, rows, rates, torch.tensor(steps))
    return Parameters(*after), losses[:steps]


def _graph() -> Callable[..., Any]:
    def loop(*given: Tensor) -> Any:
        *parameters, context, target, rows, rates, steps = given

        def is_left(i: Tensor, *_: Tensor) -> Tensor:
            return i < steps

        def step(i: Tensor, losses: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:
            now, at = Parameters(*parameters), i.view(1)
            row = rows.index_select(0, at).view(rows.shape[1])
            batch = context[row], target[row]
            values = fused_forward(now, *batch)
            gradients = fused_backward(now, values, *batch)
            rate = rates.index_select(0, at)
            after = (p - rate * d for p, d in zip(now, gradients, strict=True))
            losses = torch.where(torch.arange(BLOCK) == i, values.loss.out, losses)
            return i + 1, losses, *after

        start = torch.zeros((), dtype=torch.int64)
        carried = (start, torch.zeros(BLOCK), *parameters)
        _, losses, *after = while_loop(is_left, step, carried)
        return losses, *after

    # The C++ wrapper saves the loop from going through Python at each step.
    return torch.compile(loop, dynamic=False, fullgraph=True, options={"cpp_wrapper": True})
