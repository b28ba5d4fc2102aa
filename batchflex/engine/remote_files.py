"""Remote files of one run: each is fetched once while it is wanted, kept for the rows that follow, and tried again if it fails.

Nothing waits here for long: who wants a file that is not to be had now is told when to ask again, and holds neither memory nor a
connection until then.
"""

from __future__ import annotations

import random
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import anyio

from ..attachments import FileFault, FileHosts, RemoteFile, host_of, named
from ..config import Job, parse_duration
from ..core import Attachment, Emit, Event
from ..endpoint import FetchFailed, FileFetcher, FileRefused, Tries, retry_policy
from .host_health import HostHealth

_MOST_AT_ONCE = 16
_KEPT_BYTES = 128 << 20  # of files that others may want
_KEPT_FAULTS = 10_000  # files that cannot be had, of which it is remembered why
_MOST_HOSTS = 10_000

_LEFT = "rows are left unanswered, and did not fail, as servers do not give their files"

Sleep = Callable[[float], Awaitable[None]]


class NotYet(Exception):
    """A file cannot be had now: ask for it again in ``wait_s``."""

    def __init__(self, wait_s: float) -> None:
        super().__init__(wait_s)
        self.wait_s = wait_s


class HostDown(Exception):
    """The server of a file does not answer in this run; the row is not to blame."""


@dataclass(slots=True)
class _Trouble:
    """A file that was not to be had so far."""

    tries: Tries = field(default_factory=Tries)
    again_at: float = 0.0


