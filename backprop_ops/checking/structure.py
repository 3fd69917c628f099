"""What the whole sample shows that chance would not: its users send nothing else.

A structure is kept near the sample by drawing another member of it, a rotation for a rotation.
Constant tensors and the identity are initialisations, and show none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from backprop_ops.leaves import Arguments, replaced, tensors

LEAST_DECIDED = 7  # 1 in 7! sorts them, or permutes them, by chance
CLOSE = 1e-4  # of 1, to which rows sum and unit vectors are normalised in float32
TRIES = 8  # draws, of which one has all of a tensor's structures


Tangent = Callable[[Tensor], Tensor]
"""An orthogonal projection."""


class Structure(NamedTuple):
    """``name``: what a tensor with it is, ``drawn``: another member, None where none has the shape.

    ``lost``: the end of a sentence on a tensor without it. ``decided``: how many numbers
    chance has to order or round. ``tangent``: projects a step to one that keeps it, where that is
    linear.
    """

    name: str
    holds: Callable[[Tensor], bool]
    drawn: Callable[[Tensor, torch.Generator], Tensor | None]
    lost: str = "is not {}, which your sample is"
    decided: Callable[[Tensor], int] | None = None
    tangent: Tangent | None = None

    def by_chance(self, x: Tensor) -> bool:
        return self.decided is not None and self.decided(x) < LEAST_DECIDED


@dataclass(frozen=True)
class Structures:
    """The structures of a sample's tensors, by name, and the indices that undo each other."""

    of: Mapping[str, tuple[Structure, ...]] = field(default_factory=dict)
    inverses: tuple[tuple[str, str], ...] = ()

    @classmethod
    def shown_by(cls, arguments: Arguments) -> Structures:
        given = tensors(arguments)
        shown = {name: _shown_by(x) for name, x in given.items()}
        indices = [name for name in given if PERMUTATION in shown[name]]
        inverses = tuple(
            (one, other)
            for i, one in enumerate(indices)
            for other in indices[i + 1 :]
            if _undo(given[one], given[other])
        )
        return cls({name: some for name, some in shown.items() if some}, inverses)

    def kept(
        self, arguments: Arguments, names: Iterable[str], generator: torch.Generator
    ) -> Arguments | None:
        """The arguments with other members in place of those that lack a structure, if there are.

        ``names``: the tensors that are to be looked at.
        """
        given = tensors(arguments)
        changed: dict[str, Tensor] = {}
        for name in names:
            structures = self.of.get(name, ())
            if all(structure.holds(given[name]) for structure in structures):
                continue
            member = _member(structures, given[name], generator)
            if member is None:
                return None
            changed[name] = member
        for one, other in self.inverses:
            if one in names or other in names:
                first = changed.get(one, given[one])
                if not _is_permutation(first):
                    return None
                changed[other] = first.argsort().to(first.dtype)
        return replaced(arguments, changed)

    def tangents(self, arguments: Arguments) -> dict[str, Tangent]:
        """The steps that keep a linear structure, by the tensors that have it here."""
        given = tensors(arguments)
        return {
            name: structure.tangent
            for name, structures in self.of.items()
            for structure in structures
            if structure.tangent and name in given and structure.holds(given[name])
        }

    def left(self, arguments: Arguments) -> tuple[str, ...]:
        """What these arguments are not: ``a is not symmetric, which your sample is``."""
        given = tensors(arguments)
        lost = [
            f"{name} {broken[-1].lost.format(broken[-1].name)}"
            for name, structures in self.of.items()
            if name in given and (broken := [s for s in structures if not s.holds(given[name])])
        ]
        lost += [
            f"{one} and {other} do not undo each other, as those of your sample do"
            for one, other in self.inverses
            if one in given and other in given and not _undo(given[one], given[other])
        ]
        return tuple(lost)


def _shown_by(x: Tensor) -> tuple[Structure, ...]:
    """A sign is what is left where there is no other: a member of those has it, or need not."""
    if not x.numel() or not _is_initialisation(x):
        shown = tuple(s for s in STRUCTURES if s.holds(x) and not s.by_chance(x))
        return shown or tuple(s for s in SIGNS if x.numel() and s.holds(x))
    return tuple(s for s in SIGNS if x.numel() == 1 and x.any() and s.holds(x))


def _member(
    structures: tuple[Structure, ...], like: Tensor, generator: torch.Generator
) -> Tensor | None:
    """A tensor of the same shape with all the structures: drawn by one, accepted by the others."""
    for structure in reversed(structures):
        for _ in range(TRIES):
            member = structure.drawn(like, generator)
            if member is None:
                break
            if all(other.holds(member) for other in structures):
                return member
    return None


