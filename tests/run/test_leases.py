"""Quota and budget that several engines share: whatever is leased, the sum of what they use never exceeds the ceiling."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from batchflex.config.job import Job
from batchflex.config.loader import build
from batchflex.endpoint.quota import Spacing, Window
from batchflex.engine.budget import BudgetLimit
from batchflex.engine.engine import Engine
from batchflex.engine.job_run import JobRun
from batchflex.engine.leases import Lease, Leased, Lessor, LocalLessor
from batchflex.engine.run_result import Run
from tests.support.command_line import write_rows
from tests.support.counting_endpoint import CountingEndpoint
from tests.support.per_minute import most_in_a_minute

LENT_S = 0.1


class PipeLessor:
    """Another implementation: the limit is at the other end of a pipe, as a parent process would have it."""

    def __init__(self, here: Connection) -> None:
        self._here = here
        self._turn = anyio.Lock()

    async def _called(self, *message: Any) -> Any:
        async with self._turn:
            self._here.send(message)
            return await anyio.to_thread.run_sync(self._here.recv)

    async def ask(self, least: float, units: float) -> Lease | None:
        granted = await self._called("ask", least, units)
        return None if granted is None else Lease(*granted)

    async def settle(self, lease: Lease, used: float) -> None:
        await self._called("settle", tuple(lease), used)


def _serve(there: Connection, lessor: LocalLessor) -> None:
    async def serve() -> None:
        while (message := await anyio.to_thread.run_sync(there.recv)) is not None:
            if message[0] == "ask":
                granted = await lessor.ask(*message[1:])
                there.send(None if granted is None else tuple(granted))
            else:
                there.send(await lessor.settle(Lease(*message[1]), message[2]))

    anyio.run(serve)


Lessors = Callable[[LocalLessor], Lessor]


@pytest.fixture(params=["here", "over a pipe"])
def lessors(request: pytest.FixtureRequest) -> Iterator[Lessors]:
    """Makes the lessor of one engine, of a limit that all of them share."""
    pipes: list[Connection] = []
    threads: list[threading.Thread] = []

    def made(limit: LocalLessor) -> Lessor:
        if request.param == "here":
            return limit
        here, there = Pipe()
        pipes.append(here)
        threads.append(threading.Thread(target=_serve, args=(there, limit), daemon=True))
        threads[-1].start()
        return PipeLessor(here)

    yield made
    for here, thread in zip(pipes, threads, strict=True):
        here.send(None)
        thread.join(10)
        here.close()


async def _both(jobs: list[Job], leased: dict[str, list[tuple[Lessor, float]]]) -> list[Run]:
    ended: dict[int, Run] = {}

    async def conduct(n: int) -> None:
        engine = Engine(jobs[n], lessor_of=lambda limit, _: leased[limit][n] if limit in leased else None)
        async with engine:
            ended[n] = await JobRun(jobs[n]).run(engine)

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            for n in range(len(jobs)):
                tasks.start_soon(conduct, n)
    return [run for _, run in sorted(ended.items())]


def _jobs(endpoint: CountingEndpoint, folder: Path, rows: int, **limits: Any) -> list[Job]:
    return [
        build({
            "job": {"name": name, "out": str(folder / name)}, "endpoint": {"base_url": endpoint.base_url},
            "input": {"path": str(write_rows(folder / f"{name}.jsonl", rows, user=name))},
            "params": {"model": "m", "max_tokens": 100}, "limits": {"concurrency": 8, **limits},
            "retry": {"base_s": 0.01},
        })
        for name in ("a", "b")
    ]  # fmt: skip


@pytest.mark.anyio
async def test_two_engines_share_a_budget(endpoint: CountingEndpoint, tmp_path: Path, lessors: Lessors) -> None:
    endpoint.knobs(latency_s=0.01, faults={"500": 0.1})
    limit = LocalLessor(BudgetLimit(120.0, "budget_requests"), 1.0)
    leased = {"budget_requests": [(lessors(limit), 7.0) for _ in range(2)]}
    runs = await _both(_jobs(endpoint, tmp_path, 200, budget_requests=120), leased)
    assert [run.stopped_by for run in runs] == ["budget", "budget"]
    assert endpoint.stats()["requests"] == sum(run.summary["requests_sent"] for run in runs) == 120
    assert all(run.summary["ok"] > 7 for run in runs), "both had some of it"


@pytest.mark.anyio
async def test_a_budget_of_tokens_is_used_up_to_the_last_request(
    endpoint: CountingEndpoint, tmp_path: Path, lessors: Lessors
) -> None:
    endpoint.knobs(latency_s=0.01, tokens=20, tokens_spread=0.5)
    limit = LocalLessor(BudgetLimit(8_000.0, "budget_tokens"), 1.0)
    leased = {"budget_tokens": [(lessors(limit), 500.0) for _ in range(2)]}
    runs = await _both(_jobs(endpoint, tmp_path, 400, budget_tokens=8_000), leased)
    assert [run.stopped_by for run in runs] == ["budget", "budget"]
    assert 7_000 < endpoint.stats()["tokens"] <= 8_000


@pytest.mark.anyio
async def test_two_engines_share_a_quota(endpoint: CountingEndpoint, tmp_path: Path, lessors: Lessors) -> None:
    """30 a second for both."""
    limit = LocalLessor(Spacing(1_800, lent_s=LENT_S), LENT_S)
    leased = {"rpm": [(lessors(limit), 2.0) for _ in range(2)]}
    runs = await _both(_jobs(endpoint, tmp_path, 40, rpm=1_800), leased)
    assert [run.exit_code for run in runs] == [0, 0]
    at = [record["at"] for record in endpoint.log()]
    assert len(at) == 80 and max(at) - min(at) > 2


@pytest.mark.anyio
async def test_a_lessor_that_fails_stops_the_run(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    class Gone:
        async def ask(self, least: float, units: float) -> Lease | None:
            raise ConnectionResetError("the parent is gone")

        async def settle(self, lease: Lease, used: float) -> None:
            pass

    jobs = _jobs(endpoint, tmp_path, 5, rpm=60)[:1]
    (run,) = await _both(jobs, {"rpm": [(Gone(), 1.0)]})
    assert (run.stopped_by, endpoint.stats()["requests"]) == ("error", 0)
    assert "limits.rpm is leased" in run.summary["message"]


@pytest.mark.parametrize("seed", range(30))
def test_no_minute_has_more_than_the_quota_whenever_leases_are_used(seed: int) -> None:
    """By simulation: each unit is sent at any moment of its lease."""
    chance = random.Random(seed)
    rpm = chance.choice([1, 7, 60, 299, 1_000, 5_000])
    lessor = LocalLessor(Spacing(rpm, lent_s=LENT_S), LENT_S)
    now, sent = 0.0, []
    while len(sent) < min(3_000, 4 * rpm + 20):
        granted = lessor.grant(now, 1.0, float(chance.choice([1, 3, 50])))
        if isinstance(granted, Lease):
            sent += [now + chance.uniform(0, granted.for_s) for _ in range(int(granted.units))]
        elif granted is not None:
            now += granted
        now += chance.choice([0.0, 0.0, 0.01, 1.0])
    assert most_in_a_minute([(at, 1.0) for at in sorted(sent)]) <= rpm


@pytest.mark.parametrize("seed", range(30))
def test_no_minute_has_more_tokens_than_the_quota(seed: int) -> None:
    chance = random.Random(seed)
    tpm = 1_000.0
    lessor = LocalLessor(Window(tpm, LENT_S), LENT_S)
    now, sent = 0.0, []
    while now < 400:
        granted = lessor.grant(now, 1.0, chance.uniform(1, 400))
        if isinstance(granted, Lease):
            used = granted.units * chance.uniform(0, 1)
            sent.append((now + chance.uniform(0, granted.for_s), used))
            lessor._limit.correct(now + granted.for_s, granted.at, used - granted.units)  # type: ignore[union-attr]
        elif granted is not None:
            now += min(granted, 5.0)
        now += chance.choice([0.0, 0.3, 3.0])
    assert most_in_a_minute(sorted(sent)) <= tpm
    assert sum(units for _, units in sent) > 0.6 * tpm * 400 / 60


async def _until_it_may_use(leased: Leased, units: float) -> None:
    while True:
        if not leased.wait_s(0.0, units):
            return
        await anyio.sleep(0.01)


@pytest.mark.anyio
async def test_what_was_not_used_is_given_back() -> None:
    limit = BudgetLimit(10.0, "budget_requests")
    lessor = LocalLessor(limit, 0.05)
    one, other = Leased(lessor, 8.0), Leased(lessor, 8.0)
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one.keep)
            assert one.wait_s(0.0, 2.0) > 0
            await _until_it_may_use(one, 2.0)
            one.take(0.0, 2.0)
            tasks.start_soon(other.keep)
            await _until_it_may_use(other, 8.0)  # what the first one leased and did not use is settled in time
            other.take(0.0, 8.0)
            one.correct(0.0, 0.0, -1.0)  # of the two that were taken one was not used
            await _until_it_may_use(one, 1.0)
            tasks.cancel_scope.cancel()
    assert limit.spent <= 10.0 and limit.left <= 1.0
