"""Compacting: whatever lies in a folder reads the same afterwards, also if it is killed, and also for who is reading."""

from __future__ import annotations

import datetime
import json
import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings, strategies as st

from batchflex.core.errors import FolderError, StorageError
from batchflex.core.types import Outcome
from batchflex.plan.answer_index import AnswerIndex
from batchflex.protocol.reask import Policy
from batchflex.results import compact
from batchflex.storage import FolderStore, journal, part_files, part_merging, part_numbers, results_table, writer
from batchflex.storage.output_folder import Folder
from batchflex.storage.part_index import Positions
from batchflex.storage.part_merging import Size
from batchflex.storage.positions import Layout, Span
from tests.support.command_line import called, table as results, write_rows
from tests.support.counting_endpoint import CountingEndpoint
from tests.support.outcomes import assembled, outcome, request, run_python

OLD, NEW = 1_600_000_000_000_000, 1_700_000_000_000_000
BETWEEN = datetime.datetime.fromtimestamp(1_650_000_000, datetime.UTC)
NAMES = 12
CARRIES = [None, '{"a":1}', '{"a":null,"b":"x"}', '{"b":"2024-05-01"}', '{"a":1.5}', '{"a":"x","c":[1]}', '{"b":null}']
SCHEMAS = [
    None,
    pa.schema([("a", pa.int16()), ("b", pa.date32())]),
    pa.schema([("a", pa.float32()), ("c", pa.list_(pa.int8()))]),
]
FILES = (11, 12, None, 99)  # of the input, the last of which is gone
LAYOUT = Layout([((Span(12, 1 << 62),), 5), ((Span(11, 8),), 8)])
ANSWERS = ['{"label":"a"}', '{"label":1,"more":[1]}', "[1]", '{"x":null}']


def make(out: Path, seed: int, *, parts: int = 8) -> Folder:
    """A folder as many runs of changing jobs may leave it: failures, answers that did not fit, retries, several plans."""
    chance = random.Random(seed)
    folder = Folder(out)
    with folder.held():
        for number in sorted(chance.sample(range(1, 3 * parts), parts)):
            rows = [_outcome(chance) for _ in range(chance.choice([1, 3, 10, 30]))]
            void = chance.choice([[], [], ["run-1"], ["run-2", "run-1"]])
            part_files.write_part(folder.parts, number, rows, chance.choice(SCHEMAS), void=void)
    return folder


def _outcome(chance: random.Random) -> Outcome:
    status: Any = chance.choice(["ok", "ok", "failed", "invalid", "invalid", "truncated"])
    return outcome(
        chance.randrange(NAMES),
        chance.choice([0, 0, 0, 1]),
        status=status,
        run_id=f"run-{chance.randrange(9)}",
        proof="answers" if status == "failed" else None,
        reasks=chance.randrange(3),
        carry=chance.choice(CARRIES),
        parsed=chance.choice(ANSWERS) if status == "ok" else None,
        content="".join(chance.choices("abc ü\0\n", k=chance.randrange(40))),
        finished_at=chance.choice([OLD, NEW]) + chance.randrange(1000),
        cost=chance.choice([None, 0.5]),
        file=chance.choice(FILES),
        position=chance.randrange(10),
    )


def seen(folder: Folder) -> dict[str, Any]:
    """All that further runs, and whoever reads the results, learn from the parts."""
    asked: list[Any] = []
    requests = [request(name, version) for name in range(NAMES) for version in (0, 1)]
    for retries, reasks in [(0, 0), (1, 1), (3, 2)]:
        done = AnswerIndex(folder.parts, retries, reasks=Policy(reasks))
        asked.append([(r.key, r.before) for r in done.sort_out(requests)])
        asked.append((done.statuses(), [at < 0 for at in done.answers(requests)]))
    placed = AnswerIndex(folder.parts, 1, ["{}"], positions=Positions(LAYOUT))
    asked.append((placed.finished(1), placed.statuses(), placed.planned().rows(), placed.stale_answers))
    return {"identity": part_files.identity(folder.parts), "asked": asked, "table": assembled(folder.parts)}


def finished_keys(folder: Folder) -> list[Any]:
    done = AnswerIndex(folder.parts, 1, ["{}"], positions=Positions(LAYOUT))
    return done.keys_of(done.finished(1)).rows()


def check_same(folder: Folder, before: dict[str, Any]) -> None:
    after = seen(folder)
    assert after["asked"] == before["asked"]
    assert after["identity"] == before["identity"]
    assert after["table"].schema.equals(before["table"].schema)
    assert after["table"].equals(before["table"]), "by pyarrow"
    assert pl.DataFrame(after["table"]).equals(pl.DataFrame(before["table"])), "by polars"


def rows_of(folder: Folder) -> list[dict[str, Any]]:
    """Every answer in order."""
    numbers = part_files.part_numbers(folder.parts)
    return [row for number in numbers for row in part_files.read_part(folder.parts, number).to_pylist()]


