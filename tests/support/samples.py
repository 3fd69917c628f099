"""How the tests of the pairs describe their samples: by shapes in letters, and drawn from there.

``Sample(real("n c"), real("c"))`` is a call with a matrix and a row of as many columns. Each letter
stands for a size; one fixed size is tried, and Hypothesis draws others. ``real("*")`` has any shape
that broadcasts with the other operands'.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

SIZES = {"n": 5, "c": 3, "d": 4, "t": 2, "v": 7}  # unequal, so that nothing transposed fits
LAYOUTS = ("contiguous", "transposed", "strided")
VALUES = ("normal", "integers", "wide")


@dataclass(frozen=True)
class Values:
    """A tensor to draw: its shape in letters, and what values it may have."""

    shape: str
    domain: str = "real"  # real, positive, nonzero, or the letter that an index stays below

    def draw(self, shape: tuple[int, ...], sizes: Mapping[str, int], draw: Drawing) -> Tensor:
        if self.domain in sizes:
            return torch.randint(sizes[self.domain], shape, generator=draw.generator)
        values = torch.randn(shape, generator=draw.generator, dtype=torch.float64)
        if draw.values == "integers":
            values = values.mul(2).round()
        elif draw.values == "wide":
            values = values * 8
        if self.domain == "positive":
            values = values.abs() + 0.25
        elif self.domain == "nonzero":
            values = values + torch.where(values < 0, -0.25, 0.25)
        return values.to(draw.dtype)


def real(shape: str) -> Values:
    return Values(shape)


def positive(shape: str) -> Values:
    return Values(shape, "positive")


def nonzero(shape: str) -> Values:
    return Values(shape, "nonzero")


def index(shape: str, below: str) -> Values:
    return Values(shape, below)


@dataclass
class Drawing:
    """How a sample is drawn: the same numbers, in one of several layouts and precisions."""

    dtype: torch.dtype = torch.float64
    layout: str = "contiguous"
    values: str = "normal"
    seed: int = 0
    sizes: Mapping[str, int] = field(default_factory=lambda: SIZES)
    shapes: tuple[tuple[int, ...], ...] = ((5, 3), (5, 3))  # of the operands given as "*"
    device: str = "cpu"

    def __post_init__(self) -> None:
        self.generator = torch.Generator().manual_seed(self.seed)

    def call(self, sample: Sample) -> tuple[tuple[Any, ...], dict[str, Any]]:
        self.generator.manual_seed(self.seed)
        shapes = iter(self.shapes)

        def value(given: Any) -> Any:
            if not isinstance(given, Values):
                return given
            shape = next(shapes) if given.shape == "*" else self._shape(given.shape)
            return self.lay_out(given.draw(shape, self.sizes, self).to(self.device))

        args = tuple(value(given) for given in sample.args)
        return args, {name: value(given) for name, given in sample.options.items()}

    def lay_out(self, tensor: Tensor) -> Tensor:
        if self.layout == "transposed" and tensor.dim() > 1:
            return tensor.transpose(0, -1).contiguous().transpose(0, -1)
        if self.layout == "strided" and tensor.dim() > 0:
            wider = tensor.new_zeros((*tensor.shape[:-1], 2 * tensor.shape[-1] + 1))
            wider[..., 1::2] = tensor
            return wider[..., 1::2]
        return tensor

    def _shape(self, letters: str) -> tuple[int, ...]:
        return tuple(int(size) if size.isdigit() else self.sizes[size] for size in letters.split())


@dataclass(frozen=True)
class Sample:
    args: tuple[Any, ...]
    options: dict[str, Any]
    least: dict[str, int]  # the smallest size that a letter may have


def sample(*args: Any, least: dict[str, int] | None = None, **options: Any) -> Sample:
    return Sample(args, options, least or {})


@dataclass(frozen=True)
class Bad:
    """A call that is refused: the error, what its message says, and the arguments."""

    error: type[Exception]
    message: str
    args: tuple[Any, ...]
    options: dict[str, Any]


def bad(error: type[Exception], message: str, *args: Any, **options: Any) -> Bad:
    return Bad(error, message, args, options)


@st.composite
def drawings(draw: st.DrawFn, of: Sample, dtypes: tuple[torch.dtype, ...]) -> Drawing:
    sizes = {letter: draw(st.integers(of.least.get(letter, 1), 6), letter) for letter in SIZES}
    full = draw(st.lists(st.integers(0, 4), max_size=3), "broadcast shape")
    shapes = []
    for _ in range(2):
        stretched = draw(st.lists(st.booleans(), min_size=len(full), max_size=len(full)))
        shape = [1 if one else size for one, size in zip(stretched, full, strict=True)]
        shapes.append(tuple(shape[draw(st.integers(0, len(full))) :]))
    return Drawing(
        draw(st.sampled_from(dtypes)),
        draw(st.sampled_from(LAYOUTS)),
        draw(st.sampled_from(VALUES)),
        draw(st.integers(0, 2**32)),
        sizes,
        tuple(shapes),
    )
