"""How a run ended, for notifications and metrics. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Literal

Occasion = Literal["success", "failure", "stopped", "recovered", "busy"]
# No notification is sent if a person interrupted the run, or if it was skipped because another one was running.
End = Literal["success", "failure", "stopped", "killed", "interrupted", "busy", "skipped"]

# By the exit code; any other is a failure. SIGINT comes from a person, who knows; SIGTERM from a system that shuts down or from
# a time limit, SIGHUP from a lost terminal or connection.
_ENDS: dict[object, End] = {
    None: "killed", 0: "success", 4: "busy", 130: "interrupted", 129: "stopped", 143: "stopped",
}  # fmt: skip
_BAD = {"failure", "stopped", "killed"}


def end_of(state: Mapping[str, Any]) -> End:
    """How a run ended; ``state`` is a line of ``history.jsonl``, or ``run.json``."""
    status, code = state.get("status"), state.get("exit_code")
    if status in ("killed", "skipped", "busy"):
        return status  # type: ignore[no-any-return]
    if code == 3 and state.get("stopped_by") != "error":
        return "stopped"
    return _ENDS.get(code, "failure")


def last_end(history: Iterable[Mapping[str, Any]], own: str | None, unfinished: str | None = None) -> End | None:
    """How the last run before the one with the id ``own`` ended. Runs that were skipped, or interrupted by a person, are ignored.

    ``history`` are the lines of ``history.jsonl``. ``unfinished`` is the id of a run that ``run.json`` said was running when
    this one was started: unless it has a line by now, it was killed. ``None`` if this is the first run.
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
    """Whether the end of a run is worth a message: not if it finished and all its bad rows are from earlier runs."""
    return state.get("exit_code") != 1 or state.get("first_failure") is not None


def event_of(end: End, before: End | None, on: Collection[str]) -> Occasion | None:
    """The event to notify of, for a run that ended with ``end`` after one that ended with ``before``; ``None`` if it is not in
    ``on``.

    A recovery that is not in ``on`` is a success.
    """
    if end == "success" and before in _BAD and "recovered" in on:
        return "recovered"
    if end == "killed":  # it cannot notify anybody
        return None
    return end if end in on else None  # type: ignore[return-value]
