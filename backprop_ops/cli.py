"""The command line: ``backprop-ops COMMAND``, the same as ``python -m backprop_ops COMMAND``.

Each command calls one function of the package and prints the result.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from backprop_ops.checking.report import Report
    from backprop_ops.lecture.data import Dataset
    from backprop_ops.lecture.exercises import Exercises
    from backprop_ops.lecture.training import Step, Training
    from backprop_ops.pages.plots import History

PROGRESS_EVERY = 10_000  # steps
INTERRUPTED = 130  # the exit status after Ctrl-C

FIRST = """\
a first thing to try:
  backprop-ops check             every gradient of the lecture's network, in seconds
  backprop-ops check FILE.py     the pairs in a file of yours
  backprop-ops COMMAND --help    the options of a command
"""

# The modules that import torch are imported where they are needed: --help and a wrong argument
# are answered at once.


class _Parser(argparse.ArgumentParser):
    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


def main(argv: Sequence[str] | None = None) -> int:
    # torch warns on import where there is no numpy; nothing here needs numpy.
    warnings.filterwarnings("ignore", message="Failed to initialize NumPy")
    parser = _Parser(
        prog="backprop-ops",
        description="Hand-written backward passes, checked against autograd.",
        epilog=FIRST,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="print the versions and exit")
    parser.set_defaults(run=_version_or_help, parser=parser)
    commands = parser.add_subparsers(metavar="COMMAND", title="commands")
    for add in (
        _add_check,
        _add_report,
        _add_exercise,
        _add_train,
        _add_plot,
        _add_sample,
        _add_export,
    ):
        add(commands)
    arguments = parser.parse_args(argv)
    run = _version_or_help if arguments.version else arguments.run
    try:
        status = int(run(arguments))
        sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # the reader, `head` for one, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status


def _version_or_help(arguments: argparse.Namespace) -> int:
    if arguments.version:
        python = ".".join(map(str, sys.version_info[:3]))
        print(f"backprop-ops {version('backprop_ops')}, torch {version('torch')}, Python {python}")
        return 0
    arguments.parser.print_help()
    return 2  # nothing was checked: a script whose command is empty must not pass


def _add_check(commands: argparse._SubParsersAction[_Parser]) -> None:
    summary = "check every gradient of the lecture's network, or the pairs in a file of yours"
    check = commands.add_parser("check", help=summary, description=summary)
    check.add_argument(
        "target",
        nargs="?",
        metavar="FILE.py[::NAME]",
        help="check NAME and NAME_backward of this file on the sample that NAME_sample() returns; "
        "without ::NAME, every pair of the file that has a sample. Takes no option but --seed, "
        "which is fresh by default",
    )
    _add_names(check)
    _add_options(check, hidden=64)
    check.add_argument("--dtype", choices=("float32", "float64"), help="precision (float32)")
    check.add_argument(
        "--json", action="store_true", help="for machines: one JSON object a line, of each pair"
    )
    check.add_argument(
        "--html",
        type=Path,
        metavar="FILE",
        help="write the reports on a file's pairs as a page too",
    )
    check.set_defaults(run=_check, parser=check)


def _check(arguments: argparse.Namespace) -> int:
    return _check_network(arguments) if arguments.target is None else _check_file(arguments)


def _check_network(arguments: argparse.Namespace) -> int:
    if arguments.html is not None:
        _refuse(arguments, "argument --html: is for a file of pairs; see `backprop-ops report`")
    from backprop_ops.lecture.exercises import run_exercises

    exercises = run_exercises(
        _dataset(arguments), **_given(arguments, "hidden", "batch_size", "seed", "dtype")
    )
    _show(exercises, arguments.json)
    return 1 if exercises.wrong else 0


def _check_file(arguments: argparse.Namespace) -> int:
    """Every pair gets its report or its error; the exit status is the highest of all pairs."""
    from backprop_ops.checking.userfile import FileError, check_file

    for option in _given(arguments, "names", "hidden", "batch_size", "dtype"):
        _refuse(
            arguments,
            f"argument --{option.replace('_', '-')}: is for the lecture's network, "
            f"not for {arguments.target}",
        )
    if arguments.html is not None:
        page = _importing_pages(arguments, "page")
    reports: list[Report] = []
    errors: list[str] = []
    correct: list[str] = []
    wrong: list[str] = []
    unchecked: list[str] = []
    try:
        for name, report in check_file(arguments.target, arguments.seed):
            if correct or wrong or unchecked:
                _show("", arguments.json)
            if isinstance(report, FileError):
                unchecked.append(name)
                errors.append(str(report))
                _show({"name": name, "error": str(report)}, arguments.json)
                sys.stdout.flush()  # the error stands where the report would
                print(f"{arguments.parser.prog}: error: {report}", file=sys.stderr)
            else:
                (correct if report.ok else wrong).append(name)
                reports.append(report)
                _show(report, arguments.json)
    except FileError as error:
        _refuse(arguments, str(error))
    if arguments.html is not None:
        _write(arguments, "html", page.reports_page(arguments.target, reports, errors))
    pairs = len(correct) + len(wrong) + len(unchecked)
    if pairs > 1:
        counted = f"\n{len(correct)} of {pairs} pairs correct"
        counted += f"; wrong: {', '.join(wrong)}" if wrong else ""
        counted += f"; not checked: {', '.join(unchecked)}" if unchecked else ""
        _show(counted, arguments.json)
    return 2 if unchecked else 1 if wrong else 0


def _show(result: Report | Exercises | str | dict[str, str], as_json: bool) -> None:
    """In colour on a terminal, as plain text in a pipe; or as a line of JSON, where it is data."""
    if as_json and not isinstance(result, str):
        print(json.dumps(result if isinstance(result, dict) else result.as_dict()), flush=True)
    elif not as_json and not isinstance(result, dict):
        _print(result)


def _print(result: object) -> None:
    from rich.console import Console

    Console(highlight=False, markup=False, emoji=False, soft_wrap=True).print(result)


def _add_report(commands: argparse._SubParsersAction[_Parser]) -> None:
    summary = "write a page on every gradient of the lecture's network, to look at"
    report = commands.add_parser("report", help=summary, description=summary)
    report.add_argument(
        "--out", type=Path, default=Path("report.html"), metavar="FILE", help="(report.html)"
    )
    report.add_argument(
        "--break",
        dest="broken",
        metavar="NAME",
        help="give one gradient a wrong sign, to see how a mistake looks: dhpreact",
    )
    _add_names(report)
    _add_options(report, hidden=64)
    report.set_defaults(run=_report, parser=report)


def _report(arguments: argparse.Namespace) -> int:
    from backprop_ops.lecture.exercises import run_exercises
    from backprop_ops.lecture.network import Nodes

    broken = arguments.broken
    if broken is not None and broken not in Nodes._fields:
        broken = broken.removeprefix("d")
        if broken not in Nodes._fields:
            names = ", ".join(f"d{name}" for name in Nodes._fields)
            _refuse(arguments, f"argument --break: one of {names}, got {arguments.broken!r}")
    pages = _importing_pages(arguments, "network_page")
    exercises = run_exercises(
        _dataset(arguments), **_given(arguments, "hidden", "batch_size", "seed")
    )
    compared, page = pages.network_page(exercises, broken)
    _write(arguments, "out", page)
    _print(compared)
    print(f"written to {arguments.out}")
    return 0 if compared else 1


def _importing_pages(arguments: argparse.Namespace, name: str) -> Any:
    extra = "plot" if name == "plots" else "report"
    try:
        return import_module(f"backprop_ops.pages.{name}")
    except ImportError as error:
        _refuse(arguments, f"{error}: run pip install 'backprop_ops[{extra}]'")


def _write(arguments: argparse.Namespace, option: str, page: str) -> None:
    file: Path = getattr(arguments, option)
    try:
        file.write_text(page, encoding="utf-8")
    except OSError as error:
        _refuse(arguments, f"argument --{option}: {file}: {error.strerror}")


def _add_exercise(commands: argparse._SubParsersAction[_Parser]) -> None:
    summary = "write an exercise of the lecture to a file, or judge the file"
    exercise = commands.add_parser("exercise", help=summary, description=summary)
    exercise.add_argument("number", type=int, choices=(1, 2, 3, 4), metavar="NUMBER", help="1 to 4")
    exercise.add_argument(
        "--out", type=Path, metavar="FILE", help="file to write (exercise_NUMBER.py)"
    )
    exercise.add_argument("--check", type=Path, metavar="FILE", help="file to judge")
    exercise.set_defaults(run=_exercise, parser=exercise)


def _exercise(arguments: argparse.Namespace) -> int:
    from backprop_ops.homework.answers import judged, template

    if arguments.check is not None:
        if arguments.out is not None:
            _refuse(arguments, "argument --out: not with --check")
        return judged(arguments.number, arguments.check)
    file = arguments.out or Path(f"exercise_{arguments.number}.py")
    try:
        with file.open("x", encoding="utf-8") as stream:
            stream.write(template(arguments.number, file))
    except OSError as error:  # an answer is never written over
        _refuse(arguments, f"{file}: {error.strerror}")
    print(f"written to {file}: fill in backward, then")
    print(f"    backprop-ops exercise {arguments.number} --check {file}")
    return 0


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
    train.add_argument(
        "--plot", type=_picture, metavar="FILE", help="plots of the run at its end, PNG or SVG"
    )
    train.set_defaults(run=_train, parser=train)


def _train(arguments: argparse.Namespace) -> int:
    from backprop_ops.lecture import checkpoint
    from backprop_ops.lecture.training import DivergedError

    run = _training(arguments)
    done = run.step
    if arguments.check_gradients and not _gradients_agree(run, arguments):
        return 1
    saved = None  # the steps in the checkpoint
    history = None
    if arguments.plot is not None:
        plots = _importing_pages(arguments, "plots")
        history = plots.History(run, arguments.steps)

    def save() -> None:
        nonlocal saved
        checkpoint.save(run, arguments.save)
        saved = run.step

    try:
        finished = _steps(run, arguments.steps, save if arguments.save else None, history)
        if history is not None:
            plots.plot(run.parameters, run.dataset, history, arguments.plot)
        if finished:
            _evaluate(run)
            if run.step > done:
                print(_speed(run, run.step - done))
    except KeyboardInterrupt:
        finished = False
    except BrokenPipeError:
        raise
    except (DivergedError, OSError) as error:
        print(f"stopped after {run.step} steps: {error}", file=sys.stderr)
        return 1
    if finished:
        return 0
    if saved is None:
        kept = "nothing was kept; give --save FILE to keep a run"
    else:
        kept = f"{saved} are kept: go on with --resume {arguments.save}"
    print(f"interrupted after {run.step} steps; {kept}", file=sys.stderr)
    return INTERRUPTED


def _training(arguments: argparse.Namespace) -> Training:
    """The run that the arguments ask for, new or resumed; refused before the work begins."""
    from backprop_ops.lecture.checkpoint import CheckpointError, check_writable, resume
    from backprop_ops.lecture.training import Options, Training

    for option, file in _given(arguments, "save", "plot").items():
        try:
            check_writable(file)
        except OSError as error:
            _refuse(arguments, f"argument --{option}: {file}: {error.strerror}")
    dataset = _dataset(arguments)
    given = _given(arguments, "hidden", "batch_size", "seed", "lr")
    if arguments.resume is None:
        return Training.start(Options(**given), dataset)
    try:
        run = resume(arguments.resume, dataset, _say)
    except CheckpointError as error:
        _refuse(arguments, f"argument --resume: {error}")
    for option, value in given.items():
        if value != getattr(run.options, option):
            _refuse(
                arguments,
                f"argument --{option.replace('_', '-')}: {arguments.resume} was trained with "
                f"{getattr(run.options, option)}, got {value}",
            )
    if run.step > arguments.steps:
        _refuse(
            arguments,
            f"argument --steps: {arguments.resume} has done {run.step} steps, "
            f"got {arguments.steps} in all",
        )
    return run


def _gradients_agree(run: Training, arguments: argparse.Namespace) -> bool:
    steps = min(arguments.check_gradients, arguments.steps - run.step)
    rows = run.check_gradients(steps)
    if rows:
        print(f"gradients by hand against autograd, in float64, the worst of {steps} step(s):")
        print(*rows, sep="\n")
    wrong = [row.name for row in rows if not row]
    if wrong:
        print(f"wrong: not approximate: {', '.join(wrong)}")
    return not wrong


def _steps(
    run: Training, steps: int, save: Callable[[], None] | None, history: History | None
) -> bool:
    """Train up to the last step with a progress bar; False where Ctrl-C ended it earlier."""
    from rich import progress
    from rich.console import Console

    terminal = Console(stderr=True)
    bar = progress.Progress(
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.description}"),
        progress.TimeRemainingColumn(),
        console=terminal,
        disable=not terminal.is_terminal,
        transient=True,
        redirect_stdout=sys.stdout.isatty(),
    )
    with bar:
        task = bar.add_task("", total=steps, completed=run.step)

        def show(step: Step) -> None:
            if history is not None:
                history.add(step)
            if step.number % PROGRESS_EVERY == 0:
                print(f"{step.number:7d}/{steps:7d}: {step.loss.item():.4f}", flush=True)
            if step.number % 100 == 99 and not bar.disable:
                speed = bar.tasks[0].speed or 0
                text = f"loss {step.loss.item():.4f}, {speed:,.0f} steps/s"
                bar.update(task, completed=step.number + 1, description=text)

        return run.run(steps, show, save, _say)


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _speed(run: Training, steps: int) -> str:
    kind = f"compiled in {run.seconds_compiling:.1f} s" if run.compiled else "plain"
    return f"{steps:,} steps in {run.seconds:.1f} s, {steps / run.seconds:,.0f} steps/s, {kind}"


def _evaluate(run: Training) -> None:
    """Calibrate batch normalization over the training set, then losses and names."""
    from backprop_ops.lecture.network import calibrate
    from backprop_ops.lecture.sampling import sample_names, split_loss

    statistics = calibrate(run.parameters, run.dataset.train.context)
    for name in ("train", "val", "test"):
        loss = split_loss(run.parameters, statistics, getattr(run.dataset, name))
        print(f"{name} {loss:.4f}")
    print(*sample_names(run.parameters, statistics, run.dataset.alphabet, 20), sep="\n")


def _add_plot(commands: argparse._SubParsersAction[_Parser]) -> None:
    summary = "plot the gradients and activations of a trained network"
    plot = commands.add_parser("plot", help=summary, description=summary)
    _add_checkpoint(plot)
    plot.add_argument(
        "--out",
        type=_picture,
        metavar="FILE",
        default=Path("plot.png"),
        help="PNG or SVG (plot.png)",
    )
    _add_names(plot)
    plot.set_defaults(run=_plot, parser=plot)


def _plot(arguments: argparse.Namespace) -> int:
    from backprop_ops.lecture.checkpoint import CheckpointError, resume

    plots = _importing_pages(arguments, "plots")
    try:
        run = resume(arguments.file, _dataset(arguments), _say)
    except CheckpointError as error:
        _refuse(arguments, f"argument --from: {error}")
    try:
        plots.plot(run.parameters, run.dataset, None, arguments.out)
    except OSError as error:
        _refuse(arguments, f"argument --out: {arguments.out}: {error.strerror}")
    print(f"written to {arguments.out}")
    return 0


def _add_sample(commands: argparse._SubParsersAction[_Parser]) -> None:
    summary = "draw names from a trained network"
    sample = commands.add_parser("sample", help=summary, description=summary)
    _add_checkpoint(sample)
    sample.add_argument("--count", type=_positive, default=20, metavar="N", help="names (20)")
    sample.add_argument("--seed", type=_seed, metavar="N", help="of the draw (2147483657)")
    sample.set_defaults(run=_sample, parser=sample)


def _sample(arguments: argparse.Namespace) -> int:
    from backprop_ops.lecture.checkpoint import CheckpointError, load
    from backprop_ops.lecture.sampling import sample_names

    try:
        checkpoint = load(arguments.file)
    except CheckpointError as error:
        _refuse(arguments, f"argument --from: {error}")
    names = sample_names(
        checkpoint.parameters,
        checkpoint.statistics,
        checkpoint.alphabet,
        arguments.count,
        **_given(arguments, "seed"),
    )
    print(*names, sep="\n")
    return 0


def _add_export(commands: argparse._SubParsersAction[_Parser]) -> None:
    summary = "write golden cases of pairs, for ports to other languages"
    export = commands.add_parser("export", help=summary, description=summary)
    export.add_argument("pairs", nargs="+", metavar="NAME", help="a pair of the library, as tanh")
    export.add_argument(
        "--to",
        type=Path,
        metavar="DIR",
        dest="folder",
        required=True,
        help="folder for the cases and their manifest.json; made if it is not there",
    )
    export.set_defaults(run=_export, parser=export)


def _export(arguments: argparse.Namespace) -> int:
    from backprop_ops.export import export

    try:
        files = export(arguments.pairs, arguments.folder)
    except ValueError as error:
        _refuse(arguments, f"argument NAME: {error}")
    except ImportError as error:
        _refuse(arguments, str(error))
    except OSError as error:
        _refuse(arguments, f"argument --to: {arguments.folder}: {error.strerror}")
    print(f"{len(files) - 1} cases and manifest.json in {arguments.folder}")
    return 0


def _dataset(arguments: argparse.Namespace) -> Dataset:
    from backprop_ops.lecture.data import DataError, build_dataset, read_names

    try:
        return build_dataset(read_names(arguments.names))
    except DataError as error:
        _refuse(arguments, f"argument --names: {error}")


def _add_checkpoint(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--from",
        type=Path,
        metavar="FILE",
        dest="file",
        required=True,
        help="checkpoint that `train --save` wrote",
    )


def _add_names(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--names",
        type=Path,
        metavar="FILE",
        help="list of names, one a line, in place of the embedded one",
    )


def _add_options(parser: argparse.ArgumentParser, hidden: int) -> None:
    """Options without a default here: a resumed run takes them from its checkpoint."""
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


def _picture(text: str) -> Path:
    file = Path(text)
    if file.suffix not in (".png", ".svg"):
        raise argparse.ArgumentTypeError(f"{text!r} is no name of a .png or .svg")
    return file


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
