"""An output folder as a run leaves it when every row is answered, made without asking.

    python benchmarks/folders.py finish REQUESTS.jsonl BASE_URL OUT
    python benchmarks/folders.py halve OUT HALF      a folder with the first half of another's answers

The input is planned as a run plans it, and each request gets the load target's answer. Only parts and the job are written; the
table is left for a run to make. What is known here of how batchflex keeps answers is known nowhere else in the benchmarks.
"""

from __future__ import annotations

import gc
import itertools
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
from target import COMPLETION

from batchflex import job as jobs
from batchflex import outcome, store
from batchflex.feed import Plan
from batchflex.folder import Folder
from batchflex.model import Answer, Request, Usage

_LATENCY_US = 400_000


def finish(source: Path, base_url: str, out: Path) -> None:
    """Make the folder of a finished job."""
    settings = [("endpoint.base_url", base_url), ("override.model", "m"), ("job.out", str(out))]
    job = jobs.read(source, settings)
    plan, folder, answer = Plan(job), Folder(job.out), _answer()
    frame = outcome.Frame("20260101T000000Z-0123ab", base_url, plan.labels)
    with folder.held():
        for number, requests in enumerate(_by(job.journal.seal_rows, plan.blocks()), 1):
            now = time.time_ns() // 1000
            effort = outcome.Effort(1, now - _LATENCY_US, now)
            sealed = [outcome.answered(frame, request, effort, answer) for request in requests]
            store.write_part(folder.parts, number, sealed, plan=plan.identity())
        folder.write_job(job.resolved())


def halve(whole: Path, half: Path) -> None:
    """Make a folder with the first half of the parts of another. Parts are never changed, so they are linked."""
    source, folder = Folder(whole), Folder(half)
    numbers = store.part_numbers(source.parts)
    with folder.held():
        shutil.copy(source.job, folder.job)
        for number in numbers[: len(numbers) // 2]:
            os.link(store.part_path(source.parts, number), store.part_path(folder.parts, number))


def _by(size: int, blocks: Iterator[list[Request]]) -> Iterator[list[Request]]:
    requests = itertools.chain.from_iterable(blocks)
    while batch := list(itertools.islice(requests, size)):
        yield batch


def _answer() -> Answer:
    said = msgspec.json.decode(COMPLETION)
    choice = said["choices"][0]
    return Answer(
        content=choice["message"]["content"],
        reasoning=None,
        tool_calls=None,
        finish_reason=choice["finish_reason"],
        model=said["model"],
        usage=Usage(**said["usage"]),
        response=COMPLETION.encode(),
        http_status=200,
        latency_s=_LATENCY_US / 1e6,
        ttft_s=None,
    )


def main() -> None:
    verb, *given = sys.argv[1:]
    gc.freeze()
    gc.set_threshold(100_000, 50, 1000)
    if verb == "finish":
        finish(Path(given[0]), given[1], Path(given[2]))
    else:
        halve(Path(given[0]), Path(given[1]))


if __name__ == "__main__":
    main()
