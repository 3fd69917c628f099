"""Every value of a forward pass at once: which hand-made gradients are wrong, and where it began.

In a backward pass one wrong line spoils every line after it. `compare_nodes` tells the culprits
from the rows that only follow. It lets autograd go back once more, and hands on each hand-made
gradient. A formula is right if its gradient is what autograd makes of those handed on.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from backprop_ops import _torch
from backprop_ops.comparison import Comparison, ShownOnce, running_cell
from backprop_ops.mistakes import Likely, dense, likely_mistake, ratio_of
from backprop_ops.styled import DOUBT, RIGHT, WRONG, Line

Record = Any
"""A mapping, a NamedTuple or a dataclass: values by name."""

ROUNDINGS = 8  # units in the last place by which a right gradient may differ
DRAWS = 4  # of roundings, since one may be small by chance where a gradient has one entry


@dataclass(frozen=True)
class NodeComparisons(ShownOnce):
    """The result of `compare_nodes`; true if every row is approximately equal.

    ``rows``: each gradient against autograd's, in the order of the backward pass. ``culprits``: the
    wrong rows whose own formula is wrong. The other wrong rows follow from them.
    """

    rows: tuple[Comparison, ...]
    culprits: tuple[Comparison, ...]
    printed_in: int | None = field(default=None, compare=False)

    def __bool__(self) -> bool:
        return all(self.rows)

    def lines(self) -> Iterator[Line]:
        culprits = [row.name for row in self.culprits]
        for row in self.rows:
            if row or row.name in culprits:
                yield from row.lines()
            else:
                yield DOUBT, f"{row} | follows"
        yield RIGHT if self else WRONG, self._verdict(culprits)

    def __repr__(self) -> str:
        return str(self)

    def _verdict(self, culprits: list[str]) -> str:
        wrong = sum(not row for row in self.rows)
        if not wrong:
            exact = sum(row.exact for row in self.rows)
            return f"correct: {exact} of {len(self.rows)} rows exact, all approximate"
        if not culprits:
            rows = "1 row" if wrong == 1 else f"{wrong} rows"
            return f"wrong: {rows}, no culprit: rounding, or autograd's own nan"
        follow = f"; {wrong - len(culprits)} follow" if wrong > len(culprits) else ""
        return f"wrong: {', '.join(culprits)}{follow}"


def compare_nodes(nodes: Record, gradients: Record, loss: str = "loss") -> NodeComparisons:
    """Compare a hand-made gradient of every value of a forward pass, and name the culprits.

    ``nodes``: the values of the forward pass by name, with the graph that autograd recorded; the
    value named ``loss`` is a scalar. ``gradients``: a gradient for each, of its shape, under its
    name or with a d before it. Each of the two is a dict, a NamedTuple or a dataclass. Integer
    values are left out. None is a gradient of zero, and the loss's own may be left out.

    Prints the lecture's line for each value, from the loss to the inputs, and returns the rows. A
    row is wrong if it is not approximately autograd's. A wrong row is a culprit if it is not what
    the gradients above it make of it either, else it follows. Whatever comes after a gradient of a
    wrong shape, or after nan, is known only when that is mended, and follows until then.

    The graph and the ``.grad`` of each node stay as they were. Raises TypeError or ValueError where
    names or values do not fit.

        x = torch.randn(4, 3, requires_grad=True)
        h = x.exp()
        loss = h.sum()
        dh = torch.ones(4, 3)
        compare_nodes({"x": x, "h": h, "loss": loss}, {"dx": dh * h.detach(), "dh": dh})
    """
    values = _nodes(nodes, loss)
    by_hand = _gradients(gradients, values, loss)
    with _grad_kept(values.values()), torch.autograd.set_detect_anomaly(False):
        result = _compared(values, by_hand, loss)
    print(result)
    return replace(result, printed_in=running_cell())


def _compared(
    values: Mapping[str, Tensor], by_hand: Mapping[str, Tensor], loss: str
) -> NodeComparisons:
    # One tensor may have two names, and is one node.
    name_of = {id(x): name for name, x in values.items()}
    node_of = {name: name_of[id(x)] for name, x in values.items()}
    flow = _Flow({name: values[name] for name in name_of.values()}, node_of[loss])

    reached = flow.incoming({})
    right = {**flow.zeros, **reached}
    order = [*reached, *(node for node in flow.nodes if node not in reached)]
    rows = []
    for name in sorted(by_hand, key=lambda name: order.index(node_of[name])):
        node, grad = node_of[name], by_hand[name]
        row = Comparison.of(name, grad, right[node])
        if not row and node not in reached:
            row = replace(row, reason="the loss does not depend on it")
        rows.append(row)

    handed = dict(right)
    for row in sorted(rows, key=bool, reverse=True):  # of a node's two gradients the wrong one
        handed[node_of[row.name]] = _fitted(by_hand[row.name], values[row.name])
    upstream = {**flow.zeros, **flow.incoming(handed)}
    shaken = [flow.incoming(_shaken(handed, seed)) for seed in range(DRAWS)]
    culprits: dict[str, Comparison] = {}
    foreign = set()  # dtypes and devices
    for row in rows:
        node, grad = node_of[row.name], by_hand[row.name]
        kind = grad.dtype, grad.device
        if kind in foreign:  # it follows: the first of its kind is the culprit
            grad = grad.to(upstream[node])
        elif kind != (upstream[node].dtype, upstream[node].device):
            foreign.add(kind)
        others = [gradients[node] for gradients in shaken if node in gradients]
        if not row and not _follows(grad, upstream[node], others):
            mistake, explanation = likely_mistake(grad, upstream[node])
            if mistake is None:
                mistake, explanation = _of_one_term(flow, handed, node, grad, upstream[node])
            culprits[row.name] = replace(row, mistake=mistake, explanation=explanation)
    return NodeComparisons(
        tuple(culprits.get(row.name, row) for row in rows), tuple(culprits.values())
    )


class _Flow:
    """The graph from the loss back to the nodes."""

    def __init__(self, nodes: Mapping[str, Tensor], loss: str) -> None:
        self.nodes = nodes
        self.loss = loss
        self.zeros = {node: torch.zeros_like(x) for node, x in nodes.items()}

    def incoming(self, handed: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The gradient that reaches each node, in the order of the backward pass.

        A node hands on its gradient in ``handed``, or else the one that reaches it.
        """
        incoming = {}

        def hook(grad: Tensor | None, node: str) -> Tensor | None:
            if grad is None:  # an operation's other outputs have a gradient
                return None
            # Copies, since a backward may write into its upstream.
            incoming[node] = dense(grad).clone()
            if node not in handed:
                return None
            return handed[node].to_sparse() if grad.is_sparse else handed[node].clone()

        handles = [
            x.register_hook(partial(hook, node=node))  # type: ignore[no-untyped-call]  # torch's is untyped
            for node, x in self.nodes.items()
        ]
        inputs = list(self.nodes.values())
        try:
            torch.autograd.grad(self.nodes[self.loss], inputs, retain_graph=True, allow_unused=True)
        except RuntimeError as error:
            if not _torch.graph_is_freed(error):
                raise
            raise ValueError(
                "nodes: a backward pass has freed their graph: call compare_nodes before it, or "
                "make it loss.backward(retain_graph=True)"
            ) from error
        finally:
            for handle in handles:
                handle.remove()
        return incoming


