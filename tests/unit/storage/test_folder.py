"""The output folder: one writer, whole files, and sentences when it cannot be used."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batchflex.core.errors import FolderBusy, FolderError, StorageError
from batchflex.storage import store as store_module
from batchflex.storage.files import append, replaced, storing
from batchflex.storage.journal import Journal
from batchflex.storage.output_folder import FORMAT, Folder
from tests.support.outcomes import run_python, small_disk

HOLD = """
import sys
from pathlib import Path
from batchflex.storage import store as store_module
from batchflex.core.errors import FolderBusy
from batchflex.storage.output_folder import Folder
try:
    with Folder(Path(sys.argv[1])).held():
        print("held", flush=True)
        sys.stdin.read()
except FolderBusy as error:
    print(error, flush=True)
"""


def holder(path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


# ------------------------------------------------------------------------------------------------------- one writer


def test_second_run_is_refused_and_told_who_holds_the_folder(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "out"
    with Folder(path).held():
        words = rf"another run holds .*out \(process {os.getpid()} on .+\)"
        with pytest.raises(FolderBusy, match=words) as caught, Folder(path).held():
            pass
        assert caught.value.exit_code == 4
    with Folder(path).held():
        pass


def test_of_several_processes_one_gets_the_folder(tmp_path: Path) -> None:
    processes = [holder(tmp_path / "out") for _ in range(4)]
    try:
        answers = [said(p) for p in processes]
        assert answers.count("held") == 1
        assert sum(a.startswith("another run holds") for a in answers) == 3
        assert Folder(tmp_path / "out").is_held()
    finally:
        for process in processes:
            end(process)


def test_a_killed_run_leaves_no_lock(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "out")
    process = holder(folder.path)
    try:
        assert said(process) == "held"
        assert folder.is_held()
        with pytest.raises(FolderBusy, match=f"process {process.pid} on"), folder.held():
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not folder.is_held()
        with folder.held():
            assert folder.is_held()
    finally:
        end(process)


def test_a_child_that_outlives_the_run_does_not_keep_the_lock(tmp_path: Path) -> None:
    code = """
import subprocess, sys
from pathlib import Path
from batchflex.storage.output_folder import Folder
with Folder(Path(sys.argv[1])).held():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    print(child.pid, flush=True)
    sys.stdin.read()
