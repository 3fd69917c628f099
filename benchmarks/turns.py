"""Time as a ratio, the two runners taking turns, and the peak of extra memory."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from torch.profiler import ProfilerActivity, profile

SECONDS = 1.0  # for one comparison, in as many rounds as fit
ROUNDS = range(3, 2000)
QUIET = 0.2  # the quantile of the rounds that is compared: others on the machine slow the rest


def take_turns(benchmark: Any, run: Callable[[], Any], reference: Callable[[], Any]) -> None:
    """Time ``run`` by pytest-benchmark, ``reference`` before each of its rounds.

    What the benchmark tells gets the ratio of a low quantile of both, its seconds, the peak of
    memory beyond what was held, and how many processes wanted a core before.
    """
    if benchmark.disabled:  # once, as a test
        benchmark(run)
        return
    seconds: list[float] = []

    def turn() -> None:
        begin = time.perf_counter()
        reference()
        seconds.append(time.perf_counter() - begin)

    load = os.getloadavg()[0]
    run(), turn()  # what is made at the first call
    begin = time.perf_counter()
    run(), turn()
    fitting = int(SECONDS / (time.perf_counter() - begin))
    rounds = min(max(fitting, ROUNDS.start), ROUNDS.stop)
    seconds.clear()
    benchmark.pedantic(run, setup=turn, rounds=rounds)
    own = quantile(benchmark.stats.stats.data)
    benchmark.extra_info.update(
        seconds=own, ratio=own / quantile(seconds), peak=peak_memory(run), load=load
    )


def quantile(seconds: list[float]) -> float:
    return sorted(seconds)[int(QUIET * len(seconds))]


def peak_memory(run: Callable[[], Any]) -> int:
    """Bytes that are held at most beyond those before, the result's among them."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    held = most = 0
    events = profiler.profiler.kineto_results.events()
    for event in sorted(events, key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most
