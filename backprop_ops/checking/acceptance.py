"""What the forward takes, and whether it makes the same of two arguments."""

from __future__ import annotations

import torch
from torch import Tensor

from backprop_ops.checking.isolation import forked
from backprop_ops.leaves import Arguments
from backprop_ops.pair import Pair


def outputs_of(pair: Pair, arguments: Arguments) -> dict[str, Tensor]:
    return forked(_outputs_of, pair, arguments)


def _outputs_of(pair: Pair, arguments: Arguments) -> dict[str, Tensor]:
    with torch.no_grad():
        fields = pair.fields(pair.call(arguments))
    return {output: fields[output] for output in pair.outputs}


def accepts(pair: Pair, arguments: Arguments) -> bool:
    """Whether the forward makes something finite of the arguments."""
    try:
        outputs = outputs_of(pair, arguments)
        return all(
            isinstance(output, Tensor)
            and output.is_floating_point()
            and bool(output.isfinite().all())
            for output in outputs.values()
        )
    except Exception:  # it does not take them: nothing to ask of the backward
        return False


def same_outputs(pair: Pair, arguments: Arguments, others: Arguments) -> bool:
    outputs, theirs = outputs_of(pair, arguments), outputs_of(pair, others)
    return all(
        output.shape == theirs[name].shape
        and torch.allclose(output.double(), theirs[name].double(), rtol=1e-3, atol=1e-6)
        for name, output in outputs.items()
    )
