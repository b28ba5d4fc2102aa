"""Waits until the run that holds a folder has ended."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from ..config import deadline_s
from ..core import BatchflexError, FolderBusy, Interrupted, duration, ending, raising
from ..display import run_text
from ..storage import Attempt, Folder

T = TypeVar("T")

_POLL_EVERY_S = 0.5
_SAY_EVERY_S = 600.0


def patiently(
    work: Callable[[], T],
    folder: Folder,
    wait_s: float,
    say: Callable[[str], None],
    *,
    until_deadline_s: float | None = None,
) -> T:
    """Do the work once no run holds the folder, and wait on if another one gets the lock first. Waits ``wait_s`` seconds at most,
    and no longer than until the deadline. Says what it waits for at first, and every ten minutes.

    :raises FolderBusy: if the folder was held all the time.
    :raises Interrupted: at SIGINT, SIGTERM or SIGHUP while it waits.
    """
    began = time.monotonic()
    most_s = wait_s if until_deadline_s is None else min(wait_s, until_deadline_s)
    due = began
    while True:
        with raising(ending(), partial(_interrupted, folder)):
            while folder.is_held():
                now = time.monotonic()
                if now - began >= most_s:
                    raise FolderBusy(_too_long(folder, most_s, by_deadline=most_s < wait_s))
                if now >= due:
                    say(_waiting(folder, now - began, most_s))
                    due = now + _SAY_EVERY_S
                time.sleep(min(_POLL_EVERY_S, max(0.0, began + most_s - now)))
        try:
            return work()
        except FolderBusy:
            if time.monotonic() - began >= most_s:
                raise
            time.sleep(_POLL_EVERY_S)


def left_s(deadline: str | float | None, attempt: Attempt) -> float | None:
    """Seconds until a job's deadline, which counts from the start of the command; ``None`` if it has none."""
    if deadline is None:
        return None
    return deadline_s(deadline, attempt.moment) - (time.monotonic() - attempt.monotonic_s)


def _waiting(folder: Folder, waited_s: float, most_s: float) -> str:
    so_far = f"still waiting after {duration(waited_s)}" if waited_s >= 1 else "waiting"
    at_most = f", for {duration(most_s)} at most" if most_s < float("inf") else ""
    return f"{so_far} for the run that holds {folder.path}{folder.holder()} to end{at_most}{_progress(folder)}"


def _progress(folder: Folder) -> str:
    """How far that run is, if that is known."""
    with contextlib.suppress(BatchflexError, KeyError, TypeError, ValueError):
        state = folder.read_state()
        if state["status"] == "running":
            return f"; {run_text.rows_done(state['done'], state['planned'])} rows are done"
    return ""


def _too_long(folder: Folder, most_s: float, *, by_deadline: bool) -> str:
    why = "the deadline has come" if by_deadline else f"this one has waited for {duration(most_s)}"
    return (
        f"another run still holds {folder.path}{folder.holder()}, and {why}; nothing was sent. "
        f"How it is going: batchflex status {folder.path}"
    )


def _interrupted(folder: Folder, number: int) -> Interrupted:
    name = signal.Signals(number).name
    return Interrupted(
        f"interrupted by {name} while it waited for the run that holds {folder.path}; nothing was sent", number
    )