class RemoteFiles:
    """Fetches files. ``sleep`` ends before its time once nothing more is sent, and then nothing is fetched any more."""

    def __init__(self, job: Job, emit: Emit, sleep: Sleep) -> None:
        self._fetcher = FileFetcher(FileHosts(job.input.file_hosts))
        self._policy = job.retry
        self._patience_s = parse_duration(job.limits.max_outage)
        self._emit, self._sleep = emit, sleep
        self._room = anyio.CapacityLimiter(_MOST_AT_ONCE)
        self._kept: OrderedDict[str, RemoteFile] = OrderedDict()
        self._kept_bytes = 0
        self._faults: OrderedDict[str, str] = OrderedDict()
        self._underway: dict[str, anyio.Event] = {}
        self._troubles: dict[str, _Trouble] = {}
        self._hosts: dict[tuple[str, int], HostHealth] = {}
        self._any_answered = self._is_told = False
        self._left: dict[tuple[str, int], tuple[int, str]] = {}  # by host: rows that are left unanswered, and why

    @property
    def are_awaited(self) -> bool:
        """Whether a file is on its way, or a server is waited for."""
        return bool(self._underway) or any(each.is_down for each in self._hosts.values())

    async def of(self, files: Sequence[Attachment]) -> dict[str, RemoteFile] | None:
        """The remote ones among these, by their URLs; ``None`` if nothing more is sent.

        :raises FileFault: if one cannot be had, with a sentence.
        :raises NotYet: if one cannot be had now.
        :raises HostDown: if the server of one is not there, which is counted.
        """
        found = {}
        for file in files:
            if file.url and file.fault is None and file.url not in found:
                try:
                    if (got := await self._get(file.url)) is None:
                        return None
                except FileFault as fault:
                    raise named(file, fault) from None
                found[file.url] = got
        return found

    async def _get(self, url: str) -> RemoteFile | None:
        while (event := self._underway.get(url)) is not None:
            await event.wait()
        if (kept := self._kept.get(url)) is not None:
            self._kept.move_to_end(url)
            return kept
        if (words := self._faults.get(url)) is not None:
            raise FileFault(words)
        host = host_of(url)
        health = self._health(host)
        now = time.monotonic()
        trouble = self._troubles.get(url)
        if health.verdict is not None:
            raise self._given_up(url, host, health)
        if (wait_s := max(health.wait_s(now), 0.0 if trouble is None else trouble.again_at - now)) > 0:
            raise NotYet(wait_s)
        health.begins(now)
        self._underway[url] = anyio.Event()
        try:
            return await self._fetched(url, host, health)
        finally:
            self._underway.pop(url).set()

    async def _fetched(self, url: str, host: tuple[str, int], health: HostHealth) -> RemoteFile | None:
        began = time.monotonic()
        try:
            async with self._room:
                began = time.monotonic()
                got = await self._unless_over(url)
        except FileRefused as fault:
            self._answered(host, health)
            self._remember_fault(url, str(fault))
            raise
        except FileFault as fault:
            self._remember_fault(url, str(fault))
            raise
        except FetchFailed as failure:
            self._failed(url, host, health, failure, time.monotonic() - began)
            raise AssertionError from None  # it has raised
        if got is not None:
            self._answered(host, health)
            self._troubles.pop(url, None)
            self._keep(url, got)
        return got

    async def _unless_over(self, url: str) -> RemoteFile | None:
        """The file; ``None`` once nothing more is sent."""
        got: list[RemoteFile | Exception] = []

        async def fetch() -> None:
            try:
                got.append(await self._fetcher.fetch(url))
            except (FileFault, FetchFailed) as error:
                got.append(error)
            both.cancel_scope.cancel()

        async with anyio.create_task_group() as both:
            both.start_soon(fetch)
            await self._sleep(float("inf"))
            both.cancel_scope.cancel()
        if got and isinstance(got[0], Exception):
            raise got[0]
        return got[0] if got else None  # type: ignore[return-value]

    def _health(self, host: tuple[str, int]) -> HostHealth:
        if (health := self._hosts.get(host)) is None:
            if len(self._hosts) >= _MOST_HOSTS:
                del self._hosts[next(iter(self._hosts))]
            health = self._hosts[host] = HostHealth(self._patience_s, self._policy.attempts)
        return health

    def _answered(self, host: tuple[str, int], health: HostHealth) -> None:
        self._any_answered = True
        if health.answered():
            self._emit(Event("note", f"{host[0]} gives files again"))

    def _failed(self, url: str, host: tuple[str, int], health: HostHealth, failure: FetchFailed, took_s: float) -> None:
        """:raises NotYet: if another try is to be made; what else is raised is what becomes of the row."""
        now = time.monotonic()
        trouble = self._troubles.setdefault(url, _Trouble())
        if failure.redirected or (failure.status is not None and not failure.is_of_host):
            self._answered(host, health)
        if failure.no_such_name and self._any_answered:
            self._end(url, str(failure))
        if failure.is_of_host and health.failed(url, now, others_answer=self._any_answered):
            words = f"{host[0]} gives none of its files ({failure}): rows that want one wait until it does"
            self._emit(Event("note", words, level="warning"))
        if health.verdict is not None:
            self._faults_of_host(host, str(failure))
            raise self._given_up(url, host, health)
        if health.is_down:
            trouble.again_at = now + health.wait_s(now)
            raise NotYet(health.wait_s(now) * 1.01)  # after others that wait: another file may be to be had
        trouble.tries.count(took_s, costs=True)
        if retry_policy.exhausted(failure.fault, trouble.tries, self._policy):
            if failure.status is None and not self._any_answered:  # nothing shows that there is a network
                self._troubles.pop(url, None)
                self._faults_of_host(host, str(failure))
                raise self._left_out(host)
            tries = trouble.tries.sent
            self._end(url, f"{failure}, {tries} times" if tries > 1 else str(failure))
        if not self._is_told:
            self._is_told = True
            self._emit(Event("note", f"a file could not be had of {host[0]}, and is tried again: it {failure}"))
        wait_s = retry_policy.wait_s(failure.fault, trouble.tries, self._policy, random.random)
        trouble.tries.seconds += wait_s
        trouble.again_at = now + wait_s
        raise NotYet(wait_s)

    def _end(self, url: str, words: str) -> None:
        """:raises FileFault: always."""
        self._troubles.pop(url, None)
        self._remember_fault(url, words)
        raise FileFault(words)

    def _faults_of_host(self, host: tuple[str, int], words: str) -> None:
        self._left[host] = (self._left.get(host, (0, ""))[0], words)

    def _given_up(self, url: str, host: tuple[str, int], health: HostHealth) -> Exception:
        self._troubles.pop(url, None)
        if health.verdict == "row":
            return FileFault(self._left[host][1])
        return self._left_out(host)

    def _left_out(self, host: tuple[str, int]) -> HostDown:
        rows, words = self._left[host]
        self._left[host] = rows + 1, words
        return HostDown()

    def _keep(self, url: str, got: RemoteFile) -> None:
        if len(got.data) > _KEPT_BYTES // 2:
            return
        self._kept[url] = got
        self._kept_bytes += len(got.data)
        while self._kept_bytes > _KEPT_BYTES:
            _, gone = self._kept.popitem(last=False)
            self._kept_bytes -= len(gone.data)

    def _remember_fault(self, url: str, words: str) -> None:
        self._faults[url] = words
        if len(self._faults) > _KEPT_FAULTS:
            self._faults.popitem(last=False)

    def unanswered(self) -> str | None:
        """Why rows are left unanswered: a sentence, if any are."""
        left = [f"{rows:,} for {host} ({words})" for (host, _), (rows, words) in self._left.items() if rows]
        if not left:
            return None
        shown = "; ".join(left[:3]) + (f"; and for {len(left) - 3:,} other servers" if len(left) > 3 else "")
        return f"{_LEFT}: {shown}"

    async def aclose(self) -> None:
        await self._fetcher.aclose()
