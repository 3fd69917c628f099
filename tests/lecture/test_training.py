"""Exercise 4: the loss goes down, and Ctrl-C ends a run between two steps."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch

from backprop_ops import Comparison
from backprop_ops.lecture import training
from backprop_ops.lecture.checkpoint import resume, save
from backprop_ops.lecture.compiled import NoCompilerError
from backprop_ops.lecture.data import Dataset
from backprop_ops.lecture.network import Parameters, calibrate
from backprop_ops.lecture.sampling import split_loss
from backprop_ops.lecture.training import (
    DivergedError,
    Options,
    Step,
    Training,
    interruption,
    threads_for,
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


@pytest.mark.parametrize(("options", "alone"), [(Options(), True), (Options(2048, 1000), False)])
def test_threads_are_of_the_work_and_left_as_they_were(options: Options, alone: bool) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with threads_for(options):
            assert torch.get_num_threads() == (1 if alone else 2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.fixture
def short_runs_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "COMPILED_FROM", 1)


@pytest.mark.usefixtures("short_runs_compiled")
def test_a_compiled_run_is_the_plain_one_rounded_otherwise(few: Dataset, tmp_path: Path) -> None:
    plain, run, losses, said = Training.start(SMALL, few), Training.start(SMALL, few), [], []
    assert run.run(250, lambda step: losses.append(step.loss.item()), say=said.append)
    assert run.compiled
    assert said == ["compiling the training step …"]
    assert losses == pytest.approx([plain.advance().loss.item() for _ in range(250)], rel=1e-4)
    assert torch.equal(run.generator.get_state(), plain.generator.get_state())

    part, file = Training.start(SMALL, few), tmp_path / "run.pt"
    assert part.run(37, lambda _: None)
    save(part, file)
    resumed = resume(file, few)
    assert resumed.run(250, lambda _: None)
    assert_same_bits(resumed, run)


def test_a_short_run_is_plain_and_stays_so(
    few: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, said, file = Training.start(SMALL, few), [], tmp_path / "run.pt"
    run.run(5, lambda _: None, say=said.append)
    save(run, file)
    monkeypatch.setattr(training, "COMPILED_FROM", 1)
    resumed = resume(file, few)
    resumed.run(10, lambda _: None, say=said.append)
    assert not said
    assert_same_bits(resumed, advanced(Training.start(SMALL, few), 10))


@pytest.mark.usefixtures("short_runs_compiled")
@pytest.mark.parametrize("resumed", [False, True])
def test_without_a_compiler(few: Dataset, monkeypatch: pytest.MonkeyPatch, resumed: bool) -> None:
    def compiled(*_: object) -> None:
        raise NoCompilerError("no g++")

    monkeypatch.setattr(training, "compiled", compiled)
    run, said = Training.start(SMALL, few), []
    run.compiled = True if resumed else None
    assert run.run(5, lambda _: None, say=said.append)
    bits = "; the bits differ from those of the run that is resumed" * resumed
    assert said[1:] == [f"nothing compiled, going on at the plain speed{bits}: no g++"]
    assert not run.compiled
    assert_same_bits(run, advanced(Training.start(SMALL, few), 5))


@pytest.mark.thorough
def test_200000_steps_end_where_the_lectures_did(lecture: Dataset) -> None:
    run = Training.start(Options(), lecture)
    run.run(200_000, lambda _: None)
    statistics = calibrate(run.parameters, lecture.train.context)
    assert 2.06 <= split_loss(run.parameters, statistics, lecture.train) <= 2.08
    assert 2.095 <= split_loss(run.parameters, statistics, lecture.val) <= 2.125
