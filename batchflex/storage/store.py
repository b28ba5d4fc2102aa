"""Whole objects under their final names: what a :class:`Store` is, and the one on a folder.

No object is changed in place, appended to, renamed or known by its time, so that an object store can be one as well as a folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import weakref
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol

from .files import replaced, sync_folder

if TYPE_CHECKING:
    import pyarrow as pa

_TEMPORARY = re.compile(r"\..*\.(\d+)-\d+\.tmp")


class Store(Protocol):
    """Objects by name; a name has no slash and does not begin with a dot. ``str(store)`` is where it is, for people.

    Failures are :class:`OSError`, as those of files.
    """

    def list(self) -> dict[str, int]:
        """The names of all objects and their sizes in bytes; none if the store was never written to."""

    def get(self, name: str) -> bytes:
        """:raises FileNotFoundError: if there is no such object."""

    def open(self, name: str) -> pa.NativeFile:
        """An object to be read by ranges. It has to be closed.

        :raises FileNotFoundError: if there is no such object.
        """

    def put(self, name: str) -> AbstractContextManager[IO[bytes]]:
        """Write an object in place of one that may be there. It is there, whole and durable, when the block ends; if that raises,
        or this does, all is as it was. What was written can be read back from the stream within the block."""

    def put_if_absent(self, name: str) -> AbstractContextManager[IO[bytes]]:
        """As :meth:`put`, but never in place of another: of several who write one name at the same time one succeeds.

        A store that does not know whether its write arrived has to find out: whoever writes the same after a failure must not
        find their own object.

        :raises FileExistsError: when the block ends, if there is such an object.
        """

    def delete(self, names: Iterable[str]) -> bool:
        """Delete objects, those that are there. False if somebody may still read them (:meth:`reading`): then none is deleted."""

    def reading(self) -> object:
        """As long as the returned object lives, nothing that was listed meanwhile is deleted: whoever lists can read on. Says
        nothing, and does nothing, where a store cannot promise that."""

    def prepare(self) -> None:
        """Make the store if it is not there, and remove what writers that were killed have left behind. For whoever holds the
        output folder."""


class FolderStore:
    """The files that lie in a folder. Creating it touches nothing; :meth:`prepare` makes the folder."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __str__(self) -> str:
        return str(self._path)

    def list(self) -> dict[str, int]:
        try:
            with os.scandir(self._path) as entries:
                return {entry.name: _size(entry) for entry in entries if entry.name[0] != "." and not entry.is_dir()}
        except FileNotFoundError:
            return {}

    def times(self) -> dict[str, int]:
        """When each file was changed, in ns since the epoch; 0 where that cannot be found out. A :class:`Store` need not have
        this: it is for what versions before wrote."""
        found = dict.fromkeys(self.list(), 0)
        for name in found:
            with contextlib.suppress(OSError):
                found[name] = (self._path / name).stat().st_mtime_ns
        return found

    def get(self, name: str) -> bytes:
        return (self._path / name).read_bytes()

    def open(self, name: str) -> pa.NativeFile:
        import pyarrow as pa

        return pa.OSFile(str(self._path / name))

    def put(self, name: str) -> AbstractContextManager[IO[bytes]]:
        return replaced(self._path / name)

    def put_if_absent(self, name: str) -> AbstractContextManager[IO[bytes]]:
        return replaced(self._path / name, only_new=True)

    def delete(self, names: Iterable[str]) -> bool:
        try:
            descriptor = self._locked(fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        try:
            for name in names:
                (self._path / name).unlink(missing_ok=True)
        finally:
            if descriptor is not None:
                os.close(descriptor)
        return True

    def reading(self) -> object:
        return _Reading(self._locked(fcntl.LOCK_SH))

    def _locked(self, how: int) -> int | None:
        """A descriptor that holds the folder's lock; ``None`` where the file system has none.

        :raises BlockingIOError: if somebody else has it, and ``how`` is not to wait.
        """
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            fcntl.flock(descriptor, how)
        except OSError as error:
            os.close(descriptor)
            if isinstance(error, BlockingIOError):
                raise
            return None
        return descriptor

    def prepare(self) -> None:
        make_folder(self._path)
        clear_temporaries(self._path)


def clear_temporaries(path: Path) -> None:
    """Remove what writers that were killed have left in a folder."""
    for temporary in (*path.glob(".*.*-*.tmp"), *path.glob(".*.parquet.*.tmp")):
        if not _is_being_written(temporary):
            temporary.unlink(missing_ok=True)


class _Reading:
    def __init__(self, descriptor: int | None) -> None:
        if descriptor is not None:
            weakref.finalize(self, os.close, descriptor)


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except OSError:  # a link to nothing, which is to fail where it is read; or just removed
        return 0


def make_folder(path: Path) -> None:
    """Make a folder and those above it, with durable names."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        sync_folder(path.parent)


def _is_being_written(temporary: Path) -> bool:
    """Whether the process that a temporary file is named after is there, as one that writes a report beside a run is."""
    owner = _TEMPORARY.fullmatch(temporary.name)
    if owner is None:
        return False
    try:
        os.kill(int(owner[1]), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # it is somebody else's
        return True
    return int(owner[1]) != os.getpid()
