"""batchflex from Python: jobs, frames, event loops that run already, and what interrupts them."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import anyio
import polars as pl
import pytest

import batchflex
from batchflex.storage.output_folder import Folder
from tests.support.command_line import environment, message, state, wait_until, write_rows
from tests.support.counting_endpoint import CountingEndpoint, body_hash

pytestmark = pytest.mark.usefixtures("no_keys")


@pytest.fixture
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BATCHFLEX_API_KEY", "FLEXAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def job(endpoint: CountingEndpoint, tmp_path: Path) -> dict[str, Any]:
    return {
        "job": {"name": "j", "out": str(tmp_path / "out")},
        "endpoint": {"base_url": endpoint.base_url},
        "input": {"path": str(write_rows(tmp_path / "rows.jsonl", 20))},
        "params": {"model": "m"},
        "retry": {"base_s": 0.01},
    }


FRAME = pl.DataFrame({"name": ["c", "a", "b"], "text": ["third", "first", "second"]})


# ---------------------------------------------------------------------------------------------------------- run, arun


def test_a_job_may_be_a_mapping_a_file_or_a_job(
    endpoint: CountingEndpoint, job: dict[str, Any], tmp_path: Path
) -> None:
    import tomli_w

    run = batchflex.run(job)
    assert isinstance(run, batchflex.Run)
    assert (run.exit_code, run.stopped_by, run.out) == (0, None, tmp_path / "out")
    assert run.summary == state(tmp_path / "out")
    results = run.results()
    assert isinstance(results, pl.DataFrame)
    assert results["content"].to_list() == [f"echo: row {i}." for i in range(20)]
    assert repr(run) == "<Run finished: 20 rows>"

    (tmp_path / "j.toml").write_text(tomli_w.dumps(job))
    for same in (tmp_path / "j.toml", str(tmp_path / "j.toml"), batchflex.load_job(tmp_path / "j.toml")):
        assert batchflex.run(same).summary["ok"] == 20
    assert endpoint.stats()["requests"] == 20


def test_a_run_that_stops_is_no_exception(endpoint: CountingEndpoint, job: dict[str, Any]) -> None:
    endpoint.knobs(script=["402"])
    run = batchflex.run(job)
    assert (run.exit_code, run.stopped_by) == (3, "credit")
    assert run.results().is_empty()
    endpoint.knobs(poison={"row 3.": "422"})
    assert batchflex.run(job).exit_code == 1


def test_what_is_wrong_raises_before_anything_is_sent(endpoint: CountingEndpoint, job: dict[str, Any]) -> None:
    with pytest.raises(batchflex.JobError, match="temperature"):
        batchflex.run(job | {"params": {"temperature": 3}})
    with pytest.raises(batchflex.InputError, match=r"nothing\.jsonl"):
        batchflex.run(job | {"input": {"path": "nothing.jsonl"}})
    with pytest.raises(batchflex.EndpointError, match="FLEXAI_API_KEY"):
        batchflex.run(job | {"endpoint": {"name": "flexai"}})
    assert endpoint.stats()["requests"] == 0
    assert batchflex.run(job).exit_code == 0
    with pytest.raises(batchflex.JobChanged, match="20 of 20"):
        batchflex.run(job | {"params": {"model": "n"}})
    assert endpoint.stats()["requests"] == 20


class Watcher:
    def __init__(self) -> None:
        self.ticks = 0
        self.notes: list[str] = []

    def tick(self, run_state: object) -> None:
        self.ticks += 1

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_an_observer_is_told(job: dict[str, Any], capfd: pytest.CaptureFixture[str]) -> None:
    watcher: batchflex.Observer = Watcher()
    batchflex.run(job, observer=watcher)
    assert isinstance(watcher, Watcher)
    assert watcher.ticks > 0 and any("asking http" in note for note in watcher.notes)
    assert capfd.readouterr() == ("", ""), "the library itself prints nothing"


@pytest.mark.anyio
async def test_arun_under_a_running_loop(endpoint: CountingEndpoint, job: dict[str, Any]) -> None:
    run = await batchflex.arun(job)
    assert (run.exit_code, run.results().height, endpoint.stats()["requests"]) == (0, 20, 20)


@pytest.mark.anyio
async def test_run_and_complete_in_a_notebook(endpoint: CountingEndpoint, job: dict[str, Any]) -> None:
    """There a loop runs already, and nobody awaits."""
    assert batchflex.run(job).results().height == 20
    answered = batchflex.complete(FRAME, "Say {{ text }}", model="m", endpoint=endpoint.base_url)
    assert answered["content"].to_list() == [f"echo: Say {text}" for text in FRAME["text"]]
    with pytest.raises(batchflex.JobError):
        batchflex.run({"jbo": {}})


@pytest.mark.anyio
async def test_two_runs_in_one_loop(endpoint: CountingEndpoint, job: dict[str, Any], tmp_path: Path) -> None:
    endpoint.knobs(latency_s=0.05)
    other = job | {"job": {"out": str(tmp_path / "other")}}
    busy: list[BaseException] = []

    async def same_folder() -> None:
        while not Folder(tmp_path / "out").is_held():  # noqa: ASYNC110  another object tells
            await anyio.sleep(0.01)
        try:
            await batchflex.arun(job | {"limits": {"concurrency": 1}})
        except batchflex.FolderBusy as error:
            busy.append(error)

    endpoint.knobs(latency_s=0.3)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(batchflex.arun, job | {"limits": {"concurrency": 10}})
        tasks.start_soon(batchflex.arun, other | {"limits": {"concurrency": 10}})
        tasks.start_soon(same_folder)
    assert len(busy) == 1
    assert endpoint.stats()["requests"] == 40


@pytest.mark.anyio
async def test_arun_cancelled_on_the_way_goes_on_without_repeats(
    job: dict[str, Any], endpoint: CountingEndpoint, tmp_path: Path
) -> None:
    endpoint.knobs(latency_s=0.02, fail_after=9, fail_with="hang")
    job = job | {"limits": {"concurrency": 4}}
    task = asyncio.create_task(batchflex.arun(job))
    while endpoint.stats()["outcomes"].get("hang", 0) < 4:
        await anyio.sleep(0.01)
        assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    kept = state(tmp_path / "out")
    assert (kept["status"], kept["stopped_by"], kept["exit_code"]) == ("interrupted", "signal", 130)
    assert kept["ok"] == endpoint.stats()["good"]
    endpoint.knobs(fail_after=None)
    run = await batchflex.arun(job)
    assert (run.exit_code, run.results().height) == (0, 20)
    assert (endpoint.stats()["good"], endpoint.stats()["repeats"]) == (20, 0)


SCRIPT = """
import asyncio, json, sys
import batchflex
job = json.loads(sys.argv[1])
async def cell():
    batchflex.run(job)
