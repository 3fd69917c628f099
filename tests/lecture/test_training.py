"""Exercise 4: the loss goes down, and Ctrl-C ends a run between two steps."""

from __future__ import annotations

import signal

import pytest
import torch

from backprop_ops import Comparison
from backprop_ops.lecture import training
from backprop_ops.lecture.data import Dataset
from backprop_ops.lecture.network import Parameters, calibrate
from backprop_ops.lecture.sampling import split_loss
from backprop_ops.lecture.training import (
    DivergedError,
    Options,
    Step,
    Training,
    interruption,
    one_thread,
)

SMALL = Options(batch_size=16, hidden=24)


def advanced(run: Training, steps: int) -> Training:
    for _ in range(steps):
        run.advance()
    return run


def assert_same_bits(one: Training, other: Training) -> None:
    assert one.step == other.step
    for a, b in zip(one.parameters, other.parameters, strict=True):
        assert torch.equal(a, b)
    assert torch.equal(one.generator.get_state(), other.generator.get_state())


def test_loss_goes_down(few: Dataset) -> None:
    run = Training.start(SMALL, few)
    losses = [run.advance().loss.item() for _ in range(600)]
    assert sum(losses[-50:]) < 0.85 * sum(losses[:50])


def test_copy_goes_on_alone(few: Dataset) -> None:
    run = advanced(Training.start(SMALL, few), 3)
    advanced(run.copy(), 5)
    assert_same_bits(run, advanced(Training.start(SMALL, few), 3))


def test_learning_rate_decays(few: Dataset) -> None:
    run = Training.start(SMALL, few)
    early, late = run.copy(), run.copy()
    late.step = 100_000
    early.advance()
    late.advance()
    moved = [(r.parameters.W2 - run.parameters.W2).abs().sum() for r in (early, late)]
    assert (moved[1] / moved[0]).item() == pytest.approx(0.1, rel=1e-3)


def test_gradients_agree_with_autograd(few: Dataset) -> None:
    run = Training.start(SMALL, few)
    rows = run.check_gradients(5)
    assert [row.name for row in rows] == list(Parameters._fields)
    assert all(rows)
    assert_same_bits(run, Training.start(SMALL, few))


def test_worst_row_of_several_steps(few: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = iter([Comparison("C", True, True, 0.0), Comparison("C", False, False, 0.5)])
    monkeypatch.setattr(training, "_compare_with_autograd", lambda *_: [next(steps)])
    rows = Training.start(SMALL, few).check_gradients(2)
    assert rows == [Comparison("C", False, False, 0.5)]


def test_run_shows_and_saves(few: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "SAVE_EVERY", 10)
    run, shown, saved = Training.start(SMALL, few), [], []
    assert run.run(25, lambda step: shown.append(step.number), lambda: saved.append(run.step))
    assert shown == list(range(25))
    assert saved == [10, 20, 25]
    assert_same_bits(run, advanced(Training.start(SMALL, few), 25))


def test_interrupted_run_ends_after_its_step(few: Dataset) -> None:
    run, saved = Training.start(SMALL, few), []

    def interrupt(step: Step) -> None:
        if step.number == 6:
            signal.raise_signal(signal.SIGINT)

    assert not run.run(25, interrupt, lambda: saved.append(run.step))
    assert saved == [run.step] == [7]


def test_diverged_run(few: Dataset) -> None:
    run = Training.start(Options(batch_size=16, hidden=24, lr=1e30), few)
    with pytest.raises(DivergedError, match="is no longer finite; try a lower --lr"):
        run.run(5, lambda _: None)


def test_first_interrupt_waits_for_the_step() -> None:
    before = signal.getsignal(signal.SIGINT)
    with interruption() as requested:
        signal.raise_signal(signal.SIGINT)
        assert requested.is_set()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_threads_are_left_as_they_were() -> None:
    before = torch.get_num_threads()
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


@pytest.mark.thorough
def test_200000_steps_end_where_the_lectures_did(lecture: Dataset) -> None:
    run = Training.start(Options(), lecture)
    run.run(200_000, lambda _: None)
    statistics = calibrate(run.parameters, lecture.train.context)
    assert 2.06 <= split_loss(run.parameters, statistics, lecture.train) <= 2.08
    assert 2.095 <= split_loss(run.parameters, statistics, lecture.val) <= 2.125
