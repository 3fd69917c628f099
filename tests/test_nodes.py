"""Every value of a forward pass at once: culprits are named, and what follows is cleared."""

from __future__ import annotations

import inspect
import itertools
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, ones, tensor

from backprop_ops import compare_nodes
from backprop_ops.lecture import network
from backprop_ops.lecture.data import Dataset
from backprop_ops.lecture.network import LECTURE_ROWS, LECTURE_SEED, Nodes, Parameters
from tests.support.notebook import notebook

Plant = Callable[[Tensor], Tensor]
DTYPES = [torch.float32, torch.float64]


class Lecture:
    """The lecture's network on a batch, and its backward with mistakes planted in it."""

    def __init__(self, dataset: Dataset, dtype: torch.dtype) -> None:
        generator = torch.Generator().manual_seed(LECTURE_SEED)
        drawn = network.initialize(dataset.vocabulary, 17, generator)
        self.batch = dataset.train.context[:33], dataset.train.target[:33]
        parameters = Parameters(*(p.to(dtype).requires_grad_() for p in drawn))
        self.nodes = network.forward(parameters, *self.batch)

    def gradients(self, plants: Mapping[str, Plant]) -> Nodes:
        lines = []
        for line in inspect.getsource(network.backward).splitlines():
            lines.append(line)
            made = line.partition(" = ")[0].strip().split(", ")
            lines += [
                f"    d{name} = plants[{name!r}](d{name})" for name in plants if f"d{name}" in made
            ]
        names = {**vars(network), "plants": plants}
        exec("\n".join(lines), names)
        with torch.no_grad():
            return names["backward"](self.nodes, *self.batch)

    def culprits(self, plants: Mapping[str, Plant]) -> dict[str, str | None]:
        result = compare_nodes(self.nodes, self.gradients(plants))
        return {row.name: row.mistake for row in result.culprits}


@pytest.fixture(scope="module", params=DTYPES, ids=str)
def lecture_nodes(few: Dataset, request: pytest.FixtureRequest) -> Lecture:
    return Lecture(few, request.param)


def one_entry(grad: Tensor) -> Tensor:
    grad = grad.clone()
    grad.view(-1)[0] += 0.1
    return grad


def scaled(grad: Tensor) -> Tensor:
    return 1000 * grad


def shifted(grad: Tensor) -> Tensor:
    return grad + 0.01


def turned(grad: Tensor) -> Tensor:
    return -grad


def rolled(grad: Tensor) -> Tensor:
    return grad.roll(1, 0) + 0.1 * grad


OTHERS = [
    pytest.param(plant, marks=pytest.mark.thorough) for plant in (scaled, shifted, turned, rolled)
]
ZERO = {"logit_maxes", "b1"}  # their gradients are rounding alone


def test_the_lectures_backward(lecture_nodes: Lecture, capsys: pytest.CaptureFixture[str]) -> None:
    result = compare_nodes(lecture_nodes.nodes, lecture_nodes.gradients({}))
    assert result
    assert not result.culprits
    assert sorted(row.name for row in result.rows) == sorted(Nodes._fields)
    lines = capsys.readouterr().out.splitlines()
    assert lines == str(result).splitlines() == [*map(str, result.rows), lines[-1]]
    assert lines[-1] == "correct: 30 of 30 rows exact, all approximate"


def test_the_order_is_that_of_the_backward(lecture_nodes: Lecture) -> None:
    """Whatever the record's own: each gradient stands below those that it is made of."""
    result = compare_nodes(lecture_nodes.nodes, lecture_nodes.gradients({}))
    order = [row.name for row in result.rows]
    assert order[:3] == ["loss", "logprobs", "probs"]
    assert order[-1] == "C"
    through = [name for name in reversed(Nodes._fields) if name not in Parameters._fields]
    assert [name for name in order if name in through] == through


@pytest.mark.parametrize("plant", [one_entry, *OTHERS])
@pytest.mark.parametrize("name", [*LECTURE_ROWS, "bnsum", "bnvar_eps", "bnscaled", "loss"])
def test_one_mistake(lecture_nodes: Lecture, name: str, plant: Plant) -> None:
    if name in ZERO and plant in (scaled, turned, rolled):
        pytest.skip("zero stays zero")
    if name == "loss" and plant is rolled:
        plant = scaled
    assert list(lecture_nodes.culprits({name: plant})) == [name]


