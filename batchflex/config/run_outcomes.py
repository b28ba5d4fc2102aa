"""What the end of a run is to those who are told of it. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Literal

Occasion = Literal["success", "failure", "stopped", "recovered", "busy"]
# Beside these a run may be interrupted by a person, which is no event, or be passed over as another one is going on.
End = Literal["success", "failure", "stopped", "killed", "interrupted", "busy", "skipped"]

_INTERRUPTED = 130
_TERMINATED = {129, 143}  # SIGHUP, SIGTERM
_BAD = {"failure", "stopped", "killed"}


def end_of(state: Mapping[str, Any]) -> End:
    """How a run ended; ``state`` is a line of ``history.jsonl``, or ``run.json``.

    SIGINT is a person's, who knows. SIGTERM is sent by a system that shuts down or by whoever bounds the run's time, and SIGHUP
    comes of a terminal or a connection that is lost, so that such a run is ``stopped``.
    """
    status, code = state.get("status"), state.get("exit_code")
    if status in ("killed", "skipped", "busy"):
        return status  # type: ignore[no-any-return]
    if code is None:
        return "killed"
    if code == 0:
        return "success"
    if code == 4:
        return "busy"
    if code == _INTERRUPTED:
        return "interrupted"
    if code in _TERMINATED or (code == 3 and state.get("stopped_by") != "error"):
        return "stopped"
    return "failure"


def last_end(history: Iterable[Mapping[str, Any]], own: str | None, unfinished: str | None = None) -> End | None:
    """How the run before the one with the id ``own`` really ended: neither passed over nor interrupted by a person.

    ``history`` are the lines of ``history.jsonl``. ``unfinished`` is the id of a run that was still going on, by ``run.json``,
    when this one was started: unless it has a line meanwhile, it was killed. ``None`` if there was none before.
    """
    before: End | None = None
    for line in history:
        if own is not None and line.get("run_id") == own:
            break
        if line.get("run_id") == unfinished:
            unfinished = None
        end = end_of(line)
        if end not in ("busy", "skipped", "interrupted"):
            before = end
    return "killed" if unfinished is not None else before


def is_news(state: Mapping[str, Any]) -> bool:
    """Whether a run that ended so has something to tell: not if it came to its end, and all its bad rows are of earlier runs."""
    return state.get("exit_code") != 1 or state.get("first_failure") is not None


def event_of(end: End, before: End | None, on: Collection[str]) -> Occasion | None:
    """What is told of a run that ended like this, after one that ended like ``before``; ``None`` if it is not asked for.

    A recovery is told as such, or else as the success that it is.
    """
    if end == "success" and before in _BAD and "recovered" in on:
        return "recovered"
    if end == "killed":  # it cannot tell
        return None
    return end if end in on else None  # type: ignore[return-value]
