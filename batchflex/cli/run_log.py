"""A run as lines of a log: one a minute while all is well, and what goes wrong as it happens."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, TextIO

from ..core import BAD, Event, format
from ..storage import RunState
from . import run_text
from .log_filter import LogFilter
from .log_format import JsonFormatter, TextFormatter

LINE_EVERY_S = 60.0
_LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_COUNTS = (
    "requests_sent", "probes", "retries", "rate_limited", "prompt_tokens", "completion_tokens", "cost", "in_flight",
    "backing_off", "binding",
)  # fmt: skip


class RunLog:
    """An observer that logs. Without ``handlers`` it writes nothing.

    Its logger is its own: the process' loggers are left alone. With ``prompts`` a line may have the words of servers, and of
    failed rows what was sent. ``attempt`` is the run's id as long as no event has brought one. ``clock`` gives seconds.
    """

    def __init__(
        self,
        handlers: Sequence[logging.Handler],
        *,
        form: Literal["text", "json"] = "text",
        prompts: bool = False,
        every_s: float = LINE_EVERY_S,
        attempt: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._formatter = JsonFormatter() if form == "json" else TextFormatter()
        self._logger = logging.Logger("batchflex.run")
        self._filter = LogFilter(clock, prompts=prompts)
        self._logger.addFilter(self._filter)
        for handler in handlers:
            self.add(handler)
        self._every_s = every_s
        self._attempt = attempt
        self._clock = clock
        self._last = clock()
        self._last_done: int | None = None
        self._job: str | None = None
        self.run_id: str | None = None

    def add(self, handler: logging.Handler) -> None:
        handler.setFormatter(self._formatter)
        self._logger.addHandler(handler)

    def remove(self, handler: logging.Handler) -> None:
        self._logger.removeHandler(handler)

    def tick(self, run_state: RunState) -> None:
        now = self._clock()
        self._log_sums()
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
        message, logged = (_progress(run_state, rate, quoting=quoting) for quoting in (True, False))
        self.event(Event("progress", message, logged, facts=facts))

    def note(self, text: str) -> None:
        self.event(Event("note", text))

    def event(self, event: Event) -> None:
        if event.run_id is not None:
            self._job, self.run_id = event.job, event.run_id
        self._log_sums()
        self._log(event)

    def close(self) -> None:
        self._log_sums(until=float("inf"))

    def _log_sums(self, until: float | None = None) -> None:
        for event in self._filter.held_back(until=until):
            self._log(event)

    def _log(self, event: Event) -> None:
        if event.run_id is None:
            event = event._replace(job=self._job or event.job, run_id=self.run_id or self._attempt)
        if self._logger.handlers:  # without any, logging would write to standard error
            self._logger.handle(logging.makeLogRecord({"msg": event, "levelno": _LEVELS[event.level]}))


class StreamHandler(logging.StreamHandler[TextIO]):
    """That a stream takes nothing, as nobody reads it any more or its disk is full, ends no run."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], OSError):  # a signal's exception, too, comes from wherever the process is
            raise


def _progress(run_state: RunState, rate: float, *, quoting: bool) -> str:
    share = f" ({100 * run_state.done // run_state.planned} %)" if run_state.planned else ""
    text = f"{run_text.rows_done(run_state.done, run_state.planned)} rows{share}, {rate:,.1f} rows/s, "
    text += facts(run_state, quoting=quoting)
    if run_state.planned and rate > 0:
        text += f", {format.duration((run_state.planned - run_state.done) / rate)} left"
    return text


def facts(run_state: RunState, *, quoting: bool) -> str:
    """What is in flight, failed or bad otherwise, tokens, what bounds the run and what it waits for, cost. Only with ``quoting``
    in the words of servers."""
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
        text += f"; waits: {run_text.waiting(wait)}"
    return text
