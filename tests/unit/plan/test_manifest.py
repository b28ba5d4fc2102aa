"""Inputs that grow: what was asked is known by the file, and found again wherever its rows are now."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import random
import re
import shutil
import threading
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from batchflex.cli import plan_text
from batchflex.config.job import Job
from batchflex.config.loader import build
from batchflex.core.errors import InputError, JobChanged, JobError
from batchflex.core.types import Outcome, Request
from batchflex.plan import json_files, plan as plan_module, preparation, reading, snapshot, unusable_rows
from batchflex.plan.answer_index import AnswerIndex
from batchflex.plan.completion_marker import make
from batchflex.plan.manifest import Inputs
from batchflex.plan.plan import Plan
from batchflex.plan.preparation import Prepared, prepare
from batchflex.plan.reading import Every
from batchflex.plan.source import Known, Source
from batchflex.results import compact
from batchflex.storage import FolderStore, ResultsFiles, part_files, places
from batchflex.storage.output_folder import Folder
from batchflex.storage.part_index import Positions
from batchflex.storage.positions import OPEN, Layout, Span, file_at, shaped
from tests.support.command_line import called
from tests.support.counting_endpoint import CountingEndpoint
from tests.support.young_files import aged

# ---------------------------------------------------------------------------------------------------------- places


NIGHTS = [(4, 5), (6, 9)]  # a file of five rows that has grown by four


@pytest.mark.parametrize(
    ("files", "limit", "found"),
    [
        ([([(1, 3)], 3), ([(2, OPEN)], 2)], None, [0, 2, -1, 3, 4, -1]),
        ([([(2, 2)], 2), ([(1, 3)], 3)], None, [2, 4, -1, 0, 1, -1]),
        ([([(1, 3)], 3), ([(7, 10)], 10), ([(2, 2)], 2)], None, [0, 2, -1, 13, 14, -1]),
        ([([(1, 3)], 3), ([(2, 2)], 2)], 4, [0, 2, -1, 3, -1, -1]),
        ([([(8, OPEN)], None), ([(1, 3)], 3)], None, [-1, -1, -1, -1, -1, -1]),
        ([([(1, OPEN)], None)], None, [0, 2, 3, -1, -1, -1]),
        ([([(1, 2)], 2), ([(2, 2)], 2)], None, [0, -1, -1, 2, 3, -1]),
        ([], None, [-1] * 6),
    ],
)
def test_rows_are_found_by_their_files(files: Any, limit: int | None, found: list[int]) -> None:
    layout = Layout([(tuple(Span(*span) for span in spans), rows) for spans, rows in files], limit)
    wanted = [(1, 0), (1, 2), (1, 3), (2, 0), (2, 1), (0, 0)]
    assert layout.rows(*(np.array(column) for column in zip(*wanted, strict=True))).tolist() == found


def test_what_was_added_to_a_file_is_identified_apart() -> None:
    spans = tuple(Span(*span) for span in NIGHTS)
    assert [file_at(spans, at) for at in (0, 4, 5, 8, 9)] == [4, 4, 6, 6, None]
    layout = Layout([((Span(1, 3),), 3), (spans, 9)])
    assert layout.rows(np.array([4, 4, 6, 6]), np.array([4, 5, 4, 5])).tolist() == [7, -1, -1, 8]
    assert layout.spans() == [(1, 0, 3), (4, 3, 8), (6, 8, 12)]
    assert {span.file for span in shaped(spans, "one")}.isdisjoint(span.file for span in shaped(spans, "other"))


LAYOUT = st.permutations(range(5)).flatmap(
    lambda order: st.lists(st.integers(0, 4), min_size=5, max_size=5).map(
        lambda rows: [(number, rows[number]) for number in order]
    )
)


@given(now=LAYOUT, left_out=st.sets(st.integers(0, 4)))
@settings(max_examples=200, deadline=None)
def test_a_row_is_where_its_file_and_its_position_in_it_are(now: Any, left_out: set[int]) -> None:
    now = [each for each in now if each[0] not in left_out]
    layout = Layout([((Span(number + 1, OPEN),), rows) for number, rows in now])
    places = [(number + 1, at) for number, rows in now for at in range(rows)]
    where = {place: row for row, place in enumerate(places)}
    wanted = [(number, at) for number in range(1, 7) for at in range(5)]
    file, position = (np.array(column) for column in zip(*wanted, strict=True))
    assert layout.rows(file, position).tolist() == [where.get(place, -1) for place in wanted]
    back = zip(*(column.tolist() for column in layout.positions(np.arange(len(places)))), strict=True)
    assert list(back) == places


# ----------------------------------------------------------------------------------------------- what is remembered


def rows_of(names: Any) -> str:
    return "".join(
        json.dumps({"id": str(name), "messages": [{"role": "user", "content": f"text {name}"}]}) + "\n"
        for name in names
    )


def job_of(folder: Path, **sections: Any) -> Job:
    aged(*(path for path in (folder / "in").rglob("*") if path.is_file()))
    tables = {"params": {"model": "m"}, "input": {"path": str(folder / "in")}, "job": {"out": str(folder / "out")}}
    return build({name: {**tables.get(name, {}), **sections.get(name, {})} for name in {**tables, **sections}})


def answer(plan: Plan, request: Request, status: str = "ok") -> Outcome:
    return Outcome(
        key=request.key.hex(), slot=request.slot.hex(), id=request.id, row=request.row, sample=request.sample,
        status=status, content=hashlib.md5(request.body).hexdigest(), attempts=1, started_at=1, finished_at=2,
        endpoint="e", run_id="r", point=plan.labels[request.point], file=request.file, position=request.position,
    )  # type: ignore[arg-type]  # fmt: skip


def night(job: Job, answered: int | None = None, fails: Collection[int] = ()) -> tuple[Prepared, list[Request]]:
    """A run that answers the first so many of its requests, all by default, and makes the table. Of these some fail."""
    folder = Folder(job.out)
    with folder.held():
        plan = Plan(job)
        found = prepare(job, plan, folder)
        sort_out = found.sort_out
        asked: list[Request] = []
        for block in found.blocks:
            asked += sort_out(block)
            if answered is not None and len(asked) >= answered:
                break
        asked = asked[:answered]
        number = found.segment
        statuses = ["failed" if at in fails else "ok" for at in range(len(asked))]
        answers = [answer(plan, request, status) for request, status in zip(asked, statuses, strict=True)]
        part_files.write_part(folder.parts, number, answers)
        as_folder = job.job.results == "folder"
        make(folder, plan, found, None, as_folder=as_folder)
        if as_folder:
            make(anew := copy_without_table(folder), plan, found, None, as_folder=True)
            assert table(folder.path.parent).equals(table(anew.path.parent)), "what was kept is not as it is made"
        identity = plan.identity()
        assert identity is not None
        folder.write_state({"plan": identity})
        layout = Layout() if found.kept else plan.layout(found.layout.files)
        snapshot.keep(folder, plan, layout, found.snapshot)
    return found, asked


def copy_without_table(folder: Folder) -> Folder:
    to = folder.path.parent / "copy" / "out"
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(folder.path, to, ignore=shutil.ignore_patterns("results*"))
    return Folder(to)


def read_files(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are opened from now on."""
    opened: list[str] = []
    whole = reading.Reading.open
    monkeypatch.setattr(reading.Reading, "open", lambda self: opened.append(self.path.name) or whole(self))
    return opened


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    """Three files, of which each row is answered."""
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.jsonl").write_text(rows_of(range(10 * number, 10 * number + 10)))
    assert len(night(job_of(tmp_path))[1]) == 30
    return folder


