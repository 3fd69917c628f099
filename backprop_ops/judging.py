"""What a gradient has to be, and how exactly: autograd in float64 and its own rounding.

The reference is autograd of the forward in float64, on the same numbers. How far a right backward
may be from it is measured, not chosen: the reference is derived again with every rounding disturbed
at random (Monte Carlo arithmetic: Parker, 1997), and what that moves an entry by, scaled from the
disturbance to the eps of the precision judged, is the unit in which the entry's error counts.
Cancellation inside a sound formula is thereby allowed where it happens, and nowhere else.

At a tie or a corner the gradient jumps when the inputs move a little. What it jumps between is
what is right there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from backprop_ops.pair import Pair, takes_gradient

ALLOWED = 64  # units of rounding by which a sound formula may differ from autograd's
SMALL = 2.0**-40  # relative disturbance: large against float64's rounding, small against all else
JUMP = 1e-4  # of an entry's scale: what a disturbance moves at a tie or a corner, and nowhere else

Arguments = Mapping[str, Any]
Gradients = dict[str, Tensor]


class Corners(NamedTuple):
    """Where the gradient of one input jumps, and what it jumps between."""

    least: Tensor
    most: Tensor
    tied: Tensor  # directions that keep ties, each a row: (directions, *shape)


class Judge:
    """The right gradients of one call, worked out as far as a gradient makes it necessary.

    Most right backwards agree with autograd to a few roundings; what a sound formula may lose to
    cancellation, and what is right at a corner, is asked only where one does not.
    """

    def __init__(self, pair: Pair, arguments: Arguments, upstreams: Mapping[str, Tensor]) -> None:
        self._pair = pair
        self._slots = pair.slots(arguments)
        self._arguments = {n: as_dtype(value, torch.float64) for n, value in arguments.items()}
        self._upstreams = {name: upstream.double() for name, upstream in upstreams.items()}

    @cached_property
    def expected(self) -> Gradients:
        """Autograd's gradients in float64, by the names of the inputs."""
        return autograd(self._pair, self._arguments, self._upstreams, torch.float64)

    def wrong(self, name: str, gradient: Tensor) -> Tensor:
        """Where the gradient of ``name`` is further from right than rounding explains: a mask."""
        value, given = self.expected[name], gradient.double()
        judged = value.isfinite()
        off = self._off(given - value, value.abs(), gradient.dtype) & judged
        if off.any():
            off &= self._off(given - value, self.units[name], gradient.dtype)
        if off.any():
            off = self._off_corner(name, gradient) & judged
        return off

    def differ(self, name: str, one: Tensor, other: Tensor) -> bool:
        """Whether two gradients by hand, of the same call, differ by more than rounding."""
        difference = one.double() - other.double()
        off = self._off(difference, one.double().abs(), one.dtype) & one.isfinite()
        if off.any():
            units = self.units[name] + one.double().abs()
            off &= self._off(difference, units, one.dtype)
        return bool(off.any())

    @cached_property
    def units(self) -> Gradients:
        """What rounding moves each entry by, per unit of eps."""
        salts = range(100, 500, 100)
        coarse, fine = ([self._rounded(salt, s) for salt in salts] for s in (16 * SMALL, SMALL))
        units = {}
        for name, value in self.expected.items():
            shifts, smaller = (
                (torch.stack([g[name] for g in gradients]) - value).abs()
                for gradients in (coarse, fine)
            )
            # A jump is as large for a smaller disturbance, and says nothing about rounding.
            proportional = torch.where(smaller <= shifts / 4, shifts / (16 * SMALL), 0)
            units[name] = proportional.nan_to_num(0).amax(0) + value.abs()
        return units

    @cached_property
    def corners(self) -> dict[str, Corners]:
        together = [self._moved(salt, keep_ties=True) for salt in range(1, 4)]
        apart = [self._moved(salt, keep_ties=False) for salt in range(1, 13)]
        corners = {}
        for name, value in self.expected.items():
            # What lies beyond the forward's domain, as left of zero for a root, bounds nothing.
            near = [torch.where(g[name].isfinite(), g[name], value) for g in apart]
            jumps = _jumps(value, near)
            hull = torch.stack([value, *near])
            # Where equal numbers move together there is one gradient again, unless at a corner.
            ties = jumps & ~_jumps(value, [g[name] for g in together])
            at = self._arguments[name]
            corners[name] = Corners(
                torch.where(jumps, hull.amin(0), value),
                torch.where(jumps, hull.amax(0), value),
                torch.stack([torch.where(ties, _noise(at, salt), 0) for salt in range(1, 4)]),
            )
        return corners

    @staticmethod
    def _off(difference: Tensor, unit: Tensor, dtype: torch.dtype) -> Tensor:
        """Where a difference is more than rounding, a nan included."""
        return ~(difference.abs() <= _allowed(unit, dtype))

    def _off_corner(self, name: str, gradient: Tensor) -> Tensor:
        """Where a gradient lies outside of what the right one jumps between."""
        given, value, corners = gradient.double(), self.expected[name], self.corners[name]
        allowed = _allowed(self.units[name], gradient.dtype)
        off = ~((corners.least - allowed <= given) & (given <= corners.most + allowed))
        # Of a tie, the shares must add up to what all of it moved together would get.
        difference = torch.where(off | ~value.isfinite(), 0, given - value)
        for direction in corners.tied:
            if (difference * direction).sum().abs() > (allowed * direction.abs()).sum():
                off |= direction != 0
        return off

    def _rounded(self, salt: int, size: float) -> Gradients:
        """As if every number had been rounded: inputs, upstreams and each operation's result."""
        inputs = self._disturbed(lambda x: _rounded(x, salt, size))
        with _Rounding(salt, size):
            upstreams = {n: _rounded(u, salt + 1, size) for n, u in self._upstreams.items()}
            return autograd(self._pair, inputs, upstreams, torch.float64)

    def _moved(self, salt: int, keep_ties: bool) -> Gradients:
        inputs = self._disturbed(lambda x: _moved(x, salt, keep_ties))
        return autograd(self._pair, inputs, self._upstreams, torch.float64)

    def _disturbed(self, disturb: Callable[[Any], Any]) -> Arguments:
        return {
            name: tree_map(disturb, value) if name in self._slots else value
            for name, value in self._arguments.items()
        }


