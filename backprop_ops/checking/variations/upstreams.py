"""Upstreams of other numbers."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from backprop_ops.checking.case import Case, Reach, UpstreamMade
from backprop_ops.pair import Pair

EXPONENTS: dict[int, Reach] = {10: "alike", 40: "beyond"}


def upstreams(pair: Pair, sample: Case) -> Iterator[Case]:
    yield sample.but(UpstreamMade("one-hot", _one_hot))
    yield sample.but(UpstreamMade("nowhere positive", lambda u: -u.abs()))
    yield sample.but(UpstreamMade("nowhere negative", torch.abs))
    yield sample.but(UpstreamMade("all ones", torch.ones_like))
    yield sample.but(UpstreamMade("negated", torch.neg))
    for exponent, reach in EXPONENTS.items():
        for sign, size in ((1, "large"), (-1, "small")):
            how = f"very {size} (times 2^{sign * exponent})"
            scaled = partial(_scaled, by=2.0 ** (sign * exponent))
            yield sample.but(UpstreamMade(how, scaled, reach=reach))
    if len(pair.outputs) > 1:
        for name in pair.outputs:
            yield sample.but(UpstreamMade("alone", alone=name))


def _one_hot(upstream: Tensor) -> Tensor:
    hot = torch.zeros_like(upstream, memory_format=torch.contiguous_format)
    hot.view(-1)[upstream.numel() // 2 :][:1] = 1
    return hot


def _scaled(upstream: Tensor, by: float) -> Tensor:
    """A multiple of the upstream where the precision has it: infinity is nobody's upstream."""
    scaled = upstream * by
    return scaled if scaled.isfinite().all() else upstream