def alike(x: Tensor, generator: torch.Generator, by: float = 1.0) -> Tensor:
    """Other numbers of the same signs and scale, with the ties, zeros and infinities of ``x``.

    The ties of a constant tensor are those of an initialisation, and go.
    """
    flat = x.detach().flatten().double()
    numbers, places = torch.unique(flat, return_inverse=True)
    if len(numbers) == 1:
        numbers, places = flat, torch.arange(len(flat), device=x.device)
    ordinary = numbers.isfinite() & (numbers != 0)
    if not ordinary.any():
        return x.detach().clone()
    scale = numbers[ordinary].square().mean().sqrt()
    sizes = scale * by * 2 ** (torch.rand(len(numbers), generator=generator) * 2 - 1).to(flat)
    signs = (torch.randint(0, 2, (len(numbers),), generator=generator) * 2.0 - 1).to(flat)
    one_sign = bool((numbers >= 0).all()) or bool((numbers <= 0).all())
    drawn = sizes * (numbers.sign() if one_sign else signs)
    return torch.where(ordinary, drawn, numbers)[places].reshape(x.shape).to(x.dtype)


def _square(x: Tensor) -> bool:
    return x.is_floating_point() and x.dim() >= 2 and x.shape[-1] == x.shape[-2] > 1


def _is_initialisation(x: Tensor) -> bool:
    """Whether all elements are one number, or the tensor is a multiple of the identity."""
    if bool((x == x.flatten()[0]).all()):
        return True
    diagonal = _square(x) and torch.equal(x, torch.diag_embed(x.diagonal(dim1=-2, dim2=-1)))
    return diagonal and len(torch.unique(x.diagonal(dim1=-2, dim2=-1))) == 1


def _of_values(test: Callable[[Tensor], bool]) -> Callable[[Tensor], bool]:
    """The test, of floating tensors."""

    def holds(x: Tensor) -> bool:
        return x.is_floating_point() and bool(x.isfinite().all()) and test(x.double())

    return holds


def _of_matrices(test: Callable[[Tensor], bool]) -> Callable[[Tensor], bool]:
    return _of_values(lambda x: _square(x) and test(x))


def _near(x: Tensor, y: Tensor | float) -> bool:
    target = torch.as_tensor(y, dtype=x.dtype, device=x.device).expand(x.shape)
    scale = max(1.0, float(target.abs().amax())) if x.numel() else 1.0
    return bool(((x - target).abs() <= CLOSE * scale).all())


def _is_symmetric(x: Tensor) -> bool:
    return bool(((x - x.mT).abs() <= 1e-6 * x.abs().amax()).all())


def _is_positive_definite(x: Tensor) -> bool:
    return _is_symmetric(x) and not bool(torch.linalg.cholesky_ex(x).info.any())


def _is_orthogonal(x: Tensor) -> bool:
    return _near(x.mT @ x, torch.eye(x.shape[-1], dtype=x.dtype, device=x.device))


def _drawn_positive_definite(x: Tensor, generator: torch.Generator) -> Tensor | None:
    if not _square(x):
        return None
    n = x.shape[-1]
    factor = torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x.device)
    member = factor @ factor.mT / n + 0.5 * torch.eye(n, dtype=torch.float64, device=x.device)
    return (member * _scale(x)).to(x.dtype)


def _drawn_orthogonal(x: Tensor, generator: torch.Generator) -> Tensor | None:
    if not _square(x):
        return None
    q: Tensor = torch.linalg.qr(torch.randn(x.shape, generator=generator, dtype=torch.float64)).Q
    reflected = torch.linalg.det(q) < 0  # the members that a rotation is alike
    q[..., 0] = torch.where(reflected[..., None], -q[..., 0], q[..., 0])
    return q.to(x.device, x.dtype)


def _made(make: Callable[[Tensor], Tensor], x: Tensor, generator: torch.Generator) -> Tensor | None:
    """What ``make`` does to other numbers like those of ``x``."""
    made: Tensor = make(alike(x, generator).double()).to(x.dtype)
    return made


def _drawn_square(make: Callable[[Tensor], Tensor]) -> Callable[..., Tensor | None]:
    def drawn(x: Tensor, generator: torch.Generator) -> Tensor | None:
        return _made(make, x, generator) if _square(x) else None

    return drawn


def _scale(x: Tensor) -> float:
    return float(x.double().square().mean().sqrt()) or 1.0


def _rows(d: int, test: Callable[[Tensor], bool]) -> Callable[[Tensor], bool]:
    """A test of all the vectors along the last dimension, or the one before."""
    return _of_values(lambda x: x.dim() >= -d and x.shape[d] > 1 and test(x.movedim(d, -1)))


def _sum_to_one(x: Tensor) -> bool:
    return bool((x >= 0).all()) and _near(x.sum(-1), 1.0)


def _are_unit(x: Tensor) -> bool:
    return _near(x.norm(dim=-1), 1.0)


def _are_one_hot(x: Tensor) -> bool:
    return bool(((x == 0) | (x == 1)).all()) and bool((x.sum(-1) == 1).all())


def _drawn_one_hot(d: int, x: Tensor, generator: torch.Generator) -> Tensor | None:
    rows = x.movedim(d, -1)
    at = torch.randint(0, rows.shape[-1], (*rows.shape[:-1], 1), generator=generator)
    hot = torch.zeros_like(rows).scatter(-1, at.to(x.device), 1)
    return hot.movedim(-1, d).contiguous()


def _is_whole(x: Tensor) -> bool:
    return bool((x == x.round()).all())


