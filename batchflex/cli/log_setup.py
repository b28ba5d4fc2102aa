"""What one ``run`` or ``retry`` writes while it goes on: a bar or log lines to standard error, and log lines to a file."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from ..config import LogSection, job_of_section
from ..core import BatchflexError, Event, JobError, Level, format, guarded, one_line
from ..engine import Run
from ..storage import RunState, sent
from . import log_format, run_text
from .job_options import is_job_file
from .log_rotation import SharedFileHandler
from .progress import Bar
from .run_log import RunLog, StreamHandler

_LEVELS: dict[int, Level] = {0: "info", 1: "warning", 4: "warning", 129: "warning", 130: "warning", 143: "warning"}
_FACTS_OF_END = (
    "status", "stopped_by", "exit_code", "planned", "done", "done_before", "ok", "truncated", "filtered", "empty", "invalid",
    "failed",
    "requests_sent", "probes", "retries", "rate_limited", "prompt_tokens", "completion_tokens", "reasks", "cost", "first_failure",
    "given_up", "out",
)  # fmt: skip


class Logs:
    """An observer of the run that shows it and logs it.

    With ``stderr_is_log`` standard error takes lines of the log and nothing else, with ``omits_server_words`` no words of a
    server. With ``debug`` events say by which rules failures were read.

    :raises JobError: if the log file cannot be written.
    """

    def __init__(
        self,
        settings: LogSection,
        job: str | None,
        *,
        quiet: bool,
        debug: bool = False,
        run_id: str | None = None,
        stream: TextIO | None = None,
    ) -> None:
        stream = sys.stderr if stream is None else stream
        on_terminal = stream.isatty()
        self._settings, self._job, self._quiet, self.debug = settings, job, quiet, debug
        self.stderr_is_log = settings.format is not None and not on_terminal
        self.omits_server_words = not (on_terminal or settings.prompts) and (
            settings.file is not None or self.stderr_is_log
        )
        self._stderr = StreamHandler(stream)
        self._log = RunLog((), form=settings.format or "text", prompts=settings.prompts, attempt=run_id)
        self._observers: list[Bar | RunLog] = [self._log]
        if on_terminal and not quiet:
            self._observers.insert(0, Bar(stream))
        elif not quiet:
            self._log.add(self._stderr)
        if settings.file is not None:
            self._log.add(_file_handler(Path(settings.file), settings, self._observers[0].note))

    def tick(self, run_state: RunState) -> None:
        for observer in self._observers:
            observer.tick(run_state)

    def event(self, event: Event) -> None:
        for observer in self._observers:
            observer.event(event)

    def close(self) -> None:
        for observer in self._observers:
            observer.close()

    def summary(self, run: Run) -> dict[str, Any]:
        """The summary of a run that has ended, with no more than standard error may have."""
        return run.unquoted if self.omits_server_words else run.summary

    def warn(self, text: str) -> None:
        self.event(Event("note", f"warning: {text}", text, level="warning", job=self._job))

    def note(self, text: str) -> None:
        self.event(Event("note", text, job=self._job))

    def skipped(self, text: str) -> None:
        """The last line of a run that was skipped, as another holds the folder."""
        self.event(Event("skipped", f"skipped: {text}", facts={"exit_code": 0}, job=self._job))

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
            level=_LEVELS.get(run.exit_code, "error"),
            facts=facts,
            job=state["job"],
            run_id=state["run_id"],
        )
        wanted = not self._quiet or state["message"] or run.unscored
        self._last_line(event, stderr=self.stderr_is_log and bool(wanted))

    def failed(self, error: BaseException, exit_code: int) -> bool:
        """The last line where an error has ended the command. True if standard error has it, too."""
        if isinstance(error, BatchflexError):
            name = "busy" if exit_code == 4 else "refused" if self._log.run_id is None else "error"
            words, bare = log_format.joined(str(error)), log_format.joined(guarded(str(error)))
        else:
            name = "interrupted" if isinstance(error, KeyboardInterrupt) else "error"
            bare = type(error).__name__
            words = log_format.joined(f"{bare}: {error}")
        event = Event(
            name,
            f"{name}, exit code {exit_code}: {words}",
            f"{name}, exit code {exit_code}: {bare}",
            _LEVELS.get(exit_code, "error"),
            {"exit_code": exit_code, "error": type(error).__name__},
            job=self._job,
        )
        self._last_line(event, stderr=self.stderr_is_log)
        return self.stderr_is_log

    def _last_line(self, event: Event, *, stderr: bool) -> None:
        if stderr:
            self._log.add(self._stderr)
        else:
            self._log.remove(self._stderr)
        self._log.event(event)


def _how_it_ended(state: Mapping[str, Any], run: Run, took_s: float) -> str:
    rows = run_text.rows_done(state["done"], state["planned"])
    text = f"{state['status']} after {format.duration(took_s)}, exit code {run.exit_code}: {rows} rows done: "
    text += f"{run_text.by_status(state)}; {sent(state)}, {run_text.usage(state)}"
    if state["message"]:
        text += f"; stopped by {state['stopped_by']}: {one_line(state['message'])}"
    if run.unscored is not None:
        text += f"; {run.unscored.partition(':')[0]}"
    return text


def _file_handler(path: Path, settings: LogSection, note: Callable[[str], None]) -> SharedFileHandler:
    """``note`` is called with the first error of a line that cannot be written."""
    noted = False

    def on_error(error: OSError) -> None:
        nonlocal noted
        if not noted:
            noted = True
            note(f"the log file {path} cannot be written: {error.strerror or error}; the run goes on without it")

    handler = SharedFileHandler(path, max(1, int(settings.max_mb * 1e6)), settings.keep, on_error)
    try:
        handler.touch()
    except (OSError, ValueError) as error:  # the latter of a name with a NUL character
        raise JobError(f"the log file {path} cannot be written: {getattr(error, 'strerror', error)}") from None
    return handler


def logs_without_job(
    settings: Sequence[tuple[str, Any]], spec: Path, *, quiet: bool, run_id: str | None = None
) -> Logs:
    """The logs of a command whose job cannot be made: by what the command line sets (``settings``), and by ``[log]`` of the job
    file as far as that can be read.

    :raises JobError: as :class:`Logs`.
    """
    log, name = _log_section(settings, spec)
    return Logs(log, name, quiet=quiet, run_id=run_id)


def _log_section(settings: Sequence[tuple[str, Any]], spec: Path) -> tuple[LogSection, str | None]:
    """With the name of the job."""
    for with_file in (True, False) if is_job_file(str(spec)) else ():
        with contextlib.suppress(JobError):
            job = job_of_section(spec, "log", settings, with_file=with_file)
            return job.log, job.job.name
    by_options = LogSection.model_validate({place.removeprefix("log."): value for place, value in settings})
    return by_options, spec.stem if is_job_file(str(spec)) else spec.name.split(".")[0] or None
