"""`check` against `torch.autograd.gradcheck`, slow and fast, on the same sample.

``check`` asks some 200 cases of a pair, ``gradcheck`` one; its slow mode is quadratic in the size.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from backprop_ops import batchnorm, batchnorm_backward, check, tanh, tanh_backward
from benchmarks.turns import take_turns
from tests.mutation.baselines import gradcheck

JUDGES: dict[str, Callable[..., Any]] = {
    "check": partial(check, seed=0),
    "gradcheck, fast": partial(gradcheck, fast_mode=True),
    "gradcheck": partial(gradcheck, fast_mode=False),
}
PAIRS = {"tanh": (tanh, tanh_backward), "batchnorm": (batchnorm, batchnorm_backward)}
CASES = [
    *(("tanh", (8, 16), judge) for judge in JUDGES),
    *(("batchnorm", shape, judge) for shape in ((16, 8), (32, 64)) for judge in JUDGES),
    # Slow gradcheck of this would make a matrix of 512 GiB.
    *(("batchnorm", (256, 1024), judge) for judge in ("check", "gradcheck, fast")),
]


@pytest.mark.parametrize(
    ("name", "shape", "judge"), [pytest.param(*case, id=f"{case[0]}-{case[1]}") for case in CASES]
)
def test_check(benchmark: Any, name: str, shape: tuple[int, int], judge: str) -> None:
    generator = torch.Generator().manual_seed(0)
    args = [torch.randn(shape, generator=generator)]
    if name == "batchnorm":
        args += torch.randn(2, shape[1], generator=generator).unbind()
    benchmark.group = f"check of {name}, {shape[0]} × {shape[1]}"
    case = (*PAIRS[name], tuple(args), {})
    assert JUDGES[judge](*case)
    benchmark.extra_info.update(table="check", provider=judge)
    take_turns(benchmark, lambda: JUDGES[judge](*case), lambda: JUDGES["check"](*case))