def unreduced(grad: Tensor) -> Tensor:
    return grad.expand(33, -1)


@pytest.mark.parametrize(
    ("plants", "mistakes"),
    [
        ({"logprobs": lambda g: 33 * g}, {"logprobs": "factor"}),
        ({"logprobs": lambda g: 33 * g, "bnraw": turned}, {"logprobs": "factor", "bnraw": "sign"}),
        ({"h": torch.zeros_like, "C": shifted}, {"h": "zero-gradient", "C": None}),
        ({"bndiff2": lambda g: g * 32 / 33}, {"bndiff2": "bessel"}),
        ({"bnmeani": lambda g: g[0]}, {"bnmeani": "shape"}),
        ({"bnvar_inv": unreduced}, {"bnvar_inv": "missing-reduction"}),
        ({"h": turned, "bnmeani": lambda g: g[0], "emb": shifted},
         {"h": "sign", "bnmeani": "shape", "emb": None}),
    ],
)  # fmt: skip
def test_mistakes_far_apart(
    lecture_nodes: Lecture, plants: Mapping[str, Plant], mistakes: dict[str, str | None]
) -> None:
    assert lecture_nodes.culprits(plants) == mistakes


@pytest.mark.thorough
@pytest.mark.parametrize("lecture_nodes", [torch.float32], indirect=True)
@pytest.mark.parametrize("pair", [*itertools.combinations(LECTURE_ROWS, 2)], ids="-".join)
def test_two_mistakes(lecture_nodes: Lecture, pair: tuple[str, str]) -> None:
    for plants in ((one_entry, shifted), (shifted, one_entry)):
        found = lecture_nodes.culprits(dict(zip(pair, plants, strict=True)))
        assert sorted(found) == sorted(pair)


class Classifier(NamedTuple):
    """A learner's own network: a value with two uses, a broadcast, a view, a transposed matrix."""

    x: Tensor  # (5, 4)
    w: Tensor  # (4, 4)
    flat: Tensor  # (20)
    z: Tensor  # (5, 4)
    e: Tensor  # (5, 4)
    total: Tensor  # (5, 1)
    p: Tensor  # (5, 4)
    loss: Tensor


def classifier() -> Classifier:
    x, w = (torch.randn(n, 4, requires_grad=True) for n in (5, 4))
    flat = x.view(-1)
    z = flat.view(5, 4) @ w
    e = z.exp()
    total = e.sum(1, keepdim=True)
    p = e / total
    return Classifier(x, w, flat, z, e, total, p, -p[:, 0].log().mean())


def by_hand(v: Classifier, **changed: Plant) -> dict[str, Tensor]:
    """The gradients of `classifier`, some changed as soon as they are made."""

    def made(name: str, grad: Tensor) -> Tensor:
        return changed.get(name, lambda grad: grad)(grad)

    v = Classifier(*(x.detach() for x in v))
    first = torch.zeros_like(v.p)
    first[:, 0] = 1
    dp = made("p", -first / v.p / 5)
    dtotal = made("total", (-dp * v.p / v.total).sum(1, keepdim=True))
    de = made("e", dp / v.total + dtotal)
    dz = made("z", de * v.e)
    dw = made("w", v.x.mT.to(dz) @ dz)
    dflat = made("flat", (dz @ v.w.mT.to(dz)).flatten())
    dx = made("x", dflat.view(5, 4))
    return {"dp": dp, "dtotal": dtotal, "de": de, "dz": dz, "dw": dw, "dflat": dflat, "dx": dx}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def culprits(v: Any, gradients: Any) -> dict[str, tuple[str | None, str]]:
    result = compare_nodes(v, gradients)
    assert bool(result) is not bool(result.culprits)
    return {row.name: (row.mistake, row.explanation) for row in result.culprits}


