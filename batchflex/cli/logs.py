"""What one ``run`` or ``retry`` writes while it goes on: a bar or log lines to standard error, and log lines to a file."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from ..config import LogSection, job_of_section
from ..core import BatchflexError, Event, JobError, Level, format, guarded, one_line
from ..display import Bar, run_text
from ..engine import Run
from ..storage import RunState, sent
from . import log_format
from .job_options import is_job_file
from .log_filter import LogFilter

LINE_EVERY_S = 60.0
_LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_LEVEL_OF_EXIT: dict[int, Level] = {0: "info", **dict.fromkeys((1, 4, 129, 130, 143), "warning")}
_FACTS_OF_TICK = (
    "requests_sent", "probes", "retries", "rate_limited", "prompt_tokens", "completion_tokens", "cost", "in_flight",
    "backing_off", "binding",
)  # fmt: skip
_FACTS_OF_END = (
    "status", "stopped_by", "exit_code", "planned", "done", "done_before", "ok", "truncated", "filtered", "empty", "invalid",
    "failed",
    "requests_sent", "probes", "retries", "rate_limited", "prompt_tokens", "completion_tokens", "reasks", "cost", "first_failure",
    "given_up", "out",
)  # fmt: skip


class Logs:
    """An observer of the run that shows it and logs it: one line a minute while all is well, and what goes wrong as it happens.

    Its logger is its own: the process' loggers are left alone. With ``stderr_is_log`` standard error takes lines of the log and
    nothing else, with ``omits_server_words`` no words of a server. With ``debug`` events say by which rules failures were read.
    ``attempt`` is the run's id as long as no event has brought one. ``clock`` gives seconds.

    :raises JobError: if the log file cannot be written.
    """

    def __init__(
        self,
        settings: LogSection,
        job: str | None,
        *,
        quiet: bool,
        debug: bool = False,
        attempt: str | None = None,
        stream: TextIO | None = None,
        every_s: float = LINE_EVERY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        stream = sys.stderr if stream is None else stream
        on_terminal = stream.isatty()
        self._settings, self._job, self._quiet, self.debug = settings, job, quiet, debug
        self.stderr_is_log = settings.format is not None and not on_terminal
        self.omits_server_words = not (on_terminal or settings.prompts) and (
            settings.file is not None or self.stderr_is_log
        )
        self._formatter = log_format.JsonFormatter() if settings.format == "json" else log_format.TextFormatter()
        self._filter = LogFilter(clock, prompts=settings.prompts)
        self._logger = logging.Logger("batchflex.run")
        self._logger.addFilter(self._filter)
        self._attempt, self._every_s, self._clock = attempt, every_s, clock
        self._last = clock()
        self._last_done: int | None = None
        self._run_id: str | None = None
        self._bar = Bar(stream) if on_terminal and not quiet else None
        self._stderr = _StreamHandler(stream)
        if not on_terminal and not quiet:
            self._add(self._stderr)
        if settings.file is not None:
            note = self.note if self._bar is None else self._bar.note
            self._add(_file_handler(Path(settings.file), settings, note))

    def _add(self, handler: logging.Handler) -> None:
        handler.setFormatter(self._formatter)
        self._logger.addHandler(handler)

    def tick(self, run_state: RunState) -> None:
        if self._bar is not None:
            self._bar.tick(run_state)
        now = self._clock()
        self._log_sums()
        if run_state.run_id != self._run_id or self._last_done is None:
            self._job, self._run_id, self._last_done = run_state.job, run_state.run_id, run_state.before
        since = now - self._last
        if since < self._every_s:
            return
        rate = (run_state.done - self._last_done) / max(since, 1e-9)
        self._last, self._last_done = now, run_state.done
        facts: dict[str, Any] = {"done": run_state.done, "planned": run_state.planned}
        facts |= {str(status): rows for status, rows in run_state.rows.items()}
        facts |= {name: getattr(run_state, name) for name in _FACTS_OF_TICK} | {"rows_per_s": round(rate, 3)}
        if run_state.planned and rate > 0:
            facts["left_s"] = round((run_state.planned - run_state.done) / rate, 1)
        facts["waiting"] = run_state.waits(quoting=False)
        message, logged = (run_text.progress(run_state, rate, quoting=quoting) for quoting in (True, False))
        self._log(Event("progress", message, logged, facts=facts))

    def event(self, event: Event) -> None:
        if self._bar is not None:
            self._bar.event(event)
        self._log(event)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        self._log_sums(until=float("inf"))

    def _log(self, event: Event) -> None:
        if event.run_id is not None:
            self._job, self._run_id = event.job, event.run_id
        self._log_sums()
        self._handle(event)

    def _log_sums(self, until: float | None = None) -> None:
        for event in self._filter.held_back(until=until):
            self._handle(event)

    def _handle(self, event: Event) -> None:
        if event.run_id is None:
            event = event._replace(job=self._job or event.job, run_id=self._run_id or self._attempt)
        if self._logger.handlers:  # without any, logging would write to standard error
            self._logger.handle(logging.makeLogRecord({"msg": event, "levelno": _LEVELS[event.level]}))

    def summary(self, run: Run) -> dict[str, Any]:
        """The summary of a run that has ended, with no more than standard error may have."""
        return run.unquoted if self.omits_server_words else run.summary

    def warn(self, text: str) -> None:
        self.event(Event("note", f"warning: {text}", text, level="warning"))

    def note(self, text: str) -> None:
        self.event(Event("note", text))

    def skipped(self, text: str) -> None:
        """The last line of a run that was skipped, as another holds the folder."""
        self.event(Event("skipped", f"skipped: {text}", facts={"exit_code": 0}))

    def ended(self, run: Run) -> None:
        """The last line: how the run went, and the exit code."""
        state = run.summary if self._settings.prompts else run.unquoted
        started, until = state["started_at"], state["finished_at"] or state["updated_at"]
        took_s = format.seconds_between(started, until)
        facts = {name: state[name] for name in _FACTS_OF_END}
        facts |= {"exit_code": run.exit_code, "took_s": round(took_s, 1)}
        event = Event(
            "ended",
            _how_it_ended(state, run, took_s),
            level=_LEVEL_OF_EXIT.get(run.exit_code, "error"),
            facts=facts,
            job=state["job"],
            run_id=state["run_id"],
        )
        wanted = not self._quiet or state["message"] or run.unscored
        self._last_line(event, stderr=self.stderr_is_log and bool(wanted))

    def failed(self, error: BaseException, exit_code: int) -> bool:
        """The last line where an error has ended the command. True if standard error has it, too."""
        if isinstance(error, BatchflexError):
            name = "busy" if exit_code == 4 else "refused" if self._run_id is None else "error"
            words, bare = log_format.joined(str(error)), log_format.joined(guarded(str(error)))
        else:
            name = "interrupted" if isinstance(error, KeyboardInterrupt) else "error"
            bare = type(error).__name__
            words = log_format.joined(f"{bare}: {error}")
        event = Event(
            name,
            f"{name}, exit code {exit_code}: {words}",
            f"{name}, exit code {exit_code}: {bare}",
            _LEVEL_OF_EXIT.get(exit_code, "error"),
            {"exit_code": exit_code, "error": type(error).__name__},
        )
        self._last_line(event, stderr=self.stderr_is_log)
        return self.stderr_is_log

    def _last_line(self, event: Event, *, stderr: bool) -> None:
        if stderr:
            self._add(self._stderr)
        else:
            self._logger.removeHandler(self._stderr)
        self._log(event)


class _StreamHandler(logging.StreamHandler[TextIO]):
    """That a stream takes nothing, as nobody reads it any more or its disk is full, ends no run."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], OSError):  # a signal's exception, too, comes from wherever the process is
            raise


