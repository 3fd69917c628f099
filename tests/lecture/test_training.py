"""Exercise 4: the loss goes down, and a run that is resumed ends with the same bits."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch

from backprop_ops.lecture.data import Dataset, build_dataset
from backprop_ops.lecture.network import Statistics, calibrate
from backprop_ops.lecture.training import (
    LONGEST_NAME,
    CheckpointError,
    DivergedError,
    Options,
    Training,
    compare_with_autograd,
    interruption,
    load_checkpoint,
    one_thread,
    sample_names,
    split_loss,
    update_running,
    worst,
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


@pytest.mark.parametrize("stop", [1, 7, 20])
def test_resumed_run_ends_with_the_same_bits(few: Dataset, tmp_path: Path, stop: int) -> None:
    file = tmp_path / "run.pt"
    advanced(Training.start(SMALL, few), stop).save(file)
    resumed = Training.resume(file, few)
    assert resumed.step == stop
    assert_same_bits(advanced(resumed, 30 - stop), advanced(Training.start(SMALL, few), 30))


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
    for _ in range(5):
        before = run.copy().parameters
        assert all(compare_with_autograd(before, run.advance()))


def test_worst_of_several() -> None:
    from backprop_ops import Comparison

    row = worst([Comparison("C", True, True, 0.0), Comparison("C", False, False, 0.5)])
    assert row == Comparison("C", False, False, 0.5)


def test_save_leaves_nothing_else(few: Dataset, tmp_path: Path) -> None:
    Training.start(SMALL, few).save(tmp_path / "run.pt")
    assert [file.name for file in tmp_path.iterdir()] == ["run.pt"]
    (tmp_path / "plain").touch()  # the rights that any new file has
    assert (tmp_path / "run.pt").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_save_that_fails_keeps_the_one_before(
    few: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "run.pt"
    run = Training.start(SMALL, few)
    run.save(file)
    monkeypatch.setattr(torch, "save", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        advanced(run, 1).save(file)
    assert load_checkpoint(file).step == 0
    assert [file.name for file in tmp_path.iterdir()] == ["run.pt"]


def test_diverged_training_is_not_saved(few: Dataset, tmp_path: Path) -> None:
    run = Training.start(SMALL, few)
    run.save(tmp_path / "run.pt")
    run.parameters.W2[0, 0] = torch.nan
    with pytest.raises(DivergedError, match="W2 is no longer finite"):
        run.save(tmp_path / "run.pt")
    assert load_checkpoint(tmp_path / "run.pt").parameters.W2.isfinite().all()


def test_other_data_are_refused(few: Dataset, tmp_path: Path) -> None:
    file = tmp_path / "run.pt"
    Training.start(SMALL, few).save(file)
    with pytest.raises(CheckpointError, match="trained on another list of names"):
        Training.resume(file, build_dataset(["emma", "olivia", "ava"]))


def damaged(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:2000])


def text(file: Path) -> None:
    file.write_text("emma\n")


def other_content(file: Path) -> None:
    torch.save({"weights": torch.ones(1)}, file)


def wrong_shape(file: Path) -> None:
    content = torch.load(file, weights_only=True)
    content["parameters"]["W2"] = torch.ones(2, 2)
    torch.save(content, file)


def other_format(file: Path) -> None:
    torch.save({**torch.load(file, weights_only=True), "format": 99}, file)


@pytest.mark.parametrize("spoil", [damaged, text, other_content, wrong_shape, other_format])
def test_what_is_no_checkpoint(few: Dataset, tmp_path: Path, spoil: object) -> None:
    file = tmp_path / "run.pt"
    Training.start(SMALL, few).save(file)
    spoil(file)
    with pytest.raises(CheckpointError, match=f"^{file}: "):
        load_checkpoint(file)


def test_missing_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="No such file"):
        load_checkpoint(tmp_path / "none.pt")


def test_split_loss_and_samples(few: Dataset) -> None:
    run = Training.start(SMALL, few)
    statistics = calibrate(run.parameters, few.train.context)
    assert 2.5 < split_loss(run.parameters, statistics, few.val) < 6
    names = list(sample_names(run.parameters, statistics, few.alphabet, 5))
    assert len(names) == 5
    assert names == list(sample_names(run.parameters, statistics, few.alphabet, 5))
    assert set("".join(names)) <= set(few.alphabet)


def test_sampling_ends(few: Dataset) -> None:
    """Also with a network that never ends a name."""
    run = Training.start(SMALL, few)
    run.parameters.b2[0] = -1e4
    statistics = calibrate(run.parameters, few.train.context)
    (name,) = sample_names(run.parameters, statistics, few.alphabet, 1)
    assert len(name) == LONGEST_NAME


def test_running_statistics_are_pytorchs() -> None:
    x = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))
    layer = torch.nn.BatchNorm1d(4)
    layer(x)
    running = update_running(Statistics(torch.zeros(4), torch.ones(4)), x.mean(0), x.var(0))
    torch.testing.assert_close(running.mean, layer.running_mean)
    torch.testing.assert_close(running.var, layer.running_var)


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
    with torch.no_grad(), one_thread():
        advanced(run, 200_000)
        statistics = calibrate(run.parameters, lecture.train.context)
        assert 2.06 <= split_loss(run.parameters, statistics, lecture.train) <= 2.08
        assert 2.095 <= split_loss(run.parameters, statistics, lecture.val) <= 2.125
