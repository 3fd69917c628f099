"""The lecture's exercises as homework: a file with blanks, and a judge of what is filled in.

    python -m backprop_ops.homework.answers NUMBER FILE

judges in this process; `judged` runs it in another, with a time limit.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backprop_ops.checking.checker import check
from backprop_ops.checking.userfile import FileError, run_file
from backprop_ops.lecture.data import Dataset, build_dataset, read_names
from backprop_ops.lecture.network import LECTURE_SEED, Parameters, initialize
from backprop_ops.nodes import compare_nodes
from backprop_ops.pair import Index

MOST_SECONDS = 120.0  # of the clock, for a file
HIDDEN, BATCH = 64, 32
STEPS, LR = 1000, 0.1  # of the training after exercise 4

RULES = {
    "C[Xb]": "a row that is looked up more than once gets the sum of its gradients",
    "tanh(": "the derivative of tanh is 1 minus its output squared",
    ".exp()": "the derivative of exp is its output",
    ".log()": "the derivative of log is 1 over its input",
    ".max(": "of each row the largest alone gets a gradient",
    "[range(n), Yb]": "only the entries that are picked get a gradient",
    "**": "the derivative of x**k is k * x**(k - 1)",
    " @ ": "one factor's gradient is dout times the other one transposed, in the order that fits",
    ".sum(": "every entry of a sum gets the same gradient",
    " * ": "one factor's gradient is dout times the other, summed over where it was broadcast",
    " - ": "what is subtracted gets minus dout, summed over where it was broadcast",
    " + ": "each summand gets dout, summed over where it was broadcast",
}
"""What holds of a line of the forward in which one of these is."""


class UnfinishedError(Exception):
    """A file in which nothing is filled in; the message says what to do."""


def template(number: int, file: Path) -> str:
    """The text of an exercise, which names the file that it is written to."""
    source = resources.files("backprop_ops.homework").joinpath(f"templates/exercise_{number}.txt")
    return source.read_text("utf-8").replace("{file}", str(file))


def judged(number: int, file: Path) -> int:
    """Judge a file in a process of its own, which prints what it finds.

    The status is 0 where all is right, 1 where something is wrong or left empty, and 2 where the
    file cannot be judged.
    """
    command = [sys.executable, "-m", "backprop_ops.homework.answers", str(number), str(file)]
    try:
        return subprocess.run(command, timeout=MOST_SECONDS, check=False).returncode
    except subprocess.TimeoutExpired:
        print(f"{file}: does not end within {MOST_SECONDS:g} s", file=sys.stderr)
        return 2


def judge(number: int, file: Path) -> bool:
    """Print what is right and wrong in a file; whether all is right.

    Raises FileError with the line of the file that raises, UnfinishedError where all is empty.
    """
    try:
        source = file.read_bytes()
    except OSError as error:
        raise FileError(f"{file}: {error.strerror}") from error
    functions = run_file(file, source)
    for name in ("forward", "backward"):
        if name not in functions:
            raise FileError(f"{file} has no function {name!r}: begin again with the exercise's own")
    forward, backward = (_blaming(file, functions[name]) for name in ("forward", "backward"))
    dataset = build_dataset(read_names())
    parameters, batch = _drawn(dataset)
    if number in (2, 3):
        return _judge_formula(number, forward, backward, parameters, batch)
    right = _judge_lines(forward, backward, parameters, batch, source.decode())
    if right and number == 4:
        _train(forward, backward, parameters, dataset)
    return right


def _drawn(dataset: Dataset) -> tuple[Parameters, tuple[Tensor, Tensor]]:
    """The network's parameters and a batch, in float64, where a mistake is no rounding."""
    generator = torch.Generator().manual_seed(LECTURE_SEED)
    parameters = initialize(dataset.vocabulary, HIDDEN, generator)
    return Parameters(*(p.double() for p in parameters)), _batch(dataset, generator)


