"""What ``--json`` prints of a command that failed, in place of its result: one object with the fields of ``run.json`` where these
say the same. docs/json.md describes it."""

from __future__ import annotations

import argparse
import datetime
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..core import (
    BatchflexError,
    FolderBusy,
    RunStopped,
    StorageError,
    __version__,
)

if TYPE_CHECKING:
    from ..storage import Attempt


def is_asked_for(words: Sequence[str]) -> bool:
    """Whether a command line asks for JSON, be it otherwise right or not."""
    options = words[: words.index("--")] if "--" in words else words
    return "--json" in options


def failure(
    error: BaseException, exit_code: int, words: str, notes: Sequence[str], options: argparse.Namespace | None
) -> dict[str, Any]:
    """The object for an error; ``words`` are what is said of it, ``options`` those of the command if they could be read."""
    attempt: Attempt | None = getattr(options, "attempt", None)
    out = getattr(options, "out", None) or next(iter(getattr(options, "outs", ())), None)
    identity = {"run_id": None, "job": None, "started_at": None, "out": None if out is None else str(out)}
    if attempt is not None:
        identity = {name: attempt.identity[name] or value for name, value in identity.items()}
    status, stopped_by = _ending(error)
    return {
        "error": "Interrupted" if isinstance(error, KeyboardInterrupt) else type(_innermost(error)).__name__,
        "verb": getattr(options, "verb", None),
        "run_id": identity["run_id"],
        "job": identity["job"],
        "status": status,
        "stopped_by": stopped_by,
        "message": words,
        "notes": list(notes),
        "exit_code": exit_code,
        "started_at": identity["started_at"],
        "finished_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
        "out": identity["out"],
        "version": __version__,
        "pid": os.getpid(),
    }


def _ending(error: BaseException) -> tuple[str, str | None]:
    """``status`` and ``stopped_by``, by the words of ``run.json`` and ``history.jsonl``."""
    if isinstance(error, KeyboardInterrupt) or getattr(error, "exit_code", 0) >= 128:
        return "interrupted", "signal"
    if isinstance(error, RunStopped):
        return "stopped", error.reason
    if isinstance(error, StorageError):
        return "stopped", "disk"
    if isinstance(error, FolderBusy):
        return "busy", None
    return ("refused", None) if isinstance(error, BatchflexError) else ("stopped", "error")


def _innermost(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
