"""Lines of ``history.jsonl``: how they are read, and those that no run writes by itself, as it was killed or never began."""

from __future__ import annotations

import contextlib
import datetime
import os
import secrets
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Literal

import msgspec

from ..core import BatchflexError, FolderBusy, Interrupted, __version__
from .output_folder import Folder
from .run_state import timestamp

Unbegun = Literal["busy", "skipped", "refused", "interrupted"]

_LONGEST = 2_000
_KILLED = "killed, or the machine went down; what it did in its last second or so is not counted here"


class HistoryLine(msgspec.Struct, frozen=True, gc=False):
    """What is read of a line. ``done`` is ``None`` if that run never began."""

    run_id: str
    status: str
    started_at: datetime.datetime
    updated_at: datetime.datetime | None = None
    finished_at: datetime.datetime | None = None
    stopped_by: str | None = None
    message: str | None = None
    first_failure: str | None = None
    exit_code: int | None = None
    done: int | None = None
    done_before: int = 0
    ok: int = 0
    truncated: int = 0
    filtered: int = 0
    empty: int = 0
    invalid: int = 0
    failed: int = 0
    requests_sent: int = 0
    probes: int = 0
    retries: int = 0
    rate_limited: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float | None = None
    retry: dict[str, Any] | None = None


def run_id(started_at: float) -> str:
    """A new one: it sorts by time. ``started_at`` is in seconds since the epoch."""
    return f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(started_at))}-{secrets.token_hex(3)}"


def line_of_last(state: Mapping[str, Any]) -> dict[str, Any]:
    """The line of a run that left ``state`` as its ``run.json`` and has ended."""
    if state.get("status") != "running":
        return dict(state)
    return {**state, "status": "killed", "binding": None, "message": state.get("message") or _KILLED}


def catch_up(folder: Folder) -> None:
    """Add the line of the last run if it could not: it was killed, or the disk was full. The folder must be held. Blocks."""
    with contextlib.suppress(BatchflexError):  # such damage is reported by those who need the file
        state = folder.read_state()
        of = state.get("run_id")
        if isinstance(of, str) and of and not folder.is_in_history(of):
            folder.add_history(line_of_last(state))


class Attempt:
    """A command that is to become a run. As a context manager it leaves a line in the history of a folder that is there already,
    if it ends by an error before :meth:`begun` was called; from then on the run itself does.

    The deadline of a job counts from when this is made, which is ``moment`` by the clock on the wall and ``monotonic_s`` by the
    monotonic one. ``run_id`` is that of the run, too, if it comes to be one.
    """

    def __init__(self, folder: Folder | None = None, job: str | None = None) -> None:
        self.moment = datetime.datetime.now()
        self.monotonic_s = time.monotonic()
        self._started_at = time.time()
        self.run_id = run_id(self._started_at)
        self._over = False
        self.of(folder, job)

    def of(self, folder: Folder | None, job: str | None) -> None:
        """Say which folder and job it is about, once that is known."""
        self._folder, self._job = folder, job
        self._was_there = folder is not None and folder.exists()

    @property
    def identity(self) -> dict[str, Any]:
        """Those fields of ``run.json`` that say which run it is, or would have been; null of what is not known."""
        return {
            "run_id": self.run_id,
            "job": self._job,
            "started_at": timestamp(self._started_at),
            "out": None if self._folder is None else str(self._folder.path),
        }

    def begun(self) -> None:
        """The run writes its line itself from now on."""
        self._over = True

    def skipped(self, message: str) -> dict[str, Any]:
        """Leave the line of a run that was not wanted beside another, and return it."""
        return self._leave("skipped", message, 0)

    def __enter__(self) -> Attempt:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is None or self._over:
            return
        match error:
            case FolderBusy():
                self._leave("busy", str(error), error.exit_code)
            case Interrupted():
                self._leave("interrupted", str(error), error.exit_code)
            case BatchflexError():
                self._leave("refused", str(error), error.exit_code)
            case Exception():
                self._leave("refused", f"{type(error).__name__}: {error}", 3)
            case _:  # KeyboardInterrupt, or cancelled
                code = int(getattr(error, "exit_code", 130))
                self._leave("interrupted", "interrupted before anything was sent", code)

    def _leave(self, status: Unbegun, message: str, exit_code: int) -> dict[str, Any]:
        now = timestamp(time.time())
        line = {
            "run_id": self.run_id,
            "job": self._job,
            "status": status,
            "stopped_by": "signal" if status == "interrupted" else None,
            "message": message if len(message) <= _LONGEST else f"{message[:_LONGEST]}…",
            "exit_code": exit_code,
            "started_at": timestamp(self._started_at),
            "finished_at": now,
            "out": None if self._folder is None else str(self._folder.path),
            "version": __version__,
            "pid": os.getpid(),
        }
        self._over = True
        if self._folder is not None and self._was_there:
            with contextlib.suppress(BatchflexError):  # what is wrong already is what has to be said
                self._folder.add_history(line)
        return line
