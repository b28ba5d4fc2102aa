"""The logs of one invocation of ``run`` or ``retry``: its file, and standard error where that is no terminal."""

from __future__ import annotations

import contextlib
import sys
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

import pydantic

from ..config import LogSection, environment_of, expanded
from ..core import BatchflexError, Event, JobError, Level, format, guarded, one_line
from ..engine import Run
from ..storage import sent
from . import log_lines, rendering, run_log
from .progress import Bar, Quiet, Several
from .run_log import Log

_LEVELS: dict[int, Level] = {0: "info", 1: "warning", 4: "warning", 129: "warning", 130: "warning", 143: "warning"}
_TOLD = (
    "status", "stopped_by", "exit_code", "planned", "done", "done_before", "ok", "truncated", "filtered", "empty", "invalid",
    "failed",
    "requests_sent", "probes", "retries", "rate_limited", "prompt_tokens", "completion_tokens", "reasks", "cost", "first_failure",
    "given_up", "out",
)  # fmt: skip


class Logbook:
    """``observer`` is for the run.

    Where ``is_log``, standard error takes lines of the log and nothing else. Where ``is_bare``, what is said there has no words
    of a server.

    :raises JobError: if the file cannot be written.
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
        self._settings, self._job, self._quiet, self._run_id = settings, job, quiet, run_id
        self._stderr = self._log(run_log.to_stream(stream))
        self.is_log = settings.format is not None and not on_terminal
        self.is_bare = not (on_terminal or settings.prompts) and (settings.file is not None or self.is_log)
        shown: Bar | Log | Quiet = Quiet() if quiet else Bar(stream) if on_terminal else self._stderr
        self._files = [] if settings.file is None else [self._log(_to_file(settings, shown))]
        self.observer = Several([shown, *self._files], debug=debug)

    def _log(self, write: Callable[[str], None]) -> Log:
        return Log(write, form=self._settings.format or "text", prompts=self._settings.prompts, attempt=self._run_id)

    def summary(self, run: Run) -> dict[str, Any]:
        """What is said of a run that has ended, with what may be said."""
        return run.unquoted if self.is_bare else run.summary

    def warn(self, text: str) -> None:
        self.observer.event(Event("note", f"warning: {text}", text, level="warning", job=self._job))

    def note(self, text: str) -> None:
        """Something worth knowing before a run has begun, of which the log knows neither job nor run yet."""
        self.observer.event(Event("note", text, job=self._job))

    def skipped(self, text: str) -> None:
        """The last line of a run that found another at work, and is content with that."""
        self.observer.event(Event("skipped", f"skipped: {text}", facts={"exit_code": 0}, job=self._job))

    def ended(self, run: Run) -> None:
        """The last line: how it went, and the exit code."""
        state = run.summary if self._settings.prompts else run.unquoted
        started, until = state["started_at"], state["finished_at"] or state["updated_at"]
        took_s = format.seconds_between(started, until)
        facts = {name: state[name] for name in _TOLD} | {"exit_code": run.exit_code, "took_s": round(took_s, 1)}
        event = Event(
            "ended",
            _ended(state, run, took_s),
            level=_LEVELS.get(run.exit_code, "error"),
            facts=facts,
            job=state["job"],
            run_id=state["run_id"],
        )
        wanted = not self._quiet or state["message"] or run.unscored
        for log in self._logs(stderr=self.is_log and bool(wanted)):
            log.event(event)

    def failed(self, error: BaseException, exit_code: int) -> bool:
        """Tell of an error that ended the command. True: standard error has it too."""
        logs = self._logs(stderr=self.is_log)
        if isinstance(error, BatchflexError):
            name = "busy" if exit_code == 4 else "error" if any(log.run_id for log in logs) else "refused"
            words = log_lines.joined(str(error))
            bare = log_lines.joined(guarded(str(error)))
        else:
            name = "interrupted" if isinstance(error, KeyboardInterrupt) else "error"
            bare = type(error).__name__
            words = log_lines.joined(f"{bare}: {error}")
        event = Event(
            name,
            f"{name}, exit code {exit_code}: {words}",
            f"{name}, exit code {exit_code}: {bare}",
            _LEVELS.get(exit_code, "error"),
            {"exit_code": exit_code, "error": type(error).__name__},
            job=self._job,
        )
        for log in logs:
            log.event(event)
        return self.is_log

    def _logs(self, *, stderr: bool) -> list[Log]:
        return [*self._files, *([self._stderr] if stderr else [])]


def _ended(state: Mapping[str, Any], run: Run, took_s: float) -> str:
    of = f" of {state['planned']:,}" if state["planned"] is not None else ""
    text = f"{state['status']} after {format.duration(took_s)}, exit code {run.exit_code}: {state['done']:,}{of} rows done: "
    text += f"{rendering.by_status(state)}; {sent(state)}, {rendering.usage(state)}"
    if state["message"]:
        text += f"; stopped by {state['stopped_by']}: {one_line(state['message'])}"
    if run.unscored is not None:
        text += f"; {run.unscored.partition(':')[0]}"
    return text


def _to_file(settings: LogSection, shown: Bar | Log | Quiet) -> Callable[[str], None]:
    from .log_rotation import SharedFileHandler

    path = Path(str(settings.file))
    handler = SharedFileHandler(path, max(1, int(settings.max_mb * 1e6)), settings.keep)
    try:
        handler.touch()
    except (OSError, ValueError) as error:  # the latter of a name with a NUL character
        raise JobError(f"the log file {path} cannot be written: {getattr(error, 'strerror', error)}") from None
    told = False

    def write(lines: str) -> None:
        nonlocal told
        try:
            handler.write(lines)
        except OSError as error:
            if not told:
                told = True
                shown.note(
                    f"the log file {path} cannot be written: {error.strerror or error}; the run goes on without it"
                )

    return write


def peeked(given: Mapping[str, Any], job_file: Path, *, quiet: bool, run_id: str | None = None) -> Logbook:
    """The logs of a command whose job cannot be made: ``given`` are places in the job that the command line has set, the rest is
    what the job file says, as far as it can be read.

    :raises JobError: as :class:`Logbook`.
    """
    here = {place.removeprefix("log."): value for place, value in given.items()}
    own, job = _written(job_file)
    for data in (own | here, here):
        with contextlib.suppress(pydantic.ValidationError):
            return Logbook(LogSection.model_validate(data), job, quiet=quiet, run_id=run_id)
    return Logbook(LogSection(), job, quiet=quiet, run_id=run_id)


def _written(path: Path) -> tuple[dict[str, Any], str | None]:
    """The table [log] of a job file, and the job's name."""
    if path.suffix.lower() != ".toml":
        return {}, path.name.split(".")[0] or None
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return {}, path.stem
    table, section = data.get("log"), data.get("job")
    own = dict(table) if isinstance(table, dict) else {}
    if isinstance(own.get("file"), str):
        try:
            variables = environment_of(data, [], path.parent, lenient=True)
            own["file"] = str(path.parent / Path(expanded(own["file"], variables)).expanduser())
        except (JobError, ValueError, RuntimeError):
            del own["file"]
    name = section.get("name") if isinstance(section, dict) else None
    return own, name if isinstance(name, str) else path.stem