@dataclass
class AsDataclass:
    x: Tensor
    w: Tensor
    flat: Tensor
    z: Tensor
    e: Tensor
    total: Tensor
    p: Tensor
    loss: Tensor


@pytest.mark.parametrize("record", [Classifier, AsDataclass, dict])
def test_dict_tuple_or_dataclass(record: Any) -> None:
    v = classifier()
    values: Any = v._asdict() if record is dict else record(*v)
    assert not culprits(values, by_hand(v))
    assert set(culprits(values, by_hand(v, z=turned))) == {"z"}
    named = {key.removeprefix("d"): grad for key, grad in by_hand(v).items()}
    assert not culprits(values, record(**named, loss=ones(())))


def test_rows_that_follow() -> None:
    v = classifier()
    result = compare_nodes(v, by_hand(v, e=lambda g: 2 * g))
    lines = str(result).splitlines()
    follow = [line.split()[0] for line in lines if line.endswith("| follows")]
    assert sorted(follow) == ["flat", "w", "x", "z"]
    assert lines[2].startswith("e  ")
    assert lines[2].endswith("| factor: 2 × the right one")
    assert lines[-1] == "wrong: e; 4 follow"
    assert repr(result) == str(result)


@pytest.mark.parametrize(
    ("times", "likely"),
    [
        (0, ("missing-term", "the term through total is missing")),
        (-1, ("sign", "the term through total has the wrong sign")),
        (5, ("factor", "the term through total is 5 × the right one")),
        (0.05, ("factor", "the term through total is 0.05 × the right one")),
    ],
)
def test_one_of_two_uses(times: float, likely: tuple[str, str]) -> None:
    v = classifier()
    dtotal = by_hand(v)["dtotal"]
    assert culprits(v, by_hand(v, e=lambda g: g + (times - 1) * dtotal)) == {"e": likely}
    # Also where what comes in is wrong itself.
    found = culprits(v, by_hand(v, p=lambda g: -5 * g, e=lambda g: g + (1 - times) * 5 * dtotal))
    assert set(found) == {"p", "e"}
    assert found["e"] == likely


def test_transposed() -> None:
    v = classifier()
    assert culprits(v, by_hand(v, w=lambda g: g.mT))["w"][0] == "transposed"


def test_an_unknown_mistake_is_none() -> None:
    v = classifier()
    assert culprits(v, by_hand(v, x=lambda g: g.mT + 1)) == {"x": (None, "")}
    assert culprits(v, by_hand(v, z=one_entry)) == {"z": (None, "")}


def test_after_a_wrong_shape_all_is_unknown() -> None:
    """A sum that was forgotten spoils de too, although its formula is right."""
    v = classifier()
    result = compare_nodes(v, by_hand(v, total=lambda g: -v.p.detach() * g))
    assert [row.name for row in result.culprits] == ["total"]
    assert not next(row for row in result.rows if row.name == "e")


@pytest.mark.parametrize("number", [torch.nan, torch.inf])
def test_nan_has_one_culprit(number: float) -> None:
    v = classifier()

    def spoiled(grad: Tensor) -> Tensor:
        grad = grad.clone()
        grad[1, 1] = number
        return grad

    assert set(culprits(v, by_hand(v, e=spoiled))) == {"e"}
    assert set(culprits(v, by_hand(v, e=spoiled, z=one_entry))) == {"e", "z"}


def test_a_wrong_dtype_has_one_culprit() -> None:
    v = classifier()
    assert set(culprits(v, by_hand(v, total=Tensor.double))) == {"total"}
    assert set(culprits(v, by_hand(v, total=Tensor.double, z=turned))) == {"total", "z"}


@pytest.mark.parametrize("seed", range(30))
def test_terms_that_cancel_are_no_culprit(seed: int) -> None:
    """A sum in another order, below a gradient that is far too large."""
    torch.manual_seed(seed)
    weight = torch.randn(1000)
    weight -= weight.double().mean()
    b = torch.zeros(1, requires_grad=True)
    y = b + torch.zeros(1000)
    dy = 1e6 * weight
    db = dy.double().sum(0, keepdim=True).float()
    assert set(culprits({"b": b, "y": y, "loss": (y * weight).sum()}, {"b": db, "y": dy})) == {"y"}