def autograd(
    pair: Pair, arguments: Arguments, upstreams: Mapping[str, Tensor], dtype: torch.dtype
) -> Gradients:
    """Autograd's gradients by the names of the inputs, in ``dtype``; zeros where nothing flows."""
    cast = {name: as_dtype(value, dtype) for name, value in arguments.items()}
    leaves = {
        name: cast[name].detach().clone().requires_grad_()
        for name in pair.slots(arguments)
        if takes_gradient(cast[name])
    }
    with torch.enable_grad():
        fields = pair.fields(call_forward(pair, {**cast, **leaves}))
        flowing = [name for name in pair.outputs if fields[name].requires_grad]
        gradients = torch.autograd.grad(
            [fields[name] for name in flowing],
            list(leaves.values()),
            [upstreams[name].to(dtype) for name in flowing],
            allow_unused=True,
        )
    return {
        name: torch.zeros_like(leaf) if gradient is None else gradient.detach()
        for (name, leaf), gradient in zip(leaves.items(), gradients, strict=True)
    }


def call_forward(pair: Pair, arguments: Arguments) -> Any:
    return pair.forward(
        *(arguments[name] for name in pair.inputs),
        **{name: arguments[name] for name in pair.options},
    )


def as_dtype(value: Any, dtype: torch.dtype) -> Any:
    """A value with every floating tensor in it in another precision."""
    return tree_map(
        lambda v: v.to(dtype) if isinstance(v, Tensor) and v.is_floating_point() else v, value
    )


def _allowed(unit: Tensor, dtype: torch.dtype) -> Tensor:
    finfo = torch.finfo(dtype)
    return ALLOWED * (finfo.eps * unit + finfo.tiny)


def _jumps(value: Tensor, others: list[Tensor]) -> Tensor:
    """Where one of several gradients, of inputs next to each other, is quite another number."""
    jumps = torch.zeros_like(value, dtype=torch.bool)
    for other in others:
        scale = torch.maximum(value.abs(), other.abs())
        jumps |= ((other - value).abs() > JUMP * scale) & other.isfinite()
    return jumps


def _noise(x: Tensor, salt: int) -> Tensor:
    """Noise in [-1, 1] that depends on the number alone, so that equal numbers stay equal."""
    offset = (salt * 0x14057B7EF767814F) % 2**63
    bits = x.contiguous().view(torch.int64) * 0x5851F42D4C957F2D + offset
    bits = (bits ^ (bits >> 29)) * 0x2545F4914F6CDD1D
    return (bits >> 11).double() / 2.0**52


def _rounded(x: Any, salt: int, size: float) -> Any:
    if not (isinstance(x, Tensor) and x.dtype == torch.float64):
        return x
    return torch.where(x.isfinite(), x * (1 + size * _noise(x, salt)), x)


def _moved(x: Any, salt: int, keep_ties: bool) -> Any:
    """``x`` a little further on, also where it is zero."""
    if not (isinstance(x, Tensor) and x.dtype == torch.float64):
        return x
    noise = _noise(x, salt)
    if not keep_ties:
        place = torch.arange(x.numel(), dtype=torch.float64, device=x.device).reshape(x.shape)
        noise = _noise(place + 0.5, salt)
    scale = torch.where(x == 0, 1.0, x.abs())
    return torch.where(x.isfinite(), x + SMALL * scale * noise, x)


class _Rounding(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's is untyped
    """Disturb the result of every operation that rounds, forward and backward."""

    def __init__(self, salt: int, size: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as above
        self.salt = salt
        self.size = size

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        schema = func._schema
        if schema.is_mutable or any(r.alias_info is not None for r in schema.returns):
            return result
        self.salt += 1
        given = [
            v.abs().flatten()
            for v in tree_flatten((args, kwargs))[0]
            if isinstance(v, Tensor) and v.dtype == torch.float64
        ]

        def disturb(out: Any) -> Any:
            if not (isinstance(out, Tensor) and out.dtype == torch.float64):
                return out
            # What is one of the numbers given was picked, not rounded.
            picked = torch.isin(out.abs(), torch.cat(given)) if given else torch.ones_like(out) > 0
            return torch.where(picked, out, _rounded(out, self.salt, self.size))

        return tree_map(disturb, result)
