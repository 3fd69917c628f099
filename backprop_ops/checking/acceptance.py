"""What the forward takes, and whether it makes the same of two arguments."""

from __future__ import annotations

import torch
from torch import Tensor

from backprop_ops.checking.isolation import Crashed, forked
from backprop_ops.leaves import Arguments
from backprop_ops.pair import Pair


class OutsideDomain(ValueError):  # noqa: N818  # a fact about arguments, seen by no user
    """The domain's predicate says no."""


def outputs_of(pair: Pair, arguments: Arguments) -> dict[str, Tensor]:
    return forked(_outputs_of, pair, arguments)


def _outputs_of(pair: Pair, arguments: Arguments) -> dict[str, Tensor]:
    with torch.no_grad():
        fields = pair.fields(pair.call(arguments))
    return {output: fields[output] for output in pair.outputs}


def accepts(pair: Pair, arguments: Arguments) -> bool:
    """Whether the forward makes something finite of the arguments."""
    return refusal(pair, arguments) is None


def refusal(pair: Pair, arguments: Arguments) -> str | None:
    """Why the forward makes nothing finite of the arguments, as ``raises ValueError``."""
    try:
        outputs = outputs_of(pair, arguments).values()
    except Crashed as error:
        return str(error)
    except Exception as error:  # it does not take them: nothing to ask of the backward
        return (
            "is outside of its domain"
            if isinstance(error, OutsideDomain)
            else f"raises {type(error).__name__}"
        )
    if not all(isinstance(x, Tensor) and x.is_floating_point() for x in outputs):
        return "gives no floating Tensor"
    return None if all(bool(x.isfinite().all()) for x in outputs) else "gives inf or nan"


def same_outputs(pair: Pair, arguments: Arguments, others: Arguments) -> bool:
    outputs, theirs = outputs_of(pair, arguments), outputs_of(pair, others)
    return all(
        output.shape == theirs[name].shape
        and torch.allclose(output.double(), theirs[name].double(), rtol=1e-3, atol=1e-6)
        for name, output in outputs.items()
    )
