"""The journal: whatever is torn, flipped or full, every whole line before the damage is there, and nothing is invented."""

from __future__ import annotations

import errno
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings, strategies as st

from batchflex.core.errors import FolderError, StorageError
from batchflex.core.types import Outcome
from batchflex.storage import journal
from batchflex.storage.journal import Journal, Segment
from tests.support.outcomes import any_outcomes, outcome, run_python, small_disk

_settings = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def read_bytes(tmp_path: Path, data: bytes) -> list[Outcome]:
    path = tmp_path / "read.journal"
    path.write_bytes(data)
    return list(journal.read(path))


def filled(folder: Path, count: int, number: int = 1) -> Path:
    kept = Journal(folder, number)
    for i in range(count):
        kept.append(outcome(i, content=f"answer {i}"))
    kept.close()
    return journal.segment_path(folder, number)


def is_subsequence(some: Sequence[Outcome], whole: Sequence[Outcome]) -> bool:
    rest: Iterator[Outcome] = iter(whole)
    return all(any(one == other for other in rest) for one in some)


# --------------------------------------------------------------------------------------------------- what comes back


@_settings
@given(st.lists(any_outcomes(), max_size=8))
@example([outcome(0, content="x" * 3_000_000, response="\0\n\r\u2028\x7f\uffff"), outcome(1)])
def test_every_outcome_comes_back_as_it_was(tmp_path: Path, outcomes: list[Outcome]) -> None:
    kept = Journal(tmp_path, 1)
    try:
        for one in outcomes:
            kept.append(one)
        assert (kept.segment.number, kept.segment.rows) == (1, len(outcomes))
        assert kept.segment.bytes == journal.segment_path(tmp_path, 1).stat().st_size
        assert list(journal.read(journal.segment_path(tmp_path, 1))) == outcomes
    finally:
        kept.close()
        journal.drop(tmp_path, 1)


def test_a_line_is_a_checksum_a_space_and_json(tmp_path: Path) -> None:
    line = journal.encode(outcome("a", content="line\nbreak"))
    assert line.count(b"\n") == 1
    assert line[8:9] == b" "
    assert int(line[:8], 16) == zlib.crc32(line[9:-1])


def test_half_a_surrogate_pair_is_stored_as_the_replacement_character(tmp_path: Path) -> None:
    torn = outcome("a", content="a\ud83db", error_message="\ud83d\ude42")
    [read] = read_bytes(tmp_path, journal.encode(torn))
    assert read.content == "a\ufffdb"
    assert read.error_message == "🙂"
    assert (read.key, read.row) == (torn.key, torn.row)


# ------------------------------------------------------------------------------------------------------------ damage


@_settings
@given(st.lists(any_outcomes(), min_size=1, max_size=6), st.data())
def test_cut_anywhere_all_whole_lines_before_are_there(
    tmp_path: Path, outcomes: list[Outcome], data: st.DataObject
) -> None:
    lines = [journal.encode(one) for one in outcomes]
    at = data.draw(st.integers(0, sum(map(len, lines))))
    ends = list(itertools.accumulate(map(len, lines)))
    assert read_bytes(tmp_path, b"".join(lines)[:at]) == [
        one for one, end in zip(outcomes, ends, strict=True) if end <= at
    ]


def test_cut_at_every_byte_of_the_last_two_records(tmp_path: Path) -> None:
    lines = [journal.encode(outcome(i, content="é\n" * i)) for i in range(5)]
    whole = b"".join(lines)
    first = sum(map(len, lines[:3]))
    second = first + len(lines[3])
    path = tmp_path / "000001.journal"
    path.write_bytes(whole)
    for at in range(len(whole), first - 1, -1):
        os.truncate(path, at)
        expected = 5 if at == len(whole) else 4 if at >= second else 3
        found = list(journal.read(path))
        assert [o.id for o in found] == [f"id-{i}" for i in range(expected)], at


@_settings
@given(
    st.lists(any_outcomes(), min_size=1, max_size=6),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=4),
)
def test_flipped_bytes_cost_their_line_and_invent_nothing(
    tmp_path: Path, outcomes: list[Outcome], flips: list[tuple[float, int]]
) -> None:
    lines = [journal.encode(one) for one in outcomes]
    data = bytearray(b"".join(lines))
    for place, mask in flips:
        data[int(place * len(data))] ^= mask
    found = read_bytes(tmp_path, bytes(data))
    assert is_subsequence(found, outcomes)
    whole = b"".join(lines)
    damaged = {i for i in range(len(data)) if data[i] != whole[i]}
    begin = 0
    for one, line in zip(outcomes, lines, strict=True):
        # A line is lost by damage in it, or at the newline before it.
        if not damaged & set(range(max(0, begin - 1), begin + len(line))):
            assert one in found
        begin += len(line)


