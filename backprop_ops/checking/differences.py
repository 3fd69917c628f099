"""Finite differences in float64 with an error estimate: the judge that asks the forward alone.

Central differences over steps that are halved, extrapolated to a step of zero by Richardson's
tableau; the entry of the tableau with the least estimated error is taken (Ridders, 1982), so that
neither a step nor an order is chosen by anyone. At a kink the two one-sided slopes stay apart
however small the step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from backprop_ops.checking.judging import ALLOWED, Leaves, Verdict, proven
from backprop_ops.checking.structure import Tangent
from backprop_ops.leaves import Arguments, in_dtype, replaced
from backprop_ops.pair import Pair

STEPS = 9  # halvings of the step
FIRST_STEP = 2.0**-4  # of the size of what is moved, or of 1 where that is larger
LAST_STEP = 2.0**-16  # of a size, which has to make a difference to it
LEAST = 1e-100  # below which a number counts as zero, of which nothing can be halved so often
ENTRIES = 24  # of a leaf that are judged one by one; the others along directions
RESOLVED = 0.25  # of a slope: what two quotients may differ by that the next step is half of
NEAR = 1e-3  # of a slope: what the last quotient of all may differ by from it
ENOUGH = 1e-10  # of a slope: an error at which the steps need not be halved further
ROUNDINGS = 4  # of the terms of a slope that stands for all entries
DIRECTIONS = 3
ERRORS = 100  # times the estimated error that a right gradient may be off


class Slope(NamedTuple):
    """A directional derivative, how far it may be off, and at a kink the one-sided two."""

    value: float
    error: float
    least: float
    most: float


NOTHING = Slope(math.nan, math.inf, math.nan, math.nan)
"""What is said of a slope that no step resolves."""


class Differences:
    """The right gradients of one call by finite differences.

    ``tangents``: of some leaves, the steps that stay in their domain. Of the others they say
    nothing.
    """

    says = "finite differences say"

    def __init__(
        self,
        pair: Pair,
        arguments: Arguments,
        upstreams: Mapping[str, Tensor],
        tangents: Mapping[str, Tangent] | None = None,
    ) -> None:
        self._pair = pair
        self._tangents = tangents or {}
        self._arguments: Arguments = in_dtype(arguments, torch.float64)
        self._upstreams = {name: upstream.double() for name, upstream in upstreams.items()}
        try:
            self._outputs({})
        except Exception:  # a forward that does not take float64
            self._arguments = arguments
        self._leaves = pair.leaves(self._arguments)
        self._slopes: dict[str, dict[int, Slope]] = {}

    def along(self, leaf: str, direction: Tensor) -> Slope:
        """The slope of the upstreams' product with the outputs as a leaf moves in a direction."""
        x = self._leaves[leaf]
        size = x.double().abs()[direction != 0]
        size = size[size.isfinite() & (size > LEAST)]
        smallest, largest = (size.min().item(), size.max().item()) if size.numel() else (1.0, 1.0)
        step = max(FIRST_STEP * min(smallest, 1.0), LAST_STEP * largest)
        if step > 1:  # as long as an oscillation may be
            return NOTHING
        here, noise = self._here, self._noise
        tableau: list[list[float]] = []
        sides: list[tuple[float, float]] = []  # the slopes to the left and to the right
        best, error = math.nan, math.inf
        for k in range(STEPS):
            h = step / 2**k
            try:
                above = self._outputs({leaf: (x.double() + h * direction).to(x.dtype)})
                below = self._outputs({leaf: (x.double() - h * direction).to(x.dtype)})
            except Exception:  # beyond the forward's domain, which a shorter step may not be
                tableau, sides, best, error = [], [], math.nan, math.inf
                continue
            right = self._product(above, here) / h
            left = self._product(here, below) / h
            sides.append((left, right))
            row = [(right + left) / 2]
            for order, previous in enumerate(tableau[-1] if tableau else [], 1):
                row.append(row[-1] + (row[-1] - previous) / (4**order - 1))
                apart = max(abs(row[-1] - row[-2]), abs(row[-1] - previous)) + noise / h
                # Of a step that oversees what saturates, a half of it has quite another quotient.
                previous_quotient = tableau[-1][0]
                resolved = abs(row[0] - previous_quotient) <= RESOLVED * abs(row[-1]) + noise / h
                if apart < error and resolved:
                    best, error = row[-1], apart
            tableau.append(row)
            if k >= 3 and best and error <= ENOUGH * abs(best):
                break
        if len(sides) < 2:
            return NOTHING
        (before_left, before_right), (left, right) = sides[-2:]
        before, gap = abs(before_right - before_left), abs(right - left)
        stays = gap > 0.7 * before and gap > 1e-4 * (abs(left) + abs(right))
        if stays and gap > ALLOWED[8] * noise / (step / 2**STEPS):
            # Of what saturates, each side has twice the slope at half the step.
            moved = max(abs(left - before_left), abs(right - before_right))
            if moved > RESOLVED * max(abs(left), abs(right)):
                return NOTHING
            return Slope(tableau[-1][0], gap * 1e-2, min(left, right), max(left, right))
        # What saturates has no slope at any step until one is short enough, and what has a kink
        # nearby has another one there.
        near = RESOLVED if k < STEPS - 1 else NEAR
        beside = abs(tableau[-1][0] - best) > near * abs(best) + ERRORS * noise / (step / 2**k)
        return NOTHING if beside else Slope(best, error, best, best)

    @cached_property
    def _here(self) -> Leaves:
        return self._outputs({})

    @cached_property
    def _noise(self) -> float:
        """The rounding of the upstreams' product with the outputs."""
        products = (self._upstreams[name] * out for name, out in self._here.items())
        return self._eps * sum(p.abs().nan_to_num(0).sum().item() for p in products)

    @cached_property
    def _eps(self) -> float:
        """The eps of the outputs: that of float32 where the forward computes in it throughout."""
        own = max(torch.finfo(x.dtype).eps for x in self._leaves.values())
        here = self._here
        for size in (1e-5, 1e-2):
            generator = torch.Generator().manual_seed(0)
            moved = {
                name: x + size * torch.rand(x.shape, generator=generator).to(x) * x.abs().clamp(1)
                for name, x in self._leaves.items()
            }
            try:
                there = self._outputs(moved)
            except Exception:  # at the edge of the domain
                continue
            changed = torch.cat([out[out != here[name]].flatten() for name, out in there.items()])
            if changed.numel():
                short = torch.equal(changed, changed.float().double())
                return max(own, torch.finfo(torch.float32).eps) if short else own
        return own

    @cached_property
    def expected(self) -> Leaves:
        expected = {}
        for leaf, x in self._leaves.items():
            value = torch.full(x.shape, torch.nan, dtype=torch.float64, device=x.device)
            for entry, slope in self._entries(leaf).items():
                value.view(-1)[entry] = slope.value
            expected[leaf] = value
        return expected

    def completed(self, leaf: str, gradient: Tensor) -> Tensor:
        """What is expected, with the gradient's own part across the domain."""
        return self.expected[leaf] + gradient - self._along_tangents(leaf, gradient)

    def _along_tangents(self, leaf: str, x: Tensor) -> Tensor:
        return self._tangents[leaf](x) if leaf in self._tangents else x

    def interval(self, leaf: str) -> tuple[Tensor, Tensor]:
        least, most = self.expected[leaf].clone(), self.expected[leaf].clone()
        for entry, slope in self._entries(leaf).items():
            least.view(-1)[entry], most.view(-1)[entry] = slope.least, slope.most
        return least, most

    def allowed(self, leaf: str, dtype: torch.dtype) -> Tensor:
        value = self.expected[leaf]
        errors = torch.full_like(value, torch.inf)
        for entry, slope in self._entries(leaf).items():
            errors.view(-1)[entry] = slope.error
        units = ALLOWED[dtype.itemsize] * torch.finfo(dtype).eps
        return ERRORS * errors + units * self._largest(value)

    def _largest(self, gradient: Tensor) -> float:
        """What reaches an entry is not known here: at least the upstreams, or its neighbours."""
        sizes = [gradient, *self._upstreams.values()]
        return max((s.abs().nan_to_num(0).amax().item() for s in sizes if s.numel()), default=0)

    def proves(self, leaf: str, dtype: torch.dtype) -> bool:
        value, allowed = self.expected[leaf], self.allowed(leaf, dtype)
        return bool(proven(value, allowed, self._upstreams, dtype).any())

    def verdicts(self, gradients: Mapping[str, Tensor]) -> dict[str, Verdict]:
        return {leaf: self._verdict(leaf, gradient) for leaf, gradient in gradients.items()}

    def _verdict(self, leaf: str, gradient: Tensor) -> Verdict:
        if self.confirms(leaf, gradient, gradient.dtype):
            nowhere = torch.zeros_like(gradient, dtype=torch.bool)
            return Verdict(nowhere, nowhere)
        given = self._along_tangents(leaf, gradient.double())
        allowed = self.allowed(leaf, gradient.dtype)
        least, most = self.interval(leaf)
        judged = self.expected[leaf].isfinite() & allowed.isfinite()
        inside = (given >= least - allowed) & (given <= most + allowed)
        kinks = judged & inside & ((given - self.expected[leaf]).abs() > allowed)
        wrong = judged & ~inside
        if given.numel() > ENTRIES and not wrong.any():
            wrong = ~judged & self._off_along(leaf, given, gradient.dtype)
        return Verdict(wrong, kinks)

    def _off_along(self, leaf: str, given: Tensor, dtype: torch.dtype) -> bool:
        """Whether a gradient's product with some direction is not the slope along it."""
        for direction in self._signs(leaf):
            slope = self.along(leaf, direction)
            # A kink in some entries shows nothing of the others.
            if slope.least < slope.most or not math.isfinite(slope.error):
                continue
            # The upstreams round too, on their way to entries of which little is left.
            sizes = sum(
                (u.abs().nan_to_num(0).sum() for u in self._upstreams.values()), given.abs().sum()
            )
            allowed = (
                ERRORS * slope.error + ALLOWED[dtype.itemsize] * torch.finfo(dtype).eps * sizes
            )
            product = (given * direction).sum()
            if not slope.least - allowed <= product <= slope.most + allowed:
                return True
        return False

    def confirms(self, leaf: str, gradient: Tensor, dtype: torch.dtype) -> bool:
        """Whether a gradient's product with a drawn direction is the slope, and that well known.

        A wrong entry shows in it as well as by itself: what the others round adds up as a root.
        """
        generator = torch.Generator().manual_seed(0)
        drawn = 0.5 + torch.rand(gradient.shape, generator=generator, dtype=torch.float64)
        drawn *= 1 - 2 * torch.randint(0, 2, gradient.shape, generator=generator)
        direction = self._along_tangents(leaf, drawn.to(gradient.device))
        given = self._along_tangents(leaf, gradient.double())
        units = min(ROUNDINGS * gradient.numel() ** 0.5, ALLOWED[dtype.itemsize] / 2)
        allowed = units * torch.finfo(dtype).eps * self._largest(given)
        slope = self.along(leaf, direction)
        known = slope.least == slope.most and ERRORS * slope.error <= allowed
        return known and abs((given * direction).sum().item() - slope.value) <= allowed

    def _signs(self, leaf: str) -> list[Tensor]:
        x = self._leaves[leaf]
        generator = torch.Generator().manual_seed(0)
        drawn = [
            torch.randint(0, 2, x.shape, generator=generator) * 2.0 - 1 for _ in range(DIRECTIONS)
        ]
        return [self._along_tangents(leaf, signs.to(x.device).double()) for signs in drawn]

    def _entries(self, leaf: str) -> dict[int, Slope]:
        """The slope of each entry, or of some of them where there are many."""
        if leaf not in self._slopes:
            x = self._leaves[leaf]
            drawn = torch.randperm(x.numel(), generator=torch.Generator().manual_seed(0))
            slopes = {}
            for entry in drawn[:ENTRIES].tolist():
                direction = torch.zeros(x.shape, dtype=torch.float64, device=x.device)
                direction.view(-1)[entry] = 1
                slopes[entry] = self.along(leaf, self._along_tangents(leaf, direction))
            self._slopes[leaf] = slopes
        return self._slopes[leaf]

    def _outputs(self, leaves: Leaves) -> Leaves:
        with torch.no_grad():
            result = self._pair.call(replaced(self._arguments, leaves))
            fields: dict[str, Any] = self._pair.fields(result)
        return {
            name: fields[name].detach().to(torch.float64, copy=True) for name in self._pair.outputs
        }

    def _product(self, outputs: Leaves, others: Leaves) -> float:
        return sum(
            (upstream * (outputs[name] - others[name])).nan_to_num(0).sum().item()
            for name, upstream in self._upstreams.items()
        )