"""
    run = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "out")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    child = int(said(run))
    end(run)
    try:
        with Folder(tmp_path / "out").held():
            pass
    finally:
        os.kill(child, signal.SIGKILL)


def test_looking_whether_it_is_held_never_makes_a_run_fail(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "out")
    with folder.held():
        pass
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            Folder(folder.path).is_held()

    watchers = [threading.Thread(target=watch) for _ in range(16)]
    for watcher in watchers:
        watcher.start()
    try:
        for _ in range(100):
            with folder.held():
                pass
    finally:
        stop.set()
        for watcher in watchers:
            watcher.join()


def test_a_folder_nobody_made_is_not_held_and_no_run(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "none")
    assert not folder.is_held()
    assert not folder.exists()
    with pytest.raises(FolderError, match=r"is not the output folder of a run$"):
        folder.require()
    assert not folder.path.exists()
    for date in ("2026-01-02", "2026-01-03"):
        (folder.path / date).mkdir(parents=True)
        (folder.path / date / "run.json").write_text("{}")
    with pytest.raises(FolderError, match=r"a run, but holds 2 of them, such as .*/none/2026-01-03$"):
        folder.require()


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "out"
    with (
        pytest.raises(FolderError, match=r"the output folder .*file/out cannot be used: ") as caught,
        Folder(path).held(),
    ):
        pass
    assert caught.value.exit_code == 2


def test_a_file_system_without_locks_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(FolderError, match="cannot be locked: No locks available"), Folder(tmp_path / "out").held():
        pass


def test_new_folders_are_made_durable_from_the_top(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(store_module, "sync_folder", synced.append)
    with Folder(tmp_path / "a" / "b").held():
        pass
    assert synced == [tmp_path, tmp_path / "a", tmp_path / "a" / "b", tmp_path / "a" / "b"]


def test_half_written_files_of_a_killed_run_are_removed(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    (folder.path / "parts").mkdir()
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    leftovers = [tmp_path / f".run.json.{dead.pid}-0.tmp", folder.path / "parts" / f".000001.parquet.{dead.pid}-0.tmp"]
    beside = tmp_path / f".report.html.{os.getppid()}-0.tmp"
    for path in (*leftovers, beside):
        path.write_bytes(b"half")
    (folder.path / "parts" / "000001.parquet").write_bytes(b"whole")
    with folder.held():
        assert not any(path.exists() for path in leftovers)
        assert (folder.path / "parts" / "000001.parquet").exists()
        assert beside.exists(), "who writes a report is no run, and goes on"


# ------------------------------------------------------------------------------------------------------- whole files


def test_a_replaced_file_is_synced_then_renamed_then_its_name_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def told_fsync(descriptor: int) -> None:
        name = Path(f"/proc/self/fd/{descriptor}").readlink().name
        steps.append("fsync " + ("the new file" if name.endswith(".tmp") else name))
        fsync(descriptor)

    def told_replace(self: Path, target: Path) -> Path:
        steps.append(f"rename to {target.name}")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", told_fsync)
    monkeypatch.setattr(Path, "replace", told_replace)
    with replaced(tmp_path / "file") as stream:
        stream.write(b"new")
    assert steps == ["fsync the new file", "rename to file", f"fsync {tmp_path.name}"]


@pytest.mark.parametrize("moment", ["while writing", "at the sync", "at the rename"])
def test_a_failure_leaves_the_older_file_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    if moment == "at the sync":
        monkeypatch.setattr(os, "fsync", fail)
    if moment == "at the rename":
        monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="Input/output"), replaced(path) as stream:
        stream.write(b"new")
        if moment == "while writing":
            fail()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_two_threads_may_replace_one_file(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    states = [{"n": n, "text": str(n) * 5_000} for n in range(4)]

    def write(state: dict[str, Any]) -> None:
        for _ in range(20):
            folder.write_state(state)
            assert folder.read_state() in states

    threads = [threading.Thread(target=write, args=(state,)) for state in states]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert folder.read_state() in states
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


def test_a_reader_of_run_json_never_sees_half_of_it(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.write_state({"n": 0})

    def write() -> None:
        for n in range(100):
            folder.write_state({"n": n, "x": "y" * 10_000})

    writer = threading.Thread(target=write)
    writer.start()
    while writer.is_alive():
        assert "n" in folder.read_state()
    writer.join()


# ------------------------------------------------------------------------------------------------------- small files


def test_state_and_job_come_back_as_written(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    assert folder.read_state() == {}
    assert folder.read_job() is None
    folder.write_state({"status": "running", "cost": None, "é": 1.5})
    folder.write_job({"job": {"name": "ü"}, "sweep": {"temperature": [0.0, 0.7]}})
    assert folder.exists()
    assert folder.read_state() == {"status": "running", "cost": None, "é": 1.5}
    assert folder.read_job() == {"job": {"name": "ü"}, "sweep": {"temperature": [0.0, 0.7]}}


def test_damaged_small_files_are_sentences(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.state.write_text("{")
    folder.job.write_text("= 1")
    with pytest.raises(FolderError, match=r"run\.json cannot be read"):
        folder.read_state()
    with pytest.raises(FolderError, match=r"job\.toml cannot be read"):
        folder.read_job()


def test_history_grows_by_whole_lines_also_after_a_torn_one(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.add_history({"run_id": "1"})
    folder.add_history({"run_id": "2"})
    with folder.history.open("ab") as stream:
        stream.write(b'{"run_id": "3", "sta')
    folder.add_history({"run_id": "4"})
    lines = folder.history.read_text().splitlines()
    assert [json.loads(line)["run_id"] for line in (*lines[:2], lines[3])] == ["1", "2", "4"]
    assert len(lines) == 4


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "the disk is full: run.json could not be written. Nothing stored before is damaged"),
        (errno.EDQUOT, "the disk quota is used up: run.json could not be written"),
        (errno.EFBIG, "the largest file size allowed is reached: run.json could not be written"),
        (errno.EACCES, "run.json could not be written: Permission denied"),
    ],
)
def test_a_failed_write_says_what_and_why(number: int, words: str) -> None:
    with pytest.raises(StorageError) as caught, storing("run.json"):
        raise OSError(number, os.strerror(number))
    assert str(caught.value).startswith(words)
    assert caught.value.exit_code == 3


FILL = """
import sys
from pathlib import Path
from batchflex.core.errors import StorageError
from batchflex.storage.output_folder import Folder
folder = Folder(Path(sys.argv[1]))
folder.write_state({"n": 1})
folder.add_history({"n": 1})
try:
    folder.write_state({"n": 2, "x": "y" * 200_000})
except StorageError as error:
    print(error)
try:
    folder.add_history({"n": 2, "x": "y" * 200_000})
except StorageError as error:
    print(error)
