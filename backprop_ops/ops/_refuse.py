"""What a forward's first line calls: each argument's type, shape, dtype and range of options.

Values are never read, since that would break ``vmap``, fake tensors and compilation. Each function
takes the arguments by their names and raises TypeError, ValueError or IndexError naming the one
that is wrong, what came and what was expected.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from backprop_ops.ops._precision import wide_dtype


def floating(**tensors: Tensor) -> None:
    """Floating Tensors of one dtype."""
    first = dtype = None
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} must be a Tensor, came {_came(tensor)}")
        if not tensor.is_floating_point():
            raise TypeError(f"{name} must be a floating Tensor, came {tensor.dtype}")
        if first is None:
            first, dtype = name, tensor.dtype
        elif tensor.dtype != dtype:
            raise TypeError(f"{name} must have the dtype of {first}, {dtype}, came {tensor.dtype}")


def broadcastable(**operands: Tensor | float) -> None:
    """Floating Tensors of one dtype whose shapes broadcast, and numbers, but not numbers alone."""
    tensors = {}
    for name, operand in operands.items():
        if isinstance(operand, (int, float)) and not isinstance(operand, bool):
            continue
        if not isinstance(operand, Tensor):
            raise TypeError(f"{name} must be a Tensor or a number, came {_came(operand)}")
        tensors[name] = operand
    if not tensors:
        raise TypeError(f"one of {', '.join(operands)} must be a Tensor, came numbers")
    floating(**tensors)
    shapes = list(tensors.values())
    if any(shape.shape != shapes[0].shape for shape in shapes[1:]):
        _broadcast("shapes", **{name: tensor.shape for name, tensor in tensors.items()})


def number(**options: float) -> None:
    for name, option in options.items():
        if not isinstance(option, (int, float)):
            raise TypeError(f"{name} must be a number, came {_came(option)}")


def dimension(x: Tensor, dim: int) -> None:
    if not isinstance(dim, int) or isinstance(dim, bool):
        raise TypeError(f"dim must be an integer, came {_came(dim)}")
    rank = max(x.dim(), 1)  # as in torch, a scalar has dimensions 0 and -1
    if not -rank <= dim < rank:
        raise IndexError(
            f"dim must lie in [{-rank}, {rank - 1}] for x of shape {tuple(x.shape)}, came {dim}"
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
    if len({each % max(x.dim(), 1) for each in dim}) != len(dim):
        raise ValueError(f"dim must name each dimension once, came {tuple(dim)}")


def not_empty(x: Tensor, dim: int | tuple[int, ...] | None, why: str) -> None:
    """At least one element along ``dim`` (None: in all of ``x``) for each element of the result."""
    dims = range(x.dim()) if dim is None else (dim,) if isinstance(dim, int) else dim
    if x.dim() and any(x.shape[d] == 0 for d in dims or range(x.dim())):
        raise ValueError(
            f"x must have at least one element along dim={dim}, came shape {tuple(x.shape)}: {why}"
        )


def shape(x: Tensor, shape: Sequence[int]) -> None:
    """``shape`` has as many elements as ``x``, with one size left as -1 at most."""
    if not isinstance(shape, (tuple, list)) or not all(isinstance(size, int) for size in shape):
        raise TypeError(f"shape must be a tuple of integers, came {_came(shape)}")
    known = math.prod([size for size in shape if size != -1])
    free = len(shape) - sum(size != -1 for size in shape)
    fits = x.numel() == known if free == 0 else known and x.numel() % known == 0
    if free > 1 or any(size < -1 for size in shape) or not fits:
        raise ValueError(
            f"shape must hold the {x.numel()} elements of x, of shape {tuple(x.shape)}, "
            f"came {tuple(shape)}"
        )


def matmul(x: Tensor, y: Tensor) -> None:
    """Floating Tensors, vectors or (batches of) matrices, that can be multiplied."""
    floating(x=x, y=y)
    for name, tensor in (("x", x), ("y", y)):
        if tensor.dim() == 0:
            raise ValueError(f"{name} must be a vector or (a batch of) matrices, came a scalar")
    rows = y.shape[-2] if y.dim() > 1 else y.shape[0]
    if x.shape[-1] != rows:
        raise ValueError(
            f"y must have as many rows as x has columns, {x.shape[-1]}, "
            f"came y of shape {tuple(y.shape)} for x of shape {tuple(x.shape)}"
        )
    _broadcast("batch dimensions", x=x.shape[:-2], y=y.shape[:-2])


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """x (…, in), weight (in, out), bias (out) or (1, out) or None, of one floating dtype."""
    floating(x=x, weight=weight, **({} if bias is None else {"bias": bias}))
    if x.dim() == 0:
        raise ValueError("x must have a last dimension of features, came a scalar")
    if weight.dim() != 2 or weight.shape[0] != x.shape[-1]:
        hint = " (torch.nn.functional.linear keeps the transposed one: pass weight.T)"
        transposed = weight.dim() == 2 and weight.shape[1] == x.shape[-1]
        raise ValueError(
            f"weight must be of shape (in, out) with in = {x.shape[-1]}, the last size of x, "
            f"came {tuple(weight.shape)}{hint if transposed else ''}"
        )
    if bias is not None:
        per_column("bias", bias, weight.shape[1])


def per_column(name: str, tensor: Tensor, columns: int) -> None:
    """One number a column: (columns) or (1, columns)."""
    if tensor.shape not in ((columns,), (1, columns)):
        raise ValueError(
            f"{name} must be of shape ({columns},) or (1, {columns}), came {tuple(tensor.shape)}"
        )


def matrix(name: str, tensor: Tensor, sizes: str) -> None:
    if tensor.dim() != 2:
        raise ValueError(f"{name} must be of shape {sizes}, came {tuple(tensor.shape)}")


def index(name: str, tensor: Tensor) -> None:
    """A Tensor of int64, the type in which torch counts."""
    _tensor(name, tensor)
    if tensor.dtype != torch.int64:
        raise TypeError(f"{name} must be a Tensor of torch.int64, came {tensor.dtype}")


def embedding(places: Tensor, weight: Tensor, padding_idx: int | None) -> None:
    """An index of any shape into weight (rows, width), and padding_idx None or one of the rows."""
    index("index", places)
    floating(weight=weight)
    matrix("weight", weight, "(rows, width)")
    if padding_idx is None:
        return
    if not isinstance(padding_idx, int):
        raise TypeError(f"padding_idx must be an integer, came {_came(padding_idx)}")
    rows = weight.shape[0]
    if not -rows <= padding_idx < rows:
        raise IndexError(
            f"padding_idx must lie in [{-rows}, {rows - 1}], the rows of weight, came {padding_idx}"
        )


def classes(
    name: str,
    scores: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    reduction: str,
) -> None:
    """``scores`` (classes), (n, classes) or (n, classes, …), and the class of each row."""
    _scores(name, scores, weight, reduction)
    index("target", target)
    rows = scores.shape[:1] + scores.shape[2:] if scores.dim() > 1 else ()
    if target.shape != rows:
        raise ValueError(
            f"target must be of shape {tuple(rows)}, a class for each row of {name}, "
            f"came {tuple(target.shape)}"
        )
    if not isinstance(ignore_index, int):
        raise TypeError(f"ignore_index must be an integer, came {_came(ignore_index)}")


def soft_classes(
    name: str, scores: Tensor, target: Tensor, weight: Tensor | None, reduction: str
) -> None:
    """``scores`` as in `classes`, and the probability of each class in ``target``, of its shape."""
    _scores(name, scores, weight, reduction)
    floating(**{name: scores, "target": target})
    if target.shape != scores.shape:
        raise ValueError(
            f"target must be of the shape of {name}, {tuple(scores.shape)}, "
            f"came {tuple(target.shape)}"
        )


def _scores(name: str, scores: Tensor, weight: Tensor | None, reduction: str) -> None:
    floating(**{name: scores})
    rank = scores.dim()
    if rank == 0:
        raise ValueError(f"{name} must be of shape (classes) or (n, classes, …), came a scalar")
    size = scores.shape[1 if rank > 1 else 0]
    if size == 0:
        raise ValueError(f"{name} must have at least one class, came {tuple(scores.shape)}")
    if weight is not None:
        _tensor("weight", weight)
        if weight.dtype != scores.dtype:
            raise TypeError(
                f"weight must have the dtype of {name}, {scores.dtype}, came {weight.dtype}"
            )
        if weight.shape != (size,):
            raise ValueError(
                f"weight must be of shape ({size},), one for each class, came {tuple(weight.shape)}"
            )
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"reduction must be none, mean or sum, came {_came(reduction)}")
    if reduction == "mean" and scores.numel() == 0:
        raise ValueError(f"{name} must have at least one row to take a mean over, came 0 rows")


def fraction(name: str, option: float) -> None:
    number(**{name: option})
    if not 0 <= option <= 1:
        raise ValueError(f"{name} must lie in [0, 1], came {option}")


def batchnorm(
    x: Tensor, gain: Tensor | None, bias: Tensor | None, eps: float, correction: int
) -> None:
    """x (n, c, …), gain and bias of one shape, (c) or (1, c), and n greater than correction."""
    _normalization(x, gain, bias, eps)
    if eps < torch.finfo(wide_dtype(x.dtype)).tiny:
        raise ValueError(f"eps must be above 0, came {eps}: equal rows have no deviation")
    if not isinstance(correction, int):
        raise TypeError(f"correction must be an integer, came {_came(correction)}")
    if correction < 0:
        raise ValueError(f"correction must be 0 or more, came {correction}")
    n, least = x.shape[:1].numel() * x.shape[2:].numel(), max(correction, 1)
    if n <= least:
        raise ValueError(
            f"x must have more than {least} row(s), came {n}: one has no deviation, and the "
            f"variance divides by n - correction, with correction={correction}"
        )


def batchnorm_inference(
    x: Tensor,
    gain: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    var: Tensor,
    eps: float,
) -> None:
    """As for `batchnorm`, with mean and var, (c) or (1, c), of x's dtype or of float32."""
    _normalization(x, gain, bias, eps)
    for name, statistic in (("mean", mean), ("var", var)):
        floating(**{name: statistic})
        if statistic.dtype not in (x.dtype, wide_dtype(x.dtype)):
            raise TypeError(f"{name} must have the dtype of x, {x.dtype}, came {statistic.dtype}")
        per_column(name, statistic, x.shape[1])


