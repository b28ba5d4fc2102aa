"""What a run is bound by, and how it goes, at a moment: for the progress line, ``status`` and ``telemetry.jsonl``. Pure."""

from __future__ import annotations

from typing import Any, Literal

from .gate import Bound, Gate
from .tally import Tally, timestamp

Binding = Literal[Bound, "input", "client"]

_BUSY = 0.9


def binding(bound: Bound | None, *, starved: bool, busy: float) -> Binding:
    """One word for what keeps the run from being faster now.

    ``bound`` is what the gate says, ``starved`` that tasks wait for the input to be read, ``busy`` the share of the time that the
    event loop's own thread computes.
    """
    if bound in ("waiting", "quota", "budget"):
        return bound
    if busy >= _BUSY:
        return "client"
    if bound is None:
        return "input" if starved else "endpoint"
    return bound


class Telemetry:
    """Makes samples; rates are of the time since the sample before."""

    def __init__(self, now: float) -> None:
        self._then = now
        self._before = (0, 0, 0, 0)

    def sample(self, now: float, wall: float, tally: Tally, gate: Gate) -> dict[str, Any]:
        """A line of ``telemetry.jsonl``. CONTRACT.md gives the fields' meaning. ``wall`` is in seconds since the epoch."""
        counts = (tally.answered, tally.requests_sent, tally.rate_limited, tally.retries)
        answered, sent, refused, retries = (new - old for new, old in zip(counts, self._before, strict=True))
        elapsed = max(1e-9, now - self._then)
        self._then, self._before = now, counts
        return {
            "at": timestamp(wall),
            "run_id": tally.run_id,
            "binding": tally.binding,
            "in_flight": gate.in_flight,
            "window": sum(lane.window for lane in gate.lanes if not lane.closed),
            "backing_off": gate.backing_off,
            "done": tally.done,
            "answers_per_s": round(answered / elapsed, 3),
            "requests_per_s": round(sent / elapsed, 3),
            "refused": refused,
            "retries": retries,
            "endpoints": [
                {
                    "name": lane.name,
                    "in_flight": lane.in_flight,
                    "window": lane.window,
                    "why": lane.pace.concurrency.last_reason,
                    "requests_per_minute": _per_minute(lane.pace.allowance.requests.rate),
                    "tokens_per_minute": _per_minute(lane.pace.allowance.tokens.rate),
                    "paused_for": sorted(lane.pauses),
                    "closed": lane.closed,
                }
                for lane in gate.lanes
            ],
        }


def _per_minute(rate: float | None) -> float | None:
    return None if rate is None else round(60 * rate, 1)
