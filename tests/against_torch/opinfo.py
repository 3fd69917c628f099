"""`check` against every differentiable operator of torch: no right backward refused, no wrong one
passed.

    python -m tests.against_torch.opinfo [--op NAME ...] [--results FILE] [--processes N]

torch's own tests describe each operator by samples (``op_db``). One ordinary sample of each makes
a pair: the operator, and autograd as the backward written by hand. `check` has to pass it, and to
flag each of its `CHANGES`. With a file of results an interrupted run goes on where it stopped.

Each operator is judged in a process of its own, which may hang or crash; and torch's test utilities
replace the Hypothesis profiles of the process that imports them.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import inspect
import json
import multiprocessing
import random
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.progress import track
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from backprop_ops import check
from tests.support.verdict import unexplained

SEED = 0  # of the samples, and of what `check` draws
SECONDS = 900.0  # for one operator: the 21 checks of multi-head attention take 260
MOST_ELEMENTS = 200  # of an input in an ordinary sample
NOISE = 1e-9  # a gradient this small is zero but for its rounding: to change it changes nothing

RAISES = "check raises"
OP_DB = "torch.testing._internal.common_methods_invocations"

# The fork server imports torch's samples once; each operator's process starts from there.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload([OP_DB, "backprop_ops"])

# Where `check` is right to refuse autograd: what the failure then says.
TORCHS_OWN = {
    # The backward is the exponential of a block matrix that holds the upstream, and a large one
    # drowns the rest.
    "matrix_exp": "of twice the upstream is not twice",
    # It reads the upstream's memory from the beginning, wherever the upstream begins in it.
    "as_strided_scatter": "of twice the upstream is not twice",
}
# Their kernels read out of bounds, unchecked, and the process may end or a value be any: running
# statistics of another size, targets beyond the classes, offsets beyond the end.
OUT_OF_BOUNDS = {
    "native_batch_norm",
    "_native_batch_norm_legit",
    "_batch_norm_with_update",
    "nn.functional.ctc_loss",
    "_segment_reduce.offsets",
}


@dataclass
class Verdict:
    """What `check` made of one operator.

    ``refused``: the failures of the right backward; ``missed``: the wrong backwards passed.
    """

    op: str
    left_out: str | None = None
    sample: str = ""
    refused: list[str] = field(default_factory=list)
    flagged: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)
    seconds: float = 0.0  # of the check of the right backward

    @property
    def unexplained(self) -> list[str]:
        """The refusals that torch is not to blame for."""
        if self.op in OUT_OF_BOUNDS:
            return []
        own = TORCHS_OWN.get(self.op)
        return [line for line in self.refused if own is None or own not in line]


class LeftOut(Exception):  # noqa: N818  # no error
    """An operator that is no pair for `check`; the message is the reason."""


class Wrapped(NamedTuple):
    """An operator on one sample as a pair, and the sample as its arguments."""

    forward: Callable[..., Any]
    backward: Callable[..., tuple[Tensor | None, ...]]
    args: tuple[Tensor, ...]
    constants: dict[str, Tensor]

    def changed(self, slot: int, change: Callable[[Tensor], Tensor]) -> Wrapped:
        """The same pair with one of the gradients changed."""

        def backward(*given: Tensor, **constants: Tensor) -> tuple[Tensor | None, ...]:
            gradients = list(self.backward(*given, **constants))
            gradient = gradients[slot]
            gradients[slot] = None if gradient is None else change(gradient)
            return tuple(gradients)

        return self._replace(backward=_named(backward, like=self.backward))


def _one_entry_off(gradient: Tensor) -> Tensor:
    """The middle entry off by a hundredth of the largest one."""
    if not gradient.numel():  # of a smaller shape
        return gradient
    off = gradient.flatten().clone()
    off[off.numel() // 2] += off[off.abs().argmax()] / 100
    return off.reshape(gradient.shape)


CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "scaled": lambda gradient: gradient * 1.001,
    "negated": torch.neg,
    "zeroed": torch.zeros_like,
    "one entry off": _one_entry_off,
}


def names() -> list[str]:
    """Every operator of ``op_db`` that is differentiable in float64 on the CPU."""
    return _isolated(_names, SECONDS)


def judge(op: str, seconds: float = SECONDS) -> Verdict:
    """Judge one operator in a process of its own; no verdict in time counts as refused."""
    try:
        return _isolated(_judge, seconds, op)
    except (TimeoutError, ChildProcessError) as error:
        return Verdict(op, refused=[str(error)], seconds=seconds)


def _isolated(function: Callable[..., Any], seconds: float, *args: str) -> Any:
    receiver, sender = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=_send, args=(sender, function, *args), daemon=True)
    process.start()
    sender.close()
    try:
        if not receiver.poll(seconds):
            raise TimeoutError(f"no verdict within {seconds:.0f} s")
        return receiver.recv()
    except EOFError:
        process.join()
        raise ChildProcessError(f"the process ended with {process.exitcode}") from None
    finally:
        process.kill()
        process.join()
        receiver.close()


def _send(sender: Connection, function: Callable[..., Any], *args: str) -> None:
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the operators' own: deprecated, or in beta
        sender.send(function(*args))


def full_name(op: Any) -> str:
    """As OpInfo.full_name, which torch 2.4 lacks."""
    return ".".join(filter(None, (op.name, op.variant_test_name)))


def _op_db() -> dict[str, Any]:
    return {
        full_name(op): op
        for op in importlib.import_module(OP_DB).op_db
        if op.supports_autograd and torch.float64 in op.dtypes
    }


def _names() -> list[str]:
    return list(_op_db())


def _judge(name: str) -> Verdict:
    verdict = Verdict(name)
    try:
        wrapped = ordinary_pair(_op_db()[name])
    except LeftOut as reason:
        verdict.left_out = str(reason)
        return verdict
    verdict.sample = _sizes(wrapped)
    begin = time.perf_counter()
    refused = failures(wrapped)
    verdict.seconds = time.perf_counter() - begin
    verdict.refused = [f"{where}: {message}" for where, message in refused.items()]
    for slot, what, change in _real_changes(wrapped):
        # What is also said of the right backward, and an error of the checker, flags nothing.
        found = failures(wrapped.changed(slot, change)).keys() - refused - {RAISES}
        (verdict.flagged if found else verdict.missed).append(what)
    return verdict


def failures(wrapped: Wrapped) -> dict[str, str]:
    """What `check` finds wrong: property and variation, and the message."""
    try:
        with unexplained():
            report = check(
                wrapped.forward, wrapped.backward, wrapped.args, wrapped.constants, seed=SEED
            )
    except Exception as error:  # whatever it is, an ordinary sample of a pair is refused
        return {RAISES: f"{type(error).__name__}: {error}"}
    return {f"{f.property} ({f.variation or 'the sample'})": f.message for f in report.failures}


def _real_changes(wrapped: Wrapped) -> Iterator[tuple[int, str, Callable[[Tensor], Tensor]]]:
    """The changes of every gradient that they really change."""
    slots = [name for name, x in zip(_inputs(wrapped), wrapped.args, strict=True) if _floating(x)]
    results = _results(wrapped.forward(*wrapped.args, **wrapped.constants))
    generator = torch.Generator().manual_seed(SEED)
    upstreams = [torch.randn(r.shape, generator=generator, dtype=r.dtype) for r in results]
    gradients = wrapped.backward(*upstreams, *wrapped.args, **wrapped.constants)
    for slot, (name, gradient) in enumerate(zip(slots, gradients, strict=True)):
        size = gradient.abs().max() if gradient is not None and gradient.numel() else 0
        if NOISE < size < torch.inf:
            for what, change in CHANGES.items():
                yield slot, f"d{name} {what}", change


def ordinary_pair(op: Any) -> Wrapped:
    """The operator on the first ordinary of its samples, else on the first that is a pair."""
    torch.manual_seed(SEED)
    random.seed(SEED)
    usable, reasons = [], []
    for sample in op.sample_inputs("cpu", torch.float64, requires_grad=True):
        try:
            wrapped = wrap(op, sample)
        except LeftOut as reason:
            reasons.append(str(reason))
            continue
        if _ordinary(wrapped):
            return wrapped
        usable.append(wrapped)
    if not usable:
        raise LeftOut(Counter(reasons).most_common(1)[0][0] if reasons else "no sample")
    return usable[0]


def wrap(op: Any, sample: Any) -> Wrapped:
    """The pair of an operator and autograd: a positional parameter for each tensor of the sample.

    Floating tensors that the sample takes no gradient of (class weights, running statistics) are
    keyword-only; everything else is part of the forward.
    """
    leaves, tree = tree_flatten((sample.input, sample.args, sample.kwargs))
    tensors = {i: x for i, x in enumerate(leaves) if isinstance(x, Tensor)}
    if any(x.layout != torch.strided for x in tensors.values()):
        raise LeftOut("sparse")
    if any(x.is_complex() for x in tensors.values()):
        raise LeftOut("complex input")
    constants = {f"c{i}": x for i, x in tensors.items() if _floating(x) and not x.requires_grad}
    inputs = {f"x{i}": x.detach() for i, x in tensors.items() if f"c{i}" not in constants}
    if not any(map(_floating, inputs.values())):
        raise LeftOut("no floating input to take a gradient of")

    def outputs(*xs: Tensor, **constants: Tensor) -> list[Tensor]:
        # Some operators update their running statistics in place.
        own = {name: constant.clone() for name, constant in constants.items()}
        given = {**dict(zip(inputs, xs, strict=True)), **own}
        values = [given.get(f"x{i}", given.get(f"c{i}", x)) for i, x in enumerate(leaves)]
        input_, args, kwargs = tree_unflatten(values, tree)
        result = op.gradcheck_wrapper(op.get_op(), input_, *args, **kwargs)
        return [y for y in tree_leaves(sample.output_process_fn_grad(result)) if _floating(y)]

    names = _output_names(outputs, tuple(inputs.values()), constants)
    record = NamedTuple("Outputs", [(name, Tensor) for name in names])  # type: ignore[misc]

    def forward(*xs: Tensor, **constants: Tensor) -> Any:
        results = outputs(*xs, **constants)
        if len(results) != len(names):
            raise ValueError(f"{len(results)} outputs, not {len(names)} as on the sample")
        return record(*results) if len(names) > 1 else results[0]

    def backward(*given: Tensor, **constants: Tensor) -> tuple[Tensor | None, ...]:
        upstreams, xs = given[: len(names)], given[len(names) :]
        xs = tuple(x.detach().requires_grad_(_floating(x)) for x in xs)
        with torch.enable_grad():
            results = outputs(*xs, **constants)
        flowing = [i for i, y in enumerate(results) if y.requires_grad]
        return torch.autograd.grad(
            [results[i] for i in flowing],
            [x for x in xs if x.requires_grad],
            [upstreams[i] for i in flowing],
            allow_unused=True,
        )

    forward.__name__ = full_name(op)
    forward.__signature__ = _signature(inputs, constants)  # type: ignore[attr-defined]
    backward.__name__ = f"{forward.__name__}_backward"
    backward.__signature__ = _signature(  # type: ignore[attr-defined]
        [*(f"d{name}" for name in names), *inputs], constants
    )
    return Wrapped(forward, backward, tuple(inputs.values()), constants)


def _output_names(
    outputs: Callable[..., list[Tensor]], args: tuple[Tensor, ...], constants: dict[str, Tensor]
) -> list[str]:
    """A name for each output of a deterministic operator that autograd can differentiate."""
    xs = [x.clone().requires_grad_(_floating(x)) for x in args]
    try:
        results, again = (outputs(*xs, **constants) for _ in range(2))
    except Exception as error:
        raise LeftOut(f"raises {type(error).__name__} on its samples") from error
    if any(y.layout != torch.strided for y in results):
        raise LeftOut("sparse")
    if not any(y.requires_grad for y in results):
        raise LeftOut("no floating output to take a gradient of")
    if not all(y.isfinite().all() for y in results):
        raise LeftOut("not finite on its samples")
    if not all(map(torch.equal, results, again)):
        raise LeftOut("random")
    return [f"y{i}" for i in range(len(results))] if len(results) > 1 else ["out"]


def _ordinary(wrapped: Wrapped) -> bool:
    sizes = [x.numel() for x in wrapped.args if _floating(x)]
    return 1 < max(sizes) <= MOST_ELEMENTS and min(sizes) > 0


def _floating(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _results(result: Any) -> tuple[Tensor, ...]:
    return (result,) if isinstance(result, Tensor) else tuple(result)


def _inputs(wrapped: Wrapped) -> list[str]:
    parameters = inspect.signature(wrapped.forward).parameters
    return [name for name in parameters if name not in wrapped.constants]


def _sizes(wrapped: Wrapped) -> str:
    arguments = {**dict(zip(_inputs(wrapped), wrapped.args, strict=True)), **wrapped.constants}
    return ", ".join(f"{name}: {tuple(x.shape)}" for name, x in arguments.items())


def _signature(inputs: Iterable[str], constants: Iterable[str]) -> inspect.Signature:
    kind = inspect.Parameter
    return inspect.Signature(
        [
            *(kind(name, kind.POSITIONAL_OR_KEYWORD) for name in inputs),
            *(kind(name, kind.KEYWORD_ONLY) for name in constants),
        ]
    )


def _named(function: Any, like: Any) -> Any:
    function.__name__ = like.__name__
    function.__signature__ = like.__signature__
    return function


def verdicts(ops: Sequence[str], file: Path | None, processes: int) -> list[Verdict]:
    """Judge the operators, those aside that the file has; each verdict is added as it comes."""
    known = []
    if file is not None and file.exists():
        known = [Verdict(**json.loads(line)) for line in file.read_text().splitlines()]
        known = [verdict for verdict in known if verdict.op in ops]
    missing = sorted(set(ops) - {verdict.op for verdict in known}, key=list(ops).index)
    with contextlib.ExitStack() as stack:
        results = stack.enter_context(file.open("a")) if file is not None else None
        pool = stack.enter_context(ThreadPoolExecutor(processes))
        # An interruption does not wait for the operators that have not begun.
        stack.callback(pool.shutdown, wait=False, cancel_futures=True)
        futures = [pool.submit(judge, op) for op in missing]
        for future in track(as_completed(futures), "operators", len(futures)):
            known.append(future.result())
            if results is not None:
                print(json.dumps(asdict(known[-1])), file=results, flush=True)
    return known


def summary(found: Sequence[Verdict]) -> str:
    judged = [verdict for verdict in found if verdict.left_out is None]
    refused = [verdict for verdict in judged if verdict.unexplained]
    explained = [v.op for v in judged if v.refused and not v.unexplained]
    passed = len(judged) - len(refused) - len(explained)
    flagged = sum(len(verdict.flagged) for verdict in judged)
    missed = sum(len(verdict.missed) for verdict in judged)
    left_out = Counter(verdict.left_out for verdict in found if verdict.left_out is not None)
    return "\n".join(
        [
            f"right backwards: {passed} passed, {len(refused)} refused",
            *(f"  {verdict.op}: {verdict.unexplained[0]}" for verdict in refused),
            f"refused where torch is to blame: {len(explained)}",
            *(f"  {op}" for op in explained),
            f"wrong backwards: {flagged} flagged, {missed} missed",
            *(f"  {v.op}: {', '.join(v.missed)}" for v in judged if v.missed),
            f"left out: {left_out.total()}",
            *(f"  {count} {reason}" for reason, count in left_out.most_common()),
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="check against every operator of torch")
    parser.add_argument("--op", nargs="+", metavar="NAME", help="these alone")
    parser.add_argument("--results", type=Path, metavar="FILE", help="JSON lines, added to")
    parser.add_argument("--processes", type=int, default=2, metavar="N")
    arguments = parser.parse_args()
    known = names()
    unknown = sorted(set(arguments.op or ()) - set(known))
    if unknown:
        parser.error(f"no operator of op_db: {', '.join(unknown)}")
    begin = time.perf_counter()
    found = verdicts(arguments.op or known, arguments.results, arguments.processes)
    print(summary(found))
    print(f"{time.perf_counter() - begin:.0f} s")
    return int(any(verdict.unexplained or verdict.missed for verdict in found))


if __name__ == "__main__":
    sys.exit(main())