def running_statistics(mean: Tensor, var: Tensor, batch: Tensor, momentum: float) -> None:
    """mean and var (c) or (1, c), as many as there are in the batch's (1, c, 1…)."""
    for name, statistic in (("running_mean", mean), ("running_var", var)):
        floating(**{name: statistic})
        per_column(name, statistic, batch.shape[1])
    number(momentum=momentum)


def _normalization(x: Tensor, gain: Tensor | None, bias: Tensor | None, eps: float) -> None:
    parameters = {} if gain is None or bias is None else {"gain": gain, "bias": bias}
    floating(x=x, **parameters)
    if x.dim() < 2:
        raise ValueError(f"x must be of shape (n, c) or (n, c, …), came {tuple(x.shape)}")
    if (gain is None) != (bias is None):
        given = "bias" if gain is None else "gain"
        raise TypeError(f"gain and bias must both be given or both be None, came {given} alone")
    if gain is not None and bias is not None:
        per_column("gain", gain, x.shape[1])
        if bias.shape != gain.shape:
            raise ValueError(
                f"bias must have the shape of gain, {tuple(gain.shape)}, came {tuple(bias.shape)}"
            )
    number(eps=eps)
    if not 0 <= eps < math.inf:
        raise ValueError(f"eps must be a finite number of 0 or more, came {eps}")


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
                f"{name} must lie in [0, {size - 1}], the {what}, came [{least}, {most}]"
            ) from None


def _tensor(name: str, value: object) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a Tensor, came {_came(value)}")


def _broadcast(what: str, **shapes: Sequence[int]) -> None:
    try:
        torch.broadcast_shapes(*shapes.values())  # type: ignore[no-untyped-call]
    except RuntimeError:
        came = " and ".join(f"{name} {tuple(shape)}" for name, shape in shapes.items())
        raise ValueError(f"the {what} of {', '.join(shapes)} must broadcast, came {came}") from None


def _came(value: object) -> str:
    return (
        f"{type(value).__name__} {value!r}"
        if isinstance(value, (int, float, str))
        else (type(value).__name__)
    )
