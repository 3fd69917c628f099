"""Time as a ratio, the two runners taking turns, and the peak of extra memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

from torch.profiler import ProfilerActivity, profile

SECONDS = 1.5  # for one comparison, in as many rounds as fit
ROUNDS = range(3, 2000)


def take_turns(benchmark: Any, run: Callable[[], Any], reference: Callable[[], Any]) -> None:
    """Time ``run`` by pytest-benchmark, ``reference`` before each of its rounds.

    The ratio of the medians, and the peak of memory beyond what was held, are added to what the
    benchmark tells.
    """
    if benchmark.disabled:  # once, as a test
        benchmark(run)
        return
    seconds: list[float] = []

    def turn() -> None:
        begin = time.perf_counter()
        reference()
        seconds.append(time.perf_counter() - begin)

    run(), turn()  # what is made at the first call
    begin = time.perf_counter()
    run(), turn()
    fitting = int(SECONDS / (time.perf_counter() - begin))
    rounds = min(max(fitting, ROUNDS.start), ROUNDS.stop)
    seconds.clear()
    benchmark.pedantic(run, setup=turn, rounds=rounds, warmup_rounds=3)
    median = benchmark.stats.stats.median
    benchmark.extra_info["ratio"] = median / statistics.median(seconds)
    benchmark.extra_info["peak"] = peak_memory(run)


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
