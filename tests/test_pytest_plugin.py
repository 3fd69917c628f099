"""The plugin in other people's projects: pytest runs in this process, or in one of its own."""

from __future__ import annotations

from typing import Any

import pytest

from backprop_ops import check, context

pytest_plugins = ["pytester"]

PAIRS = """
import torch

X = torch.tensor([[0.5, -1.25, 2.0], [1.5, 0.75, -0.5]], dtype=torch.float64)

def square(x):
    return x * x

def square_backward(dout, x):
    return 2 * x * dout

def square_of_contiguous_backward(dout, x):
    return 2 * x * dout.view(x.shape[0], -1).view(-1).view(x.shape)

def cube(x):
    return x**3

def cube_backward(dout, x):
    return 3 * x * dout
"""


@pytest.fixture(scope="module", autouse=True)
def imported() -> None:
    """A run in this process forgets what it imports, and torch cannot be imported twice."""
    names: dict[str, Any] = {}
    exec(PAIRS, names)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(context, "current", context.Context())
        for pair in ("square", "cube"):
            check(names[pair], names[f"{pair}_backward"], (names["X"],))


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    monkeypatch.setattr(context, "current", context.Context())  # that of this run is not theirs
    pytester.makepyfile(my_pairs=PAIRS)
    return pytester


def write(project: pytest.Pytester, tests: str, imports: str = "") -> None:
    head = f"import pytest\nfrom my_pairs import *\nfrom backprop_ops import check\n{imports}"
    project.makepyfile(test_it=f"{head}\n{tests}")


def test_fixture(project: pytest.Pytester) -> None:
    write(
        project,
        """
def test_square(assert_backward):
    assert_backward(square, square_backward, (X,))

def test_cube(assert_backward):
    assert_backward(cube, cube_backward, (X,))
""",
    )
    result = project.runpytest_inprocess()
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            ">       assert_backward(cube, cube_backward, (X,))",
            "E*BackwardError: cube_backward: wrong on your sample",
            "E*  dx * exact: False | approximate: False *",
            "E*value: dx* autograd says *",
            "test_it.py:*: BackwardError",
        ]
    )
    result.stdout.no_fnmatch_line("*- cube_backward -*")  # it is said once


def test_fixture_of_any_scope(project: pytest.Pytester) -> None:
    write(
        project,
        """
@pytest.fixture(scope="module")
def checked(assert_backward):
    assert_backward(square, square_backward, (X,))

def test_it(checked):
    pass
""",
    )
    result = project.runpytest_inprocess()
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["square_backward: correct"])


def test_failing_assertion_shows_the_report(project: pytest.Pytester) -> None:
    write(
        project,
        """
def test_both():
    assert check(square, square_backward, (X,))
    assert check(cube, cube_backward, (X,))
""",
    )
    result = project.runpytest_inprocess()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*- cube_backward -*",
            "cube_backward: wrong on your sample",
            "  dx * exact: False | approximate: False *",
            "value: dx* autograd says *",
        ]
    )
    result.stdout.no_fnmatch_line("*- square_backward -*")


def test_failing_fixture_shows_the_report(project: pytest.Pytester) -> None:
    write(
        project,
        """
@pytest.fixture
def checked():
    assert check(cube, cube_backward, (X,))

def test_it(checked):
    pass
""",
    )
    result = project.runpytest_inprocess()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*- cube_backward -*", "cube_backward: wrong on your sample"])


def test_last_of_many_reports_is_shown(project: pytest.Pytester) -> None:
    """Which is the smallest example of a Hypothesis test."""
    write(
        project,
        """
def test_it():
    for n in 3, 2, 1:
        last = check(cube, cube_backward, (X,), seed=n)
    assert last
""",
    )
    result = project.runpytest_inprocess()
    result.assert_outcomes(failed=1)
    assert result.stdout.str().count("\ncube_backward: wrong on your sample\n") == 1
    result.stdout.fnmatch_lines(
        ["note: seed 1", "cube_backward: wrong on your sample in 3 of 3 checks"]
    )


def test_seed(project: pytest.Pytester) -> None:
    write(
        project,
        """
def seed(**given):
    return check(square, square_backward, (X,), **given).seed

def test_of_the_run():
    assert seed() == seed() == 7

def test_of_the_check():
    assert seed(seed=8) == 8

def test_of_the_fixture(assert_backward):
    assert_backward(cube, cube_backward, (X,))
""",
    )
    result = project.runpytest_inprocess("--backward-seed", "7")
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["E*seed 7"])
    assert context.current == context.Context()  # as before