@_settings
@given(st.lists(any_outcomes(), max_size=4), st.binary(max_size=300))
@example([], b"\0" * 300)
@example([], b"00000000 \n" * 3 + b"\n\n")
def test_whatever_follows_is_no_outcome(tmp_path: Path, outcomes: list[Outcome], garbage: bytes) -> None:
    lines = b"".join(journal.encode(one) for one in outcomes)
    assert read_bytes(tmp_path, lines + garbage) == outcomes


def test_a_bad_line_in_the_middle_is_skipped(tmp_path: Path) -> None:
    path = filled(tmp_path, 5)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[2] = lines[2].replace(b"answer 2", b"answer 7")
    assert [o.id for o in read_bytes(tmp_path, b"".join(lines))] == ["id-0", "id-1", "id-3", "id-4"]


def test_a_whole_line_of_another_version_is_told_not_dropped(tmp_path: Path) -> None:
    data = b'{"key":"of another version"}'
    with pytest.raises(FolderError, match=r"was written by another version of batchflex"):
        read_bytes(tmp_path, b"%08x %b\n" % (zlib.crc32(data), data))


def test_a_segment_that_is_gone_has_none(tmp_path: Path) -> None:
    assert list(journal.read(tmp_path / "000001.journal")) == []


def test_a_segment_that_cannot_be_read_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="cannot be read"):
        list(journal.read(tmp_path))


# ---------------------------------------------------------------------------------------------------------- segments


def test_segments_are_numbered_and_end_where_the_next_begins(tmp_path: Path) -> None:
    kept = Journal(tmp_path, 7)
    kept.append(outcome(1))
    kept.rotate(Segment(tmp_path, 8))
    assert (kept.segment.number, kept.segment.rows, kept.segment.bytes) == (8, 0, 0)
    kept.append(outcome(2))
    kept.rotate(Segment(tmp_path, 1_000_000))
    kept.append(outcome(3))
    kept.close()
    (tmp_path / "notes.journal").write_text("")
    assert journal.segments(tmp_path) == [7, 8, 1_000_000]
    read = [[o.id for o in journal.read(journal.segment_path(tmp_path, n))] for n in journal.segments(tmp_path)]
    assert read == [["id-1"], ["id-2"], ["id-3"]]
    journal.drop(tmp_path, 7)
    journal.drop(tmp_path, 7)
    assert journal.segments(tmp_path) == [8, 1_000_000]


def test_an_empty_segment_and_the_reserve_go_when_it_is_closed(tmp_path: Path) -> None:
    kept = Journal(tmp_path, 1, reserve_bytes=4096)
    assert {p.name: p.stat().st_size for p in tmp_path.iterdir()} == {"reserve": 4096, "000001.journal": 0}
    kept.close()
    kept.close()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(StorageError, match=r"000001\.journal could not be written"):
        kept.append(outcome(1))


def test_a_segment_is_never_written_over(tmp_path: Path) -> None:
    path = filled(tmp_path, 3)
    before = path.read_bytes()
    with pytest.raises(StorageError, match="File exists"):
        Journal(tmp_path, 1, reserve_bytes=4096)
    assert path.read_bytes() == before
    assert not (tmp_path / "reserve").exists()


def test_a_rotation_that_fails_goes_on_with_the_segment_there_is(tmp_path: Path) -> None:
    filled(tmp_path, 1, number=2)
    kept = Journal(tmp_path, 1)
    kept.append(outcome(0))
    with pytest.raises(StorageError):
        kept.rotate(Segment(tmp_path, 2))
    kept.append(outcome(1))
    assert (kept.segment.number, kept.segment.rows) == (1, 2)
    kept.close()
    assert [o.id for o in journal.read(journal.segment_path(tmp_path, 1))] == ["id-0", "id-1"]


# -------------------------------------------------------------------------------------------------------- durability