def _how_it_ended(state: Mapping[str, Any], run: Run, took_s: float) -> str:
    rows = run_text.rows_done(state["done"], state["planned"])
    text = f"{state['status']} after {format.duration(took_s)}, exit code {run.exit_code}: {rows} rows done: "
    text += f"{run_text.by_status(state)}; {sent(state)}, {run_text.usage(state)}"
    if state["message"]:
        text += f"; stopped by {state['stopped_by']}: {one_line(state['message'])}"
    if run.unscored is not None:
        text += f"; {run.unscored.partition(':')[0]}"
    return text


def _file_handler(path: Path, settings: LogSection, note: Callable[[str], None]) -> logging.Handler:
    """``note`` is called with the first error of a line that cannot be written."""
    from .log_rotation import SharedFileHandler

    def cannot(error: OSError | ValueError) -> str:
        return f"the log file {path} cannot be written: {getattr(error, 'strerror', None) or error}"

    size = max(1, int(settings.max_mb * 1e6))
    handler = SharedFileHandler(
        path, size, settings.keep, lambda error: note(f"{cannot(error)}; the run goes on without it")
    )
    try:
        handler.touch()
    except (OSError, ValueError) as error:  # the latter of a name with a NUL character
        raise JobError(cannot(error)) from None
    return handler


def logs_without_job(
    settings: Sequence[tuple[str, Any]], spec: Path, *, quiet: bool, attempt: str | None = None
) -> Logs:
    """The logs of a command whose job cannot be made: by what the command line sets (``settings``), and by ``[log]`` of the job
    file as far as that can be read.

    :raises JobError: as :class:`Logs`.
    """
    log = LogSection.model_validate({place.removeprefix("log."): value for place, value in settings})
    name = spec.name.split(".")[0] or None
    if is_job_file(str(spec)):
        name = spec.stem
        for with_file in (False, True):
            with contextlib.suppress(JobError):
                job = job_of_section(spec, "log", settings, with_file=with_file)
                log, name = job.log, job.job.name
    return Logs(log, name, quiet=quiet, attempt=attempt)