try:
    asyncio.new_event_loop().run_until_complete(cell()) if sys.argv[2] == "notebook" else batchflex.run(job)
except KeyboardInterrupt as interrupt:
    print(interrupt)
"""


@pytest.mark.parametrize("where", ["script", "notebook"])
def test_ctrl_c_ends_a_run_and_leaves_nothing_running(
    where: str, job: dict[str, Any], endpoint: CountingEndpoint, tmp_path: Path
) -> None:
    endpoint.knobs(fail_after=9, fail_with="hang")
    job = job | {"limits": {"concurrency": 4, "grace_s": 0.2}}
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, json.dumps(job), where],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
        start_new_session=True,
    )
    try:
        wait_until(lambda: endpoint.stats()["outcomes"].get("hang", 0) == 4, "every slot waits for ever")
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=30)
    finally:
        process.kill()
        process.communicate()
    assert out == "interrupted; what was answered is kept: run it again to go on\n"
    assert state(tmp_path / "out")["status"] == "interrupted"
    endpoint.knobs(fail_after=None)
    assert batchflex.run(job).exit_code == 0
    assert endpoint.stats()["repeats"] == 0


def test_the_collector_is_left_as_it_was(job: dict[str, Any]) -> None:
    import gc

    gc.freeze()  # as it was when the tests had been collected, and stays
    threshold, frozen = gc.get_threshold(), gc.get_freeze_count()
    batchflex.run(job)
    assert gc.get_threshold() == threshold
    # What dies of what is frozen leaves it; what is thawed leaves nothing.
    assert 0.9 * frozen < gc.get_freeze_count() <= frozen


# ------------------------------------------------------------------------------------------------------------ complete


def test_complete_puts_the_answers_beside_the_rows(endpoint: CountingEndpoint) -> None:
    answered = batchflex.complete(
        FRAME, "Say {{ text }}", system="You are {{ name }}", model="m", endpoint=endpoint.base_url, max_tokens=5
    )
    assert answered.columns[:3] == ["name", "text", "status"]
    assert answered.select("name", "text").equals(FRAME)
    assert answered["content"].to_list() == ["echo: Say third", "echo: Say first", "echo: Say second"]
    assert set(answered["status"]) == {"ok"}
    assert answered.columns[2:] == [
        *("status", "content", "reasoning", "tool_calls", "parsed", "finish_reason", "prompt_tokens"),
        *("completion_tokens", "cost", "error_message"),
    ]
    system = {"role": "system", "content": "You are c"}
    sent = {"model": "m", "max_tokens": 5, "messages": [system, *message("Say third")]}
    assert endpoint.log()[0]["hash"] == body_hash(sent)


def test_complete_takes_messages_as_they_are(endpoint: CountingEndpoint) -> None:
    frame = pl.DataFrame({"messages": [message("one"), message("two")], "stars": [1, 2], "seed": [7, 8]})
    answered = batchflex.complete(frame, model="m", endpoint=endpoint.base_url)
    assert answered["content"].to_list() == ["echo: one", "echo: two"]
    assert answered["stars"].to_list() == [1, 2]
    sent = {"model": "m", "messages": message("one"), "seed": 7}
    assert endpoint.log()[0]["hash"] == body_hash(sent), "only what is a request parameter is sent as one"


def test_complete_with_out_goes_on_where_it_was(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    def complete(frame: pl.DataFrame, **more: Any) -> pl.DataFrame:
        return batchflex.complete(
            frame, "Say {{ text }}", model="m", endpoint=endpoint.base_url, out=tmp_path / "out", concurrency=1, **more
        )

    endpoint.knobs(fail_after=1, fail_with="402")
    with pytest.raises(batchflex.RunStopped, match=r"credit.*call again") as stopped:
        complete(FRAME)
    assert stopped.value.reason == "credit"
    endpoint.knobs(fail_after=None)
    assert complete(FRAME)["content"].to_list() == [f"echo: Say {text}" for text in FRAME["text"]]
    assert endpoint.stats()["good"] == 3
    shuffled = complete(FRAME.sort("name"))
    assert shuffled["content"].to_list() == ["echo: Say first", "echo: Say second", "echo: Say third"]
    longer = complete(pl.concat([FRAME, pl.DataFrame({"name": ["d"], "text": ["fourth"]})]))
    assert longer["content"][3] == "echo: Say fourth"
    assert (endpoint.stats()["good"], endpoint.stats()["repeats"]) == (4, 0)
    with pytest.raises(batchflex.JobChanged):
        complete(FRAME, temperature=0.5)
    again = complete(FRAME, temperature=0.5, settings={"job.on_change": "rerun"})
    assert again["content"][0] == "echo: Say third"
    assert endpoint.stats()["good"] == 7


def test_complete_without_out_begins_anew(endpoint: CountingEndpoint) -> None:
    for _ in range(2):
        batchflex.complete(FRAME, "Say {{ text }}", model="m", endpoint=endpoint.base_url)
    assert endpoint.stats()["requests"] == 6
    endpoint.knobs(script=["401"])
    with pytest.raises(batchflex.RunStopped, match="without out="):
        batchflex.complete(FRAME, "Say {{ text }}", model="m", endpoint=endpoint.base_url)


def test_complete_renames_what_the_frame_has_already(endpoint: CountingEndpoint) -> None:
    frame = pl.DataFrame({"content": ["x"], "status": ["open"], "answer_status": ["y"], "text": ["t"]})
    answered = batchflex.complete(frame, "{{ content }}{{ status }}", model="m", endpoint=endpoint.base_url)
    assert answered.columns[:4] == frame.columns
    assert answered["answer_content"].to_list() == ["echo: xopen"]
    assert answered["answer_status_2"].to_list() == ["ok"]
    assert answered["answer_status"].to_list() == ["y"]
    twice = batchflex.complete(answered, "{{ answer_content }}", model="m", endpoint=endpoint.base_url)
    assert twice["answer_content_2"].to_list() == ["echo: echo: xopen"]


def test_complete_keeps_rows_that_cannot_be_answered(endpoint: CountingEndpoint) -> None:
    endpoint.knobs(poison={"first": "422"})
    answered = batchflex.complete(FRAME, "Say {{ text }}", model="m", endpoint=endpoint.base_url)
    assert answered["status"].to_list() == ["ok", "failed", "ok"]
    assert "must be at most 1" in answered["error_message"][1]


@pytest.mark.parametrize(
    "frame",
    [
        pl.DataFrame({"id": [1, 1, 2], "text": ["a", "a", "b"]}),
        pl.DataFrame({"text": ["a", "a", "b"]}),
        pl.DataFrame({"id": [None, None, "x"], "text": ["a", "a", "b"]}),
    ],
)
def test_complete_answers_equal_rows_each(frame: pl.DataFrame, endpoint: CountingEndpoint) -> None:
    answered = batchflex.complete(frame, "Say {{ text }}", model="m", endpoint=endpoint.base_url)
    assert answered["content"].to_list() == ["echo: Say a", "echo: Say a", "echo: Say b"]
    assert answered.select(frame.columns).equals(frame)


def test_complete_of_an_empty_frame(endpoint: CountingEndpoint) -> None:
    answered = batchflex.complete(FRAME.clear(), "Say {{ text }}", model="m", endpoint=endpoint.base_url)
    assert (answered.height, answered.columns[:3]) == (0, ["name", "text", "status"])
    assert endpoint.stats()["requests"] == 0


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"user": "{{ txet }}"}, "txet"),
        ({}, "user="),
        ({"user": "x", "temperature": 3}, "temperature"),
        ({"user": "x", "settings": {"sweep.samples": 2}}, "one answer a row"),
        ({"user": "x", "settings": {"input.limit": 2}}, "one answer a row"),
        ({"user": "x", "settings": {"limits.rmp": 2}}, "rpm"),
        ({"user": "x", "endpoint": "nowhere"}, "nowhere"),
    ],
)
def test_complete_refuses_what_it_cannot_do(more: dict[str, Any], words: str, endpoint: CountingEndpoint) -> None:
    with pytest.raises(batchflex.BatchflexError, match=words):
        batchflex.complete(FRAME, **{"model": "m", "endpoint": endpoint.base_url} | more)
    assert endpoint.stats()["requests"] == 0


def test_importing_is_quick_and_complete() -> None:
    """Names come when they are first used: the command line does not pay for them."""
    code = "import sys, batchflex; assert 'polars' not in sys.modules; print([getattr(batchflex, n) for n in batchflex.__all__])"
    began = time.monotonic()
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    assert time.monotonic() - began < 60


UNTOUCHED = """
import gc, json, resource, signal, sys, time
import batchflex

