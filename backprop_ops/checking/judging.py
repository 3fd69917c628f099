"""What a gradient has to be, and how exactly: autograd in float64 and its own rounding.

The reference is autograd of the forward in float64, on the same numbers. How far a right backward
may be from it is measured, not chosen: the reference is derived again with every rounding disturbed
at random (Monte Carlo arithmetic: Parker, 1997), and what that moves an entry by, scaled from the
disturbance to the eps of the precision judged, is the unit in which the entry's error counts.
Cancellation inside a sound formula is thereby allowed where it happens, and nowhere else.

At a tie or a kink the gradient jumps when the inputs move a little. What it jumps between is
what is right there.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from backprop_ops._torch import (
    DispatchMode,
    aliases,
    autograd_refuses,
    decomposition,
    is_singular,
    is_zero_tensor,
    lacks_derivative,
)
from backprop_ops.leaves import Arguments, in_dtype, mapped, parts, replaced
from backprop_ops.pair import Pair

# Units of rounding by which a sound formula may differ from autograd's, by the bytes of a number:
# what sums in another order, as a transform does, may differ by hundreds, and in half precision 64
# would be half of the number itself.
ALLOWED = {8: 1024, 4: 64, 2: 16}
OWN_ERRORS = 4  # times autograd's own error in the precision judged
OWN_DRAWS = 5  # inputs one rounding apart, on which that error is seen
DRAWS = (1, 4, 16)  # disturbances, as far as they are needed
SMALL_SHIFT = 2.0**-10  # of an entry's size: a draw that moves it by less has missed it
FAR = {1: 2.0**16, 4: 2.0**7, 16: 1.0}  # by which so many draws were never all too small
SMALL_IN_FLOAT32 = 2.0**-18  # a relative disturbance, large against the rounding
JUMP = 1e-4  # of an entry's scale: what a disturbance moves at a tie or a kink, and nowhere else
MOVED_ALONE = 512  # entries
TIED = 3  # directions in which ties move together
CACHED = 2**15  # elements
SEARCHED = 2**16  # elements up to which a result is compared with what it may have been picked from

Leaves = dict[str, Tensor]


class Verdict(NamedTuple):
    """Of one gradient: ``wrong`` a mask, ``kinks`` a mask of what is right only at a kink."""

    wrong: Tensor
    kinks: Tensor


class Judge(Protocol):
    """Who says what the gradients of one call are."""

    says: str

    @property
    def expected(self) -> Leaves:
        """The right gradients by the names of the leaves; nan where nothing can be said."""

    def verdicts(self, gradients: Mapping[str, Tensor]) -> dict[str, Verdict]:
        """Of the gradients by hand, all of one call, since leaves may share what a tie gets."""

    def interval(self, leaf: str) -> tuple[Tensor, Tensor]:
        """Between what each entry may be at a kink."""

    def allowed(self, leaf: str, dtype: torch.dtype) -> Tensor:
        """How far rounding may take each entry."""

    def proves(self, leaf: str, dtype: torch.dtype) -> bool:
        """Whether some entry is more than rounding, or exactly zero."""


class Autograd:
    """The right gradients of one call, worked out as far as a gradient makes it necessary.

    Most right backwards agree with autograd to a few roundings; what a sound formula may lose to
    cancellation, and what is right at a kink, is asked only where one does not.
    """

    says = "autograd says"

    def __init__(
        self,
        pair: Pair,
        arguments: Arguments,
        upstreams: Mapping[str, Tensor],
        *,
        graphless_is_zero: bool = False,
    ) -> None:
        self._pair = pair
        self._graphless_is_zero = graphless_is_zero
        self._own = arguments
        self._own_upstreams = upstreams
        self._dtype = torch.float64
        self._arguments = in_dtype(arguments, torch.float64)
        self._upstreams = {name: upstream.double() for name, upstream in upstreams.items()}
        self._drawn = 0
        self._own_drawn: dict[int, Leaves] = {}
        self._vanished = False  # whether a disturbance was too small for a forward that casts

    @cached_property
    def expected(self) -> Leaves:
        try:
            expected = self._gradients(self._arguments, self._upstreams)
        except Undifferentiable:
            raise
        except Exception:  # a forward that does not take float64: as exactly as it goes
            self._arguments, self._upstreams = dict(self._own), dict(self._own_upstreams)
            expected = self._gradients(self._arguments, self._upstreams)
            self._dtype = next(iter(expected.values())).dtype
        return {name: value.double() for name, value in expected.items()}

    def _gradients(self, arguments: Arguments, upstreams: Mapping[str, Tensor]) -> Leaves:
        try:
            return autograd(self._pair, arguments, upstreams)
        except Graphless:
            if not self._graphless_is_zero:
                raise
            leaves = self._pair.leaves(arguments)
            return {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}

    def verdicts(self, gradients: Mapping[str, Tensor]) -> dict[str, Verdict]:
        off = {leaf: self._off(leaf, gradient) for leaf, gradient in gradients.items()}
        kinks = {leaf: torch.zeros_like(wrong) for leaf, wrong in off.items()}
        if any(wrong.any() for wrong in off.values()):
            beyond = self._beyond_kinks(gradients)
            kinks = {leaf: off[leaf] & ~beyond[leaf] & self._kinks[leaf].jumps for leaf in off}
            off = {leaf: off[leaf] & beyond[leaf] for leaf in off}
        return {leaf: Verdict(off[leaf], kinks[leaf]) for leaf in off}

    def _off(self, leaf: str, gradient: Tensor) -> Tensor:
        """Where a gradient is off by more than rounding."""
        value, given = self.expected[leaf], gradient.double()
        finfo = torch.finfo(gradient.dtype)
        # Where it is too large for the precision, infinity is as good as any number, and a little
        # below that it is what a sum or product in another order comes to on its way.
        bound = torch.where(given.isfinite(), given.new_tensor(finfo.max), finfo.max / 16)
        judged = value.isfinite() & (value.abs() <= bound)
        error = (given - value).abs()
        units = ALLOWED[gradient.dtype.itemsize] * finfo.eps
        # A transform leaves the last digit of the largest entry in all others, also in float64.
        largest = torch.where(judged, value.abs(), 0).amax() if value.numel() else 0
        leaked = 4 * torch.finfo(torch.float64).eps * largest
        # In half precision a gradient of zeros would hide behind it.
        reached = leaked + (2 * finfo.eps * self._upstream_of(leaf) if finfo.bits > 16 else 0)
        off = ~(error <= units * value.abs() + underflow(gradient.dtype) + reached) & judged
        if off.any():  # of the two this takes a tenth of a draw's time
            off = self._beyond_autograd(leaf, given, gradient.dtype, off)
        # A draw may have been a small one, so that each further one can only allow more.
        for draws in DRAWS:
            before = off.sum()
            if not before:
                break
            self._draw(draws)
            allowed = self.allowed(leaf, gradient.dtype)
            off &= ~(error <= allowed)
            # No further draw helps where none can have been so small, or where few entries went.
            unmoved = self._shifts[leaf] <= SMALL_SHIFT * self.expected[leaf].abs()
            hopeless = not (off & (unmoved | (error <= FAR[draws] * allowed))).any()
            if hopeless or (draws > DRAWS[0] and 2 * off.sum() > before + 64):
                break
        return off

    def _upstream_of(self, leaf: str) -> Tensor:
        """The upstream in the place of each entry, of outputs that have the entry's place.

        A slope that goes to zero may be one minus what goes to one, as that of elu by its output.
        """
        value = self.expected[leaf]
        same = [u.abs() for u in self._upstreams.values() if u.shape == value.shape]
        return sum(same, torch.zeros_like(value))

    def allowed(self, leaf: str, dtype: torch.dtype) -> Tensor:
        finfo = torch.finfo(dtype)
        self._draw(DRAWS[0])
        units = self._shifts[leaf] + self.expected[leaf].abs()
        return ALLOWED[dtype.itemsize] * finfo.eps * units + underflow(dtype)

    def proves(self, leaf: str, dtype: torch.dtype) -> bool:
        value = self.expected[leaf]
        sizes = [u.abs().amax().item() for u in self._upstreams.values() if u.numel()]
        if not value.numel() or not sizes:
            return False
        largest = max(sizes)
        for draws in range(1, DRAWS[-1] + 1):
            self._draw(draws)
            proving = proven(value, self.allowed(leaf, dtype), self._upstreams, dtype)
            # One draw may leave as it is what another moves: a sum of terms that cancel.
            if not proving.any() or value[proving].abs().amax() > JUMP * largest:
                return bool(proving.any())
        return True

    def interval(self, leaf: str) -> tuple[Tensor, Tensor]:
        kinks = self._kinks[leaf]
        return kinks.least, kinks.most

    def _beyond_autograd(self, leaf: str, given: Tensor, dtype: torch.dtype, off: Tensor) -> Tensor:
        """Where a gradient is off by more than autograd itself in the same precision.

        Its error is that on inputs one rounding apart from these, as far as that is no jump.
        """
        value, beyond = self.expected[leaf], off
        error = torch.zeros_like(value)
        for salt in range(OWN_DRAWS):
            errors = self._own_errors(salt)
            if leaf not in errors:  # autograd lacks many operations in half precision
                return off
            error = torch.maximum(error, errors[leaf])
            if dtype == self._dtype:
                error = torch.where(error <= JUMP * value.abs(), error, 0)
            near = ~error.isfinite() | ((given - value).abs() <= OWN_ERRORS * error)
            beyond = off & ~near
            if not beyond.any():
                break
        return beyond

    def _own_errors(self, salt: int) -> Leaves:
        """How far autograd in the call's own precision is off; nothing where it has none."""
        if salt not in self._own_drawn:
            leaves = self._pair.leaves(self._own)
            apart = {
                n: x if salt == 0 else _rounded(x, salt, 2 * torch.finfo(x.dtype).eps)
                for n, x in leaves.items()
            }
            try:
                gradients = self._gradients(replaced(self._own, apart), self._own_upstreams)
            except Exception:  # it has none, or beyond the domain
                gradients = {}
            self._own_drawn[salt] = {
                n: (gradient.double() - self.expected[n]).abs() for n, gradient in gradients.items()
            }
        return self._own_drawn[salt]

    @cached_property
    def _small(self) -> float:
        """A relative disturbance: large against the rounding, small against all else."""
        return 2.0**-40 if self._dtype == torch.float64 else SMALL_IN_FLOAT32

    @cached_property
    def _finest(self) -> float:
        """The eps of the call's own precision."""
        return min(torch.finfo(leaf.dtype).eps for leaf in self._pair.leaves(self._own).values())

    def _draw(self, draws: int) -> None:
        """Disturb as often as that in all, and keep what it moves each entry by, per eps.

        A jump is as large for a smaller disturbance, and says nothing about rounding.
        """
        while self._drawn < draws:
            salt = 100 * (self._drawn + 1)
            try:
                coarse = self._rounded(salt, 16 * self._small)
            except Exception as error:  # at the edge of its domain, as a probability of 1
                self._drawn += 1
                if is_singular(error):  # up to rounding
                    self._shifts.update((n, torch.inf + s) for n, s in self._shifts.items())
                continue
            if self._vanished and self._small < SMALL_IN_FLOAT32:
                self._small = SMALL_IN_FLOAT32
                continue
            self._drawn += 1
            shifts = {n: (coarse[n].double() - value).abs() for n, value in self.expected.items()}
            jumping = [not (shifts[n] <= JUMP * v.abs()).all() for n, v in self.expected.items()]
            fine = self._rounded_finely(salt) if any(jumping) else {}
            for name, shift in shifts.items():
                proportional = shift / (16 * self._small)
                if fine:
                    smaller = (fine[name].double() - self.expected[name]).abs()
                    proportional = torch.where(smaller <= shift / 4, proportional, 0)
                self._shifts[name] = torch.maximum(self._shifts[name], proportional.nan_to_num(0))

    @cached_property
    def _shifts(self) -> Leaves:
        return {name: torch.zeros_like(value) for name, value in self.expected.items()}

    @cached_property
    def _kinks(self) -> dict[str, _Kinks]:
        """Where the gradients of inputs next to these are quite others, and which ones.

        Inputs move apart, each way the same number of times, so that every kink shows both sides.
        Where equal numbers that move together have one gradient again, it was a tie: there any of
        the tied may get what any other gets.
        """
        zeros = {name: torch.zeros_like(value) for name, value in self.expected.items()}
        nowhere = {name: torch.zeros_like(zero, dtype=torch.bool) for name, zero in zeros.items()}
        if self._is_smooth:
            return {
                name: _Kinks(value, value, nowhere[name], [zeros[name]] * TIED)
                for name, value in self.expected.items()
            }
        at = self._pair.leaves(self._arguments)
        together = [
            self._moved(salt, size, keep_ties=True)
            for salt, size in itertools.product(range(1, 1 + TIED), (self._small, -self._small))
        ]
        kinks = {name: _Kinks(zero, zero, nowhere[name], []) for name, zero in zeros.items()}
        for upstreams in self._one_signed_upstreams:
            here = self._gradients(self._arguments, upstreams)
            lowest, highest = dict(here), dict(here)
            for salt, size in itertools.product(self._salts, (self._small, -self._small)):
                for name, gradient in self._moved(salt, size, False, upstreams).items():
                    # What lies beyond the domain, as left of zero for a root, bounds nothing.
                    near = torch.where(gradient.isfinite(), gradient, here[name])
                    lowest[name] = torch.minimum(lowest[name], near)
                    highest[name] = torch.maximum(highest[name], near)
            for name, known in kinks.items():
                low, high = lowest[name], highest[name]
                jumps = known.jumps | _jumps(here[name], low) | _jumps(here[name], high)
                kinks[name] = _Kinks(known.least + low, known.most + high, jumps, [])
        for name, (least, most, jumps, _) in kinks.items():
            value = self.expected[name]
            least, most = torch.where(jumps, least, value), torch.where(jumps, most, value)
            kink = torch.zeros_like(jumps)
            for gradients in filter(None, together):
                kink |= _jumps(value, gradients[name])
            ties = jumps & ~kink
            if ties.any():
                ties = torch.isin(at[name], at[name][ties]) & ~kink
                shared_least, shared_most = _shared(at[name], least, most)
                # Which of many ties gets most was not seen of each; their sum is what binds them.
                spread = shared_most - shared_least
                least = torch.where(ties, shared_least - spread, least)
                most = torch.where(ties, shared_most + spread, most)
            noises = [torch.where(ties, _noise(at[name], salt), 0) for salt in range(1, 1 + TIED)]
            kinks[name] = _Kinks(least, most, jumps | ties, noises)
        return kinks

    @property
    def _is_smooth(self) -> bool:
        """Whether inputs next to these have nearly the same gradients.

        At a kink two that move apart, each way, show another gradient in some entry.
        """
        for upstreams in self._one_signed_upstreams:
            here = self._gradients(self._arguments, upstreams)
            for salt, size in itertools.product(self._salts[:2], (self._small, -self._small)):
                moved = self._moved(salt, size, False, upstreams)
                if not moved:  # beyond the domain
                    return False
                for name, gradient in moved.items():
                    same = gradient.isfinite() == here[name].isfinite()
                    if not same.all() or _jumps(here[name], gradient).any():
                        return False
        return True

    @property
    def _salts(self) -> range:
        """For inputs that move apart; of several inputs each two also against one another."""
        return range(2, 18) if len(self.expected) > 1 else range(2, 18, 2)

    @property
    def _one_signed_upstreams(self) -> list[Leaves]:
        """The upstreams' positive part and their negative one, as far as there is any of it.

        Each output may have a kink of its own, and go to its own side of it: apart, what they
        send through it cannot cancel.
        """
        parts = [{n: u.clamp(min=0) for n, u in self._upstreams.items()}]
        parts.append({n: u.clamp(max=0) for n, u in self._upstreams.items()})
        return [part for part in parts if any(u.any() for u in part.values())]

    @cached_property
    def _one_rounding_apart(self) -> dict[str, tuple[Tensor, Tensor]]:
        """The least and the most of each entry for inputs that round to these.

        What lies between two numbers of the precision may lie on either side of a kink.
        """
        bounds = {name: (value, value) for name, value in self.expected.items()}
        size = self._finest
        for salt, way in itertools.product(self._salts, (size, -size)):
            for name, gradient in self._moved(salt, way, keep_ties=False).items():
                least, most = bounds[name]
                near = torch.where(gradient.isfinite(), gradient.double(), self.expected[name])
                bounds[name] = torch.minimum(least, near), torch.maximum(most, near)
        return bounds

    def _beyond_kinks(self, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Where gradients lie outside of what the right ones jump between."""
        beyond, differences, allowances = {}, {}, {}
        for leaf, gradient in gradients.items():
            given, value, kinks = gradient.double(), self.expected[leaf], self._kinks[leaf]
            allowed = allowances[leaf] = self.allowed(leaf, gradient.dtype)
            # The inputs next to these are not these.
            near = allowed + JUMP * (kinks.most - kinks.least)
            beyond[leaf] = ~((kinks.least - near <= given) & (given <= kinks.most + near))
            if beyond[leaf].any() and self._finest > self._small:
                least, most = self._one_rounding_apart[leaf]
                beyond[leaf] &= ~((least - allowed <= given) & (given <= most + allowed))
            beyond[leaf] &= ~self._right_alone(leaf, given, near, beyond[leaf] & kinks.jumps)
            left_out = beyond[leaf] | ~value.isfinite()
            differences[leaf] = torch.where(left_out, 0, given - value)
        # Of a tie, the shares must add up to what all of it moved together would get.
        for i in range(TIED):
            directions = {leaf: self._kinks[leaf].tied[i] for leaf in gradients}
            total = sum((differences[n] * d).sum().item() for n, d in directions.items())
            allowed_sum = sum((allowances[n] * d.abs()).sum().item() for n, d in directions.items())
            if abs(total) > allowed_sum:
                for leaf, direction in directions.items():
                    apart = differences[leaf].abs() > allowances[leaf]
                    beyond[leaf] |= (direction != 0) & apart
        return beyond

    def _right_alone(self, leaf: str, given: Tensor, near: Tensor, asked: Tensor) -> Tensor:
        """Where a gradient lies between those of an entry that alone moves, up and down.

        Of many tied few are ever the largest as all of them move.
        """
        right = torch.zeros_like(asked)
        if leaf not in self._movable:
            return right
        for entry in asked.flatten().nonzero().flatten().tolist()[:MOVED_ALONE]:
            bounds = [self.expected[leaf].flatten()[entry]]
            for size in (self._small, -self._small):
                moved = self._pair.leaves(self._arguments)[leaf].clone().contiguous()
                x = moved.view(-1)[entry].item()
                moved.view(-1)[entry] += size * (abs(x) or 1)
                try:
                    arguments = replaced(self._arguments, {leaf: moved})
                    gradient = self._gradients(arguments, self._upstreams)[leaf]
                except Exception:  # beyond its domain
                    continue
                bounds.append(gradient.flatten()[entry])
            value, slack = given.flatten()[entry], near.flatten()[entry]
            inside = min(bounds) - slack <= value <= max(bounds) + slack
            if not inside:  # one that is wrong is enough
                break
            right.view(-1)[entry] = True
        return right

    def _rounded(self, salt: int, size: float) -> Leaves:
        """As if every number had been rounded: inputs, upstreams and each operation's result."""
        inputs = self._disturbed(lambda x, _: _rounded(x, salt, size))
        most = 2.0**-4 * size / (16 * self._small)
        with _Rounding(salt, size, self._finest, most) as rounding:
            upstreams = {
                name: _rounded(upstream, salt + 1, size)
                for name, upstream in self._upstreams.items()
            }
            gradients = self._gradients(inputs, upstreams)
        self._vanished = rounding.vanished
        return gradients

    def _rounded_finely(self, salt: int) -> Leaves:
        try:
            return self._rounded(salt, self._small)
        except Exception:  # as above
            return {}

    def _moved(
        self, salt: int, size: float, keep_ties: bool, upstreams: Leaves | None = None
    ) -> Leaves:
        """The gradients of inputs next to these; none where the forward does not take those."""
        upstreams = self._upstreams if upstreams is None else upstreams

        def move(x: Tensor, i: int) -> Tensor:
            if keep_ties:
                return _moved(x, salt, size, None)
            # Of two salts one moves every other leaf the other way, as against one another.
            return _moved(x, salt // 2, -size if i % 2 and salt % 2 else size, i)

        inputs = self._disturbed(move, self._movable)
        try:
            return self._gradients(inputs, upstreams)
        except Exception:  # beyond its domain, as a probability of more than 1
            return {}

    @cached_property
    def _movable(self) -> frozenset[str]:
        """The leaves at which the forward itself does not jump: elsewhere nothing is next to it."""
        movable = set(self.expected)
        here, leaves = _outputs(self._pair, self._arguments), self._pair.leaves(self._arguments)
        for leaf in self.expected:
            for size in (self._small, -self._small):
                moved = self._disturbed(lambda x, i: _moved(x, 1, size, i), {leaf})  # noqa: B023
                try:
                    outputs = _outputs(self._pair, moved)
                except Exception:  # beyond its domain
                    movable.discard(leaf)
                    break
                for name, output in outputs.items():
                    if not output.numel():
                        continue
                    size_of_both = here[name].abs().amax() + leaves[leaf].abs().amax()
                    if (output - here[name]).abs().amax() > JUMP * max(size_of_both.item(), 1e-2):
                        movable.discard(leaf)
        return frozenset(movable)

    def _disturbed(
        self, disturb: Callable[[Tensor, int], Tensor], which: Iterable[str] | None = None
    ) -> Arguments:
        leaves = self._pair.leaves(self._arguments).items()
        disturbed = {
            name: disturb(x, i)
            for i, (name, x) in enumerate(leaves)
            if which is None or name in which
        }
        return replaced(self._arguments, disturbed)


class _Kinks(NamedTuple):
    """Where the gradient of one leaf jumps, and what it jumps between."""

    least: Tensor
    most: Tensor
    jumps: Tensor
    tied: list[Tensor]  # directions in which the ties move together


class Undifferentiable(Exception):  # noqa: N818  # a fact about a forward, and no error of anyone's
    """Autograd cannot see through the forward."""


class Graphless(Undifferentiable):
    """No output has a graph: the forward hides from autograd, or does not read its inputs here."""


def autograd(pair: Pair, arguments: Arguments, upstreams: Mapping[str, Tensor]) -> Leaves:
    """Autograd's gradients by the names of the leaves; zeros where nothing flows."""
    leaves = {
        name: value.detach().clone().requires_grad_()
        for name, value in pair.leaves(arguments).items()
    }
    with torch.enable_grad():
        try:
            fields = pair.fields(pair.call(replaced(arguments, leaves)))
        except RuntimeError as error:
            if autograd_refuses(error):
                raise Undifferentiable from error
            raise
        flowing = [name for name in pair.outputs if fields[name].requires_grad]
        if not flowing:
            raise Graphless
        try:
            gradients = torch.autograd.grad(
                [fields[name] for name in flowing],
                list(leaves.values()),
                [upstreams[name].to(fields[name].dtype) for name in flowing],
                allow_unused=True,
            )
        except (RuntimeError, NotImplementedError) as error:
            if lacks_derivative(error):
                raise Undifferentiable from error
            raise
    return {
        name: torch.zeros_like(leaf) if gradient is None else gradient.detach()
        for (name, leaf), gradient in zip(leaves.items(), gradients, strict=True)
    }


def rounding_of_outputs(pair: Pair, arguments: Arguments) -> Leaves:
    """How far rounding moves each output of a forward, per eps; nothing where it has no float64."""
    size = 2.0**-30
    moved: Leaves = {}
    try:
        exact = in_dtype(arguments, torch.float64)
        here = _outputs(pair, exact)
        for salt in range(1, 4):
            leaves = pair.leaves(exact)
            disturbed = {name: _rounded(x, salt, size) for name, x in leaves.items()}
            with _Rounding(100 * salt, size, size, size):
                outputs = _outputs(pair, replaced(exact, disturbed))
            for name, output in outputs.items():
                shift = ((output - here[name]).abs() / size).nan_to_num(torch.inf)
                moved[name] = torch.maximum(moved.get(name, shift), shift)
    except Exception:  # as above
        return {}
    return moved


def _outputs(pair: Pair, arguments: Arguments) -> Leaves:
    with torch.no_grad():
        fields = pair.fields(pair.call(arguments))
    return {name: fields[name].double() for name in pair.outputs}


def underflow(dtype: torch.dtype) -> float:
    """What counts as zero: next to underflow numbers have no digits left.

    In half precision, where that is much, the last digit of a subnormal number has to do.
    """
    finfo = torch.finfo(dtype)
    return 64 * finfo.tiny * (finfo.eps if finfo.bits == 16 else 1)


def proven(
    value: Tensor, allowed: Tensor, upstreams: Mapping[str, Tensor], dtype: torch.dtype
) -> Tensor:
    """Where a gradient of zeros would be wrong, or anything but zero.

    Where an upstream is zero, so are gradients, whatever the function.
    """
    dense = all(bool(upstream.all()) for upstream in upstreams.values())
    exact = (value == 0) & (allowed <= 2 * underflow(dtype)) & dense
    return value.isfinite() & ((value.abs() > allowed) | exact)


def _jumps(value: Tensor, other: Tensor) -> Tensor:
    """Where the gradient of inputs next to these is quite another number."""
    scale = torch.maximum(value.abs(), other.abs())
    # What cancels to nearly nothing is another nearly nothing next to it.
    nothing = 2.0**-32 * value.abs().nan_to_num(0, 0, 0).amax() if value.numel() else 0
    apart = (other - value).abs()
    return (apart > JUMP * scale) & (apart > nothing) & other.isfinite()


def _shared(at: Tensor, least: Tensor, most: Tensor) -> tuple[Tensor, Tensor]:
    """For each entry the least and the most of all entries where the input is the same number."""
    numbers, group = torch.unique(at, return_inverse=True)
    group = group.flatten()
    bounds = []
    for bound, reduce in ((least, "amin"), (most, "amax")):
        of_group = torch.zeros(len(numbers), dtype=bound.dtype, device=bound.device)
        of_group = of_group.scatter_reduce(0, group, bound.flatten(), reduce, include_self=False)
        bounds.append(of_group[group].reshape(at.shape))
    return bounds[0], bounds[1]


def _noise(x: Tensor, salt: int) -> Tensor:
    """Noise in [-1, 1) that depends on the number alone, so that equal numbers stay equal."""
    # Multiplicative hashing (Knuth): of the bits that the product overflows into, the upper ones.
    bits = (x.double() + 0.0).view(torch.int64)  # + 0.0, which has both signs of zero the same
    bits = bits ^ _ODD  # zero, whose bits no product changes, has noise like any other number
    bits = (bits ^ (bits >> 29)) * (_ODD * (2 * salt + 1) % 2**63)
    bits = (bits ^ (bits >> 32)) * _ODD
    return (bits >> 11).double() * 2.0**-52


_ODD = 0x1E3779B97F4A7C15


def _rounded(x: Tensor, salt: int, size: float) -> Tensor:
    if x.numel() > CACHED:  # piece by piece, each of which stays in cache through all the steps
        pieces = x.flatten().chunk(-(-x.numel() // CACHED))
        return torch.cat([_rounded(piece, salt, size) for piece in pieces]).view(x.shape)
    return (x * (1 + size * _noise(x, salt))).to(x.dtype)


def _moved(x: Tensor, salt: int, size: float, apart: int | None) -> Tensor:
    """``x`` a little further on, also where it is zero; equal numbers together, or ``apart``."""
    noise = _noise(x, salt)
    if apart is not None:
        place = torch.arange(x.numel(), dtype=torch.float64, device=x.device).reshape(x.shape)
        noise = _noise(place + 0.5, salt + 1000 * apart)
    scale = torch.where(x == 0, 1.0, x.abs())
    return torch.where(x.isfinite(), x + size * scale * noise, x).to(x.dtype)


_ROUNDING = frozenset(
    """add sub rsub mul div reciprocal exp exp2 expm1 log log1p log2 sqrt rsqrt pow tanh sigmoid erf
    erfc sin cos sum mean var std var_mean mm bmm addmm baddbmm addcmul dot mv prod cumsum
    _softmax _log_softmax logsumexp convolution
    linalg_vector_norm index_add scatter_add index_put embedding_dense_backward""".split()  # noqa: SIM905  # reads better
)
"""Operations that pick nothing, so that what they give need not be looked for in what they got."""

_SUMMING = frozenset({"sum", "mean", "mm", "bmm", "mv", "dot"})
"""Operations whose rounding counts by the size of their terms."""

_FUSED = frozenset(
    {"gelu", "silu", "mish", "softplus", "elu", "log_sigmoid_forward", "logit", "hardswish"}
    | {"native_layer_norm", "native_batch_norm", "native_group_norm"}
)
"""Forward operations whose steps round, beside all the backward ones."""

_PICKING = frozenset(
    """neg abs clone where gather index index_select embedding amax amin max min maximum
    minimum sort topk cat stack relu clamp clamp_min masked_fill zeros_like ones_like full_like
    new_zeros new_ones new_full zeros ones full scalar_tensor expand copy flip roll sign
    threshold_backward sgn slice_backward select_backward
    value_selecting_reduction_backward""".split()  # noqa: SIM905  # as above
)
"""Operations that only pick or place numbers, and round nothing."""


def _absolute(x: Tensor) -> Tensor:
    return x.abs() if x.is_floating_point() else x


class _Rounding(DispatchMode):  # type: ignore[no-untyped-call]  # torch's is untyped
    """Disturb the result of every operation that rounds, forward and backward.

    ``size``: the relative disturbance that stands for the eps ``finest``; what is computed in a
    coarser precision is disturbed by as much more, up to ``most``. ``vanished``: whether that made
    no difference in some precision.
    """

    def __init__(self, salt: int, size: float, finest: float, most: float) -> None:
        super().__init__()
        self.salt = salt
        self.size = size
        self.finest = finest
        self.most = most
        self.vanished = False

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        operation = func.overloadpacket.__name__
        if operation in _PICKING or aliases(func):
            return func(*args, **kwargs)
        fused = operation.endswith(("_backward", "_backward_data")) or operation in _FUSED
        steps = decomposition(func) if fused else None
        if steps is not None:
            with self:  # each step rounds
                result = steps(*args, **kwargs)
            if result is not NotImplemented:
                return result
        result = func(*args, **kwargs)
        self.salt += 1

        def disturb(out: Tensor) -> Tensor:
            strided = out.layout == torch.strided
            if not strided or not out.is_floating_point() or is_zero_tensor(out):
                return out
            if operation not in _ROUNDING and ((out == 0) | (out == 1)).all():  # a mask
                return out
            eps = torch.finfo(out.dtype).eps
            size = self.size * max(1.0, eps / self.finest)
            self.vanished |= size < 4 * eps
            if operation == "_to_copy" and out.dtype == torch.float64:
                return out
            rounded = _rounded(out, self.salt, min(size, self.most))
            if operation in _SUMMING:  # each term rounds, however small the sum
                terms = func(*mapped(_absolute, args), **mapped(_absolute, kwargs))
                rest = terms - out.abs()
                rounded = rounded + min(size, self.most) * rest * _noise(out, self.salt + 1)
            # Of disturbed inputs exactly 1 comes only where a limit is reached, without rounding.
            rounded = torch.where(out.abs() == 1, out, rounded)
            if operation in _ROUNDING or out.numel() > SEARCHED:
                return rounded
            given = [v for value in (*args, *kwargs.values()) for v in parts(value)]
            given = [v for v in given if isinstance(v, Tensor)]
            known = [v for v in given if v.dtype == out.dtype and v.numel() <= SEARCHED]
            known = [v for v in known if v.layout == torch.strided]
            if not known:
                return rounded
            # What is one of the numbers given was picked, not rounded.
            numbers = torch.cat([v.abs().flatten() for v in known])
            return torch.where(torch.isin(out.abs(), numbers), out, rounded)

        return mapped(disturb, result)