def test_fresh_seeds(project: pytest.Pytester) -> None:
    write(
        project,
        """
def test_it():
    first, second = (check(square, square_backward, (X,)) for _ in range(2))
    assert first.seed != second.seed
""",
    )
    project.runpytest_inprocess().assert_outcomes(passed=1)


def test_bad_seed(project: pytest.Pytester) -> None:
    result = project.runpytest_inprocess("--backward-seed", "seven")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*argument --backward-seed: invalid int value: 'seven'*"])


def test_marker(project: pytest.Pytester) -> None:
    write(
        project,
        """
pytestmark = pytest.mark.backward(skip="sizes")

def skipped(**given):
    report = check(square, square_of_contiguous_backward, (X,), **given)
    return report.ok, {note for note in report.notes if note.startswith("skipped: ")}

@pytest.mark.backward(skip=("layouts",))
class TestClass:
    def test_class(self):
        assert skipped() == (True, {"skipped: layouts", "skipped: sizes"})

    @pytest.mark.backward(skip=["precisions"])
    def test_method(self):
        names = "layouts", "sizes", "precisions", "upstreams"
        assert skipped(skip=["upstreams"]) == (True, {f"skipped: {name}" for name in names})

    def test_fixture(self, assert_backward):
        assert_backward(square, square_of_contiguous_backward, (X,))

def test_not_here():
    assert skipped()[0] is False
""",
    )
    result = project.runpytest_inprocess("--strict-markers")
    result.assert_outcomes(passed=4)
    result = project.runpytest_inprocess("--markers")
    result.stdout.fnmatch_lines(["@pytest.mark.backward(skip=(...), reach=...): *"])


REACHES = """
def larger_backward(dout, x):
    return 2 * x * dout * (1 if x.abs().amax() < 1e3 else 2)

def reach(**given):
    return check(square, larger_backward, (X,), **given).reach

"""


def test_reach(project: pytest.Pytester) -> None:
    """A check's own reach comes first, then the closest marker's, then the command line's."""
    write(
        project,
        REACHES
        + """
def test_of_the_command_line():
    assert reach() is None

@pytest.mark.backward(reach="sample")
class TestClass:
    @pytest.mark.backward(reach="beyond")
    def test_of_the_marker(self):
        assert reach() == "beyond"
        assert reach(reach="alike") is None
""",
    )
    project.runpytest_inprocess("--backward-reach", "alike").assert_outcomes(passed=2)
    project.runpytest_inprocess().assert_outcomes(passed=1, failed=1)
    result = project.runpytest_inprocess("--backward-reach", "near")
    assert result.ret == pytest.ExitCode.USAGE_ERROR


def test_marker_with_an_unknown_name(project: pytest.Pytester) -> None:
    write(
        project,
        """
@pytest.mark.backward(skip=("valeus",))
def test_it(assert_backward):
    assert_backward(square, square_backward, (X,))
""",
    )
    result = project.runpytest_inprocess()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*ValueError: skip: 'valeus' is no *: did you mean 'values'?"])


def test_marker_of_another_project(project: pytest.Pytester) -> None:
    """Whatever it means there, it is no business of ours."""
    project.makepyfile(
        """
import pytest

@pytest.mark.backward
@pytest.mark.backward("cuda", skip=True)
def test_it():
    pass
"""
    )
    project.runpytest_inprocess().assert_outcomes(passed=1)


TABLE = """
@pytest.mark.parametrize("times", [1, 2])
def test_square(times):
    for _ in range(times):
        assert check(square, square_backward, (X,))

def test_cube():
    check(cube, lambda dout, x: 3 * x * x * dout, (X,))
    assert not check(cube, cube_backward, (X,))

def test_added():
    assert check(added, added_backward, (torch.randn(20, 30), torch.randn(20, 30)))

def added(x, y):
    return x / 3 + y

def added_backward(dout):
    return dout * (1 / 3), dout
"""

ROWS = [
    "*= gradients by hand against autograd =*",
    "added_backward: correct",
    "  dx              | exact: False | approximate: True  | maxdiff: *",
    "  dy              | exact: True  | approximate: True  | maxdiff: 0.0",
    "cube_backward: wrong on your sample in 1 of 2 checks",
    "  dx              | exact: False | approximate: False | maxdiff: *",
    "square_backward: correct in 3 of 3 checks",
    "  dx              | exact: True  | approximate: True  | maxdiff: 0.0",
    "*= 4 passed*",
]


