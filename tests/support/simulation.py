"""A run without time or sockets: servers as models, and a client that does what :class:`batchflex.endpoint.pacer.Pacer` says.

A model takes a request (:meth:`Server.arrive`) and says when it ends and how. The client keeps as many in flight as it may,
as :class:`batchflex.engine.admission.Gate` does.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from batchflex.core.errors import LimitKind
from batchflex.core.types import Usage
from batchflex.endpoint.concurrency_limit import ConcurrencyLimit
from batchflex.endpoint.cost import Cost
from batchflex.endpoint.pacer import Pacer
from batchflex.protocol.rate_limit_headers import Level, Limited, RateLimits

OK = "answer"
UNSAID = Limited()


@dataclass
class Ended:
    """``at`` is the moment; ``how`` is ``answer``, ``refusal`` or ``failure``."""

    at: float
    how: str = OK
    tokens: int = 0
    told: RateLimits | None = None
    retry_after_s: float | None = None
    limited: Limited = UNSAID


class Server(Protocol):  # what Client asks
    def arrive(self, now: float, tokens: int) -> Ended: ...


class Slots:
    """``slots`` requests at a time, each for ``latency()`` seconds, the others in a queue: first come, first served."""

    def __init__(self, slots: Callable[[float], int] | int, latency: Callable[[], float] | float = 0.2) -> None:
        self.slots = slots if callable(slots) else lambda now: slots
        self.latency = latency if callable(latency) else lambda: latency
        self.free_at: list[float] = []

    def arrive(self, now: float, tokens: int) -> Ended:
        most = self.slots(now)
        while len(self.free_at) < most:
            heapq.heappush(self.free_at, now)
        while len(self.free_at) > most:
            heapq.heappop(self.free_at)  # the first to become free is closed
        end = max(now, heapq.heappop(self.free_at)) + self.latency()
        heapq.heappush(self.free_at, end)
        return Ended(end, tokens=tokens)


class Batching:
    """As an inference server: all in flight are worked on together, the more the slower, and beyond ``most`` they wait."""

    def __init__(self, alone_s: float, most: int, slowdown: float) -> None:
        self.alone_s, self.most, self.slowdown = alone_s, most, slowdown
        self.ends: list[float] = []
        self.peaks: list[tuple[float, int]] = []
        self.now = 0.0
        self.queue = Slots(most, self._latency)

    def _latency(self) -> float:
        # Those that come later in the same burst slow down the first of it too.
        self.peaks = [(at, n) for at, n in self.peaks if at > self.now - 1.5 * self.alone_s]
        together = min(self.most, max([n for _, n in self.peaks], default=1))
        return self.alone_s * together**self.slowdown

    def arrive(self, now: float, tokens: int) -> Ended:
        self.now = now
        while self.ends and self.ends[0] <= now:
            heapq.heappop(self.ends)
        self.peaks.append((now, len(self.ends) + 1))
        ended = self.queue.arrive(now, tokens)
        heapq.heappush(self.ends, ended.at)
        return ended


@dataclass
class Limit:
    """``limit`` units in each window. ``kind`` is ``fixed``, ``sliding`` or ``bucket``."""

    limit: float
    window_s: float
    kind: str = "fixed"
    of_tokens: bool = False
    headers: bool = True
    latency_s: float = 0.05
    retry_after: bool = True
    whole_seconds: bool = False
    admitted: list[tuple[float, float]] = field(default_factory=list)
    first: int = 0
    inside: float = 0.0
    bucket: float = math.inf
    filled_at: float = 0.0
    refused: int = 0
    random_refusals: float = 0.0
    chance: random.Random = field(default_factory=lambda: random.Random(1))

    def level(self, now: float) -> tuple[float, float]:
        """Units left now, and seconds until the window, or the bucket, gives more."""
        if self.kind == "bucket":
            rate = self.limit / self.window_s
            self.bucket = min(self.limit, self.bucket + (now - self.filled_at) * rate)
            self.filled_at = now
            return self.bucket, max(0.0, (1 - self.bucket) / rate)
        begin = now - now % self.window_s if self.kind == "fixed" else now - self.window_s
        while self.first < len(self.admitted) and self.admitted[self.first][0] < begin:
            self.inside -= self.admitted[self.first][1]
            self.first += 1
        empty = self.first >= len(self.admitted)
        oldest = begin if self.kind == "fixed" or empty else self.admitted[self.first][0]
        return self.limit - self.inside, oldest + self.window_s - now

    def arrive(self, now: float, tokens: int) -> Ended:
        units = float(tokens) if self.of_tokens else 1.0
        left, wait = self.level(now)
        refused = left < units or self.chance.random() < self.random_refusals
        if refused:
            self.refused += 1
        else:
            self.admitted.append((now, units))
            self.inside += units
            self.bucket -= units
        left, wait = self.level(now)
        level = Level(self.limit, max(0.0, math.floor(left)), math.ceil(wait) if self.whole_seconds else wait)
        told = (RateLimits(None, level) if self.of_tokens else RateLimits(level, None)) if self.headers else None
        if not refused:
            return Ended(now + self.latency_s, OK, tokens, told)
        if self.random_refusals and left >= units:
            wait = 0.02
        wait = float(math.ceil(wait)) if self.whole_seconds else wait
        return Ended(now + 0.002, "refusal", 0, told, wait if self.retry_after else None)

    def used(self, begin: float, end: float) -> float:
        """The share of the quota that was used from ``begin`` to ``end``."""
        units = sum(size for at, size in self.admitted if begin <= at < end)
        return units / (self.limit * (end - begin) / self.window_s)


class Proxy:
    """Limits of a key as LiteLLM keeps them: windows of 60 s that begin with the first request, its times in whole seconds; how
    many may be in flight, of which one that has ended is counted for ``late_s`` more. A refusal asks for a whole window,
    whatever it is for. ``headers``: limits and what is left come with each answer, without a reset.
    """

    def __init__(
        self,
        rpm: int | None = None,
        parallel: int | None = None,
        *,
        latency: Callable[[], float] | float = 0.5,
        late: Callable[[], float] | float = 0.0,
        headers: bool = True,
        numbered: bool = True,
        began: float = 0.3,
    ) -> None:
        self.rpm, self.parallel, self.headers, self.numbered = rpm, parallel, headers, numbered
        self.latency = latency if callable(latency) else lambda: latency
        self.late = late if callable(late) else lambda: late
        self.window: int | None = None
        self.count = 0
        self.began = began  # of the clock, so that windows begin between its seconds
        self.ends: list[float] = []
        self.admitted: list[tuple[float, int]] = []  # moment, window

    def arrive(self, now: float, tokens: int) -> Ended:
        while self.ends and self.ends[0] <= now:
            heapq.heappop(self.ends)
        second = int(now + self.began)
        if self.window is None or second - self.window >= 60:
            self.window, self.count = second, 0
        if self.parallel is not None and len(self.ends) >= self.parallel:
            return self._refuse(now, "in_flight", self.parallel if self.numbered else None)
        if self.rpm is not None and self.count >= self.rpm:
            return self._refuse(now, "requests", None)
        self.count += 1
        self.admitted.append((now, self.window))
        end = now + self.latency()
        heapq.heappush(self.ends, end + self.late())
        return Ended(end, OK, tokens, self._told())

    def _refuse(self, now: float, kind: LimitKind, limit: int | None) -> Ended:
        return Ended(now + 0.003, "refusal", retry_after_s=60.0, limited=Limited(kind, limit))

    def _told(self) -> RateLimits | None:
        if not self.headers:
            return None
        requests = None if self.rpm is None else Level(self.rpm, self.rpm - self.count, None, 60.0)
        left = None if self.parallel is None else Level(self.parallel, self.parallel - len(self.ends), None, 60.0)
        return RateLimits(requests, None, left, "api_key")

    def full_windows(self, until: float) -> list[int]:
        """How many requests each window let through, of those that were over by then."""
        counts: dict[int, int] = {}
        for _, window in self.admitted:
            counts[window] = counts.get(window, 0) + 1
        return [count for window, count in sorted(counts.items()) if window + 60 <= until + self.began]


class Filling(Limit):
    """A bucket as OpenAI tells of it: the reset is when it is full, Retry-After when one more fits, in whole seconds."""

    def arrive(self, now: float, tokens: int) -> Ended:
        ended = super().arrive(now, tokens)
        rate = self.limit / self.window_s
        level = Level(self.limit, max(0.0, math.floor(self.bucket)), (self.limit - self.bucket) / rate)
        ended.told = RateLimits(None, level) if self.of_tokens else RateLimits(level, None)
        if ended.how == "refusal":
            ended.retry_after_s = float(math.ceil(max(0.001, (tokens if self.of_tokens else 1) - self.bucket) / rate))
        return ended


@dataclass
class Altered:
    """A server whose headers are changed on their way."""

    server: Limit
    change: Callable[[Level], Level]
    retry_after_s: float | None = None

    def arrive(self, now: float, tokens: int) -> Ended:
        ended = self.server.arrive(now, tokens)
        if ended.told is not None and ended.told.requests is not None:
            ended.told = RateLimits(self.change(ended.told.requests), None)
        if ended.how == "refusal" and self.retry_after_s is not None:
            ended.retry_after_s = self.retry_after_s
        return ended


class Choosing:
    """Each request goes to one of several servers; ``choose`` says to which."""

    def __init__(self, choose: Callable[[], Server]) -> None:
        self.choose = choose

    def arrive(self, now: float, tokens: int) -> Ended:
        return self.choose().arrive(now, tokens)


@dataclass
class Client:
    """Asks as :class:`Pacer` allows until ``until``. ``tokens()`` is what a request will use."""

    server: Server
    pacer: Pacer
    tokens: Callable[[], int] = lambda: 100
    max_tokens: int | None = None
    body_bytes: int = 300
    arrivals: Callable[[float], float] | None = None  # the input gives the n-th row then; None: at once
    rows: float = math.inf
    cpu_s: float = 0.0
    model: Callable[[], str] = lambda: ""
    sizes: list[tuple[float, int, int]] = field(default_factory=list)  # moment, window, in flight
    answers: list[float] = field(default_factory=list)
    refusals: list[float] = field(default_factory=list)
    sent: list[float] = field(default_factory=list)
    now: float = 0.0
    asking: str = ""  # the model of the request that arrives
    _next: Cost | None = None

    def run(self, until: float) -> Client:
        """Goes on from where it was left."""
        self._flying: list[tuple[float, int, Cost, Ended]] = getattr(self, "_flying", [])
        number = getattr(self, "_number", itertools.count())
        self._number = number
        wait = self._send_all(number)
        while True:
            ends = self._flying[0][0] if self._flying else math.inf
            now = min(ends, self.now + wait)
            if now >= until or (now == math.inf):
                self.now = min(until, now)
                return self
            self.now = max(self.now, now)
            if not self._flying or self._flying[0][0] > self.now:
                wait = self._send_all(number)
                continue
            while self._flying and self._flying[0][0] <= self.now:
                _, _, cost, ended = heapq.heappop(self._flying)
                self._end(cost, ended)
                wait = self._send_all(number)

    def _send_all(self, number: itertools.count[int]) -> float:
        """Seconds until more may go; infinite if something has to end first."""
        while len(self._flying) < self.pacer.concurrency.size and len(self.sent) < self.rows:
            if self.arrivals is not None and (due := self.arrivals(len(self.sent))) > self.now:
                return due - self.now
            if self._next is None:
                self._next = Cost(self.body_bytes, self.max_tokens, 0, 0.0, model=self.model())
            cost = self._next
            if (wait := self.pacer.wait_s(self.now, cost)) > 0:
                return wait + 1e-6 if wait < math.inf else wait
            self._next = None
            self.pacer.sent(self.now, cost, len(self._flying) + 1)
            self.sent.append(self.now)
            self.asking = cost.model
            ended = self.server.arrive(self.now, self.tokens())
            heapq.heappush(self._flying, (ended.at, next(number), cost, ended))
            self.now += self.cpu_s
        return math.inf

    def _end(self, cost: Cost, ended: Ended) -> None:
        self.now += self.cpu_s
        left = len(self._flying)
        if ended.told is not None:
            self.pacer.reported(self.now, cost, ended.told)
        if ended.how == OK:
            prompt = min(ended.tokens, self.body_bytes // 4)
            self.pacer.answered(self.now, cost, Usage(prompt, ended.tokens - prompt, ended.tokens), left)
            self.answers.append(self.now)
        elif ended.how == "refusal":
            self.refusals.append(self.now)
            self.pacer.refused(self.now, cost, ended.retry_after_s, left, ended.limited)
        else:
            self.pacer.failed(self.now, cost, left, of_row=False, reached=True)
        self.pacer.ended(self.now)
        size = self.pacer.concurrency.size
        if not self.sizes or self.sizes[-1][1] != size:
            self.sizes.append((self.now, size, left))

    @property
    def in_flight(self) -> int:
        return len(self._flying)

    def rate(self, begin: float, end: float) -> float:
        """Answers a second."""
        return sum(begin <= at < end for at in self.answers) / (end - begin)

    def largest(self, begin: float, end: float) -> int:
        """The largest window in that time."""
        inside = [size for at, size, _ in self.sizes if begin <= at < end]
        before = [size for at, size, _ in self.sizes if at < begin]
        return max(inside + before[-1:])


def auto(most: int = 1024, first: int = 8) -> ConcurrencyLimit:
    return ConcurrencyLimit(most, first=first)
