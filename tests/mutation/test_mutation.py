"""`check` finds every automatic mutant; and tests of the code that makes them."""

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
    assert not missed, "\n".join(
        ["passed by check; a sample is missing, or it belongs in EQUIVALENT:", *missed]
    )


@pytest.fixture(scope="module")
def every() -> dict[str, Mutant]:
    return {mutant.name: mutant for pair in pairs.values() for mutant in mutants(pair)}


def test_names_are_unique(every: dict[str, Mutant]) -> None:
    assert len(every) == sum(len(mutants(pair)) for pair in pairs.values())
    assert len({(mutant.pair.name, mutant.source) for mutant in every.values()}) == len(every)


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
        "softmax: dx: probs * dprobs → probs / dprobs",  # an operator
        "softmax: dx: (probs * dprobs).sum → (probs * dprobs).mean",  # a method
        "softmax: dx: dprobs - … → dprobs",  # a term
        "softmax: dx: keepdim=True → keepdim=False",
        "softmax: dx: dim → 0",
        "softmax: dx: dprobs → -dprobs",  # a sign
        "softmax: dx: dprobs → out",  # a name
        "softmax: return: dx → None",
        "softmax: return: dx → 0 * dx",
        "log_softmax: dx: logprobs.exp → logprobs.expm1",  # a function
        "add: dx: sum_to(dout, x.shape) → dout",  # a call
        "add: dx: takes_gradient(x) → False",  # a condition
        "add: return: (dx, dy) → (dy, dx)",
        "matmul: if: y.dim() == 1 → y.dim() != 1",
        "matmul: dx: columns.mT → columns",
        "linear: n: x.shape[:-1] → x.shape[:]",
        "tanh: dx: torch.addcmul → torch.addcdiv",
        "batchnorm: bracket.return: torch.mul(scale, …, out=out) → scale",  # in a function inside
        "batchnorm: _count.return: x.shape[0] * math.prod(x.shape[2:]) → x.shape[0]",  # in a function that it calls
        "cross_entropy: _classes.return: scores.shape[dim] → scores.shape[0]",  # an index
        "cross_entropy: pull: 1 → 0",  # a constant
    ],
)
def test_kinds_of_change(name: str, every: dict[str, Mutant]) -> None:
    assert name in every