@pytest.mark.parametrize("arguments", [(), ("test_it.py::test_cube", "test_it.py")])
def test_table(project: pytest.Pytester, arguments: tuple[str, ...]) -> None:
    """The worst row of each gradient, in whatever order the tests run."""
    write(project, TABLE)
    result = project.runpytest_inprocess(*arguments)
    result.stdout.fnmatch_lines(ROWS, consecutive=True)


UNPROVED = """
def centred(x, b):
    return x + b - (x + b).mean(0)

def centred_backward(dout):
    dx = dout - dout.mean(0)
    return dx, dx.sum(0)

def test_centred():
    report = check(centred, centred_backward, (X, X[0]))
    assert report.verdict == "correct, but nothing proves db"
    assert report
    check(square, square_backward, (X,))
"""


def test_table_says_what_is_not_proved(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(project, UNPROVED)
    lines = [
        "centred_backward: correct, but nothing proves db",
        "  dx              | exact: *",
        "  db              | exact: * | vacuous",
        "square_backward: correct",
    ]
    project.runpytest_inprocess().stdout.fnmatch_lines(lines, consecutive=True)
    monkeypatch.setattr("backprop_ops.pytest_plugin.MANY_ROWS", 1)
    line = "centred_backward: correct, but nothing proves db | dx * | db vacuous"
    project.runpytest_inprocess().stdout.fnmatch_lines([line])


def test_table_of_xdist(project: pytest.Pytester) -> None:
    write(project, TABLE)
    result = project.runpytest_subprocess("-n", "2", "--backward-seed", "7")
    result.stdout.fnmatch_lines(ROWS)


def test_table_of_many(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backprop_ops.pytest_plugin.MANY_ROWS", 4)
    write(project, TABLE)
    result = project.runpytest_inprocess()
    result.stdout.fnmatch_lines(
        [
            "*= gradients by hand against autograd =*",
            "added_backward: correct | dx ?.?e-?? | dy exact",
            "cube_backward: wrong on your sample in 1 of 2 checks | dx *.?e+?? wrong",
            "square_backward: correct in 3 of 3 checks | dx exact",
            "*= 4 passed*",
        ],
        consecutive=True,
    )
    project.runpytest_inprocess("-v").stdout.fnmatch_lines(ROWS, consecutive=True)


def test_gradient_of_another_shape_is_the_worst_row(project: pytest.Pytester) -> None:
    write(
        project,
        """
def test_it():
    for backward in (cube_backward, lambda dout, x: dout[0], cube_backward):
        check(cube, backward, (X,))
""",
    )
    result = project.runpytest_inprocess()
    result.stdout.fnmatch_lines(["  dx * maxdiff: nan | shape (3,), expected (2, 3)"])


def test_checker_that_is_imported_in_the_test(project: pytest.Pytester) -> None:
    """With `import backprop_ops` at the top of a file too, its first use imports the checker."""
    project.makepyfile(
        """
import sys
import backprop_ops

def test_it():
    assert "backprop_ops.checking.checker" not in sys.modules
    from my_pairs import X, square, square_backward
    report = backprop_ops.check(square, square_backward, (X,))
    assert report.seed == 7
"""
    )
    result = project.runpytest_subprocess("--backward-seed", "7")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["square_backward: correct"])


def test_project_that_checks_nothing(project: pytest.Pytester) -> None:
    """It has no table, and no torch."""
    project.makepyfile(
        """
import sys
import pytest

@pytest.fixture
def unused(assert_backward):
    pass

def test_passing(record_property):
    record_property("backprop_ops_of_another", 1)
    assert "torch" not in sys.modules

def test_failing():
    assert False

@pytest.mark.skip
def test_skipped():
    pass

def teardown_module():
    assert "torch" not in sys.modules
"""
    )
    result = project.runpytest_subprocess("--strict-markers", "-W", "error")
    result.assert_outcomes(passed=1, failed=1, skipped=1)
    result.stdout.no_fnmatch_line("*gradients*")
    result.stdout.no_fnmatch_line("*backward*")


def test_without_the_plugin(project: pytest.Pytester) -> None:
    write(project, "def test_it():\n    assert check(square, square_backward, (X,))")
    result = project.runpytest_inprocess("-p", "no:backprop_ops")
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*gradients*")
