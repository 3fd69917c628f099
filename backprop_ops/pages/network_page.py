"""The page on one check of the lecture's network: its graph, and every gradient to look at."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass

import torch
from torch import Tensor

from backprop_ops.comparison import Comparison
from backprop_ops.lecture.exercises import Exercises
from backprop_ops.lecture.network import Nodes, Parameters, forward
from backprop_ops.nodes import NodeComparisons, compare_nodes
from backprop_ops.pages import formulas, graph, picture, source
from backprop_ops.pages.page import render

ZERO = 1e3  # a gradient of rounding alone shrinks by more from float32 to float64

VERDICTS = {
    "exact": "equal to autograd's, bit for bit",
    "approximate": "equal to autograd's but for rounding",
    "zero": "proves nothing: analytically zero, what is left is rounding",
    "wrong": "wrong: its own formula is not right",
    "follows": "not autograd's, since a gradient above it is wrong",
}


@dataclass(frozen=True)
class Node:
    name: str
    value: Tensor
    grad: Tensor  # by hand
    expected: Tensor  # autograd's
    row: Comparison
    verdict: str  # a key of VERDICTS
    used_by: list[str]
    forward_line: str  # empty for a parameter
    backward_line: str

    @property
    def shape(self) -> str:
        return " × ".join(map(str, self.value.shape)) or "scalar"

    @property
    def forward_formula(self) -> str:
        return formulas.typeset(formulas.FORWARD[self.name]) if self.forward_line else ""

    @property
    def backward_formula(self) -> str:
        return formulas.typeset(formulas.BACKWARD[self.name])

    @property
    def maps(self) -> list[tuple[str, picture.HeatMap]]:
        units = picture.units_in_the_last_place(self.grad, self.expected)
        return [
            ("value", picture.heat_map(self.value)),
            ("gradient by hand", picture.heat_map(self.grad)),
            ("autograd's gradient", picture.heat_map(self.expected)),
            ("difference, in units in the last place", picture.heat_map(units)),
        ]

    @property
    def histogram(self) -> picture.Histogram:
        return picture.histogram(self.grad)

    @property
    def worst(self) -> str:
        """The entry that is farthest off, with both numbers; empty where none is off."""
        if self.row.maxdiff == 0:
            return ""
        at = int((self.grad - self.expected).abs().argmax())
        index = [int(i) for i in torch.unravel_index(torch.tensor(at), self.grad.shape)]
        grad, expected = (x.flatten()[at].item() for x in (self.grad, self.expected))
        return f"at {index}: {grad:.9g} by hand, {expected:.9g} by autograd"


def network_page(exercises: Exercises, broken: str | None = None) -> tuple[NodeComparisons, str]:
    """The comparison of every value, and the page as HTML that needs nothing else.

    ``broken``: the value whose gradient gets a wrong sign, to see how a mistake looks.
    """
    context, target = exercises.context, exercises.target
    values = forward(exercises.parameters, context, target)
    expected = Nodes(*torch.autograd.grad(values.loss, values, retain_graph=True))
    by_hand, lines = exercises.gradients, source.backward_lines()
    if broken is not None:
        with torch.no_grad():
            by_hand = source.with_wrong_sign(broken)(values, context, target)
        lines[broken] += f"\nd{broken} = -d{broken}  # planted"
    with contextlib.redirect_stdout(io.StringIO()):  # the caller shows it
        compared = compare_nodes(values, by_hand)
    inputs = source.inputs_of()
    at, used_by = graph.places(inputs), graph.consumers(inputs, Nodes._fields)
    zero = _analytically_zero(exercises, expected)
    culprits = [row.name for row in compared.culprits]
    forward_lines = source.forward_lines()
    nodes = [
        Node(
            row.name,
            getattr(values, row.name).detach(),
            getattr(by_hand, row.name).detach(),
            getattr(expected, row.name),
            row,
            _verdict(row, zero, culprits),
            used_by[row.name],
            forward_lines.get(row.name, ""),
            lines[row.name],
        )
        for row in compared.rows
    ]
    n = len(target)
    page = render(
        "network.html",
        exercises=exercises,
        characters="." + exercises.dataset.alphabet,
        compared=compared,
        broken=broken,
        nodes=nodes,
        verdicts=VERDICTS,
        graph=graph,
        places=at,
        arrows=graph.arrows(inputs, at),
        forward_lines=forward_lines,
        backward_lines=lines,
        cross_entropy=formulas.typeset(formulas.CROSS_ENTROPY),
        batchnorm=formulas.typeset(formulas.BATCHNORM),
        dlogits=picture.heat_map(exercises.dlogits),
        pull=(n * exercises.dlogits).tolist(),
        sums=exercises.dlogits.sum(1).tolist(),
    )
    return compared, page


def _verdict(row: Comparison, zero: set[str], culprits: list[str]) -> str:
    if not row:
        return "wrong" if row.name in culprits else "follows"
    if row.name in zero:
        return "zero"
    return "exact" if row.exact else "approximate"


def _analytically_zero(exercises: Exercises, grads: Nodes) -> set[str]:
    """The gradients that are rounding alone: they shrink with the precision."""
    dtype = exercises.dlogits.dtype
    other = torch.float64 if dtype == torch.float32 else torch.float32
    parameters = Parameters(*(p.detach().to(other).requires_grad_() for p in exercises.parameters))
    values = forward(parameters, exercises.context, exercises.target)
    others = Nodes(*torch.autograd.grad(values.loss, values))
    coarse, fine = (grads, others) if dtype == torch.float32 else (others, grads)
    return {
        name
        for name in Nodes._fields
        if getattr(coarse, name).abs().max() > ZERO * getattr(fine, name).abs().max()
    }
