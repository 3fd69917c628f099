"""A checkpoint brings back every bit of a run, and nothing else is taken for one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from backprop_ops.lecture.checkpoint import CheckpointError, _sealed, load, resume, save
from backprop_ops.lecture.data import Dataset, build_dataset
from backprop_ops.lecture.training import DivergedError, Training
from tests.lecture.test_training import SMALL, advanced, assert_same_bits


@pytest.mark.parametrize("stop", [1, 7, 20])
def test_resumed_run_ends_with_the_same_bits(few: Dataset, tmp_path: Path, stop: int) -> None:
    file = tmp_path / "run.pt"
    save(advanced(Training.start(SMALL, few), stop), file)
    resumed = resume(file, few)
    assert resumed.step == stop
    assert_same_bits(advanced(resumed, 30 - stop), advanced(Training.start(SMALL, few), 30))


def test_save_leaves_nothing_else(few: Dataset, tmp_path: Path) -> None:
    save(Training.start(SMALL, few), tmp_path / "run.pt")
    assert [file.name for file in tmp_path.iterdir()] == ["run.pt"]
    (tmp_path / "plain").touch()  # the rights that any new file has
    assert (tmp_path / "run.pt").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_save_that_fails_keeps_the_one_before(
    few: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "run.pt"
    run = Training.start(SMALL, few)
    save(run, file)
    monkeypatch.setattr(torch, "save", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        save(advanced(run, 1), file)
    assert load(file).step == 0
    assert [file.name for file in tmp_path.iterdir()] == ["run.pt"]


def test_diverged_training_is_not_saved(few: Dataset, tmp_path: Path) -> None:
    run = Training.start(SMALL, few)
    save(run, tmp_path / "run.pt")
    run.parameters.W2[0, 0] = torch.nan
    with pytest.raises(DivergedError, match="W2 is no longer finite"):
        save(run, tmp_path / "run.pt")
    assert load(tmp_path / "run.pt").parameters.W2.isfinite().all()


def test_other_data_are_refused(few: Dataset, tmp_path: Path) -> None:
    file = tmp_path / "run.pt"
    save(Training.start(SMALL, few), file)
    with pytest.raises(CheckpointError, match="trained on another list of names"):
        resume(file, build_dataset(["emma", "olivia", "ava"]))


def damaged(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:2000])


def text(file: Path) -> None:
    file.write_text("emma\n")


def other_content(file: Path) -> None:
    torch.save({"weights": torch.ones(1)}, file)


def wrong_shape(file: Path) -> None:
    content = torch.load(file, weights_only=True)
    content["parameters"]["W2"] = torch.ones(2, 2)
    file.write_bytes(_sealed(content))


def other_format(file: Path) -> None:
    file.write_bytes(_sealed({**torch.load(file, weights_only=True), "format": 99}))


@pytest.mark.parametrize("spoil", [damaged, text, other_content, wrong_shape, other_format])
def test_what_is_no_checkpoint(few: Dataset, tmp_path: Path, spoil: object) -> None:
    file = tmp_path / "run.pt"
    save(Training.start(SMALL, few), file)
    spoil(file)
    with pytest.raises(CheckpointError, match=f"^{file}: "):
        load(file)


def test_a_byte_that_was_changed(few: Dataset, tmp_path: Path) -> None:
    """Anywhere: in the numbers, where they stay finite, in the archive's headers, in the digest."""
    file = tmp_path / "run.pt"
    save(Training.start(SMALL, few), file)
    content = file.read_bytes()
    for at in [*range(0, len(content), 997), *range(len(content) - 100, len(content))]:
        file.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with pytest.raises(CheckpointError, match="not a checkpoint, or a damaged one"):
            load(file)


def test_another_machine_is_said(
    few: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, said = tmp_path / "run.pt", []
    save(Training.start(SMALL, few), file)
    resume(file, few, said.append)
    assert not said
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "Z80")
    resume(file, few, said.append)
    assert [line.endswith("Z80") for line in said] == [True]


def test_missing_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="No such file"):
        load(tmp_path / "none.pt")
