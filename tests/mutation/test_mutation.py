"""That `check` finds every automatic mutant, and tests of what makes them."""

from __future__ import annotations

import inspect

import pytest

from backprop_ops import Pair, pairs
from tests.mutation.mutation import Mutant, agrees, calls, mutants, original, survives
from tests.support.families import equivalent

pytestmark = pytest.mark.usefixtures("unseen")

PAIRS = [pytest.param(pair, id=name) for name, pair in pairs.items()]


def wrong(pair: Pair) -> list[Mutant]:
    return [mutant for mutant in mutants(pair) if mutant.name not in equivalent(pair)]


@pytest.mark.parametrize("pair", PAIRS)
def test_one_is_found(pair: Pair) -> None:
    found = wrong(pair)
    mutant = found[len(found) // 2]
    assert not survives(mutant), mutant.name


@pytest.mark.thorough
@pytest.mark.parametrize("pair", PAIRS)
def test_the_right_one_is_passed(pair: Pair) -> None:
    """On every sample: one that `check` refuses would find anything."""
    assert survives(original(pair))


@pytest.mark.thorough
@pytest.mark.parametrize("pair", PAIRS)
def test_all_are_found(pair: Pair) -> None:
    missed = [mutant.name for mutant in wrong(pair) if survives(mutant)]
    assert not missed, "\n".join(["passed by check:", *missed])


@pytest.fixture(scope="module")
def every() -> dict[str, Mutant]:
    return {mutant.name: mutant for pair in pairs.values() for mutant in mutants(pair)}


def test_names_are_unique(every: dict[str, Mutant]) -> None:
    assert len(every) == sum(len(mutants(pair)) for pair in pairs.values())
    assert len({mutant.source for mutant in every.values()}) == len(every)


@pytest.mark.parametrize("pair", PAIRS)
def test_equivalent_ones_exist(pair: Pair) -> None:
    names = equivalent(pair)
    assert len(set(names)) == len(names)
    assert not set(names) - {mutant.name for mutant in mutants(pair)}


def test_equivalent_ones_agree(every: dict[str, Mutant]) -> None:
    """With the pair's own backward on every sample: none is called equivalent that shows there."""
    found = [every[name] for pair in pairs.values() for name in equivalent(pair)]
    assert not [m.name for m in found if not all(agrees(m, *call) for call in calls(m.pair))]


@pytest.mark.parametrize("pair", PAIRS)
def test_name_and_signature_are_kept(pair: Pair) -> None:
    for mutant in mutants(pair):
        assert mutant.backward.__name__ == pair.backward.__name__
        assert mutant.backward.__module__ == pair.backward.__module__
        assert inspect.signature(mutant.backward) == inspect.signature(pair.backward)


@pytest.mark.parametrize(
    "name",
    [
        "softmax: line 4: probs * dprobs → probs / dprobs",  # an operator
        "softmax: line 4: (probs * dprobs).sum → (probs * dprobs).mean",  # a method
        "softmax: line 4: dprobs - … → dprobs",  # a term
        "softmax: line 4: keepdim=True → keepdim=False",
        "softmax: line 4: dim → 0",
        "softmax: line 4: dprobs → -dprobs",  # a sign
        "softmax: line 4: dprobs → out",  # a name
        "softmax: line 5: dx → None",
        "softmax: line 5: dx → 0 * dx",
        "log_softmax: line 4: logprobs.exp → logprobs.expm1",  # a function
        "add: line 3: sum_to(dout, x.shape) → dout",  # a call
        "add: line 3: takes_gradient(x) → False",  # a condition
        "add: line 5: (dx, dy) → (dy, dx)",
        "matmul: line 6: y.dim() == 1 → y.dim() != 1",
        "matmul: line 12: columns.mT → columns",
        "cross_entropy: line 23: probs.shape[dim] → probs.shape[0]",  # an index
        "cross_entropy: line 22: 1 → 0",  # a constant
        "linear: line 5: x.shape[:-1] → x.shape[:]",
        "tanh: line 8: torch.addcmul → torch.addcdiv",
    ],
)
def test_kinds_of_change(name: str, every: dict[str, Mutant]) -> None:
    assert name in every
