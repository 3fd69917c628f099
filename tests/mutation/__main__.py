"""`check` and the other judges against the mutants: how many each finds, and how many right
backwards it refuses.

    python -m tests.mutation [--only TEXT] [--json FILE]

All judges are given the same: the sample of an entry of the corpus, and for an automatic mutant
(see `mutation`) the samples of its pair, one after the other until one shows it. Those known to be
equivalent are left out. The right ones are those of the corpus and the pairs' own.

Each verdict is reached in a process of its own, since a mutant may hang, crash, or keep something
from one call to the next. One without a verdict is flagged. With a file an interrupted run goes on
where it stopped.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path

from rich.progress import track

from backprop_ops import pairs
from tests.corpus import entries
from tests.mutation.judging import JUDGES, Entry, Verdict, judge
from tests.mutation.mutation import mutants, original
from tests.support.families import equivalent


def candidates() -> Iterator[Entry]:
    wrong, right = entries()
    yield from (Entry("wrong", name) for name in wrong)
    yield from (Entry("right", name) for name in right)
    for pair in pairs.values():
        yield Entry("right", f"{pair.name}: itself", mutant=original(pair))
        for mutant in mutants(pair):
            if mutant.name not in equivalent(pair):
                yield Entry("automatic", mutant.name, mutant=mutant)


def verdicts(found: Sequence[Entry], file: Path | None) -> list[Verdict]:
    """Every judge on every entry, but for what the file has; each verdict is added at once."""
    known: dict[tuple[str, str, str], Verdict] = {}
    if file is not None and file.exists():
        for line in file.read_text().splitlines():
            verdict = Verdict(**json.loads(line))
            known[verdict.kind, verdict.name, verdict.judge] = verdict
    asked = {(e.kind, e.name, name): (name, e) for e in found for name in JUDGES}
    with contextlib.ExitStack() as stack:
        results = stack.enter_context(file.open("a")) if file is not None else None
        pool = stack.enter_context(ThreadPoolExecutor(2))
        # An interruption does not wait for what has not begun.
        stack.callback(pool.shutdown, wait=False, cancel_futures=True)
        futures = [pool.submit(judge, *asked[key]) for key in asked if key not in known]
        for future in track(as_completed(futures), "verdicts", len(futures)):
            verdict = future.result()
            known[verdict.kind, verdict.name, verdict.judge] = verdict
            if results is not None:
                print(json.dumps(asdict(verdict)), file=results, flush=True)
    return [known[key] for key in asked]


def table(found: Sequence[Verdict]) -> str:
    """A row for each judge: the wrong ones found, the right ones refused, the mutants killed."""
    rows = [f"{'':20} {'wrong found':>14} {'right refused':>14} {'mutants killed':>15}"]
    for name in JUDGES:
        row = f"{name:20}"
        for kind, width in (("wrong", 14), ("right", 14), ("automatic", 15)):
            of_kind = [v for v in found if v.judge == name and v.kind == kind]
            flagged = sum(not verdict.passed for verdict in of_kind)
            row += f" {f'{flagged} of {len(of_kind)}':>{width}}"
        rows.append(row)
    return "\n".join(rows)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutation", description="check and other judges against the mutants"
    )
    parser.add_argument("--only", default="", metavar="TEXT", help="those with this in their name")
    parser.add_argument("--json", type=Path, metavar="FILE", help="JSON lines, added to")
    arguments = parser.parse_args()
    wanted = [e for e in candidates() if arguments.only in e.name]
    begin = time.perf_counter()
    found = verdicts(wanted, arguments.json)
    print(table(found))
    failed = [v for v in found if v.judge == "check" and v.passed != (v.kind == "right")]
    for verdict in failed:
        what = "refused" if verdict.kind == "right" else "missed"
        print(f"{what} by check: {verdict.name} {verdict.reason}".rstrip())
    print(f"{time.perf_counter() - begin:.0f} s")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
