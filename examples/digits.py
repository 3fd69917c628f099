"""A classifier of handwritten digits, trained with torch's own functions and with verified pairs.

    python digits.py

Normalization and loss are torch's in the first run, and `backprop_ops.autograd`'s in the second.
Both start from the same weights and see the same batches, so the two curves agree.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812  # torch's own name for it
from sklearn.datasets import load_digits  # type: ignore[import-untyped]  # it has no types
from torch import Tensor

from backprop_ops import autograd

STEPS, BATCH, HIDDEN = 300, 64, 100

Normalize = Callable[[Tensor, Tensor, Tensor], Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]


def torchs_batchnorm(x: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
    return F.batch_norm(x, None, None, gain, bias, training=True)


def our_batchnorm(x: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
    return autograd.batchnorm(x, gain, bias, correction=0).out  # torch divides by n


def our_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    return autograd.cross_entropy(logits, target).out


def train(normalize: Normalize, loss_of: Loss, x: Tensor, y: Tensor) -> tuple[list[float], float]:
    """The loss of each step, and the share of digits that are recognized in the last quarter."""
    generator = torch.Generator().manual_seed(0)
    w1 = torch.randn(64, HIDDEN, generator=generator) * 0.2
    w2 = torch.randn(HIDDEN, 10, generator=generator) * 0.1
    parameters = [w1, torch.ones(HIDDEN), torch.zeros(HIDDEN), w2, torch.zeros(10)]
    for parameter in parameters:
        parameter.requires_grad_()

    def logits_of(x: Tensor) -> Tensor:
        w1, gain, bias, w2, b2 = parameters
        return normalize(x @ w1, gain, bias).relu() @ w2 + b2

    optimizer = torch.optim.Adam(parameters, lr=0.01)
    seen = len(x) * 3 // 4
    losses = []
    for _ in range(STEPS):
        batch = torch.randint(seen, (BATCH,), generator=generator)
        loss = loss_of(logits_of(x[batch]), y[batch])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch's is untyped
        optimizer.step()
        losses.append(loss.item())
    with torch.no_grad():
        right = logits_of(x[seen:]).argmax(1) == y[seen:]
    return losses, right.float().mean().item()


def main() -> None:
    pixels, digits = load_digits(return_X_y=True)
    x, y = torch.tensor(pixels, dtype=torch.float32) / 16, torch.tensor(digits)
    theirs, accuracy = train(torchs_batchnorm, F.cross_entropy, x, y)
    ours, our_accuracy = train(our_batchnorm, our_cross_entropy, x, y)
    print("  step   torch    pairs")
    for step in range(0, STEPS, 50):
        print(f"{step:6}  {theirs[step]:.4f}   {ours[step]:.4f}")
    apart = max(abs(a - b) for a, b in zip(theirs, ours, strict=True))
    print(f"furthest apart: {apart:.1e}")
    print(f"accuracy: {accuracy:.3f} with torch's, {our_accuracy:.3f} with the pairs")


if __name__ == "__main__":
    main()