def test_an_entry_rounded_as_the_largest_is_no_culprit() -> None:
    """As 1 - h² is where h is nearly one."""
    scale = torch.logspace(-6, 0, 100)
    x = torch.zeros(100, requires_grad=True)
    y = x * scale
    dy = torch.full((100,), 1e3)
    dx = dy * scale + 4 * torch.finfo(torch.float32).eps * 1e3
    assert set(culprits({"x": x, "y": y, "loss": y.sum()}, {"x": dx, "y": dy})) == {"y"}


def test_what_a_sum_makes_of_roundings_is_no_culprit() -> None:
    """The gradient above is approximate, and is handed on as it was made by hand."""
    x = torch.zeros(1, requires_grad=True)
    y = x + torch.zeros(2)
    nodes = {"x": x, "y": y, "loss": y[0] - 0.999 * y[1]}
    dy = tensor([1 + 8e-6, -0.999])
    result = compare_nodes(nodes, {"x": dy.sum(0, keepdim=True), "y": dy})
    assert [bool(row) for row in result.rows] == [True, False]
    assert not result.culprits


def test_a_small_term_that_is_missing() -> None:
    """Beside one that is so large that the small one is rounded."""
    a = torch.randn(50, requires_grad=True)
    u, v, weight = a * 1e4, a * 1, torch.randn(50)
    nodes = {"a": a, "u": u, "v": v, "loss": u.sum() + (v * weight).sum()}
    found = culprits(nodes, {"u": ones(50), "v": weight, "a": 1e4 * ones(50)})
    assert found == {"a": ("missing-term", "the term through v is missing")}


def test_a_shape_that_only_fits_reshaped_is_not_handed_on() -> None:
    v = classifier()
    hand = by_hand(v, p=lambda g: 5 * g)
    assert set(culprits(v, {**hand, "dz": hand["dz"].mT})) == {"p", "z"}


def test_what_autograd_makes_nan() -> None:
    x = tensor([0.0, 1.0], requires_grad=True)
    root = x.sqrt()
    loss = (root * 0).sum()
    gradients = {"root": torch.zeros(2), "x": torch.zeros(2)}
    result = compare_nodes({"x": x, "root": root, "loss": loss}, gradients)
    assert not result
    assert not result.culprits
    assert str(result).endswith("wrong: 1 row, no culprit: rounding, or autograd's own nan")


def test_not_on_the_path() -> None:
    v = classifier()._asdict()
    aside = v["z"] * 2
    gradients = by_hand(Classifier(**v))
    nodes = {**v, "aside": aside}
    for zero in (None, torch.zeros(5, 4)):
        assert not culprits(nodes, {**gradients, "aside": zero})
    result = compare_nodes(nodes, {**gradients, "aside": ones(5, 4)})
    assert [row.name for row in result.culprits] == ["aside"]
    assert str(result.rows[-1]).endswith("| the loss does not depend on it")
    assert set(culprits(nodes, {**gradients, "dz": None, "aside": None})) == {"z"}


def test_integers_are_left_out() -> None:
    v = classifier()
    nodes = {**v._asdict(), "target": tensor([1, 2]), "mask": tensor([True])}
    assert not culprits(nodes, by_hand(v))
    assert not culprits(nodes, {**by_hand(v), "target": None})


@pytest.mark.parametrize("first", ["e", "also"])
@pytest.mark.parametrize("wrong", ["e", "also"])
@pytest.mark.parametrize("used", ["e", "also"])
def test_one_tensor_under_two_names(first: str, wrong: str, used: str) -> None:
    """The wrong name of the two is the culprit, whichever was used."""
    v = classifier()
    nodes = {first: v.e, **v._asdict(), "also": v.e}
    right, turned_e = by_hand(v), by_hand(v, e=turned)
    assert not culprits(nodes, {**right, "also": right["de"]})
    gradients = {**(turned_e if used == wrong else right), "de": right["de"], "also": right["de"]}
    assert set(
        culprits(
            nodes,
            {**gradients, f"d{wrong}": turned_e["de"]}
            if wrong == "e"
            else {**gradients, wrong: turned_e["de"]},
        )
    ) == {wrong}


