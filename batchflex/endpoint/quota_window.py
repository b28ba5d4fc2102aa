"""The windows that quotas are counted in. Pure."""

from __future__ import annotations

USUAL_S = (1.0, 10.0, 60.0, 3600.0, 86_400.0)
ASSUMED_S = 60.0
# What clocks, rounding and the way to the server may cost: a part of the quota that is not used.
SLACK = 1.005
ROUNDING_S = 1.0  # resets are often given in whole seconds


def usual(seconds: float) -> float:
    """The usual window that is meant; resets are often rounded up to whole seconds."""
    for window in USUAL_S:
        if 0.9 * window <= seconds <= 1.02 * window + ROUNDING_S:
            return window
    return seconds
