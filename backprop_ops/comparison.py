"""The lecture's ``cmp``: a gradient written by hand against autograd's."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from backprop_ops.mistakes import dense, likely_mistake
from backprop_ops.styled import WRONG, Line, Styled


class ShownOnce(Styled):
    """A notebook shows a cell's last value, but not what has just been printed."""

    printed_in: int | None

    def _ipython_display_(self) -> None:
        if self.printed_in is None or self.printed_in != running_cell():
            shown = {"text/plain": str(self), "text/html": self._repr_html_()}
            sys.modules["IPython"].display.display(shown, raw=True)


@dataclass(frozen=True)
class Comparison(ShownOnce):
    """How a gradient compares with the expected one; true if it is approximately equal.

    ``exact``: equal in every entry. ``approximate``: as torch.allclose at its defaults.
    ``maxdiff``: the largest absolute difference, nan where the shapes differ.
    ``reason``: why gradients of another shape, dtype or device are neither, else empty.
    ``mistake``: the key of the likely mistake, or None, and ``explanation`` a sentence on it.
    """

    name: str
    exact: bool
    approximate: bool
    maxdiff: float
    reason: str = ""
    mistake: str | None = None
    explanation: str = ""
    printed_in: int | None = field(default=None, compare=False, repr=False)
    """The notebook cell in which `cmp` printed it."""

    @classmethod
    def of(cls, name: str, grad: Tensor, expected: Tensor) -> Comparison:
        grad, expected = dense(grad), dense(expected)
        reason = "; ".join(
            f"{what} {of_grad}, expected {of_expected}"
            for what, of_grad, of_expected in (
                ("shape", tuple(grad.shape), tuple(expected.shape)),
                ("dtype", grad.dtype, expected.dtype),
                ("device", grad.device, expected.device),
            )
            if of_grad != of_expected
        )
        if grad.shape != expected.shape:
            return cls(name, False, False, float("nan"), reason)
        common = torch.promote_types(grad.dtype, expected.dtype)
        grad, expected = grad.to(expected.device, common), expected.to(common)
        # Equal infinities differ by nothing; a nan differs from everything.
        difference = (grad - expected).abs().masked_fill(grad == expected, 0)
        maxdiff = difference.max().item() if difference.numel() else 0.0
        if reason:
            return cls(name, False, False, maxdiff, reason)
        return cls(name, torch.equal(grad, expected), torch.allclose(grad, expected), maxdiff)

    def __bool__(self) -> bool:
        return self.approximate

    def lines(self) -> Iterator[Line]:
        line = (
            f"{self.name:15s} | exact: {self.exact!s:5s} | "
            f"approximate: {self.approximate!s:5s} | maxdiff: {self.maxdiff}"
        )
        mistake = f"{self.mistake}: {self.explanation}" if self.mistake else ""
        yield "" if self else WRONG, " | ".join(filter(None, (line, mistake, self.reason)))

    def as_dict(self) -> dict[str, Any]:
        """In values that JSON has; a maxdiff that is not finite is None."""
        return {
            "name": self.name,
            "exact": self.exact,
            "approximate": self.approximate,
            "maxdiff": self.maxdiff if math.isfinite(self.maxdiff) else None,
            "reason": self.reason,
        }


def compare(name: str, grad: Tensor, tensor: Tensor) -> Comparison:
    """Compare ``grad``, derived by hand, with ``tensor.grad``, which autograd left there.

    The likely mistake is named where one explains every entry of a wrong ``grad``.

    Raises TypeError where one of the two is no Tensor, ValueError where ``tensor`` has no
    ``.grad``.
    """
    for argument, value in (("grad", grad), ("tensor", tensor)):
        if not isinstance(value, Tensor):
            raise TypeError(f"{name}: {argument} must be a Tensor, got {type(value).__name__}")
    # Asking a tensor for a gradient that autograd does not retain would warn.
    expected = tensor.grad if tensor.is_leaf or tensor.retains_grad else None
    if expected is None:
        raise ValueError(
            f"{name}: tensor has no .grad to compare with; call .backward() first, and "
            f".retain_grad() on an intermediate before that"
        )
    comparison = Comparison.of(name, grad, expected)
    if comparison:
        return comparison
    mistake, explanation = likely_mistake(grad, expected)
    return replace(comparison, mistake=mistake, explanation=explanation)


def cmp(name: str, grad: Tensor, tensor: Tensor) -> Comparison:
    """Compare ``grad`` with ``tensor.grad`` as `compare` does, and print the lecture's line."""
    comparison = compare(name, grad, tensor)
    print(comparison)
    return replace(comparison, printed_in=running_cell())


def running_cell() -> int | None:
    """The number of the running cell in a notebook, None elsewhere."""
    ipython = sys.modules.get("IPython")
    shell = ipython and ipython.get_ipython()
    return shell.execution_count if shell else None
