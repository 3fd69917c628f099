"""Tensors as pictures inside a page: heat maps and histograms."""

from __future__ import annotations

import base64
import io
from typing import NamedTuple

import torch
from matplotlib import image
from torch import Tensor

MOST_ROWS = 256  # of a tensor that a heat map shows: a page stays small
BINS = 41


class HeatMap(NamedTuple):
    """Blue below zero, white at zero, red above; ``limit`` is the value of the full colour."""

    source: str  # a PNG as a data URI, one pixel an entry
    limit: float
    rows: int
    columns: int
    left_out: int  # rows


def heat_map(tensor: Tensor) -> HeatMap:
    """A tensor's rows from top to bottom; of more than two dimensions, the last is across."""
    matrix = tensor.detach().reshape(-1, tensor.shape[-1] if tensor.ndim else 1).double()
    shown = matrix[:MOST_ROWS]
    limit = shown.abs().max().item()
    file = io.BytesIO()
    image.imsave(file, shown.tolist(), vmin=-limit or -1, vmax=limit or 1, cmap="RdBu_r")
    source = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    rows, columns = shown.shape
    return HeatMap(source, limit, rows, columns, len(matrix) - rows)


class Histogram(NamedTuple):
    low: float
    high: float
    heights: list[float]  # of each bin, as a part of the highest


def histogram(tensor: Tensor) -> Histogram:
    values = tensor.detach().double().flatten()
    low, high = values.min().item(), values.max().item()
    counts = torch.histc(values, BINS)
    return Histogram(low, high, (counts / counts.max()).tolist())


def units_in_the_last_place(grad: Tensor, expected: Tensor) -> Tensor:
    """The difference of each entry, in the spacing of floating-point numbers at ``expected``."""
    magnitude = expected.abs()
    spacing = torch.nextafter(magnitude, torch.full_like(magnitude, torch.inf)) - magnitude
    return (grad - expected).double() / spacing.double()
