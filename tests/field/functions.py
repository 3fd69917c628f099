"""Twenty functions of sixteen packages. The list was fixed before `check` first saw one of them.

Each entry imports its package when it is asked: none of them is needed for anything else here.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Asked(NamedTuple):
    """A call of `check` without a backward: the function has its own."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    keywords: dict[str, Any] = {}  # noqa: RUF012  # read alone


@dataclass(frozen=True)
class Published:
    """``package`` and ``version`` as PyPI has them, ``kind``: what makes the function hard."""

    package: str
    version: str
    name: str
    kind: str
    ask: Callable[[], Asked]


FUNCTIONS: list[Published] = []


def published(
    package: str, version: str, name: str, kind: str
) -> Callable[[Callable[[], Asked]], Callable[[], Asked]]:
    def add(ask: Callable[[], Asked]) -> Callable[[], Asked]:
        FUNCTIONS.append(Published(package, version, name, kind, ask))
        return ask

    return add


def get(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)


@published("efficientnet_pytorch", "0.7.1", "SwishImplementation", "plain")
def swish() -> Asked:
    return Asked(get("efficientnet_pytorch.utils", "SwishImplementation").apply, (draw(4, 7),))


@published("entmax", "1.3", "SparsemaxFunction", "plain")
def sparsemax_of_entmax() -> Asked:
    return Asked(get("entmax.activations", "SparsemaxFunction").apply, (draw(4, 6), -1))


@published("entmax", "1.3", "EntmaxBisectFunction", "plain")
def entmax_by_bisection() -> Asked:
    function = get("entmax.root_finding", "EntmaxBisectFunction")

    def entmax_bisect(x: Tensor) -> Tensor:
        result: Tensor = function.apply(x, 1.5, -1, 50, True)
        return result

    return Asked(entmax_bisect, (draw(4, 6),))


@published("sparsemax", "0.1.9", "SparsemaxFunction", "plain")
def sparsemax() -> Asked:
    return Asked(get("sparsemax.sparsemax", "SparsemaxFunction").apply, (draw(4, 6), -1))


def squared_distance(x: Tensor, y: Tensor) -> Tensor:
    return ((x[:, None] - y) ** 2).sum(-1)


def distance(x: Tensor, y: Tensor) -> Tensor:
    return squared_distance(x, y).sqrt()


def positive(lengthscale: Tensor) -> Tensor:
    return (lengthscale > 0).all()


@published("gpytorch", "1.15.2", "RBFCovariance", "matrix")
def rbf() -> Asked:
    function, x, y = (
        get("gpytorch.functions.rbf_covariance", "RBFCovariance"),
        draw(5, 3),
        draw(4, 3),
    )

    def rbf_covariance(lengthscale: Tensor) -> Tensor:
        one, other = x.to(lengthscale.dtype), y.to(lengthscale.dtype)
        result: Tensor = function.apply(one, other, lengthscale, squared_distance)
        return result

    def reference(lengthscale: Tensor) -> Tensor:
        one, other = x.to(lengthscale.dtype), y.to(lengthscale.dtype)
        return (-squared_distance(one / lengthscale, other / lengthscale) / 2).exp()

    keywords = {"reference": reference, "domain": positive}
    return Asked(rbf_covariance, (torch.tensor([[0.8]]),), keywords)


@published("gpytorch", "1.15.2", "MaternCovariance", "matrix")
def matern() -> Asked:
    function = get("gpytorch.functions.matern_covariance", "MaternCovariance")
    x, y = draw(5, 3), draw(4, 3, seed=1)

    def matern_covariance(lengthscale: Tensor) -> Tensor:
        one, other = x.to(lengthscale.dtype), y.to(lengthscale.dtype)
        result: Tensor = function.apply(one, other, lengthscale, 2.5, distance)
        return result

    def reference(lengthscale: Tensor) -> Tensor:
        one, other = x.to(lengthscale.dtype), y.to(lengthscale.dtype)
        d = math.sqrt(5) * distance(one / lengthscale, other / lengthscale)
        return (1 + d + d * d / 3) * (-d).exp()

    keywords = {"reference": reference, "domain": positive}
    return Asked(matern_covariance, (torch.tensor([[0.8]]),), keywords)


@published("gpytorch", "1.15.2", "LogNormalCDF", "plain")
def log_normal_cdf() -> Asked:
    function = get("gpytorch.functions._log_normal_cdf", "LogNormalCDF")
    return Asked(function.apply, (draw(4, 7),), {"reference": torch.special.log_ndtr})