"""


def test_a_full_disk_leaves_the_older_state(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 65_536) as (path, limit):
        lines = run_python(FILL, path, file_size=limit).splitlines()
        assert len(lines) == 2
        assert all("could not be written. Nothing stored before is damaged; free some space" in line for line in lines)
        folder = Folder(path)
        assert folder.read_state() == {"n": 1}
        assert folder.history.read_text().splitlines()[0] == '{"n":1}'
        assert {p.name for p in path.iterdir()} == {"run.json", "history.jsonl"}


# ------------------------------------------------------------------------------------------ what lies in a file's place


def test_a_lock_that_is_removed_lets_no_second_run_in(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "out")
    process = holder(folder.path)
    try:
        assert said(process) == "held"
        for _ in range(2):  # and the second one's lock neither
            (folder.path / ".lock").unlink()
            assert folder.is_held()
            with pytest.raises(FolderBusy, match="another run holds"), folder.held():
                pass
            with folder.held_if_free() as held:
                assert not held
    finally:
        end(process)
    with folder.held():
        pass


def test_a_run_of_an_older_version_and_this_one_keep_each_other_out(tmp_path: Path) -> None:
    """It locks ``.lock`` and nothing else."""
    folder = Folder(tmp_path / "out")
    with folder.held(), (folder.path / ".lock").open("rb") as older, pytest.raises(BlockingIOError):
        fcntl.flock(older, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with (folder.path / ".lock").open("rb") as older:
        fcntl.flock(older, fcntl.LOCK_EX | fcntl.LOCK_NB)
        (folder.path / ".lock").write_text('{"pid":17,"host":"other"}')
        assert folder.is_held()
        with pytest.raises(FolderBusy), folder.held():
            pass


def test_a_file_system_that_locks_no_folders_has_the_one_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def only_files(descriptor: int, how: int, real: Callable[[int, int], None] = fcntl.flock) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EBADF, "Bad file descriptor")
        real(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", only_files)
    folder = Folder(tmp_path / "out")
    with folder.held():
        assert folder.is_held()
        with pytest.raises(FolderBusy), Folder(folder.path).held():
            pass
    assert not folder.is_held()


@pytest.mark.parametrize("name", [".lock", "history.jsonl", "telemetry.jsonl", "inputs.jsonl", "journal/reserve"])
@pytest.mark.parametrize("there", [True, False])
def test_what_a_link_stands_for_is_not_written(name: str, there: bool, tmp_path: Path) -> None:
    folder, target = Folder(tmp_path / "out"), tmp_path / "precious"
    with folder.held():
        pass
    if there:
        target.write_bytes(b"precious")
    (folder.path / name).unlink(missing_ok=True)
    (folder.path / name).symlink_to(target)
    with pytest.raises((FolderError, StorageError), match=r"symbolic link.*remove the link"), folder.held():
        if name == "journal/reserve":
            Journal(folder.journal, 1, reserve_bytes=1000)
        append(folder.path / name, {"a": 1}, sync=False)
    assert (target.read_bytes() == b"precious") if there else not target.exists()


@pytest.mark.parametrize("name", [".lock", "history.jsonl"])
def test_a_pipe_in_place_of_a_file_is_not_waited_for(name: str, tmp_path: Path) -> None:
    folder = Folder(tmp_path / "out")
    with folder.held():
        pass
    (folder.path / name).unlink(missing_ok=True)
    os.mkfifo(folder.path / name)
    assert not folder.is_held()
    with pytest.raises((FolderError, StorageError)), folder.held():
        folder.add_history({"a": 1})


def test_a_file_that_is_replaced_is_the_link_itself(tmp_path: Path) -> None:
    folder, target = Folder(tmp_path / "out"), tmp_path / "precious"
    target.write_bytes(b"precious")
    with folder.held():
        folder.state.symlink_to(target)
        for number in range(50):  # names that the next temporary files may have
            (folder.path / f".run.json.{os.getpid()}-{number}.tmp").symlink_to(target)
        folder.write_state({"a": "\x1b\u202e\ud800"})
    assert target.read_bytes() == b"precious"
    assert folder.read_state() == {"a": "\x1b\u202e\ufffd"}
    assert b"\\u001b\\u202e" in folder.state.read_bytes()


def test_a_folder_in_place_of_a_file_is_a_sentence(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "out")
    with folder.held():
        folder.state.mkdir()
        (folder.state / "x").touch()
        with pytest.raises(StorageError, match="Is a directory"):
            folder.write_state({})


# ------------------------------------------------------------------------------------------------ the number of the format


def test_a_folder_of_a_newer_format_is_left_alone(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "out")
    with folder.held():
        assert folder.require_format() == FORMAT
    folder.format.write_text(f'{{"format": {FORMAT + 1}}}')
    before = sorted(path.name for path in folder.path.iterdir())
    for open_it in (folder.require, lambda: folder.held().__enter__()):
        with pytest.raises(
            FolderError, match=rf"newer version of batchflex: its format is {FORMAT + 1}.*up to {FORMAT}"
        ):
            open_it()
    assert sorted(path.name for path in folder.path.iterdir()) == before


@pytest.mark.parametrize("text", ["", "[2]", '{"format": "two"}'])
def test_a_format_that_cannot_be_read_is_no_format(tmp_path: Path, text: str) -> None:
    folder = Folder(tmp_path / "out")
    with folder.held():
        pass
    folder.format.write_text(text)
    with pytest.raises(FolderError, match=r"cannot be read|its format is two"):
        folder.require()


def test_a_folder_that_tells_no_format_gets_the_present_one(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "out")
    (folder.path / "parts").mkdir(parents=True)
    assert folder.require_format() == 1
    with folder.held():
        assert folder.require_format() == FORMAT
