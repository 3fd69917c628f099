"""What torch does not promise and the package relies on, shown by torch itself."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import backprop_ops
from backprop_ops import _torch, check

aten = torch.ops.aten
NEEDS_GRADIENT = torch.arange(1.0, 4.0).requires_grad_()


class View(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.view(-1)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None: ...

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> Tensor:  # noqa: ARG004
        return dout


@torch.library.custom_op(
    "backprop_ops_tests::without_formula", mutates_args=(), schema="(Tensor x) -> Tensor"
)
def without_formula(x: Tensor) -> Tensor:
    return x * 1


def gradient(out: Tensor) -> Tensor:
    return torch.autograd.grad(out.sum(), NEEDS_GRADIENT)[0]


def compiled_in_another_mode() -> None:
    out = torch.compile(lambda x: (x * x).sin(), backend="aot_eager")(NEEDS_GRADIENT)
    was = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("warn")
    try:
        gradient(out)
    finally:
        torch.set_deterministic_debug_mode(was)


RAISED: list[tuple[Callable[[Any], bool], Callable[[], Any]]] = [
    (_torch.autograd_refuses, lambda: NEEDS_GRADIENT.numpy()),
    (_torch.autograd_refuses, lambda: NEEDS_GRADIENT.add_(1)),
    (_torch.autograd_refuses, lambda: NEEDS_GRADIENT[0].add_(1)),
    (_torch.autograd_refuses, lambda: torch.mul(NEEDS_GRADIENT, 2, out=torch.empty(3))),
    (_torch.autograd_refuses, lambda: (NEEDS_GRADIENT * 2).unbind()[0].add_(1)),
    (_torch.autograd_refuses, lambda: View.apply(NEEDS_GRADIENT * 2).add_(1)),
    (_torch.lacks_derivative, lambda: gradient(torch.special.zeta(NEEDS_GRADIENT, 2.0))),
    (_torch.lacks_derivative, lambda: gradient(torch.igamma(NEEDS_GRADIENT, torch.ones(3)))),
    (_torch.lacks_derivative, lambda: gradient(without_formula(NEEDS_GRADIENT))),
    (_torch.lacks_precision, lambda: torch.cdist(*[torch.ones(2, 2).half()] * 2)),
    (_torch.lacks_precision, lambda: torch.linalg.inv(torch.eye(2).half())),
    (_torch.lacks_precision, lambda: torch.fft.fft(torch.ones(4).bfloat16())),
    (_torch.lacks_precision, lambda: torch.ones(4).bfloat16().numpy()),
    (_torch.compiled_for_other_mode, compiled_in_another_mode),
    (_torch.is_singular, lambda: torch.linalg.inv(torch.zeros(2, 2))),
    (_torch.is_singular, lambda: torch.linalg.solve(torch.zeros(2, 2), torch.ones(2))),
    (_torch.is_singular, lambda: torch.linalg.cholesky(-torch.eye(2))),
    (_torch.graph_is_freed, lambda: [gradient(out) for out in [NEEDS_GRADIENT.exp()] * 2]),
]
OTHERS: list[Callable[[], Any]] = [
    lambda: torch.ones(2, 3) @ torch.ones(2, 3),
    lambda: torch.ones(3)[torch.tensor([3])],
    lambda: torch.linalg.inv(torch.ones(2, 3)),
    lambda: torch.ones(2).item(),
]


@pytest.mark.parametrize(("recognizes", "raises"), RAISED)
def test_messages(recognizes: Callable[[Any], bool], raises: Callable[[], Any]) -> None:
    with pytest.raises((RuntimeError, TypeError)) as raised:
        raises()
    assert recognizes(raised.value)


@pytest.mark.parametrize("recognizes", dict.fromkeys(recognizes for recognizes, _ in RAISED))
@pytest.mark.parametrize("raises", OTHERS)
def test_other_messages(recognizes: Callable[[Any], bool], raises: Callable[[], Any]) -> None:
    with pytest.raises((RuntimeError, IndexError)) as raised:
        raises()
    assert not recognizes(raised.value)


def test_singular_for_numpy() -> None:
    numpy = pytest.importorskip("numpy")
    with pytest.raises(numpy.linalg.LinAlgError) as raised:
        numpy.linalg.inv(numpy.zeros((2, 2)))
    assert _torch.is_singular(raised.value)


def test_import_without_numpy_warns() -> None:
    """The start of the warning is what the command line and pytest's configuration ignore."""
    program = "import sys; sys.modules['numpy'] = None; import torch"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "UserWarning: Failed to initialize NumPy" in run.stderr


