"""The refusals in a forward's first line, for its arguments' types, shapes, dtypes and options.

Each function raises a TypeError, ValueError or IndexError that names the argument, what was
expected and what it got. Values are never read: that would break ``vmap``, fake tensors and
compilation.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# While a compiler looks on, a size is a SymInt, and an option may be a SymFloat.
INTEGERS = (int, torch.SymInt)
_NUMBERS = (*INTEGERS, float, torch.SymFloat)


def tensor(name: str, value: object) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a Tensor, got {described(value)}")


def floating(**tensors: Tensor) -> None:
    """Floating Tensors of one dtype."""
    first = dtype = None
    for name, value in tensors.items():
        tensor(name, value)
        if not value.is_floating_point():
            raise TypeError(f"{name} must be a floating Tensor, got {value.dtype}")
        if first is None:
            first, dtype = name, value.dtype
        elif value.dtype != dtype:
            raise TypeError(f"{name} must have the dtype of {first}, {dtype}, got {value.dtype}")


def broadcastable(**operands: Tensor | float) -> None:
    """Floating Tensors of one dtype whose shapes broadcast, and numbers, but not numbers alone."""
    tensors = {}
    for name, operand in operands.items():
        if isinstance(operand, _NUMBERS) and not isinstance(operand, bool):
            continue
        if not isinstance(operand, Tensor):
            raise TypeError(f"{name} must be a Tensor or a number, got {described(operand)}")
        tensors[name] = operand
    if not tensors:
        raise TypeError(f"one of {', '.join(operands)} must be a Tensor, got numbers")
    floating(**tensors)
    shapes = list(tensors.values())
    if any(shape.shape != shapes[0].shape for shape in shapes[1:]):
        shapes_that_broadcast("shapes", **{name: tensor.shape for name, tensor in tensors.items()})


def number(**options: float) -> None:
    for name, option in options.items():
        if not isinstance(option, _NUMBERS) or isinstance(option, bool):
            raise TypeError(f"{name} must be a number, got {described(option)}")


def integer(**options: int) -> None:
    for name, option in options.items():
        if not isinstance(option, INTEGERS) or isinstance(option, bool):
            raise TypeError(f"{name} must be an integer, got {described(option)}")


def dimension(x: Tensor, dim: int) -> None:
    integer(dim=dim)
    rank = max(x.dim(), 1)  # as in torch, a scalar has dimensions 0 and -1
    if not -rank <= dim < rank:
        raise IndexError(
            f"dim must lie in [{-rank}, {rank - 1}] for x of shape {tuple(x.shape)}, got {dim}"
        )


def dimensions(x: Tensor, dim: int | tuple[int, ...] | None) -> None:
    """``dim`` names dimensions of ``x``: one, several different ones, or, as None, all."""
    if dim is None:
        return
    if not isinstance(dim, (tuple, list)):
        dimension(x, dim)
        return
    for each in dim:
        dimension(x, each)
    if len({int(each) % max(x.dim(), 1) for each in dim}) != len(dim):
        raise ValueError(f"dim must name each dimension once, got {tuple(dim)}")


def not_empty(x: Tensor, dim: int | tuple[int, ...] | None, why: str) -> None:
    """At least one element along ``dim`` (None: in all of ``x``) for each element of the result."""
    dims = range(x.dim()) if dim is None else dim if isinstance(dim, (tuple, list)) else (dim,)
    if x.dim() and any(x.shape[d] == 0 for d in dims or range(x.dim())):
        raise ValueError(
            f"x must have at least one element along dim={dim}, got shape {tuple(x.shape)}: {why}"
        )


def per_column(name: str, tensor: Tensor, columns: int) -> None:
    """One number a column: (columns) or (1, columns)."""
    if tensor.shape not in ((columns,), (1, columns)):
        raise ValueError(
            f"{name} must be of shape ({columns},) or (1, {columns}), got {tuple(tensor.shape)}"
        )


def matrix(name: str, tensor: Tensor, sizes: str) -> None:
    if tensor.dim() != 2:
        raise ValueError(f"{name} must be of shape {sizes}, got {tuple(tensor.shape)}")


def index(name: str, value: Tensor) -> None:
    """A Tensor of int64, the type in which torch counts."""
    tensor(name, value)
    if value.dtype != torch.int64:
        raise TypeError(f"{name} must be a Tensor of torch.int64, got {value.dtype}")


class out_of_range:  # noqa: N801  # used as a function
    """Around a look-up: its error is raised again as an IndexError that names the argument.

    The range is left to the look-up itself, which has to check it anyway. ``size``: of the
    ``what`` that ``tensor`` counts. ``ignored``: a number that is not looked up.
    """

    def __init__(
        self, name: str, tensor: Tensor, size: int, what: str, ignored: int | None = None
    ) -> None:
        self.given = name, tensor, size, what, ignored

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, (IndexError, RuntimeError)):
            return
        name, tensor, size, what, ignored = self.given
        counted = tensor if ignored is None else tensor[tensor != ignored]
        least, most = int(counted.min()), int(counted.max())
        if least < 0 or most >= size:
            raise IndexError(
                f"{name} must lie in [0, {size - 1}], the {what}, got [{least}, {most}]"
            ) from None


def shapes_that_broadcast(what: str, **shapes: Sequence[int]) -> None:
    try:
        torch.broadcast_shapes(*shapes.values())  # type: ignore[no-untyped-call]
    except RuntimeError:
        got = " and ".join(f"{name} {tuple(shape)}" for name, shape in shapes.items())
        raise ValueError(f"the {what} of {', '.join(shapes)} must broadcast, got {got}") from None


def described(value: object) -> str:
    """The type of a value, and the value where it is short."""
    name = type(value).__name__
    return f"{name} {value!r}" if isinstance(value, (int, float, str)) else name
