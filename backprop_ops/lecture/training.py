"""Exercise 4: the network trained with the hand-written backward."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import NamedTuple

import torch
from torch import Tensor

from backprop_ops.comparison import Comparison
from backprop_ops.lecture.data import Dataset
from backprop_ops.lecture.network import (
    LECTURE_SEED,
    Parameters,
    fused_backward,
    fused_forward,
    initialize,
)

DECAY_STEP = 100_000  # from here on the learning rate is a tenth
SAVE_EVERY = 10_000  # steps


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
    """One step of training: how many were done before it, its batch, and the loss on it."""

    number: int
    context: Tensor
    target: Tensor
    loss: Tensor


class Training:
    """A run between two steps: ``step`` are done, the generator draws the next batch."""

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
        return Step(self.step - 1, context, target, values.loss.out)

    def run(
        self, steps: int, on_step: Callable[[Step], None], save: Callable[[], None] | None = None
    ) -> bool:
        """Train until ``steps`` are done in all. False if Ctrl-C ended it earlier.

        ``save`` is called every 10,000 steps and at the end, Ctrl-C's end included. Raises
        DivergedError where a parameter is no longer finite.
        """
        with torch.no_grad(), one_thread(), interruption() as interrupted:
            while self.step < steps and not interrupted.is_set():
                on_step(self.advance())
                if save is not None and self.step % SAVE_EVERY == 0:
                    save()
            self.require_finite()
            if save is not None:
                save()
        return self.step == steps

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
                before = copy.copy().parameters
                comparisons.append(_compare_with_autograd(before, copy.advance()))
        return [_worst(of_one) for of_one in zip(*comparisons, strict=True)]


def _compare_with_autograd(parameters: Parameters, step: Step) -> list[Comparison]:
    """The gradients of ``step``, derived again in float64, against autograd's.

    ``parameters`` are those before the step. In float32 the gradient of b1 would be rounding alone
    on both sides: batch normalization makes it zero.
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