class Operations(_torch.DispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(func)
        return func(*args, **(kwargs or {}))


def test_dispatch_mode_sees_the_operations_of_a_backward() -> None:
    with Operations() as mode:
        torch.autograd.grad(NEEDS_GRADIENT.tanh().sum(), NEEDS_GRADIENT)
    assert {aten.tanh.default, aten.tanh_backward.default} <= set(mode.seen)


def test_dispatch_mode_does_not_import_the_compiler() -> None:
    program = """
import sys, torch
from backprop_ops._torch import DispatchMode
class Mode(DispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))
x = torch.ones(2, requires_grad=True)
with Mode():
    x.exp().sum().backward()
print("torch._dynamo" in sys.modules)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.stdout.strip() == "False", run.stderr


def test_transforms_active() -> None:
    seen = []

    def f(x: Tensor) -> Tensor:
        seen.append(_torch.transforms_active())
        return x.sum()

    f(NEEDS_GRADIENT)
    torch.func.vmap(f)(torch.ones(2, 2))
    torch.func.grad(f)(torch.ones(2))
    assert seen == [False, True, True]


def test_while_loop() -> None:
    def doubled(x: Tensor) -> Tensor:
        return _torch.while_loop(lambda x: x.sum() < 100, lambda x: (2 * x,), (x,))[0]

    compiled = torch.compile(doubled, backend="eager", fullgraph=True)
    assert compiled(torch.tensor([3.0])).item() == 192


def test_decomposition() -> None:
    x, dout = torch.linspace(-3, 3, 7), torch.ones(7)
    steps = _torch.decomposition(aten.gelu_backward.default)
    assert steps is not None
    with Operations() as mode:
        dx = steps(dout, x, approximate="none")
    torch.testing.assert_close(dx, aten.gelu_backward.default(dout, x))
    assert aten.gelu_backward.default not in mode.seen
    assert _torch.decomposition(aten.mm.default) is None


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        (aten.add.Tensor, False),
        (aten.clone.default, False),
        (aten.add_.Tensor, True),
        (aten.add.out, True),
        (aten._foreach_add_.Scalar, True),  # returns nothing
        (aten.view.default, True),
        (aten.split.Tensor, True),  # a list of views
    ],
)
def test_aliases(operation: Any, expected: bool) -> None:
    assert _torch.aliases(operation) is expected


def test_zero_tensor() -> None:
    assert _torch.is_zero_tensor(gradient(NEEDS_GRADIENT.sgn()))
    assert not _torch.is_zero_tensor(torch.zeros(3))


@pytest.mark.parametrize("name", ["mean", "sum", "exp", "mul", "tanh"])
def test_operation_name(name: str) -> None:
    arguments = (NEEDS_GRADIENT,) * (2 if name == "mul" else 1)
    assert _torch.operation_name(getattr(torch, name)(*arguments).grad_fn) == name


@pytest.mark.usefixtures("unseen")
def test_the_name_of_a_backward_excuses_nothing() -> None:
    """The checker reads what was raised, not its own sentence about it."""

    def unsupported(x: Tensor) -> Tensor:
        return 2 * x

    def unsupported_backward(dout: Tensor) -> Tensor:
        if dout.dtype == torch.float64:
            raise ValueError("no such step")
        return 2 * dout

    def inplace(x: Tensor) -> Tensor:
        return x.exp()

    def inplace_backward(dout: Tensor, x: Tensor, out: Tensor) -> Tensor:
        if x.requires_grad:
            raise ValueError("no such step")
        return out * dout

    assert not check(unsupported, unsupported_backward, (torch.ones(3),))
    assert not check(inplace, inplace_backward, (torch.ones(3),))


def writes_to_one_of_several_views(x: Tensor) -> Tensor:
    y = x * 2
    y.chunk(2)[0].mul_(3)
    return y


def writes_backward(dout: Tensor) -> Tensor:
    dx = 2 * dout
    dx.chunk(2)[0].mul_(3)
    return dx


def calls_an_op(x: Tensor) -> Tensor:
    return without_formula(x)


def op_backward(dout: Tensor) -> Tensor:
    return dout * 1


@pytest.mark.usefixtures("unseen")
@pytest.mark.parametrize(
    ("forward", "backward"),
    [(writes_to_one_of_several_views, writes_backward), (calls_an_op, op_backward)],
)
def test_finite_differences_judge_what_autograd_cannot_follow(
    forward: Callable[[Tensor], Tensor], backward: Callable[[Tensor], Tensor]
) -> None:
    x = torch.arange(1.0, 4.0)
    assert check(forward, backward, (x,))
    assert not check(forward, lambda dout: backward(dout) * 1.5, (x,))


PACKAGE = Path(backprop_ops.__file__).parent
ELSEWHERE = [path for path in sorted(PACKAGE.rglob("*.py")) if path.name != "_torch.py"]
PRIVATE = {
    name
    for thing in (NEEDS_GRADIENT, NEEDS_GRADIENT.exp().grad_fn, aten.add.Tensor, View)
    for name in dir(thing)
    if name.startswith("_") and not name.endswith("__")
}


def unpromised(source: str) -> Iterator[str]:
    """What a source takes of torch's private names, and where it reads an exception's words."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from (a.name for a in names if a.name.startswith("torch.") and "._" in a.name)
            case ast.ImportFrom(module=str(module), names=names):
                full = [f"{module}.{alias.name}" for alias in names]
                yield from (name for name in full if name.startswith("torch.") and "._" in name)
            case ast.Attribute():
                name = ast.unparse(node)
                own = name.startswith(("self.", "cls."))
                of_torch = name.startswith("torch.") and "._" in name
                if of_torch or (node.attr in PRIVATE and not own):
                    yield name
            case ast.ExceptHandler(name=str(error)):
                yield from (
                    ast.unparse(compared)
                    for compared in ast.walk(node)
                    if isinstance(compared, ast.Compare)
                    and isinstance(compared.ops[0], (ast.In, ast.NotIn))
                    and f"str({error})" in ast.unparse(compared)
                )


@pytest.mark.parametrize("path", ELSEWHERE, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_other_module_relies_on_it(path: Path) -> None:
    assert not list(unpromised(path.read_text("utf-8")))


@pytest.mark.parametrize(
    "line",
    [
        "import torch._decomp",
        "from torch._decomp import decomposition_table",
        "from torch.utils import _pytree",
        "from torch.utils._pytree import tree_map",
        "torch._C._set_grad_enabled(True)",
        "schema = operation._schema",
        "x.sum()._is_zerotensor()",
        "try: f()\nexcept RuntimeError as error:\n    if 'inplace' in str(error): raise",
        "try: f()\nexcept Exception as e: any(word not in str(e).lower() for word in words)",
    ],
)
def test_everything_unpromised_is_seen(line: str) -> None:
    assert list(unpromised(line))
    assert not list(unpromised(line.replace("_", "").replace("str(", "type(")))


def test_it_imports_nothing_of_the_package() -> None:
    assert "backprop_ops" not in Path(_torch.__file__).read_text("utf-8")


def test_autocast_of_any_device() -> None:
    assert not _torch.any_autocast()
    with torch.autocast("cpu"):
        assert _torch.any_autocast()


def test_versions() -> None:
    x = torch.zeros(3)
    before = _torch.version(x)
    x.add_(1)
    assert _torch.version(x) != before
    with torch.inference_mode():
        assert _torch.version(torch.zeros(3)) is None


def test_memory() -> None:
    x = torch.zeros(2, 3)
    assert _torch.memory_of(x) == _torch.memory_of(x[1:]) != _torch.memory_of(x.clone())
    fake = torch.empty(2, 3, device="meta")
    assert _torch.memory_of(fake) == _torch.memory_of(fake.mT) != 0


def test_a_function_applied_to_what_a_transform_has_left() -> None:
    left: list[Tensor] = []

    def keeping(x: Tensor) -> Tensor:
        left.append(x)
        return x.sum()

    torch.func.grad(keeping)(torch.arange(3.0))
    assert torch.equal(_torch.apply_function(View, left[0]), torch.arange(3.0))


def test_indices_of_a_sparse_tensor() -> None:
    x = torch.sparse_coo_tensor([[2, 0, 2]], [1.0, 2.0, 3.0], (3,), check_invariants=True)
    assert _torch.sparse_indices(x).tolist() == [[2, 0, 2]]


def test_the_function_that_a_custom_op_was_made_of() -> None:
    assert _torch.as_written(without_formula).__name__ == "without_formula"
    assert _torch.as_written(torch.sin) is torch.sin
