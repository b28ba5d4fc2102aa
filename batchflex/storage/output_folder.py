"""The output folder: its paths, its lock, its small files and the store of its parts."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import socket
import struct
import time
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from ..config import toml
from ..core import FolderBusy, FolderError, copies_folder, did_you_mean, json_line
from .files import LINKED, NO_LINK, append, storing
from .store import FolderStore, Store, make_folder

# Of what lies in an output folder: raised when a version before could misread it. CONTRACT.md says what each number means.
FORMAT = 5
_FLOCK = struct.Struct("hhqqi4x")  # struct flock of Linux, 64 bits
_LOCK_WAITS_S = (0.01, 0.03, 0.1)  # whoever only looks whether the folder is held holds it for an instant
_LATE_BYTES = 256 << 10


def manifest_of(table: Path) -> Path:
    """What names the files of a table that is a folder."""
    return table.with_name(f"{table.name}-table.json")


class Folder:
    """Paths and small files of one output folder. Creating it touches nothing. ``parts`` is the store of the sealed answers, its
    own unless another is given."""

    def __init__(self, path: Path, parts: Store | None = None) -> None:
        self.path = path
        self._parts = path / "parts"
        self.store: Store = FolderStore(path)
        self.parts: Store = parts or FolderStore(self._parts)
        self._has_own_parts = parts is None
        self.results = path / "results.parquet"
        self.results_folder = path / "results"
        self.results_manifest = manifest_of(self.results_folder)
        self.journal = path / "journal"
        self._workers = path / "workers"
        self._shards = path / "shards"
        self.state = path / "run.json"
        self.job = path / "job.toml"
        self.history = path / "history.jsonl"
        self.telemetry = path / "telemetry.jsonl"
        self.inputs = path / "inputs.jsonl"
        self.snapshot = path / "standing.bin"
        self.positions = path / "positions.parquet"
        self.carried = path / "carried.parquet"
        self.scores = path / "scores.parquet"
        self.scores_folder = path / "scores"
        self.scores_manifest = manifest_of(self.scores_folder)
        self.scores_json = path / "scores.json"
        self.judges = path / "judges"
        self.report = path / "report.html"
        self.format = path / "format.json"
        self._lock = path / ".lock"
        self._is_mine = False

    @property
    def is_copy(self) -> bool:
        """Whether it is where copies of outputs in buckets are (:mod:`.remote_output`)."""
        return self.path.parent == copies_folder()

    @property
    def shown(self) -> str:
        """As people know it: by its URL if it is such a copy."""
        if self.is_copy:
            from . import remote_output  # imports this

            if (url := remote_output.url_of(self)) is not None:
                return url
        return str(self.path)

    def exists(self) -> bool:
        try:
            return self.state.exists() or self._parts.is_dir() or self.journal.is_dir()
        except OSError:  # a name that is too long, or may not be read: whoever needs the folder will say so
            return False

    def worker(self, number: int) -> Folder:
        """That of a worker process of this folder's run: it has a lock and a journal of its own, and its parts are this one's."""
        return Folder(self._workers / f"{number:02d}", self.parts)

    def workers(self) -> list[Folder]:
        """Those that worker processes have left, or that are at work."""
        try:
            names = sorted(int(entry.name) for entry in os.scandir(self._workers) if entry.name.isdecimal())
        except OSError:  # there are none
            return []
        return list(map(self.worker, names))

    def remove_workers(self) -> None:
        """Remove the folders of worker processes, whose journals have been sealed."""
        for worker in self.workers():
            shutil.rmtree(worker.path, ignore_errors=True)
        with contextlib.suppress(OSError):
            self._workers.rmdir()

    def shard(self, number: int, of: int) -> Folder:
        """That of one of so many parts of this folder's job, each of which is run by itself: as that of a worker."""
        return Folder(self._shards / f"{number:05d}-of-{of:05d}", self.parts)

    def shards(self) -> dict[tuple[int, int], Folder]:
        """Those that there are, by number and how many the job was divided into; those of one division after each other."""
        try:
            names = sorted(
                (each.name for each in self._shards.iterdir()), key=lambda name: name.partition("-of-")[::-2]
            )
        except OSError:  # there are none
            return {}
        found = [name.split("-of-") for name in names]
        pairs = [(int(each[0]), int(each[1])) for each in found if len(each) == 2 and "".join(each).isdecimal()]
        return {pair: self.shard(*pair) for pair in pairs}

    def spools(self) -> list[Folder]:
        """The folders of worker processes and shards: their journals become parts of this folder."""
        return [*self.workers(), *self.shards().values()]

    def remove_shards(self) -> None:
        """Remove the folders of shards, whose journals have been sealed. What their runs were stays in the history."""
        for shard in self.shards().values():
            for line in shard.past_runs():
                if not self.is_in_history(str(line.get("run_id"))):
                    self.add_history(line)
            shutil.rmtree(shard.path, ignore_errors=True)
        shutil.rmtree(self._shards, ignore_errors=True)

    def take_number(self, at_least: int) -> int:
        """The number of a segment that no other shard has, also of one that begins at the same time. It is not less than this.

        :raises StorageError: if it cannot be written down.
        """
        taken = self._shards / "numbers"
        with storing(taken):
            make_folder(taken)
            number = max([at_least, *(1 + int(each.name) for each in taken.iterdir() if each.name.isdecimal())])
            while True:
                try:
                    os.close(os.open(taken / f"{number:06d}", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
                    return number
                except FileExistsError:
                    number += 1

    def owns(self, path: Path) -> bool:
        """Whether a path is, or lies in, something that this folder's runs keep here."""
        kept = [each.resolve() for each in vars(self).values() if isinstance(each, Path) and each != self.path]
        found = path.resolve()
        return any(found == each or each in found.parents for each in kept)

    def require(self) -> None:
        """:raises FolderError: if there is no run in this folder."""
        self.require_format()
        if not self.exists():
            inside = sorted(state.parent for state in self.path.glob("*/run.json"))
            hint = f", but holds {len(inside)} of them, such as {inside[-1]}" if inside else ""
            near = "" if inside else did_you_mean(self.path, of_run=True)
            raise FolderError(f"{self.path} is not the output folder of a run{hint}{near}")

    def require_format(self) -> int:
        """The number of the folder's format; 1 in folders of versions that had none.

        :raises FolderError: if this version does not know that format.
        """
        try:
            number = msgspec.json.decode(self.store.get(self.format.name))["format"]
        except (FileNotFoundError, NotADirectoryError):
            return 1
        except OSError as error:
            why = f"its {self.format.name} cannot be read: {error.strerror or error}"
            raise FolderError(f"the output folder {self.path} cannot be used: {why}") from None
        except (msgspec.DecodeError, KeyError, TypeError) as error:
            raise FolderError(f"{self.format} cannot be read: {error}") from None
        if not isinstance(number, int) or number > FORMAT:
            raise FolderError(
                f"{self.path} was written by a newer version of batchflex: its format is {number}, and this version knows those "
                f"up to {FORMAT}. Update batchflex, or give another output folder"
            )
        return number

    @contextlib.contextmanager
    def held(self, *, shared: bool = False) -> Iterator[None]:
        """Make the folder and hold it alone, or ``shared`` with others who do so. The lock is the kernel's: it goes with the
        process, however that ends. Within the block, holding it by the same object once more does nothing.

        :raises FolderBusy: if another run holds it.
        :raises FolderError: if it cannot be made.
        """
        if self._is_mine:
            yield
            return
        self.require_format()
        try:
            make_folder(self.journal)
        except (OSError, ValueError) as error:  # the latter of a name with a NUL character
            raise self._unusable(error) from None
        with self._locked(fcntl.LOCK_SH if shared else fcntl.LOCK_EX) as descriptor:
            second_lock = _lock_for_who_asks(descriptor, fcntl.F_RDLCK if shared else fcntl.F_WRLCK)
            with storing(self._lock):
                os.ftruncate(descriptor, 0)
                who = {"pid": os.getpid(), "host": socket.gethostname(), "asked_without_taking": second_lock}
                os.pwrite(descriptor, msgspec.json.encode(who), 0)
            try:
                if shared:  # what others write, perhaps on other machines, is not to be taken for what is left behind
                    make_folder(self._parts)
                else:
                    self.store.prepare()
                    if self._has_own_parts:
                        self.parts.prepare()
            except OSError as error:
                raise self._unusable(error) from None
            if self.require_format() < FORMAT:
                with storing(self.format), self.store.put(self.format.name) as stream:
                    stream.write(b'{"format": %d}\n' % FORMAT)
            self._is_mine = True
            try:
                yield
            finally:
                self._is_mine = False

    def _unusable(self, error: Exception) -> FolderError:
        number = getattr(error, "errno", None)
        why = f"its {self._lock.name}: {LINKED}" if number == errno.ELOOP else getattr(error, "strerror", error)
        return FolderError(f"the output folder {self.path} cannot be used: {why}")

    @contextlib.contextmanager
    def held_if_free(self) -> Iterator[bool]:
        """Hold the folder alone, if it is there and nobody does; says whether. Makes nothing but the lock."""
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(self._locked())
            except FolderError:
                is_mine = False
            else:
                is_mine = True
            yield is_mine

    @contextlib.contextmanager
    def _locked(self, how: int = fcntl.LOCK_EX) -> Iterator[int]:
        """Lock ``.lock``, whose descriptor this gives, and ``journal`` itself, which is left if somebody removes the first."""
        with contextlib.ExitStack() as opened:
            try:
                descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT | NO_LINK, 0o644)
            except (OSError, ValueError) as error:
                raise self._unusable(error) from None
            opened.callback(os.close, descriptor)
            self._lock_now(descriptor, how)
            self._require_still_there(descriptor)
            with contextlib.suppress(OSError):
                second = os.open(self.journal, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                opened.callback(os.close, second)
                try:
                    self._lock_now(second, how)
                except FolderBusy:
                    raise
                except FolderError:  # there are no locks of folders, as on some network file systems
                    pass
            yield descriptor

    def _lock_now(self, descriptor: int, how: int) -> None:
        for wait_s in (*_LOCK_WAITS_S, None):
            try:
                fcntl.flock(descriptor, how | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if wait_s is None:
                    raise FolderBusy(
                        f"another run holds {self.path}{self.holder()}. Try again when it has ended (run and retry "
                        f"wait for that with --wait); how it is going: batchflex status {self.path}"
                    ) from None
                time.sleep(wait_s)
            except OSError as error:
                raise FolderError(f"{self.path} cannot be locked: {error.strerror or error}") from None

    def _require_still_there(self, descriptor: int) -> None:
        """:raises FolderBusy: if the folder whose lock this is was removed meanwhile, as job.keep_runs does."""
        try:
            if os.path.samestat(self._lock.stat(), os.fstat(descriptor)):
                return
        except FileNotFoundError:
            pass
        raise FolderBusy(f"{self.path} was removed just now; run the same command again")

    def is_held(self) -> bool:
        """Whether a run holds the folder now. Where the system can be asked, no lock is taken to find out: a run that begins at
        this very moment must not find the folder taken."""
        held = _is_held_without_taking(self._lock)
        return held if held is not None else any(map(_is_locked, (self._lock, self.journal)))

    def holder(self) -> str:
        """Who holds the folder, in words to follow its name; empty if that is not known."""
        with contextlib.suppress(OSError, msgspec.DecodeError, KeyError, TypeError):
            holder = msgspec.json.decode(self._lock.read_bytes())
            return f" (process {holder['pid']} on {holder['host']})"
        return ""

    def read_state(self) -> dict[str, Any]:
        """What ``run.json`` says; empty if there is none."""
        try:
            state = msgspec.json.decode(self.store.get(self.state.name))
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.DecodeError) as error:
            raise FolderError(f"{self.state} cannot be read: {error}") from None
        return state if isinstance(state, dict) else {}

    def write_state(self, state: Mapping[str, Any]) -> None:
        with storing(self.state), self.store.put(self.state.name) as stream:
            stream.write(msgspec.json.format(json_line(state), indent=2) + b"\n")

    def read_job(self) -> dict[str, Any] | None:
        """The job that the folder's answers came from, as resolved then."""
        try:
            return tomllib.loads(self.store.get(self.job.name).decode())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:  # not TOML, or not UTF-8
            raise FolderError(f"{self.job} cannot be read: {error}") from None

    def write_job(self, resolved: Mapping[str, Any]) -> None:
        with storing(self.job), self.store.put(self.job.name) as stream:
            stream.write(toml.dumps(resolved).encode())

    def add_history(self, line: Mapping[str, Any]) -> None:
        """Append a line, which needs no holding of the folder: see :func:`append`."""
        append(self.history, line, sync=True)

    def past_runs(self) -> Iterator[dict[str, Any]]:
        """The lines of ``history.jsonl``, oldest first, without those that are no JSON objects; none if it is not there, or
        cannot be read."""
        with contextlib.suppress(OSError), self.history.open("rb") as stream:
            for line in stream:
                with contextlib.suppress(ValueError):
                    if isinstance(read := msgspec.json.decode(line), dict):
                        yield read

    def is_in_history(self, run_id: str) -> bool:
        """Whether there is a line of this run."""
        sought = run_id.encode()
        try:
            with self.history.open("rb") as stream:
                size = stream.seek(0, os.SEEK_END)
                for begin in (max(0, size - _LATE_BYTES), 0):  # mostly it is among the last
                    stream.seek(begin)
                    if any(sought in line and _is_of(line, run_id) for line in stream):
                        return True
        except OSError:
            pass
        return False

    def add_telemetry(self, line: Mapping[str, Any]) -> None:
        """As :meth:`add_history`, but it may be lost with the power."""
        append(self.telemetry, line, sync=False)


def _lock_for_who_asks(descriptor: int, kind: int) -> bool:
    """Put a lock of the open file description (fcntl(2), Linux) on a file that has one of flock(2), as all systems and versions
    take: only of the first can be asked whether there is one without taking it. Says whether there is now."""
    if not hasattr(fcntl, "F_OFD_SETLK"):
        return False
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, 0, 0, 0))
    except OSError:  # not on this file system
        return False
    return True


def _is_held_without_taking(lock: Path) -> bool | None:
    """Whether the lock is taken; ``None`` where that cannot be asked, or its last holder was of a version without that."""
    if not hasattr(fcntl, "F_OFD_GETLK"):
        return None
    try:
        descriptor = os.open(lock, os.O_RDONLY | NO_LINK)
    except (OSError, ValueError):
        return None
    try:
        asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        if _FLOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, asked))[0] != fcntl.F_UNLCK:
            return True
        can_ask = msgspec.json.decode(os.pread(descriptor, 4_096, 0))["asked_without_taking"]
        return False if can_ask else None
    except (OSError, msgspec.DecodeError, KeyError, TypeError):
        return None
    finally:
        os.close(descriptor)


def _is_locked(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError):
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False


def _is_of(line: bytes, run_id: str) -> bool:
    try:
        read = msgspec.json.decode(line)
    except ValueError:
        return False
    return isinstance(read, dict) and read.get("run_id") == run_id
