"""One judge on one mutant, in a process of its own."""

from __future__ import annotations

import multiprocessing
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import torch

from backprop_ops import check
from backprop_ops.ops import _large
from tests.corpus import FAMILIES, entries
from tests.mutation.baselines import allclose, gradcheck
from tests.mutation.mutation import Mutant, cache_of, calls
from tests.support.verdict import unexplained

SECONDS = 120.0  # for one verdict


def nothing_wrong(*call: Any) -> bool:
    """`check` may prove nothing on a sample with an empty output, and finds nothing wrong there."""
    with unexplained():
        return not check(*call, seed=0).failures


JUDGES: Mapping[str, Callable[..., Any]] = {
    "check": nothing_wrong,
    "gradcheck": partial(gradcheck, fast_mode=False),
    "gradcheck, fast": partial(gradcheck, fast_mode=True),
    "allclose in float32": allclose,
}

# The fork server imports everything once, torch's compiler too, which its first autograd.Function
# or mode asks for; each process starts from there.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["torch._dynamo", "tests.mutation.judging", *FAMILIES])


class Entry(NamedTuple):
    """A backward to be judged: an entry of the corpus by its id, or a mutant."""

    kind: str  # wrong, right or automatic
    name: str
    mutant: Mutant | None = None

    def load(self) -> tuple[Callable[..., Any], Callable[..., Any], Sequence[Any]]:
        """The forward, the backward, and of each call the arguments and the size of the cache."""
        if self.mutant is not None:
            pair = self.mutant.pair
            return pair.forward, self.mutant.backward, calls(pair)
        wrong, right = entries()
        written = (wrong | right)[self.name]
        return written.forward, written.backward, [(written.args, written.kwargs, _large.CACHED)]


@dataclass
class Verdict:
    """Whether a judge takes a backward for right. ``reason``: why not, if that was not its word."""

    kind: str
    name: str
    judge: str
    passed: bool = False
    reason: str = ""
    seconds: float = 0.0


def judge(name: str, entry: Entry) -> Verdict:
    """One judge's verdict, reached in another process."""
    verdict = Verdict(entry.kind, entry.name, name)
    begin = time.perf_counter()
    receiver, sender = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=_send, args=(sender, name, entry), daemon=True)
    process.start()
    sender.close()
    try:
        if receiver.poll(SECONDS):
            verdict.passed, verdict.reason = receiver.recv()
        else:
            verdict.reason = f"no verdict within {SECONDS:.0f} s"
    except EOFError:
        verdict.reason = "the process crashed"
    finally:
        process.kill()
        process.join()
        receiver.close()
    verdict.seconds = round(time.perf_counter() - begin, 2)
    return verdict


def _send(sender: Connection, name: str, entry: Entry) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    sender.send(passes(JUDGES[name], *entry.load()))


def passes(
    judge: Callable[..., Any],
    forward: Callable[..., Any],
    backward: Callable[..., Any],
    calls: Sequence[Any],
) -> tuple[bool, str]:
    try:
        for args, kwargs, cached in calls:
            with cache_of(cached):
                if not judge(forward, backward, args, kwargs):
                    return False, ""
    except Exception as error:  # whatever it is, nobody takes the backward for right
        return False, f"{type(error).__name__}: {error}"
    return True, ""
