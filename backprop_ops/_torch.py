"""The parts of torch that it does not promise: private functions, and the words of errors.

No other module uses these, but that the command line ignores a warning of `import torch` itself.
Each was seen in torch 2.4.1, 2.13.0 and 2.14.1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._decomp import decomposition_table
from torch._functorch.utils import unwrap_dead_wrappers
from torch._library.custom_ops import CustomOpDef
from torch.utils._python_dispatch import TorchDispatchMode


class DispatchMode(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's is untyped
    """``__torch_dispatch__`` of a subclass gets every operation, those of a backward too."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's is untyped

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: nothing here is compiled, and torch would import its compiler to skip it."""
        return False


def transforms_active() -> bool:
    """Whether `torch.func` transforms the running code, as vmap and jacrev do."""
    return torch._C._are_functorch_transforms_active()


def any_autocast() -> bool:
    """Whether autocast is on for any kind of device."""
    return torch._C._is_any_autocast_enabled()


def version(x: Tensor) -> int | None:
    """How often a tensor has been written to; None for one of inference mode, which hides it."""
    return None if x.is_inference() else x._version


def memory_of(x: Tensor) -> int:
    """The memory of a tensor, by a number of its own; of a fake or meta tensor too."""
    return int(x.untyped_storage()._cdata)


def apply_function(function: type[torch.autograd.Function], *args: Any) -> Any:
    """``function.apply``, without the defaults of its ``forward``, which take it longer than all
    the rest.
    """
    if transforms_active() or torch.compiler.is_compiling():
        return function.apply(*args)  # type: ignore[no-untyped-call]  # torch's is untyped
    args = unwrap_dead_wrappers(args)  # as `apply` does: of a transform that has ended
    return super(torch.autograd.Function, function).apply(*args)  # type: ignore[misc]  # as above


def decomposition(operation: Any) -> Callable[..., Any] | None:
    """An operation of `DispatchMode` in its steps, if torch has them; may be NotImplemented."""
    return decomposition_table.get(operation)


def aliases(operation: Any) -> bool:
    """Whether an operation writes to an argument, or returns an argument or a view of one."""
    schema = operation._schema
    return schema.is_mutable or any(r.alias_info is not None for r in schema.returns)


def is_zero_tensor(x: Tensor) -> bool:
    """Whether ``x`` is autograd's zeros, which have no memory of their own."""
    return x._is_zerotensor()


def sparse_indices(x: Tensor) -> Tensor:
    """The indices of a sparse tensor; torch would write where they say, to sort them."""
    return x._indices()


def as_written(function: Any) -> Any:
    """The function that a custom op was made of; any other function itself."""
    return function._init_fn if isinstance(function, CustomOpDef) else function


def operation_name(node: Any) -> str:
    """The forward operation of a node of autograd's graph: ``MeanBackward1`` is ``mean``."""
    return str(node.name()).partition("Backward")[0].lower()


def autograd_refuses(error: BaseException | None) -> bool:
    """Whether autograd alone refuses what the code does, as

    Can't call numpy() on Tensor that requires grad.
    a leaf Variable that requires grad is being used in an in-place operation.
    functions with out=... arguments don't support automatic differentiation, but one of the
    arguments requires grad.
    Output 0 of Unbind is a view and is being modified inplace.
    """
    return isinstance(error, RuntimeError) and _says(error, "requires grad", "inplace")


def lacks_derivative(error: BaseException | None) -> bool:
    """Whether autograd does not know an operation's derivative:

    the derivative for 'zeta' is not implemented.
    Trying to backward through lib.op.default but no autograd formula was registered.
    """
    return isinstance(error, RuntimeError) and _says(error, "derivative", "no autograd formula")


def lacks_precision(error: BaseException | None) -> bool:
    """Whether an operation, or somebody's kernel, does not take a dtype:

    "cdist" not implemented for 'Half'
    linalg.inv: Low precision dtypes not supported. Got Half
    Unsupported dtype BFloat16
    """
    return _says(error, "not implemented", "support")


def compiled_for_other_mode(error: BaseException | None) -> bool:
    """Whether a compiled backward refuses to run in another deterministic mode:

    This compiled backward function is being run with torch.use_deterministic_algorithms(True), but
    it was previously generated during the forward function while
    torch.use_deterministic_algorithms(False) was set.
    """
    return _says(error, "deterministic")


def is_singular(error: BaseException | None) -> bool:
    """Whether a matrix has no inverse or factors: torch's ``_LinAlgError``, or that of numpy."""
    return "LinAlgError" in type(error).__name__


def graph_is_freed(error: BaseException | None) -> bool:
    """Whether an earlier backward pass has freed what autograd saved:

    Trying to backward through the graph a second time (or directly access saved tensors after they
    have already been freed).
    """
    return _says(error, "already been freed")


def _says(error: BaseException | None, *words: str) -> bool:
    return any(word in str(error) for word in words)


def while_loop(
    is_left: Callable[..., Tensor], step: Callable[..., tuple[Tensor, ...]], carried: Any
) -> tuple[Tensor, ...]:
    """``step`` of what is ``carried``, as often as ``is_left`` of it: a loop inside of a graph."""
    from torch._higher_order_ops import while_loop as loop  # imports the compiler

    after: tuple[Tensor, ...] = loop(is_left, step, carried)  # type: ignore[no-untyped-call]
    return after
