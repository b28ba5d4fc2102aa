"""What a store promises, for the one on a folder and for one in memory; and whole runs whose parts are in memory."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import batchflex
from batchflex.core.errors import FolderError, StorageError
from batchflex.plan import AnswerIndex, completion_marker
from batchflex.results import compact, live_table
from batchflex.storage import (
    FolderStore,
    Store,
    files,
    output_folder as folder_module,
    part_files,
    part_index,
    part_merging,
    part_numbers,
    superseded,
)
from batchflex.storage.output_folder import Folder
from tests.support.command_line import write_rows
from tests.support.counting_endpoint import CountingEndpoint
from tests.support.memory_store import MemoryStore
from tests.support.outcomes import assembled, outcome, request


def put(store: Store, name: str, data: bytes) -> None:
    with store.put(name) as stream:
        stream.write(data)


def put_if_absent(store: Store, name: str, data: bytes) -> None:
    with store.put_if_absent(name) as stream:
        stream.write(data)


# ------------------------------------------------------------------------------------------------------ what it promises


def test_objects_are_listed_read_replaced_and_deleted(store: Store) -> None:
    assert store.list() == {}
    put(store, "a", b"one")
    put_if_absent(store, "b", b"1234")
    put(store, "a", b"two!!")
    assert store.list() == {"a": 5, "b": 4}
    assert (store.get("a"), store.get("b")) == (b"two!!", b"1234")
    with store.open("b") as source:
        assert source.size() == 4
        source.seek(1)
        assert source.read(2) == b"23"
    assert store.delete(["a", "never there"])
    assert store.list() == {"b": 4}


def test_what_is_not_there_is_not_found(store: Store) -> None:
    with pytest.raises(FileNotFoundError):
        store.get("a")
    with pytest.raises(FileNotFoundError):
        store.open("a")


def test_no_other_object_is_replaced_by_one_that_is_to_be_new(store: Store) -> None:
    put_if_absent(store, "a", b"first")
    with pytest.raises(FileExistsError):
        put_if_absent(store, "a", b"second")
    assert store.get("a") == b"first"
    assert store.list() == {"a": 5}


def test_of_many_who_write_one_name_at_once_one_succeeds(store: Store) -> None:
    winners: list[int] = []
    start = threading.Barrier(8)

    def write(number: int) -> None:
        start.wait()
        try:
            put_if_absent(store, "lease", b"%d" % number)
        except FileExistsError:
            return
        winners.append(number)

    threads = [threading.Thread(target=write, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [b"%d" % number for number in winners] == [store.get("lease")]


@pytest.mark.parametrize("how", ["put", "put_if_absent"])
def test_a_write_that_fails_leaves_all_as_it_was(store: Store, how: str) -> None:
    put(store, "a", b"old")
    for name in ("a", "b"):
        with pytest.raises(ZeroDivisionError), getattr(store, how)(name) as stream:
            stream.write(b"half of the ")
            raise ZeroDivisionError
    assert store.list() == {"a": 3} and store.get("a") == b"old"


def test_what_is_written_can_be_read_back_before_it_is_there(store: Store) -> None:
    with store.put_if_absent("a") as stream:
        stream.write(b"12345")
        stream.seek(1)
        assert stream.read(3) == b"234"
        assert store.list() == {}
    assert store.get("a") == b"12345"


def test_whoever_lists_can_read_on(store: Store) -> None:
    put(store, "a", b"old")
    first, second = store.reading(), store.reading()
    assert not store.delete(["a"])
    del first
    assert not store.delete(["a"])
    assert store.get("a") == b"old"
    del second
    assert store.delete(["a"])
    assert store.list() == {}


# --------------------------------------------------------------------------------------------------------- on a folder


def test_a_folder_that_cannot_be_made_durable_has_no_new_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else whoever writes the same once more would meet their own."""

    def fails(path: Path) -> None:
        raise OSError(5, "Input/output error")

    store = FolderStore(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(files, "sync_folder", fails)
        with pytest.raises(OSError, match="Input/output"):
            put_if_absent(store, "a", b"x")
    assert list(tmp_path.iterdir()) == []
    put_if_absent(store, "a", b"x")


def test_a_file_system_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(source: Path, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    store = FolderStore(tmp_path)
    put_if_absent(store, "a", b"first")
    with pytest.raises(FileExistsError):
        put_if_absent(store, "a", b"second")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"first")]


def test_a_link_that_was_made_though_its_answer_got_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def twice(source: Path, target: Path) -> None:
        link(source, target)
        link(source, target)

    monkeypatch.setattr(os, "link", twice)
    put_if_absent(FolderStore(tmp_path), "a", b"first")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"first")]


def test_what_else_lies_in_a_folder_is_no_object(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "none" / "yet")
    assert store.list() == {}
    store.prepare()
    (tmp_path / "none" / "yet" / ".a.1-2.tmp").touch()
    (tmp_path / "none" / "yet" / "folder").mkdir()
    (tmp_path / "none" / "yet" / "000001.parquet").symlink_to(tmp_path / "gone")
    assert store.list() == {"000001.parquet": 0}, (
        "a link to nothing fails where it is read: its answers are not lost quietly"
    )
    with pytest.raises(FolderError, match="cannot be read"):
        part_files.read_part(store, 1)