def _fitted(grad: Tensor, x: Tensor) -> Tensor:
    """A gradient as it can be handed on: nan, for unknown, where its shape is wrong."""
    try:
        return grad.to(x).expand(x.shape)
    except RuntimeError:
        return torch.full_like(x, torch.nan)


def _shaken(handed: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """The gradients with each entry some roundings up or down."""
    generator = torch.Generator().manual_seed(seed)
    shaken = {}
    for node, grad in handed.items():
        signs = 2 * torch.randint(2, grad.shape, generator=generator).to(grad) - 1
        shaken[node] = grad + ROUNDINGS * torch.finfo(grad.dtype).eps * signs * grad
    return shaken


def _follows(grad: Tensor, upstream: Tensor, shaken: Iterable[Tensor]) -> bool:
    """Whether a gradient is the one that reaches its node, where that is finite, but for rounding.

    In ``shaken`` it is rounded otherwise, which shows how much a sum loses whose terms cancel.
    """
    known = upstream.isfinite()
    if grad.shape != upstream.shape:
        return not known.all()
    if grad.dtype != upstream.dtype or grad.device != upstream.device:
        return False
    if not known.any():
        return True
    rounding = max(((x - upstream)[known].abs().max().item() for x in shaken), default=0)
    return torch.allclose(grad[known], upstream[known], atol=1e-8 + rounding)


def _of_one_term(
    flow: _Flow, handed: Mapping[str, Tensor], node: str, grad: Tensor, upstream: Tensor
) -> Likely | tuple[None, str]:
    """The mistake that explains a gradient by one of its terms, which come through other nodes."""
    if grad.shape != upstream.shape:
        return None, ""
    residual = grad - upstream
    rounding = ROUNDINGS * torch.finfo(upstream.dtype).eps * upstream.abs()
    for through in flow.nodes:
        term = flow.incoming({**flow.zeros, through: handed[through]}).get(node)
        if term is None:
            continue
        where = f"the term through {through}"
        for times, key, says in (
            (0, "missing-term", "is missing"),
            (-1, "sign", "has the wrong sign"),
        ):
            rest = residual - (times - 1) * term
            if (rest.abs() <= rounding + 1e-5 * term.abs()).all():
                return key, f"{where} {says}"
        ratio = ratio_of(residual, term)
        if ratio is not None:
            return "factor", f"{where} is {1 + ratio:.4g} × the right one"
    return None, ""


@contextmanager
def _grad_kept(nodes: Iterable[Tensor]) -> Iterator[None]:
    """Put ``.grad`` back after passes that add to it where an intermediate retains it."""
    kept = [(x, x.grad) for x in nodes if x.retains_grad]
    try:
        yield
    finally:
        for x, grad in kept:
            x.grad = grad


def _nodes(nodes: Record, loss: str) -> dict[str, Tensor]:
    """The floating values, by name."""
    values = _by_name("nodes", nodes)
    for name, x in values.items():
        if not isinstance(x, Tensor) or x.is_complex():
            raise TypeError(f"nodes: {name} must be a real Tensor, got {_kind(x)}")
    if loss not in values:
        raise ValueError(f"nodes: no value is named {loss!r}, as the loss is{_hint(loss, values)}")
    if values[loss].numel() != 1:
        raise ValueError(f"nodes: {loss} must be a scalar, got shape {tuple(values[loss].shape)}")
    values = {name: x for name, x in values.items() if x.is_floating_point() or name == loss}
    bare = [name for name, x in values.items() if not x.requires_grad]
    if bare:
        have = "has" if len(bare) == 1 else "have"
        raise ValueError(
            f"nodes: {', '.join(bare)} {have} no graph of autograd: call .requires_grad_() on the "
            f"inputs, and run the forward pass without no_grad() and detach()"
        )
    return values


def _gradients(gradients: Record, values: Mapping[str, Tensor], loss: str) -> dict[str, Tensor]:
    """The gradient of each value, by the value's name."""
    given = _by_name("gradients", gradients)
    for key, grad in given.items():
        if not isinstance(grad, Tensor | None) or getattr(grad, "is_complex", bool)():
            raise TypeError(f"gradients: {key} must be a real Tensor or None, got {_kind(grad)}")
    keys = {name: name if name in given else f"d{name}" for name in values}
    if keys[loss] not in given:
        del keys[loss]
    missing = [key for key in keys.values() if key not in given]
    for key, grad in given.items():
        if key not in keys.values() and grad is not None:
            near = _hint(key, [*missing, *(key.removeprefix("d") for key in missing)])
            raise ValueError(f"gradients: {key} is of no floating value of nodes{near}")
    if missing:
        raise ValueError(f"gradients: {', '.join(missing)} missing")
    if not keys:
        raise ValueError("gradients: none is of a value other than the loss")
    return {
        name: torch.zeros_like(values[name]) if given[key] is None else dense(given[key])
        for name, key in keys.items()
    }


def _by_name(argument: str, record: Record) -> dict[str, Any]:
    if isinstance(record, Mapping):
        return dict(record)
    if isinstance(record, tuple) and hasattr(record, "_asdict"):
        return dict(record._asdict())
    if dataclasses.is_dataclass(record) and not isinstance(record, type):
        return {f.name: getattr(record, f.name) for f in dataclasses.fields(record)}
    got = type(record).__name__
    raise TypeError(f"{argument} must be a dict, a NamedTuple or a dataclass, got {got}")


def _kind(value: object) -> str:
    return str(value.dtype) if isinstance(value, Tensor) else type(value).__name__


def _hint(name: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(names), n=1)
    return f": did you mean {near[0]!r}?" if near else ""
