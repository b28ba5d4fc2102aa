"""Which request goes next: those that begin alike near each other, the first of them leading. Pure: time comes in.

A server that keeps what it has computed for the beginning of a prompt need not do it again for the next prompt that begins
alike. That holds once the first of them has been answered, and for as long as not too many others came in between.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence

from ..core import Request

# A prompt that begins with so many bytes that others have too is worth waiting for. Hosted APIs cache from 1,024 tokens on,
# servers of one's own from a few dozen.
LONG_BYTES = 1_000
# A lead that has not been answered by then is not waited for any longer.
LEAD_S = 30.0
_MOST_KNOWN = 10_000  # prefixes remembered, some 150 bytes each


def grouped(requests: Sequence[Request], first: bytes | None = None) -> list[Request]:
    """The requests by their prefix, in order of first appearance, else as they come. Those of the prefix ``first`` go first."""
    groups: dict[bytes | None, list[Request]] = {} if first is None else {first: []}
    for request in requests:
        groups.setdefault(name_of(request), []).append(request)
    return [request for group in groups.values() for request in group]


def name_of(request: Request) -> bytes | None:
    """The name of what it begins with; ``None`` if that is nothing it has in common with others."""
    return None if request.prefix is None else request.prefix.name


class PrefixQueue:
    """Requests that stand in line, each handed out once.

    Of those with the same long prefix the first leads: the others are held back until :meth:`ended` is called with it, or
    30 s have passed; whoever stands behind them goes on. Not so before requests of different prefixes have come: then there
    is nobody who could go on. ``size`` counts all in line, those held back included. ``clock`` gives seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.size = 0
        self._clock = clock
        self._ready: deque[Request] = deque()
        self._held: dict[bytes, list[Request]] = {}
        self._leads: dict[bytes, float] = {}  # since when, in that order
        self._known: dict[bytes, None] = {}
        self._names: set[bytes | None] = set()  # that have come, until there are several

    def add(self, requests: Collection[Request], names: Collection[bytes | None]) -> None:
        """Let them stand in line, behind the others. ``names`` are those of their prefixes."""
        self._ready.extend(requests)
        self.size += len(requests)
        if len(self._names) < 2:
            self._names.update(names)

    def take(self) -> Request | None:
        """The next that may go; ``None`` if there is none, or all are held back."""
        if self._leads:
            self._pass_over()
        while self._ready:
            request = self._ready.popleft()
            prefix = request.prefix
            if prefix is not None and prefix.is_long and prefix.name not in self._known:
                if len(self._names) < 2:
                    self._know(prefix.name)
                elif prefix.name in self._leads:
                    self._held.setdefault(prefix.name, []).append(request)
                    continue
                else:
                    self._leads[prefix.name] = self._clock()
            self.size -= 1
            return request
        return None

    def ended(self, request: Request) -> bool:
        """It was answered, or has failed. Whether others may go for that."""
        name = name_of(request)
        return name is not None and name in self._leads and self._follow(name)

    def wait_s(self) -> float:
        """How long those that are held back wait at most until the next of them may go; endless if none are."""
        since = next(iter(self._leads.values()), None)
        return float("inf") if since is None else max(0.0, since + LEAD_S - self._clock())

    def clear(self) -> None:
        """Nobody stands in line any more."""
        self._ready.clear()
        self._held.clear()
        self.size = 0

    def _pass_over(self) -> None:
        """Wait no longer for leads that take too long."""
        late = self._clock() - LEAD_S
        while self._leads and self._leads[name := next(iter(self._leads))] <= late:
            self._follow(name)

    def _follow(self, name: bytes) -> bool:
        del self._leads[name]
        self._know(name)
        held = self._held.pop(name, [])
        self._ready.extendleft(reversed(held))
        return bool(held)

    def _know(self, name: bytes) -> None:
        self._known[name] = None
        if len(self._known) > _MOST_KNOWN:
            del self._known[next(iter(self._known))]
