"""A log file that several processes append to, rotated by size without losing a line of any of them.

Whoever writes locks the file itself for that line, and opens it anew under the lock: so nobody writes to a file that was renamed
meanwhile, only one rotates, and a file that something else moves or removes (logrotate) is begun again. There is no second file
for the lock, and a process that was stopped while it had the lock holds nobody up.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import time
from collections.abc import Callable, Iterator
from logging.handlers import RotatingFileHandler
from pathlib import Path

_PATIENCE_S = 0.5  # for a process that was stopped in the middle of its line; after that, a line without rotation
_RETRY_S = 0.001


class SharedFileHandler(RotatingFileHandler):
    """The standard library's handler, for one line at a time. The older files are ``FILE.1`` (the latest) to ``FILE.keep``.

    ``on_error`` is called with the first error of a line that could not be written; by default each is raised.
    """

    def __init__(
        self, path: Path, max_bytes: int, keep: int, on_error: Callable[[OSError], None] | None = None
    ) -> None:
        super().__init__(path, maxBytes=max_bytes, backupCount=keep, encoding="utf-8", delay=True, errors="replace")
        self._alone = self._has_failed = False
        self._on_error = on_error

    def touch(self) -> None:
        """Begin the file, and the folder it is in, if they are not there.

        :raises OSError: if the file cannot be written.
        """
        try:
            Path(self.baseFilename).parent.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from None
        with self._locked():
            pass

    def emit(self, record: logging.LogRecord) -> None:
        try:
            with self._locked():
                try:
                    super().emit(record)
                finally:
                    stream, self.stream = self.stream, None
                    if stream is not None:
                        with contextlib.suppress(OSError):  # emit has reported it
                            stream.close()
        except OSError as error:
            if self._on_error is None:
                raise
            if not self._has_failed:
                self._has_failed = True
                self._on_error(error)  # no longer under the lock: it may log

    def shouldRollover(self, record: logging.LogRecord) -> bool:
        if not self._alone or not Path(self.baseFilename).stat().st_size:
            return False
        return bool(super().shouldRollover(record))

    def handleError(self, record: logging.LogRecord) -> None:
        raise  # to emit; what a signal raises goes through

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        due = time.monotonic() + _PATIENCE_S
        while True:
            descriptor = os.open(self.baseFilename, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                locked = _lock(descriptor)
                self._alone = bool(locked) and _is_still(descriptor, self.baseFilename)
                if self._alone or locked is None or time.monotonic() >= due:
                    yield
                    return
            finally:
                os.close(descriptor)
            if not locked:
                time.sleep(_RETRY_S)


def _lock(descriptor: int) -> bool | None:
    """False if another has it, ``None`` where there are no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is_still(descriptor: int, path: str) -> bool:
    """Whether this is the file of that name now."""
    try:
        return os.path.samestat(os.fstat(descriptor), Path(path).stat())
    except FileNotFoundError:
        return False
