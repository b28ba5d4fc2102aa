"""Telling of a run: the switch at its start, everybody who is to know at its end, the metrics file in between.

Nothing of it is in the run's way. What begins beside the run is in a thread of its own; what follows it is bounded, changes
neither its outcome nor its exit code, and what fails is handed back as a sentence.
"""

from __future__ import annotations

import functools
import os
import socket
import threading
import time
import tomllib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import anyio.to_thread

from . import hook, notices
from .errors import BatchflexError, JobError
from .events import End, Event, end_of, event_of, last_end
from .folder import Folder
from .job import Job, build
from .mistakes import redacted
from .notifyspec import Pings, address, pings
from .runner import Observer, Run
from .tally import Tally

_METRICS_EVERY_S = 15.0
_AFTER_A_SIGNAL_S = 5.0
_START_WAITED_FOR_S = 3.0
_SLACK_S = 1.0

Way = Callable[[], str | None]


async def told(job: Job, observer: Observer | None, work: Callable[[Observer], Awaitable[Run]]) -> Run:
    """Do the work, and tell of it as ``[notify]`` says, also if it is refused. ``Run.untold`` and the notes of an exception say
    whom it could not be told. A run that is cancelled is not told of.

    :raises: what the work raises.
    """
    teller = Teller(job)
    try:
        run = await work(teller.watching(observer))
    except Exception as error:
        for words in await anyio.to_thread.run_sync(teller.failed, error, abandon_on_cancel=True):
            error.add_note(words)
        raise
    finally:
        teller.rest()
    faults = await anyio.to_thread.run_sync(teller.ended, run, abandon_on_cancel=True)
    run.untold = "\n".join(faults) or None
    return run


class Teller:
    """Tells of one run. Made just before it begins."""

    def __init__(self, job: Job) -> None:
        self._section = job.notify
        self._name = job.job.name
        self._out = job.out
        self._folder = Folder(job.out)
        self._started = time.time()
        self._tally: Tally | None = None
        self._over = threading.Event()
        self._beside: threading.Thread | None = None
        self._unwritten: str | None = None
        state = _known_state(self._folder)
        self._unfinished = state.get("run_id") if state.get("status") == "running" else None
        self._webhook = address(job.notify, "webhook", os.environ)
        self._ping = address(job.notify, "ping", os.environ)

    def watching(self, observer: Observer | None) -> Observer:
        """An observer that sees the run begin, and passes everything on."""
        return _Watcher(observer, self._seen)

    def _seen(self, tally: Tally) -> None:
        """The first of these is that of the run, later ones may be of its judges."""
        if self._tally is None:
            self._tally = tally
            if self._ping is not None or self._section.metrics_file is not None:
                self._beside = threading.Thread(target=self._go_beside, name="batchflex-telling", daemon=True)
                self._beside.start()

    def _go_beside(self) -> None:
        switch = self._pings()
        if switch is not None and switch.start is not None:
            self._send_ping(switch.start, f"{self._name} has begun\n", switch, _SLACK_S * 20)
        if self._section.metrics_file is None or self._tally is None:
            return
        while not self._over.is_set():
            self._write_metrics(self._tally.state(time.time()))
            self._over.wait(_METRICS_EVERY_S)

    def rest(self) -> None:
        """End what goes on beside the run."""
        self._over.set()

    def ended(self, run: Run) -> list[str]:
        """Tell of a run that has come to an end, and return a sentence for each who could not be told. Blocks."""
        summary = run.summary
        if run.unscored is not None:
            summary = {**summary, "exit_code": run.exit_code, "message": summary["message"] or run.unscored}
        return self._tell(summary)

    def failed(self, error: Exception) -> list[str]:
        """The same of one that was refused, or that ended with an unexpected fault."""
        fault = error
        while isinstance(fault, ExceptionGroup):
            fault = fault.exceptions[0]
        known = isinstance(fault, BatchflexError)
        code = fault.exit_code if isinstance(fault, BatchflexError) else 3
        first = redacted((str(fault).splitlines() or [""])[0][:300])
        message = str(fault) if known else f"an unexpected fault of batchflex itself: {type(fault).__name__}: {first}"
        tally = self._tally or Tally("", self._name, str(self._out), self._started, {})
        summary = {**tally.state(time.time(), ended=True), "exit_code": code, "message": message}
        if self._tally is None:
            summary |= {"run_id": None, "status": "refused"}
        if not known:
            summary |= {"status": "stopped", "stopped_by": "error"}
        return self._tell(summary)

    def _tell(self, summary: Mapping[str, Any]) -> list[str]:
        self._over.set()
        end = end_of(summary)
        history = self._folder.read_history()
        event = event_of(end, last_end(history, summary["run_id"], self._unfinished), self._section.on)
        within_s = self._section.timeout_s
        if summary["exit_code"] >= 128:  # whoever ended it does not wait for long
            within_s = min(within_s, _AFTER_A_SIGNAL_S)
        ways: dict[str, Way] = {}
        if end not in ("busy", "skipped"):  # those are the other run's
            ways |= self._regular_ways(end, summary, history, within_s)
        if event is not None:
            ways |= self.ways(event, summary, within_s)
        return untold(at_once(ways, within_s))

    def _regular_ways(
        self, end: End, summary: Mapping[str, Any], history: Sequence[Mapping[str, Any]], within_s: float
    ) -> dict[str, Way]:
        """The switch and the metrics file, which are told of every end."""
        ways: dict[str, Way] = {}
        if self._section.metrics_file is not None:
            ways["the metrics file"] = functools.partial(self._write_metrics, summary, history)
        if self._ping is not None:
            ways[f"the ping{self._ping.shown}"] = functools.partial(self._ping_end, end, summary, within_s)
        return ways

    def ways(self, event: Event, summary: Mapping[str, Any], within_s: float, **more: Any) -> dict[str, Way]:
        """Whom an event is told, each by what a sentence calls it, and how. ``more`` goes into the JSON."""
        ways: dict[str, Way] = {}
        host, address = socket.gethostname(), self._webhook
        plain = notices.as_json(event, summary, host, **more)
        if address is not None:
            body = notices.as_slack(event, summary, host) if self._section.format == "slack" else plain
            ways[f"the webhook{address.shown}"] = functools.partial(_post, address.url, address.fault, body, within_s)
        if self._section.command is not None:
            told = {"BATCHFLEX_EVENT": event, "BATCHFLEX_JOB": self._name, "BATCHFLEX_OUT": str(self._out)}
            told["BATCHFLEX_TEXT"] = notices.headline(event, summary).replace("\0", "")
            ways["the command"] = functools.partial(hook.run, self._section.command, plain, told, within_s=within_s)
        return ways

    # ------------------------------------------------------------------------------------------------- the switch

    def _pings(self) -> Pings | None:
        return pings(self._ping.url) if self._ping is not None and self._ping.url else None

    def _ping_end(self, end: End, summary: Mapping[str, Any], within_s: float) -> str | None:
        switch = self._pings()
        if switch is None:
            return None if self._ping is None else self._ping.fault
        if self._beside is not None:  # that of the start comes first
            self._beside.join(min(within_s / 2, _START_WAITED_FOR_S))
        url = switch.success if end == "success" else switch.failure
        return self._send_ping(url, notices.as_text(end, summary), switch, within_s)

    def _send_ping(self, url: str, text: str, switch: Pings, within_s: float) -> str | None:
        from . import webhook

        given_up = self._over if url == switch.start else threading.Event()
        content = text.encode() if switch.by_path else None
        return webhook.send(url, content, "text/plain; charset=utf-8", within_s=within_s, given_up=given_up)

    # -------------------------------------------------------------------------------------------- the metrics file

    def _write_metrics(
        self, state: Mapping[str, Any], history: Sequence[Mapping[str, Any]] | None = None
    ) -> str | None:
        from . import metricsfile

        path = Path(str(self._section.metrics_file))
        rows = state if state["run_id"] else _known_state(self._folder)
        try:
            metricsfile.write(path, state, rows, self._folder.read_history() if history is None else history)
        except OSError as error:
            return f"{path} cannot be written: {error.strerror or error}"
        return None