def compacted(folder: Folder, before: datetime.datetime | None = None) -> dict[str, Any]:
    with folder.held():
        return compact.carry_out(compact.preview(folder, "30d", before))


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_merged_parts_say_what_they_said(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    folder = make(tmp_path_factory.mktemp("out"), seed)
    before, rows, last = seen(folder), rows_of(folder), part_files.part_numbers(folder.parts)[-1]
    moved: dict[str, Any] = {"since": 99, "positions": Positions(LAYOUT)}
    placed, keys = assembled(folder.parts, **moved), finished_keys(folder)
    done = compacted(folder)
    assert assembled(folder.parts, **moved).equals(placed)
    assert finished_keys(folder) == keys
    check_same(folder, before)
    assert rows_of(folder) == rows
    assert [int(n) for n in part_files.part_numbers(folder.parts)] == [last]
    assert (done["parts_after"], done["bytes_after"]) == (
        1,
        sum(p.stat().st_size for p in (folder.path / "parts").iterdir()),
    )
    assert writer.recover(folder) == last + 1
    assert compact.preview(folder, None, None).groups == []


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_only_what_is_superseded_and_old_goes(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    folder = make(tmp_path_factory.mktemp("out"), seed)
    before, rows, runs = seen(folder), rows_of(folder), part_files.void_runs(folder.parts)

    def is_void(row: dict[str, Any]) -> bool:
        return row["status"] == "failed" and row["run_id"] in runs

    done = compacted(folder, BETWEEN)
    check_same(folder, before)
    assert part_files.void_runs(folder.parts) == runs
    last = {row["key"]: at for at, row in enumerate(rows) if not is_void(row)}
    counts = {"failed", "invalid"}
    stay = [
        row
        for at, row in enumerate(rows)
        if row["finished_at"] >= BETWEEN
        or (not is_void(row) and at == last[row["key"]])
        or (not is_void(row) and {row["status"], rows[last[row["key"]]]["status"]} <= counts)
    ]
    assert rows_of(folder) == stay
    assert done["superseded"] == len(rows) - len(stay)
    compacted(folder, BETWEEN)
    check_same(folder, before)


def test_answers_of_an_earlier_job_go_once_others_are_in_their_place() -> None:
    """Covered with a real endpoint below; here: which neighbours are merged."""
    small, large = Size(1_000, 1_000, 50_000), Size(190_000, 190_000, 10_000_000)
    less = small._replace(kept=900)
    cases = [
        ([], []),
        ([small], []),
        ([less], [slice(0, 1)]),
        ([small] * 3, [slice(0, 3)]),
        ([large, large], []),
        ([large, small, large], [slice(0, 2)]),
        ([small._replace(bytes=200 << 20)] * 3, []),
    ]
    for sizes, expected in cases:
        assert part_merging.groups(sizes, 200_000, 256 << 20) == expected, sizes


def test_who_reads_meanwhile_reads_what_was_there(tmp_path: Path) -> None:
    folder = make(tmp_path / "out", 5)
    before = seen(folder)
    made = results_table.assemble(folder.parts, {}, ["{}"])
    done = compacted(folder, BETWEEN)
    assert done["parts_left"] == 8, "they are not removed as long as they may be read"
    assert pa.concat_tables(made.batches).equals(before["table"])
    check_same(folder, before)  # those left do not count
    del made
    assert writer.recover(folder) > 1
    assert [p.name for p in (folder.path / "parts").iterdir()] == [part_numbers.part_numbers(folder.parts)[0].name]
    check_same(folder, before)


def test_a_merged_part_stands_for_its_segments(tmp_path: Path) -> None:
    for name in ("000001-000003-1", "000001-000003-2", "000002", "000004", "000007", "000007-000007-1", "1-2-3", "x"):
        (tmp_path / f"{name}.parquet").touch()
    numbers = part_numbers.part_numbers(FolderStore(tmp_path))
    assert [n.name for n in numbers] == [f"{n}.parquet" for n in ("000001-000003-2", "000004", "000007-000007-1")]
    assert [s for s in range(9) if part_numbers.is_sealed(numbers, s)] == [1, 2, 3, 4, 7]
    assert part_numbers.merged(numbers[:2]).name == "000001-000004-3.parquet"
    assert part_numbers.clear(FolderStore(tmp_path)) == 0
    assert part_numbers.part_numbers(FolderStore(tmp_path)) == numbers
    assert len(list(tmp_path.iterdir())) == 5


def test_a_segment_that_is_not_sealed_is_not_stood_for(tmp_path: Path) -> None:
    """A full disk may leave one behind parts of later segments."""
    folder = Folder(tmp_path / "out")
    with folder.held():
        for number in (1, 2, 4, 5):
            part_files.write_part(folder.parts, number, [outcome(number)])
    kept = journal.Journal(folder.journal, 3)
    kept.append(outcome(3))
    kept.close()
    assert compacted(folder)["parts_after"] == 2
    assert [n.name for n in part_files.part_numbers(folder.parts)] == [
        "000001-000002-1.parquet",
        "000004-000005-1.parquet",
    ]
    assert writer.recover(folder) == 6
    assert AnswerIndex(folder.parts, 0).sort_out([request(name) for name in range(1, 6)]) == []
    assert compacted(folder)["parts_after"] == 1


def test_what_is_written_wrong_takes_no_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make(tmp_path / "out", 1)
    names = sorted((folder.path / "parts").iterdir())
    blocks = part_merging._blocks
    monkeypatch.setattr(
        part_merging, "_blocks", lambda tables: (block.slice(0, block.num_rows - 1) for block in blocks(tables))
    )
    with pytest.raises(FolderError, match="not the same when read back"):
        compacted(folder)
    assert sorted((folder.path / "parts").iterdir()) == names


def test_no_room_for_the_merged_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make(tmp_path / "out", 1)
    names = sorted((folder.path / "parts").iterdir())
    monkeypatch.setattr(compact.disk_space, "free", lambda path: (1 << 20, 1 << 40))
    with pytest.raises(StorageError, match=r"of room meanwhile, and 1\.05 MB are free"):
        compacted(folder)
    assert sorted((folder.path / "parts").iterdir()) == names


KILLED = """
import os, random, signal, sys, time
from pathlib import Path
from batchflex.results import compact
from tests.unit.results.test_compact import BETWEEN, compacted
from batchflex.storage.output_folder import Folder

for place in sys.argv[1:]:
    after = int(place.rpartition("-")[2])
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        continue
    left = [after]
    def count(event, arguments):
        if place in str(arguments[:1]) or event in ("os.utime", "fcntl.flock"):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(count)
    compacted(Folder(Path(place)), BETWEEN)
    os._exit(0)
"""


@pytest.mark.slow
def test_killed_at_any_moment(tmp_path: Path) -> None:
    """Before each thing that it does to files, one after the other."""
    folder = make(tmp_path / "whole", 11)
    before = seen(folder)
    places = [tmp_path / f"out-{after}" for after in range(1, 60, 4)]
    for place in places:
        shutil.copytree(folder.path, place)
    run_python(KILLED, *places)
    stages = Counter()
    for place in places:
        there = Folder(place)
        files = list((there.path / "parts").glob("[0-9]*"))
        stages["whole" if len(files) == 1 else "half" if any("-" in f.stem for f in files) else "none"] += 1
        check_same(there, before)
        assert writer.recover(there) > 1
        compacted(there, BETWEEN)
        assert len(list((there.path / "parts").iterdir())) == 1
        check_same(there, before)
    assert min(stages["whole"], stages["half"], stages["none"]) > 2, stages


# ---------------------------------------------------------------------------------------------- from the command line


def test_nights(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    """Rows come, rows change, some fail: merged parts are gone on from, and a finished job asks nothing."""
    rows, out = tmp_path / "rows.jsonl", tmp_path / "out"
    command = ["run", rows, "--base-url", endpoint.base_url, "--model", "m", "--out", out, "--json"]
    for night in range(1, 3):
        write_rows(rows, 10 * night)
        assert called(*command).summary["requests_sent"] == 10
    changed = [*command, "--set", "temperature=0.5", "--on-change", "rerun"]
    assert called(*changed).summary["requests_sent"] == 20
    told = (out / "results.parquet").read_bytes()
    telemetry = [{"at": "2020-01-01T00:00:00.000+00:00"}, {"at": "2120-01-01T00:00:00.000+00:00"}]
    (out / "telemetry.jsonl").write_text("".join(json.dumps(line) + "\n" for line in telemetry))

    shown = called("compact", out, "--dry-run", "--older-than", "1ms")
    assert (shown.code, shown.out) == (2, "") and "--older-than: '1ms' is no duration" in shown.err
    shown = called("compact", out, "--dry-run", "--older-than", "30")
    assert (shown.code, shown.out) == (2, "") and "--older-than: '30' has no unit" in shown.err and "'30d'" in shown.err
    shown = called("compact", out, "--dry-run", "--older-than", "0.001s")
    assert shown.code == 0 and "3 parts with 40 rows" in shown.out and "20 answers older than 0.001s" in shown.out
    assert len(list((out / "parts").iterdir())) == 3

    done = called("compact", out, "--json").summary
    assert (done["parts_before"], done["parts_after"], done["superseded"], done["rows"]) == (3, 1, 0, 40)
    assert (called(*changed).summary["requests_sent"], (out / "results.parquet").read_bytes()) == (0, told)
    done = called("compact", out, "--older-than", "0.001s", "--json").summary
    assert (done["superseded"], done["telemetry"], done["statuses"]["ok"]) == (20, 1, 20)
    assert json.loads((out / "telemetry.jsonl").read_text()) == telemetry[1]
    assert (called(*changed).summary["requests_sent"], (out / "results.parquet").read_bytes()) == (0, told)
    write_rows(rows, 30)
    assert called(*changed).summary["requests_sent"] == 10
    assert results(out).height == 30 and (endpoint.stats()["good"], endpoint.stats()["repeats"]) == (50, 0)
    with Folder(out).held():
        busy = called("compact", out)
    assert busy.code == 4 and "holds" in busy.err
    assert called("compact", tmp_path).code == 2