def test_a_process_that_is_killed_while_it_writes_leaves_what_the_next_one_removes(tmp_path: Path) -> None:
    script = "import os, sys; from pathlib import Path; from batchflex.storage import FolderStore\n"
    script += "with FolderStore(Path(sys.argv[1])).put_if_absent('a') as stream:\n    stream.write(b'x'); os._exit(9)"
    assert subprocess.run([sys.executable, "-c", script, tmp_path]).returncode == 9
    assert len(list(tmp_path.iterdir())) == 1
    FolderStore(tmp_path).prepare()
    assert list(tmp_path.iterdir()) == []


# -------------------------------------------------------------------------------------------------------------- parts


def test_no_part_takes_the_place_of_another(store: Store) -> None:
    part_files.write_part(store, 1, [outcome(1, content="first")])
    with pytest.raises(StorageError, match=r"000001\.parquet could not be written: "):
        part_files.write_part(store, 1, [outcome(1, content="second")])
    assert assembled(store)["content"].to_pylist() == ["first"]


def test_parts_are_merged_and_say_what_they_said(store: Store) -> None:
    chance = random.Random(3)
    for number in range(1, 7):
        rows = [outcome(chance.randrange(20), status=chance.choice(["ok", "failed"])) for _ in range(10)]
        part_files.write_part(store, number, rows, void=["run-9"] if number == 4 else [])
    plan = [request(name) for name in range(25)]

    def seen() -> tuple[Any, ...]:
        keys = pl.concat(part_index.read_keys(store, ["slot", "status"]))
        left = [each.key for each in AnswerIndex(store, 2).sort_out(plan)]
        return assembled(store), left, keys.rows(), part_files.identity(store), part_files.void_runs(store)

    before, numbers, known = seen(), part_numbers.part_numbers(store), superseded.known(store, {})
    reading = store.reading()
    made = part_merging.merge(store, numbers, {})
    assert part_numbers.clear(store) == 6, "somebody reads them"
    assert part_numbers.part_numbers(store) == [made] and seen() == before
    del reading
    assert part_numbers.clear(store) == 0
    assert list(store.list()) == ["000001-000006-1.parquet"] and seen() == before
    assert superseded.known(store, {}) == known
    gone = superseded.Answers(store, 1 << 62).superseded(None)
    assert gone, "there are old answers that others have taken the place of"
    part_merging.merge(store, part_numbers.part_numbers(store), gone)
    assert seen()[0].equals(before[0]) and seen()[3] == before[3]


def test_a_merged_part_that_is_not_what_it_should_be_is_not_there(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (1, 2):
        part_files.write_part(store, number, [outcome(number)])
    blocks = part_merging._blocks
    monkeypatch.setattr(part_merging, "_blocks", lambda tables: (block.slice(1) for block in blocks(tables)))
    with pytest.raises(FolderError, match="not the same when read back"):
        part_merging.merge(store, part_numbers.part_numbers(store), {})
    assert sorted(store.list()) == ["000001.parquet", "000002.parquet"]


def test_parts_are_known_by_numbers_and_sizes_wherever_they_are(tmp_path: Path) -> None:
    here, there = FolderStore(tmp_path), MemoryStore()
    for store in (here, there):
        part_files.write_part(store, 1, [outcome(1)])
    known = part_files.identity(here)
    assert part_files.has_identity(there, known)
    (tmp_path / "000001.parquet").touch()
    assert part_files.has_identity(here, known), "a file that was only touched is the same part"
    part_files.write_part(here, 2, [outcome(2)])
    assert not part_files.has_identity(here, known)


def test_a_digest_with_times_that_a_version_before_kept_counts_while_it_fits(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    part_files.write_part(store, 1, [outcome(1)])
    stat = (tmp_path / "000001.parquet").stat()
    entries = b"[[1,%d,%d]]" % (stat.st_size, stat.st_mtime_ns)
    former = hashlib.blake2b(entries, digest_size=16).hexdigest()
    assert former != part_files.identity(store)
    assert part_files.has_identity(store, former)
    os.utime(tmp_path / "000001.parquet", ns=(1, 1))
    assert not part_files.has_identity(store, former)


# --------------------------------------------------------------------------------------------------------- whole runs


def test_runs_whose_parts_are_in_memory(
    endpoint: CountingEndpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sealed, resumed, exported, compacted and known to be finished: by nothing that only a folder has."""
    parts = MemoryStore()
    monkeypatch.setattr(folder_module, "FolderStore", lambda path: parts if path.name == "parts" else FolderStore(path))
    out = tmp_path / "out"
    job: dict[str, Any] = {
        "job": {"name": "memory", "out": str(out)},
        "input": {"path": str(tmp_path / "rows.jsonl")},
        "endpoint": {"base_url": endpoint.base_url},
        "params": {"model": "m"},
        "journal": {"seal_rows": 10},
    }
    for rows in (20, 60):
        write_rows(tmp_path / "rows.jsonl", rows)
        batchflex.run(job)
        assert pl.read_parquet(out / "results.parquet")["id"].to_list() == [f"r{n}" for n in range(rows)]
    assert not (out / "parts").exists() and not list((out / "journal").glob("*.journal"))
    assert endpoint.stats()["requests"] == 60
    folder = Folder(out)
    assert len(part_numbers.part_numbers(parts)) >= 2
    with folder.held():
        compact.carry_out(compact.preview(folder, None, None))
    assert len(part_numbers.part_numbers(parts)) == 1
    assert live_table.is_newest(folder)
    assert completion_marker.last_marker(folder) is not None, "it is finished still"
    batchflex.run(job)
    assert endpoint.stats()["requests"] == 60
