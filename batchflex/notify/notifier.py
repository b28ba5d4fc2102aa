"""Telling of a run: the switch at its start, everybody who is to know at its end, the metrics file in between.

Nothing of it is in the run's way. What begins beside the run is in a thread of its own; what follows it is bounded, changes
neither its outcome nor its exit code, and what fails is handed back as a sentence.
"""

from __future__ import annotations

import functools
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import anyio.to_thread

from ..config import (
    Address,
    End,
    Job,
    Occasion,
    Pings,
    address,
    credential,
    end_of,
    event_of,
    is_news,
    job_of_section,
    last_end,
    pings,
)
from ..core import BatchflexError, JobError, redacted
from ..engine import Observer, Run
from ..storage import Folder, RunState

if TYPE_CHECKING:
    from .parallel_deliveries import Errand
    from .prometheus import Past

_METRICS_EVERY_S = 15.0
_AFTER_A_SIGNAL_S = 5.0
_START_WAITED_FOR_S = 3.0


class Notifier:
    """Tells of one run, and of nothing if ``[notify]`` names nobody. Made just before the run begins.

    As a context manager of either kind round the run it tells of one that is refused or fails, and the notes of that exception
    say what of it failed. An end without exception is told by :meth:`ended`. A run that is cancelled is not told of.
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
        self._earlier = _earlier(job) if job.notify.tells else []
        newest_first = (self._folder, *reversed(self._earlier)) if job.notify.tells else ()
        state = next(filter(None, map(_known_state, newest_first)), {})
        self._unfinished = state.get("run_id") if state.get("status") == "running" else None
        self._webhook = _address(job, "webhook")
        self._ping = _address(job, "ping")

    def __enter__(self) -> Notifier:
        return self

    def __exit__(self, kind: object, error: BaseException | None, at: object) -> None:
        self._over.set()
        if isinstance(error, Exception):
            for words in self.failed(error):
                error.add_note(words)

    async def __aenter__(self) -> Notifier:
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, at: object) -> None:
        if isinstance(error, Exception):
            await anyio.to_thread.run_sync(self.__exit__, kind, error, at)
        self._over.set()

    def watching(self, observer: Observer | None) -> Observer | None:
        """The observer, or one that passes on to it all that it sees, and sees the run begin."""
        return _Watcher(observer, self._seen) if self._section.tells else observer

    def _seen(self, run_state: RunState) -> None:
        """The first of these is that of the run, later ones may be of its judges."""
        if self._run_state is not None:
            return
        self._run_state = run_state
        switch = self._switch()
        if switch is not None and switch.start is not None:
            self._start_ping = _beside(self._ping_start, switch, switch.start)
        if self._section.metrics_file is not None:
            _beside(self._keep_metrics, run_state)

    def _ping_start(self, switch: Pings, url: str) -> None:
        self._send_ping(switch, url, f"{self._name} has begun\n", self._section.timeout_s, self._over)

    def _keep_metrics(self, run_state: RunState) -> None:
        before = self._past(run_state.run_id)
        while not self._over.is_set():
            with self._writing:
                if not self._over.is_set():  # or it would replace what the end has written
                    self._write_metrics(run_state.state(time.time()), before)
            self._over.wait(_METRICS_EVERY_S)

    def ended(self, run: Run) -> list[str]:
        """Tell of a run that has come to an end, and return a sentence for each way that failed. Blocks, for the seconds of
        ``notify.timeout_s`` and a few more at most."""
        summary = run.summary
        if run.unscored is not None:
            summary = {**summary, "exit_code": run.exit_code, "message": summary["message"] or run.unscored}
        return self._tell(summary)

    def failed(self, error: Exception) -> list[str]:
        """The same of one that was refused, or that ended with an unexpected fault."""
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
        return self._tell(summary)

    def _tell(self, summary: Mapping[str, Any]) -> list[str]:
        self._over.set()
        if not self._section.tells:
            return []
        from . import parallel_deliveries

        end = end_of(summary)
        before = last_end(self._past_runs(), summary["run_id"], self._unfinished) if end == "success" else None
        event = event_of(end, before, self._section.on) if is_news(summary) else None
        within_s = self._section.timeout_s
        if summary["exit_code"] >= 128:  # whoever ended it does not wait for long
            within_s = min(within_s, _AFTER_A_SIGNAL_S)
        ways: dict[str, Errand] = {}
        if end not in ("busy", "skipped"):  # the run that holds the folder tells these
            ways |= self._of_every_end(end, summary, within_s)
        if event is not None:
            ways |= self.of_event(event, summary, within_s)
        outcomes = parallel_deliveries.do(ways, within_s)
        return [f"not told by {name}: {fault}" for name, fault in outcomes.items() if fault is not None]

    def _of_every_end(self, end: End, summary: Mapping[str, Any], within_s: float) -> dict[str, Errand]:
        ways: dict[str, Errand] = {}
        if self._section.metrics_file is not None:
            ways["the metrics file"] = lambda _: self._write_last_metrics(summary)
        if self._ping is not None:
            ways[f"the ping{self._ping.shown}"] = functools.partial(self._ping_end, end, summary, within_s)
        return ways

    def of_event(self, event: Occasion, summary: Mapping[str, Any], within_s: float, **more: Any) -> dict[str, Errand]:
        """How an event is told, each way by what a sentence calls it. ``more`` goes into the JSON."""
        from ..core import shell_command
        from . import messages

        ways: dict[str, Errand] = {}
        host = socket.gethostname()
        plain = messages.as_json(event, summary, host, **more)
        if self._webhook is not None:
            body = messages.as_slack(event, summary, host) if self._section.format == "slack" else plain
            ways[f"the webhook{self._webhook.shown}"] = functools.partial(_post, self._webhook, body, within_s)
        if self._section.command is not None:
            variables = {
                "BATCHFLEX_EVENT": event,
                "BATCHFLEX_JOB": self._name,
                "BATCHFLEX_OUT": str(self._out),
                "BATCHFLEX_TEXT": messages.headline(event, summary),
            }
            ways["the command"] = functools.partial(
                shell_command.run, self._section.command, plain, variables, within_s
            )
        return ways

    # ------------------------------------------------------------------------------------------------- the switch

    def _switch(self) -> Pings | None:
        return pings(self._ping.url) if self._ping is not None and self._ping.url else None

    def _ping_end(self, end: End, summary: Mapping[str, Any], within_s: float, given_up: threading.Event) -> str | None:
        from . import messages

        switch = self._switch()
        if switch is None:
            return None if self._ping is None else self._ping.fault
        due = time.monotonic() + within_s
        if self._start_ping is not None:  # that of the start comes first
            self._start_ping.join(min(within_s / 2, _START_WAITED_FOR_S))
        url = switch.success if end == "success" else switch.failure
        return self._send_ping(switch, url, messages.as_text(end, summary), due - time.monotonic(), given_up)

    def _send_ping(self, switch: Pings, url: str, text: str, within_s: float, given_up: threading.Event) -> str | None:
        from . import webhook

        content = text.encode() if switch.by_path else None
        return webhook.send(url, content, "text/plain; charset=utf-8", within_s=within_s, given_up=given_up)

    # -------------------------------------------------------------------------------------------- the metrics file

    def _write_last_metrics(self, summary: Mapping[str, Any]) -> str | None:
        with self._writing:
            return self._write_metrics(summary, self._past(summary["run_id"]))

    def _write_metrics(self, state: Mapping[str, Any], before: Past) -> str | None:
        from . import prometheus

        path = Path(str(self._section.metrics_file))
        rows = state if state["run_id"] else _known_state(self._folder)
        try:
            prometheus.write(path, state, rows, before)
        except OSError as error:
            return f"{path} cannot be written: {error.strerror or error}"
        return None

    def _past(self, own: str | None) -> Past:
        """Totals of this folder alone, as those of other dates may be removed, and a total must not shrink; the last success of
        any."""
        from . import prometheus

        found = prometheus.past(self._folder.past_runs(), own)
        if found.last_success is not None or not self._earlier:
            return found
        return found._replace(last_success=prometheus.past(self._past_runs()).last_success)

    def _past_runs(self) -> Iterator[dict[str, Any]]:
        """Of this folder and of those of the dates before, the oldest first."""
        for folder in (*self._earlier, self._folder):
            yield from folder.past_runs()


class _Watcher:
    """All that the other observer can do, if there is one, can this one, too."""

    def __init__(self, inner: Observer | None, seen: Callable[[RunState], None]) -> None:
        self._inner = inner
        self._seen = seen

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def tick(self, run_state: RunState) -> None:
        self._seen(run_state)
        if self._inner is not None:
            self._inner.tick(run_state)

    def note(self, text: str) -> None:
        if self._inner is not None:
            self._inner.note(text)


def _beside(work: Callable[..., None], *given: Any) -> threading.Thread:
    thread = threading.Thread(target=work, args=given, name="batchflex-telling", daemon=True)
    thread.start()
    return thread


def _earlier(job: Job) -> list[Folder]:
    """The folders of other dates before this one's, the oldest first."""
    if job.dated is None:
        return []
    from ..plan import retention

    own = job.dated.moment_of(str(job.out)) or ""
    return [Folder(output.path) for output in reversed(retention.outputs(job)) if output.moment < own]


