"""Whether a server that files are fetched from is there, and what is to become of the rows that wait for it. Pure.

A file that cannot be fetched is its row's fault; a server that does not answer is none of its rows. After five different files
in a row that it gave nothing of it is taken to be down: one file at a time is tried then, at growing distances, until it answers.
"""

from __future__ import annotations

from typing import Literal

from ..core import TIMINGS

_MOST_FAILING = 5
_SLOWER = 1.5

Verdict = Literal["row", "run"]


class HostHealth:
    """One server, by its host and port.

    A server that has answered before is waited for as long as ``patience_s``, one that never has for ``most_probes`` tries. Then
    ``verdict`` is set, for the rest of the run: rows that want its files are to blame (``row``) if other servers have
    answered and this one never has, and are left unanswered (``run``) else.
    """

    def __init__(self, patience_s: float, most_probes: int) -> None:
        self._patience_s, self._most_probes = patience_s, most_probes
        self._failing: set[str] = set()
        self._has_answered = False
        self._down_at: float | None = None
        self._distance_s = 0.0
        self._probe_at = 0.0
        self._probes = 0
        self.verdict: Verdict | None = None

    @property
    def is_down(self) -> bool:
        return self._down_at is not None

    def wait_s(self, now: float) -> float:
        """Seconds until a file may be tried there; 0 as long as it is not down."""
        return max(0.0, self._probe_at - now) if self.is_down else 0.0

    def begins(self, now: float) -> None:
        """A file is tried; if it is down, no other is before this one had its time."""
        if self.is_down:
            self._probes += 1
            self._distance_s = min(TIMINGS.longest_probe_s, _SLOWER * self._distance_s)
            self._probe_at = now + self._distance_s

    def answered(self) -> bool:
        """It has given a file, or said that it has none. True: it was down until now."""
        was_down, self._down_at = self.is_down, None
        self._has_answered = True
        self._failing.clear()
        return was_down

    def failed(self, url: str, now: float, *, others_answer: bool) -> bool:
        """It gave nothing of a file, as it would of any. True: with that it is down."""
        self._failing.add(url)
        if self._down_at is not None:
            lasted = now - self._down_at >= self._patience_s
            if lasted if self._has_answered else self._probes >= self._most_probes:
                self.verdict = "row" if others_answer and not self._has_answered else "run"
            return False
        if len(self._failing) < _MOST_FAILING:
            return False
        self._down_at, self._probes, self._distance_s = now, 0, TIMINGS.first_probe_s
        self._probe_at = now + self._distance_s
        return True