@published("roma", "1.8.0", "procrustes", "matrix")
def procrustes() -> Asked:
    function = get("roma", "procrustes")

    def nearest_orthogonal(m: Tensor) -> Tensor:
        result: Tensor = function(m)
        return result

    def reference(m: Tensor) -> Tensor:
        u, _, vh = torch.linalg.svd(m)
        return u @ vh

    return Asked(nearest_orthogonal, (draw(2, 3, 3),), {"reference": reference})


@published("pytorch_wavelets", "1.3.0", "AFB1D", "bug")
def wavelets() -> Asked:
    """Its gradient at the borders has been found wrong before."""
    function = get("pytorch_wavelets.dwt.lowlevel", "AFB1D")
    code = get("pytorch_wavelets.dwt.lowlevel", "mode_to_int")("symmetric")
    low = torch.tensor([-0.1294, 0.2241, 0.8365, 0.4830]).reshape(1, 1, 4)
    high = torch.tensor([-0.4830, 0.8365, -0.2241, -0.1294]).reshape(1, 1, 4)

    def analysis(x: Tensor) -> Any:
        return function.apply(x, low.to(x.dtype), high.to(x.dtype), code)

    return Asked(analysis, (draw(2, 1, 12),))


@published("snntorch", "1.0.0", "FastSigmoid", "on purpose")
def fast_sigmoid() -> Asked:
    def smooth(input_: Tensor, slope: float) -> Tensor:
        return input_ / (1 + slope * input_.abs())

    function = get("snntorch.surrogate", "FastSigmoid")
    return Asked(function.apply, (draw(4, 7), 25.0), {"gradient_of": smooth})


@published("snntorch", "1.0.0", "ATan", "on purpose")
def atan_of_snntorch() -> Asked:
    def smooth(input_: Tensor, alpha: float) -> Tensor:
        return (math.pi / 2 * alpha * input_).atan() / math.pi

    function = get("snntorch.surrogate", "ATan")
    return Asked(function.apply, (draw(4, 7), 2.0), {"gradient_of": smooth})


@published("tslearn", "0.10.0", "_SoftDTWLossPyTorch", "native")
def soft_dtw() -> Asked:
    """Not isolated: its threads end a process that is forked after its first call."""
    function = get("tslearn.metrics.soft_dtw_loss_pytorch", "_SoftDTWLossPyTorch")

    def soft_dtw_loss(distances: Tensor) -> Tensor:
        result: Tensor = function.apply(distances, 1.0)
        return result

    return Asked(soft_dtw_loss, (draw(2, 4, 5).abs(),))


@published("brevitas", "0.13.4", "RoundSteFn", "on purpose")
def straight_through() -> Asked:
    function = get("brevitas.ops.autograd_ste_ops", "RoundSteFn")
    return Asked(function.apply, (draw(4, 7) * 3,), {"gradient_of": lambda x: x})


@published("spikingjelly", "2.0.0", "atan", "on purpose")
def atan_of_spikingjelly() -> Asked:
    def smooth(x: Tensor, alpha: float) -> Tensor:
        return (math.pi / 2 * alpha * x).atan() / math.pi

    function = get("spikingjelly.activation_based.surrogate", "atan")
    return Asked(function.apply, (draw(4, 7), 2.0), {"gradient_of": smooth})


@published("pyro-ppl", "1.9.2", "safe_log", "on purpose")
def safe_log() -> Asked:
    """Its gradient is at most 1 / eps, as its documentation says."""

    def smooth(x: Tensor) -> Tensor:
        eps = torch.finfo(x.dtype).eps
        return torch.where(x > eps, x.clamp(min=eps).log(), x / eps)

    keywords = {"gradient_of": smooth, "domain": lambda x: (x >= 0).all()}
    return Asked(get("pyro.ops.special", "safe_log"), (draw(4, 7).abs(),), keywords)


@published("torch-interpol", "0.3.0", "grid_pull", "index")
def grid_pull() -> Asked:
    function = get("interpol", "grid_pull")

    def pulled(image: Tensor, grid: Tensor) -> Tensor:
        result: Tensor = function(image, grid, "linear", "dct2", True)
        return result

    places = torch.rand(1, 3, 4, 2, generator=torch.Generator().manual_seed(0)) * 4
    return Asked(pulled, (draw(1, 2, 5, 6), places))


