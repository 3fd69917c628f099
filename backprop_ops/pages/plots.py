"""What the course looks at in a training: losses, updates, gradients, saturation, dlogits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from matplotlib.figure import Figure

from backprop_ops.lecture.data import Dataset, Split
from backprop_ops.lecture.network import (
    Nodes,
    Parameters,
    backward,
    forward,
)
from backprop_ops.lecture.training import Step, Training

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MEASUREMENTS = 200  # of updates in a run
SMOOTHED = 200  # points of the smoothed loss: each the mean of as many losses
SATURATED = 0.97  # |h| from which tanh passes on less than 6 % of its gradient
ROWS = 32  # of the batch that is looked at


class History:
    """What a run's steps leave for its plot."""

    def __init__(self, run: Training, steps: int) -> None:
        self.run = run
        self.every = max(1, (steps - run.step) // MEASUREMENTS)
        self.first = run.step
        self.losses: list[torch.Tensor] = []
        self.measured: list[int] = []  # the steps at which updates were
        self.ratios: list[list[float]] = []  # by parameter

    def add(self, step: Step) -> None:
        self.losses.append(step.loss)
        if not self.measured or self.run.step - self.measured[-1] >= self.every:
            _, gradients = looked_at(self.run.parameters, self.run.dataset.train)
            self.measured.append(self.run.step)
            rate = self.run.rate(step.number)
            self.ratios.append(
                [
                    ((rate * gradient.std()) / parameter.std()).log10().item()
                    for parameter, gradient in zip(
                        self.run.parameters, gradients[: len(self.run.parameters)], strict=True
                    )
                ]
            )


def looked_at(parameters: Parameters, train: Split) -> tuple[Nodes, Nodes]:
    """Values and gradients on the first examples; no batch of the run is drawn."""
    context, target = train.context[:ROWS], train.target[:ROWS]
    with torch.no_grad():
        values = forward(parameters, context, target)
        return values, backward(values, context, target)


def plot(parameters: Parameters, dataset: Dataset, history: History | None, file: Path) -> None:
    """Write the plots to a PNG or SVG file; without a history those of one batch alone.

    Raises OSError where the file can't be written.
    """
    values, gradients = looked_at(parameters, dataset.train)
    with_history = history is not None and len(history.losses) > 0
    figure = Figure(figsize=(12, 8 if with_history else 4), layout="constrained")
    axes = figure.subplots(2 if with_history else 1, 3, squeeze=False).flatten().tolist()
    if history is not None and with_history:
        _losses(axes.pop(0), history)
        _updates(axes.pop(0), history)
    _gradients(axes.pop(0), gradients)
    _saturation(axes.pop(0), values)
    _dlogits(axes.pop(0), gradients, dataset.alphabet, figure)
    for axis in axes:
        axis.remove()
    figure.savefig(file, dpi=120)


def _losses(axis: Axes, history: History) -> None:
    losses = torch.stack(history.losses).log10()
    steps = range(history.first, history.first + len(losses))
    axis.plot(steps, losses.tolist(), linewidth=0.3, alpha=0.4, label="each step")
    width = max(1, len(losses) // SMOOTHED)
    smoothed = losses[: len(losses) // width * width].reshape(-1, width).mean(1)
    middles = [history.first + width * (point + 0.5) for point in range(len(smoothed))]
    axis.plot(middles, smoothed.tolist(), label=f"mean of {width}")
    axis.set(title="training loss, log10", xlabel="step")
    axis.legend()


def _updates(axis: Axes, history: History) -> None:
    for name, ratios in zip(Parameters._fields, zip(*history.ratios, strict=True), strict=True):
        if name != "b1":  # its gradient is zero but for rounding
            axis.plot(history.measured, ratios, linewidth=1, label=name)
    axis.axhline(-3, color="black", linewidth=0.8, linestyle="--")
    axis.set(title="update to data, log10 of std / std", xlabel="step")
    axis.legend(fontsize="small", ncols=2)


def _gradients(axis: Axes, gradients: Nodes) -> None:
    for name in ("emb", "hprebn", "hpreact", "h", "logits"):
        gradient = getattr(gradients, name)
        counts, edges = torch.histogram(gradient.flatten().float(), 60, density=True)
        label = f"d{name}, std {gradient.std():.1e}"
        axis.plot(edges[:-1].tolist(), counts.tolist(), linewidth=1, label=label)
    axis.set(title="gradients by layer", yscale="log")
    axis.legend(fontsize="small")


def _saturation(axis: Axes, values: Nodes) -> None:
    h = values.h.flatten()
    saturated = (h.abs() > SATURATED).float().mean().item()
    axis.hist(h.tolist(), bins=60)
    axis.set(title=f"h: {saturated:.1%} saturated, |h| > {SATURATED}")


def _dlogits(axis: Axes, gradients: Nodes, alphabet: str, figure: Figure) -> None:
    limit = gradients.logits.abs().max().item()
    image = axis.imshow(
        gradients.logits.tolist(), cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto"
    )
    axis.set(title="dlogits", xlabel="character", ylabel="row of the batch")
    axis.set_xticks(range(len(alphabet) + 1), list("." + alphabet))
    figure.colorbar(image, ax=axis)
