"""The command line: ``backprop-ops check | train | sample``, also ``python -m backprop_ops``."""

from __future__ import annotations

import argparse
import math
import os
import sys
import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from torch import Tensor

    from backprop_ops.lecture.data import Dataset
    from backprop_ops.lecture.training import Training

REPORT_EVERY = 10_000  # steps between two progress lines, and between two saves
INTERRUPTED = 130  # the exit status of what Ctrl-C ended

# The modules that import torch are imported where they are needed: --help and a wrong argument
# are answered at once.


class _Parser(argparse.ArgumentParser):
    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


def main(argv: Sequence[str] | None = None) -> int:
    # torch says so on import where there is no numpy, which nothing here needs.
    warnings.filterwarnings("ignore", message="Failed to initialize NumPy")
    parser = _Parser(
        prog="backprop-ops", description="Hand-written backward passes, checked against autograd."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in (_add_check, _add_train, _add_sample):
        add(commands)
    arguments = parser.parse_args(argv)
    try:
        status = int(arguments.run(arguments))
        sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # the reader, `head` for one, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status


def _add_check(commands: argparse._SubParsersAction[_Parser]) -> None:
    summary = (
        "compare every gradient of the lecture's network, or of your own file, with autograd's"
    )
    check = commands.add_parser("check", help=summary, description=summary)
    check.add_argument(
        "target",
        nargs="?",
        metavar="FILE.py[::NAME]",
        help="in place of the network, check NAME and NAME_backward of a file on what its "
        "NAME_sample() returns, or all of the file that have a sample; of the options only --seed "
        "applies, which is fresh by default",
    )
    _add_names(check)
    _add_options(check, hidden=64)
    check.add_argument("--dtype", choices=("float32", "float64"), help="precision (float32)")
    check.set_defaults(run=_check, parser=check)


def _check(arguments: argparse.Namespace) -> int:
    return _check_network(arguments) if arguments.target is None else _check_file(arguments)


def _check_file(arguments: argparse.Namespace) -> int:
    from backprop_ops.checking.userfile import FileError, check_file

    for option in _given(arguments, "names", "hidden", "batch_size", "dtype"):
        _refuse(
            arguments,
            f"argument --{option.replace('_', '-')}: is for the lecture's network, "
            f"not for {arguments.target}",
        )
    correct = True
    try:
        for report in check_file(arguments.target, arguments.seed):
            print(report)
            correct = correct and report.ok
    except FileError as error:
        _refuse(arguments, " ".join(str(error).split()))
    return 0 if correct else 1


def _check_network(arguments: argparse.Namespace) -> int:
    from backprop_ops.lecture.exercises import run_exercises

    dataset = _dataset(arguments)
    exercises = run_exercises(dataset, **_given(arguments, "hidden", "batch_size", "seed", "dtype"))
    for name in ("train", "val", "test"):
        split = getattr(dataset, name)
        print(f"{name:5s} {split.context.shape} {split.target.shape}")
    print(f"{sum(p.numel() for p in exercises.parameters)} parameters")
    print(f"loss {exercises.nodes.loss.item():.4f}")

    print("\nexercise 1: every value of the forward pass")
    print(*exercises.rows, sep="\n")
    print("\nexercise 2: cross-entropy in one formula")
    print(f"loss difference: {exercises.loss_difference}")
    print(exercises.logits)
    print("\nexercise 3: batch normalization in one formula")
    print(f"hpreact difference: {exercises.hpreact_difference}")
    print(exercises.hprebn)

    print("\ndlogits, first row: the probabilities,")
    print(_numbers(exercises.probs[0]))
    print("n * dlogits, which is the same with 1 taken from the target's,")
    print(_numbers(exercises.dlogits[0] * len(exercises.dlogits)))
    print(f"and the sum of the row: {exercises.dlogits[0].sum().item():.1e}\n")

    wrong = [row.name for row in exercises.comparisons if not row]
    exact = sum(row.exact for row in exercises.rows)
    if not wrong:
        print(
            f"correct: {exact} of {len(exercises.rows)} rows exact, "
            f"all {len(exercises.comparisons)} approximate"
        )
        return 0
    print(f"wrong: not approximate: {', '.join(wrong)}")
    if arguments.dtype != "float64":
        print(
            "(whether it is rounding alone, as on a batch of few or of equal rows: --dtype float64)"
        )
    return 1


def _add_train(commands: argparse._SubParsersAction[_Parser]) -> None:
    summary = "train the lecture's network with the hand-written backward"
    train = commands.add_parser("train", help=summary, description=summary)
    _add_names(train)
    train.add_argument(
        "--steps",
        type=_positive,
        default=200_000,
        metavar="N",
        help="in all, counted from the start of the first run (200000)",
    )
    _add_options(train, hidden=200)
    train.add_argument(
        "--lr",
        type=_rate,
        metavar="X",
        help="learning rate, a tenth of it from step 100,000 on (0.1)",
    )
    train.add_argument(
        "--check-gradients",
        type=_positive,
        default=0,
        metavar="N",
        help="compare the gradients of the first N steps with autograd's",
    )
    train.add_argument(
        "--save",
        type=Path,
        metavar="FILE",
        help="checkpoint, written every 10,000 steps, on Ctrl-C and at the end",
    )
    train.add_argument("--resume", type=Path, metavar="FILE", help="checkpoint to go on from")
    train.set_defaults(run=_train, parser=train)


def _train(arguments: argparse.Namespace) -> int:
    import torch

    from backprop_ops.lecture.training import DivergedError

    run = _training(arguments)
    with torch.no_grad():
        if arguments.check_gradients and not _check_gradients(run, arguments):
            return 1
        try:
            if not _steps(run, arguments):
                return INTERRUPTED
        except (DivergedError, OSError) as error:
            print(f"stopped after {run.step} steps: {error}", file=sys.stderr)
            return 1
        _evaluate(run)
    return 0


def _training(arguments: argparse.Namespace) -> Training:
    """The run that the arguments ask for, new or resumed; refused before the work begins."""
    from backprop_ops.lecture.training import CheckpointError, Options, Training, check_writable

    if arguments.save is not None:
        try:
            check_writable(arguments.save)
        except OSError as error:
            _refuse(arguments, f"argument --save: {arguments.save}: {error.strerror}")
    dataset = _dataset(arguments)
    given = _given(arguments, "hidden", "batch_size", "seed", "lr")
    if arguments.resume is None:
        return Training.start(Options(**given), dataset)
    try:
        run = Training.resume(arguments.resume, dataset)
    except CheckpointError as error:
        _refuse(arguments, f"argument --resume: {error}")
    for option, value in given.items():
        if value != getattr(run.options, option):
            _refuse(
                arguments,
                f"argument --{option.replace('_', '-')}: {arguments.resume} was trained with "
                f"{getattr(run.options, option)}, came {value}",
            )
    if run.step > arguments.steps:
        _refuse(
            arguments,
            f"argument --steps: {arguments.resume} has {run.step} steps behind it, "
            f"came {arguments.steps} in all",
        )
    return run


def _check_gradients(run: Training, arguments: argparse.Namespace) -> bool:
    """Compare the gradients of the steps to come with autograd's, on a copy of the run."""
    from backprop_ops.lecture.training import compare_with_autograd, worst

    copy, steps = run.copy(), min(arguments.check_gradients, arguments.steps - run.step)
    if steps == 0:
        return True
    comparisons = []
    for _ in range(steps):
        before = copy.copy().parameters
        comparisons.append(compare_with_autograd(before, copy.advance()))
    rows = [worst(list(of_one)) for of_one in zip(*comparisons, strict=True)]
    print(f"gradients by hand against autograd, in float64, the worst of {steps} step(s):")
    print(*rows, sep="\n")
    wrong = [row.name for row in rows if not row]
    if wrong:
        print(f"wrong: not approximate: {', '.join(wrong)}")
    return not wrong


def _steps(run: Training, arguments: argparse.Namespace) -> bool:
    """Train up to the last step; False where Ctrl-C came first."""
    from tqdm import tqdm

    from backprop_ops.lecture.training import interruption, one_thread

    steps: int = arguments.steps
    save: Path | None = arguments.save
    bar = tqdm(total=steps, initial=run.step, unit=" steps", disable=None, leave=False)
    with one_thread(), interruption() as interrupted, bar:
        while run.step < steps and not interrupted.is_set():
            number, step = run.step, run.advance()
            if number % REPORT_EVERY == 0:
                tqdm.write(f"{number:7d}/{steps:7d}: {step.loss.item():.4f}")
                sys.stdout.flush()
            if run.step % REPORT_EVERY == 0 and save is not None:
                run.save(save)
            if run.step % 100 == 0:
                bar.set_postfix(loss=f"{step.loss.item():.4f}", refresh=False)
                bar.update(run.step - bar.n)
        run.require_finite()
        if save is not None:
            run.save(save)
    if run.step < steps:
        kept = f"go on with --resume {save}" if save else "not saved, since --save was not given"
        print(f"interrupted after {run.step} steps; {kept}", file=sys.stderr)
    return run.step == steps


def _evaluate(run: Training) -> None:
    """Calibrate batch normalization over the training set, then losses and names."""
    from backprop_ops.lecture.network import calibrate
    from backprop_ops.lecture.training import sample_names, split_loss

    statistics = calibrate(run.parameters, run.dataset.train.context)
    for name in ("train", "val", "test"):
        loss = split_loss(run.parameters, statistics, getattr(run.dataset, name))
        print(f"{name} {loss:.4f}")
    print(*sample_names(run.parameters, statistics, run.dataset.alphabet, 20), sep="\n")


def _add_sample(commands: argparse._SubParsersAction[_Parser]) -> None:
    summary = "draw names from a trained network"
    sample = commands.add_parser("sample", help=summary, description=summary)
    sample.add_argument(
        "--from",
        type=Path,
        metavar="FILE",
        dest="file",
        required=True,
        help="checkpoint that `train --save` wrote",
    )
    sample.add_argument("--count", type=_positive, default=20, metavar="N", help="names (20)")
    sample.add_argument("--seed", type=_seed, metavar="N", help="of the draw (2147483657)")
    sample.set_defaults(run=_sample, parser=sample)


def _sample(arguments: argparse.Namespace) -> int:
    from backprop_ops.lecture.training import CheckpointError, load_checkpoint, sample_names

    try:
        checkpoint = load_checkpoint(arguments.file)
    except CheckpointError as error:
        _refuse(arguments, f"argument --from: {error}")
    names = sample_names(
        checkpoint.parameters,
        checkpoint.statistics,
        checkpoint.alphabet,
        arguments.count,
        **_given(arguments, "seed"),
    )
    for name in names:
        print(name)
    return 0


def _dataset(arguments: argparse.Namespace) -> Dataset:
    from backprop_ops.lecture.data import DataError, build_dataset, read_names

    try:
        return build_dataset(read_names(arguments.names))
    except DataError as error:
        _refuse(arguments, f"argument --names: {error}")


def _numbers(row: Tensor) -> str:
    return textwrap.fill(" ".join(f"{value:.4f}" for value in row.tolist()), 80)


def _add_names(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--names",
        type=Path,
        metavar="FILE",
        help="list of names, one a line, in place of the embedded one",
    )


def _add_options(parser: argparse.ArgumentParser, hidden: int) -> None:
    """What has its default where it is used; a resumed run takes it from its checkpoint."""
    parser.add_argument("--hidden", type=_positive, metavar="N", help=f"hidden units ({hidden})")
    parser.add_argument("--batch-size", type=_batch, metavar="N", help="rows a batch (32)")
    parser.add_argument(
        "--seed", type=_seed, metavar="N", help="of parameters and batches (2147483647)"
    )


def _given(arguments: argparse.Namespace, *options: str) -> dict[str, Any]:
    return {
        option: getattr(arguments, option)
        for option in options
        if getattr(arguments, option) is not None
    }


def _refuse(arguments: argparse.Namespace, message: str) -> NoReturn:
    parser: _Parser = arguments.parser
    parser.error(message)


def _integer(text: str, least: int, why: str = "") -> int:
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if not least <= value < 2**63 - 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no integer of {least} or more{why}")
    return value


def _positive(text: str) -> int:
    return _integer(text, 1)


def _seed(text: str) -> int:
    return _integer(text, 0)


def _batch(text: str) -> int:
    return _integer(text, 2, ": the corrected variance divides by n - 1")


def _rate(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no finite number above 0")
    return value