def table(folder: Path) -> pl.DataFrame:
    return pl.read_parquet(ResultsFiles(Folder(folder / "out")).paths)


@pytest.mark.parametrize("name", ["3.jsonl", "0a.jsonl", "%.jsonl"])
def test_only_a_new_file_is_read(inbox: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (inbox / name).write_text(rows_of(["a", "b"]))
    job = job_of(tmp_path)
    opened = read_files(monkeypatch)
    found, asked = night(job)
    assert [request.id for request in asked] == ["a", "b"]
    assert {*opened} == {name} and found.notes[0].startswith("resuming: 30")
    wanted = [json.loads(line)["id"] for path in sorted(inbox.iterdir()) for line in path.read_text().splitlines()]
    assert table(tmp_path)["id"].to_list() == wanted
    assert table(tmp_path)["row"].to_list() == list(range(32))


def test_of_a_file_that_has_grown_only_what_is_new_is_read(
    inbox: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (inbox / "1.jsonl").open("a") as stream:
        stream.write(rows_of(["a", "b"]))
    job = job_of(tmp_path)
    parsed: list[bytes] = []
    whole = json_files.parse_rows
    monkeypatch.setattr(json_files, "parse_rows", lambda lines: parsed.extend(lines) or whole(lines))
    _, asked = night(job)
    assert [request.id for request in asked] == ["a", "b"] and len(parsed) == 2
    assert table(tmp_path)["id"].to_list()[18:24] == ["18", "19", "a", "b", "20", "21"]
    with (inbox / "1.jsonl").open("a") as stream:
        stream.write(rows_of(["c"]))
    assert [request.id for request in night(job_of(tmp_path))[1]] == ["c"]
    assert night(job_of(tmp_path))[1] == []


@pytest.mark.parametrize("how", ["touched", "copied back", "renamed"])
def test_a_file_is_known_by_its_bytes(inbox: Path, tmp_path: Path, how: str) -> None:
    path = inbox / "1.jsonl"
    if how == "touched":
        path.touch()
    elif how == "copied back":
        data = path.read_bytes()
        path.unlink()
        path.write_bytes(data)
    else:
        path.rename(inbox / "9.jsonl")
    assert night(job_of(tmp_path))[1] == []
    assert table(tmp_path).height == 30


def test_a_file_that_changed_is_told_and_its_rows_are_looked_up(inbox: Path, tmp_path: Path) -> None:
    path = inbox / "1.jsonl"
    path.write_text(path.read_text().replace('"15"', '"x"').replace("text 15", "text x"))
    found, asked = night(job_of(tmp_path))
    assert [request.id for request in asked] == ["x"]
    assert found.notes[
        0
    ] == "1.jsonl has changed since it was read (10 rows then): its rows are looked up one by one" or (
        found.notes[0].startswith("1.jsonl is shorter than it was")
    )
    assert any("belong to no row of this job now: 1;" in note for note in found.notes)
    assert table(tmp_path).height == 30 and "15" not in table(tmp_path)["id"].to_list()


def test_a_file_that_shrank_is_told(inbox: Path, tmp_path: Path) -> None:
    (inbox / "1.jsonl").write_text(rows_of(range(10, 15)))
    found, asked = night(job_of(tmp_path))
    assert asked == [] and found.notes[0].startswith("1.jsonl is shorter than it was: ")
    assert any("belong to no row of this job now: 5;" in note for note in found.notes)
    assert table(tmp_path).height == 25


def test_rows_that_changed_under_their_ids_stop_the_job_which_names_the_file(inbox: Path, tmp_path: Path) -> None:
    path = inbox / "1.jsonl"
    path.write_text(path.read_text().replace("text 15", "text, the same id"))
    with pytest.raises(JobChanged, match=r"1\.jsonl has changed since it was read(.|\n)*1 of 30 requests"):
        night(job_of(tmp_path))
    assert night(job_of(tmp_path, job={"on_change": "keep"}))[1] == []
    assert table(tmp_path).height == 30
    assert [request.id for request in night(job_of(tmp_path, job={"on_change": "rerun"}))[1]] == ["15"]


def test_files_that_went_away_leave_the_results(inbox: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (inbox / "0.jsonl").unlink()
    (inbox / "3.jsonl").write_text(rows_of(["a"]))
    job = job_of(tmp_path)
    opened = read_files(monkeypatch)
    found, asked = night(job)
    assert [request.id for request in asked] == ["a"] and {*opened} == {"3.jsonl"}
    assert any("belong to no row of this job now: 10;" in note for note in found.notes)
    assert table(tmp_path)["row"].to_list() == list(range(21))
    assert table(tmp_path)["id"].to_list() == [*map(str, range(10, 30)), "a"]


def test_the_memory_may_be_lost(inbox: Path, tmp_path: Path) -> None:
    folder = Folder(tmp_path / "out")
    folder.inputs.unlink()
    assert night(job_of(tmp_path))[1] == []
    folder.inputs.write_bytes(b'{"kind":"file","number":"one"}\n\xff\n{"kind":"pl\n' + folder.inputs.read_bytes())
    (inbox / "3.jsonl").write_text(rows_of(["a"]))
    assert [request.id for request in night(job_of(tmp_path))[1]] == ["a"]


def test_a_failed_row_whose_part_tells_no_place_is_in_the_results(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "1.jsonl").write_text(rows_of(range(3)))
    never = {"job": {"retry_failed": 0}}
    assert len(night(job_of(tmp_path, **never), 1, fails=[0])[1]) == 1
    Folder(tmp_path / "out").inputs.unlink()
    for number in (2, 3):
        (tmp_path / "in" / f"{number}.jsonl").write_text(rows_of([f"n{number}"]))
        night(job_of(tmp_path, **never))
        assert table(tmp_path)["id"].to_list() == ["0", "1", "2", *(f"n{at}" for at in range(2, number + 1))]


def test_another_prompt_places_no_old_answer(inbox: Path, tmp_path: Path) -> None:
    (inbox / "3.jsonl").write_text(rows_of(["a"]))
    with pytest.raises(JobChanged):
        night(job_of(tmp_path, params={"temperature": 0.5}))
    _, asked = night(job_of(tmp_path, params={"temperature": 0.5}, job={"on_change": "rerun"}))
    assert len(asked) == 31
    (inbox / "4.jsonl").write_text(rows_of(["b"]))
    _, asked = night(job_of(tmp_path, params={"temperature": 0.5}, job={"on_change": "rerun"}))
    assert [request.id for request in asked] == ["b"] and table(tmp_path).height == 32


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("t.csv", "id,text\n1,one\n2,\"two\nlines\"\n", "3,three\n"),
        ("t.tsv", "id\ttext\n1\tone\n", "3\tthree\n"),
        ("t.csv", "id,text\n1,one\n2,two", "\n3,three\n"),
    ],
)  # fmt: skip
def test_tables_grow_too(tmp_path: Path, name: str, old: str, new: str) -> None:
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / name
    path.write_text(old)
    prompt = {"user": "{{ text }}"}
    night(job_of(tmp_path, prompt=prompt))
    with path.open("a") as stream:
        stream.write(new)
    job = job_of(tmp_path, prompt=prompt)
    _, asked = night(job)
    assert [request.id for request in asked] == ["3"]
    bad = 'id,text\n4,"open\n' if name.endswith("csv") else "id\ttext\n4\n"
    path.write_text(bad)
    with pytest.raises(InputError, match=r"t\.[ct]sv"):
        night(job_of(tmp_path, prompt=prompt))


@pytest.mark.parametrize("tail", ['{"id": "b", "mess', '{"id": "b"'])
def test_a_line_that_is_being_written_is_left_for_the_next_run(tmp_path: Path, tail: str) -> None:
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "t.jsonl"
    path.write_text(rows_of(["a"]) + tail)
    job = job_of(tmp_path)
    with pytest.raises(InputError, match="not valid JSON"):
        list(prepare(job, Plan(job), Folder(job.out)).blocks)
    plan = Plan(job)
    rest = rows_of(["b"])[len(tail) :] + rows_of(["c"])
    with path.open("a") as stream:
        stream.write(rest)
    assert [request.id for block in plan.blocks() for request in block] == ["a"]
    assert plan.identity() is not None, "it has become longer, which changes nothing in what was read"
    folder = Folder(job.out)
    with folder.held():
        path.write_text(rows_of(["a"]) + tail)
        aged(path)
        plan = Plan(job)
        path.write_text(rows_of(["a"]) + tail + rest)
        found = prepare(job, plan, folder)
        asked = [request for block in found.blocks for request in block]
        part_files.write_part(folder.parts, 1, [answer(plan, request) for request in asked])
    assert [request.id for request in asked] == ["a"]
    _, asked = night(job_of(tmp_path))
    assert [request.id for request in asked] == ["b", "c"]
    assert table(tmp_path)["id"].to_list() == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("name", "first", "half", "rest"),
    [
        ("t.jsonl", rows_of(["a"]), '{"id": "b", "mess', None),
        ("t.csv", "id,text\na,one\n", "b,tw", "o\n"),
    ],
)
def test_a_line_that_stays_half_in_a_file_that_grows_is_left_for_the_next_run(
    tmp_path: Path, name: str, first: str, half: str, rest: str | None
) -> None:
    """As a program leaves it that writes by the block. Rows of later files stay where they are."""
    (tmp_path / "in").mkdir()
    path, later = tmp_path / "in" / name, tmp_path / "in" / f"z{name}"
    sections = {"endpoint": {"base_url": "http://127.0.0.1:9/v1"}}
    if name == "t.csv":
        sections["prompt"] = {"user": "{{ text }}"}
    end = rows_of(["b"])[len(half) :] if rest is None else rest
    path.write_text(first)
    later.write_text(first.replace('"a"', '"z"').replace("a,one", "z,one"))
    night(job_of(tmp_path, **sections))
    for _ in range(2):
        path.write_text(first + half)
        job = job_of(tmp_path, **sections)
        found, asked = night(job)
        assert asked == [] and f"{name} ends within a line, which is left for the next run" in found.notes
        assert table(tmp_path)["id"].to_list() == ["a", "z"]
        assert table(tmp_path)["row"].to_list() == [0, 1]
        assert plan_text.forecast(job)["unaskable"] == 0
    path.write_text(first + half + end)
    found, asked = night(job_of(tmp_path, **sections))
    assert [request.id for request in asked] == ["b"] and not any("within a line" in note for note in found.notes)
    assert table(tmp_path)["id"].to_list() == ["a", "b", "z"]


