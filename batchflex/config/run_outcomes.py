"""How a run ended, for notifications and metrics. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Literal

Occasion = Literal["success", "failure", "stopped", "recovered", "busy"]
# No notification is sent if a person interrupted the run, or if it was skipped because another one was running.
End = Literal["success", "failure", "stopped", "killed", "interrupted", "busy", "skipped"]
# What is wrong after a run: with rows, which stay bad until they are asked again; or with the run, until the next one.
Trouble = Literal["rows", "run"]

# By the exit code; any other is a failure. SIGINT comes from a person, who knows; SIGTERM from a system that shuts down or from
# a time limit, SIGHUP from a lost terminal or connection.
_ENDS: dict[object, End] = {
    None: "killed", 0: "success", 4: "busy", 130: "interrupted", 129: "stopped", 143: "stopped",
}  # fmt: skip


def end_of(state: Mapping[str, Any]) -> End:
    """How a run ended; ``state`` is a line of ``history.jsonl``, or ``run.json``."""
    status, code = state.get("status"), state.get("exit_code")
    if status in ("killed", "skipped", "busy"):
        return status  # type: ignore[no-any-return]
    if code == 3 and state.get("stopped_by") != "error":
        return "stopped"
    return _ENDS.get(code, "failure")


def last_trouble(
    history: Iterable[Mapping[str, Any]], own: str | None, unfinished: str | None = None
) -> Trouble | None:
    """What was wrong when the run with the id ``own`` began. Runs that were skipped, or interrupted by a person, are ignored.

    ``history`` are the lines of ``history.jsonl``. ``unfinished`` is the id of a run that ``run.json`` said was running when
    this one was started: unless it has a line by now, it was killed.
    """
    before: Trouble | None = None
    for line in history:
        if own is not None and line.get("run_id") == own:
            break
        if line.get("run_id") == unfinished:
            unfinished = None
        end = end_of(line)
        if end not in ("busy", "skipped", "interrupted"):
            before = None if end == "success" else "rows" if line.get("exit_code") == 1 else "run"
    return "run" if unfinished is not None else before


def is_news(state: Mapping[str, Any]) -> bool:
    """Whether the end of a run is worth a message: not if it finished and all its bad rows are from earlier runs."""
    return state.get("exit_code") != 1 or state.get("first_failure") is not None


def went_well(state: Mapping[str, Any]) -> bool:
    """Whether a run did what it was to do: rows that earlier runs left bad are no fault of this one."""
    return end_of(state) == "success" or not is_news(state)


def event_of(state: Mapping[str, Any], before: Trouble | None, on: Collection[str]) -> Occasion | None:
    """The event to notify of, for a run that ended so after what was wrong ``before``; ``None`` if it is not in ``on``.

    A recovery that is not in ``on`` is a success. Bad rows of earlier runs that are still there are no news, and what was wrong
    with the run is over all the same.
    """
    end = end_of(state)
    is_over = before is not None if end == "success" else before == "run"
    if went_well(state) and is_over and "recovered" in on:
        return "recovered"
    if end == "killed" or not is_news(state):  # one that was killed cannot notify anybody
        return None
    return end if end in on else None  # type: ignore[return-value]