class _Watcher:
    def __init__(self, inner: Observer | None, seen: Callable[[Tally], None]) -> None:
        self._inner = inner
        self._seen = seen

    def tick(self, tally: Tally) -> None:
        self._seen(tally)
        if self._inner is not None:
            self._inner.tick(tally)

    def note(self, text: str) -> None:
        if self._inner is not None:
            self._inner.note(text)


def _known_state(folder: Folder) -> dict[str, Any]:
    try:
        return folder.read_state()
    except BatchflexError:
        return {}


def _post(url: str, fault: str | None, body: bytes, within_s: float) -> str | None:
    from . import webhook

    return fault or webhook.send(url, body, within_s=within_s)


def at_once(ways: Mapping[str, Way], within_s: float) -> dict[str, str | None]:
    """Go all ways at the same time, and return why each failed, if it did. One that does not return is left alone."""
    outcomes: dict[str, str | None] = dict.fromkeys(ways, f"it did not come to an end within {within_s:.0f} s")

    def go(name: str, way: Way) -> None:
        try:
            outcomes[name] = way()
        except Exception as error:  # whatever befalls it, the run is none the worse
            outcomes[name] = f"an unexpected fault of batchflex itself: {type(error).__name__}"

    threads = [threading.Thread(target=go, args=way, daemon=True) for way in ways.items()]
    due = time.monotonic() + within_s + 3 * _SLACK_S
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, due - time.monotonic()))
    return dict(outcomes)


def untold(outcomes: Mapping[str, str | None]) -> list[str]:
    """A sentence for each who could not be told."""
    return [f"{name} was not told: {fault}" for name, fault in outcomes.items() if fault is not None]


def mistaken(spec: str | Path, settings: Sequence[tuple[str, Any]], error: JobError) -> list[str]:
    """Tell that a job file has mistakes, if its ``[notify]`` has none; else nobody is told. Blocks."""
    try:
        data = tomllib.loads(Path(spec).read_text(encoding="utf-8-sig"))
        section = data.get("job")
        named = (
            {name: section[name] for name in ("name", "out") if name in section} if isinstance(section, dict) else {}
        )
        of_these = [(place, value) for place, value in settings if place == "job.out" or place.startswith("notify.")]
        told = {"job": {"name": Path(spec).stem, **named}, "notify": data.get("notify", {})}
        job = build(told, of_these, folder=Path(spec).parent)
    except (OSError, ValueError, RecursionError, JobError):
        return []
    return Teller(job).failed(error) if job.notify.tells else []


def trial(job: Job, event: Event) -> dict[str, str | None]:
    """Send a message that says that it is a test, by the job's webhook and command; return why each was not told, if it was not.
    Blocks.

    :raises JobError: if the job has neither.
    """
    summary = Tally("test", job.job.name, str(job.out), time.time(), {}).state(time.time(), ended=True)
    summary |= {"status": "refused", "exit_code": None, "message": "this is only a test"}
    ways = Teller(job).ways(event, summary, job.notify.timeout_s, test=True)
    if not ways:
        raise JobError("[notify] of this job has neither a webhook nor a command, so there is nobody to tell")
    return at_once(ways, job.notify.timeout_s)