def test_one_output_of_several() -> None:
    x = torch.randn(5, requires_grad=True)
    left, right = x.split([2, 3])
    nodes = {"x": x, "left": left, "right": right, "loss": left.sum()}
    dx = tensor([1.0, 1, 0, 0, 0])
    assert not culprits(nodes, {"x": dx, "left": ones(2), "right": None})
    assert set(culprits(nodes, {"x": -dx, "left": -ones(2), "right": None})) == {"left"}


def test_sparse() -> None:
    weight = torch.randn(5, 3, requires_grad=True)
    doubled = weight * 2
    rows = torch.nn.functional.embedding(tensor([1, 1, 2]), doubled, sparse=True)
    nodes = {"weight": weight, "doubled": doubled, "rows": rows, "loss": rows.sum()}
    ddoubled = tensor([0.0, 2, 1, 0, 0]).unsqueeze(1).expand(5, 3)
    right = {"rows": ones(3, 3), "doubled": ddoubled.to_sparse(), "weight": 2 * ddoubled}
    assert not culprits(nodes, right)
    wrong = {"rows": ones(3, 3), "doubled": -ddoubled, "weight": -2 * ddoubled}
    assert set(culprits(nodes, wrong)) == {"doubled"}


def test_everything_stays_as_it_was() -> None:
    v = classifier()
    v.e.retain_grad()
    v.z.retain_grad()
    v.loss.backward(retain_graph=True)
    v.z.grad = None
    grads = [x.grad if x.is_leaf or x.retains_grad else None for x in v]
    copies = [None if grad is None else grad.clone() for grad in grads]
    hand = by_hand(v, total=lambda g: -v.p.detach() * g)  # hands on nan
    kept = {name: grad.clone() for name, grad in hand.items()}
    state = torch.get_rng_state()
    with torch.autograd.set_detect_anomaly(True):
        found = culprits(v, hand)
    assert set(found) == {"total"}
    assert torch.equal(torch.get_rng_state(), state)
    for x, grad, copy in zip(v, grads, copies, strict=True):
        if x.is_leaf or x.retains_grad:
            assert x.grad is grad
            assert grad is None or torch.equal(grad, copy)
    for name, grad in kept.items():
        assert torch.equal(hand[name], grad)
    assert torch.autograd.grad(v.loss, v.x)[0].equal(v.x.grad)


