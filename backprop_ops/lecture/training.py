"""Exercise 4: the network trained with the hand-written backward."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import NamedTuple

import torch
from torch import Tensor

from backprop_ops.comparison import Comparison
from backprop_ops.lecture.compiled import BLOCK, Block, NoCompilerError, compiled
from backprop_ops.lecture.data import Dataset
from backprop_ops.lecture.network import (
    BLOCK_SIZE,
    EMBEDDING,
    LECTURE_SEED,
    Parameters,
    fused_backward,
    fused_forward,
    initialize,
)

DECAY_STEP = 100_000  # from here on the learning rate is a tenth
SAVE_EVERY = 10_000  # steps
COMPILED_FROM = 50_000  # steps left, whose plain run takes longer than compiling and running them
ONE_THREAD = 2**24  # multiplications of a step's matrix products, below which one thread is faster


class DivergedError(ArithmeticError):
    """A training whose parameters are no longer finite; an earlier checkpoint stays as it is."""


@dataclass(frozen=True)
class Options:
    """Together with the data, these determine a run; the defaults are the lecture's."""

    batch_size: int = 32
    hidden: int = 200
    lr: float = 0.1
    seed: int = LECTURE_SEED


class Step(NamedTuple):
    """One step of training: how many were done before it, and the loss on its batch."""

    number: int
    loss: Tensor


