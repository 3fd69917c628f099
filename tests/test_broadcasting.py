from __future__ import annotations

import pytest
import torch

from backprop_ops import sum_to


@pytest.mark.parametrize("shape", [(2, 3, 4), (3, 4), (1, 4), (3, 1), (4,), (1,), (), (2, 1, 4)])
def test_undoes_broadcasting(shape: tuple[int, ...]) -> None:
    grad = torch.arange(24.0).reshape(2, 3, 4)
    assert torch.equal(sum_to(grad, shape), grad.sum_to_size(shape))


def test_empty_sums_to_zero() -> None:
    assert sum_to(torch.ones(0, 3), (1, 3)).tolist() == [[0, 0, 0]]


@pytest.mark.parametrize("shape", [(2,), (3, 2), (5, 2, 3), (1, 2, 3)])
def test_what_did_not_broadcast(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="does not broadcast to"):
        sum_to(torch.ones(2, 3), shape)
