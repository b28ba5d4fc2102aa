"""The order of requests: those that begin alike near each other, the first of them leading, and none lost or held for ever."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from hypothesis import given, settings, strategies as st

from batchflex.config.job import Job
from batchflex.config.loader import build
from batchflex.core.errors import InputError
from batchflex.core.request_keys import KeySet
from batchflex.core.types import Prefix, Request
from batchflex.engine.queue import RequestQueue
from batchflex.plan.plan import Plan
from batchflex.plan.planner import Planner
from batchflex.plan.prefix_order import LEAD_S, LONG_BYTES, PrefixQueue, grouped, name_of
from batchflex.plan.rows import Itemizer
from batchflex.plan.source import Block
from batchflex.plan.template import beginning
from tests.support.command_line import begun, called, state, table, wait_until
from tests.support.counting_endpoint import CountingEndpoint, body_hash

MODERATE = settings(deadline=None, max_examples=200)
LONG = "Answer with the name of a colour, in lower case, and nothing else. " * (LONG_BYTES // 60)
PROMPTS = {name: {"system": f"{name}: {LONG}", "user": "{{ text }}"} for name in ("one", "two", "three", "four")}


def request(number: int, prefix: str = "", *, is_long: bool = True) -> Request:
    """Of a prefix by name; of none if that is empty."""
    begins = Prefix(prefix.encode(), is_long) if prefix else None
    return Request(number.to_bytes(16, "little"), b"", str(number), number, 0, 0, b"{}", None, None, prefix=begins)


def in_line(line: PrefixQueue, requests: Sequence[Request]) -> PrefixQueue:
    line.add(requests, {name_of(each) for each in requests})
    return line


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def rows_of(requests: Sequence[Request | None]) -> list[int | None]:
    return [None if each is None else each.row for each in requests]


# ------------------------------------------------------------------------------------------------------------ decisions


def test_requests_that_begin_alike_are_put_together_and_keep_their_order() -> None:
    mixed = [request(number, prefix) for number, prefix in enumerate("abcabcab")]
    assert rows_of(grouped(mixed)) == [0, 3, 6, 1, 4, 7, 2, 5]
    assert rows_of(grouped(mixed, b"c")) == [2, 5, 0, 3, 6, 1, 4, 7]
    assert rows_of(grouped(mixed, b"none of them")) == rows_of(grouped(mixed))


def test_the_first_of_a_prefix_leads_and_the_others_follow_when_it_is_back() -> None:
    line = in_line(PrefixQueue(Clock()), [request(number, prefix) for number, prefix in enumerate("aaabb")])
    lead, other = line.take(), line.take()
    assert rows_of([lead, other, line.take()]) == [0, 3, None]
    assert (line.size, line.wait_s()) == (3, LEAD_S)
    assert lead is not None and line.ended(lead)
    assert rows_of([line.take() for _ in range(3)]) == [1, 2, None]
    assert other is not None and line.ended(other) and not line.ended(other)
    assert rows_of([line.take(), line.take()]) == [4, None]
    assert (line.size, line.wait_s()) == (0, float("inf"))


def test_a_lead_that_takes_too_long_is_not_waited_for() -> None:
    clock = Clock()
    line = in_line(PrefixQueue(clock), [request(number, prefix) for number, prefix in enumerate("aab")])
    assert rows_of([line.take() for _ in range(3)]) == [0, 2, None]
    clock.now = LEAD_S - 0.25
    assert (line.take(), line.wait_s()) == (None, 0.25)
    clock.now = LEAD_S
    assert rows_of([line.take(), line.take()]) == [1, None]


def test_short_prefixes_none_and_a_single_one_are_not_waited_for() -> None:
    for requests in (
        [request(number, prefix, is_long=False) for number, prefix in enumerate("aabb")],
        [request(number) for number in range(4)],
        [request(number, "a") for number in range(4)],
    ):
        line = in_line(PrefixQueue(Clock()), requests)
        assert rows_of([line.take() for _ in range(5)]) == [0, 1, 2, 3, None]
    in_line(line, [request(number, prefix) for number, prefix in enumerate("abb")])
    assert rows_of([line.take() for _ in range(3)]) == [0, 1, None], "what was asked alone before is known by now"


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.lists(st.sampled_from(["", "a", "b", "c", "s"]), max_size=6)),
        st.tuples(st.just("take"), st.integers(1, 4)),
        st.tuples(st.just("end"), st.integers(0, 9)),
        st.tuples(st.just("wait"), st.sampled_from([1.0, 12.0, LEAD_S])),
    ),
    max_size=40,
)


@MODERATE
@given(STEPS)
def test_whatever_happens_each_is_handed_out_once_and_no_two_of_a_prefix_before_the_first_is_back(
    steps: list[Any],
) -> None:
    clock = Clock()
    line = PrefixQueue(clock)
    numbers = itertools.count()
    waiting: dict[str, list[int]] = {}  # by prefix, in order
    out: list[tuple[Request, str, float]] = []
    seen: set[str] = set()
    begun_with: dict[str, float] = {}  # a prefix that may be led, and since when
    back: set[str] = set()

    def take() -> bool:
        taken = line.take()
        free = [p for p in waiting if waiting[p] and not (p in begun_with and p not in back and not late(p))]
        if taken is None:
            assert not free, "somebody could have gone"
            return False
        prefix = taken.prefix.name.decode() if taken.prefix is not None else ""
        assert prefix in free
        assert taken.row == waiting[prefix].pop(0), "each once, and those of a prefix in their order"
        out.append((taken, prefix, clock()))
        if prefix in "abc" and prefix:
            begun_with.setdefault(prefix, clock())
            if len(seen) < 2:
                back.add(prefix)
        return True

    def late(prefix: str) -> bool:
        return clock() - begun_with[prefix] >= LEAD_S

    for what, value in steps:
        if what == "add":
            new = [request(next(numbers), prefix, is_long=prefix != "s") for prefix in value]
            in_line(line, new)
            for each, prefix in zip(new, value, strict=True):
                waiting.setdefault(prefix, []).append(each.row)
            seen.update(value)
        elif what == "take":
            for _ in range(value):
                take()
        elif what == "end" and out:
            ended, prefix, _ = out.pop(value % len(out))
            line.ended(ended)
            back.add(prefix)
        elif what == "wait":
            clock.now += value
        assert line.size == sum(map(len, waiting.values()))
    while line.size:
        if not take():
            assert 0 < line.wait_s() <= LEAD_S, "there is a moment from which on it goes on"
            clock.now += line.wait_s()
    assert not any(waiting.values())


# ------------------------------------------------------------------------------------------------- what a request begins with


def planned(job: Job, rows: list[dict[str, Any]]) -> list[Request]:
    items = Itemizer(job).items(Block("in.jsonl", list(rows), range(len(rows)), list(range(1, len(rows) + 1))))
    return Planner(job, KeySet()).requests(items)


def prompted(sweep: dict[str, Any], prompts: dict[str, Any] = PROMPTS) -> list[Request]:
    job = build(
        {"params": {"model": "m"}, "prompts": prompts, "sweep": {"order": "prefix", "prompt": list(prompts), **sweep}}
    )
    return planned(job, [{"text": "a"}, {"text": "b"}])


def test_prompts_and_models_make_prefixes() -> None:
    requests = prompted({"temperature": [0.0, 1.0], "model": ["m", "n"], "samples": 2})
    names: dict[bytes | None, set[tuple[str, str]]] = {}
    for each in requests:
        body = json.loads(each.body)
        names.setdefault(name_of(each), set()).add((body["model"], body["messages"][0]["content"][:5]))
    assert len(names) == 8 and all(len(begins) == 1 for begins in names.values()) and None not in names
    assert all(each.prefix is not None and each.prefix.is_long for each in requests)


def test_a_job_whose_requests_all_begin_alike_has_no_prefix_to_sort_by() -> None:
    job = {"params": {"model": "m"}, "prompt": PROMPTS["one"], "sweep": {"order": "prefix", "temperature": [0, 1]}}
    assert {each.prefix for each in planned(build(job), [{"text": "a"}])} == {None}
    assert {each.prefix for each in prompted({"order": "row"})} == {None}
    overridden = build(
        {"prompt": PROMPTS["one"], "sweep": {"order": "prefix", "seed": [1, 2]}, "override": {"model": "m"}}
    )
    assert {each.prefix for each in planned(overridden, [{"text": "a"}])} == {None}


def test_the_local_model_is_asked_in_the_order_of_the_input_unless_the_job_says_otherwise() -> None:
    server = {"base_url": "http://a/v1"}
    for groups, tables in (
        (False, {}),
        (False, {"endpoint": {"name": "local"}}),
        (True, {"sweep": {"order": "prefix"}}),
        (True, {"endpoint": server}),
        (True, {"endpoint": {"name": "flexai"}}),
        (True, {"endpoints": [{"name": "local"}, server]}),
        (False, {"endpoint": server, "sweep": {"order": "row"}}),
    ):
        assert build(tables).groups_prefixes is groups, tables


def test_prompts_that_soon_differ_from_row_to_row_are_grouped_but_not_waited_for() -> None:
    late = {"late": {"user": f"{{{{ text }}}} {LONG}"}, "early": {"user": f"{LONG} {{{{ text }}}}"}}
    assert [each.prefix is not None and each.prefix.is_long for each in prompted({}, late)] == [False, True] * 2


@pytest.mark.parametrize(
    ("prompt", "bytes"),
    [
        ({"system": "12345", "user": "67{{ text }}89"}, 7),
        ({"user": "{{ text }}89"}, 0),
        ({"user": "ä{# no text #}ö{% if text %}x{% endif %}"}, 4),
        ({"system": "{% raw %}{{ a }}{% endraw %}", "user": "{{ text }}"}, 7),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "x{{ text }}"}]}]}, 5),
        ({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}, 2),
    ],
)
def test_how_long_the_prompts_of_all_rows_are_the_same(prompt: dict[str, Any], bytes: int) -> None:
    section = build({"prompt": prompt}).prompt
    assert section is not None and beginning(section) == bytes


def test_rows_with_messages_of_their_own_begin_with_a_long_system_message_or_with_nothing() -> None:
    def row(role: str, text: str, model: str = "m") -> dict[str, Any]:
        return {"model": model, "messages": [{"role": role, "content": text}, {"role": "user", "content": "?"}]}

    rows = [
        row("system", LONG), row("developer", LONG), row("system", LONG), row("system", LONG, "n"), row("user", LONG),
        row("system", LONG[:900]), {"messages": [{"role": "system", "content": LONG}]},
    ]  # fmt: skip
    names = [name_of(each) for each in planned(build({"sweep": {"order": "prefix"}}), rows)]
    assert names[0] == names[2] and len(set(names)) == 4
    assert [name is None for name in names] == [False, False, False, False, True, True, True]
    assert {name_of(each) for each in planned(build({"sweep": {"order": "row"}}), rows)} == {None}


# ----------------------------------------------------------------------------------------------------------------- the feed


def blocks_of(prefixes: str, size: int) -> list[list[Request]]:
    requests = [request(number, prefix.strip(), is_long=prefix.islower()) for number, prefix in enumerate(prefixes)]
    return [requests[at : at + size] for at in range(0, len(requests), size)]


async def drained(feed: RequestQueue, *, back: bool = True) -> list[Request]:
    found = []
    while (taken := await feed.take()) is not None:
        found.append(taken)
        if back:
            feed.back(taken)
    return found


@pytest.mark.anyio
class TestFeed:
    async def test_windows_grow_and_each_begins_as_the_one_before_ended(self) -> None:
        feed = RequestQueue(iter(blocks_of("ABAB" * 700, 400)), list)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(feed.fill)
            found = await drained(feed)
        runs = [len(list(group)) for _, group in itertools.groupby(found, name_of)]
        assert sorted(rows_of(found)) == list(range(2_800))
        assert runs == [200, 200 + 400, 400 + 800, 800], "windows of 400, 800 and, as the input ends, 1,600 requests"

    async def test_what_all_begins_alike_is_handed_on_as_it_is_read(self) -> None:
        read = []

        def sort_out(requests: Sequence[Request]) -> list[Request]:
            read.append(len(requests))
            return list(requests)

        feed = RequestQueue(iter(blocks_of("aaaa" * 1_000, 400)), sort_out)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(feed.fill)
            assert (await feed.take()) is not None
            assert read[0] == 400 and len(read) <= 2
            assert rows_of(await drained(feed)) == list(range(1, 4_000))

    async def test_a_window_is_bounded_in_bytes(self) -> None:
        body = bytes(9 << 20)
        feed = RequestQueue(
            iter([[msgspec.structs.replace(each, body=body) for each in block] for block in blocks_of("ABABABAB", 2)]),
            list,
        )
        await feed.fill()
        assert rows_of(await drained(feed)) == [0, 1, 3, 2, 4, 5, 7, 6], "each window is a block"

    async def test_those_held_back_are_handed_out_though_the_input_has_ended(self) -> None:
        feed = RequestQueue(iter(blocks_of("abab", 4)), list)
        await feed.fill()
        leads = [await feed.take(), await feed.take()]
        found: list[int | None] = []

        async def worker() -> None:
            found.extend(rows_of(await drained(feed)))

        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                for _ in range(5):
                    tasks.start_soon(worker)
                await anyio.wait_all_tasks_blocked()
                assert (found, feed.starving) == ([], 0), "nobody waits for the input"
                for lead in leads:
                    assert lead is not None
                    feed.back(lead)
        assert sorted(found) == [2, 3] and rows_of(leads) == [0, 1]

    async def test_stop_lets_go_of_those_who_wait_for_a_lead(self) -> None:
        feed = RequestQueue(iter(blocks_of("aab", 4)), list)
        await feed.fill()
        assert rows_of([await feed.take(), await feed.take()]) == [0, 2]
        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                for _ in range(3):
                    tasks.start_soon(feed.take)
                await anyio.wait_all_tasks_blocked()
                feed.stop()
        assert await feed.take() is None

    async def test_those_held_back_go_when_the_lead_has_taken_too_long(self) -> None:
        clock = Clock()
        feed = RequestQueue(iter(blocks_of("aab", 4)), list, clock=clock)
        await feed.fill()
        assert rows_of([await feed.take(), await feed.take()]) == [0, 2]
        clock.now = LEAD_S - 0.01
        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                found: list[int | None] = []

                async def worker() -> None:
                    found.append(rows_of([await feed.take()])[0])

                tasks.start_soon(worker)
                await anyio.wait_all_tasks_blocked()
                clock.now = LEAD_S
        assert found == [1]

    async def test_what_comes_before_damage_in_a_window_is_handed_out(self) -> None:
        def damaged() -> Any:
            yield from blocks_of("AB" * 500, 400)
            raise InputError("cut short")

        feed = RequestQueue(damaged(), list)
        with pytest.raises(InputError, match="cut short"):
            await feed.fill()
        assert sorted(rows_of(await drained(feed))) == list(range(1_000))
        assert (feed.planned, feed.ended) == (1_000, False)


# ------------------------------------------------------------------------------------------------------------------ a run

ROWS = 12


@pytest.fixture
def sweeps(endpoint: CountingEndpoint, tmp_path: Path) -> Callable[..., list[object]]:
    """The command that asks four long prompts of each row; keyword arguments are further tables of the job."""
    import tomli_w

    lines = [json.dumps({"id": f"r{number}", "text": f"thing {number}"}) for number in range(ROWS)]
    (tmp_path / "rows.jsonl").write_text("".join(f"{line}\n" for line in lines))

    def command(order: str = "prefix", **tables: dict[str, Any]) -> list[object]:
        job = {
            "input": {"path": "rows.jsonl"},
            "endpoint": {"base_url": endpoint.base_url},
            "prompts": PROMPTS,
            "params": {"model": "m"},
            "sweep": {"order": order, "prompt": list(PROMPTS)},
            "retry": {"base_s": 0.01},
        }
        (tmp_path / "job.toml").write_text(
            tomli_w.dumps({n: {**job.get(n, {}), **tables.get(n, {})} for n in job | tables})
        )
        return ["run", tmp_path / "job.toml", "--out", tmp_path / "out", "--json"]

    return command


def arrived(endpoint: CountingEndpoint, tmp_path: Path) -> list[tuple[int, int, float, float | None]]:
    """Row, prompt, arrival and answer of each request, in order of arrival."""
    from batchflex.config.loader import load

    places = {
        body_hash(each.body): (each.row, each.point)
        for block in Plan(load(tmp_path / "job.toml")).blocks()
        for each in block
    }
    return [(*places[r["hash"]], r["at"], r["answered_at"]) for r in endpoint.log() if r["hash"] in places]


@pytest.mark.parametrize("order", ["prefix", "row"])
def test_requests_arrive_in_the_order_that_the_job_says(
    order: str, sweeps: Callable[..., list[object]], endpoint: CountingEndpoint, tmp_path: Path
) -> None:
    ended = called(*sweeps(order), "--concurrency", "1")
    assert (ended.code, ended.summary["ok"]) == (0, 4 * ROWS)
    by_prompt = [(row, prompt) for prompt in range(4) for row in range(ROWS)]
    found = [(row, prompt) for row, prompt, _, _ in arrived(endpoint, tmp_path)]
    assert found == (by_prompt if order == "prefix" else sorted(by_prompt))
    results = table(tmp_path / "out")
    assert results["id"].to_list() == [f"r{row}" for row in range(ROWS) for _ in range(4)]
    assert results["prompt"].to_list() == list(PROMPTS) * ROWS


def test_the_first_of_each_prefix_is_answered_before_the_others_arrive(
    sweeps: Callable[..., list[object]], endpoint: CountingEndpoint, tmp_path: Path
) -> None:
    endpoint.knobs(latency_s=0.1, jitter_s=0.1)
    ended = called(*sweeps(), "--concurrency", "16")
    assert (ended.code, ended.summary["ok"]) == (0, 4 * ROWS)
    found = arrived(endpoint, tmp_path)
    assert endpoint.stats()["max_in_flight"] > 4
    for prompt in range(4):
        (first, _, _, answered), *others = [each for each in found if each[1] == prompt]
        assert first == 0 and answered is not None
        assert all(at >= answered for _, _, at, _ in others)


@pytest.mark.parametrize("fault", ["400", "500", "reset_before"])
def test_a_lead_that_fails_holds_nobody_back(
    fault: str, sweeps: Callable[..., list[object]], endpoint: CountingEndpoint, tmp_path: Path
) -> None:
    endpoint.knobs(poison={f"{name}: Answer with": fault for name in ("two", "three")}, fault_attempts=1)
    if fault != "400":
        endpoint.knobs(poison={}, script=["ok", *[fault] * 3])
    ended = called(*sweeps(), "--concurrency", "8")
    failed = 2 * ROWS if fault == "400" else 0
    assert (ended.code, ended.summary["ok"], ended.summary["failed"]) == (int(failed > 0), 4 * ROWS - failed, failed)


def test_a_run_that_is_stopped_while_requests_are_held_back_is_taken_up_again(
    sweeps: Callable[..., list[object]], endpoint: CountingEndpoint, tmp_path: Path
) -> None:
    stopped = called(*sweeps(limits={"budget_requests": 3}), "--concurrency", "8")
    assert (stopped.code, stopped.summary["stopped_by"], stopped.summary["ok"]) == (3, "budget", 3)
    endpoint.knobs(fail_after=6, fail_with="hang")
    with begun(*sweeps(limits={"grace_s": 0.1}), "--concurrency", "8") as run:
        wait_until(lambda: endpoint.stats()["outcomes"].get("hang", 0) > 0, "the leads hang")
        run.terminate()
        run.wait(20)
    assert state(tmp_path / "out")["status"] == "interrupted"
    endpoint.knobs(fail_after=None)
    ended = called(*sweeps(), "--concurrency", "8")
    assert (ended.code, ended.summary["ok"]) == (0, 4 * ROWS)
    assert table(tmp_path / "out")["key"].n_unique() == 4 * ROWS
    assert called(*sweeps("row")).summary["requests_sent"] == 0, "another order is no change"
