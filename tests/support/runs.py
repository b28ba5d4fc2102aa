"""Whole runs in this process against the counting endpoint, what is done to it while they go on, and what a kill leaves."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import batchflex
from batchflex.cli.job_options import job_of
from batchflex.cli.options import parse
from batchflex.config.job import Job
from tests.support.command_line import Ended, called
from tests.support.counting_endpoint import CountingEndpoint


def options(endpoint: CountingEndpoint, rows: Path) -> list[object]:
    """A run into the folder ``out`` beside the rows."""
    asks = ["--base-url", endpoint.base_url, "--model", "m", "--set", "retry.base_s=0.01", "--concurrency", "8"]
    return ["run", rows, *asks, "--out", rows.parent / "out", "--json"]


def run(endpoint: CountingEndpoint, rows: Path, *more: object) -> Ended:
    return called(*options(endpoint, rows), *more)


def run_job(path: Path, text: str) -> dict[str, Any]:
    """What ``--json`` printed for a job file of this text, with ``code`` and ``err``."""
    path.write_text(text)
    ended = called("run", path, "--json")
    return ended.summary | {"code": ended.code, "err": ended.err}


def telemetry(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "telemetry.jsonl").read_text().splitlines()]


def killed(job: Job, endpoint: CountingEndpoint, most: int, hanging: int = 1) -> batchflex.Run | None:
    """Leave what SIGKILL leaves after so many good answers, once so many requests have none: the folder as it is at that moment,
    the last answers in the journal. A run that has ended before is returned."""
    endpoint.knobs(fail_after=most, fail_with="hang")
    hanging += _hanging(endpoint)
    copy = job.out.with_name("killed")

    async def main() -> batchflex.Run | None:
        running = asyncio.ensure_future(batchflex.arun(job))

        def is_sealing() -> bool:
            return len(list((job.out / "journal").glob("*.journal"))) > 1

        while not running.done() and (_hanging(endpoint) < hanging or is_sealing()):
            await asyncio.wait([running], timeout=0.005)
        if running.done():
            return running.result()
        shutil.copytree(job.out, copy, ignore=shutil.ignore_patterns(".lock"))
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        return None

    ended = asyncio.run(main())
    if ended is None:
        shutil.rmtree(job.out)
        copy.rename(job.out)
    return ended


@contextlib.contextmanager
def going(*arguments: object) -> Iterator[threading.Thread]:
    """The run of a command's job, in a thread of this process. If it goes on at the end of the block, it is cancelled."""
    job = job_of(parse([str(argument) for argument in arguments]))
    loop = asyncio.new_event_loop()
    task = loop.create_task(batchflex.arun(job))

    def work() -> None:
        with contextlib.suppress(asyncio.CancelledError), contextlib.closing(loop):
            loop.run_until_complete(task)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield thread
    finally:
        with contextlib.suppress(RuntimeError):  # it has ended, and its loop with it
            loop.call_soon_threadsafe(task.cancel)
        thread.join()


def _hanging(endpoint: CountingEndpoint) -> int:
    return int(endpoint.stats()["outcomes"].get("hang", 0))


def killed_command(endpoint: CountingEndpoint, most: int, *arguments: object) -> None:
    """What ``killed`` leaves of a command that runs a job, after so many more good answers, when each of its requests at a time
    waits for one; from then on all are good again."""
    job = job_of(parse([str(argument) for argument in arguments]))
    concurrency = job.limits.concurrency
    assert isinstance(concurrency, int)
    assert killed(job, endpoint, endpoint.stats()["good"] + most, concurrency) is None
    endpoint.knobs(fail_after=None)


class Meanwhile:
    """What happens to an endpoint while a run goes on, one thing after the other, in a thread of its own."""

    _LOOKS_EVERY_S = 0.01

    def __init__(self) -> None:
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []

    def once(
        self, endpoint: CountingEndpoint, holds: Callable[[dict[str, Any]], bool], *then: Callable[[], object] | float
    ) -> None:
        """As soon as the counts of ``endpoint`` fit, do ``then``; a number is a pause of so many seconds."""

        def watch() -> None:
            while not holds(endpoint.stats()):
                if self._over.wait(self._LOOKS_EVERY_S):
                    return
            for step in then:
                if callable(step):
                    step()
                elif self._over.wait(step):
                    return

        thread = threading.Thread(target=watch, daemon=True)
        self._threads.append(thread)
        thread.start()

    def end(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
