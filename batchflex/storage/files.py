"""Files written so that nobody ever sees half of one, and nothing is written through a link. Why a write failed is a sentence."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import itertools
import os
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from ..core import StorageError, json_line

FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the largest file size allowed is reached",
}
LINKED = "it is a symbolic link, and batchflex writes into nothing that lies elsewhere; remove the link"
NO_LINK = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # and a pipe in place of a file is not waited for
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}
IN_PLACE = frozenset({0xEF53, 0x58465342, 0x01021994, 0x794C7630})  # ext2 to ext4, XFS, tmpfs, overlay: statfs(2)
_temporaries = itertools.count()


@contextlib.contextmanager
def storing(what: object) -> Iterator[None]:
    """Turn a failed write into a :class:`StorageError` that says what could not be written and what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise StorageError(
                f"{FULL[error.errno]}: {what} could not be written. Nothing stored before is damaged; "
                "free some space and run the same command again"
            ) from error
        why = LINKED if error.errno == errno.ELOOP else error.strerror or error
        raise StorageError(f"{what} could not be written: {why}") from error


@contextlib.contextmanager
def replaced(path: Path, *, only_new: bool = False) -> Iterator[IO[bytes]]:
    """Write a file beside ``path`` and put it in its place when all of it is on the disk; drop it on any failure.

    In this order: write, fsync the file, rename, fsync the folder. After a power cut there is the old file or the new one. With
    ``only_new`` no file is replaced. What was written can be read back from the stream.

    :raises FileExistsError: with ``only_new``, when the block ends, if there is a file of this name.
    """
    with replacing(only_new=only_new) as opened:
        yield opened(path)


@contextlib.contextmanager
def replacing(*, only_new: bool = False) -> Iterator[Callable[[Path], IO[bytes]]]:
    """As :func:`replaced` for several files: each call opens one, and none is put in its place before all are on the disk.

    Between the first and the last rename, some are new and some are old.
    """
    added: list[Path] = []
    streams: dict[Path, IO[bytes]] = {}
    temporaries: dict[Path, Path] = {}

    def opened(path: Path) -> IO[bytes]:
        if not path.name:  # "." or "/"
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        temporaries[path] = path.with_name(f".{path.name}.{os.getpid()}-{next(_temporaries)}.tmp")
        temporaries[path].unlink(missing_ok=True)  # of a process that had this number before; or not ours at all
        streams[path] = temporaries[path].open("x+b")
        return streams[path]

    try:
        yield opened
        for stream in streams.values():
            stream.flush()
            os.fsync(stream.fileno())
            stream.close()
        for path, temporary in temporaries.items():
            if only_new:
                _add(temporary, path)
                added.append(path)
            else:
                temporary.replace(path)
        for parent in {path.parent for path in temporaries}:
            sync_folder(parent)
    except BaseException:
        for stream in streams.values():
            with contextlib.suppress(OSError):  # closing writes what is left, which may have failed already
                stream.close()
        for path in (*temporaries.values(), *added):
            path.unlink(missing_ok=True)
        raise


def _add(temporary: Path, path: Path) -> None:
    """Give a file its final name, which no other has."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        if not (path.exists() and path.samefile(temporary)):  # NFS sends a request again whose answer got lost
            raise
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # Without hard links, as on FAT and some network file systems: only whoever holds the output folder writes here.
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        temporary.replace(path)
        return
    with contextlib.suppress(OSError):  # the next run removes it
        temporary.unlink()


def keeps_reserved_space(descriptor: int) -> bool:
    """Whether what posix_fallocate(3) has reserved of a file takes no more of the disk when it is written through a map. Not so
    where each write goes to a new place (btrfs, ZFS, APFS), nor over a network: there a full disk is a SIGBUS.

    Of ``overlay`` nobody tells what lies below; nearly always it is one of the others.
    """
    facts = (ctypes.c_long * 64)()  # struct statfs; the first is the kind of file system
    is_known = sys.platform == "linux" and ctypes.CDLL(None).fstatfs(descriptor, facts) == 0
    return is_known and facts[0] in IN_PLACE


def sync_folder(path: Path) -> None:
    """Make names in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems sync files only
            raise
    finally:
        os.close(descriptor)


def append(path: Path, *lines: object, sync: bool) -> None:
    """Append JSON lines at once. What a full disk or a power cut leaves torn stays alone on its line. A link is not followed.

    :raises StorageError: if they cannot be written.
    """
    with storing(path):
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | NO_LINK, 0o666)
        with os.fdopen(descriptor, "a+b", buffering=0) as stream:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(errno.EINVAL, "it is no file")
            data = b"".join(json_line(line) + b"\n" for line in lines)
            end = stream.seek(0, os.SEEK_END)
            if end and os.pread(descriptor, 1, end - 1) != b"\n":
                data = b"\n" + data
            while data:
                data = data[stream.write(data) or 0 :]
            if sync:
                os.fsync(descriptor)
