"""The feed: reads ahead by a bounded amount, and hands each request out exactly once."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import polars as pl
import pytest

from batchflex.config.job import Job
from batchflex.config.loader import build
from batchflex.core.errors import InputError
from batchflex.core.types import Request
from batchflex.engine.queue import RequestQueue
from batchflex.plan.plan import Plan

BLOCK, READ_AHEAD = 400, 2_000  # requests, about


def job(path: Path | None = None, **sections: Any) -> Job:
    data: dict[str, Any] = {"params": {"model": "m"}, "input": {}, **sections}
    if path is not None:
        data["input"] = {"path": str(path), **data["input"]}
    return build(data)


def rows(folder: Path, number: int, name: str = "rows.jsonl") -> Path:
    path = folder / name
    lines = ({"id": f"r{i}", "messages": [{"role": "user", "content": f"{i}?"}]} for i in range(number))
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


def everything(requests: Sequence[Request]) -> list[Request]:
    return list(requests)


class Watched(Plan):
    """A plan that counts the blocks that were read from it, and can be made to wait before one."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.read = 0
        self.may_read = threading.Event()
        self.may_read.set()

    def blocks(self) -> Iterator[list[Request]]:
        for block in super().blocks():
            assert self.may_read.wait(10)
            self.read += 1
            yield block


async def drain(feed: RequestQueue) -> list[Request]:
    found = []
    while (request := await feed.take()) is not None:
        found.append(request)
    return found


# ---------------------------------------------------------------------------------------------------------------- Plan


def test_a_plan_can_be_gone_through_again_and_gives_the_same(tmp_path: Path) -> None:
    plan = Plan(job(rows(tmp_path, 2_500)))
    first = [request for block in plan.blocks() for request in block]
    assert [request.id for request in first] == [f"r{i}" for i in range(2_500)]
    assert [request for block in plan.blocks() for request in block] == first
    assert plan.count() == 2_500


def test_blocks_are_bounded_however_much_an_item_expands(tmp_path: Path) -> None:
    plan = Plan(job(rows(tmp_path, 300), sweep={"temperature": [0.0, 0.5, 1.0], "samples": 50}))
    assert plan.per_item == 150
    assert plan.count() == 45_000
    sizes = [len(block) for block in plan.blocks()]
    assert sum(sizes) == 45_000
    assert max(sizes) <= BLOCK


@pytest.mark.parametrize("limit", [1, 999, 1_000, 1_001, 5_000])
def test_limit_is_a_number_of_rows(tmp_path: Path, limit: int) -> None:
    plan = Plan(job(rows(tmp_path, 3_000), input={"limit": limit}, sweep={"samples": 2}))
    ids = [request.id for block in plan.blocks() for request in block]
    expected = min(limit, 3_000)
    assert ids == [f"r{i}" for i in range(expected) for _ in range(2)]
    assert plan.count() == 2 * expected


def test_a_frame_takes_the_place_of_files() -> None:
    frame = pl.DataFrame({"text": ["a", "b"], "stars": pl.Series([1, 2], dtype=pl.Int8)})
    plan = Plan(job(input={"carry": ["stars"]}, prompt={"user": "{{ text }}?"}), frame=frame)
    [block] = plan.blocks()
    assert [json.loads(request.body)["messages"][0]["content"] for request in block] == ["a?", "b?"]
    assert [str(field.type) for field in plan.carry_schema()] == ["int8"]


def test_the_endpoints_own_model_is_used_if_the_job_names_none(tmp_path: Path) -> None:
    plan = Plan(build({"input": {"path": str(rows(tmp_path, 1))}}), default_model="small")
    [[request]] = plan.blocks()
    assert json.loads(request.body)["model"] == "small"


# ---------------------------------------------------------------------------------------------------------------- Feed


