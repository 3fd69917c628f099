"""The mistakes that show in two tensors alone: a wrong gradient and the right one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from backprop_ops.broadcasting import sum_to

Likely = tuple[str, str]
"""The key of a mistake and a sentence about it."""


def likely_mistake(grad: Tensor, expected: Tensor) -> Likely | tuple[None, str]:
    """The known mistake that explains every entry of a wrong gradient; (None, "") where none does.

    ``grad`` may have any shape and dtype; ``expected`` is the right gradient.
    """
    if grad.is_complex() or expected.is_complex():
        return None, ""
    return next(_mistakes(_wide(grad), _wide(expected)), (None, ""))


def ratio_of(grad: Tensor, expected: Tensor) -> float | None:
    """The number by which ``expected`` is multiplied in every entry; None where there is none.

    Two entries at least have to be other than zero, since one entry is a multiple of any other.
    """
    grad, expected = _wide(grad), _wide(expected)
    if grad.shape != expected.shape or expected.count_nonzero() < 2:
        return None
    at = expected.abs().argmax()
    ratio = (grad.flatten()[at] / expected.flatten()[at]).item()
    return ratio if ratio and math.isfinite(ratio) and _close(grad, ratio * expected) else None


def _mistakes(grad: Tensor, expected: Tensor) -> Iterator[Likely]:
    if grad.shape != expected.shape:
        yield from _of_the_shape(grad, expected)
    elif expected.any() and not grad.any():
        yield "zero-gradient", "zero everywhere"
    elif _close(grad, expected):
        return
    elif _close(-grad, expected):
        yield "sign", "minus the right one"
    else:
        yield from _factor(grad, expected)
    yield from _transposed(grad, expected)


def _of_the_shape(grad: Tensor, expected: Tensor) -> Iterator[Likely]:
    if grad.numel() == expected.numel() and _close(grad.reshape(expected.shape), expected):
        yield "shape", "right if reshaped"
    try:
        total = sum_to(grad, expected.shape)
    except ValueError:  # no broadcast
        return
    added = grad.dim() - expected.dim()
    dims = [d for d, n in enumerate(grad.shape) if d < added or n != expected.shape[d - added]]
    over = f"dimension {dims[0]}" if len(dims) == 1 else f"dimensions {tuple(dims)}"
    if _close(total, expected):
        yield "missing-reduction", f"right if summed over {over}"
    if _close(total * expected.numel() / grad.numel(), expected):
        yield "missing-reduction", f"right if averaged over {over}"


def _factor(grad: Tensor, expected: Tensor) -> Iterator[Likely]:
    ratio = ratio_of(grad, expected)
    if ratio is None:
        return
    sizes = {n: f"the size of dimension {d}" for d, n in reversed([*enumerate(grad.shape)])}
    for n, what in {grad.numel(): "the number of entries", **sizes}.items():
        if n < 3:  # a 2 has many reasons
            continue
        if math.isclose(ratio, n, rel_tol=1e-5):
            yield "factor", f"{n} × the right one, and {n} is {what}: a mean's 1/n is missing"
        if math.isclose(ratio * n, 1, rel_tol=1e-5):
            yield "factor", f"1/{n} of the right one, and {n} is {what}: a 1/n is too much"
        for bessel, name in ((n / (n - 1), f"{n}/{n - 1}"), ((n - 1) / n, f"{n - 1}/{n}")):
            if math.isclose(ratio, bessel, rel_tol=1e-5):
                yield (
                    "bessel",
                    f"{name} of the right one, and {n} is {what}: n and n - 1 are exchanged",
                )
    yield "factor", f"{ratio:.6g} × the right one"


def _transposed(grad: Tensor, expected: Tensor) -> Iterator[Likely]:
    for i, j in itertools.combinations(range(grad.dim()), 2):
        if _close(grad.transpose(i, j), expected):
            yield "transposed", f"right if dimensions {i} and {j} are exchanged"


def dense(grad: Tensor) -> Tensor:
    """A gradient without its graph; an embedding may leave a sparse one."""
    grad = grad.detach()
    return grad.to_dense() if grad.is_sparse else grad


def _wide(x: Tensor) -> Tensor:
    return dense(x).cpu().double()


def _close(grad: Tensor, expected: Tensor) -> bool:
    """Whether two gradients are equal but for the rounding of float32."""
    if grad.shape != expected.shape or not expected.numel():
        return False
    largest = expected.abs().amax().item()
    # Where terms cancel, an entry is rounded as the largest is.
    return math.isfinite(largest) and torch.allclose(grad, expected, rtol=1e-5, atol=1e-6 * largest)
