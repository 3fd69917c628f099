"""Golden calls: for each pair ordinary arguments and hard ones, as `export` writes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Golden:
    """A call in float64, of numbers that float32 holds exactly."""

    name: str
    args: tuple[Any, ...]
    options: dict[str, Any]


class Draw:
    """Numbers that float32 holds exactly, in float64."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(0)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator).double()

    def positive(self, *shape: int) -> Tensor:
        return self.normal(*shape).abs() + 0.25

    def wide(self, *shape: int) -> Tensor:
        """Both signs, from a thousandth to thirty."""
        power = torch.rand(shape, generator=self.generator) * 4.5 - 3
        return (self.normal(*shape).sign() * 10**power).float().double()

    def ties(self, *shape: int) -> Tensor:
        return torch.randint(-1, 2, shape, generator=self.generator).double()

    def index(self, below: int, *shape: int) -> Tensor:
        return torch.randint(below, shape, generator=self.generator)

    def shares(self, *shape: int) -> Tensor:
        """Rows that sum to one."""
        return self.normal(*shape).softmax(1).float().double()

    def logprobs(self, *shape: int) -> Tensor:
        return self.normal(*shape).log_softmax(1).float().double()


Calls = dict[str, Callable[[Draw], tuple[Any, ...]]]
"""Arguments by the name of the case; options are a dict at the end."""

_UNARY: Calls = {"ordinary": lambda d: (d.normal(4, 5),), "wide": lambda d: (d.wide(4, 5),)}
_POSITIVE: Calls = {
    "ordinary": lambda d: (d.positive(4, 5),),
    "wide": lambda d: (d.wide(4, 5).abs(),),
}
_BINARY: Calls = {
    "ordinary": lambda d: (d.normal(4, 5), d.positive(4, 5)),
    "broadcast": lambda d: (d.normal(4, 1, 5), d.positive(3, 1)),
    "number": lambda d: (d.normal(4, 5), 2.5),
    "wide": lambda d: (d.wide(4, 5), d.wide(5)),
}
_REDUCED: Calls = {
    "ordinary": lambda d: (d.normal(4, 5),),
    "one_dimension": lambda d: (d.normal(4, 5, 3), {"dim": 1}),
    "kept_dimensions": lambda d: (d.normal(4, 5, 3), {"dim": (0, 2), "keepdim": True}),
    "wide": lambda d: (d.wide(4, 5), {"dim": -1}),
}
_NORMALIZED: Calls = {
    "ordinary": lambda d: (d.normal(4, 5),),
    "other_dimension": lambda d: (d.normal(4, 5, 3), {"dim": 1}),
    "ties": lambda d: (d.ties(4, 5),),
    "wide": lambda d: (d.wide(4, 5),),
}


_LOSSES: Calls = {
    "ordinary": lambda d: (d.logprobs(6, 5), d.index(5, 6)),
    "ignored": lambda d: (
        d.logprobs(6, 5),
        d.index(5, 6),
        {"ignore_index": 2, "weight": d.positive(5)},
    ),
    "summed": lambda d: (d.logprobs(3, 5, 4), d.index(5, 3, 4), {"reduction": "sum"}),
    "each": lambda d: (
        d.logprobs(6, 5),
        d.index(5, 6),
        {"reduction": "none", "ignore_index": 0},
    ),
}
CALLS: dict[str, Calls] = {
    **dict.fromkeys(("exp", "tanh", "sigmoid"), _UNARY),
    **dict.fromkeys(("log", "reciprocal"), _POSITIVE),
    **dict.fromkeys(("add", "sub", "mul", "div"), _BINARY),
    "pow": {
        "square": lambda d: (d.normal(4, 5), {"exponent": 2}),
        "root": lambda d: (d.positive(4, 5), {"exponent": -0.5}),
        "wide": lambda d: (d.wide(4, 5), {"exponent": 3}),
    },
    "matmul": {
        "ordinary": lambda d: (d.normal(4, 3), d.normal(3, 5)),
        "broadcast": lambda d: (d.normal(2, 1, 4, 3), d.normal(6, 3, 5)),
        "wide": lambda d: (d.wide(4, 3), d.wide(3, 5)),
    },
    "linear": {
        "ordinary": lambda d: (d.normal(4, 3), d.normal(3, 5), d.normal(5)),
        "without_bias": lambda d: (d.normal(2, 4, 3), d.normal(3, 5), None),
        "wide": lambda d: (d.wide(4, 3), d.wide(3, 5), d.wide(5)),
    },
    "embedding": {
        "repeated": lambda d: (d.index(3, 4, 5), d.normal(7, 2)),
        "padding": lambda d: (d.index(3, 8), d.normal(4, 2), {"padding_idx": 1}),
        "by_frequency": lambda d: (d.index(3, 8), d.normal(4, 2), {"scale_grad_by_freq": True}),
    },
    "sum": _REDUCED,
    "mean": _REDUCED,
    "max": {
        "ordinary": lambda d: (d.normal(4, 5), {"dim": 1}),
        "ties": lambda d: (d.ties(4, 5), {"dim": 0, "keepdim": True}),
        "wide": lambda d: (d.wide(4, 5), {"dim": -1}),
    },
    "reshape": {"ordinary": lambda d: (d.normal(4, 3, 2), {"shape": (6, -1)})},
    "softmax": _NORMALIZED,
    "log_softmax": _NORMALIZED,
    "nll_loss": _LOSSES,
    "cross_entropy": {
        **_LOSSES,
        "wide": lambda d: (d.wide(6, 5), d.index(5, 6)),
        "smoothed": lambda d: (d.normal(6, 5), d.index(5, 6), {"label_smoothing": 0.1}),
    },
    "soft_cross_entropy": {
        "ordinary": lambda d: (d.normal(6, 5), d.shares(6, 5)),
        "weighted": lambda d: (d.normal(6, 5), d.shares(6, 5), {"weight": d.positive(5)}),
        "smoothed": lambda d: (d.wide(6, 5), d.shares(6, 5), {"label_smoothing": 0.1}),
    },
    "batchnorm": {
        "ordinary": lambda d: (d.normal(6, 4), d.normal(4), d.normal(4)),
        "torchs": lambda d: (d.normal(6, 4), d.normal(4), d.normal(4), {"correction": 0}),
        "images": lambda d: (d.normal(3, 4, 2, 2), d.normal(4), d.normal(4)),
        "without_gain": lambda d: (d.normal(6, 4), None, None, {"eps": 1e-3}),
        "wide": lambda d: (d.wide(6, 4), d.normal(1, 4), d.normal(1, 4)),
    },
    "batchnorm_inference": {
        "ordinary": lambda d: (
            d.normal(6, 4),
            d.normal(4),
            d.normal(4),
            {"mean": d.normal(4), "var": d.positive(4)},
        ),
        "without_gain": lambda d: (
            d.wide(6, 4),
            None,
            None,
            {"mean": d.normal(4), "var": d.positive(4)},
        ),
    },
}


def golden_calls(name: str) -> Iterator[Golden]:
    """The golden calls of a pair; a LookupError names this file where there are none."""
    if name not in CALLS:
        raise LookupError(f"backprop_ops/golden.py: CALLS has no golden call of {name!r}")
    for label, call in CALLS[name].items():
        made = call(Draw())
        args, options = (made[:-1], made[-1]) if isinstance(made[-1], dict) else (made, {})
        yield Golden(label, args, options)