def handlers():
    return [signal.getsignal(number) for number in signal.valid_signals()]

def process():
    # pandas, which pyarrow imports where it is installed, may bring six, which has an importer of its own.
    importers = [each for each in sys.meta_path if type(each).__module__ != "six"]
    return [gc.get_threshold(), gc.get_freeze_count(), importers,
            [resource.getrlimit(getattr(resource, name)) for name in dir(resource) if name.startswith("RLIMIT_")]]

class Watch:
    notes, during = [], []
    def note(self, text):
        self.notes.append(text)
    def tick(self, run_state):
        self.during.append(process())

resource.setrlimit(resource.RLIMIT_NOFILE, (200, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
before, handled, watch = process(), handlers(), Watch()
run = batchflex.run(json.loads(sys.argv[1]), observer=watch)
assert all(each == before for each in [*watch.during, process()]), (before, watch.during)
assert handlers() == handled
print(json.dumps([run.summary["ok"], len(watch.during), watch.notes]))
"""


def test_a_run_from_python_leaves_the_process_as_it_is(endpoint: CountingEndpoint, job: dict[str, Any]) -> None:
    """Signals, collections of garbage, limits of the process: these are the host's."""
    endpoint.knobs(latency_s=0.6)
    command = [sys.executable, "-c", UNTOUCHED, json.dumps(job | {"limits": {"concurrency": 1_000}})]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment(), check=False)
    assert ended.returncode == 0, ended.stderr
    ok, ticks, notes = json.loads(ended.stdout)
    assert ok == 20 and ticks > 1
    assert any("this process may open 200 files, so at most 136 requests go at a time" in note for note in notes)
