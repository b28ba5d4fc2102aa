"""Several job runs on one engine: what they share, in which order they go, and that each ends alone."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import polars as pl
import pytest

from batchflex.config.job import Job
from batchflex.config.loader import build
from batchflex.core import TIMINGS
from batchflex.core.errors import JobError
from batchflex.engine.admission import FairShare
from batchflex.engine.engine import Engine
from batchflex.engine.job_run import JobRun
from batchflex.engine.run_result import Run
from tests.support.command_line import state, table, write_rows
from tests.support.counting_endpoint import CountingEndpoint

pytestmark = pytest.mark.anyio


class Bench:
    """Jobs of one endpoint, and what became of their runs."""

    def __init__(self, endpoint: CountingEndpoint, folder: Path, **limits: Any) -> None:
        self.endpoint = endpoint
        self.folder = folder
        self.limits = {"concurrency": 4} | limits
        self.ended: dict[str, Run] = {}
        self.failed: dict[str, BaseException] = {}

    def job(self, name: str, rows: int, **sections: Any) -> Job:
        source = self.folder / f"{name}.jsonl"
        if not source.exists():
            lines = write_rows(source, rows).read_text()
            source.write_text(lines.replace("row ", f"{name} row "))
        return build({
            "job": {"name": name, "out": str(self.folder / name)}, "input": {"path": str(source)},
            "endpoint": {"base_url": self.endpoint.base_url}, "params": {"model": "m"}, "limits": self.limits,
            **sections,
        })  # fmt: skip

    async def conduct(self, name: str, run: JobRun, engine: Engine) -> None:
        try:
            self.ended[name] = await run.run(engine)
        except Exception as error:
            self.failed[name] = error

    def whole(self, name: str, rows: int) -> bool:
        """Whether each of its requests has one row, in its own folder."""
        found = table(self.folder / name)
        contents = [f"echo: {name} row {n}." for n in range(rows)]
        return found["content"].to_list() == contents and found["key"].n_unique() == rows


@pytest.fixture
def bench(endpoint: CountingEndpoint, tmp_path: Path) -> Bench:
    return Bench(endpoint, tmp_path)


@asynccontextmanager
async def engine_of(job: Job) -> Any:
    with anyio.fail_after(60):
        async with Engine(job) as engine, anyio.create_task_group() as tasks:
            yield engine, tasks


async def until(holds: Callable[[], bool]) -> None:
    while True:
        if holds():
            return
        await anyio.sleep(0.01)


def done(run: JobRun) -> int:
    return 0 if run.run_state is None else run.run_state.done


async def test_two_job_runs_share_one_limit_of_concurrency_and_both_end_whole(bench: Bench) -> None:
    bench.endpoint.knobs(latency_s=0.02, jitter_s=0.02, faults={"500": 0.05, "503": 0.05})
    jobs = {name: bench.job(name, 150, retry={"base_s": 0.01}) for name in ("a", "b")}
    async with engine_of(jobs["a"]) as (engine, tasks):
        for name, job in jobs.items():
            tasks.start_soon(bench.conduct, name, JobRun(job), engine)
    stats = bench.endpoint.stats()
    assert stats["max_in_flight"] == 4
    assert stats["good"] == 300 and stats["repeats"] == 0
    assert all(bench.whole(name, 150) for name in jobs)
    sent = [bench.ended[name].summary["requests_sent"] for name in jobs]
    assert sum(sent) == stats["requests"]
    assert [run.exit_code for run in bench.ended.values()] == [0, 0]


async def test_two_job_runs_share_one_quota(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    """30 a second for both: alone, either would take half as long."""
    bench = Bench(endpoint, tmp_path, rpm=1_800)
    jobs = {name: bench.job(name, 40) for name in ("a", "b")}
    async with engine_of(jobs["a"]) as (engine, tasks):
        for name, job in jobs.items():
            tasks.start_soon(bench.conduct, name, JobRun(job), engine)
    at = [record["at"] for record in endpoint.log()]
    assert len(at) == 80 and max(at) - min(at) > 2
    assert all(bench.whole(name, 40) for name in jobs)


async def test_a_small_job_run_is_not_stuck_behind_a_large_one(bench: Bench) -> None:
    bench.endpoint.knobs(latency_s=0.02)
    large, small = JobRun(bench.job("large", 600)), JobRun(bench.job("small", 10))
    async with engine_of(large.job) as (engine, tasks):
        tasks.start_soon(bench.conduct, "large", large, engine)
        await until(lambda: done(large) >= 20)
        await small.run(engine)
        assert done(large) < 300, "what lay before it was not waited for"
    assert bench.whole("large", 600) and bench.whole("small", 10)


async def test_a_paused_job_run_sends_nothing_keeps_what_is_in_flight_and_goes_on(bench: Bench) -> None:
    bench.endpoint.knobs(latency_s=0.05)
    one, other = JobRun(bench.job("one", 60)), JobRun(bench.job("other", 60))
    async with engine_of(one.job) as (engine, tasks):
        tasks.start_soon(bench.conduct, "one", one, engine)
        tasks.start_soon(bench.conduct, "other", other, engine)
        await until(lambda: done(one) >= 10)
        one.pause()
        assert one.run_state is not None
        for _ in range(3):  # what has a slot goes still
            await anyio.lowlevel.checkpoint()
        sent = one.run_state.requests_sent
        await until(lambda: "other" in bench.ended)
        assert one.run_state.requests_sent == sent == done(one), (
            "what was in flight was kept, and nothing else was sent"
        )
        assert bench.endpoint.stats()["requests"] == sent + 60
        await until(lambda: any(wait["reason"] == "paused" for wait in state(bench.folder / "one")["waiting"]))
        one.resume()
    assert bench.endpoint.stats()["repeats"] == 0
    assert bench.whole("one", 60) and bench.whole("other", 60)


async def test_a_job_run_that_is_paused_before_it_begins_waits(bench: Bench) -> None:
    run = JobRun(bench.job("a", 5))
    run.pause()
    async with engine_of(run.job) as (engine, tasks):
        tasks.start_soon(bench.conduct, "a", run, engine)
        await until(lambda: engine.states != [] and done(run) == 0 and run.run_state is not None)
        await anyio.sleep(0.3)
        assert bench.endpoint.stats()["requests"] == 0
        run.resume()
    assert bench.whole("a", 5)


@pytest.mark.parametrize("paused", [False, True])
async def test_cancelling_ends_one_and_leaves_the_other_going(bench: Bench, paused: bool) -> None:
    bench.endpoint.knobs(latency_s=0.05)
    one, other = JobRun(bench.job("one", 100)), JobRun(bench.job("other", 60))
    async with engine_of(one.job) as (engine, tasks):
        tasks.start_soon(bench.conduct, "one", one, engine)
        tasks.start_soon(bench.conduct, "other", other, engine)
        await until(lambda: done(one) >= 10)
        if paused:
            one.pause()
        one.cancel()
        await until(lambda: "one" in bench.ended)
        assert "other" not in bench.ended
    assert (bench.ended["one"].stopped_by, bench.ended["one"].summary["message"]) == ("signal", "cancelled")
    assert 10 <= table(bench.folder / "one").height == bench.ended["one"].summary["ok"] < 100
    assert bench.whole("other", 60)
    again = await JobRun(one.job).run()
    assert (again.exit_code, bench.whole("one", 100), bench.endpoint.stats()["repeats"]) == (0, True, 0)


async def test_parts_that_cannot_be_written_end_one_job_run_alone(bench: Bench) -> None:
    bench.endpoint.knobs(latency_s=0.02)
    one = JobRun(bench.job("one", 300, journal={"seal_rows": 20}))
    other = JobRun(bench.job("other", 100))
    async with engine_of(one.job) as (engine, tasks):
        tasks.start_soon(bench.conduct, "one", one, engine)
        await until(lambda: done(one) >= 1)
        (bench.folder / "one" / "parts").rename(bench.folder / "elsewhere")
        (bench.folder / "one" / "parts").write_text("no folder")
        tasks.start_soon(bench.conduct, "other", other, engine)
    assert not bench.failed and bench.ended["one"].stopped_by == "disk"
    assert bench.whole("other", 100)
    (bench.folder / "one" / "parts").unlink()
    (bench.folder / "elsewhere").rename(bench.folder / "one" / "parts")
    assert (await JobRun(one.job).run()).exit_code == 0
    assert bench.whole("one", 300) and bench.endpoint.stats()["repeats"] == 0


async def test_what_raises_in_one_job_run_is_raised_there_alone(bench: Bench) -> None:
    class Broken:
        def note(self, text: str) -> None:
            pass

        def tick(self, run_state: object) -> None:
            raise ZeroDivisionError

    bench.endpoint.knobs(latency_s=0.05)
    one, other = JobRun(bench.job("one", 400), observer=Broken()), JobRun(bench.job("other", 60))
    async with engine_of(one.job) as (engine, tasks):
        tasks.start_soon(bench.conduct, "one", one, engine)
        tasks.start_soon(bench.conduct, "other", other, engine)
    assert isinstance(bench.failed["one"], ExceptionGroup)
    assert bench.whole("other", 60)


async def test_a_budget_is_one_job_runs_own(bench: Bench) -> None:
    one = JobRun(bench.job("one", 50, limits=bench.limits | {"budget_requests": 7}))
    other = JobRun(bench.job("other", 50))
    async with engine_of(one.job) as (engine, tasks):
        tasks.start_soon(bench.conduct, "one", one, engine)
        tasks.start_soon(bench.conduct, "other", other, engine)
    assert (bench.ended["one"].stopped_by, bench.ended["one"].summary["ok"]) == ("budget", 7)
    assert bench.whole("other", 50)


async def test_a_refused_key_ends_all_job_runs_and_the_next_one_at_once(bench: Bench) -> None:
    bench.endpoint.knobs(latency_s=0.02, fail_after=20, fail_with="401")
    runs = {name: JobRun(bench.job(name, 100)) for name in ("a", "b", "c")}
    async with engine_of(runs["a"].job) as (engine, _):
        async with anyio.create_task_group() as first:
            first.start_soon(bench.conduct, "a", runs["a"], engine)
            first.start_soon(bench.conduct, "b", runs["b"], engine)
        before = bench.endpoint.stats()["requests"]
        await bench.conduct("c", runs["c"], engine)
        assert bench.endpoint.stats()["requests"] == before
    assert {run.stopped_by for run in bench.ended.values()} == {"key"}
    assert sum(run.summary["ok"] for run in bench.ended.values()) == bench.endpoint.stats()["good"]
    assert sum(run.summary["failed"] for run in bench.ended.values()) == 0


async def test_a_model_that_is_not_there_ends_only_the_job_run_that_names_it(bench: Bench) -> None:
    bench.endpoint.knobs(poison={'"model":"gone"': "404_model"}, models=["m", "gone"])
    one = JobRun(bench.job("one", 30, params={"model": "gone"}))
    other = JobRun(bench.job("other", 60))
    async with engine_of(one.job) as (engine, tasks):
        tasks.start_soon(bench.conduct, "other", other, engine)
        await until(lambda: done(other) >= 10)
        await bench.conduct("one", one, engine)
    assert (bench.ended["one"].stopped_by, bench.ended["one"].summary["failed"]) == ("model", 0)
    assert bench.whole("other", 60)


async def test_an_outage_is_waited_for_by_all_and_costs_each_row_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TIMINGS, "first_probe_s", 0.5)
    bench.endpoint.knobs(latency_s=0.03)
    runs = {name: JobRun(bench.job(name, 80)) for name in ("a", "b")}
    async with engine_of(runs["a"].job) as (engine, tasks):
        for name, run in runs.items():
            tasks.start_soon(bench.conduct, name, run, engine)
        await until(lambda: all(done(run) >= 10 for run in runs.values()))
        bench.endpoint.knobs(down="503")
        await until(lambda: engine.states[0].breaker.is_open)
        runs["a"].pause()  # whoever is not paused pays for the probes
        bench.endpoint.knobs(down=None)
        await until(lambda: "b" in bench.ended)
        runs["a"].resume()
    assert all(bench.whole(name, 80) for name in runs)


async def test_an_engine_has_the_endpoints_of_its_job(bench: Bench) -> None:
    other = build({"input": {"path": "x"}, "endpoint": {"base_url": "http://127.0.0.1:9/v1"}, "params": {"model": "m"}})
    async with Engine(bench.job("a", 1)) as engine:
        with pytest.raises(JobError, match="other endpoints"):
            await JobRun(other).run(engine)


def _served(shares: dict[str, FairShare], times: int, wants: Callable[[int], set[str]]) -> Iterator[str]:
    now = 0.0
    for n in range(times):
        name = min(sorted(wants(n)), key=lambda name: shares[name].due(now))
        now = shares[name].went(now)
        yield name


@pytest.mark.parametrize("seed", range(5))
def test_turns_are_taken_by_weight(seed: int) -> None:
    weights = {name: random.Random(seed).choice([0.5, 1.0, 2.0, 4.0]) for name in "abc"}
    shares = {name: FairShare(weight) for name, weight in weights.items()}
    served = pl.Series(_served(shares, 700, lambda n: set("abc")))
    for name, weight in weights.items():
        assert abs((served == name).sum() - 700 * weight / sum(weights.values())) <= 8


def test_who_wanted_nothing_for_long_has_saved_nothing_up() -> None:
    shares = {"a": FairShare(), "b": FairShare()}
    served = list(_served(shares, 120, lambda n: {"a"} if n < 100 else {"a", "b"}))
    assert served[:100] == ["a"] * 100
    assert 9 <= served[100:].count("b") <= 11
