"""A run as lines of a log: one a minute while all is well, what goes wrong as it happens, within bounds."""

from __future__ import annotations

import collections
import contextlib
import datetime
import time
from collections.abc import Callable
from typing import Any, Literal, TextIO

from ..core import BAD, Event, format
from ..storage import RunState
from . import log_lines, rendering
from .log_throttle import Throttle

LINE_EVERY_S = 60.0
# Lines a minute, and how those are named that are not written.
_MOST = {"row_failed": 5, "retrying": 3, "paused": 3, "resumed": 3, "note": 30}
_MORE = {
    "row_failed": ("row", "rows"),
    "retrying": ("attempt failed and is made again", "attempts failed and are made again"),
    "paused": ("time an endpoint was paused", "times an endpoint was paused"),
    "resumed": ("time an endpoint was asked again", "times an endpoint was asked again"),
    "note": ("note", "notes"),
}
_COUNTS = (
    "requests_sent", "probes", "retries", "rate_limited", "prompt_tokens", "completion_tokens", "cost", "in_flight",
    "backing_off", "binding",
)  # fmt: skip


class Log:
    """An observer that writes lines. ``write`` takes one or more, without the last line break.

    With ``prompts`` a line may have the words of servers, and of failed rows what was sent; else neither.
    """

    def __init__(
        self,
        write: Callable[[str], None],
        *,
        form: Literal["text", "json"] = "text",
        prompts: bool = False,
        every_s: float = LINE_EVERY_S,
        attempt: str | None = None,
    ) -> None:
        self._write = write
        self._form = form
        self._prompts = prompts
        self._every_s = every_s
        self._attempt = attempt
        self._throttle = Throttle(_MOST)
        self._last = time.monotonic()
        self._held: collections.Counter[str] = collections.Counter()  # rows of which no line was written, by status
        self._last_done: int | None = None
        self._job: str | None = None
        self.run_id: str | None = None

    def tick(self, run_state: RunState) -> None:
        now = time.monotonic()
        self._tell_of_more(now)
        if run_state.run_id != self.run_id or self._last_done is None:
            self._job, self.run_id, self._last_done = run_state.job, run_state.run_id, run_state.before
        since = now - self._last
        if since < self._every_s:
            return
        rate = (run_state.done - self._last_done) / max(since, 1e-9)
        self._last, self._last_done = now, run_state.done
        facts: dict[str, Any] = {"done": run_state.done, "planned": run_state.planned}
        facts |= {str(status): rows for status, rows in run_state.rows.items()}
        facts |= {name: getattr(run_state, name) for name in _COUNTS} | {"rows_per_s": round(rate, 3)}
        if run_state.planned and rate > 0:
            facts["left_s"] = round((run_state.planned - run_state.done) / rate, 1)
        facts["waiting"] = run_state.waits(quoting=False)
        self.event(
            Event(
                "progress",
                _progress(run_state, rate, quoting=True),
                _progress(run_state, rate, quoting=False),
                facts=facts,
            )
        )

    def note(self, text: str) -> None:
        self.event(Event("note", text))

    def event(self, event: Event) -> None:
        if event.run_id is None:
            event = event._replace(job=self._job or event.job, run_id=self.run_id or self._attempt)
        else:
            self._job, self.run_id = event.job, event.run_id
        now = time.monotonic()
        self._tell_of_more(now)
        if self._throttle.admits(event.name, now):
            self._line(event)
        elif event.name == "row_failed" and (status := event.facts.get("status")):
            self._held[status] += 1

    def close(self) -> None:
        self._tell_of_more(float("inf"))

    def _tell_of_more(self, now: float) -> None:
        for kind, held in self._throttle.over(now):
            statuses: dict[str, int] = {}
            one, many = _MORE[kind]
            if kind == "row_failed":
                statuses, self._held = dict(self._held), collections.Counter()
            counts = ", ".join(f"{rows:,} {status}" for status, rows in statuses.items())
            message = f"and {held:,} more {one if held == 1 else many}{f': {counts}' if counts else ''}"
            level: Literal["info", "warning"] = "info" if kind in ("note", "resumed") else "warning"
            run = self.run_id or self._attempt
            self._line(Event(kind, message, level=level, facts={"more": held, **statuses}, job=self._job, run_id=run))

    def _line(self, event: Event) -> None:
        moment = datetime.datetime.now().astimezone()
        message = event.message if self._prompts or event.logged is None else event.logged
        if self._form == "json":
            more = log_lines.prompt(event.request) if self._prompts else {}
            self._write(log_lines.json(moment, event, message, more))
        else:
            self._write(log_lines.text(moment, event, message))


def to_stream(stream: TextIO) -> Callable[[str], None]:
    """What a stream does not take, as nobody reads it any more or its disk is full, is not said: no run ends for it."""

    def write(lines: str) -> None:
        with contextlib.suppress(OSError):
            stream.write(f"{lines}\n")
            stream.flush()

    return write


def _progress(run_state: RunState, rate: float, *, quoting: bool) -> str:
    text = f"{run_state.done:,}"
    if run_state.planned:
        text += f" of {run_state.planned:,} rows ({100 * run_state.done // run_state.planned} %)"
    else:
        text += " rows"
    text += f", {rate:,.1f} rows/s, {facts(run_state, quoting=quoting)}"
    if run_state.planned and rate > 0:
        text += f", {format.duration((run_state.planned - run_state.done) / rate)} left"
    return text


def facts(run_state: RunState, *, quoting: bool) -> str:
    """In flight, failed and otherwise bad, tokens, what bounds it and is waited for, cost; unless ``quoting`` without words of a
    server."""
    bad = [f"{n:,} {status}" for status, n in run_state.rows.items() if status == "failed" or (n and status in BAD)]
    text = f"{run_state.in_flight} in flight, {', '.join(bad)}, "
    text += f"{format.short(run_state.prompt_tokens + run_state.completion_tokens)} tokens"
    if run_state.binding:
        text += f", bound by {run_state.binding}"
    if run_state.backing_off:
        text += f", {run_state.backing_off} waiting to retry"
    if run_state.cost is not None:
        text += f", {format.money(run_state.cost)}"
    for wait in run_state.waits(quoting=quoting)[:1]:
        text += f"; waits: {rendering.waiting(wait)}"
    return text
