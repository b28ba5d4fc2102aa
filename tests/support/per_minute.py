"""Any minute of what was sent, for tests of quotas."""

from __future__ import annotations

from collections.abc import Callable, Sequence

HAIR = 1e-6


def patiently(wait_s: Callable[[float], float], now: float) -> float:
    """The moment, from ``now`` on, when ``wait_s`` says go."""
    while (wait := wait_s(now)) > 0:
        now += max(wait, 1e-9)
    return now


def most_in_a_minute(sent: Sequence[tuple[float, float]]) -> float:
    """The largest sum of sizes within any 60 s, of ``(moment, size)`` in order."""
    most = inside = 0.0
    first = 0
    for at, size in sent:
        inside += size
        while at - sent[first][0] >= 60 - HAIR:
            inside -= sent[first][1]
            first += 1
        most = max(most, inside)
    return most