class Training:
    """A run between two steps: ``step`` are done, the generator draws the next batch.

    ``compiled``: whether its steps are compiled, which rounds otherwise than the plain ones; None
    before the first step. ``seconds``: what `run` took for its steps, and ``seconds_compiling`` for
    that.
    """

    def __init__(
        self,
        options: Options,
        dataset: Dataset,
        parameters: Parameters,
        generator: torch.Generator,
        step: int = 0,
        compiled: bool | None = None,
    ) -> None:
        self.options = options
        self.dataset = dataset
        self.parameters = parameters
        self.generator = generator
        self.step = step
        self.compiled = compiled
        self.seconds = self.seconds_compiling = 0.0

    @classmethod
    def start(cls, options: Options, dataset: Dataset) -> Training:
        generator = torch.Generator().manual_seed(options.seed)
        parameters = initialize(dataset.vocabulary, options.hidden, generator)
        return cls(options, dataset, parameters, generator)

    def copy(self) -> Training:
        parameters = Parameters(*(parameter.clone() for parameter in self.parameters))
        generator = torch.Generator()
        generator.set_state(self.generator.get_state())
        return Training(self.options, self.dataset, parameters, generator, self.step, self.compiled)

    def advance(self) -> Step:
        """Draw a batch, derive the gradients by hand, and step against them."""
        loss = self._update(*self._batch())
        self.step += 1
        return Step(self.step - 1, loss)

    def run(
        self,
        steps: int,
        on_step: Callable[[Step], None],
        save: Callable[[], None] | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> bool:
        """Train until ``steps`` are done in all. False if Ctrl-C ended it earlier.

        A run that begins with 50,000 steps or more is compiled, another is not, and a resumed one
        goes on as it began. ``save`` is called every 10,000 steps and at the end, Ctrl-C's end
        included; ``say`` with a line on what takes time or changes the bits. Raises DivergedError
        where a parameter is no longer finite.
        """
        with torch.no_grad(), threads_for(self.options):
            block = self._block(steps, say)
            begun = time.perf_counter()
            with interruption() as interrupted:
                while self.step < steps and not interrupted.is_set():
                    until_save = SAVE_EVERY - self.step % SAVE_EVERY
                    for step in self._some(block, min(steps - self.step, until_save)):
                        on_step(step)
                    if save is not None and self.step % SAVE_EVERY == 0:
                        save()
                self.seconds = time.perf_counter() - begun
                self.require_finite()
                if save is not None:
                    save()
        return self.step == steps

    def _some(self, block: Block | None, most: int) -> list[Step]:
        """The next step, or with a block the next ones."""
        if block is None:
            return [self.advance()]
        numbers = range(self.step, self.step + min(most, BLOCK))
        rates = torch.tensor([self.rate(number) for number in numbers])
        rows = self._rows(len(numbers))
        self.parameters, losses = block(self.parameters, self.dataset.train, rows, rates)
        self.step += len(numbers)
        return list(map(Step, numbers, losses.unbind()))

    def _block(self, steps: int, say: Callable[[str], None]) -> Block | None:
        """The compiled block of a run that has one."""
        as_begun, left = self.compiled, steps - self.step
        if as_begun is None:
            self.compiled = left >= COMPILED_FROM
        if not self.compiled or not left:
            return None
        say("compiling the training step …")
        before = time.perf_counter()
        try:
            return compiled(self.parameters, self.dataset.train, self.options.batch_size)
        except NoCompilerError as error:
            self.compiled = False
            bits = "; the bits differ from those of the run that is resumed" if as_begun else ""
            say(f"nothing compiled, going on at the plain speed{bits}: {error}")
            return None
        finally:
            self.seconds_compiling = time.perf_counter() - before

    def _rows(self, *steps: int) -> Tensor:
        """The examples of the next batches, (*steps, batch): the same drawn at once or in turn."""
        size = (*steps, self.options.batch_size)
        return torch.randint(len(self.dataset.train.target), size, generator=self.generator)

    def _batch(self) -> tuple[Tensor, Tensor]:
        """Contexts and targets of the next batch."""
        rows, train = self._rows(), self.dataset.train
        return train.context[rows], train.target[rows]

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        return self.options.lr if step < DECAY_STEP else self.options.lr / 10

    def _update(self, context: Tensor, target: Tensor) -> Tensor:
        """The loss on a batch, and a step against its gradients."""
        values = fused_forward(self.parameters, context, target)
        gradients = fused_backward(self.parameters, values, context, target)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.add_(gradient, alpha=-self.rate(self.step))
        return values.loss.out

    def require_finite(self) -> None:
        """Raise DivergedError where a parameter is infinite or nan."""
        for name, parameter in self.parameters._asdict().items():
            if not parameter.isfinite().all():
                raise DivergedError(f"{name} is no longer finite; try a lower --lr")

    def check_gradients(self, steps: int) -> list[Comparison]:
        """Each gradient of the next ``steps`` against autograd's: the worst row of each.

        The steps are taken on a copy of the run.
        """
        copy, comparisons = self.copy(), []
        with torch.no_grad():
            for _ in range(steps):
                batch = copy._batch()
                comparisons.append(_compare_with_autograd(copy.parameters, *batch))
                copy._update(*batch)
                copy.step += 1
        return [_worst(of_one) for of_one in zip(*comparisons, strict=True)]


def _compare_with_autograd(
    parameters: Parameters, context: Tensor, target: Tensor
) -> list[Comparison]:
    """The gradients of a batch in float64, by hand against autograd's.

    In float32 the gradient of b1 would be rounding alone on both sides: batch normalization makes
    it zero.
    """
    with torch.enable_grad():
        leaves = Parameters(*(p.double().requires_grad_() for p in parameters))
        values = fused_forward(leaves, context, target)
        expected = torch.autograd.grad(values.loss.out, leaves)
    gradients = fused_backward(leaves, values, context, target)
    return [
        Comparison.of(name, gradient, reference)
        for name, gradient, reference in zip(Parameters._fields, gradients, expected, strict=True)
    ]


def _worst(comparisons: tuple[Comparison, ...]) -> Comparison:
    """One row for several comparisons of one gradient: true if all are, the largest maxdiff."""
    return Comparison(
        comparisons[0].name,
        all(c.exact for c in comparisons),
        all(c.approximate for c in comparisons),
        max(c.maxdiff for c in comparisons),
        next((c.reason for c in comparisons if c.reason), ""),
    )


@contextlib.contextmanager
def threads_for(options: Options) -> Iterator[None]:
    """One thread for the matrix products of small batches, where more cost more than they save."""
    threads = torch.get_num_threads()
    width = BLOCK_SIZE * EMBEDDING
    if options.batch_size * options.hidden * width < ONE_THREAD:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def interruption() -> Iterator[threading.Event]:
    """An event that Ctrl-C sets, so that the current step is finished; a second one interrupts."""
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
