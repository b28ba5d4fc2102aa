"""How often a run looks again at what nothing tells it of, and how long it waits for what takes its time."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Timings:
    """Seconds. An endpoint that is down gets a probe after ``first_probe_s``, then at distances from ``next_probe_s`` to
    ``longest_probe_s``; one without credit at distances that double from ``credit_probe_s`` to ``longest_credit_probe_s``. A
    refusal that names no time is waited for ``first_backoff_s``, doubled with each further one up to ``longest_backoff_s``. A
    first request that has had no answer for ``alone_s`` gets company. A file that was written to less than ``young_file_s`` ago
    might be written to again without getting another time, so that it cannot be known again by that.
    """

    first_probe_s: float = 3.6
    next_probe_s: float = 5.3
    longest_probe_s: float = 30.0
    credit_probe_s: float = 5.0
    longest_credit_probe_s: float = 300.0
    first_backoff_s: float = 1.0
    longest_backoff_s: float = 60.0
    alone_s: float = 10.0
    telemetry_every_s: float = 5.0
    young_file_s: float = 0.05


# What every run of this process goes by. Tests shorten it.
TIMINGS = Timings()