@published("memory-efficient-attention-pytorch", "0.1.6", "FlashAttentionFunction", "mask")
def flash_attention() -> Asked:
    function = get("memory_efficient_attention_pytorch.flash_attention", "FlashAttentionFunction")

    def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        result: Tensor = function.apply(q, k, v, mask, False, 2, 2)
        return result

    def reference(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        scores = (q @ k.mT * q.shape[-1] ** -0.5).masked_fill(~mask[:, None, None], -torch.inf)
        return scores.softmax(-1) @ v

    inputs = (draw(2, 2, 5, 4), draw(2, 2, 5, 4, seed=1), draw(2, 2, 5, 4, seed=2))
    mask = torch.tensor([[True, True, True, False, True], [True, False, True, True, True]])
    return Asked(attention, (*inputs, mask), {"reference": reference})


@published("mambapy", "1.2.0", "PScan", "plain")
def scan() -> Asked:
    function = get("mambapy.pscan", "PScan")

    def reference(a: Tensor, x: Tensor) -> Tensor:
        states = [x[:, 0]]
        for step in range(1, x.shape[1]):
            states.append(a[:, step] * states[-1] + x[:, step])
        return torch.stack(states, 1)

    def parallel_scan(a: Tensor, x: Tensor) -> Tensor:
        result: Tensor = function.apply(a, x)
        return result

    factors = draw(2, 8, 3, 2).sigmoid()
    return Asked(parallel_scan, (factors, draw(2, 8, 3, 2, seed=1)), {"reference": reference})


@published("POT", "0.9.7.post1", "emd2", "native")
def earth_mover() -> Asked:
    function = get("ot", "emd2")
    weights = torch.tensor([0.2, 0.3, 0.5]), torch.tensor([0.4, 0.25, 0.25, 0.1])

    def transport_cost(cost: Tensor) -> Tensor:
        a, b = (w.to(cost.dtype) for w in weights)
        result: Tensor = function(a, b, cost)
        return result

    return Asked(transport_cost, (draw(3, 4).abs(),), {"isolate": True})


@published("qpth", "0.0.18", "QPFunction", "matrix")
def quadratic_program() -> Asked:
    function = get("qpth.qp", "QPFunction")

    def solved(q: Tensor, p: Tensor, g: Tensor, h: Tensor) -> Tensor:
        none = torch.empty(0, dtype=p.dtype)
        result: Tensor = function(verbose=-1)(q, p, g, h, none, none)
        return result

    root = draw(3, 3).double()
    q = root @ root.mT + torch.eye(3)
    inputs = (q, draw(3).double(), draw(2, 3, seed=1).double(), torch.ones(2).double())
    domain = {"q": lambda m: m @ m.mT + torch.eye(m.shape[-1], dtype=m.dtype)}
    return Asked(solved, inputs, {"domain": domain, "dtypes": ("float64",)})


WHY = {
    "LogNormalCDF": """\
On the sample. A bug: the forward is off by a thousandth below -1, and its gradient with it.

```python
z = torch.tensor(-1.1258398)
LogNormalCDF.apply(z), torch.special.log_ndtr(z)  # -2.0405, -2.0393
```
""",
    "procrustes": """\
Beyond. Where a matrix is zero up to 1e-16, the gradient is damped by `gradient_eps`, on purpose.
""",
    "AFB1D": """\
On the sample. A bug at the borders: the function is linear, so that its gradient is a difference.

```python
one, none = torch.ones(1, 1, 1).requires_grad_(), torch.zeros(1, 1, 1)
total = lambda x: sum(part[..., 0].sum() for part in AFB1D.apply(x, low, high, symmetric))
total(one) - total(none), torch.autograd.grad(total(one), one)  # 1.4142, 0.6124
```
""",
    "_SoftDTWLossPyTorch": """\
Beyond. A bug: the forward writes to its input, so that after a second call on one tensor the
backward of the first raises. The check meets it in float64. The report's code does not show it.

```python
d = torch.ones(1, 2, 2).requires_grad_()
first, second = apply(d, 1.0), apply(d, 1.0)
torch.autograd.grad(first.sum(), d)  # RuntimeError: modified by an inplace operation
```
""",
    "grid_pull": """\
Beyond. Four coordinates are no grid of a plane; of what the forward makes of one, the gradient has
the wrong sign.
""",
    "FlashAttentionFunction": """\
Beyond. A false alarm: scores in the thousands have lost the digits of exp(scores - logsumexp).
""",
    "QPFunction": """\
On the sample. No bug that a user meets: the gradient of the symmetric q is its symmetric half, on
purpose, and all gradients have the eight digits of the solver.
""",
}
"""Of each function that is refused: is it a bug? Of a near one, the lines that show it."""