def test_where_a_file_grows_while_it_is_asked_what_it_had_is_asked(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    """And each row once in the end, however the writer and the runs fall together."""
    endpoint.knobs(latency_s=0.002)
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "t.jsonl"
    path.write_text(rows_of([0]))
    stop = threading.Event()

    def write() -> None:
        chance = random.Random(1)
        with path.open("a") as stream:
            for number in range(1, 3_000):
                line = rows_of([number])
                cut = chance.randrange(len(line))
                stream.write(line[:cut])
                stream.flush()
                stream.write(line[cut:])
                stream.flush()
                time.sleep(0.0005)
                if stop.is_set() and number > 200:
                    break

    writer = threading.Thread(target=write)
    writer.start()
    options = (
        "--base-url",
        endpoint.base_url,
        "--model",
        "m",
        "--out",
        tmp_path / "out",
        "--json",
        "--concurrency",
        50,
    )
    seen = []
    for _ in range(4):
        ended = called("run", tmp_path / "in", *options)
        if ended.code == 2 and "not valid JSON" in ended.err:  # its last line was being written as the run looked
            continue
        assert ended.code == 0, ended.err
        seen.append(json.loads(ended.out)["planned"])
    stop.set()
    writer.join()
    last = json.loads(called("run", tmp_path / "in", *options).out)
    lines = path.read_text().splitlines()
    assert last["exit_code"] == 0 and last["done"] == len(lines) > seen[0]
    assert endpoint.stats()["requests"] == len(lines)
    results = table(tmp_path)
    assert results["id"].to_list() == [json.loads(line)["id"] for line in lines]
    assert results["row"].to_list() == list(range(len(lines)))


def test_how_far_a_file_is_read_is_what_it_had(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(rows_of(range(5)))
    aged(path)
    source = Source(str(path))
    seen = source.seen()
    assert seen is not None
    with path.open("a") as stream:
        stream.write(rows_of(range(5, 9)))
    (block,) = source.blocks(signed=seen)
    assert len(block.rows) == 5 and source.rows_of(0, seen[0]) == 5 and source.count(seen) == 5
    assert source.rows_of(0) == 9 == source.count()
    source.known = [Known(5, 5, seen[0].size)]
    (block,) = source.blocks(skip=b"\1" * 5, signed=source.seen())
    assert (list(block.at), block.lines, block.first) == ([5, 6, 7, 8], [6, 7, 8, 9], 0)
    assert Every()[1 << 40]


def test_rows_of_a_file_that_grew_are_known_only_as_far_as_it_was_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run that asked them was killed before the end of the file, whose end was then made anew."""
    monkeypatch.setattr(unusable_rows, "_PREFLIGHT_REQUESTS", 0)
    monkeypatch.setattr(plan_module, "_BLOCK_REQUESTS", 2)
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "1.jsonl"
    path.write_text(rows_of(range(5)))
    night(job_of(tmp_path))
    path.write_text(rows_of([*range(5), *"abcdef"]))
    assert [request.id for request in night(job_of(tmp_path), 2)[1]] == ["a", "b"]
    path.write_text(rows_of([*range(5), *"xyabcdefgh"]))
    assert [request.id for request in night(job_of(tmp_path), 3)[1]] == ["x", "y", "c"]
    path.write_text(rows_of([*range(5), *"ycxabdefghi"]))
    assert [request.id for request in night(job_of(tmp_path))[1]] == [*"defghi"]
    assert table(tmp_path)["id"].to_list() == [*map(str, range(5)), *"ycxabdefghi"]


def test_a_new_file_that_grows_beside_finished_ones_is_read_as_far_as_it_went(inbox: Path, tmp_path: Path) -> None:
    path = inbox / "3.jsonl"
    path.write_text(rows_of("ab"))
    job = job_of(tmp_path)
    plan, folder = Plan(job), Folder(job.out)
    with folder.held():
        with path.open("a") as stream:
            stream.write(rows_of("c"))
        assert [request.id for block in prepare(job, plan, folder).blocks for request in block] == ["a", "b"]


def test_a_last_line_that_was_a_row_and_is_none_any_more_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For the rows after it would be taken for others."""
    monkeypatch.setattr(preparation, "_HELD_BYTES", 0)
    (tmp_path / "in").mkdir()
    one, two = tmp_path / "in" / "1.jsonl", tmp_path / "in" / "2.jsonl"
    one.write_text(rows_of("abc"))
    two.write_text(rows_of("xyz"))
    bad = {"input": {"on_bad_row": "fail"}}
    night(job_of(tmp_path, **bad))
    one.unlink()
    one = one.with_name("0.jsonl")
    one.write_text(rows_of("nabc") + '{"id": "torn", "mess')
    two.write_text(rows_of("wxyzv"))
    job = job_of(tmp_path, **bad)
    with (folder := Folder(job.out)).held():
        found = prepare(job, Plan(job), folder)
        with one.open("a") as stream:
            stream.write(rows_of(["torn"])[20:])
        with pytest.raises(InputError, match=r"0\.jsonl was changed while it was being asked"):
            list(found.blocks)
    assert [request.id for request in night(job_of(tmp_path, **bad))[1]] == ["n", "torn", "w", "v"]


def test_a_file_that_was_moved_or_replaced_may_end_within_a_line(tmp_path: Path) -> None:
    """As one that has grown where it was; a new one is damaged."""
    (tmp_path / "in").mkdir()
    path, moved = tmp_path / "in" / "1.jsonl", tmp_path / "in" / "moved.jsonl"
    path.write_text(rows_of("ab"))
    night(job_of(tmp_path))
    torn, left = '{"id": "torn", "mess', "moved.jsonl ends within a line, which is left for the next run"

    path.rename(moved)
    moved.write_text(moved.read_text() + rows_of("c") + torn)
    found, asked = night(job_of(tmp_path))
    assert [request.id for request in asked] == ["c"] and left in found.notes
    moved.write_text(rows_of("xyz") + torn)
    found, asked = night(job_of(tmp_path))
    assert [request.id for request in asked] == ["x", "y", "z"] and left in found.notes
    moved.write_text(rows_of(["x", "y", "z", "torn"]))
    found, asked = night(job_of(tmp_path))
    assert [request.id for request in asked] == ["torn"] and left not in found.notes

    (tmp_path / "in" / "new.jsonl").write_text(rows_of("n") + torn)
    for _ in range(2):
        with pytest.raises(InputError, match=r"new\.jsonl"):
            night(job_of(tmp_path))


def test_a_file_rewritten_just_before_it_is_read_is_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is longer, and has the inode it had: so the system tells of it as of one that was appended to."""
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "1.jsonl"
    path.write_text(rows_of("abc"))
    night(job_of(tmp_path))
    job = job_of(tmp_path, input={"on_bad_row": "fail"})  # a plan of another shape goes through the file anew
    with (folder := Folder(job.out)).held():
        plan = Plan(job)
        path.write_text(rows_of("abxyz"))
        prepare(job, plan, folder)
    assert [request.id for request in night(job_of(tmp_path))[1]] == ["x", "y", "z"]
    assert table(tmp_path)["id"].to_list() == [*"abxyz"]


def test_a_last_cell_that_is_being_written_is_left_for_the_next_run(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "t.csv"
    path.write_text("id,text\n1,one\n2,tw")
    job = job_of(tmp_path, prompt={"user": "{{ text }}"})
    plan = Plan(job)
    with path.open("a") as stream:
        stream.write("o\n3,three\n")
    assert [request.id for block in plan.blocks() for request in block] == ["1"]
    assert [request.id for request in night(job_of(tmp_path, prompt={"user": "{{ text }}"}))[1]] == ["1", "2", "3"]


def test_a_file_may_have_a_name_that_is_no_utf8(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / os.fsdecode(b"\xff.jsonl")
    path.write_text(rows_of("a"))
    night(job_of(tmp_path))
    with path.open("a") as stream:
        stream.write(rows_of("b"))
    found, asked = night(job_of(tmp_path))
    assert [request.id for request in asked] == ["b"] and found.passed == 1


def test_answers_found_by_their_keys_number_the_same_requests_of_other_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the file is not known any more in which their part says that they are."""
    monkeypatch.setattr(preparation, "_HELD_BYTES", 0)
    (tmp_path / "in").mkdir()
    for name in ("1", "2"):
        (tmp_path / "in" / f"{name}.jsonl").write_text('{"messages": [{"role": "user", "content": "again"}]}\n' * 2)
    assert len(night(job_of(tmp_path))[1]) == 4
    (tmp_path / "in" / "2.jsonl").rename(tmp_path / "in" / "0.jsonl")
    (tmp_path / "in" / "3.jsonl").write_text((tmp_path / "in" / "1.jsonl").read_text())
    assert len(night(job_of(tmp_path))[1]) == 2
    assert table(tmp_path)["row"].to_list() == list(range(6))


def test_two_answers_at_one_place_are_not_taken_for_those_of_two_places(inbox: Path, tmp_path: Path) -> None:
    """As it is where equal requests got other numbers when files came and went."""
    (inbox / "3.jsonl").write_text(rows_of("a"))
    plan = Plan(job_of(tmp_path, sweep={"temperature": [0.0, 1.0]}))
    plan.know(Folder(tmp_path / "another"), remember=False)
    requests = [request for block in plan.blocks() for request in block][:4]
    outcomes = [answer(plan, request) for request in requests]
    parts = FolderStore(tmp_path / "parts")
    parts.prepare()
    part_files.write_part(parts, 1, outcomes)
    positions = Positions(plan.layout())
    done = AnswerIndex(parts, 0, plan.labels, positions=positions)
    assert done.finished(2) == b"\1\1"
    twice = msgspec.structs.replace(outcomes[0], key="ff" * 16)
    part_files.write_part(parts, 2, [twice])
    assert AnswerIndex(parts, 0, plan.labels, positions=positions).finished(2) == b""


# --------------------------------------------------------------------------------------------- how the folder stood


def test_no_old_answer_is_read_where_it_is_written_down_how_the_folder_stood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "WORTH_ROWS", 1)
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "1.jsonl").write_text(rows_of(range(50)))
    out = Folder(tmp_path / "out")
    read, whole = set[int](), part_files.read_part
    for number, new in enumerate(["2", "0", "3"]):
        night(job_of(tmp_path))
        assert out.snapshot.exists()
        (folder / f"{new}.jsonl").write_text(rows_of([f"n{new}{i}" for i in range(5)]))
        read.clear()
        with monkeypatch.context() as patched:
            patched.setattr(
                part_files, "read_part", lambda store, part, *more: read.add(part) or whole(store, part, *more)
            )
            found = prepare(job := job_of(tmp_path), Plan(job), out)
            assert [request.id for block in found.blocks for request in block] == [f"n{new}{i}" for i in range(5)]
        assert (found.passed, found.before["ok"]) == (50 + 5 * number, 50 + 5 * number)
        # What is written down is written anew when an eighth has come.
        assert found.snapshot is not None and found.snapshot.written == (3 if number == 2 else 1)
        assert read == ({2} if number == 1 else set())
    assert len(night(job_of(tmp_path))[1]) == 5
    assert table(tmp_path)["row"].to_list() == list(range(65))