class Synced:
    """Which bytes of which file were synced."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sizes: dict[str, int] = {}
        self.calls = 0
        monkeypatch.setattr(os, "fdatasync", self)

    def __call__(self, descriptor: int) -> None:
        self.calls += 1
        name = Path(f"/proc/self/fd/{descriptor}").readlink().name
        self.sizes[name] = os.fstat(descriptor).st_size


def test_sync_covers_what_was_appended_and_costs_nothing_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = Synced(monkeypatch)
    kept = Journal(tmp_path, 1)
    kept.sync()
    assert synced.calls == 0
    kept.append(outcome(1))
    kept.sync()
    kept.sync()
    assert synced.sizes == {"000001.journal": kept.segment.bytes}
    assert synced.calls == 1
    kept.close()


def test_after_a_rotation_both_segments_are_synced_however_long_the_first_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = Synced(monkeypatch)
    kept = Journal(tmp_path, 1)
    for i in range(10):
        kept.append(outcome(i))
    first = kept.segment.bytes
    kept.rotate(Segment(tmp_path, 2))
    kept.append(outcome(10))
    kept.sync()
    assert synced.sizes == {"000001.journal": first, "000002.journal": kept.segment.bytes}
    kept.close()


def test_a_sync_under_way_while_the_segment_ends_does_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside, go_on = threading.Event(), threading.Event()
    sizes: dict[str, int] = {}

    def slow(descriptor: int) -> None:
        inside.set()
        assert go_on.wait(10)
        sizes[Path(f"/proc/self/fd/{descriptor}").readlink().name] = os.fstat(descriptor).st_size

    monkeypatch.setattr(os, "fdatasync", slow)
    kept = Journal(tmp_path, 1)
    for i in range(10):
        kept.append(outcome(i))
    thread = threading.Thread(target=kept.sync)
    thread.start()
    assert inside.wait(10)
    kept.append(outcome(10))
    first = kept.segment.bytes
    kept.rotate(Segment(tmp_path, 2))
    kept.append(outcome(11))
    go_on.set()
    thread.join()
    kept.sync()
    assert sizes == {"000001.journal": first, "000002.journal": kept.segment.bytes}
    kept.close()


def test_threads_sync_while_the_loop_appends_and_rotates(tmp_path: Path) -> None:
    kept = Journal(tmp_path, 1)
    stop = threading.Event()
    failures: list[BaseException] = []

    def keep_syncing() -> None:
        try:
            while not stop.is_set():
                kept.sync()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=keep_syncing) for _ in range(2)]
    for thread in threads:
        thread.start()
    open_before = len(list(Path("/proc/self/fd").iterdir()))
    for i in range(600):
        kept.append(outcome(i))
        if i % 20 == 19:
            kept.rotate(Segment(tmp_path, kept.segment.number + 1))
    stop.set()
    for thread in threads:
        thread.join()
    kept.close()
    assert not failures
    assert len(list(Path("/proc/self/fd").iterdir())) < open_before
    read = [o.id for n in journal.segments(tmp_path) for o in journal.read(journal.segment_path(tmp_path, n))]
    assert read == [f"id-{i}" for i in range(600)]


KEEP_APPENDING = """
import itertools, os, sys
from pathlib import Path
from batchflex.storage.journal import Journal, Segment
from tests.support.outcomes import outcome
journal = Journal(Path(sys.argv[1]), 1, reserve_bytes=4096)
for i in itertools.count():
    journal.append(outcome(i, content="x" * (i % 5000)))
    os.write(1, b"%d\\n" % i)
    if i % 50 == 49:
        journal.rotate(Segment(Path(sys.argv[1]), journal.segment.number + 1))
"""


@pytest.mark.slow
def test_killed_at_any_moment_nothing_appended_is_lost(tmp_path: Path) -> None:
    for attempt, wait_for in enumerate((1, 37, 50, 51, 160)):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        process = subprocess.Popen([sys.executable, "-c", KEEP_APPENDING, folder], stdout=subprocess.PIPE)
        assert process.stdout is not None
        for _ in range(wait_for):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        told = wait_for + process.communicate()[0].count(b"\n")
        read = [o.id for n in journal.segments(folder) for o in journal.read(journal.segment_path(folder, n))]
        assert len(read) in (told, told + 1)
        assert read == [f"id-{i}" for i in range(len(read))]


# --------------------------------------------------------------------------------------------------------- full disk


class Disk:
    """Takes ``room`` more bytes; the last write may be a part of what was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: int, number: int = errno.ENOSPC) -> None:
        self.room = room
        self.number = number
        self._write = os.write
        monkeypatch.setattr(os, "write", self)

    def __call__(self, descriptor: int, data: bytes) -> int:
        if not self.room:
            raise OSError(self.number, os.strerror(self.number))
        written = self._write(descriptor, data[: self.room])
        self.room -= written
        return written


