"""Notifications of a run: a ping at its start, everybody who is to be notified at its end, the metrics file in between.

None of it holds the run up. What begins beside the run is in a thread of its own; what follows it is bounded in time and changes
neither its outcome nor its exit code. What fails is returned as a sentence.
"""

from __future__ import annotations

import functools
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio.to_thread

from ..config import (
    Address,
    End,
    Job,
    Occasion,
    Pings,
    end_of,
    event_of,
    job_of_section,
    last_trouble,
    pings,
    went_well,
)
from ..core import BatchflexError, JobError, redacted
from ..engine import Nobody, Observer, Run
from ..storage import Folder, RunState
from .addresses import address_of

if TYPE_CHECKING:
    from .deliveries import Delivery
    from .prometheus import Past

_METRICS_EVERY_S = 15.0
_AFTER_A_SIGNAL_S = 5.0
_WAIT_FOR_START_S = 3.0


class Notifier:
    """Notifies of one run, if ``[notify]`` names anybody. Made just before the run begins.

    As a context manager of either kind around the run it notifies of one that is refused or fails, and adds what of that failed
    to the notes of the exception. For an end without exception call :meth:`ended`. Nobody is notified of a run that is cancelled.
    """

    def __init__(self, job: Job) -> None:
        self._section = job.notify
        self._name = job.job.name
        self._out = job.out
        self._folder = Folder(job.out)
        self._started = time.time()
        self._run_state: RunState | None = None
        self._over = threading.Event()
        self._writing = threading.Lock()
        self._start_ping: threading.Thread | None = None
        self._earlier = _earlier(job) if job.notify.delivers else []
        newest_first = (self._folder, *reversed(self._earlier)) if job.notify.delivers else ()
        state = next(filter(None, map(_known_state, newest_first)), {})
        self._unfinished = state.get("run_id") if state.get("status") == "running" else None
        self._webhook = address_of(job, "webhook")
        self._ping = address_of(job, "ping")
        self._pings = pings(self._ping.url) if self._ping is not None and self._ping.url else None

    def __enter__(self) -> Notifier:
        return self

    def __exit__(self, kind: object, error: BaseException | None, at: object) -> None:
        self._over.set()
        if isinstance(error, Exception):
            for fault in self.failed(error):
                error.add_note(fault)

    async def __aenter__(self) -> Notifier:
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, at: object) -> None:
        if isinstance(error, Exception):
            await anyio.to_thread.run_sync(self.__exit__, kind, error, at)
        self._over.set()

    def watching(self, observer: Observer | None) -> Observer | None:
        """An observer that passes everything on to ``observer`` and notices when the run begins."""
        return _Watcher(observer or Nobody(), self._on_tick) if self._section.delivers else observer

    def _on_tick(self, run_state: RunState) -> None:
        """The first state is that of the run, later ones may be of its judges."""
        if self._run_state is not None:
            return
        self._run_state = run_state
        if self._pings is not None and self._pings.start is not None:
            self._start_ping = _in_thread(self._ping_start, self._pings, self._pings.start)
        if self._section.metrics_file is not None:
            _in_thread(self._write_metrics_repeatedly, run_state)

    def _ping_start(self, to: Pings, url: str) -> None:
        _send_ping(to, url, f"{self._name} has begun.\n", self._section.timeout_s, self._over)

    def _write_metrics_repeatedly(self, run_state: RunState) -> None:
        before = self._past(run_state.run_id)
        while not self._over.is_set():
            self._write_metrics(run_state.state(time.time()), before)
            self._over.wait(_METRICS_EVERY_S)

    def ended(self, run: Run) -> list[str]:
        """Notify of a run that has come to an end, and return a sentence for each delivery that failed. Blocks, for the seconds
        of ``notify.timeout_s`` and a few more at most."""
        summary = run.summary
        if run.unscored is not None:
            summary = {**summary, "exit_code": run.exit_code, "message": summary["message"] or run.unscored}
        return self._notify(summary)

    def failed(self, error: Exception) -> list[str]:
        """The same for a run that was refused, or that ended with an unexpected fault."""
        fault = error
        while isinstance(fault, ExceptionGroup):
            fault = fault.exceptions[0]
        run_state = self._run_state or RunState("", self._name, str(self._out), self._started, {})
        summary = run_state.state(time.time(), ended=True)
        if self._run_state is None:
            summary |= {"run_id": None, "status": "refused"}
        if isinstance(fault, BatchflexError):
            summary |= {"exit_code": fault.exit_code, "message": str(fault)}
        else:
            first = redacted((str(fault).splitlines() or [""])[0][:300])
            message = f"an unexpected fault of batchflex itself: {type(fault).__name__}: {first}"
            summary |= {"exit_code": 3, "status": "stopped", "stopped_by": "error", "message": message}
        return self._notify(summary)

    def _notify(self, summary: Mapping[str, Any]) -> list[str]:
        self._over.set()
        if not self._section.delivers:
            return []
        from . import deliveries

        end = end_of(summary)
        before = last_trouble(self._past_runs(), summary["run_id"], self._unfinished) if went_well(summary) else None
        event = event_of(summary, before, self._section.on)
        within_s = self._section.timeout_s
        if summary["exit_code"] >= 128:  # whoever ended it does not wait for long
            within_s = min(within_s, _AFTER_A_SIGNAL_S)
        due: dict[str, Delivery] = {}
        if end not in ("busy", "skipped"):  # these are for the run that holds the folder
            due |= self._for_every_end(end, summary, within_s)
        if event is not None:
            due |= self.for_event(event, summary, within_s)
        outcomes = deliveries.deliver(due, within_s)
        return [f"not notified by {name}: {fault}" for name, fault in outcomes.items() if fault is not None]

    def _for_every_end(self, end: End, summary: Mapping[str, Any], within_s: float) -> dict[str, Delivery]:
        due: dict[str, Delivery] = {}
        if self._section.metrics_file is not None:
            own = summary["run_id"]
            due["the metrics file"] = lambda _: self._write_metrics(summary, self._past(own), has_ended=True)
        if self._ping is not None:
            due[f"the ping{self._ping.shown}"] = functools.partial(self._ping_end, self._ping, end, summary, within_s)
        return due

    def for_event(
        self, event: Occasion, summary: Mapping[str, Any], within_s: float, **more: Any
    ) -> dict[str, Delivery]:
        """The deliveries of an event, each under the name that a sentence calls it by. ``more`` goes into the JSON."""
        from ..core import shell_command
        from . import messages

        due: dict[str, Delivery] = {}
        host = socket.gethostname()
        plain = messages.as_json(event, summary, host, **more)
        if self._webhook is not None:
            body = messages.as_slack(event, summary, host) if self._section.format == "slack" else plain
            due[f"the webhook{self._webhook.shown}"] = functools.partial(_post, self._webhook, body, within_s)
        if self._section.command is not None:
            variables = {
                "BATCHFLEX_EVENT": event,
                "BATCHFLEX_JOB": self._name,
                "BATCHFLEX_OUT": str(self._out),
                "BATCHFLEX_TEXT": messages.headline(event, summary),
            }
            due["the command"] = functools.partial(shell_command.run, self._section.command, plain, variables, within_s)
        return due

    def _ping_end(
        self, to: Address, end: End, summary: Mapping[str, Any], within_s: float, cancelled: threading.Event
    ) -> str | None:
        from . import messages

        if self._pings is None:
            return to.fault
        due = time.monotonic() + within_s
        if self._start_ping is not None:  # that of the start comes first
            self._start_ping.join(min(within_s / 2, _WAIT_FOR_START_S))
        url = self._pings.success if went_well(summary) else self._pings.failure
        return _send_ping(self._pings, url, messages.as_text(end, summary), due - time.monotonic(), cancelled)

    def _write_metrics(self, state: Mapping[str, Any], before: Past, *, has_ended: bool = False) -> str | None:
        """Write the metrics file, unless it has those of the end already."""
        from . import prometheus

        path = Path(str(self._section.metrics_file))
        with self._writing:
            if self._over.is_set() and not has_ended:
                return None
            rows = state if state["run_id"] else _known_state(self._folder)
            try:
                prometheus.write(path, state, rows, before)
            except OSError as error:
                return f"{path} cannot be written: {error.strerror or error}"
        return None

    def _past(self, own: str | None) -> Past:
        """Totals of this folder alone, as folders of other dates may be removed, and a total must not shrink; the last success of
        any."""
        from . import prometheus

        found = prometheus.past(self._folder.past_runs(), own)
        if found.last_success is not None or not self._earlier:
            return found
        return found._replace(last_success=prometheus.past(self._past_runs()).last_success)

    def _past_runs(self) -> Iterator[dict[str, Any]]:
        """Of the folders of earlier dates and of this one, the oldest first."""
        for folder in (*self._earlier, self._folder):
            yield from folder.past_runs()


