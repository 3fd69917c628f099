"""Exercise 4: the network trained with the hand-written backward, interrupted and resumed."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import threading
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import IO, Any, NamedTuple

import torch
from torch import Tensor

from backprop_ops.comparison import Comparison
from backprop_ops.lecture.data import END, Dataset, Split
from backprop_ops.lecture.network import (
    BLOCK_SIZE,
    EMBEDDING,
    LECTURE_SEED,
    Parameters,
    Statistics,
    calibrate,
    fused_backward,
    fused_forward,
    initialize,
    predict,
)
from backprop_ops.ops.loss import cross_entropy
from backprop_ops.ops.softmax import softmax

SAMPLE_SEED = LECTURE_SEED + 10
DECAY_STEP = 100_000  # from here on the learning rate is a tenth
LONGEST_NAME = 100  # where sampling stops, should a network never end a name

_FORMAT = 1  # of a checkpoint


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names the file and what is wrong."""


class DivergedError(ArithmeticError):
    """A training whose parameters are no longer numbers; what was saved before is kept."""


@dataclass(frozen=True)
class Options:
    """What a run is determined by, besides its data; the defaults are the lecture's."""

    batch_size: int = 32
    hidden: int = 200
    lr: float = 0.1
    seed: int = LECTURE_SEED


class Step(NamedTuple):
    """What one step of training saw, and the loss before it."""

    context: Tensor
    target: Tensor
    loss: Tensor


class Training:
    """A run between two steps: ``step`` are done, the generator stands before the next batch."""

    def __init__(
        self,
        options: Options,
        dataset: Dataset,
        parameters: Parameters,
        generator: torch.Generator,
        step: int = 0,
    ) -> None:
        self.options = options
        self.dataset = dataset
        self.parameters = parameters
        self.generator = generator
        self.step = step

    @classmethod
    def start(cls, options: Options, dataset: Dataset) -> Training:
        generator = torch.Generator().manual_seed(options.seed)
        parameters = initialize(dataset.vocabulary, options.hidden, generator)
        return cls(options, dataset, parameters, generator)

    def copy(self) -> Training:
        parameters = Parameters(*(parameter.clone() for parameter in self.parameters))
        generator = torch.Generator()
        generator.set_state(self.generator.get_state())
        return Training(self.options, self.dataset, parameters, generator, self.step)

    def advance(self) -> Step:
        """Draw a batch, derive the gradients by hand, and step against them."""
        train = self.dataset.train
        rows = torch.randint(
            len(train.target), (self.options.batch_size,), generator=self.generator
        )
        context, target = train.context[rows], train.target[rows]
        values = fused_forward(self.parameters, context, target)
        gradients = fused_backward(self.parameters, values, context, target)
        lr = self.options.lr if self.step < DECAY_STEP else self.options.lr / 10
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.add_(gradient, alpha=-lr)
        self.step += 1
        return Step(context, target, values.loss.out)

    def save(self, file: Path) -> None:
        """Write a checkpoint to a temporary file beside ``file`` and rename it to ``file``."""
        checkpoint = {
            "format": _FORMAT,
            "step": self.step,
            "options": asdict(self.options),
            "parameters": self.parameters._asdict(),
            "statistics": calibrate(self.parameters, self.dataset.train.context)._asdict(),
            "generator": self.generator.get_state(),
            "alphabet": self.dataset.alphabet,
            "digest": self.dataset.digest,
        }
        self.require_finite()
        target = file.resolve()
        with _temporary_beside(target) as stream:
            try:
                torch.save(checkpoint, stream)
                stream.flush()
                os.fsync(stream.fileno())
                os.replace(stream.name, target)
            except BaseException:
                os.unlink(stream.name)
                raise

    def require_finite(self) -> None:
        """Raise DivergedError where a parameter is infinite or nan."""
        for name, parameter in self.parameters._asdict().items():
            if not parameter.isfinite().all():
                raise DivergedError(f"{name} is no longer finite; try a lower --lr")

    @classmethod
    def resume(cls, file: Path, dataset: Dataset) -> Training:
        """The run as ``file`` left it. Raises CheckpointError where the data are not the same."""
        checkpoint = load_checkpoint(file)
        if checkpoint.alphabet != dataset.alphabet or checkpoint.digest != dataset.digest:
            raise CheckpointError(
                f"{file}: trained on another list of names (SHA-256 {checkpoint.digest[:12]}…) "
                f"than the one given ({dataset.digest[:12]}…); give the same --names"
            )
        generator = torch.Generator()
        generator.set_state(checkpoint.generator)
        return cls(checkpoint.options, dataset, checkpoint.parameters, generator, checkpoint.step)


@dataclass(frozen=True)
class Checkpoint:
    """What `Training.save` wrote."""

    step: int
    options: Options
    parameters: Parameters
    statistics: Statistics
    generator: Tensor
    alphabet: str
    digest: str


