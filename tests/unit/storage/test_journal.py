"""The journal: whatever is torn, flipped or full, every whole record before the damage is there, and nothing is invented."""

from __future__ import annotations

import errno
import itertools
import json
import os
import signal
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings, strategies as st

from batchflex.core.errors import FolderError, StorageError
from batchflex.core.types import Outcome
from batchflex.storage import files, journal
from batchflex.storage.journal import Journal, Segment
from tests.support.outcomes import any_outcomes, outcome, run_python, small_disk
from tests.support.paths import ROOT

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


def records(folder: Path, outcomes: Sequence[Outcome]) -> list[bytes]:
    """The bytes of each in a segment."""
    kept = Journal(folder, 1)
    ends = [0]
    for one in outcomes:
        kept.append(one)
        ends.append(kept.segment.bytes)
    kept.close()
    if not outcomes:
        return []
    data = journal.segment_path(folder, 1).read_bytes()
    journal.drop(folder, 1)
    assert len(data) == ends[-1]
    return [data[begin:end] for begin, end in itertools.pairwise(ends)]


def lines(_: Path, outcomes: Sequence[Outcome]) -> list[bytes]:
    """Those of a segment of format 2."""
    made = []
    for one in outcomes:
        fields = {name: getattr(one, name) for name in Outcome.__struct_fields__}
        response = None if one.response is None else one.response.decode("utf-8", "replace")
        data = msgspec.json.encode(fields | {"response": response})
        made.append(b"%08x %b\n" % (zlib.crc32(data), data))
    return made


