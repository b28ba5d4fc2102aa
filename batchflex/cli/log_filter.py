"""What may be in a log: so many lines a minute of each kind, and no words of others unless the job allows them. Pure."""

from __future__ import annotations

import collections
import logging
from collections.abc import Callable, Iterator, Mapping

from ..core import Event, Level
from .log_format import event_of

_MINUTE_S = 60.0
# Lines a minute. Of kinds that are not here there may be any number.
_MOST = {"row_failed": 5, "retrying": 3, "paused": 3, "resumed": 3, "note": 30}
_NOUNS = {
    "row_failed": ("row", "rows"),
    "retrying": ("attempt failed and is made again", "attempts failed and are made again"),
    "paused": ("time an endpoint was paused", "times an endpoint was paused"),
    "resumed": ("time an endpoint was asked again", "times an endpoint was asked again"),
    "note": ("note", "notes"),
}
_LEVELS: dict[str, Level] = {"note": "info", "resumed": "info"}  # of their sums; of others a warning


class LogFilter(logging.Filter):
    """Throttles by the name of the event, and takes out what the log may not have: without ``prompts`` the words of servers, and
    what was sent.

    ``clock`` gives seconds, ``most`` how many lines of an event are let through in a minute.
    """

    def __init__(self, clock: Callable[[], float], *, prompts: bool = False, most: Mapping[str, int] = _MOST) -> None:
        super().__init__()
        self._clock, self._prompts, self._most = clock, prompts, most
        self._since: dict[str, float] = {}
        self._seen: collections.Counter[str] = collections.Counter()
        self._statuses: collections.Counter[str] = collections.Counter()  # of failed rows that were held back

    def filter(self, record: logging.LogRecord) -> bool:
        event = event_of(record)
        if "more" not in event.facts and not self._is_admitted(event):
            return False
        if not self._prompts:
            record.msg = event._replace(message=event.message if event.logged is None else event.logged, request=None)
        return True

    def _is_admitted(self, event: Event) -> bool:
        most = self._most.get(event.name)
        if most is None:
            return True
        self._since.setdefault(event.name, self._clock())
        self._seen[event.name] += 1
        if self._seen[event.name] <= most:
            return True
        if event.name == "row_failed" and (status := event.facts.get("status")):
            self._statuses[status] += 1
        return False

    def held_back(self, *, until: float | None = None) -> Iterator[Event]:
        """For each event whose minute is over, how many lines of it were held back, if any were; its next minute begins. With
        ``until`` as if it was that late."""
        now = self._clock() if until is None else until
        for name in [name for name, since in self._since.items() if now - since >= _MINUTE_S]:
            del self._since[name]
            more = self._seen.pop(name) - self._most[name]
            if more > 0:
                yield self._sum(name, more)

    def _sum(self, name: str, more: int) -> Event:
        statuses: dict[str, int] = {}
        if name == "row_failed":
            statuses, self._statuses = dict(self._statuses), collections.Counter()
        one, many = _NOUNS.get(name, (name, name))
        counts = ", ".join(f"{rows:,} {status}" for status, rows in statuses.items())
        message = f"and {more:,} more {one if more == 1 else many}{f': {counts}' if counts else ''}"
        return Event(name, message, level=_LEVELS.get(name, "warning"), facts={"more": more, **statuses})
