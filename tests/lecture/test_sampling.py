"""The loss on a split, and the names of a network."""

from __future__ import annotations

from backprop_ops.lecture.data import Dataset
from backprop_ops.lecture.network import calibrate
from backprop_ops.lecture.sampling import LONGEST_NAME, sample_names, split_loss
from backprop_ops.lecture.training import Training
from tests.lecture.test_training import SMALL


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