def _batch(dataset: Dataset, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    train = dataset.train
    rows = torch.randint(len(train.target), (BATCH,), generator=generator)
    return train.context[rows], train.target[rows]


def _judge_lines(
    forward: Callable[..., Any],
    backward: Callable[..., Any],
    parameters: Parameters,
    batch: tuple[Tensor, Tensor],
    source: str,
) -> bool:
    leaves = [parameter.clone().requires_grad_() for parameter in parameters]
    values = forward(*leaves, *batch)
    nodes = {name: x for name, x in values.items() if _is_number(x)}
    with torch.no_grad():
        made = backward(**{n: x.detach() if _is_number(x) else x for n, x in values.items()})
    if not isinstance(made, dict):
        raise UnfinishedError("backward must end in `return locals()`")
    given = {d[1:]: gradient for d, gradient in made.items() if d[:1] == "d" and d[1:] in nodes}
    empty = [name for name, gradient in given.items() if gradient is None]
    filled = {name: gradient for name, gradient in given.items() if gradient is not None}
    if not filled:
        raise UnfinishedError("backward is empty: begin with its first line, next to the loss")
    asked = {name: nodes[name] for name in (*filled, "loss")}
    result = compare_nodes(asked, filled)
    for culprit in result.culprits:
        for line in _uses(source, culprit.name):
            rule = next((said for sign, said in RULES.items() if sign in line), "")
            print(f"d{culprit.name}: {culprit.name} is used in `{line}`{rule and f'; {rule}'}")
    if empty:
        print(f"still empty: {', '.join(f'd{name}' for name in empty)}")
    return bool(result) and not empty


def _judge_formula(
    number: int,
    forward: Callable[..., Any],
    backward: Callable[..., Any],
    parameters: Parameters,
    batch: tuple[Tensor, Tensor],
) -> bool:
    generator = torch.Generator().manual_seed(LECTURE_SEED)
    if number == 2:
        logits = torch.randn(BATCH, len(parameters.b2), generator=generator, dtype=torch.float64)
        first = backward(logits.clone(), batch[1])

        def loss(logits: Tensor, target: Index) -> Any:
            return forward(logits, target)

        def loss_backward(dout: Tensor, logits: Tensor, target: Index) -> Any:
            return dout * backward(logits, target)

        pair: tuple[Any, Any, tuple[Any, ...]] = loss, loss_backward, (logits, batch[1])
    else:
        hprebn = 2 * torch.randn(BATCH, HIDDEN, generator=generator, dtype=torch.float64) + 0.5
        given = hprebn, parameters.bngain, parameters.bnbias
        first = backward(torch.ones_like(hprebn), *(x.clone() for x in given))

        def norm(hprebn: Tensor, *, bngain: Tensor, bnbias: Tensor) -> Any:
            return forward(hprebn, bngain, bnbias)

        def norm_backward(dout: Tensor, hprebn: Tensor, *, bngain: Tensor, bnbias: Tensor) -> Any:
            return backward(dout, hprebn, bngain, bnbias)

        pair = norm, norm_backward, given[:1]
    if first is None:
        raise UnfinishedError("backward is empty: it returns None")
    options = {} if number == 2 else {"bngain": parameters.bngain, "bnbias": parameters.bnbias}
    report = check(*pair, options, reach="alike", seed=0)
    name = "dlogits" if number == 2 else "dhprebn"
    for row in report.comparisons:
        print(row)
    for failure in report.failures:
        print(f"{name}: {failure.verdict}")
        print(f"{failure.property}: {failure.message}")
        if failure.explanation:
            print(f"likely mistake ({failure.mistake}): {failure.explanation}")
    if report:
        print(f"correct: {name}, on this batch and on others like it")
    return bool(report)


def _train(
    forward: Callable[..., Any],
    backward: Callable[..., Any],
    parameters: Parameters,
    dataset: Dataset,
) -> None:
    generator = torch.Generator().manual_seed(LECTURE_SEED)
    own = [parameter.clone() for parameter in parameters]
    losses = []
    with torch.no_grad():
        for _ in range(STEPS):
            values = forward(*own, *_batch(dataset, generator))
            made = backward(**values)
            losses.append(values["loss"].item())
            for name, parameter in zip(Parameters._fields, own, strict=True):
                parameter -= LR * made[f"d{name}"]
    early, late = (sum(part) / len(part) for part in (losses[:100], losses[-100:]))
    print(
        f"trained for {STEPS} steps without autograd: the loss went from {early:.2f} to {late:.2f}"
    )


def _uses(source: str, name: str) -> list[str]:
    """The lines of the forward that read a value."""
    lines = (line.split("#")[0].strip() for line in source.split("def backward(")[0].splitlines())
    return [line for line in lines if re.search(rf" = .*\b{name}\b", line)]


def _is_number(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _blaming(file: Path, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, whose errors name their line in the file."""

    def called(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            raise FileError.at(file, error) from error

    return called


def main() -> int:
    number, file = int(sys.argv[1]), Path(sys.argv[2])
    try:
        return 0 if judge(number, file) else 1
    except UnfinishedError as error:
        print(error)
        return 1
    except FileError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