def as_texts(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """As format 2 kept them, which had no bytes."""
    replaced = msgspec.structs.replace
    return [
        each if each.response is None else replaced(each, response=each.response.decode("utf-8", "replace").encode())
        for each in outcomes
    ]


both_forms = pytest.mark.parametrize("form", [records, lines])
Form = Callable[[Path, Sequence[Outcome]], list[bytes]]


def is_subsequence(some: Sequence[Outcome], whole: Sequence[Outcome]) -> bool:
    rest: Iterator[Outcome] = iter(whole)
    return all(any(one == other for other in rest) for one in some)


@pytest.fixture(params=["mapped", "written"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """On a file system whose files are mapped, and on another."""
    if request.param == "written":
        monkeypatch.setattr(files, "IN_PLACE", frozenset())
    return str(request.param)


# --------------------------------------------------------------------------------------------------- what comes back


@_settings
@given(outcomes=st.lists(any_outcomes(), max_size=8))
@example(outcomes=[outcome(0, content="x" * 3_000_000, response=b"\0\n\r\xff\x7f"), outcome(1)])
@example(
    outcomes=[outcome(0), outcome(1, response=b"r" * 9_000_000), outcome(2, response=b"r" * (64 << 20)), outcome(3)]
)
def test_every_outcome_comes_back_as_it_was(way: str, tmp_path: Path, outcomes: list[Outcome]) -> None:
    kept = Journal(tmp_path, 1)
    path = journal.segment_path(tmp_path, 1)
    try:
        for one in outcomes:
            kept.append(one)
        assert (kept.segment.number, kept.segment.rows) == (1, len(outcomes))
        assert kept.segment.bytes <= path.stat().st_size
        assert list(journal.read(path)) == outcomes
        kept.close()
        if outcomes:
            assert path.stat().st_size == kept.segment.bytes
            assert list(journal.read(path)) == outcomes
    finally:
        kept.close()
        journal.drop(tmp_path, 1)


@_settings
@given(outcomes=st.lists(any_outcomes(), max_size=4))
def test_lines_of_format_2_come_back_as_they_were(tmp_path: Path, outcomes: list[Outcome]) -> None:
    assert read_bytes(tmp_path, b"".join(lines(tmp_path, outcomes))) == as_texts(outcomes)


def test_a_note_is_no_outcome_in_either_form(tmp_path: Path) -> None:
    kept = Journal(tmp_path, 1)
    kept.append(outcome(0))
    kept.void("run-7")
    kept.append(outcome(1))
    kept.close()
    one, two = lines(tmp_path, [outcome(0), outcome(1)])
    note = b'{"void":"run-7"}'
    journal.segment_path(tmp_path, 2).write_bytes(one + b"%08x!%b\n" % (zlib.crc32(note), note) + two)
    for number in (1, 2):
        void: list[str] = []
        assert list(journal.read(journal.segment_path(tmp_path, number), void)) == [outcome(0), outcome(1)]
        assert void == ["run-7"]


@pytest.mark.parametrize("how", ["mapped", "written"])
def test_a_segment_that_a_run_still_writes_is_read_as_far_as_it_is(how: str, tmp_path: Path) -> None:
    """By another process, which sees nothing that is not whole, and all that was appended before."""
    command = [sys.executable, "-c", KEEP_APPENDING, tmp_path, how]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None
        for line in itertools.islice(process.stdout, 0, 120, 12):
            read = [o.id for n in journal.segments(tmp_path) for o in journal.read(journal.segment_path(tmp_path, n))]
            assert read == [f"id-{i}" for i in range(len(read))]
            assert len(read) > int(line)
        process.kill()


def test_half_a_surrogate_pair_is_stored_as_the_replacement_character(tmp_path: Path) -> None:
    torn = outcome("a", content="a\ud83db", error_message="\ud83d\ude42", response=b"\xff")
    [read] = read_bytes(tmp_path, records(tmp_path, [torn])[0])
    assert read.content == "a\ufffdb"
    assert read.error_message == "🙂"
    assert (read.key, read.row, read.response) == (torn.key, torn.row, torn.response)


# ------------------------------------------------------------------------------------------------------------ damage


@both_forms
@_settings
@given(outcomes=st.lists(any_outcomes(), min_size=1, max_size=6), zeros=st.sampled_from([0, 1, 5_000]), data=st.data())
def test_cut_anywhere_all_that_is_whole_before_is_there(
    form: Form, tmp_path: Path, outcomes: list[Outcome], zeros: int, data: st.DataObject
) -> None:
    made = form(tmp_path, outcomes)
    at = data.draw(st.integers(0, sum(map(len, made))))
    ends = list(itertools.accumulate(map(len, made)))
    expected = as_texts(outcomes) if form is lines else outcomes
    assert read_bytes(tmp_path, b"".join(made)[:at] + b"\0" * zeros) == [
        one for one, end in zip(expected, ends, strict=True) if end <= at
    ]


@both_forms
def test_cut_at_every_byte_of_the_last_two(form: Form, tmp_path: Path) -> None:
    made = form(tmp_path, [outcome(i, content="é\n" * i) for i in range(5)])
    whole = b"".join(made)
    first = sum(map(len, made[:3]))
    second = first + len(made[3])
    path = tmp_path / "000001.journal"
    path.write_bytes(whole)
    for at in range(len(whole), first - 1, -1):
        for size in (at, len(whole) + 9):  # of a file that is mapped, what is not there yet is zeros
            os.truncate(path, at)
            os.truncate(path, size)
            expected = 5 if at == len(whole) else 4 if at >= second else 3
            found = list(journal.read(path))
            assert [o.id for o in found] == [f"id-{i}" for i in range(expected)], (at, size)


@both_forms
@_settings
@given(
    outcomes=st.lists(any_outcomes(), min_size=1, max_size=6),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=4),
)
def test_flipped_bytes_cost_what_they_are_in_and_invent_nothing(
    form: Form, tmp_path: Path, outcomes: list[Outcome], flips: list[tuple[float, int]]
) -> None:
    made = form(tmp_path, outcomes)
    data = bytearray(b"".join(made))
    for place, mask in flips:
        data[int(place * len(data))] ^= mask
    found = read_bytes(tmp_path, bytes(data))
    expected = as_texts(outcomes) if form is lines else outcomes
    assert is_subsequence(found, expected)
    whole = b"".join(made)
    damaged = {i for i in range(len(data)) if data[i] != whole[i]}
    begin = 0
    for one, stored in zip(expected, made, strict=True):
        # A record is lost by damage in it alone, a line also by that of the newline before it.
        if not damaged & set(range(max(0, begin - (form is lines)), begin + len(stored))):
            assert one in found
        begin += len(stored)


@both_forms
@_settings
@given(outcomes=st.lists(any_outcomes(), max_size=4), garbage=st.binary(max_size=300))
@example(outcomes=[], garbage=b"\0" * 300)
@example(outcomes=[], garbage=b"00000000 \n" * 3 + b"\n\n")
@example(outcomes=[outcome(0)], garbage=b"\xffBF\x02\0\0\0\0\xff\xff\xff\xff" * 20)
def test_whatever_follows_is_no_outcome(form: Form, tmp_path: Path, outcomes: list[Outcome], garbage: bytes) -> None:
    expected = as_texts(outcomes) if form is lines else outcomes
    assert read_bytes(tmp_path, b"".join(form(tmp_path, outcomes)) + garbage) == expected


@both_forms
def test_what_is_damaged_in_the_middle_is_skipped(form: Form, tmp_path: Path) -> None:
    made = form(tmp_path, [outcome(i, content=f"answer {i}") for i in range(5)])
    made[2] = made[2].replace(b"answer 2", b"answer 7")
    assert [o.id for o in read_bytes(tmp_path, b"".join(made))] == ["id-0", "id-1", "id-3", "id-4"]


def test_pages_that_a_power_cut_kept_from_the_disk_cost_what_was_in_them(tmp_path: Path) -> None:
    made = records(tmp_path, [outcome(i, content="x" * 999) for i in range(40)])
    data, gone = bytearray(b"".join(made)), {0, 2}
    for page in gone:
        data[page * 4096 : (page + 1) * 4096] = bytes(4096)
    expected, begin = [], 0
    for number, record in enumerate(made):
        if gone.isdisjoint(range(begin // 4096, (begin + len(record) - 1) // 4096 + 1)):
            expected.append(f"id-{number}")
        begin += len(record)
    assert len(expected) > 28
    assert [o.id for o in read_bytes(tmp_path, bytes(data))] == expected


def test_a_record_in_an_answer_is_none(tmp_path: Path) -> None:
    inside = b"".join(records(tmp_path, [outcome(7), outcome(8)]))
    outcomes = [outcome(0, response=inside), outcome(1, response=inside[3:]), outcome(2)]
    assert read_bytes(tmp_path, b"".join(records(tmp_path, outcomes))) == outcomes


def record_of(data: bytes) -> bytes:
    return b"\xffBF\x02" + struct.pack("<II", zlib.crc32(data), len(data)) + data


def test_what_another_version_wrote_is_told_not_dropped(tmp_path: Path) -> None:
    data = b'{"key":"of another version"}'
    line = b"%08x %b\n" % (zlib.crc32(data), data)
    for written in (line, record_of(msgspec.msgpack.encode(["of another version"]))):
        with pytest.raises(FolderError, match=r"was written by another version of batchflex"):
            read_bytes(tmp_path, written)


def test_what_a_later_version_adds_does_no_harm(tmp_path: Path) -> None:
    fields = [*msgspec.structs.astuple(outcome(0)), "new", 7]
    written = map(msgspec.msgpack.encode, (fields, {"void": 3}, {"another": "note"}, fields))
    assert read_bytes(tmp_path, b"".join(map(record_of, written))) == [outcome(0)] * 2


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


def test_an_empty_segment_and_the_reserve_go_when_it_is_closed(way: str, tmp_path: Path) -> None:
    kept = Journal(tmp_path, 1, reserve_bytes=4096)
    assert {p.name for p in tmp_path.iterdir()} == {"reserve", "000001.journal"}
    assert (tmp_path / "reserve").stat().st_size == 4096
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
    """How many outcomes of which file were synced."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows: dict[str, int] = {}
        self.calls = 0
        monkeypatch.setattr(os, "fdatasync", self)

    def __call__(self, descriptor: int) -> None:
        self.calls += 1
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        self.rows[path.name] = len(list(journal.read(path)))


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
    assert synced.rows == {"000001.journal": 1}
    assert synced.calls == 1
    kept.close()


def test_after_a_rotation_both_segments_are_synced_however_long_the_first_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = Synced(monkeypatch)
    kept = Journal(tmp_path, 1)
    for i in range(10):
        kept.append(outcome(i))
    kept.rotate(Segment(tmp_path, 2))
    kept.append(outcome(10))
    kept.sync()
    assert synced.rows == {"000001.journal": 10, "000002.journal": 1}
    kept.close()


def test_a_sync_under_way_while_the_segment_ends_does_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside, go_on = threading.Event(), threading.Event()
    rows: dict[str, int] = {}

    def slow(descriptor: int) -> None:
        inside.set()
        assert go_on.wait(10)
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        rows[path.name] = len(list(journal.read(path)))

    monkeypatch.setattr(os, "fdatasync", slow)
    kept = Journal(tmp_path, 1)
    for i in range(10):
        kept.append(outcome(i))
    thread = threading.Thread(target=kept.sync)
    thread.start()
    assert inside.wait(10)
    kept.append(outcome(10))
    kept.rotate(Segment(tmp_path, 2))
    kept.append(outcome(11))
    go_on.set()
    thread.join()
    kept.sync()
    assert rows == {"000001.journal": 11, "000002.journal": 1}
    kept.close()


def test_threads_sync_while_the_loop_appends_and_rotates(way: str, tmp_path: Path) -> None:
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
from batchflex.storage import files
from batchflex.storage.journal import Journal, Segment
from tests.support.outcomes import outcome
if sys.argv[2] == "written":
    files.IN_PLACE = frozenset()
journal = Journal(Path(sys.argv[1]), 1, reserve_bytes=4096)
for i in itertools.count():
    journal.append(outcome(i, content="x" * (i % 5000)))
    os.write(1, b"%d\\n" % i)
    if i % 50 == 49:
        journal.rotate(Segment(Path(sys.argv[1]), journal.segment.number + 1))
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["mapped", "written"])
def test_killed_at_any_moment_nothing_appended_is_lost(how: str, tmp_path: Path) -> None:
    for attempt, wait_for in enumerate((1, 37, 50, 51, 160)):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        process = subprocess.Popen([sys.executable, "-c", KEEP_APPENDING, folder, how], stdout=subprocess.PIPE)
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
    """Takes ``room`` more bytes, be they reserved or written; the last write may be a part of what was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: int, number: int = errno.ENOSPC) -> None:
        self.room = room
        self.number = number
        self._write, self._reserve = os.pwrite, os.posix_fallocate
        monkeypatch.setattr(os, "pwrite", self.write)
        monkeypatch.setattr(os, "posix_fallocate", self.reserve)

    def write(self, descriptor: int, data: bytes, place: int) -> int:
        if not self.room:
            raise OSError(self.number, os.strerror(self.number))
        written = self._write(descriptor, data[: self.room], place)
        self.room -= written
        return written

    def reserve(self, descriptor: int, begin: int, size: int) -> None:
        if size > self.room:
            self._reserve(descriptor, begin, 1)  # ext4 has taken what there was by then
            raise OSError(self.number, os.strerror(self.number))
        self._reserve(descriptor, begin, size)
        self.room -= size


def size_of(one: Outcome) -> int:
    return 12 + len(journal.encode(one))


def test_a_full_disk_gives_the_reserve_back_for_the_answers_on_their_way(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch, room=4096 + size_of(outcome(0)) + 10)
    kept = Journal(tmp_path, 1, reserve_bytes=4096)
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
def test_what_a_full_disk_did_not_take_leaves_nothing_behind(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    disk = Disk(monkeypatch, room=size_of(outcome(0)) + 20)
    kept = Journal(tmp_path, 1)
    kept.append(outcome(0))
    disk.number = number
    before = journal.segment_path(tmp_path, 1).read_bytes()
    with pytest.raises(StorageError, match=r"000001\.journal could not be written") as caught:
        kept.append(outcome(1))
    assert kept.full == (number != errno.EIO)
    assert caught.value.exit_code == 3
    assert journal.segment_path(tmp_path, 1).read_bytes() == before
    disk.room = 10 << 20
    kept.append(outcome(2))
    kept.close()
    assert [o.id for o in journal.read(journal.segment_path(tmp_path, 1))] == ["id-0", "id-2"]


def test_what_could_not_be_cut_off_at_once_is_before_the_next_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "IN_PLACE", frozenset())
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


def test_a_file_system_that_reserves_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that ceases to, half-way."""
    outcomes = [outcome(i, content="x" * 400_000) for i in range(9)]

    def refuse(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    for number, before in ((1, 0), (2, 5)):
        with monkeypatch.context() as changed:
            kept = None
            for i, one in enumerate(outcomes):
                if i == before:
                    changed.setattr(os, "posix_fallocate", refuse)
                kept = kept or Journal(tmp_path, number)
                kept.append(one)
            assert kept is not None
            kept.close()
        assert list(journal.read(journal.segment_path(tmp_path, number))) == outcomes


FILL = """
import json, sys
from pathlib import Path
from batchflex.storage import files, journal
from batchflex.core.errors import StorageError
from tests.support.outcomes import outcome
folder = Path(sys.argv[1])
if sys.argv[2] == "written":
    files.IN_PLACE = frozenset()
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
kept.sync()
kept.close()
size = journal.segment_path(folder, 1).stat().st_size
assert size == kept.segment.bytes and kept.segment.rows == done, (size, kept.segment.bytes)
ids = [o.id for o in journal.read(journal.segment_path(folder, 1))]
assert ids == [f"id-{i}" for i in range(done)]
print(json.dumps([done, full_at, message]))
"""


@pytest.mark.parametrize("how", ["mapped", "written"])
@pytest.mark.parametrize("limited_by", ["tmpfs", "ext4", "file size"])
def test_a_disk_that_fills_up_stops_the_journal_and_damages_nothing(tmp_path: Path, limited_by: str, how: str) -> None:
    """Nor does a signal end the process, as writing to a map does where there is no room."""
    if limited_by != "file size":
        with small_disk(tmp_path / "disk", 131_072 if limited_by == "tmpfs" else 3 << 20, limited_by) as (
            folder,
            limit,
        ):
            done, full_at, message = json.loads(run_python(FILL, folder, how, file_size=limit))
        if not limit:
            assert full_at is not None
            assert 5 < done - full_at < 16, "the reserve had room for some more answers"
    else:
        done, full_at, message = json.loads(run_python(FILL, tmp_path, how, file_size=65_536))
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