def untellable(job: Job) -> list[str]:
    """A sentence for the webhook and the ping of a job, if a run that starts here and now would not know where they are."""
    found = ((name, _address(job, name)) for name in ("webhook", "ping"))
    return [f"a run could not tell the {name}: {to.fault}" for name, to in found if to is not None and to.fault]


def _address(job: Job, name: Literal["webhook", "ping"]) -> Address | None:
    """From the environment, or else from a credential that systemd hands to a service."""
    variable = getattr(job.notify, f"{name}_env")
    if variable is None or job.environment.get(variable, "").strip():
        return address(job.notify, name, job.environment)
    try:
        handed = credential(job.environment, variable)
    except OSError as error:
        return Address("", f"the credential {error.filename} cannot be read: {error.strerror}")
    return address(job.notify, name, {variable: handed})


def _known_state(folder: Folder) -> dict[str, Any]:
    try:
        return folder.read_state()
    except BatchflexError:
        return {}


def _post(to: Address, body: bytes, within_s: float, given_up: threading.Event) -> str | None:
    from . import webhook

    return to.fault or webhook.send(to.url, body, within_s=within_s, given_up=given_up)


def mistaken(spec: str | Path, settings: Sequence[tuple[str, Any]], error: JobError) -> list[str]:
    """Tell that a job file has mistakes, if its ``[notify]`` has none; else nobody is told. Blocks."""
    try:
        job = job_of_section(Path(spec), "notify", settings)
    except JobError:
        return []
    return Notifier(job).failed(error)


def trial(job: Job, event: Occasion) -> dict[str, str | None]:
    """Send a message that says that it is a test, by the job's webhook and command; return why each failed, if it did. Blocks.

    :raises JobError: if the job has neither.
    """
    from . import parallel_deliveries

    now = time.time()
    summary = RunState("test", job.job.name, str(job.out), now, {}).state(now, ended=True)
    summary |= {"status": "test", "exit_code": None, "message": "this is only a test"}
    ways = Notifier(job).of_event(event, summary, job.notify.timeout_s, test=True)
    if not ways:
        raise JobError("[notify] of this job has neither a webhook nor a command, so there is nobody to tell")
    return parallel_deliveries.do(ways, job.notify.timeout_s)