class _Watcher:
    """Has whatever else the other observer has."""

    def __init__(self, inner: Observer, on_tick: Callable[[RunState], None]) -> None:
        self._inner = inner
        self._on_tick = on_tick

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def tick(self, run_state: RunState) -> None:
        self._on_tick(run_state)
        self._inner.tick(run_state)

    def note(self, text: str) -> None:
        self._inner.note(text)


def _in_thread(work: Callable[..., None], *given: Any) -> threading.Thread:
    thread = threading.Thread(target=work, args=given, name="batchflex-notify", daemon=True)
    thread.start()
    return thread


def _earlier(job: Job) -> list[Folder]:
    """The folders of earlier dates, the oldest first."""
    if job.dated is None:
        return []
    from ..plan import retention

    own = job.dated.moment_of(str(job.out)) or ""
    return [Folder(output.path) for output in reversed(retention.outputs(job)) if output.moment < own]


def _known_state(folder: Folder) -> dict[str, Any]:
    try:
        return folder.read_state()
    except BatchflexError:
        return {}


def _post(to: Address, body: bytes, within_s: float, cancelled: threading.Event) -> str | None:
    from . import webhook

    return to.fault or webhook.send(to.url, body, within_s=within_s, cancelled=cancelled)


def _send_ping(to: Pings, url: str, text: str, within_s: float, cancelled: threading.Event) -> str | None:
    from . import webhook

    content = text.encode() if to.by_path else None
    return webhook.send(url, content, "text/plain; charset=utf-8", within_s=within_s, cancelled=cancelled)


def notify_of_mistakes(spec: str | Path, settings: Sequence[tuple[str, Any]], error: JobError) -> list[str]:
    """Notify of a job file that has mistakes, if its ``[notify]`` has none. Returns what failed. Blocks."""
    try:
        job = job_of_section(Path(spec), "notify", settings)
    except JobError:
        return []
    return Notifier(job).failed(error)


def send_test(job: Job, event: Occasion) -> dict[str, str | None]:
    """Send a message that says that it is a test, by the job's webhook and command; return why each failed, or ``None``. Blocks.

    :raises JobError: if the job has neither.
    """
    from . import deliveries

    now = time.time()
    summary = RunState("test", job.job.name, str(job.out), now, {}).state(now, ended=True)
    summary |= {"status": "test", "exit_code": None, "message": "this is only a test"}
    due = Notifier(job).for_event(event, summary, job.notify.timeout_s, test=True)
    if not due:
        raise JobError("[notify] of this job has neither a webhook nor a command, so there is nobody to notify")
    return deliveries.deliver(due, job.notify.timeout_s)
