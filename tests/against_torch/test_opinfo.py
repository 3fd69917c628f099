"""`check` against torch's own operators: autograd passes, and autograd with one change does not."""

from __future__ import annotations

import pytest

# What torch's description of its operators imports.
pytest.importorskip("numpy", reason="torch's samples of its operators need numpy")
pytest.importorskip("expecttest", reason="torch's samples of its operators need expecttest")

from tests.against_torch import opinfo

THOROUGH = pytest.mark.thorough
IN_CI = 8  # one operator in so many, as far as CI's time goes

VARIED = (
    "abs",
    "nn.functional.softplus",
    "amax",
    "median",
    "cumprod",
    "index_select",
    "take_along_dim",
    "linalg.solve",
    "linalg.vector_norm",
    "nn.functional.max_pool2d",
)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The operators' names take torch seconds: they are asked for where they are wanted alone."""
    if metafunc.function is test_every_operator:
        wanted = not metafunc.config.option.markexpr.startswith("not ")
        names = opinfo.names() if wanted else []
        metafunc.parametrize(
            "op",
            [
                pytest.param(name, marks=pytest.mark.exhaustive if i % IN_CI else THOROUGH)
                for i, name in enumerate(names)
            ],
        )


@pytest.mark.parametrize("op", VARIED)
def test_varied_operators(op: str) -> None:
    assert_judged(op)


def test_every_operator(op: str) -> None:
    assert_judged(op)


def assert_judged(op: str) -> None:
    verdict = opinfo.judge(op)
    if verdict.left_out is not None:
        pytest.skip(verdict.left_out)
    assert not verdict.unexplained
    assert not verdict.missed


def test_what_is_read_out_of_bounds_is_not_judged() -> None:
    # Once the process ended, once another gradient came of what lay there.
    refused = ["repeat (x0.shape[2] is 19): dx0 is another at a second call on the same values"]
    assert not opinfo.Verdict("nn.functional.ctc_loss", refused=refused).unexplained
    assert opinfo.Verdict("cumsum", refused=refused).unexplained == refused