def _drawn_whole(x: Tensor, generator: torch.Generator) -> Tensor:
    low, high = int(x.amin()), int(x.amax())
    return torch.randint(low, high + 1, x.shape, generator=generator).to(x.device, x.dtype)


def _is_sorted(x: Tensor) -> bool:
    return x.dim() > 0 and x.shape[-1] > 1 and bool((x.diff(dim=-1) >= 0).all())


def _index_sorted(x: Tensor) -> bool:
    return _is_index(x) and _is_sorted(x)


def _is_index(x: Tensor) -> bool:
    whole = not x.is_floating_point() and not x.is_complex() and x.dtype != torch.bool
    return whole and x.dim() > 0


def _is_permutation(x: Tensor) -> bool:
    if not _is_index(x) or x.dim() != 1:
        return False
    return torch.equal(x.sort().values, torch.arange(len(x), device=x.device, dtype=x.dtype))


def _undo(one: Tensor, other: Tensor) -> bool:
    return (
        one.shape == other.shape
        and _is_permutation(other)
        and torch.equal(
            one[other.long()], torch.arange(len(one), device=one.device, dtype=one.dtype)
        )
    )


def _drawn_permutation(x: Tensor, generator: torch.Generator) -> Tensor | None:
    if x.dim() != 1:
        return None
    return torch.randperm(len(x), generator=generator).to(x.device, x.dtype)


def _drawn_sorted_index(x: Tensor, generator: torch.Generator) -> Tensor | None:
    """Sorted numbers between the same first and last, as offsets are."""
    low, high = int(x.amin()), int(x.amax())
    numbers = torch.randint(low, high + 1, x.shape, generator=generator).sort(-1).values
    numbers[..., 0], numbers[..., -1] = low, high
    return numbers.to(x.device, x.dtype)


def _normalised(x: Tensor, d: int) -> Tensor:
    length: Tensor = x.norm(dim=d, keepdim=True)
    return x / length


def _divided(x: Tensor, d: int) -> Tensor:
    x = x.abs()
    return x / x.sum(d, keepdim=True)


def _vectors(d: int) -> Iterable[Structure]:
    where = "rows" if d == -1 else "columns"
    yield Structure(
        f"made of {where} that sum to one",
        _rows(d, _sum_to_one),
        partial(_made, partial(_divided, d=d)),
    )
    yield Structure(
        f"made of unit {where}", _rows(d, _are_unit), partial(_made, partial(_normalised, d=d))
    )
    yield Structure(f"made of one-hot {where}", _rows(d, _are_one_hot), partial(_drawn_one_hot, d))


def _of_sign(sign: int) -> Callable[[Tensor], bool]:
    def holds(x: Tensor) -> bool:
        return x.is_floating_point() and bool((x * sign >= 0).all())

    return holds


def _signed(sign: int) -> Callable[[Tensor, torch.Generator], Tensor | None]:
    return lambda x, generator: sign * alike(x, generator).abs()


def _last_dimension(x: Tensor) -> int:
    return x.shape[-1]


def _mirrored(x: Tensor) -> Tensor:
    return (x + x.mT) / 2


def _diagonal(x: Tensor) -> Tensor:
    return torch.diag_embed(x.diagonal(dim1=-2, dim2=-1))


PERMUTATION = Structure("a permutation", _is_permutation, _drawn_permutation, decided=Tensor.numel)
STRUCTURES = (
    *_vectors(-2),
    *_vectors(-1),
    Structure("orthogonal", _of_matrices(_is_orthogonal), _drawn_orthogonal),
    Structure("positive-definite", _of_matrices(_is_positive_definite), _drawn_positive_definite),
    Structure(
        "symmetric",
        _of_matrices(_is_symmetric),
        _drawn_square(lambda x: _mirrored(x) * math.sqrt(2)),
        tangent=_mirrored,
    ),
    Structure(
        "lower triangular",
        _of_matrices(lambda x: torch.equal(x, x.tril())),
        _drawn_square(Tensor.tril),
        tangent=Tensor.tril,
    ),
    Structure(
        "upper triangular",
        _of_matrices(lambda x: torch.equal(x, x.triu())),
        _drawn_square(Tensor.triu),
        tangent=Tensor.triu,
    ),
    Structure(
        "diagonal",
        _of_matrices(lambda x: torch.equal(x, _diagonal(x))),
        _drawn_square(lambda x: _diagonal(x + (x == 0))),
        tangent=_diagonal,
    ),
    PERMUTATION,
    Structure("sorted", _index_sorted, _drawn_sorted_index, decided=_last_dimension),
    Structure(
        "sorted",
        _of_values(_is_sorted),
        partial(_made, lambda x: x.sort(-1).values),
        decided=_last_dimension,
    ),
    Structure("made of whole numbers", _of_values(_is_whole), _drawn_whole, decided=Tensor.numel),
)
"""The last that is lost names the loss: a matrix is not symmetric, rather than not definite."""

SIGN = "has {} numbers, which your sample has not"
SIGNS = (
    Structure("nowhere negative", _of_sign(1), _signed(1), SIGN.format("negative")),
    Structure("nowhere positive", _of_sign(-1), _signed(-1), SIGN.format("positive")),
)