def load_checkpoint(file: Path) -> Checkpoint:
    """Read a checkpoint. Raises CheckpointError where it is none, or is damaged."""
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"{file}: {error.strerror or error}") from None
    except Exception:  # what reading a file of another kind raises has no common type
        raise CheckpointError(f"{file}: not a checkpoint, or a damaged one") from None
    try:
        if content.pop("format") != _FORMAT:
            raise CheckpointError(f"{file}: a checkpoint of another version of backprop_ops")
        content["options"] = Options(**content["options"])
        content["parameters"] = Parameters(**content["parameters"])
        content["statistics"] = Statistics(**content["statistics"])
        checkpoint = Checkpoint(**content)
        _check_shapes(checkpoint)
    except (AttributeError, KeyError, TypeError):
        raise CheckpointError(f"{file}: not a checkpoint of backprop_ops") from None
    return checkpoint


def check_writable(file: Path) -> None:
    """Raise the OSError that `Training.save` would, before the work begins."""
    if file.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if file.exists() and not file.is_file():
        raise OSError(errno.EINVAL, "not a regular file")
    with _temporary_beside(file.resolve()) as stream:
        os.unlink(stream.name)


def compare_with_autograd(parameters: Parameters, step: Step) -> list[Comparison]:
    """The gradients of ``step``, derived again in float64, against autograd's.

    ``parameters`` as they were before it. In float32 the gradient of b1, which batch normalization
    makes analytically zero, is rounding alone, on both sides.
    """
    with torch.enable_grad():
        leaves = Parameters(*(p.double().requires_grad_() for p in parameters))
        values = fused_forward(leaves, step.context, step.target)
        expected = torch.autograd.grad(values.loss.out, leaves)
    gradients = fused_backward(leaves, values, step.context, step.target)
    return [
        Comparison.of(name, gradient, reference)
        for name, gradient, reference in zip(Parameters._fields, gradients, expected, strict=True)
    ]


def worst(comparisons: list[Comparison]) -> Comparison:
    """One row for several comparisons of one gradient: what holds of all, the largest maxdiff."""
    return Comparison(
        comparisons[0].name,
        all(c.exact for c in comparisons),
        all(c.approximate for c in comparisons),
        max(c.maxdiff for c in comparisons),
        next((c.reason for c in comparisons if c.reason), ""),
    )


def split_loss(parameters: Parameters, statistics: Statistics, split: Split) -> float:
    """The mean cross-entropy over a split, with calibrated statistics."""
    logits = predict(parameters, statistics, split.context)
    return cross_entropy(logits, split.target).out.item()


def sample_names(
    parameters: Parameters,
    statistics: Statistics,
    alphabet: str,
    count: int,
    seed: int = SAMPLE_SEED,
) -> Iterator[str]:
    """Draw names, a character at a time, from what the network says comes next."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        numbers: list[int] = []
        context = [END] * BLOCK_SIZE
        while len(numbers) < LONGEST_NAME:
            logits = predict(parameters, statistics, torch.tensor([context]))
            number = int(torch.multinomial(softmax(logits, dim=1), 1, generator=generator))
            if number == END:
                break
            numbers.append(number)
            context = [*context[1:], number]
        yield "".join(alphabet[number - 1] for number in numbers)


def update_running(
    running: Statistics, mean: Tensor, var: Tensor, momentum: float = 0.1
) -> Statistics:
    """Running statistics moved towards those of a batch, as `batchnorm` returns them.

    PyTorch's convention: momentum is the weight of the new value, and var has correction=1.
    """
    return Statistics(
        torch.lerp(running.mean, mean, momentum), torch.lerp(running.var, var, momentum)
    )


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """One thread for the matrix products of small batches, where more cost more than they save."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def interruption() -> Iterator[threading.Event]:
    """An event that Ctrl-C sets, so that a step under way is finished; a second one interrupts."""
    requested = threading.Event()

    def request(signum: int, frame: FrameType | None) -> None:
        if requested.is_set():
            signal.default_int_handler(signum, frame)
        requested.set()

    before = signal.signal(signal.SIGINT, request)
    try:
        yield requested
    finally:
        signal.signal(signal.SIGINT, before)


def _temporary_beside(file: Path) -> IO[bytes]:
    """A file of this run's own, with the access rights of any new file."""
    return file.with_name(f"{file.name}.{uuid.uuid4().hex[:8]}.tmp").open("xb")


def _check_shapes(checkpoint: Checkpoint) -> None:
    """Raise TypeError where the parameters are not those of the options and the alphabet."""
    hidden, vocabulary = checkpoint.options.hidden, len(checkpoint.alphabet) + 1
    expected: dict[str, tuple[int, ...]] = {
        "C": (vocabulary, EMBEDDING),
        "W1": (BLOCK_SIZE * EMBEDDING, hidden),
        "b1": (hidden,),
        "W2": (hidden, vocabulary),
        "b2": (vocabulary,),
        "bngain": (1, hidden),
        "bnbias": (1, hidden),
        "mean": (1, hidden),
        "var": (1, hidden),
    }
    found: dict[str, Any] = {
        **checkpoint.parameters._asdict(),
        **checkpoint.statistics._asdict(),
    }
    for name, shape in expected.items():
        if tuple(found[name].shape) != shape:
            raise TypeError(f"{name} is of shape {tuple(found[name].shape)}, expected {shape}")
