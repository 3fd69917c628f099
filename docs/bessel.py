"""The plot of docs/bessel.md: both estimates of a variance, by the size of the batch.

python -m docs.bessel
"""

from __future__ import annotations

from pathlib import Path

import torch
from matplotlib.figure import Figure

SIZES = (2, 3, 4, 6, 8, 12, 16, 24, 32, 64)
DRAWS = 100_000  # batches of each size
FILE = Path(__file__).parent / "images" / "bessel.png"


def estimates(n: int, generator: torch.Generator) -> tuple[float, float]:
    """The means over many batches, of true variance 1: divided by n, and by n - 1."""
    x = torch.randn(DRAWS, n, generator=generator)
    return x.var(1, correction=0).mean().item(), x.var(1, correction=1).mean().item()


def main() -> None:
    generator = torch.Generator().manual_seed(0)
    biased, unbiased = zip(*(estimates(n, generator) for n in SIZES), strict=True)
    figure = Figure(figsize=(7, 4), layout="constrained")
    axis = figure.subplots()
    axis.axhline(1, color="black", linewidth=0.8, label="true variance")
    axis.plot(SIZES, biased, "o", label="divided by n")
    axis.plot(SIZES, [(n - 1) / n for n in SIZES], linewidth=0.8, label="(n − 1) / n")
    axis.plot(SIZES, unbiased, "s", label="divided by n − 1")
    axis.set(xscale="log", xlabel="rows in the batch, n", ylabel="mean of the estimates")
    axis.set_xticks(SIZES, [str(n) for n in SIZES], minor=False)
    axis.minorticks_off()
    axis.legend()
    figure.savefig(FILE, dpi=120)


if __name__ == "__main__":
    main()