def test_a_full_disk_gives_the_reserve_back_for_the_answers_on_their_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Journal(tmp_path, 1, reserve_bytes=4096)
    disk = Disk(monkeypatch, room=len(journal.encode(outcome(0))) + 10)
    unlink = Path.unlink

    def give_back(self: Path, missing_ok: bool = False) -> None:
        disk.room += self.stat().st_size if self.exists() else 0
        unlink(self, missing_ok)

    monkeypatch.setattr(Path, "unlink", give_back)
    kept.append(outcome(0))
    assert not kept.full
    kept.append(outcome(1))
    assert kept.full
    assert not (tmp_path / "reserve").exists()
    kept.append(outcome(2))
    kept.close()
    assert [o.id for o in journal.read(journal.segment_path(tmp_path, 1))] == ["id-0", "id-1", "id-2"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO])
def test_a_line_half_written_is_cut_off_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    kept = Journal(tmp_path, 1)
    kept.append(outcome(0))
    before = journal.segment_path(tmp_path, 1).read_bytes()
    disk = Disk(monkeypatch, room=20, number=number)
    with pytest.raises(StorageError, match=r"000001\.journal could not be written") as caught:
        kept.append(outcome(1))
    assert kept.full == (number != errno.EIO)
    assert caught.value.exit_code == 3
    assert journal.segment_path(tmp_path, 1).read_bytes() == before
    disk.room = 10_000
    kept.append(outcome(2))
    kept.close()
    assert [o.id for o in journal.read(journal.segment_path(tmp_path, 1))] == ["id-0", "id-2"]


def test_what_could_not_be_cut_off_at_once_is_before_the_next_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Journal(tmp_path, 1)
    disk = Disk(monkeypatch, room=20, number=errno.EIO)
    with monkeypatch.context() as broken:

        def refuse(*_: object) -> None:
            raise OSError(errno.EIO, "Input/output error")

        broken.setattr(os, "ftruncate", refuse)
        with pytest.raises(StorageError):
            kept.append(outcome(0))
    disk.room = 10_000
    kept.append(outcome(1))
    kept.close()
    assert [o.id for o in journal.read(journal.segment_path(tmp_path, 1))] == ["id-1"]


FILL = """
import json, sys
from pathlib import Path
from batchflex.storage import journal
from batchflex.core.errors import StorageError
from tests.support.outcomes import outcome
folder = Path(sys.argv[1])
kept = journal.Journal(folder, 1, reserve_bytes=16_384)
done, full_at, message = 0, None, ""
try:
    while True:
        kept.append(outcome(done, content="x" * 999))
        done += 1
        if kept.full and full_at is None:
            full_at = done
            assert not (folder / "reserve").exists()
except StorageError as error:
    message = str(error)
assert kept.full
size = journal.segment_path(folder, 1).stat().st_size
assert size == kept.segment.bytes and kept.segment.rows == done, (size, kept.segment.bytes)
kept.close()
ids = [o.id for o in journal.read(journal.segment_path(folder, 1))]
assert ids == [f"id-{i}" for i in range(done)]
print(json.dumps([done, full_at, message]))
"""


@pytest.mark.parametrize("limited_by", ["disk", "file size"])
def test_a_disk_that_fills_up_stops_the_journal_and_damages_nothing(tmp_path: Path, limited_by: str) -> None:
    if limited_by == "disk":
        with small_disk(tmp_path / "disk", 131_072) as (folder, limit):
            done, full_at, message = json.loads(run_python(FILL, folder, file_size=limit))
        if not limit:
            assert full_at is not None
            assert 5 < done - full_at < 16, "the reserve had room for some more answers"
    else:
        done, full_at, message = json.loads(run_python(FILL, tmp_path, file_size=65_536))
    assert done > 30
    assert (
        "could not be written. Nothing stored before is damaged; free some space and run the same command again"
        in message
    )


def test_a_disk_without_room_for_the_reserve_is_refused_at_once(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from batchflex.core.errors import StorageError
from batchflex.storage.journal import Journal
try:
    Journal(Path(sys.argv[1]), 1, reserve_bytes=1 << 20)
except StorageError as error:
    print(error)
"""
    with small_disk(tmp_path / "disk", 131_072) as (folder, limit):
        assert "reserve could not be written" in run_python(code, folder, file_size=limit)
        assert list(folder.iterdir()) == []