class Doubled(torch.autograd.Function):
    """Its backward writes into its upstream."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ARG004
        return 2 * x

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> Tensor:  # noqa: ARG004
        return dout.mul_(2)


def test_a_backward_that_writes_into_its_upstream() -> None:
    x = ones(2, requires_grad=True)
    y = Doubled.apply(x)
    nodes = {"x": x, "y": y, "loss": (y * ones(2)).sum()}
    hand = {"x": 2 * ones(2), "y": ones(2)}
    assert not culprits(nodes, hand)
    wrong = {"x": 6 * ones(2), "y": 3 * ones(2)}
    assert set(culprits(nodes, wrong)) == {"y"}
    assert wrong["y"].equal(3 * ones(2))


def test_gradients_with_a_graph_and_without_grad_mode() -> None:
    v = classifier()
    hand = {name: grad.clone().requires_grad_() * 1 for name, grad in by_hand(v, z=turned).items()}
    with torch.no_grad():
        assert set(culprits(v, hand)) == {"z"}
    with torch.inference_mode():
        assert set(culprits(v, hand)) == {"z"}


def test_a_notebook_shows_it_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shell = SimpleNamespace(execution_count=3)
    monkeypatch.setitem(sys.modules, "IPython", notebook(shell))
    v = classifier()
    result = compare_nodes(v, by_hand(v))
    result._ipython_display_()
    assert capsys.readouterr().out == f"{result}\n"
    shell.execution_count = 4
    result._ipython_display_()
    assert capsys.readouterr().out == f"{result}\n"


def bare() -> Any:
    with torch.no_grad():
        return classifier()._replace(x=ones(5, 4, requires_grad=True))


def freed() -> Any:
    v = classifier()
    v.loss.backward()
    return v


V = classifier()
HAND = by_hand(V)


NODES = V._asdict()
RECORD = "must be a dict, a NamedTuple or a dataclass, got"
REAL = "must be a real Tensor"
COMPLEX = ones(2) * 1j
ALIEN = "is of no floating value of nodes"


@pytest.mark.parametrize(
    ("nodes", "gradients", "message"),
    [
        ([V.x], HAND, f"nodes {RECORD} list"),
        (V, V.x, f"gradients {RECORD} Tensor"),
        (V, Classifier, f"gradients {RECORD} type"),
        ({**NODES, "n": 5}, HAND, f"nodes: n {REAL}, got int"),
        ({**NODES, "c": COMPLEX}, HAND, f"nodes: c {REAL}, got torch.complex64"),
        (V, {**HAND, "dz": 1.0}, f"gradients: dz {REAL} or None, got float"),
        (V, {**HAND, "dz": COMPLEX}, f"gradients: dz {REAL} or None, got torch.complex64"),
    ],
)
def test_wrong_types(nodes: Any, gradients: Any, message: str) -> None:
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        compare_nodes(nodes, gradients)


@pytest.mark.parametrize(
    ("nodes", "gradients", "message"),
    [
        ({"x": V.x, "los": V.loss}, HAND,
         "nodes: no value is named 'loss', as the loss is: did you mean 'los'?"),
        (V._replace(loss=V.p), HAND, "nodes: loss must be a scalar, got shape (5, 4)"),
        (V._replace(loss=tensor(1)), HAND, "nodes: loss has no graph of autograd: "),
        (bare(), HAND, "nodes: z, e, total, p, loss have no graph of autograd: call "
         ".requires_grad_() on the inputs, and run the forward pass without no_grad() and "
         "detach()"),
        (freed(), HAND, "nodes: a backward pass has freed their graph: call compare_nodes "
         "before it, or make it loss.backward(retain_graph=True)"),
        (V, {key: grad for key, grad in HAND.items() if key not in ("dz", "dw")},
         "gradients: dw, dz missing"),
        (V, {"dtotl" if key == "dtotal" else key: grad for key, grad in HAND.items()},
         f"gradients: dtotl {ALIEN}: did you mean 'dtotal'?"),
        (V, {**HAND, "z": ones(5, 4)}, f"gradients: dz {ALIEN}"),
        ({"loss": V.loss}, {}, "gradients: none is of a value other than the loss"),
        ({**NODES, "target": tensor([1])}, {**HAND, "target": ones(1)},
         f"gradients: target {ALIEN}"),
    ],
)  # fmt: skip
def test_wrong_values(nodes: Any, gradients: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        compare_nodes(nodes, gradients)


def test_an_error_of_the_backward_itself() -> None:
    x = ones(2, requires_grad=True)
    h = x.exp()
    loss = h.sum()
    h.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        compare_nodes({"x": x, "loss": loss}, {"x": ones(2)})


def test_another_name_of_the_loss() -> None:
    v = classifier()
    nodes = {"cost" if name == "loss" else name: x for name, x in v._asdict().items()}
    assert compare_nodes(nodes, by_hand(v), loss="cost")
    assert (
        compare_nodes(nodes, {**by_hand(v), "dcost": ones(())}, loss="cost").rows[0].name == "cost"
    )
    result = compare_nodes(nodes, {**by_hand(v), "dcost": tensor(2.0)}, loss="cost")
    assert [row.name for row in result.culprits] == ["cost"]


def test_the_example_of_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[1] / "docs" / "lecture.md").read_text("utf-8")
    snippet, printed = re.search(
        r"```python\n(# A network.*?)```.*?```\n(.*?)```", page, re.DOTALL
    ).groups()
    exec(compile(snippet, "lecture.md", "exec", dont_inherit=True), {})
    maxdiff = re.compile(r"maxdiff: \S+")
    assert maxdiff.sub("", capsys.readouterr().out) == maxdiff.sub("", printed)