def test_a_last_row_that_fails_is_not_asked_more_often_than_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "WORTH_ROWS", 1)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "1.jsonl").write_text(rows_of(range(5)))
    twice = {"job": {"retry_failed": 2}}
    night(job_of(tmp_path, **twice))
    (tmp_path / "in" / "2.jsonl").write_text(rows_of("ab"))
    assert [len(night(job_of(tmp_path, **twice), fails=fails)[1]) for fails in ([1], [0], [0], [0])] == [2, 1, 1, 0]


def test_a_folder_in_which_every_row_failed_is_written_down_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "WORTH_ROWS", 1)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "1.jsonl").write_text(rows_of(range(5)))
    once = {"job": {"retry_failed": 1}}
    night(job_of(tmp_path, **once), fails=range(5))
    for new in "ab":
        (tmp_path / "in" / f"{new}.jsonl").write_text(rows_of([new]))
        found = prepare(job := job_of(tmp_path, **once), Plan(job), Folder(job.out))
        assert found.snapshot is not None
        night(job_of(tmp_path, **once))
    assert table(tmp_path).height == 7


def test_where_answers_are_is_not_taken_from_another_file_than_the_snapshot_was_made_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file is renamed, so that its answers are found by their keys, and back again."""
    monkeypatch.setattr(snapshot, "WORTH_ROWS", 1)
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.jsonl").write_text(rows_of(range(9)))
    night(job_of(tmp_path))
    for old, new in (("a", "b"), ("b", "a")):
        (folder / f"{old}.jsonl").rename(folder / f"{new}.jsonl")
        job = job_of(tmp_path)
        with Folder(job.out).held():  # as a run does that is killed, or the preview of a retry
            prepare(job, Plan(job), Folder(job.out))
    (folder / "c.jsonl").write_text(rows_of("x"))
    assert [request.id for request in night(job_of(tmp_path))[1]] == ["x"]
    assert table(tmp_path)["id"].to_list() == [*map(str, range(9)), "x"]
    (tmp_path / "out" / "positions.parquet").unlink(missing_ok=True)
    (folder / "d.jsonl").write_text(rows_of("y"))
    assert [request.id for request in night(job_of(tmp_path))[1]] == ["y"]
    assert table(tmp_path).height == 11


@pytest.mark.parametrize("what", ["cut", "other parts", "other version", "limit", "retry_failed"])
def test_what_is_written_down_is_heeded_only_if_it_fits(
    tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "WORTH_ROWS", 1)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "1.jsonl").write_text(rows_of(range(9)))
    night(job_of(tmp_path))
    out = Folder(tmp_path / "out")
    sections: dict[str, Any] = {}
    if what == "cut":
        out.snapshot.write_bytes(out.snapshot.read_bytes()[:-1])
    elif what == "other parts":
        part_files.write_part(out.parts, 0, [], void=["another run"])
    elif what == "other version":
        out.snapshot.write_bytes(out.snapshot.read_bytes().replace(b'"version":6', b'"version":0'))
    else:
        name = {"limit": "input", "retry_failed": "job"}[what]
        sections = {name: {what: 5}}
    (tmp_path / "in" / "2.jsonl").write_text(rows_of(["a"]))
    found, asked = night(job_of(tmp_path, **sections))
    assert found.snapshot is None or not found.snapshot.written
    wanted = {"limit": 0}
    assert len(asked) == wanted.get(what, 1)


# ------------------------------------------------------------------------------------------------------------ since


def dated(folder: Path, since: str, day: int, **sections: Any) -> Job:
    """The job of a night in January, of files that are as old as their names say."""
    tables = {
        "job": {"name": "nightly", "out": str(folder / "runs" / "{name}" / "{date}")},
        "input": {"path": str(folder / "in"), "since": since},
        "params": {"model": "m"},
    }
    return build({**tables, **sections}, moment=datetime.datetime(2026, 1, day, 2))


def arrives(folder: Path, day: int) -> None:
    (folder / "in").mkdir(exist_ok=True)
    path = folder / "in" / f"{day:02}.jsonl"
    path.write_text(rows_of([f"{day}a", f"{day}b"]))
    at = datetime.datetime(2026, 1, day, 1).timestamp()
    os.utime(path, (at, at))
    aged(path)


def ended(job: Job, day: int, status: str = "finished") -> list[str]:
    _, asked = night(job)
    folder = Folder(job.out)
    folder.write_state({"job": "nightly", "status": status})
    at = int(1e9 * datetime.datetime(2026, 1, day, 2).timestamp())
    folder.inputs.write_bytes(re.sub(rb'"at":\d+\}\n\Z', b'"at":%d}\n' % at, folder.inputs.read_bytes()))
    return [request.id for request in asked]


def test_each_date_has_what_came_since_the_last_run_that_finished(tmp_path: Path) -> None:
    arrives(tmp_path, 1)
    assert ended(dated(tmp_path, "last", 1), 1) == ["1a", "1b"]
    arrives(tmp_path, 2)
    assert ended(dated(tmp_path, "last", 2), 2, "stopped") == ["2a", "2b"]
    arrives(tmp_path, 3)
    job = dated(tmp_path, "last", 3)
    assert ended(job, 3) == ["2a", "2b", "3a", "3b"], "the night before has not finished"
    assert ended(job, 3) == [], "what the words meant holds in this folder"
    assert (
        Plan(job).files_note
        == "input files changed since 2026-01-01 02:00:00"
        + datetime.datetime(2026, 1, 1, 2).astimezone().isoformat()[-6:]
        + ": 2 of 3"
    )
    nothing = dated(tmp_path, "last", 4)
    found, asked = night(nothing)
    assert asked == [] and found.empty and "0 of 3" in found.notes[0]


def test_a_file_that_came_since_counts_however_old_its_bytes_are(tmp_path: Path) -> None:
    arrives(tmp_path, 2)
    assert ended(dated(tmp_path, "last", 2), 2) == ["2a", "2b"]
    arrives(tmp_path, 1)  # as `mv` and `cp -p` bring it
    (tmp_path / "in" / "02.jsonl").chmod(0o600)
    job = dated(tmp_path, "last", 3)
    assert ended(job, 3) == ["1a", "1b"], "the other one was asked in another folder"
    assert ended(job, 3) == []
    assert ended(dated(tmp_path, "last", 4), 4) == []


def test_a_file_that_has_grown_is_said_to_be_asked_as_a_whole(tmp_path: Path) -> None:
    anywhere = {"endpoint": {"base_url": "http://127.0.0.1:9/v1"}}
    arrives(tmp_path, 2)
    assert ended(dated(tmp_path, "last", 2), 2) == ["2a", "2b"]
    arrives(tmp_path, 1)
    with (tmp_path / "in" / "02.jsonl").open("a") as file:
        file.write(rows_of(["2c"]))
    planned = plan_text.forecast(dated(tmp_path, "last", 3, **anywhere))["files"]
    found, asked = night(dated(tmp_path, "last", 3))
    assert tuple(planned) == found.notes and planned[0].endswith(": 2 of 2"), "plan says what run says"
    assert [request.id for request in asked] == ["1a", "1b", "2a", "2b", "2c"]
    assert [note for note in found.notes if "has grown since" in note] == [
        f"02.jsonl was read in {tmp_path}/runs/nightly/2026-01-02 and has grown since: with input.since it counts as a whole, "
        "so the rows of then are asked and paid for again"
    ]


@pytest.mark.parametrize(
    ("since", "asked"),
    [("2026-01-02", ["2a", "2b", "3a", "3b"]), ("2026-01-02T01:30", ["3a", "3b"]), ("2030-01-01T00:00:00Z", []),
     ("20000d", ["1a", "1b", "2a", "2b", "3a", "3b"]), ("1h", [])],
)  # fmt: skip
def test_since_a_moment(tmp_path: Path, since: str, asked: list[str]) -> None:
    for day in (1, 2, 3):
        arrives(tmp_path, day)
    assert ended(dated(tmp_path, since, 3), 3) == asked


@pytest.mark.parametrize("since", ["yesterday", "2026-13-01", "", "-1h", "7"])
def test_since_what_is_no_moment(tmp_path: Path, since: str) -> None:
    with pytest.raises(JobError, match=r"input\.since.*'2026-01-31T02:00', or 'last'"):
        dated(tmp_path, since, 1)


def test_since_is_not_for_a_folder_with_older_answers(tmp_path: Path) -> None:
    arrives(tmp_path, 1)
    one = {"job": {"out": str(tmp_path / "out")}}
    job = dated(tmp_path, "2026-01-01", 1, **one)
    assert len(night(job)[1]) == 2
    arrives(tmp_path, 2)
    assert len(night(job)[1]) == 2, "in one folder the same words mean the same"
    with pytest.raises(InputError, match=r"leaves out now: 2 .*each date"):
        night(dated(tmp_path, "2026-01-02", 2, **one))
    with pytest.raises(JobError, match=r"has but one folder: give job\.out a date"):
        night(dated(tmp_path, "last", 2, **one))
    assert night(dated(tmp_path, "2026-01-02", 2, job={**one["job"], "on_change": "rerun"}))[1] == []


# --------------------------------------------------------------------------------------------------- any nights at all


class Folderful:
    """Files to which things happen."""

    def __init__(self, folder: Path, seed: int, named: bool) -> None:
        self.folder = folder / "in"
        self.folder.mkdir()
        self.chance = random.Random(seed)
        self.named = named
        self.last = 0
        self.add()
        self.add()

    def rows(self, number: int) -> list[str]:
        """New rows; without ids of their own some have come before."""
        self.last += number
        texts = range(self.last - number, self.last)
        return [
            json.dumps({"id": str(text), "messages": [{"role": "user", "content": f"text {text}"}]} if self.named else
                       {"messages": [{"role": "user", "content": f"text {self.chance.randrange(12)}"}]})
            for text in texts
        ]  # fmt: skip

    def write(self, path: Path, lines: list[str]) -> None:
        path.write_text("".join(line + "\n" for line in lines))

    def files(self) -> list[Path]:
        return sorted(self.folder.iterdir())

    def add(self) -> None:
        name = f"{self.chance.randrange(1000):03d}.jsonl"
        self.write(self.folder / name, self.rows(self.chance.randint(1, 6)))

    def append(self) -> None:
        with self.chance.choice(self.files()).open("a") as stream:
            stream.write("".join(line + "\n" for line in self.rows(self.chance.randint(1, 4))))

    def touch(self) -> None:
        self.chance.choice(self.files()).touch()

    def remove(self) -> None:
        if len(self.files()) > 1:
            self.chance.choice(self.files()).unlink()

    def rename(self) -> None:
        self.chance.choice(self.files()).rename(self.folder / f"{self.chance.randrange(1000):03d}.jsonl")

    def cut(self) -> None:
        path = self.chance.choice(self.files())
        lines = path.read_text().splitlines()
        if len(lines) > 1:
            self.write(path, lines[: self.chance.randint(1, len(lines) - 1)])

    def insert(self) -> None:
        path = self.chance.choice(self.files())
        lines = path.read_text().splitlines()
        lines[(at := self.chance.randrange(len(lines) + 1)) : at] = self.rows(1)
        self.write(path, lines)

    def rewrite_end(self) -> None:
        path = self.chance.choice(self.files())
        lines = path.read_text().splitlines()
        self.write(path, lines[: self.chance.randrange(len(lines) + 1)] + self.rows(self.chance.randint(1, 4)))

    def forget(self) -> None:
        (self.folder.parent / "out" / "inputs.jsonl").unlink(missing_ok=True)

    def compact(self) -> None:
        if (out := Folder(self.folder.parent / "out")).exists():
            with out.held():
                compact.carry_out(compact.preview(out, "0s", datetime.datetime.now(datetime.UTC)))

    def lines(self) -> list[str]:
        return [line for path in self.files() for line in path.read_text().splitlines()]


def test_of_equal_rows_that_are_not_finished_each_gets_its_answers(tmp_path: Path) -> None:
    """One that comes before the others takes over what one of them had got."""
    (tmp_path / "in").mkdir()
    row = json.dumps({"messages": [{"role": "user", "content": "same"}]}) + "\n"
    (tmp_path / "in" / "5.jsonl").write_text(row)
    sweep = {"samples": 2}
    assert len(night(job_of(tmp_path, sweep=sweep), fails=[0])[1]) == 2
    (tmp_path / "in" / "1.jsonl").write_text(row)
    assert len(night(job_of(tmp_path, sweep=sweep), fails=[1])[1]) == 3
    assert len(night(job_of(tmp_path, sweep=sweep))[1]) == 1
    assert night(job_of(tmp_path, sweep=sweep))[1] == []
    assert table(tmp_path).select("row", "sample", "status").rows() == [(r, s, "ok") for r in (0, 1) for s in (0, 1)]


HAPPENING = st.sampled_from(
    ["add", "add", "append", "append", "touch", "remove", "rename", "cut", "insert", "rewrite_end", "forget", "compact"]
)


def any_nights(most: int) -> Any:
    """Whether how the folder stands is written down or not, also where some rows fail first, and where the input is so large
    that runs end before they have read it, or read it twice."""
    happenings = st.lists(HAPPENING, max_size=3)
    examples = given(
        nights=st.lists(st.tuples(happenings, st.none() | st.integers(0, 6)), min_size=1, max_size=6),
        seed=st.integers(0, 10_000),
        named=st.booleans(),
        sweep=st.sampled_from([{}, {"samples": 2}, {"temperature": [0.0, 1.0]}]),
        written=st.booleans(),
        failing=st.sets(st.integers(0, 8), max_size=2),
        large=st.booleans(),
        stretch=st.sampled_from([None, 2, 5]),
    )
    allowed = [HealthCheck.function_scoped_fixture]
    return lambda test: settings(max_examples=most, deadline=None, suppress_health_check=allowed)(examples(test))


@any_nights(20)
def test_after_any_nights_each_row_has_its_answer_and_none_was_asked_twice(
    tmp_path_factory: pytest.TempPathFactory, **happened: Any
) -> None:
    each_row_has_its_answer(tmp_path_factory.mktemp("nights"), **happened)


@pytest.mark.slow
@any_nights(100)
def test_after_many_more_nights_too(tmp_path_factory: pytest.TempPathFactory, **happened: Any) -> None:
    each_row_has_its_answer(tmp_path_factory.mktemp("nights"), **happened)


def each_row_has_its_answer(
    folder: Path,
    nights: list[tuple[list[str], int | None]],
    seed: int,
    named: bool,
    sweep: dict[str, Any],
    written: bool,
    failing: set[int],
    large: bool,
    stretch: int | None,
) -> None:
    """``stretch`` is how many rows a file of the table has, if that is a folder."""
    patched = pytest.MonkeyPatch()
    patched.setattr(snapshot, "WORTH_ROWS", 1 if written else 1_000)
    if large:
        patched.setattr(unusable_rows, "_PREFLIGHT_REQUESTS", 0)
        patched.setattr(preparation, "_HELD_BYTES", 0)
        patched.setattr(plan_module, "_BLOCK_REQUESTS", 2)
    kind = "folder" if stretch else "file"
    patched.setattr(places, "STRETCH_ROWS", stretch or 1)
    files = Folderful(folder, seed, named)
    asked: list[bytes] = []
    for turn, (happenings, answered) in enumerate([*nights, ([], None)]):
        for what in happenings:
            getattr(files, what)()
        fails = failing if turn < len(nights) else ()
        job = job_of(folder, sweep=sweep, job={"on_change": "rerun", "retry_failed": 10, "results": kind})
        _, requests = night(job, answered, fails)
        assert {*asked}.isdisjoint(request.key for request in requests), "what is answered is not asked again"
        asked += [request.key for at, request in enumerate(requests) if at not in fails]
    patched.undo()
    assert len({*asked}) == len(asked)
    each = 2 if sweep else 1
    wanted = [line for line in files.lines() for _ in range(each)]
    results = table(folder)
    assert results["row"].to_list() == [row for row in range(len(wanted) // each) for _ in range(each)]
    plan = Plan(job_of(folder, sweep=sweep))
    bodies = [hashlib.md5(request.body).hexdigest() for block in plan.blocks() for request in block]
    assert results["content"].to_list() == bodies
    assert Inputs(Folder(folder / "out")).find(plan._signature or ())[0].known is not None
