"""A step of the lecture's training, in five ways that all make the same step."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  # torch's own name for it
from torch import Tensor

from backprop_ops.lecture.compiled import BLOCK, NoCompilerError, compiled
from backprop_ops.lecture.data import Dataset, build_dataset, read_names
from backprop_ops.lecture.network import EPS, Parameters
from backprop_ops.lecture.training import Options, Training, threads_for
from benchmarks.turns import take_turns

LR = 0.1
Steps = Callable[[], Tensor]
"""Takes BLOCK steps, each time on the same batches; returns the last loss."""


def forward(p: Parameters, context: Tensor, target: Tensor) -> tuple[Tensor, ...]:
    """As the lecture has it, with cross-entropy in one formula."""
    embcat = p.C[context].flatten(1)
    hprebn = embcat @ p.W1 + p.b1
    mean, var = hprebn.mean(0, keepdim=True), hprebn.var(0, keepdim=True, unbiased=True)
    inv_std = (var + EPS) ** -0.5
    bnraw = (hprebn - mean) * inv_std
    h = torch.tanh(p.bngain * bnraw + p.bnbias)
    logits = h @ p.W2 + p.b2
    return embcat, inv_std, bnraw, h, logits, F.cross_entropy(logits, target)


def by_autograd(p: Parameters, context: Tensor, target: Tensor) -> Tensor:
    with torch.enable_grad():
        leaves = [parameter.requires_grad_() for parameter in p]
        *_, loss = forward(p, context, target)
        for leaf in leaves:
            leaf.grad = None
        loss.backward()
    for leaf in leaves:
        leaf.sub_(LR * leaf.grad)
    return loss.detach()


def by_the_lecture(p: Parameters, context: Tensor, target: Tensor) -> Tensor:
    """Its exercise 4, with its loop over the batch for dC."""
    embcat, inv_std, bnraw, h, logits, loss = forward(p, context, target)
    n = len(target)
    dlogits = F.softmax(logits, 1)
    dlogits[range(n), target] -= 1
    dlogits /= n
    dh, dW2, db2 = dlogits @ p.W2.T, h.T @ dlogits, dlogits.sum(0)
    dhpreact = (1.0 - h**2) * dh
    dbngain = (bnraw * dhpreact).sum(0, keepdim=True)
    dbnbias = dhpreact.sum(0, keepdim=True)
    inner = n * dhpreact - dhpreact.sum(0) - n / (n - 1) * bnraw * (dhpreact * bnraw).sum(0)
    dhprebn = p.bngain * inv_std / n * inner
    dembcat, dW1, db1 = dhprebn @ p.W1.T, embcat.T @ dhprebn, dhprebn.sum(0)
    demb, dC = dembcat.view(n, context.shape[1], -1), torch.zeros_like(p.C)
    for k in range(context.shape[0]):
        for j in range(context.shape[1]):
            dC[context[k, j]] += demb[k, j]
    for parameter, gradient in zip(p, (dC, dW1, db1, dW2, db2, dbngain, dbnbias), strict=True):
        parameter.sub_(LR * gradient)
    return loss


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return build_dataset(read_names())


@pytest.fixture(scope="module")
def in_c(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., float]:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    library = tmp_path_factory.mktemp("c") / "training.so"
    flags = ["-O3", "-march=native", "-ffast-math", "-shared", "-fPIC"]
    source = Path(__file__).with_name("training.c")
    subprocess.run([compiler, *flags, source, "-o", library, "-lm"], check=True)
    train: Any = ctypes.CDLL(str(library)).train
    train.restype = ctypes.c_float
    train.argtypes = [*[ctypes.c_void_p] * 9, ctypes.c_int64, ctypes.c_float]
    return train


@pytest.fixture
def alone() -> Iterator[None]:
    with torch.no_grad(), threads_for(Options()):
        yield


def steps_of(provider: str, dataset: Dataset, request: pytest.FixtureRequest) -> Steps:
    run = Training.start(Options(), dataset)
    parameters, train = run.parameters, dataset.train
    rows = torch.randint(len(train.target), (BLOCK, 32), generator=torch.Generator().manual_seed(0))
    context, target = train.context[rows], train.target[rows]
    if provider == "compiled":
        block, rates = compiled(parameters, train, 32), torch.full((BLOCK,), LR)

        def steps() -> Tensor:
            run.parameters, losses = block(run.parameters, train, rows, rates)
            return losses[-1]

        return steps
    if provider == "C":
        in_c = request.getfixturevalue("in_c")
        given = [x.data_ptr() for x in (*parameters, context, target)]
        # The closure holds the tensors, whose memory C reads and writes.
        kept = (parameters, context, target)
        return lambda: torch.tensor(in_c(*given, len(kept[2]), LR))
    update = {"autograd": by_autograd, "lecture": by_the_lecture, "plain": run._update}[provider]
    own = () if provider == "plain" else (parameters,)

    def one_after_the_other() -> Tensor:
        loss = torch.empty(())
        for batch in zip(context, target, strict=True):
            loss = update(*own, *batch)
        return loss

    return one_after_the_other


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("provider", ["lecture", "autograd", "plain", "compiled", "C"])
def test_training(
    benchmark: Any, dataset: Dataset, request: pytest.FixtureRequest, provider: str
) -> None:
    if provider == "compiled" and benchmark.disabled:
        pytest.skip("compiled for a measurement alone, which takes many seconds")
    try:
        run = steps_of(provider, dataset, request)
    except NoCompilerError as error:
        pytest.skip(f"nothing compiled: {error}")
    reference = steps_of("autograd", dataset, request)
    for _ in range(3):  # nothing wrong is timed
        torch.testing.assert_close(run(), reference(), rtol=1e-3, atol=1e-4)
    benchmark.group = f"{BLOCK} training steps, batch 32, 200 hidden units"
    benchmark.extra_info.update(table="training", provider=provider)
    take_turns(benchmark, run, reference)
