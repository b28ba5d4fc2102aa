"""Whether an endpoint is down, and when to ask it again. Decisions only: time is passed in, nothing is sent here."""

from __future__ import annotations

# Failures without any answer between them; fewer are enough when nothing is in flight that could still tell.
_DOUBT_AFTER, _DOWN_AFTER, _DOWN_AFTER_ALONE = 2, 6, 4
# Or so many of those that were sent since the first failure, and such a share of them, without an answer to any of them.
_DOUBT_NEWER, _DOUBT_SHARE, _DOWN_SHARE = 3, 0.6, 0.8
_ROWS = 4
_FIRST_PROBE_S, _NEXT_PROBE_S, _LONGEST_PROBE_S = 3.5, 4.7, 30.0
_GROWTH = 0.08
# After an outage that was none so many times more failures have to come; one more often than that, up to so many.
_WARIER, _WARIEST = 2, 16


class _Failures:
    """How many, and of which rows: those of few rows say nothing of the endpoint."""

    __slots__ = ("count", "rows")

    def __init__(self) -> None:
        self.count = 0
        self.rows: set[bytes] = set()

    def add(self, row: bytes) -> None:
        self.count += 1
        self.rows.add(row)

    def reach(self, count: int) -> bool:
        return self.count >= count and len(self.rows) >= min(count, _ROWS)

    def clear(self) -> None:
        self.count = 0
        self.rows.clear()


class Outage:
    """The breaker of one endpoint.

    Failures in a row raise a doubt: then requests should go one at a time. More of them mean that it is down. A server that
    dies may still finish what it has begun, so that requests sent since the first failure are looked at by themselves as well;
    a server that works answers most of those. ``most_s`` is how long an outage may last.

    Probes come after 3.5 s, then every 4.7 s, then, from the first minute on, at distances that grow with the outage up to 30 s.
    """

    def __init__(self, most_s: float) -> None:
        self._most_s = most_s
        self._sent = self._latest = 0
        self._wary = 1
        self._in_a_row = _Failures()
        # Since the first failure that no answer to a later request has put right: its number, and the rows that failed.
        self._first: int | None = None
        self._newer = _Failures()
        self._since: float | None = None
        self._last_probe = 0.0
        self._probes = 0

    @property
    def on(self) -> bool:
        return self._since is not None

    @property
    def doubted(self) -> bool:
        """Whether requests should go one at a time, until it is clear."""
        return self._in_a_row.reach(self._wary * _DOUBT_AFTER) or self._newer_fail(_DOUBT_NEWER, _DOUBT_SHARE)

    def _newer_fail(self, fewest: int, share: float) -> bool:
        if self._first is None:
            return False
        return self._newer.reach(self._wary * fewest) and self._newer.count >= share * (self._sent - self._first + 1)

    def sent(self) -> int:
        """A request goes; returns its number."""
        self._sent += 1
        return self._sent

    def failed(self, now: float, number: int, row: bytes, in_flight: int, *, timed_out: bool = False) -> bool:
        """An attempt failed as it would if the endpoint were down; so many others are in flight.

        One that ``timed_out`` tells of when it was sent, not of now, so that it says nothing if a later one was answered.
        True: with this one the outage begins.
        """
        if self._since is not None or (timed_out and number < self._latest):
            return False
        self._in_a_row.add(row)
        if self._first is None:
            self._first = number
        if number >= self._first:
            self._newer.add(row)
        enough = self._wary * (_DOWN_AFTER if in_flight else _DOWN_AFTER_ALONE)
        if not self._in_a_row.reach(enough) and not self._newer_fail(_DOWN_AFTER_ALONE, _DOWN_SHARE):
            return False
        self._since = self._last_probe = now
        self._probes = 0
        return True

    def answered(self, number: int) -> None:
        """An attempt was answered, by a completion, a refusal or words about the request itself."""
        self._latest = max(self._latest, number)
        self._wary = 1
        if self._in_a_row.count:
            self._in_a_row.clear()
        if self._first is not None and number >= self._first:
            self._first = None
            self._newer.clear()

    def over(self) -> None:
        """A probe was answered. If it was the first, it may have been no outage, but rows that the endpoint cannot answer."""
        self._wary = min(_WARIEST, _WARIER * self._wary) if self._probes <= 1 else 1
        self._since = self._first = None
        self._latest = self._sent
        self._in_a_row.clear()
        self._newer.clear()

    def probe_in_s(self, now: float) -> float:
        """Seconds until the next probe."""
        if self._since is None:
            return float("inf")
        distance = _FIRST_PROBE_S
        if self._probes:
            distance = min(_LONGEST_PROBE_S, max(_NEXT_PROBE_S, _GROWTH * (self._last_probe - self._since)))
        return max(0.0, self._last_probe + distance - now)

    def probed(self, now: float) -> None:
        """A probe goes."""
        self._probes += 1
        self._last_probe = now

    def lasted_s(self, now: float) -> float:
        return 0.0 if self._since is None else now - self._since

    def too_long(self, now: float) -> bool:
        """Whether to give up."""
        return self._since is not None and now - self._since >= self._most_s