@pytest.mark.anyio
class TestFeed:
    async def test_every_request_is_handed_out_exactly_once_to_any_number_of_tasks(self, tmp_path: Path) -> None:
        feed = RequestQueue(Plan(job(rows(tmp_path, 7_300))).blocks(), everything)
        taken: list[list[str]] = [[] for _ in range(64)]

        async def worker(mine: list[str]) -> None:
            while (request := await feed.take()) is not None:
                mine.append(request.id)
                if len(mine) % 7 == 0:
                    await anyio.lowlevel.checkpoint()

        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                for mine in taken:
                    tasks.start_soon(worker, mine)
                tasks.start_soon(feed.fill)
        assert sorted(i for mine in taken for i in mine) == sorted(f"r{i}" for i in range(7_300))
        assert (feed.planned, feed.ended) == (7_300, True)

    async def test_one_task_gets_them_in_input_order(self, tmp_path: Path) -> None:
        feed = RequestQueue(Plan(job(rows(tmp_path, 4_321))).blocks(), everything)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(feed.fill)
            found = await drain(feed)
        assert [request.id for request in found] == [f"r{i}" for i in range(4_321)]

    async def test_a_slow_consumer_does_not_make_it_read_the_whole_input(self, tmp_path: Path) -> None:
        plan = Watched(job(rows(tmp_path, 20_000)))
        feed = RequestQueue(plan.blocks(), everything)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(feed.fill)
            taken = 0
            while await feed.take() is not None:
                taken += 1
                if taken % 500 == 0:
                    await anyio.sleep(0.005)
                assert plan.read * BLOCK <= taken + READ_AHEAD + 2 * BLOCK
        assert taken == 20_000
        assert plan.read == 20_000 // BLOCK

    async def test_with_no_consumer_it_reads_a_few_blocks_and_waits(self, tmp_path: Path) -> None:
        plan = Watched(job(rows(tmp_path, 20_000)))
        feed = RequestQueue(plan.blocks(), everything)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(feed.fill)
            await anyio.sleep(0.3)
            assert plan.read * BLOCK <= READ_AHEAD + 2 * BLOCK
            assert not feed.ended
            tasks.cancel_scope.cancel()

    async def test_what_is_sorted_out_is_planned_but_not_handed_out(self, tmp_path: Path) -> None:
        def odd(requests: Sequence[Request]) -> list[Request]:
            return [request for request in requests if request.row % 2]

        feed = RequestQueue(Plan(job(rows(tmp_path, 5_000))).blocks(), odd)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(feed.fill)
            found = await drain(feed)
        assert [request.row for request in found] == list(range(1, 5_000, 2))
        assert feed.planned == 5_000

    async def test_when_all_is_done_there_is_nothing_to_take(self, tmp_path: Path) -> None:
        feed = RequestQueue(Plan(job(rows(tmp_path, 5_000))).blocks(), lambda requests: [])
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(feed.fill)
            assert await feed.take() is None
        assert (feed.planned, feed.ended) == (5_000, True)

    async def test_limit(self, tmp_path: Path) -> None:
        plan = Watched(job(rows(tmp_path, 20_000), input={"limit": 1_500}))
        feed = RequestQueue(plan.blocks(), everything)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(feed.fill)
            assert len(await drain(feed)) == 1_500
        assert (feed.planned, feed.ended, plan.read) == (1_500, True, -(-1_500 // BLOCK))

    async def test_those_who_wait_are_woken_when_more_comes(self, tmp_path: Path) -> None:
        plan = Watched(job(rows(tmp_path, 10)))
        plan.may_read.clear()
        feed = RequestQueue(plan.blocks(), everything)
        found: list[str] = []

        async def worker() -> None:
            while (request := await feed.take()) is not None:
                found.append(request.id)

        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                for _ in range(3):
                    tasks.start_soon(worker)
                tasks.start_soon(feed.fill)
                await anyio.sleep(0.05)
                assert found == []
                plan.may_read.set()
        assert sorted(found) == sorted(f"r{i}" for i in range(10))

    async def test_stop_hands_out_nothing_of_what_is_ready_and_wakes_all(self, tmp_path: Path) -> None:
        feed = RequestQueue(Plan(job(rows(tmp_path, 1_500))).blocks(), everything)
        await feed.fill()
        assert await feed.take() is not None
        feed.stop()
        assert await feed.take() is None
        waiting = RequestQueue(Plan(job(rows(tmp_path, 1))).blocks(), everything)
        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                for _ in range(3):
                    tasks.start_soon(waiting.take)
                await anyio.wait_all_tasks_blocked()
                waiting.stop()

    async def test_stop_ends_the_reading(self, tmp_path: Path) -> None:
        plan = Watched(job(rows(tmp_path, 10_000)))
        feed = RequestQueue(plan.blocks(), everything)
        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(feed.fill)
                await feed.take()
                feed.stop()
                await anyio.sleep(0.2)
                assert plan.read * BLOCK <= READ_AHEAD + 2 * BLOCK
                assert await feed.take() is None
                tasks.cancel_scope.cancel()

    async def test_close_leaves_what_is_ready(self, tmp_path: Path) -> None:
        feed = RequestQueue(Plan(job(rows(tmp_path, 3))).blocks(), everything)
        await feed.fill()
        feed.close()
        assert [request.id for request in await drain(feed)] == ["r0", "r1", "r2"]

    async def test_a_damaged_file_surfaces_as_an_input_error_and_ends_the_waiting(self, tmp_path: Path) -> None:
        good = rows(tmp_path, 2_000, "a.jsonl")
        bad = tmp_path / "b.jsonl.gz"
        bad.write_bytes(b"\x1f\x8b\x08\x00 this is not gzip")
        feed = RequestQueue(Plan(job(input={"path": [str(good), str(bad)]})).blocks(), everything)
        found: list[Request] = []
        told: list[str] = []

        async def fill() -> None:
            try:
                await feed.fill()
            except InputError as error:
                told.append(str(error))

        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(fill)
                found += await drain(feed)
        assert len(found) == 2_000  # what comes before the damage is asked
        assert [str(bad) in words for words in told] == [True]
        assert not feed.ended

    async def test_a_cancelled_fill_tells_those_who_wait(self, tmp_path: Path) -> None:
        plan = Watched(job(rows(tmp_path, 10)))
        plan.may_read.clear()
        feed = RequestQueue(plan.blocks(), lambda requests: [])
        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks, anyio.create_task_group() as filling:
                filling.start_soon(feed.fill)
                tasks.start_soon(feed.take)
                await anyio.wait_all_tasks_blocked()
                filling.cancel_scope.cancel()
                plan.may_read.set()
